"""Contrastive learning by nearest neighbours: a queue of features is a variable that the step shifts."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops

QUEUE, WIDTH = 24, 6


class NNCLR(keras.Model):
    def __init__(self):
        super().__init__()
        self.correlation_accuracy = keras.metrics.SparseCategoricalAccuracy(name="correlation")
        self.contrastive_accuracy = keras.metrics.SparseCategoricalAccuracy()
        self.noise = layers.GaussianNoise(0.1, seed=2)
        self.encoder = keras.Sequential(
            [keras.Input((10,)), layers.Dense(12, activation="relu"), layers.Dense(WIDTH)]
        )
        first = np.random.default_rng(31).normal(size=(QUEUE, WIDTH)).astype("float32")
        self.feature_queue = keras.Variable(
            ops.normalize(first, axis=1, order=2), trainable=False, name="feature_queue"
        )

    def compile(self, contrastive_optimizer, **kwargs):
        super().compile(**kwargs)
        self.contrastive_optimizer = contrastive_optimizer

    def nearest_neighbour(self, projections):
        similarities = ops.matmul(projections, ops.transpose(self.feature_queue))
        nearest = ops.take(self.feature_queue, ops.argmax(similarities, axis=1), axis=0)
        return projections + ops.stop_gradient(nearest - projections)

    def contrastive_loss(self, projections_1, projections_2):
        projections_1 = ops.normalize(projections_1, axis=1, order=2)
        projections_2 = ops.normalize(projections_2, axis=1, order=2)
        neighbours = self.nearest_neighbour(projections_1)
        similarities = ops.matmul(neighbours, ops.transpose(projections_2)) / 0.1
        rows = ops.shape(projections_1)[0]
        labels = ops.arange(rows)
        loss = keras.losses.sparse_categorical_crossentropy(labels, similarities, from_logits=True)
        self.contrastive_accuracy.update_state(labels, similarities)
        self.correlation_accuracy.update_state(
            labels, ops.matmul(projections_1, ops.transpose(projections_2))
        )
        self.feature_queue.assign(ops.concatenate([projections_1, self.feature_queue[:-rows]]))
        return ops.mean(loss)

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        with tf.GradientTape() as tape:
            loss = self.contrastive_loss(
                self.encoder(self.noise(x, training=True)),
                self.encoder(self.noise(x, training=True)),
            )
        weights = self.encoder.trainable_weights
        self.contrastive_optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return {
            "c_acc": self.contrastive_accuracy.result(),
            "r_acc": self.correlation_accuracy.result(),
        }


def build():
    keras.utils.set_random_seed(32)
    x = np.random.default_rng(32).normal(size=(40, 10)).astype("float32")
    model = NNCLR()
    model.compile(contrastive_optimizer=keras.optimizers.Adam(0.01))
    return model, {"x": x, "batch_size": 8, "epochs": 3, "shuffle": False}
