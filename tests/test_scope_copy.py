"""A copy in a strategy's scope is the same model, or is refused with the layer that differs."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ModelError
from kerastrain import Trainer
from kerastrain.layer_states import layer_states
from kerastrain.layer_states import set_layer_states
from kerastrain.scope_copy import copy_optimizer
from tests.models import largest_difference

L = keras.layers
RNG = np.random.default_rng(0)
X = 3 * RNG.normal(size=(32, 5)).astype("float32") + 4
Y = X.sum(1, keepdims=True) / 10
WORDS = np.array(["ant bee", "bee", "cat ant ant", "dog"] * 8)


def register(kind):
    return keras.saving.register_keras_serializable("test_scope_copy")(kind)


@register
class Tabled(L.Layer):
    """Looks up a row of an array that is no variable, and is saved by Keras's protocol."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.table = np.zeros(5, "float32")

    def save_own_variables(self, store):
        store["table"] = self.table

    def load_own_variables(self, store):
        self.table = np.asarray(store["table"])

    def call(self, x):
        return x * self.table


@register
class Centred(L.Layer):
    """Takes off a constant that is derived from a variable when it is loaded, as in Keras's."""

    def build(self, shape):
        self.mean = self.add_weight(shape=(shape[-1],), trainable=False)
        self.constant = None

    def adapt(self, x):
        self.mean.assign(x.mean(0))
        self.finalize_state()

    def finalize_state(self):
        self.constant = tf.constant(self.mean.numpy())

    def load_own_variables(self, store):
        super().load_own_variables(store)
        self.finalize_state()

    def call(self, x):
        return x - (0.0 if self.constant is None else self.constant)


@register
class Listed(L.Layer):
    """Multiplies by variables in a list that Keras does not track."""

    def build(self, shape):
        self.factors = ({"one": [tf.Variable(np.ones(shape[-1], "float32"))]},)

    def call(self, x):
        return x * self.factors[0]["one"][0]


@register
class Forgetful(L.Layer):
    """Multiplies by a number that its configuration does not have."""

    factor = 1.0

    def call(self, x):
        return x * self.factor


def of_numbers(layer):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((5,))
    inner = keras.Sequential([layer, L.Dropout(0.0)])
    model = keras.Model(inputs, L.Dense(1)(inner(inputs)))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def of_text(layer, kind="string"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((1,) if kind == "int64" else (), dtype=kind)
    features = layer(inputs)
    if not features.dtype.startswith("float"):
        features = L.Flatten()(L.Embedding(20, 3)(features))
    model = keras.Model(inputs, L.Dense(1)(features))
    model.compile(keras.optimizers.SGD(0.01), "mse")
    return model


def normalized():
    layer = L.Normalization()
    layer.adapt(X)
    return of_numbers(layer), X


def binned():
    layer = L.Discretization(num_bins=4, output_mode="multi_hot")
    layer.adapt(X)
    return of_numbers(layer), X


def tabled():
    model = of_numbers(Tabled())
    model.layers[1].layers[0].table = np.arange(5, dtype="float32") / 10
    return model, X


def centred():
    layer = Centred()
    model = of_numbers(layer)
    layer.adapt(X)
    return model, X


def listed():
    model = of_numbers(Listed())
    model.layers[1].layers[0].factors[0]["one"][0].assign(np.arange(5, dtype="float32") / 10)
    return model, X


def looked_up():
    layer = L.StringLookup()
    layer.adapt(WORDS)
    return of_text(layer), tf.constant(WORDS)


def vectorized():
    layer = L.TextVectorization(output_mode="tf_idf")
    layer.adapt(WORDS)
    return of_text(layer), tf.constant(WORDS)


def counted():
    layer = L.IntegerLookup(output_mode="tf_idf")
    numbers = np.array([[1], [5], [5], [9]] * 8)
    layer.adapt(numbers)
    return of_text(layer, "int64"), numbers


MODELS = (normalized, binned, tabled, centred, listed, looked_up, vectorized, counted)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_copy_is_the_same_model(make):
    """Before any training, and after it: the numbers are those of the model itself."""
    (model, x), (alone, _) = make(), make()
    y = Y[: len(x)]
    trainer = Trainer(model, seed=0, strategy="mirrored:2")
    assert np.isclose(trainer.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5)
    assert np.allclose(trainer.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    fit = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}
    trainer.fit(x, y, **fit)
    Trainer(alone, seed=0).fit(x, y, **fit)
    assert largest_difference(model, alone) < 1e-5
    assert np.isclose(trainer.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5)


def test_a_copy_that_differs_is_refused():
    """With the name and class of the layer, before a weight changes."""
    layer = Forgetful(name="forgets")
    model = of_numbers(layer)
    layer.factor = 2.0
    before = model.get_weights()
    for door in ("fit", "evaluate"):
        with pytest.raises(ModelError, match="'forgets' of type Forgetful"):
            getattr(Trainer(model, seed=0, strategy="mirrored:2"), door)(X, Y, verbose=0)
    with pytest.raises(ModelError, match="'forgets' of type Forgetful"):
        Trainer(model, seed=0, strategy="mirrored:2").predict(X, verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_model_that_draws_numbers_when_it_predicts_is_no_other():
    """Outputs that differ from themselves say nothing about the copy."""

    @register
    class Sampling(L.Layer):
        def call(self, x):
            return x + tf.random.normal(tf.shape(x))

    Trainer(of_numbers(Sampling()), seed=0, strategy="mirrored:2").fit(X, Y, verbose=0)


def test_what_changed_between_two_fits_is_in_the_copy():
    """The user's model may be adapted or loaded anew after the Trainer was made."""
    layer = L.Normalization()
    layer.adapt(X[:3])
    model = of_numbers(layer)
    trainer = Trainer(model, seed=0, strategy="mirrored:2")
    trainer.fit(X, Y, verbose=0)
    layer.adapt(X)
    expected = model.evaluate(X, Y, verbose=0)
    assert np.isclose(trainer.evaluate(X, Y, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("strategy", [None, "mirrored:2"])
def test_steps_that_were_traced_do_not_keep_old_constants(strategy):
    """A layer that is adapted anew between two calls is the new one in all of them."""
    layer = L.Normalization()
    layer.adapt(X[:3])
    model = of_numbers(layer)
    trainer = Trainer(model, seed=0, strategy=strategy)
    for rows in (X[:3], X, X[5:]):
        layer.adapt(rows)
        expected = np.mean((model(X) - Y) ** 2)
        assert np.isclose(trainer.evaluate(X, Y, verbose=0), expected, rtol=1e-5)


def test_a_stream_is_predicted_by_the_same_model():
    """Also where nothing was built or trained before: the weights are those of the user's model."""

    @register
    class Lazy(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.dense = L.Dense(1)

        def call(self, x):
            return self.dense(x)

    model = Lazy()
    trainer = Trainer(model, optimizer="sgd", loss="mse", strategy="mirrored:2", seed=0)
    found = trainer.predict(tf.data.Dataset.from_tensor_slices(X).batch(8), verbose=0)
    assert np.allclose(model(X), found, atol=1e-5)
    unbuilt = Trainer(Lazy(), optimizer="sgd", loss="mse", strategy="mirrored:2")
    with pytest.raises(ModelError, match="Call the model on a batch first"):
        unbuilt.predict(iter([X]), verbose=0)


def test_layer_states_are_those_of_another_copy():
    """What is saved of one layer, and loaded into another, is saved of that again."""
    for make in MODELS:
        model, _ = make()
        layers = {layer.name: layer for layer in model.layers}
        states = layer_states(layers)
        set_layer_states(layers, states)
        assert repr(states) == repr(layer_states(layers))


def test_optimizers_are_matched_by_attributes():
    """Of optimizers in an optimizer, each gets the state of its counterpart."""

    def make():
        inner = {".*kernel": keras.optimizers.Adam(0.01), ".*bias": keras.optimizers.SGD(0.1, 0.9)}
        chosen = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.05), inner)
        return keras.optimizers.MultiOptimizer(chosen)

    model, other = of_numbers(L.Dense(3)), of_numbers(L.Dense(3))
    one, two = make(), make()
    one.build(model.trainable_variables)
    for index, variable in enumerate(one.variables):
        variable.assign(keras.ops.full(variable.shape, index + 1))
    copy_optimizer(one, two, other.trainable_variables)
    assert [v.numpy().tolist() for v in one.variables] == [v.numpy().tolist() for v in two.variables]
