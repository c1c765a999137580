"""Progress: a live line in a terminal or notebook, plain lines elsewhere.

::

    with Progress(verbose="auto", epochs=3) as progress:
        with progress.phase("drawing the first batch"):
            ...
        progress.begin_epoch(0, steps=100)
        if progress.is_due:                    # a few times a second
            progress.update(17, read_results())
        progress.end_epoch({"loss": 0.5})

Results are read only when the line is drawn, so that a training step need not wait for them.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import keras
from rich.progress import BarColumn
from rich.progress import MofNCompleteColumn
from rich.progress import Progress as Bar
from rich.progress import ProgressColumn
from rich.progress import TextColumn
from rich.progress import TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from kerastrain.errors import ArgumentError
from kerastrain.execution import Choice
from kerastrain.loop.displays import make_display

# Seconds between two drawings of the live line, and what of the time drawing may take in all, after
# the first seconds of it: many epochs a second are not drawn one by one.
INTERVAL = 0.2
_SHARE, _FIRST = 0.02, 0.1
# Characters of a line from which on there is a bar, and the speed too.
_WITH_BAR, _WITH_SPEED = 80, 110
# What a plan runs, by its name.
_PLANS = {
    "step": "one step at a time",
    "xla_step": "one step at a time, compiled by XLA",
    "loop": "many steps in one call",
    "xla_loop": "one XLA program",
}


class Progress:
    """Shows how far a loop has come.

    Args:
        verbose: 0 for nothing; 1 for a live line with a plain line per epoch;
            2 for the plain lines only; ``"auto"`` for 1, or 2 where
            ``keras.config.disable_interactive_logging()`` was called. Where the output is
            no terminal and no notebook, 1 is 2.
        epochs: the number of epochs, or None for one pass without epochs.
        label: what the line calls a pass without epochs.
        first: the number of the first epoch.

    Attributes:
        rows: of a batch, for the speed; 0 where that is not known.

    Raises:
        ArgumentError: another ``verbose``.
    """

    def __init__(self, verbose: Any, epochs: int | None, label: str = "Epoch", first: int = 0):
        if verbose not in (0, 1, 2, "auto", True, False):
            raise ArgumentError(
                '`verbose` must be 0 (silent), 1 (live), 2 (lines) or "auto". '
                f"Received: verbose={verbose!r}."
            )
        if verbose == "auto":
            verbose = 1 if keras.config.is_interactive_logging_enabled() else 2
        self.rows = 0
        self._is_silent = not verbose
        self._display = make_display(live=verbose == 1)
        self._epochs, self._label = epochs, label
        self._title = self._titled(first)
        self._plan_is_shown = False
        self._phase = ""
        self._bar: _Bar | None = None
        self._outer: _Bar | None = None  # of the epoch, during a validation
        self._next = self._begun = 0.0
        self._validated = 0.0  # seconds of the epoch, in validations
        self._entered, self._drawing = time.perf_counter(), 0.0

    def __enter__(self) -> "Progress":
        self.note("starting")
        return self

    def __exit__(self, *_: object) -> None:
        self._display.close()

    def say(self, line: str) -> None:
        """Prints a line, unless it is empty or nothing is to be shown."""
        if line and not self._is_silent:
            self._display.print(line)

    # What is going on ---------------------------------------------------------------

    @contextlib.contextmanager
    def phase(self, words: str) -> Iterator[None]:
        """Inside, the line says what is done; before and after, what was.

        Args:
            words: such as ``"compiling"``.
        """
        before = self._phase
        self.note(words)
        try:
            yield
        finally:
            self.note(before)

    def note(self, words: str) -> None:
        """Draws what is done from now on, where that is new; an empty text for the steps."""
        if words != self._phase:
            self._phase = words
            self._draw()

    def begin_epoch(self, epoch: int, steps: int | None) -> None:
        """Starts the line of an epoch of ``steps`` steps (None: unknown)."""
        self._title, self._phase = self._titled(epoch), ""
        self._begun, self._validated = time.perf_counter(), 0.0
        self._bar = _Bar(self._title, steps, self._display.width) if self._display.is_live else None
        self._draw()

    @contextlib.contextmanager
    def validating(self, name: str, steps: int | None) -> Iterator[None]:
        """Inside, `update` is about a validation, on a line of its own.

        Args:
            name: of the data set; empty for the only one.
            steps: that it has; None where that is not known.
        """
        begun = time.perf_counter()
        self._outer, title = self._bar, " ".join(filter(None, ("validating", name)))
        if self._display.is_live:
            self._bar = _Bar(title, steps, self._display.width)
        self._draw()
        try:
            yield
        finally:
            self._bar = self._outer
            self._validated += time.perf_counter() - begun
            if self._bar is not None:
                self._bar.pause()

    @property
    def is_due(self) -> bool:
        """Whether it is time to draw the line."""
        return self._bar is not None and time.perf_counter() >= self._next

    def update(self, steps_done: int, results: dict[str, Any]) -> None:
        """Draws the line.

        Args:
            steps_done: steps of this epoch that are done.
            results: ``{name: float}``.
        """
        if self._bar is not None:
            self._bar.update(steps_done, results, self.rows)
            self._draw()

    def end_epoch(
        self, results: dict[str, Any], choice: Choice | None = None, steps: int = 0
    ) -> None:
        """Ends the line and prints the epoch's results, and once how the steps run.

        Args:
            results: ``{name: value}``.
            choice: of the plan that runs the steps.
            steps: that the epoch had.
        """
        self._display.clear()
        if choice is not None and choice.is_measured and not self._plan_is_shown:
            self.say(f"Plan: {in_words(choice)}")
            self._plan_is_shown = True
        now, speed = time.perf_counter(), None
        if steps and self._bar is not None:
            trained = now - self._begun - self._validated
            speed = speed_in_words(trained / steps, self.rows)
        parts = [self._title, f"{now - self._begun:.1f}s", speed, format_results(results)]
        self.say(" - ".join(part for part in parts if part))
        self._bar = None

    def _titled(self, epoch: int) -> str:
        return f"{self._label} {epoch + 1}/{self._epochs}" if self._epochs else self._label

    def _draw(self) -> None:
        begun = time.perf_counter()
        is_too_often = self._drawing > _FIRST + _SHARE * (begun - self._entered)
        if not self._display.is_live or is_too_often:
            return
        if self._bar is not None:
            self._bar.note(self._phase)
            self._display.draw(self._bar.renderable)
        elif self._phase:
            self._display.draw(Text(f"{self._title} - {self._phase} ...", no_wrap=True))
        else:
            self._display.clear()
        now = time.perf_counter()
        self._next, self._drawing = now + INTERVAL, self._drawing + now - begun


class _Bar:
    """The live line of the steps of an epoch, or of a validation."""

    def __init__(self, title: str, steps: int | None, width: int):
        is_known = steps is not None
        columns: list[ProgressColumn] = [TextColumn("{task.description}")]
        if is_known and width >= _WITH_BAR:
            columns.append(BarColumn(bar_width=24 if width >= _WITH_SPEED else 12))
        columns.append(MofNCompleteColumn() if is_known else TextColumn("{task.completed} steps"))
        if is_known and width >= _WITH_BAR:
            columns.append(TimeRemainingColumn(compact=True))
        if width >= _WITH_SPEED:
            columns.append(TextColumn("{task.fields[speed]}"))
        results = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        columns.append(TextColumn("{task.fields[results]}", table_column=results))
        self.renderable = Bar(*columns, expand=True)
        self._task = self.renderable.add_task(title, total=steps, results="", speed="")
        self._title = title
        self._last: tuple[int, float] | None = None

    def note(self, phase: str) -> None:
        self.renderable.update(
            self._task, description=" - ".join(filter(None, (self._title, phase)))
        )

    def pause(self) -> None:
        """The time until the next `update` is not that of steps."""
        self._last = None

    def update(self, done: int, results: dict[str, Any], rows: int) -> None:
        now, speed = time.perf_counter(), ""
        if self._last is not None and done > self._last[0]:
            speed = speed_in_words((now - self._last[1]) / (done - self._last[0]), rows)
        self._last = done, now
        results_in_words = format_results(results)
        self.renderable.update(self._task, completed=done, results=results_in_words, speed=speed)


def speed_in_words(seconds: float, rows: int) -> str:
    """The time of a step, and the rows that are trained on in a second.

    Example:
        >>> speed_in_words(0.0025, 32)
        '2.5 ms/step - 12,800 rows/s'
    """
    words = f"{_time_in_words(seconds)}/step"
    return f"{words} - {rows / seconds:,.0f} rows/s" if rows and seconds else words


def in_words(choice: Choice) -> str:
    """How steps run, and by how much that is faster than what else was measured.

    Example:
        >>> from kerastrain.execution.plans import LOOP
        >>> choice = Choice([LOOP], prepare=lambda plan: None)
        >>> choice.start()
        >>> in_words(choice)
        'many steps in one call'
    """
    assert choice.plan is not None  # steps have run
    name, seconds = choice.plan.name, dict(choice.seconds)
    words = _PLANS.get(name, name)
    if name not in seconds:
        return words
    mine = seconds.pop(name)
    if not seconds:
        return f"{words}, {_time_in_words(mine)} a step"
    other, its = min(seconds.items(), key=lambda item: item[1])
    return (
        f"{its / mine:.2g}x faster as {words}: {_time_in_words(mine)} a step, "
        f"{_time_in_words(its)} as {_PLANS.get(other, other)}"
    )


def format_results(results: dict[str, Any]) -> str:
    """Results on one line: of training before those of validation, each with the loss first.

    Example:
        >>> format_results({"accuracy": 1.0, "loss": 0.123456, "val_accuracy": 0.5, "val_loss": 1.0})
        'loss: 0.1235 - accuracy: 1.0000 - val_loss: 1.0000 - val_accuracy: 0.5000'
    """
    ordered = sorted(results, key=lambda name: (name.startswith("val_"), not _is_loss(name)))
    return " - ".join(f"{name}: {_number(results[name])}" for name in ordered)


def _is_loss(name: str) -> bool:
    return name == "loss" or (name.startswith("val_") and name.endswith("_loss"))


def _number(value: Any) -> str:
    try:
        value = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4e}"


def _time_in_words(seconds: float) -> str:
    for unit, size in (("us", 1e-6), ("ms", 1e-3)):
        if seconds < 999.5 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
