"""Mean and variance in one pass obey the laws and equal NumPy's."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain import ArgumentError
from kerastrain.distribution import merging
from kerastrain.metrics import MeanAndVariance
from kerastrain.metrics.moments import moments_of
from kerastrain.testing import arguments
from kerastrain.testing import Column
from kerastrain.testing import metric_laws
from tests.metrics.laws import but_slow
from tests.metrics.laws import in_tiers
from tests.metrics.laws import OF_A_FORMULA
from tests.metrics.laws import PINNED
from tests.metrics.laws import WEIGHTED

VALUE = st.integers(-64, 64).map(lambda k: k / 8)
FLAT = arguments(values=Column(VALUE, kind="value"))
PAIRS = arguments(values=Column(st.lists(VALUE, min_size=2, max_size=2), kind="value"))
LAWS = (*OF_A_FORMULA, "no_cancellation", "empty_batch", "all_zero_batch", "scalar_weight",
        "weighted_split_invariance", "xla_equals_eager", "replicas_equal_one_device")  # fmt: skip


def mean_and_variance(ddof, values, sample_weight=None):
    """NumPy's; a weight is a number of copies. NaN where there are too few."""
    weight = np.ones(len(values)) if sample_weight is None else sample_weight
    weight = np.broadcast_to(weight.reshape(weight.shape + (1,) * (values.ndim - 1)), values.shape)
    mean = np.average(values, weights=weight)
    squares = np.sum(weight * (values - mean) ** 2)
    n = np.sum(weight) - ddof
    return {"mean": mean, "variance": squares / n if n > 0 else np.nan}


test_laws, test_more_laws = in_tiers(
    MeanAndVariance, inputs=FLAT, reference=functools.partial(mean_and_variance, 0), laws=LAWS,
    always=(*WEIGHTED, "merge_equals_one_pass"), **PINNED,
)  # fmt: skip
test_unbiased = but_slow(metric_laws(
    lambda: MeanAndVariance(ddof=1), inputs=PAIRS, laws="reference",
    reference=functools.partial(mean_and_variance, 1), **PINNED,
), ["equals_weighted_reference"])  # fmt: skip


def test_large_mean():
    """Beside a mean of a million the variance of many float32 values keeps six digits."""
    rng = np.random.default_rng(0)
    values = (1e6 + rng.normal(size=10_000)).astype("float32")
    metric = MeanAndVariance()
    for part in np.array_split(values, 9):
        metric.update_state(part)
    expected = np.var(values.astype("float64"))
    assert expected == pytest.approx(float(metric.result()["variance"]), rel=1e-6)


def test_constants_vary_by_nothing():
    """Values that are all alike have a variance of exactly 0, in batches with odd weights."""
    metric = MeanAndVariance()
    for weight in ([0.1, 0.7], [0.3, 0.9]):
        metric.update_state([0.1, 0.1], weight)
    assert 0.0 == float(metric.result()["variance"])


@pytest.mark.parametrize("ddof", [0, 1, 3])
def test_too_few_rows(ddof):
    """With no more weight than `ddof` the variance is 0."""
    metric = MeanAndVariance(ddof=ddof)
    assert {"mean": 0.0, "variance": 0.0} == {k: float(v) for k, v in metric.result().items()}
    metric.update_state([2.0])
    assert {"mean": 2.0, "variance": 0.0} == {k: float(v) for k, v in metric.result().items()}


def test_bad_ddof():
    """`ddof` is a whole number from 0 on."""
    for value in (-1, 0.5):
        with pytest.raises(ArgumentError, match=f"`ddof`.*{value}"):
            MeanAndVariance(ddof=value)


def test_moments_of_batches_merge():
    """The moments of all rows are those of the parts merged, three quantities at once."""
    rng = np.random.default_rng(0)
    values = tf.constant(1e4 + rng.normal(size=(2, 12, 3)))
    weight = tf.constant(rng.uniform(size=12))
    whole = moments_of(values, weight)
    parts = [moments_of(values[:, a:b], weight[a:b]) for a, b in ((0, 5), (5, 5), (5, 12))]
    assert (2, 13) == whole.shape
    np.testing.assert_allclose(whole, merging.merge("moments", parts), rtol=1e-9, atol=1e-9)
    covariance = np.cov(values[0].numpy().T, aweights=weight, ddof=0)
    np.testing.assert_allclose(
        covariance, tf.reshape(whole[0, 4:], (3, 3)) / whole[0, 0], rtol=1e-9
    )
