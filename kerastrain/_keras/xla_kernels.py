"""What XLA has kernels for, by TensorFlow's own register of them."""

import functools

import keras
import tensorflow as tf
from keras.src.trainers.trainer import model_supports_jit
from tensorflow.python.framework import kernels


def supports_jit(model: keras.Model) -> bool:
    """Whether Keras would compile the model by XLA on this machine, with its present settings."""
    return model_supports_jit(model)


def has_xla_kernel(node: tf.compat.v1.NodeDef, op: str) -> bool:
    """Whether XLA can compile a node of a graph, by its operation and types.

    Args:
        node: of the graph.
        op: the type of its operation; ``"_Arg"`` for an input.
    """
    return any(
        all(_types(node, name) <= allowed for name, allowed in constraints)
        for constraints in _xla_kernels(op)
    )


def _types(node: tf.compat.v1.NodeDef, name: str) -> set[int]:
    attribute = node.attr[name if name in node.attr else "dtype"]
    return set(attribute.list.type) or {attribute.type} - {0}


@functools.cache
def _xla_kernels(op: str) -> list[list[tuple[str, set[int]]]]:
    """For each of XLA's kernels, ``[(attribute, types that it may have)]``."""
    device = _xla_device()
    return [
        [(c.name, set(c.allowed_values.list.type)) for c in kernel.constraint]
        for kernel in kernels.get_registered_kernels_for_op(op).kernel
        if kernel.device_type == device
    ]


@functools.cache
def _xla_device() -> str:
    """The name of XLA's device, whose kernels are registered when it is first used."""
    with tf.init_scope():  # also while something else is being traced
        tf.function(lambda: tf.zeros(()), jit_compile=True, autograph=False)()
    return "XLA_GPU_JIT" if tf.config.list_logical_devices("GPU") else "XLA_CPU_JIT"
