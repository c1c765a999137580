"""What callbacks do between two steps is not lost where steps are run again."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import _keras
from kerastrain import NonFiniteError
from kerastrain.guard import finite
from kerastrain.state import HostCopies
from tests.guard.test_transactions import assert_same
from tests.guard.test_transactions import BAD
from tests.guard.test_transactions import fit
from tests.guard.test_transactions import network
from tests.guard.test_transactions import Own
from tests.guard.test_transactions import rows
from tests.guard.test_transactions import strange_loss
from tests.guard.test_transactions import strange_rows
from tests.guard.test_transactions import trainer
from tests.guard.test_transactions import without
from tests.support import tiers

pytestmark = pytest.mark.filterwarnings("ignore:.*batch is skipped")


@pytest.fixture(autouse=True)
def seldom(monkeypatch):
    """Checks and copies by the clock come never, so that most is run again."""
    monkeypatch.setattr(finite, "SHARE", 1e-9)


class At(keras.callbacks.Callback):
    """Does something at a batch, or at each, when it has ended or when it begins."""

    def __init__(self, act, batch=None, event="end"):
        super().__init__()
        self.act, self.batch = act, batch
        setattr(self, f"on_train_batch_{event}", self.maybe)

    def maybe(self, batch, logs=None):
        if self.batch in (None, batch):
            self.act(self.model, batch)


def halve(model, batch=None):
    for weight in model.trainable_weights:
        weight.assign(0.5 * weight)


# Learning rates ------------------------------------------------------------------------


def set_rate(model, batch):
    """As some schedules do, for the next step."""
    model.optimizer.learning_rate = 0.01 * (batch + 1)


@pytest.mark.parametrize("scaled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_rate_that_is_set_after_the_last_step(scaled):
    """It is the one that the training ends with, though that step was taken back."""
    optimizer = keras.optimizers.SGD(0.001)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    made = trainer("skip", loss=strange_loss, optimizer=optimizer)
    fit(made, strange_rows(11), callbacks=[At(set_rate)])
    assert made.skipped == ([] if scaled else [(0, 11)])  # which loss scaling does by itself
    assert float(made.optimizer.learning_rate) == pytest.approx(0.12)


class TwoOptimizers(Own):
    """The bias has an optimizer of its own."""

    def train_step(self, data):
        if not hasattr(self, "second"):
            self.second = keras.optimizers.SGD(0.5)
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_weights)
        pairs = list(zip(gradients, self.trainable_weights, strict=True))
        self.optimizer.apply_gradients(pairs[:-1])
        self.second.apply_gradients(pairs[-1:])
        return self.logged(loss)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_rates_of_all_optimizers(policy):
    """Those that a callback has set are in force when steps are run again, and afterwards."""

    def model():
        made = network(TwoOptimizers)
        made.second = keras.optimizers.SGD(0.5)
        return made

    def set_second(model, batch):
        model.second.learning_rate = 0.01 / (batch + 1)

    def trained(policy, data):
        made = trainer(policy, model=model, loss=strange_loss, execution="step")
        fit(made, data, callbacks=[At(set_second, event="begin")])
        return made

    made = trained(policy, strange_rows(11))
    assert float(made.model.second.learning_rate) == pytest.approx(0.01 / 12)
    if policy == "skip":
        assert_same(made, trained("off", without(11, rows())))


# What steps change ------------------------------------------------------------------------


CHANGES = [
    (event, batch, devices)
    for event in ("begin", "end")
    for batch in (2, None, BAD - 1)
    for devices in (1, 2)
]


@pytest.mark.parametrize(("event", "batch", "devices"), tiers.cases(CHANGES, [("end", 2, 1)]))
def test_weights_that_a_callback_changes(event, batch, devices):
    """The model has the weights from before the bad step, and so what the callback made of them."""
    options = {"loss": strange_loss} | ({"strategy": "mirrored:2"} if devices > 1 else {})
    made, other = (trainer(guard, **options) for guard in ("raise", "off"))
    with pytest.raises(NonFiniteError, match="Step 6 "):
        fit(made, strange_rows(), callbacks=[At(halve, batch, event)])
    fit(other, rows(), steps_per_epoch=BAD, callbacks=[At(halve, batch, event)])
    if event == "begin" and batch is None:
        halve(other.model)  # the begin of the bad step
    assert_same(made, other)


@pytest.mark.slow
def test_weights_that_a_callback_changes_before_a_step_that_is_left_out():
    """The training is the one without that batch, and with what the callback did."""
    made, other = (trainer(guard, loss=strange_loss) for guard in ("skip", "off"))
    fit(made, strange_rows(), callbacks=[At(halve, 2)], epochs=2)
    fit(other, without(BAD, rows()), callbacks=[At(halve, 2)], epochs=2)
    assert made.skipped == [(0, BAD), (1, BAD)]
    assert_same(made, other)


@pytest.mark.slow
def test_weights_that_a_callback_changes_after_the_last_step():
    """They stay, whether or not that step was bad."""
    made, other = (trainer(guard, loss=strange_loss) for guard in ("skip", "off"))
    fit(made, strange_rows(11), callbacks=[At(lambda *_: None), At(halve, 3), At(halve, 11)])
    fit(other, without(11, rows()), callbacks=[At(halve, 3)])
    halve(other.model)
    assert_same(made, other)


def test_a_callback_that_leaves_what_is_not_finite():
    """It is reported as what it is, before the next step hides it."""

    def breaks(model, batch):
        model.trainable_weights[0].assign(np.nan * model.trainable_weights[0])

    with pytest.raises(NonFiniteError, match="a callback has"):
        fit(trainer(), rows(), callbacks=[At(breaks, 2)])


class Weighted(keras.losses.Loss):
    """A loss with a weight that a callback sets, as annealing does."""

    def __init__(self):
        super().__init__()
        self.weight = tf.Variable(0.0, trainable=False)

    def call(self, y_true, y_pred):
        return self.weight * strange_loss(y_true, y_pred)


def test_what_steps_only_read_is_kept_with_each(monkeypatch):
    """Without a copy of everything at each step."""
    losses = [Weighted(), Weighted()]

    def anneal(loss):
        return At(lambda model, batch: loss.weight.assign(0.1 * (batch + 1)), event="begin")

    made, other = (trainer(p, loss=one) for p, one in zip(("skip", "off"), losses, strict=True))
    copies = []
    take = HostCopies.take
    monkeypatch.setattr(HostCopies, "take", lambda self: copies.append(1) or take(self))
    fit(made, rows(), callbacks=[anneal(losses[0])])
    assert len(copies) <= 3
    with pytest.raises(NonFiniteError, match="Step 6 "):
        made = trainer("raise", loss=losses[0])
        fit(made, strange_rows(), callbacks=[anneal(losses[0])])
    fit(other, rows(), steps_per_epoch=BAD, callbacks=[anneal(losses[1])])
    assert_same(made, other)
    assert float(losses[0].weight) == pytest.approx(0.1 * (BAD + 1))


# How it is seen ---------------------------------------------------------------------------


def test_assignments_are_seen_by_several_who_leave_in_any_order():
    """What was replaced is back after the last of them."""
    before, seen = vars(tf.Variable(0.0).__class__).get("assign"), []
    one, two = (_keras.assignments_seen(lambda v, n=n: seen.append(n)) for n in range(2))
    variable = tf.Variable(0.0)
    for call in (one.__enter__, two.__enter__):
        call()
    variable.assign(1.0)
    one.__exit__(None, None, None)
    variable.assign(2.0)
    two.__exit__(None, None, None)
    variable.assign(3.0)
    assert set(seen[:-1]) == {0, 1} and seen[-1] == 1
    assert vars(tf.Variable(0.0).__class__).get("assign") is before
