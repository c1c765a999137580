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
from tensorflow.python.distribute import values as values_lib
from tensorflow.python.eager import context as eager_context

from kerastrain._keras.patching import patched

# Milliseconds that the workers may take to meet, and that one may be silent.
_REGISTER, _HEARTBEAT = 55_000, 10_000
# What collective operations raise when another worker is lost; the last two mean other things too.
_LOST = tf.errors.UnavailableError, tf.errors.DeadlineExceededError, tf.errors.AbortedError
_PERHAPS_LOST = tf.errors.CancelledError, tf.errors.InternalError
_TASK = re.compile(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)")
# After these words an error has those that have not come; before, also one that has.
_ABSENT = "timed out task names:"
# A call of what the first worker serves, where it does not answer.
_OF_THE_FIRST = "/tensorflow.CoordinationService/"


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


# As what workers send the types that their operations do not take; a value is the same before and after.
_SENT = {
    tf.bfloat16: tf.float32,
    **dict.fromkeys((tf.uint8, tf.uint16, tf.int8, tf.int16), tf.int32),
    tf.uint32: tf.int64,
}


def as_sent(tensor: tf.Tensor) -> tf.Tensor:
    """A tensor of a type that workers can send to each other, with the same values."""
    sent = tf.int32 if tensor.dtype == tf.bool else _SENT.get(tensor.dtype)
    return tensor if sent is None else tf.cast(tensor, sent)


def make_all_types(strategy: tf.distribute.Strategy) -> None:
    """Lets variables of all numbers be made, and read, in the scope of several workers.

    TensorFlow 2.21 sends their first values to all workers, and adds those up that each replica has,
    which fails for types such as uint8 (collective_all_reduce_strategy.py,
    `_get_variable_creator_initial_value` and `_reduce_to`).
    """
    extended = strategy.extended
    if worker_of(strategy)[0] == 1 or hasattr(extended, "_makes_all_types"):
        return
    usual = extended._get_variable_creator_initial_value

    def creator(replica_id: int, device: Any, primary_var: Any, **options: Any) -> Any:
        if replica_id != 0:
            return usual(replica_id, device, primary_var, **options)

        def first_value() -> tf.Tensor:
            value = options["initial_value"]
            value = value() if callable(value) else value
            value = getattr(value, "wrapped_value", value)  # of a checkpoint
            value = tf.convert_to_tensor(value, dtype=options.get("dtype"))
            sent = tf.cast(value, _SENT.get(value.dtype, value.dtype))
            given = options | {"initial_value": sent, "dtype": sent.dtype}
            return tf.cast(usual(replica_id, device, primary_var, **given)(), value.dtype)

        return first_value

    usual_sum = extended._reduce_to

    def reduced(reduce_op: Any, value: Any, destinations: Any, options: Any) -> Any:
        dtype = getattr(value, "dtype", None)
        if dtype not in _SENT:
            return usual_sum(reduce_op, value, destinations, options)
        parts = getattr(value, "values", [value])
        sent = values_lib.PerReplica([tf.cast(part, _SENT[dtype]) for part in parts])
        return tf.cast(usual_sum(reduce_op, sent, destinations, options), dtype)

    extended._get_variable_creator_initial_value = creator
    extended._reduce_to = reduced
    extended._makes_all_types = True


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
def results_of_workers(strategy: tf.distribute.Strategy | None) -> Iterator[None]:
    """Inside, Keras's own ``fit`` and ``evaluate`` take means of results over several workers.

    Keras 3.15.1 takes them over the first axis, which a number has not, and builds what is built
    already from a batch that the replicas have parts of, which fails where there is no sample weight
    (backend/tensorflow/trainer.py, `reduce_per_replica` and `_maybe_symbolic_build`).
    """
    if strategy is None or worker_of(strategy)[0] == 1:
        yield
        return
    usual = tf_trainer.reduce_per_replica

    def reduced(values: Any, strategy: tf.distribute.Strategy, reduction: str) -> Any:
        if reduction == "concat":
            return keras.tree.map_structure(lambda v: gathered(v, strategy), values)
        if reduction not in ("auto", "mean"):
            return usual(values, strategy, reduction)
        return keras.tree.map_structure(lambda v: strategy.reduce("MEAN", v, axis=None), values)

    def gathered(value: Any, strategy: tf.distribute.Strategy) -> Any:
        parts = strategy.experimental_local_results(value)
        sent = [as_sent(part) for part in parts]
        if sent[0].dtype == parts[0].dtype:
            return usual(value, strategy, "concat")
        whole = values_lib.PerReplica(sent) if len(sent) > 1 else sent[0]
        found = usual(whole, strategy, "concat")
        return tf.cast(found, parts[0].dtype)

    def built(self: keras.Model, iterator: Any = None, data_batch: Any = None) -> None:
        if not self.built:
            build(self, iterator, data_batch)

    owner = tf_trainer.TensorFlowTrainer
    build = owner._maybe_symbolic_build
    with (
        patched(tf_trainer, "reduce_per_replica", reduced),
        patched(owner, "_maybe_symbolic_build", built),
    ):
        yield


def lost_task(error: BaseException, own: int) -> str | None:
    """The other worker that an error of a collective operation names; "" where it names none.

    None where the error is of another kind.

    Args:
        error: that this worker has met.
        own: the number of this worker.
    """
    if isinstance(error, (*_LOST, *_PERHAPS_LOST)):
        text = str(error)
        for job, task in _TASK.findall(text.rpartition(_ABSENT)[2]):
            if int(task) != own:
                return f"{job} {task}"
        if _OF_THE_FIRST in text and own != 0:
            return "worker 0"
    return "" if isinstance(error, _LOST) else None
