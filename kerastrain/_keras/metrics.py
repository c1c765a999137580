"""Compiled metrics, their state and results."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.utils.python_utils import pythonify_logs

from kerastrain._keras.losses import loss_function_arguments
from kerastrain._keras.models import overrides
from kerastrain._keras.variables import made_empty
from kerastrain._keras.variables import read_all
from kerastrain._keras.variables import replicas_of


def metric_names_by_output(model: keras.Model) -> list[tuple[str, str | None, list]]:
    """``(argument, output name, metric names)`` of the compiled metrics.

    The names are those that the metrics were given, before Keras renames equal
    ones.
    """
    compiled = model._compile_metrics
    if compiled is None or not compiled.built:
        return []
    groups = (
        ("metrics", compiled._flat_metrics),
        ("weighted_metrics", compiled._flat_weighted_metrics),
    )
    return [
        (argument, entry.output_name, [m.name for m in entry.metrics])
        for argument, entries in groups
        for entry in entries
        if entry is not None
    ]


def weighted_twins(model: keras.Model) -> list[str]:
    """Logged names of weighted metrics whose unweighted twin has the same name.

    Keras logs them as ``weighted_<name>``.
    """
    names: dict[str, list[str]] = {"metrics": [], "weighted_metrics": []}
    for argument, output, group in metric_names_by_output(model):
        names[argument] += [f"{output}_{n}" if output else n for n in group]
    return [name for name in names["weighted_metrics"] if name in names["metrics"]]


def own_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """The loss trackers and the metrics that the model and its layers own."""
    return [m for m in model.metrics if m is not model._compile_metrics]


def sparse_classes(model: keras.Model, function: Callable) -> int | None:
    """The number of classes where a single output has the loss ``function``.

    None for other losses, for one that ignores a class, or another axis.
    """
    compiled = model._compile_loss
    if compiled is None or not compiled.built or len(compiled._flat_losses) != 1:
        return None
    loss = compiled._flat_losses[0].loss
    if getattr(loss, "fn", None) is not function:
        return None
    arguments = loss_function_arguments(loss)
    if arguments.get("ignore_class") is not None or arguments.get("axis", -1) != -1:
        return None
    try:
        shape = model.output_shape
    except (AttributeError, ValueError):
        return None
    return shape[-1] if isinstance(shape, tuple) and isinstance(shape[-1], int) else None


def leaf_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """Every metric of the model, the compiled ones unpacked, once each."""
    found = {}
    for metric in model.metrics:
        for leaf in getattr(metric, "metrics", None) or [metric]:
            found[id(leaf)] = leaf
    return list(found.values())


def all_metrics(owner: keras.Model | keras.metrics.Metric) -> list[keras.metrics.Metric]:
    """Every metric of a model, or a metric itself, and every metric inside another, once each."""
    is_metric = isinstance(owner, keras.metrics.Metric)
    found, waiting = {}, [owner] if is_metric else [*owner.metrics, *waiting_metrics(owner)]
    while waiting:
        metric = waiting.pop(0)
        if id(metric) not in found:
            found[id(metric)] = metric
            waiting += metric._metrics
            waiting += getattr(metric, "metrics", None) or []
    return list(found.values())


def waiting_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """The metric objects that ``compile`` was given and Keras takes up with the first batch only.

    Until then they are none of ``model.metrics``, and no reset of Keras's reaches them: they may hold
    what an earlier training has left.
    """
    compiled = model._compile_metrics
    if compiled is None or compiled.built:
        return []
    given = keras.tree.flatten([compiled._user_metrics, compiled._user_weighted_metrics])
    return [one for one in given if isinstance(one, keras.metrics.Metric)]


def metric_in_two_places(model: keras.Model) -> keras.metrics.Metric | None:
    """A metric object that ``compile`` was given twice, by itself or in a bound one; None for none."""
    compiled = model._compile_metrics
    given = [] if compiled is None else [compiled._user_metrics, compiled._user_weighted_metrics]
    seen = set[int]()
    for one in keras.tree.flatten(given):
        metric = one.metric if hasattr(one, "update_bound") else one
        if isinstance(metric, keras.metrics.Metric):
            if id(metric) in seen:
                return metric
            seen.add(id(metric))
    return None


def own_variables(metric: keras.metrics.Metric) -> list[keras.Variable]:
    """The state of the metric itself, without that of metrics inside it."""
    return list(metric._variables)


def metric_function(metric: keras.metrics.Metric) -> Callable | None:
    """The function whose mean a metric is, or None."""
    return getattr(metric, "_fn", None)


def take_no_rows(model: keras.Model) -> bool:
    """Whether all metrics can be updated by no rows: they are Keras's own, or ours."""

    def is_known(thing: Any) -> bool:
        module = getattr(thing, "__module__", None) or ""
        return thing is None or module.startswith(("keras.", "kerastrain."))

    return all(
        is_known(type(metric)) and is_known(getattr(metric, "_fn", None))
        for metric in all_metrics(model)
    )


def has_plain_metrics(model: keras.Model) -> bool:
    """Whether all metrics, and what resets and asks them, are Keras's own, on one device."""
    return (
        replicas_of(model) == 1
        and not any(overrides(model, m) for m in ("reset_metrics", "get_metrics_result"))
        and all(type(m).__module__.startswith("keras.") for m in all_metrics(model))
    )


def add_growing_variable(
    metric: keras.metrics.Metric, shape: tuple[int, ...], dtype: Any, name: str
) -> keras.Variable:
    """A state variable whose first axis grows: it begins with no rows.

    Keras 3.15.1 makes variables of fixed shapes only (common/variables.py,
    `_validate_shape`); TensorFlow's own may grow.
    """
    variable = metric.add_variable((1, *shape), "zeros", dtype=dtype, name=name)
    variable._value = made_empty(
        tf.zeros((0, *shape), variable.dtype),
        shape=(None, *shape),
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
    variable._shape = (None, *shape)
    return variable


def rows_measured(model: keras.Model) -> float:
    """The rows whose loss is in the result ``"loss"``, of all replicas together."""
    return sum(float(part) for part in read_all(model._loss_tracker.count))


def metrics_or_logs(model: keras.Model, logs: dict) -> dict:
    """The metrics' results, or ``logs`` where a custom step returned other names."""
    return model._get_metrics_result_or_logs(logs)


def flatten_results(model: keras.Model, logs: dict) -> Any:
    """Results as ``evaluate(return_dict=False)`` returns them: a number or a list."""
    return model._flatten_metrics_in_order(logs)


def python_logs(logs: dict | None) -> dict:
    """Results as Python floats."""
    return pythonify_logs(logs)
