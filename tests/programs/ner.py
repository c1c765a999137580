"""Named entities: padded batches of sentences, a loss that leaves the padding out."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from keras import ops

VOCABULARY, TAGS, LONGEST = 30, 5, 9


class TransformerBlock(layers.Layer):
    def __init__(self, embed_dim, num_heads, ff_dim, rate=0.1):
        super().__init__()
        self.att = layers.MultiHeadAttention(num_heads=num_heads, key_dim=embed_dim)
        self.ffn = keras.Sequential(
            [layers.Dense(ff_dim, activation="relu"), layers.Dense(embed_dim)]
        )
        self.layernorm1 = layers.LayerNormalization(epsilon=1e-6)
        self.layernorm2 = layers.LayerNormalization(epsilon=1e-6)
        self.dropout1, self.dropout2 = layers.Dropout(rate), layers.Dropout(rate)

    def call(self, inputs, training=False):
        attended = self.dropout1(self.att(inputs, inputs), training=training)
        out1 = self.layernorm1(inputs + attended)
        return self.layernorm2(out1 + self.dropout2(self.ffn(out1), training=training))


class TokenAndPositionEmbedding(layers.Layer):
    def __init__(self, maxlen, vocab_size, embed_dim):
        super().__init__()
        self.token_emb = layers.Embedding(input_dim=vocab_size, output_dim=embed_dim)
        self.pos_emb = layers.Embedding(input_dim=maxlen, output_dim=embed_dim)

    def call(self, inputs):
        positions = ops.arange(start=0, stop=ops.shape(inputs)[-1], step=1)
        return self.token_emb(inputs) + self.pos_emb(positions)


class NERModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.embedding_layer = TokenAndPositionEmbedding(LONGEST, VOCABULARY, 8)
        self.transformer_block = TransformerBlock(8, 2, 12)
        self.dropout1 = layers.Dropout(0.1)
        self.ff = layers.Dense(8, activation="relu")
        self.dropout2 = layers.Dropout(0.1)
        self.ff_final = layers.Dense(TAGS, activation="softmax")

    def call(self, inputs, training=False):
        x = self.transformer_block(self.embedding_layer(inputs), training=training)
        x = self.ff(self.dropout1(x, training=training))
        return self.ff_final(self.dropout2(x, training=training))


class CustomNonPaddingTokenLoss(keras.losses.Loss):
    def __init__(self, name="custom_ner_loss"):
        super().__init__(name=name)

    def call(self, y_true, y_pred):
        loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=False, reduction=None)
        loss = loss_fn(y_true, y_pred)
        mask = ops.cast(y_true > 0, dtype="float32")
        loss = loss * mask
        return ops.sum(loss) / ops.sum(mask)


def sentences():
    rng = np.random.default_rng(14)
    for _ in range(30):
        length = rng.integers(3, LONGEST + 1)
        yield rng.integers(1, VOCABULARY, size=length), rng.integers(1, TAGS, size=length)


def build():
    keras.utils.set_random_seed(15)
    signature = (tf.TensorSpec((None,), "int64"), tf.TensorSpec((None,), "int64"))
    data = tf.data.Dataset.from_generator(sentences, output_signature=signature)
    data = data.padded_batch(8).apply(tf.data.experimental.assert_cardinality(4))
    model = NERModel()
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=CustomNonPaddingTokenLoss())
    return model, {"x": data, "epochs": 2}
