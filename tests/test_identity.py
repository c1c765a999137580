"""What another run is: named, and never what differs from process to process alone."""

import dataclasses
import functools
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import Guard
from kerastrain import RunError
from kerastrain import StepOptions
from kerastrain.data import Source
from kerastrain.identity import check_identity
from kerastrain.identity import identity_of
from tests.resuming import BATCH
from tests.resuming import network
from tests.resuming import rows
from tests.resuming import trainer
from tests.runs import fit

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
    (residual, {"swaps": True}, r"model.wiring\[.\] was 'Dense 5"),
    (residual, {"factor": 3.0}, "model.wiring.* was .*2.0.*, and is now .*3.0"),
    (residual, {"twice": True}, "model"),
    (nested, {"late": True}, r"model.layers\[.\].wiring.*Add"),
    (nested, {"outside": True}, "model.wiring.*Add"),
    (with_two_inputs, {"swaps": True}, "model.wiring.*inputs"),
    (with_two_inputs, {"order": True}, "model.wiring.*inputs"),
    (shared, {"calls": 3}, "model.wiring.*Dense 1 call 1"),
    (shared, {"calls": 2, "on": "inputs"}, "model.wiring.*Dense 1"),
    (transposed, {"axes": (0, 1, 2)}, "model.wiring.*Transpose"),
])  # fmt: skip
def test_other_wiring_is_another_model(make, changed, named):
    """Of models with the same layers and weights; the call that differs is shown."""
    assert re.search(f"is another one: {named}", difference(make, functools.partial(make, **changed)))


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
    (blocks, {"units": [4, 4]}, {"units": [4, 4, 4]}, "model"),
    (blocks, {"factor": 1.0}, {"factor": 0.5}, "model.factor was '1.0', and is now '0.5'"),
    (blocks, {"activation": double}, {"activation": triple}, "model.activation was 'double'"),
    (blocks, {"activation": times(2)}, {"activation": times(3)}, "model.activation.holds.factor was 2"),
    (blocks, {"options": Options()}, {"options": Options(3)}, "model.options.depth was 2, and is now 3"),
    (blocks, {"options": {"a": [1]}}, {"options": {"a": [2]}}, r"model.options.a\[0\] was 1"),
    (blocks, {"options": np.ones(3)}, {"options": np.zeros(3)}, "model.options was 'float64"),
    (blocks, {"options": keras.initializers.Constant(1)}, {"options": keras.initializers.Constant(2)},
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
    """Layers in attributes are told by their places."""

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
    one, moved, other = compiled("lambda x: 2 * x"), compiled("lambda x: 2 * x", 9), compiled("lambda x: 3 * x")
    one, moved, other = (functools.partial(with_lambda, f) for f in (one, moved, other))
    assert difference(one, moved) is None
    assert "function.code was" in difference(one, other)
    assert difference(functools.partial(with_lambda, double), functools.partial(with_lambda, double)) is None
    assert "double" in difference(functools.partial(with_lambda, double), functools.partial(with_lambda, triple))


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

    with pytest.warns(UserWarning, match="goes on although model.calls was 1, and is now 2"):
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
            if "function" in value and "class" not in value and any(key.startswith("@") for key in value):
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
    "make": trainer(guard="skip", step=StepOptions(clipnorm=1.0)),
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
     {"make": trainer(step=StepOptions(clipnorm=1.0))}),
    ("`guard`.most was 10, and is now 5",
     {"make": trainer(guard=Guard("skip", most=5), step=StepOptions(clipnorm=1.0))}),
    ("`step`.micro_batches was 1, and is now 2",
     {"make": trainer(guard="skip", step=StepOptions(2, clipnorm=1.0))}),
    ("`step`.clipvalue was None, and is now '1.0'",
     {"make": trainer(guard="skip", step=StepOptions(clipvalue=1.0))}),
    ("`step`.clipnorm was '1.0', and is now '2.0'",
     {"make": trainer(guard="skip", step=StepOptions(clipnorm=2.0))}),
    ("optimizer.weight_decay was None, and is now '0.1'",
     {"make": trainer(guard="skip", step=StepOptions(clipnorm=1.0),
                      optimizer=lambda: keras.optimizers.Adam(0.01, weight_decay=0.1))}),
    ("x, y or sample_weight of validation_data have other values",
     {"validation_data": rows(2, 12)}),
    ("validation_data.steps_per_epoch was None, and is now 1", {"validation_steps": 1}),
    ("validation_data.first_batch", {"validation_batch_size": 5}),
]  # fmt: skip
SAMPLE = OTHERS[0], OTHERS[2], OTHERS[4], OTHERS[6], OTHERS[10]


@pytest.mark.parametrize(
    ("named", "changed"),
    [pytest.param(*one, marks=() if one in SAMPLE else pytest.mark.long) for one in OTHERS],
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
        tf.data.Dataset.zip(plain.batch(BATCH), plain.shuffle(9, seed=1).batch(BATCH)).map(lambda a, b: a),
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
