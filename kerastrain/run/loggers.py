"""Callbacks of W&B and MLflow: what they count, and that a resumed training logs to the same run.

::

    logger = logger_of(callback)        # None of any other callback
    saved = logger.run_id()
    logger.resume(saved)                # in another process, before the callback begins

No package is imported here: where a callback is one of its own, it has been.
"""

import sys
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras

from kerastrain import notices


class Logger(NamedTuple):
    """The run of a package that a callback logs to.

    Attributes:
        name: of the package, in words.
        attributes: of its callbacks, that change while they log.
        run_id: gives the id of the run that is logged to now; None without one.
        begin: logs to the run of an id again, where there is none; None where there always is one.
        call: what the user writes for that.
    """

    name: str
    attributes: tuple[str, ...]
    run_id: Callable[[], str | None]
    begin: Callable[[str], Any] | None
    call: str

    def resume(self, saved: str | None) -> None:
        """Goes on with the run of an interrupted training, or says that it is another."""
        now = self.run_id()
        if saved is None or now == saved:
            return
        if now is None and self.begin is not None:
            self.begin(saved)
            return
        notices.warn(
            f"The interrupted training was logged to the {self.name} run {saved!r}, and what follows is "
            f"logged to {now!r}. To have all in one, call {self.call.format(saved)} before `fit`."
        )


def _id_of_wandb() -> str | None:
    run = sys.modules["wandb"].run
    return None if run is None else run.id


def _id_of_mlflow() -> str | None:
    run = sys.modules["mlflow"].active_run()
    return None if run is None else run.info.run_id


_LOGGERS = {
    "wandb": Logger(
        "W&B",
        ("global_batch", "global_step"),
        _id_of_wandb,
        None,
        'wandb.init(id={!r}, resume="must")',
    ),
    "mlflow": Logger(
        "MLflow",
        (),
        _id_of_mlflow,
        lambda run_id: sys.modules["mlflow"].start_run(run_id=run_id),
        "mlflow.start_run(run_id={!r})",
    ),
}


def logger_of(callback: keras.callbacks.Callback) -> Logger | None:
    """The logger whose callback it is, or a subclass of one."""
    for kind in type(callback).__mro__:
        if found := _LOGGERS.get(kind.__module__.partition(".")[0]):
            return found
    return None
