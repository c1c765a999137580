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
- ``compute_metrics(x, y, y_pred, sample_weight)``: updates metrics, returns
  their results. On several replicas each calls it for its own rows, so what is
  derived from results belongs in ``get_metrics_result()``, which is asked again
  for those of all.
"""

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import lint
from kerastrain import merging
from kerastrain import replicas
from kerastrain import step
from kerastrain.fit_loops import AUTO_STEPS
from kerastrain.fit_loops import FitLoops
from kerastrain.options import StepOptions
from kerastrain.options import check_clips_once


@keras.saving.register_keras_serializable(package="kerastrain")
class TrainableModel(_keras.BuildsFromShapes, keras.Model):
    """A ``keras.Model`` that trains with kerastrain's step.

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

    def __init__(self, *args, **kwargs):
        if _keras.is_functional_call(args, kwargs):
            self.__class__ = _keras.functional_class(type(self))
            _keras.functional_init(self, args, kwargs)
        else:
            keras.Model.__init__(self, *args, **kwargs)

    def __reduce__(self):
        return _keras.reduce_model(self)

    # Compiling ----------------------------------------------------------------

    def compile(
        self,
        optimizer="rmsprop",
        *args,
        micro_batches: int = 1,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        strict: bool = False,
        steps_per_execution: int | str = 1,
        **kwargs,
    ) -> None:
        """Configures the model for training.

        Args:
            optimizer, *args, **kwargs: as for ``keras.Model.compile``.
            micro_batches, clipvalue, clipnorm, global_clipnorm, strict: as for
                `StepOptions`.
            steps_per_execution: batches that one compiled call of ``fit`` runs; callbacks
                are told of the last of them. Above 1, or ``"auto"`` (32), they run in a
                loop, by the plan that is measured to be the fastest
                (`kerastrain.choice`), and metrics' results are computed once a call.

        Raises:
            ArgumentError: a value that cannot work, or clipping that is set
                here and on the optimizer.
        """
        options = StepOptions(
            micro_batches=micro_batches,
            clipvalue=clipvalue,
            clipnorm=clipnorm,
            global_clipnorm=global_clipnorm,
            strict=strict,
        )
        optimizer = keras.optimizers.get(optimizer)
        check_clips_once(options, optimizer)
        number = AUTO_STEPS if steps_per_execution == "auto" else steps_per_execution
        super().compile(optimizer, *args, steps_per_execution=number, **kwargs)
        self.__dict__["_step_options"] = options

    compile.is_kerastrains = True

    @property
    def step_options(self) -> StepOptions:
        """The options of the step that ``compile`` was given."""
        return self.__dict__.get("_step_options") or StepOptions()

    def get_compile_config(self) -> dict:
        """The arguments of ``compile``, the step's among them."""
        config = super().get_compile_config()
        return {**config, **self.step_options.changed()} if config else config

    def compile_from_config(self, config: dict) -> None:
        """Compiles the model from `get_compile_config`."""
        if _keras.overrides(self, "compile"):
            super().compile_from_config(config)  # warns: it cannot know how
            return
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    # Steps --------------------------------------------------------------------

    def train_step(self, data):
        """One update on one batch: `kerastrain.step.train_step`."""
        logs = step.train_step(self, data, self.step_options)
        return merging.results_in_step(self, logs)

    train_step.is_kerastrains = True  # and no step of a user's own

    def test_step(self, data):
        """Loss and metrics of one batch: `kerastrain.step.test_step`."""
        return merging.results_in_step(self, step.test_step(self, data))

    test_step.is_kerastrains = True

    def reset_metrics(self):
        """Resets every metric, on each replica to the state of no rows."""
        merging.reset(self, super().reset_metrics)

    reset_metrics.is_kerastrains = True

    def get_metrics_result(self):
        """``{name: result}``; outside a step, of the states of all replicas together."""
        return merging.results(self, super().get_metrics_result)

    get_metrics_result.is_kerastrains = True

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

    transform_gradients.does_nothing = True

    def make_train_function(self, force=False):
        """Keras's function that trains on a batch, told who sums the gradients.

        Before it is made for the first time, `kerastrain.lint` looks at the model.
        """
        made = self.train_function is None or force
        if made:  # before Keras makes it, or the next `fit` would find it made
            lint.check(self, _keras.random_batch(self), self.step_options)
        super().make_train_function(force)
        if made and FitLoops.fit_for(self):
            self.train_function = FitLoops(self, self.step_options, self.train_function)
        if made and self.distribute_strategy.num_replicas_in_sync > 1:
            if not _keras.overrides(self, "train_step"):
                self.train_function = self._summing(self.train_function)

    make_train_function.is_kerastrains = True

    def _summing(self, train_function):
        def train(iterator):
            with replicas.in_step(self):
                return train_function(iterator)

        return train
