"""Weighted ranks: how much weight lies below each row, and up to it.

::

    below, through = weight_below(values, weight)
    midrank = (below + through) / 2

Rows of weight 2 count as two rows, tied rows share their place, and the time is that of a
sort.
"""

import keras
import numpy as np
import tensorflow as tf


def weight_below(values: tf.Tensor, weight: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For each row the weight of the rows with a smaller value, and with a smaller or equal one.

    Args:
        values: float64 of shape ``(rows,)``; there may be none.
        weight: float64 of the same shape.

    Returns:
        Two tensors ``(rows,)`` in the order of ``values``.

    Example:
        >>> values, weight = tf.constant([3.0, 1.0, 3.0]), tf.constant([1.0, 5.0, 2.0])
        >>> below, through = weight_below(values, weight)
        >>> below.numpy().tolist(), through.numpy().tolist()
        ([5.0, 0.0, 5.0], [8.0, 5.0, 8.0])
    """
    order = keras.ops.argsort(values)
    # An end of infinity, since a search in nothing fails; so the last sum appears twice.
    ordered = tf.pad(tf.gather(values, order), [[0, 1]], constant_values=np.inf)
    sums = keras.ops.cumsum(tf.pad(tf.gather(weight, order), [[1, 1]]))
    below, through = (
        tf.gather(sums, keras.ops.searchsorted(ordered, values, side=side))
        for side in ("left", "right")
    )
    return below, through


def nan_where_any(values: tf.Tensor, result: tf.Tensor) -> tf.Tensor:
    """The result, NaN if a value is NaN: such have no order, and none that is the largest."""
    return keras.ops.where(keras.ops.any(keras.ops.isnan(values)), np.nan, result)
