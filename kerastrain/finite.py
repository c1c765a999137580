"""Whether the numbers of a training are finite.

::

    watch = Watch(model, state.changed_by_steps().values())
    watch.all_are_finite()
"""

import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras


class Watch:
    """The numbers that are to be finite: all that steps change but metrics, and the loss.

    Variables with values that are not finite from the start are left alone.

    Args:
        model: built and compiled.
        variables: those that steps change (`kerastrain.model_state`).

    Attributes:
        left_alone: of the trainable weights, by their paths; empty if all are watched.
        is_whole: whether all are watched.
    """

    def __init__(self, model: keras.Model, variables: Iterable[Any]):
        trained = {id(w) for w in model.trainable_weights}
        found = [v for v in variables if tf.as_dtype(v.dtype).is_floating]
        self._variables = [v for v in found if _is_finite(v)]
        watched = {id(v) for v in self._variables}
        self.left_alone = [v.path for v in found if id(v) in trained - watched]
        self.is_whole = len(found) == len(watched)
        # Their sums, over all steps of an epoch so far.
        self._losses = [
            local
            for v in _keras.loss_tracker(model).variables
            for local in _keras.local_variables(v)
        ]
        self._sums = _sums_of(self._variables, self._losses)

    def add(self, variables: Iterable[Any]) -> None:
        """Watches more variables, which no step has changed so far."""
        found = [v for v in variables if tf.as_dtype(v.dtype).is_floating]
        self._variables += [v for v in found if _is_finite(v)]
        self._sums = _sums_of(self._variables, self._losses)

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
        return all(map(_is_finite, self._variables))


def is_finite_in(logs: Any) -> bool:
    """Whether the loss in a step's logs is finite, as far as they have one."""
    try:
        return math.isfinite(logs.get("loss", 0.0))
    except (AttributeError, TypeError, ValueError):  # a step of the user's own may return anything
        return True


def _is_finite(variable):
    return bool(tf.reduce_all(tf.math.is_finite(_keras.local_variables(variable)[0])))


def _sums_of(*groups):
    """A compiled function that sums all numbers of the variables of each group."""
    local = [[_keras.local_variables(v)[0] for v in variables] for variables in groups]

    def add():
        sums = [[tf.reduce_sum(tf.cast(v, tf.float32)) for v in group] for group in local]
        return tf.stack([tf.add_n([tf.zeros(()), *of_group]) for of_group in sums])

    return tf.function(add, autograph=False).get_concrete_function()
