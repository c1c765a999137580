"""How a pass over a data set becomes blocks: of arrays, of ``tf.data``, of what Python draws.

`ArrayPasses` shuffles by ``(seed, pass)`` and keeps arrays resident, or gathers their rows in
the background, a stack at a time. `AdapterPasses` takes what a Keras adapter yields, in its
order (`kerastrain.stacks`).
"""

import concurrent.futures
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import stacks
from kerastrain.blocks import Block
from kerastrain.blocks import Pass
from kerastrain.blocks import bytes_of
from kerastrain.blocks import map_leaves
from kerastrain.blocks import rows_of

# The batches of a stack of arrays at most: more than of what comes batch by batch, and may
# take its time.
_OF_ARRAYS = 256
# TensorFlow's kernels want memory at multiples of so many bytes.
_ALIGNMENT = 64


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

    def begin(self, number: int, taken: int = 0) -> Pass:
        """A pass, from the batch on that comes after those ``taken``."""
        order = self._order(number)
        if self.storage == "arrays":
            if self._resident is None:
                self._resident = map_leaves(_copied, self._arrays)
            blocks = (b for b in [Block.of_arrays(self._resident, order, self._batch_size)])
            return Pass(blocks, number, taken, skipped=taken)
        if self.storage == "stack":
            of_stack = self._batches_in_a_stack()
            blocks = _drawn_ahead(self._stacks(order, taken // of_stack, of_stack))
            return Pass(blocks, number, taken, skipped=taken % of_stack)
        return Pass(self._batches(order, taken), number, taken)

    def track(self) -> None:
        """From the next pass on, `state` is asked for."""

    def state(self, taken: int | None) -> None:
        """Nothing but the seed and the pass's number is needed to begin it again."""

    def set_state(self, state: None) -> None:
        """As `state` gave it."""

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        self._seed = seed

    def begins_anywhere(self, state: None) -> bool:
        """Whether a pass can begin without those before it."""
        return True

    def _batches(self, order, taken):
        for start in range(taken * self._batch_size, self._count, self._batch_size):
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

    def _batches_in_a_stack(self):
        return stacks.batches_of(
            bytes_of(self._arrays) * self._batch_size // self._count, _OF_ARRAYS
        )

    def _stacks(self, order, first, number):
        size = self._batch_size
        for start in range(first * number * size, self._count, number * size):
            rows = min(number * size, self._count - start)
            sizes = np.diff([*range(0, rows, size), rows])
            yield Block.of_rows(self._taken(order, start, number), sizes, size, number)


def _copied(array):
    """The array as a tensor with memory of its own.

    TensorFlow takes over an array in memory that is aligned for it, and copies others once;
    ``tf.convert_to_tensor`` copies beforehand, in any case.
    """
    aligned = array.dtype.kind in "OUS" or array.ctypes.data % _ALIGNMENT == 0
    if aligned or not array.flags.c_contiguous:
        return tf.convert_to_tensor(array)
    return tf.raw_ops.Identity(input=array)


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
        self.follow_seed = isinstance(data, Indexed) and data.shuffles
        self.storage = "batch"
        self.num_batches = adapter.num_batches
        self._once: Iterator | None = None
        self._is_pipeline = _keras.yields_tensors(adapter)
        self._states: IteratorStates | TorchStates | None = None

    def track(self) -> None:
        """From the next pass on, `state` is asked for."""
        if self._is_pipeline:
            self._states = IteratorStates(self._adapter.get_tf_dataset)
        elif _keras.is_torch_dataloader(self._data):
            self._states = TorchStates()

    def in_blocks(self, resident_bytes: int) -> None:
        """From the next pass on, batches lie together."""
        del resident_bytes
        self.storage = "stack"

    def begin(self, number: int, taken: int = 0) -> Pass:
        """A pass, from the batch on that comes after those ``taken``."""
        return Pass(self._blocks(number, taken), number, taken)

    def state(self, taken: int | None) -> Any:
        """What is needed to begin the current pass at a batch; None: to begin the next one."""
        return self._states.state(taken) if self._states else None

    def set_state(self, state: Any) -> None:
        """As `state` gave it, before the pass begins."""
        if self._states:
            self._states.set_state(state)

    def begins_anywhere(self, state: Any) -> bool:
        """Whether a pass can begin without those before it."""
        if isinstance(self._data, Indexed):
            return not self._data.has_events
        return not self._states or state is not None

    @property
    def is_drawn_whole(self) -> bool:
        """Whether only a pass that is drawn to its end leaves the data where the next begins."""
        return not isinstance(self._data, Indexed)

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        if self.follow_seed:
            self._data.set_seed(seed)

    def _blocks(self, number, taken):
        if isinstance(self._data, Indexed):
            self._data.begin(number, taken)
        self._adapter.on_epoch_begin()
        try:
            if self._is_pipeline:
                yield from self._blocks_of_pipeline(taken)
            else:
                batches = map(_keras.list_to_tuple, self._numpy_batches(taken))
                if self.storage == "stack":
                    yield from stacks.of_batches(batches, self._steps)
                else:
                    yield from (Block.of_batch(map_leaves(tf.convert_to_tensor, b)) for b in batches)
        finally:
            self._adapter.on_epoch_end()

    def _blocks_of_pipeline(self, taken):
        iterator = iter(self._adapter.get_tf_dataset())
        if self._states:
            self._states.begin(iterator)
        _draw(iterator, taken)
        if self.storage == "stack":
            yield from _drawn_ahead(stacks.of_pipeline(iterator))
        else:
            yield from map(Block.of_batch, iterator)

    def _numpy_batches(self, taken):
        if isinstance(self._data, Iterator):
            if self._once is None:  # each further one of Keras's replays the first two batches
                self._once = iter(self._adapter.get_numpy_iterator())
            return self._once
        if isinstance(self._data, Indexed) and self._data.num_batches == 0:
            return iter(())  # with which Keras's workers would never end
        if isinstance(self._states, TorchStates):
            self._states.begin()
        batches = iter(self._adapter.get_numpy_iterator())
        if not isinstance(self._data, Indexed):
            _draw(batches, taken)
        return batches


class IteratorStates:
    """The state of a ``tf.data`` iterator where a pass begins; what follows is drawn again.

    States from within a pass are of no use: TensorFlow 2.21 restores the batches of the pass,
    but after ``shuffle`` has seen the last of its rows not the order of the passes to come.

    Args:
        make_dataset: gives the pipeline.
    """

    def __init__(self, make_dataset: Callable[[], tf.data.Dataset]):
        self._make_dataset = make_dataset
        self._state: np.ndarray | None = None
        self._restored: np.ndarray | None = None

    def begin(self, iterator: tf.data.Iterator) -> None:
        """A pass begins."""
        if self._restored is not None:
            _keras.set_iterator_state(iterator, self._restored)
            self._state, self._restored = self._restored, None
        else:
            self._state = _keras.iterator_state(iterator)

    def state(self, taken: int | None) -> dict | None:
        """Where the current pass began, or the last; None where TensorFlow saves none."""
        return None if self._state is None else {"begun": self._state, "ended": taken is None}

    def set_state(self, state: dict | None) -> None:
        """As `state` gave it."""
        if state is not None and state["ended"]:
            # An iterator that has this state hands it on to the next pass's.
            _keras.set_iterator_state(iter(self._make_dataset()), state["begun"])
            self._state = state["begun"]
        elif state is not None:
            self._restored = state["begun"]


class TorchStates:
    """The state of torch's random numbers where a pass of a ``DataLoader`` begins."""

    def __init__(self):
        self._state: np.ndarray | None = None

    def begin(self) -> None:
        """A pass begins."""
        import torch

        self._state = torch.get_rng_state().numpy().copy()

    def state(self, taken: int | None) -> np.ndarray:
        """Where the current pass began; None: where the next one does, which is now."""
        if taken is None:
            self.begin()
        return self._state

    def set_state(self, state: np.ndarray) -> None:
        """As `state` gave it."""
        import torch

        torch.set_rng_state(torch.from_numpy(state.copy()))


def _draw(iterator, number):
    for _ in range(number):
        next(iterator)


class Indexed(keras.utils.PyDataset):
    """The batches of a ``PyDataset`` from any batch on, in an order that follows ``(seed, pass)``.

    Args:
        data: the ``PyDataset``.
        seed: an integer, or None for the order that it has.
    """

    def __init__(self, data, seed):
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self._data, self._seed = data, seed
        self.shuffles = seed is not None
        kind = keras.utils.PyDataset
        self.has_events = any(
            getattr(type(data), name) is not getattr(kind, name)
            for name in ("on_epoch_begin", "on_epoch_end")
        )
        self.on_epoch_begin, self.on_epoch_end = data.on_epoch_begin, data.on_epoch_end
        self.begin(0, 0)

    def set_seed(self, seed: int) -> None:
        """Lets the order follow another seed."""
        self._seed = seed

    def begin(self, number: int, taken: int) -> None:
        """A pass begins, after the first batches of its order."""
        self._taken, self._order = taken, None
        if self.shuffles:
            rng = np.random.default_rng([self._seed, number])
            self._order = rng.permutation(self._data.num_batches).tolist()

    @property
    def num_batches(self):
        count = self._data.num_batches
        return None if count is None else count - self._taken

    def __getitem__(self, index):
        index += self._taken
        return self._data[index if self._order is None else self._order[index]]
