"""The demo: a classifier of small images, trained through `Trainer`.

::

    from kerastrain.cli import demo

    outcome = demo.run(epochs=3)
    print(outcome.results["accuracy"])

It is what a user's own program looks like: data, a Keras model, a metric of
its own, and one call each of ``fit`` and ``evaluate``. `python -m kerastrain demo`
runs it and prints its tables.
"""

import math
import time
from pathlib import Path
from typing import Any
from typing import Literal
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops
from rich.table import Table

from kerastrain import datasets
from kerastrain.errors import DataError
from kerastrain.trainer import Trainer

# The rate of the first step; it falls to zero along a cosine.
LEARNING_RATE = 3e-3
# One in this number of training images is kept for validation.
VALIDATION_SHARE = 10


@keras.saving.register_keras_serializable(package="kerastrain")
class BalancedAccuracy(keras.metrics.Metric):
    """The mean over classes of the share of their rows that is classified right.

    With ``w[i]`` the weight of row ``i`` (1 by default)::

        hits[c]  = sum of w[i] over the rows of class c with argmax(y_pred[i]) == c
        total[c] = sum of w[i] over the rows of class c
        result   = mean of hits[c] / total[c] over the classes with total[c] > 0

    The state is the two sums, so the result is exact over batches of any size
    and order, and states merge by adding. It is 0 before any row.

    Args:
        classes: the number of classes.

    Example:
        >>> metric = BalancedAccuracy(2)
        >>> metric.update_state([0, 0, 0, 1], [[0.9, 0.1]] * 4)  # class 1 is never found
        >>> float(metric.result())
        0.5
    """

    def __init__(self, classes: int, name: str = "balanced_accuracy", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.classes = classes
        self.hits = self.add_variable((classes,), "zeros", name="hits")
        self.total = self.add_variable((classes,), "zeros", name="total")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds rows: ``y_true`` (rows,) or (rows, 1), ``y_pred`` (rows, classes)."""
        y_true = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        right = ops.cast(ops.equal(y_true, ops.argmax(y_pred, axis=-1)), self.dtype)
        of_class = ops.one_hot(y_true, self.classes, dtype=self.dtype)
        if sample_weight is not None:
            weight = ops.reshape(ops.cast(sample_weight, self.dtype), (-1, 1))
            of_class = of_class * weight
        self.hits.assign_add(ops.sum(of_class * right[:, None], axis=0))
        self.total.assign_add(ops.sum(of_class, axis=0))

    def result(self) -> tf.Tensor:
        """The mean recall, a scalar from 0 to 1."""
        recalls = ops.divide_no_nan(self.hits, self.total)
        seen = ops.sum(ops.cast(self.total > 0, self.dtype))
        return ops.divide_no_nan(ops.sum(recalls), seen)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal metric."""
        return {**super().get_config(), "classes": self.classes}


class Outcome(NamedTuple):
    """What a run of the demo found.

    Attributes:
        history: ``{name: [result of each epoch]}``, as Keras's ``History`` has it.
        results: ``{name: result}`` on the held-out images.
        held_out: how many images those are.
        seconds: the time that ``fit`` took.
    """

    history: dict[str, list[float]]
    results: dict[str, float]
    held_out: int
    seconds: float


def run(
    data: str | Path | None = None,
    *,
    epochs: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    verbose: int | Literal["auto"] = 0,
) -> Outcome:
    """Trains the classifier and evaluates it on the held-out images.

    Args:
        data: what `kerastrain.datasets.load` takes; None for the digits.
        epochs: passes over the training images.
        batch_size: rows of a training step.
        seed: decides the first weights, the order of batches, dropout, and
            which tenth of the training images validates.
        verbose: as for `Trainer.fit`.

    Raises:
        DataError: the data cannot be loaded, or is too small to learn from.

    Example:
        >>> sorted(run(epochs=1).results)
        ['accuracy', 'balanced_accuracy', 'loss']
    """
    split = datasets.load(data)
    classes = _count_classes(split, data)
    x, x_test = _images(split.x_train), _images(split.x_test)
    order = np.random.default_rng(seed).permutation(len(x))
    validation, train = np.split(order, [max(1, len(x) // VALIDATION_SHARE)])

    keras.utils.set_random_seed(seed)
    steps = epochs * math.ceil(len(train) / batch_size)
    rate = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    trainer = Trainer(
        build_model(x.shape[1:], classes, largest=float(np.abs(x).max())),
        optimizer=keras.optimizers.Adam(rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy", BalancedAccuracy(classes)],
        seed=seed,
    )
    begun = time.perf_counter()
    history = trainer.fit(
        x[train],
        split.y_train[train],
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(x[validation], split.y_train[validation]),
        verbose=verbose,
    )
    seconds = time.perf_counter() - begun
    results = trainer.evaluate(x_test, split.y_test, verbose=0, return_dict=True)
    return Outcome(history.history, results, len(x_test), seconds)


def build_model(image_shape: tuple[int, int, int], classes: int, largest: float) -> keras.Model:
    """A small convolutional network that fits the size of the images.

    Stages of a 3 by 3 convolution and a pooling that halves both sides, until
    the shorter side is 8 or less, two stages at least; then two dense layers.

    Args:
        image_shape: ``(height, width, channels)``.
        classes: the number of outputs, the probabilities of the classes.
        largest: the largest absolute value of a pixel, which becomes 1.

    Example:
        >>> build_model((28, 28, 1), classes=10, largest=255.0).output_shape
        (None, 10)
    """
    inputs = keras.Input(image_shape)
    x = layers.Rescaling(1 / largest if largest else 1.0)(inputs)
    stages = max(2, math.ceil(math.log2(min(image_shape[:2]) / 8)))
    for stage in range(stages):
        filters = min(32 * 2**stage, 128)
        x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        # A side of one pixel cannot be halved.
        x = layers.MaxPooling2D([min(2, side) for side in x.shape[1:3]])(x)
    x = layers.Dropout(0.3)(layers.Flatten()(x))
    x = layers.Dropout(0.3)(layers.Dense(128, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(x))


def table(history: dict[str, list[float]]) -> Table:
    """The results of each epoch, one epoch a row.

    Example:
        >>> table({"loss": [0.5, 0.25]}).row_count
        2
    """
    found = Table(title="Results per epoch")
    for name in ("epoch", *history):
        found.add_column(name.replace("_", " "), justify="right")
    for epoch, results in enumerate(zip(*history.values(), strict=True), start=1):
        found.add_row(str(epoch), *(f"{result:.4f}" for result in results))
    return found


def _images(x: np.ndarray) -> np.ndarray:
    """``(rows, height, width, channels)``; bytes stay bytes, a quarter of float32's memory."""
    x = x if x.dtype == np.uint8 else x.astype(np.float32)
    return x if x.ndim == 4 else x[..., None]


def _count_classes(split: datasets.Split, data: str | Path | None) -> int:
    source = "digits.npz" if data is None else datasets.shown(data)
    rows = len(split.x_train)
    if rows < 2:
        raise DataError(
            f"{source}: {rows} training image; at least 2 are needed, one to train on and "
            "one to validate."
        )
    classes = int(max(split.y_train.max(), split.y_test.max())) + 1
    if classes > rows:
        raise DataError(
            f"{source}: a label is {classes - 1}, but there are {rows} training images; "
            "number the classes from 0 without gaps."
        )
    return classes
