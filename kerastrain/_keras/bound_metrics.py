"""Compiled metrics beside those of Keras: bound to parts of the batch, or updated by the step itself."""

import contextlib
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
from keras.src.trainers import compile_utils

from kerastrain._keras.entry_points import base_method
from kerastrain._keras.entry_points import base_method_replaced
from kerastrain.errors import MetricError


class _Bound(NamedTuple):
    """A metric that takes what it wants of a batch, and whether the weights of rows are for it."""

    metric: Any
    is_weighted: bool


class CompiledMetrics(compile_utils.CompileMetrics):
    """Keras's compiled metrics, with those that are bound to parts of the batch, and of the step itself.

    Args:
        compiled: Keras's, of all that was passed; None where nothing was.

    Attributes:
        bound: of the first kind.
        trackers: of the second kind, by name: the step makes and updates them.
    """

    built: bool
    _user_metrics: Any
    _user_weighted_metrics: Any
    _flat_metrics: list[Any]
    _flat_weighted_metrics: list[Any]
    _plain: list[Any]
    bound: list[_Bound]
    trackers: dict[str, keras.metrics.Mean]

    def __init__(self, compiled: compile_utils.CompileMetrics | None):
        compiled = compiled or compile_utils.CompileMetrics(None, None)
        given = compiled._user_metrics, compiled._user_weighted_metrics
        super().__init__(*given, output_names=compiled.output_names)
        self.__dict__["trackers"] = {}
        self.__dict__["_plain"] = [_or_none(_split(one)[0]) for one in given]
        self.__dict__["bound"] = [
            _Bound(metric, one is given[1]) for one in given for metric in _split(one)[1]
        ]
        _check_names([one.metric.name for one in self.bound])
        if not any(self._plain):  # there is nothing to be built
            self._flat_metrics, self._flat_weighted_metrics, self.built = [], [], True

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*self._in_order(), *self.trackers.values()]

    def _in_order(self) -> list[keras.metrics.Metric]:
        """Keras's and the bound ones, as they were passed, where that is a list."""
        plain, bound = super().metrics, [one.metric for one in self.bound]
        given = [
            *keras.tree.flatten(self._user_metrics),
            *keras.tree.flatten(self._user_weighted_metrics),
        ]
        given = [one for one in given if one is not None]
        has_dict = any(
            isinstance(one, dict) for one in (self._user_metrics, self._user_weighted_metrics)
        )
        if has_dict or len(given) != len(plain) + len(bound):
            return [*plain, *bound]
        rest = iter(plain)
        return [one if hasattr(one, "update_bound") else next(rest) for one in given]

    @property
    def variables(self) -> list[keras.Variable]:
        return [variable for metric in self.metrics for variable in metric.variables]

    def build(self, y_true: Any, y_pred: Any) -> None:
        """Builds those of Keras, which are none of the bound ones."""
        given = self._user_metrics, self._user_weighted_metrics
        self._user_metrics, self._user_weighted_metrics = self._plain
        try:
            super().build(y_true, y_pred)
        finally:
            self._user_metrics, self._user_weighted_metrics = given

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Updates those of Keras: `compute_metrics` updates the others."""
        if any(self._plain):
            super().update_state(y_true, y_pred, sample_weight)

    def update_bound(self, batch: dict[str, Any]) -> None:
        """Updates the bound ones.

        Args:
            batch: ``x``, ``y``, ``y_pred`` and ``sample_weight``.
        """
        for metric, is_weighted in self.bound:
            metric.update_bound(batch, is_weighted)

    def reset_state(self) -> None:
        super().reset_state()
        for metric in (*(one.metric for one in self.bound), *self.trackers.values()):
            metric.reset_state()

    def result(self) -> dict[str, Any]:
        beside = [*(one.metric for one in self.bound), *self.trackers.values()]
        results = super().result() if any(self._plain) else {}
        if self.bound:
            _check_names([*results, *(one.metric.name for one in self.bound)])
        return results | {metric.name: metric.result() for metric in beside}


def _split(metrics: Any) -> tuple[Any, list[Any]]:
    """``(what Keras takes, the metrics that are bound)`` of what was passed as ``metrics``.

    The places of outputs stay, even if only bound metrics were in one.
    """
    kept: Any
    if isinstance(metrics, dict):
        parts = {key: _split(value) for key, value in metrics.items()}
        kept = {key: part for key, (part, bound) in parts.items() if part is not None or not bound}
        found = [metric for _, bound in parts.values() for metric in bound]
    elif isinstance(metrics, list | tuple):
        places = [_split(value) for value in metrics]
        kept = [part for part, bound in places if part is not None or not bound]
        found = [metric for _, bound in places for metric in bound]
    else:
        is_bound = hasattr(metrics, "update_bound")
        return (None, [metrics]) if is_bound else (metrics, [])
    return (kept, found) if found else (metrics, [])


def _or_none(metrics: Any) -> Any:
    """None in place of what holds no metric."""
    return metrics if any(one is not None for one in keras.tree.flatten(metrics)) else None


def _check_names(names: list[str]) -> None:
    """Refuses bound metrics with the name of another, or of the loss, whose results would be one.

    Raises:
        MetricError: as said.
    """
    names = ["loss", *names]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise MetricError(
            f"Several metrics would be logged as {twice!r}, one of them a Bind. Rename it: "
            'Bind(..., name="...").'
        )


def metric_by_shape(identifier: str, y_true: Any, y_pred: Any, name: str) -> keras.metrics.Metric:
    """The metric that ``compile`` makes of a name, by the shapes of what it is given."""
    metric = compile_utils.get_metric(identifier, y_true, y_pred)
    metric.name = name
    return metric


def are_to_be_bound(model: keras.Model) -> bool:
    """Whether Keras has compiled metrics with the model that it cannot update."""
    compiled = model._compile_metrics
    if compiled is None or isinstance(compiled, CompiledMetrics):
        return False
    given = compiled._user_metrics, compiled._user_weighted_metrics
    return any(_split(metrics)[1] for metrics in given)


def metrics_beside(model: keras.Model) -> list[keras.metrics.Metric]:
    """The compiled metrics that Keras knows nothing of."""
    compiled = model._compile_metrics
    if not isinstance(compiled, CompiledMetrics):
        return []
    return [*(bound.metric for bound in compiled.bound), *compiled.trackers.values()]


def step_trackers(model: keras.Model) -> dict[str, keras.metrics.Mean]:
    """The metrics that the step itself makes and updates, by name."""
    compiled = model._compile_metrics
    return compiled.trackers if isinstance(compiled, CompiledMetrics) else {}


def add_step_tracker(model: keras.Model, name: str) -> None:
    """Makes a `step_trackers` of a compiled model, where it is not there yet."""
    if not isinstance(model._compile_metrics, CompiledMetrics):
        model.__dict__["_compile_metrics"] = CompiledMetrics(model._compile_metrics)
    if name not in model._compile_metrics.trackers:
        model._compile_metrics.trackers[name] = keras.metrics.Mean(name=name)


def bind_metrics(model: keras.Model) -> None:
    """After ``compile``: lets metrics that are bound to parts of the batch have them, if there are any."""
    if are_to_be_bound(model):
        model.__dict__["_compile_metrics"] = CompiledMetrics(model._compile_metrics)


def compute_metrics(
    model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
) -> dict[str, Any]:
    """``keras.Model.compute_metrics``, which gives bound metrics their parts of the batch."""
    compiled = model._compile_metrics
    if isinstance(compiled, CompiledMetrics):
        batch = {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight}
        compiled.update_bound(batch)
    return base_method("compute_metrics")(model, x, y, y_pred, sample_weight)


@contextlib.contextmanager
def metrics_bound(model: keras.Model) -> Iterator[None]:
    """Inside, ``keras.Model.compute_metrics`` of the model is that of here, if it has bound metrics."""

    def compute(x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        return compute_metrics(model, x, y, y_pred, sample_weight)

    if not isinstance(model._compile_metrics, CompiledMetrics):
        yield
        return
    with base_method_replaced(model, "compute_metrics", compute):
        yield
