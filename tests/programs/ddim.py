"""A diffusion model: an adapted normalizer, a second network of moving averages, an own test step."""

import math

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops

SIZE = 8
EMA = 0.95


@keras.saving.register_keras_serializable("programs")
def sinusoidal_embedding(x):
    frequencies = ops.exp(ops.linspace(ops.log(1.0), ops.log(100.0), 4))
    speeds = ops.cast(2.0 * math.pi * frequencies, "float32")
    return ops.concatenate([ops.sin(speeds * x), ops.cos(speeds * x)], axis=3)


def get_network():
    noisy_images = keras.Input(shape=(SIZE, SIZE, 1))
    noise_variances = keras.Input(shape=(1, 1, 1))
    e = layers.Lambda(sinusoidal_embedding, output_shape=(1, 1, 8))(noise_variances)
    e = layers.UpSampling2D(size=SIZE, interpolation="nearest")(e)
    x = layers.Concatenate()([layers.Conv2D(4, kernel_size=1)(noisy_images), e])
    skip = layers.Conv2D(4, kernel_size=1)(x)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = layers.Conv2D(4, kernel_size=3, padding="same", activation="swish")(x)
    x = layers.Add()([layers.Conv2D(4, kernel_size=3, padding="same")(x), skip])
    x = layers.Conv2D(1, kernel_size=1, kernel_initializer="zeros")(x)
    return keras.Model([noisy_images, noise_variances], x, name="residual_unet")


class DiffusionModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.normalizer = layers.Normalization()
        self.network = get_network()
        self.ema_network = keras.models.clone_model(self.network)
        self.seed_generator = keras.random.SeedGenerator(11)

    def compile(self, **kwargs):
        super().compile(**kwargs)
        self.noise_loss_tracker = keras.metrics.Mean(name="n_loss")
        self.image_loss_tracker = keras.metrics.Mean(name="i_loss")

    @property
    def metrics(self):
        return [self.noise_loss_tracker, self.image_loss_tracker]

    def diffusion_schedule(self, times):
        start = ops.cast(ops.arccos(0.95), "float32")
        end = ops.cast(ops.arccos(0.02), "float32")
        angles = start + times * (end - start)
        return ops.sin(angles), ops.cos(angles)

    def denoise(self, noisy_images, noise_rates, signal_rates, training):
        network = self.network if training else self.ema_network
        pred_noises = network([noisy_images, noise_rates**2], training=training)
        return pred_noises, (noisy_images - noise_rates * pred_noises) / signal_rates

    def noised(self, images):
        images = self.normalizer(images, training=True)
        rows = ops.shape(images)[0]
        noises = keras.random.normal((rows, SIZE, SIZE, 1), seed=self.seed_generator)
        times = keras.random.uniform((rows, 1, 1, 1), 0.0, 1.0, seed=self.seed_generator)
        noise_rates, signal_rates = self.diffusion_schedule(times)
        return images, noises, noise_rates, signal_rates

    def train_step(self, images):
        images, noises, noise_rates, signal_rates = self.noised(images)
        noisy_images = signal_rates * images + noise_rates * noises
        with tf.GradientTape() as tape:
            pred_noises, pred_images = self.denoise(
                noisy_images, noise_rates, signal_rates, training=True
            )
            noise_loss = self.loss(noises, pred_noises)
            image_loss = self.loss(images, pred_images)
        gradients = tape.gradient(noise_loss, self.network.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.network.trainable_weights))
        self.noise_loss_tracker.update_state(noise_loss)
        self.image_loss_tracker.update_state(image_loss)
        for weight, ema_weight in zip(self.network.weights, self.ema_network.weights):
            ema_weight.assign(EMA * ema_weight + (1 - EMA) * weight)
        return {m.name: m.result() for m in self.metrics[:-1]}

    def test_step(self, images):
        images, noises, noise_rates, signal_rates = self.noised(images)
        noisy_images = signal_rates * images + noise_rates * noises
        pred_noises, pred_images = self.denoise(
            noisy_images, noise_rates, signal_rates, training=False
        )
        self.image_loss_tracker.update_state(self.loss(images, pred_images))
        self.noise_loss_tracker.update_state(self.loss(noises, pred_noises))
        return {m.name: m.result() for m in self.metrics}


def build():
    keras.utils.set_random_seed(5)
    images = np.random.default_rng(4).random((40, SIZE, SIZE, 1)).astype("float32")
    train = (
        tf.data.Dataset.from_tensor_slices(images[:32])
        .cache()
        .shuffle(32, seed=1, reshuffle_each_iteration=False)
    )
    train = train.repeat(2).batch(8, drop_remainder=True)
    val = tf.data.Dataset.from_tensor_slices(images[32:]).batch(8)
    model = DiffusionModel()
    model.compile(
        optimizer=keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4),
        loss=keras.losses.mean_absolute_error,
    )
    model.normalizer.adapt(images)
    return model, {"x": train, "epochs": 2, "validation_data": val}
