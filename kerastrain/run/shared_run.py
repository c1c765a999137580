"""A run of several workers: the chief has the directory, and all leave where one is asked to.

::

    run = make_run("runs/a", callbacks, cluster)      # a `Run`, where there is one worker

The chief locks, reads and writes, and sends what it has read, so that no other worker needs the
directory. What one process would decide by its clock, by a signal or by its files, all decide
together, before each chunk of steps and at the ends of epochs.
"""

import contextlib
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerastrain import _keras
from kerastrain.distribution import Cluster
from kerastrain.distribution import Votes
from kerastrain.errors import ArgumentError
from kerastrain.errors import ModelError
from kerastrain.errors import RunError
from kerastrain.execution import StepCall
from kerastrain.execution import Times
from kerastrain.options import RunDir
from kerastrain.run.checkpoint import Checkpoint
from kerastrain.run.null_run import NullRun
from kerastrain.run.position import Position
from kerastrain.run.run_directory import Run
from kerastrain.run.signals import Signals
from kerastrain.run.training import Training


def _check_weights(cluster: Cluster, model: keras.Model, position: Position) -> None:
    """Compares the weights of the workers, and what the optimizer keeps of them. Collective.

    Raises:
        ModelError: they differ.
    """
    total = 0
    of_optimizers = (v for one in _keras.optimizers_of(model) for v in one.variables)
    for variable in (*model.trainable_weights, *of_optimizers):
        value = _keras.read_local(variable)[0].numpy()
        total = zlib.crc32(np.ascontiguousarray(value).tobytes(), total)
    if len({*cluster.gather([total])[:, 0]}) > 1:
        raise ModelError(
            f"The workers have other weights, or another learning rate, at the end of epoch "
            f"{position.epoch}: something has changed them on some workers alone, such as a callback "
            "that does not do the same on all. Let it, and train anew."
        )


class SharedRun(Run):
    """A `Run` of several workers.

    It has a method for each event of a training that they decide together, as `Run` has.

    Args:
        options: as of `Run`.
        cluster: of the workers.
    """

    def __init__(self, options: RunDir, cluster: Cluster):
        super().__init__(options)
        self._cluster, self._steps = cluster, 0
        self._votes: dict[str, Votes] = {}

    def join(self, train: Votes, test: Votes) -> None:
        """Adds what the workers are to agree on before each chunk of steps."""
        self._votes = {"train": train, "test": test}
        for votes in (train, test):
            votes.ask("signal", "most", lambda: self._signals.received or 0)
        train.ask("busy", "chief", lambda: self._saver.is_busy())
        train.ask("save", "chief", lambda: self._saver.is_due(self._steps))

    def _take_directory(self, stack: contextlib.ExitStack) -> Callable[[], str | None]:
        renew: Callable[[], str | None] = lambda: None
        with _agreed(self._cluster, "take the run directory"):
            if self._cluster.is_chief:
                renew = super()._take_directory(stack)
        return renew

    def _newest(self) -> Checkpoint | None:
        found = None
        with _agreed(self._cluster, "read the run directory"):
            if self._cluster.is_chief:
                found = super()._newest()
        return _sent(self._cluster, found)

    def restore(self, *arguments: Any) -> Position:
        """As of `Run`."""
        position = super().restore(*arguments)
        self._steps = position.steps
        return position

    def begin_log(self, position: Position, times: Times) -> None:
        """As of `Run`: the chief writes it."""
        if self._cluster.is_chief:
            super().begin_log(position, times)

    def works(self, works: Iterator[StepCall], position: Position) -> Iterator[StepCall]:
        """The works of an epoch, unchanged: one worker cannot leave by itself."""
        return works

    def after_steps(self, position: Position) -> None:
        """As of `Run`."""
        self._steps = position.steps
        super().after_steps(position)

    def after_epoch(self, position: Position) -> None:
        """As of `Run`.

        Raises:
            ModelError: the workers have other weights.
        """
        _check_weights(self._cluster, self._state.model, position)
        super().after_epoch(position)

    def _has_signal(self, kind: str) -> bool:
        if kind == "end":
            return False  # `_at_epoch_end` knows
        number = int(self._votes[kind]["signal"])
        if number and self._signals.received is None:
            self._signals.received = number
        return bool(number)

    def _is_due(self, position: Position) -> bool:
        votes, left = self._votes["train"], self._saver.steps_left(position.steps)
        if left is None:
            return bool(votes["save"])
        return left <= 0 and not votes["busy"]

    def _at_epoch_end(self, position: Position) -> tuple[bool, bool, bool]:
        mine = (False, False, False)
        if self._cluster.is_chief:
            mine = super()._at_epoch_end(position)
        rows = self._cluster.gather([*mine, self._signals.received or 0])
        if rows[:, 3].any() and self._signals.received is None:
            self._signals.received = int(rows[:, 3].max())
        return bool(rows[0, 0]), bool(rows[0, 1]), bool(rows[:, 3].any())

    def _export_best(self) -> None:
        if self._cluster.is_chief:
            super()._export_best()

    def _write(self, *state: Any) -> None:
        if self._cluster.is_chief:
            super()._write(*state)

    def _is_saved(self, position: Position) -> bool:
        return bool(self._cluster.gather([super()._is_saved(position)])[0, 0])

    def after_training(self, position: Position) -> None:
        """As of `Run`; a signal to one worker that came late ends all."""
        super().after_training(position)
        number = int(self._cluster.gather([self._signals.received or 0]).max())
        self._signals.received = self._signals.received or number or None


class UnsavedRun(NullRun):
    """A training of several workers that is not saved: a signal to one of them ends all.

    Args:
        cluster: of the workers.
    """

    def __init__(self, cluster: Cluster):
        self._cluster, self._signals = cluster, Signals()
        self._votes: dict[str, Votes] = {}

    def __enter__(self) -> "UnsavedRun":
        self._signals.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._signals.__exit__(*error)
        if self._signals.is_nobodys and (error[0] is None or isinstance(error[1], Exception)):
            self._signals.leave()
        self._signals.hand_on()

    def join(self, train: Votes, test: Votes) -> None:
        """Adds what the workers are to agree on before each chunk of steps."""
        self._votes = {"train": train, "test": test}
        for votes in (train, test):
            votes.ask("signal", "most", lambda: self._signals.received or 0)

    def load_latest(self, training: Training) -> None:
        """There is nothing to load."""
        self._model = training.state.model

    def after_epoch(self, position: Position) -> None:
        """There is nothing to save.

        Raises:
            ModelError: the workers have other weights.
        """
        _check_weights(self._cluster, self._model, position)

    def _leave_after(self, kind: str) -> None:
        if number := int(self._votes[kind]["signal"]):
            self._signals.received = self._signals.received or number
            self._signals.leave()

    def after_steps(self, position: Position) -> None:
        """Leaves after a signal to one of the workers.

        Raises:
            Preempted, KeyboardInterrupt: then.
        """
        self._leave_after("train")

    def in_validation(self) -> None:
        """The same between the steps of a validation."""
        self._leave_after("test")

    def after_training(self, position: Position) -> None:
        """A signal to one worker that came late ends all."""
        number = int(self._cluster.gather([self._signals.received or 0]).max())
        self._signals.received = self._signals.received or number or None


def make_run(run_dir: Any, callbacks: Any, cluster: Cluster) -> Run | NullRun:
    """What `Trainer.fit` saves its training with.

    Args:
        run_dir: a path, a `RunDir`, or None for none.
        callbacks: as passed to ``fit``.
        cluster: of the workers that train.

    Raises:
        ArgumentError: arguments that cannot work, or not together.
    """
    if run_dir is None:
        return UnsavedRun(cluster) if cluster.has_others else NullRun()
    options = run_dir if isinstance(run_dir, RunDir) else RunDir(run_dir)
    listed = (
        callbacks.callbacks if isinstance(callbacks, keras.callbacks.CallbackList) else callbacks
    )
    if any(isinstance(c, keras.callbacks.BackupAndRestore) for c in keras.tree.flatten(listed)):
        raise ArgumentError(
            "BackupAndRestore and `run_dir` both resume the training. Remove the callback."
        )
    return SharedRun(options, cluster) if cluster.has_others else Run(options)


@contextlib.contextmanager
def _agreed(cluster: Cluster, what: str) -> Iterator[None]:
    """Around what the chief does: where it fails, it does so on all workers. Collective.

    Raises:
        RunError: on the others.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    if cluster.any(failure is not None):
        raise failure or RunError(f"The chief cannot {what}: its own output says why.")


def _sent(cluster: Cluster, value: Any) -> Any:
    """The chief's value, on all workers. Collective."""
    sent = cluster.gather_objects(value if cluster.is_chief else None)[0]
    return value if cluster.is_chief else sent
