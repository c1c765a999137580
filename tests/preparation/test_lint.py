"""`kerastrain.preparation.lint`: mistakes are found with their line, right ways are not reported.

Lines that a message must name are marked with a comment, ``# line: <name>``.
"""

import contextlib
import functools
import itertools
import pathlib
import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import _keras
from kerastrain import MetricError
from kerastrain import ModelError
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.distribution import strategy
from kerastrain.metrics import Bind
from kerastrain.metrics import EpochMetric
from kerastrain.preparation import dry_steps
from kerastrain.preparation import findings as rules
from kerastrain.preparation import lint
from kerastrain.preparation import metric_cuts
from kerastrain.preparation import prepare
from kerastrain.preparation import row_rules
from kerastrain.preparation import target_checks
from kerastrain.preparation.metric_cuts import Cut
from tests.support import tiers

ops = keras.ops
K = keras.metrics
RNG = np.random.default_rng(0)
X = tf.constant(RNG.normal(size=(16, 8)), tf.float32)
Y = tf.constant(RNG.normal(size=(16, 3)), tf.float32)
LABELS = tf.constant(RNG.integers(0, 3, size=16))
ONE_HOT = tf.one_hot(LABELS, 3)
BITS = tf.constant(RNG.integers(0, 2, size=(16, 3)), tf.float32)
REPLICAS = 2
SHARE = 0.5
SPARSE = "sparse_categorical_crossentropy"


def marked(name):
    """``file:line`` of the line of this file that is marked with ``name``."""
    lines = pathlib.Path(__file__).read_text(encoding="utf-8").splitlines()
    numbers = [n for n, line in enumerate(lines, 1) if line.endswith(f"# line: {name}")]
    assert len(numbers) == 1
    return f"{__file__}:{numbers[0]}"


def made(make, *, optimizer="adam", loss="mse", metrics=None, batch=(X, Y), replicas=2):
    """``(strategy, model)``: made in the scope, compiled and built.

    ``metrics`` is a list, or a function that makes one in the scope; ``loss=None`` does
    not compile the model.
    """
    scope = strategy.resolve(f"mirrored:{replicas}")
    with scope.scope():
        model = make()
        if loss is not None:
            optimizer = optimizer() if callable(optimizer) else optimizer
            model.compile(optimizer, loss, metrics=metrics() if callable(metrics) else metrics)
            target_checks.check_call(model, batch, "x")
            if metrics:
                target_checks.check_targets(model, batch, "x")
    return scope, model


def state(model):
    """Every number that a model has, on each replica."""
    variables = [*model.variables, *(v for metric in model.metrics for v in metric.variables)]
    for value in vars(model).values():
        if isinstance(value, keras.optimizers.Optimizer):
            variables += value.variables
    numbers = [part.numpy() for v in variables for part in _keras.read_local(v)]
    plain = [value for value in vars(model).values() if isinstance(value, tf.Variable)]
    return numbers + [part.numpy() for v in plain for part in getattr(v, "values", [v])]


def found(scope, model, batch=(X, Y), **options):
    """``{rule: message}``; asserts that nothing has changed and nothing was made."""
    created = []

    def creator(create, **kwargs):
        created.append(kwargs)
        return create(**kwargs)

    def all_state():
        draws = random.getstate(), np.random.get_state()[1].tolist()
        return state(model), draws, tf.config.functions_run_eagerly(), vars(model).keys()

    before = all_state()
    with scope.scope(), tf.variable_creator_scope(creator), warnings.catch_warnings():
        warnings.simplefilter("error")
        findings = lint.findings(model, batch, StepOptions(**options))
    after = all_state()
    for one, other in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert before[1:] == after[1:]
    assert not created
    assert scope.num_replicas_in_sync == REPLICAS
    return {finding.rule: finding.message for finding in findings}


# Unscaled loss ----------------------------------------------------------------


class Net(keras.Model):
    """A dense net with a regulariser and dropout, whose step has a loss of its own."""

    def __init__(self, regularizer="l2"):
        super().__init__()
        self.hidden = keras.layers.Dense(6, activation="tanh", kernel_regularizer=regularizer)
        self.dropout = keras.layers.Dropout(0.5)
        self.out = keras.layers.Dense(3)
        self.steps = tf.Variable(0.0)

    def call(self, x, training=False):
        return self.out(self.dropout(self.hidden(x), training=training))

    def train_step(self, data):
        x, y = data
        self.steps.assign_add(1.0 + 0.0 * random.random() * np.random.rand())
        with tf.GradientTape() as tape:
            loss = self.loss_of(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)  # line: gradient
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {"loss": loss}

    def loss_of(self, x, y, y_pred):
        raise NotImplementedError


def squares(y, y_pred):
    return tf.reduce_sum((y - y_pred) ** 2, axis=-1)


def rows(x):
    return tf.cast(tf.shape(x)[0], "float32")


def divided(loss):
    return loss / REPLICAS


def noise(x):
    return tf.random.normal((tf.shape(x)[0], 8))


def net(loss_of):
    """A `Net` with another loss."""
    return type("Net", (Net,), {"loss_of": loss_of, "__module__": __name__})


def of(model):
    return model.distribute_strategy.num_replicas_in_sync


RIGHT_LOSSES = {
    "a loss object": lambda m, x, y, p: keras.losses.MeanSquaredError()(y, p),
    "a loss object and regularisers": lambda m, x, y, p: (
        keras.losses.Huber()(y, p) + sum(m.losses) / of(m)
    ),
    "compute_loss": lambda m, x, y, p: m.compute_loss(x, y, p),
    "compute_average_loss": lambda m, x, y, p: tf.nn.compute_average_loss(squares(y, p)),
    "compute_average_loss, whole regularisers": lambda m, x, y, p: (
        tf.nn.compute_average_loss(squares(y, p)) + 1e-3 * sum(m.losses)
    ),
    "compute_average_loss of a constant batch": lambda m, x, y, p: tf.nn.compute_average_loss(
        squares(y, p), global_batch_size=16
    ),
    "the model's strategy": lambda m, x, y, p: tf.reduce_mean(squares(y, p)) / of(m),
    "the current strategy": lambda m, x, y, p: (
        tf.reduce_mean(squares(y, p)) / tf.distribute.get_strategy().num_replicas_in_sync
    ),
    "the replica": lambda m, x, y, p: (
        ops.mean(squares(y, p)) / tf.distribute.get_replica_context().num_replicas_in_sync
    ),
    "a factor": lambda m, x, y, p: ops.mean(squares(y, p)) * (1 / of(m)),
    "a constant global batch": lambda m, x, y, p: tf.reduce_sum(squares(y, p)) / 16,
    "a global number": lambda m, x, y, p: tf.reduce_mean(squares(y, p)) / REPLICAS,
    "a global share": lambda m, x, y, p: SHARE * tf.reduce_mean(squares(y, p)),
    "a number in a helper": lambda m, x, y, p: divided(tf.reduce_mean(squares(y, p))),
    "a division by function": lambda m, x, y, p: tf.divide(tf.reduce_mean(squares(y, p)), REPLICAS),
    "random inputs": lambda m, x, y, p: tf.nn.compute_average_loss(squares(y, m(noise(x)))),
    "random inputs, a constant batch": lambda m, x, y, p: (
        tf.reduce_sum(squares(y, m(noise(x)))) / 16
    ),
}
NOT_JUDGED = {
    "zero": lambda m, x, y, p: 0.0 * tf.reduce_mean(p),
    "not finite": lambda m, x, y, p: tf.math.log(-1.0) * tf.reduce_mean(p),
    "an error": lambda m, x, y, p: 1 / 0,
    "rows that the code knows": lambda m, x, y, p: tf.reduce_mean(tf.reshape(p, (8, 3))),
}
WRONG_LOSSES = {
    "mean": lambda m, x, y, p: tf.reduce_mean(squares(y, p)),  # line: mean
    "half": lambda m, x, y, p: 0.5 * ops.mean((y - p) ** 2),  # line: half
    "losses": lambda m, x, y, p: ops.mean(keras.losses.mean_squared_error(y, p)),  # line: losses
    "regulariser": lambda m, x, y, p: ops.mean((y - p) ** 2) + sum(m.losses),  # line: regulariser
    "random": lambda m, x, y, p: tf.reduce_mean(squares(y, m(noise(x)))),  # line: random
    "gradient": lambda m, x, y, p: tf.reduce_sum(squares(y, p)) / rows(x),
}


@pytest.mark.parametrize(
    "name",
    tiers.without(
        RIGHT_LOSSES | NOT_JUDGED,
        ["a loss object", "a loss object and regularisers", "compute_loss", "compute_average_loss",
         "compute_average_loss, whole regularisers", "the model's strategy",
         "the current strategy", "a factor", "a constant global batch", "a global number",
         "a number in a helper", "a division by function", "random inputs",
         "random inputs, a constant batch", "not finite", "an error"],
    ),
)  # fmt: skip
def test_a_scaled_loss_is_not_reported(name):
    """However the loss comes to be divided by the replicas; and what cannot be judged."""
    assert {} == found(*made(net((RIGHT_LOSSES | NOT_JUDGED)[name])))


@pytest.mark.parametrize("name", tiers.cases(WRONG_LOSSES, ["half", "gradient"]))
def test_a_mean_over_a_replicas_rows_is_found(name):
    """The message names the mean, or else where the gradient is taken, and the fix."""
    findings = found(*made(net(WRONG_LOSSES[name])))
    assert [rules.LOSS] == list(findings)
    assert f" at {marked(name)} " in findings[rules.LOSS]
    assert "the learning rate is 2 times as high" in findings[rules.LOSS]
    assert "self.distribute_strategy.num_replicas_in_sync" in findings[rules.LOSS]


@pytest.mark.slow
def test_a_strategy_in_a_closure_is_asked():
    """The strategy that the step found outside answers as the model's own does."""
    scope, _ = made(net(None), loss=None)
    right = net(lambda m, x, y, p: tf.reduce_mean(squares(y, p)) / scope.num_replicas_in_sync)
    assert {} == found(*made(right))


class ByAttribute(Net):
    """Asks for the number of replicas when it is made."""

    def __init__(self):
        super().__init__()
        self.replicas = of(self)

    def loss_of(self, x, y, y_pred):
        loss = tf.reduce_mean(squares(y, y_pred))
        loss /= self.replicas
        return loss


class DividesGradients(Net):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(squares(y, self(x, training=True)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply([g / of(self) for g in gradients])
        return {}


class WithoutOptimizer(Net):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(squares(y, self(x, training=True)))
        for weight, gradient in zip(
            self.trainable_variables, tape.gradient(loss, self.trainable_variables), strict=True
        ):
            weight.assign(weight - 0.1 * gradient)
        return {}


class KerasStep(Net):
    def train_step(self, data):
        return super(Net, self).train_step(data)


class OurStep(TrainableModel):
    def __init__(self):
        super().__init__()
        self.normalize = keras.layers.BatchNormalization(synchronized=True)
        self.out = keras.layers.Dense(3, kernel_regularizer="l2")

    def call(self, x, training=False):
        return self.out(self.normalize(x, training=training))

    def train_step(self, data):
        return {**super().train_step(data), "one": 1.0}


class Tokens(Net):
    """Sparse gradients, masks, a recurrent layer and synchronised statistics."""

    def __init__(self):
        keras.Model.__init__(self)
        self.embed = keras.layers.Embedding(5, 4, mask_zero=True)
        self.recur = keras.layers.SimpleRNN(4)
        self.normalize = keras.layers.BatchNormalization(synchronized=True)
        self.out = keras.layers.Dense(3)
        self.steps = tf.Variable(0.0)

    def call(self, x, training=False):
        tokens = tf.cast(tf.abs(2 * x), "int32") % 5
        return self.out(self.normalize(self.recur(self.embed(tokens)), training=training))

    def loss_of(self, x, y, y_pred):
        return self.compute_loss(x, y, y_pred)


class AddsLoss(Net):
    def call(self, x, training=False):
        y_pred = super().call(x, training=training)
        self.add_loss(ops.mean(y_pred**2))
        return y_pred

    def loss_of(self, x, y, y_pred):
        return (tf.reduce_mean(squares(y, y_pred)) + sum(self.losses)) / of(self)


class Compiled(Net):
    """Its step is a ``tf.function``."""

    @tf.function
    def train_step(self, data):
        return super().train_step(data)

    def loss_of(self, x, y, y_pred):
        return self.compute_loss(x, y, y_pred)


class ScalesLoss(Net):
    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.optimizer.scale_loss(self.loss_of(x, y, self(x, training=True)))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {}

    def loss_of(self, x, y, y_pred):
        return self.compute_loss(x, y, y_pred)


def accumulating():
    return keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)


def loss_scale():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())


RIGHT_STEPS = {
    "attribute": (ByAttribute, "adam"),
    "gradients": (DividesGradients, "adam"),
    "no optimizer": (WithoutOptimizer, "adam"),
    "Keras's step": (KerasStep, "adam"),
    "our step": (OurStep, "adam"),
    "our step, every second update": (OurStep, accumulating),
    "tokens": (Tokens, "adam"),
    "add_loss": (AddsLoss, "adam"),
    "tf.function": (Compiled, "adam"),
    "loss scale": (ScalesLoss, loss_scale),
}


@pytest.mark.parametrize(
    "name",
    tiers.cases(RIGHT_STEPS, ["gradients", "our step, every second update", "no optimizer"]),
)
def test_other_right_steps_are_not_reported(name):
    """Steps that scale elsewhere than in the loss, of every kind of layer and optimizer."""
    make, optimizer = RIGHT_STEPS[name]
    assert {} == found(*made(make, optimizer=optimizer))


class ComputesMean(Net):
    def loss_of(self, x, y, y_pred):
        return self.compute_loss(x, y, y_pred)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(squares(y, y_pred))  # line: compute_loss


class CompiledMean(Compiled):
    def loss_of(self, x, y, y_pred):
        return tf.reduce_mean(squares(y, y_pred))  # line: tf.function


class ScaledMean(ScalesLoss):
    def loss_of(self, x, y, y_pred):
        return tf.reduce_mean(squares(y, y_pred))  # line: loss scale


class TokensMean(Tokens):
    def loss_of(self, x, y, y_pred):
        return tf.reduce_mean(squares(y, y_pred))  # line: tokens


class OthersMean(Net):
    """A mean that is not differentiated comes first."""

    def train_step(self, data):
        x, y = data
        error = tf.reduce_mean(squares(y, self(x)))
        with tf.GradientTape() as tape:
            rows = ops.mean((y - self(x, training=True)) ** 2, axis=-1)
            loss = ops.mean(rows)  # line: others
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {"error": error}


class AddsLossOnly(AddsLoss):
    def __init__(self):
        super().__init__(regularizer=None)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            self(x, training=True)
            loss = sum(self.losses)
        gradients = tape.gradient(loss, self.trainable_variables)  # line: add_loss
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
        return {}


class SeesAssignments(Net):
    """Its loss is zero but for a value that the step assigns."""

    def __init__(self):
        super().__init__()
        self.factor = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def loss_of(self, x, y, y_pred):
        self.factor.assign(1.0)
        return self.factor * tf.reduce_mean(squares(y, y_pred))  # line: assigned


WRONG_STEPS = {
    "add_loss": (AddsLossOnly, "adam"),
    "assigned": (SeesAssignments, "adam"),
    "compute_loss": (ComputesMean, "adam"),
    "tf.function": (CompiledMean, "adam"),
    "loss scale": (ScaledMean, loss_scale),
    "tokens": (TokensMean, "adam"),
    "others": (OthersMean, "adam"),
}


@pytest.mark.parametrize("name", tiers.cases(WRONG_STEPS, ["tf.function", "others"]))
def test_other_wrong_steps_are_found(name):
    """The mean is found in the methods that the step calls, and where it is differentiated."""
    make, optimizer = WRONG_STEPS[name]
    findings = found(*made(make, optimizer=optimizer))
    assert [rules.LOSS] == list(findings)
    assert f" at {marked(name)} " in findings[rules.LOSS]


@pytest.mark.slow
@pytest.mark.parametrize("scaled", [True, False])
def test_random_numbers_are_the_same_in_all_dry_steps(scaled):
    """However much the gradients depend on what is drawn, with no seed set."""
    tf.random.set_seed(None)

    def loss(m, x, y, p):
        factor = tf.exp(8 * tf.random.normal(()))
        return factor * tf.reduce_mean(squares(y, p)) / (of(m) if scaled else 1)

    for _ in range(3):
        assert scaled == (not found(*made(net(loss))))


class Adversaries(keras.Model):
    """Two networks, two optimizers and no ``call``."""

    def __init__(self, generator_loss):
        super().__init__()
        self.generator_loss = generator_loss
        self.generator = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        self.critic = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
        self.compile()
        self.optimizers = keras.optimizers.Adam(), keras.optimizers.Adam()
        for part, optimizer in zip((self.generator, self.critic), self.optimizers, strict=True):
            optimizer.build(part.trainable_variables)

    def train_step(self, data):
        x, entropy = data[0], keras.losses.BinaryCrossentropy(from_logits=True)
        with tf.GradientTape(persistent=True) as tape:
            real, fake = self.critic(x), self.critic(self.generator(noise(x)))
            loss = entropy(tf.ones_like(real), real) + entropy(tf.zeros_like(fake), fake)
            generated = self.generator_loss(fake)
        for loss, part, optimizer in zip(
            (generated, loss), (self.generator, self.critic), self.optimizers, strict=True
        ):
            optimizer.apply_gradients(
                zip(tape.gradient(loss, part.trainable_variables), part.trainable_variables)
            )
        return {}


def softplus(fake):
    return tf.nn.softplus(-fake)


GENERATOR_LOSSES = {
    "scaled": lambda fake: keras.losses.BinaryCrossentropy(True)(tf.ones_like(fake), fake),
    "of a constant batch": lambda fake: tf.reduce_sum(softplus(fake)) / 16,
    "not scaled": lambda fake: tf.reduce_mean(softplus(fake)),  # line: two optimizers
}


@pytest.mark.parametrize("name", tiers.cases(GENERATOR_LOSSES, ["not scaled"]))
def test_two_optimizers(name):
    """Each set of gradients is judged by itself."""
    findings = found(*made(lambda: Adversaries(GENERATOR_LOSSES[name]), loss=None))
    assert (name != "not scaled") == (not findings)
    assert not findings or marked("two optimizers") in findings[rules.LOSS]


@pytest.mark.slow
def test_structured_data():
    """Rows are picked from dicts, and from batches with weights or nothing but x."""

    class Structured(Net):
        def call(self, x, training=False):
            return self.out(self.hidden(x["a"]))

        def train_step(self, data):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
            y = tf.zeros((1, 3)) if y is None else y
            with tf.GradientTape() as tape:
                losses = squares(y, self(x)) * (1.0 if weight is None else weight)
                loss = tf.reduce_mean(losses)  # line: structured
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables))
            return {}

    for batch in (({"a": X}, Y), ({"a": X}, Y, X[:, 0]), ({"a": X},), ({"a": X[:1]}, Y[:1])):
        findings = found(*made(Structured, batch=batch), batch=batch)
        assert marked("structured") in findings[rules.LOSS]


@pytest.mark.slow
def test_a_compiled_step_is_traced_anew():
    """The dry step leaves no trace behind in which nothing is applied."""
    scope, model = made(Compiled)
    found(scope, model)
    before = model.get_weights()
    with scope.scope():
        scope.run(model.train_step, args=((X, Y),))
    assert not np.array_equal(before[0], model.get_weights()[0])
    assert [1.0, 1.0] == [float(count) for count in model.steps.values]


@pytest.mark.slow
def test_training_goes_on_as_if_nothing_had_been_asked():
    """Weights after `fit` are bit for bit those of a model that was not judged."""
    weights = []
    for judged in (True, False):
        keras.utils.set_random_seed(3)
        scope, model = made(net(RIGHT_LOSSES["compute_loss"]), metrics=["mae"])
        assert not judged or {} == found(scope, model)
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
        weights.append([np.copy(w) for w in model.get_weights()])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


# Outside the scope ------------------------------------------------------------


class Counting(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.count = tf.Variable(0.0)  # line: plain

    def build(self, shape):
        self.factor = self.add_weight(shape=(), initializer="ones")  # line: weight

    def call(self, x):
        return self.factor * x


def around(layer):
    """A model around a layer that was made before it."""
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))


def test_weights_and_plain_variables_outside_the_scope():
    """Each is named, with the line that makes it."""
    layer = Counting()
    layer.build((None, 8))
    message = found(*made(lambda: around(layer)))[rules.SCOPE]
    assert f"{layer.factor.path!r} ({marked('weight')})" in message
    assert f"'count' of {layer.name!r} ({marked('plain')})" in message
    assert "strategy.scope()" in message
    assert "dense" not in message.replace("kernel", "")


@pytest.mark.slow
def test_variables_inside_the_scope_are_right():
    """The same layer, made inside."""
    assert {} == found(*made(lambda: around(Counting())))


@pytest.mark.slow
def test_a_layer_of_keras_outside_the_scope():
    """Its weights are named, and at most five of them."""
    layer = keras.Sequential([keras.Input((8,)), *(keras.layers.Dense(8) for _ in range(3))])
    message = found(*made(lambda: around(layer)))[rules.SCOPE]
    assert "dense/kernel'" in message
    assert " and 1 more." in message


def test_an_optimizer_outside_the_scope():
    """Its variables are named."""
    outside = keras.optimizers.SGD()
    scope, model = made(lambda: around(keras.layers.Dropout(0.1)))
    vars(model)["other_optimizer"] = outside
    assert "'SGD/iteration' of SGD" in found(scope, model)[rules.SCOPE].replace("sgd/", "SGD/")


def test_what_no_step_writes_may_be_outside():
    """A frozen layer, an adapted normalisation and random states are right anywhere."""
    frozen = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8), keras.layers.BatchNormalization()]
    )
    frozen.trainable = False
    adapted = keras.layers.Normalization()
    adapted.adapt(X)
    dropout = keras.layers.Dropout(0.5)
    layer = keras.Sequential([keras.Input((8,)), frozen, adapted, dropout])
    assert {} == found(*made(lambda: around(layer)))


def test_statistics_outside_the_scope_are_written():
    """A weight that is not trained counts where a call in training mode assigns it."""
    layer = keras.layers.BatchNormalization(scale=False, center=False, synchronized=True)
    layer.build((None, 8))
    assert "moving_mean" in found(*made(lambda: around(layer)))[rules.SCOPE]


def test_metrics_outside_the_scope_are_right():
    """They are updated in turn, and merge nothing."""
    batch = (X, BITS)
    scope, model = made(bits, metrics=[K.MeanAbsoluteError(), Largest(), K.AUC()], batch=batch)
    assert {} == found(scope, model, batch=batch)


@pytest.mark.slow
def test_central_storage_has_one_copy():
    """There one copy is right, and replicas take turns."""
    scope = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"], "CPU:0")
    with scope.scope():
        model = around(Counting())
        model.compile("sgd", "mse")
        model.optimizer.build(model.trainable_variables)
    assert {} == found(scope, model)


# Batch statistics -------------------------------------------------------------


def normalized(training=None, **arguments):
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(8)(inputs)
    hidden = keras.layers.BatchNormalization(**arguments)(hidden, training=training)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden))


class Normalized(keras.Model):  # line: model
    def __init__(self):
        super().__init__()
        self.first = keras.layers.BatchNormalization(name="first")
        self.second = keras.layers.BatchNormalization(name="second", synchronized=True)
        self.out = keras.layers.Dense(3)

    def call(self, x, training=False):
        return self.out(self.second(self.first(x), training=training))


@pytest.mark.parametrize("batch", [(X, Y), None])
def test_statistics_of_a_replica(batch):
    """Unsynchronised layers are named, with the model's line and the fix."""
    findings = found(*made(Normalized), batch=batch)
    assert [rules.STATISTICS] == list(findings)
    message = findings[rules.STATISTICS]
    assert "/first'" in message and "/second'" not in message
    assert f"({marked('model')})" in message
    assert "BatchNormalization(synchronized=True)" in message


@pytest.mark.parametrize("batch", [tiers.slow((X, Y)), None])
def test_statistics_that_are_right(batch):
    """Synchronised, frozen, or called with training=False."""
    for make in (
        lambda: normalized(synchronized=True),
        lambda: normalized(trainable=False),
    ):
        assert {} == found(*made(make), batch=batch)


class Inference(keras.Model):
    """Its normalisation never sees training mode."""

    def __init__(self):
        super().__init__()
        self.normalize = keras.layers.BatchNormalization()
        self.out = keras.layers.Dense(3)

    def call(self, x, training=False):
        return self.out(self.normalize(x, training=False))


@pytest.mark.slow
def test_statistics_that_a_call_does_not_use():
    """What counts is the mode in which a layer is called, as far as a batch tells it.

    In a functional model Keras 3.15.1 overrides ``training=False`` of a single layer.
    """
    assert {} == found(*made(Inference))
    assert [rules.STATISTICS] == list(found(*made(Inference), batch=None))
    scope, model = made(lambda: normalized(training=False))
    assert [rules.STATISTICS] == list(found(scope, model))
    moving = model.layers[2].moving_mean
    model.fit(X, Y, verbose=0)
    assert np.any(moving.numpy() != 0.0)


@pytest.mark.slow
def test_a_call_of_the_layer_itself_is_left_to_it():
    """A layer may have a ``call`` of its own: it is the one that lint sees, and keeps."""
    model = normalized()
    layer = next(one for one in model.layers if "normalization" in one.name)
    whole = layer.call
    layer.call = lambda x, training=False, mask=None: whole(x, training=False)
    own = layer.call
    model.compile("sgd", "mse")
    for batch in ((X, Y), None):
        assert lint.findings(model, batch, StepOptions(micro_batches=2))
        assert own is layer.call


@pytest.mark.parametrize("synchronized", [True, tiers.slow(False)])
def test_statistics_of_a_micro_batch(synchronized):
    """With micro-batches a synchronised layer sees a part too, on one replica as well."""
    with strategy.resolve("mirrored:1").scope():
        model = normalized(synchronized=synchronized)
        model.compile("sgd", "mse")
    for batch in ((X, Y), None):
        (finding,) = lint.findings(model, batch, StepOptions(micro_batches=2))
        assert rules.STATISTICS == finding.rule
        assert "micro_batches=1" in finding.message
        assert [] == lint.findings(model, batch, StepOptions())


# Metric state -----------------------------------------------------------------


def outputs():
    return around(keras.layers.Dropout(0.5))


def bits():
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Dense(3, activation="sigmoid")(inputs))


def shares():
    inputs = keras.Input((8,))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs))


def median(y_true, y_pred, sample_weight):
    return ops.median(ops.abs(y_true - y_pred))


class Sums(K.Metric):
    def __init__(self, name="sums"):
        super().__init__(name=name)
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = ops.abs(y_true - y_pred)
        self.total.assign_add(ops.sum(error))
        self.count.assign_add(ops.cast(ops.size(error), "float32"))

    def result(self):
        pair = ops.stack([1 * self.total, 1 * self.count])
        return {"mean": self.total / self.count, "pair": pair}


class BeginsAtOne(Sums):
    """Its state after a reset is not zero, and counts once."""

    def reset_state(self):
        self.total.assign(1.0)
        self.count.assign(1.0)


class NotANumber(Sums):
    def result(self):
        return self.total / 0.0 - self.total / 0.0


class Cancels(Sums):
    """A variance as a difference of two large numbers: mostly rounding."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = 1000.0 + 0.01 * y_true
        self.total.assign_add(ops.mean(values) * 16)
        self.count.assign_add(ops.sum(values**2))

    def result(self):
        return self.count / 48 - (self.total / 16) ** 2


class Inside(K.Metric):
    def __init__(self):
        super().__init__(name="inside")
        self.metric = K.Mean()

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.metric.update_state(ops.abs(y_true - y_pred))

    def result(self):
        return self.metric.result()

    def reset_state(self):
        self.metric.reset_state()


class Fails(Sums):
    def update_state(self, y_true, y_pred, sample_weight=None):
        if y_pred.shape[0] != 16:
            raise RuntimeError("a part of the batch")


class Largest(K.Metric):  # line: max
    def __init__(self, name="largest"):
        super().__init__(name=name)
        self.peak = self.add_variable((), "zeros", name="peak")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.peak.assign(ops.maximum(self.peak, ops.max(ops.abs(y_pred))))

    def result(self):
        return self.peak


class DeclaredLargest(Largest):
    merge_rules = {"peak": "max"}


class MeanOfBatches(Sums):  # line: batches
    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(ops.mean(ops.abs(y_true - y_pred)))
        self.count.assign_add(1.0)


def batch_mean(y_true, y_pred):  # line: function
    return ops.mean(ops.abs(y_true - y_pred))


def row_mean(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred), axis=-1)


def regression():
    """Metrics of numbers."""
    return [
        *(K.RootMeanSquaredError(), K.R2Score(), K.PearsonCorrelation()),
        *(Sums(), BeginsAtOne("one"), NotANumber("nan"), Inside(), Cancels("cancels")),
        *(DeclaredLargest(), row_mean, EpochMetric(median, shape=(3,))),
        K.MeanMetricWrapper(lambda y, p: ops.abs(y - p), name="wrapper"),
    ]


def multilabel():
    """Metrics of several bits for each row."""
    return [
        *(K.BinaryAccuracy(), K.AUC(), K.Precision(), K.Recall(), K.TruePositives()),
        *(K.FalseNegatives(), K.BinaryCrossentropy(), K.PrecisionAtRecall(0.5)),
        *(K.AUC(curve="PR", multi_label=True, num_labels=3, name="pr"), K.BinaryIoU([0, 1])),
        *(K.SensitivityAtSpecificity(0.5), K.F1Score(threshold=0.5)),
        K.FBetaScore("weighted", threshold=0.5, name="weighted"),
    ]


def categorical():
    """Metrics of classes in the one-hot form, and of numbers."""
    return [
        *(K.MeanSquaredError(), K.MeanAbsoluteError(), K.CosineSimilarity(), K.LogCoshError()),
        *(K.MeanSquaredLogarithmicError(), K.KLDivergence(), K.MeanAbsolutePercentageError()),
        *(K.ConcordanceCorrelation(), K.Poisson(), K.Hinge(), K.SquaredHinge()),
        K.CategoricalHinge(),
        *(K.CategoricalAccuracy(), K.CategoricalCrossentropy(), K.TopKCategoricalAccuracy(2)),
        *(K.OneHotMeanIoU(3), K.F1Score("macro"), K.Precision(top_k=1, name="top"), "accuracy"),
    ]


def sparse():
    """Metrics of class indices."""
    return [
        *("accuracy", K.SparseTopKCategoricalAccuracy(2), K.SparseCategoricalCrossentropy()),
        *(K.MeanIoU(3, sparse_y_pred=False), K.IoU(3, [0], sparse_y_pred=False)),
    ]


@pytest.mark.parametrize(
    "make, y, metrics, loss",
    [(outputs, Y, regression, "mse"), tiers.slow(bits, BITS, multilabel, "mse"),
     tiers.slow(shares, ONE_HOT, categorical, "mse"), tiers.slow(shares, LABELS, sparse, SPARSE)],
)  # fmt: skip
def test_metrics_whose_state_merges_are_not_reported(make, y, metrics, loss):
    """Keras's usual metrics and right ones of a user's own; each has a result."""
    scope, model = made(make, metrics=metrics, batch=(X, y), loss=loss)
    assert {} == found(scope, model, batch=(X, y))
    with scope.scope():
        leaves = _keras.leaf_metrics(model)[1:]
        results = metric_cuts.whole_and_merged(model, (X, y), leaves, Cut.REPLICAS)
    assert len(leaves) == len(results) == len(metrics())
    assert all(whole and merged for whole, merged in results)


@pytest.mark.slow
def test_metrics_that_fail_are_not_judged():
    """The step itself will say what is wrong."""
    assert {} == found(*made(outputs, metrics=lambda: [Largest(), Fails()]))


@pytest.mark.parametrize(
    "metric, line, model_class",
    [
        (Largest, "max", keras.Model),
        tiers.slow(MeanOfBatches, "batches", TrainableModel),
        tiers.slow(Largest, "max", TrainableModel),
        tiers.slow(MeanOfBatches, "batches", keras.Model),
    ],
)  # fmt: skip
def test_metrics_whose_state_does_not_merge_are_found(metric, line, model_class):
    """The metric is named, with its class's line, both values and both fixes."""

    def make():
        inputs = keras.Input((8,))
        return model_class(inputs, keras.layers.Dense(3)(inputs))

    scope, model = made(make, metrics=lambda: ["mae", metric()])
    findings = found(scope, model)
    assert [rules.METRIC] == list(findings)
    message = findings[rules.METRIC]
    largest = np.abs(model.predict(X, verbose=0)).max()
    assert line != "max" or f"is {largest:.6g} for some rows" in message
    assert f"({marked(line)})" in message
    assert "merge_rules = {" in message and "sample_weight=rows" in message


def test_a_function_that_returns_a_mean_is_found():
    """Its mean counts as one, however many rows it is of."""
    message = found(*made(outputs, metrics=[batch_mean]))[rules.METRIC]
    assert f"({marked('function')})" in message
    assert "one value for each row" in message


@pytest.mark.slow
def test_a_mean_of_batches_outside_the_scope_is_found():
    """Replicas that update one state in turn give equal weight to unequal parts."""
    assert rules.METRIC in found(*made(outputs, metrics=[MeanOfBatches()]))


def test_metrics_of_the_models_own():
    """Metrics that ``compute_metrics`` updates are judged as well."""

    class Own(TrainableModel):
        def __init__(self):
            super().__init__()
            self.out = keras.layers.Dense(3)
            self.largest, self.sums = Largest(), Sums()

        def call(self, x):
            return self.out(x)

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            for metric in (self.largest, self.sums):
                metric.update_state(y, y_pred)
            return self.get_metrics_result()

    findings = found(*made(Own))
    assert [rules.METRIC] == list(findings)
    assert "'largest'" in findings[rules.METRIC]


@pytest.mark.slow
def test_masks_reach_the_metrics():
    """A masked output keeps its mask when it is cut."""

    def make():
        inputs = keras.Input((8,))
        tokens = keras.layers.Lambda(lambda x: ops.cast(ops.abs(2 * x), "int32"))(inputs)
        embedded = keras.layers.Embedding(9, 4, mask_zero=True)(tokens)
        return keras.Model(inputs, keras.layers.Dense(1)(embedded))

    batch = (X, X[..., None])
    scope, model = made(make, metrics=["mae"], batch=batch)
    assert {} == found(scope, model, batch=batch)
    with scope.scope():
        ((whole, _),) = metric_cuts.whole_and_merged(
            model, batch, _keras.leaf_metrics(model)[1:], Cut.REPLICAS
        )
    results = model.evaluate(*batch, verbose=0, return_dict=True)
    assert results["mae"] == pytest.approx(float(whole[0]), rel=1e-5)


def test_several_outputs():
    """Metrics and losses of outputs by name, with weights."""
    inputs = {"a": keras.Input((8,), name="a")}

    def make():
        named = {n: keras.layers.Dense(3, name=n)(inputs["a"]) for n in ("p", "q")}
        return keras.Model(inputs, named)

    batch = ({"a": X}, {"p": Y, "q": Y}, {"p": X[:, 0] ** 2, "q": X[:, 1] ** 2})
    scope = strategy.resolve("mirrored:2")
    with scope.scope():
        model = make()
        model.compile(
            "sgd", {"p": "mse", "q": "mae"}, metrics={"p": [Largest()]},
            weighted_metrics={"q": ["mae"]},
        )  # fmt: skip
        target_checks.check_targets(model, batch, "x")
        prepare.build_optimizers(model)
    findings = found(scope, model, batch)
    assert [rules.METRIC] == list(findings)
    assert "'largest'" in findings[rules.METRIC]


# When it asks, and what it says -----------------------------------------------


def test_nothing_is_done_for_one_replica(monkeypatch):
    """One replica and one micro-batch cost nothing."""
    scope, model = made(net(WRONG_LOSSES["mean"]), replicas=1)
    monkeypatch.setattr(dry_steps, "nothing_kept", None)
    with scope.scope():
        assert [] == lint.findings(model, (X, Y), StepOptions())


def each_error(y_true, y_pred):  # line: outer
    return ops.abs(y_true - y_pred)


@pytest.mark.parametrize("method", ["fit", tiers.slow("evaluate")])
@pytest.mark.parametrize(
    "metric", [lambda: each_error, lambda: Bind(each_error), lambda: Sums("each_error")]
)
def test_a_metric_that_broadcasts_on_one_device(metric, method):
    """Rows of (n,) against outputs of (n, 1): said once, and not where both have the same axes."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    trainer = Trainer(model, optimizer="sgd", loss="mse", metrics=[metric()], seed=0)
    run = getattr(trainer, method)
    with pytest.warns(
        UserWarning, match="'each_error'.*y has shape .16,., and the output .16, 1.:"
    ):
        run(X.numpy(), Y.numpy()[:, 0], verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(X.numpy(), Y.numpy()[:, 0], verbose=0)
        again = Trainer(model, optimizer="sgd", loss="mse", metrics=[metric()], seed=0)
        getattr(again, method)(X.numpy(), Y.numpy()[:, :1], verbose=0)


def test_outside_the_scope_the_models_strategy_counts():
    """``model.fit`` of Keras makes its functions outside the scope."""
    _, model = made(net(WRONG_LOSSES["mean"]))
    assert [rules.LOSS] == [f.rule for f in lint.findings(model, (X, Y), StepOptions())]


def test_without_a_batch_losses_and_metrics_are_not_judged():
    """What needs no batch is still found."""
    layer = Counting()
    scope, model = made(lambda: around(layer), metrics=lambda: [Largest()])
    assert [rules.SCOPE] == list(found(scope, model, batch=None))
    assert {} == found(*made(net(WRONG_LOSSES["mean"])), batch=None)


def test_a_model_that_is_not_built_is_not_judged():
    """Nor is it built."""
    scope, model = made(net(WRONG_LOSSES["mean"]), loss=None)
    with scope.scope():
        model.compile("sgd", "mse", metrics=[Largest()])
    assert {} == found(scope, model)
    assert not model.hidden.built


@pytest.mark.filterwarnings("ignore:.build... was called on layer")
def test_a_layer_that_is_never_called_stays_unbuilt():
    """It keeps nothing from being judged."""

    class Unused(net(WRONG_LOSSES["mean"])):
        def __init__(self):
            super().__init__()
            self.unused = keras.layers.Dense(3)
            self.normalize = keras.layers.BatchNormalization()

        def call(self, x, training=False):
            return super().call(self.normalize(x, training=False), training=training)

    scope, model = made(Unused, metrics=lambda: [Largest()])
    assert [rules.LOSS, rules.METRIC] == list(found(scope, model))
    assert not model.unused.built
    model.unused.build((None, 3))
    assert model.unused.built


@pytest.mark.slow
def test_unbuilt_metrics_and_losses_stay_unbuilt():
    """A step of the user's own meets them as stand-ins."""

    class Updates(Net):
        def train_step(self, data):
            logs = super().train_step(data)
            self.compute_metrics(*data, self(data[0]))
            return logs

        def loss_of(self, x, y, y_pred):
            self.compute_loss(x, y, y_pred)
            return tf.reduce_mean(squares(y, y_pred))  # line: stand-ins

    scope, model = made(Updates)
    with scope.scope():
        model.compile("sgd", "mse", metrics=[Largest()])
        prepare.build_optimizers(model)
    names = [metric.name for metric in model.metrics]
    assert marked("stand-ins") in found(scope, model)[rules.LOSS]
    assert names == [metric.name for metric in model.metrics]
    assert not model.metrics[1].variables


def test_several_workers_run_no_dry_step():
    """A dry step would wait for workers that may never come to theirs."""

    class Workers:
        _num_workers, _id_in_cluster = 2, 0

    class Several:
        extended = Workers()

    scope, model = made(outputs)
    assert dry_steps.can_run(model, (X, Y), scope)
    assert not dry_steps.can_run(model, (X, Y), Several())


def wrong(*mistakes):
    """``(scope, model)`` with these mistakes."""
    layer = Counting() if rules.SCOPE in mistakes else keras.layers.Dropout(0.1)
    metrics = (lambda: [Largest()]) if rules.METRIC in mistakes else ["mae"]
    return made(lambda: around(layer), metrics=metrics)


@pytest.mark.parametrize(
    "mistakes, error",
    [
        tiers.slow((rules.METRIC,), MetricError),
        tiers.slow((rules.SCOPE,), ModelError),
        ((rules.SCOPE, rules.METRIC), ModelError),
    ],
)
def test_check(mistakes, error):
    """One warning for each finding, or one error with all of them."""
    scope, model = wrong(*mistakes)
    messages = found(scope, model)
    assert list(mistakes) == list(messages)
    with scope.scope():
        with pytest.warns(UserWarning) as warned:
            lint.check(model, (X, Y), StepOptions())
        assert list(messages.values()) == [str(w.message) for w in warned]
        with pytest.raises(error) as raised:
            lint.check(model, (X, Y), StepOptions(lint="error"))
    assert "\n".join(messages.values()) == str(raised.value)


@pytest.mark.slow
def test_check_of_a_right_model():
    """Neither warning nor error."""
    scope, model = wrong()
    with scope.scope(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for strict, batch in itertools.product((True, False), ((X, Y), None)):
            lint.check(model, batch, StepOptions(lint="error" if strict else "warn"))


# Both entry points -------------------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
class Unscaled(TrainableModel):
    """Takes the mean over the rows of a replica, in a step of its own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y - self(x, training=True)))  # line: entry points
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply(gradients, self.trainable_weights)
        return self.compute_metrics(x, y, self(x))


def with_faults(make):
    """A model with batch statistics of each replica, and maybe a step of its own."""
    inputs = keras.Input((8,))
    return make(inputs, keras.layers.Dense(3)(keras.layers.BatchNormalization()(inputs)))


def fitted(entry_point, make, strict, micro_batches=1, where="mirrored:2"):
    """Fits a faulty model through an entry point."""
    fit = {"x": X, "y": Y, "batch_size": 8, "verbose": 0}
    if entry_point == "trainer":
        model = with_faults(make)
        arguments = {
            "optimizer": "sgd",
            "loss": "mse",
            "metrics": ["mae"],
            "lint": "error" if strict else "warn",
        }
        Trainer(model, strategy=where, micro_batches=micro_batches, **arguments).fit(**fit)
        return model
    scope = strategy.resolve(where)
    with scope.scope() if scope else contextlib.nullcontext():
        model = with_faults(make)
        model.compile(
            "sgd",
            "mse",
            metrics=[Largest()],
            lint="error" if strict else "warn",
            micro_batches=micro_batches,
        )
    model.fit(**fit)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("entry_point", ("trainer", "fit"))
def test_warns_at_the_start_of_fit(entry_point):
    """`Trainer.fit` and plain ``fit`` of a `TrainableModel` name layer, loss and line."""
    with pytest.warns(UserWarning) as warned:
        fitted(entry_point, Unscaled, strict=False)
    text = "\n".join(str(w.message) for w in warned)
    assert "synchronized=True" in text
    assert marked("entry points") in text
    assert ("'largest'" in text) == (entry_point == "fit")  # only there was that metric passed


@pytest.mark.parametrize(
    "micro_batches, where, entry_point",
    [
        (2, None, "trainer"), tiers.slow(1, "mirrored:2", "fit"),
        tiers.slow(1, "mirrored:2", "trainer"), tiers.slow(2, None, "fit"),
    ],
)  # fmt: skip
def test_strict_stops_fit(entry_point, micro_batches, where):
    """With ``lint="error"`` nothing is trained: the error comes before the first step."""
    with pytest.raises(ModelError, match="batch_normalization"):
        fitted(entry_point, TrainableModel, True, micro_batches, where)


@pytest.mark.slow
def test_strict_stops_every_fit():
    """A second try is no way around it."""
    model = with_faults(TrainableModel)
    model.compile("sgd", "mse", micro_batches=2, lint="error")
    before = model.get_weights()
    for _ in range(2):
        with pytest.raises(ModelError, match="batch_normalization"):
            model.fit(X, Y, verbose=0)
    np.testing.assert_equal(before, model.get_weights())


@pytest.mark.parametrize("entry_point", (tiers.slow("trainer"), "fit"))
def test_says_nothing_without_cuts(entry_point):
    """On one device with whole batches none of it is a mistake."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fitted(entry_point, TrainableModel, True, where=None)


def test_warns_once():
    """A second fit says nothing again."""
    trainer = Trainer(with_faults(keras.Model), optimizer="sgd", loss="mse", strategy="mirrored:2")
    with pytest.warns(UserWarning, match="synchronized=True"):
        trainer.fit(X, Y, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer.fit(X, Y, verbose=0)


class OwnMean(keras.layers.Layer):
    """Keeps a moving mean in training mode, and a number that no call assigns."""

    def build(self, shape):
        options = {"shape": (), "initializer": "zeros", "trainable": False}
        self.mean = self.add_weight(**options)  # line: own mean
        self.other = self.add_weight(**options)

    def call(self, x, training=False):
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(x))
        return x - self.mean + self.other


def test_what_workers_assign():
    """By a call on shapes: what a layer of one's own assigns; Keras's own layers have rules of theirs."""
    layers = [OwnMean(), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    before = [w.numpy() for w in model.weights]
    (found,) = row_rules.assigned_by_workers(model, (X, Y))
    assert "'mean' of" in found.message
    assert "'other'" not in found.message
    assert marked("own mean") in found.message
    assert all(np.array_equal(one, w.numpy()) for one, w in zip(before, model.weights, strict=True))
    quiet = keras.Sequential([keras.Input((8,)), *layers[1:], keras.layers.Dense(3)])
    quiet.compile("sgd", "mse")
    assert [] == list(row_rules.assigned_by_workers(quiet, (X, Y)))


# What is evaluated or predicted, and metrics in layers and losses ----------------


class Peak(K.Metric):
    def __init__(self, name="peak", rules=None):
        super().__init__(name=name)
        self.highest = self.add_variable((), "zeros", name="highest")
        if rules:
            self.merge_rules = rules

    def update_state(self, values, *args, sample_weight=None):
        self.highest.assign(ops.maximum(self.highest, ops.max(ops.abs(values))))

    def result(self):
        return 1.0 * self.highest


class Follows(keras.layers.Layer):
    """Updates a metric by what it is given."""

    def __init__(self, metric, of):
        super().__init__()
        self.metric, self.of = metric, of

    def call(self, x):
        self.metric.update_state(self.of(x))
        return x


class FollowsLoss(keras.Model):
    def __init__(self, *args, metric, **kwargs):
        super().__init__(*args, **kwargs)
        self.metric = metric

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        values = ops.mean((y - y_pred) ** 2, -1)
        self.metric.update_state(values if self.metric.name == "rows" else ops.mean(values))
        return ops.mean(values)


def of_layer(metric, of):
    inputs = keras.Input((8,))
    outputs = Follows(metric(), of)(keras.layers.Dense(3)(inputs))
    return keras.Model(inputs, outputs)


def of_loss(name):
    inputs = keras.Input((8,))
    return FollowsLoss(inputs, keras.layers.Dense(3)(inputs), metric=K.Mean(name=name))


TRACKED = {
    "layer, max": (lambda: of_layer(Peak, lambda x: x), "peak"),
    "layer, mean of means": (
        lambda: of_layer(lambda: K.Mean("act"), lambda x: ops.mean(ops.abs(x))),
        "act",
    ),
    "loss, mean of means": (lambda: of_loss("reg"), "reg"),
    "layer, declared": (
        lambda: of_layer(lambda: Peak(rules={"highest": "max"}), lambda x: x),
        None,
    ),
    "layer, mean of rows": (lambda: of_layer(lambda: K.Mean("act"), ops.abs), None),
    "loss, mean of rows": (lambda: of_loss("rows"), None),
}


def said(run):
    """What is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    ours = [str(w.message) for w in caught if w.category is UserWarning]
    return [text for text in ours if "shuffle" not in text]


@pytest.mark.parametrize("method", ["fit", tiers.slow("evaluate")])
@pytest.mark.parametrize("options", [{"strategy": "mirrored:2"}, {"micro_batches": 2}])
@pytest.mark.parametrize(
    "name", tiers.cases(TRACKED, ["layer, mean of means", "loss, mean of rows"])
)
def test_metrics_that_layers_and_losses_update(name, options, method):
    """Where each part of a batch updates them; of micro-batches there is none in an evaluation."""
    make, wrong = TRACKED[name]
    model = make()
    trainer = Trainer(model, optimizer="sgd", loss="mse", seed=0, **options)
    run = getattr(trainer, method)
    messages = said(functools.partial(run, X.numpy()[:7], Y.numpy()[:7], batch_size=4, verbose=0))
    is_cut = "strategy" in options or method == "fit"
    finds_maximum = wrong == "peak" and "micro_batches" in options  # which parts may update in turn
    assert (1 if wrong and is_cut and not finds_maximum else 0) == len(messages)
    assert all(f"The metric {wrong!r}" in message for message in messages)


class Centred(keras.layers.Layer):
    """In one of the modes, or in both."""

    def __init__(self, modes):
        super().__init__()
        self.modes = modes

    def call(self, x, training=False):
        return x - ops.mean(x, 0, keepdims=True) if training in self.modes else x


@pytest.mark.parametrize("method", ["fit", "evaluate", tiers.slow("predict")])
@pytest.mark.parametrize("modes", [tiers.slow((True,)), (False,), tiers.slow((True, False))])
def test_rows_that_are_compared_in_either_mode(modes, method):
    """On replicas only, once, and as an error where that is asked for."""
    data = [X.numpy()] if method == "predict" else [X.numpy(), Y.numpy()]

    def run(strategy=None, **options):
        model = keras.Sequential([keras.Input((8,)), Centred(modes), keras.layers.Dense(3)])
        trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=strategy, **options)
        getattr(trainer, method)(*data, verbose=0)
        getattr(trainer, method)(*data, verbose=0)

    counts = (method == "fit") in modes
    assert [] == said(run)
    messages = said(lambda: run("mirrored:2"))
    assert int(counts) == len(messages)
    assert all("the layer 'centred" in message for message in messages)
    with pytest.raises(ModelError, match="centred") if counts else contextlib.nullcontext():
        run("mirrored:2", lint="error")


@pytest.mark.parametrize(
    ("modes", "count"), [((False,), 1), tiers.slow((True, False), 1), tiers.slow((), 0)]
)
def test_a_validation_is_looked_at(modes, count):
    """What is in inference mode alone; and nothing twice."""
    model = keras.Sequential([keras.Input((8,)), Centred(modes), keras.layers.Dense(3)])
    trainer = Trainer(model, optimizer="sgd", loss="mse", strategy="mirrored:2")
    data = X.numpy(), Y.numpy()
    fit = functools.partial(trainer.fit, *data, validation_data=data, verbose=0)
    assert count == len(said(fit))
