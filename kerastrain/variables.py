"""The variables of a training by name, and copies of their values in the host's memory.

::

    variables = variables_of(model)              # {"model/0": variable, ...}
    copies = HostCopies(variables.values())
    values = copies.take()                       # for each the arrays of its replicas
    copies.put_back()

A copy is made again into the memory of the one before: of 252 MB that takes 45 ms on two cores,
where memory that is new each time takes 80 ms and more.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras

# A list or dict of more is not of optimizers or variables.
_LONGEST = 1000

GROUPS = ("model", "metrics", "optimizer", "layers")


def variables_of(model: keras.Model) -> dict[str, Any]:
    """All variables that a train step may change, by a name that is the same in each process.

    Args:
        model: built and compiled.

    Returns:
        ``{"<group>/<index>": variable}``; the groups are `GROUPS`, and none is in two.
    """
    optimizers, others = _held_by_layers(model)
    groups = {
        "model": model.variables,
        "metrics": [v for metric in model.metrics for v in metric.variables],
        "optimizer": [v for o in [model.optimizer, *optimizers] if o for v in o.variables],
        "layers": others,
    }
    found, named = {}, set()
    for group, variables in groups.items():
        fresh = {id(v): v for v in variables if id(v) not in named}
        named |= fresh.keys()
        found |= {f"{group}/{index}": v for index, v in enumerate(fresh.values())}
    return found


def _held_by_layers(model):
    """``(optimizers, variables of TensorFlow's)`` that layers have as attributes of their own.

    First the attributes, then what is in lists and dicts of theirs, and not in other objects.
    """
    layers = _keras.all_layers(model)
    values = [v for layer in layers for v in vars(layer).values()]
    values += [
        v
        for layer in layers
        for name, container in vars(layer).items()
        if not name.startswith("_self_")  # TensorFlow's own lists of the attributes
        for v in _values_in(container, depth=2)
    ]
    optimizers = [
        v for v in values if isinstance(v, keras.optimizers.Optimizer) and v is not model.optimizer
    ]
    return optimizers, [v for v in values if isinstance(v, tf.Variable)]


def _values_in(container, depth):
    """The values of a dict, list or tuple, and of those in it; none of one that holds data."""
    if not isinstance(container, dict | list | tuple) or len(container) > _LONGEST:
        return
    for value in container.values() if isinstance(container, dict) else container:
        yield value
        if depth:
            yield from _values_in(value, depth - 1)


def initial_values(model: keras.Model) -> Iterator[tuple[Any, np.ndarray]]:
    """``(variable, value)`` of each variable, as if the optimizer had just been built.

    Those of the optimizer have the values that it begins with, all others are 0.
    """
    optimizer, values = model.optimizer, {}
    with contextlib.suppress(Exception):  # one of the user's own may have no config
        fresh = type(optimizer).from_config(optimizer.get_config())
        fresh.build(model.trainable_variables)
        if [v.shape for v in fresh.variables] == [v.shape for v in optimizer.variables]:
            pairs = zip(optimizer.variables, fresh.variables, strict=True)
            values = {id(variable): other.numpy() for variable, other in pairs}
    for variable in variables_of(model).values():
        zeros = np.zeros(variable.shape, tf.as_dtype(variable.dtype).as_numpy_dtype)
        yield variable, values.get(id(variable), zeros)


class HostCopies:
    """Copies of the values of variables, each in the memory of the one before.

    Args:
        variables: of Keras or TensorFlow.
    """

    def __init__(self, variables: Iterable[Any]):
        self.variables = list(variables)
        self._parts = [_keras.local_variables(v) for v in self.variables]
        self._read = reading([part for parts in self._parts for part in parts])
        self._buffers: list[list[np.ndarray | None]] = [[None] * len(p) for p in self._parts]

    def take(self) -> list[list[np.ndarray]]:
        """The present values, for each variable a list of those on its replicas.

        They are valid until the next call.
        """
        tensors = iter(self._read())
        for buffers in self._buffers:
            for index, buffer in enumerate(buffers):
                array = _viewed(next(tensors))
                if buffer is None or (buffer.shape, buffer.dtype) != (array.shape, array.dtype):
                    buffers[index] = np.array(array)
                else:
                    np.copyto(buffer, array)
        return self._buffers

    def put_back(self) -> None:
        """Gives the variables the values that were taken last."""
        for parts, buffers in zip(self._parts, self._buffers, strict=True):
            for part, buffer in zip(parts, buffers, strict=True):
                part.assign(buffer)

    @property
    def values(self) -> list[list[np.ndarray]]:
        """What was taken last."""
        return self._buffers

    @values.setter
    def values(self, values: list[list[np.ndarray]]) -> None:
        for parts, arrays in zip(self._parts, values, strict=True):
            for part, array in zip(parts, arrays, strict=True):
                if (tuple(part.shape), part.dtype.as_numpy_dtype) != (array.shape, array.dtype):
                    raise ValueError(f"{part.name} has another shape or type")
        self._buffers = [[np.array(array) for array in arrays] for arrays in values]

    def forget(self, most: int) -> None:
        """Frees the memory of the values where it has more bytes than that."""
        if sum(b.nbytes for buffers in self._buffers for b in buffers if b is not None) > most:
            self._buffers = [[None] * len(parts) for parts in self._parts]


def reading(variables: list[tf.Variable]) -> Callable[[], list[tf.Tensor]]:
    """A compiled function that reads variables, which is faster than reading one by one."""
    if not variables:
        return list

    def read():
        return [tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=v.dtype) for v in variables]

    return tf.function(read, autograph=False).get_concrete_function()


def _viewed(tensor):
    """A tensor's value as an array, without a copy where that is possible."""
    try:
        return np.asarray(memoryview(tensor))
    except (BufferError, TypeError, ValueError):  # on another device, or of a type of TensorFlow's
        return tensor.numpy()
