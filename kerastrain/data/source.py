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

With ``steps_per_epoch`` an epoch takes that many batches and the next continues
where it stopped, as in Keras; otherwise an epoch is one pass.
"""

import dataclasses
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
from kerastrain import notices
from kerastrain import validation
from kerastrain.data import checks as data_checks
from kerastrain.data.adapters import as_numpy
from kerastrain.data.adapters import holds_composites
from kerastrain.data.adapters import passes_of_data
from kerastrain.data.adapters import signature
from kerastrain.data.blocks import Ahead
from kerastrain.data.blocks import Chunk
from kerastrain.data.blocks import map_leaves
from kerastrain.data.blocks import rows_of
from kerastrain.data.cursor import Cursor
from kerastrain.data.rewind import Rewind
from kerastrain.data.shares import ALL
from kerastrain.data.shares import Share
from kerastrain.data.tables import as_arrays
from kerastrain.errors import DataError
from kerastrain.state import digest_of

# The share of the free memory that arrays may take once more, to be resident.
_RESIDENT_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Batching:
    """How a data set is cut into batches.

    Attributes:
        batch_size, shuffle, class_weight: as for ``keras.Model.fit``.
        steps: batches per epoch (``steps_per_epoch``), or None for one pass.
        seed: an integer that the order of shuffled arrays follows. None draws
            one from Python's ``random``, which ``keras.utils.set_random_seed``
            seeds.
        first_pass: the number of the first pass: ``initial_epoch``.
        begins_anew: whether each epoch begins with a new pass, though it has ``steps``.
        share: which rows of each batch are read here, by one of several workers.
    """

    batch_size: int | None = None
    steps: int | None = None
    shuffle: bool | str = False
    class_weight: dict[int, float] | None = None
    seed: int | None = None
    first_pass: int = 0
    begins_anew: bool = False
    share: Share = ALL


class Source:
    """A data set as batches of ``x``, ``(x, y)`` or ``(x, y, sample_weight)``.

    The one class for all data has many methods, most of them a line: what the batches are, where
    one is, and how another process gets there.

    Args:
        x, y, sample_weight: as for ``keras.Model.fit``; or ``x`` a function of a
            ``tf.distribute.InputContext`` that returns a source of this worker's rows of each batch.
        name: what the messages call the data, such as ``"validation_data"``.
        **options: how they are cut into batches, as `Batching` has it.

    Attributes:
        num_batches: batches per epoch, or None where unknown or endless.
        has_share: whether the steps are given one worker's rows of each batch.
        missing: what of the data is NaN throughout, as far as they have been looked at; None
            for nothing.

    Raises:
        DataError: no rows, or unequal lengths.
        UnsupportedTypeError: an object that yields no batches.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        name: str = "x",
        **options: Any,
    ):
        batching = Batching(**options)
        batch_size, steps, shuffle = batching.batch_size, batching.steps, batching.shuffle
        class_weight, seed = batching.class_weight, batching.seed
        first_pass = batching.first_pass
        for argument, value in (("batch_size", batch_size), ("steps", steps)):
            if value is not None:
                validation.whole_number(argument, value, 1, "None")
        data_checks.check_options(shuffle, class_weight, sample_weight)
        self.name, self.steps = name, None if steps is None else int(steps)
        is_function = data_checks.is_function(x)
        if is_function:
            x = batching.share.dataset_of(x, name)
        x, y, sample_weight = as_arrays(name, x, y, sample_weight)
        data_checks.check_type(name, x, y, sample_weight)
        # Whether the first batch is the same in each process, of what is no array.
        self._begins_alike = isinstance(x, tf.data.Dataset) and _keras.begins_alike(x)
        if isinstance(x, keras.utils.PyDataset):
            self._begins_alike = not shuffle or (seed is not None and not first_pass)
        self.missing: str | None = None
        self._class_weight = class_weight
        if not data_checks.is_streamed(x):
            data_checks.check_class_weight(name, y, class_weight)
        self.is_one_shot = isinstance(x, Iterator)
        if isinstance(x, keras.utils.PyDataset) and x.num_batches is None:
            shuffle = False
        if seed is None:  # not drawn where it is not used: users draw there too
            is_ordered_here = isinstance(x, keras.utils.PyDataset) or not data_checks.is_streamed(x)
            seed = random.randrange(2**31) if shuffle and is_ordered_here else 0
        cut = batch_size, steps, shuffle, class_weight
        share = batching.share
        self._passes, self.arrays = passes_of_data(name, (x, y, sample_weight), cut, seed, share)
        self._is_function = is_function
        self.has_share = share.count > 1 and (is_function or self.arrays is not None)
        if is_function:
            self._passes.function, self._passes.share = name, share
        if isinstance(x, keras.utils.PyDataset):
            self._begins_alike = self._begins_alike and self._passes.seeks
        if self.arrays is not None:
            self.missing = data_checks.missing_in(name, self.arrays)
        count = steps or self._passes.num_batches
        self.num_batches = None if count is None else int(count)  # may be of NumPy's integers
        if self._passes.num_batches == 0:
            raise DataError(f"`{name}` has no batches. Pass at least one row.")
        self.seed, self._shuffle = int(seed), shuffle if shuffle == "batch" else bool(shuffle)
        self._cursor = Cursor(name, self._passes, first_pass, self.steps)
        self._count = 0  # batches drawn of the current epoch
        self._begins_anew = batching.begins_anew
        self._resumed: int | None = None  # the same, where an epoch is resumed
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
        try:
            batch = self._cursor.look()
        except tf.errors.InvalidArgumentError as error:
            data_checks.check_class_weight_of_stream(self.name, self._class_weight, error)
            raise
        if batch is None:
            raise DataError(
                f"`{self.name}` has no batches: it ended before the first one. "
                "Pass at least one row, or a new generator."
            )
        if self.arrays is None and not self._looked_at:  # of arrays, all rows have been looked at
            self.missing = data_checks.missing_in(self.name, map_leaves(as_numpy, batch))
            if self._class_weight is not None:
                data_checks.check_class_weight(self.name, batch[1], self._class_weight)
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
                takes. None for the next. With ``steps`` the order continues.
            most: gives the batches that the next chunk may have at most; 0 for no more of them.

        Warns where the data end before ``steps`` batches were drawn.
        """
        resumed, self._resumed = self._resumed, None
        self._count = resumed or 0
        cursor = self._cursor
        if self.steps is None and resumed is None:
            self.restart()
            if number is not None and self._passes.follow_seed:
                if cursor.current is not None and cursor.current.number != number:
                    self.close()
                if cursor.current is None:
                    cursor.next_pass = number
        while self.steps is None or self._count < self.steps:
            limit = most() if self.steps is None else min(most(), self.steps - self._count)
            if not limit:
                return
            chunk = cursor.take(limit)
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
                + ". Use `.repeat()`, fewer steps_per_epoch (limit_train_batches) or epochs, or pass an "
                "object that can be iterated again instead of a generator."
            )

    def ahead(self) -> Ahead:
        """What comes next, for several workers to compare."""
        return self._cursor.opened().ahead()

    def restart(self) -> None:
        """Lets the next epoch begin with a new pass, as each validation does."""
        if self._cursor.current is not None and self._cursor.current.taken:
            self.close()

    # Where an epoch is, to be resumed in another process ------------------------

    @property
    def start_step(self) -> int:
        """The step that the next epoch begins with: above 0 where it is resumed."""
        return self._resumed or 0

    def track(self, begins_anew: bool = False) -> "Source":
        """Lets `state` be asked for, from the next pass on.

        Args:
            begins_anew: whether `restart` comes before each epoch.

        Returns:
            Itself.

        Raises:
            DataError: another process is known to draw other batches.
        """
        self._begins_anew = begins_anew or self._begins_anew
        self._cursor.track(self._begins_anew)
        return self

    def check_apart(self, other: "Source") -> None:
        """Refuses data whose passes depend on one another, as of one shuffle that both have.

        Raises:
            DataError: names both.
        """
        self._cursor.check_apart(other._cursor)

    def identity(self) -> dict[str, Any]:
        """Identifies a data set, of JSON's types: numbers, types, and a few rows of arrays."""
        known: dict[str, Any] = {}
        if self._is_function:  # whose batches another number of workers cuts otherwise
            return {"steps_per_epoch": self.steps, "shuffle": self._shuffle}
        batch = self.peek()
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
        if self.arrays is not None:  # as they are before they are shuffled
            count = rows_of(batch)
            known["@digest"] = digest_of(map_leaves(lambda a: a[:count], self.arrays))
        elif self._begins_alike:
            known["@digest"] = digest_of(batch)
        return known

    def state(self) -> dict[str, Any]:
        """All that decides which batches come next."""
        return {"seed": self.seed, "of_epoch": self._count, **self._cursor.state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Lets the batches come next that came after `state` was asked for.

        In a source that was made like that one and of which nothing but the first batch
        has been looked at. Arrays and a ``PyDataset`` begin at the batch; of other data, what
        was drawn of the pass is drawn again, and of ``tf.data``, of all passes before it too.
        What is drawn again is compared with what was drawn then.

        Raises:
            DataError: these are other batches.
        """
        self.seed = state["seed"]
        self._passes.set_seed(self.seed)
        Rewind(self._cursor).to(state)
        self._resumed = None if state["pass"] is None else state["of_epoch"]

    @property
    def is_endless(self) -> bool:
        """Whether an epoch is known never to end."""
        return self.steps is None and self._passes.is_endless

    @property
    def functions_drew(self) -> set[str]:
        """From which global random numbers functions that may run ahead were seen to draw."""
        return self._cursor.functions_drew

    def _finish_pass(self) -> None:
        """Starts the next pass with the next epoch if this one is used up, or each epoch has one."""
        total, current = self._passes.num_batches, self._cursor.current
        is_used_up = total is not None and current is not None and current.taken >= total
        if is_used_up or self._begins_anew:
            self.close()

    def close(self) -> None:
        """Ends the current pass and what runs in the background for it."""
        self._cursor.close()


def free_memory() -> int | None:
    """The bytes of memory that are free; None on a system that does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _resident_budget() -> int:
    """A quarter of the free memory, in bytes; a gigabyte where that is unknown."""
    free = free_memory()
    return int(_RESIDENT_SHARE * (4 * 2**30 if free is None else free))


# Batches ----------------------------------------------------------------------
