"""One worker of the scale benchmark: does what it is asked to, together with the others.

    python -m benchmarks.scale_child SOCKET WORK       # in the environment of a launcher

It connects to the socket, introduces itself, and answers requests with its own seconds. What is
done together, all workers must be asked for at once. Each has one processor core; where there are
fewer cores than workers, some have the same.
"""

from __future__ import annotations

import json
import multiprocessing.connection
import os
import sys
import time
from collections.abc import Callable
from typing import Any

_TASK = json.loads(os.environ.get("TF_CONFIG", "null")) or {"task": {"index": 0}}
INDEX = _TASK["task"]["index"]

CORES = sorted(os.sched_getaffinity(0))
if __name__ == "__main__":  # before TensorFlow counts them
    os.sched_setaffinity(0, {CORES[INDEX % len(CORES)]})

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import kerastrain  # noqa: E402
from kerastrain.distribution import cluster_of  # noqa: E402
from kerastrain.distribution import strategy as strategy_lib  # noqa: E402
from kerastrain.distribution import Votes  # noqa: E402

CLASSES = 10


class Clock(keras.callbacks.Callback):
    """The seconds of each epoch."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


class StepClock(keras.callbacks.Callback):
    """The seconds of each step."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.seconds: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


class Worker:
    """A classifier of dense layers, that trains alone and together with the other workers.

    Args:
        work: ``sizes`` of the layers, ``batch`` of one worker, ``steps`` of an epoch, ``chunk``.
    """

    def __init__(self, work: dict[str, Any]):
        self._work = work
        self.strategy = strategy_lib.resolve("multi_worker")  # first of all
        self.cluster = cluster_of(self.strategy)
        self._trainers: dict[bool, kerastrain.Trainer] = {}
        self._initial: dict[bool, list[np.ndarray]] = {}
        rows = work["batch"] * work["steps"] * self.cluster.count
        size = rows, work["sizes"][0]  # the first rows are the same, however many there are
        self._x = np.random.default_rng(0).normal(size=size).astype("float32")
        self._y = np.random.default_rng(1).integers(0, CLASSES, rows)
        self._reducing: dict[int, Callable[[], Any]] = {}
        self._votes = Votes(self.cluster)
        for number in range(8):  # as many as while a run is saved
            self._votes.ask(str(number), "most", lambda: 1.0)

    def _build(self) -> keras.Model:
        keras.utils.set_random_seed(1)
        first, *hidden = self._work["sizes"]
        layers = [keras.layers.Dense(size, activation="relu") for size in hidden]
        return keras.Sequential([keras.Input((first,)), *layers, keras.layers.Dense(CLASSES)])

    def _trainer(self, together: bool) -> kerastrain.Trainer:
        if together not in self._trainers:
            self._trainers[together] = trainer = kerastrain.Trainer(
                self._build(),
                # Adam would make more of rounding than the comparison of weights can tolerate.
                optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                strategy="multi_worker" if together else None,
                seed=0,
                execution="loop",
                steps_per_execution=self._work["chunk"],
            )
            self._initial[together] = trainer.model.get_weights()
        return self._trainers[together]

    def _fit(self, together: bool, batch: int, epochs: int, callback: Any) -> None:
        rows = batch * self._work["steps"]
        fit = self._trainer(together).fit
        fit(
            self._x[:rows],
            self._y[:rows],
            batch_size=batch,
            epochs=epochs,
            callbacks=[callback],
            verbose=0,
        )

    def train(self, together: bool, batch: int, epochs: int) -> list[float]:
        """Seconds of a step, in each epoch but the first.

        Args:
            together: with the other workers, or alone beside them.
            batch: the global batch.
            epochs: 2 or more.
        """
        clock = Clock()
        self._fit(together, batch, epochs, clock)
        return [seconds / self._work["steps"] for seconds in clock.seconds[1:]]

    def weights(self, together: bool, batch: int) -> list[np.ndarray]:
        """The weights after an epoch from the initial ones."""
        model = self._trainer(together).model
        model.set_weights(self._initial[together])
        self._fit(together, batch, 1, keras.callbacks.Callback())
        return [np.array(w) for w in model.get_weights()]

    def steps(self, batch: int) -> list[float]:
        """Seconds of single steps, alone; a few of the first are left out."""
        clock = StepClock()
        self._fit(False, batch, 2, clock)
        return clock.seconds[self._work["steps"] :]

    def gradient_bytes(self) -> int:
        """Of one step, without the few numbers that are summed with the gradients."""
        return sum(4 * w.size for w in self._trainer(False).model.get_weights())

    def vote(self, times: int) -> list[float]:
        """Seconds of votes, each of one small all-reduce."""
        return _seconds(self._votes.take, times)

    def reduce(self, size: int, times: int) -> list[float]:
        """Seconds of all-reduces of ``size`` bytes; nothing with one worker."""
        strategy = self.strategy
        if strategy is None:
            return []

        def on_replica(value: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            here = tf.identity(value)  # on the replica's device
            return context.all_reduce(tf.distribute.ReduceOp.SUM, here)

        if size not in self._reducing:
            run = tf.function(lambda value: strategy.run(on_replica, (value,)), autograph=False)
            value = tf.ones((size // 4,))
            local = strategy.experimental_local_results
            self._reducing[size] = lambda: local(run(value))[0][0].numpy()
            self._reducing[size]()
        return _seconds(self._reducing[size], times)


def _seconds(run: Callable[[], Any], times: int) -> list[float]:
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        run()
        found.append(time.perf_counter() - begun)
    return found


def main(address: str, work: str) -> None:
    """Answers until the socket is closed."""
    worker = Worker(json.loads(work))
    with multiprocessing.connection.Client(address) as connection:
        connection.send((worker.cluster.count, INDEX))
        while True:
            try:
                name, arguments = connection.recv()
            except EOFError:
                return
            try:
                connection.send(getattr(worker, name)(*arguments))
            except Exception as error:  # the other side gives up
                connection.send(RuntimeError(f"worker {INDEX}, {name}: {error!r}"))


if __name__ == "__main__":
    main(*sys.argv[1:])
