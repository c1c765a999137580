"""Arrays and long lists, as short values that are the same for equal ones."""

import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

from kerastrain.state import digest_of

# Longer lists are described by a digest, the longest by one of their ends; so are arrays of up to
# this number of bytes.
LONG, LONGEST, _LARGE = 64, 10_000, 2**24


def shortened(items: list[Any], count: int | None = None) -> list[Any] | str:
    """A list as it is described; a long one is its length and a digest.

    Args:
        items: the descriptions of all items, or of the first and last ones of very many.
        count: how many items there are; None where these are all.
    """
    if count is None:
        count = len(items)
        items = items if count <= LONGEST else [*items[:LONG], *items[-LONG:]]
    if count <= LONG:
        return items
    return f"{count} values, {hashlib.sha256(repr(items).encode()).hexdigest()[:16]}"


def of_array(value: np.ndarray | tf.Tensor) -> str:
    """Type, shape and digest of an array; no digest of one that is large, or has no value."""
    text = f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"{text} {digest_of(value)}" if value.nbytes <= _LARGE else text
    is_known = isinstance(value, tf.__internal__.EagerTensor) and value.dtype.size
    if not is_known or value.dtype in (tf.resource, tf.variant):
        return text
    return f"{text} {digest_of(value)}" if np.prod(value.shape) * 8 <= _LARGE else text
