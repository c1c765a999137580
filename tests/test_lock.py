"""One training at a time has a run directory."""

import os
import signal
import subprocess
import sys
import threading
import time

import keras
import pytest

from kerastrain.errors import RunError
from kerastrain.lock import Lock
from tests.runs import fit

pytestmark = pytest.mark.filterwarnings("error::UserWarning:(kerastrain|tests)")


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
