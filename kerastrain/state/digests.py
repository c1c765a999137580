"""Digests of batches, which identify a batch in any process and on any machine.

::

    digest_of((x, y))                    # '9f86d081884c7d65', of what the batch holds
    digest_of((x, None)) != digest_of((None, x))

A digest is of the nesting, and of the dtype, the shape and the values of each part. Arrays,
and tensors of TensorFlow that hold the same, have one digest; so have rows that are ragged
or sparse, if they are kept in the same way.
"""

import hashlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# Bits enough for batches that nobody makes up so as to be mistaken for one another.
_BYTES = 8


def digest_of(batch: Any) -> str:
    """The digest of a batch, as hexadecimal digits.

    Args:
        batch: a structure of dicts, tuples and lists of arrays, tensors (ragged and sparse
            ones too), strings, numbers and None.
    """
    digest = hashlib.blake2b(digest_size=_BYTES)
    _add(digest.update, batch)
    return digest.hexdigest()


def joined(*digests: str | None) -> str:
    """One digest of several, in their order."""
    return hashlib.blake2b(repr(digests).encode(), digest_size=_BYTES).hexdigest()


def _add(update: Callable[[Any], None], part: Any) -> None:
    """Lets ``update`` take all that identifies a part."""
    if isinstance(part, Mapping):
        keys = sorted(part, key=str)
        update(f"dict of {len(keys)};".encode())
        for key in keys:
            update(f"{key!r}:".encode())
            _add(update, part[key])
    elif isinstance(part, tuple | list):  # Keras takes one for the other
        update(f"sequence of {len(part)};".encode())
        for item in part:
            _add(update, item)
    elif part is None:
        update(b"none;")
    elif isinstance(part, tf.RaggedTensor | tf.SparseTensor):
        update(f"{type(part).__name__};".encode())
        _add(update, tf.nest.flatten(part, expand_composites=True))
    else:
        _add_array(update, part.numpy() if isinstance(part, tf.Tensor) else np.asarray(part))


def _add_array(update: Callable[[Any], None], array: Any) -> None:
    array = np.asarray(array)  # the value of a scalar tensor is no array
    if array.dtype.kind in "OUS":
        update(f"text{array.shape};".encode())
        for item in array.reshape(-1):
            item = item if isinstance(item, bytes) else str(item).encode()
            update(f"{len(item)}:".encode() + item)
        return
    update(f"{array.dtype.name}{array.shape};".encode())
    little = array.dtype.newbyteorder("<") if array.dtype.kind in "iufc" else array.dtype
    update(np.ascontiguousarray(array, dtype=little).reshape(-1).view(np.uint8))
