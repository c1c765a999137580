"""Recognition of text in images: a layer at the end adds the CTC loss, the targets are an input."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops

WIDTH, HEIGHT, LENGTH, CHARACTERS = 16, 8, 3, 6


class CTCLayer(layers.Layer):
    def call(self, y_true, y_pred):
        rows = ops.shape(y_true)[0]
        input_length = ops.ones((rows,), dtype="int32") * ops.shape(y_pred)[1]
        label_length = ops.ones((rows,), dtype="int32") * ops.shape(y_true)[1]
        loss = ops.ctc_loss(y_true, y_pred, label_length, input_length, mask_index=CHARACTERS)
        self.add_loss(ops.mean(loss))
        return y_pred


def build():
    keras.utils.set_random_seed(14)
    rng = np.random.default_rng(13)
    images = rng.random((28, WIDTH, HEIGHT, 1)).astype("float32")
    labels = rng.integers(0, CHARACTERS, size=(28, LENGTH)).astype("int32")

    input_img = layers.Input(shape=(WIDTH, HEIGHT, 1), name="image", dtype="float32")
    label_input = layers.Input(name="label", shape=(LENGTH,), dtype="int32")
    x = layers.Conv2D(4, 3, activation="relu", padding="same", name="Conv1")(input_img)
    x = layers.MaxPooling2D((2, 2))(x)
    x = layers.Reshape(target_shape=(WIDTH // 2, HEIGHT // 2 * 4))(x)
    x = layers.Dense(8, activation="relu")(x)
    x = layers.Dropout(0.2)(x)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True, dropout=0.25))(x)
    x = layers.Dense(CHARACTERS + 1)(x)
    output = CTCLayer(name="ctc_loss")(label_input, x)
    model = keras.Model(inputs=[input_img, label_input], outputs=output, name="ocr_model")
    model.compile(optimizer=keras.optimizers.Adam(0.003))

    data = tf.data.Dataset.from_tensor_slices({"image": images, "label": labels})
    train = data.take(20).batch(8).prefetch(tf.data.AUTOTUNE)
    validation = data.skip(20).batch(8)
    return model, {"x": train, "validation_data": validation, "epochs": 2}
