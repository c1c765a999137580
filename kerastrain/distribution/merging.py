"""How the states of a metric on several replicas become one state.

A replica sees a part of the rows, so each has a state of its own, and the
result is computed from the merged state, never as a mean of results. Each
variable of the state is merged by the rule that is declared for its name::

    class Peak(keras.metrics.Metric):
        merge_rules = {"peak": "max"}      # all others are summed

        def __init__(self, name="peak", **kwargs):
            super().__init__(name=name, **kwargs)
            self.peak = self.add_variable((), "zeros", name="peak")

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.peak.assign(keras.ops.maximum(self.peak, keras.ops.max(y_pred)))

        def result(self):
            return self.peak

=========== ===================================== ===============================
rule        the merged value of ``n`` replicas    after a reset the replicas have
=========== ===================================== ===============================
``sum``     the sum (the default)                 the first all of it, others 0
``max``     the largest, element by element       all the same
``min``     the smallest, element by element      all the same
``concat``  all rows, the first replica's first   the first all rows, others none
``moments`` the moments of all rows together      the first all of it, others 0
=========== ===================================== ===============================

The last axis of a variable of ``moments`` holds ``[n, means (d), co-moments (d * d)]`` of
``d`` quantities: the sum of weights, the means, and the sums of the products of deviations
from the means, ``1 + d + d * d`` numbers in all. They are merged without loss of digits to
large means (T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances", 1979).

For metrics of others there is `declare`. What grows with the rows, for
``concat``, is made by `kerastrain.metrics.add_growing_variable`.

Keras 3.15.1 sums every variable of a metric, the maximum above too, and on a
reset gives each replica the n-th part of the value, a maximum's -1 too.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import replicas
from kerastrain.errors import MetricError

RULES = ("sum", "max", "min", "concat", "moments")


def declare(metric: keras.metrics.Metric, **rules: str) -> keras.metrics.Metric:
    """Declares how the variables of one metric object are merged.

    Args:
        metric: any metric; its class may be someone else's.
        **rules: the name of a variable, and one of `RULES`.

    Returns:
        The metric.

    Raises:
        MetricError: no such variable, or no such rule.

    Example:
        >>> metric = declare(keras.metrics.Mean(), total="max")
        >>> [rule_of(metric, variable) for variable in metric.variables]
        ['max', 'sum']
    """
    metric.merge_rules = {**_rules(metric), **rules}
    check(metric)
    return metric


def rule_of(metric: keras.metrics.Metric, variable: keras.Variable) -> str:
    """The rule by which a variable of the metric is merged, ``"sum"`` unless declared."""
    return _rules(metric).get(variable.name, "sum")


def check(metric: keras.metrics.Metric) -> None:
    """Refuses rules that cannot be followed.

    Raises:
        MetricError: a rule for a variable that the metric does not have, or a
            rule that does not exist.
    """
    names = [variable.name for variable in metric.variables]
    for name, rule in _rules(metric).items():
        if rule not in RULES:
            raise MetricError(
                f"merge_rules of the metric {metric.name!r} has the rule {rule!r} for "
                f"{name!r}. Use one of {', '.join(map(repr, RULES))}."
            )
        if name not in names:
            raise MetricError(
                f"merge_rules of the metric {metric.name!r} names {name!r}, but its "
                f"variables are {names}. Pass name={name!r} to `add_variable`, or correct "
                "the rule."
            )


def _rules(metric: keras.metrics.Metric) -> dict[str, str]:
    return dict(getattr(metric, "merge_rules", {}))


def merge(rule: str, parts: list[Any]) -> tf.Tensor:
    """One state variable from those of the replicas.

    Args:
        rule: one of `RULES`.
        parts: a value for each replica, of one shape, but for ``concat``,
            where their first axes may differ.

    Raises:
        MetricError: for ``moments``, a last axis of another length than
            ``1 + d + d * d``.

    Example:
        >>> merge("max", [[1.0, 4.0], [2.0, 3.0]]).numpy()
        array([2., 4.], dtype=float32)

    The rows 1, 3 and the row 5 have the mean 3 and the squared deviations 4 + 0 + 4:
        >>> merge("moments", [[2.0, 2.0, 2.0], [1.0, 5.0, 0.0]]).numpy()
        array([3., 3., 8.], dtype=float32)
    """
    if len(parts) == 1:
        return tf.convert_to_tensor(parts[0])
    if rule == "sum":
        return tf.add_n(parts)
    if rule == "concat":
        return tf.concat(parts, axis=0)
    if rule == "moments":
        return functools.reduce(_merge_moments, map(tf.convert_to_tensor, parts))
    return (tf.reduce_max if rule == "max" else tf.reduce_min)(tf.stack(parts), axis=0)


def _merge_moments(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """The moments of the rows of both; no rows (zeros) change nothing."""
    size = one.shape[-1] or 0
    d = (math.isqrt(max(4 * size - 3, 0)) - 1) // 2
    if d < 1 or 1 + d + d * d != size:
        raise MetricError(
            "A variable of the merge rule 'moments' holds [n, means (d), co-moments (d * d)] on "
            f"its last axis, 1 + d + d * d numbers: 3, 7, 13, ... Received: shape {one.shape}."
        )
    (n_one, mean_one, co_one), (n_other, mean_other, co_other) = (
        tf.split(moments, [1, d, d * d], axis=-1) for moments in (one, other)
    )
    n = n_one + n_other
    share = tf.math.divide_no_nan(n_other, n)
    apart = mean_other - mean_one
    products = tf.reshape(apart[..., :, None] * apart[..., None, :], tf.shape(co_one))
    co_moments = co_one + co_other + n_one * share * products
    return tf.concat([n, mean_one + share * apart, co_moments], axis=-1)


def spread(rule: str, value: tf.Tensor, count: int) -> list[tf.Tensor]:
    """A value for each of ``count`` replicas which merge to ``value``."""
    if rule in ("sum", "moments"):
        return [value] + [tf.zeros_like(value)] * (count - 1)
    if rule == "concat":
        return [value] + [value[:0]] * (count - 1)
    return [value] * count


def assign_spread(rule: str, variable: keras.Variable, value: tf.Tensor) -> None:
    """Gives each replica of this worker its part of a value that all replicas merge to."""
    first, count = _keras.span_of(variable)
    parts = spread(rule, value, count)
    _keras.assign_local(variable, parts[first : first + len(_keras.local_variables(variable))])


# One metric -------------------------------------------------------------------


def result(metric: keras.metrics.Metric) -> Any:
    """``metric.result()`` of the merged states of all replicas, outside of a replica."""
    return results(metric, metric.result)


def reset_metric(metric: keras.metrics.Metric) -> None:
    """``metric.reset_state()``; on every replica the state is then that of no rows."""
    with keras.StatelessScope(initialize_variables=False) as scope:
        metric.reset_state()
    _assign_states(metric, scope)


# A model's metrics ------------------------------------------------------------


def _states(
    owner: keras.Model | keras.metrics.Metric,
) -> Iterator[tuple[keras.metrics.Metric, keras.Variable]]:
    """``(metric, variable)`` of every state variable of a model's metrics, or of one metric."""
    for metric in _keras.all_metrics(owner):
        for variable in _keras.own_variables(metric):
            yield metric, variable


def rules_of(model: keras.Model) -> dict[int, str]:
    """How the state variables of a model's metrics are merged, by the variables' ids."""
    return {id(variable): rule_of(metric, variable) for metric, variable in _states(model)}


def check_apart(model: keras.Model) -> None:
    """Refuses one metric object in two places of ``compile``, which would count for both in one state.

    Raises:
        MetricError: as said.
    """
    metric = _keras.metric_in_two_places(model)
    if metric is not None:
        raise MetricError(
            f"The metric object {metric.name!r} is in two places of `metrics` and `weighted_metrics`, which "
            "would share its state. Make one for each."
        )


def check_model(model: keras.Model) -> None:
    """`check` for every metric of the model."""
    for metric in _keras.all_metrics(model):
        check(metric)


@contextlib.contextmanager
def merged_states(model: keras.Model | keras.metrics.Metric) -> Iterator[None]:
    """Inside, ``result`` of the model's metrics (of the metric) is that of the merged states.

    To be entered outside ``strategy.run``. Summed variables are left to
    TensorFlow, which sums them when they are read there.
    """
    scope = keras.StatelessScope(initialize_variables=False)
    for metric, variable in _states(model):
        rule = rule_of(metric, variable)
        if rule != "sum" and _keras.is_distributed(variable):
            merged = merge(rule, _keras.read_all(variable))
            scope.add_update((variable, merged))
    with scope if scope.state_mapping else contextlib.nullcontext():
        yield


def results(
    model: keras.Model | keras.metrics.Metric, get_results: Callable | None = None
) -> dict[str, Any]:
    """``model.get_metrics_result()``, of the merged states.

    Args:
        model: whose metrics are asked, within a replica or outside.
        get_results: what to call in place of the model's method.

    Returns:
        ``{name: result}``; a variable that a metric returns as it is has been
        read, so that what happens to it later does not change the result.
    """
    get_results = get_results or model.get_metrics_result
    local = replicas.is_one_of_several()
    with contextlib.nullcontext() if local else merged_states(model):
        return keras.tree.map_structure(
            lambda v: tf.identity(v.value) if isinstance(v, keras.Variable) else v, get_results()
        )


def no_results(results: Any) -> Any:
    """NaN in the place of each result: of no step at all there is none.

    What the metrics' fresh states say instead, 0 for most, would pass for the best.
    """
    nan = functools.partial(np.full, fill_value=math.nan)
    return keras.tree.map_structure(lambda v: nan(np.shape(v)) if np.ndim(v) else math.nan, results)


def results_in_step(model: keras.Model, logs: dict[str, Any]) -> dict[str, Any]:
    """Within a replica's step: ``logs``, with the results of all replicas together.

    Args:
        model: the model that runs the step.
        logs: what the step is about to return.
    """
    if not replicas.is_one_of_several():
        return logs
    merged = tf.distribute.get_replica_context().merge_call(lambda strategy: results(model))
    return {name: merged.get(name, value) for name, value in logs.items()}


def reset(model: keras.Model, reset_metrics: Callable[[], None]) -> None:
    """Calls ``reset_metrics``; on every replica the state is then that of no rows.

    Args:
        model: whose metrics are reset.
        reset_metrics: a function without arguments that resets them.
    """

    def reset_all() -> None:
        reset_metrics()
        for metric in _keras.waiting_metrics(model):
            metric.reset_state()

    if _keras.replicas_of(model) == 1:
        reset_all()
        return
    with keras.StatelessScope(initialize_variables=False) as scope:
        reset_all()
    _assign_states(model, scope)
    states = {id(variable) for _, variable in _states(model)}
    for variable in model.variables:  # what else a `reset_metrics` of the user's own sets
        value = scope.get_current_value(variable)
        if value is not None and id(variable) not in states:
            variable.assign(value)


def _assign_states(owner: keras.Model | keras.metrics.Metric, scope: keras.StatelessScope) -> None:
    """Assigns what a scope holds, so that the replicas' states merge to it."""
    for metric, variable in _states(owner):
        value = scope.get_current_value(variable)
        if value is None:
            continue
        if _keras.is_distributed(variable):
            assign_spread(rule_of(metric, variable), variable, value)
        else:
            variable.assign(value)
