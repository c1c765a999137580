"""A physics-informed network: the equation's residual needs a second derivative of the outputs."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class Burgers(keras.Model):
    """u_t + u u_x = v u_xx, with initial and boundary values."""

    def __init__(self, viscosity=0.05):
        super().__init__()
        self.viscosity = viscosity
        self.hidden = [layers.Dense(10, activation="tanh") for _ in range(3)]
        self.out = layers.Dense(1)
        self.physics_tracker = keras.metrics.Mean(name="physics")
        self.data_tracker = keras.metrics.Mean(name="data")

    def call(self, tx):
        for layer in self.hidden:
            tx = layer(tx)
        return self.out(tx)

    def residual(self, points):
        t, x = points[:, :1], points[:, 1:]
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch([t, x])
                u = self(tf.concat([t, x], axis=1), training=True)
            u_t, u_x = inner.gradient(u, t), inner.gradient(u, x)
        u_xx = outer.gradient(u_x, x)
        return u_t + u * u_x - self.viscosity * u_xx

    def train_step(self, data):
        points, (border, u) = data
        with tf.GradientTape() as tape:
            physics = tf.reduce_mean(tf.square(self.residual(points)))
            measured = tf.reduce_mean(tf.square(self(border, training=True) - u))
            loss = physics + 5.0 * measured
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        self.physics_tracker.update_state(physics)
        self.data_tracker.update_state(measured)
        return {"physics": self.physics_tracker.result(), "data": self.data_tracker.result()}

    @property
    def metrics(self):
        return [self.physics_tracker, self.data_tracker]


def build():
    keras.utils.set_random_seed(11)
    rng = np.random.default_rng(10)
    points = rng.uniform([0, -1], [1, 1], size=(64, 2)).astype("float32")
    border = rng.uniform([0, -1], [0, 1], size=(64, 2)).astype("float32")
    u = -np.sin(np.pi * border[:, 1:])
    model = Burgers()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([4, 8], [1e-2, 1e-3, 5e-4])
    model.compile(optimizer=keras.optimizers.Adam(schedule))
    return model, {"x": points, "y": (border, u), "batch_size": 16, "epochs": 3, "shuffle": False}
