"""Translation by an encoder and a decoder: dicts of inputs, masks, teacher forcing."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

VOCABULARY, LENGTH, WIDTH = 18, 6, 8


class PositionalEmbedding(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.token_embeddings = layers.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = layers.Embedding(LENGTH, WIDTH)

    def call(self, inputs):
        positions = keras.ops.arange(0, keras.ops.shape(inputs)[-1], 1)
        return self.token_embeddings(inputs) + self.position_embeddings(positions)

    def compute_mask(self, inputs, mask=None):
        return keras.ops.not_equal(inputs, 0)


def build():
    keras.utils.set_random_seed(34)
    encoder_inputs = keras.Input(shape=(None,), dtype="int64", name="encoder_inputs")
    x = PositionalEmbedding()(encoder_inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, WIDTH)(x, x, x))
    decoder_inputs = keras.Input(shape=(None,), dtype="int64", name="decoder_inputs")
    y = PositionalEmbedding()(decoder_inputs)
    y = y + layers.MultiHeadAttention(2, WIDTH)(y, y, y, use_causal_mask=True)
    y = layers.LayerNormalization()(y + layers.MultiHeadAttention(2, WIDTH)(y, x, x))
    outputs = layers.Dense(VOCABULARY, activation="softmax")(layers.Dropout(0.5)(y))
    model = keras.Model([encoder_inputs, decoder_inputs], outputs)
    model.compile(
        "rmsprop", keras.losses.SparseCategoricalCrossentropy(ignore_class=0), metrics=["accuracy"]
    )

    rng = np.random.default_rng(34)
    source = rng.integers(1, VOCABULARY, size=(32, LENGTH))
    target = rng.integers(1, VOCABULARY, size=(32, LENGTH + 1))
    source[:, 4:] *= rng.integers(0, 2, size=(32, 1))
    target[:, 5:] *= rng.integers(0, 2, size=(32, 1))
    inputs = {"encoder_inputs": source, "decoder_inputs": target[:, :-1]}
    data = tf.data.Dataset.from_tensor_slices((inputs, target[:, 1:])).batch(8)
    return model, {"x": data.skip(1), "epochs": 2, "validation_data": data.take(1)}
