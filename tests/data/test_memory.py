"""A batch stays what it was when it was drawn, whatever is done to its arrays; one copy does it."""

import inspect
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import Execution
from kerastrain import Trainer
from kerastrain.data import memory
from kerastrain.data import stacks
from kerastrain.data.source import Source
from tests.support import tiers

COUNT, ROWS = 9, 4


def aligned(shape, dtype="float32"):
    """An array where TensorFlow takes it over, instead of copying it."""
    array = memory.empty(shape, dtype)
    array[...] = 0
    assert not array.size or 0 == array.ctypes.data % 64
    return array


# Copies -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "complex128", "float16", ">f8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5, 3)])
def test_a_copy_is_equal_and_its_own(dtype, shape):
    """The values, the shape and the type are the array's; a change of the array is not."""
    for array in (aligned(shape, dtype), np.zeros(shape, dtype)):
        array[...] = 1
        tensor, expected = memory.copied(array), tf.convert_to_tensor(array)
        array[...] = 0
        assert (expected.dtype, expected.shape) == (tensor.dtype, tensor.shape)
        assert (expected.numpy() == tensor.numpy()).all()


def test_text_is_copied():
    """Arrays of strings and of objects too."""
    for dtype in ("U3", "S3", object):
        array = np.array(["ab", "c"], dtype)
        tensor = memory.copied(array)
        array[0] = "z"
        assert [b"ab", b"c"] == tensor.numpy().tolist()


def test_own_memory_is_taken_over():
    """What is in an array of one's own is not copied again: the tensor lies there."""
    array = memory.empty((3, 2), "float32")
    tensor = memory.as_tensor(array)
    array[...] = 7
    assert (tensor.numpy() == 7).all()


def test_parts_of_other_libraries_are_copied():
    """What torch and SciPy hold; None, text and numbers stay."""
    torch, sparse = pytest.importorskip("torch"), pytest.importorskip("scipy.sparse")
    batch = (torch.ones(3), sparse.csr_matrix(np.eye(3)), None, {"a": "text", "b": [np.ones(3), 1]})
    copy = memory.copied_parts(batch)
    batch[0].zero_()
    batch[1].data[:] = 0
    batch[3]["b"][0][:] = 0
    assert [3.0, 3.0, 3.0] == [copy[0].sum(), copy[1].sum(), copy[3]["b"][0].sum()]
    assert (None, "text", 1) == (copy[2], copy[3]["a"], copy[3]["b"][1])


# Sources that fill the same arrays again and again -----------------------------------


def fill(buffer, index):
    x, y = buffer
    x[...] = np.arange(ROWS)[:, None] + 10 * index
    y[...] = index
    return buffer


def buffers():
    return aligned((ROWS, 3)), aligned((ROWS, 1))


class Refilled(keras.utils.PyDataset):
    """One buffer for all batches; where there are threads, one for each of them."""

    num_batches = COUNT

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.of_thread = threading.local()

    def __getitem__(self, index):
        if not hasattr(self.of_thread, "buffers"):
            self.of_thread.buffers = buffers()
        return fill(self.of_thread.buffers, index)


def generator():
    buffer = buffers()
    for index in range(COUNT):
        yield fill(buffer, index)


def from_generator():
    specs = tf.TensorSpec((ROWS, 3), tf.float32), tf.TensorSpec((ROWS, 1), tf.float32)
    return tf.data.Dataset.from_generator(generator, output_signature=specs)


def numpy_function():
    buffer = buffers()

    def draw(index):
        return fill(buffer, int(index))

    def mapped(index):
        x, y = tf.numpy_function(draw, [index], (tf.float32, tf.float32))
        return tf.ensure_shape(x, (ROWS, 3)), tf.ensure_shape(y, (ROWS, 1))

    return tf.data.Dataset.range(COUNT).map(mapped)


def of_unknown_shape():
    """Drawn one by one, since their shapes are not known."""
    buffer = buffers()
    return tf.data.Dataset.range(COUNT).map(
        lambda index: tf.numpy_function(
            lambda i: fill(buffer, int(i)), [index], (tf.float32, tf.float32)
        )
    )


def torch_loader():
    torch = pytest.importorskip("torch")
    buffer = buffers()
    tensors = tuple(map(torch.from_numpy, buffer))  # in the same memory

    def collate(rows):
        fill(buffer, rows[0])
        return tensors

    return torch.utils.data.DataLoader(list(range(COUNT)), collate_fn=collate)


def grain_loader():
    grain = pytest.importorskip("grain")
    buffer = buffers()
    rows = grain.MapDataset.range(COUNT).map(lambda index: fill(buffer, index))
    return rows.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))


def of_threads():
    """Two threads fill their buffers while ten batches wait in a queue."""
    return Refilled(workers=2)


SOURCES = {
    "PyDataset": Refilled,
    "PyDataset of threads": of_threads,
    "generator": generator,
    "from_generator": from_generator,
    "numpy_function": numpy_function,
    "of unknown shape": of_unknown_shape,
    "torch": torch_loader,
    "Grain": grain_loader,
}


@pytest.mark.parametrize("lie_together", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_batches_are_what_they_were_when_drawn(name, lie_together):
    """Kept until the end, the batches are those of each index: in stacks, ahead, or by themselves."""
    source = Source(SOURCES[name]())
    source = source.in_blocks() if lie_together else source
    first = source.peek()
    batches = list(source.epoch())
    expected = [fill(buffers(), index) for index in range(COUNT)]
    for actual, wanted in zip([first, *batches], [expected[0], *expected], strict=True):
        for one, other in zip(actual, wanted, strict=True):
            assert (one.numpy() == other).all()


@pytest.mark.parametrize("name", ["PyDataset", "PyDataset of threads", "generator"])
def test_predict(name):
    """The outputs are those of the batches, though Keras draws some ahead."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    model.compile("sgd", "mse")
    outputs = Trainer(model, seed=0).predict(SOURCES[name](), verbose=0)
    assert [10 * i + row for i in range(COUNT) for row in range(ROWS)] == outputs[:, 0].tolist()


EAGER = Execution(run_eagerly=True)


@pytest.mark.parametrize(
    ("execution", "name"),
    [
        ("loop", "generator"), ("step", "PyDataset"), tiers.slow("loop", "PyDataset"),
        tiers.slow("step", "generator"), tiers.slow(EAGER, "PyDataset"),
        tiers.slow(EAGER, "generator"),
    ],
)  # fmt: skip
def test_fit_and_evaluate(name, execution):
    """The sums over all batches are those of the batches as they were drawn."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=["mae"])
    trainer = Trainer(model, seed=0, execution=execution)
    batches = [fill(buffers(), index) for index in range(COUNT)]
    error = np.mean([np.abs(x.sum(1, keepdims=True) - y).mean() for x, y in batches])
    make = SOURCES[name]
    history = trainer.fit(make(), epochs=1, verbose=0, validation_data=make()).history
    assert error == pytest.approx(history["mae"][0], rel=1e-5)
    assert error == pytest.approx(history["val_mae"][0], rel=1e-5)
    assert error == pytest.approx(trainer.evaluate(make(), verbose=0)[1], rel=1e-5)


def test_nothing_is_copied_twice(monkeypatch):
    """A batch that Python draws is copied into its stack, and the stack is not copied."""
    copied, taken_over = [], []
    as_tensor = memory.as_tensor

    def noting(array):
        tensor = as_tensor(array)
        array[-1] = -1  # where no batch is: there is room for more
        taken_over.append((tensor.numpy()[-1] == -1).all())
        return tensor

    monkeypatch.setattr(memory, "as_tensor", noting)
    monkeypatch.setattr(memory, "copied", copied.append)
    monkeypatch.setattr(stacks, "_SECONDS", 9.0)
    blocks = list(stacks.of_batches(generator()))
    assert [COUNT] == [block.steps for block in blocks]
    assert [True, True] == taken_over
    assert [] == copied


def test_a_generator_is_still_one():
    """Keras knows generators by their type."""
    assert inspect.isgenerator(memory.PeekedAt(generator()).batches)
