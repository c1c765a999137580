"""Any data set as global batches, epoch by epoch, in an order that is known.

::

    source = Source(x, y, batch_size=32, shuffle=True, seed=7)
    for batch in source.epoch(0):      # (x, y), tensors with the batch's rows
        ...

Rows that can be held as NumPy arrays (NumPy, tensors, pandas) are shuffled and
cut here: the order of pass ``p`` over them is a function of ``(seed, p)`` alone,
and so is that of the batches of a ``keras.utils.PyDataset``. All else comes
through Keras's own adapters and keeps their order: ``tf.data``, generators,
torch ``DataLoader``, Grain; ragged and sparse tensors are shuffled by TensorFlow.

With ``steps_per_epoch`` an epoch takes that many batches and the next goes on
where it stopped, as in Keras; otherwise an epoch is one pass.
"""

import math
import numbers
import random
import warnings
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


class Source:
    """A data set as batches of ``x``, ``(x, y)`` or ``(x, y, sample_weight)``.

    Args:
        x, y, sample_weight, batch_size, shuffle, class_weight: as for
            ``keras.Model.fit``.
        steps: batches per epoch (``steps_per_epoch``), or None for one pass.
        seed: an integer that the order of shuffled arrays follows. None draws
            one from Python's ``random``, which ``keras.utils.set_random_seed``
            seeds.
        first_pass: the number of the first pass: ``initial_epoch``.
        name: what the messages call the data, such as ``"validation_data"``.

    Attributes:
        num_batches: batches per epoch, or None where unknown or endless.

    Raises:
        DataError: no rows, unequal lengths, or nothing but NaN.
        UnsupportedTypeError: an object that yields no batches.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        batch_size: int | None = None,
        steps: int | None = None,
        shuffle: bool | str = False,
        class_weight: dict | None = None,
        seed: int | None = None,
        first_pass: int = 0,
        name: str = "x",
    ):
        _check_positive("batch_size", batch_size)
        _check_positive("steps", steps)
        _check_options(shuffle, class_weight)
        self.name, self.steps = name, steps
        _check_type(name, x, y, sample_weight)
        if seed is None:  # not drawn where it is not used: users draw there too
            seed = random.randrange(2**31) if shuffle else 0
        if shuffle and isinstance(x, keras.utils.PyDataset) and x.num_batches is not None:
            x, shuffle = _ShuffledBatches(x, seed), False
        adapter, arrays = _adapted(
            name, (x, y, sample_weight), batch_size, steps, shuffle, class_weight
        )
        if arrays is None:
            self._passes = _AdapterPasses(adapter, x)
            self.arrays = None
        else:
            size = batch_size or (math.ceil(_rows(arrays) / steps) if steps else 32)
            self._passes = _ArrayPasses(arrays, size, shuffle, seed)
            self.arrays = arrays
            _check_not_all_nan(name, arrays)
        self.num_batches = steps or self._passes.num_batches
        if self._passes.num_batches == 0:
            raise DataError(f"`{name}` has no batches. Pass at least one row.")
        self._current: Iterator | None = None
        self._peeked: list = []
        self._next_pass = first_pass
        self._drawn = 0

    def peek(self) -> Any:
        """The first batch; the next epoch still begins with it.

        Raises:
            DataError: there is none.
        """
        if not self._peeked:
            batch = next(self._draw(), None)
            if batch is None:
                raise DataError(
                    f"`{self.name}` has no batches: it ended before the first one. "
                    "Pass at least one row, or a new generator."
                )
            if self.arrays is None:  # of arrays, all rows have been looked at
                _check_not_all_nan(self.name, _map(_as_numpy, batch))
            self._peeked.append(batch)
        return self._peeked[0]

    def epoch(self, number: int | None = None) -> Iterator[Any]:
        """Yields the batches of the next epoch.

        Args:
            number: the epoch, counted from 0, whose order a shuffled pass
                takes. None for the next. With ``steps`` the order goes on.

        Warns where the data end before ``steps`` batches were drawn.
        """
        if self.steps is None:
            if not self._peeked:
                self.close()
            if number is not None and self._passes.follow_seed:
                if self._peeked and number != self._next_pass - 1:
                    self.close()
                self._next_pass = number if self._current is None else self._next_pass
        count = 0
        for batch in self._draw():
            yield batch
            count += 1
            if self.steps is not None and count == self.steps:
                self._finish_pass()
                return
        self.close()
        if (self.steps is not None and count < self.steps) or count == 0:
            warnings.warn(
                f"`{self.name}` ran out of data after {count} batches of this epoch"
                + (f" (wanted: {self.steps})" if self.steps else "")
                + ". Use `.repeat()`, fewer steps_per_epoch or epochs, or pass an "
                "object that can be iterated again instead of a generator.",
                stacklevel=2,
            )

    def restart(self) -> None:
        """Lets the next epoch begin with a new pass, as each validation does."""
        if self._drawn > len(self._peeked):
            self.close()

    def _draw(self) -> Iterator[Any]:
        """The batches of the current pass, the peeked one first."""
        if self._current is None:
            self._current = self._passes.batches(self._next_pass)
            self._next_pass += 1
            self._drawn = 0
        while True:
            if self._peeked:
                batch = self._peeked.pop()
            else:
                batch = next(self._current, None)
                if batch is None:
                    return
                self._drawn += 1
            yield batch

    def _finish_pass(self):
        """Starts the next pass with the next epoch if this one is used up."""
        total = self._passes.num_batches
        if total is not None and self._drawn >= total:
            self.close()

    def close(self) -> None:
        """Ends the current pass and what runs in the background for it."""
        self._peeked.clear()
        if self._current is not None:
            self._current.close()
            self._current = None


def _adapted(name, data, batch_size, steps, shuffle, class_weight):
    """``(Keras's adapter, its rows as NumPy arrays or None)``."""
    in_keras = _keras.are_arrays(data[0]) or isinstance(data[0], keras.utils.PyDataset)
    try:
        adapter = _keras.data_adapter(
            *data, batch_size, steps, shuffle if in_keras else False, class_weight
        )
    except ValueError as error:
        raise DataError(f"`{name}` cannot be used as data: {error}") from error
    try:
        return adapter, _keras.dense_arrays(adapter)
    except ValueError as error:
        raise DataError(
            f"x, y or sample_weight of `{name}` is not of numbers: {error}. Use arrays "
            "of numbers; for text as x, tf.constant(text) or an array of dtype object."
        ) from error


class _ArrayPasses:
    """Passes over NumPy arrays, shuffled by ``(seed, pass)``."""

    def __init__(self, arrays, batch_size, shuffle, seed):
        self.follow_seed = True
        self._arrays, self._batch_size = arrays, batch_size
        self._shuffle, self._seed = shuffle, seed
        self._count = _rows(arrays)
        self.num_batches = math.ceil(self._count / batch_size)

    def batches(self, number: int) -> Iterator[Any]:
        order = np.random.default_rng([self._seed, number])
        rows = None
        if self._shuffle and self._shuffle != "batch":
            rows = order.permutation(self._count)
        for start in range(0, self._count, self._batch_size):
            stop = min(start + self._batch_size, self._count)
            if rows is not None:
                taken = rows[start:stop]
            elif self._shuffle == "batch":
                taken = start + order.permutation(stop - start)
            else:
                taken = slice(start, stop)
            yield _map(lambda a, taken=taken: tf.convert_to_tensor(a[taken]), self._arrays)


class _AdapterPasses:
    """Passes over what a Keras adapter yields, in its order."""

    def __init__(self, adapter, data):
        self._adapter, self._data = adapter, data
        self.follow_seed = isinstance(data, _ShuffledBatches)
        self._once: Iterator | None = None

    @property
    def num_batches(self) -> int | None:
        return self._adapter.num_batches

    def batches(self, number: int) -> Iterator[Any]:
        if isinstance(self._data, _ShuffledBatches):
            self._data.start_pass(number)
        self._adapter.on_epoch_begin()
        try:
            if _keras.yields_tensors(self._adapter):
                yield from self._adapter.get_tf_dataset()
            else:
                for batch in self._numpy_batches():
                    yield _map(tf.convert_to_tensor, _keras.list_to_tuple(batch))
        finally:
            self._adapter.on_epoch_end()

    def _numpy_batches(self):
        if not isinstance(self._data, Iterator):
            return self._adapter.get_numpy_iterator()
        if self._once is None:  # each further one of Keras's replays the first two batches
            self._once = iter(self._adapter.get_numpy_iterator())
        return self._once


class _ShuffledBatches(keras.utils.PyDataset):
    """The batches of a ``PyDataset`` in an order that follows ``(seed, pass)``."""

    def __init__(self, data, seed):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self._data, self._seed = data, seed
        self.on_epoch_begin, self.on_epoch_end = data.on_epoch_begin, data.on_epoch_end
        self.start_pass(0)

    def start_pass(self, number):
        rng = np.random.default_rng([self._seed, number])
        self._order = rng.permutation(self.num_batches).tolist()

    @property
    def num_batches(self):
        return self._data.num_batches

    def __getitem__(self, index):
        return self._data[self._order[index]]


# Named sets and splits --------------------------------------------------------


def named_sets(data: Any) -> dict[str, Any] | None:
    """``data`` if it is a dict of data sets by name, else None.

    A dict of arrays is one ``x``; a dict whose values are ``(x, y)`` tuples or
    data sets is several sets.
    """
    if not isinstance(data, dict) or not data:
        return None
    if all(isinstance(value, tuple) or is_streamed(value) for value in data.values()):
        return data
    return None


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


def unpack(data: Any, name: str = "x") -> tuple[Any, Any, Any]:
    """``(x, y, sample_weight)`` of a data set: a tuple of these, or a source of batches.

    Raises:
        DataError: a tuple of more than three parts, or of none.
    """
    if isinstance(data, tuple | list):
        if not 1 <= len(data) <= 3:
            raise DataError(
                f"`{name}` has {len(data)} parts. Pass (x, y), (x, y, sample_weight) or a "
                "source of batches."
            )
        return keras.utils.unpack_x_y_sample_weight(tuple(data))
    return data, None, None


def split(x, y, sample_weight, validation_split: float) -> tuple[tuple, tuple]:
    """``((x, y, sample_weight), validation)``; the last rows are for validation.

    Raises:
        ArgumentError: the share is not between 0 and 1, leaves a side empty, or
            the data cannot be cut by rows.
    """
    if not isinstance(validation_split, numbers.Real) or not 0 < validation_split < 1:
        raise ArgumentError(
            "`validation_split` must lie between 0 and 1. "
            f"Received: validation_split={validation_split!r}."
        )
    if is_streamed(x):
        raise ArgumentError(
            "`validation_split` needs arrays that can be cut by rows. Received: x of "
            f"type {type(x).__name__}. Pass `validation_data` instead."
        )
    _check_lengths("x", x, y, sample_weight)
    try:
        return _keras.split_rows((x, y, sample_weight), validation_split)
    except ValueError as error:
        raise ArgumentError(
            f"validation_split={validation_split!r} cannot be used: {error}"
        ) from error


# Checks -----------------------------------------------------------------------


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


def _as_numpy(leaf: Any) -> np.ndarray | None:
    return leaf.numpy() if isinstance(leaf, tf.Tensor) else None


def _check_not_all_nan(name: str, batch: Any) -> None:
    parts = keras.utils.unpack_x_y_sample_weight(batch)
    for part, arrays in zip(("x", "y", "sample_weight"), parts, strict=True):
        for array in keras.tree.flatten(arrays):
            if array is None or not array.shape or not array.size:
                continue
            if not np.issubdtype(array.dtype, np.floating):
                continue
            if np.isnan(array[:_NAN_ROWS]).all() and np.isnan(array).all():
                raise DataError(
                    f"{part} of `{name}` holds an array of shape {array.shape} that is "
                    "NaN throughout. Check how the data were read."
                )


def _check_type(name, x, y, sample_weight) -> None:
    if isinstance(x, tf.distribute.DistributedDataset):
        raise UnsupportedTypeError(
            f"`{name}` is a distributed data set. Pass the one it was made from, with "
            "global batches: each replica is given its own rows of them."
        )
    _check_lengths(name, x, y, sample_weight)
    if not is_streamed(x) and not _keras.are_arrays((x, y, sample_weight)):
        raise UnsupportedTypeError(
            f"`{name}` is of type {type(x).__name__}, or holds one that cannot be "
            "cut into rows. Use NumPy arrays, tensors, pandas, tf.data, "
            "keras.utils.PyDataset, a generator, a torch DataLoader or Grain."
        )


def _check_lengths(name, x, y, sample_weight) -> None:
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
            if shape is not None and len(shape) == 0:
                raise DataError(
                    f"`{part}` of `{name}` holds a scalar, {leaf!r}. Each array needs "
                    "the rows as its first axis."
                )
            if shape is not None and shape[0] is not None:
                lengths.setdefault(part, []).append(int(shape[0]))
    counts = {count for group in lengths.values() for count in group}
    if len(counts) > 1:
        listed = ", ".join(f"{part}: {group}" for part, group in lengths.items())
        raise DataError(
            f"The arrays of `{name}` have different lengths ({listed}). All need the "
            "same number of rows."
        )
    if counts == {0}:
        raise DataError(f"`{name}` has no rows. Pass at least one.")


def _check_options(shuffle: Any, class_weight: Any) -> None:
    if isinstance(shuffle, str) and shuffle != "batch":
        raise ArgumentError(
            f'`shuffle` must be True, False or "batch". Received: shuffle={shuffle!r}.'
        )
    if class_weight is not None and not isinstance(class_weight, dict):
        raise ArgumentError(
            "`class_weight` must be a dict {class index: weight}. "
            f"Received: class_weight={class_weight!r}."
        )


def _check_positive(argument: str, value: Any) -> None:
    if value is not None and (not isinstance(value, int | np.integer) or value < 1):
        raise ArgumentError(
            f"`{argument}` must be a whole number, 1 or more. "
            f"Received: {argument}={value!r}."
        )


def is_streamed(data: Any) -> bool:
    """Whether the object itself yields batches, and may do so only once."""
    return (
        isinstance(data, tf.data.Dataset | keras.utils.PyDataset | Iterator)
        or _keras.is_stream(data)
    )


def _rows(arrays: Any) -> int:
    return next(a.shape[0] for a in keras.tree.flatten(arrays) if a is not None)


def _map(function, structure):
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else function(leaf), structure
    )
