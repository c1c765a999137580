"""What people read in a run directory: ``config.json``, ``history.csv`` and ``events.jsonl``.

::

    log = RunLog(directory, saver.check_directory)
    log.begin(config, position, times)     # a new training, or one that is resumed
    log.epoch(position, ...)               # a row, of the epoch that has ended
    log.event("save", steps=100)           # a line, with the time
    log.end(error)

Nothing is resumed from these files: they are for people and for `kerastrain report`. A resumed
training writes them on, and the rows of epochs that it trains again are replaced.
"""

import csv
import datetime
import io
import json
import os
import time
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kerastrain import notices
from kerastrain.errors import KerastrainError
from kerastrain.execution import Times
from kerastrain.run.position import Position
from kerastrain.run_files import COLUMNS
from kerastrain.run_files import CONFIG
from kerastrain.run_files import EVENTS
from kerastrain.run_files import HISTORY
from kerastrain.run_files import read_history


class RunLog:
    """The log of one training.

    Args:
        directory: where it is written, from `begin` on.
        ready: makes sure that the directory is still this training's; raises where it is not.
    """

    def __init__(self, directory: Path, ready: Callable[[], None] = lambda: None):
        self._directory, self._ready = directory, ready
        self._is_written = False
        self._columns: list[str] = []
        self._times: Times | None = None
        self._last = 0.0
        self._skipped, self._plans = 0, ""

    def begin(self, config: Callable[[], dict[str, Any]], position: Position, times: Times) -> None:
        """The training begins, or is resumed at a position.

        Args:
            config: gives what is trained, by what, of JSON's types; its ``"process"`` may be another
                one in each process that trains.
            position: where the training is.
            times: of the parts of its loop, from now on.
        """
        self._is_written = True
        self._times, self._last = times, time.perf_counter()
        is_new = not position.steps
        try:
            known = config()
        except Exception as error:  # code of the user's own, as of a layer, may raise anything
            known = {"failed": f"{type(error).__name__}: {error}", "process": None}

        def write() -> None:
            if is_new or not (self._directory / CONFIG).exists():
                _write(self._directory / CONFIG, json.dumps(known, indent=2, default=str) + "\n")
            rows = [] if is_new else read_history(self._directory)
            self._rewrite([row for row in rows if int(row["epoch"]) <= position.epoch])
            if is_new:
                (self._directory / EVENTS).unlink(missing_ok=True)

        self._tried(write)
        self.event(
            "begin" if is_new else "resume",
            epoch=position.epoch + 1,
            steps=position.steps,
            epochs=known.get("epochs"),
            process=known["process"],
        )

    def epoch(
        self,
        position: Position,
        learning_rate: float | None,
        plans: dict[str, str],
        skipped: Sequence[tuple[int, int]],
    ) -> None:
        """An epoch has ended.

        Args:
            position: at the begin of the next epoch, with the results in ``epoch_logs``.
            learning_rate: at its end; None where there is no such number.
            plans: how steps run, by their kind, as `Trainer.plans` has it.
            skipped: ``(epoch, step)`` of all batches that the training has skipped.
        """
        if not self._is_written:
            return
        names = {kind: plan.partition(",")[0] for kind, plan in plans.items()}
        if str(names) != self._plans:
            self.event("plan", epoch=position.epoch, **plans)
        for epoch, step in skipped[self._skipped :]:
            self.event("skip", epoch=epoch + 1, step=step + 1)
        self._plans, self._skipped = str(names), len(skipped)
        now = time.perf_counter()
        row = {
            "epoch": position.epoch,
            "steps": position.steps,
            "seconds": f"{now - self._last:.6f}",
        }
        logs = position.epoch_logs or {}
        row |= {"learning_rate": learning_rate} | {name: _number(v) for name, v in logs.items()}
        self._last = now

        def write() -> None:
            new = [name for name in row if name not in self._columns]
            if new or not (self._directory / HISTORY).exists():
                self._rewrite(read_history(self._directory), self._columns + new)
            with open(self._directory / HISTORY, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)

        self._tried(write)

    def event(self, name: str, **what: Any) -> None:
        """Something has happened.

        Args:
            name: of it, such as ``"plan"``.
            **what: of JSON's types.
        """
        if not self._is_written:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": name, **what}, default=str)

        def write() -> None:
            with open(self._directory / EVENTS, "ab+") as file:
                if file.tell() and not _ends_in_a_line(file):  # it was killed while it wrote
                    file.write(b"\n")
                file.write(line.encode() + b"\n")

        self._tried(write)

    def end(self, error: BaseException | None) -> None:
        """The training has ended.

        Args:
            error: that ended it; None where all epochs have run.
        """
        if self._times is None:  # it has not begun, or is over
            return
        parts = {name: round(seconds, 3) for name, seconds in self._times.seconds.items()}
        if error is None:
            self.event("end", seconds=parts)
        else:
            words = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            self.event("interrupted", error=words, seconds=parts)
        self._is_written = False

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str] | None = None) -> None:
        """The history, with these rows."""
        if columns is None:
            columns = list(dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)]))
        self._columns = columns
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        _write(self._directory / HISTORY, text.getvalue())

    def _tried(self, write: Callable[[], None]) -> None:
        """Writes; what fails of it ends the log, and not the training."""
        if not self._directory.is_dir():  # somebody has removed it: a save makes it anew, if any
            return
        try:
            self._ready()
            write()
        except KerastrainError:
            self._is_written = False  # another run is there: the next save warns of it
        except OSError as error:
            self._is_written = False
            notices.warn(
                f"The log in {self._directory} is written no more ({error.strerror}). The training goes "
                "on, and is saved as far as that is possible."
            )


def _number(value: Any) -> Any:
    """A result as a number of Python's, if it is one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _ends_in_a_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _write(path: Path, text: str) -> None:
    """A whole file, or the one that was there."""
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(text, encoding="utf-8", newline="")
    os.replace(unfinished, path)
