"""A model and its optimizer once more, in the scope of a strategy, and their state there and back.

::

    made = rebuild(model, strategy)
    copy_state(model, made)
    check_same_outputs(model, made, x)

A strategy's variables must be made inside its scope, so a model that was made outside is made again
from its configuration. What it is beyond that, Keras's own saving protocol tells
(`kerastrain.layer_states`), and variables are matched by the attributes that they are reached by.
Whether all that was enough is tried: both must give the same outputs on one batch.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import ArgumentError
from kerastrain.errors import ModelError
from kerastrain.layer_states import layer_states
from kerastrain.layer_states import set_layer_states
from kerastrain.walk import Walk

# How far apart the outputs of both may be, of their size: they run the same operations.
_TOLERANCE = 1e-3


def rebuild(model: keras.Model, strategy: tf.distribute.Strategy) -> keras.Model:
    """Makes the model again inside the strategy's scope; its state is not copied.

    Raises:
        ModelError: the model's class cannot be made from its configuration.
    """
    with strategy.scope():
        try:
            made = type(model).from_config(model.get_config())
            if model.built and not made.built:
                made.build_from_config(model.get_build_config() or {})
            return made
        except Exception as error:  # of many kinds: some of the code is the user's
            raise ModelError(
                f"{type(model).__name__} was built outside the strategy's scope and "
                "cannot be built again inside it "
                f"({type(error).__name__}: {(str(error).splitlines() or [''])[0]}). Either "
                "define get_config() and register the class with "
                "@keras.saving.register_keras_serializable(), or pass a function "
                "that builds the model: Trainer(lambda: build(), strategy=...)."
            ) from error


def copy_trainable(source: keras.Model, target: keras.Model) -> None:
    """Freezes the layers of ``target`` that are frozen in ``source``, and no others."""
    # A model hands its flag down to its layers, so it comes before them.
    for s, t in zip(_keras.all_layers(source), _keras.all_layers(target), strict=False):
        t.trainable = s.trainable


def copy_state(source: keras.Model, target: keras.Model) -> None:
    """Gives ``target`` the variables of ``source``, and what its layers keep beyond them.

    Raises:
        ModelError: the two models do not have the same weights.
    """
    mine, its = _walked(source), _walked(target)
    # A layer whose variables are made by its first call may have some more, or some less.
    pairs = [(v, its.variables[path]) for path, v in mine.variables.items() if path in its.variables]
    sources, targets = ({id(pair[i]) for pair in pairs} for i in (0, 1))
    if (
        any(id(w) not in sources for w in source.weights)
        or any(id(w) not in targets for w in target.weights)
        or any(tuple(s.shape) != tuple(t.shape) for s, t in pairs)
    ):
        raise ModelError(
            f"{type(source).__name__} and its rebuilt copy have different weights: "
            f"{[tuple(w.shape) for w in source.weights]} and "
            f"{[tuple(w.shape) for w in target.weights]}. Call the model on a batch "
            "before giving it to Trainer, and let get_config() hold every argument."
        )
    for s, t in pairs:
        t.assign(_keras.tf_variable(s).numpy())
    set_layer_states(its.of(keras.Layer), layer_states(mine.of(keras.Layer)))


def _walked(model):
    """What can be reached from a model, but for what `compile` and `fit` have set on it."""
    return Walk({"model": model}, known=tuple(_keras.compile_state(model).values()))


# Outputs ----------------------------------------------------------------------------


def check_same_outputs(model: keras.Model, made: keras.Model, x: Any) -> None:
    """Makes sure that a copy is the same model: it gives the same outputs.

    Args:
        model, made: the model and its copy; both have the same state, which does not change.
        x: a batch of inputs.

    Raises:
        ModelError: names the first layer whose outputs differ.
    """
    try:
        right = _outputs(model, x)
    except Exception:  # a model that cannot be called so is left to its steps
        return
    try:
        found = _outputs(made, x)
    except Exception as error:
        raise ModelError(_told(type(made).__name__, f"{type(error).__name__}: {error}")) from error
    path = _first_difference(right, found)
    if path is None or _first_difference(right, _outputs(model, x)) is not None:
        return  # one that draws random numbers when it predicts differs from itself
    layer = _walked(made).of(keras.Layer).get(path, made)
    raise ModelError(
        _told(
            f"the layer {layer.name!r} of type {type(layer).__name__}",
            "what it computes depends on something that is neither in its get_config(), nor a "
            "variable, nor saved by save_own_variables() or save_assets()",
        )
    )


def _told(what, reason):
    return (
        f"The copy of the model in the strategy's scope gives other outputs: {what} differs, as "
        f"{reason}. Build the model inside the scope: Trainer(lambda: build(), strategy=...)."
    )


def _outputs(model, x) -> list[tuple[str, list[np.ndarray]]]:
    """The outputs of each layer by its path, in the order in which they are ready."""
    seen: list = []
    layers = _walked(model).of(keras.Layer)
    watched = [layer for layer in layers.values() if "call" not in vars(layer)]
    paths = {id(layer): path for path, layer in layers.items()}

    def watch(layer, call: Callable):
        def watching(*args, **kwargs):
            outputs = call(*args, **kwargs)
            seen.append((paths[id(layer)], outputs))
            return outputs

        vars(layer)["call"] = watching

    changed = [v for v in _walked(model).variables.values() if isinstance(v, tf.Variable)]
    before = [(v, _keras.read_local(v)) for v in changed]
    try:
        for layer in watched:
            watch(layer, layer.call)
        with keras.StatelessScope():
            _keras.forward(model, x, training=False)
    finally:
        for layer in watched:
            vars(layer).pop("call", None)
        for variable, parts in before:
            _keras.assign_local(variable, parts)
    return [(path, [_as_array(t) for t in tf.nest.flatten(outputs)]) for path, outputs in seen]


def _as_array(tensor):
    if isinstance(tensor, tf.SparseTensor):
        tensor = tf.sparse.to_dense(tensor)
    if isinstance(tensor, tf.RaggedTensor):
        tensor = tensor.to_tensor()
    return np.asarray(tensor)


def _first_difference(right, found):
    """The path of the first layer whose outputs differ; None where none do."""
    for (path, mine), (other, its) in zip(right, found, strict=False):
        same = path == other and len(mine) == len(its) and all(map(_are_close, mine, its))
        if not same:
            return other
    return None if len(right) == len(found) else "model"


def _are_close(mine, its):
    if mine.shape != its.shape or mine.dtype != its.dtype:
        return False
    if mine.dtype.kind not in "fc" and not str(mine.dtype).startswith(("bfloat", "float")):
        return bool(np.all(mine == its))
    mine, its = mine.astype("float64"), its.astype("float64")
    size = np.max(np.abs(mine[np.isfinite(mine)]), initial=0.0)
    return np.allclose(mine, its, rtol=_TOLERANCE, atol=_TOLERANCE * size, equal_nan=True)


# Optimizers -------------------------------------------------------------------------


def optimizer_for(optimizer: Any, strategy: tf.distribute.Strategy | None) -> Any:
    """The optimizer, made again from its configuration for another strategy.

    Call it inside the strategy's scope.

    Raises:
        ArgumentError: an unknown optimizer, or one that cannot be made again.
    """
    try:
        found = keras.optimizers.get(optimizer)
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            f"Unknown optimizer. Received: optimizer={optimizer!r}. Use a name such as "
            '"adam", or a keras.optimizers.Optimizer.'
        ) from error
    if strategy is None or _keras.optimizer_strategy(found) is strategy:
        return found
    try:
        return type(found).from_config(found.get_config())
    except Exception as error:  # of many kinds: some of the code is the user's
        raise ArgumentError(
            f"`optimizer` was made outside the strategy's scope, and {type(found).__name__} cannot "
            f"be made again from its configuration ({type(error).__name__}: {error}). Make it "
            "inside `strategy.scope()`, or pass a function that builds and compiles the model."
        ) from error


def copy_optimizer(source: Any, target: Any, variables: list | None = None) -> None:
    """Assigns the state of one optimizer to another of the same kind.

    Args:
        source, target: either may be wrapped for loss scaling and the other not.
            Nothing is copied from or to a name.
        variables: the trainable weights that an unbuilt ``target`` is built
            with, for a ``source`` that is built.
    """
    both = (source, target)
    if not all(isinstance(o, keras.optimizers.Optimizer) for o in both):
        return
    # One that is not built has its learning rate and iterations, inside.
    if not source.built or not all(hasattr(o, "inner_optimizer") for o in both):
        source, target = (getattr(o, "inner_optimizer", o) for o in both)
    if source.built and not target.built:
        if not variables:
            return
        target.build(variables)
    mine, its = _optimizer_variables(source), _optimizer_variables(target)
    for path in mine if source.built else mine.keys() & its.keys():
        its[path].assign(_keras.tf_variable(mine[path]).numpy())


def _optimizer_variables(optimizer):
    """Its variables by the attributes that they are reached by; not the weights that it trains."""
    own = {id(v) for v in optimizer.variables}
    found = Walk({"optimizer": optimizer}).variables
    return {path: v for path, v in found.items() if id(v) in own}


def optimizer_numbers(optimizer: Any) -> list[float]:
    """The values of an optimizer's variables that are single numbers; none of a name's."""
    variables = getattr(optimizer, "variables", [])
    return [float(_keras.tf_variable(v).numpy()) for v in variables if len(v.shape) == 0]
