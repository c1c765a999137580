"""The coefficient of determination obeys the laws and equals scikit-learn's."""

import functools

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from kerastrain import ArgumentError
from kerastrain import ShapeError
from kerastrain.metrics import R2Score
from kerastrain.testing import metric_laws
from kerastrain.testing import regression
from tests.metrics.laws import but_slow
from tests.metrics.laws import in_tiers
from tests.metrics.laws import OF_A_FORMULA
from tests.metrics.laws import PINNED
from tests.metrics.laws import WEIGHTED

LAWS = (*OF_A_FORMULA, "no_cancellation", "no_saturation", "columns_agree", "flat_rows_agree", "empty_batch",
        "xla_equals_eager", "replicas_equal_one_device")  # fmt: skip
NAMES = {"uniform": "uniform_average", "variance_weighted": "variance_weighted", None: "raw_values"}


def r2(average, y_true, y_pred, sample_weight=None):
    """scikit-learn's, NaN on one row."""
    return sklearn_metrics.r2_score(
        y_true, y_pred, sample_weight=sample_weight, multioutput=NAMES[average]
    )


test_laws, test_more_laws = in_tiers(
    R2Score, inputs=regression(), reference=functools.partial(r2, "uniform"), laws=LAWS,
    always=(*WEIGHTED, "merge_equals_one_pass"), **PINNED,
)  # fmt: skip
test_outputs_laws, test_more_outputs_laws = in_tiers(
    lambda: R2Score(2), inputs=regression(2), reference=functools.partial(r2, "uniform"),
    laws=("reference", "weighted_split_invariance", "graph_equals_eager"),
    always=["finite_when_fresh"], **PINNED,
)  # fmt: skip
test_variance_weighted = but_slow(metric_laws(
    lambda: R2Score(2, average="variance_weighted"), inputs=regression(2), laws="reference",
    reference=functools.partial(r2, "variance_weighted"), **PINNED,
), ["equals_weighted_reference"])  # fmt: skip
test_each_output = but_slow(metric_laws(
    lambda: R2Score(2, average=None), inputs=regression(2), laws="reference",
    reference=functools.partial(r2, None), **PINNED,
), ["equals_weighted_reference"])  # fmt: skip


def test_constant_targets():
    """Constant targets give 1 without errors and 0 with one, weights that round or not."""
    metric = R2Score()
    assert 0.0 == float(metric.result())
    metric.update_state([0.1, 0.1], [0.1, 0.1], [0.1, 0.3])
    assert 1.0 == float(metric.result())
    metric.update_state([0.1], [0.4], [0.7])
    assert 0.0 == float(metric.result())


def test_rows_of_weight_zero():
    """NaN in a row of weight 0 counts for nothing."""
    metric = R2Score()
    metric.update_state([1.0, 2.0, np.nan], [1.0, 2.0, 3.0], [1.0, 1.0, 0.0])
    assert 1.0 == float(metric.result())


def test_bad_arguments():
    """Each names the argument, the value and what works."""
    with pytest.raises(ArgumentError, match="`outputs`.*0"):
        R2Score(0)
    with pytest.raises(ArgumentError, match="'uniform', 'variance_weighted', None.*'macro'"):
        R2Score(average="macro")


def test_other_outputs():
    """Another number of outputs is refused with the fix, and weights of each output too."""
    with pytest.raises(ShapeError, match=r"last axis of 1.*\(3, 2\).*`outputs=`"):
        R2Score().update_state(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ShapeError, match="`sample_weight`"):
        R2Score(2).update_state(np.zeros((3, 2)), np.zeros((3, 2)), np.ones((3, 2)))
    with pytest.raises(ShapeError, match=r"`y_true` has the shape \(2, 2\)"):
        R2Score(2).update_state(np.zeros((2, 2)), np.zeros((3, 2)))
