"""Strategies by name or object.

::

    resolve("mirrored:2")     # MirroredStrategy on the first two devices
"""

import contextlib
import os
import shutil
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import ArgumentError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.errors import WorkerLostError
from kerastrain.validation import did_you_mean

_NAMES = ("mirrored", "central_storage", "one_device", "multi_worker", "auto")


def resolve(strategy: Any) -> tf.distribute.Strategy | None:
    """Returns a ``tf.distribute`` strategy of one machine, or None for none.

    Args:
        strategy: a ``tf.distribute.Strategy``; None; or a name: ``"mirrored"``,
            all GPUs, or all logical CPU devices where there is no GPU;
            ``"mirrored:N"``, the first N of them; ``"central_storage"`` and
            ``"central_storage:N"``, the same with one copy of the variables;
            ``"one_device"``, the first of them; ``"multi_worker"``, all workers of the cluster
            that ``TF_CONFIG`` or SLURM describes, which is ``"auto"`` where it has one; or
            ``"auto"``: ``"mirrored"`` where there are several GPUs, else None.

    An object may be any strategy that keeps its replicas in step: ``OneDeviceStrategy``,
    ``MirroredStrategy``, ``CentralStorageStrategy``, ``MultiWorkerMirroredStrategy``. A
    ``TPUStrategy`` takes the same path through the code, but none was at hand to
    try it on.

    Raises:
        ArgumentError: an unknown name, more devices than there are, or a cluster that cannot be
            set up any more.
        UnsupportedTypeError: neither a name nor a strategy, or one whose
            replicas are not in step.

    Example:
        >>> resolve("mirrored:1").num_replicas_in_sync
        1
    """
    if strategy is None:
        return None
    if isinstance(strategy, tf.distribute.Strategy):
        in_step = _in_step(strategy)
        _keras.make_all_types(in_step)
        return in_step
    if not isinstance(strategy, str):
        raise UnsupportedTypeError(
            "`strategy` must be a tf.distribute.Strategy, a name or None. "
            f"Received: {strategy!r} of type {type(strategy).__name__}."
        )
    if strategy == "multi_worker":
        resolver = _cluster_resolver()
        if resolver is not None:
            return _of_workers(resolver)
        strategy = "auto"
    if strategy == "auto":
        gpus = tf.config.list_logical_devices("GPU")
        return tf.distribute.MirroredStrategy() if len(gpus) > 1 else None
    name, colon, count = strategy.partition(":")
    counts = ("mirrored", "central_storage")
    if name not in (*counts, "one_device") or (
        colon and not (name in counts and count.isdigit() and int(count) > 0)
    ):
        raise ArgumentError(
            f"Unknown strategy. Received: strategy={strategy!r}."
            f'{did_you_mean(str(strategy).partition(":")[0], _NAMES)} Use "mirrored", "mirrored:2", '
            '"central_storage:2", "one_device", "multi_worker", "auto", None or a tf.distribute.Strategy.'
        )
    return _on_devices(name, int(count) if count else None)


def _cluster_resolver() -> Any:
    """What knows the cluster that this process is of; None where it has no other worker."""
    if "TF_CONFIG" in os.environ:
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        resolver = _slurm_resolver()
    else:
        return None
    spec = resolver.cluster_spec()
    return resolver if sum(spec.num_tasks(job) for job in spec.jobs) > 1 else None


def _slurm_resolver() -> Any:
    """That of TensorFlow, which divides the GPUs of a node among its tasks.

    Where there are none, or SLURM has divided them, it must not: TensorFlow 2.21 asks ``nvidia-smi``,
    and leaves out tasks that have no GPU of their own (slurm_cluster_resolver.py).
    """
    if "CUDA_VISIBLE_DEVICES" not in os.environ and shutil.which("nvidia-smi"):
        return tf.distribute.cluster_resolver.SlurmClusterResolver()
    return tf.distribute.cluster_resolver.SlurmClusterResolver(
        gpus_per_node=int(os.environ["SLURM_STEP_NUM_TASKS"]), gpus_per_task=1, auto_set_gpu=False
    )


def _of_workers(resolver: Any) -> tf.distribute.Strategy:
    """One strategy for all trainers of this process: its servers begin once."""
    if not _OF_WORKERS:
        if _keras.has_started():
            raise ArgumentError(
                'strategy="multi_worker" was asked for after TensorFlow had run something, when '
                "workers cannot meet any more; the making of a model, an optimizer or a metric is that "
                "too. Make the Trainer first of all, with a function that builds the model and with "
                'names: Trainer(build, optimizer="adam", strategy="multi_worker"); or make '
                "tf.distribute.MultiWorkerMirroredStrategy() first of all, and pass it as `strategy`."
            )
        _keras.notice_lost_workers(resolver)
        try:
            _OF_WORKERS.append(tf.distribute.MultiWorkerMirroredStrategy(resolver))
            _keras.make_all_types(_OF_WORKERS[0])
        except tf.errors.OpError as error:
            task = _keras.lost_task(error, own=resolver.task_id)
            if task is None:
                raise
            raise WorkerLostError(
                f"{f'The worker {task!r}' if task else 'Another worker'} has not come within a minute, "
                f"or has ended ({type(error).__name__}): its own output says why. Start all workers at "
                "the same time."
            ) from error
    return _OF_WORKERS[0]


_OF_WORKERS: list[tf.distribute.Strategy] = []


def _in_step(strategy: tf.distribute.Strategy) -> tf.distribute.Strategy:
    asynchronous = tf.distribute.experimental.ParameterServerStrategy
    if isinstance(strategy, asynchronous):
        raise UnsupportedTypeError(
            f"`strategy` is a {type(strategy).__name__}, whose replicas do not train in step, so no "
            "number of theirs is that of one device. Use a MirroredStrategy, CentralStorageStrategy, "
            "OneDeviceStrategy or MultiWorkerMirroredStrategy, or the loop in "
            "kerastrain/docs/parameter_servers.rst."
        )
    return strategy


def _on_devices(name: str, count: int | None) -> tf.distribute.Strategy:
    gpus = tf.config.list_logical_devices("GPU")
    devices = [d.name for d in gpus or tf.config.list_logical_devices("CPU")]
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0])
    wanted = count or len(devices)
    if wanted > len(devices):
        raise ArgumentError(
            f"strategy={f'{name}:{wanted}'!r} wants {wanted} devices; there are "
            f"{len(devices)}. On CPU, make logical ones first with "
            "tf.config.set_logical_device_configuration."
        )
    if name == "central_storage":
        return tf.distribute.experimental.CentralStorageStrategy(
            compute_devices=devices[:wanted], parameter_device="/CPU:0"
        )
    # Also where Keras trains under it, outside of `scope`.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices[:wanted], reduction)


@contextlib.contextmanager
def scope(strategy: tf.distribute.Strategy | None) -> Iterator[None]:
    """The scope of a strategy, in which strategies of all sizes get along; nothing for None.

    What is compiled in it has no collective operations on CPUs, whoever made the strategy. The
    strategy is afterwards as it was.
    """
    if strategy is None:
        yield
        return
    with _keras.without_collectives(strategy), strategy.scope():
        yield


# Those whose reduction has been found to be right.
_RIGHT: weakref.WeakSet = weakref.WeakSet()


def check_sums(strategy: tf.distribute.Strategy) -> None:
    """Makes sure that replicas add up to their sum, once for each strategy. Inside `scope`.

    ``HierarchicalCopyAllReduce`` of TensorFlow 2.21 leaves out the last of 3 or 5 CPU devices.

    Raises:
        ArgumentError: they do not.
    """
    count = strategy.num_replicas_in_sync
    if count == 1 or strategy in _RIGHT:
        return

    def on_replica() -> list[tf.Tensor]:
        context = tf.distribute.get_replica_context()
        number = tf.cast(context.replica_id_in_sync_group + 1, tf.float32)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, [number, tf.fill((2, 3), number)])

    found = tf.function(lambda: strategy.run(on_replica), autograph=False)()
    wanted = count * (count + 1) / 2
    values = [strategy.experimental_local_results(one) for one in found]
    wrong = [float(tf.reduce_max(tf.abs(v - wanted))) for one in values for v in one]
    if max(wrong) > 0:
        raise ArgumentError(
            f"The reduction of `strategy`, a {type(strategy).__name__}, does not add up its {count} "
            f"replicas: of the numbers 1 to {count} it makes {float(values[0][0]):g}, and their sum "
            f"is {wanted:g}. Pass cross_device_ops=tf.distribute.ReductionToOneDevice() to it."
        )
    _RIGHT.add(strategy)


def of_model(model: Any) -> tf.distribute.Strategy | None:
    """The strategy in whose scope a model was made; None of another object."""
    return _keras.model_strategy(model) if isinstance(model, keras.Model) else None
