"""How a pass over a data set becomes blocks: of arrays, of ``tf.data``, of what Python draws.

`ArrayPasses` shuffles by ``(seed, pass)`` and keeps arrays resident, or gathers their rows in
the background, a stack at a time. `PipelinePasses` takes what ``tf.data`` yields, in its order,
and `PythonPasses` what Python does (`kerastrain.stacks`).

Where a training goes on, what a pass has given before can be skipped (`Passes.seeks`), or the
pass is drawn again; and so can the passes before (`Passes.replay`).
"""

import concurrent.futures
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import memory
from kerastrain import stacks
from kerastrain.blocks import Block
from kerastrain.blocks import Pass
from kerastrain.blocks import bytes_of
from kerastrain.blocks import map_leaves
from kerastrain.blocks import rows_of
from kerastrain.indexed import IndexedBatches
from kerastrain.torch_states import TorchStates

# The batches of a stack of arrays at most: more than of what comes batch by batch, and may
# take its time.
_OF_ARRAYS = 256

# Of a data set that gives any batch by its index, how many of the last ones are drawn again, to be
# compared with those of then.
_RECENT = 8

# What has to be done of the passes before one, to begin it as it was begun: nothing; begin and
# end each; or draw each as far as it was drawn.
NOTHING, BEGIN, DRAW = "nothing", "begin", "draw"


class Passes:
    """Passes over a data set.

    Attributes:
        follow_seed: whether the order is a function of the seed and the pass.
        storage: ``"batch"``, ``"stack"`` or ``"arrays"`` (`kerastrain.blocks`).
        num_batches: of a pass, or None where unknown.
        replay: ``NOTHING``, ``BEGIN`` or ``DRAW``.
        seeks: whether a pass can begin at any batch without those before it.
        orders_itself: whether code of the user's own decides the order between passes.
        digests: where code of the user's own makes the batches, how many of the last ones are
            compared one by one; 0 for all of a pass, together. None elsewhere.
        is_endless: whether a pass is known never to end.
        advice: what to do if the batches are not the same in another process.
    """

    follow_seed, storage, num_batches, orders_itself = False, "batch", None, False
    replay, seeks, advice = DRAW, False, "Make the data set the same in each process."
    digests: int | None = None
    is_endless = False

    def in_blocks(self, resident_bytes: int) -> None:
        """From the next pass on, batches lie together."""
        self.storage = "stack"

    def begin(self, number: int, taken: int = 0) -> Pass:
        """A pass, from the batch on that comes after those ``taken``."""
        raise NotImplementedError

    def not_repeatable(self) -> str:
        """Why another process cannot draw the same batches, if that is known; else empty."""
        return ""

    def may_differ(self) -> str:
        """Why another process may draw other batches, which cannot be told; else empty."""
        return ""

    def cut_differs(self) -> str:
        """Why what follows a pass that is left before its end is a matter of time; or empty."""
        return ""

    def stay_behind(self, is_cut: bool) -> None:
        """Nothing is drawn ahead unasked of what is left before its end.

        Args:
            is_cut: whether passes are.
        """

    def lasting(self) -> tuple[tuple[Any, str], ...]:
        """What goes on from pass to pass, in other passes that have it too; with its name."""
        return ()

    @property
    def calls_ahead(self) -> bool:
        """Whether Python functions that make batches may be called ahead of the training."""
        return False

    def drawn_from(self) -> str:
        """A digest of the global random numbers that passes began or ended with; or empty."""
        return ""

    def state(self, is_open: bool) -> Any:
        """What else the next batches depend on.

        Args:
            is_open: whether a pass has begun that has not been closed.
        """

    def set_state(self, state: Any) -> None:
        """Lets the next pass that begins be that which was begun last when `state` was asked for."""

    def finish_state(self, state: Any) -> None:
        """As `state` gave it, where no pass is open."""

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""


class ArrayPasses(Passes):
    """Passes over NumPy arrays, shuffled by ``(seed, pass)``.

    Args:
        arrays: a structure of arrays with the rows first.
        batch_size: rows of a batch.
        shuffle: False, True or ``"batch"``.
        seed: an integer.
    """

    follow_seed, replay, seeks = True, NOTHING, True
    advice = "Pass the arrays that the run was begun with."

    def __init__(self, arrays, batch_size, shuffle, seed):
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
                self._resident = map_leaves(memory.copied, self._arrays)
            blocks = (b for b in [Block.of_arrays(self._resident, order, self._batch_size)])
            return Pass(blocks, number, taken, skipped=taken)
        if self.storage == "stack":
            of_stack = self._batches_in_a_stack()
            blocks = _drawn_ahead(self._stacks(order, taken // of_stack, of_stack))
            return Pass(blocks, number, taken, skipped=taken % of_stack)
        return Pass(self._batches(order, taken), number, taken)

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        self._seed = seed

    def _batches(self, order, taken):
        size = self._batch_size
        for start in range(taken * size, self._count, size):
            rows = self._taken(order, start, min(size, self._count - start))
            yield Block.of_batch(map_leaves(memory.as_tensor, rows))

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

    def _taken(self, order, start, count, room=0):
        """Arrays of so many rows from ``start`` on; with room for more, which are zeros."""
        rows = slice(start, start + count)

        def gathered(array):
            taken = memory.empty((max(count, room), *array.shape[1:]), array.dtype)
            if order is None:
                taken[:count] = array[rows]
            else:
                array.take(order[rows], axis=0, out=taken[:count], mode="clip")
            memory.clear(taken[count:])
            return taken

        return map_leaves(gathered, self._arrays)

    def _batches_in_a_stack(self):
        return stacks.batches_of(
            bytes_of(self._arrays) * self._batch_size // self._count, _OF_ARRAYS
        )

    def _stacks(self, order, first, number):
        size = self._batch_size
        for start in range(first * number * size, self._count, number * size):
            rows = min(number * size, self._count - start)
            sizes = np.diff([*range(0, rows, size), rows])
            arrays = self._taken(order, start, rows, room=number * size)
            yield Block.of_rows(arrays, sizes, size, number)


def _drawn_ahead(blocks: Iterator, limit: int | None = None) -> Iterator:
    """The same blocks; the next one is made in the background, but not beyond an epoch.

    What is drawn before a pass is left is so the same each time.

    Args:
        blocks: an iterator.
        limit: the batches of an epoch.
    """
    drawn = 0
    with concurrent.futures.ThreadPoolExecutor(1) as background:
        coming = background.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            drawn += block.steps
            waits = limit is not None and drawn % limit == 0
            if not waits:
                coming = background.submit(next, blocks, None)
            yield block
            if waits:
                coming = background.submit(next, blocks, None)


class PipelinePasses(Passes):
    """Passes over what ``tf.data`` yields, in its order.

    Of a pipeline of the user's, each pass takes up where those before have left its seeds: a
    shuffle draws one whenever it begins. Where all of it begins once in a pass, at the first
    batch, it is enough to begin the passes before; else (``repeat`` or ``cache`` after a
    shuffle, ``concatenate``, Python functions) they are drawn again. Where some of it stops before
    its data are over (``take``, ``zip``), how far these were drawn decides about the next pass:
    nothing then draws ahead unasked, and what was asked to is refused.

    Ragged and sparse arrays are shuffled by a pipeline of Keras's, which is made anew for each
    pass, with the seed ``(seed, pass)``.

    Args:
        adapter: Keras's.
        seed: an integer.
        steps: batches of an epoch, or None for a whole pass.
    """

    advice = (
        "Pass `seed=` to each shuffle, or call keras.utils.set_random_seed before the data set "
        "is made; leave out deterministic=False; draw random numbers of elements with "
        "tf.random.stateless_uniform; and make the data set anew for each fit."
    )

    def __init__(self, adapter, seed, steps):
        self._adapter, self._seed, self._steps = adapter, seed, steps
        self._is_users = not _keras.is_of_arrays(adapter)
        self.num_batches = adapter.num_batches
        cardinality = adapter.get_tf_dataset().cardinality() if self._is_users else 0
        self.is_endless = int(cardinality) == tf.data.INFINITE_CARDINALITY
        self._traits: _keras.PipelineTraits | None = None
        self._left: _keras.Left | None = None

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        self._seed = seed

    @property
    def replay(self) -> str:
        """What has to be done of the passes before one; see `Passes`."""
        if not self._is_users or self.traits.is_same_each_pass:
            return NOTHING
        return BEGIN if self.traits.begins_at_once else DRAW

    def not_repeatable(self) -> str:
        """Why another process cannot draw the same batches, if that is known; else empty."""
        return self.traits.differs if self._is_users else ""

    def may_differ(self) -> str:
        """Why another process may draw other batches, which cannot be told; else empty."""
        if not self._is_users:
            return ""
        if self.traits.runs_python_in_parallel:
            return "Python functions in an order that is a matter of time (num_parallel_calls)"
        if self._left is not None and self._left.runs_python_ahead:
            by = f"what {self._left.by} stops" if self._left.by else "a pass that is left"
            return f"Python functions ahead of {by} before its end ({self._left.runs_python_ahead})"
        return ""

    def cut_differs(self) -> str:
        """Why what follows a pass that is left before its end is a matter of time; or empty."""
        if not self._is_users or not self.traits.left_if_cut.runs_ahead:
            return ""
        return (
            f"{self.traits.left_if_cut.runs_ahead}, which has drawn more or less of what follows "
            "when a pass is left before its end (go through all of it, or shuffle after `repeat`)"
        )

    def stay_behind(self, is_cut: bool) -> None:
        """Nothing is drawn ahead unasked of what is left before its end.

        Args:
            is_cut: whether passes are.
        """
        if self._is_users:
            self._left = self.traits.left_if_cut if is_cut else self.traits.left

    def lasting(self) -> tuple[tuple[Any, str], ...]:
        """What goes on from pass to pass, in other passes that have it too; with its name."""
        return self.traits.lasting if self._is_users else ()

    @property
    def digests(self) -> int | None:
        """Of Python functions, all batches of a pass are compared; see `Passes`."""
        return 0 if self._is_users and self.traits.runs_python else None

    @property
    def calls_ahead(self) -> bool:
        """Whether there are Python functions."""
        return self.digests is not None

    @property
    def traits(self) -> "_keras.PipelineTraits":
        """What is known of the pipeline."""
        if self._traits is None:
            self._traits = _keras.pipeline_traits(self._adapter.get_tf_dataset())
        return self._traits

    def begin(self, number: int, taken: int = 0) -> Pass:
        """A pass, from the batch on that comes after those ``taken``."""
        return Pass(self._blocks(number, taken), number, taken)

    def _blocks(self, number, taken):
        self._adapter.on_epoch_begin()
        try:
            copies = self._is_users and self.traits.runs_numpy
            iterator = self._iterator(number, copies)
            _draw(iterator, taken)
            if self.storage == "stack":
                yield from _drawn_ahead(
                    stacks.of_pipeline(iterator, copies, self._steps, taken), self._steps
                )
            else:
                for batch in iterator:
                    yield Block.of_batch(memory.copied_tensors(batch) if copies else batch)
        finally:
            self._adapter.on_epoch_end()

    def _iterator(self, number, copies):
        if not self._is_users:
            with _keras.seeded_operations(_seed_of(self._seed, number)):
                return iter(self._adapter.get_tf_dataset())
        dataset = self._adapter.get_tf_dataset()
        stays_behind = self._left is not None and self._left.goes_on
        options = tf.data.Options()
        # TensorFlow would draw ahead in its own way: before a batch can be copied ...
        if copies:
            options.experimental_optimization.inject_prefetch = False
        # ... and in all that it makes parallel, maps and batches for one.
        if stays_behind:
            _keras.without_optimizations(options, dataset)
        return iter(dataset.with_options(options) if copies or stays_behind else dataset)


class PythonPasses(Passes):
    """Passes over what Python draws: a generator, torch's loaders, Grain, a ``PyDataset``.

    Args:
        adapter: Keras's.
        data: what the adapter was made of.
        steps: batches of an epoch, or None for a whole pass.
    """

    digests = 0

    def __init__(self, adapter, data, steps):
        self._adapter, self._data, self._steps = adapter, data, steps
        self.num_batches = adapter.num_batches
        self._once: Iterator | None = None
        self._torch: TorchStates | None = None
        self._lasting: list = []
        if isinstance(data, IndexedBatches):
            self.follow_seed, self.seeks = data.shuffles, not data.has_events
            self.replay = BEGIN if data.has_events else NOTHING
            self.orders_itself = data.has_events
            self.digests = 0 if data.has_events else _RECENT
            self._lasting = [data.data] if data.has_events else []
            self.advice = (
                "`__getitem__` must return the same batch for the same index, in each process; "
                "let it change nothing, and draw random numbers from "
                "np.random.default_rng([seed, index]), say. What differs from pass to pass "
                "belongs in on_epoch_begin or on_epoch_end."
            )
        elif _keras.is_torch_dataloader(data):
            self.advice = (
                "Its order and its random numbers must follow torch's own generator or one "
                "with a seed, the same in each process."
            )
            # A generator of its own goes on from pass to pass.
            generators = [data.generator, getattr(data.sampler, "generator", None)]
            self._lasting = [one for one in generators if one is not None]
            if not self._lasting:
                self.replay, self._torch = NOTHING, TorchStates()
        elif not isinstance(data, Iterator):
            self.replay = NOTHING  # Grain's data sets are the same each time

    def lasting(self) -> tuple[tuple[Any, str], ...]:
        """What goes on from pass to pass, in other passes that have it too; with its name."""
        return tuple((one, type(one).__name__) for one in self._lasting)

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        if self.follow_seed:
            self._data.set_seed(seed)

    @property
    def calls_ahead(self) -> bool:
        """Of all but a ``PyDataset``, of which as many batches are drawn again as are compared."""
        return not isinstance(self._data, IndexedBatches)

    def drawn_from(self) -> str:
        """A digest of the global random numbers that passes began or ended with; or empty."""
        return self._data.drawn_from if isinstance(self._data, IndexedBatches) else ""

    def state(self, is_open: bool) -> Any:
        """The states of torch's random numbers, for a loader that follows them."""
        return self._torch.state(is_open) if self._torch else None

    def set_state(self, state: Any) -> None:
        """Lets the next pass begin with those that `state` gave, of where one was begun last."""
        if self._torch:
            self._torch.set_state(state)

    def finish_state(self, state: Any) -> None:
        """Lets the next pass begin with those that `state` gave, of when it was asked for."""
        if self._torch:
            self._torch.finish_state(state)

    def begin(self, number: int, taken: int = 0) -> Pass:
        """A pass, from the batch on that comes after those ``taken``."""
        return Pass(self._blocks(number, taken), number, taken)

    def _blocks(self, number, taken):
        batches = map(_keras.list_to_tuple, self._batches(number, taken))
        if self.storage == "stack":
            yield from stacks.of_batches(batches, self._steps, taken)
        else:
            yield from (Block.of_batch(map_leaves(stacks.own_tensor, b)) for b in batches)

    def _batches(self, number, taken):
        if isinstance(self._data, IndexedBatches):
            yield from self._data.one_pass(number, taken)
            return
        self._adapter.on_epoch_begin()
        try:
            if self._torch:
                self._torch.begin()
            if isinstance(self._data, Iterator):  # each further one of Keras's replays two batches
                self._once = self._once or iter(self._adapter.get_numpy_iterator())
                batches = self._once
            else:
                batches = iter(self._adapter.get_numpy_iterator())
            _draw(batches, taken)
            for batch in batches:  # `yield from` would end a generator with the pass
                yield batch
        finally:
            self._adapter.on_epoch_end()


def _draw(iterator, number):
    for _ in itertools.islice(iterator, number):
        pass


def _seed_of(*numbers):
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
