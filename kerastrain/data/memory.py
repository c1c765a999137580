"""Memory of one's own: batches stay what they were when drawn, and are copied only once.

::

    copied(array)               # a tensor; what is done to the array does not change it
    rows = empty((96, 5), "float32")
    rows[:32] = first           # copied here ...
    as_tensor(rows)             # ... and not again

TensorFlow takes over an array whose memory begins where its kernels want it, and copies others.
``tf.convert_to_tensor`` copies beforehand in any case, so that most arrays are copied twice;
what comes out of ``tf.numpy_function`` is taken over without being copied at all. Here an
array is copied into memory that TensorFlow takes over.
"""

import copy
import numbers
from collections.abc import Generator
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# TensorFlow's kernels want memory that is aligned to this number of bytes.
_ALIGNMENT = 64
# Kinds of NumPy's types that are the same to TensorFlow, bit for bit.
_NUMBERS = "biufc"
# Types of parts that cannot change.
_CONSTANTS = (str, bytes, numbers.Number, np.generic)


def empty(shape: tuple, dtype: Any) -> np.ndarray:
    """An array without values, in memory that TensorFlow takes over."""
    dtype = np.dtype(dtype).newbyteorder("=")
    if dtype.kind not in _NUMBERS:
        return np.empty(shape, dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """A tensor in the memory of an array that nothing else will change."""
    if array.dtype.kind not in _NUMBERS or not array.flags.c_contiguous:
        return tf.convert_to_tensor(array)
    return tf.raw_ops.Identity(input=array)


def copied(array: np.ndarray) -> tf.Tensor:
    """The array as a tensor, copied once."""
    if array.dtype.kind not in _NUMBERS:
        return tf.convert_to_tensor(array)  # whose values TensorFlow makes anew
    own = empty(array.shape, array.dtype)
    np.copyto(own, array)
    return as_tensor(own)


def clear(array: np.ndarray) -> None:
    """Makes zeros of the values, or empty strings."""
    array[...] = b"" if array.dtype == object else np.zeros((), array.dtype)


def copied_parts(batch: Any) -> Any:
    """A batch that Python has drawn, as it is now, for what comes to it later."""
    return keras.tree.map_structure(_copied_part, batch)


def _copied_part(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf.copy()
    never_changes = leaf is None or tf.is_tensor(leaf) or isinstance(leaf, _CONSTANTS)
    return leaf if never_changes else copy.deepcopy(leaf)  # of torch, SciPy or pandas


def copied_tensors(batch: Any) -> Any:
    """A batch of tensors, in memory of their own; in a graph or outside."""
    return tf.nest.map_structure(lambda t: tf.raw_ops.DeepCopy(x=t), batch, expand_composites=True)


class PeekedAt:
    """A generator of which some batches are drawn before the first of them is used.

    Args:
        batches: the generator.

    Attributes:
        batches: one that yields the same.
        copies: whether what is drawn is copied.
    """

    def __init__(self, batches: Generator[Any, Any, Any]) -> None:
        self.copies = True
        self.batches = self._drawn(batches)

    def _drawn(self, batches: Iterator[Any]) -> Generator[Any, None, None]:
        for batch in batches:
            yield copied_parts(batch) if self.copies else batch
