"""A run: a training that is saved in a directory, and goes on there after any end.

::

    with Run("runs/a", resume=True, save_every=100, keep=2, monitor=None) as run:
        run.open(model, sources, callbacks, runner, seed)
        position = run.go_on(epoch=0)
        ...
        run.after_steps(position)            # saves where it is due, leaves after a signal

The directory has ``checkpoints/`` (`kerastrain.checkpoint`), ``lock``, which one process holds at
a time, and ``best.keras``, the model where the monitored result was best. `Unsaved` has the same
methods, for a training without a directory.
"""

import fcntl
import os
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from kerastrain import _keras
from kerastrain import saving
from kerastrain import state_trees
from kerastrain.callbacks import CallbackStates
from kerastrain.checkpoint import Checkpoint
from kerastrain.checkpoint import Checkpoints
from kerastrain.data import Source
from kerastrain.errors import ArgumentError
from kerastrain.errors import CheckpointError
from kerastrain.errors import DataError
from kerastrain.errors import RunError
from kerastrain.runner import Runner
from kerastrain.saving import Saver
from kerastrain.signals import Signals
from kerastrain.training_state import Position
from kerastrain.training_state import TrainingState
from kerastrain.training_state import check_identity
from kerastrain.training_state import identity_of


class Interrupted(Exception):
    """A signal came during a validation: it is left, and begun again after a resume."""


class Unsaved:
    """A training that is not saved."""

    told = ""

    def __enter__(self) -> "Unsaved":
        return self

    def __exit__(self, *error) -> None:
        """Nothing to be closed."""

    def track(self, source: Source) -> Source:
        """The source, as it is."""
        return source

    def open(self, *parts: Any) -> None:
        """Nothing to be found."""

    def go_on(self, epoch: int) -> Position:
        """The begin of the first epoch."""
        return Position(epoch=epoch)

    def room(self, steps: int) -> int:
        """As many steps as one likes."""
        return 2**31 - 1

    def after_steps(self, position: Position) -> None:
        """Nothing to be saved."""

    before_validation = after_epoch = after_training = after_steps

    def in_validation(self) -> None:
        """Nothing to be left."""

    def leave_validation(self) -> None:
        """Not called."""


class Run:
    """A training that is saved.

    Args:
        directory: of the run, made where it is missing.
        resume: whether a run that is there goes on; else it must be empty.
        save_every: steps, a ``datetime.timedelta``, or None for a minute.
        keep: how many of the last checkpoints are kept.
        monitor: the name of a result; the checkpoint with the best is kept too, and the model
            is written to ``best.keras``. None for none.

    Attributes:
        told: a line about where the training goes on; empty where it begins.

    Raises:
        ArgumentError: a value that cannot work.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        resume: bool,
        save_every: Any,
        keep: int,
        monitor: str | None,
    ):
        self.directory = Path(directory)
        self._resume, self._monitor = resume, monitor
        self._checkpoints = Checkpoints(self.directory / "checkpoints")
        if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
            raise ArgumentError(f"`keep` must be a number, 1 or more. Received: keep={keep!r}.")
        self._every, self._keep = saving.check_every(save_every), keep
        self.told = ""
        self._signals = Signals()
        self._best: dict[str, Any] = {}
        self._found: Checkpoint | None = None
        self._saved: tuple | None = None  # where the training was when it was saved last

    # The directory --------------------------------------------------------------

    def __enter__(self) -> "Run":
        self._lock = _lock(self.directory)
        try:
            if self._checkpoints.directory.is_symlink():
                raise RunError(f"{self._checkpoints.directory} is a link. Pass another run_dir.")
            self._checkpoints.remove_unfinished()
            if not self._resume and self._checkpoints.paths():
                raise RunError(
                    f"There is a run in {self.directory}. Pass resume=True to go on with it, or "
                    "another run_dir."
                )
            self._saver = Saver(self._checkpoints, self._every, self._keep)
        except BaseException:
            os.close(self._lock)
            raise
        self._signals.__enter__()
        return self

    def __exit__(self, *error) -> None:
        try:
            self._saver.close()
        finally:
            self._signals.__exit__(*error)
            os.close(self._lock)

    def track(self, source: Source) -> Source:
        """Lets a source tell where it is.

        Raises:
            DataError: it cannot begin anywhere but where it is.
        """
        if source.is_one_shot:
            raise DataError(
                f"`{source.name}` is a generator, which cannot go on in another process, so it "
                "cannot be used with `run_dir`. Pass arrays, a keras.utils.PyDataset, or "
                "tf.data.Dataset.from_generator with a function that makes the generator."
            )
        return source.track()

    def open(
        self,
        model: keras.Model,
        sources: dict[str, Source],
        callbacks: list[keras.callbacks.Callback],
        runner: Callable[[str], Runner],
        seed: int | None,
        epochs: int,
    ) -> None:
        """Finds what was saved last, before ``on_train_begin``. Nothing has changed yet.

        Args:
            model: the model that trains, built and compiled.
            sources: the data sets by name, that to train on as ``"x"``.
            callbacks: all of them.
            runner: gives what runs the steps of a kind.
            seed: as the user passed it.
            epochs: to stop before.

        Raises:
            RunError: the directory is of another run.
            CheckpointError: it was written by a later version.
        """
        self._callbacks = CallbackStates(callbacks)
        kinds = ("train", "test") if len(sources) > 1 else ("train",)
        state = TrainingState(
            model, sources, self._callbacks, lambda: {kind: runner(kind) for kind in kinds}
        )
        identity = identity_of(model, sources["x"], seed)
        self._state, self._identity, self._epochs = state, identity, epochs
        self._found = self._checkpoints.newest()
        if self._found is None:
            if any(self._checkpoints.directory.glob("set-aside/*")):
                warnings.warn(
                    f"No checkpoint in {self.directory} can be used: the training begins anew.",
                    stacklevel=2,
                )
            return
        info = self._found.info
        check_identity(info.get("identity"), identity, str(self.directory))
        state.prepare(info["state"], self._found.tensors)

    def go_on(self, epoch: int) -> Position:
        """Puts the training where it was saved, after ``on_train_begin``.

        Args:
            epoch: to begin with, where nothing was saved.

        Returns:
            Where that is.
        """
        self._callbacks.begin()
        if self._found is None:
            return Position(epoch=epoch)
        info, tensors = self._found.info, self._found.tensors
        try:
            # More epochs than before may be worth another plan.
            same_plan = info.get("epochs") == self._epochs
            position = self._state.put_back(info["state"], tensors, same_plan)
        except CheckpointError as error:
            raise CheckpointError(f"{self._found.path}: {error}") from error
        self._best = state_trees.unpack(info["best"], tensors)
        if self._best:
            self._saver.keep_for_good(self._checkpoints.directory / self._best["checkpoint"])
        self._saver.begin(position.steps)
        self.told = (
            f"Going on in epoch {position.epoch + 1} after {position.step} of its steps, "
            f"{position.steps} in all, from {self._found.path}"
        )
        self._found, self._saved = None, _place(position)
        return position

    # During the training ----------------------------------------------------------

    def room(self, steps: int) -> int:
        """How many steps may run in one call after so many, until it is to be saved."""
        return self._saver.room(steps)

    def after_steps(self, position: Position) -> None:
        """Saves where it is due, and leaves after a signal.

        Raises:
            Preempted, KeyboardInterrupt: after a signal; all is saved.
        """
        if self._signals.received is not None:
            self._save_and_leave(position)
        if self._saver.is_due(position.steps):
            self._save(position)

    def before_validation(self, position: Position) -> None:
        """Notes where the training is: a validation that is left is begun again."""
        self._before = position, self._state.data()

    def in_validation(self) -> None:
        """Called between the steps of a validation.

        Raises:
            Interrupted: after a signal.
        """
        if self._signals.received is not None:
            raise Interrupted

    def leave_validation(self) -> None:
        """Saves the state from before the validation, and leaves.

        Raises:
            Preempted, KeyboardInterrupt: as it is after a signal.
        """
        position, data = self._before
        self._save_and_leave(position, data=data)

    def after_epoch(self, position: Position) -> None:
        """The same as `after_steps` at the end of an epoch, whose results may be the best.

        Args:
            position: at the begin of the next epoch, with the results in ``epoch_logs``.
        """
        if self._monitor is not None and self._is_best(position):
            self._export(self._state.model)
            self._save(position, for_good=True)
        elif self._saver.is_due(position.steps) or self._saver.is_due_at_epoch_end():
            self._save(position)
        if self._signals.received is not None:
            self._save_and_leave(position)

    def after_training(self, position: Position) -> None:
        """Saves the end, unless that is done, and waits for it."""
        if self._saved != _place(position):
            self._save(position)
        self.wait()

    def wait(self) -> None:
        """Waits until what is being saved is on the disk."""
        self._saver.wait()

    def _is_best(self, position):
        results = position.epoch_logs or {}
        if self._monitor not in results:
            raise ArgumentError(
                f"There is no result named {self._monitor!r} to monitor. "
                f"Received: monitor={self._monitor!r}. The results are {sorted(results)}."
            )
        value = float(results[self._monitor])
        if not _keras.is_better(self._state.model, self._monitor, value, self._best.get("value")):
            return False
        self._best = {"monitor": self._monitor, "value": value, "epoch": position.epoch - 1}
        return True

    def _save(self, position, for_good=False, **more):
        self._saver.wait()
        if for_good:
            self._best["checkpoint"] = self._checkpoints.next_name()
        state, tensors = self._state.take(position, **more)
        best, _ = state_trees.pack(self._best, "best")
        info = {
            "identity": self._identity,
            "epochs": self._epochs,
            "state": state,
            "best": best,
        }
        self._saver.save(info, tensors, position.steps, for_good)
        self._saved = _place(position)

    def _save_and_leave(self, position, **more):
        self._save(position, **more)
        if not self._saver.wait():
            warnings.warn("The last steps before the signal are not saved.", stacklevel=2)
        self._signals.leave()

    def _export(self, model: keras.Model) -> None:
        """Writes the model to ``best.keras``, whole or not at all."""
        path, unfinished = self.directory / "best.keras", self.directory / ".unfinished.keras"
        try:
            model.save(unfinished)
            os.replace(unfinished, path)
        except Exception as error:  # a model of one's own may not be saved, or the disk is full
            unfinished.unlink(missing_ok=True)
            warnings.warn(
                f"The best model could not be written to {path}: {error}. Its weights are in its "
                "checkpoint.",
                stacklevel=3,
            )


def _place(position):
    return position.epoch, position.step, position.steps


def make_run(
    run_dir: Any, resume: bool, save_every: Any, keep: int, monitor: str | None, callbacks: Any
) -> Run | Unsaved:
    """What `Trainer.fit` saves its training with.

    Raises:
        ArgumentError: arguments that cannot work, or not together.
    """
    if run_dir is None:
        if save_every is not None or monitor is not None:
            raise ArgumentError(
                "`save_every` and `monitor` need a directory to save in. Received: run_dir=None. "
                'Pass run_dir="runs/a", say.'
            )
        return Unsaved()
    listed = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in keras.tree.flatten(listed)):
        raise ArgumentError(
            "BackupAndRestore and `run_dir` both resume the training. Remove the callback."
        )
    return Run(run_dir, resume, save_every, keep, monitor)


def _lock(directory: Path) -> int:
    """Takes the directory for this process; a process that ends lets it go in any case.

    Raises:
        RunError: another one has it.
        ArgumentError: it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
    except OSError as error:
        raise ArgumentError(
            f"`run_dir` cannot be written: {error.strerror}. Received: run_dir={str(directory)!r}."
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(descriptor, 200).decode(errors="replace") or "another process"
        os.close(descriptor)
        raise RunError(
            f"{directory} is in use by {owner}. Wait for it, end it, or pass another run_dir."
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor
