"""The parts that train, evaluate and predict with one compiled model, put together.

::

    parts = Assembly(compiled, strategy, seed, guard)
    parts.train(run, parts.source(x, y), parts.validation(None, 1), range(3), ...)

`kerastrain.trainer` has the signatures, and checks what was passed. Here is how a call goes through
the folders: a `Source` of the data; everything that is checked before the first step
(`Preparation`); what the run directory has (`kerastrain.run`); and the loop (`FitLoop`).
"""

import contextlib
import functools
import random
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.data import as_arrays
from kerastrain.data import checks as data_checks
from kerastrain.data import known_rows
from kerastrain.data import named_sets
from kerastrain.data import Share
from kerastrain.data import Source
from kerastrain.distribution import cluster_of
from kerastrain.distribution import MetricStates
from kerastrain.errors import DataError
from kerastrain.errors import ModelError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.errors import WorkerLostError
from kerastrain.execution import other_batches
from kerastrain.execution import Runner
from kerastrain.execution import Times
from kerastrain.guard import GuardedSteps
from kerastrain.guard import policy_of
from kerastrain.loop import callbacks as callbacks_lib
from kerastrain.loop import Evaluation
from kerastrain.loop import FitLoop
from kerastrain.loop import predict
from kerastrain.loop import predict_by_keras
from kerastrain.loop import Progress
from kerastrain.loop import schedule
from kerastrain.options import Guard
from kerastrain.preparation import checks
from kerastrain.preparation import CompiledModel
from kerastrain.preparation import own_methods
from kerastrain.preparation import Preparation
from kerastrain.preparation import target_checks
from kerastrain.preparation import Trials
from kerastrain.run import check_alike
from kerastrain.run import check_calls_alike
from kerastrain.run import compared_options
from kerastrain.run import contract_of
from kerastrain.run import NullRun
from kerastrain.run import Run
from kerastrain.run import Training
from kerastrain.state import ModelState


class Assembly:
    """The parts of a `Trainer` that depend on how its model is compiled.

    Args:
        compiled: the model and its compile state.
        strategy: that it trains under, or None.
        seed: of the order of shuffled arrays; None for any.
        guard: what to do about steps that are not finite; None for what callbacks ask for.

    Attributes:
        compiled: as passed.
        preparation: what has been checked and compiled.
        guarded: its train steps, in transactions.
        times: where the time of the last training went.
        cluster: of the workers that train together.
        trials: steps of which nothing is left.
    """

    def __init__(
        self,
        compiled: CompiledModel,
        strategy: tf.distribute.Strategy | None,
        seed: int | None,
        guard: Guard | None,
    ):
        self.compiled, self._seed, self._guard = compiled, seed, guard
        self._strategy, model, execution = strategy, compiled.model, compiled.execution
        self._state = ModelState(model, execution.run_eagerly)
        self.preparation = Preparation(compiled, strategy, self._state)
        self._states = MetricStates(model, compiles=not execution.run_eagerly)
        self._evaluation = Evaluation(model, self._states)
        self.cluster = cluster_of(strategy)
        checks.check_workers(self.cluster, compiled.options)
        self.guarded = GuardedSteps(model, self._state, self.preparation.cut, self.cluster)
        self.times = Times()
        self.trials = Trials(compiled, self.preparation, self._state, self._states)

    def shown(self, name: str, given: dict[str, Any]) -> str:
        """The call of ``name`` that makes this, with what was given and is not None."""
        model = self.compiled.model
        given = given | {"optimizer": self.compiled.optimizer, "strategy": self._strategy}
        shown = [f"{type(model).__name__} {model.name!r}"]
        for argument, value in given.items():
            if value is not None:
                is_long = argument in ("optimizer", "strategy")
                shown.append(f"{argument}={type(value).__name__ if is_long else repr(value)}")
        return f"{name}({', '.join(shown)})"

    # Workers --------------------------------------------------------------------

    @contextlib.contextmanager
    def _together(self, votes: bool = True) -> Iterator[None]:
        """Around what all workers do: one of them prints and warns, and a lost one is named.

        Args:
            votes: whether they agree on something now and then, so that one that hangs is noticed.

        Raises:
            WorkerLostError: another worker has ended, or does not answer.
        """
        seconds = self.compiled.execution.stall_seconds if votes else None
        with (
            notices.silenced(not self.cluster.is_chief),
            self.cluster.watched(seconds),
            _keras.results_of_workers(self._strategy),  # callbacks may evaluate by Keras's method
        ):
            try:
                yield
            except Exception as error:
                task = _keras.lost_task(error, self.cluster.index)
                if self.cluster.has_others and task is not None:
                    raise WorkerLostError(
                        f"{f'The worker {task!r}' if task else 'Another worker'} has ended, or does not "
                        f"answer ({type(error).__name__}): its own output says why. Start all workers "
                        "again; with `run_dir` they resume."
                    ) from error
                raise

    def _shown(self, verbose: Any) -> Any:
        """What of ``verbose`` is for this worker."""
        return verbose if self.cluster.is_chief else 0

    def check_call(self, given: dict[str, Any], callbacks: Any) -> None:
        """Compares the arguments of a call, before anything else is done together. Collective.

        Args:
            given: arguments by name: of data what they are, of numbers these.
            callbacks: as passed. Those of all workers are to do the same with batches, as steps run one
                by one where one acts on them.

        Raises:
            ArgumentError: a worker was given something else than the first.
        """
        if self.cluster.has_others:
            kinds = ("train", "test")
            uses = {kind: callbacks_lib.uses_of_batches(callbacks, kind) for kind in kinds}
            rate = _keras.current_learning_rate(self.compiled.optimizer)
            with self._together(votes=False):
                check_calls_alike(self.cluster, given, uses, rate)

    # Data ---------------------------------------------------------------------

    def source(self, *data: Any, **options: Any) -> Source:
        """A source whose batches lie as the execution wants them."""
        if self.cluster.has_others and options.get("shuffle") and options.get("seed") is None:
            options["seed"] = int(self.cluster.chiefs(np.int64(random.randrange(2**31))))
        options["share"] = self._share()
        if options.get("begins_anew") and not self.cluster.has_others:
            data, options = schedule.held(data, options)
        source = Source(*data, **schedule.limited_batches(data, options))
        if source.has_share:
            source.num_batches = self._agreed_count(source)
        return self._in_blocks(source)

    def _in_blocks(self, source: Source) -> Source:
        execution = self.compiled.execution
        return source.in_blocks(execution.resident_bytes) if execution.in_blocks else source

    def _share(self) -> Share:
        """The part of each batch that this worker reads, holds and trains on."""
        replicas = 1 if self._strategy is None else self._strategy.num_replicas_in_sync
        return Share(self.cluster.index, self.cluster.count, replicas, self.cluster.gather_objects)

    def _agreed_count(self, source: Source) -> int | None:
        """The batches of an epoch that all workers have. Collective.

        Raises:
            DataError: one has more of them than another.
        """
        each = self.cluster.gather([source.num_batches or 0])[:, 0].astype(int).tolist()
        if len({*each}) > 1:
            raise DataError(
                f"`{source.name}` gives the workers {each} batches of an epoch, in their order. Let each "
                "worker's data set have rows of every global batch: shard the rows before they are "
                "batched."
            )
        return each[0] or None

    def validation(
        self, data: Any, frequency: int | list[int], every: int | None, **options: Any
    ) -> schedule.Validation:
        """The data sets to validate on, as passed to ``fit``, and how that is done."""
        model = self.compiled.model
        if data is None or not own_methods.is_own(model, "evaluate"):
            sources = named_sets.validation_sources(data, self.source, seed=self._seed, **options)
            return schedule.Validation(sources, frequency, every, own_methods.validate_as_it_is)
        # Of the model's own `evaluate` in place of sources.
        make: Callable[..., Any] = functools.partial(own_methods.OwnValidation, model, self.source)
        with self.compiled.activated():
            sets: dict[str, Any] = named_sets.validation_sources(data, make, **options)
        sources = {name: one.source for name, one in sets.items()}
        return schedule.Validation(sources, frequency, every, own_methods.OwnValidations(sets))

    # Train, evaluate, predict -------------------------------------------------

    def refuse_within_fit(self) -> None:
        """Refuses a training inside a training of the same trainer.

        Raises:
            ModelError: as said.
        """
        if self.guarded.is_training:
            raise ModelError(
                "`fit` was called while this Trainer is inside `fit`, by a callback, the model's own "
                "code or another thread. Train a model within another training with a Trainer of "
                "its own; `evaluate` and `predict` may be called at any time."
            )

    def train(
        self,
        run: Run | NullRun,
        source: Source,
        validation: schedule.Validation,
        extent: schedule.Extent,
        *,
        callbacks: Any,
        verbose: Any,
        class_weight: dict[int, float] | None,
    ) -> keras.callbacks.History:
        """Trains for these epochs, or for those of them that a resumed run has not had.

        Args:
            run: that saves it.
            source, validation: the data.
            extent: how long.
            callbacks, verbose, class_weight: as of `Trainer.fit`.
        """
        epochs = range(extent.epochs.start, schedule.limited_epochs(extent.epochs.stop))
        sources = {part.name: part for part in (source, *validation.sources.values())}
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._together())
            stack.enter_context(run)
            if self.cluster.has_others:
                _keras.prepare_saving()  # which the chief does alone
            model = stack.enter_context(self.compiled.activated())
            for part in sources.values():
                stack.enter_context(contextlib.closing(run.track(part, part is not source)))
            stack.callback(self.preparation.end)
            verbose = self._shown(verbose)
            progress = Progress(verbose, epochs.stop, first=epochs.start)
            stack.enter_context(progress)
            with progress.phase("drawing the first batch"):
                self.preparation.ready(source, validation.sources.values())
            progress.rows = known_rows(source.peek()) or 0
            listed = callbacks_lib.make_list(
                callbacks, model, verbose, epochs.stop, source.num_batches, add_history=True
            )
            callbacks_lib.warn_of_replaced_fit(listed.callbacks)
            if not self.cluster.is_chief:
                callbacks_lib.let_chief_write(listed)
            model.stop_training = False
            self._state.callbacks = listed.callbacks
            guard = policy_of(self._guard, listed.callbacks)
            guarded = stack.enter_context(self.guarded.training(guard, self.compiled.may_cut))
            training = Training(
                state=self._state,
                sources=sources,
                callbacks=listed.callbacks,
                runner=lambda kind: self._runner(kind, listed),
                guard=guarded,
                preparation=self.preparation,
                seed=self._seed,
                epochs=epochs.stop,
                options=compared_options(
                    class_weight,
                    validation.frequency if validation.sources else None,
                    self.compiled.options,
                    guard,
                ),
            )
            if self.cluster.has_others:
                given = training.options | {"epochs": [epochs.start, epochs.stop]}
                check_alike(self.cluster, contract_of(model, validation.sources, self._seed, given))
            run.load_latest(training)
            guarded.join(training.runner("train").votes)
            if self.cluster.has_others:
                run.join(training.runner("train").votes, training.runner("test").votes)
            loop = FitLoop(
                *(model, run, training, source, validation.sources, validation.frequency),
                *(listed, progress, self._states, validation.validate, extent.seconds),
                validation.every,
            )
            self.times = loop.times
            stack.enter_context(self._states.untouched_by_callbacks())
            loop.run(epochs)
        return _keras.history_of(listed)

    def evaluate(self, source: Source, callbacks: Any, verbose: Any, return_dict: bool) -> Any:
        """Loss and metrics of a source, which is closed."""
        verbose = self._shown(verbose)
        with (
            self._together(),
            self.compiled.activated() as model,
            contextlib.closing(source),
            Progress(verbose, None, "Evaluate") as progress,
        ):
            with progress.phase("drawing the first batch"):
                self.preparation.ready(source, train=False)
            with self._states.isolated():
                listed = callbacks_lib.make_list(
                    callbacks, model, verbose, 1, source.num_batches, add_history=False
                )
                progress.begin_epoch(0, source.num_batches)
                runner = self._runner("test", listed)
                runner.begin(source.num_batches)
                logs = self._evaluation.run(runner, source, listed, progress)
                progress.end_epoch(logs)
                return logs if return_dict else _keras.flatten_results(model, logs)

    def predict(
        self, x: Any, batch_size: int | None, verbose: Any, steps: int | None, callbacks: Any
    ) -> Any:
        """The model's outputs for ``x``: many batches in one call where that can be."""
        by_step = not self.compiled.predicts_by_itself
        is_limited = callbacks or steps or keras.config.max_steps_per_epoch()
        in_loops = by_step and not (is_limited or self._strategy)
        if data_checks.is_function(x):
            raise UnsupportedTypeError(
                "`predict` returns an output for each row in order, and `x` is a function that gives each "
                "worker other rows. Pass arrays, or one data set of all rows."
            )
        x, _, _ = as_arrays("x", x, None, None)
        # A stream is Keras's to draw from: looking at it would lose its batches.
        source = None
        if not data_checks.is_streamed(x):
            source = Source(x, batch_size=batch_size, steps=steps, share=self._share())
            if in_loops:
                source = self._in_blocks(source)
        verbose = self._shown(verbose)
        with self._together(votes=False), self.compiled.activated() as model:
            if self.cluster.has_others and source is not None and source.has_share:
                if len({*self.cluster.gather([source.ahead().checksum])[:, 0]}) > 1:
                    raise other_batches("x")
            if source is not None and source.arrays is not None and by_step:
                self.preparation.check_rows(source)
                target_checks.check_call(model, source.peek(), "x")
                self.preparation.lint.once("predict", source.peek())
                if in_loops:
                    return predict(self.preparation.predictor(), source, verbose)
            options = {"batch_size": batch_size, "verbose": verbose, "steps": steps}
            return predict_by_keras(model, x, callbacks=callbacks, **options)

    def _runner(self, kind: str, callbacks: keras.callbacks.CallbackList) -> Runner:
        """What runs the steps of a kind; it returns logs only where they are read."""
        return self.preparation.runner(kind, callbacks_lib.listening(callbacks.callbacks, kind))
