"""However batches lie together, they are those that come one by one, in their turn."""

import threading
import time

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain import DataError
from kerastrain.data import array_passes
from kerastrain.data import checks as data_checks
from kerastrain.data import source as data_lib
from kerastrain.data import stacks
from tests.support import datasets
from tests.support import tiers

ROWS = 23
X, Y, WEIGHT = datasets.regression(rows=ROWS)
WORDS = np.array([f"word {i}" for i in range(ROWS)], dtype=object)
# Two full batches, others in the middle, a full one later, and a short last one.
UNEQUAL = (4, 4, 3, 1, 4, 5, 2)


# Sources ----------------------------------------------------------------------


def sliced(*arrays, size=4):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


def cut(*arrays, sizes=UNEQUAL):
    """Arrays cut into batches of these sizes."""
    ends = np.cumsum(sizes)
    return [tuple(a[e - n : e] for a in arrays) for n, e in zip(sizes, ends, strict=True)]


def unequal():
    """A pipeline whose batches have unequal numbers of rows."""
    specs = tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None, 2), tf.float32)
    return tf.data.Dataset.from_generator(lambda: iter(cut(X, Y)), output_signature=specs)


def padded():
    """A pipeline whose batches are padded to the longest of their rows."""
    rows = tf.RaggedTensor.from_row_lengths(X.reshape(-1), [4 + i % 3 - 1 for i in range(22)] + [5])
    ragged = tf.data.Dataset.from_tensor_slices((rows, Y))
    return ragged.map(lambda x, y: (x.to_tensor() if x.shape.rank > 1 else x, y)).padded_batch(4)


def drawn(times=1):
    """A generator of batches of unequal rows, as often as it is gone through."""
    return (batch for _ in range(times) for batch in cut(X, Y))


def of_types():
    """Batches of numbers of many types, and a part that is None."""
    dtypes = ("float64", "float16", "int64", "uint8", "bool", "complex64")
    return ((tuple((X[:4] * 3).astype(d) for d in dtypes), None, Y[:4]) for _ in range(3))


def of_text(dtype):
    return ((np.array(WORDS[i : i + 4], dtype), Y[i : i + 4]) for i in range(0, 12, 4))


SOURCES = {
    "arrays": lambda: {"x": X, "y": Y, "sample_weight": WEIGHT, "batch_size": 4},
    "arrays, shuffled": lambda: {"x": X, "y": Y, "batch_size": 4, "shuffle": True, "seed": 3},
    "arrays, within batches": lambda: {
        "x": X,
        "y": Y,
        "batch_size": 4,
        "shuffle": "batch",
        "seed": 3,
    },
    "arrays, one batch": lambda: {"x": X, "y": Y, "batch_size": 100},
    "dict of arrays": lambda: {"x": {"b": X, "a": (Y, Y)}, "y": Y.astype("float64")},
    "not contiguous": lambda: {"x": np.asfortranarray(X)[::-1], "y": Y[::-1], "batch_size": 5},
    "text": lambda: {"x": tf.constant(list(WORDS)), "y": Y, "batch_size": 4},
    "text of objects": lambda: {"x": WORDS, "y": Y, "batch_size": 4},
    "class weights": lambda: {"x": X, "y": (Y > 0)[:, 0], "class_weight": {0: 0.5, 1: 2.0}},
    "tf.data": lambda: {"x": sliced(X, Y, WEIGHT)},
    "tf.data, unequal": lambda: {"x": unequal()},
    "tf.data of dicts": lambda: {"x": sliced({"b": X, "a": {"c": Y}}, {"d": Y})},
    "tf.data of inputs alone": lambda: {"x": sliced({"b": X, "a": Y}).map(lambda x: x)},
    "tf.data of arrays alone": lambda: {"x": sliced(X).map(lambda x: x)},
    "tf.data of text": lambda: {"x": sliced(WORDS, Y)},
    "tf.data of lengths": lambda: {"x": padded()},
    "tf.data of unknown length": lambda: {"x": sliced(X, Y).filter(lambda x, y: True)},
    "tf.data of all types": lambda: {"x": sliced(X.astype("float64"), Y > 0, WEIGHT)},
    "tf.data of many": lambda: {"x": sliced(np.arange(40.0)[:, None], size=1).map(lambda x: x)},
    "generator": lambda: {"x": drawn()},
    "generator of types": lambda: {"x": of_types()},
    "generator of text": lambda: {"x": of_text("U")},
    "generator of text objects": lambda: {"x": of_text(object)},
    "PyDataset": lambda: {"x": datasets.Batches(cut(X, Y))},
    "PyDataset, shuffled": lambda: {"x": datasets.Batches(cut(X, Y)), "shuffle": True, "seed": 3},
    "PyDataset with workers": lambda: {"x": datasets.Batches(cut(X, Y), workers=2)},
    "torch": lambda: {"x": datasets.torch_loader(X, Y)},
    "Grain": lambda: {"x": datasets.grain_rows(X, Y).batch(4)},
}
ONCE = ("generator", "generator of types", "generator of text", "generator of text objects")
ENDLESS = {
    "tf.data, endless": lambda: {"x": sliced(X, Y).repeat(), "steps": 4},
    "tf.data, shuffled": lambda: {"x": sliced(X, Y).shuffle(8, seed=1).repeat(), "steps": 5},
    "tf.data, unequal": lambda: {"x": unequal().repeat(), "steps": 5},
    "generator": lambda: {"x": drawn(times=9), "steps": 5},
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 4, "shuffle": True, "steps": 4, "seed": 1},
    "PyDataset": lambda: {"x": datasets.Batches(cut(X, Y)), "steps": 3},
}


# Comparing --------------------------------------------------------------------


def as_numpy(batch):
    """A batch as arrays and their types, with its nesting."""
    return keras.tree.map_structure(lambda t: None if t is None else (t.dtype, t.numpy()), batch)


def plain(source, epochs):
    """The batches of each epoch, as they come one by one."""
    return [[as_numpy(batch) for batch in source.epoch(number)] for number in range(epochs)]


def by_chunks(source, epochs, mosts, peeks=()):
    """The same, in chunks of ``mosts`` batches at most, with a look at the next one in between."""
    asked, found = 0, []
    for number in range(epochs):
        batches = []
        if number in peeks:
            source.peek()

        def most():
            nonlocal asked
            asked += 1
            return mosts[asked % len(mosts)]

        for chunk in source.chunks(number, most):
            indices = range(chunk.start, chunk.start + chunk.steps)
            batches += [as_numpy(chunk.block.batch(index)) for index in indices]
        found.append(batches)
    return found


def assert_same(expected, actual):
    """Asserts the same batches: nesting, types, rows and bits."""
    assert list(map(len, expected)) == list(map(len, actual))
    for one, other in zip(sum(expected, []), sum(actual, []), strict=True):
        keras.tree.assert_same_structure(one, other)
        for e, a in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
            if isinstance(e, np.ndarray):
                assert e.shape == a.shape
                assert e.tobytes() == a.tobytes() if e.dtype != object else (e == a).all()
            else:
                assert e == a


def source_of(arguments, resident_bytes=None, lie_together=True):
    source = data_lib.Source(**arguments)
    return source.in_blocks(resident_bytes) if lie_together else source


# The same batches -------------------------------------------------------------


# What they are made of is in others.
MUCH_LIKE_OTHERS = (
    *("text of objects", "tf.data of inputs alone", "tf.data of arrays alone"),
    *("tf.data of unknown length", "PyDataset with workers"),
)
BYTES = [(name, size) for name in SOURCES for size in (None, 0)]
# Only arrays are resident or not; all else lies in stacks.
QUICK_BYTES = [
    (name, size)
    for name, size in BYTES
    if name not in MUCH_LIKE_OTHERS
    and (size is None or not name.startswith(("text", "tf.data", "PyDataset", "torch", "Grain")))
]


@pytest.mark.parametrize(("name", "resident_bytes"), tiers.cases(BYTES, QUICK_BYTES))
def test_same_batches(name, resident_bytes):
    """Cut at any place, the batches are those of ``epoch()``: nesting, types, rows, order."""
    make, epochs = SOURCES[name], 1 if name in ONCE else 2
    expected = plain(source_of(make(), lie_together=False), epochs)
    for mosts in ([1], [3, 1, 2], [100]):
        actual = by_chunks(source_of(make(), resident_bytes), epochs, mosts, peeks=(1,))
        assert_same(expected, actual)


@pytest.mark.parametrize("name", tiers.without(ENDLESS, ["tf.data, endless", "tf.data, unequal"]))
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_same_batches_with_steps(name):
    """With ``steps`` the epochs go on where the last one stopped, at the same batches."""
    expected = plain(source_of(ENDLESS[name](), lie_together=False), 4)
    for mosts in ([1], [3, 1, 2], [100]):
        actual = by_chunks(source_of(ENDLESS[name](), 0), 4, mosts, peeks=(0, 2))
        assert_same(expected, actual)


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    count=st.integers(1, 40),
    size=st.integers(1, 12),
    steps=st.none() | st.integers(1, 6),
    shuffle=st.sampled_from([False, True, "batch"]),
    mosts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    resident_bytes=st.sampled_from([None, 0]),
    peeks=st.sets(st.integers(0, 3)),
    stack=st.integers(1, 5),
)
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_arrays(count, size, steps, shuffle, mosts, resident_bytes, peeks, stack):
    """Any rows, batches, steps and order: blocks of arrays hold the same batches."""
    x = np.arange(count, dtype="float32")[:, None]

    def source(**more):
        return data_lib.Source(x, batch_size=size, steps=steps, shuffle=shuffle, seed=3, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array_passes, "_OF_ARRAYS", stack)
        made = source().in_blocks(resident_bytes)
        assert made.storage == ("stack" if resident_bytes == 0 else "arrays")
        actual = by_chunks(made, 4, mosts, peeks)
        made.close()
    assert_same(plain(source(), 4), actual)


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=9),
    steps=st.none() | st.integers(1, 5),
    mosts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    stack=st.integers(1, 5),
    seconds=st.sampled_from([0.0, 9.0]),
)
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_batches_of_any_rows(sizes, steps, mosts, stack, seconds):
    """Any sequence of batches that Python draws comes out as it went in."""
    x = np.arange(sum(sizes), dtype="float32")[:, None]

    def source():
        return data_lib.Source((b for b in cut(x, x, sizes=sizes)), steps=steps)

    epochs = 1 if steps is None else 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacks, "_MOST", stack)
        patch.setattr(stacks, "_SECONDS", seconds)
        actual = by_chunks(source().in_blocks(), epochs, mosts)
    assert_same(plain(source(), epochs), actual)


def test_where_batches_lie():
    """Small arrays are resident, larger ones and streams are stacked, and many come together."""
    nbytes = X.nbytes + Y.nbytes
    assert "arrays" == data_lib.Source(X, Y).in_blocks(nbytes).storage
    assert "stack" == data_lib.Source(X, Y).in_blocks(nbytes - 1).storage
    assert "stack" == data_lib.Source(sliced(X, Y)).in_blocks().storage
    assert "batch" == data_lib.Source(X, Y).storage
    for x in (sliced(X, Y), sliced({"a": X}, Y).repeat(), drawn(), datasets.Batches(cut(X, Y))):
        first = next(data_lib.Source(x, steps=5).in_blocks().chunks(0, lambda: 9))
        assert first.steps > 1


# What is refused --------------------------------------------------------------


@pytest.mark.parametrize("name", ["rows", "scalars", "unequal", "empty"])
def test_wrong_batches_are_refused_as_before(name):
    """Rows that are not batched, or do not fit, lead to the error of batches by themselves."""
    made = {
        "rows": tf.data.Dataset.from_tensor_slices((X, Y)),
        "scalars": tf.data.Dataset.range(9),
        "unequal": tf.data.Dataset.from_tensors((X[:4], Y[:3])),
        "empty": tf.data.Dataset.from_tensors((X[:0], Y[:0])),
    }[name]
    messages = []
    for lie_together in (False, True):
        source = source_of({"x": made}, lie_together=lie_together)
        with pytest.raises(DataError) as caught:
            data_checks.check_batch("x", source.peek())
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_later_batch_of_unequal_lengths():
    """A batch with too few labels is given as it is, and so refused by the loss."""
    specs = tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None, 2), tf.float32)
    wrong = [(X[:4], Y[:4]), (X[:4], Y[:3]), (X[:4], Y[:4])]
    made = tf.data.Dataset.from_generator(lambda: iter(wrong), output_signature=specs)
    expected = plain(source_of({"x": made}, lie_together=False), 1)
    assert_same(expected, by_chunks(source_of({"x": made}), 1, [1]))


# When batches are drawn -------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("lie_together", [False, True])
def test_nothing_is_drawn_beyond_the_epoch(steps, lie_together):
    """An epoch of a generator draws its own batches, or the two that Keras looks at."""
    count = 0

    def counting():
        nonlocal count
        while True:
            count += 1
            yield X[:4], Y[:4]

    source = source_of({"x": counting(), "steps": steps}, lie_together=lie_together)
    for epoch in range(1, 4):
        assert steps == sum(chunk.steps for chunk in source.chunks(epoch, lambda: 9))
        assert count == max(2, steps * epoch) or count == steps * epoch
    source.close()


@pytest.mark.parametrize("before", [2, 3, 31, 32, 33, 40])
def test_an_error_comes_in_its_turn(before):
    """What a generator raises comes after all batches before it have been given."""

    def failing():
        for _ in range(before):  # Keras draws two before the first is given
            yield X[:4], Y[:4]
        raise OSError("the disk is gone")

    steps = 0
    with pytest.raises(OSError, match="the disk is gone"):
        for chunk in data_lib.Source(failing()).in_blocks().chunks(0, lambda: 5):
            steps += chunk.steps
    assert before == steps


def test_an_error_of_arrays_comes_in_its_turn(monkeypatch):
    """What is raised in the background comes after the batches before it."""

    class Failing(np.ndarray):
        def __getitem__(self, rows):
            if isinstance(rows, slice) and (rows.start or 0) >= 8:
                raise OSError("the disk is gone")
            return super().__getitem__(rows)

    monkeypatch.setattr(array_passes, "_OF_ARRAYS", 1)
    made = array_passes.ArrayPasses((X.view(Failing), Y), 4, False, 0)
    made.in_blocks(0)
    current = made.begin(0)
    with pytest.raises(OSError, match="the disk is gone"):
        while current.take(1):
            pass
    assert 2 == current.taken


@pytest.mark.xfail(strict=True, reason="a stack of tf.data fails as a whole")
def test_an_error_of_a_pipeline_comes_in_its_turn():
    """What a pipeline raises comes after all batches before it have been given."""

    def failing(x):
        with tf.control_dependencies([tf.debugging.assert_less(x, 5.0)]):
            return tf.identity(x)

    made = tf.data.Dataset.range(9).map(lambda i: tf.cast(i, tf.float32)[None]).map(failing)
    steps = 0
    with pytest.raises(tf.errors.InvalidArgumentError):
        for chunk in data_lib.Source(made).in_blocks().chunks():
            steps += chunk.steps
    assert 5 == steps


def test_functions_that_run_eagerly():
    """A pipeline is drawn to its end all the same, as it may be in the background of a dry step."""
    data = sliced(X, Y)
    tf.config.run_functions_eagerly(True)
    try:
        steps = sum(block.steps for block in stacks.of_pipeline(iter(data)))
    finally:
        tf.config.run_functions_eagerly(False)
    assert len(data) == steps


@pytest.mark.parametrize("pipeline", [False, True])
def test_what_is_slow_is_not_waited_for(monkeypatch, pipeline):
    """After a tenth of a second what has been drawn is given, and nothing is lost."""
    monkeypatch.setattr(stacks, "_SECONDS", 0.02)

    def slow():
        for _ in range(8):
            time.sleep(0.015)
            yield X[:4], Y[:4]

    specs = tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None, 2), tf.float32)
    x = tf.data.Dataset.from_generator(slow, output_signature=specs) if pipeline else slow()
    steps = [chunk.steps for chunk in data_lib.Source(x).in_blocks().chunks(0, lambda: 9)]
    assert 8 == sum(steps)
    assert len(steps) > 1


# Ends -------------------------------------------------------------------------


def threads_left(before):
    """Threads that were not there before; what ends has a minute for it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        left = [t for t in threading.enumerate() if t not in before]
        if not left:
            break
        time.sleep(0.01)
    return left


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("arrays", 0), ("arrays", 1), ("arrays", 3), ("PyDataset with workers", 1),
        ("tf.data", 3), tiers.slow("PyDataset with workers", 0),
        tiers.slow("PyDataset with workers", 3), tiers.slow("tf.data", 0),
        tiers.slow("tf.data", 1),
    ],
)  # fmt: skip
def test_nothing_runs_after_close(monkeypatch, name, taken):
    """Closed at any time, a source leaves no thread; a later pass has all batches."""
    monkeypatch.setattr(array_passes, "_OF_ARRAYS", 2)
    before = threading.enumerate()
    source = source_of(SOURCES[name](), resident_bytes=0)
    source.peek()
    chunks = source.chunks(0)
    for _ in range(taken):
        next(chunks)
    source.close()
    assert [] == threads_left(before)
    expected = plain(source_of(SOURCES[name](), lie_together=False), 1)
    actual = by_chunks(source, 1, [2])
    assert_same(expected, actual)
    source.close()
    assert [] == threads_left(before)


def test_nothing_runs_after_an_epoch():
    """A pass that has been gone through leaves no thread either."""
    before = threading.enumerate()
    by_chunks(source_of(SOURCES["arrays"](), resident_bytes=0), 2, [3])
    assert [] == threads_left(before)


def test_the_next_stack_is_gathered_ahead(monkeypatch):
    """While one stack is used, the next one is made; no more than that."""
    monkeypatch.setattr(array_passes, "_OF_ARRAYS", 2)
    taken = []

    class Noting(np.ndarray):
        def __getitem__(self, rows):
            taken.append(rows.start)
            return super().__getitem__(rows)

    made = array_passes.ArrayPasses((X.view(Noting), Y), 4, False, 0)
    made.in_blocks(0)
    current = made.begin(0)
    current.take(1)
    deadline = time.monotonic() + 60
    while len(taken) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert [0, 8] == [start for start in taken if start is not None]
    current.close()
