"""Whether the results of metrics depend on how a batch is cut, found on a few rows.

::

    with dry_steps.nothing_kept():
        whole_and_merged(model, batch, model.metrics, Cut.REPLICAS)   # [(of the whole, of two parts), ...]
"""

import contextlib
import enum
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import merging
from kerastrain.preparation import dry_steps
from kerastrain.preparation import graphs

# Rows that metrics are tried on.
_METRIC_ROWS = 64
_LEAST_METRIC_ROWS = 6  # of which a third is no half


class Cut(enum.Enum):
    """What is done with the parts of a batch."""

    REPLICAS = "as the states of replicas are"  # all
    MICRO_BATCHES = (
        "as those of micro-batches are"  # all but the compiled metrics, which see the whole
    )
    BATCHES = "as those of batches are"  # the compiled metrics, of the same outputs


def whole_and_merged(
    model: keras.Model,
    batch: Any,
    metrics: list[keras.metrics.Metric],
    cut: Cut,
    reverse: bool = False,
) -> list[tuple[list[Any], list[Any]]] | None:
    """Results of metrics over a batch at once, and merged from two unequal parts.

    State that each replica has of its own is merged by the rules of
    `kerastrain.distribution.merging`; other state continues from the first part to the second, as
    when replicas update it in turn.

    Args:
        model: its layers, losses and ``compute_metrics`` update the metrics, in inference mode.
        batch: its first rows are used, more than once where there are few.
        metrics: those of the model whose results are wanted.
        cut: what is done with the parts.
        reverse: take the rows in reverse order.

    Returns:
        For each metric the numbers of both results, flat; none of one that fails.
    """
    count = min(dry_steps.rows_of(batch), _METRIC_ROWS)
    if count < 2:
        return None
    number = max(count, _LEAST_METRIC_ROWS)
    rows = [index % count for index in range(number)][:: -1 if reverse else 1]
    try:
        with dry_steps.nothing_built(model):
            return graphs.computed(
                lambda: _both_results(model, dry_steps.picked(batch, rows), metrics, cut, number)
            )
    except Exception:  # of any kind: the code is the user's
        return None


def _both_results(
    model: keras.Model, batch: Any, metrics: list[keras.metrics.Metric], cut: Cut, count: int
) -> list[tuple[list[tf.Tensor], list[tf.Tensor]]]:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    with keras.StatelessScope(initialize_variables=False):
        outputs = _keras.forward(model, x, training=False)
    owned = [(m, v) for m in _keras.all_metrics(model) for v in _keras.own_variables(m)]
    variables = {id(v): v for _, v in owned}
    rules = {id(v): merging.rule_of(m, v) for m, v in owned if _keras.is_distributed(v)}
    with keras.StatelessScope(initialize_variables=False):
        for metric in _keras.all_metrics(model):
            metric.reset_state()
        fresh = {key: tf.convert_to_tensor(v.value) for key, v in variables.items()}

    def holding(states: dict[int, tf.Tensor]) -> keras.StatelessScope:
        scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
        for key, variable in variables.items():
            scope.add_update((variable, states[key]))
        return scope

    def after(first: int, last: int, states: dict[int, tf.Tensor]) -> dict[int, tf.Tensor]:
        parts = [dry_steps.cut_rows(part, first, last) for part in (x, y, outputs, sample_weight)]
        with holding(states) as scope:
            if cut is not Cut.BATCHES:
                parts[2] = _keras.forward(model, parts[0], training=False)
                with contextlib.suppress(Exception):  # of any kind: there may be none to compute
                    _keras.compute_loss(
                        model, parts[0], parts[1], parts[2], parts[3], training=False
                    )
            if cut is not Cut.MICRO_BATCHES:
                model.compute_metrics(*parts[:3], sample_weight=parts[3])
        return {key: scope.get_current_value(v) for key, v in variables.items()}

    def results(states: dict[int, tf.Tensor]) -> list[list[tf.Tensor]]:
        with holding(states):
            return [_result(metric) for metric in metrics]

    middle = max(count * 2 // 3, 1)
    shares = {key: merging.spread(rule, fresh[key], 2) for key, rule in rules.items()}
    one = after(0, middle, fresh | {key: share[0] for key, share in shares.items()})
    other = after(middle, count, one | {key: share[1] for key, share in shares.items()})
    merged = {key: merging.merge(rule, [one[key], other[key]]) for key, rule in rules.items()}
    whole = results(after(0, count, fresh))
    return list(zip(whole, results(other | merged), strict=True))


def _result(metric: keras.metrics.Metric) -> list[tf.Tensor]:
    try:
        return [tf.cast(value, tf.float64) for value in keras.tree.flatten(metric.result())]
    except Exception:  # of any kind: the code is the user's
        return []
