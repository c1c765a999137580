"""How much of the targets' variance predictions explain, over all rows.

::

    model.compile(loss="mse", metrics=[R2Score(outputs=2)])
"""

from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import merging
from kerastrain.errors import ShapeError
from kerastrain.metrics import arguments
from kerastrain.metrics.moments import moments_of

AVERAGES = ("uniform", "variance_weighted", None)


@keras.saving.register_keras_serializable(package="kerastrain")
class R2Score(keras.metrics.Metric):
    """The coefficient of determination over all rows, averaged over outputs.

    ::

        r2 = 1 - sum(w * (y_true - y_pred)**2) / sum(w * (y_true - mean)**2)

    for each output, with the weighted mean of its ``y_true``. Equals
    ``sklearn.metrics.r2_score``: where ``y_true`` is constant, so also on one row, an output
    has 1.0 if all errors are 0, else 0.0. Without rows it is 0.0. 1 is the best value, 0 that
    of the constant mean, and there is no lowest one. (``keras.metrics.R2Score`` of Keras
    3.15.1 computes the variance as a difference of sums, which cancels beside a large mean.)

    The state is four float64 numbers an output whatever ``dtype`` is, which is that of the
    result.

    Args:
        outputs: how many; the last axis of ``y_pred``.
        average: ``"uniform"``, the mean over outputs; ``"variance_weighted"``, the mean
            weighted by the variance of each output's targets (uniform, if all are 0); None
            for a result of shape ``(outputs,)``.
        name: what is logged.
        dtype: of the result.

    Raises:
        ArgumentError: ``outputs`` is no whole number, 1 or more, or ``average`` is unknown.
        ShapeError: in ``update_state``, another number of outputs.

    Example:
        >>> metric = R2Score()
        >>> metric.update_state([1.0, 2.0], [1.0, 3.0])
        >>> metric.update_state([3.0], [3.0])
        >>> float(metric.result())
        0.5

    Source: S. Wright, "Correlation and Causation", Journal of Agricultural Research 20, 1921;
    merged as in `kerastrain.distribution.merging`.
    """

    merge_rules = {"moments": "moments"}

    def __init__(
        self,
        outputs: int = 1,
        *,
        average: str | None = "uniform",
        name: str = "r2_score",
        dtype: Any = None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.outputs = arguments.whole_number("outputs", outputs, 1)
        self.average = arguments.one_of("average", average, AVERAGES)
        self.moments = self.add_variable((outputs, 3), "zeros", dtype="float64", name="moments")
        self.errors = self.add_variable((outputs,), "zeros", dtype="float64", name="errors")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Adds the rows of a batch.

        Args:
            y_true: targets, of the shape of ``y_pred``.
            y_pred: ``(rows, outputs)``, with time steps ``(rows, steps, outputs)``; for one
                output also ``(rows,)``.
            sample_weight: for each row, or row and step, or one number; default 1.
        """
        mask = _keras.get_mask(y_pred)
        y_pred = keras.ops.convert_to_tensor(y_pred)
        if len(y_pred.shape) == 1 and self.outputs == 1:
            y_pred = y_pred[:, None]
        if len(y_pred.shape) < 2 or y_pred.shape[-1] != self.outputs:
            raise ShapeError(
                f"`y_pred` must have a last axis of {self.outputs}, the `outputs` of the metric "
                f"{self.name!r}. Received: shape {tuple(y_pred.shape)}. Pass `outputs=` the "
                "number of outputs of the model."
            )
        y_true = arguments.alike("y_true", y_true, y_pred)
        weight = arguments.flat(arguments.weights(sample_weight, mask, y_pred[..., 0]))
        y_true, y_pred = (
            keras.ops.cast(keras.ops.reshape(y, (-1, self.outputs)), "float64")
            for y in (y_true, y_pred)
        )
        counts = keras.ops.not_equal(weight, 0.0)[:, None]
        squares = keras.ops.where(counts, keras.ops.square(y_true - y_pred), 0.0)
        self.errors.assign_add(keras.ops.sum(weight[:, None] * squares, axis=0))
        batch = moments_of(keras.ops.transpose(y_true)[..., None], weight)
        self.moments.assign(merging.merge("moments", [self.moments.value, batch]))

    def result(self) -> tf.Tensor:
        """The score over all rows since the last reset."""
        n, _, total = keras.ops.unstack(self.moments.value, 3, axis=-1)
        errors = self.errors.value
        perfect = keras.ops.cast(keras.ops.equal(errors, 0.0), "float64")
        of_constant = keras.ops.where(n > 0, perfect, 0.0)
        score = keras.ops.where(
            total > 0, 1.0 - keras.ops.divide_no_nan(errors, total), of_constant
        )
        if self.average == "uniform":
            score = keras.ops.mean(score)
        elif self.average == "variance_weighted":
            weighted = keras.ops.divide_no_nan(keras.ops.sum(score * total), keras.ops.sum(total))
            score = keras.ops.where(keras.ops.sum(total) > 0, weighted, keras.ops.mean(score))
        return keras.ops.cast(score, self.dtype)

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {**super().get_config(), "outputs": self.outputs, "average": self.average}
