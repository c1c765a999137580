"""Small models and data that many tests share."""

import keras
import numpy as np
import tensorflow as tf


def regression(rows=11, features=4, outputs=2, seed=0):
    """``(x, y, sample_weight)`` with weights that are zero for some rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype("float32")
    y = rng.normal(size=(rows, outputs)).astype("float32")
    weight = rng.uniform(0.5, 2.0, size=rows).astype("float32")
    weight[::5] = 0.0
    return x, y, weight


def classes(rows=11, features=4, count=3, seed=0):
    """``(x, y)`` with class indices that the features decide."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype("float32")
    return x, np.argmax(x @ rng.normal(size=(features, count)), axis=-1)


def mlp(make=keras.Model, features=4, outputs=2, **dense):
    """A functional model of two dense layers."""
    inputs = keras.Input((features,))
    hidden = keras.layers.Dense(8, activation="tanh", **dense)(inputs)
    return make(inputs, keras.layers.Dense(outputs, **dense)(hidden))


def largest_difference(one, other):
    """The largest absolute difference between the weights of two models."""
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return max((float(np.abs(a - b).max()) for a, b in pairs if a.size), default=0.0)


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
