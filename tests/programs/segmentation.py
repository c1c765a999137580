"""Segmentation by a small U-Net: batches from a PyDataset, an IoU of classes, checkpoints on the way."""

import tempfile

import keras
import numpy as np
from keras import layers


class Pets(keras.utils.PyDataset):
    def __init__(self, images, masks, batch_size, **kwargs):
        super().__init__(**kwargs)
        self.images, self.masks, self.batch_size = images, masks, batch_size

    def __len__(self):
        return len(self.images) // self.batch_size

    def __getitem__(self, index):
        rows = slice(index * self.batch_size, (index + 1) * self.batch_size)
        return self.images[rows], self.masks[rows]


def get_model(classes):
    inputs = keras.Input(shape=(8, 8, 3))
    x = layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.Activation("relu")(layers.BatchNormalization()(x))
    residual = layers.Conv2D(8, 1, strides=2, padding="same")(x)
    x = layers.SeparableConv2D(8, 3, padding="same", activation="relu")(x)
    x = layers.add([layers.MaxPooling2D(3, strides=2, padding="same")(x), residual])
    x = layers.UpSampling2D(2)(layers.Conv2DTranspose(6, 3, padding="same", activation="relu")(x))
    x = layers.UpSampling2D(2)(x)
    return keras.Model(inputs, layers.Conv2D(classes, 3, activation="softmax", padding="same")(x))


def build():
    keras.utils.set_random_seed(33)
    rng = np.random.default_rng(33)
    images = rng.random((24, 8, 8, 3)).astype("float32")
    masks = rng.integers(0, 3, size=(24, 8, 8, 1)).astype("uint8")
    model = get_model(3)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=[keras.metrics.MeanIoU(3, sparse_y_pred=False, name="iou")],
    )
    directory = tempfile.mkdtemp()
    best = keras.callbacks.ModelCheckpoint(f"{directory}/best.keras", save_best_only=True)
    return model, {
        "x": Pets(images[:16], masks[:16], 4),
        "validation_data": Pets(images[16:], masks[16:], 4),
        "epochs": 2,
        "shuffle": False,
        "callbacks": [best],
    }
