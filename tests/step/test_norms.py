"""Logged norms of gradients and weights: those of the whole batch, by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import TrainableModel
from kerastrain import Trainer
from tests.step import test_updates
from tests.support import datasets
from tests.support import tiers

X, Y, _ = datasets.regression(rows=21)
SIZE = 8
NORMS = ("gradient_norm", "weight_norm")


def net(kind=keras.Model):
    inputs = keras.Input(X.shape[1:])
    hidden = keras.layers.Dense(6, "tanh")(inputs)
    return kind(inputs, keras.layers.Dense(Y.shape[-1])(hidden))


@pytest.fixture(scope="module")
def by_hand():
    """The mean of each norm over the steps of each of two epochs."""
    keras.utils.set_random_seed(1)
    model, optimizer = net(), keras.optimizers.Adam(0.05)
    means = {"gradient_norm": [], "weight_norm": []}
    for _ in range(2):
        norms = {name: [] for name in means}
        for first in range(0, len(X), SIZE):
            with tf.GradientTape() as tape:
                pred = model(X[first : first + SIZE])
                loss = tf.reduce_mean((pred - Y[first : first + SIZE]) ** 2)
            weights = model.trainable_weights
            gradients = tape.gradient(loss, weights)
            norms["gradient_norm"].append(float(tf.linalg.global_norm(gradients)))
            optimizer.apply(tf.clip_by_global_norm(gradients, 0.5)[0], weights)
            norms["weight_norm"].append(float(tf.linalg.global_norm([w.value for w in weights])))
        for name, values in norms.items():
            means[name].append(np.mean(values))
    return means


HOW = {
    "whole": {},
    "replicas": {"strategy": "mirrored:2"},
    "micro-batches": {"micro_batches": 3},
    "XLA": {"execution": "xla_loop"},
    "eagerly": {"run_eagerly": True},
}
FIT = {"batch_size": SIZE, "epochs": 2, "shuffle": False, "verbose": 0, "validation_data": (X, Y)}


@pytest.mark.parametrize("how", tiers.cases(HOW, ["whole", "replicas"]))
def test_numbers(by_hand, how):
    """Before clipping, over all rows; and none of validations."""
    keras.utils.set_random_seed(1)
    options = {"optimizer": keras.optimizers.Adam(0.05), "loss": "mse", "global_clipnorm": 0.5}
    trainer = Trainer(net(), log_norms=True, metrics=["mae"], **options, **HOW[how])
    history = trainer.fit(X, Y, **FIT).history
    assert set(history) == {"loss", "mae", *by_hand, "val_loss", "val_mae"}
    for name, values in by_hand.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4)
    results = trainer.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(results) == {"loss", "mae"}
    assert len(trainer.evaluate(X, Y, verbose=0)) == 2


def test_plain_fit(by_hand):
    """The same under Keras's own ``fit``."""
    keras.utils.set_random_seed(1)
    model = net(TrainableModel)
    model.compile(keras.optimizers.Adam(0.05), "mse", global_clipnorm=0.5, log_norms=True)
    history = model.fit(X, Y, **FIT).history
    assert set(history) == {"loss", *by_hand, "val_loss"}
    for name, values in by_hand.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4)


@pytest.mark.slow
def test_a_loss_scale_is_none_of_theirs(by_hand):
    """Nor does a step that it skips count."""
    keras.utils.set_random_seed(1)
    scaled = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.05), initial_scale=2.0**127
    )
    trainer = Trainer(net(), optimizer=scaled, loss="mse", global_clipnorm=0.5, log_norms=True)
    trainer.fit(X, Y, **FIT | {"epochs": 50})
    (norm,) = trainer.fit(X, Y, **FIT | {"epochs": 1}).history["gradient_norm"]
    assert np.isfinite(norm)
    assert 0.0 < norm < by_hand["gradient_norm"][0]


def test_of_each_update():
    """By its name."""
    _, history = test_updates.fitted(log_norms=True)
    names = {f"{name}_{norm}" for name in test_updates.RATES for norm in NORMS}
    assert names <= set(history)
    assert not [name for name in history if name.startswith("val_") and name.endswith("norm")]
    assert all(np.isfinite(history[name]).all() and min(history[name]) > 0 for name in names)


def test_refused():
    """What is no flag, and a step that does not know of it."""
    with pytest.raises(ArgumentError, match="`log_norms` must be True or False. Received: 'all'"):
        Trainer(net(), optimizer="sgd", loss="mse", log_norms="all")

    class OwnStep(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    with pytest.raises(ArgumentError, match="does not know log_norms=True"):
        Trainer(net(OwnStep), optimizer="sgd", loss="mse", log_norms=True)
