"""Whether predicted probabilities are the shares that they announce.

::

    model.compile(loss="binary_crossentropy", metrics=[ExpectedCalibrationError()])
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.metrics import arguments


@keras.saving.register_keras_serializable(package="kerastrain")
class ExpectedCalibrationError(keras.metrics.Metric):
    """The mean distance of the confidence and the share of right rows, over bins of confidence.

    ::

        sum over bins b of |sum(w_i * correct_i) - sum(w_i * confidence_i)| / sum of all w_i

    over the rows ``i`` of each bin; bin ``b`` of 1 to ``bins`` holds the confidences above
    ``(b - 1) / bins`` up to ``b / bins``, the first one 0 too. This is the mean of the bins'
    ``|accuracy - confidence|``, weighted by their rows. 0.0 without rows.

    - With scores ``(rows, classes)`` the confidence is the highest of a row, and it is
      correct where that is the class of the label (Guo et al.).
    - With one score for a row it is the probability of class 1, and ``correct`` the label
      itself, so that all of the reliability diagram counts. Two columns, the top label of
      two, give another number.

    The state is ``3 * bins`` float64 numbers whatever ``dtype`` is, which is that of the
    result.

    Args:
        bins: of equal width.
        from_logits: whether ``y_pred`` is to go through a softmax first, or a sigmoid where
            there is one score for a row.
        name: what is logged.
        dtype: of the result.

    Raises:
        ArgumentError: ``bins`` is no whole number, 1 or more, or ``from_logits`` no bool.
        ShapeError: in ``update_state``, shapes that do not fit.
        tf.errors.InvalidArgumentError: in ``update_state``, labels out of range, or scores
            that are no probabilities. Not under XLA, which has no errors: there they count
            in the nearest bin, and such labels as wrong.

    Example:
        >>> metric = ExpectedCalibrationError(bins=2)
        >>> metric.update_state([1, 0, 1, 1], [0.75, 0.75, 0.75, 0.25])
        >>> float(metric.result())
        0.25

    Source: C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On Calibration of Modern Neural
    Networks", ICML 2017, section 2.
    """

    def __init__(
        self,
        bins: int = 15,
        *,
        from_logits: bool = False,
        name: str = "expected_calibration_error",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.bins = arguments.whole_number("bins", bins, 1)
        self.from_logits = arguments.one_of("from_logits", from_logits, (True, False))
        # Of each bin the sums of weights, of weighted confidences and of weighted right rows.
        self.sums = self.add_variable((bins, 3), "zeros", dtype="float64", name="sums")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds the rows of a batch.

        Args:
            y_true: labels ``(rows,)`` or ``(rows, 1)``, or one-hot beside scores of that
                shape.
            y_pred: probabilities ``(rows, classes)``, or of class 1 ``(rows,)`` or
                ``(rows, 1)``. Time steps may stand between.
            sample_weight: for each row, or row and step, or one number; default 1.
        """
        mask = _keras.get_mask(y_pred)
        scores, classes = arguments.class_scores(y_pred)
        scores = keras.ops.cast(scores, "float64")
        if len(scores.shape) > 1 and scores.shape[-1] == classes:
            scores = keras.ops.softmax(scores) if self.from_logits else scores
            # With `initial` keras.ops.max takes no rows too. Processors differ in whether the
            # largest of some numbers and NaN is NaN.
            confidence = keras.ops.max(scores, axis=-1, initial=-np.inf)
            strange = keras.ops.any(keras.ops.isnan(scores), axis=-1)
            confidence = keras.ops.where(strange, np.nan, confidence)
            top = keras.ops.argmax(scores, axis=-1)
        else:
            confidence = keras.ops.sigmoid(scores) if self.from_logits else scores
            top = keras.ops.ones_like(scores, dtype="int32")
        labels = arguments.class_labels(y_true, top, classes)
        weight = arguments.flat(arguments.weights(sample_weight, mask, top))
        labels = arguments.checked_labels(arguments.flat(labels), weight, classes)
        correct = keras.ops.equal(labels, arguments.flat(top, "int32"))
        self._add(arguments.flat(confidence), arguments.flat(correct), weight)

    def _add(self, confidence: tf.Tensor, correct: tf.Tensor, weight: tf.Tensor) -> None:
        counts = keras.ops.not_equal(weight, 0.0)
        confidence = keras.ops.where(counts, confidence, 0.0)
        strange = (confidence < -1e-3) | (confidence > 1 + 1e-3)
        confidence = arguments.when(
            keras.ops.logical_not(keras.ops.any(strange)),
            "`y_pred` must hold probabilities from 0 to 1. Pass from_logits=True for logits. "
            "Received confidences:",
            confidence,
            confidence,
        )
        # Not of NaN: which integer that becomes depends on the processor.
        bins = keras.ops.where(keras.ops.isnan(confidence), 0.0, confidence * self.bins)
        places = keras.ops.cast(keras.ops.ceil(bins), "int32") - 1
        places = keras.ops.clip(places, 0, self.bins - 1)
        rows = keras.ops.stack([weight, weight * confidence, weight * correct], axis=-1)
        self.sums.assign_add(keras.ops.segment_sum(rows, places, self.bins))

    def result(self) -> tf.Tensor:
        """The error over all rows since the last reset."""
        weight, confidence, correct = keras.ops.unstack(self.sums.value, 3, axis=-1)
        distances = keras.ops.sum(keras.ops.abs(correct - confidence))
        error = keras.ops.divide_no_nan(distances, keras.ops.sum(weight))
        return keras.ops.cast(error, self.dtype)

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {**super().get_config(), "bins": self.bins, "from_logits": self.from_logits}
