"""How a strategy's replicas sum what they hold."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def without_collectives(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Inside, a ``MirroredStrategy`` on CPUs sums on one device, where its way is made for GPUs.

    By default TensorFlow 2.21 takes collective operations (distribute/mirrored_strategy.py,
    `_make_collective_ops_with_fallbacks`). Those of all strategies of a process share one
    numbering of their groups, so that a second strategy of another size fails; after one error
    in a step all further ones fail; and they fail in a branch of a graph. NCCL has no CPU kernel.
    """
    extended = strategy.extended
    is_mirrored = isinstance(strategy, tf.distribute.MirroredStrategy)
    before = extended._cross_device_ops if is_mirrored else None
    if (
        not is_mirrored
        or any("cpu" not in device.lower() for device in extended.worker_devices)
        or not (
            before is extended._collective_ops or isinstance(before, tf.distribute.NcclAllReduce)
        )
    ):
        yield  # also where it is active already, as in the threads of other replicas
        return
    extended._cross_device_ops = tf.distribute.ReductionToOneDevice()
    try:
        yield
    finally:
        extended._cross_device_ops = before
