"""What survives a ``kill -9``: `model.fit` with `BackupAndRestore`, and kerastrain.

    python -m benchmarks.kill_survival              # two to three minutes
    python -m benchmarks.kill_survival --rst        # as the README has it

Each training has 64 steps, 8 an epoch. One process runs it to the end; another is killed
(SIGKILL) while it is in step 28, and a third goes on. The table has the largest difference of a
weight between the two ends, and the updates that the optimizer counted, where they differ.
Every process is a fresh one, and every source of chance has a seed.

`BackupAndRestore` saves at the ends of epochs, or at each step where it says so; kerastrain at
each step. Not compared: how long it takes.
"""

import argparse
import os
import pathlib
import signal
import tempfile

import keras
import numpy as np
import rich.box
import rich.console
import rich.table
import tensorflow as tf

import kerastrain
from kerastrain import RunDir
from kerastrain.testing.fresh import FreshProcesses

ROWS, BATCH, EPOCHS, KILLED_IN = 64, 8, 8, 28
NOTHING = "does not start"


def rows():
    """Rows whose target is a sum, with noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 6)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) + rng.normal(size=(ROWS, 1))).astype("float32")


def network(dropout=False):
    """Two dense layers."""
    keras.utils.set_random_seed(1)
    layers = [keras.Input((6,)), keras.layers.Dense(8, activation="relu")]
    layers += [keras.layers.Dropout(0.4)] if dropout else []
    return keras.Sequential([*layers, keras.layers.Dense(1)])


def arrays(shuffle):
    """Arguments of ``fit``, for arrays."""
    x, y = rows()
    return {"x": x, "y": y, "batch_size": BATCH, "shuffle": shuffle}


def pipeline():
    """Arguments of ``fit``, for a shuffled pipeline."""
    tf.random.set_seed(3)
    return {"x": tf.data.Dataset.from_tensor_slices(rows()).shuffle(ROWS, seed=4).batch(BATCH)}


def plateau():
    """A callback that lowers the rate when three epochs were no better, as none is here."""
    return [keras.callbacks.ReduceLROnPlateau("loss", patience=3, factor=0.5, min_delta=100.0)]


def stopping():
    """A callback that ends the training when five epochs were no better, as none is here."""
    return [keras.callbacks.EarlyStopping("loss", patience=5, min_delta=100.0)]


# What the model is, the data, the callbacks, and how often Keras saves.
TRAININGS = {
    "arrays in order": (network, lambda: arrays(False), list, "epoch"),
    "arrays in order, each step saved": (network, lambda: arrays(False), list, 1),
    "shuffled arrays": (network, lambda: arrays(True), list, "epoch"),
    "shuffled tf.data": (network, pipeline, list, "epoch"),
    "Dropout": (lambda: network(True), lambda: arrays(False), list, "epoch"),
    "ReduceLROnPlateau": (network, lambda: arrays(False), plateau, "epoch"),
    "EarlyStopping": (network, lambda: arrays(False), stopping, "epoch"),
    "torn file": (network, lambda: arrays(False), list, "epoch"),
}


class Killed(keras.callbacks.Callback):
    """Kills the process in one of the optimizer's steps."""

    def __init__(self, kills):
        super().__init__()
        self.kills = kills

    def on_train_batch_begin(self, batch, logs=None):
        if self.kills and int(self.model.optimizer.iterations) == KILLED_IN - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def get_state(self):
        """Nothing is remembered."""

    def set_state(self, state):
        """Nothing was."""


def train(tool, name, place, kills):
    """Trains in ``place``, and writes the weights and the count of updates there."""
    make_model, make_data, make_callbacks, save_freq = TRAININGS[name]
    model, data = make_model(), make_data()
    optimizer = keras.optimizers.Adam(0.01)
    common = {"epochs": EPOCHS, "verbose": 0}
    callbacks = [*make_callbacks(), Killed(kills)]
    if tool == "model.fit":
        backup = keras.callbacks.BackupAndRestore(str(place / "backup"), save_freq=save_freq)
        model.compile(optimizer, "mse")
        model.fit(**data, **common, callbacks=[*callbacks, backup])
    else:
        trainer = kerastrain.Trainer(model, optimizer=optimizer, loss="mse", seed=2)
        trainer.fit(
            **data,
            **common,
            callbacks=callbacks,
            run_dir=RunDir(place / "run", save_every=1, keep=3),
        )
    np.savez(place / "end.npz", *model.get_weights(), steps=int(optimizer.iterations))


def tear(place):
    """Cuts the newest file of weights in half, as a lost machine may leave it."""
    files = [p for p in place.rglob("*") if p.suffix in (".h5", ".safetensors")]
    newest = max(files, key=lambda p: (p.stat().st_mtime_ns, p.parent.name))
    os.truncate(newest, newest.stat().st_size // 2)


def compare(fresh, tool, name, directory):
    """``(largest difference of a weight, updates)`` of a training that was killed."""
    places = [directory / f"{tool} {kind}" for kind in ("whole", "killed")]
    for place in places:
        place.mkdir()
    ended = [
        fresh.run(train, tool, name, places[0], False, seconds=120),
        fresh.run(train, tool, name, places[1], True, seconds=120),
    ]
    if [one.status for one in ended] != [0, -signal.SIGKILL]:
        raise RuntimeError(f"{tool}, {name}: {[one.output for one in ended]}")
    if name == "torn file":
        tear(places[1])
    if fresh.run(train, tool, name, places[1], False, seconds=120).status:
        return None
    whole, resumed = (np.load(place / "end.npz") for place in places)
    weights = [key for key in whole.files if key != "steps"]
    difference = max(float(np.abs(whole[key] - resumed[key]).max()) for key in weights)
    return difference, int(resumed["steps"]), int(whole["steps"])


def shown(result):
    """A cell of the table."""
    if result is None:
        return NOTHING
    difference, steps, expected = result
    counted = "" if steps == expected else f", {steps} updates for {expected}"
    return ("0" if difference == 0 else f"{difference:.1g}") + counted


def main(arguments=None):
    """Runs all, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rst", action="store_true", help="a table of reStructuredText")
    parser.add_argument("--only", help="one of the trainings")
    options = parser.parse_args(arguments)
    table = [("training", "model.fit, BackupAndRestore", "kerastrain")]
    with FreshProcesses() as fresh, tempfile.TemporaryDirectory() as directory:
        for name in [options.only] if options.only else TRAININGS:
            place = pathlib.Path(directory, name)
            place.mkdir()
            tools = ("model.fit", "kerastrain")
            table.append((name, *(shown(compare(fresh, tool, name, place)) for tool in tools)))
    if options.rst:
        print_rst(table)
    else:
        print_table(table)
    return table


def print_table(table):
    """For a terminal."""
    made = rich.table.Table(*table[0], box=rich.box.SIMPLE)
    for row in table[1:]:
        made.add_row(*row)
    rich.console.Console().print(made)


def print_rst(table):
    """For the README."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    line = " ".join("=" * width for width in widths)
    body = [
        " ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table
    ]
    print("\n".join([line, body[0], line, *body[1:], line]))


if __name__ == "__main__":
    main()
