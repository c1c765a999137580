"""What callbacks cost that do nothing on batches: a training with each beside the same one without.

    python -m benchmarks.callbacks_cost                  # about half a minute
    python -m benchmarks.callbacks_cost --rounds 3 --only TensorBoard

A small perceptron, so that a step is short, and 512 steps an epoch. Rounds are interleaved, after one
that compiles; the table has medians of the rounds' ratios of the time of an epoch's steps, without
what the callback does at the epoch's end.

W&B and MLflow are left out where they are not installed. W&B runs disabled, MLflow logs to a file.
"""

import argparse
import importlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import rich.box
import rich.console
import rich.table

from benchmarks import harness
from benchmarks import saving_cost

STEPS, BATCH, SIZES = 512, 32, (64, 32, 10)


def checkpoint(directory):
    return keras.callbacks.ModelCheckpoint(directory / "model.keras")


def backup(directory):
    return keras.callbacks.BackupAndRestore(directory / "backup")


def tensorboard(directory):
    importlib.import_module("tensorboard")
    return keras.callbacks.TensorBoard(directory / "logs")


def wandb(directory):
    package = importlib.import_module("wandb")
    package.init(mode="disabled", dir=str(directory))
    return importlib.import_module("wandb.integration.keras").WandbMetricsLogger()


def mlflow(directory):
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    package = importlib.import_module("mlflow")
    package.set_tracking_uri(f"sqlite:///{directory / 'store.db'}")
    if package.get_experiment_by_name("cost") is None:
        package.create_experiment("cost", artifact_location=(directory / "artifacts").as_uri())
    package.set_experiment("cost")
    return importlib.import_module("mlflow.keras").MlflowCallback()


CALLBACKS = {
    "ModelCheckpoint": checkpoint,
    "BackupAndRestore": backup,
    "TensorBoard": tensorboard,
    "WandbMetricsLogger": wandb,
    "MlflowCallback": mlflow,
}


def race(make, rounds, steps=STEPS):
    """``[seconds of a step without, and with]`` of each round."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps * BATCH, SIZES[0])).astype("float32")
    y = rng.integers(0, SIZES[-1], len(x))
    trainer, times = saving_cost.make_trainer(SIZES), []

    def timed(*callbacks):
        trainer.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[*callbacks])
        # What a callback does with the batches is a part of the time of the callbacks; what it does
        # at the end of the epoch is too, and is taken off.
        seconds = trainer.times.seconds
        at_end = sum(callback.seconds for callback in callbacks)
        return (seconds["step"] + seconds["callbacks"] - at_end) / steps

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        made = make(Path(directory))
        for number in range(rounds + 1):
            row = [timed(), timed(clocked(made))]
            times += [row] if number else []
    return times


def clocked(callback):
    """The same callback, which notes the seconds of its events that are not of batches."""
    callback.seconds = 0.0
    for name in ("on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end"):
        event = getattr(type(callback), name).__get__(callback)

        def timed(*arguments, event=event, **more):
            begun = time.perf_counter()
            try:
                return event(*arguments, **more)
            finally:
                callback.seconds += time.perf_counter() - begun

        setattr(callback, name, timed)
    return callback


def main(arguments=None):
    """Races, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--only", choices=CALLBACKS)
    options = parser.parse_args(arguments)
    table = rich.table.Table(
        "callback", "a step without, us", "with, us", "ratio",
        box=rich.box.SIMPLE_HEAD,
    )  # fmt: skip
    console = rich.console.Console(highlight=False)
    for name in [options.only] if options.only else CALLBACKS:
        try:
            times = race(CALLBACKS[name], options.rounds, options.steps)
        except ImportError as error:
            console.print(f"{name} is left out: {error}")
            continue
        without, with_it = (statistics.median(column) for column in zip(*times, strict=True))
        ratio = statistics.median(row[1] / row[0] for row in times)
        table.add_row(name, f"{1e6 * without:.1f}", f"{1e6 * with_it:.1f}", f"{ratio:.2f}")
    console.print(table)
    console.print(harness.machine_line())


if __name__ == "__main__":
    main()
