"""What is read of a run directory, as numbers.

::

    run = RunFiles.read("runs/a")
    run.columns["val_loss"]          # of each epoch; NaN where it has none
    run.status                       # "ended after 10 of 10 epochs"
"""

import math
import os
from pathlib import Path
from typing import Any
from typing import NamedTuple

from kerastrain.errors import RunError
from kerastrain.run_files import COLUMNS
from kerastrain.run_files import read_config
from kerastrain.run_files import read_events
from kerastrain.run_files import read_history


class RunFiles(NamedTuple):
    """A run.

    Attributes:
        name: by which the report calls it.
        config: what was trained, as ``config.json`` has it.
        columns: numbers by the columns of the history, each of all epochs.
        events: what has happened, in its order.
    """

    name: str
    config: dict[str, Any]
    columns: dict[str, list[float]]
    events: list[dict[str, Any]]

    @classmethod
    def read(cls, directory: str | os.PathLike[str], name: str = "") -> "RunFiles":
        """Reads a run directory.

        Raises:
            RunError: it is none, or none of this version.
        """
        path = Path(directory)
        if not path.is_dir():
            raise RunError(f"There is no run directory {str(path)!r}. Pass the path of one.")
        rows = read_history(path)
        if not rows:
            has = "checkpoints, but no history" if (path / "checkpoints").is_dir() else "no history"
            raise RunError(
                f"{str(path)!r} has {has} of an epoch that has ended: there is nothing to report. Pass "
                "the run_dir of a training by kerastrain 0.8 or later."
            )
        columns = {key: [_number(row[key]) for row in rows] for key in rows[0]}
        return cls(name or path.name, read_config(path), columns, read_events(path))

    @property
    def epochs(self) -> list[int]:
        """The numbers of the epochs, from 1."""
        return [int(number) for number in self.columns["epoch"]]

    @property
    def results(self) -> list[str]:
        """The names of the results of training, the loss first."""
        names = [n for n in self.columns if n not in COLUMNS and not n.startswith("val_")]
        return sorted(names, key=lambda name: name != "loss")

    def validations_of(self, result: str) -> list[str]:
        """The columns that have a result on validation data: of the only set, or of each by name."""
        if f"val_{result}" in self.columns:
            return [f"val_{result}"]
        others = {f"_{name}" for name in self.results if len(name) > len(result)}
        named = [n for n in self.columns if n.startswith("val_") and n.endswith(f"_{result}")]
        return [
            n for n in named if not any(n.endswith(o) and o.endswith(f"_{result}") for o in others)
        ]

    @property
    def status(self) -> str:
        """How the training has ended, as far as that is known."""
        done = self.epochs[-1]
        last = next((e for e in reversed(self.events) if e["event"] in _ENDS), {"event": ""})
        wanted = next((e["epochs"] for e in reversed(self.events) if e.get("epochs")), None)
        words = f"{_ENDS.get(last['event'], 'unknown')} after {done}"
        words += f" of {wanted} epochs" if wanted else " epochs"
        return f"{words}: {last['error']}" if last.get("error") else words

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went: seconds of the parts of the loop, of all processes that have ended."""
        total: dict[str, float] = {}
        for event in self.events:
            if event["event"] in ("end", "interrupted"):
                for part, seconds in (event.get("seconds") or {}).items():
                    total[part] = total.get(part, 0.0) + seconds
        return {part: seconds for part, seconds in total.items() if seconds > 0}

    @property
    def steps_per_second(self) -> list[float]:
        """Of each epoch, with its validation."""
        steps, seconds = self.columns["steps"], self.columns["seconds"]
        before = [0.0, *steps[:-1]]
        return [
            (a - b) / s if s else math.nan for a, b, s in zip(steps, before, seconds, strict=True)
        ]


# Of a configuration, what says nothing of a difference.
_LEFT_OUT = ("name", "registered_name", "module", "summary", "@digest", "checksum")
_ENDS = {
    "end": "ended",
    "interrupted": "interrupted",
    "begin": "running, or killed,",
    "resume": "running, or killed,",
}


def read_runs(directories: list[str]) -> list[RunFiles]:
    """Several runs, by names that tell them apart: the ends of their paths.

    Raises:
        RunError: one is none.
    """
    parts = [Path(os.path.abspath(directory)).parts for directory in directories]
    length = 1
    while length < max(map(len, parts)) and len({p[-length:] for p in parts}) < len({*parts}):
        length += 1
    names = [os.path.join(*path[-length:]) for path in parts]
    return [RunFiles.read(one, name) for one, name in zip(directories, names, strict=True)]


def flattened(config: Any, path: str = "") -> dict[str, Any]:
    """A configuration as one level, without the names that Keras gives objects one after the other.

    Example:
        >>> flattened({"optimizer": {"name": "adam_1", "learning_rate": 0.1}, "layers": [{"units": 3}]})
        {'optimizer.learning_rate': 0.1, 'layers.0.units': 3}
    """
    if isinstance(config, list) and any(isinstance(one, dict) for one in config):
        config = dict(enumerate(config))
    if not isinstance(config, dict):
        return {path: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key not in _LEFT_OUT:
            found |= flattened(value, f"{path}.{key}" if path else str(key))
    return found


def differences(runs: list[RunFiles]) -> dict[str, list[Any]]:
    """The values of each run where their configurations differ, by their place."""
    flat = [flattened(run.config) for run in runs]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: [one.get(key) for one in flat] for key in keys}
    return {key: each for key, each in values.items() if any(one != each[0] for one in each)}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
