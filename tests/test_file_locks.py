"""One process at a time has a file; on Windows too, as far as a stand-in for its module tells."""

import pathlib
import subprocess
import sys

from kerastrain import file_locks

ROOT = pathlib.Path(__file__).resolve().parent.parent


def status_of_another(path):
    """How a process ends that tries to take the file."""
    command = [sys.executable, "-I", "-S", file_locks.__file__, path]
    return subprocess.run(command, timeout=60).returncode


def test_another_process_is_refused(tmp_path):
    """Until the file is closed; the bytes of a file are taken one by one."""
    path = tmp_path / "lock"
    with open(path, "w+b") as file:
        assert file_locks.take(file.fileno(), 3)
        assert 0 == status_of_another(path)
        assert file_locks.take(file.fileno())
        assert file_locks.IS_HELD == status_of_another(path)
        with open(path, "rb"):
            """Closes the file: the system takes the lock away."""
        assert 0 == status_of_another(path)
        assert file_locks.take_again(file.fileno())
        assert file_locks.IS_HELD == status_of_another(path)
    assert 0 == status_of_another(path)


def test_without_fcntl(tmp_path):
    """Windows locks each opened file by itself, and refuses its owner's second lock."""
    program = """
import sys
from tests.support.as_on_windows import pretend

calls = pretend()
sys.path.insert(0, sys.argv[2])
import file_locks

with open(sys.argv[1], "w+b") as first, open(sys.argv[1], "r+b") as second:
    print(file_locks.take(first.fileno()), file_locks.take(second.fileno()))
    print(file_locks.take(first.fileno()), file_locks.take_again(first.fileno()))
    print(*calls)
"""
    command = [sys.executable, "-c", program, tmp_path / "lock", ROOT / "kerastrain"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "" == ended.stderr
    calls = " ".join(["(2, 1073741824, 1)"] * 3)
    assert ["True False", "False True", calls] == ended.stdout.splitlines()
