"""Strings and integers looked up inside the model: embeddings of users and films, their product."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def tower(vocabulary, dimension, name):
    inputs = layers.Input(name=f"{name}_input", shape=(), dtype=tf.string)
    index = layers.StringLookup(vocabulary=vocabulary, mask_token=None, name=f"{name}_index")(
        inputs
    )
    outputs = layers.Embedding(len(vocabulary) + 1, dimension, name=f"{name}_embedding")(index)
    return keras.Model(inputs, outputs, name=f"{name}_encoder")


def build():
    keras.utils.set_random_seed(18)
    rng = np.random.default_rng(17)
    users, films = [f"user_{i}" for i in range(9)], [f"movie_{i}" for i in range(7)]
    user_id = layers.Input(name="user_id", shape=(), dtype=tf.string)
    movie_id = layers.Input(name="movie_id", shape=(), dtype=tf.string)
    year = layers.Input(name="year", shape=(1,), dtype="int64")
    decade = layers.IntegerLookup(vocabulary=[1980, 1990, 2000], output_mode="one_hot")(year)
    product = layers.Dot(axes=1)(
        [tower(users, 6, "user")(user_id), tower(films, 6, "movie")(movie_id)]
    )
    out = layers.Dense(1, activation="sigmoid")(layers.Concatenate()([product, decade]))
    model = keras.Model([user_id, movie_id, year], out)
    model.compile(
        keras.optimizers.SGD(0.2), loss="mse", metrics=[keras.metrics.MeanAbsoluteError(name="mae")]
    )
    rows = {
        "user_id": rng.choice([*users, "stranger"], size=44),
        "movie_id": rng.choice(films, size=44),
        "year": rng.choice([1980, 1990, 2000, 2010], size=(44, 1)),
    }
    ratings = rng.integers(1, 6, size=44).astype("float32") / 5
    data = tf.data.Dataset.from_tensor_slices((rows, ratings)).batch(16)
    return model, {"x": data, "epochs": 3, "validation_data": data.take(1)}
