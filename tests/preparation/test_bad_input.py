"""Input that cannot work is refused by name, value and fix, before anything changes."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import kerastrain
from kerastrain import _keras
from kerastrain import ArgumentError
from kerastrain import DataError
from kerastrain import Execution
from kerastrain import Guard
from kerastrain import KerastrainError
from kerastrain import MetricError
from kerastrain import ModelError
from kerastrain import NonFiniteError
from kerastrain import RunDir
from kerastrain import ShapeError
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain import UnsupportedTypeError
from tests.support import datasets
from tests.support import models
from tests.support import tiers

ROWS, FEATURES, OUTPUTS = 6, 4, 2
X, Y, WEIGHT = datasets.regression(rows=ROWS, features=FEATURES, outputs=OUTPUTS)
NAN = np.full_like(X, np.nan)


class Bad(NamedTuple):
    """One mistake.

    Attributes:
        call: makes it, given a trainer.
        error: the exception that it must raise.
        says: what its message must contain: the argument, the value received
            and the fix.
    """

    call: Callable[[Trainer], Any]
    error: type
    says: tuple


def fit(error, *says, x=X, y=Y, **arguments):
    """A mistake in the arguments of ``fit``; callables are called to make them."""

    def call(trainer):
        given = {"x": x, "y": y, **arguments}
        made = {k: v() if isinstance(v, Made) else v for k, v in given.items()}
        trainer.fit(**{"verbose": 0, **made})

    return Bad(call, error, says)


class Made:
    """An argument that each use makes anew."""

    def __init__(self, make):
        self.make = make

    def __call__(self):
        return self.make()


def rows_of(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


def generator(*batches):
    return Made(lambda: (batch for batch in batches))


def used_up():
    batches = (batch for batch in [(X, Y)])
    next(batches)
    return batches


DATASET = rows_of(X, Y).batch(4)

FIT = {
    # Numbers of epochs, steps and rows.
    "epochs=0": fit(ArgumentError, "`epochs`", "epochs=0", "1 or more", epochs=0),
    "epochs=-1": fit(ArgumentError, "`epochs`", "epochs=-1", "1 or more", epochs=-1),
    "epochs=1.5": fit(ArgumentError, "`epochs`", "epochs=1.5", "whole number", epochs=1.5),
    "epochs=None": fit(ArgumentError, "`epochs`", "epochs=None", "whole number", epochs=None),
    "epochs of text": fit(ArgumentError, "`epochs`", "'3'", "whole number", epochs="3"),
    "initial_epoch=-1": fit(
        ArgumentError, "`initial_epoch`", "initial_epoch=-1", "0 or more", initial_epoch=-1
    ),
    "initial_epoch=0.5": fit(
        ArgumentError, "`initial_epoch`", "initial_epoch=0.5", "whole number", initial_epoch=0.5
    ),
    "batch_size=0": fit(ArgumentError, "`batch_size`", "batch_size=0", "1 or more", batch_size=0),
    "batch_size=-4": fit(
        ArgumentError, "`batch_size`", "batch_size=-4", "1 or more", batch_size=-4
    ),
    "batch_size=2.5": fit(
        ArgumentError, "`batch_size`", "batch_size=2.5", "whole number", batch_size=2.5
    ),
    "steps_per_epoch=0": fit(
        ArgumentError, "`steps_per_epoch`", "steps_per_epoch=0", "1 or more", steps_per_epoch=0
    ),
    "steps_per_epoch=1.5": fit(
        ArgumentError, "`steps_per_epoch`", "steps_per_epoch=1.5", "whole", steps_per_epoch=1.5
    ),
    "validation_steps=0": fit(
        ArgumentError,
        "`validation_steps`",
        "validation_steps=0",
        "1 or more",
        validation_data=(X, Y),
        validation_steps=0,
    ),
    "validation_batch_size=0": fit(
        ArgumentError,
        "`validation_batch_size`",
        "validation_batch_size=0",
        "1 or more",
        validation_data=(X, Y),
        validation_batch_size=0,
    ),
    "validation_freq=0": fit(
        ArgumentError, "`validation_freq`", "validation_freq=0", "1 or more", validation_freq=0
    ),
    "validation_freq=[]": fit(
        ArgumentError, "`validation_freq`", "validation_freq=[]", "list of", validation_freq=[]
    ),
    "validation_freq=[0]": fit(
        ArgumentError, "`validation_freq`", "[0]", "counted from 1", validation_freq=[0]
    ),
    "validation_freq of text": fit(
        ArgumentError, "`validation_freq`", "'1'", "whole number", validation_freq="1"
    ),
    "validation_split=1.5": fit(
        ArgumentError,
        "`validation_split`",
        "validation_split=1.5",
        "between 0 and 1",
        validation_split=1.5,
    ),
    "validation_split=-0.5": fit(
        ArgumentError,
        "`validation_split`",
        "validation_split=-0.5",
        "between 0 and 1",
        validation_split=-0.5,
    ),
    "validation_split of text": fit(
        ArgumentError, "`validation_split`", "'0.5'", "between 0 and 1", validation_split="0.5"
    ),
    "validation_split leaves no rows": fit(
        ArgumentError, "validation_split=0.99", "6 samples", "more data", validation_split=0.99
    ),
    "validation_split of tf.data": fit(
        ArgumentError,
        "`validation_split`",
        "BatchDataset",
        "`validation_data`",
        x=DATASET,
        y=None,
        validation_split=0.5,
    ),
    "validation_split of a generator": fit(
        ArgumentError,
        "`validation_split`",
        "generator",
        "`validation_data`",
        x=generator((X, Y)),
        y=None,
        validation_split=0.5,
    ),
    "verbose=7": fit(ArgumentError, "`verbose`", "verbose=7", "0 (silent)", verbose=7),
    "shuffle of unknown text": fit(ArgumentError, "`shuffle`", "'rows'", '"batch"', shuffle="rows"),
    # Nothing to train on.
    "no x": fit(DataError, "`x`", "None", "Pass", x=None, y=None),
    "no rows": fit(DataError, "`x`", "no rows", "at least one", x=X[:0], y=Y[:0]),
    "no rows in pandas": fit(
        DataError,
        "`x`",
        "no rows",
        "at least one",
        x=pd.DataFrame(X[:0]),
        y=pd.DataFrame(Y[:0]),
    ),
    "empty list of x": fit(DataError, "`x`", "Pass", x=[], y=Y),
    "empty dict of x": fit(DataError, "`x`", "Pass", x={}, y=Y),
    "tf.data without batches": fit(
        DataError, "`x`", "no batches", "at least one row", x=rows_of(X, Y).take(0).batch(4), y=None
    ),
    "tf.data of unknown length without batches": fit(
        DataError,
        "`x`",
        "no batches",
        "at least one row",
        x=DATASET.filter(lambda x, y: False),
        y=None,
    ),
    "generator without batches": fit(
        DataError, "`x`", "empty generator", "at least one batch", x=generator(), y=None
    ),
    "exhausted generator": fit(
        DataError,
        "`x`",
        "empty generator",
        "at least one batch",
        x=Made(used_up),
        y=None,
    ),
    "PyDataset without batches": fit(
        DataError, "`x`", "no batches", "Pass", x=Made(lambda: datasets.Batches([])), y=None
    ),
    "batch without rows": fit(
        DataError, "`x`", "no rows", "Pass", x=generator((X[:0], Y[:0])), y=None
    ),
    "validation_data without rows": fit(
        DataError, "`validation_data`", "no rows", "at least one", validation_data=(X[:0], Y[:0])
    ),
    "validation_data without batches": fit(
        DataError,
        "`validation_data`",
        "no batches",
        "at least one row",
        validation_data=DATASET.take(0),
    ),
    "x is NaN throughout": fit(DataError, "`x`", "(6, 4)", "NaN throughout", "Check", x=NAN),
    "y is NaN throughout": fit(
        DataError, "y", "(6, 2)", "NaN throughout", "Check", y=np.full_like(Y, np.nan)
    ),
    "sample_weight is NaN throughout": fit(
        DataError,
        "sample_weight",
        "(6,)",
        "NaN throughout",
        "Check",
        sample_weight=np.full(ROWS, np.nan, "float32"),
    ),
    "tf.data is NaN throughout": fit(
        DataError, "`x`", "NaN throughout", "Check", x=rows_of(NAN, Y).batch(4), y=None
    ),
    "validation_data is NaN throughout": fit(
        DataError, "`validation_data`", "NaN throughout", "Check", validation_data=(NAN, Y)
    ),
    # Lengths that differ.
    "y is shorter": fit(DataError, "`x`", "[6]", "[5]", "same number of rows", y=Y[:5]),
    "sample_weight is longer": fit(
        DataError, "sample_weight: [7]", "x: [6]", "same number", sample_weight=np.ones(7)
    ),
    "inputs of a dict differ": fit(
        DataError, "`x`", "[6, 5]", "same number of rows", x={"a": X, "b": X[:5]}
    ),
    "pandas and NumPy differ": fit(
        DataError, "`x`", "[6]", "[5]", "same number of rows", x=pd.DataFrame(X), y=Y[:5]
    ),
    "validation_data differ": fit(
        DataError,
        "`validation_data`",
        "[6]",
        "[5]",
        "same number of rows",
        validation_data=(X, Y[:5]),
    ),
    "batch of a generator differs": fit(
        DataError, "`x`", "[5, 6]", "same number of rows", x=generator((X, Y[:5])), y=None
    ),
    "validation_split of arrays that differ": fit(
        DataError, "`x`", "[6]", "[5]", "same number of rows", y=Y[:5], validation_split=0.5
    ),
    "named validation set differs": fit(
        DataError,
        "`validation_data['b']`",
        "[6]",
        "[5]",
        "same number of rows",
        validation_data={"a": (X, Y), "b": (X, Y[:5])},
    ),
    # Shapes that do not fit.
    "x is too wide": fit(ModelError, "`x`", "(6, 5)", "4", x=np.ones((ROWS, 5), "float32")),
    "x has one axis": fit(ModelError, "`x`", "(6,)", x=X[:, 0]),
    "validation x is too wide": fit(
        ModelError,
        "`validation_data`",
        "(6, 5)",
        validation_data=(np.ones((ROWS, 5), "float32"), Y),
    ),
    "y would broadcast over outputs": fit(
        ShapeError, "`y`", "(6, 1)", "(6, 2)", "Reshape", y=Y[:, :1]
    ),
    "y would broadcast over rows": fit(ShapeError, "`y`", "(6,)", "(6, 2)", "Reshape", y=Y[:, 0]),
    "y has an axis too many": fit(
        ShapeError, "`y`", "(6, 2, 2)", "(6, 2)", "Reshape", y=np.ones((ROWS, 2, 2))
    ),
    "y is too wide": fit(ShapeError, "`y`", "(6, 3)", "(6, 2)", y=np.ones((ROWS, 3))),
    "validation y would broadcast": fit(
        ShapeError,
        "`y` of `validation_data`",
        "(6, 1)",
        "(6, 2)",
        "Reshape",
        validation_data=(X, Y[:, :1]),
    ),
    "y is missing": fit(ShapeError, "`x`", "no y", "Pass y", y=None),
    "y is missing in tf.data": fit(
        ShapeError, "`x`", "no y", "Pass y", x=DATASET.map(lambda x, y: x), y=None
    ),
    "validation y is missing": fit(
        ShapeError, "`validation_data`", "no y", "Pass y", validation_data=(X,)
    ),
    "y is text": fit(DataError, "y", "str", "number", y=np.array(list("abcdef"))),
    "sample_weight would broadcast": fit(
        ShapeError,
        "sample_weight",
        "(6, 2)",
        "Reshape",
        sample_weight=np.ones((ROWS, OUTPUTS), "float32"),
    ),
    "sample_weight is too wide": fit(
        ShapeError,
        "sample_weight",
        "(6, 3, 2)",
        "Reshape",
        sample_weight=np.ones((ROWS, 3, 2), "float32"),
    ),
    "tf.data without batch": fit(
        DataError, "`x`", "different lengths", ".batch(", x=rows_of(X, Y), y=None
    ),
    "tf.data of scalars without batch": fit(
        DataError, "`x`", "scalar", ".batch(", x=rows_of(X[:, 0], Y[:, 0]), y=None
    ),
    "x holds a scalar": fit(DataError, "`x`", "scalar", "rows", x=np.float32(1.0), y=None),
    # Data that is of the wrong kind, or given twice.
    "x is text": fit(UnsupportedTypeError, "`x`", "str", "Use", x="train.csv", y=None),
    "x is a number": fit(UnsupportedTypeError, "`x`", "int", "Use", x=3, y=None),
    "x is a list of numbers": fit(
        DataError, "`x`", "list of numbers", "np.asarray(x)", x=[[1.0, 2.0], [3.0, 4.0]]
    ),
    "y is a list of numbers": fit(
        DataError, "`y`", "list of numbers", "np.asarray(y)", y=[0.0] * ROWS
    ),
    "x is a function": fit(UnsupportedTypeError, "`x`", "function", "Use", x=rows_of, y=None),
    "x holds objects": fit(
        DataError, "`x`", "object", x=np.array([[None] * 4] * ROWS, dtype=object)
    ),
    "y beside tf.data": fit(DataError, "`y`", "Dataset", x=DATASET, y=Y),
    "sample_weight beside tf.data": fit(
        DataError, "sample_weight", "Dataset", x=DATASET, y=None, sample_weight=WEIGHT
    ),
    "y beside a generator": fit(DataError, "`y`", "generator", x=generator((X, Y)), y=Y),
    "validation_data is a number": fit(
        UnsupportedTypeError, "`validation_data`", "int", "Use", validation_data=3
    ),
    "validation_data has four parts": fit(
        DataError, "`validation_data`", "4", "(x, y)", validation_data=(X, Y, WEIGHT, WEIGHT)
    ),
    "validation_data is empty": fit(DataError, "`validation_data`", "Pass", validation_data={}),
    "class_weight and sample_weight": fit(
        ArgumentError,
        "class_weight",
        "sample_weight",
        y=np.arange(ROWS) % 2,
        class_weight={0: 1.0, 1: 2.0},
        sample_weight=WEIGHT,
    ),
    "class_weight is a list": fit(
        ArgumentError,
        "`class_weight`",
        "[1.0, 2.0]",
        "{",
        y=np.arange(ROWS) % 2,
        class_weight=[1.0, 2.0],
    ),
    # Callbacks.
    "callback is a class": fit(
        UnsupportedTypeError,
        "`callbacks`",
        "TerminateOnNaN",
        "instance",
        callbacks=[keras.callbacks.TerminateOnNaN],
    ),
    "callback is a function": fit(
        UnsupportedTypeError,
        "`callbacks`",
        "function",
        "keras.callbacks.Callback",
        callbacks=[rows_of],
    ),
    "callbacks is text": fit(
        UnsupportedTypeError,
        "`callbacks`",
        "'EarlyStopping'",
        "keras.callbacks.Callback",
        callbacks="EarlyStopping",
    ),
}

EVALUATE = {
    "no x": Bad(lambda t: t.evaluate(verbose=0), DataError, ("`x`", "None", "Pass")),
    "no rows": Bad(lambda t: t.evaluate(X[:0], Y[:0]), DataError, ("`x`", "no rows", "Pass")),
    "no y": Bad(lambda t: t.evaluate(X, verbose=0), ShapeError, ("`x`", "no y", "Pass y")),
    "y would broadcast": Bad(
        lambda t: t.evaluate(X, Y[:, :1]), ShapeError, ("(6, 1)", "(6, 2)", "Reshape")
    ),
    "steps=0": Bad(
        lambda t: t.evaluate(X, Y, steps=0), ArgumentError, ("`steps`", "steps=0", "1 or more")
    ),
    "batch_size=0": Bad(
        lambda t: t.evaluate(X, Y, batch_size=0), ArgumentError, ("`batch_size`", "batch_size=0")
    ),
    "named set differs": Bad(
        lambda t: t.evaluate({"a": (X, Y), "b": (X, Y[:5])}),
        DataError,
        ("'b'", "[6]", "[5]", "same number"),
    ),
    "callback is a class": Bad(
        lambda t: t.evaluate(X, Y, callbacks=[keras.callbacks.TerminateOnNaN]),
        UnsupportedTypeError,
        ("`callbacks`", "TerminateOnNaN", "instance"),
    ),
    "predict: no x": Bad(lambda t: t.predict(None, verbose=0), DataError, ("`x`", "None")),
    "predict: x is too wide": Bad(
        lambda t: t.predict(np.ones((ROWS, 5)), verbose=0), ModelError, ("`x`", "(6, 5)")
    ),
    "predict: x is text": Bad(
        lambda t: t.predict("a.csv", verbose=0), UnsupportedTypeError, ("`x`", "str", "Use")
    ),
    "predict: no rows": Bad(
        lambda t: t.predict(X[:0], verbose=0), DataError, ("`x`", "no rows", "Pass")
    ),
    "predict: batch_size=0": Bad(
        lambda t: t.predict(X, batch_size=0, verbose=0),
        ArgumentError,
        ("`batch_size`", "batch_size=0"),
    ),
}

CALLS = {**FIT, **{f"evaluate: {name}": bad for name, bad in EVALUATE.items()}}
# A wrong argument is refused before the model is looked at, built or not.
REACH_THE_MODEL = [name for name, bad in CALLS.items() if bad.error is not ArgumentError]


class Snapshot:
    """Everything of a trainer and its model that a refused call must not change."""

    def __init__(self, trainer):
        model = trainer.model
        self.weights = model.get_weights()
        self.state = _keras.compile_state(model)
        self.optimizers = [
            (v, v.numpy())
            for optimizer in (model.optimizer, trainer.optimizer)
            for v in optimizer.variables
        ]
        self.iterations = int(trainer.optimizer.iterations.numpy())

    def assert_unchanged(self, trainer):
        model = trainer.model
        assert len(self.weights) == len(model.weights)
        for before, after in zip(self.weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(after, before)
        for variable, before in self.optimizers:
            np.testing.assert_array_equal(variable.numpy(), before)
        assert self.iterations == int(trainer.optimizer.iterations.numpy())
        after = _keras.compile_state(model)
        assert self.state.keys() == after.keys()
        for name, value in self.state.items():
            assert value is after[name] or value == after[name], name


def assert_refuses(bad, call):
    """Asserts the exception, that Python users know it too, and what it says."""
    with pytest.raises(KerastrainError) as caught:
        call()
    assert bad.error is type(caught.value)
    assert issubclass(bad.error, ValueError | TypeError)
    message = str(caught.value)
    for part in bad.says:
        assert part in message, f"{part!r} is not in: {message}"


def make_trainer():
    """A trainer with compile state of its own around a model that is compiled otherwise."""
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, keras.layers.Dense(OUTPUTS)(inputs))
    model.compile("sgd", "mae", metrics=["mse"])
    return Trainer(model, optimizer=keras.optimizers.Adam(0.1), loss="mse", metrics=["mae"], seed=0)


def assert_trains(trainer):
    """Asserts that a fit on good data updates the weights and reports them."""
    before = trainer.model.get_weights()
    done = int(trainer.optimizer.iterations.numpy())
    history = trainer.fit(X, Y, batch_size=4, verbose=0)
    assert {"loss", "mae"} == set(history.history)
    assert all(np.isfinite(values).all() for values in history.history.values())
    assert done + 2 == int(trainer.optimizer.iterations.numpy())
    for a, b in zip(before, trainer.model.get_weights(), strict=True):
        assert (a != b).any()  # one that is trained nearly to the end may stay


@pytest.fixture(scope="module")
def trained():
    """A trainer that has trained; the tests that share it leave it as it was, or train on."""
    trainer = make_trainer()
    assert_trains(trainer)
    return trainer


# What a first call adds does not depend on which it is.
FIRST = ("exhausted generator", "y is too wide", "evaluate: predict: no rows")


@pytest.mark.parametrize("name", tiers.cases(REACH_THE_MODEL, FIRST))
def test_first_call(name):
    """Refused as the first call: nothing changes, and good data then trains."""
    trainer = make_trainer()
    before = Snapshot(trainer)
    assert_refuses(CALLS[name], lambda: CALLS[name].call(trainer))
    before.assert_unchanged(trainer)
    assert_trains(trainer)


# Much like others: another wrong value of an argument, or another set for the same mistake.
ALIKE = (
    "epochs=-1", "epochs=None", "epochs of text", "initial_epoch=-1", "initial_epoch=0.5",
    "batch_size=-4", "batch_size=2.5", "steps_per_epoch=0", "steps_per_epoch=1.5",
    "validation_batch_size=0", "validation_freq=[]", "validation_freq of text",
    "validation_split=-0.5", "validation_split of text", "validation_split of a generator",
    "no rows in pandas", "empty list of x", "tf.data of unknown length without batches",
    "generator without batches", "validation_data without rows",
    "sample_weight is NaN throughout", "tf.data is NaN throughout", "sample_weight is longer",
    "pandas and NumPy differ", "validation_data differ", "batch of a generator differs",
    "x has one axis", "y would broadcast over outputs", "y has an axis too many",
    "validation y is missing", "y is missing in tf.data", "sample_weight is too wide",
    "tf.data of scalars without batch", "x is a number", "x is a function",
    "y beside a generator", "y is a list of numbers", "callback is a function",
    "x is NaN throughout", "validation_data is NaN throughout", "validation y would broadcast",
    "PyDataset without batches", "batch without rows", "callbacks is text",
    "evaluate: no rows", "evaluate: callback is a class", "evaluate: steps=0",
    "evaluate: no x", "evaluate: y would broadcast", "evaluate: batch_size=0",
    "evaluate: predict: no x", "evaluate: predict: x is text", "evaluate: predict: no rows",
    "evaluate: predict: batch_size=0",
)  # fmt: skip


@pytest.mark.parametrize("name", tiers.without(CALLS, ALIKE))
def test_later_call(name, trained):
    """Refused after training: weights, slots and compile state stay, and it trains on."""
    before = Snapshot(trained)
    assert_refuses(CALLS[name], lambda: CALLS[name].call(trained))
    before.assert_unchanged(trained)
    assert_trains(trained)


# The constructor --------------------------------------------------------------


class NoCall(keras.Model):
    """A model that lacks its ``call``."""


class Raises(keras.Model):
    """A model whose ``call`` has a mistake."""

    def call(self, x):
        return x @ self.missing


def construct(error, *says, **arguments):
    """A mistake in the arguments of ``Trainer`` around an uncompiled model."""

    def call(model):
        return Trainer(**{"model": model, "optimizer": "adam", "loss": "mse", **arguments})

    return Bad(call, error, says)


CONSTRUCT = {
    "no loss": construct(ModelError, "No loss", "Functional", '"mse"', loss=None),
    "no optimizer": construct(ModelError, "No optimizer", "Functional", '"adam"', optimizer=None),
    "unknown loss": construct(ArgumentError, "loss", "'mze'", '"mse"', loss="mze"),
    "unknown loss of an output": construct(
        ArgumentError, "loss", "'mze'", '"mse"', loss={"a": "mse", "b": "mze"}
    ),
    "loss is a number": construct(ArgumentError, "loss", "3", '"mse"', loss=3),
    "loss is a class": construct(
        ArgumentError, "loss", "MeanSquaredError", '"mse"', loss=keras.losses.MeanSquaredError
    ),
    "unknown optimizer": construct(ArgumentError, "optimizer", "'adm'", '"adam"', optimizer="adm"),
    "optimizer is a number": construct(ArgumentError, "optimizer", "0.1", '"adam"', optimizer=0.1),
    "optimizer is a class": construct(
        ArgumentError, "optimizer", "Adam", '"adam"', optimizer=keras.optimizers.Adam
    ),
    "unknown metric": construct(MetricError, "metrics", "'acuracy'", '"mae"', metrics=["acuracy"]),
    "unknown weighted metric": construct(
        MetricError, "weighted_metrics", "'mea'", '"mae"', weighted_metrics=["mea"]
    ),
    "unknown metric of an output": construct(
        MetricError, "metrics", "'mea'", '"mae"', metrics={"dense": ["mae", "mea"]}
    ),
    "metric is a class": construct(
        MetricError, "metrics", "BinaryAccuracy", "instance", metrics=[keras.metrics.BinaryAccuracy]
    ),
    "metric is a number": construct(MetricError, "metrics", "3", '"mae"', metrics=[3]),
    "metrics is text": construct(MetricError, "`metrics`", "'mae'", "['mae']", metrics="mae"),
    "metrics is a metric": construct(
        MetricError, "`metrics`", "MeanLoss", "metrics=[", metrics=models.MeanLoss()
    ),
    "model is None": construct(UnsupportedTypeError, "`model`", "None", "keras.Model", model=None),
    "model is a class": construct(
        UnsupportedTypeError, "`model`", "NoCall", "keras.Model", model=NoCall
    ),
    "model is a layer": construct(
        UnsupportedTypeError, "`model`", "Dense", "keras.Model", model=keras.layers.Dense(2)
    ),
    "model is a list of layers": construct(
        UnsupportedTypeError, "`model`", "list", "keras.Model", model=[keras.layers.Dense(2)]
    ),
    "function returns no model": construct(
        UnsupportedTypeError, "`model`", "dict", "return", model=dict
    ),
    "unknown strategy": construct(
        ArgumentError, "strategy", "'mirored'", '"mirrored"', strategy="mirored"
    ),
    "strategy is a number": construct(
        UnsupportedTypeError, "`strategy`", "2", "tf.distribute.Strategy", strategy=2
    ),
    "no replicas": construct(
        ArgumentError, "strategy", "'mirrored:0'", '"mirrored:2"', strategy="mirrored:0"
    ),
    "more replicas than devices": construct(
        ArgumentError, "strategy", "'mirrored:99'", "99 devices", strategy="mirrored:99"
    ),
    "micro_batches is text": construct(
        ArgumentError, "`micro_batches`", "'two'", '"auto"', micro_batches="two"
    ),
    "an unknown kind of lint": construct(
        ArgumentError, "`lint`", "'errors'", "Did you mean 'error'?", lint="errors"
    ),
    "execution is no plan": construct(
        ArgumentError, "`execution`", "'eager'", "'auto', 'step', 'loop'", execution="eager"
    ),
    "execution is a number": construct(
        UnsupportedTypeError, "`execution`", "3", "Execution", execution=3
    ),
    "seed is text": construct(ArgumentError, "`seed`", "'7'", "whole number", seed="7"),
    "seed is a fraction": construct(ArgumentError, "`seed`", "0.5", "whole number", seed=0.5),
    "seed is negative": construct(ArgumentError, "`seed`", "-1", "0 or more", seed=-1),
    "clips twice": construct(
        ArgumentError,
        "clipnorm",
        "global_clipnorm=0.1",
        "Remove one",
        optimizer=keras.optimizers.SGD(global_clipnorm=0.1),
        clipnorm=1.0,
    ),
}


@pytest.mark.parametrize("name", CONSTRUCT)
def test_constructor(name):
    """Refused when constructed: the model stays uncompiled, and trains with good arguments."""
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, keras.layers.Dense(OUTPUTS, name="dense")(inputs))
    weights, state = model.get_weights(), _keras.compile_state(model)
    assert_refuses(CONSTRUCT[name], lambda: CONSTRUCT[name].call(model))
    assert state == _keras.compile_state(model)
    assert not model.compiled
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)
    Trainer(model, optimizer="adam", loss="mse")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"micro_batches": 0}, "micro_batches=0"),
        ({"micro_batches": 1.5}, "micro_batches=1.5"),
        ({"clipnorm": 0.0}, "clipnorm=0.0"),
        ({"clipvalue": -1.0}, "clipvalue=-1.0"),
        ({"global_clipnorm": float("nan")}, "global_clipnorm=nan"),
        ({"clipnorm": "1"}, "clipnorm='1'"),
        ({"clipnorm": 1.0, "clipvalue": 2.0}, "clipvalue=2.0, clipnorm=1.0"),
    ],
)
def test_step_options(options, says):
    """Options of the step that cannot work are refused as soon as they are made."""
    with pytest.raises(ArgumentError) as caught:
        StepOptions(**options)
    assert says in str(caught.value)


# Models -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (NoCall, ("NoCall", "call")),
        (Raises, ("Raises", "missing")),
        (lambda: keras.Sequential([]), ("Sequential",)),
        (lambda: keras.Sequential([keras.layers.Conv2D(2, 3)]), ("Sequential", "(6, 4)", "ndim")),
    ],
    ids=["no call", "call raises", "no layers", "wrong layer"],
)
def test_model_that_cannot_be_built(make, says):
    """A model that cannot be called on the data is named, with the shape of the data."""
    trainer = Trainer(make(), optimizer="adam", loss="mse")
    bad = Bad(None, ModelError, ("`x`", "(6, 4)", *says))
    assert_refuses(bad, lambda: trainer.fit(X, Y, verbose=0))
    assert [] == trainer.model.weights
    assert 0 == int(trainer.optimizer.iterations.numpy())


def test_unbuilt_model_without_a_loss():
    """Whether there is a loss shows only when the model is built: then it is refused."""
    model = keras.Sequential([keras.layers.Dense(OUTPUTS)])
    trainer = Trainer(model, optimizer="adam", metrics=["mae"])
    bad = Bad(None, ModelError, ("No loss", "Sequential", '"mse"'))
    assert_refuses(bad, lambda: trainer.fit(X, Y, verbose=0))
    assert 0 == int(trainer.optimizer.iterations.numpy())


def test_optimizer_of_another_model():
    """An optimizer that was built for other weights is refused before a step."""
    optimizer = keras.optimizers.Adam()
    Trainer(models.mlp(), optimizer=optimizer, loss="mse").fit(X, Y, verbose=0)
    trainer = Trainer(models.mlp(), optimizer=optimizer, loss="mse")
    before = trainer.model.get_weights()
    bad = Bad(None, ModelError, ("Adam", "dense", "new optimizer"))
    assert_refuses(bad, lambda: trainer.fit(X, Y, verbose=0))
    for a, b in zip(before, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# Losses and metrics that meet the data ----------------------------------------

ELEMENTWISE = (
    "mse",
    keras.losses.MeanSquaredError(),
    keras.losses.mean_squared_error,
    "mae",
    "mape",
    "msle",
    "huber",
    "log_cosh",
    "poisson",
    "hinge",
    "squared_hinge",
    "categorical_hinge",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "kl_divergence",
    "cosine_similarity",
    "dice",
    "tversky",
)


@pytest.mark.parametrize(
    "loss",
    tiers.cases(ELEMENTWISE, ("mse", "hinge", "categorical_crossentropy", "dice")),
    ids=lambda loss: getattr(loss, "name", None),
)
@pytest.mark.parametrize("shape", [(ROWS, 1), (ROWS, 3), (1, ROWS, OUTPUTS)], ids=str)
def test_losses_that_broadcast(loss, shape):
    """Every loss that compares element by element refuses a y of another shape."""
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, keras.layers.Dense(OUTPUTS, activation="softmax")(inputs))
    trainer = Trainer(model, optimizer="adam", loss=loss)
    y = np.full(shape, 0.5, "float32")
    before = model.get_weights()
    with pytest.raises(DataError) as caught:
        trainer.fit(X, y, verbose=0)
    if shape[0] == ROWS:
        assert ShapeError is type(caught.value)
        assert str(shape) in str(caught.value)
        assert str((ROWS, OUTPUTS)) in str(caught.value)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1)], ids=str)
def test_one_column_may_lack_its_axis(shape):
    """A y of shape (rows,) or (rows, 1) for an output of shape (rows, 1) is not refused."""
    trainer = Trainer(models.mlp(outputs=1), optimizer=keras.optimizers.SGD(0.0), loss="mse")
    error = np.mean(np.square(trainer.predict(X, verbose=0) - Y[:, :1]))
    loss = trainer.fit(X, Y[:, 0].reshape(shape), verbose=0).history["loss"]
    assert [error] == pytest.approx(loss, abs=1e-6)


def class_trainer(count=3, loss="sparse_categorical_crossentropy", **arguments):
    inputs = keras.Input((FEATURES,))
    model = keras.Model(inputs, keras.layers.Dense(count, activation="softmax")(inputs))
    return Trainer(model, optimizer="adam", loss=loss, **arguments)


@pytest.mark.parametrize("kind", ["arrays", tiers.slow("tf.data"), "generator"])
@pytest.mark.parametrize(
    ("label", "dtype"), [(3, "int64"), (-1, "int64"), (3, "float32"), (np.nan, "float32")]
)
def test_labels_out_of_range(label, dtype, kind):
    """A class that the output does not have is refused, with the range that it has."""
    y = np.array([0, 1, label, 2, 0, 1]).astype(dtype)
    data = {
        "arrays": (X, y),
        "tf.data": (rows_of(X, y).batch(6),),
        "generator": ((batch for batch in [(X, y)]),),
    }[kind]
    trainer = class_trainer()
    before = trainer.model.get_weights()
    bad = Bad(None, DataError, ("y", str(label), "0 to 2", "Renumber"))
    assert_refuses(bad, lambda: trainer.fit(*data, verbose=0))
    for a, b in zip(before, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_validation_labels_out_of_range():
    """Labels of the validation set are looked at too, before training."""
    trainer = class_trainer()
    before = trainer.model.get_weights()
    bad = Bad(None, DataError, ("`validation_data`", "5", "0 to 2", "Renumber"))
    y = np.array([0, 1, 2, 2, 0, 1])
    assert_refuses(bad, lambda: trainer.fit(X, y, verbose=0, validation_data=(X, y + 3)))
    for a, b in zip(before, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_hot_labels_for_a_sparse_loss():
    """One-hot labels with a sparse loss are refused with the shape that it needs."""
    one_hot = np.eye(3, dtype="float32")[[0, 1, 2, 2, 0, 1]]
    bad = Bad(None, ShapeError, ("`y`", "(6, 3)", "use categorical_crossentropy", "Reshape"))
    assert_refuses(bad, lambda: class_trainer().fit(X, one_hot, verbose=0))


def test_indices_for_a_dense_loss():
    """Class indices with a loss for one-hot labels are refused, not broadcast."""
    fix = "use sparse_categorical_crossentropy"
    bad = Bad(None, ShapeError, ("`y`", "(6,)", "(6, 3)", "the loss", fix))
    trainer = class_trainer(loss="categorical_crossentropy")
    assert_refuses(bad, lambda: trainer.fit(X, np.arange(ROWS) % 3, verbose=0))


DUPLICATES = {
    "two of one name": ({"metrics": ["mae", "mae"]}, "mae"),
    "two objects": (
        {"metrics": [keras.metrics.MeanAbsoluteError(), keras.metrics.MeanAbsoluteError()]},
        "mean_absolute_error",
    ),
    "a metric called loss": ({"metrics": [models.MeanLoss(name="loss")]}, "loss"),
    "two weighted": ({"metrics": [], "weighted_metrics": ["mae", "mae"]}, "mae"),
}


@pytest.mark.parametrize("name", DUPLICATES)
def test_duplicate_metric_names(name):
    """Two metrics of one name would hide each other; the name and a fix are given."""
    arguments, duplicate = DUPLICATES[name]
    trainer = Trainer(models.mlp(), optimizer="adam", loss="mse", **arguments)
    before = trainer.model.get_weights()
    bad = Bad(None, MetricError, ("2 metrics", repr(duplicate), "name="))
    assert_refuses(bad, lambda: trainer.fit(X, Y, verbose=0))
    for a, b in zip(before, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_metric_that_does_not_fit_the_outputs():
    """A metric whose update fails is refused before training, with the shapes."""

    def top(y_true, y_pred):
        return keras.ops.matmul(y_true, y_pred)

    trainer = Trainer(models.mlp(), optimizer="adam", loss="mse", metrics=[top])
    bad = Bad(None, MetricError, ("metrics", "(6, 2)"))
    assert_refuses(bad, lambda: trainer.fit(X, Y, verbose=0))


# Several outputs --------------------------------------------------------------


OUTPUT_MISTAKES = {
    "loss of no output": (
        {"loss": {"p": "mse", "z": "mse"}},
        {"p": Y, "q": Y},
        ("loss", "'z'"),
    ),
    "metric of no output": (
        {"loss": "mse", "metrics": {"z": ["mae"]}},
        {"p": Y, "q": Y},
        ("metrics", "z"),
    ),
    "y lacks an output": ({"loss": "mse"}, {"p": Y}, ("y", "q")),
    "y of no output": ({"loss": "mse"}, {"p": Y, "z": Y}, ("y", "z")),
    "y of one output broadcasts": (
        {"loss": "mse"},
        {"p": Y, "q": Y[:, :1]},
        ("`y`", "(6, 1)", "(6, 2)"),
    ),
    "too many losses": (
        {"loss": ["mse", "mse", "mse"]},
        {"p": Y, "q": Y},
        ("loss=", "'mse', 'mse', 'mse'"),
    ),
    "weight of no output": (
        {"loss": {"p": "mse", "q": "mse"}, "loss_weights": {"z": 1.0}},
        {"p": Y, "q": Y},
        ("loss_weights", "z"),
    ),
}


@pytest.mark.parametrize("name", OUTPUT_MISTAKES)
def test_several_outputs(name):
    """What does not match the names of the outputs is refused by its name."""
    arguments, y, says = OUTPUT_MISTAKES[name]
    model = models.two_outputs(features=FEATURES)
    before = model.get_weights()

    def call():
        Trainer(model, optimizer="adam", **arguments).fit(X, y, verbose=0)

    with pytest.raises(KerastrainError) as caught:
        call()
    assert isinstance(caught.value, ValueError | TypeError)
    for part in says:
        assert part in str(caught.value)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not model.compiled


# Not bad ----------------------------------------------------------------------


def test_some_nan_is_not_refused():
    """Single NaN values are found by the step, which names them, unless nobody is to look."""
    x = X.copy()
    x[:3] = np.nan
    arguments = {"optimizer": keras.optimizers.SGD(0.0), "loss": "mse"}
    with pytest.raises(NonFiniteError, match="`x` is nan in row 0 of the batch"):
        Trainer(models.mlp(), **arguments).fit(x, Y, batch_size=1, shuffle=False, verbose=0)
    arguments["optimizer"] = keras.optimizers.SGD(0.0)
    trainer = Trainer(models.mlp(), guard="off", **arguments)
    trainer.fit(x, Y, batch_size=1, shuffle=False, verbose=0)
    assert ROWS == int(trainer.optimizer.iterations.numpy())


def test_options_of_trainable_model():
    """``compile`` of `TrainableModel` refuses what `StepOptions` refuses, and stays uncompiled."""
    inputs = keras.Input((FEATURES,))
    model = TrainableModel(inputs, keras.layers.Dense(1)(inputs))
    with pytest.raises(ArgumentError, match="micro_batches=0"):
        model.compile("sgd", "mse", micro_batches=0)
    with pytest.raises(ArgumentError, match="set twice"):
        model.compile(keras.optimizers.SGD(clipnorm=1.0), "mse", clipvalue=1.0)
    assert not model.compiled


def test_every_error_is_a_python_error():
    """Each exception of the package is also one of Python's own."""
    for name in kerastrain.__all__:
        item = getattr(kerastrain, name)
        if isinstance(item, type) and issubclass(item, Exception) and item is not KerastrainError:
            assert issubclass(item, KerastrainError)
            assert issubclass(item, ValueError | TypeError | ArithmeticError | RuntimeError)


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda: Trainer(models.mlp(), micro_batchs=2), "micro_batches"),
        (lambda: models.mlp(TrainableModel).compile(micro_batchs=2), "micro_batches"),
        (lambda: Trainer(models.mlp(), optimizer="sgd", loss="mse").fit(X, Y, epoch=2), "epochs"),
        (lambda: RunDir("a", save_evry=1), "save_every"),
        (lambda: Execution(resident_byte=1), "resident_bytes"),
        (lambda: Guard(max_skiped=1), "max_skipped"),
    ],
)
def test_misspelt_arguments(call, meant):
    """Python's own error, with the argument that may have been meant."""
    with pytest.raises(TypeError, match=f"Did you mean '{meant}'"):
        call()


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ({"optimizer": "adm"}, "adam"),
        ({"loss": "mze"}, "mse"),
        ({"metrics": ["acuracy"]}, "accuracy"),
        ({"strategy": "mirored"}, "mirrored"),
        ({"execution": "lop"}, "loop"),
        ({"guard": "skp"}, "skip"),
    ],
)
def test_misspelt_names(arguments, meant):
    """The message has the value, and the name that may have been meant."""
    ((name, value),) = arguments.items()
    value = value[0] if isinstance(value, list) else value
    with pytest.raises(KerastrainError, match=f"'{value}'.*Did you mean '{meant}'"):
        Trainer(models.mlp(), **{"optimizer": "sgd", "loss": "mse", **arguments})


def test_tracebacks_are_short():
    """They have the user's lines, and not those of kerastrain or Keras between them."""
    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse")
    with pytest.raises(KerastrainError) as caught:
        trainer.fit(np.ones((4, 9), "float32"), Y[:4], verbose=0)
    modules = [entry.frame.f_globals["__name__"] for entry in caught.traceback]
    assert {__name__, "kerastrain.quoting"} == set(modules) and len(modules) <= 3
    assert "Arguments received" not in str(caught.value) and "\x1b" not in str(caught.value)
