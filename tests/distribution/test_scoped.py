"""Under a strategy a model is the one that it was, or is refused before a weight changes."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import Execution
from kerastrain import ModelError
from kerastrain import Trainer
from kerastrain.state.layer_states import layer_states
from kerastrain.state.layer_states import set_layer_states
from tests.support import tiers
from tests.support.assertions import largest_difference

L = keras.layers
EAGER = Execution(run_eagerly=True)
RNG = np.random.default_rng(0)
X = 3 * RNG.normal(size=(32, 5)).astype("float32") + 4
Y = X.sum(1, keepdims=True) / 10
WORDS = np.array(["ant bee", "bee", "cat ant ant", "dog"] * 8)


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


class Listed(L.Layer):
    """Multiplies by variables in a list that Keras does not track."""

    def build(self, shape):
        self.factors = ({"one": [tf.Variable(np.ones(shape[-1], "float32"))]},)

    def call(self, x):
        return x * self.factors[0]["one"][0]


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


@pytest.mark.parametrize(
    "make",
    tiers.cases(MODELS, [tabled, looked_up]),
    ids=lambda make: make.__name__,
)
def test_layers_that_keep_more_than_variables(make):
    """Before any training, and after it: the numbers are those of the model itself."""
    (model, x), (alone, _) = make(), make()
    y = Y[: len(x)]
    trainer = Trainer(model, seed=0, strategy="mirrored:2", execution=EAGER)
    assert np.isclose(trainer.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5)
    assert np.allclose(trainer.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0}
    trainer.fit(x, y, **fit)
    Trainer(alone, seed=0, execution=EAGER).fit(x, y, **fit)
    assert largest_difference(model, alone) < 1e-5
    assert np.isclose(trainer.evaluate(x, y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5)


SETTINGS = {}


def setting(function):
    """Something that makes a model another one, of which its configuration says nothing."""
    SETTINGS[function.__name__] = function


@setting
def weights_without_decay(model):
    model.optimizer.exclude_from_weight_decay(var_names=["kernel"])


@setting
def a_weight_without_decay(model):
    model.optimizer.exclude_from_weight_decay(var_list=[model.layers[1].kernel])


@setting
def a_frozen_weight(model):
    model.layers[0].kernel.trainable = False


@setting
def a_regularizer_of_one_weight(model):
    model.layers[0].kernel.regularizer = keras.regularizers.L2(0.5)


@setting
def a_constraint_of_one_weight(model):
    model.layers[0].kernel.constraint = keras.constraints.MaxNorm(0.1)


@setting
def a_regularizer_that_has_no_effect(model):
    model.layers[0].kernel_regularizer = keras.regularizers.L2(0.5)


@setting
def a_number_of_a_layer(model):
    model.layers[2].factor = 3.0


@setting
def a_function_of_the_model(model):
    usual = model.compute_loss
    model.compute_loss = lambda *args, **kwargs: 3 * usual(*args, **kwargs)


@setting
def a_function_of_a_layer(model):
    usual = model.layers[1].call
    model.layers[1].call = lambda x, training=None: 2 * usual(x)


class Factored(L.Layer):
    """Multiplies by a number while it trains, which its configuration does not have."""

    factor = 1.0

    def call(self, x, training=False):
        return self.factor * x if training else x


def plain():
    keras.utils.set_random_seed(1)
    layers = L.Dense(4, activation="tanh"), L.Dense(3), Factored(), L.Dense(1)
    model = keras.Sequential([keras.Input((5,)), *layers])
    # By less, Adam makes steps of the rounding of the smallest gradients.
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.2, epsilon=1e-3), "mse")
    return model


@pytest.mark.parametrize(
    "name, strategy",
    tiers.cases(
        itertools.product(SETTINGS, ["one_device", "mirrored:2"]),
        [("a_weight_without_decay", "mirrored:2"), ("a_number_of_a_layer", "mirrored:2")],
    ),
)
def test_what_was_set_on_a_model(name, strategy):
    """It holds in the scope, without a word in a configuration."""
    models = plain(), plain(), plain()
    fit = {"batch_size": 16, "shuffle": False, "verbose": 0}
    for model, where in zip(models, (None, strategy), strict=False):
        SETTINGS[name](model)
        Trainer(model, seed=0, strategy=where, execution=EAGER).fit(X, Y, **fit)
    Trainer(models[2], seed=0, execution=EAGER).fit(X, Y, **fit)
    assert largest_difference(*models[:2]) < 1e-5
    has_effect = "no_effect" not in name
    assert has_effect == (largest_difference(models[0], models[2]) > 1e-3)


@pytest.mark.slow
def test_who_holds_a_model_sees_what_trains():
    """A callback that has it from elsewhere reads its weights, and changes what goes on."""
    model, seen = plain(), []

    def on_epoch_end(epoch, logs):
        seen.append((model.get_weights()[0], model.predict(X, verbose=0)))
        model.optimizer.learning_rate = 0.0
        model.stop_training = epoch == 2

    callback = keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
    begin = model.get_weights()[0]
    Trainer(model, seed=0, strategy="mirrored:2").fit(
        X, Y, epochs=9, verbose=0, callbacks=[callback]
    )
    assert 3 == len(seen)
    assert np.abs(seen[0][0] - begin).max() > 1e-3
    assert all(np.array_equal(seen[0][0], weights) for weights, _ in seen)
    assert np.allclose(seen[2][1], model.predict(X, verbose=0), atol=1e-6)


@pytest.mark.slow
def test_keras_and_trainer_train_on_in_turn():
    """Optimizer and weights are the same objects, with one state."""
    models = plain(), plain()
    for model, where in zip(models, (None, "mirrored:2"), strict=True):
        trainer = Trainer(model, seed=0, strategy=where)
        for _ in range(2):
            trainer.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
            model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert largest_difference(*models) < 1e-5
    iterations = [int(model.optimizer.iterations) for model in models]
    assert iterations[0] == iterations[1] > 0


def test_variables_are_those_outside_again_after_an_error():
    """With the values that they had got."""
    model = plain()
    before = [v.value for v in (*model.weights, *model.optimizer.variables)]

    def fail(batch, logs):
        raise RuntimeError("enough")

    callback = keras.callbacks.LambdaCallback(on_train_batch_end=fail)
    trainer = Trainer(model, seed=0, strategy="mirrored:2")
    with pytest.raises(RuntimeError, match="enough"):
        trainer.fit(X, Y, verbose=0, callbacks=[callback])
    assert all(v.value is one for v, one in zip(model.weights, before, strict=False))
    assert 1 == int(model.optimizer.iterations)


@pytest.mark.parametrize(
    "kind, plan",
    [
        (tf.Variable, "loop"), tiers.slow(keras.Variable, "step"),
        tiers.slow(tf.Variable, "xla_step"), (keras.Variable, None),
    ],
)  # fmt: skip
def test_a_variable_that_each_replica_would_change_is_refused(kind, plan):
    """It was made outside, and nothing but a function holds it."""
    count = kind(0.0, trainable=False)

    def counted(y_true, y_pred):
        count.assign(count + 1.0)
        return keras.ops.square(y_true - y_pred)

    model = plain()
    model.compile("sgd", counted)
    before = model.get_weights()
    execution = Execution(plan=plan) if plan else Execution(run_eagerly=True)
    trainer = Trainer(model, seed=0, strategy="mirrored:2", execution=execution)
    with pytest.raises(ModelError, match="made outside the strategy's scope"):
        trainer.fit(X, Y, verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))
    assert 0.0 == float(count)


@pytest.mark.slow
def test_a_function_that_was_traced_outside():
    """A layer's own tf.function is traced anew in the scope, and is as it was outside."""

    class Traced(L.Dense):
        @tf.function(input_signature=[tf.TensorSpec((None, 5), tf.float32)])
        def call(self, x):
            return super().call(x)

    models = [of_numbers(Traced(3, kernel_initializer="identity")) for _ in range(2)]
    for model, where in zip(models, (None, "mirrored:2"), strict=True):
        model(X)
        Trainer(model, seed=0, strategy=where).fit(X / 9, Y, batch_size=8, shuffle=False, verbose=0)
    assert largest_difference(*models) < 1e-5
    assert np.allclose(models[0](X), models[1](X), atol=1e-5)


@pytest.mark.slow
def test_a_variable_as_it_is_outside_is_refused():
    """A layer may have kept what Keras's variable held when it was built."""

    class Keeping(L.Dense):
        def build(self, shape):
            super().build(shape)
            self.kept = (self.kernel.value,)

        def call(self, x):
            return super().call(x) + tf.reduce_sum(self.kept[0])

    model = of_numbers(Keeping(3))
    before = model.get_weights()
    with pytest.raises(ModelError, match="keeping.*/kernel' as it is outside the strategy's scope"):
        Trainer(model, seed=0, strategy="mirrored:2").fit(X, Y, verbose=0)
    assert all(map(np.array_equal, before, model.get_weights()))


@pytest.mark.slow
def test_what_changed_between_two_fits():
    """The user's model may be adapted or loaded anew after the Trainer was made."""
    layer = L.Normalization()
    layer.adapt(X[:3])
    model = of_numbers(layer)
    trainer = Trainer(model, seed=0, strategy="mirrored:2")
    trainer.fit(X, Y, verbose=0)
    layer.adapt(X)
    expected = model.evaluate(X, Y, verbose=0)
    assert np.isclose(trainer.evaluate(X, Y, verbose=0), expected, rtol=1e-5)


@pytest.mark.parametrize("strategy", [tiers.slow(None), "mirrored:2"])
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


def test_layer_states_are_those_of_another_copy():
    """What is saved of one layer, and loaded into another, is saved of that again."""
    for make in MODELS:
        model, _ = make()
        layers = {layer.name: layer for layer in model.layers}
        states = layer_states(layers)
        set_layer_states(layers, states)
        assert repr(states) == repr(layer_states(layers))


def mixed(learning_rate):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(learning_rate), 1.0)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [keras.optimizers.RMSprop, tiers.slow(mixed)])
def test_optimizers_of_an_own_step_are_built_before_it(kind):
    """On a replica they could not be; the step tells which weights each of them gets."""

    class Halves(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = keras.layers.Dense(3), keras.layers.Dense(1)

        def call(self, x):
            return self.second(self.first(x))

        def train_step(self, data):
            x, y = data
            with tf.GradientTape(persistent=True) as tape:
                loss = tf.reduce_sum(tf.square(self(x, training=True) - y))
            for part, optimizer in zip((self.first, self.second), self.optimizers, strict=True):
                weights = part.trainable_weights
                optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {}

    def weights(strategy):
        keras.utils.set_random_seed(1)
        model = Halves()
        model.compile()
        model(np.ones((2, 4), "float32"))
        model.optimizers = [kind(0.01), kind(0.02)]
        x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
        trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=strategy, execution="step")
        trainer.fit(x, x.sum(1, keepdims=True), batch_size=4, shuffle=False, verbose=0)
        return model.get_weights()

    for one, other in zip(weights(None), weights("mirrored:2"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_model_from_outside_is_resumed(tmp_path):
    """The names of its variables are the same in each process, whatever holds them meanwhile."""

    def weights(epochs, **run):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        options = {"strategy": "mirrored:2", "seed": 0, "execution": "step"}
        trainer = Trainer(model, optimizer="adam", loss="mse", **options)
        x = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
        trainer.fit(x, x.sum(1, keepdims=True), batch_size=4, epochs=epochs, verbose=0, **run)
        return model.get_weights()

    whole = weights(2)
    weights(1, run_dir=tmp_path / "run")
    for one, other in zip(whole, weights(2, run_dir=tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(one, other)
