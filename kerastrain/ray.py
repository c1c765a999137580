"""Ray Train and Ray Tune: each epoch reported with the whole run, and resumed from there.

::

    def train_on_worker(config):
        trainer = Trainer(build, optimizer="adam", loss="mse", strategy="multi_worker", seed=0)
        report = RunReport()
        trainer.fit(x, y, epochs=3, run_dir=report.run_dir, callbacks=[report])

    TensorflowTrainer(train_on_worker, scaling_config=ray.train.ScalingConfig(num_workers=2)).fit()

A checkpoint of the model alone loses the position in the data, the random state and the history.
What is reported here is the run directory, as it is after the epoch; a worker that Ray starts again
resumes from the last one that was reported, bit-exactly. Ray itself is the extra ``ray``, imported
where it is used.
"""

import functools
import importlib
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kerastrain import validation
from kerastrain.errors import ArgumentError
from kerastrain.errors import CheckpointError
from kerastrain.options import RunDir

_SESSIONS = ("train", "tune")
# Steps between two saves that never come: what no report takes away is lost with the worker.
_NEVER = 2**31 - 1


class RunReport(keras.callbacks.Callback):
    """Reports each epoch to Ray: its logs, and the run directory as a checkpoint.

    Make one in the function that Ray calls on each worker, and pass both the callback and its
    `run_dir` to `Trainer.fit`. All workers report; the chief's report has the checkpoint.

    Args:
        session: ``"train"`` in a function that Ray Train calls, such as that of a
            ``TensorflowTrainer``; ``"tune"`` in one that Ray Tune calls. Default ``"train"``.
        monitor: as of `RunDir`: the result whose best checkpoint, with the model as ``best.keras``,
            is in each checkpoint too. Default None.

    What is reported is ``logs`` with ``epoch``, which counts from 0 as in Keras.

    Raises:
        ImportError: Ray is not installed.
        ArgumentError: a value that cannot work.
    """

    def __init__(self, session: str = "train", *, monitor: str | None = None):
        super().__init__()
        validation.one_of("session", session, _SESSIONS)
        self._session, self._monitor = session, monitor
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._is_reported = True
        self._ray()

    def _ray(self) -> Any:
        """``ray.train`` or ``ray.tune``."""
        try:
            return importlib.import_module(f"ray.{self._session}")
        except ImportError as error:
            raise ImportError(
                "kerastrain.ray needs Ray Train and Ray Tune. Install them with "
                f"`pip install 'kerastrain[ray]'`. ({error})",
                name=error.name,
            ) from error

    @functools.cached_property
    def run_dir(self) -> RunDir:
        """A new run directory on this machine, with the run that was reported last, if any.

        It is removed when the training ends.

        Raises:
            ArgumentError: it is asked for in a function of the other kind.
            CheckpointError: what was reported last is no run.
        """
        self._directory = tempfile.TemporaryDirectory(
            prefix="kerastrain-", ignore_cleanup_errors=True
        )
        path = Path(self._directory.name, "run")
        checkpoint = self._reported()
        if checkpoint is not None and self._rank() == 0:
            checkpoint.to_directory(path)
            if not Path(path, "checkpoints").is_dir():
                raise CheckpointError(f"{checkpoint} has no run of kerastrain.")
        return RunDir(path, save_every=_NEVER, keep=1, monitor=self._monitor)

    def _reported(self) -> Any:
        try:
            return self._ray().get_checkpoint()
        except DeprecationWarning as error:  # which Ray raises in a function of Tune
            raise ArgumentError(
                'This function is called by Ray Tune: pass RunReport("tune"). '
                f"Received: session={self._session!r}."
            ) from error

    def _rank(self) -> int:
        return self._ray().get_context().get_world_rank() if self._session == "train" else 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Makes sure that the epoch before was reported."""
        self._check_reported()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """The epoch is to be saved and reported next."""
        self._is_reported = False

    def on_epoch_saved(
        self, epoch: int, logs: dict[str, Any] | None, checkpoint: Path | None
    ) -> None:
        """Reports; returns when Ray has copied the checkpoint.

        Args:
            epoch, logs: what is reported.
            checkpoint: the chief's; None on other workers, and where it could not be saved.

        Raises:
            ArgumentError: this is not the run directory of the callback, or not the chief's.
        """
        session, directory = self._ray(), None
        if checkpoint is not None:
            self._check(checkpoint)
            directory = session.Checkpoint.from_directory(self.run_dir.path)
        metrics = {name: np.asarray(value).tolist() for name, value in (logs or {}).items()}
        session.report({"epoch": epoch, **metrics}, checkpoint=directory)
        self._is_reported = True

    def _check(self, checkpoint: Path) -> None:
        if not checkpoint.is_relative_to(self.run_dir.path):
            raise ArgumentError(
                "RunReport reports a run directory of its own. Pass run_dir=report.run_dir to "
                f"Trainer.fit. Received: run_dir={str(checkpoint.parent.parent)!r}."
            )
        if self._rank() != 0:
            raise ArgumentError(
                "Each of the workers trains by itself. Pass a function that builds the model, and "
                'strategy="multi_worker", to Trainer, so that they train one model.'
            )

    def _check_reported(self) -> None:
        if not self._is_reported:
            raise ArgumentError(
                "RunReport reports what is saved, and the last epoch was not. Pass "
                "run_dir=report.run_dir to Trainer.fit."
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Makes sure that all was reported, and removes the run directory."""
        self._check_reported()
        if self._directory is not None:
            self._directory.cleanup()

    def get_state(self) -> None:
        """There is none: what was reported is in the checkpoint itself."""

    def set_state(self, state: None) -> None:
        """There is none."""
