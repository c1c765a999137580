"""What the metrics of this package are given: flat columns, and a weight for each element.

::

    y_true, y_pred, weight = pair(y_true, y_pred, sample_weight)      # each (elements,)

Predictions may be ``(rows,)``, ``(rows, 1)`` or, for sequences, ``(rows, steps, 1)``,
targets the same with or without the last axis. A weight is for a row, for a row and
step, or one number for all; what a Keras mask on the predictions leaves out has the
weight 0. An element of weight 0 counts for nothing, whatever it holds, NaN too.
"""

from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import validation
from kerastrain.errors import ArgumentError
from kerastrain.errors import ShapeError


def column(name: str, values: Any) -> tf.Tensor:
    """One value for each row (and step), the last axis of length 1 dropped.

    Raises:
        ShapeError: there are several values for a row.
    """
    values = keras.ops.convert_to_tensor(values)
    if len(values.shape) == 1:
        return values
    if len(values.shape) == 0 or values.shape[-1] != 1:
        raise ShapeError(
            f"`{name}` must hold one value for each row: (rows,), (rows, 1) or (rows, steps, 1). "
            f"Received: shape {tuple(values.shape)}. Make one metric for each output, or reshape "
            "it to (-1, 1)."
        )
    return keras.ops.squeeze(values, -1)


def alike(name: str, values: Any, like: tf.Tensor) -> tf.Tensor:
    """The values in the shape of ``like``: a last axis of length 1 is dropped, or added.

    Raises:
        ShapeError: the shapes do not fit together.
    """
    values = keras.ops.convert_to_tensor(values)
    if len(values.shape) == len(like.shape) + 1 and values.shape[-1] == 1:
        values = keras.ops.squeeze(values, -1)
    elif len(values.shape) + 1 == len(like.shape) and like.shape[-1] == 1:
        values = keras.ops.expand_dims(values, -1)
    if not values.shape.is_compatible_with(like.shape):
        raise ShapeError(
            f"`{name}` has the shape {tuple(values.shape)}, the predictions have one value for "
            f"each of {tuple(like.shape)}. Give both the same rows, and a last axis of length 1 "
            "or none."
        )
    return values


def weights(sample_weight: Any, mask: Any, like: tf.Tensor) -> tf.Tensor:
    """A float64 weight for each element of ``like``, in its shape.

    Raises:
        ShapeError: weights for other rows, or several for an element.
    """
    weight = keras.ops.ones(keras.ops.shape(like), "float64")
    for name, factor in (("sample_weight", sample_weight), ("mask", mask)):
        if factor is not None:
            weight = weight * _in_rank_of(like, name, keras.ops.cast(factor, "float64"))
    return weight


def _in_rank_of(like: tf.Tensor, name: str, factor: tf.Tensor) -> tf.Tensor:
    shape = factor.shape
    while len(factor.shape) > len(like.shape) and factor.shape[-1] == 1:
        factor = keras.ops.squeeze(factor, -1)
    while 0 < len(factor.shape) < len(like.shape):
        factor = keras.ops.expand_dims(factor, -1)
    if len(factor.shape) > len(like.shape) or not factor.shape[:1].is_compatible_with(
        like.shape[: len(factor.shape[:1])]
    ):
        raise ShapeError(
            f"`{name}` has the shape {tuple(shape)}, the predictions have one value for each of "
            f"{tuple(like.shape)}. Give a weight for each row, (rows,), or one number for all."
        )
    return factor


def flat(values: tf.Tensor, dtype: str = "float64") -> tf.Tensor:
    """All elements as ``(elements,)``."""
    return keras.ops.cast(keras.ops.reshape(values, (-1,)), dtype)


def pair(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Targets, predictions and weights, each ``(elements,)`` in float64; one value for a row.

    Raises:
        ShapeError: several values for a row, or shapes that do not fit together.
    """
    mask = _keras.get_mask(y_pred)
    y_pred = column("y_pred", y_pred)
    y_true = alike("y_true", y_true, y_pred)
    return flat(y_true), flat(y_pred), flat(weights(sample_weight, mask, y_pred))


# Classes ----------------------------------------------------------------------


def class_scores(y_pred: Any) -> tuple[tf.Tensor, int]:
    """Scores and the number of classes: 2 where there is one score for a row."""
    y_pred = keras.ops.convert_to_tensor(y_pred)
    if len(y_pred.shape) > 1 and y_pred.shape[-1] is None:
        raise ShapeError(
            "`y_pred` must have a last axis of known length, the number of classes. Received: "
            f"shape {tuple(y_pred.shape)}. Use `keras.ops.reshape(y_pred, (-1, classes))`."
        )
    if len(y_pred.shape) > 1 and y_pred.shape[-1] > 1:
        return y_pred, int(y_pred.shape[-1])
    return column("y_pred", y_pred), 2


def class_labels(y_true: Any, like: tf.Tensor, classes: int) -> tf.Tensor:
    """Labels in the shape of ``like``; one-hot labels ``(..., classes)`` become numbers."""
    y_true = keras.ops.convert_to_tensor(y_true)
    if len(y_true.shape) == len(like.shape) + 1 and y_true.shape[-1] == classes:
        y_true = keras.ops.argmax(y_true, axis=-1)
    return alike("y_true", y_true, like)


def checked_labels(labels: tf.Tensor, weight: tf.Tensor, classes: int) -> tf.Tensor:
    """The labels ``(elements,)`` as int32; 0 where the weight is 0.

    A label that is none of 0 to ``classes - 1`` raises ``tf.errors.InvalidArgumentError``,
    compiled too, but not under XLA, which has no errors.
    """
    labels = keras.ops.where(keras.ops.equal(weight, 0.0), 0.0, keras.ops.cast(labels, "float64"))
    whole = keras.ops.cast(labels, "int32")
    valid = (labels >= 0) & (labels < classes) & keras.ops.equal(labels, keras.ops.floor(labels))
    return when(
        keras.ops.all(valid),
        f"`y_true` must hold whole numbers from 0 to {classes - 1}, the {classes} classes. Correct "
        "the labels or the number of classes, or give such rows the weight 0. Received labels:",
        labels,
        whole,
    )


def when(condition: tf.Tensor, message: str, received: tf.Tensor, values: Any) -> Any:
    """The values, once the condition is known to hold.

    Raises:
        tf.errors.InvalidArgumentError: it does not hold, eager or compiled; nothing that
            follows from the values has happened then.
    """
    check = tf.debugging.Assert(condition, [message, received])
    with tf.control_dependencies([] if check is None else [check]):
        return keras.tree.map_structure(tf.identity, values)


# Constructors -----------------------------------------------------------------


def one_of(name: str, value: Any, options: tuple) -> Any:
    """The value, if it is one of the options."""
    validation.one_of(name, value, options)
    return value


def whole_number(name: str, value: Any, least: int) -> int:
    """The value, if it is a whole number from ``least`` on."""
    return validation.whole_number(name, value, least)


def number(name: str, value: Any, low: float, high: float) -> float:
    """The value as a float, if it is a finite number from ``low`` to ``high``."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or abs(value) == float("inf"):
        raise ArgumentError(
            f"`{name}` must be a finite number from {low} to {high}. Received: {name}={value!r}."
        )
    return float(value)
