"""A siamese network on triplets: a model around a network of distances, its loss a metric."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops


class DistanceLayer(layers.Layer):
    """Squared distances of the anchor from the positive and from the negative embedding."""

    def call(self, anchor, positive, negative):
        ap_distance = ops.sum(ops.square(anchor - positive), -1)
        an_distance = ops.sum(ops.square(anchor - negative), -1)
        return ap_distance, an_distance


class SiameseModel(keras.Model):
    def __init__(self, siamese_network, margin=0.5):
        super().__init__()
        self.siamese_network = siamese_network
        self.margin = margin
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, inputs):
        return self.siamese_network(inputs)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self._compute_loss(data)
        gradients = tape.gradient(loss, self.siamese_network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.siamese_network.trainable_weights))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def test_step(self, data):
        self.loss_tracker.update_state(self._compute_loss(data))
        return {"loss": self.loss_tracker.result()}

    def _compute_loss(self, data):
        ap_distance, an_distance = self.siamese_network(data)
        return tf.maximum(ap_distance - an_distance + self.margin, 0.0)

    @property
    def metrics(self):
        return [self.loss_tracker]


def build():
    keras.utils.set_random_seed(8)
    embedding = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu", name="frozen"),
            layers.Flatten(),
            layers.Dense(12, activation="relu"),
            layers.BatchNormalization(),
            layers.Dense(6),
        ],
        name="Embedding",
    )
    embedding.get_layer("frozen").trainable = False
    inputs = [keras.Input((8, 8, 3), name=name) for name in ("anchor", "positive", "negative")]
    distances = DistanceLayer()(*(embedding(part) for part in inputs))
    siamese_network = keras.Model(inputs, distances)

    images = np.random.default_rng(7).random((3, 36, 8, 8, 3)).astype("float32")
    dataset = tf.data.Dataset.zip(tuple(tf.data.Dataset.from_tensor_slices(i) for i in images))
    train = dataset.take(28).batch(8, drop_remainder=False).prefetch(8)
    val = dataset.skip(28).batch(8)
    siamese_model = SiameseModel(siamese_network)
    siamese_model.compile(optimizer=keras.optimizers.Adam(0.001), weighted_metrics=[])
    return siamese_model, {"x": train, "epochs": 2, "validation_data": val}
