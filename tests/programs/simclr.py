"""Contrastive pretraining with a linear probe: nested batches of unequal lengths, two optimizers."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops


def augmenter(brightness, name):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.RandomFlip("horizontal", seed=3),
            layers.RandomTranslation(0.1, 0.1, seed=4),
            layers.RandomBrightness(brightness, value_range=(0, 1), seed=5),
        ],
        name=name,
    )


class ContrastiveModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.temperature = 0.1
        self.contrastive_augmenter = augmenter(0.3, "contrastive_augmenter")
        self.classification_augmenter = augmenter(0.1, "classification_augmenter")
        self.encoder = keras.Sequential(
            [
                layers.Conv2D(6, 3, strides=2, activation="relu"),
                layers.Flatten(),
                layers.Dense(10, activation="relu"),
            ],
            name="encoder",
        )
        self.projection_head = keras.Sequential(
            [keras.Input((10,)), layers.Dense(10, activation="relu"), layers.Dense(10)]
        )
        self.linear_probe = keras.Sequential([keras.Input((10,)), layers.Dense(3)])

    def compile(self, contrastive_optimizer, probe_optimizer, **kwargs):
        super().compile(**kwargs)
        self.contrastive_optimizer = contrastive_optimizer
        self.probe_optimizer = probe_optimizer
        self.probe_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.contrastive_loss_tracker = keras.metrics.Mean(name="c_loss")
        self.contrastive_accuracy = keras.metrics.SparseCategoricalAccuracy(name="c_acc")
        self.probe_loss_tracker = keras.metrics.Mean(name="p_loss")
        self.probe_accuracy = keras.metrics.SparseCategoricalAccuracy(name="p_acc")

    @property
    def metrics(self):
        return [
            self.contrastive_loss_tracker,
            self.contrastive_accuracy,
            self.probe_loss_tracker,
            self.probe_accuracy,
        ]

    def contrastive_loss(self, projections_1, projections_2):
        projections_1 = ops.normalize(projections_1, axis=1)
        projections_2 = ops.normalize(projections_2, axis=1)
        similarities = ops.matmul(projections_1, ops.transpose(projections_2)) / self.temperature
        labels = ops.arange(ops.shape(projections_1)[0])
        self.contrastive_accuracy.update_state(labels, similarities)
        self.contrastive_accuracy.update_state(labels, ops.transpose(similarities))
        losses = [
            keras.losses.sparse_categorical_crossentropy(labels, s, from_logits=True)
            for s in (similarities, ops.transpose(similarities))
        ]
        return (losses[0] + losses[1]) / 2

    def train_step(self, data):
        (unlabeled_images, _), (labeled_images, labels) = data
        images = ops.concatenate((unlabeled_images, labeled_images), axis=0)
        augmented_1 = self.contrastive_augmenter(images, training=True)
        augmented_2 = self.contrastive_augmenter(images, training=True)
        with tf.GradientTape() as tape:
            projections_1 = self.projection_head(self.encoder(augmented_1, training=True))
            projections_2 = self.projection_head(self.encoder(augmented_2, training=True))
            contrastive_loss = self.contrastive_loss(projections_1, projections_2)
        weights = self.encoder.trainable_weights + self.projection_head.trainable_weights
        gradients = tape.gradient(contrastive_loss, weights)
        self.contrastive_optimizer.apply_gradients(zip(gradients, weights))
        self.contrastive_loss_tracker.update_state(contrastive_loss)

        preprocessed = self.classification_augmenter(labeled_images, training=True)
        with tf.GradientTape() as tape:
            class_logits = self.linear_probe(self.encoder(preprocessed, training=False))
            probe_loss = self.probe_loss(labels, class_logits)
        gradients = tape.gradient(probe_loss, self.linear_probe.trainable_weights)
        self.probe_optimizer.apply_gradients(zip(gradients, self.linear_probe.trainable_weights))
        self.probe_loss_tracker.update_state(probe_loss)
        self.probe_accuracy.update_state(labels, class_logits)
        return {m.name: m.result() for m in self.metrics}

    def test_step(self, data):
        labeled_images, labels = data
        preprocessed = self.classification_augmenter(labeled_images, training=False)
        class_logits = self.linear_probe(self.encoder(preprocessed, training=False))
        self.probe_loss_tracker.update_state(self.probe_loss(labels, class_logits))
        self.probe_accuracy.update_state(labels, class_logits)
        return {m.name: m.result() for m in self.metrics[2:]}


def build():
    keras.utils.set_random_seed(7)
    rng = np.random.default_rng(6)
    images = rng.integers(0, 256, size=(60, 8, 8, 1)).astype("uint8")
    labels = rng.integers(0, 3, size=60)

    def dataset(start, stop, rows):
        rows_of = tf.data.Dataset.from_tensor_slices((images[start:stop], labels[start:stop]))
        return rows_of.shuffle(40, seed=2, reshuffle_each_iteration=False).batch(rows)

    train = tf.data.Dataset.zip((dataset(0, 30, 10), dataset(30, 45, 5))).prefetch(2)
    model = ContrastiveModel()
    model.compile(
        contrastive_optimizer=keras.optimizers.Adam(), probe_optimizer=keras.optimizers.Adam()
    )
    return model, {"x": train, "epochs": 2, "validation_data": dataset(45, 60, 5)}
