"""What the speed benchmark measures besides rounds: short jobs, first steps, memory, rows.

    short_jobs("mlp", seconds=5, repeats=3)      # total wall time, compilation included
    first_step("mlp", repeats=3)                 # until one step has ended
    memory(rows=100_000)                         # peak of a fresh process
    mapped_rows([10**4, 10**6])                  # cost against the number of rows

Each is run in fresh processes, one at a time and in turn (A B A B). Importing packages and
making the data is on nobody's clock; building the model, compiling and training are.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.speed_process import Child
from benchmarks.speed_process import job
from benchmarks.speed_process import Result
from benchmarks.speed_process import Runner
from benchmarks.speed_works import WORKS

COLUMNS = 16


def jobs_in_turn(
    runners: Sequence[Runner],
    *,
    group: str,
    work: str,
    repeats: int,
    unit: str = "s",
    value: Callable[[dict[str, Any]], float] = lambda answer: answer["seconds"],
) -> list[Result]:
    """Does each job ``repeats`` times, in turn.

    Args:
        runners: who does what; the first one is the baseline.
        group, work, unit: for the results.
        repeats: fresh processes of each.
        value: what counts of a job's answer.
    """
    found = [Result(group, work, runner.name, unit, []) for runner in runners]
    for _ in range(repeats):
        for runner, result in zip(runners, found, strict=True):
            answer = job(runner)
            result.values.append(value(answer))
            result.results = answer["results"][-1:]
    return found


def epochs_of(name: str, seconds: Sequence[float], task: dict[str, Any]) -> list[int]:
    """The epochs for which ``model.fit`` takes about so many seconds, its compilation included."""
    one = Runner("model.fit", {"name": name, **task, "epochs": 1})
    with Child(one) as child:  # A job of the process that has compiled nothing yet,
        first = child.ask("job")["seconds"]
        child.ask("warm")
        steady = min(child.ask("round")["seconds"] for _ in range(3))
    return [max(1, 1 + round((wanted - first) / steady)) for wanted in seconds]


def short_jobs(
    name: str, *, seconds: Sequence[float], repeats: Sequence[int], rows: int | None = None
) -> list[Result]:
    """Total wall time of jobs that take ``model.fit`` about so many seconds.

    The number of epochs is found once by ``model.fit``; then both do that many.
    """
    found = []
    counts = epochs_of(name, seconds, {"rows": rows})
    for wanted, epochs, times in zip(seconds, counts, repeats, strict=True):
        task = {"name": name, "rows": rows, "epochs": epochs}
        title = f"{name}, {wanted:g} s"
        runners = [Runner("model.fit", task), Runner("Trainer", task)]
        results = jobs_in_turn(runners, group="jobs", work=title, repeats=times)
        for result in results:
            result.note = f"{epochs} epochs, loss {result.results[0]:.4g}"
        found += results
    return found


def first_step(name: str, *, repeats: int) -> list[Result]:
    """Time until the first step has ended, of a fresh process: one batch, one epoch."""
    task = {"name": name, "rows": WORKS[name].batch, "epochs": 1}
    runners = [Runner(contender, task) for contender in ("model.fit", "by hand", "Trainer")]
    return jobs_in_turn(runners, group="first step", work=name, repeats=repeats)


def memory(*, rows: int, repeats: int) -> list[Result]:
    """The highest resident memory of a process that trains the perceptron for two epochs."""
    task = {"name": "mlp", "rows": rows, "batch": 256, "epochs": 2}
    runners = [
        Runner("model.fit", task),
        Runner("Trainer", task | {"resident_bytes": 0}, "Trainer, nothing resident"),
        Runner("Trainer", task, "Trainer, resident"),
    ]
    return jobs_in_turn(
        runners,
        group="memory",
        work=f"mlp, {rows:,} rows",
        repeats=repeats,
        unit="MB",
        value=lambda answer: answer["peak"],
    )


def mapped_rows(sizes: Sequence[int]) -> list[Result]:
    """Memory and time over a memory-mapped file of rows of 16 numbers, one epoch of each size.

    Memory is of the process's own pages; those of the file are the system's to give back. Time
    is of the whole job, compilation included, over its rows. ``model.fit`` copies the file, and
    is asked for up to a million rows.
    """
    found = []
    for rows in sizes:
        with tempfile.TemporaryDirectory() as directory:
            file = str(pathlib.Path(directory, "rows"))
            write_rows(file, rows)
            task = {"name": "columns", "rows": rows, "epochs": 1, "file": file}
            runners = [Runner("Trainer", task | {"resident_bytes": 0})]
            if rows <= 10**6:
                runners.append(Runner("model.fit", task))
            for runner in runners:
                answer = job(runner)
                size = f"{rows:,} rows"
                work = f"{runner.contender}, memory-mapped"
                found += [
                    Result("rows", f"{work}, memory", size, "MB", [answer["own"]]),
                    Result(
                        "rows", f"{work}, time", size, "µs/row", [answer["seconds"] / rows * 1e6]
                    ),
                ]
    return found


def write_rows(file: str, rows: int) -> None:
    """Writes rows of 16 random numbers, labelled by the sign of the first one, in parts."""
    random = np.random.default_rng(0)
    make = np.lib.format.open_memmap
    x = make(f"{file}.x.npy", "w+", "float32", (rows, COLUMNS))
    y = make(f"{file}.y.npy", "w+", "float32", (rows, 1))
    for start in range(0, rows, 10**5):
        part = slice(start, start + 10**5)
        x[part] = random.standard_normal(x[part].shape, "float32")
        y[part] = x[part, :1] > 0
    x.flush()
    y.flush()
