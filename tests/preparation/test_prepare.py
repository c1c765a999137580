"""Before the first step: what trains, what a batch is, which labels may be missing, what is refused."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import DataError
from kerastrain import ModelError
from kerastrain import RunDir
from kerastrain import StepOptions
from kerastrain import Trainer
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

X, Y, _ = datasets.regression(rows=20, outputs=1)
FIT = {"batch_size": 6, "verbose": 0, "shuffle": False}


# Layers that are frozen or not in callbacks -------------------------------------


def three_layers(frozen=None, **compile_):
    keras.utils.set_random_seed(4)
    layers = keras.layers
    hidden = layers.Dense(6, activation="tanh", kernel_regularizer="l2")
    model = keras.Sequential(
        [keras.Input((4,)), hidden, layers.BatchNormalization(), layers.Dense(1)]
    )
    if frozen is not None:
        model.layers[frozen].trainable = False
    model.compile(keras.optimizers.Adam(0.05), "mse", **compile_)
    return model


class Sets(keras.callbacks.Callback):
    """Sets the flag of a layer at an event, of the model that trains or of the user's."""

    def __init__(self, event, layer, value, users=None):
        super().__init__()
        self.at, self.layer, self.value, self.users = event, layer, value, users

    def set(self, event):
        if event == self.at:
            (self.users or self.model).layers[self.layer].trainable = self.value

    def on_train_begin(self, logs=None):
        self.set("train begins")

    def on_epoch_begin(self, epoch, logs=None):
        self.set(f"epoch {epoch} begins")

    def on_epoch_end(self, epoch, logs=None):
        self.set(f"epoch {epoch} ends")


EVENTS = [
    (0, "epoch 0 begins", 0, True),
    *(
        pytest.param(*event, marks=pytest.mark.slow)
        for event in (
            (None, "epoch 1 begins", 1, False),
            (0, "train begins", 0, True),
            (None, "epoch 0 begins", 0, False),
            (1, "train begins", 1, True),
            (0, "epoch 0 ends", 0, True),
        )
    ),
]


@pytest.mark.parametrize(("frozen", "event", "layer", "value"), EVENTS)
def test_flags_set_by_callbacks(frozen, event, layer, value):
    """They hold as under Keras's `fit`: until the first step; later ones do not for this training."""
    expected, model = three_layers(frozen), three_layers(frozen)
    fit = {**FIT, "epochs": 3, "validation_data": (X[:7], Y[:7])}
    wanted = expected.fit(X, Y, callbacks=[Sets(event, layer, value)], **fit).history
    trainer = Trainer(model, execution="loop" if value else "step")
    history = trainer.fit(X, Y, callbacks=[Sets(event, layer, value)], **fit).history
    assert assertions.largest_difference(expected, model) <= 1e-6
    for name, values in wanted.items():
        np.testing.assert_allclose(values, history[name], rtol=1e-5)
    assert [x.trainable for x in expected.layers] == [x.trainable for x in model.layers]


@pytest.mark.slow
@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize(("frozen", "event", "layer", "value"), EVENTS)
def test_flags_after_a_resume(frozen, event, layer, value, eager, tmp_path):
    """A resumed training ends with the same bits and flags, wherever it was left."""
    if eager and (event, value) == ("epoch 0 ends", True):
        pytest.skip("there it is an error, as under Keras")

    def trained(directory, *epochs):
        for count in epochs:
            model = three_layers(frozen, run_eagerly=eager)
            fit = {**FIT, "epochs": count, "run_dir": RunDir(directory, save_every=3)}
            Trainer(model, seed=0).fit(X, Y, callbacks=[Sets(event, layer, value)], **fit)
        return model

    whole = trained(tmp_path / "whole", 3)
    for count in (1, 2):
        resumed = trained(tmp_path / str(count), count, 3)
        assert 0.0 == assertions.largest_difference(whole, resumed)
        assert [x.trainable for x in whole.layers] == [x.trainable for x in resumed.layers]


@pytest.mark.slow
def test_a_flag_after_a_resume(tmp_path):
    """`on_epoch_begin(0)` is not called again, and what it did still holds."""

    def trained(directory, *epochs):
        for count in epochs:
            model = three_layers(0)
            fit = {**FIT, "epochs": count, "run_dir": directory}
            callbacks = [Sets("epoch 0 begins", 0, True)]
            Trainer(model, seed=0, execution="step").fit(X, Y, callbacks=callbacks, **fit)
        return model

    whole, resumed = trained(tmp_path / "a", 2), trained(tmp_path / "b", 1, 2)
    assert 0.0 == assertions.largest_difference(whole, resumed)
    assert assertions.largest_difference(whole, three_layers(0)) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("of_users_model", [False, True])
def test_flags_of_a_copy_in_a_strategy(of_users_model):
    """Both models follow, whichever the callback has at hand; a second training too."""
    model = three_layers(0)
    before = model.layers[0].get_weights()[0]
    callback = Sets("train begins", 0, True, model if of_users_model else None)
    trainer = Trainer(model, strategy="mirrored:2")
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of BatchNormalization on replicas
            trainer.fit(X, Y, callbacks=[callback], **FIT)
        after = model.layers[0].get_weights()[0]
        assert (before != after).any()
        before = after
    assert all(layer.trainable for layer in model.layers)


def test_an_eager_training_that_unfreezes_too_late():
    """The optimizer has been built: an error with the fix, at the begin of the epoch."""
    model = three_layers(0, run_eagerly=True)
    callback = Sets("epoch 0 ends", 0, True)
    with pytest.raises(ModelError, match="became trainable.*new optimizer"):
        Trainer(model).fit(X, Y, epochs=2, callbacks=[callback], **FIT)


# Steps of the user's own --------------------------------------------------------


class Own(keras.Model):
    """Its step knows what a batch is; the optimizer knows one part of it."""

    def __init__(self):
        super().__init__()
        keras.utils.set_random_seed(2)
        self.student = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        self.teacher = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        self.mean = keras.metrics.Mean(name="mean")

    @property
    def metrics(self):
        return [self.mean]

    def call(self, x):
        return self.student(x)

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.loss_of(data)
        weights = self.student.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self.mean.update_state(loss)
        return {"mean": self.mean.result()}

    def test_step(self, data):
        self.mean.update_state(self.loss_of(data))
        return {"mean": self.mean.result()}


class OfFour(Own):
    """Four parts: of unequal lengths, and a scalar."""

    def loss_of(self, data):
        x, other, y, scale = data
        return scale * tf.reduce_mean((self.student(x) - y) ** 2) + tf.reduce_mean(
            (self.student(other) - self.teacher(other)) ** 2
        )

    @staticmethod
    def data():
        slices = tf.data.Dataset.from_tensor_slices
        parts = slices(X).batch(5), slices(X).batch(3), slices(Y).batch(5)
        return tf.data.Dataset.zip((*parts, tf.data.Dataset.from_tensors(0.5).repeat())).take(4)


class OfNests(Own):
    """Dicts in tuples, with text."""

    def loss_of(self, data):
        return sum(tf.reduce_mean(self.student(part["x"]) ** 2) for part in data["pair"])

    @staticmethod
    def data():
        slices = tf.data.Dataset.from_tensor_slices
        pairs = tf.data.Dataset.zip((slices(X).batch(5), slices(X).batch(2)))
        return pairs.map(lambda a, b: {"pair": ({"x": a}, {"x": b}), "text": tf.constant(["t"])})


class OfScalars(Own):
    """No batches at all."""

    def loss_of(self, data):
        x, y = data
        return tf.reduce_mean((self.student(x * tf.ones((2, 4))) - y) ** 2)

    @staticmethod
    def data():
        return tf.data.Dataset.from_tensor_slices((X[:, 0], Y[:, 0]))


@pytest.mark.parametrize("cls", [OfFour, tiers.slow(OfNests), tiers.slow(OfScalars)])
def test_a_step_decides_what_a_batch_is(cls):
    """Same numbers as under Keras, in a new trainer each time, and nothing is said."""
    expected, model = cls(), cls()
    expected.compile(keras.optimizers.SGD(0.05))
    model.compile(keras.optimizers.SGD(0.05))
    fit = {"epochs": 2, "verbose": 0}
    wanted = expected.fit(cls.data(), validation_data=cls.data(), **fit).history
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = Trainer(model).fit(cls.data(), validation_data=cls.data(), **fit).history
        result = Trainer(model).evaluate(cls.data(), verbose=0)
    assert assertions.largest_difference(expected, model) <= 1e-6
    np.testing.assert_allclose(wanted["val_mean"], history["val_mean"], rtol=1e-5)
    np.testing.assert_allclose(expected.evaluate(cls.data(), verbose=0), result, rtol=1e-5)
    Trainer(model).fit(cls.data(), verbose=0)


def test_four_parts_for_the_step_of_keras():
    """A standard step takes three."""
    with pytest.raises(DataError, match="`x`.*tuple of 4 parts.*step of its own"):
        Trainer(three_layers()).fit(OfFour.data(), verbose=0)


def test_predict_by_a_step_of_its_own():
    """`predict` does not call a model that its `predict_step` does not call."""

    class ByIndex(keras.Model):
        def call(self, inputs):
            first, second = inputs
            return first + second

        def predict_step(self, data):
            return tf.cast(data, tf.float32) * 2

    model = ByIndex()
    model.compile("sgd", "mse")
    np.testing.assert_array_equal([0, 2, 4], Trainer(model).predict(np.arange(3), verbose=0))


# Labels that are missing --------------------------------------------------------


def masked(y_true, y_pred):
    known = ~tf.math.is_nan(y_true)
    difference = tf.where(known, tf.where(known, y_true, 0.0) - y_pred, 0.0)
    return tf.reduce_sum(difference**2, -1)


def two_outputs(loss):
    keras.utils.set_random_seed(1)
    model = models.two_outputs(outputs=1, names="ab")
    model.compile(keras.optimizers.SGD(0.05), loss)
    return model


MISSING = {"a": Y, "b": np.full_like(Y, np.nan)}


def test_labels_that_the_loss_masks():
    """Those of one output, and of the first batch of a stream."""
    expected, model = (two_outputs({"a": "mse", "b": masked}) for _ in range(2))
    expected.fit(X, MISSING, **FIT)
    Trainer(model, execution="step").fit(X, MISSING, validation_data=(X, MISSING), **FIT)
    assert assertions.largest_difference(expected, model) <= 1e-6
    late = Y.copy()
    late[:6] = np.nan
    batches = tf.data.Dataset.from_tensor_slices((X, {"a": late, "b": late})).batch(6)
    Trainer(two_outputs(masked), execution="step").fit(batches, verbose=0)


@pytest.mark.parametrize(
    "loss",
    [
        {"a": masked, "b": "mse"},
        tiers.slow({"a": masked, "b": "hinge"}),
        {"a": masked, "b": lambda y_true, y_pred: tf.reduce_mean(y_true - y_pred, -1)},
    ],
)
@pytest.mark.parametrize("where", ["y", "validation_data"])
def test_labels_that_it_does_not_mask(loss, where):
    """They are refused before a weight changes, also where a kernel might make a number of NaN."""
    model = two_outputs(loss)
    before = model.get_weights()
    whole = {"a": Y, "b": np.sign(Y)}
    data = {"y": MISSING} if where == "y" else {"y": whole, "validation_data": (X, MISSING)}
    with pytest.raises(DataError, match=r"`y`.*\(20, 1\).*NaN throughout.*not masked"):
        Trainer(model).fit(X, **data, **FIT)
    np.testing.assert_array_equal(before[0], model.get_weights()[0])


# Inputs that are missing ---------------------------------------------------------


class Known(keras.layers.Layer):
    """Zero in place of NaN."""

    def call(self, x):
        return tf.where(tf.math.is_nan(x), 0.0, x)


def with_an_optional_input(mask=True, activation=None):
    keras.utils.set_random_seed(1)
    inputs = {name: keras.Input((4,), name=name) for name in "pq"}
    optional = Known()(inputs["q"]) if mask else inputs["q"]
    joined = keras.layers.Concatenate()([inputs["p"], optional])
    hidden = keras.layers.Dense(3, activation=activation)(joined)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile(keras.optimizers.SGD(0.05), "mse")
    return model


WITHOUT = {"p": X, "q": np.full_like(X, np.nan)}
LATER = {"p": X, "q": np.concatenate([WITHOUT["q"][:6], X[6:]])}


def test_inputs_that_the_model_masks():
    """Of all rows, of a few to validate on, and of the first batch of a stream."""
    expected, model = with_an_optional_input(), with_an_optional_input()
    trainer = Trainer(model, execution="step")
    expected.fit(WITHOUT, Y, **FIT)
    trainer.fit(WITHOUT, Y, validation_data=({k: v[:1] for k, v in WITHOUT.items()}, Y[:1]), **FIT)
    expected.fit(LATER, Y, **FIT)
    trainer.fit(tf.data.Dataset.from_tensor_slices((LATER, Y)).batch(6), verbose=0)
    assert assertions.largest_difference(expected, model) <= 1e-6
    results = expected.evaluate(WITHOUT, Y, verbose=0), trainer.evaluate(WITHOUT, Y, verbose=0)
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    outputs = trainer.predict(WITHOUT, verbose=0)
    np.testing.assert_allclose(expected.predict(WITHOUT, verbose=0), outputs, atol=1e-6)


def test_outputs_of_missing_inputs():
    """Nobody is in the way of predictions: they are what the model makes of its inputs."""
    trainer = Trainer(with_an_optional_input(mask=False))
    assert np.isnan(trainer.predict(WITHOUT, verbose=0)).all()


@pytest.mark.parametrize("activation", [tiers.slow(None), "relu"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_inputs_that_it_does_not_mask(method, activation):
    """They are refused, also where a kernel might make a number of NaN."""
    trainer = Trainer(with_an_optional_input(mask=False, activation=activation))
    for data in ((WITHOUT, Y), (tf.data.Dataset.from_tensor_slices((LATER, Y)).batch(6),)):
        with pytest.raises(DataError, match=r"`x`.*, 4\).*NaN throughout.*not masked"):
            getattr(trainer, method)(*data, verbose=0)


# States for each row of a batch ---------------------------------------------------


def recurrent(fixed=True):
    inputs = keras.Input(batch_shape=(4 if fixed else None, 3, 2))
    hidden = keras.layers.LSTM(3, stateful=True, name="memory")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.compile("sgd", "mse")
    return model


ROWS = np.zeros((10, 3, 2), "float32"), np.zeros((10, 1), "float32")


@pytest.mark.parametrize(
    ("error", "says", "arguments"),
    [
        (DataError, "2 rows.*'memory'.*batch_size=4", {}),
        (DataError, "8 rows.*'memory'.*states for 4", {"rows": 8, "size": 8}),
        tiers.slow(DataError, "2 rows.*drop_remainder", {"streamed": True}),
        (DataError, "`validation_data` has 2 rows", {"rows": 8, "validation": True}),
        (ModelError, "'memory'.*micro_batches=2", {"step": StepOptions(micro_batches=2)}),
        (ModelError, "'memory'.*2 replicas", {"strategy": "mirrored:2"}),
    ],
)
def test_stateful_layers_need_whole_batches(error, says, arguments):
    """Each way to cut a batch is refused, with the layer and the fix."""
    count, size = arguments.pop("rows", 10), arguments.pop("size", 4)
    x, y = (part[:count] for part in ROWS)
    fit = {"verbose": 0, "batch_size": size}
    if arguments.pop("streamed", False):
        x, y = tf.data.Dataset.from_tensor_slices((x, y)).batch(size), None
        del fit["batch_size"]
    if arguments.pop("validation", False):
        fit["validation_data"] = ROWS
    with pytest.raises(error, match=says):
        Trainer(recurrent(), **arguments).fit(x, y, **fit)


def test_stateful_layers_train_on_whole_batches():
    """What fits is trained on, and predicted; a shorter batch is refused there too."""
    trainer = Trainer(recurrent())
    trainer.fit(ROWS[0][:8], ROWS[1][:8], batch_size=4, verbose=0)
    assert (8, 1) == trainer.predict(ROWS[0][:8], batch_size=4, verbose=0).shape
    with pytest.raises(DataError, match="2 rows.*'memory'"):
        trainer.predict(ROWS[0], batch_size=4, verbose=0)


# Weights ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "loss"),
    [
        ({"a": 5.0}, "mse"),
        ([5.0], "mse"),
        ({"a": 1.0, "b": 2.0}, "mse"),
        ({"a": 1.0, "c": 2.0}, {"a": "mse", "b": "mse"}),
        ([1.0], {"a": "mse", "b": "mse"}),
    ],
)
def test_loss_weights_that_are_not_of_the_losses(weights, loss):
    """One of them would weigh all outputs, without a word."""
    trainer = Trainer(two_outputs("mse"), optimizer="sgd", loss=loss, loss_weights=weights)
    with pytest.raises(ArgumentError, match="`loss_weights` must have a number for each loss"):
        trainer.fit(X, {"a": Y, "b": Y}, **FIT)


# What dry runs say ----------------------------------------------------------------


def test_warnings_of_dry_runs():
    """Of a model without `call` Keras says nothing, since nothing calls it."""

    class WithoutCall(OfFour):
        call = keras.Model.call

    model = WithoutCall()
    model.compile(keras.optimizers.SGD(0.05))
    plain = tf.data.Dataset.from_tensor_slices((X, Y)).batch(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer(model).fit(OfFour.data(), verbose=0)

        class Simple(WithoutCall):
            def loss_of(self, data):
                return tf.reduce_mean((self.student(data[0]) - data[1]) ** 2)

        model = Simple()
        model.compile(keras.optimizers.SGD(0.05))
        Trainer(model).fit(plain, verbose=0)


def test_a_warning_of_the_users_own_comes_once():
    """What the model says when it is called is said as often as it is traced, not by dry runs."""

    class Says(keras.layers.Layer):
        def call(self, x):
            warnings.warn("called", stacklevel=1)
            return x

    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(Says()(inputs)))
    model.compile("sgd", "mse")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Trainer(model, execution="step").fit(X[:6], Y[:6], **FIT)
    assert 1 == sum("called" == str(w.message) for w in caught)


class FailsInLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((y - y_pred) ** 2) + None


def test_an_error_of_the_models_own_loss_is_not_the_datas():
    """It is named as what it is."""
    inputs = keras.Input((4,))
    trainer = Trainer(FailsInLoss(inputs, keras.layers.Dense(1)(inputs)), optimizer="sgd")
    with pytest.raises(ModelError, match="`compute_loss` of FailsInLoss failed .* None") as caught:
        trainer.fit(X, Y, **FIT)
    assert "Reshape" not in str(caught.value)
