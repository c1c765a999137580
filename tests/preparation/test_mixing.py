"""`kerastrain.preparation.mixing`: what depends on how a batch is cut is found by what it computes.

Lines that a message must name are marked with a comment, ``# line: <name>``.
"""

import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import _keras
from kerastrain import ModelError
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.distribution import strategy
from kerastrain.preparation import findings as rules
from kerastrain.preparation import lint
from kerastrain.preparation import target_checks
from tests.support import tiers

ops, layers = keras.ops, keras.layers
X = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
Y = X.sum(1, keepdims=True)


def marked(name):
    """``file:line`` of the line of this file that is marked with ``name``."""
    lines = pathlib.Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if line.endswith(f"# line: {name}")]
    return f"{__file__}:{number}"


def sequential(*middle, loss="mse"):
    """A compiled model with these layers before its last one."""
    model = keras.Sequential([keras.Input((5,)), *middle, layers.Dense(1)])
    model.compile("sgd", loss)
    return model


def functional(kind):
    """A compiled model of this class."""
    inputs = keras.Input((5,))
    model = kind(inputs, layers.Dense(1)(layers.Dense(4, activation="tanh")(inputs)))
    model.compile("sgd", "mse")
    return model


def subclassed(kind):
    """The same of one that has a ``call``."""
    model = kind()
    model.compile("sgd", "mse")
    model(X)
    return model


def found(make, replicas=1, y=Y):
    """``{rule: message}`` for two micro-batches or replicas; nothing of the model changes."""
    scope = strategy.resolve(f"mirrored:{replicas}")
    with scope.scope():
        model, batch = make(), (tf.constant(X), tf.constant(y))
        target_checks.check_targets(model, batch, "x")
        variables = [*model.variables, *(v for layer in model.layers for v in plain(layer))]
        before = [_keras.read_local(v) for v in variables]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            options = StepOptions(micro_batches=1 if replicas > 1 else 2)
            findings = lint.findings(model, batch, options)
        after = [_keras.read_local(v) for v in variables]
        for one, other in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(findings) == len({finding.rule for finding in findings})
    return {finding.rule: finding.message for finding in findings}


def plain(layer):
    return [value for value in vars(layer).values() if isinstance(value, tf.Variable)]


# Rows ---------------------------------------------------------------------------


class Centered(layers.Layer):
    def call(self, x):  # line: centered
        return x - ops.mean(x, axis=0, keepdims=True)


class Shared(layers.Layer):
    """Depends on the number of rows alone."""

    def call(self, x):  # line: shared
        return x / ops.cast(ops.shape(x)[0], x.dtype)


class Nested(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.Sequential([layers.Dense(5), Centered(name="middle"), layers.Dense(4)])
        self.dropout, self.out = layers.Dropout(0.5), layers.Dense(1)

    def call(self, x, training=False):
        return self.out(self.dropout(self.inner(x), training=training))


class Neighbours(keras.Model):
    """Mixes rows in its own ``call``, between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.out = layers.Dense(4), layers.Dense(1)

    def call(self, x):  # line: neighbours
        hidden = self.first(x)
        return self.out(hidden - ops.roll(hidden, 1, axis=0))


class Contrasts(layers.Layer):
    def call(self, x):
        alike = ops.matmul(x, ops.transpose(x))
        self.add_loss(ops.mean(ops.logsumexp(alike, axis=1)))  # line: add_loss
        return x


class NoisyContrasts(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(1)

    def call(self, x):
        x = x + keras.random.normal(ops.shape(x), seed=self.seed)
        self.add_loss(ops.mean(ops.logsumexp(ops.matmul(x, ops.transpose(x)), 1)))  # line: noisy
        return x


class AddsSum(layers.Layer):
    def call(self, x):
        self.add_loss(ops.sum(x**2))  # line: sum
        return x


class Variance(keras.Model):
    def compute_loss(  # line: compute_loss
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return ops.mean((y_pred - ops.mean(y_pred)) ** 2)


def contrast(y_true, y_pred):  # line: contrast
    alike = ops.matmul(y_pred, ops.transpose(y_pred))
    rows = ops.arange(ops.shape(y_pred)[0])
    return keras.losses.sparse_categorical_crossentropy(rows, alike, from_logits=True)


def static_contrast(y_true, y_pred):  # line: static
    alike = tf.matmul(y_pred, y_pred, transpose_b=True)
    return tf.reduce_sum(alike * (1 - np.eye(y_pred.shape[0], dtype="float32")), axis=1)


def linear(y_true, y_pred):  # line: linear
    return ops.mean(y_pred - ops.max(y_true, axis=0), axis=-1)


MIXED = {
    "centered": ("centered", lambda: sequential(Centered())),
    "centered after dropout": ("centered", lambda: sequential(layers.Dropout(0.5), Centered())),
    "in a model in a model": ("centered", lambda: subclassed(Nested)),
    "in a model's call": ("neighbours", lambda: subclassed(Neighbours)),
    "number of rows": ("shared", lambda: sequential(Shared())),
    "a Lambda": (
        "lambda",
        lambda: sequential(layers.Lambda(lambda x: x - ops.max(x, axis=0))),  # line: lambda
    ),
    "add_loss": ("add_loss", lambda: sequential(Contrasts())),
    "add_loss with noise": ("noisy", lambda: sequential(NoisyContrasts())),
    "add_loss of a sum": ("sum", lambda: sequential(AddsSum())),
    "compute_loss": ("compute_loss", lambda: functional(Variance)),
    "a loss": ("contrast", lambda: sequential(loss=contrast)),
    "a loss of a known number of rows": ("static", lambda: sequential(loss=static_contrast)),
    "a loss after dropout": ("contrast", lambda: sequential(layers.Dropout(0.5), loss=contrast)),
    "a loss of a maximum": ("linear", lambda: sequential(loss=linear)),
}


@pytest.mark.parametrize(
    "name",
    tiers.cases(MIXED, ["in a model in a model", "in a model's call", "compute_loss"]),
)
def test_rows_that_depend_on_others_are_found(name):
    """The message has the line of the user's code, and nothing else is reported."""
    line, make = MIXED[name]
    findings = found(make)
    assert [rules.ROWS] == list(findings)
    assert f"({marked(line)})" in findings[rules.ROWS]
    assert "micro_batches=1" in findings[rules.ROWS]


@pytest.mark.parametrize(
    "name",
    (
        tiers.slow("in a model in a model"),
        "add_loss",
        tiers.slow("compute_loss"),
        tiers.slow("a loss"),
    ),
)
def test_on_replicas_too(name):
    """With replicas as with micro-batches."""
    line, make = MIXED[name]
    findings = found(make, replicas=2)
    assert [rules.ROWS] == list(findings)
    assert f"({marked(line)})" in findings[rules.ROWS]


@pytest.mark.slow
def test_losses_of_keras_that_take_the_batch_as_one():
    """`Dice` is a ratio over all rows; what has no line of the user's has a name."""
    message = found(lambda: sequential(loss=keras.losses.Dice()))[rules.ROWS]
    assert "the loss 'dice' of Sequential depends" in message


@pytest.mark.slow
def test_operations_between_layers():
    """What a functional model does without a layer is named too."""
    inputs = keras.Input((5,))

    def make():
        model = keras.Model(inputs, layers.Dense(1)(inputs - ops.mean(inputs, axis=0)))
        model.compile("sgd", "mse")
        return model

    assert "Subtract" in found(make)[rules.ROWS]


class Samples(layers.Layer):
    """A row's loss and outputs depend on noise, and on no other row."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def call(self, x):
        x = x + self.draw(ops.shape(x))
        self.add_loss(ops.mean(ops.sum(x**2, axis=-1)))
        return x


class MeanOfSquares(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean((y_pred - y) ** 2)


class Drawing(keras.Model):
    """Its ``compute_loss`` draws noise anew."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        noise = keras.random.normal(ops.shape(y), seed=GENERATOR)
        return ops.mean((y_pred - y - noise) ** 2)


GENERATOR = keras.random.SeedGenerator(3)


def tokens():
    """A mask, a recurrent layer with dropout, and a loss for each time step."""
    inputs = keras.Input((5,))
    numbers = layers.Lambda(lambda x: ops.cast(ops.abs(3 * x), "int32") % 4, output_shape=(5,))
    hidden = layers.Embedding(4, 4, mask_zero=True)(numbers(inputs))
    hidden = layers.LSTM(4, return_sequences=True, dropout=0.2)(hidden)
    model = keras.Model(inputs, layers.Dense(1)(hidden))
    model.compile("sgd", keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"))
    return model


def attention():
    inputs = keras.Input((5,))
    hidden = layers.Reshape((5, 1))(inputs)
    hidden = layers.MultiHeadAttention(2, 3, dropout=0.1)(hidden, hidden)
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(hidden)))
    model.compile("sgd", "mse")
    return model


def usual():
    return sequential(
        layers.LayerNormalization(),
        layers.GaussianNoise(0.1),
        layers.UnitNormalization(),
        layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l2"),
    )


RIGHT = {
    "usual layers": usual,
    "noise of Keras": lambda: sequential(
        Samples(lambda shape: keras.random.normal(shape, seed=GENERATOR))
    ),
    "noise of TensorFlow": lambda: sequential(Samples(tf.random.normal)),
    "attention": attention,
    "compute_loss": lambda: functional(MeanOfSquares),
    "compute_loss with noise": lambda: functional(Drawing),
    "a mean": lambda: sequential(loss=lambda y, p: ops.mean((y - p) ** 2)),
    "a sum": lambda: sequential(loss=keras.losses.Huber(reduction="sum")),
    "no reduction": lambda: sequential(loss=keras.losses.MeanAbsoluteError(reduction=None)),
}


@pytest.mark.parametrize(
    "name", tiers.cases(RIGHT, ["usual layers", "compute_loss with noise", "a sum"])
)
def test_rows_by_themselves_are_not_reported(name):
    """Noise, masks, regularisers and every reduction are right in micro-batches."""
    assert {} == found(RIGHT[name])


def test_masks_are_not_reported():
    """Nor is a loss whose denominator is what a mask lets through."""
    assert {} == found(tokens, y=np.repeat(Y[:, None], 5, axis=1))


@pytest.mark.slow
def test_noise_and_synchronised_statistics_on_replicas():
    """They are right there."""
    make = RIGHT["noise of Keras"]
    assert {} == found(make, replicas=2)
    assert {} == found(lambda: sequential(layers.BatchNormalization(synchronized=True)), replicas=2)


@pytest.mark.slow
def test_one_warning_for_batch_normalization():
    """What `BatchNormalization` does is said in words of its own, and what is beside it too."""
    assert [rules.STATISTICS] == list(found(lambda: sequential(layers.BatchNormalization())))
    both = found(lambda: sequential(layers.BatchNormalization(), Centered()))
    assert [rules.STATISTICS, rules.ROWS] == list(both)


@pytest.mark.slow
def test_half_precision():
    """Rounding is no difference, and a difference is more than rounding."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        assert {} == found(lambda: sequential(layers.Dense(32), layers.Dropout(0.1)))
        assert [rules.ROWS] == list(found(lambda: sequential(loss=contrast)))
        assert [rules.ROWS] == list(found(lambda: classifies(of_weights), y=LABELS))
    finally:
        keras.mixed_precision.set_global_policy("float32")


# Assignments --------------------------------------------------------------------


class Counts(layers.Layer):
    def build(self, shape):
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.seen.assign_add(1.0)  # line: counts
        return x


class Averages(layers.Layer):
    def build(self, shape):
        self.mean = self.add_weight(shape=shape[1:], initializer="zeros", trainable=False)

    def call(self, x, training=False):
        x = x - self.mean
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(x, axis=0))  # line: averages
        return x


class AssignsTheSame(Counts):
    def call(self, x, training=False):
        self.seen.assign(3.0)
        return x


class CountsInTensorFlow(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seen = tf.Variable(0.0)  # line: tensorflow

    def call(self, x, training=False):
        if training:
            self.seen.assign_add(1.0)
        return x


class Measures(layers.Layer):
    def __init__(self):
        super().__init__()
        self.metric = keras.metrics.Mean()

    def call(self, x):
        self.metric.update_state(x)
        return x


class Running(keras.losses.Loss):
    def __init__(self):
        super().__init__(name="running")
        self.mean = keras.Variable(0.0, trainable=False)

    def call(self, y_true, y_pred):
        values = ops.mean(ops.square(y_true - y_pred), axis=-1)
        self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(values))  # line: running
        return values


ASSIGNED = {
    "counts": lambda: sequential(Counts()),
    "averages": lambda: sequential(Averages()),
    "tensorflow": lambda: sequential(CountsInTensorFlow()),
    "running": lambda: sequential(loss=Running()),
}


@pytest.mark.parametrize("name", tiers.cases(ASSIGNED, ["tensorflow"]))
def test_assignments_by_micro_batches_are_found(name):
    """Of Keras's and TensorFlow's variables, in layers and losses, with class and line."""
    findings = found(ASSIGNED[name])
    assert [rules.ASSIGNMENT] == list(findings)
    assert f"({marked(name)})" in findings[rules.ASSIGNMENT]
    owner = {"counts": "Counts", "averages": "Averages", "running": "Running"}
    assert owner.get(name, "CountsInTensorFlow") in findings[rules.ASSIGNMENT]


@pytest.mark.parametrize(
    "layer", (AssignsTheSame, tiers.slow(Measures), tiers.slow(lambda: layers.Dropout(0.5)))
)
def test_assignments_that_are_right(layer):
    """One value, metrics and the states of random generators are no such assignments."""
    assert {} == found(lambda: sequential(layer()))


class Inserts(keras.layers.Layer):
    """Counts its calls in a table."""

    def __init__(self):
        super().__init__()
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

    def call(self, x, training=False):
        key = tf.constant([0], tf.int64)
        count = self.table.lookup(key)
        if training:
            self.table.insert(key, count + 1.0)
        return x + 0.1 * tf.reshape(count, (1,))


@pytest.mark.parametrize("replicas", [1, tiers.slow(2)])
def test_tables_that_each_part_changes(replicas):
    """There is one for all replicas, too; the dry run leaves it as it is."""
    made = []
    findings = found(lambda: sequential(made.append(Inserts()) or made[-1]), replicas=replicas)
    assert "'table' of 'inserts" in findings[rules.ASSIGNMENT]
    assert 0 == made[-1].table.size()


def test_assignments_on_replicas():
    """A count is right there, where each replica counts a step; what rows decide is not."""
    assert {} == found(ASSIGNED["counts"], replicas=2)
    message = found(ASSIGNED["averages"], replicas=2)[rules.ASSIGNMENT]
    assert "by each replica" in message and marked("averages") in message


# Both entry points ----------------------------------------------------------------


@pytest.mark.parametrize("entry_point", (tiers.slow("trainer"), "fit"))
def test_warns_before_the_first_step(entry_point):
    """Both name the layer; strict, nothing is trained."""
    for strict in (False, True):
        inputs = keras.Input((5,))
        model = TrainableModel(inputs, layers.Dense(1)(Centered()(inputs)))
        before = model.get_weights()
        if entry_point == "trainer":
            step = StepOptions(micro_batches=2, lint="error" if strict else "warn")
            fit = Trainer(model, optimizer="sgd", loss="mse", **step.changed()).fit
        else:
            model.compile("sgd", "mse", micro_batches=2, lint="error" if strict else "warn")
            fit = model.fit
        if strict:
            with pytest.raises(ModelError, match="Centered"):
                fit(X, Y, verbose=0)
            np.testing.assert_equal(before, model.get_weights())
        else:
            with pytest.warns(UserWarning, match="Centered"):
                fit(X, Y, verbose=0)


def test_a_cut_that_comes_later():
    """A batch that is cut when memory gets short is judged on rows that were seen."""
    model = sequential(Centered())
    batch = (tf.constant(X), tf.constant(Y))
    target_checks.check_targets(model, batch, "x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lint.check(model, batch, StepOptions(micro_batches="auto"))
    with pytest.warns(UserWarning, match="Centered"):
        lint.check(model, None, StepOptions(micro_batches=2))


def test_what_cannot_be_run_is_not_judged():
    """A model that wants other numbers of rows, or fails, is left to the step."""

    class Eight(layers.Layer):
        def call(self, x):
            return ops.reshape(ops.reshape(x, (8, -1)), (-1, 5)) - ops.mean(x, axis=0)

    assert {} == found(lambda: sequential(Eight()))


def test_rows_that_are_alike_at_first():
    """Rows from all over the batch are taken, in whatever order it is sorted."""
    model = sequential(Centered())
    batch = tuple(tf.constant(np.concatenate([0 * part, part])) for part in (X, Y))
    target_checks.check_targets(model, batch, "x")
    (finding,) = lint.findings(model, batch, StepOptions(micro_batches=2))
    assert marked("centered") in finding.message


def test_a_loss_that_cannot_be_computed():
    """Without targets what the layers do is still found."""
    model = sequential(Contrasts())
    (finding,) = lint.findings(model, (tf.constant(X),), StepOptions(micro_batches=2))
    assert marked("add_loss") in finding.message


# Losses of a model that is not trained ------------------------------------------

LABELS = np.arange(16)[:, None] % 3
TOKENS = np.where(np.arange(8) < 2 + np.arange(16)[:, None] % 7, 1 + np.arange(8) % 5, 0)
CROSSENTROPY = keras.losses.sparse_categorical_crossentropy


def of_mask(y_true, y_pred):  # line: mask
    mask = ops.cast(ops.not_equal(y_true, 0), "float32")
    return ops.sum(mask * CROSSENTROPY(y_true, y_pred, from_logits=True)) / ops.sum(mask)


def of_weights(y_true, y_pred):  # line: weights
    weights = ops.cast(y_true[:, 0], "float32") + 0.1
    values = CROSSENTROPY(y_true, y_pred, from_logits=True)
    return ops.sum(weights * values) / ops.sum(weights)


def of_probabilities(y_true, y_pred):  # line: probabilities
    values = CROSSENTROPY(y_true, y_pred)
    weights = ops.cast(y_true[:, 0] > 0, "float32") + 0.5
    return ops.sum(weights * values) / ops.sum(weights)


def root(y_true, y_pred):  # line: root
    return ops.sqrt(ops.mean((y_true - y_pred) ** 2))


def of_one_token():
    """Each row has a token in turn: as a model that is not trained has nearly the same loss of all."""
    inputs = keras.Input((5,))
    hidden = layers.Dense(8 * 4, kernel_initializer=keras.initializers.RandomNormal(stddev=1e-3))
    model = keras.Model(inputs, layers.Dense(7)(layers.Reshape((8, 4))(hidden(inputs))))
    model.compile("sgd", of_mask)
    return model


def classifies(loss, activation=None):
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(3, activation, kernel_initializer="zeros")]
    )
    model.compile("sgd", loss)
    return model


@pytest.mark.parametrize(
    ("line", "make", "y"),
    (
        tiers.slow("mask", of_one_token, TOKENS),
        ("weights", lambda: classifies(of_weights), LABELS),
        tiers.slow("probabilities", lambda: classifies(of_probabilities, "softmax"), LABELS),
        tiers.slow("root", lambda: sequential(loss=root), np.sign(Y)),
    ),
)
def test_a_mean_that_is_not_over_the_rows(line, make, y):
    """It is found though all rows have the same loss, or nearly, as long as nothing is trained."""
    assert f"({marked(line)})" in found(make, y=y)[rules.ROWS]


@pytest.mark.slow
def test_a_loss_that_does_not_take_all_outputs():
    """Where it fails for others than the model's own, the rest is judged as it is."""

    def of_small(y_true, y_pred):
        check = tf.debugging.assert_less(tf.abs(y_pred), 0.1)
        with tf.control_dependencies([check]):
            return tf.abs(y_true - y_pred)

    small = layers.Lambda(lambda x: 0.01 * ops.tanh(x))
    assert [rules.ROWS] == list(found(lambda: sequential(Centered(), small, loss=of_small)))


@pytest.mark.slow
def test_as_many_of_each_row():
    """A masked mean is a mean over the rows where each has as many tokens."""
    assert {} == found(of_one_token, y=np.where(np.arange(8) < 5, TOKENS + 1, 0))


LOSSES = {
    name: kind
    for name, kind in sorted(vars(keras.losses).items())
    if isinstance(kind, type) and name not in ("Loss", "CTC")
}


# One that is a mean over the rows, and one that takes the batch as one.
QUICK = ("CategoricalCrossentropy", "Dice")


@pytest.mark.parametrize("name", tiers.cases(LOSSES, QUICK))
def test_losses_of_keras_on_outputs_that_are_spread(name):
    """None is reported but those that take the batch as one."""
    of_indices = ("SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy", "Circle")
    y = LABELS[:, 0] if name in of_indices else np.eye(3, dtype="float32")[LABELS[:, 0]]
    # Of probabilities whose sum is 1, a ratio over all rows is a mean over the rows.
    activation = "sigmoid" if name in ("Dice", "Tversky") else "softmax"
    findings = found(lambda: classifies(LOSSES[name](), activation), y=y)
    expected = [rules.ROWS] if name in ("Circle", "Dice", "Tversky") else []
    assert expected == [rule for rule in findings if rule == rules.ROWS]


def test_a_step_of_its_own_is_given_whole_micro_batches():
    """One that overrides ``train_step`` cuts nothing by itself on one device."""

    class Own(keras.Sequential):
        def train_step(self, data):
            return super().train_step(data)

    def make():
        model = Own([keras.Input((5,)), Centered(), layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    assert {} == found(make)
