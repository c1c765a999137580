"""Exact quantiles, of values or of absolute errors.

::

    model.compile(loss="mse", metrics=[AbsoluteErrorQuantile(0.9)])
"""

from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.metrics import arguments
from kerastrain.metrics import ranks
from kerastrain.metrics.growing import add_growing_variable
from kerastrain.metrics.growing import KeptRows


@keras.saving.register_keras_serializable(package="kerastrain")
class Quantile(KeptRows):
    """The smallest value with at least the share ``q`` of the weight at or below it.

    ::

        min(v : sum(w_i : value_i <= v) / sum(w_i) >= q)

    over values of weight above 0: the inverse of the distribution function, so always one
    of the values, and a row of weight 2 is as two rows. Equals ``numpy.quantile(values, q,
    weights=sample_weight, method="inverted_cdf")``. Without values it is 0.0.

    Keeps 8 bytes a value in float32 (value, weight), and copies them at each batch. Shares
    are computed in float64. NaN if a value is NaN.

    Args:
        q: from 0 (the minimum) over 0.5 (the lower median) to 1 (the maximum).
        max_rows: the most values that may be kept, on each replica; None for any number.
            More raise ``tf.errors.InvalidArgumentError`` and leave the state as it was.
            Values of weight 0 are not kept.
        name: what is logged.
        dtype: of what is kept, and of the result.

    Raises:
        ArgumentError: ``q`` is not from 0 to 1, or ``max_rows`` no whole number from 1 on.

    Example:
        >>> metric = Quantile(0.5)
        >>> metric.update_state([3.0, 9.0])
        >>> metric.update_state([4.0], sample_weight=[2.0])
        >>> float(metric.result())
        4.0

    Source: R. J. Hyndman and Y. Fan, "Sample Quantiles in Statistical Packages", The American
    Statistician 50(4), 1996, definition 1.
    """

    merge_rules = {"values": "concat", "sample_weight": "concat"}

    def __init__(
        self,
        q: float = 0.5,
        *,
        max_rows: int | None = None,
        name: str = "quantile",
        dtype: Any = None,
    ):
        super().__init__(max_rows=max_rows, name=name, dtype=dtype)
        self.q = arguments.number("q", q, 0, 1)
        self.values = add_growing_variable(self, name="values", dtype=self.dtype)
        self.sample_weight = add_growing_variable(self, name="sample_weight", dtype=self.dtype)

    def update_state(self, values: Any, sample_weight: Any = None) -> None:
        """Keeps the values of a batch.

        Args:
            values: of any shape; each element is a value.
            sample_weight: for each row, or each element, or one number; default 1.
        """
        mask = _keras.get_mask(values)
        values = keras.ops.convert_to_tensor(values)
        weight = arguments.weights(sample_weight, mask, values)
        self._keep_weighted(arguments.flat(weight), values=arguments.flat(values))

    def result(self) -> tf.Tensor:
        """The quantile of all values since the last reset."""
        values, weight = self._kept("values", "sample_weight")
        order = keras.ops.argsort(values)
        # The zero at the end is the result where there are no values.
        ordered = tf.pad(tf.gather(values, order), [[0, 1]])
        sums = keras.ops.cumsum(tf.gather(weight, order))
        shares = keras.ops.divide_no_nan(sums, sums[-1:])
        place = keras.ops.sum(keras.ops.cast(shares < self.q, "int32"))
        quantile = ranks.nan_where_any(values, tf.gather(ordered, place))
        return keras.ops.cast(quantile, self.dtype)

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {**super().get_config(), "q": self.q}


@keras.saving.register_keras_serializable(package="kerastrain")
class AbsoluteErrorQuantile(Quantile):
    """The `Quantile` of ``abs(y_true - y_pred)``, each element an error.

    The median absolute error is ``q=0.5`` (its lower median, where
    ``sklearn.metrics.median_absolute_error`` takes the middle of two).

    Keeps 8 bytes an element in float32.

    Args:
        q: from 0 (the smallest error) to 1 (the largest).
        max_rows: the most errors that may be kept, as for `Quantile`.
        name: what is logged.
        dtype: of what is kept, and of the result.

    Raises:
        ArgumentError: ``q`` is not from 0 to 1, or ``max_rows`` no whole number from 1 on.
        ShapeError: in ``update_state``, shapes that do not fit together.

    Example:
        >>> metric = AbsoluteErrorQuantile(0.75)
        >>> metric.update_state([[0.0], [0.0], [0.0], [0.0]], [[1.0], [-2.0], [3.0], [4.0]])
        >>> float(metric.result())
        3.0
    """

    def __init__(
        self,
        q: float = 0.5,
        *,
        max_rows: int | None = None,
        name: str = "absolute_error_quantile",
        dtype: Any = None,
    ):
        super().__init__(q, max_rows=max_rows, name=name, dtype=dtype)

    # Keras passes targets and predictions, not the values themselves.
    def update_state(  # type: ignore[override]
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Keeps the errors of a batch.

        Args:
            y_true: of the shape of ``y_pred``; ``(rows,)`` and ``(rows, 1)`` are the same.
            y_pred: of any shape.
            sample_weight: for each row, or each element, or one number; default 1.
        """
        mask = _keras.get_mask(y_pred)
        y_pred = keras.ops.convert_to_tensor(y_pred)
        y_true = arguments.alike("y_true", y_true, y_pred)
        error = keras.ops.abs(keras.ops.cast(y_true, "float64") - keras.ops.cast(y_pred, "float64"))
        weight = arguments.weights(sample_weight, mask, error)
        self._keep_weighted(arguments.flat(weight), values=arguments.flat(error))
