"""Global random numbers that functions draw ahead of the training."""

import random
import threading
import time
import warnings

import numpy as np
import pytest
import tensorflow as tf

from kerastrain import DataError
from kerastrain.data.source import Source
from kerastrain.state import global_random
from tests.support import pipeline_specs as specs
from tests.support import pipelines
from tests.support import tiers
from tests.support.pipelines import Program


@pytest.fixture(autouse=True)
def put_back():
    """The states of this process are what they were."""
    saved = global_random.states()
    yield
    global_random.set_states(saved)


def test_states_are_put_back():
    """Of all of them, or without those of Python and NumPy."""
    saved = global_random.states()

    def numbers():
        return random.random(), np.random.random(), float(tf.random.uniform(()))

    expected = numbers()
    global_random.set_states(saved)
    assert expected == numbers()
    global_random.set_states(saved, but={"python", "numpy"})
    assert [False, False, True] == [a == b for a, b in zip(expected, numbers(), strict=True)]


def test_functions_that_get_there_are_waited_for():
    """They draw from a thread of their own."""
    before = global_random.states()
    np.random.random(7)
    saved = global_random.states()
    global_random.set_states(before)

    def draw():
        time.sleep(0.2)
        np.random.random(7)

    thread = threading.Thread(target=draw)
    thread.start()
    global_random.await_functions(saved, {"numpy"}, ["x"])
    thread.join()
    global_random.await_functions(saved, {"numpy"}, ["x"])


def test_functions_that_do_not_get_there_are_refused(monkeypatch):
    """After a while, with the names of the data."""
    monkeypatch.setattr(global_random, "_PATIENCE", 0.0)
    saved = global_random.states()
    np.random.random()
    global_random.await_functions(saved, {"python"}, ["x"])  # others may have drawn the rest
    with pytest.raises(DataError, match=r"the batches of \['x'\] draw from the global random"):
        global_random.await_functions(saved, {"numpy"}, ["x"])


def noise(*, ahead):
    """Rows with noise by NumPy's global generator; pass after pass, or an epoch each."""
    made = ["map", {"kind": "noise"}, ["arrays", {"first": 0, "count": 23}]]
    made = ["batch", {"size": 3, "drop": False}, made]
    return ["prefetch", {"count": 2}, ["repeat", {"count": -1}, made]] if ahead else made


def shuffled(kind):
    """A generator that shuffles when it begins, which it does ahead of the batches before."""
    rows = ["batch", {"size": 3, "drop": False}, ["generator", {"kind": kind, "count": 8}]]
    return ["prefetch", {"count": 2}, ["repeat", {"count": -1}, rows]]


@pytest.mark.parametrize(
    ("data", "steps", "kinds"),
    [
        tiers.slow(noise(ahead=True), 3, ("exact", "refused")),
        tiers.slow(noise(ahead=False), None, ("exact",)),
        (shuffled("numpy"), 2, ("exact", "refused")),
        tiers.slow(shuffled("python"), 2, ("exact", "refused")),
        tiers.slow(shuffled("own"), 2, ("exact",)),
    ],
)
def test_functions_that_run_ahead(data, steps, kinds, tmp_path):
    """A resumed run has the same batches, or is refused: how far they were is a matter of time."""
    specs.write_files(tmp_path)
    program = Program(data, seed=7, steps=steps)
    assert pipelines.check(program, tmp_path, count=6).kind in kinds


@pytest.mark.parametrize(
    ("draws", "count"), [(np.random.random, 1), (lambda: 0.5, 0)], ids=["global", "none"]
)
def test_functions_that_draw_are_told_of(draws, count):
    """Before a step has run, once."""
    data = tf.data.Dataset.from_tensor_slices((np.zeros((8, 1), "float32"), np.zeros(8)))
    data = data.map(
        lambda x, y: (x + tf.numpy_function(lambda: np.float32(draws()), [], "float32"), y)
    )
    source = Source(data.batch(2))
    source.track()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source.peek()
        source.peek()
    source.close()
    assert count == sum("draw from the global random numbers" in str(w.message) for w in caught)
