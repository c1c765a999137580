"""Low-rank adaptation: a network is trained, frozen, and adapted by layers of few weights."""

import keras
import numpy as np
from keras import layers
from keras import ops


class LoraLayer(layers.Layer):
    def __init__(self, original_layer, rank=2, alpha=4, **kwargs):
        super().__init__(name=f"lora_{original_layer.name}", **kwargs)
        self.scale = alpha / rank
        self.original_layer = original_layer
        self.original_layer.trainable = False
        self.A = layers.Dense(rank, use_bias=False, kernel_initializer="he_uniform", name="lora_A")
        self.B = layers.Dense(
            original_layer.units, use_bias=False, kernel_initializer="zeros", name="lora_B"
        )

    def call(self, inputs):
        return self.original_layer(inputs) + self.B(self.A(inputs)) * self.scale


class Network(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(16, activation="relu", name="first")
        self.second = layers.Dense(16, activation="relu", name="second")
        self.head = layers.Dense(3, name="head")

    def call(self, x):
        return self.head(self.second(self.first(x)))


def compiled(model):
    model.compile(
        optimizer=keras.optimizers.AdamW(0.01, weight_decay=0.004, clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=["accuracy"],
    )
    return model


def build():
    keras.utils.set_random_seed(22)
    rng = np.random.default_rng(21)
    x = rng.normal(size=(40, 6)).astype("float32")
    y = rng.integers(0, 3, size=40)
    return compiled(Network()), {"x": x, "y": y, "batch_size": 8, "epochs": 2, "shuffle": False}


def train(fit, model, arguments):
    fit(model, **arguments)
    model._tracker.unlock()
    model.first = LoraLayer(model.first)
    model.second = LoraLayer(model.second)
    model(arguments["x"][:2])
    model.head.enable_lora(2)
    compiled(model)
    fit(model, **arguments)
    assert len(model.trainable_weights) == 2 * 2 + 3  # A and B of each, of the head, its bias
    dense = model.first.original_layer
    dense._kernel.assign(
        dense.kernel + model.first.scale * ops.matmul(model.first.A.kernel, model.first.B.kernel)
    )
    model.first = dense
    model._tracker.lock()
