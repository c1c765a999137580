"""What an epoch would log wrongly is warned of; what Keras's own guides write is not."""

import contextlib
import itertools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import _keras
from kerastrain import MetricError
from kerastrain import Trainer
from tests.support import datasets
from tests.support import tiers

X, Y, _ = datasets.regression(rows=8, outputs=1)


class Steps(keras.Model):
    """A model whose step a test writes: `logged` updates metrics and returns the logs."""

    compiled_metrics_of_keras = None
    names = ("first", "second")

    def __init__(self):
        super().__init__()
        self.out = keras.layers.Dense(1)
        if self.compiled_metrics_of_keras is None:
            self.first, self.second = map(keras.metrics.Mean, self.names)

    def call(self, x):
        return self.out(x)

    @property
    def metrics(self):
        return [self.first, self.second]

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = self.compute_loss(x, y, outputs)
        weights = self.trainable_weights
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        return self.logged(loss, y, outputs)

    def logged(self, loss, y, outputs):
        self.first.update_state(loss)
        self.second.update_state(loss)
        return {m.name: m.result() for m in self.metrics}


class OfAllMetrics(Steps):
    """The loop of Keras's guide, over what is compiled too."""

    compiled_metrics_of_keras = ["mae"]

    @property
    def metrics(self):
        return keras.Model.metrics.fget(self)

    def logged(self, loss, y, outputs):
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, outputs)
        return {metric.name: metric.result() for metric in self.metrics}


class OtherNames(Steps):
    expected_on_replicas = "returns ['loss', 'ratio']"

    def logged(self, loss, y, outputs):
        super().logged(loss, y, outputs)
        return {"loss": self.first.result(), "ratio": self.first.result() / self.second.result()}


class InTestOnly(Steps):
    def logged(self, loss, y, outputs):
        self.first.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics[:-1]}

    def test_step(self, data):
        self.first.update_state(1.0)
        self.second.update_state(self(data[0]))
        return {metric.name: metric.result() for metric in self.metrics}


class InTestOnlyLoggedInBoth(InTestOnly):
    def logged(self, loss, y, outputs):
        self.first.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}


class MadeInTheStep(Steps):
    def logged(self, loss, y, outputs):
        if not hasattr(self, "late"):
            self.late = keras.metrics.Mean("late")
        self.late.update_state(loss)
        return {**super().logged(loss, y, outputs), "late": self.late.result()}


class InAFunction(Steps):
    """With TensorFlow's function inside, and what is no metric but a state."""

    @tf.function
    def train_step(self, data):
        return {**super().train_step(data), "rate": self.optimizer.learning_rate}


class ByItsVariables(Steps):
    def logged(self, loss, y, outputs):
        self.second.update_state(loss)
        self.first.total.assign_add(loss)
        self.first.count.assign_add(1.0)
        return {"mean": self.first.result()}


class Nested(Steps):
    def logged(self, loss, y, outputs):
        super().logged(loss, y, outputs)
        return {"a": {"first": self.first.result(), "b": {"other": self.second.result()}}}


class OfOneName(Steps):
    """Two metrics have the name of their class, and are logged by others."""

    names = (None, None)
    metrics = property(keras.Model.metrics.fget)
    expected_on_replicas = "returns ['c', 'p']"

    def logged(self, loss, y, outputs):
        self.first.update_state(outputs)
        self.second.update_state(y)
        return {"p": self.first.result(), "c": self.second.result()}

    def test_step(self, data):
        self.first.update_state(self(data[0]))
        return {"p": self.first.result()}


class TrackerOfItsOwn(Steps):
    """Beside that of Keras there is one more named "loss"."""

    names = ("loss", "second")
    metrics = property(keras.Model.metrics.fget)

    def test_step(self, data):
        return self.logged(tf.reduce_mean(self(data[0])), None, None)


class OfTheBatch(Steps):
    """Keras logs the values of the last batch."""

    expected_on_replicas = "returns ['b', 'good', 'loss']"

    def test_step(self, data):
        return {"largest": tf.reduce_max(self(data[0]))}

    def logged(self, loss, y, outputs):
        super().logged(loss, y, outputs)
        return {"loss": loss, "b": self.first.result() + loss, "good": self.first.result()}


class OfTheBatchInACondition(Steps):
    def logged(self, loss, y, outputs):
        super().logged(loss, y, outputs)
        return {"good": self.first.result(), "c": tf.cond(loss > 0, lambda: loss, lambda: -loss)}


class OfTheBatchInAFunction(Steps):
    @tf.function
    def train_step(self, data):
        logs = super().train_step(data)
        return {"good": logs["first"], "loss": tf.reduce_mean(self(data[0]))}


IDIOMS = (
    OfAllMetrics, OtherNames, InTestOnly, InTestOnlyLoggedInBoth, MadeInTheStep, InAFunction,
    ByItsVariables, Nested, OfOneName, TrackerOfItsOwn, OfTheBatch, OfTheBatchInACondition,
    OfTheBatchInAFunction,
)  # fmt: skip


class BesideItsMetric(Steps):
    """Keras logs the metric of that name: 0."""

    expected = "metrics ['first'] of BesideItsMetric are not updated"

    def logged(self, loss, y, outputs):
        self.second.update_state(loss)
        return {"first": loss, "second": self.second.result()}

    def test_step(self, data):
        return {"seen": self.second.result()}


class NobodyUpdates(Steps):
    expected = "metrics ['second'] of NobodyUpdates are not updated"

    def logged(self, loss, y, outputs):
        self.first.update_state(loss)
        return {"first": self.first.result()}


class CompiledAndLoggedOnly(OfAllMetrics):
    """Keras's test step updates it, and the train step returns 0 for it."""

    expected = "metrics ['mae'] of CompiledAndLoggedOnly are not updated"

    def logged(self, loss, y, outputs):
        self.metrics[0].update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}


class ReturnedBesideTheTracker(Steps):
    """Keras logs its own tracker in place of the value that is returned: 0."""

    expected = "returns ['loss'], and the metrics of these names"
    metrics = property(lambda self: [m for m in keras.Model.metrics.fget(self) if m.name == "loss"])

    def logged(self, loss, y, outputs):
        return {"loss": loss}


class BothOfOneName(TrackerOfItsOwn):
    """The value of the first is lost, though it is what the step returns."""

    expected = "updates several metrics of one name, ['loss']"

    def logged(self, loss, y, outputs):
        super().logged(loss, y, outputs)
        self.metrics[0].update_state(2 * loss)
        return {"loss": self.metrics[0].result(), "second": self.second.result()}

    def test_step(self, data):
        return {"seen": self.second.result()}


MISTAKES = (
    BesideItsMetric, NobodyUpdates, CompiledAndLoggedOnly, ReturnedBesideTheTracker, BothOfOneName,
)  # fmt: skip


def said(cls, strategy=None, **compile_):
    """The warnings of a training with validation, and its history."""

    def make():
        model = cls()
        model.compile("sgd", "mse", metrics=cls.compiled_metrics_of_keras, **compile_)
        return model

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = Trainer(make if strategy else make(), strategy=strategy)
        fit = {"epochs": 2, "batch_size": 4, "verbose": 0}
        history = trainer.fit(X, Y, validation_data=(X, Y), **fit).history
    ours = [
        str(w.message) for w in caught if w.category is UserWarning
    ]  # some are of Python's for TensorFlow
    return [text for text in ours if "on each replica" not in text], history


@pytest.mark.parametrize(
    "cls",
    tiers.without(
        IDIOMS, (OtherNames, InTestOnly, MadeInTheStep, InAFunction, OfOneName, Nested, OfTheBatch)
    ),
)
def test_what_guides_write(cls):
    """Nothing is said of it."""
    assert [] == said(cls)[0]


@pytest.mark.parametrize("cls", tiers.without(MISTAKES, (BesideItsMetric, CompiledAndLoggedOnly)))
def test_mistakes(cls):
    """One warning, which names the result or the metric."""
    [message] = said(cls)[0]
    assert cls.expected in message


@pytest.mark.parametrize(
    "cls", (tiers.slow(OtherNames), tiers.slow(MadeInTheStep), OfTheBatch, BesideItsMetric)
)
def test_eager_steps(cls):
    """The same is found where each step runs eagerly."""
    messages, _ = said(cls, run_eagerly=True)
    assert getattr(cls, "expected", "") in "".join(messages)
    assert hasattr(cls, "expected") == bool(messages)


@pytest.mark.slow
@pytest.mark.parametrize("eager", (False, True))
@pytest.mark.parametrize("cls", (OfAllMetrics, OtherNames, OfOneName, OfTheBatch, InTestOnly))
def test_values_of_replicas(cls, eager):
    """What is computed from the rows of a replica is not that of the batch: it is said."""
    messages, _ = said(cls, strategy="mirrored:2", run_eagerly=eager)
    assert getattr(cls, "expected_on_replicas", "") in "".join(messages)
    assert hasattr(cls, "expected_on_replicas") == bool(messages)


@pytest.mark.parametrize(
    ("cls", "plan"),
    tiers.cases(
        itertools.product((OfTheBatch, OfOneName, TrackerOfItsOwn), ("step", "loop", "xla_loop")),
        [(OfTheBatch, "loop"), (OfOneName, "step")],
    ),
)
def test_values_are_those_of_keras(cls, plan):
    """By each plan: those of the last batch, where the step returns such."""
    histories = []
    for fit in (
        keras.Model.fit,
        lambda m, *args, **kw: Trainer(m, execution=plan).fit(*args, **kw),
    ):
        keras.utils.set_random_seed(1)
        model = cls()
        model.compile("sgd", "mse")
        data = {"batch_size": 4, "validation_data": (X[:6], Y[:6]), "shuffle": False}
        histories.append(fit(model, X[:7], Y[:7], epochs=2, verbose=0, **data).history)
    assert histories[0].keys() == histories[1].keys()
    for name, expected in histories[0].items():
        np.testing.assert_allclose(histories[1][name], expected, rtol=1e-5)


def test_two_of_one_name_are_refused_where_keras_drops_one():
    """Its own test step logs the results by the metrics' names."""

    class TestedByKeras(TrackerOfItsOwn):
        test_step = keras.Model.test_step

    trainer = Trainer(TestedByKeras(), optimizer="sgd", loss="mse")
    with pytest.raises(MetricError, match="2 metrics would be logged as 'loss'"):
        trainer.fit(X, Y, validation_data=(X, Y), verbose=0)
    trainer.fit(X, Y, verbose=0)


def test_nested_logs_have_the_names_that_keras_gives_them():
    """`{"a": {"b": 1.0}}` is logged as b."""
    model = Nested()
    model.compile("sgd", "mse")
    expected = model.fit(X, Y, verbose=0).history
    history = said(Nested)[1]
    assert set(expected) == {name for name in history if not name.startswith("val_")}


def test_the_code_of_keras_is_as_it_was():
    """Nothing of it stays replaced, also after an error."""
    before = keras.Variable.assign
    with contextlib.suppress(ZeroDivisionError), _keras.assigned_variables() as noted:
        variable = keras.Variable(1.0)
        variable.assign_add(2.0)
        raise ZeroDivisionError
    assert before is keras.Variable.assign
    assert {id(variable)} <= noted
