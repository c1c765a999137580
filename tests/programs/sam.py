"""Sharpness-aware minimization: the gradient is taken where the loss near the weights is highest."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class SAMModel(keras.Model):
    def __init__(self, network, rho=0.05):
        super().__init__()
        self.network = network
        self.rho = rho

    def call(self, inputs):
        return self.network(inputs)

    def train_step(self, data):
        images, labels = data
        e_ws = []
        with tf.GradientTape() as tape:
            predictions = self.network(images, training=True)
            loss = self.compute_loss(images, labels, predictions)
        trainable_params = self.network.trainable_variables
        gradients = tape.gradient(loss, trainable_params)
        scale = self.rho / (self._grad_norm(gradients) + 1e-12)
        for gradient, parameter in zip(gradients, trainable_params):
            e_w = gradient * scale
            parameter.assign_add(e_w)
            e_ws.append(e_w)
        with tf.GradientTape() as tape:
            predictions = self.network(images, training=True)
            loss = self.compute_loss(images, labels, predictions)
        sam_gradients = tape.gradient(loss, trainable_params)
        for parameter, e_w in zip(trainable_params, e_ws):
            parameter.assign_sub(e_w)
        self.optimizer.apply_gradients(zip(sam_gradients, trainable_params))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(labels, predictions)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        images, labels = data
        predictions = self.network(images, training=False)
        loss = self.compute_loss(images, labels, predictions)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(labels, predictions)
        return {m.name: m.result() for m in self.metrics}

    def _grad_norm(self, gradients):
        return tf.norm(tf.stack([tf.norm(g) for g in gradients if g is not None]))


def build():
    keras.utils.set_random_seed(12)
    rng = np.random.default_rng(11)
    x = rng.random((44, 6, 6, 1)).astype("float32")
    y = keras.utils.to_categorical(rng.integers(0, 3, size=44), 3)
    network = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model = SAMModel(network)
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    arguments = {"x": x, "y": y, "batch_size": 16, "epochs": 2, "shuffle": False}
    stop = keras.callbacks.EarlyStopping(patience=1, restore_best_weights=True)
    return model, {**arguments, "validation_data": (x[:9], y[:9]), "callbacks": [stop]}
