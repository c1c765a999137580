"""Quantiles obey the laws and equal NumPy's."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain import ArgumentError
from kerastrain import ShapeError
from kerastrain.metrics import AbsoluteErrorQuantile
from kerastrain.metrics import Quantile
from kerastrain.testing import arguments
from kerastrain.testing import check_metric
from kerastrain.testing import Column
from kerastrain.testing import regression
from tests.metrics.laws import in_tiers
from tests.metrics.laws import OF_A_FORMULA
from tests.metrics.laws import PINNED
from tests.metrics.laws import WEIGHTED
from tests.support import tiers

VALUES = arguments(values=Column(st.integers(-8, 8).map(lambda k: k / 8), kind="value"))


def quantile(q):
    """NumPy's, of values."""

    def of(values, sample_weight=None):
        return np.quantile(values, q, weights=sample_weight, method="inverted_cdf")

    return of


def error_quantile(y_true, y_pred, sample_weight=None):
    """NumPy's, of absolute errors of several outputs."""
    error = np.abs(y_true - y_pred)
    if sample_weight is not None:
        sample_weight = np.broadcast_to(sample_weight[:, None], error.shape).ravel()
    return np.quantile(error.ravel(), 0.75, weights=sample_weight, method="inverted_cdf")


test_laws, test_more_laws = in_tiers(
    Quantile, inputs=VALUES, reference=quantile(0.5), scale_power=1,
    laws=(*OF_A_FORMULA, "scale_behaviour", "replicas_equal_one_device"),
    always=(*WEIGHTED, "equals_reference", "replicas_equal_one_device"), **PINNED,
)  # fmt: skip
test_absolute_errors, test_more_laws_of_absolute_errors = in_tiers(
    lambda: AbsoluteErrorQuantile(0.75), inputs=regression(2), reference=error_quantile,
    laws=("reference", "weighted_split_invariance", "evaluate_equals_one_pass"), **PINNED,
)  # fmt: skip


@pytest.mark.parametrize("q", tiers.cases([0.0, 0.1, 0.3, 0.9, 1.0], [0.0]))
def test_other_quantiles(q):
    """Every quantile equals NumPy's, of weighted values."""
    check_metric(
        lambda: Quantile(q), inputs=VALUES, reference=quantile(q),
        laws="equals_weighted_reference", **PINNED,
    )  # fmt: skip


def test_columns():
    """Targets ``(rows,)`` beside outputs ``(rows, 1)`` are the same rows."""
    metric = AbsoluteErrorQuantile(1.0)
    metric.update_state([1.0, 2.0], [[1.5], [1.0]])
    metric.update_state([[1.0]], [1.25])
    assert (1.0, 3) == (float(metric.result()), len(metric.values.numpy()))


def test_weight_for_each_element():
    """Weights of the shape of the values weigh each of them; NaN of weight 0 is absent."""
    metric = Quantile(1.0)
    metric.update_state([[1.0, 2.0], [3.0, np.nan]], [[1.0, 1.0], [0.0, 0.0]])
    assert 2.0 == float(metric.result())
    metric.update_state([np.nan])
    assert np.isnan(float(metric.result()))


def test_max_rows():
    """One value too many is refused; the error names the limit and the fix."""
    metric = Quantile(max_rows=3)
    metric.update_state([1.0, 2.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_rows=3.*reset_state"):
        metric.update_state([1.0, 2.0])
    assert 2 == len(metric.values.numpy())
    metric.reset_state()
    metric.update_state([5.0, 5.0, 5.0])
    assert 5.0 == float(metric.result())


def test_errors():
    """Bad arguments and shapes are named with their values."""
    for q in (-0.1, 1.5, float("nan"), "half"):
        with pytest.raises(ArgumentError, match=f"`q`.*{q}"):
            Quantile(q)
    with pytest.raises(ShapeError, match=r"`y_true` has the shape \(3, 2\)"):
        AbsoluteErrorQuantile().update_state(np.zeros((3, 2)), np.zeros((3, 4)))
