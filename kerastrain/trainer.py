"""`Trainer`: a training loop around any Keras model.

::

    trainer = Trainer(model, optimizer="adam", loss="mse", metrics=["mae"], seed=0)
    history = trainer.fit(x, y, epochs=3, validation_data=(x_val, y_val))
    results = trainer.evaluate({"clean": (x1, y1), "noisy": (x2, y2)}, return_dict=True)

The order of events is in `kerastrain.loop.fit_loop`. While ``fit`` or ``evaluate`` runs, the model
carries the trainer's optimizer, loss and metrics, where Keras has them. Afterwards the model is
compiled as it was.
"""

import functools
import os
from collections.abc import Callable
from typing import Any
from typing import Literal
from typing import overload

import keras

from kerastrain.assembly import Assembly
from kerastrain.data import named_sets
from kerastrain.distribution import strategy as strategy_lib
from kerastrain.execution import Times
from kerastrain.fit_options import FitOptions
from kerastrain.loop import schedule
from kerastrain.old_arguments import takes_old_options
from kerastrain.old_arguments import takes_old_run_arguments
from kerastrain.options import Execution
from kerastrain.options import execution_given
from kerastrain.options import Guard
from kerastrain.options import Lint
from kerastrain.options import MicroBatches
from kerastrain.options import Plan
from kerastrain.options import Policy
from kerastrain.options import RunDir
from kerastrain.options import step_options_given
from kerastrain.options import StepOptions
from kerastrain.preparation import checks
from kerastrain.preparation import CompiledModel
from kerastrain.preparation import NotAModel
from kerastrain.preparation import own_methods
from kerastrain.quoting import short_tracebacks
from kerastrain.run import make_run
from kerastrain.searches import Searches

# Arguments that may differ on the workers: what the chief alone writes and shows.
_NOT_COMPARED = ("self", "callbacks", "verbose", "run_dir")


class Trainer(Searches, NotAModel):
    """Trains, evaluates and predicts with a Keras model.

    Arguments you omit default to the model's compile arguments, as it is compiled when ``fit``,
    ``evaluate`` or ``predict`` is called.

    Args:
        model: any ``keras.Model``, compiled or not, built or not; or a function without
            arguments that returns one, called inside the strategy's scope.
        optimizer, loss, loss_weights, metrics, weighted_metrics: as for ``keras.Model.compile``.
            Pass ``metrics=[]`` for none.
        strategy: a ``tf.distribute.Strategy``, ``"mirrored"``, ``"mirrored:2"``, ``"auto"`` or
            None (`kerastrain.distribution.strategy`): that in whose scope the model was built, if
            any. A model built outside it has the scope's variables while it trains, and its own
            afterwards, with what was trained (`kerastrain.distribution.scoped`).
        seed: an integer that the order of shuffled arrays follows, with the epoch; None draws
            one from Python's ``random``.
        micro_batches, clipvalue, clipnorm, global_clipnorm, lint, log_norms: as for
            `TrainableModel.compile`, explained in `StepOptions`.
        run_eagerly, jit_compile, steps_per_execution: as for ``keras.Model.compile``, with the
            rules of `Execution`; ``steps_per_execution`` is the most steps of one call.
        execution: the plan, such as ``"auto"``, the default, which measures the ways to run steps
            and takes the fastest; or an `Execution`.
        guard: what to do about a step whose loss or update is not finite, `Guard` or the
            name of its policy: ``"raise"``, ``"skip"``, ``"rollback"`` or ``"off"``. None
            for ``"raise"``, and for ``"off"`` where ``TerminateOnNaN`` is among the callbacks.

    Raises:
        ModelError: no optimizer or loss is given or compiled.
        MetricError: an unknown metric.
        ArgumentError: an unknown loss, optimizer or strategy, options that exclude each other,
            or clipping that is set twice.
        UnsupportedTypeError: ``model`` is no model.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="line")
        >>> trainer = Trainer(model, optimizer="sgd", loss="mse", seed=0)
        >>> history = trainer.fit(np.ones((8, 3)), np.ones((8, 1)), verbose=0)
        >>> sorted(history.history)
        ['loss']
        >>> trainer
        Trainer(Sequential 'line', optimizer=SGD, loss='mse', seed=0)
    """

    @short_tracebacks
    @takes_old_options
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
        micro_batches: MicroBatches | None = None,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        lint: Lint | None = None,
        log_norms: bool | None = None,
        run_eagerly: bool | None = None,
        jit_compile: bool | None = None,
        steps_per_execution: int | None = None,
        execution: Execution | Plan | None = None,
        guard: Guard | Policy | None = None,
    ):
        self._compile_arguments = {
            "optimizer": optimizer,
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": metrics,
            "weighted_metrics": weighted_metrics,
        }
        clips = {"clipvalue": clipvalue, "clipnorm": clipnorm, "global_clipnorm": global_clipnorm}
        step = {"micro_batches": micro_batches, "lint": lint, "log_norms": log_norms} | clips
        how = {
            "run_eagerly": run_eagerly,
            "jit_compile": jit_compile,
            "steps_per_execution": steps_per_execution,
        }
        self._strategy = strategy_lib.resolve(strategy) or strategy_lib.of_model(model)
        self._step_options = step_options_given(self._all_options, **step)
        self._execution = execution_given(execution, **how)
        self._guard, self._seed = checks.as_guard(guard), checks.as_seed(seed)
        self._given = step | how | {"execution": execution, "guard": guard, "seed": seed}
        self._parts = self._assembled(model)

    _all_options: StepOptions | None = None  # what was passed as `step`, by its old name

    def _assembled(self, model: keras.Model | Callable[[], keras.Model]) -> Assembly:
        """What depends on how the model is compiled."""
        compiled = CompiledModel(
            model, self._compile_arguments, self._strategy, self._execution, self._step_options
        )
        changed = self._step_options(StepOptions()).changed()
        checks.check_own_step(compiled.model, changed, self._strategy)
        checks.check_jit_compile(compiled.execution, self._strategy)
        return Assembly(compiled, self._strategy, self._seed, self._guard)

    def take_up_compile(self) -> CompiledModel:
        """Takes what was omitted from the model anew, where that has been compiled again.

        Returns:
            The model with its compile state.
        """
        compiled, optimizer = self._parts.compiled, self._compile_arguments["optimizer"]
        if compiled.is_outdated:
            if isinstance(optimizer, str | dict):  # one that has trained trains on
                self._compile_arguments["optimizer"] = compiled.optimizer
            self._parts = self._assembled(compiled.model)
        return self._parts.compiled

    def __repr__(self) -> str:
        return self._parts.shown("Trainer", self._compile_arguments | self._given)

    @property
    def model(self) -> keras.Model:
        """The user's model."""
        return self._parts.compiled.model

    @property
    def optimizer(self) -> keras.optimizers.Optimizer:
        """The optimizer that trains the model."""
        return self.take_up_compile().optimizer

    def parts_that_train(self) -> dict[str, Any]:
        """What a training of it changes, by name: for another training, of whose state it is part."""
        compiled = self._parts.compiled
        return {"model": compiled.model, "compiled": compiled.state}

    @property
    def traces(self) -> dict[str, int]:
        """How often ``"train"`` and ``"test"`` steps were traced."""
        steps = self._parts.preparation.steps
        return dict(steps.traces) if steps else {}

    @property
    def plans(self) -> dict[str, str]:
        """How ``"train"`` and ``"test"`` steps run, and how long a step took: a line each."""
        return self._parts.preparation.plans()

    @property
    def skipped(self) -> list[tuple[int, int]]:
        """``(epoch, step in it)`` of the batches that the last ``fit`` skipped, from 0."""
        return list(self._parts.guarded.skipped)

    @property
    def times(self) -> Times:
        """Where the time of the last ``fit`` went, part by part (`kerastrain.execution.timing`)."""
        return self._parts.times

    @short_tracebacks
    @takes_old_run_arguments
    @own_methods.inside_own_method("run_dir", "options", unless=own_methods.refuse_named_validation)
    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | Literal["auto"] = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool | Literal["batch"] = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | list[int] = 1,
        *,
        run_dir: str | os.PathLike[str] | RunDir | None = None,
        options: FitOptions | None = None,
    ) -> keras.callbacks.History:
        """Trains for a number of epochs.

        Args:
            x, y, sample_weight: arrays with the same number of rows, or ``x`` a source of
                batches, or a function of a ``tf.distribute.InputContext`` that returns one.
            batch_size: rows of a global batch. Default 32 for arrays.
            epochs: the epoch to stop before, 1 or more.
            verbose: 0, 1, 2 or ``"auto"`` (`kerastrain.loop.progress`).
            callbacks: ``keras.callbacks.Callback`` objects, or a ``CallbackList``.
            validation_split: share of the last rows to validate on.
            validation_data: ``(x, y)``, ``(x, y, sample_weight)``, a source
                of batches, or a dict of those by name: then the logs have
                ``val_<name>_<metric>``.
            shuffle: whether to shuffle arrays each epoch; ``"batch"`` only within batches.
            class_weight: ``{class index: weight of its rows in the loss}``.
            initial_epoch: the epoch to begin with, counted from 0.
            steps_per_epoch, validation_steps: batches of each; None for one pass.
            validation_batch_size: default ``batch_size``.
            validation_freq: the epochs between two validations, or the epochs to validate
                after, counted from 1.
            run_dir: a directory that the training is saved in and resumed from, or a `RunDir`
                with how (`kerastrain.run`); None for none.
            options: how much of it is run, and when it is validated, too: `FitOptions`.

        Returns:
            The ``History``, which can plot itself; ``history.history[name][i]`` is the result of the
            i-th epoch that ran, also of those before a resume.

        Raises:
            KerastrainError: before any weight changes (`kerastrain.errors`); a
                `NonFiniteError` at the step, which is rolled back.
            Preempted, KeyboardInterrupt: after a signal; ``run_dir`` has it all.
        """
        given = {name: value for name, value in locals().items() if name not in _NOT_COMPARED}
        self._parts.refuse_within_fit()
        self._parts.check_call(given, callbacks)
        options = checks.as_fit_options(options)
        if options.fast_dev_run:
            run_dir, epochs, validation_freq = None, initial_epoch + 1, 1
        run = make_run(run_dir, callbacks, self._parts.cluster)
        checks.check_epochs(epochs, initial_epoch, validation_freq)
        checks.check_callbacks(callbacks)
        counts = {"steps_per_epoch": steps_per_epoch, "validation_steps": validation_steps}
        checks.check_counts(**counts, validation_batch_size=validation_batch_size)
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = named_sets.split(
                x, y, sample_weight, validation_split
            )
        source = self._parts.source(
            *(x, y, sample_weight),
            batch_size=batch_size,
            steps=steps_per_epoch,
            most=options.of_training,
            shuffle=shuffle if options.overfit_batches is None else False,
            begins_anew=options.overfit_batches is not None,
            class_weight=class_weight,
            seed=self._seed,
            first_pass=0 if steps_per_epoch else initial_epoch,
        )
        checks.check_validation_options(options, validation_data)
        validation = self._parts.validation(
            *(validation_data, validation_freq, options.steps_between_validations),
            batch_size=validation_batch_size or batch_size,
            steps=validation_steps,
            most=options.of_validation,
        )
        return self._parts.train(
            *(
                run,
                source,
                validation,
                schedule.Extent(range(initial_epoch, epochs), options.seconds),
            ),
            callbacks=callbacks,
            verbose=verbose,
            class_weight=class_weight,
        )

    @overload
    def evaluate(
        self,
        x: Any = ...,
        y: Any = ...,
        batch_size: int | None = ...,
        verbose: int | Literal["auto"] = ...,
        sample_weight: Any = ...,
        steps: int | None = ...,
        callbacks: Any = ...,
        *,
        return_dict: Literal[True],
    ) -> dict[str, Any]: ...

    @overload
    def evaluate(
        self,
        x: Any = ...,
        y: Any = ...,
        batch_size: int | None = ...,
        verbose: int | Literal["auto"] = ...,
        sample_weight: Any = ...,
        steps: int | None = ...,
        callbacks: Any = ...,
        return_dict: bool = ...,
    ) -> Any: ...

    @short_tracebacks
    @own_methods.inside_own_method(unless=named_sets.are_arguments)
    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | Literal["auto"] = "auto",
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
        if named_sets.are_arguments({"x": x, "y": y, "sample_weight": sample_weight}):
            options = {"steps": steps, "callbacks": callbacks, "return_dict": return_dict}
            options |= {"batch_size": batch_size, "verbose": verbose}
            return named_sets.results(x, functools.partial(self.evaluate, **options))
        checks.check_callbacks(callbacks)
        source = self._parts.source(
            x, y, sample_weight, batch_size=batch_size, steps=steps, seed=self._seed
        )
        return self._parts.evaluate(source, callbacks, verbose, return_dict)

    @short_tracebacks
    @own_methods.inside_own_method()
    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | Literal["auto"] = "auto",
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
        return self._parts.predict(x, batch_size, verbose, steps, callbacks)
