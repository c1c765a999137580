"""What layers do together on several replicas."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import nn as keras_nn
from tensorflow.python.distribute import ps_values

from kerastrain._keras.metrics import all_metrics
from kerastrain._keras.metrics import own_variables
from kerastrain._keras.variables import tf_variable


@contextlib.contextmanager
def synchronized_moments(moments: Callable) -> Iterator[None]:
    """Inside, synchronised batch statistics are ``moments(x, axes, keepdims)``."""
    keras_own = keras_nn._compute_moments_sync  # backend/tensorflow/nn.py
    keras_nn._compute_moments_sync = moments
    try:
        yield
    finally:
        keras_nn._compute_moments_sync = keras_own


@contextlib.contextmanager
def random_seeds(change: Callable) -> Iterator[None]:
    """Inside, what a ``SeedGenerator`` draws goes through ``change(seed)``."""
    draw = keras.random.SeedGenerator.next
    keras.random.SeedGenerator.next = lambda *args, **kwargs: change(draw(*args, **kwargs))
    try:
        yield
    finally:
        keras.random.SeedGenerator.next = draw


def let_replicas_update(model: keras.Model) -> None:
    """Under a ``CentralStorageStrategy``, lets replicas update the one variable they share.

    Metrics become plain variables, which the replicas update in turn: TensorFlow
    would add up what each has read and added. Other variables, of which Keras
    3.15.1 says nothing, get the mean of what the replicas assign if they are
    floats (batch statistics), else what the first assigns (random seeds).
    """
    state = {id(v) for metric in all_metrics(model) for v in own_variables(metric)}
    for variable in [*model.variables, *(v for m in model.metrics for v in m.variables)]:
        value = tf_variable(variable)
        if not isinstance(value, ps_values.AggregatingVariable):
            continue
        if id(variable) in state:
            variable._value = value._v
        elif value.aggregation == tf.VariableAggregation.NONE:
            value._aggregation = (
                tf.VariableAggregation.MEAN
                if value.dtype.is_floating
                else tf.VariableAggregation.ONLY_FIRST_REPLICA
            )
