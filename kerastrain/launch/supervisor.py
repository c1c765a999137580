"""The process between the launcher and a worker, which leaves no process behind.

::

    process = subprocess.Popen([sys.executable, "-I", "-S", "supervisor.py"], stdin=subprocess.PIPE)
    process.stdin.write(as_line(["python", "train.py"]))

Standard input is a pipe from the launcher. Its first line is the worker's command, which is no
argument here lest ``pkill -9 -f train.py`` find this process. Each byte after it is the number of a
signal for the worker. Its end, which the launcher's death is too, kills the worker.

When the worker has ended, what it has started has a second to end by itself (the resource tracker
of `multiprocessing` removes shared memory), and is killed then, until nothing is left. The kernel
gives all orphans below this process to it, those in sessions of their own too. It ends as the
worker has: with the same status, or by the same signal. If it is killed itself, so is the worker.

It is run as a file: as a module of the package it would import TensorFlow.
"""

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NoReturn

# Of linux/prctl.h.
_PDEATHSIG, _DUMPABLE, _CHILD_SUBREAPER = 1, 4, 36
# Seconds for what a worker has started to end by itself.
_LINGER = 1.0


def as_line(command: Sequence[str]) -> bytes:
    """A command as the line that `main` reads.

    Example:
        >>> as_line(["ls", "-l"])
        b'6c73 2d6c\\n'
    """
    return " ".join(os.fsencode(part).hex() for part in command).encode() + b"\n"


def main() -> NoReturn:
    """Runs the command that it is sent, and ends as it does."""
    with open(0, "rb", buffering=0, closefd=False) as pipe:  # what follows stays in the pipe
        line = pipe.readline()
    if not line.endswith(b"\n"):  # the launcher has died
        os._exit(128 + signal.SIGKILL)
    command = [bytes.fromhex(part) for part in line.decode().removesuffix("\n").split(" ")]
    _prctl(_CHILD_SUBREAPER, 1)
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # ignored, it would wake nobody
    supervisor, worker = os.getpid(), os.fork()
    if worker == 0:
        _become(command, parent=supervisor)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a scheduler may send them to every process
    status = _watch(worker, woken)
    _end_the_rest()
    _end_as(os.waitstatus_to_exitcode(status))


def _become(command: list[bytes], parent: int) -> NoReturn:
    """Turns this process, a child of the supervisor, into the worker."""
    try:
        os.setsid()
        _prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died before it could be asked for
            os._exit(128 + signal.SIGKILL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, b"Cannot run %b: %b.\n" % (command[0], str(error.strerror).encode()))
    finally:
        os._exit(127)


def _watch(worker: int, woken: int) -> int:
    """Passes signals on until the worker has ended, and returns its status."""
    poller = select.poll()
    for source in (0, woken):
        poller.register(source, select.POLLIN)
    while True:
        for source, _ in poller.poll():
            received = os.read(source, 4096)
            if source == 0:
                for number in received or [signal.SIGKILL]:
                    os.kill(worker, number)
                if not received:
                    poller.unregister(0)
        for ended, status in _ended_children():
            if ended == worker:
                return status


def _ended_children() -> Iterator[tuple[int, int]]:
    """``(process, status)`` of each child that has ended, orphans that were adopted too.

    Raises:
        ChildProcessError: there is no child any more.
    """
    while True:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        yield process, status


def _end_the_rest() -> None:
    """Kills all that the worker has left, whose children become this process's in turn."""
    deadline = time.monotonic() + _LINGER
    with contextlib.suppress(ChildProcessError):
        while True:
            list(_ended_children())
            if time.monotonic() >= deadline:
                for process in _children():
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)


def _children() -> Iterator[int]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            # After the name, which may hold anything: the state, and the parent.
            if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                yield int(name)


def _end_as(code: int) -> NoReturn:
    """Ends with a status, or for a negative one by that signal, without another core dump."""
    if code < 0:
        _prctl(_DUMPABLE, 0)
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code if code >= 0 else 128 - code)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


if __name__ == "__main__":
    main()
