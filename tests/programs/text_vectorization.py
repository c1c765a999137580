"""Sentiment from raw strings: the vocabulary is adapted, and the layer is part of the model."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

WORDS = "the a film was good bad dull bright and very not quite".split()


def build():
    keras.utils.set_random_seed(19)
    rng = np.random.default_rng(18)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(4, 9))) + "." for _ in range(40)]
    labels = np.array(["good" in text for text in texts], dtype="float32")
    raw = tf.data.Dataset.from_tensor_slices((texts, labels)).batch(8)
    vectorize_layer = layers.TextVectorization(
        max_tokens=20, output_mode="int", output_sequence_length=8
    )
    vectorize_layer.adapt(raw.map(lambda x, y: x))
    text_input = keras.Input(shape=(), dtype=tf.string, name="text")
    x = vectorize_layer(text_input)
    x = layers.Embedding(21, 8)(x)
    x = layers.Dropout(0.5)(x)
    x = layers.Conv1D(8, 3, padding="valid", activation="relu", strides=2)(x)
    x = layers.GlobalMaxPooling1D()(x)
    predictions = layers.Dense(1, activation="sigmoid", name="predictions")(x)
    model = keras.Model(text_input, predictions)
    model.compile(loss="binary_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model, {"x": raw, "epochs": 3, "validation_data": raw.take(2)}
