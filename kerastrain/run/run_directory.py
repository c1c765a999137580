"""A run: a training that is saved in a directory, and resumed from it.

::

    with Run(RunDir("runs/a", save_every=100)) as run:
        source = run.track(source)           # before a batch is looked at
        run.load_latest(training)            # and compares
        callbacks.on_train_begin()
        position = run.restore(0, metrics)   # what was saved
        for ...:
            run.after_steps(position)        # saves where it is due, leaves after a signal
            with run.validation(position):
                run.in_validation()          # between its steps
            run.after_epoch(position)
        run.after_training(position)

The directory has ``checkpoints/`` (`kerastrain.run.checkpoint`), ``lock`` (`kerastrain.run.lock`) and
``best.keras`` (`kerastrain.run.best`). `NullRun` has the same methods, for a training without one.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NoReturn

import keras

from kerastrain import _keras
from kerastrain import notices
from kerastrain.data import Source
from kerastrain.distribution import MetricStates
from kerastrain.errors import ArgumentError
from kerastrain.errors import CheckpointError
from kerastrain.errors import DataError
from kerastrain.errors import KerastrainError
from kerastrain.errors import RunError
from kerastrain.execution import StepCall
from kerastrain.options import RunDir
from kerastrain.run.best import Best
from kerastrain.run.callback_states import CallbackStates
from kerastrain.run.checkpoint import Checkpoint
from kerastrain.run.checkpoint import Checkpoints
from kerastrain.run.identity import changes_noted
from kerastrain.run.identity import check_identity
from kerastrain.run.identity import identity_of
from kerastrain.run.lock import Lock
from kerastrain.run.null_run import NullRun
from kerastrain.run.position import Position
from kerastrain.run.saving import Saver
from kerastrain.run.signals import Signals
from kerastrain.run.training import Training
from kerastrain.run.training_state import TrainingState


class Interrupted(Exception):
    """A signal came during a validation: it is left, and begun again after a resume."""


class Run:
    """A training that is saved.

    It has a method for each event of a training that may save it, as `NullRun` has.

    Args:
        options: where, when, and how much of it.

    Attributes:
        resume_message: a line about where the training is resumed; empty where it begins.

    Raises:
        ArgumentError: a value that cannot work.
    """

    def __init__(self, options: RunDir):
        self.directory = Path(options.path).absolute()  # a callback may go to another directory
        self._options = options
        self._checkpoints = Checkpoints(self.directory / "checkpoints")
        self._best = Best(self.directory, options.monitor)
        self._signals = Signals()
        self._found: Checkpoint | None = None
        self._tracked: list[Source] = []
        self._saved: tuple[int, int, int] | None = (
            None  # where the training was when it was saved last
        )
        self.resume_message = ""

    # The directory --------------------------------------------------------------

    def __enter__(self) -> "Run":
        with contextlib.ExitStack() as stack:
            lock = stack.enter_context(Lock(self.directory))
            if self._checkpoints.directory.is_symlink():
                raise RunError(f"{self._checkpoints.directory} is a link. Pass another run_dir.")
            with _listed(self.directory):
                self._checkpoints.remove_unfinished()
                existing = self._checkpoints.paths()
            if not self._options.resume and existing:
                raise RunError(
                    f"There is a run in {self.directory}. Pass RunDir(path, resume=True) to resume it, or "
                    "another run_dir."
                )
            stack.enter_context(self._signals)
            self._saver = Saver(self._checkpoints, self._options, lock.renew)
            stack.callback(self._saver.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        if error[0] is None and self._signals.received is not None:
            self._signals.leave()  # it came when nothing was left to be saved
        if isinstance(error[1], Exception) and self._signals.is_nobodys:
            failure = " ".join(f"{error[0].__name__}: {error[1]}".split())
            notices.warn(
                f"A signal came, and then the training ended in an error: {failure}. What was not saved "
                "by then is not; the process ends as it was asked to."
            )
            self._signals.leave()
        self._signals.hand_on()

    def track(self, source: Source, validates: bool = False) -> Source:
        """Lets the position in a source be saved.

        Raises:
            DataError: it cannot begin anywhere but where it is, or changes what another yields.
        """
        if source.is_one_shot:
            raise DataError(
                f"`{source.name}` is a generator, which cannot be resumed in another process, so it "
                "cannot be used with `run_dir`. Pass arrays, a keras.utils.PyDataset, or "
                "tf.data.Dataset.from_generator with a function that makes the generator."
            )
        source.track(begins_anew=validates)
        for other in self._tracked:
            source.check_apart(other)
        self._tracked.append(source)
        return source

    def load_latest(self, training: Training) -> None:
        """Finds what was saved last, and compares: before ``on_train_begin``.

        Raises:
            RunError: the directory is of another run.
            CheckpointError: it was written by a later version, or is not of a training.
            ArgumentError: `monitor` names a result of a validation, and there is none.
        """
        sources, state, preparation = training.sources, training.state, training.preparation
        self._best.check(validates=len(sources) > 1)
        self._preparation = preparation
        kinds = ("train", "test") if len(sources) > 1 else ("train",)
        self._callbacks, self._guard = CallbackStates(training.callbacks), training.guard
        self._state = TrainingState(
            *(state, sources, self._callbacks),
            lambda: {kind: training.runner(kind) for kind in kinds},
            training.guard,
        )
        self._identity = identity_of(state.model, sources, training.seed, training.options)
        self._epochs = int(training.epochs)
        self._stack.enter_context(changes_noted(state.model, self._identity))
        self._stack.enter_context(state.unsaved.watching())
        with _listed(self.directory):
            self._found = self._checkpoints.newest()
        if self._found is None:
            if any(self._checkpoints.directory.glob("set-aside/*")):
                notices.warn(
                    f"No checkpoint in {self.directory} can be used: the training begins anew."
                )
            return
        with _of_a_training(self._found.path):
            info = self._found.info
            check_identity(info["identity"], self._identity, str(self.directory), state.model)
            self._identity |= info["identity"]  # of when the run was begun
            with preparation.begun_as(info.get("trainable")):
                self._state.load(info["state"], self._found.tensors)
            self._state.warn_of_learning_rate(info["identity"]["optimizer"])

    def restore(self, epoch: int, metrics: MetricStates) -> Position:
        """Puts the training where it was saved: after ``on_train_begin``.

        Args:
            epoch: to begin with, where nothing was saved.
            metrics: their isolated states are part of it.

        Returns:
            Where that is.
        """
        self._callbacks.begin()
        self._state.begin(metrics)
        if self._found is None:
            return Position(epoch=epoch)
        with _of_a_training(self._found.path):
            info = self._found.info
            # More epochs than before may be worth another plan.
            position = self._state.restore(same_plan=info["epochs"] == self._epochs)
            if "trainable" in info:  # not in the first versions
                _keras.set_trainable_flags(self._state.model, info["trainable"]["now"])
            self._best.restore(info["best"])
            if "checkpoint" in self._best.known:
                self._saver.best = self._checkpoints.directory / self._best.known["checkpoint"]
        self._state.restore_callbacks()
        self._saver.begin(position.steps)
        done = f"({position.steps} steps done), from {self._found.path}"
        self.resume_message = (
            f"Resuming at epoch {position.epoch + 1}, step {position.step + 1} {done}"
        )
        if position.is_trained:
            self.resume_message = f"Resuming at the end of epoch {position.epoch + 1} {done}"
        if position.stopped:
            self.resume_message = f"Nothing is left to train: a callback has stopped the run {done}"
        elif position.epoch >= self._epochs:
            self.resume_message = (
                f"Nothing is left to train: the run has {position.epoch} epochs {done}"
            )
        self._found, self._saved = None, position.place
        return position

    # During the training ----------------------------------------------------------

    def steps_until_save(self, steps: int) -> int:
        """The steps that may run in one call, after ``steps`` of the training, until a save is due."""
        return self._saver.steps_until_save(steps)

    def works(self, works: Iterator[StepCall], position: Position) -> Iterator[StepCall]:
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

    def _save(
        self, position: Position, before: dict[str, Any] | None = None, as_best: bool = False
    ) -> None:
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

            def written(path: Path) -> None:
                self._saved = place
                if as_best:
                    self._best.accept(best)

            self._saver.save(info, tensors, position.steps, written, as_best)

    def _save_at_last(self, position: Position, before: dict[str, Any] | None = None) -> None:
        """Saves what is not, and waits for it; what fails is tried once more."""
        self.wait()
        for _ in range(2):
            if self._saved != position.place:
                self._save(position, before)
                self.wait()

    def _save_and_leave(self, position: Position, before: dict[str, Any] | None = None) -> NoReturn:
        self._save_at_last(position, before)
        if self._saved != position.place:
            notices.warn("The last steps before the signal are not saved.")
        self._signals.leave()


def make_run(run_dir: Any, callbacks: Any) -> Run | NullRun:
    """What `Trainer.fit` saves its training with.

    Args:
        run_dir: a path, a `RunDir`, or None for none.
        callbacks: as passed to ``fit``.

    Raises:
        ArgumentError: arguments that cannot work, or not together.
    """
    if run_dir is None:
        return NullRun()
    options = run_dir if isinstance(run_dir, RunDir) else RunDir(run_dir)
    listed = (
        callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    )
    if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in keras.tree.flatten(listed)):
        raise ArgumentError(
            "BackupAndRestore and `run_dir` both resume the training. Remove the callback."
        )
    return Run(options)


@contextlib.contextmanager
def _listed(directory: Path) -> Iterator[None]:
    """What cannot be listed is an error of the argument, before a step has run."""
    try:
        yield
    except OSError as error:
        raise ArgumentError(
            f"`run_dir` cannot be read: {error.filename or ''} {error.strerror}. "
            f"Received: run_dir={str(directory)!r}."
        ) from None


@contextlib.contextmanager
def _of_a_training(path: Path) -> Iterator[None]:
    """What is found is what a training saved, or that is an error."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, KerastrainError):
            raise
        raise CheckpointError(
            f"{path} is not of a training: {type(error).__name__}: {error}. "
            "Move it away to resume from the one before it."
        ) from error
