"""What a walk finds, by paths that every process agrees on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain.state.walk import Walk
from tests.support.models import mlp


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
    root.words = {str(i): i for i in range(10**5)}
    root.data = tf.data.Dataset.range(3)
    root.variable = tf.Variable(1.0)
    assert ["root/variable"] == list(Walk({"root": root}).variables)


def test_paths_do_not_depend_on_what_was_made_before():
    """The same program has the same paths after other models."""
    first = Walk({"model": mlp()}).variables
    assert list(first) == list(Walk({"model": mlp()}).variables)
    assert [v.path for v in first.values()] != [
        v.path for v in Walk({"m": mlp()}).variables.values()
    ]


def test_what_other_models_use_is_not_found():
    """A layer that two models share does not lead from one to the other."""
    shared = keras.layers.Dense(2)
    inputs = keras.Input((3,))
    other = keras.Model(inputs, keras.layers.Dense(5, name="other")(shared(inputs)))
    mine = keras.Model(inputs, shared(inputs))
    assert len(other.variables) == 4
    assert {id(v) for v in mine.variables} == {id(v) for v in Walk({"m": mine}).variables.values()}


@pytest.mark.parametrize(
    "make",
    [
        lambda one, two: {"a/b": one, "a": {"b": two}},
        lambda one, two: {1: one, "1": two},
        lambda one, two: {"1#2": one, 1: [], "1": two},
    ],
)
def test_each_has_a_path_of_its_own(make):
    """Where keys read alike, the second gets a number: variables and layers."""
    one, two = tf.Variable(1.0), tf.Variable(2.0)
    found = Walk({"root": make(one, two)}).variables
    assert {id(one), id(two)} == {id(v) for v in found.values()}
    first, second = keras.layers.Layer(), keras.layers.Layer()
    found = Walk({"root": make(first, second)}).of(keras.Layer)
    assert {id(first), id(second)} == {id(v) for v in found.values()}


def test_a_path_that_is_the_only_one_of_its_kind_has_no_number():
    """The first of two keeps the path that it has alone."""
    one, two = tf.Variable(1.0), tf.Variable(2.0)
    assert ["root/1", "root/1#2"] == list(Walk({"root": {1: one, "1": two}}).variables)


@pytest.mark.parametrize(
    "key", [lambda v: keras.layers.Layer(), lambda v: v.ref(), lambda v: (object(),)]
)
def test_keys_that_are_objects(key):
    """They go by their position: neither an address, nor a layer's number, nor a value is in a path."""

    def paths(value):
        variable = tf.Variable(value)
        return list(Walk({"root": {"b": {key(variable): variable}}}).variables)

    assert ["root/b/0"] == paths(1.0) == paths(2.0)


def test_keys_that_are_plain_values():
    """They are in the path as they read."""
    keys = ("a", 3, 0.5, ("b", 1), np.int64(7))
    paths = [f"root/{key}" for key in keys]
    assert paths == list(Walk({"root": {key: tf.Variable(1.0) for key in keys}}).variables)


@pytest.mark.parametrize("inside", [lambda v: v, lambda v: ("data", {"deep": [v]})])
def test_long_containers_are_searched(inside):
    """As those of a model of many layers, also where all but the last hold data."""
    variable = tf.Variable(1.0)
    items = [*(("data", {"deep": [i]}) for i in range(2000)), inside(variable)]
    for root in (items, dict(enumerate(items))):
        assert [id(variable)] == [id(v) for v in Walk({"root": root}).variables.values()]


def test_a_long_container_of_itself():
    """It holds no more than plain values, and the search ends."""
    root = [*range(2000)]
    root.append(root)
    assert {} == Walk({"root": root}).variables


def test_each_root_is_searched_to_its_end():
    """What an earlier root leads to has its path from there, however near another is to it."""
    deep = tf.Variable(1.0)
    roots = {"first": {"a": [[deep]]}, "second": [deep]}
    assert ["first/a/0/0"] == list(Walk(roots).variables)
    assert ["second/0"] == list(Walk(roots, known=(roots["first"],)).variables)


def test_a_root_is_its_own():
    """No other one leads into it."""
    second = Holder(tf.Variable(1.0))
    assert ["second/kept"] == list(Walk({"first": [second], "second": second}).variables)
