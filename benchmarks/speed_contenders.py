"""Ways to train a Keras model that the speed benchmark races: by Keras, by hand, by kerastrain.

    entrant = MAKERS["Trainer"](Task("mlp"))
    entrant.warm()                                  # compiles, and lets plans be chosen
    entrant.reset()
    losses = entrant.run(2, shuffle=False)          # the mean loss of each epoch

Each makes its own model from the same weights (`speed_works`), uses Adam, tracks the mean loss
and the accuracy, shuffles the rows of an epoch, and shows nothing. A run is one call for all its
epochs: what a call does once (data adapter, callbacks, checks) is in its time, as for a user.
Loss and accuracy are both read at the end of an epoch, though only the loss is returned.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import resetting
from benchmarks.speed_works import compile_arguments
from benchmarks.speed_works import LEARNING_RATE
from benchmarks.speed_works import make_data
from benchmarks.speed_works import make_model
from benchmarks.speed_works import Work
from benchmarks.speed_works import WORKS


@dataclasses.dataclass(frozen=True)
class Task:
    """What a process is to do.

    Attributes:
        name: of a work.
        rows, batch, epochs: in place of the work's own.
        source: ``"arrays"``, NumPy arrays; ``"tf.data"``, a pipeline that shuffles; or
            ``"cached"``, one that gives batches in order, from memory.
        does: ``"fit"``, ``"evaluate"`` or ``"predict"``.
        plan: of kerastrain's execution.
        resident_bytes: of kerastrain's execution.
        replicas: logical devices to train on; 0 for no strategy.
        learning_rate: of Adam.
        listens: whether a callback hears of each batch, and may act between two.
        file: of memory-mapped data, in place of the work's: features in ``file + ".x.npy"``,
            labels in ``file + ".y.npy"``.
    """

    name: str
    rows: int | None = None
    batch: int | None = None
    epochs: int | None = None
    source: str = "arrays"
    does: str = "fit"
    plan: str = "auto"
    resident_bytes: int | None = None
    replicas: int = 0
    learning_rate: float = LEARNING_RATE
    listens: bool = False
    file: str | None = None

    @property
    def work(self) -> Work:
        """The work, of the size that is asked for."""
        work = WORKS[self.name].sized(rows=self.rows, batch=self.batch)
        return dataclasses.replace(work, epochs=self.epochs or work.epochs)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Features and labels."""
        if self.file is None:
            return make_data(self.work)
        return tuple(np.load(self.file + end, mmap_mode="r") for end in (".x.npy", ".y.npy"))

    def parts(self) -> dict[str, Any]:
        """The arguments of ``compile``."""
        return compile_arguments(self.work, self.learning_rate)


@dataclasses.dataclass(frozen=True)
class Entrant:
    """One way to do a task, in the process that does it.

    Attributes:
        run: trains for a number of epochs and waits for the last update; returns results
            that others must have too: the mean loss of each epoch.
        reset: puts initial weights and optimizer state back.
        warm: runs until nothing is left to compile or to choose; returns a note on it.
    """

    run: Callable[..., list[float]]
    reset: Callable[[], None]
    warm: Callable[[], str]


def warming(run: Callable[..., list[float]]) -> Callable[[], str]:
    """Warms by two epochs, of which there is nothing to say."""

    def warm() -> str:
        run(2, shuffle=True)
        return ""

    return warm


def pipeline(task: Task, x: np.ndarray, y: np.ndarray, *, shuffle: bool) -> Any:
    """Batches of ``tf.data``, of rows that are shuffled over all of them."""
    import tensorflow as tf

    rows = tf.data.Dataset.from_tensor_slices((x, y))
    if task.source == "cached":
        return rows.batch(task.work.batch).cache().prefetch(tf.data.AUTOTUNE)
    rows = rows.shuffle(len(x)) if shuffle else rows
    return rows.batch(task.work.batch).prefetch(tf.data.AUTOTUNE)


def fit_arguments(task: Task, x: np.ndarray, y: np.ndarray) -> Callable[[bool], dict[str, Any]]:
    """The arguments of ``fit`` that carry the data, shuffled or not; made once, like a user's."""
    if task.source == "arrays":
        whole = {"x": x, "y": y, "batch_size": task.work.batch}
        return lambda shuffle: whole | {"shuffle": shuffle}
    pipelines = {shuffle: {"x": pipeline(task, x, y, shuffle=shuffle)} for shuffle in (True, False)}
    return pipelines.__getitem__


def running(task: Task, owner: Any, x: np.ndarray, y: np.ndarray) -> Callable[..., list[float]]:
    """The run of a Keras model or a `kerastrain.Trainer`, whose methods have the same names."""
    if task.does == "evaluate":
        return lambda epochs, shuffle: owner.evaluate(x, y, batch_size=task.work.batch, verbose=0)
    if task.does == "predict":

        def predict(epochs: int, shuffle: bool) -> list[float]:
            outputs = owner.predict(x, batch_size=task.work.batch, verbose=0)
            return [float(np.abs(outputs).mean()), float(np.abs(outputs[-1]).mean())]

        return predict
    arguments = fit_arguments(task, x, y)

    def fit(epochs: int, shuffle: bool) -> list[float]:
        callbacks = [make_listener()] if task.listens else None
        history = owner.fit(**arguments(shuffle), epochs=epochs, callbacks=callbacks, verbose=0)
        return history.history["loss"]

    return fit


def make_listener() -> Any:
    """A callback that hears of each batch, and does nothing."""
    import keras

    class Listener(keras.callbacks.Callback):
        """Whoever trains cannot know that it does nothing."""

        def on_train_batch_end(self, batch, logs=None):
            """Nothing."""

    return Listener()


# model.fit --------------------------------------------------------------------------


def by_fit(task: Task, **tuning: Any) -> Entrant:
    """Keras's ``fit``, ``evaluate`` or ``predict`` with defaults, on the backend of the process."""
    x, y = task.data()
    with scope(task):
        model = make_model(task.work)
        model.compile(**task.parts(), **tuning)
    run = running(task, model, x, y)
    return Entrant(run, resetting(model, lambda: model.optimizer), warming(run))


def by_tuned_fit(task: Task) -> Entrant:
    """The fastest of six: 1, 16 and 64 steps in an execution, with and without XLA.

    Each is run for an epoch to compile and another one to be timed, before the race. Settings
    with more steps than an epoch has are left out.
    """
    entrants = {}
    for steps, xla in itertools.product((1, 16, 64), (False, True)):
        if steps <= task.work.steps:
            entrants[f"steps_per_execution={steps}, jit_compile={xla}"] = {
                "steps_per_execution": steps,
                "jit_compile": xla,
            }
    seconds = {}
    for name, tuning in entrants.items():
        entrant = by_fit(task, **tuning)
        entrant.run(1, shuffle=True)
        begun = time.perf_counter()
        entrant.run(1, shuffle=True)
        seconds[name] = time.perf_counter() - begun
    best = min(seconds, key=seconds.__getitem__)
    entrant = by_fit(task, **entrants[best])

    def warm() -> str:
        entrant.warm()
        return best

    return dataclasses.replace(entrant, warm=warm)


def scope(task: Task) -> Any:
    """The scope of as many replicas as are asked for."""
    import contextlib

    if not task.replicas:
        return contextlib.nullcontext()
    import tensorflow as tf

    devices = [f"CPU:{number}" for number in range(task.replicas)]
    return tf.distribute.MirroredStrategy(devices).scope()


# kerastrain -------------------------------------------------------------------------


def by_trainer(task: Task) -> Entrant:
    """`kerastrain.Trainer` around the plain model."""
    import keras

    import kerastrain

    x, y = task.data()
    model = make_model(task.work)
    execution = kerastrain.Execution(plan=task.plan, resident_bytes=task.resident_bytes)
    strategy = f"mirrored:{task.replicas}" if task.replicas else None
    trainer = kerastrain.Trainer(
        model, **task.parts(), seed=0, execution=execution, strategy=strategy
    )
    run = running(task, trainer, x, y)

    class UntilChosen(keras.callbacks.Callback):
        """Stops when two epochs have ended with the same plan, and as many that were timed."""

        plan: tuple = ()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            line = trainer.plans["train"]
            plan = line.split(",")[0], line.count("µs"), line.count("dropped")
            self.model.stop_training = epoch > 1 and plan == self.plan
            self.plan = plan

    def warm() -> str:
        if task.does == "fit":
            arguments = fit_arguments(task, x, y)(True)
            trainer.fit(**arguments, epochs=1000, verbose=0, callbacks=[UntilChosen()])
        for _ in range(2 if task.does == "fit" else 5):
            run(1, shuffle=True)
        return ", ".join(trainer.plans.values())

    return Entrant(run, resetting(model, lambda: trainer.optimizer), warm)


# By hand ----------------------------------------------------------------------------


def by_hand(task: Task) -> Entrant:
    """The loop that people write: a `tf.function` step, called for each batch of ``tf.data``."""
    import tensorflow as tf

    x, y = task.data()
    model, step, results, optimizer = step_by_hand(task)
    step = tf.function(step)
    pipelines = {shuffle: pipeline(task, x, y, shuffle=shuffle) for shuffle in (True, False)}

    def run(epochs: int, shuffle: bool) -> list[float]:
        losses = []
        for _ in range(epochs):
            for metric in results:
                metric.reset_state()
            for features, labels in pipelines[shuffle]:
                step(features, labels)
            losses.append([float(metric.result()) for metric in results][0])
        return losses

    return Entrant(run, resetting(model, lambda: optimizer), warming(run))


def by_hand_in_xla(task: Task) -> Entrant:
    """An epoch as one program of XLA: arrays stay whole, and each step gathers its rows."""
    import tensorflow as tf

    x, y = map(tf.constant, task.data())
    model, step, results, optimizer = step_by_hand(task)
    batch, steps = task.work.batch, task.work.steps
    random = np.random.default_rng(0)

    @tf.function(jit_compile=True, autograph=False)
    def epoch(x: Any, y: Any, order: Any) -> None:
        for metric in results:
            metric.reset_state()

        def body(index: Any) -> Any:
            rows = tf.reshape(tf.slice(order, [index * batch], [batch]), [batch])
            step(tf.gather(x, rows), tf.gather(y, rows))
            return index + 1

        tf.while_loop(lambda index: index < steps, body, [0], parallel_iterations=1)

    def run(epochs: int, shuffle: bool) -> list[float]:
        losses = []
        for _ in range(epochs):
            order = np.arange(len(x), dtype="int32")
            epoch(x, y, tf.constant(random.permutation(order) if shuffle else order))
            losses.append([float(metric.result()) for metric in results][0])
        return losses

    return Entrant(run, resetting(model, lambda: optimizer), warming(run))


def step_by_hand(task: Task) -> tuple[Any, Callable[..., None], list[Any], Any]:
    """A model, the step that trains it, the metrics that the step updates, and the optimizer."""
    import keras
    import tensorflow as tf

    model, parts = make_model(task.work), task.parts()
    optimizer, loss_function, accuracy = parts["optimizer"], parts["loss"], parts["metrics"][0]
    optimizer.build(model.trainable_variables)
    mean_loss = keras.metrics.Mean()
    accuracy.update_state(*loss_arguments(task))
    accuracy.reset_state()

    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = loss_function(y, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        mean_loss.update_state(loss)
        accuracy.update_state(y, logits)

    return model, step, [mean_loss, accuracy], optimizer


def loss_arguments(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Labels and logits of one row: what builds a metric before it is traced."""
    y = np.zeros((1, 1), "float32") if task.work.binary else np.zeros(1, "int32")
    return y, np.zeros((1, 1 if task.work.binary else 10), "float32")


MAKERS = {
    "model.fit": by_fit,
    "model.fit, tuned": by_tuned_fit,
    "by hand": by_hand,
    "by hand, XLA epoch": by_hand_in_xla,
    "Trainer": by_trainer,
    "Keras on JAX": by_fit,
}
