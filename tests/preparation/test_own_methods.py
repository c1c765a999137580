"""What a model's own `fit`, `evaluate` and `predict` do is done, or refused; never left out silently."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import ModelError
from kerastrain import RunDir
from kerastrain import Trainer
from tests.support import assertions
from tests.support import datasets
from tests.support import models

ROWS = 40
X, Y, WEIGHT = datasets.regression(rows=ROWS, outputs=1)
FIT = {"batch_size": 8, "epochs": 2, "verbose": 0}


def batches_of(x, y=None, sample_weight=None, batch_size=None):
    if isinstance(x, tf.data.Dataset):
        return x
    rows = keras.utils.pack_x_y_sample_weight(x, y, sample_weight)
    return tf.data.Dataset.from_tensor_slices(rows).batch(batch_size or 32)


class Preprocesses:
    """Methods that map raw data before Keras's are given them, as tasks of KerasHub do."""

    seen: list

    def preprocess_samples(self, x, y=None, sample_weight=None):
        return keras.utils.pack_x_y_sample_weight(3 * x + 1, y, sample_weight)

    def fit(
        self, x=None, y=None, batch_size=None, sample_weight=None, validation_data=None, **kwargs
    ):
        self.seen = ["fit begins"]
        x = batches_of(x, y, sample_weight, batch_size).map(self.preprocess_samples)
        if validation_data is not None and not isinstance(validation_data, tf.data.Dataset):
            parts = keras.utils.unpack_x_y_sample_weight(validation_data)
            validation_data = batches_of(*parts, batch_size)
        history = super().fit(x=x, validation_data=validation_data, shuffle=False, **kwargs)
        self.seen.append("fit ends")
        return history

    def evaluate(self, x=None, y=None, batch_size=None, sample_weight=None, **kwargs):
        kwargs.pop("_use_cached_eval_dataset", None)
        x = batches_of(x, y, sample_weight, batch_size).map(self.preprocess_samples)
        return super().evaluate(x=x, **kwargs)

    def predict(self, x=None, batch_size=None, **kwargs):
        x = batches_of(x, batch_size=batch_size).map(self.preprocess_samples)
        return super().predict(x=x, **kwargs)


@keras.saving.register_keras_serializable("tests.own_methods")
class Task(Preprocesses, keras.Model):
    """The methods come from a class beside the model."""


def compiled(model, **arguments):
    model.compile(keras.optimizers.SGD(0.002), "mse", metrics=["mae"], **arguments)
    return model


def task(cls=Task):
    keras.utils.set_random_seed(3)
    return compiled(models.mlp(cls, outputs=1))


def stacked(cls):
    keras.utils.set_random_seed(3)
    return compiled(cls([keras.Input((4,)), keras.layers.Dense(1)]))


# Honoured ---------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [None, pytest.param("mirrored:2", marks=pytest.mark.slow)])
def test_a_task_that_preprocesses(strategy):
    """`fit` with validation, `evaluate` and `predict` of raw data give the numbers of its own."""
    expected, model = task(), task()
    fit = {**FIT, "validation_data": (X[:9], Y[:9]), "sample_weight": WEIGHT}
    wanted = expected.fit(X, Y, **fit).history
    trainer = Trainer(model, strategy=strategy, seed=0, execution="step")
    history = trainer.fit(X, Y, **fit).history
    assert assertions.largest_difference(expected, model) <= 1e-6
    assert wanted.keys() == history.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(values, history[name], rtol=1e-5)
    if strategy is None:
        assert ["fit begins", "fit ends"] == model.seen
    wanted = expected.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(wanted, trainer.evaluate(X, Y, verbose=0), rtol=1e-5)
    by_name = trainer.evaluate({"all": (X, Y), "one": batches_of(X[:1], Y[:1])}, verbose=0)
    np.testing.assert_allclose(wanted, by_name["all"], rtol=1e-5)
    for raw in (X, batches_of(X, batch_size=7)):
        outputs = trainer.predict(raw, verbose=0)
        np.testing.assert_allclose(expected.predict(raw, verbose=0), outputs, atol=1e-6)


class PreparesInFit(Task):
    """Its `fit` prepares the data to validate on too, and `evaluate` knows of it, as KerasHub's."""

    def fit(self, x=None, y=None, batch_size=None, validation_data=None, **kwargs):
        batches = batches_of(*validation_data, batch_size=batch_size)
        validation_data = batches.map(self.preprocess_samples)
        return super().fit(x, y, batch_size, validation_data=validation_data, **kwargs)

    def evaluate(self, *args, _use_cached_eval_dataset=False, **kwargs):
        if _use_cached_eval_dataset:
            return keras.Model.evaluate(self, *args, **kwargs)
        return super().evaluate(*args, **kwargs)


def test_validation_data_that_fit_has_prepared():
    """They are not prepared once more."""
    expected, model = task(PreparesInFit), task(PreparesInFit)
    fit = {**FIT, "validation_data": (X[:9], Y[:9])}
    wanted = expected.fit(X, Y, **fit).history
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", UserWarning
        )  # as of a `fit` that another package has replaced
        history = Trainer(model, execution="step").fit(X, Y, **fit).history
    assert wanted.keys() == history.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(values, history[name], rtol=1e-5)


def test_evaluating_between_steps_changes_no_result():
    """Nor does the model's own `evaluate`, called by a callback, while it trains or validates."""

    class Evaluates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.evaluate(X[:8], Y[:8], verbose=0)

        on_test_batch_end = on_train_batch_end

    def run(*callbacks):
        fit = {**FIT, "validation_data": (X[:20], Y[:20])}
        trainer = Trainer(task(), execution="step")
        return trainer.fit(X, Y, callbacks=callbacks, **fit).history

    assert run() == run(Evaluates())


@pytest.mark.slow
def test_a_task_resumes(tmp_path):
    """A training by the model's own `fit` is saved, and ends with the same bits when resumed."""

    def trained(directory, *epochs):
        for count in epochs:
            model = task()
            fit = {**FIT, "epochs": count, "validation_data": (X[:9], Y[:9])}
            history = Trainer(model, seed=0).fit(
                X, Y, run_dir=RunDir(directory, save_every=2), **fit
            )
        return model, history.history

    whole, resumed = trained(tmp_path / "a", 3), trained(tmp_path / "b", 1, 3)
    assert 0.0 == assertions.largest_difference(whole[0], resumed[0])
    assert whole[1] == resumed[1]


def test_only_what_the_user_passed_is_passed_on():
    """Defaults of the model's own `fit` hold, by name and by position."""

    class Halves(keras.Sequential):
        def fit(self, data, target, epochs=3, **kwargs):
            return super().fit(data / 2, target, epochs=epochs, **kwargs)

    expected, model = stacked(Halves), stacked(Halves)
    wanted = expected.fit(X, Y, verbose=0, shuffle=False).history
    assert wanted == Trainer(model).fit(X, Y, verbose=0, shuffle=False).history
    assert 3 == len(wanted["loss"])


@pytest.mark.slow
def test_an_evaluate_that_adds_a_result():
    """What `evaluate` returns is what validation logs, also of data that are drawn once."""

    class Adds(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            logs = super().evaluate(*args, **kwargs)
            return {**logs, "twice": 2 * logs["loss"]}

    model = stacked(Adds)
    generator = ((X[:8], Y[:8]) for _ in range(2))
    fit = {**FIT, "validation_data": generator, "validation_steps": 1}
    history = Trainer(model).fit(X, Y, **fit).history
    np.testing.assert_allclose(2 * np.array(history["val_loss"]), history["val_twice"])
    assert 2 == len(history["val_twice"])
    sets = {"p": (X, Y), "q": (X[:3], Y[:3])}
    history = Trainer(model).fit(X, Y, **{**FIT, "validation_data": sets}).history
    assert {"val_p_twice", "val_q_twice"} < history.keys()


def test_a_callback_predicts_as_under_keras():
    """In a callback, the model's own `predict` is what it is outside of a training."""

    class Doubles(keras.Sequential):
        def predict(self, x, **kwargs):
            return 2 * super().predict(x, **kwargs)

    model, seen = stacked(Doubles), []
    keep = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: seen.append(model.predict(X, verbose=0))
    )
    trainer = Trainer(model)
    trainer.fit(X, Y, callbacks=[keep], **FIT)
    np.testing.assert_allclose(seen[0], trainer.predict(X, verbose=0), atol=1e-6)
    np.testing.assert_allclose(seen[0], 2 * model(X), atol=1e-6)


def test_two_stages():
    """A `fit` that calls Keras's twice trains twice; a run directory is of one training."""

    class Stages(keras.Sequential):
        def fit(self, *args, **kwargs):
            super().fit(*args, **kwargs)
            return super().fit(*args, **kwargs)

    expected, model = stacked(Stages), stacked(Stages)
    expected.fit(X, Y, shuffle=False, **FIT)
    Trainer(model).fit(X, Y, shuffle=False, **FIT)
    assert assertions.largest_difference(expected, model) <= 1e-6


def test_keras_is_as_it_was():
    """Afterwards, and for other models at any time, Keras's methods are its own."""
    names = ("fit", "evaluate", "predict", "compile")
    before = [getattr(keras.Model, name) for name in names]
    other, seen = stacked(keras.Sequential), []
    fits = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(other.fit(X, Y, verbose=0))
    )
    Trainer(task()).fit(X, Y, callbacks=[fits], **FIT)
    assert before == [getattr(keras.Model, name) for name in names]
    assert all(isinstance(history, keras.callbacks.History) for history in seen)


# Refused ----------------------------------------------------------------------


class Loops(keras.Sequential):
    """Its methods do not come to Keras's."""

    def fit(self, x, y, **kwargs):
        return self.train_on_batch(x, y)

    def evaluate(self, x, y, **kwargs):
        return float(np.mean((self(x) - y) ** 2))

    def predict(self, x, **kwargs):
        return np.asarray(self(x))


@pytest.mark.parametrize("name", ["fit", "evaluate", "predict"])
def test_a_method_that_does_not_come_to_that_of_keras(name):
    """It is refused before a weight changes, with what to do."""
    model = stacked(Loops)
    before = model.get_weights()
    data = (X,) if name == "predict" else (X, Y)
    with pytest.raises(ModelError, match=rf"Loops.*`{name}`.*super\(\).{name}.*remove it"):
        getattr(Trainer(model), name)(*data, verbose=0)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])


class ByName(keras.Sequential):
    """Comes to Keras's methods by their names."""

    def fit(self, *args, **kwargs):
        return getattr(super(), "fit")(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        (result,) = (getattr(super(ByName, self), n)(*args, **kwargs) for n in ("evaluate",))
        return result


def test_a_method_that_comes_to_that_of_keras_by_name():
    """It is found among the constants of the code too."""
    trainer = Trainer(stacked(ByName))
    trainer.fit(X, Y, **FIT)
    assert 10 == int(trainer.optimizer.iterations)
    assert 2 == len(trainer.evaluate(X, Y, verbose=0))


def test_an_argument_that_it_does_not_take():
    """The message names the argument."""

    class Few(keras.Sequential):
        def fit(self, x, y):
            return super().fit(x, y, verbose=0)

    with pytest.raises(ArgumentError, match="`fit` of Few.*'callbacks'.*kwargs"):
        Trainer(stacked(Few)).fit(X, Y, callbacks=[])


def test_validation_sets_by_name():
    """A `fit` of the model's own takes one set; by name they are refused."""
    with pytest.raises(ArgumentError, match=r"validation_data.*\['a', 'b'\].*trainer.evaluate"):
        Trainer(task()).fit(X, Y, validation_data={"a": (X, Y), "b": (X, Y)}, **FIT)


def test_two_trainings_in_one_run_directory(tmp_path):
    """They would be one and the same run."""

    class Stages(keras.Sequential):
        def fit(self, *args, **kwargs):
            super().fit(*args, **kwargs)
            return super().fit(*args, **kwargs)

    with pytest.raises(ArgumentError, match="run_dir"):
        Trainer(stacked(Stages), seed=0).fit(X, Y, run_dir=tmp_path / "run", **FIT)


@pytest.mark.slow
def test_a_method_of_one_instance_under_a_strategy():
    """It goes there as well."""
    model = stacked(keras.Sequential)
    model.predict = lambda x, **kwargs: 2 * keras.Sequential.predict(model, x, **kwargs)
    found = Trainer(model, strategy="mirrored:2").predict(X, verbose=0)
    assert np.allclose(2 * model(X), found, atol=1e-5)


def test_functions_that_keras_would_ask_for():
    """A model that makes what runs its steps is refused, for that kind of step."""

    class Makes(keras.Sequential):
        def make_train_function(self, force=False):
            return super().make_train_function(force)

    trainer = Trainer(stacked(Makes))
    trainer.evaluate(X, Y, verbose=0)
    with pytest.raises(ModelError, match="Makes.*`make_train_function`.*`train_step`"):
        trainer.fit(X, Y, **FIT)


@pytest.mark.parametrize("event", ["on_train_begin", "on_epoch_begin", "on_epoch_end"])
def test_compile_in_a_callback(event):
    """It cannot change what trains: it is refused, and nothing is changed by it."""
    model = stacked(keras.Sequential)
    optimizer = model.optimizer
    callback = keras.callbacks.LambdaCallback(**{event: lambda *a: model.compile("adam", "mae")})
    with pytest.raises(ModelError, match="`compile` of Sequential.*before the next"):
        Trainer(model).fit(X, Y, callbacks=[callback], **FIT)
    assert optimizer is model.optimizer
    model.compile("adam", "mae")
    assert optimizer is not model.optimizer


def test_a_new_trainer_in_a_callback_compiles():
    """A trainer with other metrics may be made of the model that trains."""
    model, seen = stacked(keras.Sequential), []
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *a: seen.append(Trainer(model, loss="mae").evaluate(X, Y, verbose=0))
    )
    Trainer(model).fit(X, Y, callbacks=[callback], **FIT)
    assert 2 == len(seen)
