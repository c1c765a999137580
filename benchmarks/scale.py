"""How training scales with the number of workers: measured with a few, predicted for many.

    python -m benchmarks.scale                           # about five minutes
    python -m benchmarks.scale --only predict --plot scale.svg
    python -m benchmarks.scale --rounds 9 --json scale.json
    python -m benchmarks.scale --from scale.json         # the tables of an older run

Three parts, one below the other:

- Measured: 1, 2 and 4 processes of this machine (`scale_measure`). Workers that share processor
  cores are slower for that alone, so each size is also timed without communication, as so many
  workers that train side by side. One worker under ``strategy="multi_worker"`` is raced against
  the same without a strategy.
- Checked: what the formula (`scale_model`) makes of the measured parts, beside the measured whole;
  and beside two published curves, whose inputs are published too. None of them is fitted.
- Predicted: efficiency up to 1,024 workers. Nobody has measured these with kerastrain.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import pathlib
import statistics
from collections.abc import Sequence

import numpy as np
import rich.console

from benchmarks import harness
from benchmarks import scale_measure
from benchmarks import scale_model
from benchmarks import speed_report
from benchmarks.scale_measure import Measured
from benchmarks.scale_model import FIXED
from benchmarks.scale_model import Link
from benchmarks.scale_model import NETWORKS
from benchmarks.scale_model import PUBLISHED
from benchmarks.scale_model import WEAK
from benchmarks.scale_model import Work

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SHOWN = (2, 8, 32, 128, 512, 1024)
USUAL_VOTE = 0.003  # seconds, where none was measured


def percent(share: float) -> str:
    """As it is printed.

    >>> percent(0.904)
    '90 %'
    """
    return f"{100 * share:.0f} %"


def milliseconds(seconds: float) -> str:
    """As they are printed.

    >>> milliseconds(0.00123)
    '1.23'
    """
    return speed_report.shown(1000 * seconds)


def with_quartiles(values: Sequence[float], share: bool = True) -> str:
    """Median and quartiles.

    >>> with_quartiles([0.5, 0.6, 0.7])
    '60 % (55..65)'
    """
    low, middle, high = (100 if share else 1) * np.percentile(values, [25, 50, 75])
    if share:
        return f"{middle:.0f} % ({low:.0f}..{high:.0f})"
    return f"{middle:.3f} ({low:.3f}..{high:.3f})"


def counted(workers: int) -> str:
    """A row of a table.

    >>> counted(1), counted(2)
    ('1 worker', '2 workers')
    """
    return f"{workers} worker{'s' * (workers > 1)}"


# Measured ---------------------------------------------------------------------------


def print_measured(measured: Measured, console: rich.console.Console) -> None:
    """Efficiencies, votes and all-reduces of the processes of this machine."""
    work, rounds = measured.work, len(measured.steps["1, alone"])
    layers = "-".join(map(str, [*work["sizes"], 10]))
    console.rule("measured", align="left")
    console.print(
        f"dense layers {layers}, batch {work['batch']} of one worker, {measured.gradient_bytes / 1e6:.1f} MB "
        f"of gradients, {work['chunk']} steps a chunk; {rounds} rounds, median and quartiles. A worker "
        "has one core, those beyond the number of cores share them. Load of the machine before and "
        f"after: {measured.load[0]:.1f}, {measured.load[-1]:.1f} (with more than one of others, cores "
        "are shared with them too).",
    )
    ratio = with_quartiles(measured.ratios(("together", 1), ("alone", 1)), share=False)
    best = min(measured.steps["1, together"]) / min(measured.steps["1, alone"])
    console.print(
        f'one worker, time under strategy="multi_worker" over that of none: {ratio}; of the best '
        f"rounds {best:.3f}"
    )
    worst = max(measured.difference.values())
    console.print(f"weights after an epoch of the same global batch: max|dw| {worst:.0e}")
    for scaling, suffix in ((WEAK, ""), (FIXED, ", fixed")):
        table = speed_report.make_table(
            f"{scaling}:", "images/s", "efficiency", "of workers that only share cores", "communication",
        )  # fmt: skip
        for count in measured.workers:
            own = suffix if count > 1 else ""
            factor = count if scaling == FIXED else 1
            rows = work["batch"] * (1 if scaling == FIXED else count)
            # A ratio is of one round.
            with_ = measured.ratios(("alone", 1), (f"together{own}", count))
            without = measured.ratios(("alone", 1), (f"alone{own}", count))
            apart = measured.ratios((f"alone{own}", count), (f"together{own}", count))
            table.add_row(
                counted(count),
                f"{rows / measured.step(f'together{own}', count):,.0f}",
                with_quartiles([r / factor for r in with_]),
                with_quartiles([r / factor for r in without]),
                with_quartiles(apart),
            )
        console.print(table)
    console.print(
        "efficiency: rows a second over those of as many times one worker. In the next column are "
        "workers that train side by side, alone; the last is the first by that: what is left of it "
        "when they communicate."
    )
    sizes = list(next(iter(measured.reductions.values()), {}))
    names = [f"all-reduce of {int(size) >> 10:,} kB" for size in sizes]
    table = speed_report.make_table("ms, medians:", "a step alone", "vote", *names)
    for count in measured.workers:
        reductions = measured.reductions.get(str(count), {size: [0.0] for size in sizes})
        table.add_row(
            counted(count),
            milliseconds(measured.step("alone", count)),
            milliseconds(statistics.median(measured.votes[str(count)])),
            *(milliseconds(statistics.median(reductions[size])) for size in sizes),
        )
    console.print(table)


# Checked ----------------------------------------------------------------------------


def print_checked(measured: Measured | None, console: rich.console.Console) -> None:
    """The formula beside what was measured here, and beside what others have published."""
    console.rule("the formula, checked", align="left")
    if measured:
        table = speed_report.make_table(
            "here, weak scaling, ms a step:", "formula", "measured", "formula / measured"
        )
        for count in measured.workers[1:]:
            work, link = measured.as_work(count), measured.link(count)
            found = scale_model.step_seconds(count, work, link)
            real = measured.step("together", count)
            table.add_row(
                counted(count), milliseconds(found), milliseconds(real), f"{found / real:.2f}"
            )
        console.print(table)
    table = speed_report.make_table(
        "published:", "workers", "no overlap", "full overlap", "published", "within", "overlap for it"
    )  # fmt: skip
    for one in PUBLISHED:
        link = one.network.link(one.shape)
        none, full = (
            scale_model.efficiency(one.workers, one.work, link, overlap) for overlap in (0.0, 1.0)
        )
        overlap = scale_model.overlap_for(one.efficiency, one.workers, one.work, link)
        table.add_row(
            one.work.name,
            str(one.workers),
            percent(none),
            percent(full),
            percent(one.efficiency),
            "NO" if overlap is None else "yes",
            "" if overlap is None else percent(overlap),
        )
    console.print(table)
    for source in dict.fromkeys(one.source for one in PUBLISHED):
        console.print(f"- {source}")
    for one in PUBLISHED:
        console.print(
            f"- {one.work.name}: {1000 * one.work.compute:.0f} ms a step, "
            f"{one.work.gradient_bytes / 1e6:.0f} MB, {one.network.name}, {one.shape}, no stragglers"
        )


# Predicted --------------------------------------------------------------------------


def works(measured: Measured | None) -> list[Work]:
    """What is predicted: what was measured here, and the published works, trained by kerastrain.

    A step of these takes longer than a chunk usually does, so that there is a vote for each.
    """
    here = [measured.as_work()] if measured else []
    vote = here[0].vote if here else USUAL_VOTE
    return [*here, *(dataclasses.replace(one.work, vote=vote, chunk=1) for one in PUBLISHED)]


def print_predicted(measured: Measured | None, shape: str, console: rich.console.Console) -> None:
    """Efficiencies of many workers, of no and of full overlap."""
    console.rule("predicted: measured by nobody", align="left")
    console.print(
        "efficiency in %, without overlap (as kerastrain has it: one all-reduce after the backward "
        f"pass) .. with full overlap; a {shape}, latency and usable bandwidth in the middle of what is "
        "usual."
    )
    for work in works(measured):
        console.print(
            f"{work.name}: {1000 * work.compute:.1f} ms a step, {work.gradient_bytes / 1e6:.1f} MB, "
            f"sigma {1000 * work.sigma:.1f} ms, votes of {1000 * work.vote:.1f} ms beside messages, "
            f"{work.chunk} steps a chunk"
        )
        table = speed_report.make_table("workers", *(f"{n:,}" for n in SHOWN))
        for scaling, network in itertools.product((WEAK, FIXED), NETWORKS):
            cells = [_predicted(n, work, network.link(shape), scaling) for n in SHOWN]
            table.add_row(f"{scaling}, {network.name}", *cells)
        console.print(table)


def _predicted(count: int, work: Work, link: Link, scaling: str) -> str:
    none, full = (
        100 * scale_model.efficiency(count, work, link, overlap, scaling) for overlap in (0.0, 1.0)
    )
    return f"{none:.0f}..{full:.0f}"


# ------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> Measured | None:
    """Measures, checks and predicts; returns what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=["measure", "predict"], help="one of both")
    parser.add_argument("--rounds", type=int, default=7, help="at most")
    parser.add_argument("--seconds", type=float, default=240, help="after which no round is begun")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--quick", action="store_true", help="1 and 2 workers, 1 round, a small model"
    )
    parser.add_argument("--json", help="a file to write what was measured to")
    parser.add_argument("--from", dest="old", help="such a file, instead of measuring")
    parser.add_argument("--shape", choices=["ring", "tree"], default="ring", help="of predictions")
    parser.add_argument("--plot", help="a file to draw to, PNG or SVG; wants matplotlib")
    options = parser.parse_args(arguments)
    if options.workers[0] != 1 or sorted(set(options.workers)) != options.workers:
        parser.error(f"--workers must begin with 1 and rise. Received: {options.workers}")
    console = speed_report.make_console()
    measured = None
    if options.old:
        measured = Measured(**json.loads(pathlib.Path(options.old).read_text()))
    elif options.only != "predict":
        quick = {"sizes": [64, 64], "batch": 32, "steps": 8, "chunk": 4}
        measured = scale_measure.measure(
            (1, 2) if options.quick else tuple(options.workers),
            1 if options.quick else options.rounds,
            quick if options.quick else scale_measure.WORK,
            options.seconds,
        )
    if measured and options.json:
        record = json.dumps(dataclasses.asdict(measured), indent=1)
        pathlib.Path(options.json).write_text(record + "\n")
    if measured:
        print_measured(measured, console)
    if options.only != "measure":
        print_checked(measured, console)
        print_predicted(measured, options.shape, console)
    console.print(harness.machine_line(), soft_wrap=True)
    if options.plot:
        from benchmarks import scale_plot

        scale_plot.draw(measured, works(measured), COUNTS, options.shape, options.plot)
    return measured


if __name__ == "__main__":
    main()
