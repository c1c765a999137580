"""What a walk finds, by paths that every process agrees on."""

import keras
import tensorflow as tf

from kerastrain.walk import Walk
from tests.models import mlp


class Holder:
    """An object of no library's."""

    __slots__ = ("kept",)

    def __init__(self, kept):
        self.kept = kept


def test_variables_are_found_wherever_they_are_held():
    """In attributes, slots, lists, dicts and tuples, of any object, and each once."""
    one, two, three = (tf.Variable(float(i)) for i in range(3))
    four = keras.Variable(4.0)
    root = keras.layers.Layer()
    root.untracked = {"a": [one, {"b": (two,)}]}
    root.holder = Holder([three, one])
    root.keras = [four, four.value]
    found = Walk({"root": root}).variables
    assert {id(one), id(two), id(three), id(four)} == {id(v) for v in found.values()}
    assert found["root/holder/kept/0"] is three


def test_data_are_not_looked_into():
    """Long lists and dicts, data sets, text and arrays hold neither layers nor variables."""
    root = keras.layers.Layer()
    root.words = {str(i): i for i in range(10**6)}
    root.data = tf.data.Dataset.range(3)
    root.variable = tf.Variable(1.0)
    assert ["root/variable"] == list(Walk({"root": root}).variables)


def test_paths_do_not_depend_on_what_was_made_before():
    """The same program has the same paths after other models."""
    first = Walk({"model": mlp()}).variables
    assert list(first) == list(Walk({"model": mlp()}).variables)
    assert [v.path for v in first.values()] != [v.path for v in Walk({"m": mlp()}).variables.values()]


def test_what_other_models_use_is_not_found():
    """A layer that two models share does not lead from one to the other."""
    shared = keras.layers.Dense(2)
    inputs = keras.Input((3,))
    other = keras.Model(inputs, keras.layers.Dense(5, name="other")(shared(inputs)))
    mine = keras.Model(inputs, shared(inputs))
    assert len(other.variables) == 4
    assert {id(v) for v in mine.variables} == {id(v) for v in Walk({"m": mine}).variables.values()}
