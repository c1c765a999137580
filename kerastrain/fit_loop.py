"""The loop of `Trainer.fit`: when things happen, in the order of the table in `kerastrain.trainer`.

::

    loop = FitLoop(model, run, guard, source, validation, 1, callbacks, progress, states, runner)
    loop.run(range(10))
    loop.times
"""

import dataclasses
from collections.abc import Callable

import keras

from kerastrain import _keras
from kerastrain import callbacks as callbacks_lib
from kerastrain.data import Source
from kerastrain.evaluation import Evaluation
from kerastrain.guard import GuardedSteps
from kerastrain.metrics.states import MetricStates
from kerastrain.progress import Progress
from kerastrain.run import Run
from kerastrain.run import Unsaved
from kerastrain.runner import Runner
from kerastrain.runner import run_and_tell
from kerastrain.schedule import is_due
from kerastrain.schedule import left_of
from kerastrain.timing import Times
from kerastrain.training_state import Position


@dataclasses.dataclass
class FitLoop:
    """One training: its parts, and the order of its events.

    Attributes:
        model: the model that trains, built, compiled and checked.
        saved: where it is saved, and resumed from.
        guard: runs its train steps in transactions.
        source: the data to train on.
        validation: those to validate on by name; empty for none.
        validation_freq: after which epochs, as for ``fit``.
        callbacks: who is told.
        progress: where it is shown.
        states: of its metrics.
        runner: gives what runs the steps of a kind, ``"train"`` or ``"test"``.
        begin: called right before the first step, when callbacks have had their say.
        validate: runs an evaluation of the set of a name, which it is given as a function of
            the source; with it whose callbacks are told.
        times: where the time of the epochs went.
    """

    model: keras.Model
    saved: Run | Unsaved
    guard: GuardedSteps
    source: Source
    validation: dict[str, Source]
    validation_freq: int | list[int]
    callbacks: keras.callbacks.CallbackList
    progress: Progress
    states: MetricStates
    runner: Callable[[str], Runner]
    begin: Callable[[], None]
    validate: Callable[[str, Callable, Source, keras.callbacks.CallbackList], dict]
    times: Times = dataclasses.field(default_factory=Times)

    def __post_init__(self):
        self._evaluation = Evaluation(self.model, self.states)

    def run(self, epochs: range) -> None:
        """Trains for the epochs, or for those of them that a run that goes on has not had."""
        model, callbacks, runner = self.model, self.callbacks, self.runner("train")
        callbacks.on_train_begin()
        at = self.saved.go_on(_keras.take_initial_epoch(model) or epochs.start, self.states)
        self.progress.say(self.saved.told)
        numbers = range(at.epoch, at.epoch if at.stopped and not at.step else epochs.stop)
        runner.begin(left_of(self.source, len(numbers), at.step))
        if self.validation:
            count = sum(is_due(epoch, self.validation_freq) for epoch in numbers)
            self.runner("test").begin(left_of(self.validation.values(), count))
        times = self.times
        times.begin()
        for epoch in numbers:
            if at.step == 0:  # else the epoch goes on where it was interrupted
                self.states.reset()
                times.lap("metrics")
                callbacks.on_epoch_begin(epoch)
                times.lap("callbacks")
            self.begin()
            self.progress.begin_epoch(epoch, self.source.num_batches)
            self._run_steps(epoch, at)
            if at.step == 0:
                break  # the data have ended; `source` has warned of it
            self._end_steps(epoch, at)
            self.progress.end_epoch(at.epoch_logs, runner.choice)
            times.lap("progress")
            callbacks.on_epoch_end(epoch, at.epoch_logs)
            times.lap("callbacks")
            at = at.after_epoch(model.stop_training)
            self.saved.after_epoch(at)
            times.lap("saving")
            if at.stopped:
                break
        times.move(self.guard.seconds, "step", "checks")
        self.saved.after_training(at)
        model.optimizer.finalize_variable_values(model.trainable_weights)
        callbacks.on_train_end(at.epoch_logs)

    def _run_steps(self, epoch: int, at: Position) -> None:
        """The steps of an epoch that have not run, with the position moved on after each call."""
        times, guard, runner = self.times, self.guard, self.runner("train")
        saves = callbacks_lib.save_between_steps(self.callbacks.callbacks)
        guard.begin(epoch, at.step, at.steps, runner.acts, saves)
        times.lap("step")
        is_over = at.is_trained or at.stopped

        def room():
            if self.model.stop_training:  # since before the epoch: as in Keras, one step runs
                return 1
            return min(self.saved.room(at.steps), guard.room())

        works = runner.epoch(self.source, epoch, room, guard.run)
        for work in () if is_over else self.saved.works(works, at):
            times.lap("data")
            at.logs = run_and_tell(work, self.callbacks, "train", times)
            at.step, at.steps = at.step + work.steps, at.steps + work.steps
            self.progress.update(at.step, self._evaluation.results)
            times.lap("progress")
            at.stopped = self.model.stop_training
            self.saved.after_steps(at)
            times.lap("saving")
            if at.stopped:
                break
        times.lap("data")

    def _end_steps(self, epoch: int, at: Position) -> None:
        """The results of an epoch whose steps have run: of them, and of a validation if it is due."""
        times = self.times
        at.is_trained = True
        at.logs = (self.guard.end() or [at.logs])[-1]
        times.lap("step")
        at.epoch_logs = self._evaluation.epoch_logs(at.logs, "train")
        times.lap("metrics")
        if self.validation and is_due(epoch, self.validation_freq):
            at.epoch_logs.update(self._validate(at))
            times.lap("validation")

    def _validate(self, at: Position) -> dict[str, float]:
        """Validates on each data set, in metric states of its own."""
        logs = {}
        with self.saved.validation(at):
            for name, source in self.validation.items():
                source.restart()
                with self.states.set_aside():
                    results = self.validate(name, self._evaluate, source, self.callbacks)
                prefix = f"val_{name}_" if name else "val_"
                logs.update({prefix + key: value for key, value in results.items()})
        return logs

    def _evaluate(self, source: Source) -> dict[str, float]:
        runner, between = self.runner("test"), self.saved.in_validation
        return self._evaluation.run(runner, source, self.callbacks, None, between)
