"""The distributed training guide: a MirroredStrategy, all in its scope, a data set of known length."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def get_compiled_model():
    inputs = keras.Input(shape=(16,))
    x = layers.Dense(24, activation="relu")(inputs)
    x = layers.Dense(24, activation="relu")(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    return model


def get_dataset():
    rng = np.random.default_rng(23)
    x, y = rng.random((64, 16)).astype("float32"), rng.integers(0, 4, size=64)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    return data.take(48).batch(16), data.skip(48).batch(16)


def build():
    keras.utils.set_random_seed(24)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = get_compiled_model()
    train, val = get_dataset()
    return model, {"x": train, "epochs": 2, "validation_data": val}
