"""Strategies by name or object, and a model that is built in their scope.

::

    resolve("mirrored:2")     # MirroredStrategy on the first two devices
    model = rebuild(model, strategy)

A strategy's variables must be made inside its scope. `rebuild` makes a model
there, and `copy_weights` takes the weights there and back.
"""

from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import ArgumentError
from kerastrain.errors import ModelError
from kerastrain.errors import UnsupportedTypeError


def resolve(strategy: Any) -> tf.distribute.Strategy | None:
    """Returns a ``tf.distribute`` strategy, or None for none.

    Args:
        strategy: a ``tf.distribute.Strategy``; None; ``"mirrored"``, all GPUs,
            or all logical CPU devices where there is no GPU;
            ``"mirrored:N"``, the first N of them; or ``"auto"``:
            ``"mirrored"`` where there are several GPUs, else None.

    Raises:
        ArgumentError: an unknown name, or more devices than there are.
        UnsupportedTypeError: neither a name nor a strategy.

    Example:
        >>> resolve("mirrored:1").num_replicas_in_sync
        1
    """
    if strategy is None or isinstance(strategy, tf.distribute.Strategy):
        return strategy
    if not isinstance(strategy, str):
        raise UnsupportedTypeError(
            "`strategy` must be a tf.distribute.Strategy, a name or None. "
            f"Received: {strategy!r} of type {type(strategy).__name__}."
        )
    if strategy == "auto":
        gpus = tf.config.list_logical_devices("GPU")
        return tf.distribute.MirroredStrategy() if len(gpus) > 1 else None
    name, _, count = strategy.partition(":")
    if name != "mirrored" or (count and not count.isdigit()) or count == "0":
        raise ArgumentError(
            f"Unknown strategy {strategy!r}. Use \"mirrored\", \"mirrored:2\", "
            '"auto", None or a tf.distribute.Strategy.'
        )
    gpus = tf.config.list_logical_devices("GPU")
    devices = [d.name for d in gpus or tf.config.list_logical_devices("CPU")]
    wanted = int(count) if count else len(devices)
    if wanted > len(devices):
        raise ArgumentError(
            f"strategy={strategy!r} wants {wanted} devices; there are "
            f"{len(devices)}. On CPU, make logical ones first with "
            "tf.config.set_logical_device_configuration."
        )
    # On CPU, collectives of two strategies in one process would collide.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices[:wanted], reduction)


def is_built_under(model: keras.Model, strategy: tf.distribute.Strategy) -> bool:
    """Whether the model was made inside the strategy's scope."""
    return _keras.model_strategy(model) is strategy


def rebuild(model: keras.Model, strategy: tf.distribute.Strategy) -> keras.Model:
    """Makes the model again inside the strategy's scope; its weights are not copied.

    Raises:
        ModelError: the model's class cannot be made from its configuration.
    """
    with strategy.scope():
        try:
            return _from_config(model)
        except (TypeError, ValueError, NotImplementedError, KeyError) as error:
            raise ModelError(
                f"{type(model).__name__} was built outside the strategy's scope and "
                "cannot be built again inside it "
                f"({type(error).__name__}: {str(error).splitlines()[0]}). Either "
                "define get_config() and register the class with "
                "@keras.saving.register_keras_serializable(), or pass a function "
                "that builds the model: Trainer(lambda: build(), strategy=...)."
            ) from error


def _from_config(model):
    made = type(model).from_config(model.get_config())
    if model.built and not made.built:
        made.build_from_config(model.get_build_config() or {})
    return made


def optimizer_for(optimizer: Any, strategy: tf.distribute.Strategy | None) -> Any:
    """The optimizer, made again from its configuration for another strategy.

    Call it inside the strategy's scope.

    Raises:
        ArgumentError: an unknown optimizer.
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
    return type(found).from_config(found.get_config())


def copy_optimizer(source: Any, target: Any) -> None:
    """Assigns the state of one built optimizer to another of the same kind.

    A name, or an optimizer that is not built, has no state.
    """
    if not isinstance(source, keras.optimizers.Optimizer) or not source.built:
        return
    if not hasattr(source, "inner_optimizer"):
        target = getattr(target, "inner_optimizer", target)
    for s, t in zip(source.variables, target.variables, strict=True):
        t.assign(_keras.tf_variable(s).numpy())


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Assigns every weight of ``source`` to its counterpart in ``target``.

    Raises:
        ModelError: the two models do not have the same weights.
    """
    pairs = list(zip(source.weights, target.weights, strict=False))
    same = len(source.weights) == len(target.weights)
    if not same or any(s.shape != t.shape for s, t in pairs):
        raise ModelError(
            f"{type(source).__name__} and its rebuilt copy have different weights: "
            f"{[tuple(w.shape) for w in source.weights]} and "
            f"{[tuple(w.shape) for w in target.weights]}. Call the model on a batch "
            "before giving it to Trainer, and let get_config() hold every argument."
        )
    for s, t in pairs:
        t.assign(_keras.tf_variable(s).numpy())
