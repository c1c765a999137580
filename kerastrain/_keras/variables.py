"""Variables on one device and on replicas."""

import keras
import tensorflow as tf


def model_strategy(model: keras.Model):
    """The strategy in whose scope the model was made, or None."""
    return model._distribute_strategy


def replicas_of(model: keras.Model) -> int:
    """The number of replicas of the strategy that the model was made under, or 1."""
    strategy = model_strategy(model)
    return strategy.num_replicas_in_sync if strategy is not None else 1


def is_distributed(variable) -> bool:
    """Whether each replica has a value of its own."""
    return isinstance(tf_variable(variable), tf.distribute.DistributedValues)


def tf_variable(variable):
    """The TensorFlow variable inside a ``keras.Variable``, or one itself."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def local_variables(variable) -> list[tf.Variable]:
    """The variable on each replica (one entry without replicas)."""
    value = tf_variable(variable)
    return list(value.values) if isinstance(value, tf.distribute.DistributedValues) else [value]


def read_local(variable) -> list[tf.Tensor]:
    """A copy of the value on each replica."""
    return [tf.identity(part) for part in local_variables(variable)]


def assign_local(variable, parts: list[tf.Tensor]) -> None:
    """Gives each replica the value that `read_local` read."""
    for component, part in zip(local_variables(variable), parts, strict=True):
        component.assign(part)
