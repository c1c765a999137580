"""The guide, going lower-level: a loss and metrics that compile never saw, and the `metrics` property."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class CustomModel(keras.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.mae_metric = keras.metrics.MeanAbsoluteError(name="mae")
        self.loss_fn = keras.losses.MeanSquaredError()

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.loss_fn(y, y_pred) + sum(self.losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        self.loss_tracker.update_state(loss)
        self.mae_metric.update_state(y, y_pred)
        return {
            "train_loss": self.loss_tracker.result(),
            "mean_error": self.mae_metric.result(),
            "logs": {"rate": self.optimizer.learning_rate, "mae": self.mae_metric.result()},
        }

    @property
    def metrics(self):
        return [self.loss_tracker, self.mae_metric]


def build():
    keras.utils.set_random_seed(31)
    rng = np.random.default_rng(30)
    x = rng.random((40, 8)).astype("float32")
    y = rng.random((40, 1)).astype("float32")
    inputs = keras.Input(shape=(8,))
    outputs = layers.Dense(1, kernel_regularizer="l2")(layers.Dense(4, activation="tanh")(inputs))
    model = CustomModel(inputs, outputs)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    return model, {"x": x, "y": y, "epochs": 3, "batch_size": 8, "shuffle": False}
