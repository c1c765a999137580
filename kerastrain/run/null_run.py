"""The null object for a training that is not saved: the methods of `Run`, which do nothing."""

import contextlib
from collections.abc import Iterator
from typing import Any

from kerastrain.data import Source
from kerastrain.distribution import MetricStates
from kerastrain.distribution import Votes
from kerastrain.execution import StepCall
from kerastrain.execution import Times
from kerastrain.run.position import Position
from kerastrain.run.training import Training


class NullRun:
    """A training that is not saved."""

    resume_message = ""

    def __enter__(self) -> "NullRun":
        return self

    def __exit__(self, *error: Any) -> None:
        """There is nothing to close."""

    def track(self, source: Source, validates: bool = False) -> Source:
        """The source, unchanged."""
        return source

    def load_latest(self, training: Training) -> None:
        """There is nothing to load."""

    def restore(self, epoch: int, metrics: MetricStates) -> Position:
        """The beginning of the first epoch."""
        return Position(epoch=epoch)

    def begin_log(self, position: Position, times: Times) -> None:
        """There is no log."""

    def join(self, train: Votes, test: Votes) -> None:
        """There is nothing to agree on."""

    def steps_until_save(self, steps: int) -> int:
        """No limit."""
        return 2**31 - 1

    def works(self, works: Iterator[StepCall], position: Position) -> Iterator[StepCall]:
        """The step calls, unchanged."""
        return works

    def after_steps(self, position: Position) -> None:
        """There is nothing to save."""

    after_epoch = after_training = after_steps

    def after_validation(self, position: Position, results: dict[str, Any]) -> None:
        """There is no log."""

    def validation(self, position: Position) -> contextlib.AbstractContextManager[None]:
        """Around a validation: does nothing."""
        return contextlib.nullcontext()

    def in_validation(self) -> None:
        """There is no signal to leave at."""
