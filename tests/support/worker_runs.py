"""A training that is saved, of one device or several workers, and what may happen to it.

::

    python -m tests.support.worker_runs kill DIRECTORY
    python -m tests.support.worker_runs "stop at save" DIRECTORY
    python -m tests.support.worker_runs resume DIRECTORY

With ``kill``, ``stop`` or ``hang at`` a moment it happens to one worker: the last, or with
``chief:`` before it the first; with ``once:`` not after a restart. With ``statistics:`` layers keep some
of the rows of each worker. ``STEP`` in the environment is the
step after which it happens, of 39.
"""

import atexit
import os
import pathlib
import pickle
import signal
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from kerastrain import Execution
from kerastrain import metrics
from kerastrain import RunDir
from kerastrain import Trainer
from tests.support import worker_cases

STEP = int(os.environ.get("STEP", "20"))
STALL = 8.0


BEGUN = [time.monotonic()]  # when the last step had run


def happens(what):
    """To this process."""
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "hang":
        time.sleep(120)
    elif what == "raise":
        raise ValueError("an error of its own")
    elif what == "term":
        os.kill(os.getpid(), signal.SIGTERM)


class Lost:
    """What happens to one worker, and when.

    Args:
        mode: such as ``"chief: once: kill at tracing"``; any other is never.
    """

    def __init__(self, mode):
        *how, mode = mode.split(": ")
        self.what, _, self.moment = mode.partition(" at ")
        self.is_here = worker_cases.worker() in ([None, 0] if "chief" in how else [None, 1])
        if "once" in how and os.environ["KERASTRAIN_RESTART"] != "0":
            self.moment = "never"

    def at(self, moment):
        if self.is_here and moment == self.moment:
            happens(self.what)


LOST = []  # of this process: what a layer has is compared when a run is resumed


class Traced(keras.layers.Layer):
    """To whose tracing something may happen."""

    def call(self, x, training=False):
        if training:
            LOST[-1].at("tracing")
        return tf.debugging.assert_all_finite(x, "a bad row")


class OwnMean(keras.layers.Layer):
    """Keeps a moving mean of what it was given, on each worker of its own rows."""

    def build(self, shape):
        self.mean = self.add_weight(shape=(), initializer="zeros", trainable=False, name="mean")

    def call(self, x, training=False):
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(x))
        return x - self.mean


class Happens(keras.callbacks.Callback):
    """Does what is asked for after a step of the second epoch."""

    def __init__(self, mode):
        super().__init__()
        self.mode, self.steps, self.lost = mode, 0, Lost(mode)

    def get_state(self):
        if self.steps >= STEP:
            self.lost.at("save")

    def set_state(self, state):
        pass

    def on_test_batch_end(self, batch, logs=None):
        self.lost.at("validation")

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        BEGUN[0] = time.monotonic()
        if self.steps != STEP:
            return
        self.lost.at("step")
        if self.mode == "kill":
            time.sleep(1.0)  # what was saved before is on the disk
            happens("kill")
        if self.lost.is_here and self.mode.startswith("term"):
            happens("term")


def main(mode, directory):
    """Trains, unless something happens; writes the weights and logs."""
    happens_in, lost = Happens(mode), Lost(mode)
    LOST.append(lost)
    lost.at("import")
    atexit.register(lambda: print("seconds since:", time.monotonic() - BEGUN[0], flush=True))
    strategy = worker_cases.strategy()
    lost.at("start")
    x, y, _ = worker_cases.data(203)
    if mode.startswith("bad row"):  # of each batch of 16, the second of two workers has the last 8
        x[int(mode.split()[-1])] = np.nan
    middle = Traced()
    if "statistics" in mode:
        middle = keras.Sequential([middle, keras.layers.BatchNormalization(), OwnMean()])
    trainer = Trainer(
        worker_cases.network(middle),
        optimizer=keras.optimizers.Adam(0.01),
        loss="binary_crossentropy",
        metrics=["accuracy", metrics.PearsonCorrelation(), keras.metrics.AUC()],
        strategy=strategy,
        seed=3,
        execution=Execution(stall_seconds=STALL if "hang" in mode else 600.0),
    )
    others, monitor = [], None
    if mode == "models":
        others = [keras.callbacks.ModelCheckpoint(pathlib.Path(directory, "last.keras"))]
        monitor = "val_loss"
    saved = not mode.endswith(("whole", "term, unsaved"))
    history = trainer.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        verbose=2,
        shuffle=not mode.startswith("bad row"),
        validation_data=(x[:50], y[:50]),
        callbacks=[happens_in, *others],
        run_dir=RunDir(pathlib.Path(directory, "run"), save_every=6, monitor=monitor)
        if saved
        else None,
    ).history
    outcome = [w.numpy() for w in trainer.model.weights], history
    path = pathlib.Path(directory, f"{worker_cases.worker() or 0}.pickle")
    path.write_bytes(pickle.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
