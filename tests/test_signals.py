"""A signal saves what was trained and ends the process, at any moment of a fit."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import keras
import pytest

from kerastrain.checkpoint import Checkpoints
from kerastrain.checkpoint import read
from tests.resuming import BATCH
from tests.resuming import rows
from tests.resuming import trainer
from tests.runs import assert_same_weights
from tests.runs import fit

pytestmark = pytest.mark.filterwarnings("error::UserWarning:(kerastrain|tests)")

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def ctrl_c():
    """As in a terminal: a shell starts what runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Sends(keras.callbacks.Callback):
    """Sends a signal to its own process at an event."""

    def __init__(self, event, number=signal.SIGTERM):
        super().__init__()
        self.number = number
        setattr(self, event, self.send)

    def send(self, *_, **__):
        if self.number:
            number, self.number = self.number, None
            os.kill(os.getpid(), number)

    def get_state(self):
        return None

    def set_state(self, state):
        """Nothing is remembered."""


EVENTS = (
    "on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end",
    "on_test_begin", "on_test_batch_begin", "on_test_batch_end", "on_test_end", "on_epoch_end",
)  # fmt: skip


@pytest.mark.parametrize(
    ("event", "number"),
    [*((event, signal.SIGTERM) for event in EVENTS), ("on_test_batch_end", signal.SIGINT)],
)
def test_a_signal_saves_and_leaves(tmp_path, event, number, capfd):
    """At any moment; the status says which; what was there before handles signals again."""
    arguments = {"validation_data": rows(1, 12), "epochs": 3, "save_every": 10**6}
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    expected = SystemExit if number == signal.SIGTERM else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        fit(tmp_path / "run", callbacks=[Sends(event, number)], **arguments)
    if number == signal.SIGTERM:
        assert 143 == caught.value.code
    assert f"{signal.Signals(number).name}: saving" in capfd.readouterr().err
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    resumed, history = fit(tmp_path / "run", **arguments)
    whole, expected = fit(tmp_path / "whole", **arguments)
    assert expected.history == history.history
    assert_same_weights(whole, resumed)


def test_a_signal_in_a_validation_with_other_weights(tmp_path):
    """Those to train on are saved."""
    arguments = {"validation_data": rows(1, 12), "epochs": 3, "save_every": 10**6}
    average = trainer(optimizer=lambda: keras.optimizers.Adam(0.01, use_ema=True))

    def callbacks(event=None):
        swaps = keras.callbacks.SwapEMAWeights()
        return [swaps, Sends(event)] if event else [swaps, Sends("on_train_end", None)]

    with pytest.raises(SystemExit):
        fit(tmp_path / "run", average, callbacks=callbacks("on_test_batch_end"), **arguments)
    resumed, history = fit(tmp_path / "run", average, callbacks=callbacks(), **arguments)
    whole, expected = fit(tmp_path / "whole", average, callbacks=callbacks(), **arguments)
    assert expected.history == history.history
    assert_same_weights(whole, resumed)


class Slow(keras.utils.PyDataset):
    """Batches that take their time, drawn by processes."""

    num_batches = 40

    def __init__(self):
        super().__init__(workers=2, use_multiprocessing=True)

    def __getitem__(self, index):
        time.sleep(0.1)
        return rows(count=BATCH)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("number", [signal.SIGINT])
def test_a_signal_to_all_processes(tmp_path, number):
    """Ctrl-C reaches those that draw the batches too; the training is saved all the same."""
    program = (
        "import sys; from tests.test_signals import *\n"
        "keras.utils.set_random_seed(1)\n"
        "trainer()().fit(Slow(), epochs=99, verbose=2, run_dir=sys.argv[1], save_every=10**6)\n"
    )
    begun = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], start_new_session=True, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "lock").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(8)
        os.killpg(begun.pid, number)
        assert -signal.SIGINT == begun.wait(60) or 130 == begun.returncode
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(begun.pid, signal.SIGKILL)
        begun.wait()
    assert read(Checkpoints(tmp_path / "checkpoints").paths()[-1]).info["state"]["position"]["steps"]


def test_a_signal_that_is_ignored_stays_so(tmp_path, monkeypatch):
    """As that of Ctrl-C where a shell runs a program in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _, history = fit(tmp_path, callbacks=[Sends("on_epoch_end", signal.SIGINT)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert [0, 1] == history.epoch


@pytest.mark.parametrize("which", ["train", "validation"])
def test_data_that_end_in_an_error_after_a_signal(tmp_path, which):
    """The signal has ended what draws them, say: what was trained is saved."""

    class Ends(keras.utils.PyDataset):
        num_batches = 6
        fails = True

        def __init__(self, which):
            super().__init__()
            self.which = which

        def __getitem__(self, index):
            if index == 3 and self.fails and self.which == which:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.1)
                raise RuntimeError("a worker exited unexpectedly")
            x, y = rows()
            return x[index : index + 8], y[index : index + 8]

    arguments = {"batch_size": None, "epochs": 1, "save_every": 10**6, "shuffle": False}
    arguments |= {"make": trainer(execution="step"), "data": lambda: Ends("train")}
    arguments["validation_data"] = Ends("validation")
    with pytest.raises(SystemExit):
        fit(tmp_path / "run", **arguments)
    Ends.fails = False
    resumed, _ = fit(tmp_path / "run", **arguments)
    whole, _ = fit(tmp_path / "whole", **arguments)
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_very_end_is_not_lost(tmp_path, number):
    """All is saved and trained by then; the process is asked to end all the same."""
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        fit(tmp_path, callbacks=[Sends("on_train_end", number)])
    assert [0, 1] == fit(tmp_path)[1].epoch


def test_without_a_directory_signals_are_left_alone():
    """Nothing is installed."""
    seen = []

    class Looks(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    fit(None, callbacks=[Looks()], save_every=None)
    assert {before} == set(seen)


def slow_training(place):
    """A training whose steps take their time, with a save after each."""

    class Waits(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.05)

    fit(place, epochs=500, callbacks=[Waits()])


@pytest.mark.multiprocess
def test_a_second_signal_ends_at_once(processes, tmp_path):
    """It leaves the last checkpoint valid."""

    def stuck(place):
        signal.signal(signal.SIGINT, signal.default_int_handler)

        class Sticks(Sends):
            def send(self, *_, **__):
                super().send()
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)

        fit(place, callbacks=[Sticks("on_epoch_end")])

    ended = processes.run(stuck, tmp_path, seconds=50)
    assert -signal.SIGINT == ended.status, ended.output
    assert Checkpoints(tmp_path / "checkpoints").newest() is not None


@pytest.mark.multiprocess
def test_the_status_of_a_process(processes, tmp_path):
    """143 after SIGTERM from outside, in the middle of a training."""
    ended = processes.run(slow_training, tmp_path, seconds=60, signals=((5.0, signal.SIGTERM),))
    assert 143 == ended.status, ended.output


def test_fit_in_a_thread_installs_nothing(tmp_path):
    """Only the main thread may; a training in another one is saved all the same."""
    thread = threading.Thread(target=fit, args=(tmp_path,))
    thread.start()
    thread.join(120)
    assert Checkpoints(tmp_path / "checkpoints").newest() is not None
