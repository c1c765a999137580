"""kerastrain: the training loop that Keras 3 on TensorFlow lacks.

A whole program::

    import keras
    import numpy as np
    import kerastrain

    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    y = x.sum(axis=1, keepdims=True)

    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))

    trainer = kerastrain.Trainer(
        model, optimizer=keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"], seed=0
    )
    trainer.fit(x[:200], y[:200], epochs=5, validation_data=(x[200:], y[200:]), verbose=2)
    print(trainer.evaluate(x[200:], y[200:], return_dict=True, verbose=0))

Or subclass `TrainableModel` and call Keras's own ``fit``.
"""

import keras as _keras_package

if _keras_package.backend.backend() != "tensorflow":
    raise ImportError(
        "kerastrain needs Keras on TensorFlow, but Keras runs on "
        f"{_keras_package.backend.backend()!r}: set the environment variable "
        "KERAS_BACKEND=tensorflow before importing keras."
    )

from kerastrain._version import __version__
from kerastrain.errors import ArgumentError
from kerastrain.errors import CheckpointError
from kerastrain.errors import DataError
from kerastrain.errors import KerastrainError
from kerastrain.errors import MetricError
from kerastrain.errors import ModelError
from kerastrain.errors import NonFiniteError
from kerastrain.errors import Preempted
from kerastrain.errors import RunError
from kerastrain.errors import ShapeError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.model import TrainableModel
from kerastrain.options import Execution
from kerastrain.options import Guard
from kerastrain.options import StepOptions
from kerastrain.trainer import Trainer

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DataError",
    "Execution",
    "Guard",
    "KerastrainError",
    "MetricError",
    "ModelError",
    "NonFiniteError",
    "Preempted",
    "RunError",
    "ShapeError",
    "StepOptions",
    "TrainableModel",
    "Trainer",
    "UnsupportedTypeError",
    "__version__",
]
