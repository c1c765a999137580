"""What another run is: named, and never what differs from process to process alone."""

import dataclasses
import datetime
import enum
import functools
import json
import os
import re
import subprocess
import sys
import threading
import types
import uuid
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import FitOptions
from kerastrain import Guard
from kerastrain import RunError
from kerastrain.data.source import Source
from kerastrain.run.descriptions import described
from kerastrain.run.descriptions import KEPT
from kerastrain.run.identity import check_calls_alike
from kerastrain.run.identity import check_identity
from kerastrain.run.identity import identity_of
from tests.support import tiers
from tests.support.resuming import BATCH
from tests.support.resuming import network
from tests.support.resuming import rows
from tests.support.resuming import trainer
from tests.support.runs import fit

pytestmark = pytest.mark.filterwarnings("error::UserWarning:(kerastrain|tests)")
L = keras.layers


def identity(model):
    model.compile("sgd", "mse")
    return identity_of(model, {"x": NoData()}, 0)


class NoData:
    def identity(self):
        return {}


def difference(one, other):
    """What is said of two models that are made by functions; None where they are one run's."""
    before, model = identity(one()), other()
    try:
        check_identity(before, identity(model), "runs/a", model)
    except RunError as error:
        return str(error)
    return None


# Functional models ------------------------------------------------------------------


def residual(late=False, twice=False, subtracts=False, swaps=False, factor=2.0, names=(None, None)):
    inputs = keras.Input((5,))
    first, second = L.Dense(5, name=names[0]), L.Dense(5, name=names[1])
    hidden = first(inputs)
    hidden = (L.Subtract if subtracts else L.Add)()([hidden, hidden if late else inputs])
    hidden = factor * (first if twice else second)(hidden)
    outputs = [L.Dense(1)(hidden), L.Dense(1)(inputs)]
    return keras.Model(inputs, outputs[::-1] if swaps else outputs)


def nested(late=False, outside=False):
    inputs = keras.Input((5,))
    inner = residual(late)
    first, second = inner(inputs)
    return keras.Model(inputs, L.Add()([first, first if outside else second]))


def with_two_inputs(swaps=False, order=False):
    one, two = keras.Input((5,)), keras.Input((5,))
    joined = L.Subtract()([two, one] if swaps else [one, two])
    return keras.Model([two, one] if order else [one, two], L.Dense(1)(joined))


def shared(calls=2, on="hidden"):
    inputs, dense = keras.Input((5,)), L.Dense(5)
    hidden = dense(inputs)
    for _ in range(calls - 1):
        hidden = dense(hidden if on == "hidden" else inputs)
    return keras.Model(inputs, hidden)


def transposed(axes=(0, 2, 1)):
    inputs = keras.Input((5, 5))
    return keras.Model(inputs, keras.ops.transpose(inputs, axes) + 0 * L.Dense(5)(inputs))


@pytest.mark.parametrize(("make", "changed", "named"), [
    (residual, {"late": True}, r"model.wiring\[2\] was 'Add 2\(.Dense 1, InputLayer 0.\)', and is now "
     r"'Add 2\(.Dense 1, Dense 1.\)'"),
    (residual, {"subtracts": True}, ".*Subtract"),
    tiers.slow(residual, {"swaps": True}, r"model.wiring\[.\] was 'Dense 5"),
    (residual, {"factor": 3.0}, "model.wiring.* was .*2.0.*, and is now .*3.0"),
    tiers.slow(residual, {"twice": True}, "model"),
    (nested, {"late": True}, r"model.layers\[.\].wiring.*Add"),
    tiers.slow(nested, {"outside": True}, "model.wiring.*Add"),
    (with_two_inputs, {"swaps": True}, "model.wiring.*inputs"),
    tiers.slow(with_two_inputs, {"order": True}, "model.wiring.*inputs"),
    tiers.slow(shared, {"calls": 3}, "model.wiring.*Dense 1 call 1"),
    (shared, {"calls": 2, "on": "inputs"}, "model.wiring.*Dense 1"),
    (transposed, {"axes": (0, 1, 2)}, "model.wiring.*Transpose"),
])  # fmt: skip
def test_other_wiring_is_another_model(make, changed, named):
    """Of models with the same layers and weights; the call that differs is shown."""
    assert re.search(
        f"is another one: {named}", difference(make, functools.partial(make, **changed))
    )


def test_names_and_the_order_of_making_are_no_difference():
    """The same program, after other models, has layers of other names."""

    def in_another_order():
        inputs = keras.Input((5,))
        last, other, second, first = L.Dense(1), L.Dense(1), L.Dense(5), L.Dense(5)
        hidden = 2.0 * second(L.Add()([first(inputs), inputs]))
        return keras.Model(inputs, [other(hidden), last(inputs)])

    assert difference(residual, in_another_order) is None
    assert difference(residual, functools.partial(residual, names=("b", "a"))) is None
    for make in (nested, with_two_inputs, shared, transposed):
        assert difference(make, make) is None


def test_calls_that_do_not_belong_to_the_model_are_no_difference():
    """A layer may be called elsewhere too, before or after."""

    def called_elsewhere():
        inputs, dense = keras.Input((5,)), L.Dense(5)
        dense(keras.Input((5,)))
        hidden = dense(inputs)
        model = keras.Model(inputs, dense(hidden))
        dense(hidden)
        return model

    assert difference(shared, called_elsewhere) is None


def test_a_wrapper_of_a_functional_model_has_no_names():
    """Its config holds the names of the layers, which count the models made before."""

    def wrapped(late=False):
        return keras.Sequential([keras.Input((3, 5)), L.TimeDistributed(nested(late))])

    assert difference(wrapped, wrapped) is None
    assert "wiring" in difference(wrapped, functools.partial(wrapped, late=True))


# Constructors -----------------------------------------------------------------------


class Blocks(keras.Model):
    """Without a config of its own."""

    def __init__(self, units=(4, 4), factor=1.0, activation=None, options=None, inner=None, **more):
        super().__init__(**more)
        self.blocks = [L.Dense(count) for count in units]
        self._factor, self.activation, self.options = factor, activation, options
        self.inner, self.last = inner, L.Dense(1)
        width = sum(units)
        self.share = 1.0 / width
        self.calls = 0

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self._factor * self.last(x)


class Scaled(keras.Layer):
    def __init__(self, factor, *shifts, function=None):
        super().__init__()
        self.scale, self.shifts, self.function = factor, shifts, function

    def call(self, x):
        return self.scale * x + sum(self.shifts)


@dataclasses.dataclass
class Options:
    depth: int = 2
    rate: float = 0.1


def blocks(**arguments):
    model = Blocks(**arguments)
    model(np.ones((2, 5)))
    return model


def scaled(*arguments, **named):
    return keras.Sequential([keras.Input((5,)), Scaled(*arguments, **named), L.Dense(1)])


def double(x):
    return 2 * x


def triple(x):
    return 3 * x


def times(factor):
    def multiply(x):
        return factor * x

    return multiply


@pytest.mark.parametrize(("make", "one", "other", "named"), [
    tiers.slow(blocks, {"units": [4, 4]}, {"units": [4, 4, 4]}, "model"),
    (blocks, {"factor": 1.0}, {"factor": 0.5}, "model.factor was '1.0', and is now '0.5'"),
    tiers.slow(blocks, {"activation": double}, {"activation": triple},
               "model.activation was 'double'"),
    (blocks, {"activation": times(2)}, {"activation": times(3)}, "model.activation.holds.factor was 2"),
    (blocks, {"options": Options()}, {"options": Options(3)}, "model.options.depth was 2, and is now 3"),
    tiers.slow(blocks, {"options": {"a": [1]}}, {"options": {"a": [2]}},
               r"model.options.a\[0\] was 1"),
    tiers.slow(blocks, {"options": np.ones(3)}, {"options": np.zeros(3)},
               "model.options was 'float64"),
    tiers.slow(blocks, {"options": keras.initializers.Constant(1)},
               {"options": keras.initializers.Constant(2)},
     "model.options.value was 1, and is now 2"),
    (scaled, {"factor": 2}, {"factor": 3}, r"model.layers\[.\].factor was 2, and is now 3"),
    (scaled, {"factor": 2, "function": lambda x: x + 1}, {"factor": 2, "function": lambda x: x + 2},
     r"model.layers\[.\].function.code was"),
])  # fmt: skip
def test_other_arguments_of_a_constructor(make, one, other, named):
    """Of classes without a config, by what Keras or the object itself has noted."""
    text = difference(functools.partial(make, **one), functools.partial(make, **other))
    assert re.search(f"is another one: {named}", text or ""), text
    assert difference(functools.partial(make, **one), functools.partial(make, **one)) is None


def test_positional_arguments_of_a_constructor():
    """Which Keras does not note."""
    one, other = functools.partial(scaled, 1, 2, 3), functools.partial(scaled, 1, 2, 4)
    assert r"shifts[1] was 3, and is now 4" in difference(one, other)


def test_what_a_constructor_makes_of_its_arguments():
    """Also under another name; what it does not take from them is not meant."""
    one, other = blocks(units=(4, 4)), blocks(units=(4, 4))
    other.share = 0.5
    other.calls = 1
    assert "model.share was '0.125', and is now '0.5'" in difference(lambda: one, lambda: other)


def test_which_layer_is_used_where():
    """Layers in attributes are identified by their places."""

    class Two(keras.Model):
        def __init__(self, first, second):
            super().__init__()
            self.layers_of_mine = [first, second]
            self.first = first
            self.second = second

        def call(self, x):
            return self.first(x) - self.second(x)

    def make(swaps):
        a, b = L.Dense(1), L.Dense(1)
        model = Two(a, b)
        if swaps:
            model.layers_of_mine = [a, b]
            model.first, model.second = b, a
        model(np.ones((2, 5)))
        return model

    text = difference(functools.partial(make, False), functools.partial(make, True))
    assert "model.first was 'layer" in text


# Functions --------------------------------------------------------------------------


def with_lambda(function):
    inputs = keras.Input((5,))
    return keras.Model(inputs, L.Dense(1, activation=function)(L.Lambda(function)(inputs)))


def compiled(source, lines=0):
    return eval(compile("\n" * lines + source, f"<{lines}>", "eval"))


def test_a_function_without_a_name_is_what_it_does():
    """Not the line where it stands."""
    one, moved, other = (
        compiled("lambda x: 2 * x"),
        compiled("lambda x: 2 * x", 9),
        compiled("lambda x: 3 * x"),
    )
    one, moved, other = (functools.partial(with_lambda, f) for f in (one, moved, other))
    assert difference(one, moved) is None
    assert "function.code was" in difference(one, other)
    assert (
        difference(functools.partial(with_lambda, double), functools.partial(with_lambda, double))
        is None
    )
    assert "double" in difference(
        functools.partial(with_lambda, double), functools.partial(with_lambda, triple)
    )


def focal(gamma):
    def loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** gamma, -1)

    return loss


class Focal(keras.losses.Loss):
    def __init__(self, gamma):
        super().__init__()
        self.gamma = gamma

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** self.gamma, -1)


@pytest.mark.parametrize(("one", "other", "named"), [
    (focal(2.0), focal(3.0), "loss.holds.gamma was '2.0', and is now '3.0'"),
    (Focal(2.0), Focal(3.0), "loss.gamma was '2.0', and is now '3.0'"),
    (functools.partial(focal(2), y_pred=1), functools.partial(focal(2), y_pred=2), "loss.keywords.y_pred was 1"),
])  # fmt: skip
def test_a_loss_with_other_constants(one, other, named):
    """Of a function that another one has made, or a class without a config."""

    def described(loss):
        model = network()
        model.compile("sgd", loss)
        return identity_of(model, {"x": NoData()}, 0), model

    before, (now, model) = described(one)[0], described(other)
    with pytest.raises(RunError, match=named):
        check_identity(before, now, "runs/a", model)
    now, model = described(one)
    check_identity(before, now, "runs/a", model)


# What objects hold --------------------------------------------------------------------


class Scale(keras.regularizers.Regularizer):
    """Without a config, as the classes below."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, weights):
        return self.factor * keras.ops.sum(weights**2)


class Constant(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate


class Power:
    """A callable object; the counters, the lock and the object itself in it are no settings."""

    def __init__(self, power, tag=None):
        self.power, self.calls, self._cache = power, 0, {}
        self.lock, self.itself, self._tag = threading.Lock(), self, tag or uuid.uuid4().hex

    def __call__(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** self.power, -1)


class Wide(keras.losses.Huber):
    def __init__(self, width):
        super().__init__(delta=width)


def with_default(power):
    def loss(y_true, y_pred, power=power, cache={}):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** power, -1)

    return loss


def with_keyword(power):
    def loss(y_true, y_pred, *, power=power):
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** power, -1)

    return loss


def plain(**arguments):
    inputs = keras.Input((5,))
    hidden = L.Dense(5, name="hidden", **arguments)(inputs)
    return keras.Model(inputs, L.Dense(1, name="last")(hidden))


def trained(model=plain, loss="mse", optimizer=lambda: "sgd", metrics=None, change=None):
    """A compiled model, which is changed before it trains."""
    made = model()
    made.compile(optimizer(), loss() if callable(loss) else loss, metrics=metrics)
    if metrics is not None:
        made.evaluate(np.ones((2, 5)), np.ones((2, 1)), verbose=0)  # builds them
    if change is not None:
        change(made)
    return made


def difference_of(one, other):
    """What is said of two compiled models, as the first one's identity is read from a file."""
    saved = json.loads(json.dumps(identity_of(one, {"x": NoData()}, 0)))
    try:
        check_identity(saved, identity_of(other, {"x": NoData()}, 0), "runs/a", other)
    except RunError as error:
        return str(error)
    return None


def decay_left_out(**what):
    def change(model):
        named = {k: v(model) if callable(v) else v for k, v in what.items()}
        model.optimizer.exclude_from_weight_decay(**named)

    return change


def decayed(**what):
    return {"optimizer": lambda: keras.optimizers.AdamW(0.1), "change": decay_left_out(**what)}


def set_on_kernel(**values):
    def change(model):
        for name, value in values.items():
            setattr(model.layers[1].kernel, name, value)

    return {"change": change}


def regularized(rule):
    return {"model": lambda: plain(kernel_regularizer=rule)}


def holding(thing):
    return {"model": lambda: scaled(2.0, function=thing())}


def changed(**values):
    def change(model):
        for name, value in values.items():
            setattr(model.layers[0], name, value)

    return {"model": lambda: scaled_by_keyword(factor=2.0), "change": change}


class Factor(keras.Layer):
    def __init__(self, factor=1.0, momentum=0.5):
        super().__init__()
        self.factor, self.momentum = factor, momentum

    def call(self, x):
        return self.factor * x


class Averaged(Blocks):
    """With an attribute that optimizers have too."""

    def __init__(self, momentum):
        super().__init__()
        self.momentum = momentum


def scaled_by_keyword(**named):
    return keras.Sequential([keras.Input((5,)), Factor(**named), L.Dense(1)])


def averaged(momentum):
    model = Averaged(momentum)
    model(np.ones((2, 5)))
    return model


Losses = keras.losses


@pytest.mark.parametrize(("one", "other", "named"), [
    # What Keras's own configs lack.
    ({"loss": lambda: Losses.Huber(1.0)}, {"loss": lambda: Losses.Huber(2.0)},
     "loss.fn_kwargs.delta was '1.0', and is now '2.0'"),
    tiers.slow({"loss": lambda: Losses.CosineSimilarity(axis=-1)},
               {"loss": lambda: Losses.CosineSimilarity(axis=0)},
     "loss.fn_kwargs.axis was -1, and is now 0"),
    tiers.slow({"loss": lambda: Wide(1.0)}, {"loss": lambda: Wide(2.0)}, "loss"),
    tiers.slow({"metrics": [keras.metrics.MeanMetricWrapper(focal(2.0), name="a")]},
     {"metrics": [keras.metrics.MeanMetricWrapper(focal(3.0), name="a")]}, "metrics.*gamma was '2.0'"),
    # Of classes without a config.
    (regularized(Scale(0.1)), regularized(Scale(0.5)),
     "model.layers.1..kernel_regularizer.factor was '0.1', and is now '0.5'"),
    tiers.slow({"model": lambda: plain(activation="relu", kernel_regularizer=Scale(0.1))},
     {"model": lambda: plain(activation="tanh", kernel_regularizer=Scale(0.1))},
     "model.layers.1..activation was 'relu', and is now 'tanh'"),
    tiers.slow({"model": lambda: plain(activity_regularizer=Scale(0.1))},
     {"model": lambda: plain(activity_regularizer=Scale(0.5))}, "model.layers.1..activity_regularizer"),
    ({"optimizer": lambda: keras.optimizers.SGD(Constant(0.1))},
     {"optimizer": lambda: keras.optimizers.SGD(Constant(0.5))},
     "optimizer.learning_rate.rate was '0.1', and is now '0.5'"),
    # Of any objects and functions.
    ({"loss": lambda: Power(2)}, {"loss": lambda: Power(3)}, "loss.power was 2, and is now 3"),
    tiers.slow({"loss": lambda: Power(2).__call__}, {"loss": lambda: Power(3).__call__},
               "loss.self.power was 2"),
    tiers.slow({"loss": lambda: tf.function(focal(2))}, {"loss": lambda: tf.function(focal(3))},
     "loss.function.holds.gamma was 2"),
    ({"loss": lambda: with_default(2)}, {"loss": lambda: with_default(3)}, "loss.defaults.power was 2"),
    tiers.slow({"loss": lambda: with_keyword(2)}, {"loss": lambda: with_keyword(3)},
               "loss.keywords.power was 2"),
    (holding(lambda: Power(2)), holding(lambda: Power(3)), "model.layers.1..function.power was 2"),
    tiers.slow(holding(lambda: {"a": Power(2)}), holding(lambda: {"a": Power(3)}),
               "model.layers.1..function.a.power"),
    tiers.slow(holding(lambda: Kind.ONE), holding(lambda: Kind.TWO),
               "model.layers.1..function.value was 'ONE'"),
    tiers.slow(holding(lambda: tf.float32), holding(lambda: tf.float16),
               "model.layers.1..function.value was"),
    # What is set later.
    (changed(), changed(factor=5.0), "model.layers.1..factor was '2.0', and is now '5.0'"),
    tiers.slow(changed(), changed(momentum=0.1),
               "model.layers.1..momentum was '0.5', and is now '0.1'"),
    tiers.slow({"model": lambda: averaged(0.5)}, {"model": lambda: averaged(0.9)},
               "model.momentum was '0.5'"),
    tiers.slow(decayed(), decayed(var_names=["bias"]),
               "optimizer.exclude_from_weight_decay_pattern was None"),
    (decayed(var_list=lambda model: model.weights[:1]), decayed(var_list=lambda model: model.weights[2:3]),
     "optimizer.exclude_from_weight_decay.0. was 'weight 0', and is now 'weight 2'"),
    tiers.slow(set_on_kernel(), set_on_kernel(trainable=False),
               "model.weights.0..trainable was True, and is now False"),
    tiers.slow(set_on_kernel(), set_on_kernel(regularizer=Scale(0.1)),
               "model.weights.0..regularizer was None"),
    (set_on_kernel(constraint=keras.constraints.MaxNorm(1)), set_on_kernel(constraint=keras.constraints.MaxNorm(2)),
     "model.weights.0..constraint.max_value was 1, and is now 2"),
])  # fmt: skip
def test_what_an_object_holds(one, other, named):
    """It decides, also where a config lacks it; of the same values it is the same."""
    text = difference_of(trained(**one), trained(**other))
    assert re.search(f"is another one: {named}", text or ""), text
    assert difference_of(trained(**one), trained(**one)) is None
    assert difference_of(trained(**other), trained(**other)) is None


class Kind(enum.Enum):
    ONE = 1
    TWO = 2


@pytest.mark.parametrize(
    "key",
    tiers.cases(
        ["Huber", "AdamW", "Dense", "BatchNormalization", "LSTM", "L2"],
        ["Huber", "BatchNormalization"],
    ),
)
def test_settings_are_what_is_left_as_it_was_made(key):
    """A training changes none of them."""
    modules = (keras.losses, keras.optimizers, keras.layers, keras.regularizers)
    kind = next(vars(module)[key] for module in modules if key in vars(module))
    one = kind(3) if issubclass(kind, L.Dense | L.LSTM) else kind()
    before = described(one)
    assert before[KEPT]
    inputs = keras.Input((4, 3))
    hidden = one(inputs) if isinstance(one, keras.Layer) else inputs
    model = keras.Model(inputs, L.Dense(1)(L.Flatten()(hidden)))
    loss, optimizer = one if isinstance(one, keras.Loss) else "mse", one if "Adam" in key else "sgd"
    model.compile(optimizer, loss)
    model.fit(np.ones((4, 4, 3)), np.ones((4, 1)), verbose=0)
    model.predict(np.ones((4, 4, 3)), verbose=0)
    assert described(one)[KEPT] == before[KEPT]


def test_what_is_drawn_where_an_argument_is_left_out():
    """It is no setting: another process draws another one."""

    class Tagged(Power):
        def __init__(self, power, tag=None, seed=None):
            super().__init__(power)
            if tag is None:
                tag = uuid.uuid4().hex
            self.tag, self.noise = tag, np.random.default_rng(seed or 0).normal()

    assert {"power", "noise"} == described(Tagged(2))["@given"].keys()
    with pytest.warns(UserWarning, match="is resumed although loss.tag was"):
        assert (
            difference_of(trained(loss=lambda: Tagged(2)), trained(loss=lambda: Tagged(2))) is None
        )


def test_objects_without_end():
    """What holds itself, or very much, is described all the same."""
    one = types.SimpleNamespace(
        many=[Power(2) for _ in range(50)], names=dict.fromkeys(range(20_000))
    )
    one.itself = [one, {"one": one}]
    assert described(one) == described(one)
    assert "20000 keys" == described(one)["@others"]["names"]
    assert len(json.dumps(described(one))) < 100_000


PROGRAM = """
import json, sys, threading, time, uuid
import keras, numpy as np, tensorflow as tf
from kerastrain.run.identity import identity_of
from tests.run import test_identity as t

hold = [object() for _ in range(int(sys.argv[1]))]
for _ in range(int(sys.argv[1]) % 7):
    keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)])

class Odd:
    def __init__(self, value, words):
        self.value, self.words, self.lock, self.made = value, words, threading.RLock(), id(self)
        self.call, self.data, self.draw = self.run, tf.data.Dataset.range(3), np.random.default_rng()

    def run(self):
        return self.value

class Net(keras.Model):
    def __init__(self, odd, tag=None, clock=None):
        super().__init__()
        self.odd, self.tag, self.dense = odd, tag or uuid.uuid4().hex, keras.layers.Dense(1)
        self._clock = time.time() if clock is None else clock
        self.step, self._seen = tf.function(self.odd.run), {id(self)}

    def call(self, x):
        return self.dense(x)

words = {"alpha", "beta", "gamma", "delta"}
net = Net(Odd(3, words))
net(np.ones((2, 5)))
optimizer = keras.optimizers.AdamW(0.1)
optimizer.exclude_from_weight_decay(var_names=words)
net.compile(optimizer, t.Power(2), metrics=[t.focal(2.0)])
print(json.dumps(identity_of(net, {"x": t.NoData()}, 0)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("is_a_file", [True, False])
def test_the_same_program_in_another_process(tmp_path, is_a_file):
    """Other addresses, orders of sets, names of layers and random identifiers are no difference."""
    texts, file = [], tmp_path / "program.py"
    file.write_text(PROGRAM)
    for number in (10, 1777):
        done = subprocess.run(
            [sys.executable, *([file] if is_a_file else ["-c", PROGRAM]), str(number)],
            env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONHASHSEED": str(number)},
            capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
        texts.append(json.loads(done.stdout.splitlines()[-1]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_identity(*texts, "runs/a", plain())
    assert "model.odd.made was" in str(caught[-1].message)


# What may differ --------------------------------------------------------------------


class Counts(keras.Model):
    """Attributes that a training changes, and that are others in each process."""

    made = 0

    def __init__(self, rate):
        super().__init__()
        Counts.made += 1
        self.dense, self.rate, self.steps, self.seen = L.Dense(1), rate, 0, []
        self.generator = keras.random.SeedGenerator()

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        self.steps += 1
        self.seen.append(self.steps)
        self.rate = 0.5 * self.rate
        return super().train_step(data)


@pytest.mark.slow
def test_what_a_training_changes_is_no_difference(tmp_path):
    """The same model goes on, and so does a new one; another argument is another run."""
    made = trainer(lambda: Counts(1.0), execution="step", metrics=None)()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a step of one's own
        for epochs in (1, 2):
            made.fit(*rows(), epochs=epochs, batch_size=BATCH, verbose=0, run_dir=tmp_path)
        fit(tmp_path, trainer(lambda: Counts(1.0), execution="step", metrics=None), epochs=3)
        with pytest.raises(RunError, match="model.rate was '1.0', and is now '2.0'"):
            fit(tmp_path, trainer(lambda: Counts(2.0), execution="step", metrics=None), epochs=4)


def test_what_no_argument_has_set_is_a_warning():
    """It may as well be the time of day, or the name of a file."""

    def begun(now):
        model = blocks()
        model.calls = now
        return model

    with pytest.warns(UserWarning, match="is resumed although model.calls was 1, and is now 2"):
        assert difference(lambda: begun(1), lambda: begun(2)) is None


def test_a_run_of_an_earlier_version_goes_on():
    """What it has not noted is not compared; functions were names, and lists lists."""
    inputs = keras.Input((5,))
    hidden = L.Dense(1, activation=times(2))(inputs)
    model = keras.Model(inputs, Scaled(2)(hidden))
    model.compile("sgd", focal(2.0), loss_weights=None)
    now = identity_of(model, {"x": NoData()}, 0, {"class_weight": {0: 1.0}})

    def earlier(value):
        if isinstance(value, dict):
            if (
                "function" in value
                and "class" not in value
                and any(key.startswith("@") for key in value)
            ):
                return value["function"]
            return {k: earlier(v) for k, v in value.items() if not k.startswith("@")}
        return [*map(earlier, value)] if isinstance(value, list) else value

    assert "@options" not in earlier(now) and "focal.<locals>.loss" == earlier(now)["loss"]
    check_identity(earlier(now), now, "runs/a", model)


# Options and data -------------------------------------------------------------------


def labelled():
    x, _ = rows()
    return x, np.arange(len(x)) % 2


BEGUN = {
    "data": labelled,
    "class_weight": {0: 2, 1: 1},
    "validation_data": rows(1, 12),
    "make": trainer(guard="skip", clipnorm=1.0),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run that others are compared with."""
    place = tmp_path_factory.mktemp("begun")
    fit(place, epochs=1, **BEGUN)
    return place


OTHERS = [
    ("`class_weight`.1 was '1.0', and is now '3.0'", {"class_weight": {0: 2, 1: 3}}),
    ("`class_weight` was {'0': '2.0', '1': '1.0'}, and is now None", {"class_weight": None}),
    ("`validation_freq` was 1, and is now 2", {"validation_freq": 2}),
    ("`validation_freq` was 1, and is now [1, 3]", {"validation_freq": [3, 1]}),
    ("`guard`.policy was 'skip', and is now 'raise'",
     {"make": trainer(clipnorm=1.0)}),
    ("`guard`.max_skipped was 10, and is now 5",
     {"make": trainer(guard=Guard("skip", max_skipped=5), clipnorm=1.0)}),
    ("`step`.micro_batches was 1, and is now 2",
     {"make": trainer(guard="skip", micro_batches=2, clipnorm=1.0)}),
    ("`step`.clipvalue was None, and is now '1.0'",
     {"make": trainer(guard="skip", clipvalue=1.0)}),
    ("`step`.clipnorm was '1.0', and is now '2.0'",
     {"make": trainer(guard="skip", clipnorm=2.0)}),
    ("optimizer.weight_decay was None, and is now '0.1'",
     {"make": trainer(guard="skip", clipnorm=1.0,
                      optimizer=lambda: keras.optimizers.Adam(0.01, weight_decay=0.1))}),
    ("x, y or sample_weight of validation_data have other values",
     {"validation_data": rows(2, 12)}),
    ("validation_data.steps_per_epoch was None, and is now 1", {"validation_steps": 1}),
    ("validation_data.batches was 2, and is now 3", {"validation_batch_size": 5}),
]  # fmt: skip
SAMPLE = OTHERS[0], OTHERS[4], OTHERS[10]


@pytest.mark.parametrize(
    ("named", "changed"),
    [pytest.param(*one, marks=() if one in SAMPLE else pytest.mark.slow) for one in OTHERS],
)
def test_another_option_or_data_set(begun, named, changed):
    """Each is named, with both values."""
    with pytest.raises(RunError, match="is another one: " + re.escape(named)):
        fit(begun, **BEGUN | changed)


def test_the_same_options_go_on(begun):
    """As numbers of other types, too."""
    same = {"class_weight": {np.int64(1): np.float32(1), 0: 2.0}, "validation_freq": np.int64(1)}
    assert [0, 1] == fit(begun, **BEGUN | same)[1].epoch


def spread(seed):
    """Arrays of which a sample of the rows does not tell that one is another."""
    x, y = rows(count=1000)
    x[1] += seed
    return x, y


class Indexed(keras.utils.PyDataset):
    num_batches = 3

    def __init__(self, seed):
        super().__init__()
        self.x, self.y = rows(seed)

    def __getitem__(self, index):
        return self.x[index::8], self.y[index::8]


def pipeline(seed):
    return tf.data.Dataset.from_tensor_slices(rows(seed)).map(lambda x, y: (2 * x, y)).batch(BATCH)


def digest(data, *more, **options):
    return Source(data, *more, **options).identity().get("@digest")


@pytest.mark.parametrize("make", [Indexed, pipeline, lambda seed: pipeline(seed).cache().repeat(2)])
def test_the_first_batch(make):
    """It tells data apart that begin with the same one in each process."""
    assert digest(make(0)) == digest(make(0)) is not None
    assert digest(make(0)) != digest(make(1)) is not None


def test_the_first_rows_of_arrays():
    """They are compared as they are before they are shuffled, so a seed may be drawn."""
    assert digest(*spread(0), shuffle=True) == digest(*spread(0), shuffle=True)
    assert digest(*spread(0), shuffle=True) != digest(*spread(1), shuffle=True)


@pytest.mark.slow
def test_other_batches(tmp_path):
    """Of data to train on and to validate on."""
    arguments = {"data": lambda: Indexed(0), "validation_data": pipeline(0), "batch_size": None}
    fit(tmp_path, epochs=1, **arguments)
    with pytest.raises(RunError, match="the first batch of x has other values"):
        fit(tmp_path, **arguments | {"data": lambda: Indexed(1)})
    with pytest.raises(RunError, match="the first batch of validation_data has other values"):
        fit(tmp_path, **arguments | {"validation_data": pipeline(1)})


def test_an_order_that_is_drawn_is_no_difference(tmp_path):
    """Whether such data can go on is not for the identity to say."""

    class Shuffles(Indexed):
        def on_epoch_begin(self):
            self.x = np.random.default_rng().permutation(self.x)

    plain = tf.data.Dataset.from_tensor_slices(rows())
    drawn = [
        plain.shuffle(44).batch(BATCH),
        plain.map(lambda x, y: (x + tf.random.uniform((6,)), y)).batch(BATCH),
        tf.data.Dataset.zip(plain.batch(BATCH), plain.shuffle(9, seed=1).batch(BATCH)).map(
            lambda a, b: a
        ),
        tf.data.Dataset.range(4).flat_map(lambda i: plain.shuffle(9)).batch(BATCH),
        plain.map(lambda *a: tf.py_function(lambda *b: b, a, [tf.float32] * 2)).batch(BATCH),
        Shuffles(0),
    ]
    assert [None] * len(drawn) == [digest(data) for data in drawn]
    assert digest(Indexed(0), shuffle=True) is None
    again = [digest(Indexed(0), shuffle=True, seed=1) for _ in range(2)]
    assert again[0] == again[1] is not None


def test_a_model_that_is_rebuilt_is_the_same():
    """Under a strategy a copy trains, whose layers have other names."""
    assert difference(residual, lambda: keras.models.clone_model(residual())) is None


FACTOR, COUNTED = [2.0, 1.0], 0


def scaled_by_a_global(y_true, y_pred):
    return FACTOR[0] * keras.ops.mean(keras.ops.square(y_true - y_pred), -1)


units = 1  # as an attribute is called


class CountsCalls(L.Layer):
    def __init__(self):
        super().__init__()
        self.units = 3

    def call(self, x):
        global COUNTED
        COUNTED += 1
        return x * self.units


def test_globals_that_functions_read(monkeypatch):
    """Another number is named in a warning; what the functions set themselves is none."""

    def make():
        model = keras.Sequential([keras.Input((3,)), CountsCalls(), L.Dense(1)])
        model.compile("sgd", scaled_by_a_global)
        return model

    def now():
        model = make()
        return identity_of(model, {"x": NoData()}, 0), "runs/a", model

    before, *_ = now()
    check_identity(before, *now())
    monkeypatch.setitem(globals(), "units", 2)
    check_identity(before, *now())
    monkeypatch.setitem(globals(), "FACTOR", [3.0, 1.0])
    with pytest.warns(
        UserWarning,
        match=r"is resumed although `FACTOR` of `scaled_by_a_global`\[0\] was '2.0', and",
    ):
        check_identity(before, *now())


class Others:
    """A cluster whose other worker has something else."""

    has_others = True

    def __init__(self, other):
        self.other = other

    def gather_objects(self, value):
        return [value, self.other(value)]


@pytest.mark.parametrize(
    "name, value, other, words",
    [
        ("batch_size", 16, 15, "`batch_size` is 16 on worker 0, and on worker 1 15"),
        ("options", FitOptions(max_time=datetime.timedelta(seconds=9)), None, "`options`"),
        (
            "x",
            np.zeros(3),
            "a function",
            "`x` is 'arrays' on worker 0, and on worker 1 'a function'",
        ),
    ],
)
def test_calls_of_workers(name, value, other, words):
    """The argument that differs is named; equal calls are not refused."""
    check_calls_alike(Others(lambda mine: mine), {name: value}, {"train": "nothing"}, 0.1)
    differs = Others(lambda mine: mine | {"@options": {name: other}})
    with pytest.raises(ArgumentError, match=words):
        check_calls_alike(differs, {name: value}, {"train": "nothing"}, 0.1)
    rate = Others(lambda mine: mine | {"the learning rate": 0.2})
    with pytest.raises(ArgumentError, match="the learning rate is 0.1 on worker 0"):
        check_calls_alike(rate, {name: value}, {"train": "nothing"}, 0.1)


def test_arrays_of_any_kind_are_alike():
    """A memory-mapped file on one worker and an array on another: their rows are compared later."""
    found = []
    cluster = Others(lambda mine: found.append(mine) or mine)
    check_calls_alike(
        cluster, {"x": np.zeros(3), "y": [tf.zeros(3)], "steps": np.int64(3)}, {}, None
    )
    assert {"x": "arrays", "y": ["arrays"], "steps": 3} == found[0]["@options"]
