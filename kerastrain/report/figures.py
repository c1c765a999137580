"""The figures of a report, by plotly: lines of all runs by epoch, and where the time went."""

import importlib
from types import ModuleType
from typing import Any
from typing import NamedTuple

from kerastrain.errors import ArgumentError
from kerastrain.report.files import RunFiles

# One for each run, then from the first again: those of Okabe and Ito, which the colour-blind can tell
# apart (Color Universal Design, 2008), without black and yellow, which a light or dark page hides.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("dash", "dot", "dashdot", "longdash")
_HEIGHT = 320


class Line(NamedTuple):
    """A line of a figure.

    Attributes:
        run: that it is of.
        label: what it shows of it.
        values: by epoch.
        dash: how it is drawn; None for a solid line.
    """

    run: RunFiles
    label: str
    values: list[float]
    dash: str | None = None


def plotly() -> ModuleType:
    """The library that draws.

    Raises:
        ArgumentError: it is not installed.
    """
    try:
        return importlib.import_module("plotly.graph_objects")
    except ImportError:
        raise ArgumentError(
            "A report needs plotly and Jinja2. Install them with `pip install 'kerastrain[report]'`."
        ) from None


def figures_of(runs: list[RunFiles]) -> dict[str, Any]:
    """All figures, by their titles."""
    names = list(dict.fromkeys(name for run in runs for name in run.results))
    figures = {name: _of_result(runs, name) for name in names}
    rates = {run.name: run.columns.get("learning_rate", []) for run in runs}
    if (
        any(len({*rate}) > 1 for rate in rates.values())
        or len({str(r[:1]) for r in rates.values()}) > 1
    ):
        figures["learning rate"] = _lines(runs, [Line(run, "", rates[run.name]) for run in runs])
    speeds = [Line(run, "", run.steps_per_second) for run in runs]
    figures["steps a second"] = _lines(runs, speeds)
    if any(run.seconds for run in runs):
        figures["where the time went, in seconds"] = _times(runs)
    return figures


def _of_result(runs: list[RunFiles], name: str) -> Any:
    """Training as solid lines, validation as dashed ones."""
    lines = []
    for run in runs:
        if name in run.columns:
            lines.append(Line(run, "training", run.columns[name]))
        for number, column in enumerate(run.validations_of(name)):
            of = column.removeprefix("val_").removesuffix(name).strip("_")
            dash = _DASHES[number % len(_DASHES)]
            lines.append(Line(run, f"validation {of}".strip(), run.columns[column], dash))
    return _lines(runs, lines)


def _lines(runs: list[RunFiles], lines: list[Line]) -> Any:
    figure = plotly().Figure()
    for run, label, values, dash in lines:
        names = [run.name] if len(runs) > 1 else []
        figure.add_scatter(
            x=run.epochs,
            y=values,
            name=" ".join(filter(None, [*names, label])) or run.name,
            mode="lines" if len(values) > 30 else "lines+markers",
            line={"color": COLOURS[runs.index(run) % len(COLOURS)], "dash": dash},
        )
    figure.update_xaxes(rangemode="tozero")
    return _laid_out(figure, has_legend=len(lines) > 1)


def _times(runs: list[RunFiles]) -> Any:
    """A bar for each run, of the seconds of each part of the loop."""
    figure = plotly().Figure()
    parts = dict.fromkeys(part for run in runs for part in run.seconds)
    for number, part in enumerate(parts):
        figure.add_bar(
            y=[run.name for run in runs],
            x=[run.seconds.get(part, 0.0) for run in runs],
            name=part,
            orientation="h",
            marker_color=COLOURS[number % len(COLOURS)],
            marker_pattern_shape="" if number < len(COLOURS) else "/",
        )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _laid_out(figure, has_legend=True)


def _laid_out(figure: Any, has_legend: bool) -> Any:
    """Without a ground of its own: the page has a light and a dark one."""
    figure.update_layout(
        height=_HEIGHT,
        margin={"l": 56, "r": 12, "t": 12, "b": 24},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="x unified",
        showlegend=has_legend,
        legend={"orientation": "h", "yanchor": "top", "y": -0.12, "traceorder": "normal"},
        template="none",
    )
    return figure
