"""Correlations of targets and predictions over all rows.

::

    model.compile(loss="mse", metrics=[PearsonCorrelation(), SpearmanCorrelation()])

``keras.metrics.PearsonCorrelation`` is another quantity: the correlation along the last
axis of each row, averaged over rows.
"""

from typing import Any

import keras
import tensorflow as tf

from kerastrain.distribution import merging
from kerastrain.metrics import arguments
from kerastrain.metrics import ranks
from kerastrain.metrics.growing import add_growing_variable
from kerastrain.metrics.growing import KeptRows
from kerastrain.metrics.moments import moments_of


def _correlation(moments: tf.Tensor) -> tf.Tensor:
    """The correlation from ``[n, means (2), co-moments (4)]``; 0 where a quantity is constant."""
    square_true, product, _, square_pred = keras.ops.unstack(moments[3:], 4)
    size = keras.ops.sqrt(square_true) * keras.ops.sqrt(square_pred)
    correlation = keras.ops.divide_no_nan(product, size)
    # Processors differ in what minimum and maximum make of NaN, so NaN is not clipped.
    return ranks.nan_where_any(correlation, keras.ops.clip(correlation, -1.0, 1.0))


@keras.saving.register_keras_serializable(package="kerastrain")
class PearsonCorrelation(keras.metrics.Metric):
    """The linear correlation of targets and predictions over all rows, in one pass.

    ::

        sum(w * (y_true - a) * (y_pred - b))
            / sqrt(sum(w * (y_true - a)**2) * sum(w * (y_pred - b)**2))

    with the weighted means ``a`` of ``y_true`` and ``b`` of ``y_pred``. Equals
    ``scipy.stats.pearsonr``. Where one of them is constant, so also on one row and on none,
    it is undefined and given as 0.0.

    The state is seven float64 numbers whatever ``dtype`` is, which is that of the result.

    Args:
        name: what is logged.
        dtype: of the result.

    Raises:
        ShapeError: in ``update_state``, more than one value for a row.

    Example:
        >>> metric = PearsonCorrelation()
        >>> metric.update_state([1.0, 2.0], [2.0, 1.0])
        >>> metric.update_state([3.0], [3.0])
        >>> round(float(metric.result()), 6)
        0.5

    Source: K. Pearson, "Mathematical Contributions to the Theory of Evolution III",
    Philosophical Transactions A 187, 1896; merged as in `kerastrain.distribution.merging`.
    """

    merge_rules = {"moments": "moments"}

    def __init__(self, *, name: str = "pearson_correlation", dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        self.moments = self.add_variable((7,), "zeros", dtype="float64", name="moments")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds the rows of a batch.

        Args:
            y_true: targets, ``(rows,)`` or ``(rows, 1)``.
            y_pred: predictions of the same rows.
            sample_weight: for each row, or one number; default 1.
        """
        y_true, y_pred, weight = arguments.pair(y_true, y_pred, sample_weight)
        batch = moments_of(keras.ops.stack([y_true, y_pred], axis=-1), weight)
        self.moments.assign(merging.merge("moments", [self.moments.value, batch]))

    def result(self) -> tf.Tensor:
        """The correlation over all rows since the last reset."""
        return keras.ops.cast(_correlation(self.moments.value), self.dtype)


@keras.saving.register_keras_serializable(package="kerastrain")
class SpearmanCorrelation(KeptRows):
    """The correlation of the ranks of targets and predictions over all rows.

    `PearsonCorrelation` of the ranks. Tied rows share the mean of their ranks, and a row of
    weight 2 takes two of them, so that the result is that of the row repeated::

        rank_i = sum(w_j : x_j < x_i) + sum(w_j : x_j == x_i) / 2

    (up to one half for all rows, which a correlation does not see). Equals
    ``scipy.stats.spearmanr``. Where targets or predictions are all alike it is 0.0.

    Keeps 12 bytes a row in float32 (two values, weight), and copies them at each batch.
    Computed in float64. NaN if a value is NaN.

    Args:
        max_rows: the most rows that may be kept, on each replica; None for any number.
            More raise ``tf.errors.InvalidArgumentError`` and leave the state as it was.
            Rows of weight 0 are not kept.
        name: what is logged.
        dtype: of what is kept, and of the result.

    Raises:
        ArgumentError: ``max_rows`` is no whole number, 1 or more.
        ShapeError: in ``update_state``, more than one value for a row.

    Example:
        >>> metric = SpearmanCorrelation()
        >>> metric.update_state([1.0, 2.0, 3.0], [0.1, 10.0, 1000.0])
        >>> round(float(metric.result()), 6)
        1.0

    Source: C. Spearman, "The Proof and Measurement of Association between Two Things", The
    American Journal of Psychology 15(1), 1904; ties by M. G. Kendall, "The Treatment of Ties
    in Ranking Problems", Biometrika 33(3), 1945.
    """

    merge_rules = {"y_true": "concat", "y_pred": "concat", "sample_weight": "concat"}

    def __init__(
        self, *, max_rows: int | None = None, name: str = "spearman_correlation", dtype: Any = None
    ):
        super().__init__(max_rows=max_rows, name=name, dtype=dtype)
        self.y_true = add_growing_variable(self, name="y_true", dtype=self.dtype)
        self.y_pred = add_growing_variable(self, name="y_pred", dtype=self.dtype)
        self.sample_weight = add_growing_variable(self, name="sample_weight", dtype=self.dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Keeps the rows of a batch but those of weight 0; arguments as `PearsonCorrelation`'s."""
        y_true, y_pred, weight = arguments.pair(y_true, y_pred, sample_weight)
        self._keep_weighted(weight, y_true=y_true, y_pred=y_pred)

    def result(self) -> tf.Tensor:
        """The rank correlation over all rows since the last reset."""
        *values, weight = self._kept("y_true", "y_pred", "sample_weight")
        midranks = [sum(ranks.weight_below(x, weight)) / 2 for x in values]
        correlation = _correlation(moments_of(keras.ops.stack(midranks, axis=-1), weight))
        for x in values:
            correlation = ranks.nan_where_any(x, correlation)
        return keras.ops.cast(correlation, self.dtype)
