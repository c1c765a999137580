"""What the laws of metrics cost, and how surely they find a wrong metric.

    python -m benchmarks.metric_laws             # some minutes
    python -m benchmarks.metric_laws --quick     # some seconds: shows that it runs
    python -m benchmarks.metric_laws --repeat 20 # sound metrics, 20 seeds each, two processes

Two tables. For each sound metric of ``tests/testing/right_metrics.py``: the seconds of the
cheap laws and of all laws, and the complaints, of which there must be none. For the wrong
ones of ``tests/testing/mutants.py``: how many of several seeds find it by the law that
should, within 10, 30 and 100 examples.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Sequence
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from hypothesis.errors import FlakyFailure
from rich.console import Console
from rich.table import Table

from kerastrain.testing import check_metric
from kerastrain.testing import LAWS
from kerastrain.testing import MetricLawError
from kerastrain.testing.case import Case
from kerastrain.testing.case import Trial
from kerastrain.testing.examples import run_examples
from kerastrain.testing.replica_runs import ask_for_devices
from kerastrain.testing.violations import NotApplicable
from kerastrain.testing.violations import Violation
from tests.testing.mutants import Mutant
from tests.testing.mutants import MUTANTS
from tests.testing.right_metrics import RIGHT

EXAMPLES = (10, 30, 100)
CHEAP = [law.name for law in LAWS.values() if not law.traced and not law.strict]


class Cost(NamedTuple):
    """What the laws cost one sound metric.

    Attributes:
        name: of the metric.
        cheap, every: seconds of the laws that compile nothing, and of all; medians.
        complaints: broken laws over all rounds.
    """

    name: str
    cheap: float
    every: float
    complaints: list[str]


def cost_of(name: str, rounds: int, profile: str = "ci") -> Cost:
    """Checks a sound metric ``rounds`` times, each with another seed."""
    factory, declared = RIGHT[name]
    seconds: dict[str, list[float]] = {"cheap": [], "every": []}
    complaints: list[str] = []
    for seed in range(rounds):
        for kind, laws in (("cheap", CHEAP), ("every", None)):
            begun = time.perf_counter()
            try:
                check_metric(factory, **declared, laws=laws, seed=seed, profile=profile)
            except MetricLawError as error:
                complaints.append(f"seed {seed}: {error.law}")
            seconds[kind].append(time.perf_counter() - begun)
    return Cost(name, *map(statistics.median, seconds.values()), complaints)


def first_found(mutant: Mutant, seed: int, most: int) -> int | None:
    """The number of the example in which the law finds the mutant, from 1; None if none does."""
    trial, law = Trial(mutant.factory, mutant.inputs, **mutant.declared), LAWS[mutant.law]
    sound = 0  # examples on which the law holds

    def body(draw):
        nonlocal sound
        try:
            law.check(Case(trial, draw))
        except NotApplicable:
            return
        sound += 1

    try:
        run_examples(body, 1 if law.fixed else most, seed, shrink=False)
    except (Violation, FlakyFailure):
        return sound + 1
    return None


def rates(mutant: Mutant, seeds: int, most: int = EXAMPLES[-1]) -> list[float]:
    """The part of the seeds that find the mutant within each number of `EXAMPLES`."""
    found = [first_found(mutant, seed, most) for seed in range(seeds)]
    return [sum(f is not None and f <= n for f in found) / seeds for n in EXAMPLES]


def complaints_of(work: tuple[str, int]) -> str:
    """Checks a sound metric by all laws with one seed: the broken laws' names, or nothing."""
    (name, seed), (factory, declared) = work, RIGHT[work[0]]
    warnings.simplefilter("ignore")
    keras.utils.clear_session(free_memory=False)
    try:
        check_metric(factory, **declared, seed=seed, profile="ci")
    except MetricLawError as error:
        return f"{name}, seed {seed}:\n{error}"
    return ""


def repeat(names: Sequence[str], seeds: int) -> int:
    """Checks sound metrics with several seeds each, in two processes; prints every complaint."""
    works, begun = [(name, seed) for name in names for seed in range(seeds)], time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=40) as pool:
        complaints = list(filter(None, pool.imap(complaints_of, works)))
    print(*complaints, sep="\n\n")
    print(
        f"{len(complaints)} complaints in {len(works)} checks: {len(names)} sound metrics, {seeds} "
        f"seeds each, {time.perf_counter() - begun:.0f} s"
    )
    return 1 if complaints else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both tables; the status is 1 if a sound metric is complained of."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metric_laws", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="few metrics, to see that it runs")
    parser.add_argument("--repeat", type=int, help="only look for complaints, with so many seeds")
    parser.add_argument("--rounds", type=int, default=3, help="seeds for each sound metric")
    parser.add_argument("--seeds", type=int, default=10, help="seeds for each wrong metric")
    parser.add_argument("--only", default="", help="only metrics whose name holds this")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    ask_for_devices()
    right = [name for name in RIGHT if options.only in name]
    wrong = [name for name in MUTANTS if options.only in name]
    if options.repeat:
        return repeat(right, options.repeat)
    rounds, seeds, most = options.rounds, options.seeds, EXAMPLES[-1]
    if options.quick:
        right, wrong, rounds, seeds, most = right[:1], wrong[:3], 1, 1, 10
    console = Console(width=100)
    table = Table("sound metric", "cheap laws, s", "all laws, s", "complaints")
    complaints = []
    for name in right:
        cost = cost_of(name, rounds, "dev" if options.quick else "ci")
        complaints += cost.complaints
        table.add_row(
            name, f"{cost.cheap:.1f}", f"{cost.every:.1f}", "; ".join(cost.complaints) or "0"
        )
    console.print(table)
    table = Table("wrong metric", "law", *(f"in {n}" for n in EXAMPLES))
    always = 0
    for name in wrong:
        found = rates(MUTANTS[name], seeds, most)
        always += found[1] == 1
        table.add_row(name, MUTANTS[name].law, *(f"{rate:.0%}" for rate in found))
    console.print(table)
    console.print(
        f"{len(complaints)} complaints of {len(right)} sound metrics, {rounds} times each; "
        f"{always} of {len(wrong)} wrong ones are found within 30 examples by every seed."
    )
    return 1 if complaints else 0


if __name__ == "__main__":
    raise SystemExit(main())
