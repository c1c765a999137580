"""What is done about a step that is not finite: raise, skip its batch, or roll back."""

from collections.abc import Sequence

import keras

from kerastrain.guard import diagnosis
from kerastrain.guard.snapshots import Snapshot
from kerastrain.options import Guard
from kerastrain.state import ModelState


def policy_of(guard: Guard | None, callbacks: Sequence[keras.callbacks.Callback]) -> Guard:
    """The guard in force: ``TerminateOnNaN`` is to see what it looks for, unless one is asked for."""
    ends = any(isinstance(one, keras.callbacks.TerminateOnNaN) for one in callbacks)
    return guard or Guard("off" if ends else "raise")


class SkippedBatches:
    """The batches that a training has skipped, and whether one more may be.

    Args:
        guard: how many at most, and what is done about them.
        state: of the model that trains.

    Attributes:
        all: ``(epoch, step in it)`` of each, counted from 0.
        kept: the snapshot that ``"rollback"`` goes back to; None under other policies.
    """

    def __init__(self, guard: Guard, state: ModelState):
        self._guard = guard
        self.all: list[tuple[int, int]] = []
        rolls_back = guard.policy == "rollback"
        self.kept = Snapshot(state, guard.snapshot_every) if rolls_back else None

    def of(self, epoch: int) -> list[int]:
        """The steps of an epoch whose batches were skipped."""
        return [step for skipped_in, step in self.all if skipped_in == epoch]

    def refusal(self, epoch: int) -> str | None:
        """Why the next batch of an epoch may not be skipped, as advice; None where it may."""
        policy, most = self._guard.policy, self._guard.max_skipped
        if policy == "raise":
            return diagnosis.ADVICE
        if len(self.of(epoch)) < most:
            return None
        return (
            f"More than max_skipped={most} batches of the epoch were skipped. Repair what is "
            f"named, or pass Guard({policy!r}, max_skipped=...)."
        )

    def add(self, epoch: int, step: int) -> None:
        """A batch is skipped."""
        self.all.append((epoch, step))

    def check_end_of(self, epoch: int, steps: int) -> None:
        """Refuses an epoch most of whose batches were skipped.

        Raises:
            NonFiniteError: as said.
        """
        diagnosis.check_skipped(self.of(epoch), steps, epoch)
