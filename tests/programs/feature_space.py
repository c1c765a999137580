"""Structured data by FeatureSpace: as part of the data set, and as part of the model."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras.utils import FeatureSpace

ROWS = 48


def build():
    keras.utils.set_random_seed(17)
    rng = np.random.default_rng(16)
    columns = {
        "sex": rng.integers(0, 2, size=ROWS),
        "thal": rng.choice(["fixed", "normal", "reversible"], size=ROWS),
        "age": rng.integers(30, 80, size=ROWS),
        "chol": rng.normal(240, 50, size=ROWS).astype("float32"),
    }
    target = rng.integers(0, 2, size=ROWS)
    dataset = tf.data.Dataset.from_tensor_slices((columns, target))
    train, val = dataset.take(36).batch(12), dataset.skip(36).batch(12)
    feature_space = FeatureSpace(
        features={
            "sex": FeatureSpace.integer_categorical(num_oov_indices=0),
            "thal": FeatureSpace.string_categorical(num_oov_indices=0),
            "age": FeatureSpace.float_discretized(num_bins=5),
            "chol": FeatureSpace.float_normalized(),
        },
        crosses=[FeatureSpace.cross(feature_names=("sex", "age"), crossing_dim=8)],
        output_mode="concat",
    )
    feature_space.adapt(train.map(lambda x, _: x))

    def preprocess(x, y):
        return feature_space(x), y

    encoded_features = feature_space.get_encoded_features()
    x = layers.Dense(8, activation="relu")(encoded_features)
    x = layers.Dropout(0.5)(x)
    predictions = layers.Dense(1, activation="sigmoid")(x)
    training_model = keras.Model(inputs=encoded_features, outputs=predictions)
    training_model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    training_model.inference_model = keras.Model(feature_space.get_inputs(), predictions)
    return training_model, {
        "x": train.map(preprocess).prefetch(2),
        "validation_data": val.map(preprocess),
        "epochs": 2,
    }


def train(fit, training_model, arguments):
    fit(training_model, **arguments)
    row = {"sex": [1], "thal": ["fixed"], "age": [60], "chol": [233.0]}
    row = {name: tf.convert_to_tensor(value) for name, value in row.items()}
    assert training_model.inference_model.predict(row, verbose=0).shape == (1, 1)
