"""What a training step costs around its arithmetic: kerastrain, `model.fit`, a loop by hand.

    python -m benchmarks.step_overhead            # about two minutes
    python -m benchmarks.step_overhead --quick    # some seconds: shows that it runs

A perceptron 784-64-10 on batches of 32 is so small that the time of a step is mostly Python,
dispatch and the input pipeline, which is what is measured here. All contenders start from
the same weights, see the same batches in the same order, use Adam, track the mean loss and
the accuracy, and show nothing (``verbose=0``). A round of each is one call of several epochs:
what a call does once (data adapter, callbacks, checks) is in its time, as for a user.

Two races: NumPy arrays, and a ``tf.data`` pipeline that all share. Before each round weights
and optimizer are put back to the start. The harness stops without a time if weights differ
after a round, and says so if a model is traced again after the warm-up.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

import kerastrain
from benchmarks.harness import Contender
from benchmarks.harness import print_race
from benchmarks.harness import Race
from benchmarks.harness import race
from benchmarks.harness import resetting
from benchmarks.harness import save_json

BATCH_SIZE = 32
MODEL = f"MLP 784-64-10, batch {BATCH_SIZE}"
FitData = Mapping[str, Any]  # The arguments of `fit` that carry the data.


class TraceCounter(keras.layers.Layer):
    """Returns its input, and counts how often Python runs it: once a trace, no compiled step."""

    traces = 0  # Of all models: the harness looks before and after each run.

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        TraceCounter.traces += 1
        return inputs


def make_model(model_class: type[keras.Model] = keras.Model) -> keras.Model:
    """Builds the perceptron, with logits as output and the same weights at every call."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((784,))
    hidden = keras.layers.Dense(64, activation="relu")(TraceCounter()(inputs))
    return model_class(inputs, keras.layers.Dense(10)(hidden))


def compile_arguments() -> dict[str, Any]:
    """Gives a new optimizer, loss and metric, of the same kind for all contenders."""
    return {
        "optimizer": keras.optimizers.Adam(1e-3),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": [keras.metrics.SparseCategoricalAccuracy()],
    }


def make_data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Makes float32 rows of 784 numbers around the centre of their class, and the classes."""
    random = np.random.default_rng(0)
    y = random.integers(0, 10, rows).astype("int32")
    x = random.normal(size=(10, 784))[y] + random.normal(size=(rows, 784))
    return x.astype("float32"), y


def by_hand(fit_data: FitData, epochs: int) -> Contender:
    """The loop that people write: a `tf.function` step, called for each batch of `tf.data`."""
    model, parts = make_model(), compile_arguments()
    optimizer, loss_function, accuracy = parts["optimizer"], parts["loss"], parts["metrics"][0]
    mean_loss = keras.metrics.Mean()

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = loss_function(y, logits)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        mean_loss.update_state(loss, sample_weight=tf.shape(x)[0])
        accuracy.update_state(y, logits)

    def run() -> None:
        batches = fit_data["x"]
        if not isinstance(batches, tf.data.Dataset):
            batches = make_pipeline(fit_data["x"], fit_data["y"])
        history = []
        for _ in range(epochs):
            mean_loss.reset_state()
            accuracy.reset_state()
            for x, y in batches:
                step(x, y)
            history.append((float(mean_loss.result()), float(accuracy.result())))

    return make_contender("by hand", run, model, lambda: optimizer)


def by_fit(name: str, model: keras.Model, fit_data: FitData, epochs: int) -> Contender:
    """Keras's ``fit`` of ``model``, a `keras.Model` or a `kerastrain.TrainableModel`."""
    model.compile(**compile_arguments())
    run = functools.partial(model.fit, **fit_data, epochs=epochs, shuffle=False, verbose=0)
    return make_contender(name, run, model, lambda: model.optimizer)


def by_trainer(fit_data: FitData, epochs: int) -> Contender:
    """`kerastrain.Trainer.fit` with a plain Keras model."""
    model = make_model()
    trainer = kerastrain.Trainer(model, **compile_arguments())
    run = functools.partial(trainer.fit, **fit_data, epochs=epochs, shuffle=False, verbose=0)
    contender = make_contender("Trainer.fit", run, model, lambda: trainer.optimizer)
    # Its own count: it also runs the model's code to check shapes, which compiles nothing.
    return dataclasses.replace(contender, traces=lambda: sum(trainer.traces.values()))


def make_contender(
    name: str,
    run: Callable[[], object],
    model: keras.Model,
    get_optimizer: Callable[[], keras.optimizers.Optimizer],
) -> Contender:
    """Makes each round start from the weights of now and an Adam that has made no step."""
    reset = resetting(model, get_optimizer)
    return Contender(name, run, model.get_weights, reset, traces=lambda: TraceCounter.traces)


def make_pipeline(x: np.ndarray, y: np.ndarray) -> tf.data.Dataset:
    """Gives batches in the order of the rows."""
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def run_races(*, rows: int, epochs: int, repeats: int, cpu_time: bool = False) -> list[Race]:
    """Runs both races; a round of a contender is ``epochs * rows / 32`` steps."""
    x, y = make_data(rows)
    sources = {
        "NumPy arrays": {"x": x, "y": y, "batch_size": BATCH_SIZE},
        "tf.data": {"x": make_pipeline(x, y)},
    }
    return [
        race(
            [
                by_hand(fit_data, epochs),
                by_fit("model.fit", make_model(), fit_data, epochs),
                by_fit(
                    "TrainableModel.fit", make_model(kerastrain.TrainableModel), fit_data, epochs
                ),
                by_trainer(fit_data, epochs),
            ],
            title=f"{MODEL}, {source}{', processor time' if cpu_time else ''}",
            baseline="by hand",
            steps=-(-rows // BATCH_SIZE) * epochs,
            repeats=repeats,
            clock=time.process_time if cpu_time else time.perf_counter,
        )
        for source, fit_data in sources.items()
    ]


def main(arguments: Sequence[str] | None = None) -> list[Race]:
    """Runs the benchmark as the command line asks, and prints a table for each source of data."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_overhead", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--repeats", type=int, help="rounds that count (default 15, quick 2)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time of all threads: for a busy machine"
    )
    parser.add_argument("--json", metavar="FILE", help="also write every time to FILE")
    options = parser.parse_args(arguments)
    rows, repeats = (160, 2) if options.quick else (6400, 15)
    repeats = repeats if options.repeats is None else options.repeats
    results = run_races(rows=rows, epochs=2, repeats=repeats, cpu_time=options.cpu_time)
    for result in results:
        print_race(result)
    if options.json:
        save_json(results, options.json)
    return results


if __name__ == "__main__":
    main()
