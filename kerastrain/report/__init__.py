"""What run directories tell, as one HTML page that needs no network, and as matplotlib axes.

::

    RunFiles     what is read of a run: configuration, history, events
      -> figures     each result, learning rate, speed and time of all runs, by plotly
      -> page        the page around them: a summary, what differs, and what has happened

Nothing here needs TensorFlow. ``kerastrain report runs/a runs/b`` writes the page.
"""

from kerastrain.report.axes import new_axes
from kerastrain.report.axes import plot_history
from kerastrain.report.page import write_report

__all__ = [
    "new_axes",
    "plot_history",
    "write_report",
]
