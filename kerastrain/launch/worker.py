"""One worker: a process behind its supervisor, its lines, and the file that it touches.

::

    worker = start_worker(0, ["python", "train.py"], environment, progress, output)
    worker.send(signal.SIGTERM)
    worker.kill()                       # and all that it has started
    worker.process.wait()
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from collections.abc import Sequence

from kerastrain.launch import supervisor
from kerastrain.launch.output import Output


@dataclasses.dataclass
class Worker:
    """A worker that was started.

    Attributes:
        rank: its number in the training.
        process: its supervisor, which ends as the worker has.
        progress_file: what it touches; one that is not there, or no more, is not watched.
        copying: the threads that copy its lines.
    """

    rank: int
    process: subprocess.Popen[bytes]
    progress_file: str
    copying: list[threading.Thread]
    touched: int = 0
    _seen: float = 0.0

    @property
    def status(self) -> int:
        """Its exit status as shells have it, when it has ended."""
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    @property
    def end(self) -> str:
        """How it has ended, in words."""
        code = self.process.returncode
        if code >= 0:
            return f"ended with status {code}"
        known = -code in set(signal.Signals)
        return f"was killed by {signal.Signals(-code).name if known else f'signal {-code}'}"

    def send(self, number: int) -> None:
        """Sends a signal to the worker alone: what it has started is its own affair."""
        self.write(bytes([number]))

    def write(self, data: bytes) -> None:
        """Writes to the supervisor."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it has ended, or was killed
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def kill(self) -> None:
        """Kills the worker and all that it has started."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def idle_seconds(self) -> float | None:
        """Seconds since its progress file was seen to change; None where there is none."""
        try:
            touched = os.stat(self.progress_file).st_mtime_ns
        except OSError:
            return None
        if touched != self.touched:
            self.touched, self._seen = touched, time.monotonic()
        return time.monotonic() - self._seen


def start_worker(
    rank: int,
    command: Sequence[str],
    environment: Mapping[str, str],
    progress_file: str,
    output: Output,
) -> Worker:
    """Starts a worker, with its lines on the launcher's output."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**environment, "KERASTRAIN_PROGRESS_FILE": progress_file},
        start_new_session=True,  # Ctrl-C in a terminal reaches the launcher alone
    )
    assert process.stdout is not None and process.stderr is not None
    copying = [
        output.follow(process.stdout, f"[{rank}] ", target=1),
        output.follow(process.stderr, f"[{rank}] ", target=2),
    ]
    worker = Worker(rank, process, progress_file, copying)
    worker.write(supervisor.as_line(command))
    return worker
