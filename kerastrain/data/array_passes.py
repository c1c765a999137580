"""Passes over NumPy arrays, shuffled by ``(seed, pass)``.

They are kept resident, or their rows are gathered in the background, a stack at a time. Of several
workers each gathers and holds its own rows of each batch.
"""

import dataclasses
import functools
import math
from collections.abc import Generator
from typing import Any
from typing import NamedTuple

import numpy as np

from kerastrain.data import memory
from kerastrain.data import stacks
from kerastrain.data.blocks import Block
from kerastrain.data.blocks import bytes_of
from kerastrain.data.blocks import map_leaves
from kerastrain.data.blocks import Pass
from kerastrain.data.blocks import rows_of
from kerastrain.data.passes import drawn_ahead
from kerastrain.data.passes import NOTHING
from kerastrain.data.passes import Passes
from kerastrain.data.shares import ALL
from kerastrain.data.shares import digest_of_arrays
from kerastrain.data.shares import Share
from kerastrain.data.shares import WholeOfArrays

# The batches of a stack of arrays at most: more than of what comes batch by batch, and may
# take its time.
_OF_ARRAYS = 256


class _Order(NamedTuple):
    """The rows that a pass takes, batch by batch.

    Attributes:
        rows: their numbers; None for all in their own order.
        sizes: how many of them each batch has.
        full: how many a full batch has: batch ``i`` begins at ``i * full``.
        of_all: the order of all workers, of global batches; None where it is the same.
    """

    rows: np.ndarray | None
    sizes: np.ndarray
    full: int
    of_all: np.ndarray | None = None


class ArrayPasses(Passes):
    """Passes over NumPy arrays, shuffled by ``(seed, pass)``.

    Args:
        arrays: a structure of arrays with the rows first.
        batch_size: rows of a global batch.
        shuffle: False, True or ``"batch"``.
        seed: an integer.
        share: what of each batch is read and held.
    """

    follow_seed, replay, seeks = True, NOTHING, True
    advice = "Pass the arrays that the run was begun with."

    def __init__(
        self, arrays: Any, batch_size: int, shuffle: bool | str, seed: int, share: Share = ALL
    ) -> None:
        self._arrays, self._batch_size = arrays, batch_size
        self._shuffle, self._seed, self._share = shuffle, seed, share
        self._count = rows_of(arrays)
        self._resident: Any = None
        self.num_batches = math.ceil(self._count / batch_size)

    def in_blocks(self, resident_bytes: int) -> None:
        """From the next pass on, batches lie together."""
        held = bytes_of(self._arrays) // self._share.count
        self.storage = "arrays" if held <= resident_bytes else "stack"

    def begin(self, number: int, taken: int = 0) -> Pass:
        """A pass, from the batch on that comes after those ``taken``."""
        order = self._order(number)
        if self.storage == "arrays" and self._share.count == 1:
            if self._resident is None:
                self._resident = map_leaves(memory.copied, self._arrays)
            whole: Generator[Block, None, None] = (
                b for b in [Block.of_arrays(self._resident, order, self._batch_size)]
            )
            return Pass(whole, number, taken, skipped=taken)
        own = self._own(order)
        if self.storage == "batch" or not own.full:
            return Pass(self._batches(own, taken), number, taken)
        # One worker's rows are others in each pass that is shuffled, and are gathered for each.
        of_stack = len(own.sizes) if self.storage == "arrays" else self._batches_in_a_stack(own)
        blocks = self._stacks(own, taken // of_stack, of_stack)
        if self.storage == "stack":
            blocks = drawn_ahead(blocks)
        return Pass(blocks, number, taken, skipped=taken % of_stack)

    def _own(self, order: np.ndarray | None) -> _Order:
        """The rows of this worker's share, in the order of a pass."""
        sizes = np.diff([*range(0, self._count, self._batch_size), self._count])
        if self._share.count == 1:
            return _Order(order, sizes, self._batch_size)
        begin, end = self._share.span(sizes)
        batch, row = np.divmod(np.arange(self._count), self._batch_size)
        rows = np.flatnonzero((begin[batch] <= row) & (row < end[batch]))
        full = int(np.subtract(*self._share.span(self._batch_size)[::-1]))
        return _Order(rows if order is None else order[rows], end - begin, full, order)

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        self._seed = seed

    def _batches(self, own: _Order, taken: int) -> Generator[Block, None, None]:
        for index in range(taken, len(own.sizes)):
            rows = self._taken(own.rows, index * own.full, int(own.sizes[index]))
            block = Block.of_batch(map_leaves(memory.as_tensor, rows))
            yield self._with_whole(block, own, index)

    def _order(self, number: int) -> np.ndarray | None:
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

    def _taken(self, order: np.ndarray | None, start: int, count: int, capacity: int = 0) -> Any:
        """Arrays of ``count`` rows from ``start`` on, filled up with zeros to ``capacity``."""
        rows = slice(start, start + count)

        def gathered(array: np.ndarray) -> np.ndarray:
            taken = memory.empty((max(count, capacity), *array.shape[1:]), array.dtype)
            if order is None:
                taken[:count] = array[rows]
            else:
                array.take(order[rows], axis=0, out=taken[:count], mode="clip")
            memory.clear(taken[count:])
            return taken

        return map_leaves(gathered, self._arrays)

    @functools.cached_property
    def _digest(self) -> str:
        return digest_of_arrays(self._arrays)

    def _batches_in_a_stack(self, own: _Order) -> int:
        return stacks.batches_of(bytes_of(self._arrays) * own.full // self._count, _OF_ARRAYS)

    def _stacks(self, own: _Order, first: int, number: int) -> Generator[Block, None, None]:
        for index in range(first * number, len(own.sizes), number):
            sizes = own.sizes[index : index + number]
            start, rows = index * own.full, int(sizes.sum())
            arrays = self._taken(own.rows, start, rows, capacity=number * own.full)
            block = Block.of_rows(arrays, sizes, own.full, number)
            yield self._with_whole(block, own, index)

    def _with_whole(self, block: Block, own: _Order, first: int) -> Block:
        """The block; where it has a share of each batch, with the global batches."""
        if self._share.count == 1:
            return block
        digest = lambda: self._digest
        whole = WholeOfArrays(self._arrays, own.of_all, self._batch_size, first, digest)
        return dataclasses.replace(block, whole=whole)
