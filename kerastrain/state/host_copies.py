"""Copies of the values of variables in the host's memory.

::

    copies = HostCopies(ModelState(model).variables().values())
    values = copies.take()                       # for each the arrays of its replicas
    copies.restore()

A copy is made again into the memory of the one before: of 252 MB that takes 45 ms on two cores,
where memory that is new each time takes 80 ms and more.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras


class HostCopies:
    """Copies of the values of variables, each in the memory of the one before.

    Args:
        variables: of Keras or TensorFlow.
        tables: whose values are copied too (`kerastrain.state.tables.Tables`); None for none.

    Attributes:
        variables, tables: as passed.
        of_tables: what the tables had when values were taken last.
    """

    def __init__(self, variables: Iterable[Any], tables: Any = None):
        self.variables, self.tables = list(variables), tables
        self.of_tables: dict[str, dict[str, Any]] = {}
        self._parts = [_keras.local_variables(v) for v in self.variables]
        # Arrays, or None where nothing was taken yet.
        self._buffers: list[list[Any]] = [[None] * len(p) for p in self._parts]
        self._look_at_parts()

    def _look_at_parts(self) -> None:
        self._read = reading([part for parts in self._parts for part in parts])
        self._places = {
            id(part.handle): (number, index)
            for number, parts in enumerate(self._parts)
            for index, part in enumerate(parts)
        }

    def add(self, variables: Iterable[Any]) -> None:
        """Takes the present values of more variables; those of the others stay what they are."""
        others = HostCopies(variables)
        others.take()
        self.variables += others.variables
        self._parts += others._parts
        self._buffers += others._buffers
        self._look_at_parts()

    def take(self) -> list[list[np.ndarray]]:
        """The present values, for each variable a list of those on its replicas.

        They are valid until the next call.
        """
        if self.tables is not None:
            self.of_tables = self.tables.states()
        tensors = iter(self._read())
        for buffers in self._buffers:
            for index, buffer in enumerate(buffers):
                array = _viewed(next(tensors))
                if buffer is None or (buffer.shape, buffer.dtype) != (array.shape, array.dtype):
                    buffers[index] = np.array(array)
                else:
                    np.copyto(buffer, array)
        return self._buffers

    def restore(self) -> None:
        """Gives the variables and tables the values that were taken last."""
        if self.tables is not None:
            self.tables.restore(self.of_tables)
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

    def of(self, part: tf.Variable) -> np.ndarray | None:
        """What was taken last of a variable's part on a replica; None where it is none of these."""
        place = self._places.get(id(part.handle))
        return None if place is None else self._buffers[place[0]][place[1]]

    def forget(self, most: int) -> None:
        """Frees the memory of the values where it has more bytes than that."""
        if sum(b.nbytes for buffers in self._buffers for b in buffers if b is not None) > most:
            self._buffers = [[None] * len(parts) for parts in self._parts]


@contextlib.contextmanager
def rolled_back(variables: Iterable[Any], tables: Any = None) -> Iterator[HostCopies]:
    """Rolls variables and tables back to their values before, however it ends.

    More may be added to the copies inside.
    """
    copies = HostCopies(variables, tables)
    copies.take()
    try:
        yield copies
    finally:
        copies.restore()


def learning_rates(optimizers: Iterable[keras.optimizers.Optimizer]) -> list[Any]:
    """The variables of optimizers' learning rates; a schedule has none."""
    found = [v for one in optimizers for v in one.variables if v.name == "learning_rate"]
    return list({id(v): v for v in found}.values())


def reading(variables: list[tf.Variable]) -> Callable[[], list[tf.Tensor]]:
    """A compiled function that reads variables, which is faster than reading one by one."""
    if not variables:
        return list

    def read() -> list[tf.Tensor]:
        return [tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=v.dtype) for v in variables]

    return tf.function(read, autograph=False).get_concrete_function()


def _viewed(tensor: tf.Tensor) -> np.ndarray:
    """A tensor's value as an array, without a copy where that is possible."""
    try:
        return np.asarray(memoryview(tensor))
    except (BufferError, TypeError, ValueError):  # on another device, or of a type of TensorFlow's
        return tensor.numpy()
