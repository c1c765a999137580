"""Functions run in a graph of their own, without side effects.

::

    computed(lambda: model(x) * 2)         # its value; no variable is changed
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def computed(function: Callable[[], Any]) -> Any:
    """What a function without arguments computes in a graph, without side effects."""

    def seeded() -> Any:
        # Random operations of TensorFlow draw the same numbers in each graph.
        tf.compat.v1.set_random_seed(0)
        return function()

    return without_effects(tf.compat.v1.wrap_function(seeded, []))()


def without_effects(traced: Any, inputs: int = 0) -> Callable[..., Any]:
    """A function of ``wrap_function`` that runs only what its outputs need.

    TensorFlow's optimizer of graphs leaves the rest out too, but it can be switched off.

    Args:
        traced: the function.
        inputs: how many tensors it takes.
    """
    flat = tf.nest.flatten(traced.structured_outputs)
    fetches = [one for one in flat if tf.is_tensor(one)]
    pruned = traced.prune(list(traced.inputs[:inputs]), fetches)

    def run(*tensors: tf.Tensor) -> Any:
        values = iter(pruned(*tensors))
        whole = [next(values) if tf.is_tensor(one) else one for one in flat]
        return tf.nest.pack_sequence_as(traced.structured_outputs, whole)

    return run
