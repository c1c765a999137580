"""A plain training loop that takes a model as an argument, by hand and with kerastrain.

    python -m kerastrain.examples.plain_loop

The loop by hand is the first one that everybody writes, and its numbers are right. Its
mistake is that each step runs eagerly: Python starts every operation of the forward pass,
the gradient and the update one by one, in each step again. `Trainer` compiles the step once.
Both make the same updates from the same weights on the same batches, so the weights agree,
and only the time differs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import kerastrain
from kerastrain.examples._shared import largest_difference
from kerastrain.examples._shared import make_classifier
from kerastrain.examples._shared import training_digits

BATCH_SIZE = 32
LEARNING_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Figures:
    """What this program measured.

    Attributes:
        by_hand: microseconds per step of the loop by hand.
        kerastrain: microseconds per step of `Trainer.fit`.
        weight_difference: max|dw| between the two, after all steps.
    """

    by_hand: float
    kerastrain: float
    weight_difference: float


def train_by_hand(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
) -> None:
    """Trains ``model`` as people write it: nothing here is compiled."""
    loss_function = keras.losses.SparseCategoricalCrossentropy()
    for _ in range(epochs):
        for start in range(0, len(x), BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            with tf.GradientTape() as tape:
                loss = loss_function(y[rows], model(x[rows], training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


def main(epochs: int = 3) -> Figures:
    """Trains twice, prints the time of a step in each and how far the weights differ.

    Args:
        epochs: how many are timed, after one that is not.
    """
    x, y = training_digits()

    hand_model, hand_optimizer = make_classifier(), keras.optimizers.SGD(LEARNING_RATE)

    def by_hand(epochs: int) -> None:
        train_by_hand(hand_model, hand_optimizer, x, y, epochs)

    model = make_classifier()
    trainer = kerastrain.Trainer(
        model,
        optimizer=keras.optimizers.SGD(LEARNING_RATE),
        loss="sparse_categorical_crossentropy",
    )

    def with_kerastrain(epochs: int) -> None:
        trainer.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, shuffle=False, verbose=0)

    steps = epochs * -(-len(x) // BATCH_SIZE)
    figures = Figures(
        by_hand=seconds_after_first_epoch(by_hand, epochs) / steps * 1e6,
        kerastrain=seconds_after_first_epoch(with_kerastrain, epochs) / steps * 1e6,
        weight_difference=largest_difference(model.get_weights(), hand_model.get_weights()),
    )
    times = figures.by_hand / figures.kerastrain
    print(f"by hand, eager  {figures.by_hand:6.0f} µs per step")
    print(f"kerastrain      {figures.kerastrain:6.0f} µs per step, {times:.1f} times as fast")
    print(f"weights differ by {figures.weight_difference:.1e} at most")
    return figures


def seconds_after_first_epoch(train: Callable[[int], None], epochs: int) -> float:
    """Trains one epoch, in which things are built and compiled, then times ``epochs`` more."""
    train(1)
    start = time.perf_counter()
    train(epochs)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
