"""Where progress is shown: a terminal, a notebook, or plain lines.

::

    display = make_display(live=True)
    display.draw(renderable)            # in the place of the last one
    display.print("Epoch 1/3 - ...")    # stays
    display.close()

A notebook has one output for all of a training, which is replaced as it grows, so that a hundred
epochs leave one output behind.
"""

import html
import io
import sys
import time
from typing import Any

from rich.console import Console
from rich.console import RenderableType
from rich.live import Live

# Of a notebook: characters of a line; the first and the last lines that stay, and the seconds between
# two replacements, as each has all of them.
_WIDTH, _FIRST, _LAST, _INTERVAL = 100, 20, 180, 0.2


class Lines:
    """Plain lines on the standard output; nothing is drawn."""

    is_live = False

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)

    @property
    def width(self) -> int:
        """The characters of a line."""
        return self._console.width

    def draw(self, renderable: RenderableType) -> None:
        """Shows something that is replaced later."""

    def print(self, line: str) -> None:
        """Shows a line that stays."""
        self._console.print(line, markup=False)

    def clear(self) -> None:
        """What was drawn goes."""

    def close(self) -> None:
        """The same, for good."""
        self.clear()


class Terminal(Lines):
    """A line at the bottom that is replaced, below those that stay."""

    is_live = True

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None

    def draw(self, renderable: RenderableType) -> None:
        """Shows something that is replaced later."""
        if self._live is None:
            self._live = Live(renderable, console=self._console, transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(renderable, refresh=True)

    def clear(self) -> None:
        """What was drawn goes."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class Notebook(Lines):
    """One output of a cell, which is replaced."""

    is_live = True
    width = _WIDTH

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []
        self._drawn = ""
        self._handle: Any = None
        self._is_shown, self._shown_at = True, 0.0

    def draw(self, renderable: RenderableType) -> None:
        """Shows something that is replaced later."""
        out = io.StringIO()
        console = Console(file=out, width=self.width, force_jupyter=False, force_terminal=False)
        console.print(renderable)
        self._drawn = out.getvalue().rstrip()
        self._show()

    def print(self, line: str) -> None:
        """Shows a line that stays."""
        self._lines.append(line)
        self._is_shown = False
        if time.perf_counter() - self._shown_at >= _INTERVAL:
            self._show()

    def clear(self) -> None:
        """What was drawn goes, with what is shown next."""
        self._is_shown, self._drawn = self._is_shown and not self._drawn, ""

    def close(self) -> None:
        """What was drawn goes, and all lines are shown."""
        self.clear()
        if not self._is_shown:
            self._show()

    def _show(self) -> None:
        from IPython.display import display

        lines = self._lines
        if left_out := max(0, len(lines) - _FIRST - _LAST):
            lines = [*lines[:_FIRST], f"... {left_out:,} lines ...", *lines[-_LAST:]]
        text = "\n".join([*lines, self._drawn] if self._drawn else lines)
        data = {"text/plain": text, "text/html": f"<pre>{html.escape(text)}</pre>"}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
        self._is_shown, self._shown_at = True, time.perf_counter()


def make_display(live: bool) -> Lines:
    """For where this process runs.

    Args:
        live: whether something may be drawn that is replaced later.
    """
    if live and _is_notebook():
        return Notebook()
    if live and Console(file=sys.stdout).is_terminal:
        return Terminal()
    return Lines()


def _is_notebook() -> bool:
    """Whether the code runs in a cell of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
