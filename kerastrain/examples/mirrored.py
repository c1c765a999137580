"""The loop on two replicas with a distributed data set, by hand and with kerastrain.

    python -m kerastrain.examples.mirrored

The loop by hand takes the mean loss of the rows that each replica sees and applies the
gradients. Its mistake is that the optimizer *adds* the gradients of the replicas, so two
replicas make steps twice as long: the learning rate has silently become

    learning rate x number of replicas

as a run on one device with twice the rate shows: it ends at the same weights. (Adam nearly
hides it, plain gradient descent does not.) Dividing by the number of replicas is not the
cure: with a short last batch the replicas get different numbers of rows, or none, and their
means do not count the same. `Trainer` divides by the rows of the whole batch, whichever
replica saw them, and ends where one device ends, short last batch or not.

The two replicas are logical devices of one processor, so the program runs anywhere; it shows
numbers, not speed.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

import kerastrain
from kerastrain.examples._shared import largest_difference
from kerastrain.examples._shared import make_classifier
from kerastrain.examples._shared import training_digits
from kerastrain.examples.mean_loss_metric import MeanLoss

BATCH_SIZE = 64
LEARNING_RATE = 0.1
REPLICAS = ["CPU:0", "CPU:1"]


@dataclasses.dataclass(frozen=True)
class Figures:
    """How far a run on two replicas ends from the run on one device, for one set of batches.

    Attributes:
        rows: rows of the training data.
        last_batch: rows of the last batch; `BATCH_SIZE` when all are full.
        by_hand: max|dw| of the loop by hand.
        by_hand_double_rate: max|dw| between the loop by hand and one device at *twice* the
            learning rate.
        kerastrain: max|dw| of `Trainer`.
        kerastrain_loss: largest difference of the mean loss that `Trainer` reports for an
            epoch.
    """

    rows: int
    last_batch: int
    by_hand: float
    by_hand_double_rate: float
    kerastrain: float
    kerastrain_loss: float


def train_by_hand(
    strategy: tf.distribute.Strategy,
    x: np.ndarray,
    y: np.ndarray,
    epochs: int,
    learning_rate: float = LEARNING_RATE,
) -> tuple[list[np.ndarray], list[float]]:
    """Trains as people write it, which is right on one device; gives weights and mean losses."""
    with strategy.scope():
        model, metric = make_classifier(), MeanLoss()
        optimizer = keras.optimizers.SGD(learning_rate)

    def replica_step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            predictions = model(x, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(y, predictions)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        # This adds the gradients of all replicas, then updates.
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        metric.update_state(y, predictions)

    @tf.function(reduce_retracing=True)
    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        strategy.run(replica_step, args=(x, y))

    mean_losses = []
    batches = strategy.experimental_distribute_dataset(make_batches(x, y))
    for _ in range(epochs):
        metric.reset_state()
        for batch in batches:
            step(*batch)
        mean_losses.append(float(metric.result()))
    return model.get_weights(), mean_losses


def train_with_kerastrain(
    strategy: tf.distribute.Strategy, x: np.ndarray, y: np.ndarray, epochs: int
) -> tuple[list[np.ndarray], list[float]]:
    """Trains an ordinary model on whole batches; gives its weights and mean losses."""
    model = make_classifier()
    trainer = kerastrain.Trainer(
        model,
        optimizer=keras.optimizers.SGD(LEARNING_RATE),
        loss="sparse_categorical_crossentropy",
        metrics=[MeanLoss()],
        strategy=strategy,
    )
    history = trainer.fit(make_batches(x, y), epochs=epochs, verbose=0)
    return model.get_weights(), history.history["mean_loss"]


def make_batches(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    """Gives the rows in order, `BATCH_SIZE` at a time for all replicas together."""
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE)


def compare(two_replicas: tf.distribute.Strategy, rows: int, epochs: int) -> Figures:
    """Trains the first ``rows`` digits on one device, and on two replicas in both ways."""
    x, y = training_digits(rows)
    # The default strategy: the loop by hand is then an ordinary loop, and right.
    one_device = tf.distribute.get_strategy()
    expected, expected_losses = train_by_hand(one_device, x, y, epochs)
    double_rate, _ = train_by_hand(one_device, x, y, epochs, learning_rate=2 * LEARNING_RATE)
    by_hand, _ = train_by_hand(two_replicas, x, y, epochs)
    own, own_losses = train_with_kerastrain(two_replicas, x, y, epochs)
    return Figures(
        rows=len(x),
        last_batch=len(x) % BATCH_SIZE or BATCH_SIZE,
        by_hand=largest_difference(by_hand, expected),
        by_hand_double_rate=largest_difference(by_hand, double_rate),
        kerastrain=largest_difference(own, expected),
        kerastrain_loss=float(np.max(np.abs(np.subtract(own_losses, expected_losses)))),
    )


def make_two_logical_devices() -> None:
    """Splits the processor into two logical devices.

    Raises:
        RuntimeError: TensorFlow has started without them, so it is too late.
    """
    (processor,) = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration()] * len(REPLICAS)
    try:
        tf.config.set_logical_device_configuration(processor, devices)
    except RuntimeError as error:
        if len(tf.config.list_logical_devices("CPU")) >= len(REPLICAS):
            return
        raise RuntimeError(
            "Two logical devices are needed, and TensorFlow has started without them. Call "
            "`main()` first thing in a process, or run `python -m kerastrain.examples.mirrored`."
        ) from error


def main(epochs: int = 2) -> dict[str, Figures]:
    """Compares with full and with short last batches, and prints the largest |dw| of each.

    Args:
        epochs: how many.

    Returns:
        The figures by case: "full batches", "short last batch" and "one row left".
    """
    make_two_logical_devices()
    # One for all: in TensorFlow 2.21 a second strategy on the same processor reuses the keys
    # of the first one's collectives, and stops where their shapes differ.
    two_replicas = tf.distribute.MirroredStrategy(REPLICAS)
    cases = {"full batches": 512, "short last batch": 517, "one row left": 513}
    figures = {name: compare(two_replicas, rows, epochs) for name, rows in cases.items()}
    print("max|dw|, two replicas against one device, after", epochs, "epochs")
    for name, found in figures.items():
        double = f"{found.by_hand_double_rate:.1e} from one device at twice the rate"
        print(f"{name} ({found.rows} rows, the last batch has {found.last_batch}):")
        print(f"  by hand     {found.by_hand:.1e}  ({double})")
        print(f"  kerastrain  {found.kerastrain:.1e}")
    return figures


if __name__ == "__main__":
    main()
