"""What several workers read of a data set: together each global batch, and each only its own rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import DataError
from kerastrain import errors
from kerastrain.data import Share
from kerastrain.data import shares
from kerastrain.data import Source

ROWS = 75


def arrays(rows=ROWS):
    x = np.arange(rows * 3, dtype="float32").reshape(rows, 3)
    return x, x[:, :1].astype("int64")


def parts(source, epochs=2):
    """``[(this worker's rows of a batch, the global batch)]`` of some epochs."""
    return [
        (chunk.block.part(chunk.start + i), chunk.block.batch(chunk.start + i))
        for epoch in range(epochs)
        for chunk in source.chunks(epoch, lambda: 3)
        for i in range(chunk.steps)
    ]


def on_host(batch):
    return keras.tree.map_structure(np.asarray, batch)


@pytest.mark.parametrize("storage", ["batch", "stack", "arrays"])
@pytest.mark.parametrize("shuffle", [False, True, "batch"])
@pytest.mark.parametrize("count, size", [(2, 16), (3, 10), (4, 3)])
def test_shares_are_the_batches_of_one_worker(storage, shuffle, count, size):
    """Joined, in the order of the workers; each knows the global batch and its rows too."""

    def made(share):
        source = Source(*arrays(), batch_size=size, shuffle=shuffle, seed=3, share=share)
        return (
            source if storage == "batch" else source.in_blocks(10**9 if storage == "arrays" else 0)
        )

    whole = [on_host(batch) for batch in made(shares.ALL).epoch(0)]
    whole += [on_host(batch) for batch in made(shares.ALL).epoch(1)]
    found = [parts(made(Share(index, count))) for index in range(count)]
    assert [len(whole)] * count == [*map(len, found)]
    for index, batch in enumerate(whole):
        mine = [on_host(each[index][0]) for each in found]
        joined = keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *mine)
        keras.tree.map_structure(np.testing.assert_array_equal, batch, joined)
        sizes = [len(part[0]) for part in mine]
        assert max(sizes) - min(sizes) <= 1
        for each in found:
            keras.tree.map_structure(np.testing.assert_array_equal, batch, on_host(each[index][1]))


@pytest.mark.parametrize("resident", [0, 10**9])
def test_only_its_own_rows_are_read(resident, tmp_path):
    """Of a memory-mapped file that a training goes through: its rows, and few to compare."""
    x, _ = arrays(1000)
    np.save(tmp_path / "x.npy", x)
    read = []

    class Noting(np.memmap):
        def take(self, rows, *args, **kwargs):
            read.extend(np.asarray(rows).tolist())
            return super().take(rows, *args, **kwargs)

        def __getitem__(self, rows):
            found = super().__getitem__(rows)
            read.extend(np.arange(len(self))[rows].ravel().tolist())
            return found

    mapped = np.load(tmp_path / "x.npy", mmap_mode="r").view(Noting)
    source = Source(mapped, batch_size=100, share=Share(1, 4)).in_blocks(resident)
    read.clear()
    blocks = {id(c.block): c.block for c in source.chunks(0, lambda: 2)}
    assert {row for row in range(1000) if 25 <= row % 100 < 50} == {*read}
    held = sum(int(block.sizes.sum()) for block in blocks.values())
    assert 250 == held


def test_numbers_of_rows():
    """A step that goes wrong is named by the rows of the data set."""
    source = Source(*arrays(), batch_size=16, shuffle=True, seed=1, share=Share(1, 2)).in_blocks()
    (chunk,) = list(source.chunks(0, lambda: 4))[:1]
    batch = chunk.block.batch(2)
    np.testing.assert_array_equal(arrays()[0][chunk.block.numbers(2)], batch[0])


def test_other_data_have_another_checksum():
    """Of what workers compare before each chunk."""
    x, y = arrays()
    ahead = [
        Source(data, y, batch_size=16, share=Share(0, 2)).in_blocks().ahead().checksum
        for data in (x, x[::-1], x)
    ]
    assert ahead[0] == ahead[2] != ahead[1]


def dataset(context):
    shard = tf.data.Dataset.from_tensor_slices(arrays()).shard(
        context.num_input_pipelines, context.input_pipeline_id
    )
    return shard.batch(16 // context.num_input_pipelines)


def test_a_function_of_the_input_context():
    """Each worker has the rows that its data set yields; the global batch is what all have."""
    found = []
    others = [on_host([*dataset(tf.distribute.InputContext(2, i, 2))]) for i in range(2)]
    for index in range(2):

        def gather(mine, index=index):
            number = next(i for i, b in enumerate(others[index]) if np.array_equal(b[0], mine[0]))
            return [each[number] for each in others]

        source = Source(dataset, share=Share(index, 2, 2, gather)).in_blocks()
        assert source.has_share and 5 == source.num_batches
        found.append(parts(source, epochs=1))
    for number, ((mine, whole), (others_part, same)) in enumerate(zip(*found, strict=True)):
        rows = np.concatenate([mine[0], others_part[0]])
        np.testing.assert_array_equal(rows, whole[0])
        np.testing.assert_array_equal(whole[0], same[0])
        expected = arrays()[0][16 * number : 16 * number + 16]
        np.testing.assert_array_equal(expected, rows[np.argsort(rows[:, 0])])


def test_a_function_on_one_worker():
    """It is given the whole data set, and nothing is agreed on."""
    source = Source(dataset).in_blocks()
    assert not source.has_share
    np.testing.assert_array_equal(arrays()[0], np.concatenate([b[0] for b in source.epoch(0)]))


def test_a_function_that_returns_no_data_set():
    with pytest.raises(errors.UnsupportedTypeError, match="`x` is a function of an input context"):
        Source(lambda context: arrays())


def test_parts_that_do_not_fit_together():
    x, y = arrays(4)
    with pytest.raises(DataError, match="functions of `x` return batches that do not fit together"):
        shares.joined([(x, y), (x[:, :2], y)], "x")
