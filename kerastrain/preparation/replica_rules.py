"""Rules of the lint about replicas: unscaled losses, variables outside the scope, batch statistics."""

from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.options import StepOptions
from kerastrain.preparation import dry_steps
from kerastrain.preparation import user_code
from kerastrain.preparation.findings import Finding
from kerastrain.preparation.findings import listed
from kerastrain.preparation.findings import LOSS
from kerastrain.preparation.findings import place_of
from kerastrain.preparation.findings import SCOPE
from kerastrain.preparation.findings import STATISTICS

# How often rows are repeated to distinguish a sum over them, which grows as often, from a mean.
_COPIES = 8


def training_call_of(
    model: keras.Model, batch: Any, strategy: tf.distribute.Strategy
) -> dry_steps.Call | None:
    """What a call in training mode does with the layers and weights in question."""
    layers = _normalizing(model)
    weights = [v for v in model.non_trainable_weights if _is_outside(v, strategy)]
    return dry_steps.training_call(model, batch, layers, weights) if layers or weights else None


def unscaled_loss(
    model: keras.Model, batch: Any, strategy: tf.distribute.Strategy
) -> Iterator[Finding]:
    """Asks whether twice as many replicas would halve the gradients."""
    step = user_code.plain(model.__dict__.get("train_step") or type(model).train_step)
    if not _keras.overrides(model, "train_step") or not user_code.is_users(step):
        return
    replicas = strategy.num_replicas_in_sync
    norms = dry_steps.gradient_norms(model, batch, strategy)
    if norms is None:
        return
    twice = dry_steps.gradient_norms(model, batch, strategy, reported_replicas=2 * replicas)
    if twice is None or twice.shape != norms.shape or not (twice > 0.75 * norms).any():
        return
    # A sum over the rows divided by a constant global batch does not ask for replicas.
    copied = dry_steps.gradient_norms(model, batch, strategy, copies=_COPIES)
    if copied is None or copied.shape != norms.shape:
        return
    unscaled = (twice > 0.75 * norms) & (copied < _COPIES**0.5 * norms)
    functions = user_code.reached(model, step)
    # A number of replicas that was asked for earlier cannot be replaced.
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


def _is_outside(variable: keras.Variable | tf.Variable, strategy: tf.distribute.Strategy) -> bool:
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return isinstance(value, tf.Variable) and not strategy.extended.variable_created_in_scope(value)


def outside_the_scope(
    model: keras.Model, strategy: tf.distribute.Strategy, call: dry_steps.Call | None
) -> Iterator[Finding]:
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
            f"{listed(names)}. Make them inside `with strategy.scope():`, or pass Trainer a "
            "function that builds the model.",
        )


def _plain_variables(layer: keras.Layer) -> Iterator[tuple[str, tf.Variable]]:
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


def _holders(model: keras.Model) -> dict[int, str]:
    """Where the layers of the user's own make their weights, by the ids of the weights."""
    return {
        id(value): _assignment(layer, name)
        for layer in _keras.all_layers(model)
        for name, value in vars(layer).items()
        if isinstance(value, keras.Variable)
    }


def _assignment(layer: keras.Layer, name: str) -> str:
    place = user_code.place_of_assignment(type(layer), name)
    return f" ({place})" if place else ""


def _normalizing(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [
        layer
        for layer in _keras.all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]


def batch_statistics(
    model: keras.Model, options: StepOptions, call: dry_steps.Call | None
) -> list[Finding]:
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
            f"{listed([repr(layer.path) for layer in layers])} of {type(model).__name__}"
            f"{place_of(type(model))} normalise by the mean and variance of one {part}, not of the "
            f"batch, so the result depends on how the batch is cut. {fix}, or "
            "LayerNormalization or GroupNormalization, which take each row by itself.",
        )
    ]
