"""The user's model is compiled, tracked and weighted as the user left it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import Execution
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain import UnsupportedTypeError
from tests.support import datasets
from tests.support import models
from tests.support import tiers

X, Y, _ = datasets.regression()


def test_a_checkpoint_holds_the_users_optimizer():
    """`tf.train.Checkpoint(model=...)` saves the optimizer that `compile` was given."""
    model = models.mlp()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    users = model.optimizer
    Trainer(model, optimizer="adam").fit(X, Y, verbose=0)
    assert model.optimizer is users
    children = dict(model._trackable_children())
    assert children["optimizer"] is users


def test_an_uncompiled_model_gains_nothing():
    """Constructing a Trainer leaves no trace on the model."""
    model = models.mlp()
    before, tracked = set(model.__dict__), set(model._trackable_children())
    Trainer(model, optimizer="adam", loss="mse")
    assert before == set(model.__dict__)
    assert tracked == set(model._trackable_children())
    assert not model.compiled


def test_weights_set_between_calls_reach_the_copy():
    """The copy under a strategy follows the user's model."""
    model = models.mlp()
    trainer = Trainer(model, optimizer="sgd", loss="mse", strategy="mirrored:2", execution="step")
    trainer.fit(X, Y, verbose=0)
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    assert trainer.evaluate(X, Y, verbose=0) == pytest.approx(float(np.mean(Y**2)), rel=1e-5)
    assert not np.any(trainer.predict(X, verbose=0))


def test_a_step_of_the_users_own_keeps_its_sum_over_replicas():
    """Replicas stay equal where `apply_gradients` is called by a user's `train_step`."""

    @keras.saving.register_keras_serializable("tests")
    class Own(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((y - self(x)) ** 2) / 2
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            return {}

    with pytest.warns(UserWarning, match="its loss is scaled for 2 replicas"):
        trainer = Trainer(Own(), optimizer="sgd", loss="mse", strategy="mirrored:2")
    seen = []

    def on_epoch_end(epoch, logs):
        kernel = trainer.model.trainable_weights[0].value
        seen.append([part.numpy() for part in kernel.values])

    callback = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
    trainer.fit(X[:8], Y[:8], batch_size=4, verbose=0, callbacks=[callback])
    ((one, other),) = seen
    np.testing.assert_array_equal(one, other)


def test_options_that_a_step_of_ones_own_does_not_read():
    """They are refused, instead of doing nothing."""

    class Own(keras.Model):
        def train_step(self, data):
            return {}

    with pytest.raises(ArgumentError, match="train_step.*micro_batches=4"):
        Trainer(Own(), optimizer="sgd", loss="mse", micro_batches=4)


def test_options_reach_an_override_that_calls_super():
    """`Trainer`'s options act in a `TrainableModel.train_step` that is called by super."""

    class Own(TrainableModel):
        def train_step(self, data):
            return super().train_step(data)

    model = models.mlp(Own)
    before = model.get_weights()
    options = StepOptions(global_clipnorm=1e-9)
    Trainer(model, optimizer=keras.optimizers.SGD(1.0), loss="mse", **options.changed()).fit(
        X, Y, verbose=0
    )
    assert max(np.abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True)) < 1e-8
    assert model.step_options == StepOptions()


def test_what_is_not_given_is_taken_from_compile():
    """Eager execution of a compiled model is taken over too."""
    calls = []

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            calls.append(tf.executing_eagerly())
            return self.dense(x)

    model = Net()
    model.compile("sgd", "mse", run_eagerly=True)
    Trainer(model).fit(X, Y, batch_size=4, verbose=0)
    assert calls.count(True) == 3


@pytest.mark.parametrize(
    "arguments",
    [{"step": 4}, {"execution": {"eager": True}}, {"step": {"micro_batches": 2}}],
    ids=str,
)
def test_options_of_another_type(arguments):
    """Options are given by their classes."""
    with pytest.raises(UnsupportedTypeError, match="must be"):
        Trainer(models.mlp(), optimizer="sgd", loss="mse", **arguments)


def test_xla_with_replicas():
    """XLA cannot compile the sum over replicas, which is said at once."""
    with pytest.raises(ArgumentError, match='execution="xla_loop"'):
        Trainer(
            models.mlp(), optimizer="sgd", loss="mse", strategy="mirrored:2",
            execution=Execution(jit_compile=True),
        )  # fmt: skip


# Compiled again ----------------------------------------------------------------


def _fine_tuned(make):
    """A model that is trained, thawed, compiled again and trained on; and its history of both."""
    keras.utils.set_random_seed(1)
    model = models.mlp()
    model.layers[0].trainable = False
    model.compile(keras.optimizers.Adam(0.05), "mse", metrics=["mae"])
    trainer, fit = make(model), {"epochs": 1, "batch_size": 8, "shuffle": False, "verbose": 0}
    first = trainer.fit(X, Y, **fit).history
    model.layers[0].trainable = True
    model.compile(keras.optimizers.SGD(0.01), "mae", metrics=["mse"])
    second = trainer.fit(X, Y, **fit).history
    return model, [first, second, trainer.evaluate(X, Y, verbose=0, return_dict=True)]


@pytest.mark.parametrize("strategy", (None, tiers.slow("mirrored:2")))
def test_a_model_that_is_compiled_again(strategy):
    """The trainer follows it, as Keras does: optimizer, loss, metrics and what is trained."""
    expected, histories = _fine_tuned(lambda model: model)
    model, found = _fine_tuned(lambda model: Trainer(model, strategy=strategy, execution="step"))
    for one, other in zip(expected.weights, model.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)
    for one, other in zip(histories, found, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5)


def test_what_was_given_stays():
    """What the trainer was given is its own, however the model is compiled later on."""
    model = models.mlp()
    model.compile("sgd", "mse")
    trainer = Trainer(model, optimizer="adam", metrics=["mae"])
    trainer.fit(X, Y, verbose=0)
    optimizer, steps = trainer.optimizer, int(trainer.optimizer.iterations)
    model.compile("sgd", "mse", metrics=["mse"])
    assert trainer.optimizer is optimizer
    assert {"loss", "mae"} == set(trainer.fit(X, Y, verbose=0).history)
    assert int(trainer.optimizer.iterations) == 2 * steps
    assert int(model.optimizer.iterations) == 0


def test_compiled_after_the_trainer_was_made():
    """Also for a first time, to run eagerly, and with the step's options of a model that has some."""
    model = TrainableModel(*_layers())
    trainer = Trainer(model, optimizer="sgd", loss="mse")
    model.compile("adam", "mae", metrics=["mae"], clipnorm=1e-9, run_eagerly=True)
    before = model.get_weights()
    assert {"loss", "mae"} == set(trainer.fit(X, Y, verbose=0).history)
    assert trainer.plans["train"] == "step"
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def _layers():
    inputs = keras.Input(X.shape[1:])
    return inputs, keras.layers.Dense(Y.shape[1])(inputs)


def test_nothing_is_made_anew_without_need():
    """Neither by other calls, nor in a callback, where the model carries another's compile state."""
    model = models.mlp()
    model.compile("sgd", "mse")
    trainer, other = Trainer(model), Trainer(model, optimizer="adam", loss="mae")
    trainer.fit(X, Y, verbose=0)
    compiled, optimizer = trainer._parts.compiled, trainer.optimizer
    model.fit(X, Y, verbose=0)
    results = []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: results.append(trainer.evaluate(X, Y, verbose=0))
    )
    other.fit(X, Y, verbose=0, callbacks=[callback])
    assert results == [pytest.approx(trainer.evaluate(X, Y, verbose=0), rel=1e-6)]
    assert trainer._parts.compiled is compiled and trainer.optimizer is optimizer
