"""How a pass over a data set becomes blocks: of arrays, of ``tf.data``, of what Python draws.

`ArrayPasses` shuffles by ``(seed, pass)`` and keeps arrays resident, or gathers their rows in
the background, a stack at a time. `AdapterPasses` takes what a Keras adapter yields, in its
order (`kerastrain.stacks`).
"""

import concurrent.futures
import math
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import stacks
from kerastrain.blocks import Block
from kerastrain.blocks import bytes_of
from kerastrain.blocks import map_leaves
from kerastrain.blocks import rows_of

# The batches of a stack of arrays at most: more than of what comes batch by batch, and may
# take its time.
_OF_ARRAYS = 256


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
        number = stacks.batches_of(bytes_of(self._arrays) * size // self._count, _OF_ARRAYS)
        for start in range(0, self._count, number * size):
            rows = min(number * size, self._count - start)
            sizes = np.diff([*range(0, rows, size), rows])
            yield Block.of_rows(self._taken(order, start, number), sizes, size, number)


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
                batches = iter(self._adapter.get_tf_dataset())
                if self.storage == "stack":
                    yield from _drawn_ahead(stacks.of_pipeline(batches))
                else:
                    yield from map(Block.of_batch, batches)
            else:
                batches = map(_keras.list_to_tuple, self._numpy_batches())
                if self.storage == "stack":
                    yield from stacks.of_batches(batches, self._steps)
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
