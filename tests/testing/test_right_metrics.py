"""No law complains of a sound metric.

``python -m benchmarks.metric_laws --repeat 20`` does this with twenty seeds, and more examples.
"""

import pytest

from kerastrain.testing import check_metric
from tests.testing.right_metrics import RIGHT


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_no_complaint(name):
    """All laws hold, and most of them apply."""
    factory, declared = RIGHT[name]
    report = check_metric(factory, **declared, seed=0, profile="dev")
    assert sum(o.status == "passed" for o in report.outcomes) >= 25
