"""The guide to a train_step of one's own: `compute_loss`, sample weights, class weights, metrics."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class CustomModel(keras.Model):
    def train_step(self, data):
        if len(data) == 3:
            x, y, sample_weight = data
        else:
            sample_weight = None
            x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred, sample_weight=sample_weight)
        trainable_vars = self.trainable_variables
        gradients = tape.gradient(loss, trainable_vars)
        self.optimizer.apply(gradients, trainable_vars)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred, sample_weight=sample_weight)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        x, y = data
        y_pred = self(x, training=False)
        loss = self.compute_loss(y=y, y_pred=y_pred)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {m.name: m.result() for m in self.metrics}


def build():
    keras.utils.set_random_seed(30)
    rng = np.random.default_rng(28)
    x = rng.random((44, 8)).astype("float32")
    y = rng.random((44, 1)).astype("float32")
    inputs = keras.Input(shape=(8,))
    model = CustomModel(inputs, layers.Dense(1)(layers.Dropout(0.1)(inputs)))
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    return model, {"x": x, "y": y, "batch_size": 16, "epochs": 2, "shuffle": False}


def train(fit, model, arguments):
    fit(model, **arguments)
    weights = np.random.default_rng(29).random((44, 1)).astype("float32")
    fit(model, **arguments, sample_weight=weights)
    fit(model, **arguments, validation_split=0.25)
