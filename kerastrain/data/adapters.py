"""What Keras makes of the data that users pass, and the passes over it."""

import inspect
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.data import checks as data_checks
from kerastrain.data.array_passes import ArrayPasses
from kerastrain.data.blocks import rows_of
from kerastrain.data.indexed import IndexedBatches
from kerastrain.data.memory import PeekedAt
from kerastrain.data.passes import Passes
from kerastrain.data.pipeline_passes import PipelinePasses
from kerastrain.data.python_passes import PythonPasses
from kerastrain.data.shares import ALL
from kerastrain.data.shares import Share
from kerastrain.errors import DataError
from kerastrain.quoting import reason_of
from kerastrain.quoting import users_cause


def passes_of_data(
    name: str,
    data: tuple[Any, Any, Any],
    options: tuple[Any, ...],
    seed: int,
    share: Share = ALL,
) -> tuple[Passes, Any]:
    """``(the passes over data, their rows as NumPy arrays or None)``."""
    batch_size, steps, shuffle, class_weight = options
    x, y, sample_weight = data
    if isinstance(x, keras.utils.PyDataset):

        def adapted(view: keras.utils.PyDataset) -> Any:
            return _adapted(name, (view, y, sample_weight), None, steps, False, class_weight)

        batches = IndexedBatches(x, adapted, seed if shuffle else None)
        return PythonPasses(adapted(x), batches, steps), None
    peeked = PeekedAt(x) if inspect.isgenerator(x) else None
    adapter = _adapted(name, (peeked.batches if peeked else x, y, sample_weight), *options)
    if peeked:
        peeked.copies = False
    arrays = _arrays_of(name, adapter)
    if arrays is not None:
        size = batch_size or (math.ceil(rows_of(arrays) / steps) if steps else 32)
        return ArrayPasses(arrays, size, shuffle, seed, share), arrays
    if _keras.yields_tensors(adapter):
        return PipelinePasses(adapter, seed, steps), None
    return PythonPasses(adapter, x, steps), None


def _adapted(
    name: str,
    data: tuple[Any, Any, Any],
    batch_size: int | None,
    steps: int | None,
    shuffle: bool | str,
    class_weight: dict[int, float] | None,
) -> Any:
    """Keras's adapter."""
    in_keras = _keras.are_arrays(data[0])
    try:
        return _keras.data_adapter(
            *data, batch_size, steps, shuffle if in_keras else False, class_weight
        )
    except (AttributeError, ValueError) as error:
        if class_weight is not None and isinstance(error, AttributeError):  # it has no y
            data_checks.check_class_weight(name, None, class_weight)
        if isinstance(error, AttributeError):
            raise
        raise DataError(f"`{name}` cannot be used as data: {reason_of(error)}") from users_cause(
            error
        )


def _arrays_of(name: str, adapter: Any) -> Any:
    """The rows of Keras's adapter as NumPy arrays, or None."""
    try:
        return _keras.dense_arrays(adapter)
    except ValueError as error:
        raise DataError(
            f"x, y or sample_weight of `{name}` is not of numbers: {reason_of(error)}. Use arrays "
            "of numbers; for text as x, tf.constant(text)."
        ) from None


def holds_composites(batch: Any) -> bool:
    """Whether a batch has ragged or sparse tensors, of which Keras has no symbols."""
    return any(
        isinstance(leaf, tf.RaggedTensor | tf.SparseTensor) for leaf in tf.nest.flatten(batch)
    )


def signature(batch: Any) -> tuple[str, str]:
    """The shapes and dtypes of a batch, to compare."""
    symbols = keras.tree.flatten(_keras.as_symbolic(batch))
    shapes = [None if s is None else (tuple(s.shape), s.dtype) for s in symbols]
    return repr(shapes), repr(keras.tree.map_structure(lambda leaf: 0, batch))


def as_numpy(leaf: Any) -> np.ndarray | None:
    """The value of a tensor; None for what is none."""
    return leaf.numpy() if isinstance(leaf, tf.Tensor) else None
