"""A variational autoencoder end to end: layers and a model that call ``add_loss``, no own step."""

import keras
import numpy as np
from keras import layers
from keras import ops


class Encoder(layers.Layer):
    """Maps inputs to (mean, log variance, z)."""

    def __init__(self, latent_dim=3, intermediate_dim=16, **kwargs):
        super().__init__(**kwargs)
        self.dense_proj = layers.Dense(intermediate_dim, activation="relu")
        self.dense_mean = layers.Dense(latent_dim)
        self.dense_log_var = layers.Dense(latent_dim)
        self.seed_generator = keras.random.SeedGenerator(5)

    def call(self, inputs):
        x = self.dense_proj(inputs)
        z_mean, z_log_var = self.dense_mean(x), self.dense_log_var(x)
        epsilon = keras.random.normal(ops.shape(z_mean), seed=self.seed_generator)
        return z_mean, z_log_var, z_mean + ops.exp(0.5 * z_log_var) * epsilon


class Decoder(layers.Layer):
    def __init__(self, original_dim, intermediate_dim=16, **kwargs):
        super().__init__(**kwargs)
        self.dense_proj = layers.Dense(intermediate_dim, activation="relu")
        self.dense_output = layers.Dense(original_dim, activation="sigmoid")

    def call(self, inputs):
        return self.dense_output(self.dense_proj(inputs))


class VariationalAutoEncoder(keras.Model):
    def __init__(self, original_dim, **kwargs):
        super().__init__(**kwargs)
        self.encoder = Encoder()
        self.decoder = Decoder(original_dim)

    def call(self, inputs):
        z_mean, z_log_var, z = self.encoder(inputs)
        kl_loss = -0.5 * ops.mean(z_log_var - ops.square(z_mean) - ops.exp(z_log_var) + 1)
        self.add_loss(kl_loss)
        return self.decoder(z)


def build():
    keras.utils.set_random_seed(4)
    x_train = np.random.default_rng(3).random((44, 12)).astype("float32")
    vae = VariationalAutoEncoder(12)
    vae.compile(keras.optimizers.Adam(learning_rate=1e-3), loss=keras.losses.MeanSquaredError())
    return vae, {"x": x_train, "y": x_train, "epochs": 3, "batch_size": 16, "shuffle": False}
