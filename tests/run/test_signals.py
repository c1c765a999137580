"""A signal saves what was trained and ends the process, at any moment of a fit."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings

import keras
import pytest
import tensorflow as tf

from kerastrain import Trainer
from kerastrain.run.checkpoint import Checkpoints
from kerastrain.run.checkpoint import read
from tests.support import tiers
from tests.support.resuming import BATCH
from tests.support.resuming import rows
from tests.support.resuming import trainer
from tests.support.runs import assert_same_weights
from tests.support.runs import fit

pytestmark = pytest.mark.filterwarnings("error::UserWarning:(kerastrain|tests)")

ROOT = pathlib.Path(__file__).parents[2]


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


# What others are much like.
SLOW = {"on_epoch_begin", "on_test_begin", "on_test_batch_begin", "on_test_end"}
SLOW |= {"on_train_begin", "on_train_batch_begin", "on_test_batch_end", "on_epoch_end"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """``(arguments, trainer, history)`` of a training that nobody interrupts."""
    arguments = {"validation_data": rows(1, 12), "epochs": 3, "save_every": 10**6}
    return arguments, *fit(tmp_path_factory.mktemp("whole"), **arguments)


@pytest.mark.parametrize(
    ("event", "number"),
    [
        *(
            pytest.param(event, signal.SIGTERM, marks=[pytest.mark.slow] * (event in SLOW))
            for event in EVENTS
        ),
        ("on_test_batch_end", signal.SIGINT),
    ],
)
def test_a_signal_saves_and_leaves(tmp_path, whole, event, number, capfd):
    """At any moment; the status says which; what was there before handles signals again."""
    arguments, uninterrupted, expected_history = whole
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    expected = SystemExit if number == signal.SIGTERM else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        fit(tmp_path / "run", callbacks=[Sends(event, number)], **arguments)
    if number == signal.SIGTERM:
        assert 143 == caught.value.code
    assert f"{signal.Signals(number).name}: saving" in capfd.readouterr().err
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    resumed, history = fit(tmp_path / "run", **arguments)
    assert expected_history.history == history.history
    assert_same_weights(uninterrupted, resumed)


@pytest.mark.slow
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


class CountsTests(keras.Model):
    """Its test step counts its batches in what it alone knows."""

    def test_step(self, data):
        self.count()
        return super().test_step(data)


def test_a_signal_in_the_first_validation(tmp_path):
    """What the validation has met first is as if it had not begun."""
    counters = []

    def make():
        keras.utils.set_random_seed(5)
        inputs = keras.Input((6,))
        model = CountsTests(inputs, keras.layers.Dense(1)(inputs))
        counter = tf.Variable(0.0)
        counters.append(counter)
        model.count = lambda: counter.assign_add(1.0)
        return Trainer(model, optimizer="sgd", loss="mse", seed=3, execution="step")

    arguments = {"validation_data": rows(1, 2 * BATCH), "epochs": 2, "save_every": 10**6}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SystemExit):
            fit(tmp_path, make, callbacks=[Sends("on_test_batch_end")], **arguments)
        fit(tmp_path, make, **arguments)
    assert 4.0 == float(counters[-1])


class Tallies(keras.layers.Layer):
    """Counts its calls outside of training in a table."""

    def __init__(self):
        super().__init__()
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)

    def call(self, x, training=False):
        key = tf.constant([0], tf.int64)
        if not training:
            self.table.insert(key, self.table.lookup(key) + 1.0)
        return x


@pytest.mark.slow
def test_a_signal_in_a_validation_that_changes_a_table(tmp_path):
    """The table is as if the validation had not begun, though no variable changes in it."""
    layers = []

    def make():
        keras.utils.set_random_seed(5)
        layers.append(Tallies())
        model = keras.Sequential([keras.Input((6,)), layers[-1], keras.layers.Dense(1)])
        return Trainer(model, optimizer="sgd", loss="mse", seed=3, execution="step")

    arguments = {"validation_data": rows(1, 2 * BATCH), "epochs": 2, "save_every": 10**6}
    with pytest.raises(SystemExit):
        fit(tmp_path, make, callbacks=[Sends("on_test_batch_end")], **arguments)
    fit(tmp_path, make, callbacks=[Sends("on_train_end", None)], **arguments)
    assert [4.0] == layers[-1].table.lookup(tf.constant([0], tf.int64)).numpy().tolist()


class Slow(keras.utils.PyDataset):
    """Batches that take their time, drawn by processes."""

    num_batches = 40

    def __init__(self):
        super().__init__(workers=2, use_multiprocessing=True)

    def __getitem__(self, index):
        time.sleep(0.1)
        return rows(count=BATCH)


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT])
def test_a_signal_to_all_processes(tmp_path, number):
    """Ctrl-C reaches those that draw the batches too; the training is saved all the same."""
    program = (
        "import sys; from kerastrain import RunDir; from tests.run.test_signals import *\n"
        "begins = lambda batch, logs: pathlib.Path(sys.argv[1], 'trains').touch()\n"
        "begins = keras.callbacks.LambdaCallback(on_train_batch_end=begins)\n"
        "keras.utils.set_random_seed(1)\n"
        "trainer()().fit(Slow(), epochs=99, verbose=2, run_dir=RunDir(sys.argv[1], save_every=10**6),\n"
        "                callbacks=[begins])\n"
    )
    begun = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], start_new_session=True, cwd=ROOT
    )
    try:
        while not (tmp_path / "trains").exists() and begun.poll() is None:
            time.sleep(0.1)
        os.killpg(begun.pid, number)
        assert -signal.SIGINT == begun.wait(300) or 130 == begun.returncode
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(begun.pid, signal.SIGKILL)
        begun.wait()
    assert read(Checkpoints(tmp_path / "checkpoints").paths()[-1]).info["state"]["position"][
        "steps"
    ]


def test_a_signal_that_is_ignored_stays_so(tmp_path, monkeypatch):
    """As that of Ctrl-C where a shell runs a program in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _, history = fit(tmp_path, callbacks=[Sends("on_epoch_end", signal.SIGINT)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert [0, 1] == history.epoch


@pytest.mark.slow
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


@pytest.mark.parametrize("number", [signal.SIGTERM, tiers.slow(signal.SIGINT)])
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


@pytest.mark.process
def test_a_second_signal_ends_at_once(processes, tmp_path):
    """It leaves the last checkpoint valid."""

    def stuck(place):
        signal.signal(signal.SIGINT, signal.default_int_handler)

        class Sticks(Sends):
            def send(self, *_, **__):
                # The save after the first step is written in the background.
                while Checkpoints(place / "checkpoints").newest() is None:
                    time.sleep(0.01)
                super().send()
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(600)

        fit(place, callbacks=[Sticks("on_epoch_end")])

    ended = processes.run(stuck, tmp_path, seconds=300)
    assert -signal.SIGINT == ended.status, ended.output
    assert Checkpoints(tmp_path / "checkpoints").newest() is not None


@pytest.mark.process
def test_the_status_of_a_process(processes, tmp_path):
    """143 after SIGTERM from another process, in the middle of a training."""

    class Asks(Sends):
        def send(self, *_, **__):
            if self.number:
                self.number = None
                subprocess.run(["kill", "-TERM", str(os.getpid())], check=True)

    def asked(place):
        fit(place, epochs=500, callbacks=[Asks("on_train_batch_end")])

    ended = processes.run(asked, tmp_path, seconds=300)
    assert 143 == ended.status, ended.output
    assert Checkpoints(tmp_path / "checkpoints").newest().info["state"]["position"]["steps"]


def test_fit_in_a_thread_installs_nothing(tmp_path):
    """Only the main thread may; a training in another one is saved all the same."""
    thread = threading.Thread(target=fit, args=(tmp_path,))
    thread.start()
    thread.join(120)
    assert Checkpoints(tmp_path / "checkpoints").newest() is not None


# What else goes on when a signal comes -----------------------------------------------


def test_the_handler_of_the_user_is_called_when_all_is_saved(tmp_path):
    """Once, with the signal; what it raises is what the training ends with."""
    called = []

    def own(number, frame):
        found = Checkpoints(tmp_path / "checkpoints").newest()
        called.append((number, found.info["state"]["position"]["steps"], frame is not None))

    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(SystemExit) as caught:
            fit(tmp_path, callbacks=[Sends("on_epoch_end")], save_every=10**6)
        assert signal.getsignal(signal.SIGTERM) is own
        assert ([(signal.SIGTERM, 6, True)], 143) == (called, caught.value.code)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        with pytest.raises(SystemExit) as caught:
            fit(tmp_path, epochs=3, callbacks=[Sends("on_epoch_end")])
        assert 7 == caught.value.code
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
def test_the_handler_of_the_user_is_called_after_an_error(tmp_path):
    """The signal is not lost where the training ends otherwise."""
    called = []

    class Fails(Sends):
        def send(self, *_, **__):
            super().send()
            raise ValueError("of the callback")

    before = signal.signal(signal.SIGTERM, lambda *_: called.append(1))
    try:
        with pytest.raises(ValueError, match="of the callback"):
            fit(tmp_path, callbacks=[Fails("on_epoch_end")])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert [1] == called


@pytest.mark.parametrize(
    ("number", "expected"),
    [(signal.SIGTERM, SystemExit), tiers.slow(signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_before_an_error(tmp_path, number, expected):
    """It is not lost: the process was to end. The error is reported."""

    class Fails(Sends):
        def send(self, *_, **__):
            super().send()
            raise ValueError("of the callback")

    with (
        pytest.warns(UserWarning, match="ended in an error: ValueError: of the callback"),
        pytest.raises(expected) as caught,
    ):
        fit(tmp_path, callbacks=[Fails("on_train_batch_end", number)])
    assert isinstance(caught.value.__context__, ValueError)
    if number == signal.SIGTERM:
        assert 143 == caught.value.code


class Trains(keras.callbacks.Callback):
    """Runs another training within an event, which gets a signal."""

    def __init__(self, event, place, sends, epochs=2):
        super().__init__()
        self.place, self.sends, self.epochs, self.ended = place, sends, epochs, []
        setattr(self, event, self.train)

    def train(self, *_, **__):
        saved = {"save_every": 10**6} if self.place else {"save_every": None}
        inner = [Sends("on_epoch_end", self.sends.pop() if self.sends else None)]
        _, history = fit(self.place, trainer(seed=7), epochs=self.epochs, callbacks=inner, **saved)
        self.ended.append(history.epoch)

    def get_state(self):
        return None

    def set_state(self, state):
        """Nothing is remembered."""


@pytest.mark.parametrize("has_own", [tiers.slow(True), tiers.slow(False)])
@pytest.mark.parametrize("event", ["on_epoch_end", "on_epoch_begin"])
def test_a_training_within_a_callback(tmp_path, event, has_own):
    """It continues to its end, and the outer one is saved and leaves: both resume bit-exactly."""
    inner, other = (tmp_path / name if has_own else None for name in ("inner", "other"))
    one = Trains(event, inner, [signal.SIGTERM])
    with pytest.raises(SystemExit) as caught:
        fit(tmp_path / "run", callbacks=[one], save_every=10**6)
    assert (143, [[0, 1]]) == (caught.value.code, one.ended)
    if has_own:
        assert (
            12
            == read(Checkpoints(inner / "checkpoints").paths()[-1]).info["state"]["position"][
                "steps"
            ]
        )
    resumed, history = fit(tmp_path / "run", callbacks=[Trains(event, inner, [])])
    whole, expected = fit(tmp_path / "whole", callbacks=[Trains(event, other, [])])
    assert expected.history == history.history
    assert_same_weights(whole, resumed)


def test_a_training_within_one_that_is_not_saved_leaves(tmp_path):
    """Only the inner one can be saved."""
    one = Trains("on_epoch_end", tmp_path, [signal.SIGTERM])
    with pytest.raises(SystemExit):
        fit(None, callbacks=[one], save_every=None)
    assert (
        6
        == read(Checkpoints(tmp_path / "checkpoints").paths()[-1]).info["state"]["position"][
            "steps"
        ]
    )


@pytest.mark.slow
def test_a_training_within_another_is_saved_at_the_signal(tmp_path):
    """It may take long to its end, and the next signal ends it."""
    seen = []

    class Looks(Sends):
        def on_train_batch_begin(self, batch, logs=None):
            """The step after the signal waits for the save, which is in the background."""
            checkpoints = Checkpoints(tmp_path / "inner" / "checkpoints")
            until = time.monotonic() + (30 if self.number is None and not seen else 0)
            while not checkpoints.paths() and time.monotonic() < until:
                time.sleep(0.01)
            if self.number is None:
                seen.append(len(checkpoints.paths()))

    class Inner(Trains):
        def train(self, *_, **__):
            looks = Looks("on_train_batch_end")
            fit(self.place, trainer(seed=7), epochs=3, callbacks=[looks], save_every=10**6)

    with pytest.raises(SystemExit):
        fit(tmp_path / "run", callbacks=[Inner("on_epoch_end", tmp_path / "inner", [])])
    assert 1 <= seen[0]


class Gone:
    """A stream that nobody reads any more once a signal has come."""

    def __init__(self, stream):
        self.stream, self.is_gone = stream, False

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        if self.is_gone:
            raise BrokenPipeError(32, os.strerror(32))
        return self.stream.write(text)

    def flush(self):
        self.write("")

    def fileno(self):
        raise OSError("has none")


@pytest.mark.parametrize("number", [signal.SIGTERM, tiers.slow(signal.SIGINT)])
def test_output_that_nobody_reads_after_a_signal(tmp_path, monkeypatch, number):
    """What prints is no error then; before, it is what it was."""
    gone = Gone(sys.stdout)
    monkeypatch.setattr(sys, "stdout", gone)

    class Prints(Sends):
        def send(self, *_, **__):
            gone.is_gone = True
            super().send()
            print("of a callback", flush=True)

    with pytest.raises((SystemExit, KeyboardInterrupt)):
        fit(tmp_path, verbose=2, callbacks=[Prints("on_train_batch_end", number)], save_every=10**6)
    assert sys.stdout is gone
    assert (
        1
        == read(Checkpoints(tmp_path / "checkpoints").paths()[-1]).info["state"]["position"][
            "steps"
        ]
    )
    gone.is_gone = False
    with pytest.raises(BrokenPipeError):
        fit(tmp_path, verbose=2, callbacks=[Prints("on_train_batch_end", None)])


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, -2)])
def test_a_pipe_that_closes(tmp_path, number, status):
    """As that of `tee`, which Ctrl-C ends first: saved, and the status is that of the signal."""
    program = (
        "import sys; from tests.run.test_signals import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Prints(keras.callbacks.Callback):\n"
        "    def on_train_batch_end(self, batch, logs=None): print('x' * 999); time.sleep(0.01)\n"
        "fit(sys.argv[1], epochs=999, verbose=2, callbacks=[Prints()], save_every=10**6)\n"
    )
    begun = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        while b"xxxx" not in (line := begun.stdout.readline()):
            assert line
        begun.stdout.close()
        begun.send_signal(number)
        assert begun.wait(120) in (status, 128 - status if status < 0 else status)
    finally:
        begun.kill()
        begun.wait()
    assert read(Checkpoints(tmp_path / "checkpoints").paths()[-1]).info["state"]["position"][
        "steps"
    ]
