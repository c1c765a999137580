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
    return isinstance(data, tf.data.Dataset | keras.utils.PyDataset | Iterator) or _keras.is_stream(
        data
    )


def is_function(data: Any) -> bool:
    """Whether it is a function of the input context, which returns a data set."""
    return callable(data) and not is_streamed(data)


def part_of(part: str, name: str) -> str:
    """How messages call x, y or sample_weight of a data set: of that to train on, only so.

    Example:
        >>> part_of("y", "x"), part_of("y", "validation_data")
        ('`y`', '`y` of `validation_data`')
    """
    return f"`{part}`" if name == "x" else f"`{part}` of `{name}`"


def check_batch(name: str, batch: Any) -> None:
    """Refuses a first batch whose parts or rows do not fit.

    Raises:
        DataError: as said.
    """
    try:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    except ValueError:
        raise DataError(
            f"A batch of `{name}` is a {type(batch).__name__} of {len(batch)} parts. Batches are x, "
            "(x, y) or (x, y, sample_weight); a model takes others in a step of its own."
        ) from None
    leaves = [t for t in tf.nest.flatten((x, y, sample_weight)) if isinstance(t, tf.Tensor)]
    if any(t.shape.rank == 0 for t in leaves):
        raise DataError(
            f"A batch of `{name}` holds a scalar. Each array of a batch needs the "
            "rows as its first axis; with tf.data, call `.batch(size)`."
        )
    check_equal_rows(name, batch)
    if leaves and leaves[0].shape[0] == 0:
        raise DataError(f"A batch of `{name}` has no rows. Pass at least one in each.")


def check_ends(name: str, is_endless: bool) -> None:
    """Refuses to evaluate data that never end.

    Raises:
        DataError: as said.
    """
    if is_endless:
        argument = "steps" if name.startswith("x") else "validation_steps"
        raise DataError(
            f"`{name}` is without end (its cardinality is infinite, by `repeat` say), so that its "
            f"results would never be there. Pass {argument}=, or leave out `repeat`."
        )


def check_equal_rows(name: str, batch: Any) -> None:
    """Refuses a batch whose parts have different numbers of rows, which TensorFlow may broadcast.

    Raises:
        DataError: as said.
    """
    leaves = [leaf for leaf in tf.nest.flatten(batch) if isinstance(leaf, tf.Tensor)]
    lengths = {leaf.shape[0] for leaf in leaves if leaf.shape.rank}
    if len(lengths) > 1:
        raise DataError(
            f"A batch of `{name}` has arrays of different lengths: {sorted(lengths)}. "
            "All of x, y and sample_weight need the same number of rows; with "
            "tf.data, call `.batch(size)`."
        )


def missing_in(name: str, batch: Any) -> str | None:
    """What a batch, or whole arrays, have that is NaN throughout, for a message; None for nothing.

    It may be missing where the model or the loss knows what to do: `target_checks.check_missing`.
    """
    try:
        parts = keras.utils.unpack_x_y_sample_weight(batch)
    except ValueError:  # more than three, for a step of the user's own
        return None
    found = [
        f"{part_of(part, name)} holds an array of shape {array.shape} that is NaN throughout"
        for part, arrays in zip(("x", "y", "sample_weight"), parts, strict=True)
        for array in keras.tree.flatten(arrays)
        if is_all_nan(array)
    ]
    return ", and ".join(found) or None


def is_all_nan(array: Any) -> bool:
    """Whether an array has elements, of floating point, and all are NaN."""
    if array is None or not array.shape or not array.size:
        return False
    if not np.issubdtype(array.dtype, np.floating):
        return False
    return bool(np.isnan(array[:_NAN_ROWS]).all() and np.isnan(array).all())


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
    if not is_streamed(x):
        check_weight_structure(name, y, sample_weight)
    if is_streamed(x):
        return
    for part, data in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        if _keras.are_arrays(data):
            continue
        kind = next(type(leaf) for leaf in keras.tree.flatten(data) if not _keras.are_arrays(leaf))
        raise UnsupportedTypeError(
            f"{part_of(part, name)} is of type {kind.__name__}, or holds one, that cannot be "
            "cut into rows. Use NumPy arrays, tensors, tables, tf.data, "
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
    lengths: dict[str, list[int]] = {}
    for part, data in (("x", x), ("y", y), ("sample_weight", sample_weight)):
        if data is None or is_streamed(data):
            continue
        for leaf in keras.tree.flatten(data):
            shape = getattr(leaf, "shape", None)
            in_list = isinstance(data, list | tuple) and isinstance(leaf, numbers.Number)
            if in_list or shape == ():
                fault = "is a list of numbers" if in_list else f"holds a scalar, {leaf!r}"
                fix = f"Pass np.asarray({part})." if in_list else "Pass arrays."
                raise DataError(
                    f"{part_of(part, name)} {fault}. Each array needs the rows as its first axis. "
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


def check_options(shuffle: Any, class_weight: Any, sample_weight: Any) -> None:
    """Refuses values that ``shuffle`` and ``class_weight`` cannot have, and two kinds of weights.

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
    if class_weight is not None and sample_weight is not None:
        raise ArgumentError(
            "`class_weight` and `sample_weight` exclude each other. Pass the products: "
            "sample_weight=sample_weight * np.vectorize(class_weight.get)(y)."
        )


def check_class_weight(name: str, y: Any, class_weight: dict | None) -> None:
    """Refuses targets and weights of which Keras would weigh rows by something else than their class.

    Args:
        name: what messages call the data.
        y: the targets, or those of a batch, as arrays or tensors.
        class_weight: ``{class index: weight}``, or None.

    Raises:
        ArgumentError: as said.
    """
    if class_weight is None:
        return
    real: list[Any] = [key for key in class_weight if isinstance(key, numbers.Real)]
    whole = {key for key in real if key >= 0 and key == int(key)}
    wrong = [key for key in class_weight if key not in whole] or [
        weight for weight in class_weight.values() if not isinstance(weight, numbers.Real)
    ]
    what, fix = None, "Pass sample_weight, one for each row"
    if wrong:
        what = f"{wrong[0]!r} is no class index with a number as its weight"
        fix = "Pass {0: 1.0, 1: 2.5}, say"
    elif y is None:
        what = "there is no y"
    elif keras.tree.is_nested(y):
        what = f"y has {len(keras.tree.flatten(y))} parts, of several outputs"
        fix = "Pass sample_weight in the structure of y"
    else:
        what = _no_classes(np.asarray(y), max(whole, default=0))
    if what:
        raise ArgumentError(
            f"`class_weight` weighs each row by its class, and in {part_of('y', name)} {what}. {fix}. "
            f"Received: class_weight={class_weight!r}."
        )


def check_class_weight_of_stream(name: str, class_weight: dict | None, error: Exception) -> None:
    """Explains what an error in a stream may mean for ``class_weight``.

    Raises:
        ArgumentError: there are such weights.
    """
    if class_weight is not None:
        raise ArgumentError(
            f"`class_weight` weighs each row by its class, and {part_of('y', name)} has a row of "
            "another class, or of none. Of a stream each class needs a weight, from 0 up to the "
            f"highest. Received: class_weight={class_weight!r}. TensorFlow says: {str(error)[:200]}"
        ) from None


def check_weight_structure(name: str, y: Any, sample_weight: Any) -> None:
    """Refuses weights of several outputs in another structure than the targets.

    Raises:
        DataError: as said.
    """
    if y is None or not keras.tree.is_nested(sample_weight):
        return
    wanted, given = _structure_of(y), _structure_of(sample_weight)
    if wanted != given:
        raise DataError(
            f"{part_of('sample_weight', name)} is {given}, and y is {wanted}. Pass one array of weights "
            "for each array of y in the same structure, or one for all outputs."
        )


def _structure_of(arrays: Any) -> str:
    if isinstance(arrays, dict):
        return f"a dict of {sorted(arrays)}"
    if isinstance(arrays, list | tuple):
        return f"a list of {len(arrays)}"
    return "one array"


def _no_classes(y: np.ndarray, highest: float) -> str | None:
    """Why targets are no classes, one for each row; None if they are."""
    if y.dtype.kind not in "biuf":
        return f"are values of type {y.dtype}"
    if y.ndim > 1 and y.shape[-1] == 1:
        y = y[..., 0]
    if y.ndim > 2:
        return f"a row has shape {y.shape[1:]}"
    if y.ndim == 2:
        if not np.allclose(y.sum(-1), 1, atol=1e-3) or (y < 0).any():
            return f"rows of {y.shape[-1]} numbers are not one-hot"
        if highest >= y.shape[-1]:
            return f"there are the classes 0 to {y.shape[-1] - 1}, and {int(highest)} is none"
    elif not np.array_equal(y, np.round(y)):
        return f"are numbers such as {y[y != np.round(y)][0]:g}, which are no class index"
    return None
