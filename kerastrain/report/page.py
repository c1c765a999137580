"""The page of a report: one file, with all that it needs inside.

::

    write_report(["runs/a", "runs/b"], "report.html")
"""

import importlib
import json
import math
import os
from pathlib import Path
from typing import Any

from kerastrain.report import figures
from kerastrain.report.files import differences
from kerastrain.report.files import read_runs
from kerastrain.report.files import RunFiles

# Events that are listed; saves are only counted.
_LISTED = ("begin", "resume", "plan", "skip", "interrupted", "end")
_TEMPLATE = Path(__file__).with_name("page.html")


def write_report(directories: list[str], output: str | os.PathLike[str] = "report.html") -> Path:
    """Writes a report of runs: curves, speed, where the time went, what happened, and what differs.

    Args:
        directories: of the runs.
        output: the file, which is replaced.

    Returns:
        Its path.

    Raises:
        RunError: a directory is no run's.
        ArgumentError: plotly or Jinja2 is not installed.
    """
    figures.plotly()
    runs = read_runs(directories)
    jinja2, offline = (importlib.import_module(name) for name in ("jinja2", "plotly.offline"))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=", ".join(run.name for run in runs),
        runs=runs,
        figures={name: _script(one) for name, one in figures.figures_of(runs).items()},
        summary=_summary(runs),
        differences=differences(runs) if len(runs) > 1 else {},
        events={run.name: _events(run) for run in runs},
        configs={run.name: json.dumps(_without_summary(run), indent=2) for run in runs},
        shown=_shown,
        plotly=offline.get_plotlyjs(),
    )
    path = Path(output)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    return path


def _script(figure: Any) -> str:
    """A figure in a script of the page, which no text in it ends."""
    text: str = figure.to_json()
    return text.replace("</", "<\\/")


def _summary(runs: list[RunFiles]) -> dict[str, list[str]]:
    """A row for each result: the last value of each run, and the lowest and highest with its epoch."""
    names = dict.fromkeys(
        column
        for run in runs
        for name in run.results
        for column in (name, *run.validations_of(name))
    )
    return {name: [_last_and_range(run, name) for run in runs] for name in names}


def _last_and_range(run: RunFiles, name: str) -> str:
    pairs = list(zip(run.columns.get(name, []), run.epochs, strict=False))
    known = [pair for pair in pairs if not math.isnan(pair[0])]
    if not known:
        return ""
    low, high = min(known), max(known)
    return (
        f"{known[-1][0]:.4g} (lowest {low[0]:.4g} in epoch {low[1]}, highest {high[0]:.4g} in epoch "
        f"{high[1]})"
    )


def _events(run: RunFiles) -> list[tuple[str, str, str]]:
    """``(time, event, what)`` of what has happened, without saves, and how many of these there were."""
    found = []
    for event in run.events:
        if event["event"] not in _LISTED:
            continue
        what = {k: v for k, v in event.items() if k not in ("time", "event", "process", "seconds")}
        words = ", ".join(f"{key} {_shown(value)}" for key, value in what.items())
        found.append((event.get("time", "")[:19].replace("T", " "), event["event"], words))
    saves = sum(event["event"] == "save" for event in run.events)
    return [*found, ("", "save", f"{saves} checkpoints")] if saves else found


def _without_summary(run: RunFiles) -> dict[str, Any]:
    model = {k: v for k, v in run.config.get("model", {}).items() if k != "summary"}
    return run.config | ({"model": model} if model else {})


def _shown(value: Any) -> str:
    """A value in a table."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
