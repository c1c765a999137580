"""A directory that one process uses at a time.

::

    with Lock("runs/a"):
        ...

The lock is the operating system's: it goes with the process, however that ends, and processes
that this one has forked do not have it.
"""

import fcntl
import os
import socket
import threading
from pathlib import Path

from kerastrain.errors import ArgumentError
from kerastrain.errors import RunError

# The system lets a process lock a file again that it has locked already.
_OF_THIS_PROCESS: set[str] = set()
_TAKING = threading.Lock()


class Lock:
    """Takes a directory, which is made where it is missing. A context manager.

    Args:
        directory: to be taken.

    Raises:
        RunError: another process has it, or another training of this one.
        ArgumentError: it cannot be written.
    """

    def __init__(self, directory: str | os.PathLike):
        self._directory = Path(directory)

    def __enter__(self) -> "Lock":
        directory = self._directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._name = os.path.realpath(directory)
            with _TAKING:
                if self._name in _OF_THIS_PROCESS:
                    raise RunError(
                        f"{directory} is in use by another training of this process. Pass another "
                        "run_dir."
                    )
                self._descriptor = _opened(directory)
                _OF_THIS_PROCESS.add(self._name)
        except FileExistsError as error:
            raise ArgumentError(
                f"`run_dir` is a file. Pass a directory. Received: run_dir={str(directory)!r}."
            ) from error
        except OSError as error:
            raise ArgumentError(
                f"`run_dir` cannot be written: {error.strerror}. "
                f"Received: run_dir={str(directory)!r}."
            ) from error
        return self

    def renew(self) -> None:
        """Takes the directory again, if its lock is lost.

        The system takes it away where this process closes the file of the lock, whoever has
        opened it: for a copy of the directory, say.

        Raises:
            RunError: another process has taken it meanwhile.
        """
        _take(self._descriptor, self._directory)

    def __exit__(self, *error) -> None:
        with _TAKING:
            os.close(self._descriptor)
            _OF_THIS_PROCESS.discard(self._name)


def _opened(directory):
    """The descriptor of the locked file, which has the name of the process in it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(directory / "lock", flags, 0o644)
    try:
        _take(descriptor, directory)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _take(descriptor, directory):
    try:
        # Of POSIX: not handed on to processes that are forked, as those of `flock` are.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        raise RunError(
            f"{directory} is in use by {owner}. Wait for it, end it, or pass another run_dir."
        ) from error
