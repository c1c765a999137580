"""Fresh processes that are quick to start: each is forked from one that has only imported.

::

    with FreshProcesses() as fresh:
        ended = fresh.run(function, argument, seconds=60)
        ended.status                     # 0; 1 after an exception; -9 when it was killed
        ended.output                     # the end of what it wrote

TensorFlow takes seconds to be imported, and no device of it has been started in the process
that forks, so each fork begins as a program does.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any
from typing import IO
from typing import NamedTuple
from typing import NoReturn

_LENGTH = 8
_SECONDS_TO_START = 120


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        status: its exit status; the negative number of the signal that ended it.
        output: the end of what it wrote to standard output and error.
    """

    status: int
    output: str


class FreshProcesses:
    """Runs functions in processes of their own, one at a time. A context manager."""

    def __enter__(self) -> "FreshProcesses":
        program = "from kerastrain.testing.fresh import serve; serve()"
        paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
            start_new_session=True,
        )
        return self

    def __exit__(self, *error: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def run(
        self,
        function: Callable,
        *arguments: Any,
        seconds: float,
        signals: tuple[tuple[float, int], ...] = (),
    ) -> Ended:
        """Runs a function in a fresh process until that ends.

        Args:
            function, arguments: by value where cloudpickle is installed.
            seconds: after these it is killed.
            signals: ``(seconds after the start, number)`` of signals to send to it.
        """
        content = _pickled((function, arguments))
        asks, answers = self._process.stdin, self._process.stdout
        assert asks is not None and answers is not None  # both are pipes
        _send(asks, pickle.dumps((content, seconds, signals)))
        timer = threading.Timer(seconds + _SECONDS_TO_START, self._process.kill)
        timer.start()
        try:
            answer = _receive(answers)
        finally:
            timer.cancel()
        if answer is None:
            raise RuntimeError("The process that starts others has ended.")
        return Ended(*pickle.loads(answer))


def serve() -> None:
    """The side of the process that forks: answers until its standard input ends."""
    import keras  # noqa: F401  here, so that forks need not

    import kerastrain.trainer  # noqa: F401

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while (asked := _receive(sys.stdin.buffer)) is not None:
        content, seconds, signals = pickle.loads(asked)
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if child == 0:
                _run(content, output)
            status = _waited(child, seconds, signals)
            output.seek(max(0, output.seek(0, os.SEEK_END) - 4000))
            text = output.read().decode(errors="replace")
        _send(answers, pickle.dumps((status, text)))


def _run(content: bytes, output: IO[bytes]) -> NoReturn:
    """The forked process: never returns."""
    status = 1
    try:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        function, arguments = pickle.loads(content)
        function(*arguments)
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _waited(child: int, seconds: float, signals: tuple[tuple[float, int], ...]) -> int:
    begun = time.monotonic()
    coming = sorted([*signals, (seconds, signal.SIGKILL)])
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if coming and time.monotonic() - begun >= coming[0][0]:
            os.kill(child, coming.pop(0)[1])
        time.sleep(0.002)


def _pickled(value: Any) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        return pickle.dumps(value)
    return cloudpickle.dumps(value)


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(len(content).to_bytes(_LENGTH, "big") + content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(_LENGTH)
    if len(head) < _LENGTH:
        return None
    length = int.from_bytes(head, "big")
    content = pipe.read(length)
    return content if len(content) == length else None
