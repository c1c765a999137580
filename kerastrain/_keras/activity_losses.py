"""Losses of activity regularisers, which not every version of Keras divides by the rows.

Keras 3.14 and later adds what a regulariser returns, over the rows of the batch (layers/layer.py,
``Layer.__call__``); Keras 3.13 adds the very tensor. So the tensor is marked here, and a loss with
the mark is one that nobody has divided.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf


class _Marking:
    """Stands in for a regulariser, within ``entered`` calls of the model at the moment."""

    def __init__(self, regularizer: Callable[[Any], Any]) -> None:
        self.regularizer, self.entered = regularizer, 0

    def __call__(self, outputs: Any) -> Any:
        loss = self.regularizer(outputs)
        if isinstance(loss, tf.Tensor) and outputs.shape.rank != 0:
            loss._is_undivided = True
        return loss


@contextlib.contextmanager
def undivided_marked(model: keras.Model) -> Iterator[None]:
    """Inside, `is_undivided` knows the losses of the model's activity regularisers.

    Replicas take turns, so one may come in while another is inside.
    """
    layers = [one for one in model._flatten_layers() if one.activity_regularizer is not None]
    for layer in layers:
        if not isinstance(layer.activity_regularizer, _Marking):
            layer.__dict__["activity_regularizer"] = _Marking(layer.activity_regularizer)
        layer.activity_regularizer.entered += 1
    try:
        yield
    finally:
        for layer in layers:
            marking = layer.activity_regularizer
            marking.entered -= 1
            if not marking.entered:
                layer.__dict__["activity_regularizer"] = marking.regularizer


def is_undivided(loss: Any) -> bool:
    """Whether an added loss is a sum over the rows, of an activity regulariser."""
    return getattr(loss, "_is_undivided", False)
