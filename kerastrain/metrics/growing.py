"""State that grows with the rows, and metrics that need all rows at once.

::

    metric = EpochMetric(median_error)       # a function of all rows of an epoch

On several replicas the rows are put together by the rule ``concat`` of
`kerastrain.merging`.
"""

from collections.abc import Callable
from typing import Any

import keras

from kerastrain import _keras


def add_growing_variable(
    metric: keras.metrics.Metric, shape: tuple = (), *, name: str, dtype: Any = None
) -> keras.Variable:
    """Adds a state variable that begins without rows and may be assigned any number.

    Args:
        metric: the metric that owns it; call this in its constructor.
        shape: of one row.
        name: as for ``add_variable``; declare ``merge_rules = {name: "concat"}``.
        dtype: default the metric's.

    Returns:
        A variable of shape ``(None, *shape)``. A step that assigns it cannot
        be compiled with XLA, whose shapes are fixed.
    """
    return _keras.add_growing_variable(metric, tuple(shape), dtype, name)


@keras.saving.register_keras_serializable(package="kerastrain")
class EpochMetric(keras.metrics.Metric):
    """A function of all rows of an epoch at once, such as an exact area under a curve.

    Keeps ``y_true``, ``y_pred`` and the weights of all rows, and copies them at
    each batch. Where a sum would do, a metric that sums is far cheaper. Replicas'
    rows are put together one replica after another, so the function must not
    depend on the order of rows.

    Args:
        function: of ``(y_true, y_pred, sample_weight)``, tensors of shape
            ``(rows, *shape)``, the weights ``(rows,)``; returns the result.
        name: what is logged. Default the function's name.
        shape: of one row of ``y_true`` and of ``y_pred``. Default ``()``, for
            which a last axis of length 1 is dropped.
        dtype: of what is kept.

    Example:
        >>> def median_error(y_true, y_pred, sample_weight):
        ...     return keras.ops.median(keras.ops.abs(y_true - y_pred))
        >>> metric = EpochMetric(median_error)
        >>> for y_pred in ([1.0, 2.0], [9.0]):
        ...     metric.update_state(np.zeros(len(y_pred)), np.array(y_pred))
        >>> float(metric.result())
        2.0
    """

    merge_rules = {"y_true": "concat", "y_pred": "concat", "sample_weight": "concat"}

    def __init__(
        self, function: Callable, name: str | None = None, shape: tuple = (), dtype: Any = None
    ):
        super().__init__(name=name or function.__name__, dtype=dtype)
        self.function, self.shape = function, tuple(shape)
        self.y_true = add_growing_variable(self, shape, name="y_true")
        self.y_pred = add_growing_variable(self, shape, name="y_pred")
        self.sample_weight = add_growing_variable(self, name="sample_weight")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Keeps the rows of a batch; without weights each has the weight 1."""
        y_pred = keras.ops.reshape(y_pred, (-1, *self.shape))
        if sample_weight is None:
            sample_weight = keras.ops.ones(keras.ops.shape(y_pred)[:1])
        self._append(self.y_true, keras.ops.reshape(y_true, (-1, *self.shape)))
        self._append(self.y_pred, y_pred)
        self._append(self.sample_weight, keras.ops.reshape(sample_weight, (-1,)))

    def _append(self, variable, rows):
        rows = keras.ops.cast(rows, variable.dtype)
        variable.assign(keras.ops.concatenate([variable.value, rows]))

    def result(self):
        """What the function gives for all rows since the last reset."""
        return self.function(self.y_true.value, self.y_pred.value, self.sample_weight.value)

    def reset_state(self):
        """Forgets all rows."""
        for variable in self.variables:
            variable.assign(keras.ops.zeros((0, *variable.shape[1:]), variable.dtype))

    def get_config(self):
        """The function as Keras serialises it, and the shape."""
        function = keras.saving.serialize_keras_object(self.function)
        return {**super().get_config(), "function": function, "shape": self.shape}

    @classmethod
    def from_config(cls, config):
        """The metric that `get_config` describes."""
        function = keras.saving.deserialize_keras_object(config["function"])
        return cls(**{**config, "function": function})
