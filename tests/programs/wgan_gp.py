"""A Wasserstein GAN with gradient penalty: several steps of the critic for one of the generator."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

LATENT = 5


class WGAN(keras.Model):
    def __init__(self, critic, generator, critic_steps=3, gp_weight=10.0):
        super().__init__()
        self.critic = critic
        self.generator = generator
        self.critic_steps = critic_steps
        self.gp_weight = gp_weight
        self.seed_generator = keras.random.SeedGenerator(7)

    def compile(self, critic_optimizer, generator_optimizer, critic_loss, generator_loss):
        super().compile()
        self.critic_optimizer = critic_optimizer
        self.generator_optimizer = generator_optimizer
        self.critic_loss = critic_loss
        self.generator_loss = generator_loss

    def noise(self, rows):
        return keras.random.normal((rows, LATENT), seed=self.seed_generator)

    def gradient_penalty(self, rows, real, fake):
        alpha = keras.random.uniform((rows, 1), seed=self.seed_generator)
        between = real + alpha * (fake - real)
        with tf.GradientTape() as tape:
            tape.watch(between)
            scores = self.critic(between, training=True)
        gradients = tape.gradient(scores, [between])[0]
        norm = tf.sqrt(tf.reduce_sum(tf.square(gradients), axis=1))
        return tf.reduce_mean((norm - 1.0) ** 2)

    def train_step(self, real):
        if isinstance(real, tuple):
            real = real[0]
        rows = tf.shape(real)[0]
        for _ in range(self.critic_steps):
            noise = self.noise(rows)
            with tf.GradientTape() as tape:
                fake = self.generator(noise, training=True)
                cost = self.critic_loss(
                    self.critic(real, training=True), self.critic(fake, training=True)
                )
                penalty = self.gradient_penalty(rows, real, fake)
                d_loss = cost + penalty * self.gp_weight
            gradients = tape.gradient(d_loss, self.critic.trainable_variables)
            self.critic_optimizer.apply_gradients(zip(gradients, self.critic.trainable_variables))
        noise = self.noise(rows)
        with tf.GradientTape() as tape:
            fake = self.generator(noise, training=True)
            g_loss = self.generator_loss(self.critic(fake, training=True))
        gradients = tape.gradient(g_loss, self.generator.trainable_variables)
        self.generator_optimizer.apply_gradients(zip(gradients, self.generator.trainable_variables))
        return {"d_loss": d_loss, "g_loss": g_loss}


def build():
    keras.utils.set_random_seed(2)
    x = np.random.default_rng(1).normal(size=(32, 4)).astype("float32")
    critic = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(12),
            layers.LeakyReLU(),
            layers.Dropout(0.3),
            layers.Dense(1),
        ]
    )
    generator = keras.Sequential(
        [
            keras.Input((LATENT,)),
            layers.Dense(12, use_bias=False),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Dense(4, activation="tanh"),
        ]
    )
    model = WGAN(critic, generator)
    model.compile(
        critic_optimizer=keras.optimizers.Adam(0.002, beta_1=0.5, beta_2=0.9),
        generator_optimizer=keras.optimizers.Adam(0.002, beta_1=0.5, beta_2=0.9),
        critic_loss=lambda real, fake: tf.reduce_mean(fake) - tf.reduce_mean(real),
        generator_loss=lambda fake: -tf.reduce_mean(fake),
    )
    return model, {"x": x, "batch_size": 8, "epochs": 2, "shuffle": False}
