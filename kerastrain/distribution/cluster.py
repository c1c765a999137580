"""The processes that train together, and what they must agree on.

::

    cluster = cluster_of(strategy)         # of this process alone, without several workers
    cluster.gather([1.0, 2.0])             # a row of numbers from each worker
    cluster.chiefs(array)                  # the chief's array, on all of them

Each worker runs the same program and holds a copy of the variables; TensorFlow's collective
operations add up their gradients. These match only where all workers run the same operations in the
same order. So whatever one process would decide by a clock, a signal, a seed or a file of its own,
all decide together. This is the one module that knows other processes.

What is collective must be called by all workers, or none returns.
"""

import contextlib
import faulthandler
import os
import pickle
import sys
import threading
import time
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kerastrain import _keras

# Names a file that a worker touches when it comes to agree with the others.
PROGRESS_FILE = "KERASTRAIN_PROGRESS_FILE"
# Seconds that a worker which has failed waits for the others to come and agree.
_FAILED_ALONE = 50.0


class Cluster:
    """The workers of a strategy.

    Args:
        strategy: of several workers, or any other, or None.

    Attributes:
        count: how many there are; 1 without several.
        index: the number of this one.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None):
        self._strategy = strategy
        self._renewed = 0.0  # when all have agreed last
        self.count, self.index = (1, 0) if strategy is None else _keras.worker_of(strategy)

    @property
    def is_chief(self) -> bool:
        """Whether this one writes, prints and warns."""
        return self.index == 0

    @property
    def has_others(self) -> bool:
        """Whether there are several workers."""
        return self.count > 1

    def gather(self, numbers: Sequence[float]) -> np.ndarray:
        """The numbers of all workers. Collective.

        Args:
            numbers: as many on each worker.

        Returns:
            An array of shape ``(workers, numbers)``, in float64.

        Example:
            >>> Cluster(None).gather([1, 2])
            array([[1., 2.]])
        """
        mine = np.asarray(numbers, "float64")
        if not self.has_others:
            return mine[None]
        rows = np.zeros((self.count, *mine.shape))
        rows[self.index] = mine
        self._note_arrival()
        found = self._sum(rows)
        self._renewed = time.monotonic()
        return found

    def any(self, flag: bool) -> bool:
        """Whether it holds on one of the workers. Collective."""
        return bool(flag) if not self.has_others else bool(self.gather([flag]).any())

    def chiefs(self, array: Any) -> np.ndarray:
        """The chief's array. Collective.

        Args:
            array: of one shape and type on all workers.
        """
        array = np.asarray(array)
        if not self.has_others:
            return array
        mine = np.ascontiguousarray(array).tobytes() if self.is_chief else bytes(array.nbytes)
        words = np.frombuffer(mine + bytes(-len(mine) % 4), "int32")
        sent = self._sum(words).tobytes()[: array.nbytes]
        return np.frombuffer(sent, array.dtype).reshape(array.shape)

    def gather_objects(self, value: Any) -> list[Any]:
        """A value of each worker, in their order: arrays, or what else can be pickled. Collective."""
        if not self.has_others:
            return [value]
        data = pickle.dumps(value)
        sizes = self.gather([len(data)])[:, 0].astype(int)
        words = -(-int(sizes.max()) // 4)
        rows = np.zeros((self.count, words), "int32")
        rows[self.index] = np.frombuffer(data + bytes(4 * words - len(data)), "int32")
        found = self._sum(rows)
        pairs = zip(found, sizes, strict=True)
        return [pickle.loads(row.tobytes()[:size]) for row, size in pairs]

    @contextlib.contextmanager
    def watched(self, seconds: float | None) -> Iterator[None]:
        """Inside, the process ends where the workers have agreed on nothing for so long.

        The stacks of all threads are printed first. One that has ended is noticed by itself, within
        a minute; one that hangs is not.

        Args:
            seconds: None for ever.
        """
        if not self.has_others:
            yield
            return
        try:
            with (
                contextlib.nullcontext()
                if seconds is None
                else self._bounded(
                    seconds,
                    f"worker {self.index} has heard nothing of the others for {seconds:g} s: one of them "
                    "hangs, or takes longer than Execution(stall_seconds=...) allows.",
                )
            ):
                yield
        finally:
            with contextlib.suppress(OSError, KeyError):  # who starts workers waits for it no more
                os.remove(os.environ[PROGRESS_FILE])

    def any_failed(self, failure: BaseException | None) -> bool:
        """Whether one of the workers has failed. Collective.

        The others may be inside the very call that has failed here, and wait for this one. So it
        waits a minute for them, and then ends, which they notice.

        Args:
            failure: of this one; None where it has none.
        """
        if failure is None:
            return self.any(False)
        words = f"worker {self.index} alone has failed, with {type(failure).__name__}: {failure}."
        with self._bounded(_FAILED_ALONE, words):
            return self.any(True)

    @contextlib.contextmanager
    def _bounded(self, seconds: float, words: str) -> Iterator[None]:
        """Inside, the process ends with these words where nothing was agreed on for so long."""
        is_over = threading.Event()
        self._renewed = time.monotonic()
        threading.Thread(target=self._watch, args=(seconds, words, is_over), daemon=True).start()
        try:
            yield
        finally:
            is_over.set()

    def _watch(self, seconds: float, words: str, is_over: threading.Event) -> None:
        while not is_over.wait(min(1.0, seconds / 10)):
            if time.monotonic() - self._renewed <= seconds:
                continue
            sys.stderr.write(f"kerastrain: {words} It ends after the stacks of its threads.\n")
            sys.stderr.flush()
            faulthandler.dump_traceback(all_threads=True)
            os._exit(1)

    def _note_arrival(self) -> None:
        """Touches the file by which `kerastrain.launch` sees who does not come to agree."""
        path = os.environ.get(PROGRESS_FILE)
        if path:
            with contextlib.suppress(OSError):
                Path(path).touch()

    def _sum(self, array: np.ndarray) -> np.ndarray:
        """The sum over all workers, of an array that this one has."""
        strategy = self._strategy
        assert strategy is not None  # there are others
        return _keras.sum_over_workers(strategy, array)


# How the answers of the workers become one.
_ANSWERS: dict[str, Callable[[np.ndarray], float]] = {
    "any": np.max,
    "least": np.min,
    "most": np.max,
    "chief": lambda column: column[0],
}


class Votes:
    """Questions that all workers answer together, in one small all-reduce.

    Without several workers each answer is this process's own, at the moment when it is read.

    Args:
        cluster: of the workers.

    Example:
        >>> votes = Votes(Cluster(None))
        >>> votes.ask("stop", "any", lambda: 1 > 2)
        >>> votes.take()
        >>> votes["stop"]
        False
    """

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self._asked: dict[str, tuple[str, Callable[[], float]]] = {}
        self._agreed: dict[str, float] = {}
        self._columns: dict[str, np.ndarray] = {}

    def ask(self, name: str, how: str, get: Callable[[], float]) -> None:
        """Adds a question, or asks it in another way.

        Args:
            name: under which the answer is read.
            how: ``"any"``, ``"least"``, ``"most"`` or ``"chief"``.
            get: gives the answer of this worker.
        """
        self._asked[name] = how, get

    def take(self) -> None:
        """Asks all questions. Collective."""
        if not self.cluster.has_others:
            return
        rows = self.cluster.gather([float(get()) for _, get in self._asked.values()])
        for (name, (how, _)), column in zip(self._asked.items(), rows.T, strict=True):
            self._columns[name], self._agreed[name] = column, float(_ANSWERS[how](column))

    def __getitem__(self, name: str) -> float:
        """What was agreed on last."""
        return self._agreed.get(name, 0.0) if self.cluster.has_others else self._asked[name][1]()

    def of_each(self, name: str) -> np.ndarray:
        """The answers of all workers, in their order."""
        return self._columns[name]


_ALONE = Cluster(None)
_KNOWN: "weakref.WeakKeyDictionary[tf.distribute.Strategy, Cluster]" = weakref.WeakKeyDictionary()


def cluster_of(strategy: tf.distribute.Strategy | None) -> Cluster:
    """The workers of a strategy, which are the same for each call."""
    if strategy is None:
        return _ALONE
    if strategy not in _KNOWN:
        _KNOWN[strategy] = Cluster(strategy)
    return _KNOWN[strategy]
