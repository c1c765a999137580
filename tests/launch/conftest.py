"""Workers that import nothing heavy, and a check that none is left."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid

import pytest

import kerastrain

# Seconds that a loaded machine may take for what takes less than one.
BOUND = 120


def wait_for(condition, what):
    """Returns when a condition holds, and fails where it never does."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Processes:
    """All processes of a test, known by a mark in their environment or by the pid they wrote."""

    def __init__(self, directory):
        self.directory = directory
        self.mark = uuid.uuid4().hex

    def alive(self):
        """The pids of those that run."""
        found = {pid for pid in map(str, self._written()) if is_running(pid)}
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                environment = pathlib.Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if self.mark.encode() in environment and int(name) != os.getpid() and is_running(name):
                found.add(name)
        return found

    def _written(self):
        return [int(path.read_text() or 0) for path in self.directory.glob("*.pid")]

    def assert_none_left(self):
        """All end by themselves, soon."""
        wait_for(lambda: not self.alive(), "processes are left")

    def launch(self, *arguments, **options):
        """Starts ``python -m kerastrain launch`` in the background."""
        return subprocess.Popen(
            [sys.executable, "-m", "kerastrain", "launch", *map(str, arguments)],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
        )

    def script(self, text):
        """The path of a script; what it writes is in the directory of the test."""
        path = self.directory / f"script{len(list(self.directory.iterdir()))}.py"
        path.write_text(PREAMBLE + text)
        return path


# What the scripts of the tests use.
PREAMBLE = """\
import json, os, pathlib, signal, subprocess, sys, time
rank = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
restart = int(os.environ["KERASTRAIN_RESTART"])

def note(name, text=""):
    path = pathlib.Path(name)
    path.with_name(path.name + ".new").write_text(str(text))
    path.with_name(path.name + ".new").rename(path)

def wait_for(name):
    while not os.path.exists(name):
        time.sleep(0.01)

def touch():
    pathlib.Path(os.environ["KERASTRAIN_PROGRESS_FILE"]).touch()

"""


def is_running(pid):
    """Whether there is a process that is no zombie."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def processes(tmp_path, monkeypatch):
    """The processes of this test, which leaves none."""
    ours = Processes(tmp_path)
    monkeypatch.setenv("KERASTRAIN_TEST_MARK", ours.mark)
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(kerastrain.__file__).parents[1]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a launcher that is killed leaves a directory
    monkeypatch.chdir(tmp_path)
    # What is ignored stays so in all processes: as a job in the background, the tests ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield ours
        ours.assert_none_left()
    finally:
        signal.signal(signal.SIGINT, before)
        for pid in ours.alive():
            os.kill(int(pid), signal.SIGKILL)
