"""A directory that one process uses at a time.

::

    with Lock("runs/a"):
        ...

The lock is the operating system's: it goes with the process, however that ends, and processes
that this one has forked do not have it. It is of the file ``lock`` in the directory, which anybody
may remove with the directory, or replace: `Lock.renew` compares the file with the one that is there.
"""

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerastrain import file_locks
from kerastrain.errors import ArgumentError
from kerastrain.errors import RunError
from kerastrain.run.checkpoint import Checkpoints
from kerastrain.run.system_files import open_directory
from kerastrain.run.system_files import open_file

# The system lets a process lock a file again that it has locked already: names of directories,
# and the numbers of files.
_OF_THIS_PROCESS: set[str | tuple[int, int] | None] = set()
_TAKING = threading.Lock()
# How often a file is opened that somebody removes before it is locked.
_ATTEMPTS = 100


class Lock:
    """Takes a directory, which is made where it is missing. A context manager.

    Args:
        directory: to be taken.

    Raises:
        RunError: another process has it, or another training of this one.
        ArgumentError: it cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self._directory = Path(directory)
        self._descriptor: int | None = None
        self._keys: tuple[str | tuple[int, int] | None, ...] = ()
        self._opened: int | None = None  # the directory, so that no other one gets its number
        self._token = uuid.uuid4().hex  # a copy of the directory has it too

    def __enter__(self) -> "Lock":
        directory = self._directory
        try:
            with _TAKING:
                self._take_anew(is_first=True)
        except FileExistsError:
            raise ArgumentError(
                f"`run_dir` is a file. Pass a directory. Received: run_dir={str(directory)!r}."
            ) from None
        except OSError as error:
            raise ArgumentError(
                f"`run_dir` cannot be written: {error.strerror}. "
                f"Received: run_dir={str(directory)!r}."
            ) from None
        return self

    def renew(self) -> str | None:
        """Takes the directory again, if its lock is lost.

        The system takes it away where this process closes the file of the lock, whoever has
        opened it: for a copy of the directory, say. Where the directory has been removed, moved
        or replaced, one of the same name is taken.

        Returns:
            What has happened to the directory, in words; None for nothing.

        Raises:
            RunError: another process has taken it in the meantime, or another run is there now.
            OSError: it cannot be written.
        """
        with _TAKING:
            if self._descriptor is not None and _is_there(self._descriptor, self._directory):
                _take(self._descriptor, self._directory, is_taken=True)
                return None
            self._release()
            self._take_anew()
        return (
            f"{self._directory} was removed, moved or replaced during the training. It is in use "
            "by this training again, which is saved there from now on."
        )

    def __exit__(self, *error: Any) -> None:
        with _TAKING:
            self._release()
            if self._opened is not None:
                os.close(self._opened)
                self._opened = None

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        _OF_THIS_PROCESS.difference_update(self._keys)
        self._keys = ()

    def _take_anew(self, is_first: bool = False) -> None:
        """Opens and locks the file that is there, which may be removed in the meantime."""
        for attempt in range(_ATTEMPTS):
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                if self._take_once(is_first):
                    return
            except (FileNotFoundError, FileExistsError):  # removed, or made, since it was looked at
                is_file = self._directory.exists() and not self._directory.is_dir()
                if is_file or attempt + 1 == _ATTEMPTS:
                    raise
        raise RunError(f"{self._directory} is removed again and again. Pass another run_dir.")

    def _take_once(self, is_first: bool) -> bool:
        keys = (os.path.realpath(self._directory), _number_of(self._directory))
        if _OF_THIS_PROCESS.intersection(keys):
            raise RunError(
                f"{self._directory} is in use by another training of this process. Pass another "
                "run_dir."
            )
        descriptor = open_file(self._directory / "lock", os.O_RDWR | os.O_CREAT)
        try:
            _take(descriptor, self._directory)
            is_there = _is_there(descriptor, self._directory)
            if is_there and not is_first:
                self._check_is_own(descriptor)
            if is_there:
                self._sign(descriptor)
                opened = open_directory(self._directory)
                if self._opened is not None:
                    os.close(self._opened)
                self._opened = opened
                self._keys = (keys[0], _number(os.fstat(descriptor)))
                self._descriptor = descriptor
                _OF_THIS_PROCESS.update(self._keys)
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return self._descriptor is not None

    def _check_is_own(self, descriptor: int) -> None:
        """Refuses the directory of another run, which nobody uses, in the place of this one."""
        is_own = self._token in _text(descriptor)  # of a copy, too
        if self._opened is not None:
            is_own |= _number(os.fstat(self._opened)) == _number(os.stat(self._directory))
        if not is_own and Checkpoints(self._directory / "checkpoints").paths():
            raise RunError(f"{self._directory} has been replaced by another run. Move that away.")

    def _sign(self, descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        text = f"process {os.getpid()} on {socket.gethostname()}\n{self._token}\n"
        os.write(descriptor, text.encode())


def _text(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 200).decode(errors="replace")


def _number(status: os.stat_result) -> tuple[int, int]:
    """What identifies a file among all that there are now."""
    return status.st_dev, status.st_ino


def _number_of(directory: Path) -> tuple[int, int] | None:
    try:
        return _number(os.stat(directory / "lock", follow_symlinks=False))
    except FileNotFoundError:
        return None


def _is_there(descriptor: int, directory: Path) -> bool:
    """Whether the file that is open is still the one that lies in the directory."""
    return _number(os.fstat(descriptor)) == _number_of(directory)


def _take(descriptor: int, directory: Path, is_taken: bool = False) -> None:
    if not (file_locks.take_again if is_taken else file_locks.take)(descriptor):
        owner = _text(descriptor).partition("\n")[0]
        raise RunError(
            f"{directory} is in use by {owner or 'another process'}. Wait for it, end it, or pass "
            "another run_dir."
        )


@contextlib.contextmanager
def listed(directory: Path) -> Iterator[None]:
    """Around what lists a run directory: before a step has run, an error is that of the argument.

    Raises:
        ArgumentError: it cannot be listed.
    """
    try:
        yield
    except OSError as error:
        raise ArgumentError(
            f"`run_dir` cannot be read: {error.filename or ''} {error.strerror}. "
            f"Received: run_dir={str(directory)!r}."
        ) from None
