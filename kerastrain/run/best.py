"""The best results of a training so far, and its model.

::

    best = Best("runs/a", "val_loss")
    if best.is_beaten_by(results, epoch, model):
        ...                                       # save, and then
        best.accept(candidate)                # once its checkpoint is written
"""

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kerastrain import _keras
from kerastrain import notices
from kerastrain.errors import ArgumentError


class Best:
    """The best of a monitored result.

    Args:
        directory: of the run, for ``best.keras``.
        monitor: the name of a result, with ``"min "`` or ``"max "`` before it where Keras cannot
            know which is better; None for none.

    Attributes:
        known: ``{"monitor", "value", "epoch", "checkpoint"}``, or empty.

    Raises:
        ArgumentError: it is no name.
    """

    def __init__(self, directory: Path, monitor: str | None):
        self._directory, self._monitor = directory, monitor
        self._name: str
        mode, _, self._name = monitor.rpartition(" ") if isinstance(monitor, str) else ("", "", "")
        if monitor is not None and (not self._name or mode not in ("", "min", "max")):
            raise ArgumentError(
                '`monitor` must be the name of a result, such as "val_loss" or "max val_score". '
                f"Received: monitor={monitor!r}."
            )
        self._mode = mode or ("min" if self._name.endswith("loss") else "auto")
        self._beaten_by: dict[str, Any] = {}
        self._exported: float | None = None  # the value of the model in `best.keras`
        self.known: dict[str, Any] = {}

    def check(self, validates: bool) -> None:
        """Refuses a result of a validation where there is none.

        Raises:
            ArgumentError: as said.
        """
        if self._name.startswith("val_") and not validates:
            raise ArgumentError(
                f"`monitor` names a result of a validation. Received: monitor={self._monitor!r}. "
                "Pass validation_data, or the name of another result."
            )

    def restore(self, known: Any) -> None:
        """Restores what was saved; ignored if it is of another result."""
        if isinstance(known, dict) and known.get("monitor") == self._monitor:
            self.known = known
            self._exported = known.get("exported", known.get("value"))

    def is_beaten_by(self, results: dict[str, Any], epoch: int, model: keras.Model) -> bool:
        """Whether the results of an epoch are better. Warns, once, where that cannot be known."""
        if self._monitor is None:
            return False
        if self._name not in results:
            if not self._name.startswith("val_") or any(n.startswith("val_") for n in results):
                self._give_up(f"There is no such result. There are: {', '.join(sorted(results))}.")
            return False  # else there was no validation after this epoch
        try:
            value = float(results[self._name])
        except (TypeError, ValueError):
            self._give_up("It is not one number.")
            return False
        try:
            known = self.known.get("value") if self._exported is None else self._exported
            better = _keras.is_better(model, self._name, self._mode, value, known)
        except ValueError:
            self._give_up(f'Pass monitor="min {self._name}" or monitor="max {self._name}".')
            return False
        if not math.isfinite(value) or not better:
            return False
        self._beaten_by = {"monitor": self._monitor, "value": value, "epoch": epoch}
        return True

    def state(self) -> dict[str, Any]:
        """What is known, for a checkpoint."""
        if self._exported is None:
            return self.known
        return {"monitor": self._monitor} | self.known | {"exported": self._exported}

    def candidate(self, checkpoint: str) -> dict[str, Any]:
        """What is known if the checkpoint of this name gets written."""
        return self._beaten_by | {"checkpoint": checkpoint, "exported": self._exported}

    def accept(self, candidate: dict[str, Any]) -> None:
        """The checkpoint of the results that were better has been written."""
        self.known = candidate

    def _give_up(self, advice: str) -> None:
        notices.warn(f"The best is not kept: {self._monitor!r} cannot be monitored. {advice}")
        self._monitor = None

    def export(self, model: keras.Model, ready: Callable[[], None] = lambda: None) -> None:
        """Writes the model to ``best.keras``, atomically.

        Args:
            model: it.
            ready: called first; what it raises is a reason not to write.
        """
        path, unfinished = self._directory / "best.keras", self._directory / ".unfinished.keras"
        try:
            ready()
            unfinished.unlink(missing_ok=True)
            model.save(unfinished)
            with open(unfinished, "rb+") as file:  # Windows flushes what can be written
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            self._exported = self._beaten_by["value"]
        except Exception as error:  # a user's model may not be savable, or the disk is full
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            self._exported = None
            notices.warn(
                f"The best model could not be written to {path}: {str(error).rstrip('.')}. Its "
                "weights are in its checkpoint."
            )
