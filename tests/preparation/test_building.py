"""Models that are not built: their first batch builds them as Keras does, with the same weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import Execution
from kerastrain import Trainer
from tests.support import tiers
from tests.support.assertions import largest_difference

L = keras.layers
X = np.random.default_rng(0).normal(size=(32, 6, 3)).astype("float32")
Y = X.sum((1, 2))[:, None]


class Counting(L.Layer):
    """It makes a weight by an initializer, and a count from a value."""

    count_type = keras.Variable

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")
        self.count = self.count_type(np.zeros((), "float32"), trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x * self.scale


class CountingByTensorFlow(Counting):
    count_type = tf.Variable


class Recurrent(keras.Model):
    def __init__(self):
        super().__init__()
        self.gru, self.dense = L.GRU(4, stateful=True), L.Dense(1)

    def call(self, x):
        return self.dense(self.gru(x))


MODELS = {
    "a stateful layer": lambda: keras.Sequential([L.LSTM(4, stateful=True), L.Dense(1)]),
    "two stateful layers": lambda: keras.Sequential(
        [L.GRU(4, stateful=True, return_sequences=True), L.LSTM(3, stateful=True), L.Dense(1)]
    ),
    "a subclass": Recurrent,
    "a count": lambda: keras.Sequential([Counting(), L.Flatten(), L.Dense(1)]),
    "a count of TensorFlow's": lambda: keras.Sequential(
        [CountingByTensorFlow(), L.Flatten(), L.Dense(1)]
    ),
    "none": lambda: keras.Sequential([L.Flatten(), L.Dense(1)]),
}
CELLS = [(name, eager) for name in MODELS for eager in (False, True)]


def made(name):
    keras.utils.set_random_seed(1)
    model = MODELS[name]()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


@pytest.mark.parametrize(
    ("name", "eager"), tiers.cases(CELLS, [("a stateful layer", False), ("a count", True)])
)
def test_trained_as_by_keras(name, eager):
    """The same variables, and none twice."""
    data = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    by_keras, model = made(name), made(name)
    by_keras.run_eagerly = eager
    expected = by_keras.fit(X, Y, **data).history["loss"]
    execution = Execution(run_eagerly=eager)
    found = Trainer(model, seed=0, execution=execution).fit(X, Y, **data).history["loss"]
    assert expected == pytest.approx(found, rel=1e-6)
    assert len(by_keras.variables) == len(model.variables)
    assert 1e-6 > largest_difference(by_keras, model)


def test_predicted_as_by_keras():
    """It is built by `predict`, too."""
    name = "a stateful layer"
    expected = made(name).predict(X, batch_size=8, verbose=0)
    found = Trainer(made(name)).predict(X, batch_size=8, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
