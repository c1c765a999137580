"""A `Trainer` in the hands of other libraries has the numbers of Keras's own `fit`."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import TrainableModel
from kerastrain import Trainer
from tests.support import datasets

X, Y = datasets.classes(rows=48, features=4, count=2)
FIT = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0}


def classifier(units=4, rate=0.05, cls=keras.Model):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(units, activation="relu")(inputs)
    model = cls(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
    model.compile(
        keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def itself(model):
    """In place of a `Trainer`."""
    return model


# Data -------------------------------------------------------------------------


def test_tfrecord_files(tmp_path):
    """They come through tf.data, as to Keras."""
    path = str(tmp_path / "rows.tfrecord")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for row, label in zip(X, Y, strict=True):
            x = tf.train.Feature(float_list=tf.train.FloatList(value=row))
            y = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
            example = tf.train.Example(features=tf.train.Features(feature={"x": x, "y": y}))
            writer.write(example.SerializeToString())

    def parsed(examples):
        spec = {
            "x": tf.io.FixedLenFeature((4,), "float32"),
            "y": tf.io.FixedLenFeature((), "int64"),
        }
        found = tf.io.parse_example(examples, spec)
        return found["x"], found["y"]

    data = tf.data.TFRecordDataset(path, "GZIP").batch(8).map(parsed)
    histories = [
        make(classifier()).fit(data, epochs=2, verbose=0).history for make in (itself, Trainer)
    ]
    assert_alike(*histories)


def assert_alike(expected, got):
    assert expected.keys() == got.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(values, got[name], rtol=1e-4, err_msg=name)


# KerasHub ---------------------------------------------------------------------

WORDS = "the quick brown fox slow a lazy dog".split()
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, size=5)) for i in range(24)]
LABELS = np.array([text.count("a") % 2 for text in TEXTS])


def text_task(hub):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = hub.tokenizers.BertTokenizer(vocabulary=vocabulary, lowercase=True)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    return hub.models.BertTextClassifier(
        hub.models.BertBackbone(len(vocabulary), **sizes, max_sequence_length=8, dropout=0.0),
        preprocessor=hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=8),
        num_classes=2,
        dropout=0.0,
    )


def image_task(hub):
    converter = hub.layers.ResNetImageConverter(image_size=(16, 16), scale=1 / 255)
    return hub.models.ResNetImageClassifier(
        hub.models.ResNetBackbone(
            *([64], [3], [64], [1], [1], "basic_block"), image_shape=(16, 16, 3)
        ),
        preprocessor=hub.models.ResNetImageClassifierPreprocessor(image_converter=converter),
        num_classes=2,
    )


IMAGES = np.random.default_rng(0).integers(0, 255, size=(12, 20, 20, 3)).astype("uint8")


def batched(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


TASKS = {
    "text": (text_task, lambda: {"x": np.array(TEXTS, object), "y": LABELS, "batch_size": 5}),
    "text with validation": (
        text_task,
        lambda: {"x": TEXTS, "y": LABELS, "validation_data": (TEXTS[:7], LABELS[:7])},
    ),
    "text with a share": (
        text_task,
        lambda: {"x": np.array(TEXTS, object), "y": LABELS, "validation_split": 0.25},
    ),
    "text by tf.data": (
        text_task,
        lambda: {"x": batched(TEXTS, LABELS), "validation_data": batched(TEXTS[:7], LABELS[:7])},
    ),
    "images": (
        image_task,
        lambda: {"x": IMAGES, "y": LABELS[:12], "validation_data": (IMAGES[:5], LABELS[:5])},
    ),
    "images by tf.data": (image_task, lambda: {"x": batched(IMAGES, LABELS[:12])}),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # KerasHub's own
@pytest.mark.parametrize("case", TASKS)
def test_tasks_of_keras_hub(case):
    """Raw texts and images go through the task's preprocessor, in fit, evaluate and predict."""
    hub = pytest.importorskip("keras_hub")
    build, data = TASKS[case]

    def run(make):
        keras.utils.set_random_seed(0)
        task = build(hub)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        task.compile(keras.optimizers.SGD(0.5), loss, metrics=["accuracy"])
        trainer = make(task)
        history = trainer.fit(epochs=2, verbose=0, **data()).history
        x, y = (TEXTS, LABELS) if "text" in case else (IMAGES, LABELS[:12])
        results = trainer.evaluate(x, y, batch_size=5, verbose=0, return_dict=True)
        outputs = {"outputs": trainer.predict(x, batch_size=5, verbose=0).ravel()}
        return history, results, outputs

    trainer = functools.partial(Trainer, execution="step")
    for expected, got in zip(run(itself), run(trainer), strict=True):
        assert_alike(expected, got)


# Searches ---------------------------------------------------------------------


@pytest.mark.slow
def test_keras_tuner(tmp_path):
    """A `HyperModel` whose `fit` uses a `Trainer` has the scores and the best model of Keras's."""
    tuner_lib = pytest.importorskip("keras_tuner")
    pytest.importorskip("tensorboard")  # without which KerasTuner does not run

    class Search(tuner_lib.HyperModel):
        make = staticmethod(itself)

        def build(self, hp):
            return classifier(hp.Int("units", 2, 8, step=2), hp.Choice("rate", [0.5, 0.05]))

        def fit(self, hp, model, *args, **kwargs):
            return self.make(model).fit(*args, **kwargs)

    class WithTrainer(Search):
        make = staticmethod(functools.partial(Trainer, execution="step"))

    def run(kind):
        tuner = tuner_lib.RandomSearch(
            kind(), "val_loss", max_trials=3, seed=1, directory=tmp_path, project_name=kind.__name__
        )
        tuner.search(X, Y, **FIT, validation_data=(X, Y))
        trials = tuner.oracle.get_best_trials(3)
        best = tuner.get_best_models(1)[0].evaluate(X, Y, verbose=0)
        values = [[t.hyperparameters.values for t in trials], [t.best_step for t in trials]]
        return values, [*(t.score for t in trials), *best]

    (expected, numbers), (got, others) = run(Search), run(WithTrainer)
    assert expected == got
    np.testing.assert_allclose(numbers, others, rtol=1e-5)


def test_optuna():
    """Trials are scored, and pruned by a callback, as with Keras's `fit`."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    class Prunes(keras.callbacks.Callback):
        def __init__(self, trial):
            super().__init__()
            self.trial = trial

        def on_epoch_end(self, epoch, logs=None):
            self.trial.report(logs["val_accuracy"], epoch)
            if self.trial.number == 1:
                raise optuna.TrialPruned

    def run(make):
        def objective(trial):
            model = classifier(rate=trial.suggest_float("rate", 1e-3, 1.0, log=True))
            fit = {**FIT, "validation_data": (X, Y), "callbacks": [Prunes(trial)]}
            return make(model).fit(X, Y, **fit).history["val_accuracy"][-1]

        sampler = optuna.samplers.RandomSampler(seed=0)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=3)
        return [(trial.state.name, trial.value) for trial in study.trials]

    expected = run(itself)
    assert ["COMPLETE", "PRUNED", "COMPLETE"] == [state for state, _ in expected]
    assert expected == run(functools.partial(Trainer, execution="step"))


def test_cross_validation():
    """Folds of rows train by a `Trainer` each."""
    selection = pytest.importorskip("sklearn.model_selection")

    def scores(make):
        found = []
        for train, test in selection.KFold(2).split(X):
            trainer = make(classifier())
            trainer.fit(X[train], Y[train], **FIT)
            found.append(trainer.evaluate(X[test], Y[test], verbose=0)[1])
        return found

    trainer = functools.partial(Trainer, execution="step")
    np.testing.assert_allclose(scores(itself), scores(trainer), rtol=1e-5)


@pytest.mark.slow
def test_wrapper_of_keras_for_scikit_learn():
    """It takes a `TrainableModel`, and scores it as a model; a `Trainer` is refused by name."""
    selection = pytest.importorskip("sklearn.model_selection")

    def scores(make):
        def build(X, y, loss):
            return make(loss)

        estimator = keras.wrappers.SKLearnClassifier(
            build, model_kwargs={"loss": "categorical_crossentropy"}, fit_kwargs=FIT
        )
        return selection.cross_val_score(estimator, X, Y, cv=3, error_score="raise")

    def of(cls):
        def make(loss):
            model = classifier(cls=cls)
            model.compile(keras.optimizers.SGD(0.05), loss)
            return model

        return make

    np.testing.assert_allclose(scores(of(keras.Model)), scores(of(TrainableModel)))
    with pytest.raises(AttributeError, match=r"Write trainer\.model\.compiled"):
        scores(lambda loss: Trainer(of(keras.Model)(loss)))
