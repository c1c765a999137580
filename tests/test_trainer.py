"""Trainer leaves the user's model as it found it, but trained; and takes whatever it is given."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import _keras
from kerastrain import ArgumentError
from kerastrain import Execution
from kerastrain import ModelError
from kerastrain import TrainableModel
from kerastrain import Trainer
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

X, Y, WEIGHT = datasets.regression(rows=11)
FIT = {"batch_size": 4, "shuffle": False, "verbose": 0}
STEPS = 3


def new_model(build=models.mlp, **arguments):
    keras.utils.set_random_seed(5)
    return build(**arguments)


def sgd(**arguments):
    return keras.optimizers.SGD(0.05, **arguments)


# The model's compile state ----------------------------------------------------


def test_compile_state_is_not_clobbered():
    """Optimizer, its iterations, loss and metric objects of a compiled model stay its own."""
    model = new_model()
    metric = models.MeanLoss()
    model.compile(keras.optimizers.Adam(0.1), "mae", metrics=[metric])
    model.fit(X, Y, **FIT)
    before, optimizer = _keras.compile_state(model), model.optimizer
    variables = [v.numpy() for v in optimizer.variables]
    count = float(metric.count)

    trainer = Trainer(model, optimizer=sgd(), loss="mse", metrics=["mse"])
    history = trainer.fit(X, Y, epochs=2, validation_data=(X, Y), **FIT)
    trainer.evaluate(X[:3], Y[:3], verbose=0)
    trainer.predict(X, verbose=0)

    assert {"loss", "mse", "val_loss", "val_mse"} == set(history.history)
    after = _keras.compile_state(model)
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert STEPS == int(optimizer.iterations)
    assert 2 * STEPS == int(trainer.optimizer.iterations)
    assert count == float(metric.count)
    for v, value in zip(optimizer.variables, variables, strict=True):
        np.testing.assert_array_equal(v.numpy(), value)


@pytest.mark.slow
def test_later_fit_of_the_model(tmp_path):
    """model.fit, evaluate, predict and save work as if the trainer had never been."""

    def run(between):
        model = new_model()
        model.compile(keras.optimizers.Adam(0.1), "mae", metrics=["mse"])
        model.fit(X, Y, **FIT)
        weights = model.get_weights()
        between(model)
        model.set_weights(weights)
        return model, model.fit(X, Y, epochs=2, **FIT).history

    def train(model):
        Trainer(model, optimizer=sgd(), loss="mse").fit(X, Y, **FIT)

    expected, expected_history = run(lambda model: None)
    model, history = run(train)
    assertions.assert_close_weights(expected, model, 0)
    assert expected_history == history
    assert {"loss", "mse"} == set(model.evaluate(X, Y, verbose=0, return_dict=True))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-6)
    assert isinstance(loaded.optimizer, keras.optimizers.Adam)
    assert 3 * STEPS == int(loaded.optimizer.iterations)


def test_uncompiled_model_stays_uncompiled():
    """A model that was never compiled has the weights and still no compile state."""
    model = new_model()
    before = model.get_weights()
    Trainer(model, optimizer="sgd", loss="mse", metrics=["mae"]).fit(X, Y, **FIT)
    assert not model.compiled
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    with pytest.raises(ValueError, match="compile"):
        model.fit(X, Y, verbose=0)


def test_constructor_has_no_effects():
    """Constructing a trainer builds, compiles and draws nothing."""
    model = keras.Sequential([keras.layers.Dense(2)])
    Trainer(model, optimizer="adam", loss="mse", metrics=["mae"])
    assert not model.built
    assert not model.compiled


def test_what_is_not_given_is_taken_from_the_compiled_model():
    """Optimizer, loss, weights and metrics come from compile; each can be replaced alone."""
    model = new_model()
    model.compile(keras.optimizers.Adam(0.1), "mae", loss_weights=2.0, metrics=["mse"])
    expected = new_model()
    expected.compile(keras.optimizers.Adam(0.1), "mae", loss_weights=2.0, metrics=["mse"])
    trainer = Trainer(model, execution="step")
    assert trainer.optimizer is model.optimizer
    history = expected.fit(X, Y, epochs=2, **FIT).history
    actual = trainer.fit(X, Y, epochs=2, **FIT).history
    assertions.assert_close_weights(expected, model)
    assert list(history) == list(actual)
    for name in history:
        assert history[name] == pytest.approx(actual[name], abs=1e-6)

    only_loss = Trainer(model, loss="mse")
    assert only_loss.optimizer is model.optimizer
    assert {"loss", "mse"} == set(only_loss.evaluate(X, Y, verbose=0, return_dict=True))
    no_metrics = Trainer(model, metrics=[])
    assert {"loss"} == set(no_metrics.evaluate(X, Y, verbose=0, return_dict=True))
    assert "mae" == model.loss


def test_two_trainers_of_one_model():
    """Two trainers take turns at one model, each with optimizer and metrics of its own."""
    model = new_model()
    one = Trainer(model, optimizer="adam", loss="mse", metrics=["mae"])
    two = Trainer(model, optimizer=sgd(), loss="mae", metrics=["mse"])
    for _ in range(2):
        assert {"loss", "mae"} == set(one.fit(X, Y, **FIT).history)
        assert {"loss", "mse"} == set(two.fit(X, Y, **FIT).history)
    assert [2 * STEPS] * 2 == [int(t.optimizer.iterations) for t in (one, two)]
    assert {"train": 1} == one.traces == two.traces


@pytest.mark.slow
def test_optimizer_goes_on():
    """A second fit continues the optimizer's state, as in Keras."""
    expected = new_model()
    expected.compile(keras.optimizers.Adam(0.1), "mse")
    expected.fit(X, Y, epochs=2, **FIT)
    model = new_model()
    trainer = Trainer(model, optimizer=keras.optimizers.Adam(0.1), loss="mse")
    trainer.fit(X, Y, **FIT)
    trainer.fit(X, Y, **FIT)
    assertions.assert_close_weights(expected, model)


# Metrics ----------------------------------------------------------------------


class Counting(models.MeanLoss):
    """Counts its resets."""

    resets = 0

    def reset_state(self):
        self.resets += 1
        super().reset_state()


def rows_error(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


@pytest.mark.slow
def test_kinds_of_metrics():
    """Names, objects and functions, weighted and not, have Keras's names and numbers."""

    def arguments():
        return {
            "metrics": ["mae", models.MeanLoss(), rows_error],
            "weighted_metrics": [keras.metrics.MeanSquaredError(name="weighted"), "mape"],
        }

    fit = {**FIT, "epochs": 2, "sample_weight": WEIGHT, "validation_data": (X, Y, WEIGHT)}
    model = new_model()
    model.compile(sgd(), "mse", **arguments())
    expected = model.fit(X, Y, **fit).history
    trainer = Trainer(new_model(), optimizer=sgd(), loss="mse", **arguments())
    actual = trainer.fit(X, Y, **fit).history
    assert list(expected) == list(actual)
    for name in expected:
        assert expected[name] == pytest.approx(actual[name], rel=1e-5, abs=1e-6)
    assert "rows_error" in actual


def test_metrics_per_output():
    """A dict gives each output its own metrics; evaluate has Keras's names and order."""
    y = {"p": Y, "q": Y + 1}

    def arguments():
        return {
            "loss": {"p": "mse", "q": "mae"},
            "metrics": {"p": ["mae", models.MeanLoss()], "q": "mse"},
        }

    model = new_model(models.two_outputs)
    model.compile(sgd(), **arguments())
    expected = model.evaluate(X, y, verbose=0, return_dict=True)
    trainer = Trainer(new_model(models.two_outputs), optimizer=sgd(), **arguments())
    actual = trainer.evaluate(X, y, verbose=0, return_dict=True)
    assert list(expected) == list(actual)
    assert expected == pytest.approx(actual, abs=1e-6)
    assert model.evaluate(X, y, verbose=0) == pytest.approx(
        trainer.evaluate(X, y, verbose=0), abs=1e-6
    )


@pytest.mark.parametrize("validation", [tiers.slow({}), {"validation_data": (X[:5], Y[:5])}])
def test_one_reset_per_epoch(validation):
    """A metric is reset once in each epoch, validation or not."""
    metric = Counting()
    trainer = Trainer(new_model(), optimizer=sgd(), loss="mse", metrics=[metric])
    trainer.fit(X, Y, epochs=1, **FIT, **validation)  # traces may reset too
    for epochs in (1, 3):
        before = metric.resets
        trainer.fit(X, Y, epochs=epochs, **FIT, **validation)
        assert epochs == metric.resets - before


class Owner(keras.Model):
    """Owns a metric that its compute_metrics updates."""

    def __init__(self, metric):
        super().__init__()
        self.out = keras.layers.Dense(2)
        self.own = metric

    def call(self, x):
        return self.out(x)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.own.update_state(y, y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)


@pytest.mark.slow
def test_one_reset_per_epoch_of_an_own_metric():
    """The same for a metric that the model owns."""
    metric = Counting()
    trainer = Trainer(Owner(metric), optimizer=sgd(), loss="mse")
    fit = {**FIT, "validation_data": (X[:5], Y[:5])}
    history = trainer.fit(X, Y, **fit).history
    assert {"loss", "mean_loss", "val_loss", "val_mean_loss"} == set(history)
    before = metric.resets
    trainer.fit(X, Y, epochs=3, **fit)
    assert 3 == metric.resets - before


def test_states_of_their_own():
    """Train, validation and named sets each report the mean over their own rows."""
    metric = models.MeanLoss()
    model = new_model()
    trainer = Trainer(model, optimizer=keras.optimizers.SGD(0.0), loss="mse", metrics=[metric])
    rest = tf.data.Dataset.from_tensor_slices((X[5:], Y[5:])).batch(4)
    sets = {"first": (X[:5], Y[:5]), "rest": rest}
    error = np.mean(np.square(model.predict(X, verbose=0) - Y), axis=-1)
    history = trainer.fit(X, Y, epochs=2, validation_data=sets, **FIT).history
    expected = {"": error.mean(), "val_first_": error[:5].mean(), "val_rest_": error[5:].mean()}
    assert {p + n for p in expected for n in ("loss", "mean_loss")} == set(history)
    for prefix, value in expected.items():
        assert [value] * 2 == pytest.approx(history[prefix + "mean_loss"], abs=1e-6)
        assert [value] * 2 == pytest.approx(history[prefix + "loss"], abs=1e-6)
    assert 11 == float(metric.count)
    trainer.evaluate(X[:2], Y[:2], verbose=0)
    assert 11 == float(metric.count)


def test_evaluate_named_sets():
    """Evaluation of several sets is a dict of what each gives alone, lists or dicts."""
    trainer = Trainer(new_model(), optimizer=sgd(), loss="mse", metrics=["mae"])
    sets = {"a": (X, Y), "b": (X[:5], Y[:5], WEIGHT[:5])}
    dicts = trainer.evaluate(sets, verbose=0, return_dict=True)
    assert ["a", "b"] == list(dicts)
    assert dicts["a"] == trainer.evaluate(X, Y, verbose=0, return_dict=True)
    assert dicts["b"] == trainer.evaluate(
        X[:5], Y[:5], sample_weight=WEIGHT[:5], verbose=0, return_dict=True
    )
    lists = trainer.evaluate(sets, verbose=0)
    assert {"a": list(dicts["a"].values()), "b": list(dicts["b"].values())} == lists


@pytest.mark.slow
def test_evaluate_returns_what_keras_returns():
    """One loss alone is a float, several results a list, return_dict a dict of floats."""
    trainer = Trainer(new_model(), optimizer=sgd(), loss="mse")
    assert isinstance(trainer.evaluate(X, Y, verbose=0), float)
    trainer = Trainer(new_model(), optimizer=sgd(), loss="mse", metrics=["mae"])
    results = trainer.evaluate(X, Y, WEIGHT.size, 0)
    assert [float, float] == [type(v) for v in results]
    by_name = trainer.evaluate(X, Y, verbose=0, return_dict=True)
    assert results == pytest.approx(list(by_name.values()))
    weighted = trainer.evaluate(X, Y, sample_weight=WEIGHT, verbose=0, return_dict=True)
    model = new_model()
    model.compile(sgd(), "mse", metrics=["mae"])
    expected = model.evaluate(X, Y, sample_weight=WEIGHT, verbose=0, return_dict=True)
    assert expected == pytest.approx(weighted, abs=1e-6)


def test_predict():
    """Predictions are Keras's, row by row, for arrays and data sets."""
    model = new_model()
    trainer = Trainer(model, optimizer=sgd(), loss="mse")
    expected = model.predict(X, verbose=0)
    np.testing.assert_array_equal(expected, trainer.predict(X, verbose=0))
    np.testing.assert_allclose(expected, trainer.predict(X, 3, 0), atol=1e-6)
    batches = tf.data.Dataset.from_tensor_slices(X).batch(4)
    np.testing.assert_allclose(expected, trainer.predict(batches, verbose=0), atol=1e-6)
    trainer = Trainer(models.two_outputs(), optimizer="sgd", loss="mse")
    assert {"p", "q"} == set(trainer.predict(X, verbose=0))


class NeverUpdated(Owner):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return keras.Model.compute_metrics(self, x, y, y_pred, sample_weight)


@pytest.mark.slow
def test_metric_that_never_updates():
    """A metric that the step does not update is named in a warning, once."""
    trainer = Trainer(NeverUpdated(models.MeanLoss()), optimizer=sgd(), loss="mse")
    with pytest.warns(UserWarning, match="mean_loss.*not updated") as caught:
        trainer.fit(X, Y, epochs=3, **FIT)
    assert 1 == sum("not updated" in str(w.message) for w in caught)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
def test_no_warning_without_reason():
    """Metrics that are updated, compiled or owned, are not warned of."""
    arguments = {"optimizer": sgd(), "loss": "mse", "weighted_metrics": [models.MeanLoss("w")]}
    trainer = Trainer(Owner(models.MeanLoss()), metrics=["mae", rows_error], **arguments)
    trainer.fit(X, Y, epochs=2, validation_data=(X, Y), **FIT)


# Overrides --------------------------------------------------------------------


class Base(keras.Model):
    def __init__(self):
        super().__init__()
        self.out = keras.layers.Dense(2)

    def call(self, x):
        return self.out(x)


class OwnStep(Base):
    """A step as Keras's guide writes it; returns a plain tensor if asked to."""

    def __init__(self, plain=False):
        super().__init__()
        self.plain = plain
        self.tracked = keras.metrics.Mean(name="tracked")

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.ops.abs(self(x, training=True) - y))
        self.optimizer.apply(tape.gradient(loss, self.trainable_weights), self.trainable_weights)
        self.tracked.update_state(loss)
        logs = {"tracked": self.tracked.result()}
        return {**logs, "last": loss} if self.plain else logs


def test_own_train_step():
    """A train_step of the model runs as it is; the history has what it returns."""

    def run(train):
        model = new_model(OwnStep)
        return model, train(model).history

    def by_keras(model):
        model.compile(sgd(), "mse")
        return model.fit(X, Y, epochs=2, **FIT)

    expected, history = run(by_keras)
    model, actual = run(
        lambda model: Trainer(model, optimizer=sgd(), loss="mse").fit(X, Y, epochs=2, **FIT)
    )
    assertions.assert_close_weights(expected, model)
    assert list(history) == list(actual)
    assert history["tracked"] == pytest.approx(actual["tracked"], abs=1e-6)


def test_plain_tensor():
    """A returned tensor that is no metric is logged as by Keras: each batch has its own, not a mean."""
    trainer = Trainer(OwnStep(plain=True), optimizer=sgd(), loss="mse")
    seen = []
    look = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = trainer.fit(X, Y, callbacks=[look], **FIT).history
    assert {name: [value] for name, value in seen[-1].items()} == history


class OwnTestStep(Base):
    def test_step(self, data):
        x, y = data
        return {"worst": keras.ops.max(keras.ops.abs(self(x) - y))}


def test_own_test_step():
    """A test_step of the model runs in evaluate and in validation."""
    model = new_model(OwnTestStep)
    trainer = Trainer(model, optimizer=keras.optimizers.SGD(0.0), loss="mse")
    results = trainer.evaluate(X, Y, batch_size=11, verbose=0, return_dict=True)
    assert {"worst"} == set(results)
    worst = np.abs(model.predict(X, verbose=0) - Y).max()
    assert worst == pytest.approx(results["worst"], abs=1e-6)
    history = trainer.fit(X, Y, validation_data=(X, Y), validation_batch_size=11, **FIT).history
    assert [results["worst"]] == pytest.approx(history["val_worst"], abs=1e-6)


class OwnLoss(Base):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean(keras.ops.abs(y - y_pred)) + 0.1 * keras.ops.mean(y_pred**2)


class OwnMetrics(Base):
    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        return {**results, "double": 2 * results["loss"]}


@pytest.mark.parametrize("make", [OwnLoss, tiers.slow(OwnMetrics)])
def test_own_loss_and_metrics(make):
    """Overrides of compute_loss and compute_metrics are honoured as by Keras."""
    expected = new_model(make)
    expected.compile(sgd(), "mse")
    history = expected.fit(X, Y, epochs=2, **FIT).history
    model = new_model(make)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "double" is no metric
        actual = Trainer(model, optimizer=sgd(), loss="mse").fit(X, Y, epochs=2, **FIT).history
    assertions.assert_close_weights(expected, model)
    assert list(history) == list(actual)
    for name in history:
        assert history[name] == pytest.approx(actual[name], abs=1e-6)


class Signed(TrainableModel):
    def transform_gradients(self, gradients, variables):
        return [tf.sign(g) for g in gradients]


def test_transform_gradients():
    """The hook of a TrainableModel is honoured by Trainer too, before clipping."""
    model = new_model(models.mlp, make=Signed)
    before = model.get_weights()
    one_batch = {"batch_size": 11, "verbose": 0}
    Trainer(model, optimizer=keras.optimizers.SGD(0.25), loss="mse").fit(X, Y, **one_batch)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(np.abs(a - b), 0.25, atol=1e-6)

    model = new_model(models.mlp, make=Signed)
    trainer = Trainer(model, optimizer=keras.optimizers.SGD(0.25), loss="mse", clipvalue=0.5)
    trainer.fit(X, Y, **one_batch)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_allclose(np.abs(a - b), 0.125, atol=1e-6)


@pytest.mark.slow
def test_trainable_model():
    """A TrainableModel trains alike through its own fit and through Trainer, options included."""

    def made():
        model = new_model(models.mlp, make=TrainableModel)
        model.compile(sgd(), "mse", micro_batches=2, clipnorm=0.1)
        return model

    expected, model, plain = made(), made(), new_model()
    expected.fit(X, Y, epochs=2, **FIT)
    Trainer(model).fit(X, Y, epochs=2, **FIT)
    assertions.assert_close_weights(expected, model)
    assert 2 == model.step_options.micro_batches
    Trainer(plain, optimizer=sgd(), loss="mse").fit(X, Y, epochs=2, **FIT)
    assert assertions.largest_difference(plain, model) > 1e-3
    model.fit(X, Y, **FIT)
    expected.fit(X, Y, **FIT)
    assertions.assert_close_weights(expected, model)


# Traces -----------------------------------------------------------------------


@pytest.mark.slow
def test_one_trace():
    """Ragged batches, epochs, repeated fits, other sizes and validation: one trace each."""
    trainer = Trainer(new_model(), optimizer="adam", loss="mse", metrics=["mae"])
    trainer.fit(X, Y, epochs=2, validation_data=(X[:5], Y[:5]), **FIT)
    trainer.fit(X, Y, batch_size=3, verbose=0)
    trainer.fit(tf.data.Dataset.from_tensor_slices((X, Y)).batch(2), verbose=0)
    trainer.evaluate(X[:1], Y[:1], verbose=0)
    assert {"train": 1, "test": 1} == trainer.traces
    trainer.fit(X, Y, sample_weight=WEIGHT, **FIT)
    assert {"train": 2, "test": 1} == trainer.traces


def test_one_trace_of_the_model():
    """A fit that is called again does not run the model's Python code at all."""
    calls = []

    class Traced(Base):
        def call(self, x):
            if isinstance(x, tf.Tensor) and tf.inside_function():
                calls.append(x.shape)
            return super().call(x)

    trainer = Trainer(Traced(), optimizer="adam", loss="mse")
    trainer.fit(X, Y, validation_data=(X, Y), **FIT)
    done = len(calls)
    trainer.fit(X, Y, epochs=3, validation_data=(X, Y), **FIT)
    assert done == len(calls)
    assert {"train": 1, "test": 1} == trainer.traces


@pytest.mark.slow
def test_lengths_that_vary():
    """Sequences of many lengths take two traces: one for the first, one for the rest."""
    inputs = keras.Input((None, 4))
    outputs = keras.layers.GlobalAveragePooling1D()(keras.layers.Dense(2)(inputs))
    model = keras.Model(inputs, outputs)
    trainer = Trainer(model, optimizer="sgd", loss="mse")
    rng = np.random.default_rng(0)
    batches = [(rng.normal(size=(3, n, 4)).astype("float32"), Y[:3]) for n in (5, 2, 7, 3, 9)]
    trainer.fit((b for b in batches), verbose=0)
    assert {"train": 2} == trainer.traces


@pytest.mark.slow
def test_eager():
    """Execution(eager=True) computes the same, uncompiled."""
    compiled, eager = new_model(), new_model()
    Trainer(compiled, optimizer=sgd(), loss="mse").fit(X, Y, **FIT)
    trainer = Trainer(eager, optimizer=sgd(), loss="mse", execution=Execution(run_eagerly=True))
    trainer.fit(X, Y, **FIT)
    assertions.assert_close_weights(compiled, eager)


# A model that changes ---------------------------------------------------------


def test_frozen_layer_between_two_fits():
    """A layer that is frozen after a fit no longer changes; the other ones do."""
    model = new_model()
    trainer = Trainer(model, optimizer=sgd(momentum=0.9), loss="mse")
    trainer.fit(X, Y, **FIT)
    model.layers[1].trainable = False
    before = [layer.get_weights() for layer in model.layers]
    trainer.fit(X, Y, **FIT)
    after = [layer.get_weights() for layer in model.layers]
    np.testing.assert_array_equal(before[1][0], after[1][0])
    assert (before[2][0] != after[2][0]).any()


def test_thawed_layer_between_two_fits():
    """A layer that the optimizer was not built for is refused; a new trainer trains it."""
    model = new_model()
    model.layers[1].trainable = False
    trainer = Trainer(model, optimizer=sgd(momentum=0.9), loss="mse")
    trainer.fit(X, Y, **FIT)
    model.layers[1].trainable = True
    before = model.get_weights()
    with pytest.raises(ModelError, match="dense.*SGD.*new optimizer"):
        trainer.fit(X, Y, **FIT)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    Trainer(model, optimizer=sgd(), loss="mse").fit(X, Y, **FIT)
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.slow
def test_function_that_returns_the_model():
    """A function is called once, and trainer.model is what it returned."""
    made = []

    def build():
        made.append(new_model())
        return made[-1]

    trainer = Trainer(build, optimizer=sgd(), loss="mse")
    trainer.fit(X, Y, **FIT)
    assert [trainer.model] == made
    expected = new_model()
    Trainer(expected, optimizer=sgd(), loss="mse").fit(X, Y, **FIT)
    assertions.assert_close_weights(expected, trainer.model)


# Options of the step ----------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "clipping"),
    [
        tiers.slow({"micro_batches": 2}, {}),
        tiers.slow({"micro_batches": 5}, {}),
        tiers.slow({"clipvalue": 0.05}, {"clipvalue": 0.05}),
        tiers.slow({"clipnorm": 0.1}, {"clipnorm": 0.1}),
        ({"micro_batches": 3, "global_clipnorm": 0.1}, {"global_clipnorm": 0.1}),
    ],
    ids=str,
)
def test_options_equal_the_whole_batch(options, clipping):
    """Micro-batches and clipping end at the weights of the whole batch under Keras's clipping."""
    expected = new_model()
    expected.compile(sgd(**clipping), "mse", weighted_metrics=["mae"])
    fit = {**FIT, "epochs": 2, "sample_weight": WEIGHT}
    history = expected.fit(X, Y, **fit).history
    model = new_model()
    trainer = Trainer(
        model,
        optimizer=sgd(),
        loss="mse",
        weighted_metrics=["mae"],
        execution="step",
        **options,
    )
    actual = trainer.fit(X, Y, **fit).history
    assertions.assert_close_weights(expected, model)
    for name in history:
        assert history[name] == pytest.approx(actual[name], abs=1e-6)


def test_clipping_twice():
    """Clipping of the step and of the optimizer, given or compiled, is refused."""
    clipped = keras.optimizers.SGD(clipnorm=1.0)
    with pytest.raises(ArgumentError, match="clipvalue.*clipnorm=1.0"):
        Trainer(new_model(), optimizer=clipped, loss="mse", clipvalue=1.0)
    model = new_model()
    model.compile(clipped, "mse")
    with pytest.raises(ArgumentError, match="set twice"):
        Trainer(model, clipvalue=1.0)
    assert model.optimizer is clipped


# Replicas ---------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Configured(Base):
    """A subclassed model that can be made again from its configuration."""

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls()


def one_device(make):
    model = new_model(make)
    arguments = {"optimizer": sgd(momentum=0.9), "loss": "mse", "metrics": ["mae"]}
    trainer = Trainer(model, execution="step", **arguments)
    history = trainer.fit(X, Y, epochs=2, validation_data=(X[:5], Y[:5]), **FIT).history
    return model, history, trainer


@pytest.mark.parametrize("kind", [tiers.slow("built"), "compiled", tiers.slow("function")])
def test_two_replicas(kind):
    """Two replicas on a ragged last batch end where one device ends; the user's model has it."""
    expected, history, _ = one_device(models.mlp)
    arguments = {"loss": "mse", "metrics": ["mae"], "optimizer": sgd(momentum=0.9)}
    if kind == "function":
        trainer = Trainer(new_model, strategy="mirrored:2", **arguments)
    else:
        model = new_model()
        if kind == "compiled":
            model.compile(**arguments)
            arguments = {}
        trainer = Trainer(model, strategy="mirrored:2", **arguments)
        assert trainer.model is model
    actual = trainer.fit(X, Y, epochs=2, validation_data=(X[:5], Y[:5]), **FIT).history
    assertions.assert_close_weights(expected, trainer.model)
    assert list(history) == list(actual)
    for name in history:
        assert history[name] == pytest.approx(actual[name], abs=1e-6)
    np.testing.assert_allclose(
        trainer.predict(X, verbose=0), expected.predict(X, verbose=0), atol=1e-6
    )
    results = trainer.evaluate(X, Y, batch_size=4, verbose=0)
    assert one_by_one(expected) == pytest.approx(results[0], abs=1e-6)


def one_by_one(model):
    return float(np.mean(np.square(model.predict(X, verbose=0) - Y)))


def test_two_replicas_of_a_subclassed_model():
    """A subclassed, unbuilt model with get_config is built under the strategy and handed back."""
    model = new_model(Configured)
    assert not model.built
    trainer = Trainer(model, optimizer=sgd(), loss="mse", strategy="mirrored:2")
    loss = trainer.fit(X, Y, epochs=2, **FIT).history["loss"]
    assert loss[1] < loss[0]
    assert 2 == len(model.get_weights())
    evaluated = trainer.evaluate(X, Y, verbose=0)
    assert one_by_one(model) == pytest.approx(evaluated, abs=1e-6)
    again = trainer.fit(X, Y, **FIT).history["loss"]
    assert again[0] < loss[1]
    assert one_by_one(model) == pytest.approx(trainer.evaluate(X, Y, verbose=0), abs=1e-6)


@pytest.mark.slow
def test_a_model_without_a_configuration_under_a_strategy():
    """Whether it was built outside the scope, or by a function inside it."""

    class Lost(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.out = keras.layers.Dense(units)

        def call(self, x):
            return self.out(x)

    for model in (Lost(2), lambda: Lost(2)):
        trainer = Trainer(model, optimizer="sgd", loss="mse", strategy="mirrored:2")
        trainer.fit(X, Y, **FIT)
        assert 2 == len(trainer.model.get_weights())


@pytest.mark.slow
def test_weights_set_between_two_fits_under_a_strategy():
    """Weights that the user sets on the model are the ones that the next fit begins with."""
    first = new_model().get_weights()
    ends = []
    for strategy in (None, "mirrored:2"):
        model = new_model()
        trainer = Trainer(model, optimizer=sgd(), loss="mse", strategy=strategy)
        trainer.fit(X, Y, **FIT)
        model.set_weights(first)
        trainer.fit(X, Y, **FIT)
        ends.append(model)
    assertions.assert_close_weights(*ends)


class Within(keras.callbacks.Callback):
    """Calls something at the end of the first epoch."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.result = self.call()


def test_fit_within_fit_of_the_same_trainer():
    """It is refused, and the one around it has lost nothing."""
    x, y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")

    def made():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        return Trainer(model, optimizer="sgd", loss="mse", seed=0, execution="loop")

    def caught():
        with pytest.raises(ModelError, match="inside `fit`"):
            one.fit(x, y, verbose=0)
        return one.evaluate(x, y, verbose=0), one.predict(x, verbose=0), two.fit(x, y, verbose=0)

    one, two, plain = made(), made(), made()
    within = Within(caught)
    history = one.fit(x, y, epochs=3, verbose=0, callbacks=[within]).history
    assert history == plain.fit(x, y, epochs=3, verbose=0).history
    assert len(within.result) == 3
    one.fit(x, y, verbose=0)
