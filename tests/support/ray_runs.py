"""Ray Train and Ray Tune: trainings that nothing happens to, and ones that are lost once.

::

    python -m tests.support.ray_runs DIRECTORY            # two workers, one of them killed
    python -m tests.support.ray_runs DIRECTORY alone      # one process, which fails; a trial too
"""

import os
import pathlib
import pickle
import signal
import sys
import time

import keras
import numpy as np
import ray.train
import ray.tune
from ray.train.tensorflow import TensorflowTrainer

from kerastrain import Trainer
from kerastrain.ray import RunReport

EPOCHS, STEP = 4, 18  # of 28
COMMITTED = 5.0  # seconds after which Ray has committed what was reported; it looks each second


def build():
    keras.utils.set_random_seed(1)
    layers = keras.layers
    hidden = [layers.Dense(16, activation="relu"), layers.Dropout(0.2), layers.Dense(1)]
    return keras.Sequential([keras.Input((8,)), *hidden])


class Killed(keras.callbacks.Callback):
    """Kills the second worker after a step, once."""

    def __init__(self, marker):
        super().__init__()
        self.marker, self.steps = marker, 0

    def get_state(self):
        return self.steps

    def set_state(self, state):
        self.steps = state

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        is_other = ray.train.get_context().get_world_rank() == 1
        if is_other and self.steps == STEP and not self.marker.exists():
            self.marker.touch()
            time.sleep(COMMITTED)
            os.kill(os.getpid(), signal.SIGKILL)


class Fails(keras.callbacks.Callback):
    """Raises after two epochs, once."""

    def __init__(self, marker):
        super().__init__()
        self.marker = marker

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2 and not self.marker.exists():
            self.marker.touch()
            raise RuntimeError("once")


def train_on_worker(config):
    """Trains; writes which checkpoint it began with, and then the weights and the history."""
    directory, rank = pathlib.Path(config["directory"]), ray.train.get_context().get_world_rank()
    with open(directory / f"starts-{rank}.txt", "a") as file:
        file.write("anew\n" if ray.train.get_checkpoint() is None else "resumed\n")
    trainer, (x, y) = made("multi_worker"), data()
    report = RunReport(monitor="val_loss")
    history = trainer.fit(
        x, y, batch_size=32, epochs=EPOCHS, verbose=0, validation_data=(x[:50], y[:50]),
        run_dir=report.run_dir, callbacks=[Killed(directory / "killed"), report],
    )  # fmt: skip
    outcome = [w.numpy() for w in trainer.model.weights], history.history
    (directory / f"{rank}.pickle").write_bytes(pickle.dumps(outcome))


def data():
    x = np.random.default_rng(0).normal(size=(203, 8)).astype("float32")
    return x, x.sum(axis=1)


def made(strategy=None):
    return Trainer(build, optimizer="adam", loss="mse", metrics=["mae"], strategy=strategy, seed=0)


def main(directory):
    """Both trainings, and what one process without Ray makes of the last checkpoint."""
    directory = pathlib.Path(directory)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20)
    for name in ("whole", "lost"):
        own = directory / name
        own.mkdir()
        (own / "killed").touch() if name == "whole" else None
        result = TensorflowTrainer(
            train_on_worker,
            train_loop_config={"directory": str(own)},
            scaling_config=ray.train.ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=str(directory / "storage"),
                failure_config=ray.train.FailureConfig(max_failures=1),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        ).fit()
        (own / "reported.pickle").write_bytes(pickle.dumps(result.metrics))
    ray.shutdown()
    train_here(directory / "alone.pickle", result.checkpoint.to_directory(directory / "copied"))


def main_alone(directory):
    """One worker of Ray Train and one trial of Ray Tune that fail, and a training without Ray."""
    directory = pathlib.Path(directory)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20)

    def train_one(config):
        name = config["session"]
        report, marker = RunReport(name), directory / f"{name}-failed"
        strategy = "multi_worker" if name == "train" else None
        train_here(directory / f"{name}.pickle", report.run_dir, [Fails(marker), report], strategy)

    TensorflowTrainer(
        train_one,
        train_loop_config={"session": "train"},
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(failure_config=ray.train.FailureConfig(max_failures=1)),
    ).fit()
    run_config = ray.tune.RunConfig(failure_config=ray.tune.FailureConfig(max_failures=1))
    ray.tune.Tuner(train_one, param_space={"session": "tune"}, run_config=run_config).fit()
    ray.shutdown()
    train_here(directory / "here.pickle", None)


def train_here(path, run_dir, callbacks=(), strategy=None):
    """Trains in this process; writes the weights and the history."""
    trainer, (x, y) = made(strategy), data()
    history = trainer.fit(
        x, y, batch_size=32, epochs=EPOCHS, verbose=0, validation_data=(x[:50], y[:50]),
        run_dir=run_dir, callbacks=list(callbacks),
    )  # fmt: skip
    path.write_bytes(pickle.dumps(([w.numpy() for w in trainer.model.weights], history.history)))


if __name__ == "__main__":
    (main_alone if "alone" in sys.argv[2:] else main)(sys.argv[1])
