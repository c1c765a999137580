"""A part of a step that XLA compiles, inside a graph that it cannot compile as a whole.

::

    y_pred, gradients = compiled_by_xla(gradients_of)(model, part)

Replicas meet in an all-reduce, which XLA cannot compile on one host; the forward and the
backward pass of each replica it can.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import ModelError
from kerastrain.xla import support as xla_support
from kerastrain.xla.random_numbers import check_graph
from kerastrain.xla.random_numbers import same_under_xla


def compiled_by_xla(function: Callable) -> Callable:
    """A function like ``function``, compiled by XLA when it is run within a graph.

    Args:
        function: takes and returns structures of tensors and of other things, which are
            the same at each call. It must not update variables that replicas share.

    Raises:
        ModelError: when called, if the function returns a tensor with a Keras mask, which
            would be lost.
        OtherRandomNumbers: when called, if it draws numbers that are others under XLA.
        UnsupportedByXla: when called, if XLA has no kernel for what is in it.
    """

    def compiled(*arguments: Any) -> Any:
        leaves, returned = tf.nest.flatten(arguments), {}
        places = [i for i, leaf in enumerate(leaves) if tf.is_tensor(leaf)]

        def of_tensors(*tensors: tf.Tensor) -> list[tf.Tensor]:
            given = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor
            with same_under_xla():
                result = function(*tf.nest.pack_sequence_as(arguments, given))
            found = tf.nest.flatten(result)
            if any(tf.is_tensor(leaf) and _keras.get_mask(leaf) is not None for leaf in found):
                raise ModelError("An output has a Keras mask, which XLA's part would lose.")
            returned["result"], returned["leaves"] = result, found
            return [leaf for leaf in found if tf.is_tensor(leaf)]

        inner = tf.function(of_tensors, jit_compile=True, autograph=False)
        inner = inner.get_concrete_function(*(leaves[place] for place in places))
        check_graph(inner.graph)
        xla_support.check_graph(inner.graph)
        tensors = iter(inner(*(leaves[place] for place in places)))
        filled = [next(tensors) if tf.is_tensor(leaf) else leaf for leaf in returned["leaves"]]
        return tf.nest.pack_sequence_as(returned["result"], filled)

    return compiled
