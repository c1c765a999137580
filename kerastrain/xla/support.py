"""What XLA can compile: a model's layers, and a graph, before XLA is given it.

::

    refusal_of_model(model)            # None, or the layer that does not support it
    check_graph(concrete.graph)        # raises where XLA has no kernel for what is in it

XLA does not only fail on what it cannot compile: in TensorFlow 2.21 a string among the inputs
of a program ends the process when the second such program is compiled. So a graph is traced
first, and compiled only where each of its operations has a kernel for the types that it has,
by TensorFlow's own register. Strings, tables, ragged tensors and Python functions have none,
whoever's layer they are in.
"""

from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import UnsupportedByXla


def refusal_of_model(model: keras.Model) -> str | None:
    """Why Keras would not compile a model by XLA, as a sentence; None where it would."""
    refusing = [layer for layer in _keras.all_layers(model) if not layer.supports_jit]
    if refusing:
        first = refusing[0]
        return (
            f"The layer {first.name!r} ({type(first).__name__}) does not support XLA: its "
            "`supports_jit` is False."
        )
    if not _keras.supports_jit(model):
        return "XLA is off for Keras here: operations are to be deterministic, or by this platform."
    return None


def check_graph(graph: tf.Graph) -> None:
    """Refuses the graph of a function that XLA has not all kernels for.

    Raises:
        UnsupportedByXla: names the operation, and where it is.
    """
    definition = graph.as_graph_def()
    library = {function.signature.name: function for function in definition.library.function}
    waiting: list[Any] = [definition.node]
    seen: set[str] = set()
    while waiting:
        for node in sorted(waiting.pop(), key=lambda node: node.op != "Placeholder"):
            _check_node(node)
            called = {value.func.name for value in node.attr.values()}
            called |= {f.name for value in node.attr.values() for f in value.list.func}
            waiting += [library[name].node_def for name in sorted(called & library.keys() - seen)]
            seen |= called


def _check_node(node: tf.compat.v1.NodeDef) -> None:
    is_input = node.op == "Placeholder"
    if _keras.has_xla_kernel(node, "_Arg" if is_input else node.op):
        return
    what = f"no kernel for the operation {node.op} of {node.name!r}"
    if is_input:
        what = f"no kernel for data of type {tf.as_dtype(node.attr['dtype'].type).name}"
    raise UnsupportedByXla(f"XLA has {what}. Use a plan without XLA, and jit_compile=False.")
