"""What micro-batches save: the peak memory of a training step, cut into 1, 2, 4 and 8 parts.

    python -m benchmarks.micro_batch_memory            # about a minute
    python -m benchmarks.micro_batch_memory --quick    # half a minute: shows that it runs

Two models, a perceptron of 12 layers at each of 1024 positions and an LSTM of two layers over
128: their activations, which the backward pass needs, are about a gigabyte, their weights nothing.
Micro-batches run one after another, so only the activations of one of them are alive. Each
number of them has a process of its own, one at a time, because the system keeps the highest
memory that a process ever had: printed is that after the steps, less that before the first
one. The weights after the steps are compared with those of the whole batch.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import rich.box
import rich.console
import rich.table

from benchmarks.harness import largest_difference
from benchmarks.harness import machine_line

MICRO_BATCHES = (1, 2, 4, 8)
STEPS = 3
TIMEOUT = 300
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step is run of.

    Attributes:
        title: for the table.
        shape: of the features of a row.
        rows, quick_rows: of a batch.
    """

    title: str
    shape: tuple[int, int]
    rows: int
    quick_rows: int


WORKS = {
    "perceptron": Work("perceptron, 12 layers of 64 at 1024 positions", (1024, 8), 384, 96),
    "lstm": Work("LSTM, 2 layers of 96 over 128 positions", (128, 16), 1024, 384),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the process of one number of micro-batches found.

    Attributes:
        micro_batches: into how many parts the batch was cut.
        peak: bytes that the steps added to the highest memory of the process.
        seconds: of one step, the median without the first one, which compiles.
        difference: max|dw| to the whole batch, after all steps.
    """

    micro_batches: int
    peak: int
    seconds: float
    difference: float


def highest_memory() -> int:
    """The highest resident memory that this process has had, in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # Linux, whose `ru_maxrss` begins with that of the parent process.
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        (line,) = (line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_here(name: str, micro_batches: int, rows: int, weights_file: str) -> dict:
    """Runs the steps in this process; writes the weights, and returns memory and time."""
    import keras
    import tensorflow as tf

    from kerastrain import StepOptions
    from kerastrain.execution.compiled_steps import Steps
    from kerastrain.options import Execution

    keras.utils.set_random_seed(0)
    if name == "lstm":
        hidden = [keras.layers.LSTM(96, return_sequences=True) for _ in range(2)]
    else:
        hidden = [keras.layers.Dense(64, activation="tanh") for _ in range(12)]
    shape = WORKS[name].shape
    model = keras.Sequential([keras.Input(shape), *hidden, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.optimizer.build(model.trainable_variables)
    one = np.zeros((1, *shape), "float32")
    model.evaluate(one, one[..., :1], verbose=0)  # Builds the loss, as `Trainer` does.
    steps = Steps(model, None, StepOptions(micro_batches=micro_batches), Execution())
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(rows, *shape)), tf.float32)
    batch = (x, tf.reduce_sum(x, axis=-1, keepdims=True))
    before, seconds = highest_memory(), []
    for _ in range(STEPS):
        start = time.perf_counter()
        steps.single_step("train")(batch)
        model.trainable_variables[-1].numpy()
        seconds.append(time.perf_counter() - start)
    peak = highest_memory() - before
    np.savez(weights_file, *model.get_weights())
    return {"peak": peak, "seconds": float(np.median(seconds[1:]))}


def measure(
    name: str, micro_batches: int, rows: int, directory: pathlib.Path
) -> tuple[dict, list[np.ndarray]]:
    """Memory and time, and the weights, from a process of its own.

    Raises:
        RuntimeError: it failed; the message holds its last lines.
        subprocess.TimeoutExpired: it took more than `TIMEOUT` seconds.
    """
    file = directory / f"{micro_batches}.npz"
    command = [sys.executable, "-m", "benchmarks.micro_batch_memory"]
    command += ["--here", name, str(micro_batches), str(rows), str(file)]
    root = pathlib.Path(__file__).parent.parent
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT, cwd=root, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(
            f"The process of {name} with {micro_batches} micro-batches ended with "
            f"{done.returncode}:\n" + "\n".join(done.stderr.splitlines()[-10:])
        )
    with np.load(file) as saved:
        weights = [saved[name] for name in saved.files]
    return json.loads(done.stdout.splitlines()[-1]), weights


def run(name: str, rows: int, counts: Sequence[int]) -> list[Measured]:
    """Measures each number of micro-batches, one process after another.

    Raises:
        AssertionError: the weights depend on the number of micro-batches.
    """
    results, whole = [], None
    with tempfile.TemporaryDirectory() as directory:
        for count in counts:
            found, weights = measure(name, count, rows, pathlib.Path(directory))
            whole = weights if whole is None else whole
            difference = largest_difference(weights, whole)
            if not difference <= TOLERANCE:
                raise AssertionError(
                    f"{name}: {count} micro-batches ended {difference:.3g} from the whole batch, "
                    f"tolerance {TOLERANCE:g}: the memory is not that of the same work."
                )
            results.append(Measured(count, found["peak"], found["seconds"], difference))
    return results


def print_table(
    results: Sequence[Measured], title: str, *, console: rich.console.Console | None = None
) -> None:
    """Prints peak memory, its ratio to the whole batch's, and whether the weights are the same."""
    if console is None:
        console = rich.console.Console()
        console.width = max(console.width, 100)
    console.print(title, soft_wrap=True)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in ("micro-batches", "peak, MB", "ratio", "ms per step", "ratio", "max|dw|"):
        table.add_column(column, justify="right")
    for found in results:
        table.add_row(
            str(found.micro_batches),
            f"{found.peak / 1e6:.0f}",
            f"{found.peak / max(results[0].peak, 1):.2f}",
            f"{found.seconds * 1e3:.0f}",
            f"{found.seconds / results[0].seconds:.2f}",
            f"{found.difference:.0e}",
        )
    console.print(table)
    console.print(machine_line(), soft_wrap=True, highlight=False)


def main(arguments: Sequence[str] | None = None) -> dict[str, list[Measured]]:
    """Runs the benchmark as the command line asks, and prints a table for each model."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.micro_batch_memory", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="few rows, to see that it runs")
    parser.add_argument("--work", choices=WORKS, help="this model only")
    parser.add_argument("--json", metavar="FILE", help="also write all figures to FILE")
    parser.add_argument("--here", nargs=4, help=argparse.SUPPRESS)  # In a process of its own.
    options = parser.parse_args(arguments)
    if options.here is not None:
        name, micro_batches, rows, file = options.here
        print(json.dumps(measure_here(name, int(micro_batches), int(rows), file)))
        return {}
    counts = MICRO_BATCHES[::3] if options.quick else MICRO_BATCHES
    found = {}
    for name, work in WORKS.items():
        if options.work in (None, name):
            rows = work.quick_rows if options.quick else work.rows
            found[name] = run(name, rows, counts)
            print_table(found[name], f"{work.title}, {rows} rows, SGD")
    if options.json:
        results = {name: list(map(dataclasses.asdict, all_)) for name, all_ in found.items()}
        record = {"machine": machine_line(), "results": results}
        path = pathlib.Path(options.json)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return found


if __name__ == "__main__":
    main()
