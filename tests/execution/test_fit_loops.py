"""Several steps in a call of Keras's own fit end as Keras's several steps do."""

import itertools

import keras
import pytest
import tensorflow as tf

from kerastrain import TrainableModel
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

ROWS, BATCH, EPOCHS = 27, 4, 2  # six full batches and one of three rows
X, Y, WEIGHT = datasets.regression(rows=ROWS)
FIT = {"epochs": EPOCHS, "shuffle": False, "verbose": 0}


class DerivedByKeras(keras.Model):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**results, "root": keras.ops.sqrt(results["mse"])}


class DerivedTrainable(TrainableModel):
    """Results that are computed from others."""

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**results, "root": keras.ops.sqrt(results["mse"])}


def arrays(**more):
    return {"x": X, "y": Y, "batch_size": BATCH, **more}


def unknown_length():
    """Batches whose number ``tf.data`` cannot tell."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    return {"x": data.filter(lambda x, y: True)}


DATA = {
    "full batches": lambda: {"x": X[:24], "y": Y[:24], "batch_size": BATCH},
    "ragged last batch": arrays,
    "unknown length": unknown_length,
    "validation": lambda: arrays(validation_data=(X[:10], Y[:10])),
    "sample weights": lambda: arrays(sample_weight=WEIGHT),
}


def trained(make, steps, data):
    """``(model, history)`` after fit."""
    keras.utils.set_random_seed(5)
    model = models.mlp(make)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        "mse",
        metrics=["mse"],
        weighted_metrics=["mae"],
        steps_per_execution=steps,
        jit_compile=False,
    )
    return model, model.fit(**FIT, **data()).history


def assert_same(expected, actual):
    """Asserts equal weights, numbers of steps and histories of two runs."""
    (model, history), (other, others) = expected, actual
    assertions.assert_close_weights(model, other)
    assert int(model.optimizer.iterations) == int(other.optimizer.iterations)
    assert set(history) == set(others)
    assertions.assert_close_histories(history, {name: others[name] for name in history}, rtol=2e-6)


@pytest.mark.parametrize(
    "data, steps",
    tiers.cases(itertools.product(DATA, [3, 32]), [("unknown length", 3)]),
)
def test_equals_keras(data, steps):
    """Weights, history and iterations are Keras's with as many steps a call."""
    made = DATA[data]
    assert_same(trained(keras.Model, steps, made), trained(TrainableModel, steps, made))


def test_auto():
    """ "auto" trains as one step a call does."""
    assert_same(trained(keras.Model, 1, arrays), trained(TrainableModel, "auto", arrays))


@pytest.mark.slow
def test_own_compute_metrics():
    """Results of a compute_metrics of one's own are Keras's."""
    expected = trained(DerivedByKeras, 3, arrays)
    assert "root" in expected[1]
    assert_same(expected, trained(DerivedTrainable, 3, arrays))
