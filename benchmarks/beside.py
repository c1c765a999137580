"""kerastrain beside other trainers: what each does with the same few small trainings.

    python -m benchmarks.beside                      # all that are installed, some minutes
    python -m benchmarks.beside --only lightning     # one of them; may be given several times
    python -m benchmarks.beside --quick              # one killed training of each, in its usual way
    python -m benchmarks.beside --json figures.json  # all figures, and the messages

Keras's ``fit``, Lightning, Composer, Accelerate and Orbit are imported in processes of their own,
one at a time, and left out where they are missing. One that needs versions of its own may be in
another environment: ``--python composer=/path/to/its/python``.

A perceptron is trained on fixed rows, in float32 on the CPU, always from the same weights. A
trainer is compared with itself, or with the mathematics written out in NumPy and float64; never
with another trainer:

even, ragged, tokens, clipping
    An epoch of SGD whose batches of 32 rows are taken as parts of 8 by the trainer's own
    accumulation, against the same epoch with whole batches: the largest difference of a weight.
    "even": all parts have 8 rows. "ragged": the last batch has 20, so 8, 8 and 4. "tokens": rows of
    six tokens, of which 1 to 6 are real and count in the loss. "clipping": as "even", and the
    gradient of the batch is clipped by its global norm. Before that, the epoch with whole batches
    must end within 1e-5 of the plain mathematics.
resume
    A training of 32 updates, 8 an epoch, shuffled, saved after every 4th and killed (SIGKILL) in
    the 23rd; the trainer then resumes it. The largest difference of a weight to the training that
    was not killed, and the updates that Adam has counted, where it is not 32.
bad batch
    An epoch in which a row is NaN: whether the weights are finite afterwards, whether the trainer
    stops, and whether it says which batch it was.
report
    The loss (of Composer, the metric) that is reported for an epoch of 20 rows in batches of 8,
    at a learning rate of 0, against the mean over all rows.

Where a trainer has a documented option that matters, both ways are measured. "by hand" is what a
trainer leaves to its user.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

from benchmarks.beside_work import CUTS
from benchmarks.beside_work import distance
from benchmarks.beside_work import TRAINERS
from benchmarks.beside_work import UPDATES

EXPERIMENTS = (*CUTS, "resume", "bad batch", "report")
TIMEOUT = 300  # Seconds of one process.
BY_HAND, NOT_INSTALLED = "by hand", "not installed"


class ProcessFailed(RuntimeError):
    """The process of a trainer ended in another way than it should, or took too long."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What was found of one trainer.

    Attributes:
        name: one of `TRAINERS`.
        versions: of its packages; empty if one is missing.
        found: for each experiment, its ways with what was found; no way where it is left to
            the user.
        missing: packages that are not installed.
    """

    name: str
    versions: dict[str, str]
    found: dict[str, list[dict[str, Any]]]
    missing: list[str] = dataclasses.field(default_factory=list)


def run(python: str, *arguments: str, expected: int = 0) -> dict[str, Any]:
    """What one process of `beside_work` answers; nothing from one that is to be killed.

    Raises:
        ProcessFailed: with the last lines that it wrote.
    """
    name, job, *rest = arguments
    with tempfile.TemporaryDirectory() as directory:
        file = pathlib.Path(directory, "answer.json")
        command = [python, "-m", "benchmarks.beside_work", name, job, str(file), *rest]
        try:
            ended = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                cwd=pathlib.Path(__file__).parent.parent,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"{name}, {job}: took more than {TIMEOUT} s") from None
        if ended.returncode != expected:
            lines = "\n".join(ended.stdout.splitlines()[-8:])
            raise ProcessFailed(f"{name}, {job}: ended with {ended.returncode}\n{lines}")
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def resumed(python: str, name: str, way: str) -> dict[str, Any]:
    """How far a training that was killed and resumed ends from the one that was not."""
    with tempfile.TemporaryDirectory() as directory:
        places = [pathlib.Path(directory, kind) for kind in ("whole", "killed")]
        for place in places:
            place.mkdir()
        try:
            whole = run(python, name, "train", str(places[0]), way, "whole")
            killed = (name, "train", str(places[1]), way, "killed")
            run(python, *killed, expected=-signal.SIGKILL)
            end = run(python, name, "train", str(places[1]), way, "resumed")
        except ProcessFailed as error:
            return {"way": way, "found": "crash", "note": str(error)}
    if whole["updates"] != UPDATES:
        raise ProcessFailed(f"{name} made {whole['updates']} updates instead of {UPDATES}")
    found = distance(end["weights"], whole["weights"])
    return {"way": way, "found": found, "updates": end["updates"]}


def measure(name: str, python: str, *, quick: bool = False) -> Result:
    """All experiments of one trainer.

    Args:
        name: one of `TRAINERS`.
        python: the interpreter of the environment that has it.
        quick: whether the training that is killed is done in the usual way only.
    """
    answer = run(python, name, "figures")
    if "missing" in answer:
        return Result(name, {}, {}, answer["missing"])
    ways = answer["ways"].get("resume", [""])
    found = {**answer["figures"]}
    found["resume"] = [resumed(python, name, way) for way in (ways[:1] if quick else ways)]
    return Result(name, answer["versions"], {key: found[key] for key in EXPERIMENTS})


# The table ----------------------------------------------------------------------------------


def shown(entry: dict[str, Any]) -> str:
    """A way's part of a cell.

    >>> shown({"way": "", "found": 0.0271})
    '2.7e-2'
    >>> shown({"way": "save_freq=4", "found": 0.1, "updates": 36})
    '1.0e-1, 36 updates (save_freq=4)'
    """
    found = entry["found"]
    if isinstance(found, dict):
        weights = "weights finite" if found["finite"] else "weights NaN"
        named = "batch named" if found["named"] else "batch not named"
        text = ", ".join([weights, *(["stops"] if found["stopped"] else []), named])
    elif isinstance(found, str):
        text = found
    else:
        text = "0" if found == 0 else f"{found:.1e}".replace("e-0", "e-").replace("e+0", "e")
    if entry.get("updates", UPDATES) != UPDATES:
        text += f", {entry['updates']} updates"
    return f"{text} ({entry['way']})" if entry["way"] else text


def cell(result: Result, experiment: str) -> str:
    """What the table says of one trainer and experiment: a line for each way."""
    if result.missing:
        return NOT_INSTALLED
    return "\n".join(map(shown, result.found[experiment])) or BY_HAND


def print_table(results: Sequence[Result], console: rich.console.Console | None = None) -> None:
    """Prints all, and the versions."""
    if console is None:
        console = rich.console.Console()
        console.width = max(console.width, 160)  # A file counts as 80 wide.
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
    table.add_column("experiment", no_wrap=True)
    for result in results:
        table.add_column(result.name, overflow="fold")
    for experiment in EXPERIMENTS:
        table.add_row(experiment, *(cell(result, experiment) for result in results))
    console.print(table)
    for result in results:
        installed = ", ".join(f"{name} {version}" for name, version in result.versions.items())
        missing = f"not installed: {', '.join(result.missing)}"
        console.print(f"{result.name}: {installed or missing}", highlight=False, soft_wrap=True)
    console.print(f"{platform.machine()}, Python {platform.python_version()}", highlight=False)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", choices=TRAINERS, help="one of the trainers")
    parser.add_argument("--quick", action="store_true", help="kill only one training of each")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="interpreter of a trainer",
    )
    options = parser.parse_args(arguments)
    options.python = dict(pair.split("=", 1) for pair in options.python)
    if unknown := set(options.python) - set(TRAINERS):
        parser.error(f"--python takes NAME=PATH, NAME one of {list(TRAINERS)}; got {unknown}")
    return options


def main(arguments: Sequence[str] | None = None) -> list[Result]:
    """Runs what the command line asks for, and prints the table."""
    options = options_of(arguments)
    names = options.only or list(TRAINERS)
    results = [
        measure(name, options.python.get(name, sys.executable), quick=options.quick)
        for name in names
    ]
    print_table(results)
    if options.json:
        content = json.dumps([dataclasses.asdict(result) for result in results], indent=1)
        pathlib.Path(options.json).write_text(content + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
