"""Trainings in a run directory, in the process of the test."""

import dataclasses

from kerastrain import RunDir
from tests.support.assertions import assert_equal_arrays
from tests.support.resuming import BATCH
from tests.support.resuming import rows
from tests.support.resuming import trainer


def fit(run_dir, make=trainer(), data=rows, **arguments):
    """A trainer that has trained, and its history; arguments are of ``fit`` and of `RunDir`."""
    data = data()
    x, y = data if isinstance(data, tuple) else (data, None)
    arguments = {"epochs": 2, "batch_size": BATCH, "verbose": 0, "save_every": 1} | arguments
    made = make()
    return made, made.fit(x, y, **saved_in(run_dir, arguments))


def saved_in(run_dir, arguments):
    """The arguments of ``fit`` for a run directory, with those of `RunDir` in their place."""
    names = {field.name for field in dataclasses.fields(RunDir)} & arguments.keys()
    others = {name: value for name, value in arguments.items() if name not in names}
    if run_dir is None:
        return others
    return others | {"run_dir": RunDir(run_dir, **{name: arguments[name] for name in names})}


def weights(made):
    return [w.numpy() for w in made.model.weights]


def assert_same_weights(one, other):
    """Asserts that the weights of two Trainers' models are equal to the bit."""
    assert_equal_arrays(weights(one), weights(other))
