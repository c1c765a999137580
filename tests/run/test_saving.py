"""What is saved, when, and what a save that fails leaves: a training that goes on."""

import concurrent.futures
import errno
import io
import json
import os
import pathlib
import subprocess
import threading
import time
import warnings

import keras
import numpy as np
import pytest

from kerastrain import ArgumentError
from kerastrain import Execution
from kerastrain import NonFiniteError
from kerastrain import Trainer
from kerastrain.errors import RunError
from kerastrain.run import checkpoint
from kerastrain.run.callback_states import CallbackStates
from kerastrain.run.checkpoint import Checkpoints
from kerastrain.run.checkpoint import read
from kerastrain.run.lock import Lock
from kerastrain.run.run_directory import Run
from kerastrain.run.saving import Saver
from tests.support import resuming
from tests.support import tiers
from tests.support.resuming import rows
from tests.support.resuming import trainer
from tests.support.runs import assert_same_weights
from tests.support.runs import fit

pytestmark = pytest.mark.filterwarnings("error::UserWarning:(kerastrain|tests)")


@pytest.mark.slow
def test_saving_changes_nothing(tmp_path):
    """With and without a directory the bits are the same."""
    saved, history = fit(tmp_path)
    plain, expected = fit(None, save_every=None)
    assert expected.history == history.history
    assert_same_weights(plain, saved)


class Saved(keras.callbacks.Callback):
    """Notes, of each epoch that is saved, what its checkpoint holds."""

    def __init__(self):
        super().__init__()
        self.events = []

    def get_state(self):
        return None

    def set_state(self, state):
        pass

    def on_epoch_end(self, epoch, logs=None):
        self.events.append(("end", epoch))

    def on_epoch_saved(self, epoch, logs, checkpoint):
        position = checkpoint and read(checkpoint).info["state"]["position"]
        self.events.append(("saved", epoch, sorted(logs), position and position["epoch"]))


@pytest.mark.parametrize("save_every", [1000, 1])
def test_on_epoch_saved(save_every, tmp_path):
    """Each epoch's end is on the disk when it is called; it is not called without a directory."""
    saved = Saved()
    fit(tmp_path, save_every=save_every, keep=1, callbacks=[saved])
    names = ["loss", "mae"]
    expected = [("end", 0), ("saved", 0, names, 1), ("end", 1), ("saved", 1, names, 2)]
    assert expected == saved.events
    assert 1 == len(list((tmp_path / "checkpoints").iterdir()))
    fit(None, callbacks=[unsaved := Saved()])
    assert [("end", 0), ("end", 1)] == unsaved.events


def test_on_epoch_saved_where_saving_fails(tmp_path, monkeypatch):
    """It is tried twice, and the callback is told that there is no checkpoint."""
    tries = []

    def fails(checkpoints, tensors, info):
        tries.append(info)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "write", fails)
    saved = Saved()
    with pytest.warns(UserWarning, match="could not be saved"):
        fit(tmp_path, save_every=1000, epochs=1, callbacks=[saved])
    assert ("saved", 0, ["loss", "mae"], None) == saved.events[-1]
    assert len(tries) >= 2


def writes_at_epoch_ends(monkeypatch):
    """A callback that lets saves write at the end of each epoch only, and waits for them there."""
    may_write, savers = threading.Event(), []
    save, write = Saver.save, Checkpoints.write

    def noted(saver, *arguments, **options):
        savers.append(saver)
        save(saver, *arguments, **options)

    def late(checkpoints, tensors, info):
        assert may_write.wait(300)
        return write(checkpoints, tensors, info)

    def ends(epoch, logs):
        may_write.set()
        if (writing := savers[-1]._writing) is not None:
            concurrent.futures.wait([writing])

    monkeypatch.setattr(Saver, "save", noted)
    monkeypatch.setattr(Checkpoints, "write", late)
    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: may_write.clear(), on_epoch_end=ends
    )


@pytest.mark.parametrize("plan", ["loop", tiers.slow("xla_loop"), tiers.slow("step")])
def test_a_snapshot_is_of_its_moment(tmp_path, monkeypatch, plan):
    """What is written in the background is not what later steps have made of it."""
    callbacks = [writes_at_epoch_ends(monkeypatch)]
    fit(tmp_path / "run", trainer(execution=plan), keep=100, epochs=6, callbacks=callbacks)
    found = [read(path) for path in Checkpoints(tmp_path / "run" / "checkpoints").paths()]
    assert 6 <= len(found) <= 13  # while one was written, others were not due
    for one in found:
        (count,) = [a for a in one.tensors.values() if a.dtype == np.int64 and a.size == 1]
        assert one.info["state"]["position"]["steps"] == int(count)
    one = found[0]
    epoch = one.info["state"]["position"]["epoch"]
    left = one.info["state"]["position"]["step"]
    assert (0, 1) == (epoch, left)  # five steps have run before it was written
    until, _ = fit(tmp_path / "until", trainer(execution=plan), epochs=epoch + (left > 0))
    resumed = tmp_path / "resumed"
    Checkpoints(resumed / "checkpoints").write(one.tensors, one.info)
    again, _ = fit(resumed, trainer(execution=plan), epochs=epoch + (left > 0))
    assert_same_weights(until, again)


def test_overdue_saves_leave_calls_long(tmp_path, monkeypatch):
    """While one is written, as many steps run in a call as ever."""
    trained = threading.Event()
    monkeypatch.setattr(Checkpoints, "write", lambda *_: trained.wait(300))
    calls = []
    until_save = Run.steps_until_save
    monkeypatch.setattr(
        Run, "steps_until_save", lambda *a: calls.append(until_save(*a)) or calls[-1]
    )
    ends = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: trained.set() if epoch == 9 else None
    )
    fit(tmp_path, epochs=10, save_every=7, callbacks=[ends])
    first = calls.index(2**31 - 1)
    assert {*calls[:first]} <= {*range(1, 8)}
    assert {2**31 - 1} == {*calls[first:]} and 9 <= len(calls[first:])


@pytest.mark.slow
def test_the_clock_may_go_backwards(tmp_path, monkeypatch):
    """Neither what is due nor which is the newest depends on it."""
    monkeypatch.setattr(time, "time", iter(range(10**9, 0, -1)).__next__)
    fit(tmp_path, epochs=1)
    _, history = fit(tmp_path, epochs=2)
    assert [0, 1] == history.epoch


# What is saved ---------------------------------------------------------------


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

    with pytest.warns(UserWarning, match="Counts changes `count`, not saved") as caught:
        fit(tmp_path, callbacks=[Counts(), Keeps()])
    assert 1 == len([w for w in caught if "not saved" in str(w.message)])


class Logs(keras.callbacks.Callback):
    """Puts a value into the results."""

    def __init__(self, name, value):
        super().__init__()
        self.name, self.value = name, value

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.value


@pytest.mark.slow
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


class Unsavable(keras.layers.Layer):
    """Keeps more than variables, and may fail to tell it."""

    fails = False

    def call(self, inputs):
        return inputs

    def save_own_variables(self, store):
        if self.fails:
            raise ZeroDivisionError("of the layer")


def test_whatever_the_users_code_raises_in_a_save_is_a_warning(tmp_path):
    """It is named, and the training has the numbers of one that is not saved."""

    def make():
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input((6,)), Unsavable(), keras.layers.Dense(1)])
        return Trainer(model, optimizer="sgd", loss="mse", seed=3, execution="loop")

    Unsavable.fails = True
    try:
        with pytest.warns(UserWarning, match="could not be saved in .*ZeroDivisionError: of the"):
            made, history = fit(tmp_path, make, save_every=10**6)
    finally:
        Unsavable.fails = False
    plain, expected = fit(None, make, save_every=None)
    assert expected.history == history.history
    assert_same_weights(plain, made)


# The best --------------------------------------------------------------------


class Given(keras.metrics.Metric):
    """Gives values, one an epoch."""

    values: list = []  # of the class: those of an instance would tell it from others

    def __init__(self):
        super().__init__(name="given")
        self.epochs = -1

    def update_state(self, *_, **__):
        """Nothing is counted."""

    def reset_state(self):
        self.epochs += 1

    def result(self):
        return self.values[min(self.epochs, len(self.values) - 1)]


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


@pytest.mark.slow
def test_the_best_is_not_what_a_callback_broke(tmp_path):
    """The model that was exported before stays."""
    kept = []

    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                kept.append((tmp_path / "best.keras").read_bytes())
                weight = self.model.weights[0]
                weight.assign(keras.ops.full(weight.shape, np.nan))

    with pytest.raises(NonFiniteError, match="a callback has"):
        fit(tmp_path, epochs=3, callbacks=[Breaks()], monitor="loss")
    assert kept == [(tmp_path / "best.keras").read_bytes()]


def size(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_pred))


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_best_whose_checkpoint_failed(tmp_path, monkeypatch):
    """A worse result does not take the place of its model."""
    write = Checkpoints.write

    def full(self, tensors, info):
        if info["best"].get("value") == 1.0:
            raise OSError(28, os.strerror(28))
        return write(self, tensors, info)

    class Judges(keras.callbacks.Callback):
        written = []

        def on_epoch_begin(self, epoch, logs=None):
            path = tmp_path / "best.keras"
            self.written.append(path.read_bytes() if path.exists() else None)

    monkeypatch.setattr(Checkpoints, "write", full)
    monkeypatch.setattr(Given, "values", [3.0, 1.0, 2.0])
    made = trainer(metrics=[Given()], execution=Execution(run_eagerly=True))
    with pytest.warns(UserWarning, match="could not be saved"):
        fit(tmp_path, made, epochs=4, monitor="min given", save_every=10**6, callbacks=[Judges()])
    none, worst, best, after = Judges.written
    assert none is None and worst != best == after
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monkeypatch.setattr(Given, "values", [1.5])
        made = trainer(metrics=[Given()], execution=Execution(run_eagerly=True))
        fit(tmp_path, made, epochs=6, monitor="min given", save_every=10**6)
    assert best == (tmp_path / "best.keras").read_bytes()  # neither after a resume


# Saves that fail -------------------------------------------------------------


def test_a_full_disk_is_a_warning(tmp_path, monkeypatch, saves_end):
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


@pytest.mark.slow
def test_disk_that_is_full(disk, saves_end):
    """Until somebody makes room."""
    filler = disk / "filler"

    def fill():
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))

    check_goes_on_without(disk, fill, filler.unlink, "could not be saved in .*No space left")


@pytest.mark.slow
def test_disk_that_turns_read_only(disk, saves_end):
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


def fails_while(monkeypatch, kind, name, error, epochs):
    """Lets a method fail during some epochs."""
    now, method = [0], getattr(kind, name)

    def failing(self, *arguments, **named):
        if now[0] in epochs:
            raise error
        return method(self, *arguments, **named)

    monkeypatch.setattr(kind, name, failing)

    class Counts(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            now[0] = epoch

        def get_state(self):
            return None

        def set_state(self, state):
            """Nothing is remembered."""

    return Counts()


@pytest.mark.parametrize(("kind", "name", "error"), [
    *(pytest.param(*one, marks=pytest.mark.slow) for one in [
        (Checkpoints, "paths", PermissionError(13, "Permission denied")),
        (Lock, "renew", RunError("another process has it")),
        (Lock, "renew", OSError(116, "Stale file handle")),
        (Checkpoints, "write", ValueError("Out of range float values")),
        (Saver, "_write", RuntimeError("cannot schedule")),
        (CallbackStates, "get", MemoryError()),
    ]),
])  # fmt: skip
def test_whatever_fails_of_a_save_is_a_warning(tmp_path, monkeypatch, saves_end, kind, name, error):
    """The training goes on with the same numbers, and is saved when that works again."""
    callback = fails_while(monkeypatch, kind, name, error, (1,))
    with pytest.warns(UserWarning, match="could not be saved in") as caught:
        made, _ = fit(tmp_path, epochs=3, callbacks=[callback], save_every=3)
    assert str(error).rstrip(".") in str(caught[0].message)
    assert len(caught) < 6  # not after each step
    assert_same_weights(fit(None, epochs=3, save_every=None)[0], made)
    assert 18 == Checkpoints(tmp_path / "checkpoints").newest().info["state"]["position"]["steps"]


def test_a_directory_that_cannot_be_listed_at_the_begin(tmp_path, monkeypatch):
    """Nothing is known of what lies there: that is said before a step has run."""
    callback = fails_while(monkeypatch, Checkpoints, "paths", PermissionError(13, "denied"), (0,))
    with pytest.raises(ArgumentError, match="`run_dir` cannot be read: .*denied"):
        fit(tmp_path, callbacks=[callback])


@pytest.mark.slow
def test_a_log_whose_file_is_gone(tmp_path):
    """The training goes on, and is saved."""
    log = tmp_path / "log.csv"

    class Removes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            log.unlink(missing_ok=True)

    callbacks = [keras.callbacks.CSVLogger(log), Removes()]
    made, _ = fit(tmp_path / "run", epochs=2, callbacks=callbacks)
    assert_same_weights(fit(None, save_every=None)[0], made)
    assert (
        12
        == Checkpoints(tmp_path / "run" / "checkpoints").newest().info["state"]["position"]["steps"]
    )

    class OnADiskThatIsGone(io.StringIO):
        def flush(self):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    class LosesItsDisk(keras.callbacks.CSVLogger):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            self.csv_file.close()
            self.csv_file = OnADiskThatIsGone()

    with pytest.warns(UserWarning, match="The state of .*LosesItsDisk raised OSError"):
        fit(tmp_path / "lost", epochs=1, callbacks=[LosesItsDisk(tmp_path / "lost.csv")])


def test_a_best_model_on_a_disk_that_turns_read_only(tmp_path, monkeypatch):
    """Neither writing it nor removing what was written of it ends the training."""

    def fails(*arguments, **named):
        raise OSError(30, os.strerror(30))

    monkeypatch.setattr(pathlib.Path, "unlink", fails)
    with pytest.warns(UserWarning, match="best model could not be written to .*Read-only"):
        _, history = fit(tmp_path, monitor="loss")
    assert [0, 1] == history.epoch


@pytest.mark.slow
def test_a_best_model_on_a_disk_that_is_mounted_read_only(disk):
    """The whole run directory is, for a while."""

    place = disk / "run"

    def fails():
        subprocess.run(["mount", "--bind", place, place], check=True)
        remount = ["mount", "-o", "remount,bind,ro", place]
        until = time.monotonic() + 30
        while subprocess.run(
            remount, capture_output=True
        ).returncode:  # busy, while a save is written
            assert time.monotonic() < until
            time.sleep(0.01)

    def works():
        time.sleep(0.2)
        subprocess.run(["umount", "-l", place], check=True)

    callback = During(fails, works)
    with pytest.warns(UserWarning, match="best model could not be written to .*Read-only"):
        made, _ = fit(disk / "run", epochs=3, monitor="loss", callbacks=[callback])
    assert_same_weights(fit(None, epochs=3, save_every=None)[0], made)
    last = Checkpoints(disk / "run" / "checkpoints").newest()
    assert 18 == last.info["state"]["position"]["steps"]


@pytest.mark.slow
def test_a_state_that_no_manifest_holds(tmp_path, monkeypatch):
    """It is saved all the same, and the training resumes from it."""

    class Collects(resuming.Remembers):
        def get_state(self):
            return {"seen": self.seen, "many": [0.1 * i for i in range(20_000)]}

        def set_state(self, state):
            assert 20_000 == len(state["many"])
            self.seen = state["seen"]

    monkeypatch.setattr(checkpoint, "_LARGEST_MANIFEST", 200_000)
    fit(tmp_path, epochs=1, callbacks=[Collects()])
    resumed, _ = fit(tmp_path, epochs=2, callbacks=[Collects()])
    whole, _ = fit(tmp_path / "whole", epochs=2, callbacks=[Collects()])
    assert_same_weights(whole, resumed)
