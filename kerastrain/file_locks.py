"""Files that one process has at a time, on POSIX and on Windows. Needs nothing but Python.

::

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    take(descriptor)            # whether this process has the file now

The lock is the operating system's and goes with the process. It is of a byte far behind the end of
the file, as Windows lets nobody else read one that is locked. Run as a program, this takes a file
as any other process would, and ends with `IS_HELD` where it cannot:
``python -I -S file_locks.py PATH``.
"""

import importlib
import os
import sys
from typing import Any

_posix: Any = None
_windows: Any = None
try:
    _posix = importlib.import_module("fcntl")
except ModuleNotFoundError:
    _windows = importlib.import_module("msvcrt")

# Windows counts the bytes of a lock in 31 bits.
_BYTE = 2**30
IS_HELD = 3


def take(descriptor: int, byte: int = _BYTE) -> bool:
    """Locks a byte of an open file, and returns whether it is this process's now.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        if _posix is not None:
            # Not handed on to processes that are forked, as locks of `flock` are.
            _posix.lockf(descriptor, _posix.LOCK_EX | _posix.LOCK_NB, 1, byte)
        else:
            os.lseek(descriptor, byte, os.SEEK_SET)
            _windows.locking(descriptor, _windows.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):  # POSIX allows both where another one has it
        return False
    return True


def take_again(descriptor: int) -> bool:
    """The same for a file that was taken: whether it is this process's still, or again.

    POSIX takes a lock away where the process closes the file, whoever has opened it once more.
    Windows does not, and refuses a byte that is locked already to its owner, too.
    """
    return True if _posix is None else take(descriptor)


if __name__ == "__main__":
    with open(sys.argv[1], "r+b") as file:
        sys.exit(0 if take(file.fileno()) else IS_HELD)
