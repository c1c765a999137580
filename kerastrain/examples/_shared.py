"""What the examples share: the digits as floats, a classifier, a distance between weights."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from kerastrain.datasets import load_digits


def training_digits(rows: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Gives the first training digits, all by default, and their classes.

    Args:
        rows: how many.

    Returns:
        float32 images ``(rows, 8, 8)`` with values from 0 to 1, and int32 classes ``(rows,)``.
    """
    digits = load_digits()
    return digits.x_train[:rows].astype("float32") / 16.0, digits.y_train[:rows].astype("int32")


def make_classifier() -> keras.Model:
    """Builds a perceptron 64-32-10 with softmax, with the same weights at every call."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8)),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def largest_difference(weights: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Max|dw| over two lists of arrays; NaN if one is in them."""
    pairs = zip(weights, others, strict=True)
    return float(np.max([np.max(np.abs(own - other)) for own, other in pairs]))
