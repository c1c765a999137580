"""Arithmetic on gradient sets: lists of one gradient, or None, for each weight.

::

    gradients = clip(gradients, StepOptions(global_clipnorm=1.0))
"""

from typing import Any
from typing import overload

import tensorflow as tf

from kerastrain.options import StepOptions

Gradients = list[tf.Tensor | tf.IndexedSlices | None]


@overload
def add(left: Gradients | None, right: Gradients) -> Gradients:
    """Adds a set to another one, if there is one."""


@overload
def add(left: Gradients | None, right: Gradients | None) -> Gradients | None:
    """Adds two sets of which none may be there."""


def add(left: Gradients | None, right: Gradients | None) -> Gradients | None:
    """Adds two sets; None, for a set or in it, counts as nothing."""
    if left is None or right is None:
        return right if left is None else left
    return [
        b if a is None else a if b is None else a + tf.convert_to_tensor(b)
        for a, b in zip(left, right, strict=True)
    ]


def sum_duplicates(gradients: Gradients, dense: bool) -> Gradients:
    """Sums the entries of a sparse gradient that belong to one row of the weight.

    A token that occurs twice in a batch has two entries in the gradient of its
    embedding. Keras 3.15.1 squares and clips them one by one: Adam's second
    moment is then a sum of squares where it should be the square of a sum.

    Args:
        gradients: ``IndexedSlices`` or tensors.
        dense: return dense tensors, as XLA needs: it has no dynamic shapes.
    """

    def summed(
        gradient: tf.Tensor | tf.IndexedSlices | None,
    ) -> tf.Tensor | tf.IndexedSlices | None:
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient
        if dense:
            return tf.convert_to_tensor(gradient)
        rows, entries = tf.unique(gradient.indices)
        values = tf.math.unsorted_segment_sum(gradient.values, entries, tf.size(rows))
        return tf.IndexedSlices(values, rows, gradient.dense_shape)

    return [summed(g) for g in gradients]


def rescale(gradients: Gradients, factor: Any) -> Gradients:
    """Gradients times a scalar; sparse ones stay sparse."""

    def multiply(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor | tf.IndexedSlices:
        by = tf.cast(factor, gradient.dtype)
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(gradient.values * by, gradient.indices, gradient.dense_shape)
        return gradient * by

    return [None if g is None else multiply(g) for g in gradients]


def of_real_rows(gradients: Gradients, rows: tf.Tensor) -> Gradients:
    """The gradients, or zeros where the replica has no rows.

    A row of zeros has stood in for them, whose derivatives may be NaN. Nothing
    is copied where there are rows.
    """
    present = [g for g in gradients if g is not None]
    kept = iter(tf.cond(rows > 0, lambda: present, lambda: [tf.zeros_like(g) for g in present]))
    return [None if g is None else next(kept) for g in gradients]


def dense(gradients: Gradients) -> Gradients:
    """The gradients as tensors."""
    return [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def clip(gradients: Gradients, options: StepOptions, scale: Any = 1.0) -> Gradients:
    """Clips gradients; those that are not finite stay so, for loss scaling to see.

    Args:
        gradients: tensors, ``IndexedSlices`` or None, each times ``scale``.
        options: at most one kind of clipping.
        scale: the loss scale, a scalar.

    Example:
        >>> clip([tf.constant([3.0, -4.0])], StepOptions(clipvalue=1.0))[0].numpy()
        array([ 1., -1.], dtype=float32)
    """
    if options.clipvalue is not None:
        limit = options.clipvalue * scale

        def clip_one(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor:
            gradient = tf.convert_to_tensor(gradient)
            bound = tf.cast(limit, gradient.dtype)
            clipped = tf.clip_by_value(gradient, -bound, bound)
            return tf.where(tf.math.is_finite(gradient), clipped, gradient)

        return [None if g is None else clip_one(g) for g in gradients]
    if options.clipnorm is not None:
        limit = options.clipnorm * scale
        return [
            None if g is None else tf.clip_by_norm(g, tf.cast(limit, g.dtype)) for g in gradients
        ]
    if options.global_clipnorm is not None:
        dtype = next((g.dtype for g in gradients if g is not None), tf.float32)
        limit = tf.cast(options.global_clipnorm * scale, dtype)
        return tf.clip_by_global_norm(gradients, limit)[0]
    return gradients
