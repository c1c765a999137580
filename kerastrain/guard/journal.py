"""The last snapshot of the variables, and the steps that have run since.

::

    journal.snapshot()               # the variables as they are; nothing before can be rolled back
    journal.note(chunk, settings)    # a chunk has run
    journal.roll_back()              # the variables of the snapshot; no step has run since

Invariant: variables = snapshot + the steps noted since, unless `is_torn`.
"""

import contextlib
import time
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from kerastrain.data import bytes_of
from kerastrain.data import Chunk
from kerastrain.guard import finite
from kerastrain.guard.between import Settings
from kerastrain.state import HostCopies

# The memory of copies that stays between trainings, in bytes, at most.
_MOST_BETWEEN = 2**24
# Batches that are held to be run again, at most.
_MOST_BYTES = 2**28


class Journal:
    """What has run since the last snapshot.

    Attributes:
        copies: the snapshot.
        entries: ``(chunk, settings that it ran with)`` of what has run since.
        has_run: whether the variables may differ from the snapshot.
        is_torn: whether they may be neither the snapshot's nor those after the entries.
        now: ``(steps of the epoch, steps of all epochs)`` that have run.
        seconds: what snapshots have taken in the training.
    """

    def __init__(self) -> None:
        self.copies = HostCopies([])
        self._snapshot_seconds = self._snapshot_at = 0.0
        self.start()

    def start(self) -> None:
        """A training begins."""
        self.seconds, self.is_torn = 0.0, False
        self.now = self._of_snapshot = (0, 0)
        self.clear()

    def clear(self) -> None:
        """Lets go of the batches of what has run."""
        self.entries: list[tuple[Chunk, Settings]] = []
        self.has_run = False
        self._held_bytes = 0  # of the blocks of these, but for the first
        self._block_bytes = 0  # of the last block

    def end(self) -> None:
        """A training has ended."""
        self.clear()
        self.copies.forget(_MOST_BETWEEN)

    def is_of(self, variables: Iterable[Any]) -> bool:
        """Whether snapshots are of these variables."""
        return [*map(id, variables)] == [*map(id, self.copies.variables)]

    @property
    def is_crowded(self) -> bool:
        """Whether it holds more batches than memory should be taken for."""
        return self._held_bytes > _MOST_BYTES

    def snapshot_is_due(self) -> bool:
        """Whether a snapshot now takes a small enough share of the time since the last."""
        return time.perf_counter() - self._snapshot_at >= self._snapshot_seconds / finite.SHARE

    def note(self, chunk: Chunk, settings: Settings) -> None:
        """A chunk has run, with what callbacks had set."""
        if self.entries and self.entries[-1][0].block is not chunk.block:
            if not (chunk.block.is_batch and self._block_bytes):
                self._block_bytes = bytes_of(chunk.block.data)
            self._held_bytes += self._block_bytes
        self.entries.append((chunk, settings))
        self.now = self.now[0] + chunk.steps, self.now[1] + chunk.steps

    def snapshot(self) -> None:
        """Takes a snapshot of the variables, which have been verified: what has run is kept."""
        begun = time.perf_counter()
        self.copies.take()
        self.clear()
        self._of_snapshot = self.now
        self._snapshot_at = time.perf_counter()
        self._snapshot_seconds = self._snapshot_at - begun
        self.seconds += self._snapshot_seconds

    def roll_back(self) -> None:
        """Gives the variables the values of the snapshot."""
        with self.torn():
            self.copies.restore()
        self.clear()
        self.now = self._of_snapshot

    @contextlib.contextmanager
    def torn(self) -> Iterator[None]:
        """Inside, variables change in another way than by steps that are noted.

        If that fails, they are torn, and are to be rolled back.
        """
        self.is_torn = True
        yield
        self.is_torn = False
