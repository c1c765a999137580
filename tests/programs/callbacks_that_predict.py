"""Callbacks that use the model: they predict, evaluate, read its weights and set its learning rate."""

import keras
import numpy as np
from keras import layers


class ShowTranslations(keras.callbacks.Callback):
    """Predicts and evaluates at the end of each epoch; what it finds goes into the logs."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def on_epoch_end(self, epoch, logs=None):
        predictions = self.model.predict(self.x, verbose=0)
        logs["exact"] = float(np.mean(predictions.argmax(-1) == self.y))
        logs["again"] = self.model.evaluate(self.x, self.y, verbose=0)[0]
        logs["called"] = float(np.asarray(self.model(self.x[:3], training=False)).sum())


class WarmUp(keras.callbacks.Callback):
    """Another learning rate for each batch, and a note of the weights."""

    def __init__(self):
        super().__init__()
        self.norms = []

    def on_train_batch_begin(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        self.model.optimizer.learning_rate = 0.002 * (step + 1)

    def on_train_batch_end(self, batch, logs=None):
        self.norms.append(float(np.abs(self.model.get_weights()[0]).sum()) + logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        logs["norm"] = float(np.sum(self.norms))


def build():
    keras.utils.set_random_seed(26)
    rng = np.random.default_rng(25)
    x, y = rng.normal(size=(40, 5)).astype("float32"), rng.integers(0, 3, size=40)
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(12, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(3),
        ]
    )
    model.compile(
        keras.optimizers.Adam(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    callbacks = [ShowTranslations(x[:12], y[:12]), WarmUp()]
    arguments = {"x": x, "y": y, "batch_size": 8, "epochs": 3, "shuffle": False}
    return model, {**arguments, "callbacks": callbacks, "validation_data": (x[:9], y[:9])}
