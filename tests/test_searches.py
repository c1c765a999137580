"""Searches: what they suggest, what they leave (nothing), and what they refuse."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import DataError
from kerastrain import ModelError
from kerastrain import Trainer
from kerastrain.loop import batch_sizes
from kerastrain.loop.batch_sizes import BatchSize
from tests.step import test_updates
from tests.support import assertions
from tests.support import tiers

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 4)).astype("float32")
Y = (X @ [1.0, -2.0, 0.5, 3.0]).astype("float32")


def trainer(optimizer="adam", **options):
    """Of a model that draws random numbers and keeps statistics."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [layers.Dense(8, "tanh"), layers.Dropout(0.1), layers.BatchNormalization(), layers.Dense(1)]
    )
    return Trainer(model, optimizer=optimizer, loss="mse", metrics=["mae"], **options)


SEARCHES = {
    "learning rate": lambda one: one.find_learning_rate(X, Y, batch_size=16, steps=30),
    "batch size": lambda one: one.find_batch_size(X, Y, sizes=[16, 50]),
}
HOW = {
    "auto": {"seed": 0},
    "no seed": {},
    "replicas": {"seed": 0, "strategy": "mirrored:2"},
    "eagerly": {"seed": 0, "run_eagerly": True},
}


@pytest.mark.parametrize("how", tiers.cases(HOW, ["auto"]))
@pytest.mark.parametrize("search", ["learning rate", tiers.slow("batch size")])
def test_nothing_is_left(search, how):
    """A training after it is that without it, to the bit; one before it, too."""
    trained = []
    for searches in (False, True):
        one = trainer(**HOW[how])
        random.seed(5)
        histories = []
        for _ in range(2):
            if searches:
                SEARCHES[search](one)
            histories.append(one.fit(X, Y, batch_size=16, epochs=2, verbose=0).history)
        trained.append((one.model.get_weights(), histories))
    assert trained[0][1] == trained[1][1]
    assertions.assert_equal_arrays(trained[0][0], trained[1][0])


class Parabola(keras.Model):
    """One weight, whose best value is 1; steps with a rate above 1 lead away from it."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(), initializer="zeros")

    def call(self, x):
        return keras.ops.zeros_like(x) + self.weight


def test_a_learning_rate():
    """It is below where the loss grows; losses are those of the batches before the updates."""
    one = Trainer(Parabola(), optimizer="sgd", loss="mse", seed=0)
    ones = np.ones((64, 1), "float32")
    found = one.find_learning_rate(ones, ones, batch_size=8, lowest=1e-4, highest=10.0, steps=60)
    weight, losses = 0.0, []
    for rate in np.geomspace(1e-4, 10.0, 60)[: len(found.rates)]:
        losses.append((weight - 1) ** 2)
        weight -= rate * 2 * (weight - 1)
    same = [loss < 1.0 for loss in losses]  # rounding grows with those that diverge
    np.testing.assert_allclose(
        np.array(found.losses)[same], np.array(losses)[same], rtol=0.1, atol=1e-5
    )
    np.testing.assert_allclose(found.rates, np.geomspace(1e-4, 10.0, 60)[: len(losses)])
    assert 0.005 < found.suggestion < 0.5
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    assert found.rates[-1] < 10.0  # it ended where the loss had grown


def test_a_loss_that_never_falls():
    """No rate is suggested, with a warning."""
    ones = np.ones((64, 1), "float32")
    one = Trainer(Parabola(), optimizer="sgd", loss=lambda y, pred: pred * 0.0 + 1.0, seed=0)
    with pytest.warns(UserWarning, match="no learning rate is suggested"):
        assert one.find_learning_rate(ones, ones, steps=10).suggestion is None


@pytest.mark.parametrize("seed", [0, *map(tiers.slow, range(1, 6))])
@pytest.mark.parametrize("kind", [tiers.slow("plain"), "heavy tail"])
def test_of_noisy_losses(seed, kind):
    """Noise before the fall is none, and a large loss among small ones ends nothing."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 6)).astype("float32")
    y = (x @ np.arange(6.0)[:, None]).astype("float32")
    if kind == "heavy tail":
        y = np.exp(x @ random.normal(size=6) * 0.5).astype("float32")
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.layers.Dense(16, "relu"), keras.layers.Dense(1)])
    one = Trainer(model, optimizer="adam", loss="mse", seed=seed, execution="loop")
    found = one.find_learning_rate(x, y)
    assert len(found.rates) > 60
    assert 1e-3 < found.suggestion < 1.0


def test_of_data_that_are_not_finite():
    """Though the loss may be: the weights are looked at."""
    x = X.copy()
    x[:20, 0] = np.nan
    model = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    one = Trainer(model, optimizer="adam", loss="mse", seed=0)
    with pytest.warns(UserWarning, match="was not finite, with a rate of .*: no learning rate"):
        found = one.find_learning_rate(x, Y, batch_size=16)
    assert found.suggestion is None
    assert len(found.rates) < 20


def test_of_a_model_with_updates():
    """The rate is that of the compiled optimizer."""
    keras.utils.set_random_seed(1)
    one = Trainer(test_updates.Gan(), optimizer=keras.optimizers.Adam(0.01), seed=0)
    assert one.find_learning_rate(test_updates.DATA, batch_size=8, steps=10).losses
    assert float(one.optimizer.learning_rate) == pytest.approx(0.01)


def test_data_sets():
    """Batches may come from anything that can be iterated again."""
    found = trainer(seed=0).find_learning_rate(
        tf.data.Dataset.from_tensor_slices((X, Y)).batch(20), steps=25
    )
    assert len(found.losses) <= 25


def measured(size, speed, memory=None):
    return BatchSize(size, speed, size / speed, memory, "loop")


SIZES = [8, 16, 32, 64, 128, 256]


@pytest.mark.parametrize(
    ("speeds", "tried", "suggestion", "stopped"),
    [
        ([100, 200, 400, 800, 1600, 3200], 6, 256, "These were all"),
        ([100, 200, 400, 410, 405, 400], 6, 32, "Larger batches were no faster"),
        ([100, 99, 98, 97, 96, 95], 4, 8, "Larger batches were no faster"),
        ([100, 200, 215, 400, 390, 380], 6, 64, "These were all"),
    ],
)
def test_when_sizes_are_no_faster(speeds, tried, suggestion, stopped):
    """The smallest of nearly the best throughput is suggested."""
    speed = dict(zip(SIZES, speeds, strict=True))
    found = batch_sizes.compared(
        SIZES, 60.0, lambda size: measured(size, speed[size]), lambda: None
    )
    assert (tried, suggestion) == (len(found.measured), found.suggestion)
    assert found.stopped.startswith(stopped)
    assert f"{suggestion}" in str(found)


def test_memory_that_is_too_small():
    """What failed, or would, ends it with the sizes before."""

    def fails(size):
        if size > 16:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return measured(size, size * 10)

    found = batch_sizes.compared(SIZES, 60.0, fails, lambda: None)
    assert [one.size for one in found.measured] == [8, 16]
    assert found.stopped == "Memory is too small for batches of 32."
    found = batch_sizes.compared(
        SIZES, 60.0, lambda size: measured(size, size * 10, 1000 + size * 10), lambda: 1000
    )
    assert [one.size for one in found.measured] == [8, 16, 32, 64]
    assert found.stopped == "Batches of 128 may not fit into the memory that is free."
    with pytest.raises(MemoryError):
        batch_sizes.compared([8], 1.0, lambda size: _raise(MemoryError()), lambda: None)


def _raise(error):
    raise error


def test_time_that_is_over():
    """The first size is measured in any case."""
    found = batch_sizes.compared(SIZES, 1e-9, lambda size: measured(size, size), lambda: None)
    assert [one.size for one in found.measured] == [8]
    assert "seconds were over" in found.stopped


def test_batch_sizes_are_measured():
    """Each has a positive speed, the plan and, on Linux, its memory."""
    found = trainer(execution="loop").find_batch_size(X, Y, sizes=[10, 64])
    assert [one.size for one in found.measured] == [10, 64]
    for one in found.measured:
        assert one.rows_per_second > 0
        assert one.plan == "loop"
        assert one.peak_bytes is None or one.peak_bytes > 2**20
        assert one.step_seconds == pytest.approx(one.size / one.rows_per_second)


@pytest.mark.parametrize("make", [tf.constant, tiers.slow(lambda rows: np.array(rows, object))])
def test_batch_sizes_of_text(make):
    """Rows that NumPy's numbers cannot hold."""
    words = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
    inputs = keras.Input((), dtype="string")
    model = keras.Model(inputs, keras.layers.Dense(1)(words(inputs)))
    found = Trainer(model, optimizer="sgd", loss="mse").find_batch_size(
        make(["a", "b"] * 8), np.ones((16, 1)), sizes=[16]
    )
    assert [one.size for one in found.measured] == [16]


@pytest.mark.parametrize(
    ("search", "error", "message"),
    [
        (lambda one: one.find_learning_rate(X, Y, lowest=0.0), ArgumentError, "`lowest`"),
        (
            lambda one: one.find_learning_rate(X, Y, lowest=1.0, highest=0.1),
            ArgumentError,
            "be below",
        ),
        (lambda one: one.find_learning_rate(X, Y, steps=5), ArgumentError, "`steps`"),
        (
            lambda one: one.find_learning_rate((X[:8], Y[:8]) for _ in range(9)),
            DataError,
            "would use up",
        ),
        (lambda one: one.find_batch_size(X, Y, sizes=[32, 16]), ArgumentError, "increasing order"),
        (lambda one: one.find_batch_size(X, Y, sizes=[]), ArgumentError, "increasing order"),
        (lambda one: one.find_batch_size(X, Y, sizes=[300]), ArgumentError, "the rows of x, 200"),
        (lambda one: one.find_batch_size(X, Y, seconds=0), ArgumentError, "`seconds`"),
        (
            lambda one: one.find_batch_size(tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)),
            DataError,
            "Pass arrays to `find_batch_size`",
        ),
    ],
)
def test_refused(search, error, message):
    """Before a step runs."""
    with pytest.raises(error, match=message):
        search(trainer())


def test_a_schedule_is_refused():
    """Its rate cannot be set."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    plain = keras.optimizers.SGD(schedule)
    for optimizer in (plain, keras.optimizers.LossScaleOptimizer(plain)):
        with pytest.raises(ArgumentError, match="The learning rate of SGD is a schedule"):
            trainer(optimizer).find_learning_rate(X, Y)


def test_inside_fit():
    """A callback cannot search with the trainer that trains."""
    one = trainer()

    class Searches(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            with pytest.raises(ModelError, match="while this Trainer is inside `fit`"):
                one.find_learning_rate(X, Y)

    one.fit(X, Y, epochs=1, verbose=0, callbacks=[Searches()])


def test_plots():
    """As matplotlib axes."""
    pytest.importorskip("matplotlib").use("agg")
    one = trainer()
    axes = one.find_learning_rate(X, Y, steps=20).plot()
    assert axes.get_xscale() == "log"
    assert axes.get_ylabel() == "loss"
    found = batch_sizes.compared([8, 16], 60.0, lambda size: measured(size, size), lambda: None)
    assert found.plot().get_ylabel() == "rows/s"
