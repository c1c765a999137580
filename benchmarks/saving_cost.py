"""What saving costs: a training with ``run_dir`` beside the same one without.

    python -m benchmarks.saving_cost                     # a few minutes
    python -m benchmarks.saving_cost --rounds 3 --only large

Models: a dense one of 21 million weights (with Adam a checkpoint of 252 MB), saved every 100
steps, and a small perceptron, saved every second. Rounds are interleaved, each in its turn on the
same trainer, after one that compiles; the table has medians of the rounds' ratios. The plan is
pinned, so that both run the same.

Not compared: other disks, several processes on one.
"""

import argparse
import datetime
import pathlib
import shutil
import statistics
import tempfile
import time

import keras
import numpy as np
import rich.box
import rich.console
import rich.table

import kerastrain
from benchmarks import harness

# name: (sizes of the dense layers, rows, batch, epochs, save_every)
MODELS = {
    "large": ((1024, 4096, 4096, 10), 64 * 100, 64, 3, 100),
    "small": ((784, 64, 10), 12_800, 32, 150, datetime.timedelta(seconds=1)),
}


def make_trainer(sizes):
    """A classifier of dense layers."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input(sizes[:1])]
    layers += [keras.layers.Dense(size, activation="relu") for size in sizes[1:-1]]
    model = keras.Sequential([*layers, keras.layers.Dense(sizes[-1])])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return kerastrain.Trainer(model, optimizer="adam", loss=loss, seed=0, execution="xla_loop")


def race(name, rounds, directory):
    """``(seconds without, seconds with)`` of each round, and the seconds that the loop saved."""
    sizes, rows, batch, epochs, save_every = MODELS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, sizes[0])).astype("float32")
    y = rng.integers(0, sizes[-1], rows)
    trainer = make_trainer(sizes)

    def timed(run_dir):
        begun = time.perf_counter()
        trainer.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, run_dir=run_dir)
        return time.perf_counter() - begun

    timed(None)
    times, loops = [], []
    for number in range(rounds):
        place = pathlib.Path(directory, f"{name}-{number}")
        pair = [timed(None)]
        pair.append(timed(kerastrain.RunDir(place, save_every=save_every)))
        loops.append(trainer.times.seconds["saving"])
        times.append(pair)
        shutil.rmtree(place)
    return times, loops


def main(arguments=None):
    """Races, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=MODELS)
    options = parser.parse_args(arguments)
    table = rich.table.Table(
        "model", "without, s", "with run_dir, s", "cost", "quartiles", "of it in the loop",
        box=rich.box.SIMPLE,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        for name in [options.only] if options.only else MODELS:
            times, loops = race(name, options.rounds, directory)
            share = 100 * statistics.median(
                loop / pair[0] for loop, pair in zip(loops, times, strict=True)
            )
            table.add_row(name, *harness.cost_cells(times), f"{share:.1f} %")
    rich.console.Console().print(table)


if __name__ == "__main__":
    main()
