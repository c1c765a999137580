"""A block gives the batches that its rows were cut into, and a pass gives each of them once."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain.data.blocks import batch_at
from kerastrain.data.blocks import Block
from kerastrain.data.blocks import bytes_of
from kerastrain.data.blocks import Chunk
from kerastrain.data.blocks import Pass
from kerastrain.data.blocks import rows_of

mosts = st.lists(st.integers(1, 5), min_size=1, max_size=8)


def numbers(count):
    """Arrays of three dtypes, a part that is None, and every row another one."""
    first = np.arange(count * 2, dtype="float32").reshape(count, 2)
    return {"a": first, "b": (first.astype("int64")[:, 0], None)}


def tensors(count):
    made = numbers(count)
    return {"a": tf.constant(made["a"]), "b": (tf.constant(made["b"][0]), None)}


def first_column(batch):
    """The rows of a batch, by their numbers; its parts agree on them."""
    rows = (batch["a"].numpy()[:, 0] / 2).astype(int).tolist()
    assert (batch["b"][0].numpy() / 2).astype(int).tolist() == rows
    assert batch["b"][1] is None
    assert (batch["a"].dtype, batch["b"][0].dtype) == (tf.float32, tf.int64)
    return rows


def batches_of(block):
    return [first_column(block.batch(index)) for index in range(block.steps)]


def cut(rows, sizes):
    """Rows cut into batches of these sizes."""
    ends = np.cumsum(sizes)
    return [list(rows[end - size : end]) for size, end in zip(sizes, ends, strict=True)]


# Blocks -----------------------------------------------------------------------


@hypothesis.settings(max_examples=30)
@hypothesis.given(count=st.integers(1, 13), rows=st.integers(1, 7), data=st.data())
def test_of_arrays(count, rows, data):
    """Batches of resident arrays are consecutive rows of the order; the last may be shorter."""
    order = data.draw(st.none() | st.permutations(range(count)).map(np.array))
    block = Block.of_arrays(tensors(count), order, rows)
    wanted = list(range(count)) if order is None else order.tolist()
    expected = [wanted[start : start + rows] for start in range(0, count, rows)]
    assert expected == batches_of(block)
    assert list(map(len, expected)) == block.sizes.tolist()
    assert (len(expected), count // rows) == (block.steps, block.full)


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    spare=st.integers(0, 2),
    as_tensors=st.booleans(),
)
def test_of_rows(sizes, spare, as_tensors):
    """Rows one after another give each batch its own, of any sizes, and none of the filling."""
    hypothesis.assume(max(sizes))
    made = tensors if as_tensors else numbers
    block = Block.of_rows(made(sum(sizes)), sizes, max(sizes), len(sizes) + spare)
    lengths = {leaf.shape[0] for leaf in tf.nest.flatten(block.data[0]) if leaf is not None}
    assert {(len(sizes) + spare) * max(sizes)} == lengths
    assert cut(range(sum(sizes)), sizes) == batches_of(block)
    assert max(sizes) == block.rows
    assert all(size == block.rows for size in sizes[: block.full])
    assert block.full == len(sizes) or sizes[block.full] != block.rows


def test_of_batch():
    """A batch by itself is given as it is, even a ragged one."""
    batch = (tf.ragged.constant([[1.0], [2.0, 3.0]]), None)
    block = Block.of_batch(batch)
    assert block.is_batch
    assert block.batch(0) is batch
    assert (1, 1) == (block.steps, block.full)


@pytest.mark.parametrize("fixed", [False, True])
def test_batch_at_in_a_graph(fixed):
    """A graph gets the same batches; with ``fixed`` it knows the number of rows."""
    block = Block.of_arrays(tensors(8), np.arange(8)[::-1].copy(), 4)
    shapes = []

    @tf.function(autograph=False)
    def taken(data, index):
        batch = batch_at(data, index, 4, fixed)
        shapes.append(batch["a"].shape.as_list())
        return batch["a"]

    for index, expected in enumerate([[7, 6, 5, 4], [3, 2, 1, 0]]):
        actual = taken(block.data, tf.constant(index))
        assert expected == (actual.numpy()[:, 0] / 2).tolist()
    assert [[4 if fixed else None, 2]] == shapes


def test_signature():
    """Blocks have one signature where one program serves them, shuffled or not."""
    block = Block.of_arrays(tensors(8), None, 4)
    assert block.signature == Block.of_arrays(tensors(8), np.arange(8)[::-1].copy(), 4).signature
    others = [
        Block.of_arrays(tensors(9), None, 4),
        Block.of_arrays(tensors(8), None, 2),
        Block.of_arrays({**tensors(8), "b": (tf.zeros(8, tf.int32), None)}, None, 4),
        Block.of_arrays({**tensors(8), "c": (tf.zeros(8, tf.int32), None)}, None, 4),
    ]
    assert 5 == len({block.signature, *(other.signature for other in others)})


def test_signature_tells_which_part_is_none():
    """Labels without weights, and weights without labels, are two programs."""
    x, rows = tf.zeros((8, 2)), tf.zeros(8)
    blocks = [Block.of_arrays(arrays, None, 4) for arrays in ((x, rows, None), (x, None, rows))]
    assert blocks[0].signature != blocks[1].signature


def test_sizes_in_memory():
    """Rows and bytes are counted over all parts; parts that are None have none."""
    assert 3 == rows_of((None, {"a": np.zeros((3, 2))}))
    batch = np.zeros((3, 2), "float64"), None, tf.constant(["a", "b", "c"])
    assert 3 * 2 * 8 + 3 * 16 == bytes_of(batch)


# Passes -----------------------------------------------------------------------


def blocks_of(kinds):
    """Blocks of several kinds, and all their batches in order."""
    blocks = []
    for number, kind in enumerate(kinds):
        if kind == "batch":
            blocks.append(Block.of_batch(tensors(3 + number)))
        elif kind == "arrays":
            blocks.append(Block.of_arrays(tensors(8 + number), None, 3))
        else:
            blocks.append(Block.of_rows(tensors(7), [2, 1, 2, 2], 2, 4))
    return blocks, [batch for block in blocks for batch in batches_of(block)]


def unpacked(chunk):
    """The batches of a chunk."""
    indices = range(chunk.start, chunk.start + chunk.steps)
    return [first_column(chunk.block.batch(index)) for index in indices]


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    kinds=st.lists(st.sampled_from(["batch", "arrays", "stack"]), max_size=4),
    mosts=mosts,
    peeks=st.lists(st.booleans(), min_size=1, max_size=5),
)
def test_pass_gives_each_batch_once(kinds, mosts, peeks):
    """Whatever is asked for at most, the chunks are the batches in order; a peek moves nothing."""
    blocks, expected = blocks_of(kinds)
    one_pass, actual, turn = Pass(iter(blocks), 3), [], 0
    while True:
        if peeks[turn % len(peeks)]:
            seen = one_pass.peek()
            assert expected[len(actual) : len(actual) + 1] == (
                [] if seen is None else [first_column(seen)]
            )
        most = mosts[turn % len(mosts)]
        turn += 1
        chunk = one_pass.take(most)
        if chunk is None:
            break
        assert 1 <= chunk.steps <= most
        assert chunk.is_full or chunk.steps == 1
        got = unpacked(chunk)
        assert got[0] == first_column(chunk.batch())
        if chunk.is_full and not chunk.block.is_batch:
            assert {chunk.block.rows} == set(map(len, got))
        assert chunk.rows == (0 if chunk.block.is_batch else len(got[0]))
        actual += got
    assert expected == actual
    assert len(expected) == one_pass.taken
    assert one_pass.take(1) is one_pass.peek() is None


def test_full_batches_come_together():
    """The full batches of resident arrays are one chunk where so many are wanted."""
    one_pass = Pass(iter([Block.of_arrays(tensors(11), None, 2)]), 0)
    chunks = [one_pass.take(100), one_pass.take(100), one_pass.take(100)]
    assert [(0, 5), (5, 1)] == [(chunk.start, chunk.steps) for chunk in chunks[:2]]
    assert chunks[2] is None


def test_close_ends_the_generator():
    """What a generator does at its end is done when the pass is closed."""
    ended = []

    def blocks():
        try:
            while True:
                yield Block.of_batch(tensors(2))
        finally:
            ended.append(True)

    one_pass = Pass(blocks(), 0)
    one_pass.take(1)
    one_pass.close()
    assert [True] == ended


def test_chunk_is_full():
    """A chunk is full where all of its batches are."""
    block = Block.of_arrays(tensors(11), None, 4)
    assert Chunk(block, 0, 2).is_full
    assert not Chunk(block, 1, 2).is_full
    assert [4, 3] == [Chunk(block, 1, 1).rows, Chunk(block, 2, 1).rows]
