"""Several workers: how many a strategy has, what they add up, and how they notice each other's end."""

import contextlib
import re
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.tensorflow import trainer as tf_trainer
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute import multi_worker_util
from tensorflow.python.eager import context as eager_context

from kerastrain._keras.patching import patched

# Milliseconds that the workers may take to meet, and that one may be silent.
_REGISTER, _HEARTBEAT = 60_000, 10_000
# What collective operations raise when another worker is lost; the last two mean other things too.
_LOST = tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError
_PERHAPS_LOST = tf.errors.CancelledError, tf.errors.InternalError
_TASK = re.compile(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)")


def worker_of(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """``(how many workers a strategy has, the number of this one)``."""
    extended = strategy.extended
    return getattr(extended, "_num_workers", 1), getattr(extended, "_id_in_cluster", 0)


def sum_over_workers(strategy: tf.distribute.Strategy, array: np.ndarray) -> np.ndarray:
    """The sum of an array that each worker has, by its first replica."""

    def on_replica(mine: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        local = len(strategy.extended.worker_devices)
        is_first = tf.cast(context.replica_id_in_sync_group % local == 0, mine.dtype)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, mine * is_first)

    summing = _SUMMING.setdefault(strategy, {})
    key = array.shape, array.dtype.str
    if key not in summing:
        run = tf.function(lambda mine: strategy.run(on_replica, (mine,)), autograph=False)
        summing[key] = run.get_concrete_function(tf.TensorSpec(array.shape, array.dtype))
    found = summing[key](tf.constant(array))
    return strategy.experimental_local_results(found)[0].numpy()


# Compiled, by shape and type.
_SUMMING: "weakref.WeakKeyDictionary[tf.distribute.Strategy, dict]" = weakref.WeakKeyDictionary()


def has_started() -> bool:
    """Whether TensorFlow has run anything, after which collective operations cannot be set up."""
    return eager_context.context()._context_handle is not None


def notice_lost_workers(resolver: Any) -> None:
    """Lets a worker that is absent, or ends, be noticed within a minute, and be named.

    By default TensorFlow 2.21 waits for an hour, and without a barrier for ever
    (eager/context.py, `configure_coordination_service`). A strategy that is made afterwards
    respects what is set here.
    """
    spec = multi_worker_util.normalize_cluster_spec(resolver.cluster_spec())
    context = eager_context.context()
    jobs = [
        coordination_config_pb2.CoordinatedJob(name=job, num_tasks=spec.num_tasks(job))
        for job in ("chief", "worker")
        if job in spec.jobs
    ]
    context.configure_coordination_service(
        service_type="standalone",
        service_leader=multi_worker_util.coordination_leader(spec),
        cluster_register_timeout_in_ms=_REGISTER,
        heartbeat_timeout_in_ms=_HEARTBEAT,
        coordinated_jobs=jobs,
    )
    context.coordination_service.cluster_register_with_barrier = True


@contextlib.contextmanager
def results_of_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Inside, Keras's own ``fit`` and ``evaluate`` take means of results over several workers.

    Keras 3.15.1 takes them over the first axis, which a number has not
    (backend/tensorflow/trainer.py, `reduce_per_replica`).
    """
    if worker_of(strategy)[0] == 1:
        yield
        return
    usual = tf_trainer.reduce_per_replica

    def reduced(values: Any, strategy: tf.distribute.Strategy, reduction: str) -> Any:
        if reduction not in ("auto", "mean"):
            return usual(values, strategy, reduction)
        return keras.tree.map_structure(lambda v: strategy.reduce("MEAN", v, axis=None), values)

    with patched(tf_trainer, "reduce_per_replica", reduced):
        yield


def lost_task(error: BaseException, own: int) -> str | None:
    """The other worker that an error of a collective operation names; "" where it names none.

    None where the error is of another kind.

    Args:
        error: that this worker has met.
        own: the number of this worker.
    """
    if isinstance(error, (*_LOST, *_PERHAPS_LOST)):
        for job, task in _TASK.findall(str(error)):
            if int(task) != own:
                return f"{job} {task}"
    return "" if isinstance(error, _LOST) else None
