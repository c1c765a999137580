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
from tests import models

X, Y, _ = models.regression()


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
    trainer = Trainer(model, optimizer="sgd", loss="mse", strategy="mirrored:2")
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
    trainer.fit(X[:8], Y[:8], batch_size=4, verbose=0)
    kernel = trainer._model.trainable_weights[0].value
    one, other = (part.numpy() for part in kernel.values)
    np.testing.assert_array_equal(one, other)


def test_options_that_a_step_of_ones_own_does_not_read():
    """They are refused, instead of doing nothing."""

    class Own(keras.Model):
        def train_step(self, data):
            return {}

    with pytest.raises(ArgumentError, match="train_step.*micro_batches=4"):
        Trainer(Own(), optimizer="sgd", loss="mse", step=StepOptions(micro_batches=4))


def test_options_reach_an_override_that_calls_super():
    """`Trainer`'s options act in a `TrainableModel.train_step` that is called by super."""

    class Own(TrainableModel):
        def train_step(self, data):
            return super().train_step(data)

    model = models.mlp(Own)
    before = model.get_weights()
    options = StepOptions(global_clipnorm=1e-9)
    Trainer(model, optimizer=keras.optimizers.SGD(1.0), loss="mse", step=options).fit(
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
    "arguments", [{"step": 4}, {"execution": {"eager": True}}, {"step": {"micro_batches": 2}}], ids=str
)
def test_options_of_another_type(arguments):
    """Options are given by their classes."""
    with pytest.raises(UnsupportedTypeError, match="must be"):
        Trainer(models.mlp(), optimizer="sgd", loss="mse", **arguments)


def test_xla_with_replicas():
    """XLA cannot compile the sum over replicas, which is said at once."""
    with pytest.raises(ArgumentError, match="jit_compile=False"):
        Trainer(
            models.mlp(), optimizer="sgd", loss="mse", strategy="mirrored:2",
            execution=Execution(jit_compile=True),
        )  # fmt: skip
