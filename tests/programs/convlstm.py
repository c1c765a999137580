"""The next frame of a film, by convolutional LSTMs with batch normalization between them."""

import keras
import numpy as np
from keras import layers


def build():
    keras.utils.set_random_seed(16)
    frames = np.random.default_rng(15).random((18, 5, 8, 8, 1)).astype("float32").round()
    x_train, y_train = frames[:12, :-1], frames[:12, 1:]
    x_val, y_val = frames[12:, :-1], frames[12:, 1:]
    inp = layers.Input(shape=(None, *x_train.shape[2:]))
    x = layers.ConvLSTM2D(
        4, kernel_size=5, padding="same", return_sequences=True, activation="relu"
    )(inp)
    x = layers.BatchNormalization()(x)
    x = layers.ConvLSTM2D(
        4, kernel_size=3, padding="same", return_sequences=True, activation="relu"
    )(x)
    x = layers.Conv3D(1, kernel_size=3, activation="sigmoid", padding="same")(x)
    model = keras.Model(inp, x)
    model.compile(loss=keras.losses.binary_crossentropy, optimizer=keras.optimizers.Adam())
    callbacks = [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=10),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1),
    ]
    arguments = {"x": x_train, "y": y_train, "batch_size": 5, "epochs": 3, "shuffle": False}
    return model, {**arguments, "validation_data": (x_val, y_val), "callbacks": callbacks}
