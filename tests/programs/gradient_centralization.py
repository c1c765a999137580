"""An optimizer of the user's own that takes the mean out of each gradient."""

import keras
import numpy as np
from keras import layers
from keras import ops


class GCRMSprop(keras.optimizers.RMSprop):
    def apply(self, grads, trainable_variables=None):
        centralized = []
        for grad in grads:
            if len(grad.shape) > 1:
                axis = list(range(len(grad.shape) - 1))
                grad = grad - ops.mean(grad, axis=axis, keepdims=True)
            centralized.append(grad)
        super().apply(centralized, trainable_variables)


def build():
    keras.utils.set_random_seed(13)
    rng = np.random.default_rng(12)
    x = rng.random((40, 8, 8, 3)).astype("float32")
    y = rng.integers(0, 2, size=(40, 1)).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(8, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(loss="binary_crossentropy", optimizer=GCRMSprop(1e-3), metrics=["accuracy"])
    return model, {"x": x, "y": y, "epochs": 3, "batch_size": 16, "shuffle": False}
