"""Small models, layers and metrics that many tests share."""

import keras
import tensorflow as tf


def mlp(make=keras.Model, features=4, outputs=2, **dense):
    """A functional model of two dense layers."""
    inputs = keras.Input((features,))
    hidden = keras.layers.Dense(8, activation="tanh", **dense)(inputs)
    return make(inputs, keras.layers.Dense(outputs, **dense)(hidden))


def two_outputs(make=keras.Model, features=4, outputs=2, names="pq"):
    """A functional model of one dense layer for each output, by name."""
    inputs = keras.Input((features,))
    return make(inputs, {name: keras.layers.Dense(outputs, name=name)(inputs) for name in names})


@keras.saving.register_keras_serializable("tests")
class AddsLoss(keras.layers.Layer):
    """Adds a loss, the mean of the squares of what it is given, and hands that on."""

    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
        return x


def with_losses(make=keras.Model):
    """A functional model with every kind of loss that layers have, beside that of ``compile``."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(
        8, activation="tanh", kernel_regularizer="l2", activity_regularizer="l1"
    )(inputs)
    return make(inputs, keras.layers.Dense(2, bias_regularizer="l2")(AddsLoss()(hidden)))


class MeanLoss(keras.metrics.Metric):
    """The mean squared error over all rows, as a user would write it."""

    def __init__(self, name="mean_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)
        self.total.assign_add(keras.ops.sum(error))
        self.count.assign_add(keras.ops.cast(keras.ops.shape(error)[0], "float32"))

    def result(self):
        return keras.ops.divide_no_nan(self.total, self.count)


@keras.saving.register_keras_serializable("tests")
class Small(keras.Layer):
    """Memory for so many rows; ``after``: from that call on."""

    def __init__(self, rows, after=0, **arguments):
        super().__init__(**arguments)
        self.rows, self.after, self.calls = rows, after, 0

    def get_config(self):
        return super().get_config() | {"rows": self.rows, "after": self.after}

    def call(self, inputs):
        def allocate(x):
            self.calls += 1
            if len(x) > self.rows and self.calls > self.after:
                raise MemoryError("no room")  # TensorFlow makes it a ResourceExhaustedError
            return x

        @tf.custom_gradient
        def identity(x):
            allocated = tf.numpy_function(allocate, [x], x.dtype)
            return tf.ensure_shape(allocated, x.shape), lambda upstream: upstream

        return identity(inputs)


def small_network(rows, after=0):
    def make():
        keras.utils.set_random_seed(5)
        inputs = keras.Input((6,))
        hidden = keras.layers.Dense(8, activation="tanh")(Small(rows, after)(inputs))
        return keras.Model(inputs, keras.layers.Dense(1)(hidden))

    return make
