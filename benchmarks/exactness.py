"""How exact is it: the weights of three ways to train, against one device with whole batches.

    python -m benchmarks.exactness                    # all rows, some minutes
    python -m benchmarks.exactness --rows LSTM        # those whose name holds "LSTM"
    python -m benchmarks.exactness --quick            # three rows: shows that it runs
    python -m benchmarks.exactness --rst              # as a table; README.rst has a part of it

A row is a model, a loss and data, and how each batch is cut: over replicas (logical devices of
the processor) or into micro-batches. The reference is ``model.fit`` of the same model on one
device with the whole batch at once, from the same weights, over the same batches in the same
order. Printed is the largest absolute difference of any weight after the epoch, or of a logged
value where the row says so, for

``model.fit``
    a ``keras.Model`` built and compiled in the strategy's scope. Micro-batches are batches of
    ``fit``, with the optimizer's ``gradient_accumulation_steps``.
hand-written loop
    as people write it: ``strategy.run`` of a step over ``experimental_distribute_dataset``. Each
    replica takes the mean loss of its rows over the number of replicas (a ``keras.losses.Loss``
    does that division itself there, other terms are divided by hand) and calls
    ``apply_gradients``, which adds the replicas' gradients. Micro-batches are batches of the
    data set, whose gradients over their number are added up until the last one is applied. The
    logged loss is the mean over batches.
kerastrain
    ``Trainer(model, strategy=..., micro_batches=...)`` and the whole batch.

A way that stops with an error is shown as ``crash`` and the exception. So that the reference can
be trusted, kerastrain also runs each row on one device with whole batches, and rows where that
is further than 1e-6 from ``model.fit`` are named under the table.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.box
import rich.console
import rich.progress
import rich.table
import tensorflow as tf
from keras import layers
from keras import losses
from keras import optimizers

import kerastrain
from benchmarks.harness import largest_difference
from benchmarks.harness import machine_line
from kerastrain.distribution import strategy as strategy_lib

WAYS = ("model.fit", "hand-written loop", "kerastrain")
TOLERANCE = 1e-6
DEVICES = 4
CLASS_WEIGHT = {0: 0.5, 1: 2.0, 2: 1.0}

# Models -------------------------------------------------------------------------------------


def perceptron(make: Callable = keras.Model, between: Callable | None = None, **dense: Any):
    """Four features, six hidden units, one output; ``between`` acts on the hidden units."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation="tanh", **dense)(inputs)
    hidden = hidden if between is None else between(hidden)
    return make(inputs, layers.Dense(1, **dense)(hidden))


def classifier() -> keras.Model:
    """Four features, three classes."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation="tanh")(inputs)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))


def two_outputs() -> keras.Model:
    """A regression ``a`` and a classification ``b`` of the same hidden units."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation="tanh")(inputs)
    b = layers.Dense(3, activation="softmax", name="b")(hidden)
    return keras.Model(inputs, {"a": layers.Dense(1, name="a")(hidden), "b": b})


def tagger() -> keras.Model:
    """A class for each of six tokens; token 0 is padding and masked."""
    inputs = keras.Input((6,), dtype="int32")
    states = layers.LSTM(5, return_sequences=True)(layers.Embedding(8, 4, mask_zero=True)(inputs))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(states))


def normalized(synchronized: bool = False) -> keras.Model:
    """A perceptron with batch normalization between its layers."""
    return perceptron(between=layers.BatchNormalization(synchronized=synchronized))


def dropping() -> keras.Model:
    """A perceptron that drops half of its hidden units."""
    return perceptron(between=layers.Dropout(0.5, seed=1))


@keras.saving.register_keras_serializable("exactness")
class AddsLoss(layers.Layer):
    """Adds the ``mean`` or the ``sum`` of its squared input to the loss."""

    def __init__(self, reduction: str, **options: Any):
        super().__init__(**options)
        self.reduction = reduction

    def call(self, x: tf.Tensor) -> tf.Tensor:
        reduce = {"mean": tf.reduce_mean, "sum": tf.reduce_sum}[self.reduction]
        self.add_loss(0.1 * reduce(x**2))
        return x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "reduction": self.reduction}


@keras.saving.register_keras_serializable("exactness")
class OwnComputeLoss(keras.Model):
    """Overrides ``compute_loss`` with a mean over the rows."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_mean((y - y_pred) ** 2)


@keras.saving.register_keras_serializable("exactness")
class OwnTrainStep(keras.Model):
    """Overrides ``train_step`` with a mean over the rows, which it does not divide."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((y - self(x, training=True)) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def mean_squared(y: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    """A loss function that returns one number, as many people write it."""
    return tf.reduce_mean((y - y_pred) ** 2)


class Maximum(keras.metrics.Metric):
    """The largest absolute error: a state that is a maximum, not a sum."""

    def __init__(self, name: str = "maximum"):
        super().__init__(name=name)
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = keras.ops.max(keras.ops.abs(y_true - y_pred), initial=0.0)
        self.largest.assign(keras.ops.maximum(self.largest, error))

    def result(self):
        return keras.ops.convert_to_tensor(self.largest)


# Data ---------------------------------------------------------------------------------------


def numbers(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Four features and a number, whose spread grows so that no two rows weigh alike."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 4)).astype("float32") / 2
    return x, (x[:, :1] * 2 + random.normal(size=(rows, 1))).astype("float32")


def bits(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Four features, and whether a number is above 0."""
    x, y = numbers(rows)
    return x, (y > 0).astype("float32")


def overflowing(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """As `numbers`, but the gradient of the first batch's last row is not finite."""
    x, y = numbers(rows)
    y[rows // 2 - 1] = 1e38
    return x, y


def classes(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Four features and one of three classes."""
    random = np.random.default_rng(0)
    return random.normal(size=(rows, 4)).astype("float32"), random.integers(0, 3, rows)


def numbers_and_classes(rows: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Four features with a number ``a`` and a class ``b``."""
    (x, a), (_, b) = numbers(rows), classes(rows)
    return x, {"a": a, "b": b}


def sentences(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Six tokens with padding at the end, one to six of them real, and a class for each."""
    random = np.random.default_rng(0)
    tokens = random.integers(1, 8, (rows, 6))
    lengths = random.integers(1, 7, (rows, 1))
    return tokens * (np.arange(6) < lengths), random.integers(0, 3, (rows, 6))


def row_weights(rows: int) -> np.ndarray:
    """A sample weight for each row, some zero."""
    return np.random.default_rng(1).integers(0, 4, rows).astype("float32")


# Rows ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to train, and how its batches are cut.

    Attributes:
        what: names it in the table, without the cut.
        rows, batch: rows of the data and of a whole batch, "11/4" in the table; the last batch
            is shorter where it does not divide.
        replicas, micro_batches: the cut.
        network, loss, optimizer, metrics: make new ones; ``loss`` may be a function of
            ``(y, y_pred)`` or a dict of makers by output.
        data: gives ``(x, y)`` of so many rows.
        weighted: whether there are sample weights.
        class_weight: as `fit` takes it.
        divided: whether the hand-written loop divides a loss that is no Keras object by the
            number of replicas.
        shown: what is compared: ``"weights"``, or names in the logs.
    """

    what: str
    rows: int = 16
    batch: int = 8
    replicas: int = 2
    micro_batches: int = 1
    network: Callable[[], keras.Model] = perceptron
    data: Callable[[int], tuple] = numbers
    loss: Any = losses.MeanSquaredError
    optimizer: Callable[..., optimizers.Optimizer] = functools.partial(optimizers.SGD, 0.5)
    metrics: tuple[Callable[[], keras.metrics.Metric], ...] = ()
    weighted: bool = False
    class_weight: dict[int, float] | None = None
    divided: bool = True
    shown: tuple[str, ...] = ("weights",)

    @property
    def name(self) -> str:
        """What it is and the cut, as the table has it."""
        cut = [f"{self.rows}/{self.batch}"]
        cut += [f"{self.replicas} replicas"] if self.replicas > 1 else []
        cut += [f"{self.micro_batches} micro-batches"] if self.micro_batches > 1 else []
        return f"{self.what}, {', '.join(cut)}"

    def whole(self) -> Row:
        """The same on one device with the whole batch at once."""
        return dataclasses.replace(self, replicas=1, micro_batches=1)


def _sgd(rate: float = 0.5, **options: Any) -> Callable[..., optimizers.Optimizer]:
    return functools.partial(optimizers.SGD, rate, **options)


def _adding(reduction: str) -> Callable[[], keras.Model]:
    return lambda: perceptron(between=AddsLoss(reduction))


def _scheduled(**options: Any) -> optimizers.Optimizer:
    return optimizers.SGD(optimizers.schedules.ExponentialDecay(0.5, 1, 0.5), **options)


def _loss_scaled(**options: Any) -> optimizers.Optimizer:
    return optimizers.LossScaleOptimizer(optimizers.SGD(0.5), **options)


_CROSS_ENTROPY = losses.SparseCategoricalCrossentropy
_ACCURACY = functools.partial(keras.metrics.SparseCategoricalAccuracy, "accuracy")
_CLASSES = {"network": classifier, "data": classes, "loss": _CROSS_ENTROPY}
_TOKENS = {"network": tagger, "data": sentences, "loss": _CROSS_ENTROPY, "metrics": (_ACCURACY,)}
_SUM = functools.partial(losses.MeanSquaredError, reduction="sum")
_BY_WEIGHT = functools.partial(losses.MeanSquaredError, reduction="mean_with_sample_weight")
_UNREDUCED = functools.partial(losses.MeanSquaredError, reduction=None)
_AUC = functools.partial(keras.metrics.AUC, name="auc", from_logits=True)
_BITS = {"data": bits, "loss": functools.partial(losses.BinaryCrossentropy, from_logits=True)}
_L2 = functools.partial(perceptron, kernel_regularizer="l2")
_SYNCHRONIZED = functools.partial(normalized, synchronized=True)
_OUTPUTS = {"a": losses.MeanSquaredError, "b": _CROSS_ENTROPY}
_ONE_DEVICE = {"replicas": 1, "micro_batches": 2}

# fmt: off
ROWS = (
    # Even batches: each replica has the same number of rows.
    Row("mse"),
    Row("sample weights", weighted=True),
    Row("class weights", **_CLASSES, class_weight=CLASS_WEIGHT),
    Row("L2 regulariser", network=_L2),
    Row("two outputs", network=two_outputs, data=numbers_and_classes, loss=_OUTPUTS),
    Row("mean_with_sample_weight", weighted=True, loss=_BY_WEIGHT),
    Row("mean_with_sample_weight", weighted=True, loss=_BY_WEIGHT, shown=("loss",)),
    Row("masked LSTM", **_TOKENS),
    Row("loss function returning a mean", loss=mean_squared),
    Row("compute_loss returning a mean", loss=mean_squared,
        network=functools.partial(perceptron, OwnComputeLoss)),
    Row("own train_step, plain mean", loss=mean_squared, divided=False,
        network=functools.partial(perceptron, OwnTrainStep)),
    Row("add_loss of a mean", network=_adding("mean")),
    Row("add_loss of a sum", network=_adding("sum")),
    Row("max metric", metrics=(Maximum,), shown=("maximum",)),
    Row("loss scaling, one overflows", data=overflowing, optimizer=_loss_scaled),
    Row("synchronized batch norm", network=_SYNCHRONIZED, optimizer=_sgd(0.1)),
    Row("reduction=None", loss=_UNREDUCED, optimizer=_sgd(0.05)),
    Row("AUC of two replicas", **_BITS, metrics=(_AUC,), shown=("auc",)),
    Row("dropout", network=dropping),
    Row("batch norm of each replica", network=normalized, optimizer=_sgd(0.1)),
    # A batch that does not divide by the replicas.
    Row("mse", rows=11, batch=11),
    Row("mse", rows=6, batch=3),
    Row("mse", rows=10, batch=4),
    Row("mse", rows=11, batch=4),
    Row("mse", rows=9, batch=4),
    Row("mse", rows=10, batch=4, replicas=4),
    Row("mse", rows=11, batch=4, replicas=4),
    Row("mse", rows=9, batch=4, replicas=4),
    Row("sample weights", rows=11, batch=4, weighted=True),
    Row("class weights", rows=11, batch=4, **_CLASSES, class_weight=CLASS_WEIGHT),
    Row('reduction="sum"', rows=11, batch=4, loss=_SUM, optimizer=_sgd(0.05),
        shown=("weights", "loss")),
    Row("masked LSTM", rows=11, batch=4, **_TOKENS, shown=("weights", "accuracy")),
    Row("L2 regulariser", rows=9, batch=4, network=_L2),
    Row("two outputs", rows=11, batch=4, network=two_outputs, data=numbers_and_classes,
        loss=_OUTPUTS),
    Row("synchronized batch norm", rows=11, batch=4, network=_SYNCHRONIZED,
        optimizer=_sgd(0.1)),
    Row("synchronized batch norm", rows=9, batch=4, network=_SYNCHRONIZED, optimizer=_sgd(0.1)),
    # Clipping, by the optimizer.
    Row("clipvalue", optimizer=_sgd(clipvalue=0.05)),
    Row("clipnorm", optimizer=_sgd(clipnorm=0.1)),
    Row("global_clipnorm", optimizer=_sgd(global_clipnorm=0.1)),
    # Micro-batches.
    Row("mse", **_ONE_DEVICE),
    Row("sample weights", weighted=True, **_ONE_DEVICE),
    Row("short micro-batch", rows=11, batch=4, **_ONE_DEVICE),
    Row("one micro-batch left", rows=10, batch=4, **_ONE_DEVICE),
    Row("mean_with_sample_weight", weighted=True, loss=_BY_WEIGHT, **_ONE_DEVICE),
    Row('reduction="sum"', loss=_SUM, optimizer=_sgd(0.05), **_ONE_DEVICE),
    Row("learning rate schedule", optimizer=_scheduled, **_ONE_DEVICE),
    Row("use_ema", rows=32, optimizer=_sgd(use_ema=True, ema_momentum=0.9), **_ONE_DEVICE),
    Row("mse", micro_batches=2),
)
# fmt: on
QUICK = ("mse, 9/4, 2 replicas", "mse, 11/11, 2 replicas", "short micro-batch, 11/4")


# Ways ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one way ended with.

    Attributes:
        weights: all weights of the model.
        logs: the last epoch's logs.
    """

    weights: list[np.ndarray]
    logs: dict[str, float]

    def distance(self, other: Outcome, shown: str) -> float | str:
        """Max|dw|, or the absolute difference of one logged value, if it is logged."""
        if shown == "weights":
            return largest_difference(self.weights, other.weights)
        if shown not in self.logs:
            return "not logged"
        return abs(float(self.logs[shown]) - float(other.logs[shown]))


@functools.cache
def strategy_of(replicas: int) -> tf.distribute.Strategy | None:
    """One strategy for each number of replicas: on CPU several of one kind would collide."""
    return strategy_lib.resolve(f"mirrored:{replicas}") if replicas > 1 else None


def scope_of(row: Row) -> contextlib.AbstractContextManager:
    """The scope of the row's strategy, or nothing; and the same seed for every way."""
    keras.utils.set_random_seed(0)
    return strategy_of(row.replicas).scope() if row.replicas > 1 else contextlib.nullcontext()


def made_loss(row: Row) -> Any:
    """New loss objects, or the function."""
    if isinstance(row.loss, dict):
        return {name: make() for name, make in row.loss.items()}
    return row.loss if row.loss is mean_squared else row.loss()


def fit_arguments(row: Row, batch_size: int) -> dict[str, Any]:
    """The arguments of ``fit``, of Keras and of kerastrain."""
    x, y = row.data(row.rows)
    return {
        "x": x,
        "y": y,
        "sample_weight": row_weights(row.rows) if row.weighted else None,
        "class_weight": row.class_weight,
        "batch_size": batch_size,
        "shuffle": False,
        "verbose": 0,
    }


def last_logs(history: keras.callbacks.History) -> dict[str, float]:
    """The logs of the last epoch."""
    return {name: values[-1] for name, values in history.history.items()}


def by_fit(row: Row) -> Outcome:
    """``model.fit`` of Keras in the strategy's scope."""
    options = {} if row.micro_batches == 1 else {"gradient_accumulation_steps": row.micro_batches}
    with scope_of(row):
        model = row.network()
        metrics = [make() for make in row.metrics]
        model.compile(row.optimizer(**options), made_loss(row), metrics=metrics or None)
    history = model.fit(**fit_arguments(row, row.batch // row.micro_batches))
    return Outcome(model.get_weights(), last_logs(history))


def by_kerastrain(row: Row) -> Outcome:
    """`kerastrain.Trainer` around a plain model, with whole batches."""
    keras.utils.set_random_seed(0)
    model = row.network()
    trainer = kerastrain.Trainer(
        model,
        optimizer=row.optimizer(),
        loss=made_loss(row),
        metrics=[make() for make in row.metrics] or None,
        strategy=strategy_of(row.replicas),
        micro_batches=row.micro_batches,
    )
    history = trainer.fit(**fit_arguments(row, row.batch))
    return Outcome(model.get_weights(), last_logs(history))


def by_hand(row: Row) -> Outcome:
    """The loop that people write; see the module's docstring."""
    strategy = strategy_of(row.replicas) or tf.distribute.get_strategy()
    with scope_of(row):
        model, optimizer, loss_function = row.network(), row.optimizer(), made_loss(row)
        optimizer.build(model.trainable_variables)
        metrics = [make() for make in row.metrics]
        sums = [_accumulator(v) for v in model.trainable_variables]

    def replica_step(batch: tuple, apply: bool) -> tf.Tensor:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            y_pred = model(x, training=True)
            loss = _local_loss(row, loss_function, y, y_pred, sample_weight)
            if model.losses:
                loss += tf.add_n(model.losses) / strategy.num_replicas_in_sync
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        for metric in metrics:
            metric.update_state(y, y_pred)
        if row.micro_batches > 1:
            for total, gradient in zip(sums, gradients, strict=True):
                total.assign_add(tf.convert_to_tensor(gradient) / row.micro_batches)
            gradients = [tf.convert_to_tensor(total) for total in sums]
        if apply:
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
            for total in sums:
                total.assign(tf.zeros_like(total))
        return loss

    batches = strategy.experimental_distribute_dataset(_batches(row))

    @functools.cache
    def compiled_step(apply: bool) -> Callable[[tuple], tf.Tensor]:
        @tf.function(input_signature=[batches.element_spec])  # The number of rows is open.
        def step(batch: tuple) -> tf.Tensor:
            per_replica = strategy.run(replica_step, args=(batch, apply))
            return strategy.reduce(tf.distribute.ReduceOp.SUM, per_replica, axis=None)

        return step

    batch_losses = []
    for index, batch in enumerate(batches):
        apply = (index + 1) % row.micro_batches == 0
        batch_losses.append(float(compiled_step(apply)(batch)))
    optimizer.finalize_variable_values(model.trainable_variables)
    logs = {m.name: float(keras.ops.convert_to_numpy(m.result())) for m in metrics}
    return Outcome(model.get_weights(), {"loss": float(np.mean(batch_losses)), **logs})


def _accumulator(variable: keras.Variable) -> tf.Variable:
    return tf.Variable(
        tf.zeros(variable.shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )


def _local_loss(row, loss_function, y, y_pred, sample_weight):
    if isinstance(loss_function, dict):
        return tf.add_n([one(y[name], y_pred[name]) for name, one in loss_function.items()])
    if isinstance(loss_function, losses.Loss):
        return loss_function(y, y_pred, sample_weight)
    return loss_function(y, y_pred) / (row.replicas if row.divided else 1)


def _batches(row: Row) -> tf.data.Dataset:
    data = row.data(row.rows)
    if row.weighted:
        data += (row_weights(row.rows),)
    if row.class_weight is not None:
        weight_of_class = np.array([row.class_weight[c] for c in range(3)], "float32")
        data += (weight_of_class[data[1]],)
    return tf.data.Dataset.from_tensor_slices(data).batch(row.batch // row.micro_batches)


# Figures ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Figures:
    """One line of the table.

    Attributes:
        name: the row's name, and what is compared if it is not the weights.
        found: for each of `WAYS` the difference, or ``"crash: "`` and the exception's
            name, or ``"not logged"``.
        check: the difference of kerastrain on one device with whole batches.
    """

    name: str
    found: dict[str, float | str]
    check: float


def measure(row: Row) -> list[Figures]:
    """Trains one row in all ways; a line for each value that it shows."""
    reference = by_fit(row.whole())
    check = by_kerastrain(row.whole())
    ways = dict(zip(WAYS, (by_fit, by_hand, by_kerastrain), strict=True))
    outcomes = {name: attempt(way, row) for name, way in ways.items()}
    lines = []
    for shown in row.shown:
        found = {
            way: got if isinstance(got, str) else got.distance(reference, shown)
            for way, got in outcomes.items()
        }
        name = row.name if shown == "weights" else f"{row.name}: logged {shown}"
        lines.append(Figures(name, found, check.distance(reference, shown)))
    return lines


def attempt(way: Callable[[Row], Outcome], row: Row) -> Outcome | str:
    """The outcome of one way, or the name of the exception that stopped it."""
    try:
        return way(row)
    except Exception as error:  # Whatever it is, it is what the user of this way gets.
        return f"crash: {type(error).__name__}"


def shown_figure(value: float | str) -> str:
    """Two digits, or the crash.

    >>> shown_figure(0.2713), shown_figure(0.0), shown_figure("crash: ValueError")
    ('2.7e-1', '0', 'crash: ValueError')
    """
    if isinstance(value, str):
        return value
    if value == 0 or not np.isfinite(value):
        return f"{value:.0f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def print_table(lines: Sequence[Figures], *, console: rich.console.Console | None = None) -> None:
    """Prints all figures, what the reference's check found, and the machine."""
    if console is None:
        console = rich.console.Console()
        console.width = max(console.width, 130)  # A file counts as 80 wide.
    console.print("max|dw| to one device with the whole batch at once, after one epoch")
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what, rows/batch, cut", no_wrap=True)
    for way in WAYS:
        table.add_column(way, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(line.name, *(shown_figure(line.found[way]) for way in WAYS))
    console.print(table)
    doubtful = [line for line in lines if not line.check <= TOLERANCE]
    if not doubtful:
        console.print(f"The reference is kerastrain's on one device too, to {TOLERANCE:g}.")
    for line in doubtful:
        console.print(f"{line.name}: kerastrain on one device is {line.check:.1e} from model.fit.")
    console.print(machine_line(), soft_wrap=True, highlight=False)


def rst_table(lines: Sequence[Figures]) -> str:
    """The figures as a table in reStructuredText."""
    cells = [["what, rows/batch, cut", *WAYS]]
    cells += [[line.name, *(shown_figure(line.found[way]) for way in WAYS)] for line in lines]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    rule = " ".join("=" * width for width in widths)
    padded = [[c.ljust(w) for c, w in zip(row, widths, strict=True)] for row in cells]
    text = [" ".join(row).rstrip() for row in padded]
    return "\n".join([rule, text[0], rule, *text[1:], rule])


def make_logical_devices() -> None:
    """Splits the processor into the replicas' devices; the first thing to do in a process."""
    (processor,) = tf.config.list_physical_devices("CPU")
    if tf.config.get_logical_device_configuration(processor) is None:
        devices = [tf.config.LogicalDeviceConfiguration()] * DEVICES
        tf.config.set_logical_device_configuration(processor, devices)


def chosen_rows(options: argparse.Namespace) -> list[Row]:
    """The rows that the command line asks for."""
    rows = [row for row in ROWS if not options.quick or row.name.startswith(QUICK)]
    return [row for row in rows if options.rows.lower() in row.name.lower()]


def main(arguments: Sequence[str] | None = None) -> list[Figures]:
    """Measures the rows that the command line asks for, prints and returns their figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exactness", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--rows", metavar="PATTERN", default="", help="rows whose name holds this")
    parser.add_argument("--quick", action="store_true", help="three rows, to see that it runs")
    parser.add_argument("--rst", action="store_true", help="print the table for README.rst")
    parser.add_argument("--json", metavar="FILE", help="also write all figures to FILE")
    options = parser.parse_args(arguments)
    rows = chosen_rows(options)
    if not rows:
        parser.error(f"no row's name holds {options.rows!r}")
    make_logical_devices()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    lines = []
    progress = rich.console.Console(stderr=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of ways that go wrong: the figures show it.
        for row in rich.progress.track(rows, console=progress, transient=True):
            lines += measure(row)
    if options.rst:
        print(rst_table(lines))
    else:
        print_table(lines)
    if options.json:
        record = {"machine": machine_line(), "rows": [dataclasses.asdict(line) for line in lines]}
        path = pathlib.Path(options.json)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return lines


if __name__ == "__main__":
    main()
