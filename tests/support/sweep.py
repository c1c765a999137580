"""A sweep of drawn cells of the exactness grid, on two processes.

    python -m tests.support.sweep                 # 1,000 cells, about half an hour
    python -m tests.support.sweep --cells 50 --seed 7
    python -m tests.support.sweep --floatx float64

Draws cells of ``tests/support/cells.py`` at random, every other one through plain
``model.fit`` of a `TrainableModel`, and compares each with one device and whole
batches. Prints the differences, and exits with 1 if one is above the tolerance:
1e-6, and 1e-12 in float64.
"""

import argparse
import collections
import multiprocessing
import os
import sys
import time
import traceback

import numpy as np
import rich.box
import rich.console
import rich.table

TOLERANCES = {"float32": 1e-6, "float64": 1e-12}
ENTRY_POINTS = ("trainer", "fit")


def start_process():
    """Gives a process its logical devices, before anything runs on TensorFlow."""
    import tests.conftest  # noqa: F401


def run(work):
    """``(differences, seconds)``, or the traceback of what failed in their stead."""
    import keras

    from tests.support import cells

    (cell, entry_point, floatx), begun = work, time.perf_counter()
    try:
        keras.utils.clear_session(free_memory=False)
        with cells.precision(floatx):
            found = cell.difference(entry_point)
    except Exception:
        return traceback.format_exc(), time.perf_counter() - begun
    return found, time.perf_counter() - begun


def drawn(count, seed):
    """Cells with the entry point each goes through."""
    from tests.support import cells

    rng = np.random.default_rng(seed)
    return [
        (
            cells.draw(lambda values: values[rng.integers(len(values))])[0],
            ENTRY_POINTS[i % len(ENTRY_POINTS)],
        )
        for i in range(count)
    ]


def print_results(results, tolerance, console):
    """Quantiles of each quantity's difference, and the cells that fail."""
    by_quantity = collections.defaultdict(list)
    for _, _, found, _ in results:
        if isinstance(found, dict):
            for name, value in found.items():
                by_quantity[name].append(value)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for column in ("largest difference of", "cells", "median", "99 %", "largest"):
        table.add_column(column, justify="left" if column.startswith("largest d") else "right")
    for name, values in sorted(by_quantity.items(), key=lambda item: -max(item[1])):
        middle, high = np.percentile(values, [50, 99])
        row = [f"{middle:.1e}", f"{high:.1e}", f"{max(values):.1e}"]
        table.add_row(name, str(len(values)), *row)
    console.print(table)
    failed = [r for r in results if not isinstance(r[2], dict) or not max_of(r[2]) <= tolerance]
    for cell, entry_point, found, _ in failed:
        console.print(f"{entry_point}: {cell}\n  {found}", soft_wrap=True, highlight=False)
    console.print(
        f"{len(results)} cells, {len(failed)} above {tolerance:.0e} or failed", highlight=False
    )
    return failed


def max_of(found):
    """The largest difference; NaN if one is in it."""
    return float(np.max(list(found.values())))


def main(arguments=None) -> int:
    """Runs the sweep as the command line asks; returns how the process should exit."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.sweep", description=__doc__)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--floatx", choices=TOLERANCES, default="float32")
    options = parser.parse_args(arguments)
    console = rich.console.Console()
    console.width = max(console.width, 100)
    begun, results = time.perf_counter(), []
    work = [(*one, options.floatx) for one in drawn(options.cells, options.seed)]
    spawn = multiprocessing.get_context("spawn")
    # Graphs of cells that are over stay in memory, so a process does not live for ever.
    with spawn.Pool(options.processes, start_process, maxtasksperchild=100) as pool:
        for (cell, entry_point, _), (found, seconds) in zip(
            work, pool.imap(run, work), strict=True
        ):
            results.append((cell, entry_point, found, seconds))
            if len(results) % 50 == 0:
                console.print(f"{len(results)} cells, {time.perf_counter() - begun:.0f} s")
    failed = print_results(results, TOLERANCES[options.floatx], console)
    console.print(
        f"{time.perf_counter() - begun:.0f} s, seed {options.seed}, {options.floatx}",
        highlight=False,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
