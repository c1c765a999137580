"""One training at a time has a run directory."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import keras
import pytest

from kerastrain.errors import RunError
from kerastrain.run import lock as lock_lib
from kerastrain.run.checkpoint import Checkpoints
from kerastrain.run.lock import Lock
from tests.support.resuming import trainer
from tests.support.runs import assert_same_weights
from tests.support.runs import fit

pytestmark = pytest.mark.filterwarnings("error::UserWarning:(kerastrain|tests)")


def test_one_process_at_a_time(tmp_path):
    """The second hears which process has the directory."""
    taken, takes = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), Lock(tmp_path):
            os.write(takes, b"taken")
            time.sleep(600)
        os._exit(1)
    os.close(takes)
    try:
        assert b"taken" == os.read(taken, 5)
        with pytest.raises(RunError, match=f"in use by process {child} on "):
            fit(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(taken)
    fit(tmp_path)  # it went with the process
    with Lock(tmp_path), pytest.raises(RunError, match="another training of this process"):
        fit(tmp_path)
    fit(tmp_path)


@pytest.mark.process
def test_a_copy_of_the_directory_does_not_unlock_it(tmp_path):
    """The system drops the lock of a process that closes the file; each save takes it again."""

    class Copies(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            (tmp_path / "run" / "lock").read_text()

        def on_epoch_end(self, epoch, logs=None):
            program = (
                "import sys; from kerastrain.run.lock import Lock; Lock(sys.argv[1]).__enter__()"
            )
            command = [sys.executable, "-c", program, tmp_path / "run"]
            failed = subprocess.run(command, capture_output=True, text=True, timeout=300)
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


@pytest.mark.process
def test_forked_processes_do_not_keep_the_directory(tmp_path):
    """A worker that outlives the training does not lock it."""
    with Lock(tmp_path):
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
    program = "import sys; from kerastrain.run.lock import Lock; Lock(sys.argv[1]).__enter__()"
    try:
        subprocess.run([sys.executable, "-c", program, tmp_path], check=True, timeout=300)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


# A directory that goes away ---------------------------------------------------------


class At(keras.callbacks.Callback):
    """Does something at the end of an epoch."""

    def __init__(self, epoch, act):
        super().__init__()
        self.epoch, self.act = epoch, act

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.act()

    def get_state(self):
        return None

    def set_state(self, state):
        """Nothing is remembered."""


def removed(place):
    moved(place)  # at once, whatever is being written
    shutil.rmtree(place.with_name("moved"), ignore_errors=True)


def moved(place):
    place.rename(place.with_name("moved"))


def replaced(place):
    moved(place)
    place.mkdir()


def copied_back(place):
    moved(place)
    shutil.copytree(place.with_name("moved"), place)


def without_lock(place):
    (place / "lock").unlink()


@pytest.mark.parametrize(
    "happens",
    [
        *(pytest.param(one, marks=pytest.mark.slow) for one in (moved, replaced, copied_back)),
        *(removed, pytest.param(without_lock, marks=pytest.mark.slow)),
    ],
)
def test_a_directory_that_goes_away(tmp_path, happens):
    """It is a warning and a new lock; the training is saved under the name that it has."""
    place = tmp_path / "run"
    with pytest.warns(UserWarning, match="run was removed, moved or replaced") as caught:
        fit(place, epochs=3, callbacks=[At(0, lambda: happens(place))])
    assert 1 == len([w for w in caught if "was removed, moved" in str(w.message)])
    assert 18 == newest(place)
    whole, expected = fit(tmp_path / "whole", epochs=4, callbacks=[At(9, None)])
    resumed, history = fit(place, epochs=4, callbacks=[At(9, None)])
    assert expected.history == history.history
    assert_same_weights(whole, resumed)


def newest(place):
    return Checkpoints(place / "checkpoints").newest().info["state"]["position"]["steps"]


@pytest.mark.slow
def test_another_run_in_the_place_of_the_directory(tmp_path):
    """It is left as it is: the training goes on unsaved, and says so."""
    fit(tmp_path / "other", trainer(seed=4))
    before = [*map(str, sorted((tmp_path / "other").rglob("*")))]

    def act():
        (tmp_path / "run").rename(tmp_path / "moved")
        (tmp_path / "other").rename(tmp_path / "run")

    with pytest.warns(UserWarning, match="could not be saved in .* replaced by another run"):
        made, _ = fit(tmp_path / "run", epochs=3, monitor="loss", callbacks=[At(1, act)])
    (tmp_path / "run").rename(tmp_path / "other")
    assert before == [*map(str, sorted((tmp_path / "other").rglob("*")))]
    assert_same_weights(fit(None, epochs=3, save_every=None)[0], made)


@pytest.mark.slow
def test_another_process_in_the_place_of_the_directory(tmp_path):
    """It keeps what it has taken: the training goes on unsaved, and says so."""
    program = "import sys, time; from kerastrain.run.lock import Lock\n"
    program += "with Lock(sys.argv[1]): print('taken', flush=True); time.sleep(60)"
    others = []

    def act():
        removed(tmp_path / "run")
        command = [sys.executable, "-c", program, tmp_path / "run"]
        others.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert b"taken\n" == others[0].stdout.readline()

    try:
        with pytest.warns(UserWarning, match="could not be saved in .* in use by process"):
            _, history = fit(tmp_path / "run", epochs=3, save_every=6, callbacks=[At(1, act)])
    finally:
        for other in others:
            other.kill()
            other.communicate()
    assert [0, 1, 2] == history.epoch
    assert [tmp_path / "run" / "lock"] == [*(tmp_path / "run").iterdir()]


def test_a_directory_that_is_moved_is_not_used_twice(tmp_path):
    """Nor by another training of the same process, under its new name."""
    with Lock(tmp_path / "a") as lock:
        (tmp_path / "a").rename(tmp_path / "b")
        with pytest.raises(RunError, match="another training of this process"):
            Lock(tmp_path / "b").__enter__()
        assert "was removed, moved" in lock.renew()
        with Lock(tmp_path / "b"), pytest.raises(RunError):
            Lock(tmp_path / "a").__enter__()
        assert lock.renew() is None


def test_a_file_that_is_removed_before_it_is_locked(tmp_path, monkeypatch):
    """The lock is of the file that is there in the end."""
    take, left = lock_lib._take, [3]

    def slow(descriptor, directory, **options):
        if left[0]:
            left[0] -= 1
            shutil.rmtree(directory)
        take(descriptor, directory, **options)

    monkeypatch.setattr(lock_lib, "_take", slow)
    with Lock(tmp_path / "run") as lock:
        assert (tmp_path / "run" / "lock").exists()
        assert lock.renew() is None
    assert 0 == left[0]


def hold(place, end):
    """Takes the directory again and again, and gives the times at which it was held.

    Each with the time at which it was asked for.
    """
    holds = []
    while time.monotonic() < end:
        asked = time.monotonic()
        with contextlib.suppress(RunError), Lock(place) as lock:
            begun = time.monotonic()
            for _ in range(3):
                time.sleep(0.003)
                try:
                    again = time.monotonic()
                    if lock.renew():
                        holds.append((asked, begun, again))
                        asked, begun = again, time.monotonic()
                except RunError:
                    break
            holds.append((asked, begun, time.monotonic()))
        time.sleep(0.001)
    return holds


@pytest.mark.slow
def test_two_processes_never_hold_one_directory(tmp_path):
    """Whoever removes it meanwhile: of two that hold it, one has the directory from before that.

    Two holds at the same time are right only if the directory was removed since one of the two
    was asked for.
    """
    place, end = tmp_path / "run", time.monotonic() + 6
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            try:
                (tmp_path / f"holds-{number}").write_text(json.dumps(hold(place, end)))
            finally:
                os._exit(0)
        children.append(child)
    removals, left = [], set(children)
    while left and time.monotonic() < end + 20:
        begun = time.monotonic()
        shutil.rmtree(place, ignore_errors=True)
        removals.append((begun, time.monotonic()))
        time.sleep(0.02)
        left = {child for child in left if os.waitpid(child, os.WNOHANG) == (0, 0)}
    for child in left:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    holds = []
    for number in range(3):
        found = json.loads((tmp_path / f"holds-{number}").read_text())
        holds.extend((begun, stop, asked, number) for asked, begun, stop in found)
    assert not left and len(holds) > 20
    holds.sort()
    for index, (_, end, asked, number) in enumerate(holds):
        for later, _, also_asked, other in holds[index + 1 :]:
            if later >= end:
                break
            assert number != other
            since = min(asked, also_asked)  # either may have waited before it looked at the clock
            assert any(start <= later and stop >= since for start, stop in removals)
