"""A state that is kept is saved by the names of its variables."""

import keras
import numpy as np
import pytest

from kerastrain.errors import RunError
from kerastrain.guard.snapshots import Snapshot
from kerastrain.state.model_state import ModelState


class Rated(keras.layers.Dense):
    """Has a weight whose name is that of an optimizer's learning rate."""

    def build(self, shape):
        super().build(shape)
        self.rate = self.add_weight(name="learning_rate", shape=(), initializer="ones")


def kept(layer=keras.layers.Dense):
    model = keras.Sequential([keras.Input((2,)), layer(1)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    state = Snapshot(ModelState(model), every=2)
    state.keep_if_due(0)
    return model, state


def test_of_another_order():
    """Each variable gets its own value."""
    model, one = kept()
    saved = one.state()
    saved["values"] = dict(reversed(saved["values"].items()))
    before = [v.numpy() for v in model.variables]
    for variable in model.variables:
        variable.assign(variable + 1)
    one.set_state(saved)
    one.roll_back(2)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_variables_that_there_are_not():
    """They are named; the variable of a callback, which it makes later, is left to it."""
    _, one = kept()
    saved = one.state()
    saved["values"]["others/callbacks/0/mine"] = [np.ones(3)]
    one.set_state(saved)
    saved["values"]["captured/0"] = [np.ones(3)]
    with pytest.raises(RunError, match="keeps has captured/0, which there is not now"):
        one.set_state(saved)


def test_without_names():
    """As it was saved before version 0.8: the present state is kept in its stead."""
    model, one = kept()
    before = one.state()
    _, other = kept()
    other.set_state(before | {"values": list(before["values"].values())})
    assert other.steps == 0


def test_learning_rates_are_those_of_optimizers():
    """A weight of that name is a weight."""
    model, one = kept(Rated)
    model.layers[0].rate.assign(5.0)
    model.optimizer.learning_rate = 5.0
    one.roll_back(2)
    assert (1.0, 5.0) == (float(model.layers[0].rate), float(model.optimizer.learning_rate))
