"""Every pass over data begins with fresh metrics, whatever they have counted elsewhere."""

import keras
import pytest
import tensorflow as tf

from kerastrain import TrainableModel
from kerastrain import Trainer
from tests.support import datasets
from tests.support import tiers

X, Y, _ = datasets.regression(rows=24)
Y = Y[:, :1]


class OfDicts(keras.Model):
    """Its steps take batches of a form of their own: nothing can build the metrics before them."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

    def test_step(self, data):
        y_pred = self(data["rows"])
        self._loss_tracker.update_state(self.compute_loss(None, data["targets"], y_pred))
        return self.compute_metrics(None, data["targets"], y_pred)

    train_step = test_step


def plain(kind):
    keras.utils.set_random_seed(2)
    inputs = keras.Input((X.shape[1],))
    return kind(inputs, keras.layers.Dense(1)(inputs))


def used_metric():
    """One that has counted a row in another training."""
    metric = keras.metrics.MeanAbsoluteError(name="mae")
    metric.update_state([0.0], [1000.0])
    return metric


def error_by_hand(model):
    return float(abs(model(X).numpy() - Y).mean())


@pytest.mark.parametrize("strategy", [None, tiers.slow("mirrored")])
@pytest.mark.parametrize("own_step", [False, True])
def test_evaluations_begin_fresh(own_step, strategy):
    """The metric is in the hands of the first `Trainer`, and then of another one."""
    metric, model = used_metric(), OfDicts() if own_step else plain(keras.Model)
    model(X)
    data = tf.data.Dataset.from_tensor_slices(
        {"rows": X, "targets": Y} if own_step else (X, Y)
    ).batch(8)
    for _ in range(2):
        trainer = Trainer(model, optimizer="sgd", loss="mse", metrics=[metric], strategy=strategy)
        found = trainer.evaluate(data, verbose=0, return_dict=True)["mae"]
        assert error_by_hand(model) == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("entry_point", ["trainer", "fit"])
def test_trainings_begin_fresh(entry_point):
    """From the first epoch on, where the metrics are built by its first step."""
    metric, model = used_metric(), plain(TrainableModel if entry_point == "fit" else keras.Model)
    compiled = {"optimizer": keras.optimizers.SGD(0.0), "loss": "mse", "metrics": [metric]}
    if entry_point == "trainer":
        fit = Trainer(model, **compiled).fit
    else:
        model.compile(**compiled)
        fit = model.fit
    history = fit(X, Y, batch_size=8, epochs=2, verbose=0).history
    assert [error_by_hand(model)] * 2 == pytest.approx(history["mae"], rel=1e-5)


def test_a_step_of_the_users_own_begins_fresh():
    """Its batches are what only it knows."""
    metric, model = used_metric(), OfDicts()
    data = tf.data.Dataset.from_tensor_slices({"rows": X, "targets": Y}).batch(8)
    trainer = Trainer(model, optimizer="sgd", loss="mse", metrics=[metric])
    history = trainer.fit(data, epochs=2, verbose=0).history
    assert [error_by_hand(model)] * 2 == pytest.approx(history["mae"], rel=1e-5)
