"""`kerastrain.preparation.logits`: a crossentropy knows what the outputs are, however they come about."""

import itertools
import pathlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ModelError
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.preparation import findings as rules
from kerastrain.preparation import lint
from kerastrain.preparation import target_checks
from tests.support import tiers

ops, layers, losses = keras.ops, keras.layers, keras.losses
X = np.random.default_rng(0).normal(size=(16, 5)).astype("float32")
LABELS = (X[:, 0] > 0).astype("int32")
BITS = LABELS[:, None].astype("float32")
ONE_HOT = np.eye(3, dtype="float32")[LABELS]
SPARSE = "sparse_categorical_crossentropy"


class Softmax(layers.Layer):
    """A layer of the user's own that ends in a softmax."""

    def call(self, x):
        return ops.softmax(x)


def ending(*last):
    """A model that ends in these layers."""
    return keras.Sequential([keras.Input((5,)), layers.Dense(4, activation="relu"), *last])


def nested(*last):
    """The same inside two other models."""
    inner = keras.Sequential([keras.Input((4,)), *last])
    inputs = keras.Input((5,))
    return keras.Model(inputs, keras.Sequential([layers.Dense(4), inner])(inputs))


class Net(keras.Model):
    """A subclass whose ``call`` ends in a function."""

    def __init__(self, last):
        super().__init__()
        self.dense, self.last = layers.Dense(3), last

    def call(self, x):
        return self.last(self.dense(x))


def marked(name):
    """``file:line`` of the line of this file that is marked with ``name``."""
    lines = pathlib.Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if line.endswith(f"# line: {name}")]
    return f"{__file__}:{number}"


def misread(model, loss, y):
    """The messages about ``from_logits``; nothing of the model changes."""
    model.compile("sgd", loss)
    batch = (tf.constant(X), tf.constant(y))
    target_checks.check_call(model, batch, "x")
    target_checks.check_targets(model, batch, "x")
    before = model.get_weights()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lint.findings(model, batch, StepOptions())
    np.testing.assert_equal(before, model.get_weights())
    assert {rules.LOGITS} >= {finding.rule for finding in found}
    return [finding.message for finding in found]


RIGHT = {
    "softmax": (lambda: ending(layers.Dense(3, activation="softmax")), SPARSE, LABELS),
    "a layer of softmax": (lambda: ending(layers.Dense(3), layers.Softmax()), SPARSE, LABELS),
    "an own layer": (lambda: ending(layers.Dense(3), Softmax()), SPARSE, LABELS),
    "a Lambda": (lambda: ending(layers.Dense(3), layers.Lambda(ops.softmax)), SPARSE, LABELS),
    "nested": (lambda: nested(layers.Dense(3), layers.Activation("softmax")), SPARSE, LABELS),
    "a function": (lambda: Net(ops.softmax), SPARSE, LABELS),
    "logits": (
        lambda: ending(layers.Dense(3)),
        losses.SparseCategoricalCrossentropy(from_logits=True),
        LABELS,
    ),
    "one logit": (
        lambda: ending(layers.Dense(1)),
        losses.BinaryCrossentropy(from_logits=True),
        BITS,
    ),
    "zero logits at first": (
        lambda: ending(layers.Dense(3, kernel_initializer="zeros")),
        losses.CategoricalCrossentropy(from_logits=True),
        ONE_HOT,
    ),
    "hard sigmoid": (
        lambda: ending(layers.Dense(1), layers.Activation("hard_sigmoid")),
        "binary_crossentropy",
        BITS,
    ),
    "clipped": (
        lambda: ending(layers.Dense(1), layers.Lambda(lambda x: ops.clip(x, 0.0, 1.0))),
        "binary_crossentropy",
        BITS,
    ),
    # Keras divides by their sum.
    "shares": (
        lambda: ending(layers.Dense(3, activation="softplus")),
        "categorical_crossentropy",
        ONE_HOT,
    ),
    "no crossentropy": (lambda: ending(layers.Dense(1)), "mse", BITS),
}
WRONG = {
    "forgotten": (lambda: ending(layers.Dense(3)), SPARSE, LABELS, False),
    "forgotten, nested": (lambda: nested(layers.Dense(3)), SPARSE, LABELS, False),
    "forgotten, a subclass": (lambda: Net(lambda x: 2 * x), SPARSE, LABELS, False),
    "forgotten, smooth": (
        lambda: ending(layers.Dense(3)),
        losses.CategoricalCrossentropy(label_smoothing=0.1),
        ONE_HOT,
        False,
    ),
    "forgotten, zeros at first": (
        lambda: ending(layers.Dense(3, kernel_initializer="zeros")),
        "categorical_crossentropy",
        ONE_HOT,
        False,
    ),
    "forgotten, one output": (lambda: ending(layers.Dense(1)), "binary_crossentropy", BITS, False),
    "relu": (
        lambda: ending(layers.Dense(1, activation="relu")),
        losses.BinaryFocalCrossentropy(),
        BITS,
        False,
    ),
    "tanh": (
        lambda: ending(layers.Dense(1, activation="tanh")),
        losses.binary_crossentropy,
        BITS,
        False,
    ),
    "twice a softmax": (
        lambda: ending(layers.Dense(3), Softmax()),
        losses.SparseCategoricalCrossentropy(from_logits=True),
        LABELS,
        True,
    ),
    "twice a sigmoid": (
        lambda: ending(layers.Dense(1, activation="sigmoid")),
        losses.BinaryCrossentropy(from_logits=True),
        BITS,
        True,
    ),
    "twice, focal": (
        lambda: nested(layers.Dense(3, activation="softmax")),
        losses.CategoricalFocalCrossentropy(from_logits=True),
        ONE_HOT,
        True,
    ),
}


@pytest.mark.parametrize(
    "name",
    tiers.without(
        RIGHT, ["softmax", "a Lambda", "hard sigmoid", "clipped", "a function", "one logit"]
    ),
)
def test_right_outputs_are_not_reported(name):
    """Whatever layer or function makes probabilities, and where logits are asked for."""
    make, loss, y = RIGHT[name]
    assert [] == misread(make(), loss, y)


@pytest.mark.parametrize(
    "name",
    tiers.without(
        WRONG, ["forgotten", "forgotten, smooth", "forgotten, one output", "tanh", "twice, focal"]
    ),
)
def test_outputs_of_the_other_kind_are_found(name):
    """Once, with what the loss takes, what it is given, and the fix; on one device too."""
    make, loss, y, from_logits = WRONG[name]
    (message,) = misread(make(), loss, y)
    assert f"(from_logits={from_logits})" in message
    assert f"Pass from_logits={not from_logits}" in message
    assert " outputs from " in message


def test_several_outputs():
    """Each output is judged with its own loss."""
    inputs = keras.Input((5,))
    outputs = {
        "right": layers.Dense(1, activation="sigmoid", name="right")(inputs),
        "wrong": layers.Dense(1, name="wrong")(inputs),
        "other": layers.Dense(1, name="other")(inputs),
    }
    loss = {
        "right": losses.BinaryCrossentropy(name="first"),
        "wrong": losses.BinaryCrossentropy(name="second"),
        "other": "mse",
    }
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss)
    batch = (tf.constant(X), {name: tf.constant(BITS) for name in outputs})
    target_checks.check_targets(model, batch, "x")
    (found,) = lint.findings(model, batch, StepOptions())
    assert "The loss 'second' takes probabilities" in found.message


def crossentropy(y_true, y_pred):
    return 2 * losses.sparse_categorical_crossentropy(y_true, y_pred)  # line: function


class Crossentropy(losses.Loss):
    def call(self, y_true, y_pred):
        return losses.sparse_categorical_crossentropy(y_true, y_pred)  # line: class


class Computes(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y_pred = ops.softmax(y_pred)
        loss = losses.SparseCategoricalCrossentropy(from_logits=True)
        return loss(y, y_pred)  # line: method


@pytest.mark.parametrize("name, loss", (("function", crossentropy), ("class", Crossentropy())))
def test_losses_of_the_users_own(name, loss):
    """They are judged by what they give to Keras's crossentropies, and the line is named."""
    (message,) = misread(ending(layers.Dense(3)), loss, LABELS)
    assert f"'sparse_categorical_crossentropy' at {marked(name)} takes probabilities" in message
    assert [] == misread(ending(layers.Dense(3), layers.Softmax()), loss, LABELS)


def test_compute_loss():
    """So is a ``compute_loss``."""
    model = Computes(inputs := keras.Input((5,)), layers.Dense(3)(inputs))
    (message,) = misread(model, None, LABELS)
    assert f"at {marked('method')} takes logits" in message


def test_what_changes_outputs_first_is_judged_by_the_change():
    """A ``compute_loss`` that makes probabilities of the outputs is right."""

    class Own(keras.Sequential):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return super().compute_loss(x, y, ops.softmax(y_pred), sample_weight)

    assert [] == misread(Own([keras.Input((5,)), layers.Dense(3)]), SPARSE, LABELS)


@pytest.mark.parametrize(
    ("strict", "entry_point"),
    tiers.cases(
        itertools.product((False, True), ("trainer", "fit")), [(False, "trainer"), (True, "fit")]
    ),
)
def test_warns_before_the_first_step(entry_point, strict):
    """Through both entry points; strict, it is an error and no weight has changed."""
    model = TrainableModel(inputs := keras.Input((5,)), layers.Dense(3)(inputs))
    before = model.get_weights()
    arguments = {"optimizer": "sgd", "loss": SPARSE, "strict": strict}
    if entry_point == "trainer":
        fit = Trainer(model, **arguments).fit
    else:
        model.compile(**arguments)
        fit = model.fit
    if strict:
        with pytest.raises(ModelError, match="from_logits=True"):
            fit(X, LABELS, verbose=0)
        np.testing.assert_equal(before, model.get_weights())
    else:
        with pytest.warns(UserWarning, match="from_logits=True"):
            fit(X, LABELS, verbose=0)
