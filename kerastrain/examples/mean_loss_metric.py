"""A loop with a mean-loss metric that resets each epoch, by hand and with kerastrain.

    python -m kerastrain.examples.mean_loss_metric

The metric by hand takes the mean loss of each batch and averages these. Its mistake shows
when the last batch is short: 1,025 rows in batches of 128 are eight full batches and one of
a single row, and that row then counts as much as 128 others. It should be

    mean loss = (sum of the losses of all rows) / (number of rows)

and both the loss that `Trainer` reports and a metric that adds up rows give that number.
`Trainer` resets each metric once at the start of each epoch: there is no reset to forget.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kerastrain
from kerastrain.examples._shared import make_classifier
from kerastrain.examples._shared import training_digits

ROWS = 1025
BATCH_SIZE = 128


@dataclasses.dataclass(frozen=True)
class Figures:
    """The mean loss of each epoch: what is true, and what each program reported.

    Attributes:
        exact: the mean over all rows, each row's loss taken when its batch was trained.
        by_hand: what the loop by hand reported.
        kerastrain_loss: the ``loss`` of `Trainer.fit`.
        kerastrain_metric: the ``mean_loss`` of `Trainer.fit`: the metric that was given to it.
    """

    exact: list[float]
    by_hand: list[float]
    kerastrain_loss: list[float]
    kerastrain_metric: list[float]


class MeanOfBatchMeans(keras.metrics.Metric):
    """The metric as people write it: every batch counts as one, however few rows it has."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.add_weight(name="total", initializer="zeros")
        self.batches = self.add_weight(name="batches", initializer="zeros")

    def update_state(self, loss: tf.Tensor) -> None:
        self.total.assign_add(loss)
        self.batches.assign_add(1.0)

    def result(self) -> tf.Tensor:
        return self.total / self.batches


class MeanLoss(keras.metrics.Metric):
    """The metric for `Trainer`: sum of ``weight * loss`` over rows, over the sum of weights."""

    def __init__(self, name: str = "mean_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")
        self.rows = self.add_weight(name="rows", initializer="zeros")

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        losses = keras.losses.sparse_categorical_crossentropy(y_true, y_pred)
        weights = tf.ones_like(losses)
        if sample_weight is not None:
            weights = tf.cast(sample_weight, losses.dtype)
        self.total.assign_add(tf.reduce_sum(losses * weights))
        self.rows.assign_add(tf.reduce_sum(weights))

    def result(self) -> tf.Tensor:
        return tf.math.divide_no_nan(self.total.value, self.rows.value)


def train_by_hand(
    model: keras.Model, x: np.ndarray, y: np.ndarray, epochs: int
) -> tuple[list[float], list[float]]:
    """Trains as people write it; gives what the metric said of each epoch, and what is true."""
    optimizer, metric = keras.optimizers.Adam(), MeanOfBatchMeans()

    @tf.function(reduce_retracing=True)
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(y, predictions)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        metric.update_state(loss)
        return losses

    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE)
    reported, exact = [], []
    for _ in range(epochs):
        metric.reset_state()
        losses = [step(*batch) for batch in batches]
        reported.append(float(metric.result()))
        # Only to compare with: nobody keeps the loss of every row.
        exact.append(float(np.mean(np.concatenate(losses))))
    return reported, exact


def main(epochs: int = 3) -> Figures:
    """Trains twice, and prints what each program reported beside the exact figure.

    Args:
        epochs: how many.
    """
    x, y = training_digits(ROWS)
    by_hand, exact = train_by_hand(make_classifier(), x, y, epochs)

    trainer = kerastrain.Trainer(
        make_classifier(),
        optimizer=keras.optimizers.Adam(),
        loss="sparse_categorical_crossentropy",
        metrics=[MeanLoss()],
    )
    history = trainer.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, shuffle=False, verbose=0)

    figures = Figures(exact, by_hand, history.history["loss"], history.history["mean_loss"])
    print("epoch  exact     by hand   off by     kerastrain  off by")
    rows = zip(exact, by_hand, figures.kerastrain_metric, strict=True)
    for epoch, (true, hand, own) in enumerate(rows, start=1):
        by_hand_part = f"{hand:.6f}  {hand - true:+.1e}"
        print(f"{epoch:5}  {true:.6f}  {by_hand_part}   {own:.6f}    {own - true:+.1e}")
    return figures


if __name__ == "__main__":
    main()
