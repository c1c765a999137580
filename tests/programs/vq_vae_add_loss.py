"""The vector-quantized autoencoder again, with no step of its own: its losses by ``add_loss``."""

import keras

from tests.programs import vq_vae


def build():
    _, arguments = vq_vae.build()
    keras.utils.set_random_seed(28)
    model = vq_vae.get_vqvae()
    model.compile(optimizer=keras.optimizers.Adam(), loss="mse", metrics=["mae"])
    return model, {**arguments, "y": arguments["x"]}
