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
import os
import random
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import data_checks
from kerastrain import notices
from kerastrain.blocks import Chunk
from kerastrain.blocks import Pass
from kerastrain.blocks import map_leaves
from kerastrain.blocks import rows_of
from kerastrain.errors import DataError
from kerastrain.passes import AdapterPasses
from kerastrain.passes import ArrayPasses
from kerastrain.passes import Indexed

# The share of the free memory that arrays may take once more, to be resident.
_RESIDENT_SHARE = 0.25


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
        data_checks.check_positive("batch_size", batch_size)
        data_checks.check_positive("steps", steps)
        data_checks.check_options(shuffle, class_weight)
        self.name, self.steps = name, None if steps is None else int(steps)
        data_checks.check_type(name, x, y, sample_weight)
        if seed is None:  # not drawn where it is not used: users draw there too
            seed = random.randrange(2**31) if shuffle else 0
        self.is_one_shot = isinstance(x, Iterator)
        shuffles = None
        if isinstance(x, keras.utils.PyDataset):
            shuffles = bool(shuffle) and x.num_batches is not None
            x, shuffle = Indexed(x, seed if shuffles else None), shuffle and not shuffles
        adapter, arrays = _adapted(
            name, (x, y, sample_weight), batch_size, steps, shuffle, class_weight
        )
        if arrays is None:
            self._passes = AdapterPasses(adapter, x, steps)
            self.arrays = None
        else:
            size = batch_size or (math.ceil(rows_of(arrays) / steps) if steps else 32)
            self._passes = ArrayPasses(arrays, size, shuffle, seed)
            self.arrays = arrays
            data_checks.check_not_all_nan(name, arrays)
        count = steps or self._passes.num_batches
        self.num_batches = None if count is None else int(count)  # may be of NumPy's integers
        if self._passes.num_batches == 0:
            raise DataError(f"`{name}` has no batches. Pass at least one row.")
        shuffle = shuffle if shuffles is None else shuffles
        self.seed, self._shuffle = int(seed), shuffle if shuffle == "batch" else bool(shuffle)
        self._pass: Pass | None = None
        self._next_pass = first_pass
        self._count = 0  # batches drawn of the current epoch
        self._resumed: int | None = None  # the same, where an epoch is to go on
        self._looked_at = False

    def in_blocks(self, resident_bytes: int | None = None) -> "Source":
        """Lets many batches lie together, for compiled loops over them.

        Args:
            resident_bytes: arrays up to this size are kept as tensors, whole; None for a
                quarter of the memory that is free. Larger ones, and streams, are
                stacked a few megabytes at a time, in the background.

        Returns:
            Itself.
        """
        self._passes.in_blocks(_resident_budget() if resident_bytes is None else resident_bytes)
        return self

    @property
    def storage(self) -> str:
        """How batches lie: ``"batch"`` by itself, in a ``"stack"``, or in resident ``"arrays"``."""
        return self._passes.storage

    def peek(self) -> Any:
        """The first batch; the next epoch still begins with it.

        Raises:
            DataError: there is none.
        """
        batch = self._opened().peek()
        if batch is None:
            raise DataError(
                f"`{self.name}` has no batches: it ended before the first one. "
                "Pass at least one row, or a new generator."
            )
        if self.arrays is None and not self._looked_at:  # of arrays, all rows have been looked at
            data_checks.check_not_all_nan(self.name, map_leaves(_as_numpy, batch))
            self._looked_at = True
        return batch

    def epoch(self, number: int | None = None) -> Iterator[Any]:
        """Yields the batches of the next epoch, one by one; see `chunks`."""
        for chunk in self.chunks(number):
            yield chunk.batch()

    def chunks(
        self, number: int | None = None, most: Callable[[], int] = lambda: 1
    ) -> Iterator[Chunk]:
        """Yields the batches of the next epoch, several at a time.

        Args:
            number: the epoch, counted from 0, whose order a shuffled pass
                takes. None for the next. With ``steps`` the order goes on.
            most: gives the batches that the next chunk may have at most.

        Warns where the data end before ``steps`` batches were drawn.
        """
        resumed, self._resumed = self._resumed, None
        self._count = resumed or 0
        if self.steps is None and resumed is None:
            if self._pass is not None and self._pass.taken:
                self.close()
            if number is not None and self._passes.follow_seed:
                if self._pass is not None and self._pass.number != number:
                    self.close()
                if self._pass is None:
                    self._next_pass = number
        current = self._opened()
        while self.steps is None or self._count < self.steps:
            room = most() if self.steps is None else min(most(), self.steps - self._count)
            chunk = current.take(room)
            if chunk is None:
                break
            self._count += chunk.steps
            yield chunk
        count, self._count = self._count, 0
        if self.steps is not None and count == self.steps:
            self._finish_pass()
            return
        self.close()
        if self.steps is not None or count == 0:
            notices.warn(
                f"`{self.name}` ran out of data after {count} batches of this epoch"
                + (f" (wanted: {self.steps})" if self.steps else "")
                + ". Use `.repeat()`, fewer steps_per_epoch or epochs, or pass an "
                "object that can be iterated again instead of a generator."
            )

    def restart(self) -> None:
        """Lets the next epoch begin with a new pass, as each validation does."""
        if self._pass is not None and self._pass.taken:
            self.close()

    # Where an epoch is, to go on there in another process -----------------------

    @property
    def drawn_of_epoch(self) -> int:
        """The batches that came before, of an epoch that goes on."""
        return self._resumed or 0

    def track(self) -> "Source":
        """Lets `state` be asked for, from the next pass on.

        Returns:
            Itself.
        """
        self._passes.track()
        return self

    def identity(self) -> dict[str, Any]:
        """What tells data sets apart, of JSON's types: numbers, types, and a few rows of arrays."""
        batch = self.peek()
        known: dict[str, Any] = {}
        if self.arrays is not None:
            count = rows_of(self.arrays)
            rows = np.unique(np.linspace(0, count - 1, 64).astype(int))
            leaves = [a[rows] for a in keras.tree.flatten(self.arrays) if a is not None]
            parts = [repr(a.tolist()) if a.dtype == object else a.tobytes().hex() for a in leaves]
            known = {"rows": count, "checksum": zlib.crc32("".join(parts).encode())}
        known |= {"steps_per_epoch": self.steps, "batches": self.num_batches}
        known["shuffle"] = self._shuffle
        if not holds_composites(batch):
            known["first_batch"] = signature(batch)[0]
        return known

    def state(self) -> dict[str, Any]:
        """All that decides which batches come next."""
        current = self._pass
        return {
            "seed": self.seed,
            "next_pass": self._next_pass,
            "pass": None if current is None else current.number,
            "taken": 0 if current is None else current.taken,
            "of_epoch": self._count,
            "passes": self._passes.state(None if current is None else current.taken),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Lets the batches come next that came after `state` was asked for.

        In a source that was made like that one and of which nothing but the first batch
        has been looked at. What needs the batches before is drawn from the first on.
        """
        number, taken, passes = state["pass"], state["taken"], self._passes
        self.seed = state["seed"]
        passes.set_seed(self.seed)
        if passes.begins_anywhere(state["passes"]):
            self.close()
            passes.set_state(state["passes"])
            if number is not None:
                self._pass = passes.begin(number, taken)
                self._pass.peek()  # begins it, also if it is closed before a batch is drawn
            self._next_pass = state["next_pass"]
        else:
            self._draw_again(state["next_pass"] if number is None else number, taken)
        self._resumed = None if number is None else state["of_epoch"]

    def _draw_again(self, number, taken):
        current = self._opened()
        while current.number < number:
            current.peek()  # so that it is begun
            while self._passes.is_drawn_whole and current.take(2**31 - 1):
                pass
            self.close()
            current = self._opened()
        while current.taken < taken and current.take(taken - current.taken):
            pass

    # Passes ---------------------------------------------------------------------

    def _opened(self) -> Pass:
        if self._pass is None:
            self._pass = self._passes.begin(self._next_pass)
            self._next_pass += 1
        return self._pass

    def _finish_pass(self):
        """Starts the next pass with the next epoch if this one is used up."""
        total = self._passes.num_batches
        if total is not None and self._pass.taken >= total:
            self.close()

    def close(self) -> None:
        """Ends the current pass and what runs in the background for it."""
        if self._pass is not None:
            self._pass.close()
            self._pass = None


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


def _resident_budget() -> int:
    """A quarter of the free memory, in bytes; a gigabyte where that is unknown."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not on this system
        free = 4 * 2**30
    return int(_RESIDENT_SHARE * free)


# Batches ----------------------------------------------------------------------


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


def _as_numpy(leaf: Any) -> np.ndarray | None:
    return leaf.numpy() if isinstance(leaf, tf.Tensor) else None
