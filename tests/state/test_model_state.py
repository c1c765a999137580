"""The state of a training is complete: whatever steps change is restored and rolled back."""

import itertools
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import Execution
from kerastrain import Guard
from kerastrain import NonFiniteError
from kerastrain import RunDir
from kerastrain import Trainer
from kerastrain.errors import RunError
from kerastrain.state import model_state
from kerastrain.state.layer_states import layer_states
from kerastrain.state.layer_states import set_layer_states
from kerastrain.state.model_state import ModelState
from tests.support import tiers
from tests.support.assertions import largest_difference

L = keras.layers
X = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
Y = X.sum(1, keepdims=True)
OUTSIDE: dict = {}


def dense(*layers, loss="mse", optimizer=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((5,)), *layers, L.Dense(1)])
    model.compile(optimizer or keras.optimizers.SGD(0.05), loss)
    return model


def test_groups_of_variables():
    """Checkpoints name them by these, in the order in which Keras has them."""
    model = dense(optimizer=keras.optimizers.SGD(momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    names = list(ModelState(model).variables())
    kinds = ["model"] * 2 + ["metrics"] * 2 + ["optimizer"] * len(model.optimizer.variables)
    assert kinds == [name.split("/")[0] for name in names]


class Running(keras.losses.Loss):
    """A squared error over its running mean, in a variable of Keras's or TensorFlow's."""

    def __init__(self, make=keras.Variable):
        super().__init__(name="running")
        self.held = {"in a dict": [make(1.0, trainable=False)]}

    def call(self, y_true, y_pred):
        mean = self.held["in a dict"][0]
        values = keras.ops.mean(keras.ops.square(y_true - y_pred), -1)
        mean.assign(0.9 * mean + 0.1 * keras.ops.mean(values))
        return values / mean


class Noisy(keras.losses.Loss):
    """A squared error of noisy targets, by a generator of the loss's own."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(3)

    def call(self, y_true, y_pred):
        noise = keras.random.normal(keras.ops.shape(y_true), seed=self.seed)
        return keras.ops.mean(keras.ops.square(y_true + 0.1 * noise - y_pred), -1)


def of_a_closure():
    """A loss function with two variables that no object holds."""
    fast, slow = tf.Variable(1.0), tf.Variable(1.0)

    def loss(y_true, y_pred):
        values = tf.reduce_mean(tf.square(y_true - y_pred), -1)
        fast.assign(0.5 * fast + 0.5 * tf.reduce_mean(values))
        slow.assign(0.9 * slow + 0.1 * tf.reduce_mean(values))
        return values * fast / slow

    return dense(loss=loss)


def of_a_module():
    """A generator at the level of a module, as scripts have it."""
    OUTSIDE["seed"] = keras.random.SeedGenerator(5)

    class Shaken(L.Layer):
        def call(self, x, training=False):
            return x + 0.1 * keras.random.normal(keras.ops.shape(x), seed=OUTSIDE["seed"])

    return dense(Shaken())


def of_a_module_of_tensorflow():
    """The same of TensorFlow's."""
    OUTSIDE["generator"] = tf.random.Generator.from_seed(5)

    class Moved(L.Layer):
        def call(self, x, training=False):
            return x + 0.1 * OUTSIDE["generator"].normal(tf.shape(x))

    return dense(Moved())


class Growing(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that a variable of its own makes smaller at each call."""

    def __init__(self):
        self.rate = keras.Variable(0.1, trainable=False)

    def __call__(self, step):
        self.rate.assign(0.95 * self.rate)
        return self.rate + 0.0


class Pulling(keras.regularizers.Regularizer):
    """A penalty that grows with each step."""

    def __init__(self):
        self.strength = keras.Variable(0.01, trainable=False)

    def __call__(self, x):
        self.strength.assign(1.1 * self.strength)
        return self.strength * keras.ops.sum(keras.ops.square(x))


class Counting(L.Layer):
    """Multiplies by a number that only a list which nothing tracks holds."""

    def build(self, shape):
        self._seen = ([tf.Variable(1.0, trainable=False)],)

    def call(self, x):
        return x * self._seen[0][0].assign_add(0.01)


def stateful():
    keras.utils.set_random_seed(1)
    inputs = keras.Input(batch_shape=(8, 5))
    rows = L.Reshape((5, 1))(inputs)
    cell = L.StackedRNNCells([L.GRUCell(3), L.LSTMCell(3)])
    model = keras.Model(inputs, L.Dense(1)(L.RNN(cell, stateful=True)(rows)))
    model.compile("sgd", "mse")
    return model


MODELS = {
    "loss with a variable": lambda: dense(loss=Running()),
    "loss with TensorFlow's variable": lambda: dense(loss=Running(tf.Variable)),
    "loss with a generator": lambda: dense(loss=Noisy()),
    "loss of a closure": of_a_closure,
    "generator of a module": of_a_module,
    "TensorFlow's generator of a module": of_a_module_of_tensorflow,
    "schedule": lambda: dense(optimizer=keras.optimizers.SGD(Growing())),
    "regularizer": lambda: dense(
        L.Dense(4, kernel_initializer="ones", kernel_regularizer=Pulling())
    ),
    "list that nothing tracks": lambda: dense(Counting()),
    "stateful": stateful,
}
CELLS = list(itertools.product(MODELS, ("loop", "step", "eager")))


def execution(plan):
    return Execution(run_eagerly=True) if plan == "eager" else Execution(plan=plan)


@pytest.mark.parametrize(
    ("name", "plan"),
    tiers.cases(
        CELLS, [("loss of a closure", "loop"), ("TensorFlow's generator of a module", "eager")]
    ),
)
def test_a_resumed_training_ends_in_the_same_bits(name, plan, tmp_path):
    """Whatever holds the variables that steps change."""

    def train(model, epochs, **run):
        options = {"batch_size": 8, "verbose": 0, "epochs": epochs} | run
        history = Trainer(model, seed=0, execution=execution(plan)).fit(X, Y, **options)
        return model, history.history["loss"]

    whole, losses = train(MODELS[name](), 4)
    train(MODELS[name](), 2, run_dir=tmp_path / "run")
    again, resumed = train(MODELS[name](), 4, run_dir=tmp_path / "run")
    assert losses == resumed
    assert 0.0 == largest_difference(whole, again)


@pytest.mark.parametrize(
    ("name", "plan"),
    tiers.cases(CELLS, [("list that nothing tracks", "loop"), ("loss with a variable", "eager")]),
)
def test_a_bad_step_is_taken_back_wholly(name, plan):
    """The step is named, and training on from there ends as if the row had not been there."""
    x = X.copy()
    x[20] = np.nan
    with pytest.raises(NonFiniteError, match="Step 3 "):
        fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
        Trainer(MODELS[name](), seed=0, execution=execution(plan)).fit(x, Y, **fit)
    skipped = MODELS[name]()
    with pytest.warns(UserWarning, match="Step 3 "):
        Trainer(skipped, seed=0, guard=Guard("skip"), execution=execution(plan)).fit(x, Y, **fit)
    without = MODELS[name]()  # made now: both may use one generator
    good = np.delete(np.arange(40), np.arange(16, 24))
    Trainer(without, seed=0, execution=execution(plan)).fit(X[good], Y[good], **fit)
    assert 0.0 == largest_difference(skipped, without)


@pytest.mark.slow
def test_a_generator_that_the_bad_step_made():
    """Keras's global generator, which the first step makes, is taken back with it."""

    class Shaken(L.Layer):
        def call(self, x, training=False):
            return x + 0.1 * keras.random.normal(keras.ops.shape(x))

    def trained(x, y, **options):
        model = dense(Shaken())
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = {"batch_size": 8, "shuffle": False, "verbose": 0}
            Trainer(model, seed=0, execution="loop", **options).fit(x, y, **fit)
        return model

    bad = np.concatenate([np.full((8, 5), np.nan, "float32"), X])
    skipped = trained(bad, np.concatenate([Y[:8], Y]), guard="skip")
    assert 0.0 == largest_difference(skipped, trained(X, Y))


class Averaging(keras.callbacks.Callback):
    """Keeps an average of the first weight in a variable, made when the training begins."""

    def on_train_begin(self, logs=None):
        self.average = tf.Variable(self.model.weights[0])

    def on_epoch_end(self, epoch, logs=None):
        self.average.assign(0.5 * self.average + 0.5 * self.model.weights[0])


@pytest.mark.filterwarnings("error::UserWarning")
def test_variables_of_callbacks(tmp_path):
    """What a callback holds in variables is resumed without a word, though it makes them late."""

    def averaged(epochs, **run):
        callback = Averaging()
        trainer = Trainer(dense(), seed=0, execution="loop")
        trainer.fit(X, Y, epochs=epochs, verbose=0, callbacks=[callback], **run)
        return callback.average.numpy()

    whole = averaged(4)
    averaged(2, run_dir=tmp_path / "run")
    assert np.array_equal(whole, averaged(4, run_dir=tmp_path / "run"))


class Shaking(keras.callbacks.Callback):
    """Adds noise by generators that only its module knows, and in an object of its module's."""

    def on_epoch_end(self, epoch, logs=None):
        weight = self.model.trainable_variables[0]
        held = OUTSIDE["of callbacks"]
        noise = keras.random.normal(weight.shape, seed=held["seed"]) + held["random"].normal([5, 1])
        weight.assign_add(0.1 * noise + held["in an object"].step)
        held["in an object"].step.assign_add(0.1)


@pytest.mark.filterwarnings("error::UserWarning")
def test_generators_and_variables_of_the_module_of_a_callback(tmp_path):
    """They are state, as what its attributes hold is."""

    def shaken(epochs, **run):
        OUTSIDE["of callbacks"] = {
            "seed": keras.random.SeedGenerator(5),
            "random": tf.random.Generator.from_seed(5),
            "in an object": types.SimpleNamespace(step=tf.Variable(0.1)),
        }
        model = dense()
        Trainer(model, seed=0, execution="loop").fit(
            X, Y, epochs=epochs, verbose=0, callbacks=[Shaking()], **run
        )
        return model

    whole = shaken(4)
    shaken(2, run_dir=tmp_path / "run")
    assert 0.0 == largest_difference(whole, shaken(4, run_dir=tmp_path / "run"))


class Trains(keras.callbacks.Callback):
    """Trains another model, by a trainer of its own, at each end of an epoch."""

    def __init__(self):
        super().__init__()
        self.trainer = Trainer(dense(), optimizer="sgd", loss="mse", seed=1)

    def on_epoch_end(self, epoch, logs=None):
        self.trainer.fit(X, Y, verbose=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
def test_a_trainer_that_a_callback_holds(tmp_path):
    """Its model and optimizer are state: each by one name, that is the same in each process."""

    def trained(epochs, **run):
        callback = Trains()
        Trainer(dense(), seed=0, execution="loop").fit(
            X, Y, epochs=epochs, verbose=0, callbacks=[callback], **run
        )
        return callback.trainer.model

    whole = trained(4)
    trained(2, run_dir=tmp_path / "run")
    assert 0.0 == largest_difference(whole, trained(4, run_dir=tmp_path / "run"))


class Counted(keras.callbacks.Callback):
    """Counts the epochs in a variable."""

    def __init__(self):
        super().__init__()
        self.count = tf.Variable(0)

    def on_epoch_end(self, epoch, logs=None):
        self.count.assign_add(1)


class AlsoCounted(Counted):
    """Another class."""


def trained_with(callbacks, epochs, run_dir, model=None):
    trainer = Trainer(model or dense(), seed=0, execution=Execution(run_eagerly=True))
    fit = {"batch_size": 8, "verbose": 0, "callbacks": callbacks, "run_dir": run_dir}
    trainer.fit(X[:8], Y[:8], epochs=epochs, **fit)
    return [int(one.count) for one in callbacks if isinstance(one, Counted)]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        tiers.slow([Counted], [AlsoCounted, Counted], [1, 3]),
        ([Counted], [keras.callbacks.LambdaCallback, Counted], [3]),
        ([Counted, AlsoCounted], [AlsoCounted, Counted, Counted], [3, 3, 1]),
    ],
)
def test_variables_of_callbacks_go_by_their_class(before, now, expected, tmp_path):
    """Each callback gets what it had, wherever it stands in the list; a new one begins anew."""
    trained_with([kind() for kind in before], 2, tmp_path / "run")
    assert expected == trained_with([kind() for kind in now], 3, tmp_path / "run")


class MakesLate(keras.callbacks.Callback):
    """Makes a variable when the first epoch ends."""

    def on_epoch_end(self, epoch, logs=None):
        if not hasattr(self, "count"):
            self.count = tf.Variable(0.0)
        self.count.assign_add(1.0)


def test_variables_that_callbacks_make_late(tmp_path):
    """They are named when they are saved first: where the training is resumed, they are not there."""
    with pytest.warns(UserWarning, match=r"MakesLate#0/count, of a callback or in a global, was"):
        trained_with([MakesLate()], 2, tmp_path / "run")


ANNEALED = {"rate": tf.Variable(1.0), "registry": []}


class Annealed(L.Layer):
    """Reads a global, and others that it has no use for."""

    def call(self, x):
        return x * ANNEALED["rate"]


@pytest.mark.filterwarnings("error::UserWarning")
def test_globals_of_an_eager_model(tmp_path):
    """They go by the model, whichever callback reads them too; and there may be more of them now."""

    def anneal(epoch, logs):
        ANNEALED["rate"].assign(0.5 * ANNEALED["rate"])

    def trained(epochs, *callbacks):
        ANNEALED["rate"].assign(1.0)
        model = dense(Annealed())
        Trainer(model, seed=0, execution=Execution(run_eagerly=True)).fit(
            *(X[:8], Y[:8]), batch_size=8, verbose=0, epochs=epochs, run_dir=tmp_path / "run",
            callbacks=list(callbacks),
        )  # fmt: skip
        return float(ANNEALED["rate"])

    assert 0.25 == trained(2, keras.callbacks.LambdaCallback(on_epoch_end=anneal))
    ANNEALED["registry"].append(dense())
    assert 0.25 == trained(3)


def test_variables_of_callbacks_that_are_gone(tmp_path):
    """They are named."""
    trained_with([Counted()], 2, tmp_path / "run")
    with pytest.warns(
        UserWarning, match=r"in globals, that are not there now: .*Counted#0/count\. "
    ):
        trained_with([], 3, tmp_path / "run")


@pytest.mark.filterwarnings("error::UserWarning")
def test_variables_of_callbacks_of_an_earlier_version(tmp_path, monkeypatch):
    """They were named by their position in the list of callbacks, and are taken over."""

    def by_position(callbacks):
        return {str(position): one for position, one in enumerate(callbacks)}

    with monkeypatch.context() as patch:
        patch.setattr(model_state, "callbacks_by_name", by_position)
        trained_with([keras.callbacks.LambdaCallback(), Counted()], 2, tmp_path / "run")
    assert [3] == trained_with([Counted()], 3, tmp_path / "run")


class Holding(keras.callbacks.Callback):
    """Gets hold of a variable of the model's when the training begins."""

    def on_train_begin(self, logs=None):
        self.held = self.model.layers[0]._seen[0][0]


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_variable_of_the_model_that_a_callback_holds(tmp_path):
    """It is the model's, before the callback has it and after."""
    model = dense(Counting())
    trained_with([Holding()], 2, tmp_path / "run", model)
    again = dense(Counting())
    trained_with([Holding()], 3, tmp_path / "run", again)
    steps = int(again.optimizer.iterations)
    assert model.layers[0]._seen[0][0].numpy() < again.layers[0]._seen[0][0].numpy()
    assert 3 == steps


@pytest.mark.parametrize(
    ("before", "now"),
    [tiers.slow("step", Execution(run_eagerly=True)), (Execution(run_eagerly=True), "step")],
)
def test_variables_of_a_closure_have_another_order_in_eager_steps(before, now, tmp_path):
    """Such a resume is refused: one variable would get the value of another."""

    def train(epochs, how):
        first, second = tf.Variable(1.0), tf.Variable(2.0)

        def loss(y_true, y_pred):
            scale = second + 0.0
            first.assign_add(1.0)
            second.assign_add(0.5)
            return scale * tf.reduce_mean(tf.square(y_true - y_pred), -1)

        trainer = Trainer(dense(loss=loss), seed=0, execution=how)
        trainer.fit(X[:8], Y[:8], epochs=epochs, verbose=0, run_dir=tmp_path / "run")
        return float(first), float(second)

    train(2, before)
    with pytest.raises(RunError, match="variables that nothing but functions holds"):
        train(3, now)
    assert (4.0, 3.5) == train(3, before)


class Remembering(L.Layer):
    """Counts its calls in Python."""

    def __init__(self):
        super().__init__()
        self.calls_so_far = 0

    def call(self, x):
        self.calls_so_far += 1
        return x


def test_python_numbers_that_steps_change_are_named(tmp_path):
    """In an eager model TensorFlow cannot see them: the first save says so, once."""
    with pytest.warns(UserWarning, match=r"Remembering\.calls_so_far") as warned:
        trainer = Trainer(dense(Remembering()), seed=0, execution=Execution(run_eagerly=True))
        trainer.fit(X, Y, epochs=3, verbose=0, run_dir=RunDir(tmp_path / "run", save_every=1))
    assert 1 == sum("calls_so_far" in str(w.message) for w in warned)


def test_python_numbers_that_a_trace_changes_are_not_named(tmp_path, recwarn):
    """A compiled step calls the layer when it is traced, and that alone."""
    trainer = Trainer(dense(Remembering()), seed=0, execution="loop")
    trainer.fit(X, Y, epochs=4, verbose=0, run_dir=RunDir(tmp_path / "run", save_every=1))
    assert not [w for w in recwarn if "calls_so_far" in str(w.message)]


@pytest.mark.slow
def test_the_order_of_evaluate_and_fit_is_free(tmp_path):
    """Variables that only steps know have names that do not tell which step ran first."""

    def train(epochs, evaluates):
        model = of_a_closure()
        trainer = Trainer(model, seed=0, execution="loop")
        if evaluates:
            trainer.evaluate(X[:1] * 0, Y[:1] * 0, verbose=0)
        trainer.fit(X, Y, epochs=epochs, verbose=0, run_dir=tmp_path / f"run{evaluates}")
        trainer = Trainer(of_a_closure(), seed=0, execution="loop")
        trainer.fit(X, Y, epochs=epochs + 1, verbose=0, run_dir=tmp_path / f"run{evaluates}")

    train(2, False)
    train(2, True)


def test_each_variable_once():
    """No variable has two names, and no two have one."""
    model = stateful()
    state = ModelState(model)
    variables = state.variables()
    assert len(variables) == len({id(v) for v in variables.values()})
    assert {id(v) for v in model.variables} <= {id(v) for v in variables.values()}


def test_names_that_differ_in_a_sign():
    """A checkpoint takes "@" for a mark of its own: names that are alike without it stay apart."""
    model = dense()
    model.mine = {"a@b": tf.Variable(1.0), "a_b": tf.Variable(2.0)}
    variables = ModelState(model).variables()
    found = {name: float(v) for name, v in variables.items() if "/mine/" in name}
    assert {"others/model/mine/a_b": 1.0, "others/model/mine/a_b#2": 2.0} == found


def test_generators_of_closures_are_no_numbers_of_a_step():
    """A ``tf.random.Generator`` is distinguished from a counter of its type by what a step does with it."""
    generator, counter = tf.random.Generator.from_seed(1), tf.Variable([1, 2, 3], dtype=tf.int64)

    @tf.function
    def inner():
        return generator.normal(())

    @tf.function
    def step():
        for _ in tf.range(2):
            if inner() > -99.0:
                counter.assign_add([1, 1, 1])
        return inner()

    state = ModelState(dense())
    state.variables()
    state.note("train", step.get_concrete_function())
    captured = {n: v for n, v in state.variables().items() if n.startswith("captured/")}
    assert 2 == len(captured)
    changed = [n for n in state.changed_by_steps() if n in captured]
    assert [(1, 2, 3)] == [tuple(captured[n].numpy()) for n in changed]


class Shelved(L.Layer):
    """Saves two arrays, of which the second is there once the layer is built, if it ever is."""

    def __init__(self, forgets=False):
        super().__init__()
        self.forgets, self.first = forgets, np.zeros(2)

    def build(self, shape):
        if not self.forgets:
            self.second = np.ones(2)

    def save_own_variables(self, store):
        store |= {"first": self.first, "second": self.second}

    def load_own_variables(self, store):
        self.first, self.second = store["first"], store["second"]


def test_an_error_of_a_layer_that_saves_its_state():
    """It is no reason to save a part of it, but for a layer that has not been built."""
    layer = Shelved()
    assert {"it": {"own": {}, "assets": {}}} == layer_states({"it": layer})
    layer.build((1, 2))
    states = layer_states({"it": layer})
    assert ["first", "second"] == list(states["it"]["own"])
    forgetful = Shelved(forgets=True)
    forgetful.build((1, 2))
    with pytest.raises(AttributeError, match="second"):
        layer_states({"it": forgetful})
    set_layer_states({"it": forgetful}, states)  # what is loaded has it
    assert repr(states) == repr(layer_states({"it": forgetful}))
