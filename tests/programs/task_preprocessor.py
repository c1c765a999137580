"""A task as in KerasHub: a model with a preprocessor that its fit, evaluate and predict apply."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class Preprocessor:
    """Raw strings to token ids and a padding mask."""

    def __init__(self, vocabulary, length):
        self.tokenizer = layers.TextVectorization(
            vocabulary=vocabulary, output_sequence_length=length
        )

    def __call__(self, x, y=None, sample_weight=None):
        token_ids = self.tokenizer(x)
        x = {"token_ids": token_ids, "padding_mask": tf.not_equal(token_ids, 0)}
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


class TextClassifier(keras.Model):
    def __init__(self, preprocessor, num_classes):
        token_ids = keras.Input((6,), dtype="int64", name="token_ids")
        padding_mask = keras.Input((6,), dtype="bool", name="padding_mask")
        x = layers.Embedding(12, 8)(token_ids)
        x = layers.GlobalAveragePooling1D()(x, mask=padding_mask)
        super().__init__(
            inputs={"token_ids": token_ids, "padding_mask": padding_mask},
            outputs=layers.Dense(num_classes, name="logits")(x),
        )
        self.preprocessor = preprocessor

    def preprocess_samples(self, x, y=None, sample_weight=None):
        if self.preprocessor is None:
            return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return self.preprocessor(x, y=y, sample_weight=sample_weight)

    def _dataset(self, x, y, sample_weight, batch_size):
        if isinstance(x, tf.data.Dataset):
            return x
        parts = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
        return tf.data.Dataset.from_tensor_slices(parts).batch(batch_size or 32)

    def fit(
        self, x=None, y=None, batch_size=None, sample_weight=None, validation_data=None, **kwargs
    ):
        if validation_data is not None:
            vx, vy, vw = keras.utils.unpack_x_y_sample_weight(validation_data)
            validation_data = self._dataset(vx, vy, vw, batch_size)  # `evaluate` does the rest
        data = self._dataset(x, y, sample_weight, batch_size).map(self.preprocess_samples)
        return super().fit(data, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, sample_weight=None, **kwargs):
        kwargs.pop("_use_cached_eval_dataset", None)
        data = self._dataset(x, y, sample_weight, batch_size).map(self.preprocess_samples)
        return super().evaluate(data, **kwargs)

    def predict(self, x=None, batch_size=None, **kwargs):
        data = self._dataset(x, None, None, batch_size).map(self.preprocess_samples)
        return super().predict(data, **kwargs)


def build():
    keras.utils.set_random_seed(21)
    rng = np.random.default_rng(20)
    words = "what an amazing movie a total waste of time".split()
    texts = [" ".join(rng.choice(words, size=5)) for _ in range(36)]
    labels = rng.integers(0, 2, size=36)
    classifier = TextClassifier(Preprocessor(sorted(set(words)), 6), num_classes=2)
    classifier.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer=keras.optimizers.SGD(0.1),
        metrics=["accuracy"],
    )
    texts = np.array(texts, dtype=object)
    arguments = {"x": texts, "y": labels, "batch_size": 8, "epochs": 2}
    return classifier, {**arguments, "validation_data": (texts[:9], labels[:9])}
