"""Optimizers and their gradients."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain._keras.graphs import changes_something


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)


def optimizers_in(optimizer: Any) -> list[keras.optimizers.Optimizer]:
    """An optimizer, or several, and all that these hand gradients to, as ``MultiOptimizer`` does."""
    found: list[keras.optimizers.Optimizer] = []
    waiting = [optimizer]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, dict | list | tuple):
            waiting += one.values() if isinstance(one, dict) else one
        elif isinstance(one, keras.optimizers.Optimizer) and not any(one is o for o in found):
            found.append(one)
            waiting += vars(one).values()
    return found


@contextlib.contextmanager
def gradients_already_summed(optimizers: list[Any]) -> Iterator[None]:
    """Inside, ``apply`` of each optimizer takes gradients that are summed over replicas."""
    optimizers = optimizers_in(optimizers)
    for one in optimizers:
        one.__dict__["_all_reduce_sum_gradients"] = list
    try:
        yield
    finally:
        for one in optimizers:
            one.__dict__.pop("_all_reduce_sum_gradients", None)


def expects_summed_gradients(optimizer: Any) -> bool:
    """Whether `gradients_already_summed` is active for the optimizer."""
    return "_all_reduce_sum_gradients" in optimizer.__dict__


def updates_in_replicas(optimizer: Any) -> bool:
    """Whether each replica can run ``optimizer.apply`` itself.

    It cannot where something is updated at every n-th step only: Keras 3.15.1 does
    that in a ``tf.cond`` (optimizers/base_optimizer.py), inside of which replicas
    cannot meet. Nor where they share their variables.
    """
    conditional = any(
        getattr(one, name, None)
        for one in optimizers_in(optimizer)
        for name in ("gradient_accumulation_steps", "ema_overwrite_frequency")
    )
    strategy = tf.distribute.get_strategy()
    return not conditional and not isinstance(
        strategy, tf.distribute.experimental.CentralStorageStrategy
    )


def apply_for_all_replicas(
    optimizer: Any, gradients: list[tf.Tensor | None], variables: list[keras.Variable]
) -> None:
    """``optimizer.apply`` outside the replicas, on the variables of all of them.

    Args:
        gradients: one tensor, or None, for each of ``variables``.
    """
    interim = tf.__internal__.distribute.interim
    meet = interim.maybe_merge_call
    interim.maybe_merge_call = lambda function, strategy, *args: function(strategy, *args)
    try:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            if not optimizer.built:
                optimizer.build(variables)
            optimizer._common_apply(gradients, variables)
        else:
            optimizer.apply(gradients, variables)
    finally:
        interim.maybe_merge_call = meet


def current_learning_rate(optimizer: Any) -> float | None:
    """The learning rate now, without a change of anything; None where it is no number.

    Asked for its rate, a schedule of the user's own may advance. So a copy of it is asked, and only
    where it changes no variable.
    """
    optimizer = _inner(optimizer)
    rate = getattr(optimizer, "_learning_rate", None)
    if not callable(rate):
        return _as_float(rate)
    if type(rate).__module__.startswith("keras."):
        return _as_float(optimizer.learning_rate)

    def rate_now() -> tf.Tensor:
        is_schedule = isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)
        arguments = [optimizer.iterations] if is_schedule else []
        return tf.convert_to_tensor(asked(*arguments))

    try:
        asked = copy.deepcopy(rate)
        traced = tf.function(rate_now, autograph=False).get_concrete_function()
        return None if changes_something(traced) else _as_float(traced())
    except Exception:  # of the user's code, which the step calls and reports
        return None


def _as_float(rate: Any) -> float | None:
    try:
        return float(rate)
    except (TypeError, ValueError):
        return None


def unknown_to_optimizer(optimizer: Any, variables: list[keras.Variable]) -> list[str]:
    """The paths of variables that a built optimizer was not built with."""
    inner = _inner(optimizer)
    if not getattr(inner, "built", False) or not hasattr(inner, "_trainable_variables_indices"):
        return []
    known = inner._trainable_variables_indices
    return [v.path for v in variables if inner._var_key(v) not in known]


def variable_keys(optimizer: Any, variables: list[keras.Variable]) -> dict[Any, int]:
    """What an optimizer keeps of a variable, in place of it, by which it is the same again.

    Such a key is another one in each process.

    Returns:
        For each key the number of its variable; nothing for what is no optimizer of Keras.
    """
    inner = _inner(optimizer)
    if not isinstance(inner, keras.optimizers.Optimizer):
        return {}
    return {inner._var_key(variable): number for number, variable in enumerate(variables)}
