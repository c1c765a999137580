"""Trainings in a run directory, in the process of the test."""

import numpy as np

from tests.resuming import BATCH
from tests.resuming import rows
from tests.resuming import trainer


def fit(run_dir, make=trainer(), data=rows, **arguments):
    data = data()
    x, y = data if isinstance(data, tuple) else (data, None)
    arguments = {"epochs": 2, "batch_size": BATCH, "verbose": 0, "save_every": 1} | arguments
    made = make()
    return made, made.fit(x, y, run_dir=run_dir, **arguments)


def weights(made):
    return [w.numpy() for w in made.model.weights]


def assert_same_weights(one, other):
    for a, b in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)
