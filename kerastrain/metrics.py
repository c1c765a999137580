"""Metrics: states of their own for each set of data, and early warnings.

One metric object serves all sets; what each set owns is the *state*, the
values of the metric's variables::

    states = MetricStates(model)
    states.reset()                   # once per epoch: the train state
    with states.set_aside():         # validation begins fresh, in the same objects
        ...
    # here every metric has its train state again

So a metric needs no configuration to be copied, all sets share one compiled
step, ``reset_state`` runs once per epoch, and after ``fit`` the object that the
user passed in holds the train result of the last epoch. (Keras 3.15.1 resets
the train state when validation begins.)

On several replicas states are merged by `kerastrain.merging`'s rules. A metric
that needs all rows at once is an `EpochMetric`.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from kerastrain import _keras
from kerastrain import merging


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


class MetricStates:
    """The metric state of the set that runs, and the states set aside.

    Args:
        model: a built, compiled model; its ``metrics`` are handled.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._fresh: dict[int, list] = {}

    def _variables(self):
        found = {}
        for metric in self._model.metrics:
            for variable in metric.variables:
                found[id(variable)] = variable
        return found

    def reset(self) -> None:
        """Resets every metric, by ``model.reset_metrics``."""
        merging.reset(self._model, self._model.reset_metrics)
        self._fresh = {
            key: _keras.read_local(variable)
            for key, variable in self._variables().items()
        }

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Inside, metrics start fresh; afterwards they have their state again.

        Copies each metric's variables once on the way in (a few kilobytes for
        most metrics).
        """
        variables = self._variables()
        kept = {key: _keras.read_local(v) for key, v in variables.items()}
        if variables.keys() <= self._fresh.keys():
            for key, variable in variables.items():
                _keras.assign_local(variable, self._fresh[key])
        else:
            merging.reset(self._model, self._model.reset_metrics)
        try:
            yield
        finally:
            for key, variable in variables.items():
                _keras.assign_local(variable, kept[key])


@contextlib.contextmanager
def watched_updates(model: keras.Model) -> Iterator[set[int]]:
    """Notes which metrics the step that is traced inside updates, by ``id``."""
    watched = _keras.leaf_metrics(model)
    updated = set()

    def watch(metric):
        update = metric.update_state

        def update_state(*args, **kwargs):
            updated.add(id(metric))
            return update(*args, **kwargs)

        metric.__dict__["update_state"] = update_state

    for metric in watched:
        watch(metric)
    try:
        yield updated
    finally:
        for metric in watched:
            metric.__dict__.pop("update_state", None)


def warn_if_never_updated(model: keras.Model, updated: set[int]) -> None:
    """Warns of metrics that are not ``updated``: they would log what they never measured.

    Keras's own loss trackers are left out: a custom step may do without them.
    """
    trackers = [_keras.loss_tracker(model), *_keras.output_loss_trackers(model)]
    known = updated | {id(tracker) for tracker in trackers}
    silent = [m.name for m in _keras.leaf_metrics(model) if id(m) not in known]
    if silent:
        warnings.warn(
            f"The metrics {silent} of {type(model).__name__} are not updated by its "
            "step, so their logged values mean nothing. Call `update_state` in "
            "`compute_metrics`, pass them as `metrics=`, or remove them.",
            stacklevel=2,
        )


def warn_of_plain_tensors(model: keras.Model, logs: dict | None, updated: set[int]) -> None:
    """Warns of returned values that no metric stands for.

    Keras logs their last batch as if it were the epoch; a returned ``"loss"``
    whose tracker was not updated is even logged as 0.

    Args:
        model: the model that ran the step.
        logs: what the step returned, or None where nothing was asked of it.
        updated: the metrics that the step updated.
    """
    if logs is None:
        return
    stale = {m.name for m in _keras.leaf_metrics(model) if id(m) not in updated}
    known = set(model.get_metrics_result())
    plain = sorted(name for name in logs if name not in known or name in stale)
    if plain:
        warnings.warn(
            f"The step of {type(model).__name__} returns {plain}, which no metric that it "
            "updates stands for: the epoch's logs would show their values in the last "
            "batch, or 0. Return the result of a `keras.metrics.Mean` that the step "
            "updates.",
            stacklevel=2,
        )
