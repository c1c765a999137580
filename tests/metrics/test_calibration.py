"""The calibration error obeys the laws and equals the definition by Guo et al."""

import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain.metrics import ExpectedCalibrationError
from kerastrain.testing import binary_classification
from kerastrain.testing import metric_laws
from kerastrain.testing import multiclass_classification
from tests.metrics.laws import but_slow
from tests.metrics.laws import in_tiers
from tests.metrics.laws import OF_A_FORMULA
from tests.metrics.laws import PINNED
from tests.support import tiers

LAWS = (*OF_A_FORMULA, "within_bounds", "columns_agree", "flat_rows_agree", "prediction_dtypes", "no_saturation",
        "weighted_split_invariance", "scalar_weight", "xla_equals_eager",
        "replicas_equal_one_device", "evaluate_equals_one_pass")  # fmt: skip


def calibration_error(bins, logits=False):
    """Equations 2 to 3 of Guo et al., bin by bin, with weights."""

    def of(y_true, y_pred, sample_weight=None):
        weight = np.ones(len(y_true)) if sample_weight is None else sample_weight
        if y_pred.ndim == 1:
            y_pred = 1 / (1 + np.exp(-y_pred)) if logits else y_pred
            confidence, correct = y_pred, y_true == 1
        else:
            if logits:
                y_pred = np.exp(y_pred) / np.exp(y_pred).sum(axis=1, keepdims=True)
            confidence, correct = y_pred.max(axis=1), y_pred.argmax(axis=1) == y_true
        error = 0.0
        for b in range(bins):
            inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
            inside |= (b == 0) & (confidence == 0)
            w = weight[inside]
            if w.sum() > 0:
                accuracy = np.average(correct[inside], weights=w)
                gap = abs(accuracy - np.average(confidence[inside], weights=w))
                error += w.sum() / weight.sum() * gap
        return error

    return of


test_binary_laws, test_more_binary_laws = in_tiers(
    ExpectedCalibrationError, inputs=binary_classification(), bounds=(0, 1), laws=LAWS,
    reference=calibration_error(15), **PINNED,
)  # fmt: skip
test_top_label, test_more_laws_of_the_top_label = in_tiers(
    lambda: ExpectedCalibrationError(8), inputs=multiclass_classification(3), bounds=(0, 1),
    reference=calibration_error(8),
    laws=("reference", "label_dtypes", "empty_batch", "xla_equals_eager"),
    **PINNED,
)  # fmt: skip
test_logits = but_slow(metric_laws(
    lambda: ExpectedCalibrationError(from_logits=True), laws="reference",
    inputs=binary_classification(logits=True), reference=calibration_error(15, True), **PINNED,
), ["equals_weighted_reference"])  # fmt: skip
test_top_label_of_logits = but_slow(metric_laws(
    lambda: ExpectedCalibrationError(from_logits=True), laws="reference",
    inputs=multiclass_classification(3, logits=True), reference=calibration_error(15, True),
    **PINNED,
), ["equals_weighted_reference"])  # fmt: skip


def test_edges_of_bins():
    """An upper edge belongs to its bin, 0 to the first: two bins part 0.5 from 0.75."""
    metric = ExpectedCalibrationError(2)
    metric.update_state([0, 1, 1], [0.0, 0.5, 0.75])
    # First bin: 1 row of 2 is right, confidence 0.25; second bin: 1 of 1, confidence 0.75.
    assert (2 * 0.25 + 0.25) / 3 == pytest.approx(float(metric.result()))


def test_one_hot_labels():
    """One-hot labels are as their numbers."""
    y_pred = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
    sparse, one_hot = ExpectedCalibrationError(), ExpectedCalibrationError()
    sparse.update_state([1, 2], y_pred)
    one_hot.update_state(np.eye(3)[[1, 2]], y_pred)
    assert float(sparse.result()) == float(one_hot.result())


@pytest.mark.parametrize("compiled", [False, tiers.slow(True)])
def test_no_probabilities(compiled):
    """Logits without `from_logits` are refused, but not in a row of weight 0; NaN gives NaN."""
    metric = ExpectedCalibrationError()
    update = tf.function(metric.update_state) if compiled else metric.update_state
    with pytest.raises(tf.errors.InvalidArgumentError, match="Pass from_logits=True"):
        update(tf.constant([0, 1]), tf.constant([0.5, 4.0]))
    assert 0.0 == np.sum(metric.sums.numpy())
    update(tf.constant([1, 1]), tf.constant([1.0, 4.0]), tf.constant([1.0, 0.0]))
    assert 0.0 == float(metric.result())
    update(tf.constant([1]), tf.constant([np.nan]))
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize("from_logits", [False, True])
def test_nan_on_another_processor(from_logits, drops_nan):
    """It does not depend on what the kernel of the maximum makes of NaN in some classes."""
    metric = ExpectedCalibrationError(from_logits=from_logits)
    metric.update_state([0, 1], [[0.75, 0.25], [0.25, np.nan]], [1.0, 0.0])
    assert np.isfinite(float(metric.result()))
    metric.update_state([1], [[0.25, np.nan]])
    assert np.isnan(float(metric.result()))


def test_errors():
    """Bad arguments and labels are named with their values."""
    with pytest.raises(ArgumentError, match="`bins`.*0"):
        ExpectedCalibrationError(0)
    with pytest.raises(ArgumentError, match="`from_logits`.*'yes'"):
        ExpectedCalibrationError(from_logits="yes")
    with pytest.raises(tf.errors.InvalidArgumentError, match="0 to 2, the 3 classes"):
        ExpectedCalibrationError().update_state([3], np.eye(3)[:1])
