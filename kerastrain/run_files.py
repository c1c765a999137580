"""The files of a run directory that people read, and how they are read; without TensorFlow.

::

    for row in read_history(Path("runs/a")):
        print(row["epoch"], row["loss"])
"""

import csv
import json
from pathlib import Path
from typing import Any

CONFIG, HISTORY, EVENTS = "config.json", "history.csv", "events.jsonl"
# The first columns of the history, before the results.
COLUMNS = ("epoch", "steps", "seconds", "learning_rate")


def read_config(directory: Path) -> dict[str, Any]:
    """What was trained; empty where that is not there, or cut off."""
    try:
        found = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_history(directory: Path) -> list[dict[str, str]]:
    """The rows of a history, by their columns; of one that is not there, none."""
    try:
        text = (directory / HISTORY).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = []
    whole = text[: text.rfind("\n") + 1]  # without a row that was cut off
    for row in csv.DictReader(whole.splitlines()):
        if None not in row and None not in row.values() and row.get("epoch", "").isdigit():
            rows.append(row)
    return rows


def read_events(directory: Path) -> list[dict[str, Any]]:
    """The events of a run, in their order; without lines that were cut off."""
    try:
        text = (directory / EVENTS).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            found.append(event)
    return found
