"""How well scores rank: exact areas under curves, ties and weights as scikit-learn has them.

::

    model.compile(loss=..., weighted_metrics=[ROCAUC(), AveragePrecision()])

``keras.metrics.AUC`` counts at 200 thresholds and is an approximation; these keep all
scores and sort them once for each result.
"""

from typing import Any

import keras
import tensorflow as tf

from kerastrain.metrics import arguments
from kerastrain.metrics import ranks
from kerastrain.metrics.growing import add_growing_variable
from kerastrain.metrics.growing import KeptRows


class _Ranking(KeptRows):
    """Keeps a label, a score and a weight for each row."""

    merge_rules = {"y_true": "concat", "y_pred": "concat", "sample_weight": "concat"}

    def __init__(self, *, max_rows: int | None, name: str, dtype: Any) -> None:
        super().__init__(max_rows=max_rows, name=name, dtype=dtype)
        self.y_true = add_growing_variable(self, name="y_true", dtype="uint8")
        self.y_pred = add_growing_variable(self, name="y_pred", dtype=self.dtype)
        self.sample_weight = add_growing_variable(self, name="sample_weight", dtype=self.dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Keeps the rows of a batch but those of weight 0.

        Args:
            y_true: labels 0 and 1, ``(rows,)`` or ``(rows, 1)``.
            y_pred: scores of the same rows, the higher the likelier 1; probabilities or
                logits.
            sample_weight: for each row, or one number; default 1.
        """
        y_true, y_pred, weight = arguments.pair(y_true, y_pred, sample_weight)
        labels = arguments.checked_labels(y_true, weight, 2)
        self._keep_weighted(weight, y_true=labels, y_pred=y_pred)


@keras.saving.register_keras_serializable(package="kerastrain")
class ROCAUC(_Ranking):
    """The exact area under the receiver operating characteristic curve.

    The share of pairs of a row with ``y_true = 1`` and one with ``y_true = 0`` that the
    scores put in the right order, a tie counting half and a pair the product of its
    weights::

        sum(w_i * w_j * ((y_pred_i > y_pred_j) + (y_pred_i == y_pred_j) / 2)) / (P * N)

    over ``i`` of label 1 and ``j`` of label 0, with ``P`` and ``N`` the sums of the weights
    of each label. Equals ``sklearn.metrics.roc_auc_score``. Without rows of both labels it
    is undefined and given as 0.5, what scores that tell nothing have.

    Keeps 9 bytes a row in float32 (score, weight, label), and copies them at each batch.
    Computed in float64 from scores kept as ``dtype``. NaN if a score is NaN.

    Args:
        max_rows: the most rows that may be kept, on each replica; None for any number.
            More raise ``tf.errors.InvalidArgumentError`` and leave the state as it was.
            Rows of weight 0 are not kept.
        name: what is logged.
        dtype: of what is kept, and of the result.

    Raises:
        ArgumentError: ``max_rows`` is no whole number, 1 or more.
        ShapeError: in ``update_state``, more than one score for a row.
        tf.errors.InvalidArgumentError: in ``update_state``, labels other than 0 and 1.

    Example:
        >>> metric = ROCAUC()
        >>> metric.update_state([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
        >>> float(metric.result())
        0.875

    Source: J. A. Hanley and B. J. McNeil, "The Meaning and Use of the Area under a Receiver
    Operating Characteristic (ROC) Curve", Radiology 143, 1982.
    """

    def __init__(self, *, max_rows: int | None = None, name: str = "roc_auc", dtype: Any = None):
        super().__init__(max_rows=max_rows, name=name, dtype=dtype)

    def result(self) -> tf.Tensor:
        """The area for all rows since the last reset."""
        y_true, y_pred, weight = self._kept("y_true", "y_pred", "sample_weight")
        positive, negative = weight * y_true, weight * (1 - y_true)
        below, through = ranks.weight_below(y_pred, negative)
        pairs = keras.ops.sum(positive) * keras.ops.sum(negative)
        ordered = keras.ops.sum(positive * (below + through)) / 2
        area = keras.ops.where(pairs > 0, keras.ops.divide_no_nan(ordered, pairs), 0.5)
        return keras.ops.cast(ranks.nan_where_any(y_pred, area), self.dtype)


@keras.saving.register_keras_serializable(package="kerastrain")
class AveragePrecision(_Ranking):
    """The mean of the precision over the rows with label 1, each taken as the threshold.

    ::

        sum(w_i * precision(y_pred_i)) / sum(w_i),  over i with y_true = 1
        precision(s) = weight of label 1 with y_pred >= s / weight of all with y_pred >= s

    Tied rows are one threshold. Equals ``sklearn.metrics.average_precision_score``, a step
    curve without interpolation. Without a row of label 1 it is 0.0.

    Keeps 9 bytes a row in float32 (score, weight, label), and copies them at each batch.
    Computed in float64 from scores kept as ``dtype``. NaN if a score is NaN.

    Args:
        max_rows: the most rows that may be kept, on each replica; None for any number.
            More raise ``tf.errors.InvalidArgumentError`` and leave the state as it was.
            Rows of weight 0 are not kept.
        name: what is logged.
        dtype: of what is kept, and of the result.

    Raises:
        ArgumentError: ``max_rows`` is no whole number, 1 or more.
        ShapeError: in ``update_state``, more than one score for a row.
        tf.errors.InvalidArgumentError: in ``update_state``, labels other than 0 and 1.

    Example:
        >>> metric = AveragePrecision()
        >>> metric.update_state([0, 1, 0, 1], [0.1, 0.4, 0.35, 0.8])
        >>> metric.update_state([0], [0.9])
        >>> round(float(metric.result()), 4)
        0.5833

    Source: C. D. Manning, P. Raghavan and H. Schuetze, "Introduction to Information
    Retrieval", 2008, section 8.4.
    """

    def __init__(
        self, *, max_rows: int | None = None, name: str = "average_precision", dtype: Any = None
    ):
        super().__init__(max_rows=max_rows, name=name, dtype=dtype)

    def result(self) -> tf.Tensor:
        """The mean precision for all rows since the last reset."""
        y_true, y_pred, weight = self._kept("y_true", "y_pred", "sample_weight")
        positive = weight * y_true
        hits = ranks.weight_below(-y_pred, positive)[1]
        found = ranks.weight_below(-y_pred, weight)[1]
        precision = keras.ops.divide_no_nan(hits, found)
        mean = keras.ops.divide_no_nan(keras.ops.sum(positive * precision), keras.ops.sum(positive))
        return keras.ops.cast(ranks.nan_where_any(y_pred, mean), self.dtype)
