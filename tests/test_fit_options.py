"""FitOptions of a training: which batches are run, for how long, and what is refused."""

import datetime
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import FitOptions
from kerastrain import RunDir
from kerastrain import Trainer
from kerastrain import UnsupportedTypeError
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

X, Y, _ = datasets.regression(rows=40)
BATCHES = 10


class Events(keras.callbacks.Callback):
    """Notes the steps of each epoch, and of validations, and what epochs log."""

    def __init__(self, seconds=0.0):
        super().__init__()
        self.steps, self.tests, self.names, self.seconds = [], 0, set(), seconds

    def on_epoch_begin(self, epoch, logs=None):
        self.steps.append(0)

    def on_train_batch_end(self, batch, logs=None):
        self.steps = self.steps or [0]  # an epoch that is resumed has begun before
        self.steps[-1] += 1
        time.sleep(self.seconds)

    def on_test_batch_end(self, batch, logs=None):
        self.tests += 1

    def on_epoch_end(self, epoch, logs=None):
        self.names.update(logs)

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def fit(given, x=X, y=Y, **fit):
    keras.utils.set_random_seed(3)
    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse", seed=0)
    events = Events()
    options = {"batch_size": 4 if y is not None else None, "epochs": 3, "verbose": 0} | fit
    trainer.fit(x, y, callbacks=[events], options=given, **options)
    return trainer, events


@pytest.mark.parametrize(
    "limits, steps, tests",
    [
        (None, [10, 10, 10], 30),
        (FitOptions(), [10, 10, 10], 30),
        (FitOptions(limit_train_batches=3), [3, 3, 3], 30),
        (FitOptions(limit_train_batches=0.25), [2, 2, 2], 30),
        (FitOptions(limit_train_batches=99, limit_validation_batches=99), [10, 10, 10], 30),
        (FitOptions(limit_validation_batches=2), [10, 10, 10], 6),
        (FitOptions(limit_validation_batches=0.1), [10, 10, 10], 3),
        (FitOptions(overfit_batches=2), [2, 2, 2], 30),
        (FitOptions(fast_dev_run=True), [1], 1),
    ],
    ids=str,
)
def test_batches(limits, steps, tests):
    """As many are run in each epoch, and in each validation."""
    _, events = fit(limits, validation_data=(X, Y))
    assert (steps, tests) == (events.steps, events.tests)


def test_a_limited_training_continues_in_the_data():
    """As with ``steps_per_epoch``: epochs of three batches see nine in three of them."""
    one, _ = fit(FitOptions(limit_train_batches=3), shuffle=False)
    other, _ = fit(None, steps_per_epoch=3, shuffle=False)
    assertions.assert_close_weights(one.model, other.model)


def test_the_same_batches_again_and_again():
    """Those of overfit_batches are the first ones, in their order, in each epoch."""
    one, _ = fit(FitOptions(overfit_batches=2))
    other, _ = fit(None, X[:8], Y[:8], shuffle=False)
    assertions.assert_close_weights(one.model, other.model)


def test_the_same_batches_of_a_pipeline():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    one, events = fit(FitOptions(overfit_batches=2), data, None)
    other, _ = fit(None, X[:8], Y[:8], shuffle=False)
    assert [2, 2, 2] == events.steps
    assertions.assert_close_weights(one.model, other.model)


def test_a_share_of_a_pipeline():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    assert [5, 5, 5] == fit(FitOptions(limit_train_batches=0.5), data, None)[1].steps


def batches():
    for i in range(0, 40, 4):
        yield X[i : i + 4], Y[i : i + 4]


def test_a_share_of_nobody_knows_how_many():
    with pytest.raises(ArgumentError, match=r"A share of the batches of `x` was asked for, 0\.5"):
        fit(FitOptions(limit_train_batches=0.5), batches(), None)


class Shuffles(keras.utils.PyDataset):
    """Another order in each epoch."""

    def __init__(self):
        super().__init__()
        self.order, self.random = np.arange(40), np.random.default_rng(0)

    def __len__(self):
        return 10

    def __getitem__(self, index):
        rows = self.order[4 * index : 4 * index + 4]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.random.shuffle(self.order)


SHUFFLED = {
    "pipeline": lambda: tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(40, seed=1).batch(4),
    "PyDataset": Shuffles,
    "generator": batches,
}


@pytest.mark.parametrize("name", tiers.cases(SHUFFLED, ["pipeline"]))
def test_the_same_batches_of_what_shuffles(name, tmp_path):
    """At a rate of 0 each epoch has the same loss; a run goes on with the same batches."""
    model = models.mlp()

    def losses(epochs):
        trainer = Trainer(model, optimizer=keras.optimizers.SGD(0.0), loss="mse", seed=0)
        options = {"options": FitOptions(overfit_batches=2), "verbose": 0}
        run = {"epochs": epochs, "run_dir": tmp_path}
        return trainer.fit(SHUFFLED[name](), **options, **run).history["loss"]

    assert [losses(3)[0]] * 4 == losses(4)


def test_a_generator_is_limited():
    assert [4, 4] == fit(FitOptions(limit_train_batches=4), batches(), None, epochs=2)[1].steps


def test_a_fast_run_saves_nothing(tmp_path):
    _, events = fit(FitOptions(fast_dev_run=True), run_dir=tmp_path / "run", validation_freq=5,
                    validation_data=(X, Y), initial_epoch=1)  # fmt: skip
    assert not (tmp_path / "run").exists()
    assert "val_loss" in events.names


@pytest.mark.parametrize("where", ["in the first epoch", "at its end"])
def test_time(where, tmp_path):
    """The training ends, and is resumed from its run directory to the same numbers."""
    whole, _ = fit(None)

    def train(given):
        keras.utils.set_random_seed(3)
        trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse", seed=0)
        events = Events(0.02)
        run_dir = RunDir(tmp_path / "run", save_every=1000)
        options = {"batch_size": 4, "epochs": 3, "verbose": 0, "run_dir": run_dir}
        history = trainer.fit(X, Y, callbacks=[events], options=given, **options)
        return trainer, events, history

    steps = BATCHES if where == "at its end" else 1
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr(
            "kerastrain.loop.fit_loop.FitLoop._has_no_time",
            lambda loop: seen.append(1) or len(seen) >= steps,
        )
        trainer, events, history = train(FitOptions(max_time=1e9))
    assert [steps] == events.steps
    assert {} == history.history
    trainer, events, history = train(None)
    assert 30 - steps == sum(events.steps)
    assert 3 == len(history.history["loss"])
    assertions.assert_close_weights(whole.model, trainer.model)


def test_time_by_the_clock():
    """It ends after a step, long before all epochs."""
    for limit in (0.001, datetime.timedelta(milliseconds=1)):
        _, events = fit(FitOptions(max_time=limit), epochs=10**6)
        assert 1 == len(events.steps)


@pytest.mark.parametrize(
    "limits, words",
    [
        ({"limit_train_batches": 0}, "limit_train_batches"),
        ({"limit_train_batches": 1.5}, "a share above 0.0 up to 1.0"),
        ({"limit_validation_batches": -0.1}, "limit_validation_batches=-0.1"),
        ({"limit_validation_batches": "all"}, "limit_validation_batches='all'"),
        ({"overfit_batches": 0.5}, "overfit_batches=0.5"),
        ({"overfit_batches": 2, "limit_train_batches": 2}, "Remove one of them"),
        ({"max_time": 0}, "max_time=0"),
        ({"max_time": datetime.timedelta(0)}, "`max_time` must be above 0"),
    ],
    ids=str,
)
def test_what_cannot_work(limits, words):
    with pytest.raises(ArgumentError, match=words):
        FitOptions(**limits)


def test_another_object():
    with pytest.raises(UnsupportedTypeError, match="`options` must be FitOptions"):
        fit({"limit_train_batches": 2})


def test_an_own_fit():
    """Of the model's own: it is called, and the training inside is limited."""

    class Own(keras.Sequential):
        calls = 0

        def fit(self, *args, **options):
            self.calls += 1
            return super().fit(*args, **options)

    model, events = Own([keras.Input(X.shape[1:]), keras.layers.Dense(2)]), Events()
    trainer = Trainer(model, optimizer="sgd", loss="mse")
    trainer.fit(
        X, Y, batch_size=4, options=FitOptions(limit_train_batches=3), verbose=0, callbacks=[events]
    )
    assert (1, [3]) == (model.calls, events.steps)


@pytest.mark.parametrize(
    "options", [{"validation_every": 2}, {"limit_validation_batches": 2}], ids=str
)
def test_options_of_a_validation_that_there_is_not(options):
    (name,) = options
    with pytest.raises(ArgumentError, match=f"`{name}` needs `validation_data`"):
        Trainer(models.mlp(), optimizer="sgd", loss="mse").fit(
            X, Y, verbose=0, options=FitOptions(**options)
        )
