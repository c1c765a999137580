"""A loop runs the steps of a chunk, each once and in order, and compiles without running any."""

import itertools

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain.data.blocks import Block
from kerastrain.data.blocks import Chunk
from kerastrain.data.blocks import Pass
from kerastrain.execution.loops import Loop
from tests.support import tiers

KINDS = {"graph": {}, "fixed": {"static_batch": True}, "xla": {"xla": True}}


class Notes:
    """A step that writes down the batches that it was run on.

    Attributes:
        traces: how often it was traced.
    """

    def __init__(self, length=64):
        self.sums = tf.Variable(tf.zeros(length))
        self.rows = tf.Variable(tf.zeros(length, tf.int32))
        self.count = tf.Variable(0)
        self.traces = 0

    def __call__(self, batch):
        self.traces += 1
        total = tf.reduce_sum(batch["x"])
        here = [[self.count]]
        self.sums.scatter_nd_update(here, [total])
        self.rows.scatter_nd_update(here, [tf.shape(batch["x"])[0]])
        self.count.assign_add(1)
        return {"sum": total, "row": batch["x"][0]}

    def written(self):
        """``(sum, rows)`` of each batch so far."""
        steps = int(self.count)
        pairs = zip(
            self.sums.numpy()[:steps].tolist(), self.rows.numpy()[:steps].tolist(), strict=True
        )
        return list(pairs)


def block(count=20, rows=4, order=None):
    """Rows ``1, 2, ...`` of one number each."""
    x = tf.reshape(tf.range(1.0, count + 1), [count, 1])
    return Block.of_arrays({"x": x, "y": None}, order, rows)


def expected(count=20, rows=4, order=None):
    order = range(count) if order is None else order.tolist()
    numbers = [float(i + 1) for i in order]
    cut = [numbers[start : start + rows] for start in range(0, count, rows)]
    return [(sum(batch), len(batch)) for batch in cut]


@hypothesis.settings(max_examples=25)
@hypothesis.given(
    count=st.integers(1, 30),
    rows=st.integers(1, 6),
    mosts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    data=st.data(),
)
def test_any_chunks(count, rows, mosts, data):
    """However a pass is cut into chunks, each batch is run once, in order, in one trace."""
    order = data.draw(st.none() | st.permutations(range(count)).map(np.array))
    notes = Notes()
    loop, one_pass, turn = Loop(notes), Pass(iter([block(count, rows, order)]), 0), 0
    while (chunk := one_pass.take(mosts[turn % len(mosts)])) is not None:
        assert loop.takes(chunk)
        loop.prepare(chunk.block)
        assert loop(chunk) is None
        turn += 1
    assert expected(count, rows, order) == notes.written()
    assert 1 == notes.traces


@pytest.mark.parametrize("kind", KINDS)
def test_preparing_runs_no_step(kind):
    """After `prepare` nothing is left to compile, and no step has been run."""
    notes = Notes()
    loop = Loop(notes, **KINDS[kind])
    assert loop.is_prepared(block()) == (kind == "graph")
    loop.prepare(block())
    traces = notes.traces
    assert [] == notes.written()
    assert loop.is_prepared(block())
    one_pass = Pass(iter([block()]), 0)
    for most in (2, 1, 9):
        loop(one_pass.take(most))
    assert expected() == notes.written()
    assert traces == notes.traces


@pytest.mark.parametrize("kind", ["fixed", "xla"])
def test_full_batches_only(kind):
    """Where the number of rows is in the program, a shorter batch is not taken."""
    loop = Loop(Notes(), **KINDS[kind])
    one_pass = Pass(iter([block(count=10)]), 0)
    assert [True, False] == [loop.takes(one_pass.take(9)), loop.takes(one_pass.take(9))]
    assert not loop.takes(Pass(iter([Block.of_batch({"x": tf.zeros((4, 1))})]), 0).take(1))


@pytest.mark.parametrize("kind", KINDS)
def test_least_rows(kind):
    """A batch of fewer rows than all parts of it need is not taken."""
    chunk = Pass(iter([block(count=8)]), 0).take(1)
    assert Loop(Notes(), min_rows=4, **KINDS[kind]).takes(chunk)
    assert not Loop(Notes(), min_rows=5, **KINDS[kind]).takes(chunk)


@pytest.mark.parametrize(
    ("outputs_per_call", "kind"), tiers.without(itertools.product([1, 5, 8], KINDS), [(5, "xla")])
)
def test_results_are_kept(kind, outputs_per_call):
    """Each step's result is returned, its own, for chunks that are as long as can be or shorter."""
    notes = Notes()
    loop = Loop(notes, outputs_per_call=outputs_per_call, **KINDS[kind])
    loop.prepare(block())
    assert [] == notes.written()
    one_pass, found = Pass(iter([block()]), 0), []
    while (chunk := one_pass.take(min(outputs_per_call, 1 + len(found)))) is not None:
        found += loop(chunk)
    assert expected() == notes.written()
    assert [total for total, _ in expected()] == [float(logs["sum"]) for logs in found]
    assert [1, 5, 9, 13, 17] == [float(logs["row"][0]) for logs in found]


@pytest.mark.parametrize("outputs_per_call", [1, 4])
def test_results_of_unequal_batches_are_kept(outputs_per_call):
    """A short batch runs the same trace and returns its own result."""
    notes = Notes()
    loop, one_pass, found = (
        Loop(notes, outputs_per_call=outputs_per_call),
        Pass(iter([block(count=10)]), 0),
        [],
    )
    while (chunk := one_pass.take(outputs_per_call)) is not None:
        loop.prepare(chunk.block)
        found += loop(chunk)
    assert [total for total, _ in expected(count=10)] == [float(logs["sum"]) for logs in found]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_other_shapes(kind):
    """Another number of rows is a program of its own where it must be, and else none."""
    notes = Notes()
    loop = Loop(notes, **KINDS[kind])
    for count, rows in ((20, 4), (12, 4), (20, 5), (20, 4)):
        loop.prepare(made := block(count, rows))
        loop(Pass(iter([made]), 0).take(99))
    assert [*expected(), *expected(12), *expected(20, 5), *expected()] == notes.written()
    assert notes.traces <= {"graph": 1}.get(kind, 6)


def test_a_step_that_reads_the_rows_in_python():
    """A step that needs the number of rows gets it; the loop then takes full batches only."""

    class Reads(Notes):
        def __call__(self, batch):
            return super().__call__({"x": tf.reshape(batch["x"], [int(batch["x"].shape[0]), 1])})

    notes = Reads()
    loop, made = Loop(notes), block(count=22)
    loop.prepare(made)
    assert [] == notes.written()
    one_pass = Pass(iter([made]), 0)
    loop(one_pass.take(9))
    assert expected() == notes.written()
    assert not loop.takes(one_pass.take(9))


def test_rows_that_are_read_for_one_shape_only():
    """A block that was prepared with the rows left open is prepared anew without."""

    class Reads(Notes):
        def __call__(self, batch):
            rows = batch["x"].shape[0] if batch["x"].shape[1] == 3 else None
            x = tf.reshape(batch["x"], [int(rows), 3]) if batch["x"].shape[1] == 3 else batch["x"]
            return super().__call__({"x": x})

    notes = Reads()
    loop = Loop(notes)
    for width in (2, 3, 2):
        made = Block.of_arrays({"x": tf.ones((8, width))}, None, 4)
        loop.prepare(made)
        loop(Pass(iter([made]), 0).take(2))
    assert [(8.0, 4), (8.0, 4), (12.0, 4), (12.0, 4), (8.0, 4), (8.0, 4)] == notes.written()


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_compiled_has_changed_nothing(kind):
    """An error while tracing is raised by `prepare`, each time, and no step has been run."""

    class Fails(Notes):
        def __call__(self, batch):
            super().__call__(batch)
            raise NotImplementedError("not in a graph")

    notes = Fails()
    loop = Loop(notes, **KINDS[kind])
    for _ in range(2):
        with pytest.raises(NotImplementedError, match="not in a graph"):
            loop.prepare(block())
    assert [] == notes.written()


@pytest.mark.parametrize("operation", ["py_function", "lookup", "strings"])
def test_what_xla_has_no_kernel_for(operation):
    """What only XLA cannot compile fails in `prepare`, before a step has been run."""
    numbers = tf.range(30, dtype=tf.int64)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(numbers, numbers), -1)

    class Odd(Notes):
        def __call__(self, batch):
            x = batch["x"]
            if operation == "py_function":
                x = tf.ensure_shape(tf.py_function(lambda v: v, [x], tf.float32), x.shape)
            elif operation == "lookup":
                x = tf.cast(table.lookup(tf.cast(x, tf.int64)), tf.float32)
            else:
                x = tf.strings.to_number(tf.strings.as_string(x))
            return super().__call__({"x": x})

    notes = Odd()
    with pytest.raises((tf.errors.OpError, ValueError, TypeError)):
        Loop(notes, xla=True).prepare(block())
    assert [] == notes.written()
    loop = Loop(notes)
    loop.prepare(block())
    loop(Pass(iter([block()]), 0).take(9))
    assert expected() == notes.written()


@pytest.mark.parametrize("outputs_per_call", [0, 1, 3])
@pytest.mark.parametrize("kind", ["graph", "fixed"])
def test_replicas_meet_in_every_step(kind, outputs_per_call):
    """Collective operations of TensorFlow's, which fail in a branch, run in each kind of loop."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        total = tf.Variable(0.0)

    def on_replica(batch):
        context = tf.distribute.get_replica_context()
        summed = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(batch["x"]))
        total.assign_add(summed)
        return summed

    def step(batch):
        results = strategy.run(on_replica, args=(batch,))
        return {"sum": strategy.experimental_local_results(results)[0]}

    loop = Loop(step, outputs_per_call=outputs_per_call, **KINDS[kind])
    loop.prepare(block())
    assert total.numpy() == 0.0
    for start in range(4):
        logs = loop(Chunk(block(), start, 1))
        assert (
            logs is None if not outputs_per_call else [2 * expected()[start][0]] == [logs[0]["sum"]]
        )
