"""`TrainableModel` is a Keras model in every way: forms, compile, save, clone."""

import contextlib
import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain.distribution import strategy
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

X, Y, _ = datasets.regression()


@keras.saving.register_keras_serializable("tests")
class Subclassed(TrainableModel):
    def __init__(self, units=2, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class WithStep(TrainableModel):
    """Made from inputs and outputs, with a hook of its own."""

    def transform_gradients(self, gradients, variables):
        return [0.5 * g for g in gradients]


MAKERS = {
    "functional": lambda: models.mlp(TrainableModel),
    "functional subclass": lambda: models.mlp(WithStep),
    "subclassed": lambda: Subclassed(2),
}


@pytest.fixture
def fitted(request):
    """A model of each form, compiled with options of the step and trained."""
    model = MAKERS[request.param]()
    model.compile("adam", "mse", metrics=["mae"], micro_batches=2, global_clipnorm=1.0)
    model.fit(X, Y, batch_size=4, verbose=0)
    return model


@pytest.mark.parametrize("fitted", tiers.cases(MAKERS, ["subclassed"]), indirect=True)
def test_save_and_load(fitted, tmp_path):
    """A loaded model has class, weights, optimizer state and step options."""
    fitted.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, TrainableModel)
    assert type(fitted).__name__ == type(loaded).__name__
    assert StepOptions(micro_batches=2, global_clipnorm=1.0) == loaded.step_options
    assert assertions.largest_difference(fitted, loaded) == 0.0
    assert int(fitted.optimizer.iterations) == int(loaded.optimizer.iterations) == 3
    for model in (fitted, loaded):
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
    assert assertions.largest_difference(fitted, loaded) == 0.0


@pytest.mark.parametrize("fitted", tiers.cases(MAKERS, ["functional"]), indirect=True)
def test_clone_and_copy(fitted):
    """Clones and copies are trainable models of the same class name."""
    for clone in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert isinstance(clone, TrainableModel)
        assert assertions.largest_difference(fitted, clone) == 0.0
        assert fitted.step_options == clone.step_options
    if not isinstance(fitted, Subclassed):
        clone = keras.models.clone_model(fitted)
        assert isinstance(clone, TrainableModel)
        assert fitted.step_options == clone.step_options


def test_functional_form_leaves_the_class_alone():
    """A functional instance does not make later subclasses functional.

    Keras 3.15.1 puts `Functional` into the bases of a subclass that is given
    inputs and outputs, for every instance to come.
    """
    before = TrainableModel.__bases__
    functional = models.mlp(TrainableModel)
    assert before == TrainableModel.__bases__
    assert isinstance(functional, keras.src.models.functional.Functional)
    later = Subclassed(2)
    assert not isinstance(later, keras.src.models.functional.Functional)
    later.compile("sgd", "mse")
    later.fit(X, Y, verbose=0)


def test_functional_inside_init():
    """A subclass may build its graph in ``__init__``, and be given ``inputs=``."""

    class Net(TrainableModel):
        def __init__(self, units):
            inputs = keras.Input((4,))
            super().__init__(inputs=inputs, outputs=keras.layers.Dense(units)(inputs))

    model = Net(2)
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    assert type(model).__name__ == "Net"
    assert [layer.name for layer in model.layers][1:] == ["dense"]


def test_optimizer_is_not_in_compile_config_twice():
    """The compile configuration holds the step's options that differ, as JSON."""
    model = models.mlp(TrainableModel)
    assert model.get_compile_config() == {}
    model.compile("sgd", "mse", micro_batches=3)
    config = model.get_compile_config()
    assert config["micro_batches"] == 3
    assert "clipnorm" not in config
    other = models.mlp(TrainableModel)
    other.compile_from_config(config)
    assert StepOptions(micro_batches=3) == other.step_options


def test_compile_again_forgets_the_options():
    """``compile`` sets all options, as it does in Keras."""
    model = models.mlp(TrainableModel)
    model.compile("sgd", "mse", micro_batches=3)
    model.compile("sgd", "mse")
    assert StepOptions() == model.step_options


def test_bad_options_change_nothing():
    """A refused ``compile`` leaves the model compiled as it was."""
    model = models.mlp(TrainableModel)
    model.compile("sgd", "mse", micro_batches=3)
    optimizer = model.optimizer
    with pytest.raises(ArgumentError):
        model.compile("adam", "mse", micro_batches=0)
    with pytest.raises(ArgumentError):
        model.compile(keras.optimizers.SGD(clipnorm=1.0), "mse", clipnorm=1.0)
    assert model.optimizer is optimizer
    assert model.step_options.micro_batches == 3


def test_steps_per_execution_and_on_batch_calls():
    """Keras's other ways to run a step run this one."""
    one, other = models.mlp(TrainableModel), models.mlp(TrainableModel)
    other.set_weights(one.get_weights())
    one.compile("sgd", "mse", steps_per_execution=2, micro_batches=2)
    other.compile("sgd", "mse")
    one.fit(X[:8], Y[:8], batch_size=4, shuffle=False, verbose=0)
    for start in (0, 4):
        other.train_on_batch(X[start : start + 4], Y[start : start + 4])
    assert assertions.largest_difference(one, other) <= 1e-6
    other.reset_metrics()  # as Keras 3.15 does itself
    assert one.evaluate(X, Y, verbose=0) == pytest.approx(other.test_on_batch(X, Y), abs=1e-6)


def test_a_strategy_run_by_hand_is_not_summed_twice():
    """``strategy.run(model.train_step)`` in a user's own loop is exact too."""
    scope = strategy.resolve("mirrored:2")
    alone = models.mlp(TrainableModel)
    with scope.scope():
        model = models.mlp(TrainableModel)
        model.compile(keras.optimizers.SGD(0.5), "mse")
    model.set_weights(alone.get_weights())
    alone.compile(keras.optimizers.SGD(0.5), "mse")
    alone.fit(X[:4], Y[:4], shuffle=False, verbose=0)

    parts = [(X[:2], Y[:2]), (X[2:4], Y[2:4])]
    batch = scope.experimental_distribute_values_from_function(
        lambda context: tf.nest.map_structure(
            tf.convert_to_tensor, parts[context.replica_id_in_sync_group]
        )
    )

    @tf.function(autograph=False)
    def step():
        scope.run(model.train_step, args=(batch,))

    model.optimizer.build(model.trainable_variables)
    step()
    assert assertions.largest_difference(alone, model) <= 1e-6


def test_untrainable_model_warns():
    """Nothing to train is said, as Keras says it."""
    model = models.mlp(TrainableModel)
    model.trainable = False
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="trainable weights"):
        model.fit(X, Y, verbose=0)


def test_custom_step_still_runs():
    """A whole ``train_step`` of a user's own runs as it is."""

    class Own(TrainableModel):
        def train_step(self, data):
            logs = super().train_step(data)
            return {**logs, "twice": 2 * logs["loss"]}

    model = models.mlp(Own)
    model.compile("sgd", "mse")
    history = model.fit(X, Y, batch_size=11, verbose=0).history
    np.testing.assert_allclose(history["twice"][0], 2 * history["loss"][0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("replicas, subclassed", [(2, True), (2, False), (4, True)])
def test_uneven_first_batch_under_a_strategy(replicas, subclassed):
    """Plain ``fit`` starts with a batch that does not divide, and is exact.

    Keras 3.15.1 stops with ``AddN ... same size and shape``.
    """

    def run(scope):
        keras.utils.set_random_seed(3)
        with scope:
            if subclassed:
                model = Subclassed(2)
            else:
                model = models.mlp(TrainableModel)
            model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
        fitted = model.fit(
            X, Y, batch_size=3, epochs=2, shuffle=False, validation_data=(X[:1], Y[:1]), verbose=0
        )
        return model, fitted.history

    whole, history = run(contextlib.nullcontext())
    model, sharded = run(strategy.resolve(f"mirrored:{replicas}").scope())
    assert assertions.largest_difference(whole, model) <= 1e-6
    for name, values in history.items():
        np.testing.assert_allclose(sharded[name], values, atol=1e-6)


def test_generator_under_a_strategy_loses_no_batch():
    """Building the model does not use up batches. (Keras trains on 0, 1 and 5.)"""
    trained_on = []

    class Notes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            trained_on.append(round(logs["mean"] * (batch + 1) - sum(trained_on)))

    class First(TrainableModel):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.mean = keras.metrics.Mean(name="mean")

        def call(self, x):
            return self.dense(x)

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            self.mean.update_state(y)
            return super().compute_metrics(x, y, y_pred, sample_weight)

    def batches():
        for number in range(8):
            yield np.zeros((2, 3), "float32"), np.full((2, 1), number, "float32")

    with strategy.resolve("mirrored:2").scope():
        model = First()
        model.compile("sgd", "mse")
    model.fit(batches(), steps_per_epoch=3, verbose=0, shuffle=False, callbacks=[Notes()])
    assert trained_on == [0, 1, 2]
