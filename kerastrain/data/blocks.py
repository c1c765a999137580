"""Blocks: consecutive batches as one object that a compiled loop can index.

::

    block = Block.of_arrays((x, y), order=None, rows=32)
    block.batch(0)                              # the first batch, eagerly
    batch_at(block.data, index, rows=32)        # inside a compiled loop

The data of a block are ``(arrays, order, sizes)``: many rows, the order in which they come,
and how many each batch has of them. Batch ``i`` is the rows
``order[i * rows : i * rows + sizes[i]]``, gathered. So arrays that are resident, shuffled or
not, and stacks of batches that have just been drawn are one thing to a loop, and run one
trace. A batch that nothing else fits (ragged, sparse, of another length) is a block of its
own, without an order.

A pass over a data set is a sequence of blocks, and a position in it is a block and an
index. How many batches one call of a compiled loop takes is so independent of how they
are stored.

Of several workers each may have blocks of its own rows alone (`kerastrain.data.shares`). ``batch`` is
the global batch all the same, for what looks at it; the steps take ``part``, and a chunk of them
has what the workers have agreed on.
"""

import dataclasses
import enum
import functools
import zlib
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerastrain.data import memory
from kerastrain.data.shares import Whole
from kerastrain.state import digest_of


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive batches.

    Attributes:
        data: ``(arrays, order, sizes)`` as tensors, or a batch by itself.
        sizes: the rows of each batch; empty for a batch by itself.
        rows: of a full batch; 0 for a batch by itself.
        steps: how many batches these are.
        full: how many of them, from the first on, have ``rows`` rows.
        is_whole: whether these are all rows of the data set, in another order.
        whole: the global batches, where the data are one worker's rows of them; else None.
    """

    data: Any
    sizes: np.ndarray
    rows: int
    steps: int
    full: int
    is_whole: bool = False
    whole: Whole | None = None

    @classmethod
    def of_batch(cls, batch: Any) -> "Block":
        """One batch by itself."""
        return cls(batch, np.zeros(0, "int32"), 0, 1, 1)

    @classmethod
    def of_arrays(cls, arrays: Any, order: np.ndarray | None, rows: int) -> "Block":
        """All rows of resident arrays.

        Args:
            arrays: a structure of tensors with the rows first.
            order: the rows in the order of this pass, or None for their own.
            rows: of a batch.
        """
        count = rows_of(arrays)
        dtype = tf.int32 if count < 2**31 else tf.int64
        order = tf.range(count, dtype=dtype) if order is None else tf.constant(order, dtype)
        sizes = np.diff([*range(0, count, rows), count]).astype("int32")
        data = arrays, order, tf.constant(sizes)
        return cls(data, sizes, rows, len(sizes), count // rows, is_whole=True)

    @classmethod
    def of_rows(cls, arrays: Any, sizes: np.ndarray | list[int], rows: int, number: int) -> "Block":
        """Batches whose rows lie one after another.

        Args:
            arrays: a structure of arrays or tensors with the rows first. Nothing else may
                change the arrays: their memory is taken over where it is long enough.
            sizes: the rows of each batch.
            rows: of a full batch.
            number: how many full batches fit in, so that blocks of one
                length are alike to a compiled loop; what no batch has is zeros.
        """
        sizes = np.asarray(sizes, "int32")
        odd = np.flatnonzero(sizes != rows)
        full = int(odd[0]) if odd.size else len(sizes)
        starts = np.zeros(number, "int32")
        starts[1 : len(sizes)] = np.cumsum(sizes[:-1])
        order = np.minimum(starts[:, None] + np.arange(rows, dtype="int32"), number * rows - 1)
        arrays = map_leaves(lambda leaf: _lengthened(leaf, number * rows), arrays)
        padded = np.pad(sizes, (0, number - len(sizes)))
        data = arrays, tf.constant(order.reshape(-1)), tf.constant(padded)
        return cls(data, sizes, rows, len(sizes), full)

    @property
    def is_batch(self) -> bool:
        """Whether it is one batch by itself."""
        return not self.rows

    def batch(self, index: int) -> Any:
        """The global batch of an index. Collective, where nobody can read all of it."""
        return self.part(index) if self.whole is None else self.whole.batch(index)

    def part(self, index: int) -> Any:
        """What this worker has of the batch of an index: all of it, without several workers."""
        return self.data if self.is_batch else batch_at(self.data, index, self.rows)

    def numbers(self, index: int) -> np.ndarray | None:
        """Which rows of the data set a batch has; None where the block does not know."""
        if self.whole is not None:
            return self.whole.numbers(index)
        if not self.is_whole:
            return None
        begin = index * self.rows
        return self.data[1][begin : begin + int(self.sizes[index])].numpy()

    def batches_on_host(self, indices: range) -> Iterator[Any]:
        """Yields the batches of some indices; of many that lie together, as arrays of NumPy.

        That copies all of the block once.
        """
        if self.is_batch:
            yield from (self.data for _ in indices)
            return
        arrays, order = self._on_host
        for index in indices:
            begin = index * self.rows
            taken = order[begin : begin + int(self.sizes[index])]
            yield map_leaves(lambda array, taken=taken: array[taken], arrays)

    @functools.cached_property
    def _on_host(self) -> tuple[Any, np.ndarray]:
        arrays, order, _ = self.data
        return map_leaves(lambda leaf: leaf.numpy(), arrays), order.numpy()

    @functools.cached_property
    def shape(self) -> int:
        """A checksum of the types and shapes of a row."""
        arrays = self.data if self.is_batch else self.data[0]
        kinds = [
            (path, None if leaf is None else (leaf.dtype.name, tuple(leaf.shape[1:])))
            for path, leaf in keras.tree.flatten_with_path(arrays)
        ]
        return zlib.crc32(repr(kinds).encode())

    @functools.cached_property
    def signature(self) -> tuple:
        """What a program of XLA over such a block depends on."""
        leaves = [leaf for leaf in tf.nest.flatten(self.data) if leaf is not None]
        shapes = tuple((leaf.dtype, tuple(leaf.shape)) for leaf in leaves)
        nesting = keras.tree.map_structure(lambda leaf: None if leaf is None else 0, self.data)
        return self.rows, repr(nesting), shapes


class ChunkKind(enum.IntEnum):
    """What a chunk is of: a batch by itself, full batches, or one that is not full."""

    ALONE = 0
    FULL = 1
    SHORT = 2


class Agreed(NamedTuple):
    """What several workers, of which each has its own rows, have agreed on about a chunk.

    Attributes:
        kind: other than ``FULL`` if it is so for one of them.
        rows: of each worker in each batch of the chunk.
    """

    kind: ChunkKind
    rows: tuple[int, ...]


class Chunk(NamedTuple):
    """Batches that one call may take: some of one block.

    Attributes:
        block: which they are of.
        start: the index of the first in it.
        steps: how many.
        agreed: on by several workers, where the block has the rows of one of them.
    """

    block: Block
    start: int
    steps: int
    agreed: Agreed | None = None

    @property
    def is_alone(self) -> bool:
        """Whether it is one batch by itself."""
        return self.block.is_batch if self.agreed is None else self.agreed.kind == ChunkKind.ALONE

    @property
    def is_full(self) -> bool:
        """Whether each of them has the rows of a full batch."""
        if self.agreed is not None:
            return self.agreed.kind == ChunkKind.FULL
        return self.start + self.steps <= self.block.full

    @property
    def rows(self) -> int:
        """The rows of the first of them; 0 for a batch by itself.

        Of several workers, as many as all have for certain.
        """
        if self.is_alone:
            return 0
        if self.agreed is not None:
            return min(self.agreed.rows) * len(self.agreed.rows)
        return int(self.block.sizes[self.start])

    @property
    def sizes(self) -> list[int | None]:
        """The rows of each of the global batches; None where a batch has none, or no such axis."""
        if self.agreed is not None:
            return [sum(self.agreed.rows)] * self.steps
        if self.block.is_batch:
            return [known_rows(self.block.data)]
        return [int(size) for size in self.block.sizes[self.start : self.start + self.steps]]

    def batch(self) -> Any:
        """The first of the global batches."""
        return self.block.batch(self.start)


class Ahead(NamedTuple):
    """What comes next in a pass, in numbers that several workers compare.

    Attributes:
        steps: how many batches the next chunk may have; 0 at the end.
        kind: of the chunk.
        checksum: of the next batch.
        rows: of it that this worker has, where workers have their own; else 0.
        shape: a checksum of what its rows are, the same.
    """

    steps: int
    kind: ChunkKind
    checksum: int
    rows: int = 0
    shape: int = 0


NOTHING_AHEAD = Ahead(0, ChunkKind.ALONE, 0)


def batch_at(data: Any, index: Any, rows: Any, fixed: bool = False) -> Any:
    """The batch of an index, inside a compiled loop or outside.

    Args:
        data: ``(arrays, order, sizes)`` of a `Block`.
        index, rows: scalars, tensors or integers.
        fixed: whether it is a full batch, and ``rows`` an integer, so that the number of
            rows is known while tracing: XLA needs that.
    """
    arrays, order, sizes = data
    begin = index * rows
    if fixed:
        taken = tf.ensure_shape(tf.slice(order, [begin], [rows]), [rows])
    else:
        taken = order[begin : begin + sizes[index]]
    return map_leaves(lambda leaf: tf.gather(leaf, taken), arrays)


class Pass:
    """One pass over a data set: a sequence of blocks, and a position in it.

    Args:
        blocks: a generator.
        number: of the pass.
        taken: the batches of the pass that come before its next one.
        skipped: how many of them the blocks have still.

    Attributes:
        number: as passed.
        taken: the batches taken so far.
        is_over: whether one more was asked for, and there was none.
    """

    def __init__(
        self, blocks: Generator[Block, None, None], number: int, taken: int = 0, skipped: int = 0
    ) -> None:
        self.number, self.taken, self.is_over = number, taken, False
        self._blocks, self._skipped = blocks, skipped
        self._block: Block | None = None
        self._index = 0
        self._peeked: Any = None

    def _here(self) -> Block | None:
        while self._block is None or self._index == self._block.steps:
            self._block, self._index = next(self._blocks, None), self._skipped
            self._skipped = 0
            if self._block is None:
                self.is_over = True
                return None
        return self._block

    def peek(self) -> Any:
        """The next batch, which stays the next one; None at the end."""
        if self._peeked is None and (block := self._here()) is not None:
            self._peeked = block.batch(self._index)
        return self._peeked

    def ahead(self) -> "Ahead":
        """What comes next, which stays what comes next."""
        block = self._here()
        if block is None:
            return NOTHING_AHEAD
        is_full = self._index < block.full
        kind = ChunkKind.SHORT
        if is_full:
            kind = ChunkKind.ALONE if block.is_batch else ChunkKind.FULL
        steps = block.full - self._index if is_full else 1
        if block.whole is None:
            return Ahead(steps, kind, zlib.crc32(digest_of(self.peek()).encode()))
        rows = int(block.sizes[self._index]) if block.rows else known_rows(block.data)
        return Ahead(steps, kind, block.whole.checksum(self._index), rows or 0, block.shape)

    def take(self, most: int) -> Chunk | None:
        """The next batches, ``most`` or fewer: all full, or one that is not; None at the end."""
        block = self._here()
        if block is None:
            return None
        index = self._index
        steps = min(most, block.full - index) if index < block.full else 1
        self._index, self._peeked = index + steps, None
        self.taken += steps
        return Chunk(block, index, steps)

    def close(self) -> None:
        """Ends what runs in the background for it."""
        self._blocks.close()


def rows_of(arrays: Any) -> int:
    """The rows of arrays, from the first of them."""
    return next(a.shape[0] for a in keras.tree.flatten(arrays) if a is not None)


def known_rows(batch: Any) -> int | None:
    """The rows of a batch; None where it has no leaf, or the first has no such axis."""
    leaf = next((leaf for leaf in tf.nest.flatten(batch) if leaf is not None), None)
    return None if leaf is None or not leaf.shape.rank else leaf.shape[0]


def _lengthened(leaf: Any, count: int) -> tf.Tensor:
    """An array or tensor as a tensor of ``rows`` rows, with zeros at its end."""
    missing = count - leaf.shape[0]
    if isinstance(leaf, tf.Tensor):
        return tf.pad(leaf, [[0, missing]] + [[0, 0]] * (leaf.shape.rank - 1)) if missing else leaf
    if missing:
        longer = memory.empty((count, *leaf.shape[1:]), leaf.dtype)
        longer[: leaf.shape[0]] = leaf
        memory.clear(longer[leaf.shape[0] :])
        leaf = longer
    return memory.as_tensor(leaf)


def bytes_of(batch: Any) -> int:
    """The size of arrays or tensors, ragged or sparse ones too; strings count as 16 bytes."""
    flat = tf.nest.flatten(batch, expand_composites=True)
    leaves = [leaf for leaf in flat if leaf is not None]
    return sum(int(np.prod(leaf.shape)) * (_size(leaf.dtype) or 16) for leaf in leaves)


def _size(dtype: Any) -> int:
    return tf.as_dtype(dtype).size or 0


def map_leaves(function: Callable, structure: Any) -> Any:
    """The structure with ``function`` of each leaf; None stays None."""
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else function(leaf), structure
    )
