"""Passes over NumPy arrays, shuffled by ``(seed, pass)``.

They are kept resident, or their rows are gathered in the background, a stack at a time.
"""

import math
from collections.abc import Generator
from typing import Any

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

# The batches of a stack of arrays at most: more than of what comes batch by batch, and may
# take its time.
_OF_ARRAYS = 256


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

    def __init__(self, arrays: Any, batch_size: int, shuffle: bool | str, seed: int) -> None:
        self._arrays, self._batch_size = arrays, batch_size
        self._shuffle, self._seed = shuffle, seed
        self._count = rows_of(arrays)
        self._resident: Any = None
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
            blocks: Generator[Block, None, None] = (
                b for b in [Block.of_arrays(self._resident, order, self._batch_size)]
            )
            return Pass(blocks, number, taken, skipped=taken)
        if self.storage == "stack":
            of_stack = self._batches_in_a_stack()
            blocks = drawn_ahead(self._stacks(order, taken // of_stack, of_stack))
            return Pass(blocks, number, taken, skipped=taken % of_stack)
        return Pass(self._batches(order, taken), number, taken)

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        self._seed = seed

    def _batches(self, order: np.ndarray | None, taken: int) -> Generator[Block, None, None]:
        size = self._batch_size
        for start in range(taken * size, self._count, size):
            rows = self._taken(order, start, min(size, self._count - start))
            yield Block.of_batch(map_leaves(memory.as_tensor, rows))

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

    def _batches_in_a_stack(self) -> int:
        return stacks.batches_of(
            bytes_of(self._arrays) * self._batch_size // self._count, _OF_ARRAYS
        )

    def _stacks(
        self, order: np.ndarray | None, first: int, number: int
    ) -> Generator[Block, None, None]:
        size = self._batch_size
        for start in range(first * number * size, self._count, number * size):
            rows = min(number * size, self._count - start)
            sizes = np.diff([*range(0, rows, size), rows])
            arrays = self._taken(order, start, rows, capacity=number * size)
            yield Block.of_rows(arrays, sizes, size, number)
