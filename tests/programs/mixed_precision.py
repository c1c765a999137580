"""Mixed precision: computations in float16, weights in float32, the loss scaled."""

import keras
import numpy as np
from keras import layers


def build():
    keras.utils.set_random_seed(23)
    rng = np.random.default_rng(22)
    x = rng.random((48, 12)).astype("float32")
    y = rng.integers(0, 3, size=48)
    policy = keras.config.dtype_policy()
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        inputs = keras.Input(shape=(12,), name="digits")
        h = layers.Dense(16, activation="relu", name="dense_1")(inputs)
        h = layers.BatchNormalization()(layers.Dense(16, activation="relu", name="dense_2")(h))
        h = layers.Dense(3, name="dense_logits")(h)
        outputs = layers.Activation("softmax", dtype="float32", name="predictions")(h)
        model = keras.Model(inputs=inputs, outputs=outputs)
        model.compile(
            loss="sparse_categorical_crossentropy",
            optimizer=keras.optimizers.RMSprop(),
            metrics=["accuracy"],
        )
    finally:
        keras.mixed_precision.set_global_policy(policy)
    return model, {
        "x": x,
        "y": y,
        "batch_size": 16,
        "epochs": 2,
        "validation_split": 0.25,
        "shuffle": False,
    }
