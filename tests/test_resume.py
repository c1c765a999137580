"""A training that is killed at any moment ends, after a resume, with the same bits."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import DataError
from kerastrain import Execution
from kerastrain import NonFiniteError
from kerastrain import Trainer
from kerastrain.checkpoint import Checkpoints
from kerastrain.errors import CheckpointError
from kerastrain.errors import RunError
from kerastrain.lock import Lock
from kerastrain.run import Run
from kerastrain.testing import NotResumed
from kerastrain.testing import verify_resume
from kerastrain.variables import variables_of
from kerastrain.testing.fresh import FreshProcesses
from tests import resuming
from tests.resuming import BATCH
from tests.resuming import network
from tests.resuming import rows
from tests.resuming import trainer

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("error::UserWarning:(kerastrain|tests)")


@pytest.fixture(scope="module")
def processes():
    with FreshProcesses() as fresh:
        yield fresh


@pytest.fixture(autouse=True)
def ctrl_c():
    """As in a terminal: a shell starts what runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# To the bit -------------------------------------------------------------------


# A sample: of each kind of data, plan, callback and precision, one that does the most.
SAMPLE = (
    "arrays, streamed",
    "plan xla_loop",
    "eager",
    "tf.data",
    "tf.data, stateful",
    "PyDataset that shuffles itself",
    "own callback",
    "mixed_float16",
    "bad rows, rolled back",
)


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in SAMPLE else pytest.mark.slow)
        for name in resuming.CASES
        if name != "most"
    ],
)
def test_killed_after_some_steps(processes, name):
    """Each kind of data, plan, callback and precision, killed within and between epochs."""
    if name in resuming.NEEDS:
        pytest.importorskip(resuming.NEEDS[name])
    verify_resume(**resuming.CASES[name](), kill_after=(4, 7, 10), processes=processes)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_killed_before_the_last_step(processes):
    """What a step of the user's own returned is the same thing, whichever plan ran it."""
    case = resuming.CASES["two optimizers"]()
    verify_resume(**case, kill_after=(17, 18), processes=processes)


@pytest.mark.multiprocess
def test_most_at_once_killed_after_every_step(processes):
    """Replicas, micro-batches, tf.data, Dropout, EMA, plateau and early stopping."""
    case = resuming.CASES["most"]() | {"epochs": 2}
    verify_resume(**case, kill_after=range(1, 2 * 6 + 1), processes=processes)


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["arrays", "tf.data"])
def test_saved_now_and_then(processes, name):
    """What ran after the last save is run again, to the same bits."""
    verify_resume(**resuming.CASES[name](), kill_after=(5, 13), save_every=4, processes=processes)


class Forgetful(resuming.Remembers):
    def get_state(self):
        return None

    def set_state(self, state):
        """Begins anew."""


@pytest.mark.multiprocess
def test_verify_resume_can_fail(processes):
    """A callback that forgets is found out, and the first difference named."""
    with pytest.raises(NotResumed, match="the history .*loss.* is "):
        verify_resume(
            trainer(),
            rows,
            epochs=3,
            batch_size=BATCH,
            callbacks=lambda: [Forgetful()],
            kill_after=(4,),
            processes=processes,
        )


def test_verify_resume_refuses_what_cannot_be():
    """A step that there is not, and a directory of one's own."""
    with pytest.raises(ArgumentError, match="`run_dir`"):
        verify_resume(trainer(), rows, run_dir="x")


# In this process --------------------------------------------------------------


def fit(run_dir, make=trainer(), data=rows, **arguments):
    data = data()
    x, y = data if isinstance(data, tuple) else (data, None)
    arguments = {"epochs": 2, "batch_size": BATCH, "verbose": 0, "save_every": 1} | arguments
    made = make()
    return made, made.fit(x, y, run_dir=run_dir, **arguments)


def weights(made):
    return [w.numpy() for w in made.model.weights]


def assert_same_weights(one, other):
    for a, b in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_longer_goes_on_where_it_ended(tmp_path):
    """More epochs go on; the history has all of them; so has the result."""
    fit(tmp_path)
    longer, history = fit(tmp_path, epochs=4)
    whole, expected = fit(tmp_path / "other", epochs=4)
    assert expected.history == history.history
    assert [0, 1, 2, 3] == history.epoch
    assert_same_weights(whole, longer)


def test_where_it_goes_on_is_said(tmp_path, capsys):
    """One line, unless nothing is to be shown."""
    fit(tmp_path, verbose=2)
    assert "Resuming" not in capsys.readouterr().out
    fit(tmp_path, epochs=3, verbose=2)
    assert "Resuming at epoch 3, step 1 (12 steps done), from " in capsys.readouterr().out


def test_the_same_plan_goes_on(tmp_path):
    """What was chosen is not chosen again, but for a longer training."""
    auto = trainer(execution="auto")
    fit(tmp_path, auto, epochs=30)
    path = Checkpoints(tmp_path / "checkpoints").paths()[-1]
    plan = read(path).info["state"]["plans"]["train"]
    assert plan in ("loop", "xla_loop")
    state = read(path)
    state.info["state"]["plans"]["train"] = other = {"loop": "step", "xla_loop": "loop"}[plan]
    state.info["state"]["position"] |= {"epoch": 29, "step": 0}
    Checkpoints(tmp_path / "checkpoints").write(state.tensors, state.info)
    made, _ = fit(tmp_path, auto, epochs=30)
    assert made.plans["train"].startswith(other)
    made, _ = fit(tmp_path, auto, epochs=60)
    assert "step" != made.plans["train"].split(",")[0]


def test_what_has_ended_is_not_run_again(tmp_path):
    """The same call returns the same, and trains no step."""
    first, expected = fit(tmp_path)
    before = Checkpoints(tmp_path / "checkpoints").paths()
    again, history = fit(tmp_path)
    assert expected.history == history.history
    assert_same_weights(first, again)
    assert before == Checkpoints(tmp_path / "checkpoints").paths()


def test_saving_changes_nothing(tmp_path):
    """With and without a directory the bits are the same."""
    saved, history = fit(tmp_path)
    plain, expected = fit(None, save_every=None)
    assert expected.history == history.history
    assert_same_weights(plain, saved)


@pytest.mark.parametrize("plan", ["loop", "xla_loop", "step"])
def test_a_snapshot_is_of_its_moment(tmp_path, monkeypatch, plan):
    """What is written in the background is not what later steps have made of it."""
    write = Checkpoints.write

    def slow(self, tensors, info):
        time.sleep(0.05)  # some steps run meanwhile
        return write(self, tensors, info)

    class Waits(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            time.sleep(0.02)

    monkeypatch.setattr(Checkpoints, "write", slow)
    fit(tmp_path / "run", trainer(execution=plan), keep=100, epochs=40, callbacks=[Waits()])
    paths = Checkpoints(tmp_path / "run" / "checkpoints").paths()
    assert 2 < len(paths) < 200  # while one was written, others were not due
    for path in paths:
        found = read(path)
        (count,) = [a for a in found.tensors.values() if a.dtype == np.int64 and a.size == 1]
        assert found.info["state"]["position"]["steps"] == int(count)
    one = read(paths[len(paths) // 2])
    epoch = one.info["state"]["position"]["epoch"]
    left = one.info["state"]["position"]["step"]
    until, _ = fit(tmp_path / "until", trainer(execution=plan), epochs=epoch + (left > 0))
    resumed = tmp_path / "resumed"
    Checkpoints(resumed / "checkpoints").write(one.tensors, one.info)
    again, _ = fit(resumed, trainer(execution=plan), epochs=epoch + (left > 0))
    assert_same_weights(until, again)


def read(path):
    from kerastrain import checkpoint

    return checkpoint.read(path)


def test_without_resume(tmp_path):
    """resume=False wants an empty directory."""
    fit(tmp_path, resume=False)
    with pytest.raises(RunError, match="There is a run in .*resume=True"):
        fit(tmp_path, resume=False)


def decaying():
    return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 9, 0.5))


def half_width():
    dense = keras.layers.Dense(1, dtype=keras.DTypePolicy("mixed_bfloat16"))
    model = network()
    return keras.Model(model.input, dense(model.layers[1].output))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("model", {"make": trainer(lambda: network(norm=True))}),
        (
            "model.layers.*activation",
            {"make": trainer(lambda: keras.Sequential([
                keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)]))},
        ),
        ("loss was 'mse', and is now 'mae'", {"make": trainer(loss="mae")}),
        (
            "optimizer.class was 'Adam', and is now 'SGD'",
            {"make": trainer(optimizer=keras.optimizers.SGD)},
        ),
        ("optimizer.beta_1", {"make": trainer(optimizer=lambda: keras.optimizers.Adam(0.01, 0.8))}),
        ("model.*dtype.*name was 'float32'", {"make": trainer(half_width)}),
        ("data.shuffle was True, and is now False", {"shuffle": False}),
        ("validation", {"validation_data": rows(1, 12)}),
        ("seed was 3, and is now 4", {"make": trainer(seed=4)}),
        ("metrics.*class was 'MeanAbs.*is now 'MeanSquared", {"make": trainer(metrics=["mse"])}),
        ("loss_weights was None, and is now '2.0'", {"make": trainer(loss_weights=2.0)}),
        ("optimizer.learning_rate was '0.0099.*is now {'class_name': 'Exp", {"make": trainer(optimizer=decaying)}),
        ("data.rows was 44, and is now 40", {"data": lambda: rows(count=40)}),
        ("x, y or sample_weight have other values", {"data": lambda: rows(seed=8)}),
        ("data.batches was 6, and is now 11", {"batch_size": 4}),
        ("data.steps_per_epoch was None, and is now 3", {"steps_per_epoch": 3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_another_run_is_refused(tmp_path, name, changed):
    """The first thing that differs is named, and the directory stays as it was."""
    fit(tmp_path)
    before = [p.name for p in sorted((tmp_path / "checkpoints").iterdir())]
    if name == "model.layers.*activation":
        fit(tmp_path / "own", make=trainer(lambda: keras.Sequential([
            keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])))  # fmt: skip
        place = tmp_path / "own"
    else:
        place = tmp_path
    with pytest.raises(RunError, match=f"is another one: {name}"):
        fit(place, **changed)
    assert before == [p.name for p in sorted((tmp_path / "checkpoints").iterdir())]


def unnamed():
    """A model with functions and seeds that are others in each process."""
    function = eval(compile("\n" * unnamed.made + "lambda x: 2 * x", f"<{unnamed.made}>", "eval"))
    unnamed.made += 1
    inputs = keras.Input((6,))
    dropped = keras.layers.Dropout(0.1, seed=unnamed.made)(keras.layers.Lambda(function)(inputs))
    dense = keras.layers.Dense(1, activation=function, kernel_initializer="zeros")
    return keras.Model(inputs, dense(dropped))


unnamed.made = 0


def test_what_differs_from_process_to_process_is_no_difference(tmp_path):
    """The place of a function without a name, and a seed that was drawn."""
    fit(tmp_path, trainer(unnamed))
    fit(tmp_path, trainer(unnamed), epochs=3)
    assert 2 == unnamed.made


def half():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, dtype="mixed_float16")])


@pytest.mark.parametrize("model", [network, half])
def test_another_learning_rate_is_said_not_to_count(tmp_path, model):
    """It is state; the one that was passed is not in force, in an optimizer within another too."""

    def make(rate):
        optimizer = keras.optimizers.SGD(rate)
        if model is half:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        return lambda: Trainer(model(), optimizer=optimizer, loss="mse", seed=3, execution="loop")

    fit(tmp_path, make(0.025))
    made = make(0.025)
    fit(tmp_path, made, epochs=3)
    for epochs in (4, 5):  # each time
        with pytest.warns(UserWarning, match="rate that it had, 0.025; .* passed has 0.05"):
            fit(tmp_path, make(0.05), epochs=epochs)

    def halved(epoch, rate):
        return rate / 2

    one = make(0.025)()
    for epochs in (1, 2):  # the rate of the same optimizer has changed since, and nobody passed it
        one.fit(
            *rows(), epochs=epochs, verbose=0, run_dir=tmp_path / "one",
            callbacks=[keras.callbacks.LearningRateScheduler(halved)],
        )  # fmt: skip


def test_one_process_at_a_time(tmp_path):
    """The second is told which process has the directory."""
    program = "import sys, time; from kerastrain.lock import Lock\n"
    program += "with Lock(sys.argv[1]): print('taken', flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE)
    try:
        assert b"taken\n" == other.stdout.readline()
        with pytest.raises(RunError, match=f"in use by process {other.pid} on "):
            fit(tmp_path)
    finally:
        other.kill()
        other.communicate()
    fit(tmp_path)  # it went with the process
    with Lock(tmp_path), pytest.raises(RunError, match="another training of this process"):
        fit(tmp_path)
    fit(tmp_path)


def test_a_copy_of_the_directory_does_not_unlock_it(tmp_path):
    """The system drops the lock of a process that closes the file; each save takes it again."""

    class Copies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            (tmp_path / "run" / "lock").read_text()

        def on_epoch_end(self, epoch, logs=None):
            program = "import sys; from kerastrain.lock import Lock; Lock(sys.argv[1]).__enter__()"
            command = [sys.executable, "-c", program, tmp_path / "run"]
            failed = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert "RunError" in failed.stderr

    fit(tmp_path / "run", epochs=1, callbacks=[Copies()])


def test_a_lock_that_cannot_be_renewed_is_a_save_that_failed(tmp_path, monkeypatch):
    """The file system may be gone for a while."""

    def gone(self):
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(Lock, "renew", gone)
    with pytest.warns(UserWarning, match="could not be saved"):
        assert [0, 1] == fit(tmp_path)[1].epoch


def test_threads_do_not_share_the_directory(tmp_path):
    """One of those that come at the same time has it."""
    together, taken = threading.Barrier(8), []

    def take():
        together.wait()
        try:
            taken.append(Lock(tmp_path).__enter__())
        except RunError:
            taken.append(None)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lock,) = [one for one in taken if one is not None]
    lock.__exit__()
    assert 8 == len(taken)


def test_another_working_directory(tmp_path, monkeypatch):
    """The run stays where it was begun."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()

    class Moves(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            monkeypatch.chdir(tmp_path / "other")

    fit("run", callbacks=[Moves()])
    assert [] == [*(tmp_path / "other").iterdir()]
    assert Checkpoints(tmp_path / "run" / "checkpoints").newest() is not None


def test_numbers_of_numpy(tmp_path):
    """They are as good as Python's."""
    two, three = np.int64(2), np.int64(3)
    arguments = {"epochs": two, "steps_per_epoch": three, "save_every": two, "keep": two}
    arguments |= {"shuffle": np.bool_(True), "make": trainer(seed=three)}
    fit(tmp_path, **arguments)
    _, history = fit(tmp_path, **arguments | {"epochs": three})
    assert [0, 1, 2] == history.epoch


def test_forked_processes_do_not_keep_the_directory(tmp_path):
    """A worker that outlives the training does not lock it."""
    with Lock(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    program = "import sys; from kerastrain.lock import Lock; Lock(sys.argv[1]).__enter__()"
    try:
        subprocess.run([sys.executable, "-c", program, tmp_path], check=True, timeout=60)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_generator_is_refused(tmp_path):
    """It cannot go on anywhere else; what can is named."""
    with pytest.raises(DataError, match="`x` is a generator.*PyDataset"):
        fit(tmp_path, data=lambda: (rows() for _ in range(3)), batch_size=None)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`save_every` must be", {"save_every": 0}),
        ("`save_every` must be", {"save_every": "60s"}),
        ("`keep` must be", {"keep": 0}),
        ("BackupAndRestore", {"callbacks": [keras.callbacks.BackupAndRestore("x")]}),
        ("`monitor` must be", {"monitor": "best loss"}),
        ("`monitor` must be", {"monitor": 5}),
        ("`monitor` names a result of a validation", {"monitor": "val_loss"}),
        ("`run_dir` cannot be", {"run_dir": "/proc/nowhere"}),
        ("`run_dir` is a file", {"run_dir": __file__}),
        ("`run_dir` must be", {"run_dir": "gs://bucket/run"}),
        ("`run_dir` must be", {"run_dir": ""}),
        ("`run_dir` must be", {"run_dir": 5}),
    ],
)
def test_bad_arguments(tmp_path, message, arguments):
    """Each is named, with the value."""
    arguments = {"run_dir": tmp_path} | arguments
    with pytest.raises(ArgumentError, match=message):
        fit(**arguments)


def test_what_needs_a_directory():
    with pytest.raises(ArgumentError, match="need a directory"):
        fit(None, monitor="loss", save_every=None)


def test_the_best_is_kept(tmp_path):
    """Its checkpoint outlives the last ones, and best.keras is that model."""

    class Worse(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:  # from here on the loss goes up
                self.model.optimizer.learning_rate.assign(0.5)

    _, history = fit(tmp_path, epochs=5, monitor="loss", keep=1, callbacks=[Worse()])
    losses = history.history["loss"]
    best = int(np.argmin(losses))
    assert best < 4
    paths = Checkpoints(tmp_path / "checkpoints").paths()
    assert 2 == len(paths)
    ended, _ = fit(tmp_path / "until", epochs=best + 1, callbacks=[Worse()])
    exported = keras.saving.load_model(tmp_path / "best.keras")
    for a, b in zip(ended.model.weights, exported.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert json.loads((paths[0] / "manifest.json").read_text())["info"]["best"]["epoch"] == best


def test_torn_checkpoint(tmp_path):
    """The one before it is taken; what ran since is run again, to the same bits."""
    whole, expected = fit(tmp_path / "whole")
    fit(tmp_path / "torn", epochs=1)
    path = Checkpoints(tmp_path / "torn" / "checkpoints").paths()[-1]
    os.truncate(path / "state.safetensors", 1000)
    with pytest.warns(UserWarning, match="set-aside"):
        resumed, history = fit(tmp_path / "torn")
    assert expected.history == history.history
    assert_same_weights(whole, resumed)


def test_no_checkpoint_is_left(tmp_path):
    """Where none can be used, it begins anew and says so."""
    fit(tmp_path, keep=1)
    (path,) = Checkpoints(tmp_path / "checkpoints").paths()
    (path / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="begins anew|set-aside"):
        _, history = fit(tmp_path)
    assert [0, 1] == history.epoch


def test_a_full_disk_is_a_warning(tmp_path, monkeypatch):
    """The training goes on, and is saved when there is room again."""
    write, failures = Checkpoints.write, []

    def full(self, tensors, info):
        if len(failures) < 3:
            failures.append(1)
            raise OSError(28, os.strerror(28))
        return write(self, tensors, info)

    monkeypatch.setattr(Checkpoints, "write", full)
    with pytest.warns(UserWarning, match="could not be saved in .*No space left") as caught:
        made, history = fit(tmp_path)
    assert 3 == len([w for w in caught if "No space" in str(w.message)])
    plain, expected = fit(None, save_every=None)
    assert expected.history == history.history
    assert_same_weights(plain, made)
    assert 12 == read(Checkpoints(tmp_path / "checkpoints").paths()[-1]).info["state"][
        "position"]["steps"]  # fmt: skip


# A disk of a megabyte ---------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, where the system lets the tests have one."""
    if os.name != "posix" or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True
    ).returncode:  # fmt: skip
        pytest.skip("no file system can be mounted here")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


class During(keras.callbacks.Callback):
    """Does something at the begin of the second epoch, and something before the third."""

    def __init__(self, before, after):
        super().__init__()
        self.acts = {1: before, 2: after}

    def on_epoch_begin(self, epoch, logs=None):
        self.acts.get(epoch, lambda: None)()

    def get_state(self):
        return {}

    def set_state(self, state):
        pass


def check_goes_on_without(disk, fails, works, message):
    """Epochs of which nothing can be saved are a warning; what was saved before is whole."""
    saved = []

    def then_works():
        time.sleep(0.2)  # the save that is under way fails before
        works()
        saved.append(Checkpoints(disk / "run" / "checkpoints").newest())

    with pytest.warns(UserWarning, match=message):
        made, history = fit(disk / "run", epochs=3, callbacks=[During(fails, then_works)])
    plain, expected = fit(None, epochs=3, save_every=None)
    assert expected.history == history.history
    assert_same_weights(plain, made)
    assert 0 < saved[0].info["state"]["position"]["steps"] <= 12
    last = Checkpoints(disk / "run" / "checkpoints").newest()
    assert 18 == last.info["state"]["position"]["steps"]


def test_disk_that_is_full(disk):
    """Until somebody makes room."""
    filler = disk / "filler"

    def fill():
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))

    check_goes_on_without(disk, fill, filler.unlink, "could not be saved in .*No space left")


def test_disk_that_turns_read_only(disk):
    """As one does that fails; here another one lies over it for a while."""
    place = disk / "run" / "checkpoints"
    cover = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place]
    check_goes_on_without(
        disk,
        lambda: subprocess.run(cover, check=True),
        lambda: subprocess.run(["umount", place], check=True),
        "could not be saved in .*Read-only",
    )


def test_directory_that_is_read_only(disk):
    """Nothing can be begun in it, which is said before a step has run."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(ArgumentError, match="`run_dir` cannot be written: Read-only"):
        fit(disk / "run")


def test_the_clock_may_go_backwards(tmp_path, monkeypatch):
    """Neither what is due nor which is the newest depends on it."""
    monkeypatch.setattr(time, "time", iter(range(10**9, 0, -1)).__next__)
    fit(tmp_path, epochs=1)
    _, history = fit(tmp_path, epochs=2)
    assert [0, 1] == history.epoch


def test_a_callback_that_cannot_be_saved(tmp_path):
    """It is named, once, with what to do; one that changes nothing is not."""

    class Counts(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.count, self.label = 0, "a"

        def on_epoch_end(self, epoch, logs=None):
            self.count += 1

    class Keeps(keras.callbacks.Callback):
        label = "b"

    with pytest.warns(UserWarning, match="Counts changes `count`, which is not saved") as caught:
        fit(tmp_path, callbacks=[Counts(), Keeps()])
    assert 1 == len([w for w in caught if "not saved" in str(w.message)])


def test_a_csv_log_goes_on(tmp_path):
    """Rows of the epochs that are run again are not there twice."""
    log = tmp_path / "log.csv"
    fit(tmp_path / "run", epochs=2, callbacks=[keras.callbacks.CSVLogger(log)], keep=100)
    for path in Checkpoints(tmp_path / "run" / "checkpoints").paths()[8:]:
        (path / "manifest.json").unlink()  # back to the second step of the second epoch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(tmp_path / "run", epochs=3, callbacks=[keras.callbacks.CSVLogger(log)])
    fit(tmp_path / "whole", epochs=3, callbacks=[keras.callbacks.CSVLogger(tmp_path / "w.csv")])
    assert (tmp_path / "w.csv").read_text() == log.read_text()


def test_a_model_of_the_wrong_shape_is_never_filled(tmp_path):
    """Weights of another shape are refused before one is assigned."""
    fit(tmp_path)
    (path, *_) = reversed(Checkpoints(tmp_path / "checkpoints").paths())
    found = read(path)
    found.tensors["model/0"] = found.tensors["model/0"][:1]
    Checkpoints(tmp_path / "checkpoints").write(found.tensors, found.info)
    made = trainer()()
    before = weights(made)
    with pytest.raises(RunError, match=r"kernel is of float32 \(6, 8\), .* float32 \(1, 8\)"):
        made.fit(*rows(), batch_size=BATCH, verbose=0, run_dir=tmp_path)
    for a, b in zip(before, weights(made), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrong", [
    ("position", "steps", -1), ("position", "epoch", "x"), ("data", "x", {}), ("data", None),
    ("callbacks", None), ("random", "python", None), ("random", "numpy", [1]),
    ("data", "x", "taken", 10**12), ("data", "x", "seed", "x"),
])  # fmt: skip
def test_a_state_that_is_none_changes_nothing(tmp_path, wrong):
    """Whatever stands in a manifest with a right checksum, it is refused in one way."""
    fit(tmp_path)
    found = read(Checkpoints(tmp_path / "checkpoints").paths()[-1])
    *where, last, value = wrong
    entry = found.info["state"]
    for key in where:
        entry = entry[key]
    entry[last] = value
    Checkpoints(tmp_path / "checkpoints").write(found.tensors, found.info)
    made = trainer()()
    before = weights(made)
    with pytest.raises((CheckpointError, RunError)):
        made.fit(*rows(), batch_size=BATCH, epochs=3, verbose=0, run_dir=tmp_path)
    for a, b in zip(before, weights(made), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_callback_is_given_its_own_attributes_only(tmp_path):
    """A state cannot let a callback write elsewhere."""
    target = str(tmp_path / "model.keras")
    fit(tmp_path / "run", callbacks=[keras.callbacks.ModelCheckpoint(target)])
    place = Checkpoints(tmp_path / "run" / "checkpoints")
    found = read(place.paths()[-1])
    (state,) = [c for c in found.info["state"]["callbacks"] if "ModelCheckpoint" in c["class"]]
    state["state"]["filepath"] = str(tmp_path / "elsewhere.keras")
    place.write(found.tensors, found.info)
    fit(tmp_path / "run", epochs=3, callbacks=[keras.callbacks.ModelCheckpoint(target)])
    assert not (tmp_path / "elsewhere.keras").exists()


def test_a_result_that_cannot_be_monitored_is_a_warning(tmp_path):
    """The training goes on without the best."""
    with pytest.warns(UserWarning, match="There is no such result. There are: loss, mae"):
        _, history = fit(tmp_path, monitor="val_accuracy_of_mine", validation_data=rows(1, 12))
    assert [0, 1] == history.epoch
    with pytest.warns(UserWarning, match='Pass monitor="min size"'):
        fit(tmp_path / "other", trainer(metrics=[size]), monitor="size")
    with pytest.warns(UserWarning, match="It is not one number"):
        each = keras.metrics.F1Score(name="each")
        fit(tmp_path / "each", trainer(metrics=[each]), monitor="max each")


def size(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_pred))


class Logs(keras.callbacks.Callback):
    """Puts a value into the results."""

    def __init__(self, name, value):
        super().__init__()
        self.name, self.value = name, value

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.value


def test_what_cannot_be_saved_is_named_and_left_out(tmp_path):
    """Neither a callback's state nor a result of its own ends the training."""

    class Collects(resuming.Remembers):
        def get_state(self):
            return {"names": {1, 2}, "seen": self.seen}

    with pytest.warns(UserWarning, match="Collects remembers is not all saved: .* is of set"):
        fit(tmp_path / "a", callbacks=[Collects()])
    with pytest.warns(UserWarning, match="History remembers is not all saved: .* is of object"):
        _, history = fit(tmp_path / "b", callbacks=[Logs("when", object())])
    assert 2 == len(history.history["when"])

    class Fails(resuming.Remembers):
        def get_state(self):
            raise OSError("no such device")

    with pytest.warns(UserWarning, match="get_state of .*Fails raised OSError: no such device"):
        fit(tmp_path / "c", callbacks=[Fails()])
    with pytest.warns(UserWarning, match="Fails remembered was not saved: it begins anew"):
        fit(tmp_path / "c", callbacks=[Fails()], epochs=3)


def test_the_best_whose_checkpoint_failed(tmp_path, monkeypatch):
    """A worse result does not take the place of its model."""
    write, values = Checkpoints.write, [3.0, 1.0, 2.0]

    def full(self, tensors, info):
        if info["best"].get("value") == 1.0:
            raise OSError(28, os.strerror(28))
        return write(self, tensors, info)

    class Judges(keras.callbacks.Callback):
        written = []

        def on_epoch_begin(self, epoch, logs=None):
            path = tmp_path / "best.keras"
            self.written.append(path.stat().st_mtime_ns if path.exists() else None)

    monkeypatch.setattr(Checkpoints, "write", full)
    made = trainer(metrics=[Given(values)], execution=Execution(eager=True))
    with pytest.warns(UserWarning, match="could not be saved"):
        fit(tmp_path, made, epochs=4, monitor="min given", save_every=10**6, callbacks=[Judges()])
    none, worst, best, after = Judges.written
    assert none is None and worst < best == after
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = trainer(metrics=[Given([1.5])], execution=Execution(eager=True))
        fit(tmp_path, made, epochs=6, monitor="min given", save_every=10**6)
    assert best == (tmp_path / "best.keras").stat().st_mtime_ns  # neither after a resume


class Given(keras.metrics.Metric):
    """Gives values, one an epoch."""

    def __init__(self, values):
        super().__init__(name="given")
        self.values, self.epochs = values, -1

    def update_state(self, *_, **__):
        """Nothing is counted."""

    def reset_state(self):
        self.epochs += 1

    def result(self):
        return self.values[min(self.epochs, len(self.values) - 1)]


def test_what_a_callback_made_of_the_weights_is_not_saved(tmp_path):
    """A weight that is not finite is not saved, whoever has left it so."""

    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                weight = self.model.weights[0]
                weight.assign(keras.ops.full(weight.shape, np.nan))

    with pytest.raises(NonFiniteError, match="a callback has"):
        fit(tmp_path, epochs=3, callbacks=[Breaks()], monitor="loss")
    found = Checkpoints(tmp_path / "checkpoints").newest()
    assert all(np.isfinite(a).all() for n, a in found.tensors.items() if n.startswith("model"))


def test_logs_of_a_step_that_is_taken_back_are_not_reported(tmp_path):
    """The last good step's are, whether something was saved right then or not."""

    class Norms(keras.Model):
        def train_step(self, data):
            logs = super().train_step(data)
            return logs | {"size": keras.ops.sum(keras.ops.abs(self.trainable_weights[0]))}

    def run(place, **arguments):
        keras.utils.set_random_seed(5)
        inputs = keras.Input((6,))
        outputs = keras.layers.Dense(1)(keras.layers.Dense(8, "relu")(inputs))
        model = Norms(inputs, outputs)
        x, y = rows(count=40)
        x[-3] = np.nan
        made = Trainer(model, optimizer="sgd", loss="mse", guard="skip", execution="loop", seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            history = made.fit(
                x, y, batch_size=8, epochs=3, shuffle=False, verbose=0, run_dir=place, **arguments
            )
        return history.history

    expected, saved = run(None), run(tmp_path, save_every=5)
    assert np.isfinite(expected["size"]).all()
    assert expected == saved


def test_a_loss_whose_sum_overflows_goes_on(tmp_path):
    """A mean over an epoch that is infinite is no weight that is not finite."""
    large = trainer(loss=lambda y, p: 1e37 + 0 * keras.ops.sum(p, axis=-1))
    for epochs in (1, 1, 2):
        made, _ = fit(tmp_path, large, epochs=epochs, save_every=6)
    assert all(np.isfinite(w).all() for w in weights(made))


def test_variables_in_containers_come_last():
    """Runs of models without any go on: the others have the names that they had."""

    class Holds(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.words = ["a"] * 10**6
            self.listed = {"one": [tf.Variable(1.0)], "two": (tf.Variable(2.0),)}
            self.first = None
            self.second = tf.Variable(3.0)
            self.first = tf.Variable(4.0)

        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((2,)), Holds(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    begun = time.monotonic()
    found = [v.numpy() for n, v in variables_of(model).items() if n.startswith("layers/")]
    assert time.monotonic() - begun < 5
    assert [4.0, 3.0, 1.0, 2.0] == found


@pytest.mark.multiprocess
def test_variables_that_a_model_has_in_containers(processes):
    """Optimizers in a dict, and variables of TensorFlow's in a list, go on too."""

    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.own = {"all": [keras.optimizers.Adam(0.01)]}
            self.steps = [tf.Variable(0.0)]

        def call(self, x):
            return self.dense(x) + self.steps[0]

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, self.trainable_weights)
            self.own["all"][0].apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            self.steps[0].assign_add(0.1)
            return {"loss": loss}

    def make():
        keras.utils.set_random_seed(5)
        return Trainer(Two(), optimizer="sgd", seed=3, execution="step")

    verify_resume(make, rows, epochs=2, batch_size=BATCH, kill_after=(3, 9), processes=processes)


def test_a_failed_last_save_is_tried_again(tmp_path, monkeypatch):
    """The end is worth a second attempt."""
    write, calls = Checkpoints.write, []

    def full(self, tensors, info):
        calls.append(info["state"]["position"]["steps"])
        if calls.count(12) == 1:
            raise OSError(28, os.strerror(28))
        return write(self, tensors, info)

    monkeypatch.setattr(Checkpoints, "write", full)
    with pytest.warns(UserWarning, match="could not be saved"):
        fit(tmp_path, save_every=12)
    assert 12 == read(Checkpoints(tmp_path / "checkpoints").paths()[-1]).info["state"][
        "position"]["steps"]  # fmt: skip


def test_overdue_saves_leave_calls_long(tmp_path, monkeypatch):
    """While one is written, as many steps run in a call as ever."""
    monkeypatch.setattr(Checkpoints, "write", lambda *_: time.sleep(0.3))
    calls = []
    room = Run.room
    monkeypatch.setattr(Run, "room", lambda *a: calls.append(room(*a)) or calls[-1])
    fit(tmp_path, epochs=20, save_every=7)
    assert {1, 2**31 - 1} <= {*calls, 1}
    assert calls.count(2**31 - 1) > len(calls) / 2


# Signals ----------------------------------------------------------------------


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
        "import sys; from tests.test_resume import *\n"
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
