"""A history as matplotlib axes."""

import importlib
from typing import Any

from kerastrain.errors import ArgumentError


def plot_history(
    history: dict[str, list[float]], epochs_of: dict[str, list[int]] | None = None
) -> Any:
    """Plots each result by epoch: training as a solid line, validation as a dashed one.

    Args:
        history: of a training, as ``fit(...).history`` has it.
        epochs_of: the epochs, from 1, that the values of a result are of; default all, for each.

    Returns:
        An array of matplotlib axes, one for each result of training.

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    pyplot, ticker = _matplotlib("pyplot"), _matplotlib("ticker")
    names = sorted(
        (n for n in history if not n.startswith("val_")), key=lambda name: name != "loss"
    )
    _, axes = pyplot.subplots(
        1, len(names), figsize=(4.5 * len(names), 3.2), squeeze=False, constrained_layout=True
    )
    for axis, name in zip(axes[0], names, strict=True):
        for column, values in history.items():
            of_a_set = column.startswith("val_") and column.endswith(f"_{name}")
            if column in (name, f"val_{name}") or (of_a_set and f"val_{name}" not in history):
                numbers = (epochs_of or {}).get(column) or range(1, len(values) + 1)
                style = {"linestyle": "-" if column == name else "--", "label": column}
                axis.plot(numbers, values, **style)
        axis.set(xlabel="epoch", title=name)
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axis.legend()
    return axes[0]


def new_axes() -> Any:
    """The axes of a new figure of matplotlib.

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    return _matplotlib("pyplot").subplots(figsize=(5.5, 3.5), constrained_layout=True)[1]


def _matplotlib(module: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError:
        raise ArgumentError(
            "`plot` needs matplotlib. Install it with `pip install 'kerastrain[report]'`."
        ) from None
