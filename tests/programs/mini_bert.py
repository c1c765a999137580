"""A small BERT: masked language modelling, then a classifier on it frozen, then all unfrozen."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops

VOCABULARY, LENGTH, WIDTH = 24, 8, 8
MASK = VOCABULARY - 1


def bert_module(query, key, value, i):
    attended = layers.MultiHeadAttention(num_heads=2, key_dim=4, name=f"encoder_{i}_attention")(
        query, key, value
    )
    attended = layers.Dropout(0.1, name=f"encoder_{i}_att_dropout")(attended)
    attended = layers.LayerNormalization(epsilon=1e-6, name=f"encoder_{i}_att_norm")(
        query + attended
    )
    ffn = keras.Sequential(
        [layers.Dense(16, activation="relu"), layers.Dense(WIDTH)], name=f"encoder_{i}_ffn"
    )
    output = layers.Dropout(0.1, name=f"encoder_{i}_ffn_dropout")(ffn(attended))
    return layers.LayerNormalization(epsilon=1e-6, name=f"encoder_{i}_ffn_norm")(attended + output)


loss_fn = keras.losses.SparseCategoricalCrossentropy(reduction=None)
loss_tracker = keras.metrics.Mean(name="loss")


class MaskedLanguageModel(keras.Model):
    def train_step(self, inputs):
        features, labels, sample_weight = inputs
        with tf.GradientTape() as tape:
            predictions = self(features, training=True)
            loss = loss_fn(labels, predictions, sample_weight=sample_weight)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        loss_tracker.update_state(loss, sample_weight=sample_weight)
        return {"loss": loss_tracker.result()}

    @property
    def metrics(self):
        return [loss_tracker]


def create_masked_language_bert_model():
    inputs = layers.Input((LENGTH,), dtype="int64")
    words = layers.Embedding(VOCABULARY, WIDTH, name="word_embedding")(inputs)
    positions = layers.Embedding(LENGTH, WIDTH, name="position_embedding")(ops.arange(LENGTH))
    encoder_output = ops.add(words, positions)
    for i in range(1):
        encoder_output = bert_module(encoder_output, encoder_output, encoder_output, i)
    mlm_output = layers.Dense(VOCABULARY, name="mlm_cls", activation="softmax")(encoder_output)
    mlm_model = MaskedLanguageModel(inputs, mlm_output, name="masked_bert_model")
    mlm_model.compile(optimizer=keras.optimizers.Adam(learning_rate=0.01))
    return mlm_model


def build():
    keras.utils.set_random_seed(20)
    rng = np.random.default_rng(19)
    tokens = rng.integers(1, MASK, size=(32, LENGTH))
    chosen = rng.random(tokens.shape) < 0.15
    masked = np.where(chosen, MASK, tokens)
    data = tf.data.Dataset.from_tensor_slices((masked, tokens, chosen.astype("float32")))
    data = data.shuffle(32, seed=1, reshuffle_each_iteration=False).batch(8)
    return create_masked_language_bert_model(), {"x": data, "epochs": 2}


def train(fit, mlm_model, arguments):
    fit(mlm_model, **arguments)
    encoder = keras.Model(
        mlm_model.input, mlm_model.get_layer("encoder_0_ffn_norm").output, name="encoder"
    )
    encoder.trainable = False
    inputs = layers.Input((LENGTH,), dtype="int64")
    pooled = layers.GlobalMaxPooling1D()(encoder(inputs))
    outputs = layers.Dense(1, activation="sigmoid")(layers.Dense(8, activation="relu")(pooled))
    classifier = keras.Model(inputs, outputs, name="classification")
    data = arguments["x"].map(lambda x, y, w: (x, y[:, 0] > 11))
    classifier.compile(keras.optimizers.SGD(0.1), loss="binary_crossentropy", metrics=["accuracy"])
    fit(classifier, x=data, epochs=2)
    encoder.trainable = True
    classifier.compile(keras.optimizers.SGD(0.05), loss="binary_crossentropy", metrics=["accuracy"])
    fit(classifier, x=data, epochs=2, validation_data=data.take(1))
