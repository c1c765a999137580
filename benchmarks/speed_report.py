"""What the speed benchmark prints and saves: tables, targets, and ratios to an older run.

    print_results(results)
    print_targets(results)
    save(results, "new.json")
    print_comparison(results, load("old.json"))

Times as fast is the median, over rounds, of the baseline's time over the contender's in the
same round; the baseline is the first contender of the work.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import rich.box
import rich.console
import rich.table

from benchmarks.harness import machine_line
from benchmarks.speed_process import Result


@dataclasses.dataclass(frozen=True)
class Target:
    """A ratio or a difference of two measured values, and what it is to be.

    Attributes:
        title: for the table.
        group, work: of the results.
        over, under: contenders; measured is the value of ``over`` by that of ``under``.
        least: the smallest value that meets the target.
        most: the largest one.
        subtract: measured is ``over`` less ``under``.
        under_work: the work of ``under``, where it is another one.
    """

    title: str
    group: str
    work: str
    over: str
    under: str
    least: float = float("-inf")
    most: float = float("inf")
    subtract: bool = False
    under_work: str | None = None

    def measured(self, results: Sequence[Result]) -> float | None:
        """The median over rounds; None where one of both was not run."""
        over = find(results, self.group, self.work, self.over)
        under = find(results, self.group, self.under_work or self.work, self.under)
        if not (over and under and over.values and under.values):
            return None
        pairs = list(zip(over.values, under.values, strict=False))
        values = [a - b if self.subtract else a / b for a, b in pairs]
        return float(np.median(values))

    def wanted(self) -> str:
        """What it is to be."""
        unit = " µs" if self.subtract else ""
        return f">= {self.least:g}" if self.least > float("-inf") else f"<= {self.most:g}{unit}"


def faster(
    title: str, work: str, than: str, least: float, group: str = "works", who: str = "Trainer"
) -> Target:
    """A target of being so many times as fast."""
    return Target(f"{title}, times as fast as {than}", group, work, than, who, least=least)


def no_slower(
    title: str, work: str, than: str, most: float, group: str = "works", who: str = "Trainer"
) -> Target:
    """A target of taking so many times as long at most."""
    return Target(f"{title}, time over that of {than}", group, work, who, than, most=most)


FIT, TUNED = "model.fit", "model.fit, tuned"
TARGETS = (
    faster("MLP, NumPy arrays", "mlp", FIT, 10),
    faster("MLP, NumPy arrays", "mlp", TUNED, 2.5),
    no_slower("MLP, NumPy arrays", "mlp", "JAX lax.scan", 1.1),
    no_slower("MLP, NumPy arrays", "mlp", "by hand, XLA epoch", 1.1),
    faster("MLP, NumPy arrays", "mlp", "PyTorch", 4),
    faster("MLP, NumPy arrays", "mlp", "PyTorch, DataLoader", 4),
    faster("MLP, shuffled tf.data", "mlp", FIT, 4, group="tf.data"),
    faster("MLP, shuffled tf.data", "mlp", TUNED, 1.2, group="tf.data"),
    faster("transformer", "transformer", FIT, 2.5),
    faster("LSTM", "lstm", FIT, 2.5),
    faster("large", "large", FIT, 2.3),
    faster("large", "large", TUNED, 1.1),
    faster("convnet", "convnet", TUNED, 0.98),
    faster("convnet", "convnet", FIT, 1.3),
    *(
        no_slower(f"job, {name}, {seconds} s", f"{name}, {seconds} s", FIT, most, group="jobs")
        for name, mosts in (
            ("mlp", {5: 1.0, 60: 0.7}),
            ("transformer", {5: 1.0, 60: 0.7}),
            ("convnet", {5: 1.02, 20: 1.02, 60: 1.02}),
        )
        for seconds, most in mosts.items()
    ),
    no_slower("Dropout(0.5)", "mlp", "without", 1.5, group="dropout", who="with Dropout(0.5)"),
    Target(
        "plan `step`, µs a step above the loop by hand",
        "overhead",
        "mlp",
        "Trainer, plan step",
        "by hand",
        most=10,
        subtract=True,
    ),
    faster("evaluate, 100,000 rows", "evaluate", FIT, 3, group="evaluate"),
    faster("predict, 100,000 rows", "predict", FIT, 3, group="evaluate"),
    Target(
        "peak memory, nothing resident, over that of model.fit",
        "memory",
        "mlp, 100,000 rows",
        "Trainer, nothing resident",
        FIT,
        most=1.1,
    ),
    # Against few rows for memory; against many for time, where compilation is spread over them.
    *(
        Target(
            f"{what} of 10,000,000 mapped rows over {rows}",
            "rows",
            f"Trainer, memory-mapped, {what}",
            "10,000,000 rows",
            f"{rows} rows",
            most=1.1,
        )
        for what, rows in (("memory", "100,000"), ("time", "1,000,000"))
    ),
)


def find(results: Sequence[Result], group: str, work: str, contender: str) -> Result | None:
    """The result of a contender, or None."""
    for result in results:
        if (group, work, contender) == (result.group, result.work, result.contender):
            return result
    return None


# Tables -----------------------------------------------------------------------------


def make_console() -> rich.console.Console:
    """A console that does not cut figures where it is a file."""
    console = rich.console.Console(highlight=False)
    console.width = max(console.width, 120)
    return console


def make_table(first: str, *others: str) -> rich.table.Table:
    """A table with a column of names, and others of figures."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="left" if name == "note" else "right")
    return table


def shown(value: float) -> str:
    """Three digits.

    >>> shown(1234.5), shown(12.34), shown(0.01234)
    ('1,234', '12.3', '0.0123')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def print_results(results: Sequence[Result], console: rich.console.Console | None = None) -> None:
    """Prints a table for each work of each group."""
    console = console or make_console()
    works = dict.fromkeys((result.group, result.work) for result in results)
    for group, work in works:
        own = [r for r in results if (r.group, r.work) == (group, work) and r.values]
        if not own:
            continue
        base, unit = own[0], own[0].unit
        console.print(f"{group}: {work}, {unit}, {len(base.values)} rounds", soft_wrap=True)
        ratio = "times as much" if unit in ("MB", "µs/row") else "times as fast"
        table = make_table("contender", "median", "quartiles", "best", ratio, "quartiles", "note")
        for result in own:
            pairs = list(zip(base.values, result.values, strict=False))
            ratios = [a / b if "fast" in ratio else b / a for a, b in pairs]
            low, middle, high = map(shown, np.percentile(result.values, [25, 50, 75]))
            row = [result.contender, middle, f"{low}..{high}", shown(min(result.values))]
            low, middle, high = (f"{q:.2f}" for q in np.percentile(ratios, [25, 50, 75]))
            table.add_row(*row, middle, f"{low}..{high}", result.note)
        console.print(table)


def print_targets(results: Sequence[Result], console: rich.console.Console | None = None) -> None:
    """Prints what was measured of each target."""
    console = console or make_console()
    table = make_table("target", "wanted", "measured", "met")
    measured = {target: target.measured(results) for target in TARGETS}
    for target, value in measured.items():
        if value is not None:
            met = "yes" if target.least <= value <= target.most else "NO"
            table.add_row(target.title, target.wanted(), f"{value:.2f}", met)
    left = sum(value is None for value in measured.values())
    console.print(f"targets: medians over rounds; {left} of {len(TARGETS)} were not run")
    console.print(table)


def print_comparison(
    results: Sequence[Result], old: dict, console: rich.console.Console | None = None
) -> None:
    """Prints the older run's medians over this one's: above 1, it was slower (or larger)."""
    console = console or make_console()
    console.print(f"compared with {old['machine']}", soft_wrap=True)
    table = make_table("group, work, contender", "unit", "old", "new", "old / new")
    before = [Result(**record) for record in old["results"]]
    for result in results:
        own = find(before, result.group, result.work, result.contender)
        if own and own.values and result.values:
            name = f"{result.group}: {result.work}: {result.contender}"
            ratio = f"{own.median / result.median:.2f}"
            table.add_row(name, result.unit, shown(own.median), shown(result.median), ratio)
    console.print(table)


# Files ------------------------------------------------------------------------------


def versions_line() -> str:
    """The machine and the versions of whatever is raced."""
    line = machine_line()
    for package in ("jax", "torch", "lightning", "kerastrain"):
        try:
            line += f", {package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return line


def save(results: Sequence[Result], path: str | os.PathLike[str]) -> None:
    """Writes every value to a file."""
    record = {"machine": versions_line(), "results": [dataclasses.asdict(r) for r in results]}
    pathlib.Path(path).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load(path: str | os.PathLike[str]) -> dict:
    """Reads what `save` wrote."""
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
