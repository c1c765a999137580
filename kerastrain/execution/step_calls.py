"""Steps that are about to run, and when callbacks are called for them."""

import enum
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any
from typing import NamedTuple

import keras

from kerastrain.execution.timing import Times


class Listening(enum.Enum):
    """When callbacks are called for each step, from what they do with it."""

    NEVER = "nothing"
    COUNTING = "counts"  # after several steps have run in one call, without logs
    AFTERWARDS = "logs"  # the same with the logs of each
    BETWEEN = "acts"  # between the steps

    @property
    def needs_logs(self) -> bool:
        """Whether each step is to report."""
        return self in (Listening.AFTERWARDS, Listening.BETWEEN)

    @classmethod
    def for_all(cls, wanted: Iterable["Listening"]) -> "Listening":
        """What serves several callbacks."""
        order = list(cls)
        return max(wanted, key=order.index, default=cls.NEVER)


class StepKind(NamedTuple):
    """What steps are.

    Attributes:
        name: ``"train"``, ``"test"`` or ``"predict"``.
        reports: whether each returns logs, even without listeners.
        is_users: whether the step is the model's own, which may make variables when it is
            first run.
    """

    name: str
    reports: bool = False
    is_users: bool = False


class StepCall(NamedTuple):
    """Steps that are about to run.

    Attributes:
        first: the index of the first in the epoch.
        steps: how many.
        run: runs them; returns the logs of each where they are reported, else None.
        compiled: gives the seconds of ``run`` that went into compiling.
        has_listeners: whether callbacks listen to them.
    """

    first: int
    steps: int
    run: Callable[[], list[Any] | None]
    compiled: Callable[[], float]
    has_listeners: bool


def run_and_notify(
    work: StepCall, callbacks: keras.callbacks.CallbackList, kind: str, times: Times
) -> dict[str, Any] | None:
    """Runs steps and notifies callbacks of each, where anybody listens.

    Of several steps callbacks are called when all have run, in turn.

    Args:
        work: the steps.
        callbacks: that are called.
        kind: ``"train"`` or ``"test"``.
        times: where the time is counted.

    Returns:
        The last logs, or None where there are none.
    """
    begin = getattr(callbacks, f"on_{kind}_batch_begin")
    end = getattr(callbacks, f"on_{kind}_batch_end")
    if work.has_listeners and work.steps == 1:
        begin(work.first)
        times.lap("callbacks")
    logs = work.run()
    times.lap("step")
    times.move(work.compiled(), "step", "compiling")
    if work.has_listeners:
        for index, one in enumerate(logs or [None] * work.steps, work.first):
            if work.steps > 1:
                begin(index)
            end(index, one)
        times.lap("callbacks")
    return logs[-1] if logs else None
