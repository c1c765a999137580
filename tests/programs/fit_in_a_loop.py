"""`fit` for one epoch again and again, with predictions and another learning rate between."""

import keras
import numpy as np
from keras import layers

MAXLEN, CHARS = 5, 8


def build():
    keras.utils.set_random_seed(25)
    text = np.random.default_rng(24).integers(0, CHARS, size=60)
    x = np.stack([np.eye(CHARS)[text[i : i + MAXLEN]] for i in range(50)]).astype("float32")
    y = np.stack([np.eye(CHARS)[text[i + MAXLEN]] for i in range(50)]).astype("float32")
    model = keras.Sequential(
        [keras.Input((MAXLEN, CHARS)), layers.LSTM(8), layers.Dense(CHARS, activation="softmax")]
    )
    model.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.RMSprop(0.01))
    return model, {"x": x, "y": y, "batch_size": 16, "epochs": 1, "shuffle": False}


def train(fit, model, arguments):
    for iteration in range(4):
        fit(model, **arguments)
        sentence = arguments["x"][:1]
        for _ in range(3):
            preds = model.predict(sentence, verbose=0)
            following = np.eye(CHARS, dtype="float32")[preds.argmax(-1)]
            sentence = np.concatenate([sentence[:, 1:], following[:, None]], axis=1)
        if iteration == 1:
            model.optimizer.learning_rate = 0.005
        if iteration == 2:
            model.save_weights_in_memory = model.get_weights()
            model.set_weights([0.9 * w for w in model.get_weights()])
