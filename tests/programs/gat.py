"""A graph attention network: the whole graph in the model, batches of node indices."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

NODES, FEATURES, CLASSES = 30, 12, 3


class GraphAttention(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.kernel = self.add_weight(
            shape=(input_shape[0][-1], self.units), initializer="glorot_uniform", name="kernel"
        )
        self.kernel_attention = self.add_weight(
            shape=(self.units * 2, 1), initializer="glorot_uniform", name="kernel_attention"
        )
        self.built = True

    def call(self, inputs):
        node_states, edges = inputs
        transformed = tf.matmul(node_states, self.kernel)
        pairs = tf.reshape(tf.gather(transformed, edges), (tf.shape(edges)[0], -1))
        scores = tf.nn.leaky_relu(tf.matmul(pairs, self.kernel_attention))
        scores = tf.math.exp(tf.clip_by_value(tf.squeeze(scores, -1), -2, 2))
        sums = tf.math.unsorted_segment_sum(scores, edges[:, 0], tf.shape(node_states)[0])
        scores = scores / tf.gather(sums, edges[:, 0])
        neighbours = tf.gather(transformed, edges[:, 1]) * scores[:, tf.newaxis]
        return tf.math.unsorted_segment_sum(neighbours, edges[:, 0], tf.shape(node_states)[0])


class GraphAttentionNetwork(keras.Model):
    def __init__(self, node_states, edges, **kwargs):
        super().__init__(**kwargs)
        self.node_states = node_states
        self.edges = edges
        self.preprocess = layers.Dense(8, activation="relu")
        self.attention_layers = [GraphAttention(8) for _ in range(2)]
        self.output_layer = layers.Dense(CLASSES)

    def call(self, inputs):
        node_states, edges = inputs
        x = self.preprocess(node_states)
        for layer in self.attention_layers:
            x = tf.nn.relu(layer([x, edges])) + x
        return self.output_layer(x)

    def train_step(self, data):
        indices, labels = data
        with tf.GradientTape() as tape:
            outputs = self([self.node_states, self.edges])
            loss = self.compute_loss(y=labels, y_pred=tf.gather(outputs, indices))
        grads = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights))
        return self.compute_metrics(
            x=None, y=labels, y_pred=tf.gather(outputs, indices), sample_weight=None
        )

    def predict_step(self, data):
        outputs = self([self.node_states, self.edges])
        return tf.nn.softmax(tf.gather(outputs, data[0] if isinstance(data, tuple) else data))

    def test_step(self, data):
        indices, labels = data
        outputs = self([self.node_states, self.edges])
        loss = self.compute_loss(y=labels, y_pred=tf.gather(outputs, indices))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(labels, tf.gather(outputs, indices))
        return {m.name: m.result() for m in self.metrics}


def build():
    keras.utils.set_random_seed(10)
    rng = np.random.default_rng(9)
    states = rng.normal(size=(NODES, FEATURES)).astype("float32")
    edges = np.concatenate([np.stack([np.arange(NODES)] * 2, 1), rng.integers(0, NODES, (60, 2))])
    indices, labels = np.arange(NODES), rng.integers(0, CLASSES, size=NODES)
    model = GraphAttentionNetwork(tf.constant(states), tf.constant(edges.astype("int32")))
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.SGD(0.1, momentum=0.9),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="acc")],
    )
    arguments = {"x": indices, "y": labels, "validation_split": 0.2, "batch_size": 8, "epochs": 3}
    return model, {**arguments, "shuffle": False}
