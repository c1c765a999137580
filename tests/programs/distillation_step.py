"""Distillation as it was written first: a train_step of its own that trains the student only."""

import keras
import tensorflow as tf

from tests.programs import distillation


class Distiller(keras.Model):
    def __init__(self, student, teacher):
        super().__init__()
        self.student = student
        self.teacher = teacher
        self.temperature = 3.0
        self.soft_loss_fn = keras.losses.KLDivergence()

    def call(self, x):
        return self.student(x)

    def train_step(self, data):
        x, y = data
        teacher_predictions = self.teacher(x, training=False)
        with tf.GradientTape() as tape:
            predictions = self.student(x, training=True)
            student_loss = self.compute_loss(x, y, predictions)
            distillation_loss = self.soft_loss_fn(
                tf.nn.softmax(teacher_predictions / self.temperature, axis=1),
                tf.nn.softmax(predictions / self.temperature, axis=1),
            )
            loss = 0.1 * student_loss + 0.9 * distillation_loss * self.temperature**2
        trainable_vars = self.student.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, trainable_vars), trainable_vars))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(student_loss)
            else:
                metric.update_state(y, predictions)
        results = {m.name: m.result() for m in self.metrics}
        results.update({"distillation_loss": distillation_loss})
        return results

    def test_step(self, data):
        x, y = data
        y_prediction = self.student(x, training=False)
        self.compute_loss(x, y, y_prediction)
        for metric in self.metrics:
            if metric.name != "loss":
                metric.update_state(y, y_prediction)
        return {m.name: m.result() for m in self.metrics}


def build():
    _, arguments = distillation.build()
    distiller = Distiller(distillation.network(4), distillation.network(12))
    distiller.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return distiller, arguments


def train(fit, distiller, arguments):
    fit(distiller, **arguments)
    fit(distiller, **arguments)
