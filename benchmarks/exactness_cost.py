"""What exactness costs: a step on two replicas with it and without it.

    python -m benchmarks.exactness_cost            # some minutes
    python -m benchmarks.exactness_cost --quick    # some seconds: shows that it runs

Both contenders have the same model, loss, optimizer and metrics, cut the same global batches
by the same rows and are compiled by the same code, once, with the number of rows open. They
differ in what happens on a replica:

usual
    The mean loss of its own rows over the number of replicas, its gradients, and
    ``apply_gradients``, in which Keras adds the gradients of the replicas.
exact
    `kerastrain.step.steps.train_step`, whose gradients are those of the global mean, however many
    rows each replica has.

Batches divide by the replicas, where both are right: the harness compares the weights after
every round, before a time is printed. The replicas are logical devices of one processor, so
the times show the work of a step, not the speed-up of several devices.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import time
from collections.abc import Callable
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from benchmarks.exactness import make_logical_devices
from benchmarks.exactness import strategy_of
from benchmarks.harness import Contender
from benchmarks.harness import print_race
from benchmarks.harness import Race
from benchmarks.harness import race
from benchmarks.harness import save_json
from benchmarks.step_overhead import compile_arguments
from benchmarks.step_overhead import make_contender
from benchmarks.step_overhead import make_data
from kerastrain import StepOptions
from kerastrain.execution.compiled_steps import DynamicBatchFunction
from kerastrain.execution.compiled_steps import Steps
from kerastrain.options import Execution
from kerastrain.step.rows import count_rows
from kerastrain.step.rows import own_rows

REPLICAS = 2


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step is run of.

    Attributes:
        title: for the table.
        hidden: makes the layers between the 784 inputs and the ten classes.
        batch: rows of a global batch.
        steps: steps in a round.
    """

    title: str
    hidden: Callable[[], list[keras.Layer]]
    batch: int
    steps: int

    def model(self) -> keras.Model:
        """A new model with the same weights at every call."""
        keras.utils.set_random_seed(0)
        return keras.Sequential([keras.Input((784,)), *self.hidden(), layers.Dense(10)])


def dense(*units: int) -> list[keras.Layer]:
    """Fully connected layers."""
    return [layers.Dense(n, activation="relu") for n in units]


def convolutions() -> list[keras.Layer]:
    """Two convolutions with pooling, of an image of 28 x 28 pixels."""
    found = [layers.Reshape((28, 28, 1))]
    for filters in (8, 16):
        found += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D()]
    return [*found, layers.Flatten()]


WORKS = (
    Work("MLP 784-64-10, batch 64", functools.partial(dense, 64), batch=64, steps=100),
    Work("MLP 784-1024-1024-10, batch 256", lambda: dense(1024, 1024), batch=256, steps=4),
    Work("convnet, batch 64", convolutions, batch=64, steps=20),
)


def usual(work: Work, batches: list[tuple]) -> Contender:
    """The step that people write for ``strategy.run``."""
    strategy = strategy_of(REPLICAS)
    with strategy.scope():
        model, parts = work.model(), compile_arguments()
        loss_function, optimizer, accuracy = parts["loss"], parts["optimizer"], parts["metrics"][0]
        optimizer.build(model.trainable_variables)
        mean_loss = keras.metrics.Mean()
    traces = []

    def replica_step(batch: tuple) -> None:
        x, y = batch
        with tf.GradientTape() as tape:
            logits = model(x, training=True)
            loss = loss_function(y, logits)  # Keras divides by the number of replicas.
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        mean_loss.update_state(loss * REPLICAS, sample_weight=count_rows(x))
        accuracy.update_state(y, logits)

    def step(batch: tuple) -> None:
        traces.append(1)
        strategy.run(lambda batch: replica_step(own_rows(batch)), args=(batch,))

    run = functools.partial(run_all, DynamicBatchFunction(step, jit_compile=False), batches, model)
    contender = make_contender("usual", run, model, lambda: optimizer)
    return dataclasses.replace(contender, traces=lambda: len(traces))


def exact(work: Work, batches: list[tuple]) -> Contender:
    """kerastrain's step, compiled as `Trainer` compiles it."""
    strategy = strategy_of(REPLICAS)
    with strategy.scope():
        model = work.model()
        model.compile(**compile_arguments())
        model.optimizer.build(model.trainable_variables)
    steps = Steps(model, strategy, StepOptions(), Execution())

    def run() -> None:
        with strategy.scope():
            run_all(steps.single_step("train"), batches, model)

    contender = make_contender("exact", run, model, lambda: model.optimizer)
    return dataclasses.replace(contender, traces=lambda: sum(steps.traces.values()))


def run_all(step: Callable[[tuple], object], batches: list[tuple], model: keras.Model) -> None:
    """Runs a step on each batch, and waits for the last one."""
    for batch in batches:
        step(batch)
    model.trainable_variables[-1].numpy()


def run_races(
    works: Sequence[Work], *, repeats: int, cpu_time: bool = False, steps: int | None = None
) -> list[Race]:
    """Races both contenders on each work."""
    results = []
    for work in works:
        count = steps or work.steps
        x, y = make_data(work.batch * count)
        cuts = [slice(i * work.batch, (i + 1) * work.batch) for i in range(count)]
        batches = [(tf.constant(x[cut]), tf.constant(y[cut])) for cut in cuts]
        clock = time.process_time if cpu_time else time.perf_counter
        results.append(
            race(
                [usual(work, batches), exact(work, batches)],
                title=f"{work.title}, {REPLICAS} replicas{', processor time' * cpu_time}",
                baseline="usual",
                steps=count,
                repeats=repeats,
                clock=clock,
            )
        )
    return results


def cost_line(result: Race) -> str:
    """What exactness costs, in per cent: the median over rounds, and its quartiles."""
    low, middle, high = (np.percentile(result.ratios("exact"), [25, 50, 75]) - 1) * 100
    return f"{result.title}: exactness costs {middle:+.1f} % ({low:+.1f} .. {high:+.1f})"


def main(arguments: Sequence[str] | None = None) -> list[Race]:
    """Runs the benchmark as the command line asks, and prints a table for each model."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.exactness_cost", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    parser.add_argument("--repeats", type=int, help="rounds that count (default 41, quick 2)")
    parser.add_argument("--work", default="", help="only models whose title holds this")
    parser.add_argument(
        "--cpu-time", action="store_true", help="processor time of all threads: for a busy machine"
    )
    parser.add_argument("--json", metavar="FILE", help="also write every time to FILE")
    options = parser.parse_args(arguments)
    works = [work for work in WORKS if options.work in work.title]
    if not works:
        parser.error(f"no title holds {options.work!r}. There are {[w.title for w in WORKS]}.")
    make_logical_devices()
    repeats = options.repeats or (2 if options.quick else 41)
    results = run_races(
        works, repeats=repeats, cpu_time=options.cpu_time, steps=2 if options.quick else None
    )
    for result in results:
        print_race(result)
    print(*map(cost_line, results), sep="\n")
    if options.json:
        save_json(results, options.json)
    return results


if __name__ == "__main__":
    main()
