"""What is wrong with data, found before a weight changes: types, lengths, scalars, NaN."""

import numbers
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import ArgumentError
from kerastrain.errors import DataError
from kerastrain.errors import UnsupportedTypeError

# Rows that the check for NaN looks at first; further ones only if all are NaN.
_NAN_ROWS = 1024


def is_streamed(data: Any) -> bool:
    """Whether the object itself yields batches, and may do so only once."""
    return (
        isinstance(data, tf.data.Dataset | keras.utils.PyDataset | Iterator)
        or _keras.is_stream(data)
    )


def part_of(part: str, name: str) -> str:
    """How messages call x, y or sample_weight of a data set: of that to train on, only so.

    Example:
        >>> part_of("y", "x"), part_of("y", "validation_data")
        ('`y`', '`y` of `validation_data`')
    """
    return f"`{part}`" if name == "x" else f"`{part}` of `{name}`"


def check_batch(name: str, batch: Any) -> None:
    """Refuses a first batch whose rows do not fit.

    Raises:
        DataError: as said.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    leaves = [t for t in tf.nest.flatten((x, y, sample_weight)) if isinstance(t, tf.Tensor)]
    if any(t.shape.rank == 0 for t in leaves):
        raise DataError(
            f"A batch of `{name}` holds a scalar. Each array of a batch needs the "
            "rows as its first axis; with tf.data, call `.batch(size)`."
        )
    lengths = {int(t.shape[0]) for t in leaves if t.shape.rank}
    if len(lengths) > 1:
        raise DataError(
            f"A batch of `{name}` has arrays of different lengths: {sorted(lengths)}. "
            "All of x, y and sample_weight need the same number of rows; with "
            "tf.data, call `.batch(size)`."
        )
    if lengths == {0}:
        raise DataError(f"A batch of `{name}` has no rows. Pass at least one in each.")


def check_not_all_nan(name: str, batch: Any) -> None:
    """Refuses arrays that are NaN throughout.

    Raises:
        DataError: as said.
    """
    parts = keras.utils.unpack_x_y_sample_weight(batch)
    for part, arrays in zip(("x", "y", "sample_weight"), parts, strict=True):
        for array in keras.tree.flatten(arrays):
            if array is None or not array.shape or not array.size:
                continue
            if not np.issubdtype(array.dtype, np.floating):
                continue
            if np.isnan(array[:_NAN_ROWS]).all() and np.isnan(array).all():
                raise DataError(
                    f"{part_of(part, name)} holds an array of shape {array.shape} that is "
                    "NaN throughout. Check how the data were read."
                )


def check_type(name: str, x: Any, y: Any, sample_weight: Any) -> None:
    """Refuses data of which no batches can be made.

    Raises:
        UnsupportedTypeError, DataError: as said.
    """
    if isinstance(x, tf.distribute.DistributedDataset):
        raise UnsupportedTypeError(
            f"`{name}` is a distributed data set. Pass the one it was made from, with "
            "global batches: each replica is given its own rows of them."
        )
    check_lengths(name, x, y, sample_weight)
    if not is_streamed(x) and not _keras.are_arrays((x, y, sample_weight)):
        raise UnsupportedTypeError(
            f"`{name}` is of type {type(x).__name__}, or holds one that cannot be "
            "cut into rows. Use NumPy arrays, tensors, pandas, tf.data, "
            "keras.utils.PyDataset, a generator, a torch DataLoader or Grain."
        )


def check_lengths(name: str, x: Any, y: Any, sample_weight: Any) -> None:
    """Refuses arrays without rows, or of different numbers of rows.

    Raises:
        DataError: as said.
    """
    if x is None:
        raise DataError(f"`{name}` is None. Pass the input data.")
    if not is_streamed(x) and not keras.tree.flatten(x):
        raise DataError(f"`{name}` holds no arrays. Received: {x!r}. Pass the input data.")
    lengths = {}
    for part, data in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        if data is None or is_streamed(data):
            continue
        for leaf in keras.tree.flatten(data):
            shape = getattr(leaf, "shape", None)
            in_list = isinstance(data, list | tuple) and isinstance(leaf, numbers.Number)
            if in_list or shape == ():
                told = "is a list of numbers" if in_list else f"holds a scalar, {leaf!r}"
                fix = f"Pass np.asarray({part})." if in_list else "Pass arrays."
                raise DataError(
                    f"{part_of(part, name)} {told}. Each array needs the rows as its first axis. "
                    + fix
                )
            if shape is not None and shape[0] is not None:
                lengths.setdefault(part, []).append(int(shape[0]))
    counts = {count for group in lengths.values() for count in group}
    if len(counts) > 1:
        listed = ", ".join(f"{part}: {group}" for part, group in lengths.items())
        raise DataError(
            f"The arrays of `{name}` have different lengths ({listed}). All need the same number of "
            "rows."
        )
    if counts == {0}:
        raise DataError(f"`{name}` has no rows. Pass at least one.")


def check_options(shuffle: Any, class_weight: Any) -> None:
    """Refuses values that ``shuffle`` and ``class_weight`` cannot have.

    Raises:
        ArgumentError: as said.
    """
    if isinstance(shuffle, str) and shuffle != "batch":
        raise ArgumentError(
            f'`shuffle` must be True, False or "batch". Received: shuffle={shuffle!r}.'
        )
    if class_weight is not None and not isinstance(class_weight, dict):
        raise ArgumentError(
            "`class_weight` must be a dict {class index: weight}. "
            f"Received: class_weight={class_weight!r}."
        )


def check_positive(argument: str, value: Any) -> None:
    """Refuses what is no whole number above 0; None passes.

    Raises:
        ArgumentError: as said.
    """
    if value is not None and (not isinstance(value, int | np.integer) or value < 1):
        raise ArgumentError(
            f"`{argument}` must be a whole number, 1 or more. "
            f"Received: {argument}={value!r}."
        )
