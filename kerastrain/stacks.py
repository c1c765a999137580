"""Stacks: batches that come one by one, as blocks that a compiled loop takes.

::

    for block in of_pipeline(iter(dataset)):      # drawn by TensorFlow, many in one call
        ...
    for block in of_batches(generator, limit=None):       # drawn by Python
        ...

A stack is closed when it is full, or when drawing it has taken a tenth of a second, so that
slow data are trained on as they come.
"""

import functools
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain.blocks import Block
from kerastrain.blocks import bytes_of
from kerastrain.blocks import map_leaves
from kerastrain.blocks import rows_of

# A stack has so many bytes at most, unless one batch has more, and so many batches.
_BYTES, _MOST = 8 * 2**20, 32
# It is closed after so many seconds of drawing.
_SECONDS = 0.1


def batches_of(size: int, most: int | None = None) -> int:
    """How many batches of so many bytes make a stack, with a limit of one's own."""
    return max(1, min(most or _MOST, _BYTES // max(1, size)))


# Drawn by TensorFlow ----------------------------------------------------------------


def of_pipeline(iterator: tf.data.Iterator) -> Iterator[Block]:
    """Blocks of what a ``tf.data`` iterator yields.

    What the pipeline raises, it raises for all of a stack.
    """
    number = _batches_in_a_stack(iterator.element_spec) if is_drawable(iterator) else 1
    if number == 1:
        yield from of_batches(iterator)
        return
    rows = 0
    while True:
        arrays, sizes = draw(iterator, number, _SECONDS)
        sizes = sizes.numpy()
        if not len(sizes):
            return
        if (sizes != sizes[:, :1]).any() or not sizes.all():  # to be refused, as they are
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
    iterator: tf.data.Iterator, number: int, seconds: float | None = None
) -> tuple[Any, tf.Tensor]:
    """Draws batches until there are enough, no more come, or time is over.

    Args:
        iterator: whose elements are batches.
        number: how many at most.
        seconds: after these none is begun; None for no limit.

    Returns:
        The rows of all of them, one after another; and how many rows each part of each has,
        of shape ``(batches, parts)``.
    """
    begun = tf.timestamp()
    specs = tf.nest.flatten(iterator.element_spec)
    growing = {"size": 0, "dynamic_size": True, "infer_shape": False}
    kept = [tf.TensorArray(s.dtype, element_shape=[None, *s.shape[1:]], **growing) for s in specs]
    sizes = tf.TensorArray(tf.int32, element_shape=[len(specs)], **growing)

    def is_one_more(index, batch, *_):
        return batch.has_value()

    def keep(index, batch, kept, sizes):
        leaves = tf.nest.flatten(batch.get_value())
        kept = [array.write(index, leaf) for array, leaf in zip(kept, leaves, strict=True)]
        sizes = sizes.write(index, tf.stack([tf.shape(leaf)[0] for leaf in leaves]))
        index += 1
        wanted = index < number
        if seconds is not None:
            wanted = tf.logical_and(wanted, tf.timestamp() - begun < seconds)
        # What is not wanted now stays in the iterator.
        following = tf.cond(wanted, iterator.get_next_as_optional, no_more)
        return index, following, kept, sizes

    def no_more():
        return tf.experimental.Optional.empty(iterator.element_spec)

    first = iterator.get_next_as_optional()
    _, _, kept, sizes = tf.while_loop(is_one_more, keep, (0, first, kept, sizes))
    rows = [array.concat() for array in kept]
    return tf.nest.pack_sequence_as(iterator.element_spec, rows), sizes.stack()


def _batches_in_a_stack(element_spec):
    specs = tf.nest.flatten(element_spec)
    rows = [spec.shape[0] or 64 for spec in specs]
    sizes = [spec.shape[1:].num_elements() * spec.dtype.size for spec in specs]
    return batches_of(sum(r * size for r, size in zip(rows, sizes, strict=True)))


def _taken_apart(arrays, sizes):
    """The batches of a stack, one by one, each part with its own number of rows."""
    parts = [
        tf.split(leaf, sizes[:, index]) for index, leaf in enumerate(tf.nest.flatten(arrays))
    ]
    for batch in zip(*parts, strict=True):
        yield tf.nest.pack_sequence_as(arrays, batch)


# Drawn by Python --------------------------------------------------------------------


def of_batches(batches: Iterator, limit: int | None = None) -> Iterator[Block]:
    """Blocks of batches that come one by one: as many as come in a tenth of a second.

    Args:
        batches: an iterator.
        limit: after each so many batches an epoch ends, and what comes later is not
            drawn before it is asked for.
    """
    waiting: list = []
    kind, rows, number, drawn, begun, end = None, 0, 1, 0, 0.0, None
    while end is None:
        try:
            batch = next(batches)
            new_kind = _kind(batch)
        except Exception as error:  # what came before it is trained on first
            end, new_kind = error, None
        if waiting and (new_kind is None or new_kind != kind):
            yield _block_of(waiting, rows, number)
            waiting = []
        if end is not None:
            break
        drawn += 1
        if new_kind is None:
            yield Block.of_batch(map_leaves(_as_tensor, batch))
            continue
        if new_kind != kind or rows_of(batch) > rows:
            kind, rows = new_kind, rows_of(batch)
            number = max(len(waiting) + 1, batches_of(bytes_of(batch)))
        if not waiting:
            begun = time.perf_counter()
        waiting.append(batch)
        full = len(waiting) >= number or (limit is not None and drawn % limit == 0)
        if full or time.perf_counter() - begun > _SECONDS:
            yield _block_of(waiting, rows, number)
            waiting = []
    if not isinstance(end, StopIteration):
        raise end


def _kind(batch):
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


def _as_tensor(leaf):
    """The leaf as a tensor; ragged and sparse ones stay what they are."""
    return tf.convert_to_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf


def _block_of(batches, rows, number):
    """The batches as a stack, with room for ``number`` of ``rows`` rows; or the only one."""
    if number == 1:
        return Block.of_batch(map_leaves(_as_tensor, batches[0]))

    def joined(*leaves):
        if leaves[0] is None:
            return None
        return tf.concat(leaves, 0) if isinstance(leaves[0], tf.Tensor) else np.concatenate(leaves)

    arrays = keras.tree.map_structure(joined, *batches)
    return Block.of_rows(arrays, [rows_of(batch) for batch in batches], rows, number)
