"""Importing this makes sure that Keras runs on TensorFlow, before anything relies on it."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "kerastrain needs Keras on TensorFlow, but Keras runs on "
        f"{keras.backend.backend()!r}: set the environment variable "
        "KERAS_BACKEND=tensorflow before importing keras."
    )
