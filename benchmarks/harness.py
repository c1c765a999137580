"""Runs contenders side by side, and prints no time before they agree on the result.

    >>> fast = Contender("fast", run=lambda: 0.5, weights=lambda: [np.ones(2)])
    >>> slow = Contender("slow", run=lambda: 1.0, weights=lambda: [np.ones(2)])
    >>> result = race([fast, slow], title="two", baseline="fast", steps=10, repeats=3)
    >>> result.times["slow"], result.ratios("slow")
    ([0.1, 0.1, 0.1], [2.0, 2.0, 2.0])

(These two contenders claim their seconds; most are timed.) The contract:

- Interleaved. A round runs A B C once each, and rounds follow one another: A B C A B C. A
  slow minute of the machine slows all, and a ratio compares two times of the same round.
- Warm-up. The first round traces, compiles and fills caches. Its times are thrown away.
- Equal weights. After every round, the warm-up too, each contender's weights are compared
  with the baseline's. A difference above the tolerance, or a NaN, raises `UnequalWeights`:
  no time of that race is there to be printed.
- Median and spread. Printed are microseconds per step: median, quartiles and best, and the
  median and quartiles of the ratio to the baseline, which is taken round by round.
- Tracing. One trace costs as much as a thousand steps; after the warm-up it is shown.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table


class UnequalWeights(AssertionError):
    """Two contenders ended with different weights, so their times are not of the same work."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to do the work that is timed.

    Attributes:
        name: what the table calls it.
        run: does the whole work once, and returns when its last update has finished. A float
            that it returns replaces the harness's seconds: for one in a process of its own.
        weights: gives the weights as arrays, in the order of the baseline's.
        reset: puts the initial weights and optimizer state back before each round; not
            timed. By default a round goes on from the last one, which all must do then.
        traces: gives how often its code was traced so far. By default nobody counts.
    """

    name: str
    run: Callable[[], object]
    weights: Callable[[], Sequence[np.ndarray]]
    reset: Callable[[], object] = lambda: None
    traces: Callable[[], int] = lambda: 0


@dataclasses.dataclass(frozen=True)
class Race:
    """The outcome of one race.

    Attributes:
        title: what was run.
        baseline: the contender whose time is the denominator of the ratios.
        times: each contender's seconds per step, one for each round after the warm-up.
        difference: each contender's largest |dw| to the baseline, over all rounds.
        retraces: each contender's traces after the warm-up; these are in its times.
    """

    title: str
    baseline: str
    times: dict[str, list[float]]
    difference: dict[str, float]
    retraces: dict[str, int]

    def ratios(self, name: str) -> list[float]:
        """Each round's time of ``name`` over the baseline's in the same round."""
        pairs = zip(self.times[name], self.times[self.baseline], strict=True)
        return [own / base for own, base in pairs]


def race(
    contenders: Sequence[Contender],
    *,
    title: str,
    baseline: str,
    steps: int,
    repeats: int = 7,
    tolerance: float = 1e-6,
    clock: Callable[[], float] = time.perf_counter,
) -> Race:
    """Runs all contenders, ``repeats`` rounds after one of warm-up.

    Args:
        contenders: run in this order in every round.
        title: what is run, for the table.
        baseline: name of the contender that weights and times are compared with.
        steps: training steps of one ``run``; times are divided by it.
        repeats: rounds that count. Of an odd number, one is in the middle.
        tolerance: largest |dw| to the baseline that still counts as the same work.
        clock: gives seconds.

    Raises:
        UnequalWeights: a contender did not do the same work as the baseline.
        ValueError: wrong names, or ``steps`` or ``repeats`` below 1.
    """
    names = [contender.name for contender in contenders]
    if len(set(names)) != len(names) or baseline not in names:
        raise ValueError(f"Names must differ and hold the baseline. Received: {names}, {baseline=}")
    if min(steps, repeats) < 1:
        raise ValueError(f"`steps` and `repeats` must be above 0. Received: {steps=}, {repeats=}")
    result = Race(
        title, baseline, {n: [] for n in names}, dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    )
    for round_number in range(1 + repeats):
        for contender in contenders:
            traces, seconds = contender.traces(), _timed(contender, clock)
            if round_number > 0:
                result.times[contender.name].append(seconds / steps)
                result.retraces[contender.name] += contender.traces() - traces
        reference = contenders[names.index(baseline)].weights()
        for contender in contenders:
            found = largest_difference(contender.weights(), reference)
            if not found <= tolerance:  # Written so that a NaN fails.
                raise UnequalWeights(
                    f"{title}: {contender.name!r} and {baseline!r} ended round {round_number} "
                    f"with different weights: max|dw| = {found:.3g}, tolerance {tolerance:.3g}. "
                    "No time is reported. Check that both start from the same weights, see the "
                    f"same batches in the same order and run {steps} steps."
                )
            result.difference[contender.name] = max(result.difference[contender.name], found)
    return result


def _timed(contender: Contender, clock: Callable[[], float]) -> float:
    contender.reset()
    gc.collect()  # One contender's garbage is not collected on the next one's time.
    start = clock()
    measured = contender.run()
    elapsed = clock() - start
    return measured if isinstance(measured, float) else elapsed


def resetting(model: Any, get_optimizer: Callable[[], Any]) -> Callable[[], None]:
    """A function that puts the model's weights of now back, and an Adam that has made no step."""
    initial = model.get_weights()

    def reset() -> None:
        model.set_weights(initial)
        optimizer = get_optimizer()
        for variable in optimizer.variables:
            if variable is not optimizer.learning_rate:
                variable.assign(np.zeros(variable.shape, variable.dtype))

    return reset


def largest_difference(weights: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Max|dw| over two lists of arrays: NaN if one is in them, infinite if shapes differ.

    >>> largest_difference([np.array([1.0, 2.0])], [np.array([1.0, 2.5])])
    0.5
    """
    if [np.shape(a) for a in weights] != [np.shape(a) for a in reference] or not len(reference):
        return float("inf")
    pairs = zip(weights, reference, strict=True)
    distances = [np.max(np.abs(np.subtract(own, other)), initial=0.0) for own, other in pairs]
    return float(np.max(distances))  # np.max, not max(): it passes a NaN on.


def machine_line() -> str:
    """Processors and versions, on one line; times mean nothing without them."""
    packages = [f"{p} {importlib.metadata.version(p)}" for p in ("tensorflow", "keras", "numpy")]
    machine = f"{os.cpu_count()} x {platform.machine()}, {platform.system()}"
    return ", ".join([machine, f"Python {platform.python_version()}", *packages])


def print_race(result: Race, *, console: rich.console.Console | None = None) -> None:
    """Prints one race as a table, in microseconds per step, and the machine it was run on."""
    if console is None:
        console = rich.console.Console()
        console.width = max(console.width, 100)  # A file counts as 80 wide and would cut figures.
    rounds = f"{len(result.times[result.baseline])} rounds, ratio to {result.baseline!r}"
    console.print(f"{result.title}: µs per step, {rounds}", soft_wrap=True)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender", no_wrap=True)
    for column in ("median", "quartiles", "best", "ratio", "quartiles", "max|dw|"):
        table.add_column(column, justify="right")
    for name, seconds in result.times.items():
        low, middle, high = np.percentile(seconds, [25, 50, 75]) * 1e6
        row = [name, f"{middle:.0f}", f"{low:.0f}..{high:.0f}", f"{min(seconds) * 1e6:.0f}"]
        low, middle, high = np.percentile(result.ratios(name), [25, 50, 75])
        row += [f"{middle:.2f}", f"{low:.2f}..{high:.2f}", f"{result.difference[name]:.0e}"]
        table.add_row(*row)
    console.print(table)
    for name, count in result.retraces.items():
        if count:
            console.print(f"{name} was traced {count} times after the warm-up, in these times.")
    console.print(machine_line(), soft_wrap=True, highlight=False)


def cost_cells(pairs: Sequence[tuple[float, float]]) -> list[str]:
    """Four cells of a table: both medians, and what the second costs over the first.

        >>> cost_cells([(1.0, 1.1), (2.0, 2.2), (1.0, 1.3)])
        ['1.00', '1.30', '+10.0 %', '+10.0..+30.0']

    Args:
        pairs: ``(seconds without, seconds with)`` of each round.
    """
    costs = [100 * (with_ / without - 1) for without, with_ in pairs]
    low, middle, high = statistics.quantiles(costs, n=4) if len(costs) > 1 else costs * 3
    without, with_ = map(statistics.median, zip(*pairs, strict=True))
    return [f"{without:.2f}", f"{with_:.2f}", f"{middle:+.1f} %", f"{low:+.1f}..{high:+.1f}"]


def save_json(results: Sequence[Race], path: str | os.PathLike[str]) -> None:
    """Writes every time of every race to ``path``, to compare a later run with."""
    record = {"machine": machine_line(), "races": [dataclasses.asdict(r) for r in results]}
    pathlib.Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
