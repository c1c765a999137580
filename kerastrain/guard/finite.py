"""Whether the numbers of a training are finite.

::

    watch = FiniteCheck(model, state.changed_by_steps().values())
    watch.all_are_finite()
"""

import math
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras

# Of the time, the part that goes into checks, and into snapshots.
SHARE = 1 / 400


class FiniteCheck:
    """The numbers that are to be finite: all that steps change but metrics, and the loss.

    Variables with values that are not finite from the start are excluded. What optimizers update is
    equal on all replicas, so one of them is looked at; of other variables, such as batch statistics,
    each replica may have its own.

    Args:
        model: built and compiled.
        variables: those that steps change (`kerastrain.state.model_state`).

    Attributes:
        excluded: of the trainable weights, by their paths; empty if all are watched.
        is_whole: whether all are watched.
    """

    def __init__(self, model: keras.Model, variables: Iterable[Any]):
        trained = {id(w) for w in model.trainable_weights}
        of_optimizers = (v for one in _keras.optimizers_of(model) for v in one.variables)
        self._equal = trained | {*map(id, of_optimizers)}
        self._parts: list[tf.Variable] = []
        found = _floats(variables)
        watched = {*map(id, self._watched(found))}
        self.excluded = [v.path for v in found if id(v) in trained - watched]
        self.is_whole = len(found) == len(watched)
        # Their sums, over all steps of an epoch so far.
        self._losses = [
            local
            for v in _keras.loss_tracker(model).variables
            for local in _keras.local_variables(v)
        ]
        self._sums = _sums_of(self._parts, self._losses)

    def add(self, variables: Iterable[Any]) -> None:
        """Watches more variables, which no step has changed so far."""
        self._watched(_floats(variables))
        self._sums = _sums_of(self._parts, self._losses)

    def _watched(self, variables: list[Any]) -> list[Any]:
        """Those of the variables that are watched from now on."""
        watched = []
        for variable in variables:
            parts = _keras.local_variables(variable)
            parts = parts[:1] if id(variable) in self._equal else parts
            if all(map(_is_finite, parts)):
                self._parts += parts
                watched.append(variable)
        return watched

    def all_are_finite(self, losses: bool = True) -> bool:
        """Whether all are.

        Args:
            losses: whether the loss counts.
        """
        # A sum takes a quarter of the time of looking at each number, but may overflow.
        variables, mean = np.isfinite(self._sums().numpy())
        good = variables or self.variables_are_finite()
        return bool(good and (mean or not losses or all(map(_is_finite, self._losses))))

    def variables_are_finite(self) -> bool:
        """Whether all but the loss are."""
        return all(map(_is_finite, self._parts))


def is_finite_in(logs: Any) -> bool:
    """Whether the loss in a step's logs is finite, as far as they have one."""
    try:
        return math.isfinite(logs.get("loss", 0.0))
    except (AttributeError, TypeError, ValueError):  # a step of the user's own may return anything
        return True


def _floats(variables: Iterable[Any]) -> list[Any]:
    return [v for v in variables if tf.as_dtype(v.dtype).is_floating]


def _is_finite(part: tf.Variable) -> bool:
    return bool(tf.reduce_all(tf.math.is_finite(part)))


def _sums_of(*groups: list[tf.Variable]) -> Callable[[], tf.Tensor]:
    """A compiled function that sums all numbers of the variables of each group."""

    def add() -> tf.Tensor:
        sums = [[tf.reduce_sum(tf.cast(v, tf.float32)) for v in group] for group in groups]
        return tf.stack([tf.add_n([tf.zeros(()), *of_group]) for of_group in sums])

    return tf.function(add, autograph=False).get_concrete_function()
