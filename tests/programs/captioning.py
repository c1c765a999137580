"""Image captioning: a model without `call`, several captions for each image, losses and metrics by hand."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

VOCABULARY, LENGTH, CAPTIONS = 20, 7, 2


class Decoder(layers.Layer):
    def __init__(self):
        super().__init__()
        self.embedding = layers.Embedding(VOCABULARY, 8, mask_zero=True)
        self.attention = layers.MultiHeadAttention(num_heads=2, key_dim=4, dropout=0.1, seed=1)
        self.cross = layers.MultiHeadAttention(num_heads=2, key_dim=4, dropout=0.1, seed=2)
        self.norm_1, self.norm_2 = layers.LayerNormalization(), layers.LayerNormalization()
        self.dropout = layers.Dropout(0.3, seed=3)
        self.out = layers.Dense(VOCABULARY, activation="softmax")
        self.supports_masking = True

    def call(self, tokens, encoded, training, mask=None):
        x = self.embedding(tokens)
        length = tf.shape(tokens)[1]
        causal = tf.linalg.band_part(tf.ones((1, length, length), tf.bool), -1, 0)
        attention_mask = tf.logical_and(causal, mask[:, tf.newaxis, :])
        x = self.norm_1(x + self.attention(x, x, attention_mask=attention_mask, training=training))
        x = self.norm_2(x + self.cross(x, encoded, training=training))
        return self.out(self.dropout(x, training=training))


class ImageCaptioningModel(keras.Model):
    def __init__(self, cnn_model, encoder, decoder):
        super().__init__()
        self.cnn_model = cnn_model
        self.encoder = encoder
        self.decoder = decoder
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.acc_tracker = keras.metrics.Mean(name="accuracy")

    def _caption_loss_and_acc(self, embedded, caption, training):
        encoded = self.encoder(embedded, training=training)
        tokens, true = caption[:, :-1], caption[:, 1:]
        mask = tf.math.not_equal(true, 0)
        pred = self.decoder(tokens, encoded, training=training, mask=mask)
        weight = tf.cast(mask, "float32")
        loss = self.loss(true, pred) * weight
        hits = tf.cast(tf.equal(true, tf.argmax(pred, axis=2)), "float32") * weight
        count = tf.reduce_sum(weight)
        return tf.reduce_sum(loss) / count, tf.reduce_sum(hits) / count

    def train_step(self, batch_data):
        images, captions = batch_data
        batch_loss, batch_acc = 0.0, 0.0
        embedded = self.cnn_model(images)
        for i in range(CAPTIONS):
            with tf.GradientTape() as tape:
                loss, acc = self._caption_loss_and_acc(embedded, captions[:, i, :], training=True)
                batch_loss += loss
                batch_acc += acc
            train_vars = self.encoder.trainable_variables + self.decoder.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, train_vars), train_vars))
        self.loss_tracker.update_state(batch_loss)
        self.acc_tracker.update_state(batch_acc / CAPTIONS)
        return {"loss": self.loss_tracker.result(), "acc": self.acc_tracker.result()}

    def test_step(self, batch_data):
        images, captions = batch_data
        embedded = self.cnn_model(images)
        for i in range(CAPTIONS):
            loss, acc = self._caption_loss_and_acc(embedded, captions[:, i, :], training=False)
            self.loss_tracker.update_state(loss)
            self.acc_tracker.update_state(acc)
        return {"loss": self.loss_tracker.result(), "acc": self.acc_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker, self.acc_tracker]


def build():
    keras.utils.set_random_seed(9)
    rng = np.random.default_rng(8)
    images = rng.random((20, 8, 8, 3)).astype("float32")
    captions = rng.integers(1, VOCABULARY, size=(20, CAPTIONS, LENGTH))
    captions[:, :, 5:] *= rng.integers(0, 2, size=(20, CAPTIONS, 1))
    cnn = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(8, 4, strides=4), layers.Reshape((4, 8))]
    )
    cnn.trainable = False
    encoder = keras.Sequential(
        [keras.Input((4, 8)), layers.LayerNormalization(), layers.Dense(8, activation="relu")]
    )
    model = ImageCaptioningModel(cnn, encoder, Decoder())
    model.compile(
        optimizer=keras.optimizers.Adam(0.003),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=False, reduction=None),
    )
    data = (
        tf.data.Dataset.from_tensor_slices((images, captions))
        .shuffle(20, seed=5, reshuffle_each_iteration=False)
        .batch(5)
    )
    stop = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    return model, {
        "x": data.skip(1),
        "epochs": 2,
        "validation_data": data.take(1),
        "callbacks": [stop],
    }
