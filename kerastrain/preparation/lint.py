"""What goes wrong silently, most of it where batches are cut, found before the first step.

::

    check(model, batch, StepOptions())     # warns, naming the line to change

Seven rules, each of which looks only where its mistake can happen:

===================== =============================================================
rule                  what it finds
===================== =============================================================
``unscaled loss``     a ``train_step`` of the user's own whose loss is a mean over
                      the rows of a replica: the replicas' gradients are summed, so
                      with 2 of them the learning rate doubles
``outside the scope`` variables that training writes, made outside the strategy's
                      scope: one copy, which all replicas write
``batch statistics``  ``BatchNormalization`` that sees a part of the batch only
``rows compared``     a layer, a loss, ``compute_loss`` or ``add_loss`` that computes
                      something of a row from other rows, or of their number
``assignment``        variables that a training call assigns: once for each
                      micro-batch, or from the rows of one replica
``metric state``      a metric whose result over two parts of a batch, merged by the
                      rules of `kerastrain.distribution.merging`, is not that of the whole batch;
                      on one device where y of n rows may be broadcast against outputs of (n, 1)
``from_logits``       a crossentropy that takes logits for probabilities, or
                      probabilities for logits; on one device with whole batches too
===================== =============================================================

Layers, losses and metrics are judged by what they do on a few rows
(`kerastrain.preparation.dry_steps`, `mixing`, `logits`), not by their names; nothing of the model
changes. What cannot be judged is not reported: a model that is not built, a step that fails on the
few rows, one that calls no optimizer, gradients that are zero or not finite, and losses and metrics
where several workers train. Metrics that only a ``train_step`` of the user's own updates are not
seen either.
"""

import contextlib
import weakref
from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.distribution import cluster_of
from kerastrain.errors import MetricError
from kerastrain.errors import ModelError
from kerastrain.options import StepOptions
from kerastrain.preparation import dry_steps
from kerastrain.preparation import logits
from kerastrain.preparation import metric_cuts
from kerastrain.preparation import user_code
from kerastrain.preparation.findings import Finding
from kerastrain.preparation.findings import listed
from kerastrain.preparation.findings import METRIC
from kerastrain.preparation.findings import place_of
from kerastrain.preparation.metric_cuts import Cut
from kerastrain.preparation.replica_rules import batch_statistics
from kerastrain.preparation.replica_rules import outside_the_scope
from kerastrain.preparation.replica_rules import training_call_of
from kerastrain.preparation.replica_rules import unscaled_loss
from kerastrain.preparation.row_rules import assigned_by_workers
from kerastrain.preparation.row_rules import misread
from kerastrain.preparation.row_rules import rows_compared

# The relative difference of two results that counts; rounding is far below.
_TOLERANCE = 1e-4
# How many rows are kept for a later look.
_KEPT = 8


# Rows of models whose batches may be cut later, when there is too little memory.
_FEW_ROWS: "weakref.WeakKeyDictionary[keras.Model, Any]" = weakref.WeakKeyDictionary()


def check(
    model: keras.Model,
    batch: Any,
    options: StepOptions,
    kind: str = "train",
    said: Container[str] = (),
) -> set[str]:
    """Warns of every finding, or refuses them, as ``options.lint`` says.

    Args:
        model, batch, options: as for `findings`.
        kind: of the steps that are about to run: ``"train"``, ``"test"`` or ``"predict"``.
        said: rules whose findings are known.

    Returns:
        The rules of what was found.

    Raises:
        MetricError: ``lint="error"``, and all findings are about the state of metrics.
        ModelError: ``lint="error"``, and there are others.
    """
    if batch is None:
        batch = _FEW_ROWS.get(model)
    elif options.micro_batches == "auto" and dry_steps.has_rows(batch):
        _FEW_ROWS[model] = dry_steps.picked(
            batch, list(range(min(dry_steps.rows_of(batch), _KEPT)))
        )
    found = []
    if options.lint != "off":
        training = kind == "train"
        found = findings(model, batch, options) if training else _of_inference(model, batch, kind)
        found = [one for one in found if one.rule not in said]
    if options.lint == "error" and found:
        error = MetricError if all(f.rule == METRIC for f in found) else ModelError
        raise error("\n".join(finding.message for finding in found))
    for finding in found:
        notices.warn(finding.message)
    return {finding.rule for finding in found}


class Lint:
    """`check`, once for each kind of steps, and what is found for the first of them.

    Args:
        model: whose steps they are.
        options: gives those of its step.
    """

    def __init__(self, model: keras.Model, options: Callable[[], StepOptions]):
        self._model, self._options = model, options
        self._checked, self._said = set[str](), set[str]()

    def once(self, kind: str, batch: Any) -> None:
        """Checks steps that are about to run, unless that has been done."""
        if kind not in self._checked:
            self._said |= check(self._model, batch, self._options(), kind, self._said)
            self._checked.add(kind)

    def forget(self) -> None:
        """The steps are others from now on."""
        self._checked.clear()
        self._said.clear()


def findings(model: keras.Model, batch: Any, options: StepOptions) -> list[Finding]:
    """The mistakes in a model that is about to train, in the order of the rules.

    With one replica and one micro-batch only crossentropies are looked at, and metrics of the user's own
    where y or the outputs have a last axis of 1 that the other has not.

    Args:
        model: built and compiled; its optimizer need not be built. To build it may
            fail where `SCOPE` would say why.
        batch: a global batch, ``x``, ``(x, y)`` or ``(x, y, sample_weight)`` of
            tensors, or None: then only what needs no numbers is judged.
        options: the step's options.
    """
    strategy = _strategy_of(model)
    replicas = strategy.num_replicas_in_sync
    is_cut = replicas > 1 or options.parts > 1
    reads, unlike = logits.may_be_misread(model), _unlike_shapes(model, batch)
    if not is_cut and not reads and not unlike:
        return []
    with strategy.scope() if replicas > 1 else contextlib.nullcontext(), dry_steps.nothing_kept():
        can_run = dry_steps.can_run(model, batch, strategy)
        found = list(misread(model, batch)) if reads and can_run else []
        if can_run and (unlike or is_cut):
            found = [*_metric_states(model, batch, unlike, _cut(replicas, options.parts)), *found]
        if not is_cut:
            return found
        call = training_call_of(model, batch, strategy)
        of_rows = list(rows_compared(model, batch, options, replicas)) if can_run else []
        statistics = batch_statistics(model, options, call)
        if replicas == 1:
            return [*statistics, *of_rows, *found]
        return [
            *(unscaled_loss(model, batch, strategy) if can_run else ()),
            *outside_the_scope(model, strategy, call),
            *statistics,
            *(assigned_by_workers(model, batch) if cluster_of(strategy).has_others else ()),
            *of_rows,
            *found,
        ]


def _of_inference(model: keras.Model, batch: Any, kind: str) -> list[Finding]:
    """The same of a model that is about to be evaluated, or to predict, without training."""
    strategy = _strategy_of(model)
    replicas = strategy.num_replicas_in_sync
    unlike = _unlike_shapes(model, batch) if kind == "test" else ""
    if not (unlike or replicas > 1) or not dry_steps.can_run(model, batch, strategy):
        return []
    with strategy.scope() if replicas > 1 else contextlib.nullcontext(), dry_steps.nothing_kept():
        found = list[Finding]()
        if kind == "test":
            found += _metric_states(model, batch, unlike, _cut(replicas))
        if replicas > 1:
            found += rows_compared(model, batch, StepOptions(), replicas, kind)
        return found


def _strategy_of(model: keras.Model) -> tf.distribute.Strategy:
    strategy = tf.distribute.get_strategy()
    return strategy if strategy.num_replicas_in_sync > 1 else model.distribute_strategy


def _cut(replicas: int, parts: int = 1) -> Cut:
    if replicas > 1:
        return Cut.REPLICAS
    return Cut.MICRO_BATCHES if parts > 1 else Cut.BATCHES


# Metric state -----------------------------------------------------------------


def _unlike_shapes(model: keras.Model, batch: Any) -> str:
    """Of y and outputs that metrics of the user's own may broadcast, the shapes; "" for none.

    Of (n,) and (n, 1) the difference is (n, n): each row is compared with all. Keras's losses and
    metrics give both the same axes first, a function of the user's own as a metric does not.
    """
    metrics = _keras.all_metrics(model)
    functions = [_keras.metric_function(metric) for metric in metrics]
    if batch is None or not any(map(user_code.is_users, [*functions, *map(type, metrics)])):
        return ""
    try:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        with dry_steps.nothing_built(model):
            y_pred = _keras.output_spec(
                lambda x: _keras.forward(model, x, training=False), _keras.as_symbolic(x)
            )
    except Exception:  # of any kind: the code is the user's, and its step reports it
        return ""
    for true in keras.tree.flatten(y):
        for pred in keras.tree.flatten(y_pred):
            shapes = [tuple(getattr(part, "shape", None) or ()) for part in (true, pred)]
            short, long = sorted(shapes, key=len)
            if len(long) == len(short) + 1 and long[-1] == 1 and short[:1] == long[:1]:
                return f"y has shape {shapes[0]}, and the output {shapes[1]}"
    return ""


def _metric_states(model: keras.Model, batch: Any, unlike: str, cut: Cut) -> Iterator[Finding]:
    """Finds metrics whose result depends on how a batch is cut, wherever they are updated.

    Args:
        model, batch: as of `findings`.
        unlike: why that may be, of `_unlike_shapes`.
        cut: into what.
    """
    trackers = [_keras.loss_tracker(model), *_keras.output_loss_trackers(model)]
    trackers += _keras.step_trackers(model).values()
    ours = {id(tracker) for tracker in trackers}
    metrics = [m for m in _keras.leaf_metrics(model) if m.variables and id(m) not in ours]
    results = metric_cuts.whole_and_merged(model, batch, metrics, cut) if metrics else None
    if not results or not any(_distance(*pair) for pair in results):
        return
    controls = metric_cuts.whole_and_merged(model, batch, metrics, cut, reverse=True)
    for metric, pair, control in zip(metrics, results, controls or [], strict=False):
        # A result that is mostly rounding, or depends on the order of rows, says nothing.
        if _distance(*pair) > 10 * _distance(pair[0], control[0]):
            yield Finding(METRIC, _metric_message(metric, *pair, unlike, cut))


def _distance(one: list[Any], other: list[Any]) -> float:
    """The largest relative difference of two results, 0 within the tolerance."""
    if [np.shape(a) for a in one] != [np.shape(b) for b in other]:
        return 0.0
    a, b = (
        np.concatenate([np.ravel(part) for part in parts] or [np.zeros(0)])
        for parts in (one, other)
    )
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    a, b = a[differs], b[differs]
    with np.errstate(invalid="ignore"):
        relative = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
    largest = np.where(np.isfinite(relative), relative, 1.0).max(initial=0.0)
    return float(largest) if largest > _TOLERANCE else 0.0


def _metric_message(
    metric: keras.metrics.Metric,
    whole: list[np.ndarray],
    merged: list[np.ndarray],
    unlike: str,
    cut: Cut,
) -> str:
    values = [
        f"{float(a):.6g} for some rows at once and {float(b):.6g} for the same rows in two parts"
        for one, other in zip(whole, merged, strict=True)
        for a, b in zip(np.ravel(one), np.ravel(other), strict=True)
        if _distance([a], [b])
    ]
    function = _keras.metric_function(metric)
    made = [one for m in _keras.all_metrics(metric) for one in (_keras.metric_function(m), type(m))]
    places = [place_of(one) for one in made if one is not None and user_code.is_users(one)]
    if unlike and places:
        return (
            f"The metric {metric.name!r}, {type(metric).__name__}{places[0]}, is {values[0]}. {unlike}: "
            "the one may be broadcast against the other, so that each row is compared with all. Give y the "
            "axes of the output."
        )
    if function is not None and not user_code.is_users(type(metric)):
        place = place_of(function)
        fix = "Return one value for each row from its function, in place of their mean."
    elif not places:
        place = ""
        fix = "Update it with a value for each row, or weigh means: update_state(mean, sample_weight=rows)."
    else:
        place, names = place_of(type(metric)), [variable.name for variable in metric.variables]
        fix = (
            f"If {listed(names)} cannot be summed, declare how they merge, for example "
            f'merge_rules = {{"{names[0]}": "max"}}. If the metric averages batches, weigh each '
            "by its rows: update_state(value, sample_weight=rows)."
        )
    return (
        f"The metric {metric.name!r}, {type(metric).__name__}{place}, is {values[0]}, merged "
        f"{cut.value}. {fix}"
    )
