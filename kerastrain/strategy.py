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
    """Returns a ``tf.distribute`` strategy of one machine, or None for none.

    Args:
        strategy: a ``tf.distribute.Strategy``; None; or a name: ``"mirrored"``,
            all GPUs, or all logical CPU devices where there is no GPU;
            ``"mirrored:N"``, the first N of them; ``"central_storage"`` and
            ``"central_storage:N"``, the same with one copy of the variables;
            ``"one_device"``, the first of them; or ``"auto"``: ``"mirrored"``
            where there are several GPUs, else None.

    An object may be any strategy that keeps its replicas in step:
    ``OneDeviceStrategy``, ``MirroredStrategy``, ``CentralStorageStrategy``. A
    ``TPUStrategy`` takes the same path through the code, but none was at hand to
    try it on.

    Raises:
        ArgumentError: an unknown name, or more devices than there are.
        UnsupportedTypeError: neither a name nor a strategy, or one whose
            replicas are not in step.

    Example:
        >>> resolve("mirrored:1").num_replicas_in_sync
        1
    """
    if strategy is None:
        return None
    if isinstance(strategy, tf.distribute.Strategy):
        return _in_step(strategy)
    if not isinstance(strategy, str):
        raise UnsupportedTypeError(
            "`strategy` must be a tf.distribute.Strategy, a name or None. "
            f"Received: {strategy!r} of type {type(strategy).__name__}."
        )
    if strategy == "auto":
        gpus = tf.config.list_logical_devices("GPU")
        return tf.distribute.MirroredStrategy() if len(gpus) > 1 else None
    name, colon, count = strategy.partition(":")
    counts = ("mirrored", "central_storage")
    if name not in (*counts, "one_device") or (
        colon and not (name in counts and count.isdigit() and int(count) > 0)
    ):
        raise ArgumentError(
            f"Unknown strategy {strategy!r}. Use \"mirrored\", \"mirrored:2\", "
            '"central_storage:2", "one_device", "auto", None or a tf.distribute.Strategy.'
        )
    return _on_devices(name, int(count) if count else None)


def _in_step(strategy):
    asynchronous = tf.distribute.experimental.ParameterServerStrategy
    if isinstance(strategy, asynchronous):
        raise UnsupportedTypeError(
            f"`strategy` is a {type(strategy).__name__}, whose replicas do not train in step, "
            "so no number of theirs is that of one device. Use a MirroredStrategy, "
            "CentralStorageStrategy or OneDeviceStrategy."
        )
    return strategy


def _on_devices(name, count):
    gpus = tf.config.list_logical_devices("GPU")
    devices = [d.name for d in gpus or tf.config.list_logical_devices("CPU")]
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(devices[0])
    wanted = count or len(devices)
    if wanted > len(devices):
        raise ArgumentError(
            f"strategy={f'{name}:{wanted}'!r} wants {wanted} devices; there are "
            f"{len(devices)}. On CPU, make logical ones first with "
            "tf.config.set_logical_device_configuration."
        )
    if name == "central_storage":
        return tf.distribute.experimental.CentralStorageStrategy(
            compute_devices=devices[:wanted], parameter_device="/CPU:0"
        )
    # On CPU, collectives of two strategies in one process would collide.
    reduction = None if gpus else tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(devices[:wanted], reduction)


def of_model(model: Any) -> tf.distribute.Strategy | None:
    """The strategy in whose scope a model was made; None of another object."""
    return _keras.model_strategy(model) if isinstance(model, keras.Model) else None


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
    for s, t in zip(source.variables, target.variables, strict=source.built):
        t.assign(_keras.tf_variable(s).numpy())


def optimizer_numbers(optimizer: Any) -> list[float]:
    """The values of an optimizer's variables that are single numbers; none of a name's."""
    variables = getattr(optimizer, "variables", [])
    return [float(_keras.tf_variable(v).numpy()) for v in variables if len(v.shape) == 0]


def copy_trainable(source: keras.Model, target: keras.Model) -> None:
    """Freezes the layers of ``target`` that are frozen in ``source``, and no others."""
    # A model hands its flag down to its layers, so it comes before them.
    for s, t in zip(_keras.all_layers(source), _keras.all_layers(target), strict=False):
        t.trainable = s.trainable


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Assigns every weight of ``source`` to its counterpart in ``target``.

    The states of random layers such as dropout are copied too.

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
    pairs += zip(_keras.random_states(source), _keras.random_states(target), strict=False)
    for s, t in pairs:
        t.assign(_keras.tf_variable(s).numpy())
