"""Correlations over all rows obey the laws and equal SciPy's."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from kerastrain import _keras
from kerastrain import ArgumentError
from kerastrain import ShapeError
from kerastrain.metrics import PearsonCorrelation
from kerastrain.metrics import SpearmanCorrelation
from kerastrain.testing import metric_laws
from kerastrain.testing import regression
from tests.metrics.laws import but_slow
from tests.metrics.laws import in_tiers
from tests.metrics.laws import OF_A_FORMULA
from tests.metrics.laws import PINNED
from tests.metrics.laws import QUICK
from tests.metrics.laws import WEIGHTED


def weighted_pearson(x, y, weight):
    """NumPy's weighted covariance over the root of the variances; NaN for a constant."""
    (a, c), (_, b) = np.cov(x, y, aweights=weight, ddof=0)
    return c / np.sqrt(a * b)


def pearson(y_true, y_pred, sample_weight=None):
    """SciPy's, with weights NumPy's."""
    if sample_weight is None:
        return scipy.stats.pearsonr(y_true, y_pred).statistic
    return weighted_pearson(y_true, y_pred, sample_weight)


def midranks(x, weight):
    """Weighted midranks by comparing all pairs."""
    below, tied = x[None, :] < x[:, None], x[None, :] == x[:, None]
    return below @ weight + tied @ weight / 2


def spearman(y_true, y_pred, sample_weight=None):
    """SciPy's, with weights the weighted correlation of weighted midranks."""
    if sample_weight is None:
        return scipy.stats.spearmanr(y_true, y_pred).statistic
    ranks = [midranks(x, sample_weight) for x in (y_true, y_pred)]
    return weighted_pearson(*ranks, sample_weight)


PEARSON = {
    "inputs": regression(), "reference": pearson, "bounds": (-1, 1), "shift_invariant": True,
    "scale_power": 0, **PINNED,
}  # fmt: skip
SUMS_ONLY = dict.fromkeys(("no_early_saturation", "no_saturation"), "they look at sums only")
test_pearson_laws = but_slow(
    metric_laws(PearsonCorrelation, laws=(*QUICK, "shift_behaviour", "scale_behaviour"), **PEARSON),
    [*WEIGHTED, "replicas_equal_one_device"],
)
test_all_pearson_laws = pytest.mark.slow(
    metric_laws(PearsonCorrelation, laws="all", skip=SUMS_ONLY, **PEARSON)
)
test_spearman_laws, test_more_spearman_laws = in_tiers(
    SpearmanCorrelation, inputs=regression(low=-0.5, high=0.5), reference=spearman,
    bounds=(-1, 1), laws=(*OF_A_FORMULA, "replicas_equal_one_device"),
    always=(*WEIGHTED, "replicas_equal_one_device"), **PINNED,
)  # fmt: skip


@pytest.mark.parametrize("make", [PearsonCorrelation, SpearmanCorrelation])
class TestCorrelation:
    def test_undefined(self, make):
        """Without rows, on one row and for a constant it is 0, weights that round or not."""
        metric = make()
        assert 0.0 == float(metric.result())
        metric.update_state([0.1], [0.3], [0.7])
        assert 0.0 == float(metric.result())
        metric.update_state([0.1, 0.1], [0.2, 0.7], [0.1, 0.3])
        assert 0.0 == float(metric.result())

    def test_many_rows(self, make):
        """A thousand weighted rows beside a large mean, in batches, equal the reference."""
        rng = np.random.default_rng(0)
        y_true = (1000 + rng.normal(size=1000)).astype("float32")
        y_pred = (y_true + rng.normal(size=1000)).astype("float32")
        weight = rng.uniform(0, 2, 1000).astype("float32")
        metric = make()
        for part in np.array_split(np.arange(1000), 7):
            metric.update_state(y_true[part, None], y_pred[part], weight[part])
        reference = {PearsonCorrelation: pearson, SpearmanCorrelation: spearman}[make]
        expected = reference(*(a.astype("float64") for a in (y_true, y_pred, weight)))
        assert expected == pytest.approx(float(metric.result()), abs=1e-6)

    def test_nan(self, make):
        """NaN gives NaN, but not in a row of weight 0."""
        metric = make()
        metric.update_state([1.0, 2.0, 3.0], [1.0, 2.0, np.nan], [1.0, 1.0, 0.0])
        assert 1.0 == pytest.approx(float(metric.result()))
        metric.update_state([np.nan], [1.0])
        assert np.isnan(float(metric.result()))

    def test_nan_on_another_processor(self, make, drops_nan):
        """It does not depend on what the kernels of minimum and maximum make of NaN."""
        metric = make()
        metric.update_state([1.0, 2.0, np.nan], [1.0, 2.0, 3.0])
        assert np.isnan(float(metric.result()))

    def test_several_outputs(self, make):
        """Several values for a row are refused with their shape."""
        with pytest.raises(ShapeError, match=r"`y_pred`.*\(3, 2\)"):
            make().update_state(np.zeros((3, 2)), np.zeros((3, 2)))


def test_masked_steps():
    """What a mask on the predictions leaves out does not count."""
    y_true = np.array([[1.0, 2.0], [3.0, 9.0]])
    y_pred = tf.constant([[[1.0], [2.0]], [[3.0], [0.0]]])
    _keras.set_mask(y_pred, tf.constant([[True, True], [True, False]]))
    metric = PearsonCorrelation()
    metric.update_state(y_true, y_pred)
    assert 1.0 == pytest.approx(float(metric.result()))


def test_max_rows():
    """One row too many is refused, and a bad `max_rows` too."""
    metric = SpearmanCorrelation(max_rows=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_rows=1"):
        metric.update_state([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(ArgumentError, match="`max_rows`.*-1"):
        SpearmanCorrelation(max_rows=-1)
