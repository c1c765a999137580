"""What a tensor of a graph is computed from."""

from typing import Any

import tensorflow as tf

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def depends_on(value: Any, tensors: list[tf.Tensor], handles: set[int] = frozenset()) -> bool | None:
    """Whether a value is computed from tensors other than by way of a variable.

    What is read from a variable depends on nothing here, whatever was assigned to it before.

    Args:
        value: a tensor of a graph, or anything else.
        tensors: of the same graph.
        handles: of variables (`handles_of`): what is read from these counts too.

    Returns:
        None where that is not known: it is no tensor of a graph.
    """
    if not tf.is_tensor(value) or not hasattr(value, "op"):
        return None
    try:
        leaves = tf.nest.flatten(value, expand_composites=True)
        return any(_reaches(leaf, {id(t) for t in tensors} | handles) for leaf in leaves)
    except (AttributeError, NotImplementedError, KeyError):  # a tensor that is no part of a graph
        return None


def _reaches(tensor, wanted):
    """Whether the tensor is one of these, or is computed from one."""
    seen, waiting = set(), [tensor]
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in wanted:
            return True
        if id(tensor) not in seen:
            seen.add(id(tensor))
            waiting += _sources(tensor)
    return False


def _sources(tensor):
    """The tensors that it is computed from; the handle of a variable is computed from none."""
    if not hasattr(tensor, "graph"):  # outside of all graphs
        return []
    operation = tensor.op
    if operation.type == "Placeholder":  # of a graph inside another one
        return [of for of, inner in getattr(operation.graph, "captures", ()) if inner is tensor]
    if operation.type not in _CALLS:
        return list(operation.inputs)
    called = operation.graph._get_function(operation.get_attr("f").name).graph
    output = called.outputs[tensor.value_index]
    return [
        given
        for given, inner in zip(operation.inputs, called.inputs, strict=True)
        if _reaches(output, {id(inner)})
    ]
