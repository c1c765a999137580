"""How functional models are wired."""

from collections.abc import Callable
from typing import Any

import keras
from keras.src.models import functional as keras_functional
from keras.src.ops.function import make_node_key

from kerastrain._keras.settings import constructor_arguments


def is_functional(layer: Any) -> bool:
    """Whether a layer is a graph of calls of other layers."""
    return isinstance(layer, keras_functional.Functional)


def wiring(model: keras.Model, describe: Callable[[Any], Any]) -> list[str]:
    """The calls of a functional model, a line each: what is called, and with what.

    Layers and operations are numbered in Keras's order of the graph, which follows from the
    outputs alone: neither names nor the order in which layers were made matter.

    Args:
        model: a functional one.
        describe: gives a value for what is passed beside tensors.

    Returns:
        Lines such as ``"Add 2([Dense 1, InputLayer 0])"``; the inputs first, the outputs last.
    """
    numbers = {id(operation): i for i, operation in enumerate(model.operations)}
    nodes = {id(operation): _nodes(model, operation) for operation in model.operations}

    def shown(value: Any) -> str:
        if isinstance(value, keras.KerasTensor):
            return reference(value)
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(shown, value)) + "]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{k}: {shown(v)}" for k, v in value.items()) + "}"
        return repr(describe(value))

    def reference(tensor: keras.KerasTensor) -> str:
        operation, node, output = tensor._keras_history
        calls = nodes.get(id(operation), [])
        text = f"{type(operation).__name__} {numbers.get(id(operation), '?')}"
        if len(calls) > 1:
            text += f" call {calls.index(node) if node in calls else '?'}"
        return text + (f" output {output}" if output else "")

    lines = [f"inputs: {shown(model._inputs_struct)}"]
    for number, operation in enumerate(model.operations):
        for index in nodes[id(operation)]:
            arguments = operation._inbound_nodes[index].arguments
            passed = [shown(value) for value in arguments.args]
            passed += [f"{k}={shown(v)}" for k, v in arguments.kwargs.items() if v is not None]
            if not passed:
                continue  # an input
            line = f"{type(operation).__name__} {number}({', '.join(passed)})"
            lines.append(line + _options(operation, describe))
    return [*lines, f"outputs: {shown(model._outputs_struct)}"]


def _nodes(model: keras.Model, operation: Any) -> list[int]:
    """The numbers of those calls of an operation that belong to the model."""
    count = len(operation._inbound_nodes)
    return [index for index in range(count) if make_node_key(operation, index) in model._nodes]


def _options(operation: Any, describe: Callable[[Any], Any]) -> str:
    """How an operation was made that is no layer: ``keras.ops.transpose(x, axes=...)``."""
    options = {} if isinstance(operation, keras.Layer) else constructor_arguments(operation)
    return f" {describe(options)}" if options else ""
