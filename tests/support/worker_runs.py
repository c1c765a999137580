"""A training that is saved, of one device or several workers, and what may happen to it.

::

    python -m tests.support.worker_runs kill DIRECTORY
    python -m tests.support.worker_runs resume DIRECTORY
"""

import atexit
import os
import pathlib
import pickle
import signal
import sys
import time

import keras

from kerastrain import Execution
from kerastrain import metrics
from kerastrain import RunDir
from kerastrain import Trainer
from tests.support import worker_cases

STEP = 20  # of 39
STALL = 8.0


class Happens(keras.callbacks.Callback):
    """Does what is asked for after a step of the second epoch."""

    def __init__(self, mode):
        super().__init__()
        self.mode, self.steps, self.is_other = mode, 0, worker_cases.worker() in (None, 1)
        self.begun = time.monotonic()

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def on_test_batch_end(self, batch, logs=None):
        if self.mode == "kill one in validation" and self.is_other:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.begun = time.monotonic()
        if self.steps != STEP:
            return
        if self.mode == "kill":
            time.sleep(1.0)  # what was saved before is on the disk
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.is_other:
            return
        if self.mode.startswith("term"):
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.mode == "kill one, once" and os.environ["KERASTRAIN_RESTART"] != "0":
            pass
        elif self.mode in ("kill one", "kill one, once"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.mode == "stop one":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.mode == "hang":
            time.sleep(60)


def main(mode, directory):
    """Trains, unless something happens; writes the weights and logs."""
    strategy = worker_cases.strategy()
    x, y, _ = worker_cases.data(203)
    trainer = Trainer(
        worker_cases.network(),
        optimizer=keras.optimizers.Adam(0.01),
        loss="binary_crossentropy",
        metrics=["accuracy", metrics.PearsonCorrelation(), keras.metrics.AUC()],
        strategy=strategy,
        seed=3,
        execution=Execution(stall_seconds=STALL if mode == "hang" else 600.0),
    )
    saved = mode not in ("whole", "term, unsaved")
    happens = Happens(mode)
    atexit.register(lambda: print("seconds since:", time.monotonic() - happens.begun, flush=True))
    history = trainer.fit(
        x,
        y,
        batch_size=16,
        epochs=3,
        verbose=2,
        validation_data=(x[:50], y[:50]),
        callbacks=[happens],
        run_dir=RunDir(pathlib.Path(directory, "run"), save_every=6) if saved else None,
    ).history
    outcome = [w.numpy() for w in trainer.model.weights], history
    path = pathlib.Path(directory, f"{worker_cases.worker() or 0}.pickle")
    path.write_bytes(pickle.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
