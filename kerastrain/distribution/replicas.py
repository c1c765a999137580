"""What the replicas of a strategy do together inside one step.

::

    with in_step(model):                      # around strategy.run
        strategy.run(step, args=(batch,))     # in it: all_reduce_sum, apply

They sum numbers, share the statistics of their rows, draw random numbers of
their own and update the weights once. On one replica nothing here does
anything.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras


def count() -> int:
    """The number of replicas in sync that run this step; 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def is_one_of_several() -> bool:
    """Whether this code runs as one of several replicas."""
    context = tf.distribute.get_replica_context()
    return context is not None and context.num_replicas_in_sync > 1


@contextlib.contextmanager
def in_step(model: keras.Model) -> Iterator[None]:
    """Around ``strategy.run`` of a step that sums its gradients by itself.

    Inside, neither losses nor gradients are scaled or summed by Keras, synchronised batch
    statistics leave out rows that stand in for none (`valid_rows`), each replica
    draws random numbers of its own, and adds losses of its own. To be entered
    outside of ``strategy.run``, where the replicas' threads take turns.
    """
    with (
        _keras.gradients_already_summed(_keras.optimizers_of(model)),
        _keras.losses_by_replica(model),
        _keras.losses_not_scaled(),
        _keras.synchronized_moments(_moments),
        _keras.random_seeds(_seed_of_replica),
    ):
        yield


def all_reduce_sum(structure: Any) -> Any:
    """Sums every tensor over the replicas, in one all-reduce; None stays None."""
    flat = tf.nest.flatten(structure)
    present = [t for t in flat if t is not None]
    if count() == 1 or not present:
        return structure
    context = tf.distribute.get_replica_context()
    with _keras.without_collectives(tf.distribute.get_strategy()):
        summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present))
    return tf.nest.pack_sequence_as(structure, [None if t is None else next(summed) for t in flat])


def apply(optimizer: Any, gradients: list, variables: list) -> None:
    """One update of the weights of all replicas.

    Args:
        gradients: of the global batch, equal on all replicas.
        variables: the weights; a replica calls this for all of them.
    """
    if count() == 1 or _keras.updates_in_replicas(optimizer):
        if count() > 1 and not _keras.expects_summed_gradients(optimizer):
            # Somebody else's `strategy.run`: Keras will sum the equal gradients
            # over the replicas once more.
            gradients = [
                None if g is None else tf.convert_to_tensor(g) / count() for g in gradients
            ]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return

    def apply_once(strategy: tf.distribute.Strategy, gradients: list[Any]) -> None:
        first = [
            None if g is None else strategy.experimental_local_results(g)[0] for g in gradients
        ]
        _keras.apply_for_all_replicas(optimizer, first, variables)

    tf.distribute.get_replica_context().merge_call(apply_once, args=(gradients,))


# Batch statistics -------------------------------------------------------------

_THREAD = threading.local()


@contextlib.contextmanager
def valid_rows(rows: tf.Tensor | None) -> Iterator[None]:
    """Inside, this replica's part of the batch has ``rows`` rows; None: at least one.

    With 0, the row that it holds stands in for none.
    """
    _THREAD.rows = rows
    try:
        yield
    finally:
        _THREAD.rows = None


def _moments(x: tf.Tensor, axes: list[int], keepdims: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Mean and variance over the rows of all replicas.

    The variance is the mean of squared deviations from the common mean, as on one
    device. (Keras 3.15.1 takes the difference of two large numbers, and counts
    rows that stand in for none.)
    """
    if not is_one_of_several():
        return tf.nn.moments(x, axes, keepdims=keepdims)
    rows = getattr(_THREAD, "rows", None)
    real = tf.ones((), x.dtype) if rows is None else tf.cast(rows > 0, x.dtype)

    def mean_of_all(values: tf.Tensor) -> tf.Tensor:
        total = real * tf.reduce_sum(values, axes, keepdims=True)
        number = real * tf.reduce_sum(tf.ones_like(values), axes, keepdims=True)
        return tf.math.divide_no_nan(*all_reduce_sum([total, number]))

    mean = mean_of_all(x)
    variance = mean_of_all(tf.math.squared_difference(x, mean))
    if keepdims:
        return mean, variance
    return tf.squeeze(mean, axes), tf.squeeze(variance, axes)


# Random numbers ---------------------------------------------------------------

# An odd number far from 1, so that replicas do not meet each other's seeds.
_BETWEEN_SEEDS = 2654435769


def _seed_of_replica(seed: tf.Tensor) -> tf.Tensor:
    """The seed moved by the replica's number, the first one's unchanged.

    All replicas hold the same state of a generator, and would draw equal dropout
    masks.

    Args:
        seed: shape ``(2,)``, of 32 bits.
    """
    if not is_one_of_several():
        return seed
    number = tf.distribute.get_replica_context().replica_id_in_sync_group
    moved = tf.cast(seed, tf.int64) + [_BETWEEN_SEEDS, 0] * tf.cast(number, tf.int64)
    return tf.cast(moved % 2**32, seed.dtype)
