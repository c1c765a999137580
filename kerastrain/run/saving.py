"""When a training is saved, and how: in the background, one save at a time.

::

    saver = Saver(checkpoints, RunDir("runs/a", save_every=100))
    if saver.is_due(steps):
        saver.save(info, tensors, steps)       # returns at once
    saver.wait()

A save that fails is a warning, and the next one is tried when it is due again: a full disk
does not end a training. All that can fail of it is done in `Saver.attempt`, or in the background.
"""

import concurrent.futures
import contextlib
import datetime
import math
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kerastrain import notices
from kerastrain.errors import KerastrainError
from kerastrain.options import RunDir
from kerastrain.run.checkpoint import Checkpoints

# An epoch's end is saved when the last save has taken no larger share of the time since.
_SHARE = 0.02
# How often, unless it is said.
EVERY = datetime.timedelta(seconds=60)
_NO_LIMIT = 2**31 - 1


class Saver:
    """Saves when it is due.

    Args:
        checkpoints: where to.
        options: when, and how many of the last checkpoints are kept.
        renew: makes sure that the directory is still this process's; gives what has happened to
            it, or None.

    Attributes:
        best: the checkpoint that is kept in addition, or None.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        options: RunDir,
        renew: Callable[[], str | None] = lambda: None,
    ):
        self._checkpoints, self._keep, self._renew = checkpoints, int(options.keep), renew
        self._checkpoints.ready = self.check_directory
        self._happened: list[str] = []  # to the directory, to be warned of
        every = EVERY if options.save_every is None else options.save_every
        self._steps = None if isinstance(every, datetime.timedelta) else int(every)
        self._seconds = every.total_seconds() if isinstance(every, datetime.timedelta) else math.inf
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "kerastrain-saver")
        self._writing: concurrent.futures.Future[Path] | None = None
        self._written: Callable[[Path], None] = lambda path: None
        self._saved_steps = 0
        self._saved_at = time.monotonic()
        self._cost = 0.0
        self.best: Path | None = None

    def begin(self, steps: int) -> None:
        """The training begins, with ``steps`` done."""
        self._saved_steps = steps

    def steps_until_save(self, steps: int) -> int:
        """The steps that may run in one call, after ``steps`` of the training, until a save is due."""
        if self._steps is None:
            return _NO_LIMIT
        left = self._saved_steps + self._steps - steps
        return left if left > 0 else _NO_LIMIT  # overdue: what is being written takes its time

    def steps_left(self, steps: int) -> int | None:
        """The steps after ``steps`` until a save is due; None where that depends on the clock."""
        return None if self._steps is None else self._saved_steps + self._steps - steps

    def is_due(self, steps: int) -> bool:
        """Whether to save after ``steps``. Not while a save is being written."""
        if self.is_busy():
            return False
        if self._steps is not None:
            return steps - self._saved_steps >= self._steps
        return time.monotonic() - self._saved_at >= self._seconds

    def is_due_at_epoch_end(self) -> bool:
        """The same for the end of an epoch, which is left out where saving takes long."""
        since = time.monotonic() - self._saved_at
        return not self.is_busy() and self._cost <= _SHARE * since

    def is_busy(self) -> bool:
        """Whether a save is being written. Tells of one that has failed."""
        if self._writing is not None and self._writing.done():
            self.wait()
        return self._writing is not None

    @contextlib.contextmanager
    def attempt(self, steps: int) -> Iterator[None]:
        """Around what is done to save after ``steps``: what fails is a warning."""
        self._saved_steps, self._saved_at = steps, time.monotonic()
        try:
            yield
        except Warning:  # that is to be an error says who trains
            raise
        except Exception as error:
            self._warn(error)

    def save(
        self,
        info: dict[str, Any],
        tensors: dict[str, np.ndarray],
        steps: int,
        written: Callable[[Path], None],
        as_best: bool = False,
    ) -> None:
        """Begins to write a state; waits for the one before it.

        Args:
            info, tensors: the state.
            steps: after which it was taken.
            written: called by `wait` or `is_busy` with the checkpoint, if it was written.
            as_best: whether it is kept in place of the best before.
        """
        self.wait()
        with self.attempt(steps):
            self._writing = self._writer.submit(self._write, info, tensors, as_best)
            self._written = written

    def _write(self, info: dict[str, Any], tensors: dict[str, np.ndarray], as_best: bool) -> Path:
        begun = time.monotonic()
        self.check_directory()
        path = self._checkpoints.write(tensors, info)
        if as_best:
            self.best = path
        self._checkpoints.keep({self.best}, self._keep)
        self._cost = time.monotonic() - begun
        return path

    def check_directory(self, tells: bool = False) -> None:
        """Makes sure that the directory is this process's, and there.

        Args:
            tells: whether to warn of what has happened to it now, as in the main thread.

        Raises:
            RunError, OSError: it is not.
        """
        happened = self._renew()
        if happened:
            self._happened.append(happened)
        if tells:
            self._tell()

    def _tell(self) -> None:
        while self._happened:
            notices.warn(self._happened.pop(0))

    def wait(self) -> None:
        """Waits until nothing is being written; warns if it could not be."""
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        error = writing.exception()
        self._tell()
        if error is None:
            self._written(writing.result())
        else:
            self._warn(error)

    def _warn(self, error: BaseException) -> None:
        text = str(error).rstrip(".")
        if not (text and isinstance(error, OSError | KerastrainError)):
            text = f"{type(error).__name__}: {text}".removesuffix(": ")
        notices.warn(
            f"The training could not be saved in {self._checkpoints.directory}: {text}. It continues, "
            "and is saved again when that is due; what was saved before is kept."
        )

    def close(self) -> None:
        """Ends the thread that writes, when it has written."""
        self.wait()
        self._writer.shutdown()
