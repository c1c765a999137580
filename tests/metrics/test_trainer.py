"""All metrics have the results of one device in training over replicas, ragged batches too."""

import contextlib

import keras
import numpy as np
import pytest

from kerastrain import metrics
from kerastrain import Trainer
from kerastrain.distribution import strategy
from tests.support import datasets
from tests.support import models

ROWS, BATCH = 11, 4  # batches of 4, 4 and 3: no half of 3


def binary():
    """Data, loss, outputs and metrics for one score a row."""
    x, y, weight = datasets.regression(ROWS, outputs=1)
    made = [
        metrics.ROCAUC(), metrics.AveragePrecision(), metrics.MatthewsCorrelation(2, threshold=0.0),
        metrics.FScore(2, average="binary", threshold=0.0), metrics.Precision(2, threshold=0.0),
        metrics.Recall(2, average="weighted", threshold=0.0),
        metrics.ExpectedCalibrationError(5, from_logits=True),
    ]  # fmt: skip
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return x, (y[:, 0] > 0).astype("int32"), weight, loss, 1, made


def regression():
    """Data, loss, outputs and metrics for one value a row."""
    x, y, weight = datasets.regression(ROWS, outputs=1)
    made = [
        metrics.R2Score(), metrics.PearsonCorrelation(), metrics.SpearmanCorrelation(),
        metrics.AbsoluteErrorQuantile(0.5),
    ]  # fmt: skip
    return x, y, weight, "mse", 1, made


def trained(problem, where):
    """The history of two epochs with validation, and the trainer."""
    keras.utils.set_random_seed(3)
    scope = strategy.resolve(where)
    with scope.scope() if scope else contextlib.nullcontext():
        x, y, weight, loss, outputs, made = problem()
        model = models.mlp(outputs=outputs)
    trainer = Trainer(
        model,
        optimizer=keras.optimizers.SGD(0.1),
        loss=loss,
        weighted_metrics=made,
        strategy=scope,
        execution="step",
    )
    history = trainer.fit(
        x, y, sample_weight=weight, batch_size=BATCH, epochs=2, shuffle=False, verbose=0,
        validation_data=(x[:7], y[:7], weight[:7]),
    ).history  # fmt: skip
    return history, x, y, weight, trainer


@pytest.mark.slow
@pytest.mark.parametrize("problem", [binary, regression])
def test_replicas_equal_one_device(problem):
    """Every epoch's train and validation results are those of one device."""
    one, *_, made = trained(problem, None)
    two, *_ = trained(problem, "mirrored:2")
    assert list(one) == list(two)
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert len({round(value[0], 4) for value in one.values()}) > 6


def test_rates_and_matrices_of_classes():
    """A result that is a vector or a matrix is logged by training as it is."""
    x, y = datasets.classes(ROWS)
    made = [metrics.Recall(3, average=None), metrics.ConfusionMatrix(3)]
    trainer = Trainer(
        models.mlp(outputs=3), optimizer="sgd", metrics=made,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )  # fmt: skip
    history = trainer.fit(x, y, batch_size=BATCH, verbose=0).history
    assert (3,) == np.shape(history["recall"][0])
    assert ROWS == np.sum(history["confusion_matrix"][0])
