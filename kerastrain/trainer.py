"""`Trainer`: a training loop around any Keras model.

::

    trainer = Trainer(model, optimizer="adam", loss="mse", metrics=["mae"], seed=0)
    history = trainer.fit(x, y, epochs=3, validation_data=(x_val, y_val))
    results = trainer.evaluate({"clean": (x1, y1), "noisy": (x2, y2)}, return_dict=True)

The loop, whose order a test holds::

    on_train_begin
    for epoch in range(initial_epoch, epochs):
        reset the train metrics
        on_epoch_begin
        for each batch:
            on_train_batch_begin; run the step; on_train_batch_end
            leave where a callback has set `stop_training`
        where due, for each validation set, with metric state of its own:
            on_test_begin
            for each batch: on_test_batch_begin; evaluate; on_test_batch_end
            on_test_end
        on_epoch_end
        leave where a callback has set `stop_training`
    on_train_end

These are Keras's events in Keras's order, with its names in ``logs``. With no callback that
listens to batches, no result is computed for a batch.

While ``fit`` or ``evaluate`` runs, the model carries the trainer's optimizer, loss and
metrics, where Keras has them. Afterwards the model is compiled as it was.

A callback that listens to batches gets each one before the next is run. One with the
attribute ``only_reads_logs = True`` gets the same events with the same logs after a few
steps have run in one call, which is faster: it cannot act on the steps in between.
"""

import contextlib
import dataclasses
import datetime
import functools
import os
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras

from kerastrain import _keras
from kerastrain import callbacks as callbacks_lib
from kerastrain import checks
from kerastrain import data as data_lib
from kerastrain import data_checks
from kerastrain import named_data
from kerastrain import own_methods
from kerastrain.metrics import states as metrics_lib
from kerastrain import strategy as strategy_lib
from kerastrain import target_checks
from kerastrain.compiled import CompiledModel
from kerastrain.errors import ModelError
from kerastrain.evaluation import Evaluation
from kerastrain.fit_loop import FitLoop
from kerastrain.guard import GuardedSteps
from kerastrain.model_state import ModelState
from kerastrain.options import Execution
from kerastrain.options import Guard
from kerastrain.options import StepOptions
from kerastrain.prediction import predict
from kerastrain.prediction import predict_by_keras
from kerastrain.preparation import Preparation
from kerastrain.progress import Progress
from kerastrain.run import make_run
from kerastrain.runner import Runner
from kerastrain.timing import Times


def _has_named_sets(given: dict[str, Any]) -> bool:
    """Whether the arguments of `Trainer.evaluate` are several data sets by name."""
    is_alone = given.get("y") is None and given.get("sample_weight") is None
    return is_alone and named_data.named_sets(given.get("x")) is not None


class Trainer:
    """Trains, evaluates and predicts with a Keras model.

    Args:
        model: any ``keras.Model``, compiled or not, built or not; or a function without
            arguments that returns one, called inside the strategy's scope.
        optimizer, loss, loss_weights, metrics, weighted_metrics: as for ``keras.Model.compile``.
            What is None is taken from the compiled model, as it is compiled when ``fit``,
            ``evaluate`` or ``predict`` is called; pass ``metrics=[]`` for none.
        strategy: a ``tf.distribute.Strategy``, ``"mirrored"``, ``"mirrored:2"``, ``"auto"`` or
            None (`kerastrain.strategy`): that in whose scope the model was built, if any. A model
            built outside it has the scope's variables while it trains, and its own afterwards,
            with what was trained (`kerastrain.scoped`).
        seed: an integer that the order of shuffled arrays follows, with the epoch; None draws
            one from Python's ``random``.
        step: micro-batches and clipping, `StepOptions`. None takes those of a compiled
            `TrainableModel`, else the defaults.
        execution: how steps are compiled and run, `Execution` or the name of its plan,
            such as ``"auto"``, which measures the ways and takes the fastest. None for
            ``"auto"`` with ``run_eagerly`` and ``jit_compile`` of a compiled model.
        strict: whether what goes wrong silently with replicas or micro-batches
            is an error at the start of ``fit``, not a warning (`kerastrain.lint`).
        guard: what to do about a step whose loss or update is not finite, `Guard` or the
            name of its policy: ``"raise"``, ``"skip"``, ``"rollback"`` or ``"off"``. None
            for ``"raise"``, and for ``"off"`` where ``TerminateOnNaN`` is among the callbacks.

    Attributes:
        times: where the time of the last ``fit`` went (`kerastrain.timing`).

    Raises:
        ModelError: no optimizer or loss is given or compiled.
        MetricError: an unknown metric.
        ArgumentError: an unknown loss, optimizer or strategy, or clipping
            that is set twice.
        UnsupportedTypeError: ``model`` is no model.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> trainer = Trainer(model, optimizer="sgd", loss="mse", seed=0)
        >>> history = trainer.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
        >>> sorted(history.history)
        ['loss']
    """

    def __init__(
        self,
        model: keras.Model | Callable[[], keras.Model],
        *,
        optimizer: Any = None,
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        strategy: Any = None,
        seed: int | None = None,
        step: StepOptions | None = None,
        execution: Execution | str | None = None,
        strict: bool = False,
        guard: Guard | str | None = None,
    ):
        self._given = {
            "optimizer": optimizer,
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }
        self._strategy = strategy_lib.resolve(strategy) or strategy_lib.of_model(model)
        if isinstance(execution, str):
            execution = Execution(plan=execution)
        checks.check_options(step, execution, seed, self._strategy)
        self._guard = checks.check_guard(guard)
        self._seed, self._how = seed, (execution, step, strict)
        self._set_up(model)
        self.times = Times()

    def _set_up(self, model):
        """Makes what depends on how the model is compiled."""
        self._compiled = CompiledModel(model, self._given, self._strategy, *self._how)
        self._model = self._compiled.model
        checks.check_own_step(self._model, self._how[1], self._strategy)
        self._state = ModelState(self._model, self._compiled.execution.eager)
        self._preparation = Preparation(self._compiled, self._strategy, self._state)
        self._states = metrics_lib.MetricStates(
            self._model, compiles=not self._compiled.execution.eager
        )
        self._evaluation = Evaluation(self._model, self._states)
        self._cuts = self._compiled.options.micro_batches == "auto"
        self._guarded = GuardedSteps(self._model, self._state, self._preparation.cut)

    def _take_up_compile(self):
        """Takes what was not given from the model anew, where that has been compiled again."""
        if self._compiled.is_outdated:
            if isinstance(self._given["optimizer"], str | dict):  # one that has trained trains on
                self._given["optimizer"] = self._compiled.optimizer
            self._set_up(self._compiled.model)

    @property
    def model(self) -> keras.Model:
        """The user's model."""
        return self._compiled.model

    @property
    def optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer that trains the model."""
        self._take_up_compile()
        return self._compiled.optimizer

    def parts_that_train(self) -> dict[str, Any]:
        """What a training of it changes, by name: for another training, of whose state it is part."""
        return {"model": self._compiled.model, "compiled": self._compiled.state}

    @property
    def traces(self) -> dict[str, int]:
        """How often ``"train"`` and ``"test"`` steps were traced."""
        steps = self._preparation.steps
        return dict(steps.traces) if steps else {}

    @property
    def plans(self) -> dict[str, str]:
        """How ``"train"`` and ``"test"`` steps run, and how long a step took: a line each."""
        return self._preparation.plans()

    @property
    def skipped(self) -> list[tuple[int, int]]:
        """``(epoch, step in it)`` of the steps that the last ``fit`` left out, from 0."""
        return list(self._guarded.skipped)

    # Train --------------------------------------------------------------------

    @own_methods.inside_own_method(
        *("run_dir", "resume", "save_every", "keep", "monitor", "profile"),
        unless=own_methods.refuse_named_validation,
    )
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | str = True,
        class_weight: dict | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | list[int] = 1,
        profile: bool = False,
        run_dir: str | os.PathLike | None = None,
        resume: bool = True,
        save_every: int | datetime.timedelta | None = None,
        keep: int = 2,
        monitor: str | None = None,
    ) -> keras.callbacks.History:
        """Trains for a number of epochs.

        Args:
            x, y, sample_weight: arrays with the same number of rows, or ``x``
                a source of batches (`kerastrain.data`).
            batch_size: rows of a global batch. Default 32 for arrays.
            epochs: the epoch to stop before, 1 or more.
            verbose: 0, 1, 2 or ``"auto"`` (`Progress`).
            callbacks: ``keras.callbacks.Callback`` objects, or a ``CallbackList``.
            validation_split: share of the last rows to validate on.
            validation_data: ``(x, y)``, ``(x, y, sample_weight)``, a source
                of batches, or a dict of those by name: then the logs have
                ``val_<name>_<metric>``.
            shuffle: whether to shuffle arrays each epoch; ``"batch"`` only
                within batches.
            class_weight: ``{class index: weight of its rows in the loss}``.
            initial_epoch: the epoch to begin with, counted from 0.
            steps_per_epoch, validation_steps: batches of each; None for one pass.
            validation_batch_size: default ``batch_size``.
            validation_freq: validate after each so many epochs, or after the
                epochs listed, counted from 1.
            profile: whether to print at the end where the time went; it is always in
                ``trainer.times`` (`kerastrain.timing`).
            run_dir: a directory that the training is saved in and goes on from
                (`kerastrain.run`); None for none. One process may use it at a time.
            resume: whether to go on with the run that is there, if any; else a run that
                is there is an error.
            save_every: save after so many steps, or after a ``datetime.timedelta``;
                default a minute. Ends of epochs are saved too where that takes less
                than a fiftieth of the time, and the end.
            keep: how many of the last checkpoints are kept.
            monitor: the result, such as ``"val_loss"`` or ``"max val_score"``, whose best
                checkpoint is kept too, with the model as ``best.keras``.

        Returns:
            The ``History``; ``history.history[name][i]`` is the result of the
            i-th epoch that ran, also of those before a resume.

        Raises:
            KerastrainError: before any weight changes (`kerastrain.errors`); a
                `NonFiniteError` at the step, which is taken back.
            Preempted, KeyboardInterrupt: after a signal; ``run_dir`` has it all.
        """
        self._refuse_within_fit()
        run = make_run(run_dir, resume, save_every, keep, monitor, callbacks)
        checks.check_epochs(epochs, initial_epoch, validation_freq)
        checks.check_callbacks(callbacks)
        counts = {"steps_per_epoch": steps_per_epoch, "validation_steps": validation_steps}
        checks.check_counts(**counts, validation_batch_size=validation_batch_size)
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = named_data.split(
                x, y, sample_weight, validation_split
            )
        source = self._source(
            *(x, y, sample_weight),
            batch_size=batch_size,
            steps=steps_per_epoch,
            shuffle=shuffle,
            class_weight=class_weight,
            seed=self._seed,
            first_pass=0 if steps_per_epoch else initial_epoch,
        )
        options = {"batch_size": validation_batch_size or batch_size, "steps": validation_steps}
        validation, validate = self._validation(validation_data, **options)
        with contextlib.ExitStack() as stack:
            stack.enter_context(run)
            model = stack.enter_context(self._compiled.in_charge())
            for part in (source, *validation.values()):
                stack.enter_context(contextlib.closing(run.track(part, part is not source)))
            stack.callback(self._preparation.end)
            self._preparation.ready(source, validation.values())
            progress = stack.enter_context(Progress(verbose, epochs))
            callback_list = callbacks_lib.make_list(
                callbacks, model, verbose, epochs, source.num_batches, add_history=True
            )
            model.stop_training = False
            self._state.callbacks = callback_list.callbacks
            policy, cuts = self._guards(callback_list)
            guard = stack.enter_context(self._guarded.training(policy, cuts))
            run.find(
                self._state,
                {part.name: part for part in (source, *validation.values())},
                callback_list.callbacks,
                lambda kind: self._runner(kind, callback_list),
                guard,
                self._seed,
                epochs,
                self._compared(class_weight, validation_freq if validation else None, policy),
                self._preparation,
            )
            loop = FitLoop(
                *(model, run, guard, source, validation, validation_freq, callback_list, progress),
                *(self._states, lambda kind: self._runner(kind, callback_list)),
                begin=self._preparation.begin,
                validate=validate,
            )
            self.times = loop.times
            loop.run(range(initial_epoch, epochs))
        if profile:
            print(f"Time: {self.times}")
        return _keras.history_of(callback_list)

    # Evaluate and predict -----------------------------------------------------

    @own_methods.inside_own_method(unless=_has_named_sets)
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Computes loss and metrics; the train metrics keep their state.

        Args:
            x, y, sample_weight, batch_size, steps, verbose, callbacks: as in
                `fit`. ``x`` may be a dict of data sets by name.
            return_dict: whether to return ``{name: float}``.

        Returns:
            A float or a list of floats in the order of the metrics, as Keras
            returns them; with ``return_dict`` a dict. For named data sets a
            dict of these by name.

        Raises:
            KerastrainError: see `kerastrain.errors`.
        """
        if _has_named_sets({"x": x, "y": y, "sample_weight": sample_weight}):
            options = {"steps": steps, "callbacks": callbacks, "return_dict": return_dict}
            options |= {"batch_size": batch_size, "verbose": verbose}
            return named_data.results(x, functools.partial(self.evaluate, **options))
        checks.check_callbacks(callbacks)
        source = self._source(
            x, y, sample_weight, batch_size=batch_size, steps=steps, seed=self._seed
        )
        with self._compiled.in_charge() as model, contextlib.closing(source):
            self._preparation.ready(source, train=False)
            with Progress(verbose, None, "Evaluate") as progress, self._states.set_aside():
                callback_list = callbacks_lib.make_list(
                    callbacks, model, verbose, 1, source.num_batches, add_history=False
                )
                progress.begin_epoch(0, source.num_batches)
                runner = self._runner("test", callback_list)
                runner.begin(source.num_batches)
                logs = self._evaluation.run(runner, source, callback_list, progress)
                progress.end_epoch(logs)
                return logs if return_dict else _keras.flatten_results(model, logs)

    @own_methods.inside_own_method()
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Returns the model's outputs for ``x``, in the order of its rows.

        Args:
            x, batch_size, verbose, steps, callbacks: as for
                ``keras.Model.predict``, which does the work of streams, of replicas,
                and where there are callbacks or a ``predict_step`` of the model's own.

        Returns:
            NumPy arrays in the structure of the outputs.

        Raises:
            KerastrainError: see `kerastrain.errors`.
        """
        checks.check_callbacks(callbacks)
        eager = self._compiled.execution.eager
        own = any(
            _keras.overrides(self._model, method)
            for method in ("predict_step", "make_predict_function")
        )
        in_loops = not (eager or own or callbacks or steps or self._strategy)
        # A stream is Keras's to draw from: looking at it would lose its batches.
        source = None
        if not data_checks.is_streamed(x):
            make_source = self._source if in_loops else data_lib.Source
            source = make_source(x, batch_size=batch_size, steps=steps)
        with self._compiled.in_charge() as model:
            if source is not None and source.arrays is not None and not eager and not own:
                self._preparation.check_rows(source)
                target_checks.check_call(model, source.peek(), "x")
                if in_loops:
                    return predict(self._preparation.predictor(), source, verbose)
            options = {"batch_size": batch_size, "verbose": verbose, "steps": steps}
            return predict_by_keras(model, x, callbacks=callbacks, **options)

    # Before the loop ----------------------------------------------------------

    def _refuse_within_fit(self) -> None:
        if self._guarded.is_training:
            raise ModelError(
                "`fit` was called while this Trainer is inside `fit`, by a callback, the model's own "
                "code or another thread. Train a model within another training with a Trainer of "
                "its own; `evaluate` and `predict` may be called at any time."
            )

    def _runner(self, kind: str, callbacks) -> Runner:
        """What runs the steps of a kind; it returns logs only where they are read."""
        listeners = [c for c in callbacks.callbacks if _keras.listens_to_batches(c, kind)]
        replayed = all(getattr(c, "only_reads_logs", False) for c in listeners)
        return self._preparation.runner(kind, listening=bool(listeners), replayed=replayed)

    def _guards(self, callbacks) -> tuple[Guard, bool]:
        """What is done about steps that are not finite, and whether about too little memory."""
        ends = any(isinstance(c, keras.callbacks.TerminateOnNaN) for c in callbacks.callbacks)
        guard = self._guard or Guard("off" if ends else "raise")
        own = _keras.overrides(self._model, "train_step")
        return guard, self._cuts and not own

    def _compared(self, class_weight, validation_freq, guard) -> dict[str, Any]:
        """What makes another run of a training, beside its model, data and seed."""
        step = dataclasses.asdict(self._compiled.options)
        step.pop("strict")  # decides what is said of it
        if class_weight is not None:
            class_weight = {str(index): float(weight) for index, weight in class_weight.items()}
        if validation_freq is not None:
            several = isinstance(validation_freq, Iterable)
            validation_freq = sorted(map(int, validation_freq)) if several else int(validation_freq)
        return {
            "class_weight": class_weight,
            "validation_freq": validation_freq,
            "step": step,
            "guard": dataclasses.asdict(guard),
        }

    def _validation(self, data: Any, **options: Any) -> tuple[dict, Callable]:
        """The data sets to validate on by name, and how that is done."""
        if data is None or not own_methods.is_own(self._model, "evaluate"):
            sources = named_data.validation_sources(data, self._source, seed=self._seed, **options)
            return sources, own_methods.validate_as_it_is
        make_source = functools.partial(own_methods.OwnValidation, self._model, self._source)
        with self._compiled.in_charge():
            sets = named_data.validation_sources(data, make_source, **options)
        validation = own_methods.OwnValidations(sets)
        return {name: one.source for name, one in sets.items()}, validation

    def _source(self, *data, **options) -> data_lib.Source:
        """A source whose batches lie as the execution wants them."""
        source, execution = data_lib.Source(*data, **options), self._compiled.execution
        return source.in_blocks(execution.resident_bytes) if execution.in_blocks else source
