"""A run: a training that is saved in a directory, and goes on there after any end.

::

    with Run("runs/a", resume=True, save_every=100, keep=2, monitor=None) as run:
        source = run.track(source)           # before a batch is looked at
        run.find(state, sources, callbacks, runner, guard, seed, epochs, options)  # compares
        callbacks.on_train_begin()
        position = run.go_on(0, metrics)     # puts back what was saved
        for ...:
            run.after_steps(position)        # saves where it is due, leaves after a signal
            with run.validation(position):
                run.in_validation()          # between its steps
            run.after_epoch(position)
        run.after_training(position)

The directory has ``checkpoints/`` (`kerastrain.checkpoint`), ``lock`` (`kerastrain.lock`) and
``best.keras`` (`kerastrain.best`). `Unsaved` has the same methods, for a training without one.
"""

import contextlib
import numbers
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from kerastrain import _keras
from kerastrain import notices
from kerastrain import saving
from kerastrain.best import Best
from kerastrain.callbacks import CallbackStates
from kerastrain.checkpoint import Checkpoint
from kerastrain.checkpoint import Checkpoints
from kerastrain.data import Source
from kerastrain.errors import ArgumentError
from kerastrain.errors import CheckpointError
from kerastrain.errors import DataError
from kerastrain.errors import KerastrainError
from kerastrain.errors import RunError
from kerastrain.guard import GuardedSteps
from kerastrain.identity import changes_noted
from kerastrain.identity import check_identity
from kerastrain.identity import identity_of
from kerastrain.lock import Lock
from kerastrain.metrics.states import MetricStates
from kerastrain.model_state import ModelState
from kerastrain.runner import Runner
from kerastrain.runner import Work
from kerastrain.saving import Saver
from kerastrain.signals import Signals
from kerastrain.training_state import Position
from kerastrain.training_state import TrainingState


class Interrupted(Exception):
    """A signal came during a validation: it is left, and begun again after a resume."""


class Unsaved:
    """A training that is not saved."""

    told = ""

    def __enter__(self) -> "Unsaved":
        return self

    def __exit__(self, *error) -> None:
        """Nothing to be closed."""

    def track(self, source: Source, validates: bool = False) -> Source:
        """The source, as it is."""
        return source

    def find(self, *parts: Any) -> None:
        """Nothing to be found."""

    def go_on(self, epoch: int, metrics: MetricStates) -> Position:
        """The begin of the first epoch."""
        return Position(epoch=epoch)

    def room(self, steps: int) -> int:
        """As many steps as one likes."""
        return 2**31 - 1

    def works(self, works: Iterator[Work], position: Position) -> Iterator[Work]:
        """The works, as they are."""
        return works

    def after_steps(self, position: Position) -> None:
        """Nothing to be saved."""

    after_epoch = after_training = after_steps

    def validation(self, position: Position) -> contextlib.AbstractContextManager:
        """Around a validation: nothing."""
        return contextlib.nullcontext()

    def in_validation(self) -> None:
        """Nothing to be left."""


class Run:
    """A training that is saved.

    Args:
        directory: of the run, made where it is missing.
        resume: whether a run that is there goes on; else it must be empty.
        save_every: steps, a ``datetime.timedelta``, or None for a minute.
        keep: how many of the last checkpoints are kept.
        monitor: the result whose best checkpoint is kept too (`Best`); None for none.

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
        self.directory = Path(directory).absolute()  # a callback may go to another directory
        self._resume = resume
        if not isinstance(keep, numbers.Integral) or isinstance(keep, bool) or keep < 1:
            raise ArgumentError(f"`keep` must be a number, 1 or more. Received: keep={keep!r}.")
        self._every, self._keep = saving.check_every(save_every), int(keep)
        self._checkpoints = Checkpoints(self.directory / "checkpoints")
        self._best = Best(self.directory, monitor)
        self._signals = Signals()
        self._found: Checkpoint | None = None
        self._tracked: list[Source] = []
        self._saved: tuple | None = None  # where the training was when it was saved last
        self.told = ""

    # The directory --------------------------------------------------------------

    def __enter__(self) -> "Run":
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(Lock(self.directory))
            if self._checkpoints.directory.is_symlink():
                raise RunError(f"{self._checkpoints.directory} is a link. Pass another run_dir.")
            with self._listed():
                self._checkpoints.remove_unfinished()
                existing = self._checkpoints.paths()
            if not self._resume and existing:
                raise RunError(
                    f"There is a run in {self.directory}. Pass resume=True to go on with it, or "
                    "another run_dir."
                )
            stack.enter_context(self._signals)
            self._saver = Saver(self._checkpoints, self._every, self._keep, lock.renew)
            stack.callback(self._saver.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error) -> None:
        self._stack.__exit__(*error)
        if error[0] is None and self._signals.received is not None:
            self._signals.leave()  # it came when nothing was left to be saved
        if isinstance(error[1], Exception) and self._signals.is_nobodys:
            told = " ".join(f"{error[0].__name__}: {error[1]}".split())
            notices.warn(
                f"A signal came, and then the training ended in an error: {told}. What was not saved "
                "by then is not; the process ends as it was asked to."
            )
            self._signals.leave()
        self._signals.hand_on()

    def track(self, source: Source, validates: bool = False) -> Source:
        """Lets a source tell where it is.

        Raises:
            DataError: it cannot begin anywhere but where it is, or changes what another yields.
        """
        if source.is_one_shot:
            raise DataError(
                f"`{source.name}` is a generator, which cannot go on in another process, so it "
                "cannot be used with `run_dir`. Pass arrays, a keras.utils.PyDataset, or "
                "tf.data.Dataset.from_generator with a function that makes the generator."
            )
        source.track(begins_anew=validates)
        for other in self._tracked:
            source.check_apart(other)
        self._tracked.append(source)
        return source

    def find(
        self,
        state: ModelState,
        sources: dict[str, Source],
        callbacks: list[keras.callbacks.Callback],
        runner: Callable[[str], Runner],
        guard: GuardedSteps,
        seed: int | None,
        epochs: int,
        options: dict[str, Any],
        preparation: Any,
    ) -> None:
        """Finds what was saved last, and compares: before ``on_train_begin``.

        Args:
            state: the variables of the model that trains, which is built and compiled.
            sources: the data sets by name, that to train on as ``"x"``.
            callbacks: all of them.
            runner: gives what runs the steps of a kind.
            guard: what runs the train steps of that.
            seed: as the user passed it.
            epochs: to stop before.
            options: other arguments that decide numbers, by name.
            preparation: knows which layers train (`Preparation.trainable`).

        Raises:
            RunError: the directory is of another run.
            CheckpointError: it was written by a later version, or is not of a training.
            ArgumentError: `monitor` names a result of a validation, and there is none.
        """
        self._best.check(validates=len(sources) > 1)
        self._preparation = preparation
        kinds = ("train", "test") if len(sources) > 1 else ("train",)
        self._callbacks, self._guard = CallbackStates(callbacks), guard
        self._state = TrainingState(
            state, sources, self._callbacks, lambda: {kind: runner(kind) for kind in kinds}, guard
        )
        self._identity = identity_of(state.model, sources, seed, options)
        self._epochs = int(epochs)
        self._stack.enter_context(changes_noted(state.model, self._identity))
        self._stack.enter_context(state.unsaved.watching())
        with self._listed():
            self._found = self._checkpoints.newest()
        if self._found is None:
            if any(self._checkpoints.directory.glob("set-aside/*")):
                notices.warn(
                    f"No checkpoint in {self.directory} can be used: the training begins anew."
                )
            return
        with self._of_a_training():
            info = self._found.info
            check_identity(info["identity"], self._identity, str(self.directory), state.model)
            self._identity |= info["identity"]  # of when the run was begun
            with preparation.begun_as(info.get("trainable")):
                self._state.find(info["state"], self._found.tensors)
            self._state.warn_of_learning_rate(info["identity"]["optimizer"])

    def go_on(self, epoch: int, metrics: MetricStates) -> Position:
        """Puts the training where it was saved: after ``on_train_begin``.

        Args:
            epoch: to begin with, where nothing was saved.
            metrics: their states that are set aside are part of it.

        Returns:
            Where that is.
        """
        self._callbacks.begin()
        self._state.begin(metrics)
        if self._found is None:
            return Position(epoch=epoch)
        with self._of_a_training():
            info = self._found.info
            # More epochs than before may be worth another plan.
            position = self._state.put_back(same_plan=info["epochs"] == self._epochs)
            if "trainable" in info:  # not in the first versions
                _keras.set_trainable_flags(self._state.model, info["trainable"]["now"])
            self._best.put_back(info["best"])
            if "checkpoint" in self._best.known:
                self._saver.best = self._checkpoints.directory / self._best.known["checkpoint"]
        self._state.put_back_callbacks()
        self._saver.begin(position.steps)
        done = f"({position.steps} steps done), from {self._found.path}"
        self.told = f"Resuming at epoch {position.epoch + 1}, step {position.step + 1} {done}"
        if position.is_trained:
            self.told = f"Resuming at the end of epoch {position.epoch + 1} {done}"
        if position.stopped:
            self.told = f"Nothing is left to train: a callback has stopped the run {done}"
        elif position.epoch >= self._epochs:
            self.told = f"Nothing is left to train: the run has {position.epoch} epochs {done}"
        self._found, self._saved = None, position.place
        return position

    @contextlib.contextmanager
    def _listed(self):
        """What cannot be listed is said, before a step has run."""
        try:
            yield
        except OSError as error:
            raise ArgumentError(
                f"`run_dir` cannot be read: {error.filename or ''} {error.strerror}. "
                f"Received: run_dir={str(self.directory)!r}."
            ) from error

    @contextlib.contextmanager
    def _of_a_training(self):
        """What is found is what a training saved, or that is said."""
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"{self._found.path}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            if isinstance(error, KerastrainError):
                raise
            raise CheckpointError(
                f"{self._found.path} is not of a training: {type(error).__name__}: {error}. "
                "Move it away, to go on from the one before it."
            ) from error

    # During the training ----------------------------------------------------------

    def room(self, steps: int) -> int:
        """How many steps may run in one call after so many, until it is to be saved."""
        return self._saver.room(steps)

    def works(self, works: Iterator[Work], position: Position) -> Iterator[Work]:
        """The works of an epoch, until no more can be drawn after a signal.

        It may have ended the processes that draw them.

        Raises:
            Preempted, KeyboardInterrupt: then; all is saved.
        """
        try:
            yield from works
        except Exception:
            if self._signals.received is None:
                raise
            self._save_and_leave(position)

    def after_steps(self, position: Position) -> None:
        """Saves where it is due, and leaves after a signal.

        Raises:
            Preempted, KeyboardInterrupt: after a signal; all is saved.
        """
        if self._signals.received is not None:
            self._save_and_leave(position)
        if self._saver.is_due(position.steps) or self._signals.is_noted_by_outer():
            self._save(position)

    @contextlib.contextmanager
    def validation(self, position: Position) -> Iterator[None]:
        """Around a validation: one that is left after a signal is begun again.

        Raises:
            Preempted, KeyboardInterrupt: then; the state from before it is saved.
        """
        with self._state.validation() as before:
            try:
                yield
            except Exception:  # `Interrupted`, or of what draws the batches
                if self._signals.received is None:
                    raise
                self._save_and_leave(position, before)

    def in_validation(self) -> None:
        """Called between the steps of a validation.

        Raises:
            Interrupted: after a signal.
        """
        if self._signals.received is not None:
            raise Interrupted

    def after_epoch(self, position: Position) -> None:
        """The same as `after_steps` at the end of an epoch, whose results may be the best.

        Args:
            position: at the begin of the next epoch, with the results in ``epoch_logs``.
        """
        model, results = self._state.model, position.epoch_logs or {}
        if self._best.is_beaten_by(results, position.epoch - 1, model):
            self._guard.verify_all()  # a callback may have changed what the results are of
            self._best.export(model, self._saver.check_directory)
            self._save(position, as_best=True)
        elif self._saver.is_due(position.steps) or self._saver.is_due_at_epoch_end():
            self._save(position)
        if self._signals.received is not None:
            self._save_and_leave(position)

    def after_training(self, position: Position) -> None:
        """Saves the end, unless that is done, and waits for it."""
        self._save_at_last(position)

    def wait(self) -> None:
        """Waits until what is being saved is on the disk."""
        self._saver.wait()

    def _save(self, position, before=None, as_best=False):
        self.wait()
        logs = self._guard.verify_all()  # runs steps, whose errors are none of saving
        if logs is not None:
            position.logs = logs[-1]
        with self._saver.attempt(position.steps):  # code of the user's own may raise anything
            name = self._checkpoints.next_name()
            best = self._best.candidate(name) if as_best else self._best.state()
            state, tensors = self._state.get(position, before)
            info = {
                "identity": self._identity,
                "epochs": self._epochs,
                "state": state,
                "best": best,
                "trainable": self._preparation.trainable(),
            }
            place = position.place

            def written(path):
                self._saved = place
                if as_best:
                    self._best.accept(best)

            self._saver.save(info, tensors, position.steps, written, as_best)

    def _save_at_last(self, position, before=None):
        """Saves what is not, and waits for it; what fails is tried once more."""
        self.wait()
        for _ in range(2):
            if self._saved != position.place:
                self._save(position, before)
                self.wait()

    def _save_and_leave(self, position, before=None):
        self._save_at_last(position, before)
        if self._saved != position.place:
            notices.warn("The last steps before the signal are not saved.")
        self._signals.leave()


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
    is_path = isinstance(run_dir, str | os.PathLike) and str(run_dir)
    if not is_path or re.match("[a-z0-9]+:/", str(run_dir)):  # `Path` makes one slash of two
        raise ArgumentError(
            "`run_dir` must be the path of a directory of this machine's file system, such as "
            f'"runs/a". Received: run_dir={run_dir!r}.'
        )
    listed = callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in keras.tree.flatten(listed)):
        raise ArgumentError(
            "BackupAndRestore and `run_dir` both resume the training. Remove the callback."
        )
    return Run(run_dir, resume, save_every, keep, monitor)
