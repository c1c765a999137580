"""Means, variances and co-moments in one pass, exact beside a large mean.

::

    batch = moments_of(values, weight)                       # [n, means, co-moments]
    state.assign(merging.merge("moments", [state, batch]))

A sum of squares loses all digits of a variance where the mean is large; deviations from the
mean do not. States are merged by the rule ``moments`` of `kerastrain.distribution.merging`.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import merging
from kerastrain.metrics import arguments


def moments_of(values: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """The sum of the weights, the means and the co-moments of a batch of rows.

    Deviations are taken from the largest value first, so that values which are all alike
    have a variance of exactly 0.

    Args:
        values: float64 of shape ``(..., rows, d)``; there may be no rows.
        weight: float64 of shape ``(rows,)``. What stands in rows of weight 0 does not
            matter.

    Returns:
        ``(..., 1 + d + d * d)``: ``n = sum(w_i)``, the means ``m = sum(w_i * x_i) / n``, and
        ``sum(w_i * (x_i - m) * transpose(x_i - m))``. Zeros without rows.

    Example:
        >>> moments_of(tf.constant([[1.0], [3.0]], "float64"), tf.ones(2, "float64")).numpy()
        array([2., 2., 2.])
    """
    weight = weight[:, None]
    counts = keras.ops.not_equal(weight, 0.0)
    n = keras.ops.sum(weight)
    candidates = keras.ops.where(counts, values, -np.inf)
    largest = keras.ops.max(candidates, axis=-2, keepdims=True, initial=-np.inf)
    origin = keras.ops.where(keras.ops.any(counts), largest, 0.0)
    shifted = keras.ops.where(counts, values - origin, 0.0)
    mean = keras.ops.divide_no_nan(keras.ops.sum(weight * shifted, axis=-2, keepdims=True), n)
    centred = shifted - mean
    products = keras.ops.matmul(keras.ops.swapaxes(weight * centred, -1, -2), centred)
    means = keras.ops.squeeze(origin + mean, -2)
    flat = keras.ops.reshape(products, (*means.shape[:-1], means.shape[-1] ** 2))
    n = keras.ops.broadcast_to(n, (*means.shape[:-1], 1))
    return keras.ops.concatenate([n, means, flat], axis=-1)


@keras.saving.register_keras_serializable(package="kerastrain")
class MeanAndVariance(keras.metrics.Metric):
    """The mean and the variance of values, in one pass.

    ::

        mean = sum(w_i * value_i) / sum(w_i)
        variance = sum(w_i * (value_i - mean)**2) / (sum(w_i) - ddof)

    Each element is a value. Equals ``numpy.mean`` and ``numpy.var``; a weight is a number of
    copies. Both are 0.0 without values, and the variance where ``sum(w_i) <= ddof``.

    The state is three float64 numbers whatever ``dtype`` is, which is that of the result.

    Args:
        ddof: 0 for the variance of these values, 1 for the unbiased estimate of that of the
            population they are drawn from.
        name: of the metric.
        dtype: of the results.

    Raises:
        ArgumentError: ``ddof`` is no whole number, 0 or more.

    Example:
        >>> metric = MeanAndVariance()
        >>> metric.update_state([1e6, 1e6 + 2])
        >>> metric.update_state([1e6 + 4], sample_weight=[2.0])
        >>> {name: float(value) for name, value in metric.result().items()}
        {'mean': 1000002.5, 'variance': 2.75}

    Source: B. P. Welford, "Note on a Method for Calculating Corrected Sums of Squares and
    Products", Technometrics 4(3), 1962; T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating
    Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
    """

    merge_rules = {"moments": "moments"}

    def __init__(self, *, ddof: int = 0, name: str = "mean_and_variance", dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        self.ddof = arguments.whole_number("ddof", ddof, 0)
        self.moments = self.add_variable((3,), "zeros", dtype="float64", name="moments")

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Adds the values of a batch.

        Args:
            values: of any shape; each element is a value.
            sample_weight: for each row, or each element, or one number; default 1.
        """
        mask = _keras.get_mask(values)
        values = keras.ops.convert_to_tensor(values)
        weight = arguments.flat(arguments.weights(sample_weight, mask, values))
        batch = moments_of(arguments.flat(values)[:, None], weight)
        self.moments.assign(merging.merge("moments", [self.moments.value, batch]))

    def result(self) -> dict[str, tf.Tensor]:
        """``{"mean": ..., "variance": ...}`` of all values since the last reset."""
        n, mean, squares = keras.ops.unstack(self.moments.value, 3)
        variance = keras.ops.where(
            n > self.ddof, keras.ops.divide_no_nan(squares, n - self.ddof), 0.0
        )
        return {
            "mean": keras.ops.cast(mean, self.dtype),
            "variance": keras.ops.cast(variance, self.dtype),
        }

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {**super().get_config(), "ddof": self.ddof}
