"""No law complains of a sound metric.

``python -m benchmarks.metric_laws --repeat 20`` does this with twenty seeds, and more examples.
"""

import pytest

from kerastrain.testing import check_metric
from tests.testing.right_metrics import RIGHT


# Half of them: each kind of input, state and result is among these.
SAMPLE = RIGHT.keys() - {
    "mean absolute error",
    "root mean square",
    "subclass of Mean",
    "confusion matrix",
    "intersection over union",
    "written in TensorFlow",
    "click rate",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SAMPLE else pytest.mark.slow) for name in RIGHT],
)
def test_no_complaint(name):
    """All laws hold, and most of them apply."""
    factory, declared = RIGHT[name]
    report = check_metric(factory, **declared, seed=0, profile="dev")
    assert sum(o.status == "passed" for o in report.outcomes) >= 25
