"""Races contenders that have a process each, and prints no time before results are equal.

    mlp = {"name": "mlp", "rows": 640}
    race([Runner("model.fit", mlp), Runner("Trainer", mlp)], group="works", work="MLP", rounds=5)

The contract:

- One process per contender, so that none has the memory, threads or caches of another; all
  are kept alive, and idle while another one runs. They are started and warmed one by one.
- Equal work. After the warm-up each puts its initial weights back and trains for two epochs
  without shuffling: the mean losses of both are compared with the first contender's, to a
  relative 1e-4 of the first epoch and 1e-3 of the second (`TOLERANCE`, `LOOSER`). Then
  rounds are timed, in which rows are shuffled, so batches are of the same size and number but
  not the same rows. Accuracy is tracked by all, and compared by none. One difference is within
  the tolerance: where a word occurs twice in a batch, Keras's Adam squares both parts of its
  gradient, and kerastrain's their sum.
- Interleaved. A round runs A B C once each: A B C A B C. A ratio is of times of one round.
- Whoever cannot run is named and left out; unequal results raise `UnequalResults`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import pathlib
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

TIMEOUT = 600  # Seconds that one answer may take.
# Relative, between mean losses of the first epoch; ten times as much in the second one, as Adam
# divides by the root of what may be tiny, and rounding grows.
TOLERANCE = 1e-4
# Where arithmetic differs by more than rounding: Adam's epsilon is added elsewhere.
LOOSER = {"PyTorch": 1e-3, "PyTorch, DataLoader": 1e-3, "PyTorch Lightning": 1e-3}
NEEDS = {
    "Keras on JAX": ("jax",),
    "JAX lax.scan": ("jax",),
    "PyTorch": ("torch",),
    "PyTorch, DataLoader": ("torch",),
    "PyTorch Lightning": ("torch", "lightning"),
}


class UnequalResults(AssertionError):
    """Two contenders found different losses, so their times are not of the same work."""


class ChildFailed(RuntimeError):
    """The process of a contender ended, raised an error or took too long."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """Who runs what.

    Attributes:
        contender: how, by its name in `speed_contenders` or `speed_others`.
        task: what, the arguments of `speed_contenders.Task`.
        label: what the table calls it; default the contender's name.
    """

    contender: str
    task: dict[str, Any]
    label: str = ""

    @property
    def name(self) -> str:
        """What the table calls it."""
        return self.label or self.contender


@dataclasses.dataclass
class Result:
    """What was measured of one contender.

    Attributes:
        group, work, contender: of what; the first contender of a work is its baseline.
        unit: of the values.
        values: one for each round.
        results: that were compared.
        note: what was chosen, for the table.
    """

    group: str
    work: str
    contender: str
    unit: str
    values: list[float]
    results: list[float] = dataclasses.field(default_factory=list)
    note: str = ""

    @property
    def median(self) -> float:
        """Of the values."""
        return float(np.median(self.values))


class Child:
    """The process of one contender.

    Raises:
        ChildFailed: from `ask`, with the last lines that the process wrote.
    """

    def __init__(self, runner: Runner):
        self.name = runner.name
        packages = NEEDS.get(runner.contender, ("tensorflow",))  # Its Keras runs on the first one.
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "benchmarks.speed_child",
                runner.contender,
                json.dumps(runner.task),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=pathlib.Path(__file__).parent.parent,
            # Each process is the first that trains its model: none begins with what another measured.
            env=os.environ | {"KERAS_BACKEND": packages[0], "KERASTRAIN_CACHE": ""},
        )
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def ask(self, do: str, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Has the process do something, and waits for its answer."""
        try:
            self._process.stdin.write(json.dumps({"do": do}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise ChildFailed(f"{self.name}: {do!r} took more than {timeout:.0f} s") from None
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"ended with {self._process.wait()}"}
        if "error" in answer:
            self.close()
            raise ChildFailed(f"{self.name}: {answer['error']}\n{self._last_lines()}")
        return answer

    def _last_lines(self) -> str:
        self._errors.seek(0)
        return "".join(self._errors.readlines()[-8:])

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._errors.close()


def missing(contender: str) -> list[str]:
    """The packages that a contender needs and that are not installed."""
    return [name for name in NEEDS.get(contender, ()) if importlib.util.find_spec(name) is None]


def race(
    runners: Sequence[Runner],
    *,
    group: str,
    work: str,
    rounds: int,
    unit: str = "µs/step",
    per: float = 1e-6,
    check: bool = True,
    tolerance: float = TOLERANCE,
    tell: Callable[[str], None] = print,
) -> list[Result]:
    """Runs all contenders, ``rounds`` rounds after the warm-up and the comparison.

    Args:
        runners: run in this order; the first one that runs is the baseline.
        group, work, unit: for the results.
        rounds: that are timed.
        per: values are the seconds of a round divided by this.
        check: whether results are compared.
        tolerance: largest relative difference of the first result that is the same work.
        tell: is given a line on whoever cannot run.

    Raises:
        UnequalResults: a contender did not do the work of the first one.
    """
    children: dict[str, Child] = {}
    found: dict[str, Result] = {}

    def drop(name: str, why: object) -> None:
        tell(f"left out of {work}: {name}: {why}")
        children.pop(name, None)
        found.pop(name, None)

    try:
        for runner in runners:
            if lacking := missing(runner.contender):
                drop(runner.name, f"not installed: {', '.join(lacking)}")
                continue
            children[runner.name] = child = Child(runner)
            try:
                note = child.ask("warm")["note"]
                results = child.ask("check")["results"] if check else []
                found[runner.name] = Result(group, work, runner.name, unit, [], results, note)
            except ChildFailed as error:
                drop(runner.name, error)
        if check:
            check_equal(list(found.values()), tolerance)
        for _ in range(rounds):
            for name in list(children):
                try:
                    found[name].values.append(children[name].ask("round")["seconds"] / per)
                except ChildFailed as error:
                    drop(name, error)
    finally:
        for child in children.values():
            child.close()
    return list(found.values())


def check_equal(found: Sequence[Result], tolerance: float = TOLERANCE) -> None:
    """Compares results with those of the first contender.

    Raises:
        UnequalResults: one is too far from it, or no number.
    """
    for own in found[1:]:
        expected = np.array(found[0].results)
        same = np.shape(own.results) == expected.shape and len(expected) > 0
        allowed = tolerance * 10.0 ** np.arange(len(expected))
        allowed = np.maximum(allowed, LOOSER.get(own.contender, 0.0))
        difference = np.abs(np.subtract(own.results, expected)) if same else np.array([np.inf])
        if not np.all(difference <= allowed * np.abs(expected)):  # So that a NaN fails.
            raise UnequalResults(
                f"{own.work}: {own.contender!r} found {own.results}, "
                f"{found[0].contender!r} {found[0].results}; relative tolerances {allowed}. "
                "No time is reported. Check that both start from the same weights, see the same "
                "batches in the same order and make as many steps."
            )


def job(runner: Runner) -> dict[str, Any]:
    """Does a task in a fresh process, by the clock of that process.

    Raises:
        ChildFailed: it did not end well.
    """
    with Child(runner) as child:
        return child.ask("job")
