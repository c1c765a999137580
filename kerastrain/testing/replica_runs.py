"""A metric on several replicas, here or in a process of its own.

::

    result_on_replicas(lambda: MyMetric(), stream, count=2)

Runs the metric as kerastrain's steps do: each replica takes its consecutive rows
of the batch, and the result is that of the merged states (`kerastrain.distribution.merging`).
"""

import atexit
import contextlib
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import IO

import keras
import tensorflow as tf

from kerastrain.distribution import merging
from kerastrain.distribution import strategy as strategy_lib
from kerastrain.step import rows as rows_lib
from kerastrain.testing.streams import Stream
from kerastrain.testing.subject import as_result
from kerastrain.testing.subject import Result
from kerastrain.testing.violations import NotApplicable

# The most replicas that a law asks for.
MOST_REPLICAS = 3
# How long a process of its own may take for one answer.
_SECONDS = 120
_SECONDS_TO_START = 300


def ask_for_devices(count: int = MOST_REPLICAS) -> None:
    """Asks for ``count`` logical CPU devices, without starting TensorFlow.

    Nothing is changed where there are GPUs, where TensorFlow has started, or where somebody
    has asked for logical devices before.
    """
    cpus = tf.config.list_physical_devices("CPU")
    if tf.config.list_physical_devices("GPU") or tf.config.get_logical_device_configuration(
        cpus[0]
    ):
        return
    with contextlib.suppress(RuntimeError):  # too late: it runs with those it has
        tf.config.set_logical_device_configuration(
            cpus[0], [tf.config.LogicalDeviceConfiguration()] * count
        )


def has_devices(count: int = MOST_REPLICAS) -> bool:
    """Whether TensorFlow has ``count`` devices for replicas; starts it."""
    gpus = len(tf.config.list_logical_devices("GPU"))
    return (gpus or len(tf.config.list_logical_devices("CPU"))) >= count


def result_on_replicas(factory: Callable, stream: Stream, count: int) -> Result:
    """The result of a new metric after the rows of a stream on ``count`` replicas.

    Args:
        factory: makes the metric, inside the strategy's scope.
        stream: one batch, with ``count`` rows or more.
        count: replicas.

    Raises:
        NotApplicable: there are too few devices, and no other process can take over.
    """
    if has_devices(count):
        return run(factory, stream, count)
    return _Child.shared().result(factory, stream, count)


def run(factory: Callable, stream: Stream, count: int) -> Result:
    """`result_on_replicas` in this process, which has the devices."""
    strategy = strategy_lib.resolve(f"mirrored:{count}")
    assert strategy is not None  # it has a name
    with strategy.scope():
        metric = factory()
    merging.reset_metric(metric)
    weight = {} if stream.sample_weight is None else {"sample_weight": stream.sample_weight}
    batch = keras.tree.map_structure(tf.constant, {"arguments": stream.arguments, **weight})

    def on_replica(batch: Any) -> None:
        own = rows_lib.own_rows(batch)
        stream.changed(**own).call(metric.update_state)

    tf.function(lambda b: strategy.run(on_replica, args=(b,)), autograph=False)(batch)
    return as_result(merging.result(metric))


# A process of its own ---------------------------------------------------------


class _Child:
    """A process with devices enough, asked through pipes; ends with this one."""

    _only: "_Child | None" = None

    @classmethod
    def shared(cls) -> "_Child":
        """The one child of this process."""
        if cls._only is None or cls._only._process.poll() is not None:
            cls._only = cls()
        return cls._only

    def __init__(self) -> None:
        program = "from kerastrain.testing.replica_runs import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={
                **os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(
                    os.path.abspath(p) for p in sys.path)},
        )  # fmt: skip
        atexit.register(self._process.kill)
        with self._bounded(_SECONDS_TO_START):
            _, has_devices = self._answer()
        if not has_devices:
            raise NotApplicable("no process has devices enough for the replicas")

    def result(self, factory: Callable[[], Any], stream: Stream, count: int) -> Result:
        """Asks the child."""
        pickle = _cloudpickle()
        kind, value = self._asked(pickle.dumps((factory, stream, count)))
        if kind == "unknown":  # a module that it cannot import: send what is in it
            modules = {inspect.getmodule(factory), inspect.getmodule(type(factory()))} - {None}
            for module in modules:
                pickle.register_pickle_by_value(module)
            try:
                kind, value = self._asked(pickle.dumps((factory, stream, count)))
            finally:
                for module in modules:
                    pickle.unregister_pickle_by_value(module)
        if kind == "unknown":
            raise NotApplicable(f"the metric cannot be sent to another process: {value}")
        if kind == "raised":
            raise RuntimeError(value)
        return value

    def _asked(self, question: bytes) -> Any:
        asks = self._process.stdin
        assert asks is not None  # a pipe
        with self._bounded(_SECONDS):
            with contextlib.suppress(BrokenPipeError):
                _send(asks, question)
            return self._answer()

    def _answer(self) -> Any:
        answers = self._process.stdout
        assert answers is not None  # a pipe
        answer = _receive(answers)
        if answer is None:
            self._process.kill()
            raise NotApplicable("the process for the replicas ended, or did not answer in time")
        return _cloudpickle().loads(answer)

    @contextlib.contextmanager
    def _bounded(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._process.kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def serve() -> None:
    """The child's side: answers until its standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a metric prints does not disturb the answers
    pickle = _cloudpickle()
    ask_for_devices()
    _send(answers, pickle.dumps(("started", has_devices())))
    while (asked := _receive(sys.stdin.buffer)) is not None:
        try:
            question = pickle.loads(asked)
        except Exception as error:
            _send(answers, pickle.dumps(("unknown", f"{type(error).__name__}: {error}")))
            continue
        try:
            answer: Any = ("result", run(*question))
        except Exception as error:
            answer = ("raised", f"{type(error).__name__}: {error}")
        _send(answers, pickle.dumps(answer))


def _cloudpickle() -> Any:
    try:
        import cloudpickle
    except ImportError:
        raise NotApplicable(
            "TensorFlow has started with too few devices for the replicas, and cloudpickle, which "
            "would send the metric to another process, is missing: install kerastrain[testing]"
        ) from None
    return cloudpickle


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(8, "big") + content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    size = pipe.read(8)
    if len(size) < 8:
        return None
    content = pipe.read(int.from_bytes(size, "big"))
    return content if len(content) == int.from_bytes(size, "big") else None
