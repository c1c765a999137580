"""The models and data of the speed benchmark, the same for every contender.

    >>> work = WORKS["mlp"].sized(rows=64)
    >>> x, y = make_data(work)
    >>> x.shape, y.shape, work.steps
    ((64, 784), (64,), 2)

A model is built by Keras on whichever backend the process has; its initial weights come from
NumPy (`set_weights`), so that Keras on TensorFlow, Keras on JAX and the programs that are
written by hand start from the same numbers. A tenth of the labels is random, which slows
learning by heart; rounds start from the initial weights again, and jobs have more rows, so
that no time is of a model whose gradients have vanished.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

CLASSES = 10
WORDS = 1000
LEARNING_RATE = 1e-3
EPSILON = 1e-7  # Of Adam, as Keras has it.


@dataclasses.dataclass(frozen=True)
class Work:
    """What is trained, on how much.

    Attributes:
        title: for the table.
        build: makes the model, without weights that matter.
        shape: of the features of a row.
        batch: rows of a batch.
        rows: of an epoch; a whole number of batches.
        epochs: of a timed round.
        words: features are word numbers, not measurements.
        binary: the label is 0 or 1, not a class.
    """

    title: str
    build: Callable[[], Any]
    shape: tuple[int, ...]
    batch: int
    rows: int
    epochs: int = 1
    words: bool = False
    binary: bool = False

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self.rows // self.batch

    def sized(self, *, rows: int | None = None, batch: int | None = None) -> Work:
        """The same work with other numbers of rows; epochs are made of whole batches."""
        batch = batch or self.batch
        rows = max(batch, (rows or self.rows) // batch * batch)
        return dataclasses.replace(self, rows=rows, batch=batch)

    def quick(self) -> Work:
        """Four steps, to see that it runs."""
        return dataclasses.replace(self, rows=4 * self.batch, epochs=1)


@functools.cache
def make_data(work: Work) -> tuple[np.ndarray, np.ndarray]:
    """Rows around the centre of their class and the classes; or words, the first of which names it."""
    random = np.random.default_rng(0)
    y = random.integers(0, 2 if work.binary else CLASSES, work.rows).astype("int32")
    if work.words:
        x = random.integers(0, WORDS // CLASSES, (work.rows, *work.shape)).astype("int32")
        x[:, 0] += WORDS // CLASSES * y
    else:
        centres = random.normal(size=(CLASSES, *work.shape)).astype("float32") / 4
        x = random.standard_normal((work.rows, *work.shape), "float32")
        x += centres[y]
    noise = random.random(work.rows) < 0.1
    y[noise] = random.integers(0, 2 if work.binary else CLASSES, noise.sum())
    return x, y.astype("float32")[:, None] if work.binary else y


def make_model(work: Work) -> Any:
    """Builds the model, with logits as output and the same weights in every process."""
    model = work.build()
    set_weights(model)
    return model


def set_weights(model: Any) -> None:
    """Draws matrices from NumPy, of a size that keeps activations near 1; vectors stay."""
    random = np.random.default_rng(1)
    weights = []
    for weight in model.get_weights():
        if weight.ndim > 1:
            fan_in = max(np.prod(weight.shape[:-1]), 1)
            weight = random.normal(size=weight.shape) / np.sqrt(fan_in)
        weights.append(np.asarray(weight, "float32"))
    model.set_weights(weights)


def compile_arguments(work: Work, learning_rate: float = LEARNING_RATE) -> dict[str, Any]:
    """A new optimizer, loss and metric, of the same kind for all contenders."""
    import keras

    loss, metric = keras.losses.SparseCategoricalCrossentropy, "SparseCategoricalAccuracy"
    if work.binary:
        loss, metric = keras.losses.BinaryCrossentropy, "BinaryAccuracy"
    return {
        "optimizer": keras.optimizers.Adam(learning_rate, epsilon=EPSILON),
        "loss": loss(from_logits=True),
        "metrics": [getattr(keras.metrics, metric)()],
    }


# Models: a backend is imported where one is built ---------------------------------


def mlp(dropout: float = 0.0) -> Any:
    """784-64-10; with Dropout after the hidden layer, if asked for."""
    import keras

    inputs = keras.Input((784,))
    hidden = keras.layers.Dense(64, activation="relu")(inputs)
    if dropout:
        hidden = keras.layers.Dropout(dropout, seed=0)(hidden)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(hidden))


def convnet() -> Any:
    """Two convolutions of 16 and 32 filters, each followed by pooling."""
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ]
    )


def transformer() -> Any:
    """Two blocks of width 64 with 4 heads, over 32 words of 1000."""
    import keras

    layers = keras.layers
    inputs = keras.Input((32,), dtype="int32")
    hidden = layers.Embedding(WORDS, 64)(inputs)
    for _ in range(2):
        attended = layers.MultiHeadAttention(4, 16)(hidden, hidden)
        hidden = layers.LayerNormalization()(layers.add([hidden, attended]))
        wide = layers.Dense(256, activation="relu")(hidden)
        hidden = layers.LayerNormalization()(layers.add([hidden, layers.Dense(64)(wide)]))
    pooled = layers.GlobalAveragePooling1D()(hidden)
    return keras.Model(inputs, layers.Dense(CLASSES)(pooled))


def lstm() -> Any:
    """One LSTM of 64 units."""
    import keras

    return keras.Sequential(
        [keras.Input((32, 16)), keras.layers.LSTM(64), keras.layers.Dense(CLASSES)]
    )


def dense(*units: int, inputs: int, outputs: int) -> Any:
    """A perceptron of any size."""
    import keras

    hidden = [keras.layers.Dense(n, activation="relu") for n in units]
    return keras.Sequential([keras.Input((inputs,)), *hidden, keras.layers.Dense(outputs)])


WORKS = {
    "mlp": Work("MLP 784-64-10, batch 32", mlp, (784,), 32, 12_800, epochs=10),
    "convnet": Work(
        "convnet 28x28, 16 and 32 filters, batch 64", convnet, (28, 28, 1), 64, 3_200, epochs=2
    ),
    "transformer": Work(
        "transformer, 2 blocks of width 64, 32 words, batch 32",
        transformer,
        (32,),
        32,
        2_048,
        words=True,
    ),
    "lstm": Work(
        "LSTM(64) over 32 steps of 16 numbers, batch 32", lstm, (32, 16), 32, 3_200, epochs=2
    ),
    "tabular": Work(
        "tabular 200-256-128-1, batch 256",
        lambda: dense(256, 128, inputs=200, outputs=1),
        (200,),
        256,
        51_200,
        epochs=4,
        binary=True,
    ),
    "large": Work(
        "dense 1024-4096-4096-10 (21 M weights), batch 64",
        lambda: dense(4096, 4096, inputs=1024, outputs=CLASSES),
        (1024,),
        64,
        1_024,
    ),
    "mlp_dropout": Work(
        "MLP 784-64-10 with Dropout(0.5), batch 32", lambda: mlp(0.5), (784,), 32, 12_800, epochs=10
    ),
    "columns": Work(
        "MLP 16-32-1, batch 256",
        lambda: dense(32, inputs=16, outputs=1),
        (16,),
        256,
        10_240,
        binary=True,
    ),
}
# In the order of the tables; the others are for questions of their own.
RACED = ("mlp", "convnet", "transformer", "lstm", "tabular", "large")
