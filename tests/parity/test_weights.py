"""The same weights, history and events as ``model.fit`` on one device.

Each case trains one model by ``keras.Model.fit``, ``TrainableModel.fit`` and
``Trainer.fit`` from the same initial weights on the same batches.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import TrainableModel
from kerastrain import Trainer
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

TOLERANCE = 1e-6
ENTRY_POINTS = ("TrainableModel.fit", "Trainer.fit")


class Case:
    """A model, how it is compiled, and what ``fit`` is given.

    Attributes:
        build: makes the model; takes the class of its base.
        compile: arguments of ``compile``, made anew for each run.
        fit: arguments of ``fit``.
    """

    def __init__(self, build, compile, fit):
        self.build, self.compile, self.fit = build, compile, fit


def subclassed(base):
    class Net(base):
        def __init__(self):
            super().__init__()
            self.hidden = keras.layers.Dense(8, activation="tanh")
            self.out = keras.layers.Dense(2)

        def call(self, x):
            return self.out(self.hidden(x))

    return Net()


def sequential(base):
    layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(2)]
    if base is keras.Model:
        return keras.Sequential([keras.Input((4,)), *layers])
    inputs = outputs = keras.Input((4,))
    for layer in layers:
        outputs = layer(outputs)
    return base(inputs, outputs)


def two_outputs(base):
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    joined = keras.layers.Dense(8, activation="tanh")(keras.layers.Concatenate()([a, b]))
    p = keras.layers.Dense(2, name="p")(joined)
    q = keras.layers.Dense(3, activation="softmax", name="q")(joined)
    return base({"a": a, "b": b}, {"p": p, "q": q})


def masked(base):
    inputs = keras.Input((5,), dtype="int32")
    embedded = keras.layers.Embedding(7, 4, mask_zero=True)(inputs)
    states = keras.layers.LSTM(4, return_sequences=True)(embedded)
    return base(inputs, keras.layers.Dense(3, activation="softmax")(states))


def noisy(base):
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    hidden = keras.layers.Dropout(0.5, seed=3)(keras.layers.BatchNormalization()(hidden))
    return base(inputs, keras.layers.Dense(2)(hidden))


def half(base):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(8, activation="tanh")(inputs)
        outputs = keras.layers.Dense(2, dtype="float32")(hidden)
        return base(inputs, outputs)
    finally:
        keras.config.set_dtype_policy("float32")


X, Y, WEIGHT = datasets.regression(rows=11)
B = np.random.default_rng(1).normal(size=(11, 3)).astype("float32")
LABELS = np.random.default_rng(2).integers(0, 3, size=11)
TOKENS = np.random.default_rng(3).integers(1, 7, size=(11, 5))
TOKENS[:, 3:] = TOKENS[:, 3:] * (np.arange(11)[:, None] % 3 > 0)
TAGS = np.random.default_rng(4).integers(0, 3, size=(11, 5))
PLAIN = {"x": X, "y": Y}
MSE = lambda **kw: {"optimizer": keras.optimizers.Adam(0.02), "loss": "mse", **kw}

CASES = {
    "functional": Case(models.mlp, lambda: MSE(metrics=["mae"]), PLAIN),
    "sequential": Case(sequential, lambda: MSE(metrics=["mae"]), PLAIN),
    "subclassed": Case(subclassed, lambda: MSE(metrics=["mae"]), PLAIN),
    "sgd momentum": Case(
        models.mlp, lambda: MSE(optimizer=keras.optimizers.SGD(0.1, momentum=0.9)), PLAIN
    ),
    "sample weights": Case(
        models.mlp,
        lambda: MSE(weighted_metrics=["mae", models.MeanLoss()]),
        {**PLAIN, "sample_weight": WEIGHT},
    ),
    "class weights": Case(
        lambda base: models.mlp(base, outputs=3),
        lambda: MSE(
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        ),
        {"x": X, "y": LABELS, "class_weight": {0: 0.5, 1: 2.0, 2: 1.0}},
    ),
    "masks": Case(
        masked,
        lambda: MSE(
            optimizer=keras.optimizers.SGD(0.1),
            loss="sparse_categorical_crossentropy",
            metrics=["accuracy"],
        ),
        {"x": TOKENS, "y": TAGS},
    ),
    "losses of layers": Case(models.with_losses, lambda: MSE(metrics=["mae"]), PLAIN),
    "batch norm, dropout": Case(noisy, lambda: MSE(metrics=["mae"]), PLAIN),
    "mixed_float16": Case(half, lambda: MSE(metrics=["mae"]), PLAIN),
    "ema": Case(
        models.mlp,
        lambda: MSE(
            optimizer=keras.optimizers.AdamW(
                0.02, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
            )
        ),
        PLAIN,
    ),
    "clipping": Case(
        models.mlp, lambda: MSE(optimizer=keras.optimizers.Adam(0.02, global_clipnorm=0.1)), PLAIN
    ),
    "schedule": Case(
        models.mlp,
        lambda: MSE(
            optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 6))
        ),
        PLAIN,
    ),
    "steps per epoch": Case(
        models.mlp, lambda: MSE(metrics=["mae"]), {**PLAIN, "steps_per_epoch": 2}
    ),
    "validation": Case(
        models.mlp,
        lambda: MSE(metrics=["mae", models.MeanLoss()]),
        {**PLAIN, "validation_data": (X[:5], Y[:5], WEIGHT[:5]), "validation_freq": [1, 3]},
    ),
    "validation split": Case(
        models.mlp, lambda: MSE(metrics=["mae"]), {**PLAIN, "validation_split": 0.3}
    ),
    "one epoch later": Case(
        models.mlp, lambda: MSE(metrics=["mae"]), {**PLAIN, "initial_epoch": 1}
    ),
}


class Events(keras.callbacks.Callback):
    """Notes every event with its number and the names in its logs."""

    def __init__(self):
        super().__init__()
        self.seen = []


def _noting(name):
    def note(self, *args, logs=None):
        logs = args[-1] if args and isinstance(args[-1], dict) else logs
        numbers = [a for a in args if isinstance(a, int)]
        self.seen.append((name, *numbers, tuple(sorted(logs or {}))))

    return note


for _moment in ("begin", "end"):
    for _what in ("train", "epoch", "train_batch", "test", "test_batch"):
        setattr(Events, f"on_{_what}_{_moment}", _noting(f"on_{_what}_{_moment}"))


def run(case, entry_point, eager=True):
    """Trains and returns ``(model, history, events)``; by Keras eagerly, which is quick.

    Half precision is compiled by both: some processors round it otherwise in fused kernels.
    """
    eager = eager and case.build is not half
    keras.utils.set_random_seed(5)
    model = case.build(TrainableModel if entry_point == "TrainableModel.fit" else keras.Model)
    keras.utils.set_random_seed(6)
    events = Events()
    arguments = {"batch_size": 4, "epochs": 3, "shuffle": False, **case.fit}
    arguments.update(verbose=0, callbacks=[events])
    if entry_point == "Trainer.fit":
        history = Trainer(model, **case.compile()).fit(**arguments)
    else:
        model.compile(**case.compile(), run_eagerly=eager and entry_point == "keras.Model.fit")
        history = model.fit(**arguments)
    return model, history.history, events.seen


# The quickest that differ; those of the loop, which only Trainer has, through that.
QUICK = [
    ("subclassed", "TrainableModel.fit"),
    ("sgd momentum", "Trainer.fit"),
    ("sample weights", "TrainableModel.fit"),
    ("mixed_float16", "Trainer.fit"),
    ("ema", "TrainableModel.fit"),
    ("steps per epoch", "Trainer.fit"),
    ("validation", "Trainer.fit"),
    ("one epoch later", "Trainer.fit"),
]


@pytest.mark.parametrize(
    "name, entry_point", tiers.cases(itertools.product(CASES, ENTRY_POINTS), QUICK)
)
def test_equals_keras(name, entry_point):
    """Weights within 1e-6, the same history and the same events as Keras's fit."""
    expected_model, expected, expected_events = run(CASES[name], "keras.Model.fit")
    model, history, events = run(CASES[name], entry_point)
    assert assertions.largest_difference(expected_model, model) <= TOLERANCE
    assert list(expected) == list(history)
    for key in expected:
        np.testing.assert_allclose(history[key], expected[key], atol=TOLERANCE, rtol=1e-6)
    assert expected_events == events


@pytest.mark.slow
@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_two_outputs(entry_point):
    """Dict models agree too; the losses of the outputs are logged over rows.

    Keras 3.15.1 logs ``p_loss`` as a mean of batch means, which is another
    number where the last batch is shorter.
    """
    fit = {"x": {"a": X, "b": B}, "y": {"p": Y, "q": LABELS}}
    case = Case(
        two_outputs,
        lambda: MSE(
            optimizer=keras.optimizers.SGD(0.0),
            loss={"p": "mse", "q": "sparse_categorical_crossentropy"},
            loss_weights={"p": 0.3, "q": 2.0},
            metrics={"p": ["mae"], "q": ["accuracy"]},
        ),
        {**fit, "epochs": 1},
    )
    expected_model, expected, expected_events = run(case, "keras.Model.fit", eager=False)
    model, history, events = run(case, entry_point)
    assert list(expected) == list(history)
    assert expected_events == events
    right = float(np.mean(np.square(expected_model.predict(fit["x"], verbose=0)["p"] - Y)))
    assert history["p_loss"][0] == pytest.approx(right, abs=1e-6)
    assert abs(expected["p_loss"][0] - right) > 1e-3  # Keras's own number
    for key in set(expected) - {"p_loss", "q_loss"}:
        np.testing.assert_allclose(history[key], expected[key], atol=TOLERANCE)

    case.compile = lambda: MSE(
        loss={"p": "mse", "q": "sparse_categorical_crossentropy"},
        loss_weights={"p": 0.3, "q": 2.0},
    )
    case.fit = {**fit, "epochs": 3}
    expected_model, _, _ = run(case, "keras.Model.fit", eager=False)
    model, _, _ = run(case, entry_point)
    assert assertions.largest_difference(expected_model, model) <= TOLERANCE


@pytest.mark.parametrize("entry_point", tiers.cases(ENTRY_POINTS, ["Trainer.fit"]))
def test_adam_of_an_embedding(entry_point):
    """A token that occurs twice in a batch has one gradient, the sum.

    An embedding is a dense layer on one-hot rows, and trains as such. Under
    Adam, Keras 3.15.1 squares the gradient of each occurrence by itself.
    """

    def embedded(base):
        inputs = keras.Input((5,), dtype="int32")
        vectors = keras.layers.Embedding(7, 4, embeddings_initializer="uniform")(inputs)
        return base(inputs, keras.layers.Dense(3, activation="softmax")(vectors))

    def one_hot(base):
        inputs = keras.Input((5, 7))
        vectors = keras.layers.Dense(4, use_bias=False, kernel_initializer="uniform")(inputs)
        return base(inputs, keras.layers.Dense(3, activation="softmax")(vectors))

    compile = lambda: MSE(loss="sparse_categorical_crossentropy")
    rows = np.eye(7, dtype="float32")[TOKENS]
    right, _, _ = run(Case(one_hot, compile, {"x": rows, "y": TAGS}), "keras.Model.fit")
    case = Case(embedded, compile, {"x": TOKENS, "y": TAGS})
    assert assertions.largest_difference(right, run(case, entry_point)[0]) <= TOLERANCE
    assert assertions.largest_difference(right, run(case, "keras.Model.fit")[0]) > 1e-3


def test_validation_keeps_the_train_state():
    """After fit, the user's metric object holds the train result.

    In Keras 3.15.1 it holds the validation result.
    """

    def count_after(fit):
        metric = models.MeanLoss()
        fit(metric)
        return float(metric.count)

    def by_keras(metric):
        model = models.mlp()
        model.compile("sgd", "mse", metrics=[metric])
        model.fit(X, Y, validation_data=(X[:2], Y[:2]), verbose=0)

    def by_trainer(metric):
        trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse", metrics=[metric])
        trainer.fit(X, Y, validation_data=(X[:2], Y[:2]), verbose=0)

    assert count_after(by_keras) == 2
    assert count_after(by_trainer) == 11


def test_no_phantom_step():
    """Four batches of unknown number are four updates; Keras makes five."""
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(3)
    data = data.filter(lambda x, y: True)

    def updates(fit):
        model = models.mlp()
        return fit(model)

    def by_keras(model):
        model.compile("adam", "mse")
        model.fit(data, verbose=0)
        return int(model.optimizer.iterations)

    def by_trainer(model):
        trainer = Trainer(model, optimizer="adam", loss="mse")
        trainer.fit(data, verbose=0)
        return int(trainer.optimizer.iterations)

    assert updates(by_keras) == 5
    assert updates(by_trainer) == 4
