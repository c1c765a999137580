"""Starts all workers together, and when one fails, ends all and starts them again.

::

    status = launch([sys.executable, "train.py"], workers=2, max_restarts=3)

In order, for each start: the workers are started with new ports. The first that ends with a status
that is not 0, or stalls, fails all: the others get SIGTERM, and after the grace they are killed.
Then all are started again, up to ``max_restarts`` times: the collectives of a training are between
all of its workers, so that none of them can continue alone. A signal to the launcher is passed on
once, and ends it; nothing is restarted then.
"""

import contextlib
import functools
import json
import math
import numbers
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from kerastrain.errors import ArgumentError
from kerastrain.errors import KerastrainError
from kerastrain.launch.hosts import free_addresses
from kerastrain.launch.hosts import Hosts
from kerastrain.launch.output import Output
from kerastrain.launch.worker import start_worker
from kerastrain.launch.worker import Worker
from kerastrain.validation import whole_number

# Seconds between two looks at the workers.
_POLL = 0.05
# Seconds from SIGQUIT to SIGTERM, for the stacks to be written, and for output that nobody reads.
_MOMENT = 1.0


def launch(
    command: Sequence[str],
    *,
    workers: int,
    max_restarts: int = 0,
    run_dir: str | os.PathLike[str] | None = None,
    grace: float = 30.0,
    stall: float = 600.0,
    hosts: Hosts | None = None,
) -> int:
    """Runs a command in several workers, and returns an exit status.

    Each worker has these variables in its environment:

    - ``TF_CONFIG``: the addresses of all workers, and its own index
    - ``KERASTRAIN_PROGRESS_FILE``: a file to touch while there is progress
    - ``KERASTRAIN_RESTART``: the number of restarts before
    - ``KERASTRAIN_RUN_DIR``: ``run_dir``, where it is given

    Args:
        command: the program and its arguments, the same for all workers.
        workers: how many of them on this machine.
        max_restarts: how often all are started again after a failure.
        run_dir: the run directory, for the workers to read from their environment.
        grace: seconds from SIGTERM to SIGKILL.
        stall: seconds after which a worker has failed whose progress file is there and was not
            touched, the one of the oldest file; 0 for never.
        hosts: the machines of the training, where there are several; a launcher runs on each.

    Returns:
        0 where all workers have ended with 0; 128 and the signal's number after a signal to this
        process; else the status of the worker that failed first at the last start, which for one
        that was killed is 128 and the signal's number.

    Raises:
        ArgumentError: an argument cannot work.
        KerastrainError: this is not Linux, which is asked to leave no process behind.

    Example:
        >>> import sys
        >>> launch([sys.executable, "-c", "raise SystemExit(3)"], workers=2)
        3
    """
    if sys.platform != "linux":
        raise KerastrainError(
            f"`launch` needs Linux. This is {sys.platform!r}. Start each worker yourself, with its own "
            "TF_CONFIG."
        )
    _check(command, workers, max_restarts, grace, stall)
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(hosts.registered()) if hosts else 0
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="kerastrain-launch-"))
        received = stack.enter_context(_noted_signals())
        output = Output()
        environment = {"PYTHONUNBUFFERED": "1", **os.environ}  # the lines of a killed worker too
        if run_dir is not None:
            environment["KERASTRAIN_RUN_DIR"] = os.fspath(run_dir)
        for restart in range(max_restarts + 1):
            addresses = hosts.addresses(workers) if hosts else free_addresses(workers)
            environment["KERASTRAIN_RESTART"] = str(restart)
            with _Gang(output, received, grace, stall) as gang:
                for rank in range(host * workers, (host + 1) * workers):
                    environment["TF_CONFIG"] = _tf_config(addresses, rank)
                    progress_file = os.path.join(directory, f"{restart}-{rank}")
                    gang.add(start_worker(rank, command, environment, progress_file, output))
                again = f"then restart {restart + 1} of {max_restarts}"
                status = gang.watch(again if restart < max_restarts else "no restart is left")
            if received:
                return 128 + received[0]
            if status == 0:
                break
        return status


class _Gang:
    """The workers of one start, until the last of them has ended."""

    def __init__(self, output: Output, received: list[int], grace: float, stall: float) -> None:
        self._failed: Worker | None = None
        self._output, self._received = output, received
        self._grace, self._stall = grace, stall
        self._running: list[Worker] = []
        self._end_at = math.inf  # when they get SIGTERM
        self._kill_at = math.inf  # known once they have got it
        self._is_killed = False

    def __enter__(self) -> "_Gang":
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends those that an error has left, such as that another one could not be started."""
        for worker in self._running:
            worker.kill()
        for worker in self._running:
            worker.process.wait()

    def add(self, worker: Worker) -> None:
        """Takes a worker that was started."""
        self._running.append(worker)

    def watch(self, after_failure: str) -> int:
        """The status of the worker that failed first, or 0, when all have ended.

        Args:
            after_failure: what the launcher does then, for the line about a failure.
        """
        while self._running:
            time.sleep(_POLL)
            self._end_if_due()
            for worker in self._running.copy():
                if worker.process.poll() is not None:
                    self._running.remove(worker)
                    self._close(worker)
                    if worker.process.returncode and not self._is_ending():
                        self._fail(worker, worker.end, after_failure)
            stalled = self._stalled()
            if stalled is not None:
                why = f"made no progress for {self._stall:g} s, the longest of all"
                self._fail(stalled, why, after_failure, delay=_MOMENT)
                stalled.send(signal.SIGQUIT)
        if self._failed is None:
            return 0
        return self._failed.status or 1  # one that has stalled may end with 0

    def _is_ending(self) -> bool:
        return self._failed is not None or bool(self._received)

    def _fail(self, worker: Worker, why: str, after_failure: str, delay: float = 0.0) -> None:
        self._failed = worker
        self._end_at = time.monotonic() + delay
        self._output.say(f"worker {worker.rank} {why}: ending all workers, {after_failure}.")

    def _stalled(self) -> Worker | None:
        """The worker whose progress file is oldest, where one has not been touched for too long."""
        idle = [(worker, worker.idle_seconds()) for worker in self._running]
        watched = [(worker, seconds) for worker, seconds in idle if seconds is not None]
        if not self._stall or self._is_ending():
            return None
        if not any(seconds >= self._stall for _, seconds in watched):
            return None
        return min((worker for worker, _ in watched), key=lambda worker: worker.touched)

    def _end_if_due(self) -> None:
        """Passes a signal on, once, and kills what is left after the grace or a second one."""
        now = time.monotonic()
        if self._kill_at == math.inf and (self._received or now >= self._end_at):
            self._kill_at = now + self._grace
            for worker in self._running:
                worker.send(self._received[0] if self._received else signal.SIGTERM)
            if self._received:
                name = signal.Signals(self._received[0]).name
                self._output.say(
                    f"{name} is passed on to all workers, which have {self._grace:g} s to end. "
                    "Once more kills them."
                )
        if len(self._received) > 1:
            self._kill_at = min(self._kill_at, now)
        if now >= self._kill_at and self._running and not self._is_killed:
            self._is_killed = True
            ranks = ", ".join(str(worker.rank) for worker in self._running)
            self._output.say(f"killing what has not ended: {ranks}.")
            for worker in self._running:
                worker.kill()

    def _close(self, worker: Worker) -> None:
        """Waits for the lines of a worker that has ended, but after a signal not for ever."""
        worker.kill()  # closes the pipe
        for copying in worker.copying:
            while copying.is_alive():
                copying.join(_POLL)
                self._end_if_due()
                if self._received and time.monotonic() > self._kill_at + _MOMENT:
                    break


def _check(
    command: Sequence[str], workers: int, max_restarts: int, grace: float, stall: float
) -> None:
    if isinstance(command, str) or not command or not all(isinstance(a, str) for a in command):
        raise ArgumentError(
            "`command` must be a list of the program and its arguments, such as "
            f"[sys.executable, 'train.py']. Received: command={command!r}."
        )
    whole_number("workers", workers, least=1)
    whole_number("max_restarts", max_restarts, least=0)
    for name, value in (("grace", grace), ("stall", stall)):
        is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_real or not 0 <= value < math.inf:
            raise ArgumentError(
                f"`{name}` must be a number of seconds, 0 or more. Received: {name}={value!r}."
            )


def _tf_config(addresses: Iterable[str], rank: int) -> str:
    cluster = {"worker": list(addresses)}
    return json.dumps({"cluster": cluster, "task": {"type": "worker", "index": rank}})


def _note(received: list[int], number: int, *_: Any) -> None:
    received.append(number)


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """A list of the SIGTERM and SIGINT that are received; only the main thread may note them.

    That the terminal was closed counts as SIGTERM, unless it is ignored, as with ``nohup``.
    """
    received: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        noted = {n: n for n in (signal.SIGTERM, signal.SIGINT)} | {signal.SIGHUP: signal.SIGTERM}
        for number, as_which in noted.items():
            # None: not installed by Python, and not to be restored. What is ignored stays ignored.
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                note = functools.partial(_note, received, as_which)
                before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
