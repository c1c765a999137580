"""After which epochs a training is validated, and Keras's limits of epochs and steps."""

import keras
import numpy as np
import pytest

from kerastrain import Trainer
from kerastrain.loop.schedule import is_due
from tests.support import datasets
from tests.support import models

X, Y, _ = datasets.regression(rows=40)


def test_every_so_many_epochs():
    """Counted from the first: with 2 the second, the fourth and so on, as Keras counts them."""
    assert [False, True, False, True] == [is_due(epoch, 2) for epoch in range(4)]
    assert [True] * 3 == [is_due(epoch, 1) for epoch in range(3)]


def test_after_some_epochs():
    """A list counts them from 1."""
    assert [True, False, True] == [is_due(epoch, [1, 3]) for epoch in range(3)]


# Keras's limits ----------------------------------------------------------------------


@pytest.fixture
def limits():
    """At most two epochs, of at most three batches."""
    keras.config.set_max_epochs(2)
    keras.config.set_max_steps_per_epoch(3)
    yield
    keras.config.set_max_epochs(None)
    keras.config.set_max_steps_per_epoch(None)


class Batches(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(batch)

    def on_test_batch_end(self, batch, logs=None):
        self.seen.append(("test", batch))


def batches():
    """Without an end."""
    while True:
        yield X[:8], Y[:8]


@pytest.mark.parametrize("kind", ["arrays", "generator"])
def test_limits(kind, limits):
    """The same batches as under Keras's fit, and as many rows in each."""
    seen, weights = [], []
    for entry_point in ("keras", "trainer"):
        keras.utils.set_random_seed(3)
        model, callback = models.mlp(), Batches()
        model.compile("sgd", "mse")
        fit = model.fit if entry_point == "keras" else Trainer(model, guard="off").fit
        data = (X, Y) if kind == "arrays" else (batches(),)
        size = {"batch_size": 5} if kind == "arrays" else {}
        with pytest.warns() as record:
            fit(*data, **size, epochs=5, verbose=0, shuffle=False, callbacks=[callback])
        if entry_point == "trainer":
            messages = [str(one.message) for one in record]
            assert any("before epoch 2, by KERAS_MAX_EPOCHS" in m for m in messages)
            assert any("has 3 batches, by KERAS_MAX_STEPS_PER_EPOCH" in m for m in messages)
        seen.append(callback.seen)
        weights.append([w.numpy() for w in model.weights])
    assert [0, 1, 2] * 2 == seen[0] == seen[1]
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_validation_and_evaluation_are_limited(limits):
    callback, trainer = Batches(), Trainer(models.mlp(), optimizer="sgd", loss="mse")
    trainer.fit(X, Y, batch_size=8, verbose=0, validation_data=(X, Y), callbacks=[callback])
    assert [0, 1, 2, *(("test", i) for i in range(3))] == callback.seen
    assert 3 * 8 == len(trainer.predict(X, batch_size=8, verbose=0))


def test_what_is_within_the_limits_stays(limits, recwarn):
    callback, trainer = Batches(), Trainer(models.mlp(), optimizer="sgd", loss="mse")
    trainer.fit(X, Y, batch_size=20, epochs=2, verbose=0, callbacks=[callback])
    assert [0, 1] * 2 == callback.seen
    assert not [one for one in recwarn if "KERAS_MAX" in str(one.message)]
