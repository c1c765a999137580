"""Stacks: batches that come one by one, as blocks that a compiled loop takes.

::

    for block in of_pipeline(iter(dataset)):      # drawn by TensorFlow, many in one call
        ...
    for block in of_batches(generator, limit=None):       # drawn by Python
        ...

A stack is closed when it is full, or when drawing it has taken a tenth of a second, so that
slow data are trained on as they come.

Each batch is copied when it is drawn, and once: a source may fill the same arrays again and
again. What Python draws is copied into the memory of the stack; what ``tf.data`` yields, only
where a Python function may have made it, whose arrays TensorFlow takes over.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain.data import memory
from kerastrain.data.blocks import Block
from kerastrain.data.blocks import bytes_of
from kerastrain.data.blocks import map_leaves
from kerastrain.data.blocks import rows_of

# The most bytes of a stack, unless one batch has more, and the most batches.
_BYTES, _MOST = 8 * 2**20, 32
# The most seconds that its batches are drawn for.
_SECONDS = 0.1


def batches_of(size: int, most: int | None = None) -> int:
    """How many batches of this size in bytes make a stack, with a limit of one's own."""
    return max(1, min(most or _MOST, _BYTES // max(1, size)))


# Drawn by TensorFlow ----------------------------------------------------------------


def of_pipeline(
    iterator: tf.data.Iterator, copies: bool = True, limit: int | None = None, drawn: int = 0
) -> Iterator[Block]:
    """Blocks of what a ``tf.data`` iterator yields.

    What the pipeline raises, it raises for all of a stack.

    Args:
        iterator: whose elements are batches.
        copies: whether they may lie in memory that Python fills again.
        limit, drawn: as of `of_batches`.
    """
    number = _batches_in_a_stack(iterator.element_spec) if is_drawable(iterator) else 1
    if number == 1:
        batches = map(memory.copied_tensors, iterator) if copies else iterator
        yield from of_batches(batches, limit, drawn)
        return
    rows = 0
    while True:
        most = number if limit is None else min(number, limit - drawn % limit)
        # A call of `draw` would run as Python wherever functions run eagerly, as in a dry step.
        arguments = iterator, tf.constant(most), _SECONDS, copies
        arrays, sizes = draw.get_concrete_function(*arguments)(*arguments)
        sizes = sizes.numpy()
        drawn += len(sizes)
        if not len(sizes):
            return
        if (sizes != sizes[:, :1]).any() or not sizes.all():  # each by itself, to be looked at
            yield from map(Block.of_batch, _taken_apart(arrays, sizes))
            continue
        rows = max(rows, int(sizes.max()))
        yield Block.of_rows(arrays, sizes[:, 0], rows, number)


def is_drawable(iterator: tf.data.Iterator) -> bool:
    """Whether `draw` takes such batches: dense ones, of shapes known but for the rows."""
    return all(
        isinstance(spec, tf.TensorSpec)
        and spec.dtype != tf.string
        and spec.shape.rank
        and None not in spec.shape[1:].as_list()
        for spec in tf.nest.flatten(iterator.element_spec)
    )


@functools.partial(tf.function, autograph=False)
def draw(
    iterator: tf.data.Iterator, number: Any, seconds: float | None = None, copies: bool = True
) -> tuple[Any, tf.Tensor]:
    """Draws batches until there are enough, no more come, or time is over.

    Args:
        iterator: whose elements are batches.
        number: how many at most.
        seconds: after these none is begun; None for no limit.
        copies: whether they may lie in memory that Python fills again.

    Returns:
        The rows of all of them, one after another; and how many rows each part of each has,
        of shape ``(batches, parts)``.
    """
    begun = tf.timestamp()
    specs = tf.nest.flatten(iterator.element_spec)
    growing = {"size": 0, "dynamic_size": True, "infer_shape": False}
    kept = [tf.TensorArray(s.dtype, element_shape=[None, *s.shape[1:]], **growing) for s in specs]
    sizes = tf.TensorArray(tf.int32, element_shape=[len(specs)], **growing)

    def is_one_more(index: tf.Tensor, batch: Any, *_: Any) -> tf.Tensor:
        return batch.has_value()

    def keep(
        index: tf.Tensor, batch: Any, kept: list[tf.TensorArray], sizes: tf.TensorArray
    ) -> tuple[Any, ...]:
        leaves = tf.nest.flatten(batch.get_value())
        leaves = memory.copied_tensors(leaves) if copies else leaves
        kept = [array.write(index, leaf) for array, leaf in zip(kept, leaves, strict=True)]
        sizes = sizes.write(index, tf.stack([tf.shape(leaf)[0] for leaf in leaves]))
        index += 1
        wanted = index < number
        if seconds is not None:
            wanted = tf.logical_and(wanted, tf.timestamp() - begun < seconds)
        # What is not wanted now stays in the iterator; what is drawn may change what was drawn.
        with tf.control_dependencies(leaves if copies else []):
            following = tf.cond(wanted, iterator.get_next_as_optional, no_more)
        return index, following, kept, sizes

    def no_more() -> tf.experimental.Optional:
        return tf.experimental.Optional.empty(iterator.element_spec)

    first = iterator.get_next_as_optional()
    _, _, kept, sizes = tf.while_loop(is_one_more, keep, (0, first, kept, sizes))
    rows = [array.concat() for array in kept]
    return tf.nest.pack_sequence_as(iterator.element_spec, rows), sizes.stack()


def _batches_in_a_stack(element_spec: Any) -> int:
    specs = tf.nest.flatten(element_spec)
    rows = [spec.shape[0] or 64 for spec in specs]
    sizes = [spec.shape[1:].num_elements() * spec.dtype.size for spec in specs]
    return batches_of(sum(r * size for r, size in zip(rows, sizes, strict=True)))


def _taken_apart(arrays: Any, sizes: np.ndarray) -> Iterator[Any]:
    """The batches of a stack, one by one, each part with its own number of rows."""
    parts = [tf.split(leaf, sizes[:, index]) for index, leaf in enumerate(tf.nest.flatten(arrays))]
    for batch in zip(*parts, strict=True):
        yield tf.nest.pack_sequence_as(arrays, batch)


# Drawn by Python --------------------------------------------------------------------


def of_batches(batches: Iterator, limit: int | None = None, drawn: int = 0) -> Iterator[Block]:
    """Blocks of batches that come one by one: as many as come in a tenth of a second.

    Args:
        batches: an iterator.
        limit: the batches of an epoch; what comes later is not
            drawn before it is asked for.
        drawn: the batches that came before.
    """
    stack, kind, rows, number, end = None, None, 0, 1, None
    while end is None:
        try:
            batch = next(batches)
            new_kind = _kind(batch)
        except Exception as error:  # what came before it is trained on first
            end, new_kind = error, None
        is_larger = new_kind is not None and (new_kind != kind or rows_of(batch) > rows)
        if stack and (new_kind is None or is_larger):
            yield stack.block()
            stack = None
        if end is not None:
            break
        drawn += 1
        if is_larger:
            kind, rows = new_kind, rows_of(batch)
            number = batches_of(bytes_of(batch))
        if new_kind is None or number == 1:
            yield Block.of_batch(map_leaves(own_tensor, batch))
            continue
        stack = stack or _Stack(batch, rows, number)
        stack.add(batch)
        if stack.is_full or (limit is not None and drawn % limit == 0):
            yield stack.block()
            stack = None
    if not isinstance(end, StopIteration):
        raise end


def _kind(batch: Any) -> tuple[list[bool], list[Any], list[tuple[int, ...]]] | None:
    """What batches of one stack have in common; None for one that cannot be stacked."""
    leaves = keras.tree.flatten(batch)
    found = [leaf for leaf in leaves if leaf is not None]
    if not all(isinstance(leaf, np.ndarray | tf.Tensor) for leaf in found):
        return None
    shapes = [tuple(leaf.shape) for leaf in found]
    if not all(shape and shape[0] and shape[0] == shapes[0][0] for shape in shapes):
        return None
    dtypes = [leaf.dtype for leaf in found]
    return [leaf is None for leaf in leaves], dtypes, [shape[1:] for shape in shapes]


def own_tensor(leaf: Any) -> Any:
    """A part of a batch as a tensor of its own; ragged and sparse ones stay what they are."""
    return memory.copied(leaf) if isinstance(leaf, np.ndarray) else leaf


class _Stack:
    """Batches that are being stacked, up to ``number`` of ``rows`` rows."""

    def __init__(self, batch: Any, rows: int, number: int) -> None:
        self._rows, self._number = rows, number
        self._sizes: list[int] = []
        self._begun, self._structure = time.perf_counter(), batch
        self._parts: list[Any] = [
            memory.empty((number * rows, *leaf.shape[1:]), leaf.dtype)
            if isinstance(leaf, np.ndarray)
            else []  # tensors, which do not change, are joined at the end
            for leaf in keras.tree.flatten(batch)
        ]

    def add(self, batch: Any) -> None:
        """Copies a batch to where it stays."""
        start, rows = sum(self._sizes), rows_of(batch)
        for part, leaf in zip(self._parts, keras.tree.flatten(batch), strict=True):
            if isinstance(part, list):
                part.append(leaf)
            else:
                part[start : start + rows] = leaf
        self._sizes.append(rows)

    @property
    def is_full(self) -> bool:
        """Whether it is full, or has taken long enough."""
        too_slow = time.perf_counter() - self._begun > _SECONDS
        return len(self._sizes) >= self._number or too_slow

    def block(self) -> Block:
        """What has been stacked."""
        end = sum(self._sizes)
        parts: list[Any] = []
        for part in self._parts:
            if not isinstance(part, list):
                memory.clear(part[end:])
            elif part[0] is None:
                part = None
            else:
                part = tf.concat(part, 0)
            parts.append(part)
        arrays = keras.tree.pack_sequence_as(self._structure, parts)
        return Block.of_rows(arrays, self._sizes, self._rows, self._number)
