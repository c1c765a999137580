"""Progress: a live line in a terminal, plain lines elsewhere.

::

    with Progress(verbose="auto", epochs=3) as progress:
        progress.begin_epoch(0, steps=100)
        if progress.is_due:                    # a few times a second
            progress.update(17, read_results())
        progress.end_epoch({"loss": 0.5})

Results are read only when the line is drawn, so that a training step need not wait for them.
"""

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bar
from rich.progress import TextColumn
from rich.progress import TimeRemainingColumn
from rich.table import Column

from kerastrain.errors import ArgumentError

# Seconds between two drawings of the live line.
INTERVAL = 0.2


class Progress:
    """Shows how far a loop has come.

    Args:
        verbose: 0 for nothing; 1 for a live line with a plain line per epoch;
            2 for the plain lines only; ``"auto"`` for 1. Where the output is
            no terminal, 1 is 2.
        epochs: the number of epochs, or None for one pass without epochs.
        label: what the line calls a pass without epochs.

    Raises:
        ArgumentError: another ``verbose``.
    """

    def __init__(self, verbose: Any, epochs: int | None, label: str = "Epoch"):
        if verbose not in (0, 1, 2, "auto", True, False):
            raise ArgumentError(
                '`verbose` must be 0 (silent), 1 (live), 2 (lines) or "auto". '
                f"Received: verbose={verbose!r}."
            )
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._lines = bool(verbose)
        self._live_wanted = verbose in (1, "auto") and self._console.is_terminal
        self._epochs, self._label = epochs, label
        self._live: Live | None = None
        self._shown = False  # how the steps run
        self._next = self._begun = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def say(self, line: str) -> None:
        """Prints a line, unless it is empty or nothing is to be shown."""
        if self._lines and line:
            self._console.print(line, markup=False)

    def begin_epoch(self, epoch: int, steps: int | None) -> None:
        """Starts the line of an epoch of ``steps`` steps (None: unknown)."""
        self._title = f"{self._label} {epoch + 1}/{self._epochs}" if self._epochs else self._label
        self._begun = time.perf_counter()
        self._next = self._begun + INTERVAL
        if not self._live_wanted:
            return
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[results]}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
        )
        self._task = self._bar.add_task(self._title, total=steps, results="")
        self._live = Live(self._bar, console=self._console, transient=True, auto_refresh=False)
        self._live.start()

    @property
    def is_due(self) -> bool:
        """Whether it is time to draw the line."""
        return self._live is not None and time.perf_counter() >= self._next

    def update(self, steps_done: int, results: dict[str, Any]) -> None:
        """Draws the line.

        Args:
            steps_done: steps of this epoch that are done.
            results: ``{name: float}``.
        """
        if self._live is None:
            return
        self._bar.update(self._task, completed=steps_done, results=format_results(results))
        self._live.refresh()
        self._next = time.perf_counter() + INTERVAL

    def end_epoch(self, results: dict[str, Any], plan: str | None = None) -> None:
        """Ends the line and prints the epoch's results, and once how the steps run.

        Args:
            results: ``{name: value}``.
            plan: the one that was measured and chosen; None while there is none.
        """
        self._stop()
        if plan is not None and not self._shown:
            self.say(f"Plan: {plan}")
            self._shown = True
        seconds = time.perf_counter() - self._begun
        self.say(f"{self._title} - {seconds:.1f}s - {format_results(results)}")

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def format_results(results: dict[str, Any]) -> str:
    """Results on one line.

    Example:
        >>> format_results({"loss": 0.123456, "accuracy": 1.0})
        'loss: 0.1235 - accuracy: 1.0000'
    """
    return " - ".join(f"{name}: {_number(value)}" for name, value in results.items())


def _number(value: Any) -> str:
    try:
        value = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4e}"
