"""Exact areas under curves obey the laws and equal scikit-learn's."""

import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics as sklearn_metrics

from kerastrain import ArgumentError
from kerastrain import ShapeError
from kerastrain.metrics import AveragePrecision
from kerastrain.metrics import ROCAUC
from kerastrain.testing import binary_classification
from tests.metrics.laws import in_tiers
from tests.metrics.laws import OF_A_FORMULA
from tests.metrics.laws import PINNED
from tests.support import tiers

LAWS = {"inputs": binary_classification(), "bounds": (0, 1), **PINNED}


def roc_auc(y_true, y_pred, sample_weight=None):
    """scikit-learn's, which is NaN for one class only."""
    if sample_weight is not None:  # it takes rows of weight 0 for a class that is there
        y_true, y_pred = y_true[sample_weight > 0], y_pred[sample_weight > 0]
        sample_weight = sample_weight[sample_weight > 0]
    return sklearn_metrics.roc_auc_score(y_true, y_pred, sample_weight=sample_weight)


def average_precision(y_true, y_pred, sample_weight=None):
    """scikit-learn's, 0 without positive rows."""
    return sklearn_metrics.average_precision_score(y_true, y_pred, sample_weight=sample_weight)


test_roc_auc_laws, test_all_roc_auc_laws = in_tiers(
    ROCAUC, reference=roc_auc, laws="all", always=("finite_when_fresh", "merge_equals_one_pass"),
    **LAWS,
)  # fmt: skip
test_average_precision_laws, test_more_average_precision_laws = in_tiers(
    AveragePrecision, reference=average_precision,
    laws=(*OF_A_FORMULA, "replicas_equal_one_device"), **LAWS,
)  # fmt: skip


@pytest.mark.parametrize("make", [ROCAUC, AveragePrecision])
class TestRanking:
    def test_many_rows(self, make):
        """A thousand rows with ties and weights, in batches, equal scikit-learn's area."""
        rng = np.random.default_rng(0)
        y_true = rng.integers(0, 2, 1000)
        y_pred = (rng.integers(0, 200, 1000) + 30 * y_true).astype("float32") / 256
        weight = rng.uniform(0, 2, 1000).astype("float32")
        metric = make()
        for part in np.array_split(np.arange(1000), 7):
            metric.update_state(y_true[part, None], y_pred[part], weight[part])
        reference = {ROCAUC: roc_auc, AveragePrecision: average_precision}[make]
        expected = reference(y_true, y_pred, weight)
        assert expected == pytest.approx(float(metric.result()), abs=1e-6)

    def test_logits_of_any_size(self, make):
        """Infinite scores have their place at the ends."""
        metric = make()
        metric.update_state([0, 0, 1, 1], [-np.inf, 2.0, 3.0, np.inf])
        assert 1.0 == float(metric.result())

    def test_nan_scores(self, make):
        """A score that is NaN gives NaN, but not in a row of weight 0."""
        metric = make()
        metric.update_state([0, 1, 1], [0.1, 0.2, np.nan], [1.0, 1.0, 0.0])
        assert 1.0 == float(metric.result())
        metric.update_state([0], [np.nan])
        assert np.isnan(float(metric.result()))

    def test_labels_of_weight_zero(self, make):
        """A row of weight 0 may have any label; it is not kept."""
        metric = make(max_rows=2)
        metric.update_state([-1, 0, 1, -1], [0.5, 0.1, 0.2, 0.5], [0, 1, 1, 0])
        assert (1.0, 2) == (float(metric.result()), len(metric.y_pred.numpy()))

    def test_unknown_label(self, make):
        """A label that is neither 0 nor 1 is refused, and what to do is said."""
        metric = make()
        with pytest.raises(tf.errors.InvalidArgumentError, match="0 to 1, the 2 classes"):
            metric.update_state([0, 2], [0.1, 0.2])
        assert 0 == len(metric.y_true.numpy())

    def test_several_scores(self, make):
        """Several scores for a row are refused with their shape."""
        with pytest.raises(ShapeError, match=r"`y_pred`.*\(2, 3\)"):
            make().update_state([0, 1], np.zeros((2, 3)))

    def test_other_rows(self, make):
        """Labels or weights of other rows than the scores are refused."""
        with pytest.raises(ShapeError, match=r"`y_true` has the shape \(3,\)"):
            make().update_state([0, 1, 1], [0.1, 0.2])
        with pytest.raises(ShapeError, match=r"`sample_weight` has the shape \(1,\)"):
            make().update_state([0, 1], [0.1, 0.2], [1.0])

    @pytest.mark.parametrize("compiled", [False, tiers.slow(True)])
    def test_max_rows(self, make, compiled):
        """One row too many raises, eager and compiled, and leaves the state as it was."""
        metric = make(max_rows=3)
        update = tf.function(metric.update_state) if compiled else metric.update_state
        update(tf.constant([0, 1]), tf.constant([0.1, 0.2]))
        with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)max_rows=3.*None for any"):
            update(tf.constant([1, 1]), tf.constant([0.3, 0.4]))
        assert [2, 2, 2] == [len(variable.numpy()) for variable in metric.variables]
        update(tf.constant([1]), tf.constant([0.3]))
        assert 1.0 == float(metric.result())

    def test_bad_max_rows(self, make):
        """`max_rows` is a whole number from 1 on."""
        for value in (0, 2.5, True):
            with pytest.raises(ArgumentError, match=f"`max_rows`.*{value}"):
                make(max_rows=value)


def test_one_class():
    """Without both labels the area is one half, without positive rows the precision 0."""
    for make, expected in ((ROCAUC, 0.5), (AveragePrecision, 0.0)):
        metric = make()
        metric.update_state([0, 0], [0.1, 0.2])
        assert expected == float(metric.result())
