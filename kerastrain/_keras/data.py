"""Keras's data adapters and the iterators of ``tf.data``."""

import traceback
from typing import Any

import numpy as np
from keras.src import tree
from keras.src.trainers.data_adapters import array_data_adapter
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters import data_adapter_utils
from keras.src.trainers.data_adapters import generator_data_adapter
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters import is_grain_dataset
from keras.src.trainers.data_adapters import is_torch_dataloader as is_torch_dataloader
from keras.src.trainers.data_adapters import tf_dataset_adapter
from keras.src.trainers.data_adapters.data_adapter import DataAdapter


def data_adapter(
    x: Any,
    y: Any,
    sample_weight: Any,
    batch_size: int | None,
    steps: int | None,
    shuffle: bool | str,
    class_weight: dict[int, float] | None,
) -> DataAdapter:
    """Keras's adapter for any of its data sources.

    Raises:
        ValueError: Keras refuses the data.
    """
    try:
        return get_data_adapter(
            x=x,
            y=y,
            sample_weight=sample_weight,
            batch_size=batch_size,
            steps_per_epoch=steps,
            shuffle=shuffle,
            class_weight=class_weight,
        )
    except IndexError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if frames[-1].f_globals.get("__name__") != generator_data_adapter.__name__:
            raise
        # Keras before 3.15 looks at the first batch without asking whether there is one.
        raise ValueError("an empty generator; it must yield at least one batch") from None


def are_arrays(structure: Any) -> bool:
    """Whether every leaf can be sliced by rows (NumPy, tensors, pandas, ...)."""
    return array_data_adapter.can_convert_arrays(structure)


def dense_arrays(adapter: DataAdapter) -> tuple[Any, ...] | None:
    """The rows of an array adapter as NumPy arrays, or None.

    None where the adapter holds no arrays, or arrays that NumPy cannot hold
    (ragged, sparse).
    """
    if not isinstance(adapter, array_data_adapter.ArrayDataAdapter):
        return None
    sliceables = array_slicing.convert_to_sliceable(adapter._inputs, target_backend="numpy")
    try:
        arrays = tree.map_structure(
            lambda s: None if s is None else s.convert_to_numpy(s[:]),
            sliceables,
        )
    except (TypeError, NotImplementedError, AttributeError):
        return None
    dense = all(
        isinstance(a, np.ndarray) and a.dtype != object
        for a in tree.flatten(arrays)
        if a is not None
    )
    return arrays if dense else None


def yields_tensors(adapter: DataAdapter) -> bool:
    """Whether the adapter's own form is a ``tf.data`` pipeline."""
    return isinstance(
        adapter, tf_dataset_adapter.TFDatasetAdapter | array_data_adapter.ArrayDataAdapter
    )


def is_of_arrays(adapter: DataAdapter) -> bool:
    """Whether the adapter holds arrays, and makes a pipeline of them for each pass."""
    return isinstance(adapter, array_data_adapter.ArrayDataAdapter)


def split_rows(arrays: tuple, validation_split: float) -> tuple[tuple, tuple]:
    """``(train, validation)``: the last share of the rows is for validation."""
    return array_slicing.train_validation_split(arrays, validation_split)


def is_stream(data: Any) -> bool:
    """Whether the object itself yields batches (a loader, a grain data set)."""
    return is_torch_dataloader(data) or is_grain_dataset(data)


def is_without_batches(error: Exception) -> bool:
    """Whether Keras's ``predict`` ended in this error because there was no batch.

    Keras 3.15.1 then returns what no batch has set (backend/tensorflow/trainer.py, `predict`).
    """
    return isinstance(error, UnboundLocalError) and "batch_outputs" in str(error)


def list_to_tuple(batch: Any) -> Any:
    """A batch's outer list as a tuple, which is what Keras unpacks."""
    return data_adapter_utils.list_to_tuple(batch)
