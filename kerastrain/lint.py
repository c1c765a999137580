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
                      rules of `kerastrain.merging`, is not that of the whole batch
``from_logits``       a crossentropy that takes logits for probabilities, or
                      probabilities for logits; on one device with whole batches too
===================== =============================================================

Layers, losses and metrics are judged by what they do on a few rows (`kerastrain.dry`,
`kerastrain.mixing`, `kerastrain.logits`), not by their names; nothing of the model changes.
What cannot be judged is not reported: a model that is not built, a step that fails on the
few rows, one that calls no optimizer, gradients that are zero or not finite, and losses and metrics where several
workers train. Metrics that only a ``train_step`` of the user's own updates are not
seen either.
"""

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import dry
from kerastrain import logits
from kerastrain import mixing
from kerastrain import notices
from kerastrain import user_code
from kerastrain.errors import MetricError
from kerastrain.errors import ModelError
from kerastrain.options import StepOptions

LOSS = "unscaled loss"
SCOPE = "outside the scope"
STATISTICS = "batch statistics"
ROWS = "rows compared"
ASSIGNMENT = "assignment"
METRIC = "metric state"
LOGITS = "from_logits"

# How often rows are repeated to tell a sum over them, which grows as often, from a mean.
_COPIES = 8
# The relative difference of two results that counts; rounding is far below.
_TOLERANCE = 1e-4
# How many variables or layers a message names.
_NAMED = 5
# How many rows are kept for a later look.
_KEPT = 8


class Finding(NamedTuple):
    """One mistake.

    Attributes:
        rule: one of the names in the table above.
        message: what happens, the line to change, and the change.
    """

    rule: str
    message: str


# Rows of models whose batches may be cut later, when there is too little memory.
_FEW_ROWS: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def check(model: keras.Model, batch: Any, options: StepOptions) -> None:
    """Warns of every finding, or where ``options.strict`` refuses them.

    Args:
        model, batch, options: as for `findings`.

    Raises:
        MetricError: strict, and all findings are about the state of metrics.
        ModelError: strict, and there are others.
    """
    if batch is None:
        batch = _FEW_ROWS.get(model)
    elif options.micro_batches == "auto" and dry.has_rows(batch):
        _FEW_ROWS[model] = dry.picked(batch, list(range(min(dry.rows_of(batch), _KEPT))))
    found = findings(model, batch, options)
    if options.strict and found:
        error = MetricError if all(f.rule == METRIC for f in found) else ModelError
        raise error("\n".join(finding.message for finding in found))
    for finding in found:
        notices.warn(finding.message)


def findings(model: keras.Model, batch: Any, options: StepOptions) -> list[Finding]:
    """The mistakes in a model that is about to train, in the order of the rules.

    With one replica and one micro-batch only crossentropies are looked at.

    Args:
        model: built and compiled; its optimizer need not be built. To build it may
            fail where `SCOPE` would say why.
        batch: a global batch, ``x``, ``(x, y)`` or ``(x, y, sample_weight)`` of
            tensors, or None: then only what needs no numbers is judged.
        options: the step's options.
    """
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync
    is_cut = replicas > 1 or options.parts > 1
    reads = logits.may_be_misread(model)
    if not is_cut and not reads:
        return []
    with strategy.scope() if replicas > 1 else contextlib.nullcontext(), dry.nothing_kept():
        can_run = dry.can_run(model, batch, strategy)
        found = list(_misread(model, batch)) if reads and can_run else []
        if not is_cut:
            return found
        call = _training_call(model, batch, strategy)
        of_rows = list(_by_rows(model, batch, options, replicas)) if can_run else []
        statistics = _batch_statistics(model, options, call)
        if replicas == 1:
            return [*statistics, *of_rows, *found]
        return [
            *(_unscaled_loss(model, batch, strategy) if can_run else ()),
            *_outside_the_scope(model, strategy, call),
            *statistics,
            *of_rows,
            *(_metric_states(model, batch) if can_run else ()),
            *found,
        ]


def _training_call(model, batch, strategy):
    """What a call in training mode tells of the layers and weights in question."""
    layers = _normalizing(model)
    weights = [v for v in model.non_trainable_weights if _is_outside(v, strategy)]
    return dry.training_call(model, batch, layers, weights) if layers or weights else None


def _listed(names):
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _place(kind):
    return f" ({user_code.place(kind)})" if user_code.is_users(kind) else ""


# Unscaled loss ----------------------------------------------------------------


def _unscaled_loss(model, batch, strategy) -> Iterator[Finding]:
    """Asks whether twice as many replicas would halve the gradients."""
    step = user_code.plain(model.__dict__.get("train_step") or type(model).train_step)
    if not _keras.overrides(model, "train_step") or not user_code.is_users(step):
        return
    replicas = strategy.num_replicas_in_sync
    norms = dry.gradient_norms(model, batch, strategy)
    twice = None if norms is None else dry.gradient_norms(model, batch, strategy, told=2 * replicas)
    if twice is None or twice.shape != norms.shape or not (twice > 0.75 * norms).any():
        return
    # A sum over the rows divided by a constant global batch does not ask for replicas.
    copied = dry.gradient_norms(model, batch, strategy, copies=_COPIES)
    if copied is None or copied.shape != norms.shape:
        return
    unscaled = (twice > 0.75 * norms) & (copied < _COPIES**0.5 * norms)
    functions = user_code.reached(model, step)
    # A number of replicas that was asked for earlier cannot be told otherwise.
    if unscaled.any() and not user_code.divides_by(functions, model, replicas):
        yield Finding(
            LOSS,
            f"The loss in `train_step` of {type(model).__name__} is not scaled for {replicas} "
            f"replicas: their gradients are summed, to {replicas} times that of one device. With "
            f"SGD, the learning rate is {replicas} times as high. Divide "
            f"{user_code.what_is_differentiated(functions)} by "
            "self.distribute_strategy.num_replicas_in_sync, or derive the model from "
            "TrainableModel and override its hooks in place of `train_step`.",
        )


# Outside the scope ------------------------------------------------------------


def _is_outside(variable, strategy) -> bool:
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return isinstance(value, tf.Variable) and not strategy.extended.variable_created_in_scope(value)


def _outside_the_scope(model, strategy, call) -> Iterator[Finding]:
    """Finds variables of which there is one copy, where each replica should have its own."""
    # A weight that no step writes, of a frozen layer for example, may be anywhere.
    written = {id(v) for v in model.trainable_weights} | (call.assigned if call else set())
    holders = _holders(model)
    names = [
        f"{v.path!r}{holders.get(id(v), '')}"
        for v in model.weights
        if id(v) in written and _is_outside(v, strategy)
    ]
    for optimizer in {id(value): value for value in vars(model).values()}.values():
        if isinstance(optimizer, keras.optimizers.Optimizer):
            outside = [v.path for v in optimizer.variables if _is_outside(v, strategy)]
            names += [f"{path!r} of {type(optimizer).__name__}" for path in outside]
    for layer in _keras.all_layers(model):
        for name, variable in _plain_variables(layer):
            if _is_outside(variable, strategy):
                names.append(f"{name!r} of {layer.name!r}{_assignment(layer, name)}")
    if names:
        yield Finding(
            SCOPE,
            f"{type(model).__name__} has variables that were made outside the strategy's scope, "
            f"so the {strategy.num_replicas_in_sync} replicas would write over each other: "
            f"{_listed(names)}. Make them inside `with strategy.scope():`, or pass Trainer a "
            "function that builds the model.",
        )


def _plain_variables(layer) -> Iterator[tuple[str, tf.Variable]]:
    """The TensorFlow variables that a layer holds as attributes, with their names."""
    seen = set()
    for name, value in vars(layer).items():
        if name.startswith("_self_"):  # TensorFlow's own list of the attributes
            continue
        if isinstance(value, tf.Module):
            values = value.variables
        elif isinstance(value, dict):
            values = value.values()
        else:
            values = value if isinstance(value, list | tuple) else [value]
        for variable in values:
            if isinstance(variable, tf.Variable) and id(variable) not in seen:
                seen.add(id(variable))
                yield name, variable


def _holders(model) -> dict[int, str]:
    """Where the layers of the user's own make their weights, by the ids of the weights."""
    return {
        id(value): _assignment(layer, name)
        for layer in _keras.all_layers(model)
        for name, value in vars(layer).items()
        if isinstance(value, keras.Variable)
    }


def _assignment(layer, name):
    place = user_code.place_of_assignment(type(layer), name)
    return f" ({place})" if place else ""


# Batch statistics -------------------------------------------------------------


def _normalizing(model) -> list:
    return [
        layer
        for layer in _keras.all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def _batch_statistics(model, options, call) -> list[Finding]:
    """Finds layers whose mean and variance are those of a part of the batch."""
    layers = _normalizing(model)
    if call is not None:  # one that is called with training=False uses none
        layers = [layer for layer in layers if id(layer) in call.training]
    if options.parts > 1:
        part, fix = "micro-batch", "Use micro_batches=1"
    else:
        part, fix = "replica's rows", "Use BatchNormalization(synchronized=True)"
        layers = [layer for layer in layers if not layer.synchronized]
    if not layers:
        return []
    return [
        Finding(
            STATISTICS,
            f"{_listed([repr(layer.path) for layer in layers])} of {type(model).__name__}"
            f"{_place(type(model))} normalise by the mean and variance of one {part}, not of the "
            f"batch, so the result depends on how the batch is cut. {fix}, or "
            "LayerNormalization or GroupNormalization, which take each row by itself.",
        )
    ]


# Rows -------------------------------------------------------------------------


def _by_rows(model, batch, options, replicas) -> Iterator[Finding]:
    """Finds what a row has from others, and what is assigned by parts of the batch."""
    own_step = _keras.overrides(model, "train_step")
    if own_step and replicas == 1:  # which is given whole batches
        return
    by_turns = options.parts > 1
    found = mixing.mixtures(model, batch, with_loss=not own_step, in_turn=by_turns)
    if found is None:
        return
    part = "micro-batch" if by_turns else "replica"
    fix = "Use micro_batches=1" if by_turns else "Train on one device"
    what = [*(_layer(layer) for layer in found.layers), *(_loss(model, e) for e in found.losses)]
    what += [_added(line) for line in found.added]
    if what:
        verb = "depends" if len(what) == 1 else "depend"
        yield Finding(
            ROWS,
            f"{_listed(what)} of {type(model).__name__} {verb} on which rows, and how many, come "
            f"together in a batch, and a {part} has a part of the rows: the result depends on how "
            f"the batch is cut. {fix}, or compute each row by itself and take means over the rows.",
        )
    names = [_assigned(model, entry) for entry in found.assigned]
    if names:
        how = "once for each micro-batch" if by_turns else "by each replica from rows of its own"
        yield Finding(
            ASSIGNMENT,
            f"{_listed(names)}: assigned in training mode, {how}, so the values depend on how "
            f"the batch is cut. {fix}, or assign from a callback, after the step.",
        )


def _layer(layer):
    function = getattr(layer, "function", None)  # of a Lambda
    kind = type(layer)
    if user_code.is_users(function):
        return f"the layer {layer.name!r} ({user_code.place(function)})"
    if not user_code.is_users(kind):
        return f"the layer {layer.name!r}, {kind.__name__},"
    call = user_code.plain(kind.call)
    place = user_code.place(call if user_code.is_users(call) else kind)
    return f"the layer {layer.name!r}, {kind.__name__} ({place}),"


def _loss(model, loss):
    if isinstance(loss, str):
        method = user_code.plain(getattr(model, loss))
        return f"the method {loss!r}" + (_place(method) if user_code.is_users(method) else "")
    function = getattr(loss, "fn", None) or type(loss)
    name = getattr(function, "__name__", loss.name)
    return f"the loss {name!r}{_place(function)}"


def _added(line):
    return "an activity regulariser" if line is None else f"`add_loss` in {line[0]} ({line[1]})"


def _assigned(model, entry):
    owner, name = mixing.owner_and_name(model, entry.variable)
    variable = f"{name!r} of {owner.name!r}, {type(owner).__name__}" if owner is not None else (
        repr(getattr(entry.variable, "path", entry.variable.name))
    )
    if entry.line is not None:
        return f"{variable} ({entry.line[1]})"
    return variable + (_assignment(owner, name) if owner is not None else "")


# From logits ------------------------------------------------------------------


def _misread(model, batch) -> Iterator[Finding]:
    """Finds crossentropies whose ``from_logits`` is not what the outputs are."""
    for entry in logits.misread(model, batch):
        values = f"outputs from {entry.lowest:.3g} to {entry.highest:.3g}"
        if entry.from_logits:
            message = (
                f"takes logits (from_logits=True), and {type(model).__name__} gives it "
                f"probabilities, {values}. Pass from_logits=False, or leave out the softmax or "
                "sigmoid at the end of the model."
            )
        else:
            message = (
                f"takes probabilities (from_logits=False), and {type(model).__name__} gives it "
                f"{values}; what is not in [0, 1] is clipped and has no gradient. Pass "
                "from_logits=True, or end the model with a softmax or a sigmoid."
            )
        yield Finding(LOGITS, f"{entry.what} {message}")


# Metric state -----------------------------------------------------------------


def _metric_states(model, batch) -> Iterator[Finding]:
    """Finds metrics whose result depends on how a batch is cut."""
    trackers = [_keras.loss_tracker(model), *_keras.output_loss_trackers(model)]
    ours = {id(tracker) for tracker in trackers}
    metrics = [m for m in _keras.leaf_metrics(model) if m.variables and id(m) not in ours]
    results = dry.whole_and_merged(model, batch, metrics) if metrics else None
    if not results or not any(_distance(*pair) for pair in results):
        return
    controls = dry.whole_and_merged(model, batch, metrics, reverse=True)
    for metric, pair, control in zip(metrics, results, controls or [], strict=False):
        # A result that is mostly rounding, or depends on the order of rows, says nothing.
        if _distance(*pair) > 10 * _distance(pair[0], control[0]):
            yield Finding(METRIC, _metric_message(metric, *pair))


def _distance(one, other) -> float:
    """The largest relative difference of two results, 0 within the tolerance."""
    if [np.shape(a) for a in one] != [np.shape(b) for b in other]:
        return 0.0
    a = np.concatenate([np.ravel(part) for part in one] or [[]])
    b = np.concatenate([np.ravel(part) for part in other] or [[]])
    differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    a, b = a[differs], b[differs]
    with np.errstate(invalid="ignore"):
        relative = np.abs(a - b) / np.maximum(np.abs(a), np.abs(b))
    largest = np.where(np.isfinite(relative), relative, 1.0).max(initial=0.0)
    return float(largest) if largest > _TOLERANCE else 0.0


def _metric_message(metric, whole, merged):
    values = [
        f"{float(a):.6g} for some rows at once and {float(b):.6g} for the same rows in two parts"
        for one, other in zip(whole, merged, strict=True)
        for a, b in zip(np.ravel(one), np.ravel(other), strict=True)
        if _distance([a], [b])
    ]
    function = _keras.metric_function(metric)
    if function is not None and not user_code.is_users(type(metric)):
        place = _place(function)
        fix = "Return one value for each row from its function, in place of their mean."
    else:
        place, names = _place(type(metric)), [variable.name for variable in metric.variables]
        fix = (
            f"If {_listed(names)} cannot be summed, declare how they merge, for example "
            f'merge_rules = {{"{names[0]}": "max"}}. If the metric averages batches, weigh each '
            "by its rows: update_state(value, sample_weight=rows)."
        )
    return (
        f"The metric {metric.name!r}, {type(metric).__name__}{place}, is {values[0]}, merged as "
        f"the states of replicas are. {fix}"
    )
