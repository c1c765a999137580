"""`TrainableModel`: a Keras model whose steps are kerastrain's, under plain ``fit``.

Subclass it, or build it from inputs and outputs::

    inputs = keras.Input((4,))
    model = TrainableModel(inputs, keras.layers.Dense(1)(inputs))
    model.compile("adam", "mse", micro_batches=2, global_clipnorm=1.0)
    model.fit(x, y)

``compile``, ``fit``, ``evaluate``, ``predict``, ``save``, ``load_model`` and
cloning are Keras's. To add behaviour, override a hook instead of the step:

- ``compute_loss(x, y, y_pred, sample_weight, training)``: the loss, a mean
  over the rows
- ``transform_gradients(gradients, variables)``: the gradients of the global
  batch, before clipping
- ``updates()``: several losses, each with the weights that it trains and an optimizer of its own, in
  place of one
- ``compute_metrics(x, y, y_pred, sample_weight)``: updates metrics, returns
  their results. On several replicas each calls it for its own rows, so what is
  derived from results belongs in ``get_metrics_result()``, which is asked again
  for those of all.
"""

import contextlib
from collections.abc import Callable
from typing import Any
from typing import Literal
from typing import TypeVar

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import merging
from kerastrain.distribution import replicas
from kerastrain.errors import ModelError
from kerastrain.execution import AUTO_STEPS
from kerastrain.execution import FitLoops
from kerastrain.options import check_clips_once
from kerastrain.options import Lint
from kerastrain.options import lint_of_strict
from kerastrain.options import MicroBatches
from kerastrain.options import StepOptions
from kerastrain.preparation import checks
from kerastrain.preparation import lint
from kerastrain.renaming import renamed_arguments
from kerastrain.renaming import with_suggestions
from kerastrain.step import steps as step
from kerastrain.step import Update
from kerastrain.step import updates as updates_lib

Method = TypeVar("Method", bound=Callable[..., Any])


def _builtin(method: Method) -> Method:
    """Marks a method as no override of the user's own."""
    marked: Any = method  # a function may have attributes, which its type does not
    marked.is_builtin = True
    return method


def _default_hook(method: Method) -> Method:
    """Marks a hook that changes nothing, and need not be called."""
    marked: Any = method
    marked.is_default_hook = True
    return method


@keras.saving.register_keras_serializable(package="kerastrain")
class TrainableModel(_keras.BuildsFromShapes, keras.Model):
    """A ``keras.Model`` that trains with kerastrain's step.

    It has a method for each of Keras's that is another one here, and for each hook.

    Args:
        *args, **kwargs: as for ``keras.Model``: nothing but ``name`` and the
            like for a subclass with a ``call``, or ``inputs`` and
            ``outputs`` for a functional model.

    Example:
        >>> inputs = keras.Input((3,))
        >>> model = TrainableModel(inputs, keras.layers.Dense(1)(inputs))
        >>> model.compile("sgd", "mse", micro_batches=2)
        >>> model.step_options.micro_batches
        2
    """

    train_function: Any  # of Keras's, which makes it on first use
    test_function: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if _keras.is_functional_call(args, kwargs):
            self.__class__ = _keras.functional_class(type(self))
            _keras.functional_init(self, args, kwargs)
        else:
            keras.Model.__init__(self, *args, **kwargs)

    def __reduce__(self) -> Any:
        return _keras.reduce_model(self)

    # Compiling ----------------------------------------------------------------

    @_builtin
    @with_suggestions
    @renamed_arguments({"strict": lint_of_strict}, strict="lint")
    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int | Literal["auto"] = 1,
        jit_compile: bool | Literal["auto"] = "auto",
        auto_scale_loss: bool = True,
        *,
        micro_batches: MicroBatches = 1,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        lint: Lint = "warn",
        log_norms: bool = False,
    ) -> None:
        """Configures the model for training.

        Args:
            optimizer, loss, loss_weights, metrics, weighted_metrics, run_eagerly, jit_compile,
                auto_scale_loss: as for ``keras.Model.compile``.
            micro_batches, clipvalue, clipnorm, global_clipnorm, lint, log_norms: as for
                `StepOptions`.
            steps_per_execution: batches that one compiled call of ``fit`` runs; callbacks
                get the last of them. Above 1, or ``"auto"`` (32), they run in a
                loop, by the plan that is measured to be the fastest
                (`kerastrain.execution.plan_choice`), and metrics' results are computed once a call.

        Raises:
            ArgumentError: a value that cannot work, or clipping that is set
                here and on the optimizer.
            MetricError: one metric object in two places.
        """
        options = StepOptions(
            micro_batches=micro_batches,
            clipvalue=clipvalue,
            clipnorm=clipnorm,
            global_clipnorm=global_clipnorm,
            lint=lint,
            log_norms=log_norms,
        )
        optimizer = keras.optimizers.get(optimizer)
        check_clips_once(options, optimizer)
        number = AUTO_STEPS if steps_per_execution == "auto" else steps_per_execution
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=number,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        merging.check_apart(self)
        _keras.bind_metrics(self)
        self.__dict__["_step_options"] = options

    @property
    def step_options(self) -> StepOptions:
        """The options of the step that ``compile`` was given."""
        return self.__dict__.get("_step_options") or StepOptions()

    def get_compile_config(self) -> dict[str, Any]:
        """The arguments of ``compile``, the step's among them."""
        config = super().get_compile_config()
        return {**config, **self.step_options.changed()} if config else config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles the model from `get_compile_config`."""
        if _keras.overrides(self, "compile"):
            super().compile_from_config(config)  # warns: it cannot know how
            return
        self.compile(**keras.saving.deserialize_keras_object(config))
        for optimizer, weights in updates_lib.weights_by_optimizer(self) if self.built else ():
            if optimizer is not None and not optimizer.built:
                optimizer.build(weights)

    def get_build_config(self) -> dict[str, Any] | None:
        """Shapes that the model is built from, those of the losses of `updates` among them."""
        of_updates = updates_lib.build_config(self)
        return (
            (super().get_build_config() or {}) | of_updates
            if of_updates
            else super().get_build_config()
        )

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the model from `get_build_config`."""
        if config and "updates" in config:
            updates_lib.build_from_config(self, config)
            config = {name: value for name, value in config.items() if name != "updates"}
        super().build_from_config(config)

    # Steps --------------------------------------------------------------------

    @_builtin
    def train_step(self, data: Any) -> dict[str, Any]:
        """One update on one batch: `kerastrain.step.steps.train_step`."""
        logs = step.train_step(self, data, self.step_options)
        return merging.results_in_step(self, logs)

    @_builtin
    def test_step(self, data: Any) -> dict[str, Any]:
        """Loss and metrics of one batch: `kerastrain.step.steps.test_step`."""
        return merging.results_in_step(self, step.test_step(self, data))

    @_builtin
    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Updates the compiled metrics, and returns the results of all."""
        return _keras.compute_metrics(self, x, y, y_pred, sample_weight)

    @_builtin
    def reset_metrics(self) -> None:
        """Resets every metric, on each replica to the state of no rows."""
        merging.reset(self, super().reset_metrics)

    @_builtin
    def get_metrics_result(self) -> dict[str, Any]:
        """``{name: result}``; outside a step, of the states of all replicas together."""
        return merging.results(self, super().get_metrics_result)

    @_default_hook
    def transform_gradients(
        self, gradients: list[tf.Tensor | None], variables: list[keras.Variable]
    ) -> list[tf.Tensor | None]:
        """A hook for the gradients; override it to change or inspect them.

        Args:
            gradients: of the global batch's loss, one for each of
                ``variables`` and of its shape, None where the loss does not
                depend on it. Dense, not yet clipped, and not scaled by a loss
                scale.
            variables: the trainable weights.

        Returns:
            The gradients to use, in the same order.

        Example:
            >>> class Frozen(TrainableModel):
            ...     def transform_gradients(self, gradients, variables):
            ...         return [None if g is None else g * 0.0 for g in gradients]
        """
        del variables
        return gradients

    @_default_hook
    def updates(self) -> list[Update]:
        """A hook for several updates in one step; override it for a GAN, say.

        Each batch is given to their losses, and they are run in this order; there is no forward pass of
        the model itself, so losses and metrics of ``compile`` are not used, and ``compute_loss`` is not
        called. `transform_gradients` and clipping act on each update. ``evaluate`` computes their losses.

        Returns:
            The updates (`Update`), anew whenever it is asked.

        Example:
            >>> class Halves(TrainableModel):
            ...     def __init__(self):
            ...         super().__init__()
            ...         self.left, self.right = keras.layers.Dense(1), keras.layers.Dense(1)
            ...         self.second = keras.optimizers.Adam(0.01)
            ...     def of(self, layer):
            ...         return lambda x, y, sample_weight, training: (layer(x) - y) ** 2
            ...     def updates(self):
            ...         return [
            ...             Update("left", self.of(self.left), self.left, self.optimizer),
            ...             Update("right", self.of(self.right), self.right, self.second),
            ...         ]
            >>> model = Halves()
            >>> model.compile("sgd")
            >>> history = model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0)
            >>> sorted(history.history)
            ['left_loss', 'loss', 'right_loss']
        """
        return []

    def build_updates(self, batch: Any) -> bool:
        """Builds what `updates` need, by a call of their losses on shapes.

        Args:
            batch: ``x``, ``(x, y)`` or ``(x, y, sample_weight)`` of tensors, or of their shapes.

        Returns:
            Whether there are any.
        """
        updates_lib.make_trackers(self, self.step_options.log_norms)
        is_built = updates_lib.build(self, batch)
        averaged = [one for one in _keras.optimizers_of(self) if getattr(one, "use_ema", False)]
        if is_built and averaged:
            raise ModelError(
                f"{type(averaged[0]).__name__} of {type(self).__name__} keeps moving averages (use_ema), "
                "which Keras's own `fit` takes from one optimizer alone. Train it with kerastrain.Trainer."
            )
        for optimizer, weights in updates_lib.weights_by_optimizer(self) if is_built else ():
            if not optimizer.built:
                optimizer.build(weights)
        return is_built

    @_builtin
    def make_train_function(self, force: bool = False) -> None:
        """Keras's function that trains on a batch, where the gradients are summed in the step.

        Before it is made for the first time, `kerastrain.preparation.lint` looks at the model.
        """
        made = self.train_function is None or force
        if made:  # before Keras makes it, or the next `fit` would find it made
            updates_lib.make_trackers(self, self.step_options.log_norms)
            checks.check_steps_of_workers(self)
            lint.check(self, _keras.random_batch(self), self.step_options)
        super().make_train_function(force)
        if made and FitLoops.fit_for(self):
            self.train_function = FitLoops(self, self.step_options, self.train_function)
        if made and self.distribute_strategy.num_replicas_in_sync > 1:
            sums = not _keras.overrides(self, "train_step")
            self.train_function = self._on_replicas(self.train_function, sums)

    @_builtin
    def make_test_function(self, force: bool = False) -> None:
        """Keras's function that evaluates a batch; of several workers, their results together."""
        made = self.test_function is None or force
        updates_lib.make_trackers(self, self.step_options.log_norms)
        super().make_test_function(force)
        if made and self.distribute_strategy.num_replicas_in_sync > 1:
            self.test_function = self._on_replicas(self.test_function, sums=False)

    def _on_replicas(self, function: Callable[[Any], Any], sums: bool) -> Callable[[Any], Any]:
        """Keras's function, with what holds while it is traced."""

        def run(iterator: Any) -> Any:
            in_step = replicas.in_step(self) if sums else contextlib.nullcontext()
            with in_step, _keras.results_of_workers(self.distribute_strategy):
                return function(iterator)

        return run
