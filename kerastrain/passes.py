"""How a pass over a data set becomes blocks: of arrays, of ``tf.data``, of what Python draws.

`ArrayPasses` shuffles by ``(seed, pass)`` and keeps arrays resident, or gathers their rows in
the background, a stack at a time. `AdapterPasses` takes what a Keras adapter yields, in its
order; a ``tf.data`` pipeline makes its stacks itself.
"""

import concurrent.futures
import math
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.blocks import Block
from kerastrain.blocks import bytes_of
from kerastrain.blocks import map_leaves
from kerastrain.blocks import rows_of

# A stack has so many bytes at most, unless one batch has more, and so many batches: of arrays,
# which are soon gathered, and of what comes batch by batch, and may take its time.
_STACK_BYTES, _OF_ARRAYS, _OF_STREAMS = 8 * 2**20, 256, 32
# A stack of batches that Python draws one by one is closed after so many seconds.
_STACK_SECONDS = 0.1


class ArrayPasses:
    """Passes over NumPy arrays, shuffled by ``(seed, pass)``.

    Args:
        arrays: a structure of arrays with the rows first.
        batch_size: rows of a batch.
        shuffle: False, True or ``"batch"``.
        seed: an integer.

    Attributes:
        follow_seed: whether the order is a function of the seed and the pass.
        storage: ``"batch"``, ``"stack"`` or ``"arrays"`` (`kerastrain.blocks`).
        num_batches: of a pass, or None where unknown.
    """

    def __init__(self, arrays, batch_size, shuffle, seed):
        self.follow_seed = True
        self.storage = "batch"
        self._arrays, self._batch_size = arrays, batch_size
        self._shuffle, self._seed = shuffle, seed
        self._count = rows_of(arrays)
        self._resident = None
        self.num_batches = math.ceil(self._count / batch_size)

    def in_blocks(self, resident_bytes: int) -> None:
        """From the next pass on, batches lie together."""
        self.storage = "arrays" if bytes_of(self._arrays) <= resident_bytes else "stack"

    def blocks(self, number: int) -> Iterator[Block]:
        """The blocks of a pass."""
        order = self._order(number)
        if self.storage == "arrays":
            if self._resident is None:
                self._resident = map_leaves(tf.convert_to_tensor, self._arrays)
            yield Block.of_arrays(self._resident, order, self._batch_size)
        elif self.storage == "stack":
            yield from _drawn_ahead(self._stacks(order))
        else:
            for start in range(0, self._count, self._batch_size):
                yield Block.of_batch(map_leaves(tf.convert_to_tensor, self._taken(order, start, 1)))

    def _order(self, number):
        """The rows in the order of a pass, or None for their own."""
        if not self._shuffle:
            return None
        rng = np.random.default_rng([self._seed, number])
        if self._shuffle != "batch":
            order = np.arange(self._count, dtype="int32" if self._count < 2**31 else "int64")
            rng.shuffle(order)  # as `rng.permutation(count)`, in a quarter of the memory
            return order
        starts = range(0, self._count, self._batch_size)
        return np.concatenate(
            [i + rng.permutation(min(self._batch_size, self._count - i)) for i in starts]
        )

    def _taken(self, order, start, batches):
        """NumPy arrays of the rows of some batches, the first of which begins at ``start``."""
        rows = slice(start, min(start + batches * self._batch_size, self._count))
        rows = rows if order is None else order[rows]
        return map_leaves(lambda a: np.asarray(a[rows]), self._arrays)

    def _stacks(self, order):
        size = self._batch_size
        number = _batches_of(bytes_of(self._arrays) * size // self._count, _OF_ARRAYS)
        for start in range(0, self._count, number * size):
            rows = min(number * size, self._count - start)
            sizes = np.diff([*range(0, rows, size), rows])
            taken = self._taken(order, start, number)
            yield Block.of_stack(map_leaves(lambda a: _cut(a, number, size), taken), sizes, size)


def _cut(array, number, size):
    """Rows as a stack of batches, zeros where there are none."""
    missing = number * size - len(array)
    if missing:
        array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
    return tf.convert_to_tensor(array.reshape((number, size, *array.shape[1:])))


def _batches_of(size: int, most: int) -> int:
    """How many batches of so many bytes make a stack."""
    return max(1, min(most, _STACK_BYTES // max(1, size)))


def _drawn_ahead(items: Iterator) -> Iterator:
    """The same items; the next one is made in the background."""
    with concurrent.futures.ThreadPoolExecutor(1) as background:
        coming = background.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = background.submit(next, items, None)
            yield item


class AdapterPasses:
    """Passes over what a Keras adapter yields, in its order.

    Args:
        adapter: Keras's.
        data: what the adapter was made of.
        steps: batches of an epoch, or None for a whole pass.

    Attributes:
        follow_seed, storage, num_batches: as of `ArrayPasses`.
    """

    def __init__(self, adapter, data, steps):
        self._adapter, self._data, self._steps = adapter, data, steps
        self.follow_seed = isinstance(data, ShuffledBatches)
        self.storage = "batch"
        self._once: Iterator | None = None

    @property
    def num_batches(self) -> int | None:
        """Batches of a pass, or None where unknown."""
        return self._adapter.num_batches

    def in_blocks(self, resident_bytes: int) -> None:
        """From the next pass on, batches lie together."""
        del resident_bytes
        self.storage = "stack"

    def blocks(self, number: int) -> Iterator[Block]:
        """The blocks of a pass."""
        if isinstance(self._data, ShuffledBatches):
            self._data.start_pass(number)
        self._adapter.on_epoch_begin()
        try:
            if _keras.yields_tensors(self._adapter):
                dataset = self._adapter.get_tf_dataset()
                if self.storage == "stack" and (number := _stackable(dataset)) > 1:
                    yield from _stacks_of(dataset, number)
                else:
                    yield from map(Block.of_batch, dataset)
            else:
                batches = map(_keras.list_to_tuple, self._numpy_batches())
                if self.storage == "stack":
                    yield from _stacked(batches, self._steps)
                else:
                    yield from (Block.of_batch(map_leaves(tf.convert_to_tensor, b)) for b in batches)
        finally:
            self._adapter.on_epoch_end()

    def _numpy_batches(self):
        if not isinstance(self._data, Iterator):
            return self._adapter.get_numpy_iterator()
        if self._once is None:  # each further one of Keras's replays the first two batches
            self._once = iter(self._adapter.get_numpy_iterator())
        return self._once


def _stackable(dataset: tf.data.Dataset) -> int:
    """How many batches of a ``tf.data`` pipeline make a stack; 1 where they cannot."""
    specs = tf.nest.flatten(dataset.element_spec)
    for spec in specs:
        known = isinstance(spec, tf.TensorSpec) and spec.shape.rank
        if not known or None in spec.shape[1:].as_list():
            return 1
    rows = [spec.shape[0] or 64 for spec in specs]
    sizes = [spec.shape[1:].num_elements() * (spec.dtype.size or 16) for spec in specs]
    return _batches_of(sum(r * size for r, size in zip(rows, sizes, strict=True)), _OF_STREAMS)


def _stacks_of(dataset: tf.data.Dataset, number: int) -> Iterator[Block]:
    """Blocks of a ``tf.data`` pipeline, stacked in it.

    What the pipeline raises, it raises for all of a stack.
    """

    def counted(*batch):
        batch = batch if isinstance(dataset.element_spec, tuple) else batch[0]
        return batch, tf.stack([tf.shape(leaf)[0] for leaf in tf.nest.flatten(batch)])

    stacks = dataset.map(counted).padded_batch(number).prefetch(2)
    rows = 0
    for stack, sizes in stacks:
        sizes = sizes.numpy()
        if (sizes != sizes[:, :1]).any() or not sizes.any():  # to be refused, as they are
            yield from map(Block.of_batch, _taken_apart(stack, sizes))
            continue
        sizes = sizes[:, 0]
        rows = max(rows, int(np.max(sizes)))
        yield Block.of_stack(map_leaves(lambda leaf: _filled(leaf, number, rows), stack), sizes, rows)


def _taken_apart(stack, sizes):
    """The batches of a stack, one by one, each part with its own number of rows."""
    leaves = tf.nest.flatten(stack)
    for index, rows in enumerate(sizes):
        parts = [leaf[index][:count] for leaf, count in zip(leaves, rows, strict=True)]
        yield tf.nest.pack_sequence_as(stack, parts)


def _filled(leaf, number, rows):
    """A stack with zeros up to ``number`` batches of ``rows`` rows."""
    missing = [[0, number - leaf.shape[0]], [0, rows - leaf.shape[1]]]
    if missing == [[0, 0], [0, 0]]:
        return leaf
    return tf.pad(leaf, missing + [[0, 0]] * (leaf.shape.rank - 2))


def _stacked(batches: Iterator, limit: int | None) -> Iterator[Block]:
    """Blocks of batches that Python draws: as many as come in a tenth of a second.

    Args:
        batches: an iterator.
        limit: after each so many batches an epoch ends, and what comes later is not
            drawn before it is asked for.
    """
    waiting: list = []
    drawn, number, begun, failure, done = 0, 1, 0.0, None, False
    while not done:
        try:
            batch = next(batches)
            drawn += 1
        except StopIteration:
            batch, done = None, True
        except Exception as error:  # what came before it is trained on first
            batch, done, failure = None, True, error
        fits = not done and (not waiting or _shapes(batch) == _shapes(waiting[0]))
        if waiting and not fits:
            yield _block_of(waiting, number)
            waiting = []
        if done:
            break
        if not waiting:
            begun = time.perf_counter()
            number = _batches_of(bytes_of(batch), _OF_STREAMS) if _is_dense(batch) else 1
        waiting.append(batch)
        full = len(waiting) == number or (limit is not None and drawn % limit == 0)
        if full or time.perf_counter() - begun > _STACK_SECONDS:
            yield _block_of(waiting, number)
            waiting = []
    if failure is not None:
        raise failure


def _is_dense(batch):
    """Whether a batch has dense arrays of equal lengths, which can be stacked."""
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    dense = all(isinstance(a, np.ndarray | tf.Tensor) and len(a.shape) for a in leaves)
    return dense and len(leaves[0]) > 0 and len({len(a) for a in leaves}) == 1


def _shapes(batch):
    return [None if a is None else (a.shape, a.dtype) for a in keras.tree.flatten(batch)]


def _block_of(batches, number):
    """A stack of equal batches, filled with zeros up to ``number``; or the only one."""
    if number == 1:
        return Block.of_batch(map_leaves(tf.convert_to_tensor, batches[0]))

    def stack(*leaves):
        if leaves[0] is None:
            return None
        dtype = np.asarray(leaves[0]).dtype
        stacked = np.full((number, *leaves[0].shape), b"" if dtype == object else 0, dtype)
        for index, leaf in enumerate(leaves):
            stacked[index] = leaf
        return tf.convert_to_tensor(stacked)

    sizes = np.full(len(batches), rows_of(batches[0]))
    return Block.of_stack(keras.tree.map_structure(stack, *batches), sizes)


class ShuffledBatches(keras.utils.PyDataset):
    """The batches of a ``PyDataset`` in an order that follows ``(seed, pass)``."""

    def __init__(self, data, seed):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self._data, self._seed = data, seed
        self.on_epoch_begin, self.on_epoch_end = data.on_epoch_begin, data.on_epoch_end
        self.start_pass(0)

    def start_pass(self, number):
        rng = np.random.default_rng([self._seed, number])
        self._order = rng.permutation(self.num_batches).tolist()

    @property
    def num_batches(self):
        return self._data.num_batches

    def __getitem__(self, index):
        return self._data[self._order[index]]
