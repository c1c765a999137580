"""Where a training is: epoch, step, and what it has logged so far."""

import dataclasses
from typing import Any


@dataclasses.dataclass
class Position:
    """Where a training is.

    Attributes:
        epoch: the one that runs, or comes next.
        step: how many of its steps have run.
        steps: how many have run in all epochs.
        is_trained: whether the epoch has no steps left; what comes after them has not happened.
        stopped: whether a callback has set ``stop_training``.
        logs: what the last step returned, where steps return logs.
        epoch_logs: the results of the last epoch that ended.
        validated: after how many steps it has been validated last, between steps.
    """

    epoch: int = 0
    step: int = 0
    steps: int = 0
    is_trained: bool = False
    stopped: bool = False
    logs: dict[str, Any] | None = None
    epoch_logs: dict[str, Any] | None = None
    validated: int = 0

    def after_epoch(self, stopped: bool) -> "Position":
        """The beginning of the next epoch."""
        return dataclasses.replace(
            self, epoch=self.epoch + 1, step=0, is_trained=False, stopped=stopped
        )

    @property
    def place(self) -> tuple[int, int, int]:
        """What identifies it among the positions of one training."""
        return self.epoch, self.step, self.steps
