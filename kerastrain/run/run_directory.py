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

The directory has ``checkpoints/`` (`kerastrain.run.checkpoint`), ``lock``, ``best.keras``, and what people
read (`kerastrain.run.run_log`). `NullRun` has the same methods, for a training without one.
"""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NoReturn

from kerastrain import _keras
from kerastrain import notices
from kerastrain.data import Source
from kerastrain.distribution import MetricStates
from kerastrain.distribution import Votes
from kerastrain.errors import DataError
from kerastrain.errors import RunError
from kerastrain.execution import StepCall
from kerastrain.execution import Times
from kerastrain.options import RunDir
from kerastrain.run.best import Best
from kerastrain.run.callback_states import CallbackStates
from kerastrain.run.checkpoint import Checkpoint
from kerastrain.run.checkpoint import Checkpoints
from kerastrain.run.checkpoint import of_a_training
from kerastrain.run.identity import changes_noted
from kerastrain.run.identity import check_identity
from kerastrain.run.identity import identity_of
from kerastrain.run.lock import listed
from kerastrain.run.lock import Lock
from kerastrain.run.position import Position
from kerastrain.run.run_config import config_of
from kerastrain.run.run_log import RunLog
from kerastrain.run.saving import Saver
from kerastrain.run.signals import Interrupted
from kerastrain.run.signals import Signals
from kerastrain.run.training import Training
from kerastrain.run.training_state import TrainingState


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
        self._saved: tuple[int, int, int] | None = None  # where it was when it was saved last
        self._saved_path: Path | None = None  # the checkpoint of that, where this process wrote it
        self.resume_message = ""

    # The directory --------------------------------------------------------------

    def __enter__(self) -> "Run":
        with contextlib.ExitStack() as stack:
            renew = self._take_directory(stack)
            stack.enter_context(self._signals)
            self._saver = Saver(self._checkpoints, self._options, renew)
            self._log = RunLog(self.directory, self._saver.check_directory)
            stack.push(lambda kind, error, traceback: self._log.end(error))
            stack.callback(self._saver.close)
            self._stack = stack.pop_all()
        return self

    def _take_directory(self, stack: contextlib.ExitStack) -> Callable[[], str | None]:
        """Takes the directory, until the stack is closed; returns what takes it again."""
        lock = stack.enter_context(Lock(self.directory))
        if self._checkpoints.directory.is_symlink():
            raise RunError(f"{self._checkpoints.directory} is a link. Pass another run_dir.")
        with listed(self.directory):
            self._checkpoints.remove_unfinished()
            existing = self._checkpoints.paths()
        if not self._options.resume and existing:
            raise RunError(
                f"There is a run in {self.directory}. Pass RunDir(path, resume=True) to resume it, or "
                "another run_dir."
            )
        return lock.renew

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
        self._training = training
        self._best.check(validates=len(sources) > 1)
        self._preparation = preparation
        kinds = ("train", "test") if len(sources) > 1 else ("train",)
        self._callbacks, self._guard = CallbackStates(training.callbacks), training.guard
        self._wait_for_epochs = [c for c in training.callbacks if hasattr(c, "on_epoch_saved")]
        self._state = TrainingState(
            *(state, sources, self._callbacks),
            lambda: {kind: training.runner(kind) for kind in kinds},
            training.guard,
        )
        self._identity = identity_of(state.model, sources, training.seed, training.options)
        self._replicas = self._identity["replicas"]
        self._epochs = int(training.epochs)
        self._stack.enter_context(changes_noted(state.model, self._identity))
        self._stack.enter_context(state.unsaved.watching())
        self._found = self._newest()
        if self._found is None:
            return
        with of_a_training(self._found.path):
            info, replicas = self._found.info, self._found.info.get("replicas")
            # The number of replicas may be another, where it was saved.
            begun = info["identity"] | ({"replicas": self._replicas} if replicas else {})
            check_identity(begun, self._identity, str(self.directory), state.model)
            now = dict(self._identity)
            self._identity |= info["identity"]  # of when the run was begun
            with preparation.begun_as(info.get("trainable")):
                self._state.load(info["state"], self._found.tensors, replicas)
            self._state.warn_of_learning_rate(info["identity"], now)

    def _newest(self) -> Checkpoint | None:
        with listed(self.directory):
            found = self._checkpoints.newest()
        if found is None and any(self._checkpoints.directory.glob("set-aside/*")):
            notices.warn(
                f"No checkpoint in {self.directory} can be used: the training begins anew."
            )
        return found

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
        with of_a_training(self._found.path):
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

    def begin_log(self, position: Position, times: Times) -> None:
        """What people read begins, or is written on."""
        config = functools.partial(config_of, self._training, self._identity)
        self._log.begin(config, position, times)

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
        if self._has_signal("train"):
            self._save_and_leave(position)
        if self._is_due(position):
            self._save(position)

    def _has_signal(self, kind: str) -> bool:
        """Whether the training is to end, in steps of a kind; None between them."""
        return self._signals.received is not None

    def _is_due(self, position: Position) -> bool:
        return self._saver.is_due(position.steps) or self._signals.is_noted_by_outer()

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
        if self._has_signal("test"):
            raise Interrupted

    def after_validation(self, position: Position, results: dict[str, Any]) -> None:
        """Notes a validation between steps."""
        self._log.event("validation", steps=position.steps, **results)

    def after_epoch(self, position: Position) -> None:
        """The same as `after_steps` at the end of an epoch, whose results may be the best.

        Where a callback has ``on_epoch_saved``, the end of the epoch is on the disk when it is called.

        Args:
            position: at the begin of the next epoch, with the results in ``epoch_logs``.
        """
        rate = _keras.current_learning_rate(self._state.model.optimizer)
        self._log.epoch(position, rate, self._preparation.plans(), self._guard.skipped)
        is_best, is_due, leaves = self._at_epoch_end(position)
        if is_best:
            self._guard.verify_all()  # a callback may have changed what the results are of
            self._export_best()
            self._save(position, as_best=True)
        elif is_due:
            self._save(position)
        if leaves or self._has_signal("end"):
            self._save_and_leave(position)
        if self._wait_for_epochs:
            self._save_at_last(position)
            path = self._saved_path if self._saved == position.place else None
            for callback in self._wait_for_epochs:
                callback.on_epoch_saved(position.epoch - 1, position.epoch_logs, path)

    def _at_epoch_end(self, position: Position) -> tuple[bool, bool, bool]:
        """``(whether the results are the best, whether to save, whether to leave)``."""
        model, results = self._state.model, position.epoch_logs or {}
        is_best = self._best.is_beaten_by(results, position.epoch - 1, model)
        saver = self._saver
        return is_best, saver.is_due(position.steps) or saver.is_due_at_epoch_end(), False

    def _export_best(self) -> None:
        ready = functools.partial(self._saver.check_directory, tells=True)
        self._best.export(self._state.model, ready)

    def after_training(self, position: Position) -> None:
        """Saves the end, unless that is done, and waits for it."""
        self._save_at_last(position)

    def join(self, train: Votes, test: Votes) -> None:
        """Where several workers train, what this one asks before their steps: nothing."""

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
                "replicas": self._replicas,
                "state": state,
                "best": best,
                "trainable": self._preparation.trainable(),
            }
            place = position.place

            def written(path: Path) -> None:
                self._saved, self._saved_path = place, path
                self._log.event("save", epochs_done=place[0], steps=place[2], best=as_best)
                if as_best:
                    self._best.accept(best)

            self._write(info, tensors, position.steps, written, as_best)

    def _write(self, *state: Any) -> None:
        self._saver.save(*state)

    def _is_saved(self, position: Position) -> bool:
        return self._saved == position.place

    def _save_at_last(self, position: Position, before: dict[str, Any] | None = None) -> None:
        """Saves what is not, and waits for it; what fails is tried once more."""
        self.wait()
        for _ in range(2):
            if not self._is_saved(position):
                self._save(position, before)
                self.wait()

    def _save_and_leave(self, position: Position, before: dict[str, Any] | None = None) -> NoReturn:
        self._save_at_last(position, before)
        if not self._is_saved(position):
            notices.warn("The last steps before the signal are not saved.")
        self._signals.leave()
