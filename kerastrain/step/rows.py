"""Cutting a batch by rows, and putting its parts together again.

Every leaf of a batch has the rows as its first axis. Parts are consecutive and
differ by at most one row: part ``k`` of ``n`` has the rows from
``ceil(rows * k / n)`` to ``ceil(rows * (k + 1) / n)``, so joined parts keep the
order, and where there are fewer rows than parts the last ones have none.
"""

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import cluster_of
from kerastrain.errors import ArgumentError


def count_rows(x: Any) -> tf.Tensor:
    """The rows of a batch, from its first leaf: a scalar integer."""
    leaf = next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int32)
    if isinstance(leaf, tf.SparseTensor):
        return tf.cast(leaf.dense_shape[0], tf.int32)
    return tf.shape(leaf)[0]


class OwnRows(NamedTuple):
    """What one of several workers has of a global batch.

    Attributes:
        data: its rows, which may be none.
        rows: how many each worker has, integers of shape ``(workers,)``.
    """

    data: Any
    rows: tf.Tensor


def known_rows(batch: Any) -> int:
    """The rows of a batch if they are known before a step is run, else 0.

    Where workers have their own, as many as all have for certain.
    """
    if isinstance(batch, OwnRows):
        each = batch.rows.numpy()
        return int(each.min()) * len(each)
    leaf = next(leaf for leaf in tf.nest.flatten(batch) if leaf is not None)
    return (leaf.shape[0] or 0) if leaf.shape.rank else 0


def at_least_one_row(data: Any, rows: tf.Tensor) -> Any:
    """The batch, or one row of zeros where it has no rows.

    Layers such as recurrent ones and batch statistics fail on empty tensors.
    """

    def pad(leaf: tf.Tensor) -> tf.Tensor:
        missing = tf.where(rows > 0, 0, 1)
        return tf.pad(leaf, [[0, missing]] + [[0, 0]] * (leaf.shape.rank - 1))

    return _map(lambda leaf: _dense_only(leaf, pad), data)


def slice_rows(data: Any, start: Any, size: Any) -> Any:
    """The ``size`` rows from ``start`` on of every leaf."""
    return _map(lambda leaf: _dense_only(leaf, lambda t: t[start : start + size]), data)


def first_rows(outputs: Any, rows: tf.Tensor) -> Any:
    """The outputs' first ``rows`` rows, with their Keras masks."""

    def first(tensor: tf.Tensor) -> tf.Tensor:
        mask = _keras.get_mask(tensor)
        cut = tensor[:rows]
        if mask is not None:
            _keras.set_mask(cut, mask[:rows])
        return cut

    return _map(first, outputs)


def concat(parts: list) -> Any:
    """Outputs of consecutive parts as one, with their Keras masks."""
    if len(parts) == 1:
        return parts[0]

    def concat(*tensors: tf.Tensor | None) -> tf.Tensor | None:
        if tensors[0] is None:
            return None
        whole = tf.concat(tensors, axis=0)
        masks = [_keras.get_mask(t) for t in tensors]
        if all(mask is not None for mask in masks):
            _keras.set_mask(whole, tf.concat(masks, axis=0))
        return whole

    return tf.nest.map_structure(concat, *parts)


def _dense_only(leaf: Any, function: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    if isinstance(leaf, tf.SparseTensor | tf.RaggedTensor):
        raise ArgumentError(
            f"A batch holds a {type(leaf).__name__}, which cannot be cut into "
            "micro-batches or replicas. Use micro_batches=1 on one device, or "
            "pass dense tensors."
        )
    return function(tf.convert_to_tensor(leaf))


def _map(function: Callable[[Any], Any], structure: Any) -> Any:
    return tf.nest.map_structure(lambda leaf: None if leaf is None else function(leaf), structure)


def identity(data: Any) -> Any:
    """The same tensors; inside ``tf.control_dependencies``, after those."""
    return _map(tf.identity, data)


def micro_batches(
    data: Any, rows: tf.Tensor, count: int, full: bool = False
) -> Iterator[tuple[Any, tf.Tensor]]:
    """Yields ``(part, rows of the part)``; parts differ by at most one row.

    A part without rows is given the first row of the batch, so that no layer
    sees an empty tensor; it counts as zero rows. With ``full`` every part is
    known to have rows.
    """
    if count == 1:
        yield data, rows
        return
    for k in range(count):
        start, size = _part(rows, k, count)
        yield _stood_in_for(data, start, size, full), size


def _stood_in_for(data: Any, start: Any, size: Any, full: bool) -> Any:
    """The rows of a part; the first row of the batch where it may have none."""
    if full:
        return slice_rows(data, start, size)
    first = tf.where(size > 0, start, 0)
    return slice_rows(data, first, tf.maximum(size, 1))


def _part(rows: tf.Tensor, k: Any, count: int) -> tuple[tf.Tensor, tf.Tensor]:
    """``(first row, number of rows)`` of part ``k`` of ``count``."""
    start, stop = (-(-rows * i // count) for i in (k, k + 1))
    return start, stop - start


class Shard(NamedTuple):
    """A replica's part of a global batch that the replica has seen whole.

    Attributes:
        data: its rows; where it has none, the batch's first row stands in, so
            that no layer sees an empty tensor.
        rows: how many of them are its own, a scalar integer.
        all_rows: rows of the global batch, a scalar integer.
        full: whether every micro-batch of every replica is known to have rows, so
            that nothing stands in.
    """

    data: Any
    rows: tf.Tensor
    all_rows: tf.Tensor
    full: bool


def own_rows(batch: Any) -> Any:
    """This replica's rows of the global batch, sliced on the host; there may be none.

    Args:
        batch: the global batch, or the `OwnRows` of this worker.
    """
    return _own(batch, lambda data, rows, start, size: slice_rows(data, start, size))


def own_shard(batch: Any, full: bool = False) -> Shard:
    """This replica's `Shard` of the global batch, sliced on the host.

    Args:
        batch: as of `own_rows`.
        full: whether every micro-batch of every replica is known to have rows.
    """

    def shard(data: Any, rows: tf.Tensor, start: tf.Tensor, size: tf.Tensor) -> Shard:
        if isinstance(batch, OwnRows) and not full:
            data = at_least_one_row(data, count_rows(data))
        return Shard(_stood_in_for(data, start, size, full), size, rows, full)

    return _own(batch, shard)


def _own(batch: Any, cut: Callable[[Any, tf.Tensor, tf.Tensor, tf.Tensor], Any]) -> Any:
    """``cut(rows that are here, number of all, first of this replica, number of this replica)``."""
    context = tf.distribute.get_replica_context()
    replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    with tf.device("/CPU:0"):
        if not isinstance(batch, OwnRows):
            rows = count_rows(batch)
            return cut(batch, rows, *_part(rows, replica, replicas))
        local = replicas // cluster_of(context.strategy).count
        part = _part(count_rows(batch.data), replica % local, local)
        return cut(batch.data, tf.reduce_sum(batch.rows), *part)
