"""The loop of `Trainer.fit`: when things happen.

::

    loop = FitLoop(model, run, training, source, validation, 1, callbacks, progress, states, validate)
    loop.run(range(10))
    loop.times

The order, which a test holds::

    on_train_begin
    for epoch in range(initial_epoch, epochs):
        reset the train metrics
        on_epoch_begin
        for each batch:
            on_train_batch_begin; run the step; on_train_batch_end
            where steps are due for it: validate, as below
            leave where a callback has set `stop_training`
        where due, for each validation set, with metric state of its own:
            on_test_begin
            for each batch: on_test_batch_begin; evaluate; on_test_batch_end
            on_test_end
        on_epoch_end
        with `run_dir`: save where due; on_epoch_saved, a callback's of kerastrain's own
        leave where a callback has set `stop_training`
    on_train_end

These are Keras's events in Keras's order, with its names in ``logs``. With no callback that
listens to batches, no result is computed for a batch.

A callback that listens to batches gets each one before the next is run. One with the
attribute ``uses_batches = "logs"`` gets the same events with the same logs after a few
steps have run in one call, which is faster: it cannot act on the steps in between.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable

import keras

from kerastrain import _keras
from kerastrain.data import Source
from kerastrain.distribution import MetricStates
from kerastrain.execution import run_and_notify
from kerastrain.execution import Times
from kerastrain.loop import callbacks as callbacks_lib
from kerastrain.loop.evaluation import Evaluation
from kerastrain.loop.history import History
from kerastrain.loop.progress import Progress
from kerastrain.loop.schedule import is_due
from kerastrain.loop.schedule import left_of
from kerastrain.run import NullRun
from kerastrain.run import Position
from kerastrain.run import Run
from kerastrain.run import Training
from kerastrain.step import updates

Evaluate = Callable[[Source], dict[str, float]]


@dataclasses.dataclass
class FitLoop:
    """One training: its parts, and the order of its events.

    Attributes:
        model: the model that trains, built, compiled and checked.
        saved: where it is saved, and resumed from.
        training: what is saved of it; its guard runs the train steps in transactions.
        source: the data to train on.
        validation: those to validate on by name; empty for none.
        validation_freq: after which epochs, as for ``fit``.
        callbacks: that are called.
        progress: where it is shown.
        states: of its metrics.
        validate: runs an evaluation of the set of a name, which it is given as a function of
            the source; with it the callbacks.
        seconds: after which the training ends with the step that runs; None for never.
        validation_every: after how many steps it is validated, too; None for none.
        times: where the time of the epochs went.
    """

    model: keras.Model
    saved: Run | NullRun
    training: Training
    source: Source
    validation: dict[str, Source]
    validation_freq: int | list[int]
    callbacks: keras.callbacks.CallbackList
    progress: Progress
    states: MetricStates
    validate: Callable[[str, Evaluate, Source, keras.callbacks.CallbackList], dict[str, float]]
    seconds: float | None = None
    validation_every: int | None = None
    times: Times = dataclasses.field(default_factory=Times)

    def __post_init__(self) -> None:
        self._begun, self._is_out_of_time = time.monotonic(), False
        self._evaluation = Evaluation(self.model, self.states)

    def run(self, epochs: range) -> None:
        """Trains for the epochs, or for those of them that a resumed run has not had."""
        model, callbacks, runner = self.model, self.callbacks, self.training.runner("train")
        callbacks.on_train_begin()
        with self._phase("restoring"):
            first = _keras.take_initial_epoch(model) or epochs.start
            position = self.saved.restore(first, self.states)
        self.progress.say(self.saved.resume_message)
        numbers = range(
            position.epoch,
            position.epoch if position.stopped and not position.step else epochs.stop,
        )
        runner.begin(left_of(self.source, len(numbers), position.step))
        if self.validation:
            count = sum(is_due(epoch, self.validation_freq) for epoch in numbers)
            self.training.runner("test").begin(left_of(self.validation.values(), count))
        times = self.times
        self.saved.begin_log(position, times)
        times.begin()
        for epoch in numbers:
            if position.step == 0:  # else the epoch is resumed where it was interrupted
                self.states.reset()
                times.lap("metrics")
                callbacks.on_epoch_begin(epoch)
                times.lap("callbacks")
            self.training.preparation.begin()
            self.progress.begin_epoch(epoch, self.source.num_batches)
            self._run_steps(epoch, position)
            if position.step == 0 or self._is_out_of_time and not position.is_trained:
                break  # the data have ended, of which `source` has warned; or the time has
            self._end_steps(epoch, position)
            assert position.epoch_logs is not None  # of the steps that have just ended
            self.progress.end_epoch(position.epoch_logs, runner.choice, position.step)
            times.lap("progress")
            callbacks.on_epoch_end(epoch, position.epoch_logs)
            model.stop_training = runner.votes.cluster.any(model.stop_training)
            times.lap("callbacks")
            position = position.after_epoch(model.stop_training)
            with self._phase("saving"):
                self.saved.after_epoch(position)
            times.lap("saving")
            if position.stopped:
                break
        times.move(self.training.guard.seconds, "step", "checks")
        self.saved.after_training(position)
        for optimizer, weights in updates.weights_by_optimizer(model):
            optimizer.finalize_variable_values(weights)
        callbacks.on_train_end(position.epoch_logs)

    def _run_steps(self, epoch: int, position: Position) -> None:
        """The steps of an epoch that have not run, with the position moved on after each call."""
        times, guard, runner = self.times, self.training.guard, self.training.runner("train")
        if self._is_validation_due(position):  # of steps that ran before a resume
            self._validate_between(position)
        self._begin_guard(epoch, position)
        is_over = position.is_trained or position.stopped
        votes, begun = runner.votes, position.steps
        several = votes.cluster.has_others
        votes.ask("draw", "any", lambda: self.progress.is_due)
        votes.ask("time", "chief", self._has_no_time)
        votes.ask("stop", "any", lambda: self.model.stop_training and position.steps > begun)

        def max_steps() -> int:
            if self.model.stop_training:  # since before the epoch: as in Keras, one step runs
                return 1
            return min(
                self.saved.steps_until_save(position.steps),
                guard.max_steps(),
                self._steps_until_validation(position.steps),
            )

        works = runner.epoch(self.source, epoch, max_steps, guard.run)
        for work in () if is_over else self.saved.works(works, position):
            times.lap("data")
            self.progress.note(runner.choice.activity)
            position.logs = run_and_notify(work, self.callbacks, "train", times)
            position.step, position.steps = position.step + work.steps, position.steps + work.steps
            if votes["draw"]:
                self.progress.update(position.step, self._evaluation.results())
            times.lap("progress")
            if self._is_validation_due(position):
                position.logs = (guard.pause() or [position.logs])[-1]
                self._validate_between(position)
                self._begin_guard(epoch, position)
            position.stopped = self.model.stop_training and not several
            self.saved.after_steps(position)
            times.lap("saving")
            self._is_out_of_time = bool(votes["time"])
            if position.stopped or self._is_out_of_time:
                break
        if several and votes.cluster.any(self.model.stop_training):
            position.stopped = self.model.stop_training = True
        times.lap("data")

    def _begin_guard(self, epoch: int, position: Position) -> None:
        acts = self.training.runner("train").callbacks_may_act
        saves = callbacks_lib.save_between_steps(self.callbacks.callbacks)
        self.training.guard.begin(epoch, position.step, position.steps, acts, saves)
        self.times.lap("step")

    def _steps_until_validation(self, steps: int) -> int:
        every = self.validation_every
        return 2**31 - 1 if every is None or not self.validation else every - steps % every

    def _is_validation_due(self, position: Position) -> bool:
        """Whether so many steps have run, and it has not been validated after them."""
        every, steps = self.validation_every, position.steps
        if every is None or not self.validation or not position.step or steps % every:
            return False
        is_last = position.step == self.source.num_batches and is_due(
            position.epoch, self.validation_freq
        )
        return position.validated != steps and not is_last and not position.is_trained

    def _validate_between(self, position: Position) -> None:
        """Validates between steps."""
        self._note_validation(position, self._validate(position))
        self.times.lap("validation")

    def _note_validation(self, position: Position, results: dict[str, float]) -> None:
        position.validated = position.steps
        if isinstance(history := _keras.history_of(self.callbacks), History):
            history.validations.append([position.steps, results])
        self.saved.after_validation(position, results)

    def _end_steps(self, epoch: int, position: Position) -> None:
        """The results of an epoch whose steps have run: of them, and of a validation if it is due."""
        times = self.times
        position.is_trained = True
        position.logs = (self.training.guard.end() or [position.logs])[-1]
        times.lap("step")
        position.epoch_logs = self._evaluation.epoch_logs(position.logs, "train")
        times.lap("metrics")
        if self.validation and is_due(epoch, self.validation_freq):
            results = self._validate(position)
            position.epoch_logs.update(results)
            if self.validation_every and position.steps % self.validation_every == 0:
                self._note_validation(position, dict(results))
            times.lap("validation")

    def _validate(self, position: Position) -> dict[str, float]:
        """Validates on each data set, in metric states of its own."""
        logs = {}
        with self.saved.validation(position):
            for name, source in self.validation.items():
                source.restart()
                progress = self.progress.validating(name, source.num_batches)
                with progress, self.states.isolated():
                    results = self.validate(name, self._evaluate, source, self.callbacks)
                prefix = f"val_{name}_" if name else "val_"
                logs.update({prefix + key: value for key, value in results.items()})
        return logs

    def _evaluate(self, source: Source) -> dict[str, float]:
        runner, between = self.training.runner("test"), self.saved.in_validation
        return self._evaluation.run(runner, source, self.callbacks, self.progress, between)

    def _has_no_time(self) -> bool:
        return self.seconds is not None and time.monotonic() - self._begun >= self.seconds

    def _phase(self, words: str) -> contextlib.AbstractContextManager[None]:
        """Shows what a run directory takes time for."""
        is_saved = isinstance(self.saved, Run)
        return self.progress.phase(words) if is_saved else contextlib.nullcontext()
