"""State that grows with the rows, and metrics that need all rows at once.

::

    metric = EpochMetric(median_error)       # a function of all rows of an epoch

On several replicas the rows are put together by the rule ``concat`` of
`kerastrain.distribution.merging`.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.metrics import arguments


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
    return _keras.add_growing_variable(metric, tuple(shape), dtype or metric.dtype, name)


class KeptRows(keras.metrics.Metric):
    """Base of metrics that keep their rows, and compute the result from all of them.

    A subclass makes its variables with `add_growing_variable`, declares ``"concat"`` for
    each, and calls ``_keep`` in ``update_state``. Each batch copies what is kept so far.

    Args:
        max_rows: the most rows that may be kept, on each replica; None for any number.
        name: what is logged.
        dtype: of what is kept, and of the result.

    Raises:
        ArgumentError: ``max_rows`` is no whole number, 1 or more.
    """

    def __init__(self, *, max_rows: int | None = None, name: str | None = None, dtype: Any = None):
        super().__init__(name=name, dtype=dtype)
        if max_rows is not None:
            arguments.whole_number("max_rows", max_rows, 1)
        self.max_rows = max_rows

    def _keep(self, **columns: tf.Tensor) -> None:
        """Appends rows to the variables of these names: all of them, or none and an error."""
        pairs = [(getattr(self, name), rows) for name, rows in columns.items()]
        rows = [keras.ops.cast(rows, variable.dtype) for variable, rows in pairs]
        if self.max_rows is not None:
            count = keras.ops.shape(pairs[0][0].value)[0] + keras.ops.shape(rows[0])[0]
            rows = arguments.when(
                count <= self.max_rows,
                f"The metric {self.name!r} would keep more rows than max_rows={self.max_rows}. "
                "Pass a larger `max_rows`, None for any number, or call `reset_state` sooner. "
                "Rows:",
                count,
                rows,
            )
        for (variable, _), new in zip(pairs, rows, strict=True):
            variable.assign(keras.ops.concatenate([variable.value, new]))

    def _keep_weighted(self, weight: tf.Tensor, **columns: tf.Tensor) -> None:
        """``_keep`` without the rows of weight 0; the weights are the column ``sample_weight``."""
        counting = tf.where(keras.ops.not_equal(weight, 0.0))[:, 0]
        columns = {**columns, "sample_weight": weight}
        self._keep(**{name: tf.gather(rows, counting) for name, rows in columns.items()})

    def _kept(self, *names: str) -> list[tf.Tensor]:
        """The rows of these variables in float64."""
        return [keras.ops.cast(getattr(self, name).value, "float64") for name in names]

    def reset_state(self) -> None:
        """Forgets all rows."""
        for variable in self.variables:
            variable.assign(keras.ops.zeros((0, *variable.shape[1:]), variable.dtype))

    def stateless_update_state(
        self, metric_variables: list[Any], *args: Any, **kwargs: Any
    ) -> list[Any]:
        """The variables' values after ``update_state``, which began with ``metric_variables``."""
        with self._holding(metric_variables) as scope:
            self.update_state(*args, **kwargs)
        return [scope.get_current_value(variable) for variable in self.variables]

    def stateless_result(self, metric_variables: list[Any]) -> Any:
        """The result where the variables have the values ``metric_variables``."""
        with self._holding(metric_variables):
            return self.result()

    def _holding(self, values: list[Any]) -> keras.StatelessScope:
        # Keras 3.15.1 refuses values with rows in the scope's constructor.
        scope = keras.StatelessScope()
        for variable, value in zip(self.variables, values, strict=True):
            scope.add_update((variable, keras.ops.cast(value, variable.dtype)))
        return scope

    def get_config(self) -> dict[str, Any]:
        """Name, type and ``max_rows``."""
        return {**super().get_config(), "max_rows": self.max_rows}


@keras.saving.register_keras_serializable(package="kerastrain")
class EpochMetric(KeptRows):
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
        dtype: of what is kept. In float32 a row takes 4 bytes for each number of
            ``y_true`` and ``y_pred``, and 4 for its weight.
        max_rows: the most rows that may be kept, on each replica; None for any
            number. More raise ``tf.errors.InvalidArgumentError`` and leave the
            state as it was.

    Raises:
        ArgumentError: ``max_rows`` is no whole number, 1 or more.

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
        self,
        function: Callable,
        name: str | None = None,
        shape: tuple = (),
        dtype: Any = None,
        max_rows: int | None = None,
    ):
        super().__init__(max_rows=max_rows, name=name or function.__name__, dtype=dtype)
        self.function, self.shape = function, tuple(shape)
        self.y_true = add_growing_variable(self, shape, name="y_true")
        self.y_pred = add_growing_variable(self, shape, name="y_pred")
        self.sample_weight = add_growing_variable(self, name="sample_weight")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Keeps the rows of a batch; without weights each has the weight 1."""
        y_pred = keras.ops.reshape(y_pred, (-1, *self.shape))
        if sample_weight is None:
            sample_weight = keras.ops.ones(keras.ops.shape(y_pred)[:1])
        self._keep(
            y_true=keras.ops.reshape(y_true, (-1, *self.shape)),
            y_pred=y_pred,
            sample_weight=keras.ops.reshape(sample_weight, (-1,)),
        )

    def result(self) -> Any:
        """What the function gives for all rows since the last reset."""
        return self.function(self.y_true.value, self.y_pred.value, self.sample_weight.value)

    def get_config(self) -> dict[str, Any]:
        """The function as Keras serialises it, and the shape."""
        function = keras.saving.serialize_keras_object(self.function)
        return {**super().get_config(), "function": function, "shape": self.shape}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "EpochMetric":
        """The metric that `get_config` describes."""
        function = keras.saving.deserialize_keras_object(config["function"])
        return cls(**{**config, "function": function})
