"""Rules of the lint about rows: those that depend on each other, and labels that a loss misreads."""

from collections.abc import Iterator
from typing import Any

import keras

from kerastrain import _keras
from kerastrain.options import StepOptions
from kerastrain.preparation import dry_steps
from kerastrain.preparation import logits
from kerastrain.preparation import mixing
from kerastrain.preparation import user_code
from kerastrain.preparation.findings import ASSIGNMENT
from kerastrain.preparation.findings import Finding
from kerastrain.preparation.findings import listed
from kerastrain.preparation.findings import LOGITS
from kerastrain.preparation.findings import place_of
from kerastrain.preparation.findings import ROWS
from kerastrain.preparation.replica_rules import _assignment
from kerastrain.preparation.trial_calls import Assigned


def rows_compared(
    model: keras.Model, batch: Any, options: StepOptions, replicas: int, kind: str = "train"
) -> Iterator[Finding]:
    """Finds what a row has from others, and what is assigned by parts of the batch.

    Args:
        model, batch, options: as of `kerastrain.preparation.lint.findings`.
        replicas: their number.
        kind: of the step: ``"train"``, ``"test"`` or ``"predict"``.
    """
    own_step, training = _keras.overrides(model, f"{kind}_step"), kind == "train"
    if own_step and replicas == 1:  # which is given whole batches
        return
    by_turns, with_loss = training and options.parts > 1, not own_step and kind != "predict"
    found = mixing.mixtures(model, batch, with_loss=with_loss, in_turn=by_turns, training=training)
    if found is None:
        return
    part = "micro-batch" if by_turns else "replica"
    verb = {"train": "Train", "test": "Evaluate", "predict": "Predict"}[kind]
    fix = "Use micro_batches=1" if by_turns else f"{verb} on one device"
    what = [*(_layer(layer) for layer in found.layers), *(_loss(model, e) for e in found.losses)]
    what += [_added(line) for line in found.added]
    if what:
        depends = "depends" if len(what) == 1 else "depend"
        yield Finding(
            ROWS,
            f"{listed(what)} of {type(model).__name__} {depends} on which rows, and how many, come "
            f"together in a batch, and a {part} has a part of the rows: the result depends on how "
            f"the batch is cut. {fix}, or compute each row by itself and take means over the rows.",
        )
    names = [_assigned(model, entry) for entry in found.assigned]
    if names:
        mode = "training" if training else "inference"
        how = "once for each micro-batch" if by_turns else "by each replica from rows of its own"
        yield Finding(
            ASSIGNMENT,
            f"{listed(names)}: assigned in {mode} mode, {how}, so the values depend on how "
            f"the batch is cut. {fix}, or assign from a callback, after the step.",
        )


def assigned_by_workers(model: keras.Model, batch: Any) -> Iterator[Finding]:
    """Finds what layers of the user's own assign in training mode, by a call on shapes alone.

    Where several workers train no numbers are computed for the lint: whether the values depend on the
    rows of a worker is not known.
    """
    owned = {
        id(weight): layer
        for layer in _keras.all_layers(model)
        if user_code.is_users(type(layer)) and not isinstance(layer, keras.Model)
        for weight in layer.non_trainable_weights
    }
    weights = [v for v in model.non_trainable_weights if id(v) in owned]
    call = dry_steps.training_call(model, batch, [], weights) if weights else None
    names = []
    for weight in weights:
        if call is not None and id(weight) in call.assigned:
            owner, name = mixing.owner_and_name(model, weight)
            where = f" of {owner.name!r}, {type(owner).__name__}" if owner is not None else ""
            place = _assignment(owner, name) if owner is not None else ""
            names.append(f"{name!r}{where}{place}")
    if names:
        yield Finding(
            ASSIGNMENT,
            f"{listed(names)}: assigned in training mode, by each worker. Where the values depend on "
            "the rows of a batch, they depend on how it is cut. Train on one device, or assign from a "
            "callback, after the step.",
        )


def _layer(layer: keras.Layer) -> str:
    function = getattr(layer, "function", None)  # of a Lambda
    kind = type(layer)
    if user_code.is_users(function):
        return f"the layer {layer.name!r} ({user_code.place(function)})"
    if not user_code.is_users(kind):
        return f"the layer {layer.name!r}, {kind.__name__},"
    call = user_code.plain(kind.call)
    place = user_code.place(call if user_code.is_users(call) else kind)
    return f"the layer {layer.name!r}, {kind.__name__} ({place}),"


def _loss(model: keras.Model, loss: Any) -> str:
    if isinstance(loss, str):
        method = user_code.plain(getattr(model, loss))
        return f"the method {loss!r}" + (place_of(method) if user_code.is_users(method) else "")
    function = getattr(loss, "fn", None) or type(loss)
    name = getattr(function, "__name__", loss.name)
    return f"the loss {name!r}{place_of(function)}"


def _added(line: tuple[str, str] | None) -> str:
    return "an activity regulariser" if line is None else f"`add_loss` in {line[0]} ({line[1]})"


def _assigned(model: keras.Model, entry: Assigned) -> str:
    owner, name = mixing.owner_and_name(model, entry.variable)
    variable = (
        f"{name!r} of {owner.name!r}, {type(owner).__name__}"
        if owner is not None
        else (repr(getattr(entry.variable, "path", entry.variable.name)))
    )
    if entry.line is not None:
        return f"{variable} ({entry.line[1]})"
    return variable + (_assignment(owner, name) if owner is not None else "")


def misread(model: keras.Model, batch: Any) -> Iterator[Finding]:
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
