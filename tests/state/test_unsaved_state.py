"""What a training changes and no checkpoint has is saved after all, or named at the first save."""

import collections
import functools
import itertools
import random
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
from tests.support import tiers
from tests.support.assertions import largest_difference
from tests.support.runs import saved_in

L = keras.layers
X = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
Y = X.sum(1, keepdims=True)
EAGER = Execution(run_eagerly=True)
COUNTS = {"calls": 0}


def made(*layers, loss="mse", metrics=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), *layers, L.Dense(1)])
    model.compile(keras.optimizers.SGD(0.05), loss, metrics=metrics)
    return model


def fitted(model, run_dir, execution="loop", epochs=2, **options):
    """``(history, warnings)`` of a training that is saved after each step."""
    options = {"batch_size": 8, "verbose": 0, "save_every": 1} | options
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = Trainer(model, seed=0, execution=execution)
        history = trainer.fit(X, Y, epochs=epochs, **saved_in(run_dir, options))
    return history.history, [str(w.message) for w in caught if w.category is UserWarning]


class Ends(keras.callbacks.Callback):
    """Ends the process's training after so many steps, as Ctrl-C does."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def get_state(self):
        return None

    def set_state(self, state):
        """Nothing is remembered."""

    def on_train_batch_end(self, batch, logs=None):
        self.steps -= 1
        if self.steps == 0:
            raise KeyboardInterrupt


def resumed(make, run_dir, execution="loop", steps=7, callbacks=list, **options):
    """Makes sure that a training that ended in its second epoch is resumed exactly."""
    whole, again = make(), make()
    with_end = [*callbacks(), Ends(steps)]
    right, _ = fitted(whole, run_dir / "whole", execution, 3, callbacks=callbacks(), **options)
    with pytest.raises(KeyboardInterrupt):
        fitted(make(), run_dir / "run", execution, 3, callbacks=with_end, **options)
    with_end = [*callbacks(), Ends(-1)]
    found, _ = fitted(again, run_dir / "run", execution, 3, callbacks=with_end, **options)
    assert 0.0 == largest_difference(whole, again)
    assert right == found


# Tables, random operations and metrics: they are saved ---------------------------------


class Seen(L.Layer):
    """Adds how often a row's first number was seen."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def call(self, x):
        keys = tf.cast(tf.round(x[:, 0]), tf.int64)
        seen = tf.ensure_shape(self.table.lookup(keys), (None,))
        self.table.insert(keys, seen + 1.0)
        return x + 0.01 * seen[:, None]


def of_a_layer():
    return made(Seen(tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)))


def of_a_loss():
    table = tf.lookup.experimental.DenseHashTable(tf.string, tf.float32, 0.0, "none", "gone")

    def loss(y_true, y_pred):
        keys = tf.strings.as_string(tf.round(y_true[:, 0]))
        seen = tf.ensure_shape(table.lookup(keys), (None,))
        table.insert(keys, seen + 0.1)
        return tf.reduce_mean(tf.square(y_true - y_pred), -1) * (1.0 + seen)

    return made(loss=loss)


HELD: list = []


def of_a_call():
    """A table that only the trace knows: it is made by what a name deep in a call returns."""
    HELD[:] = [of_a_layer().layers[0].table]

    class Hidden(L.Layer):
        def call(self, x):
            return Seen.call(type("Holds", (), {"table": tables().pop()})(), x)

    return made(Hidden())


def tables():
    return [{"table": table}["table"] for table in HELD]


@pytest.mark.parametrize(
    "make, execution",
    [
        (of_a_layer, EAGER), tiers.slow(of_a_call, "loop"), tiers.slow(of_a_layer, "loop"),
        tiers.slow(of_a_loss, EAGER), tiers.slow(of_a_loss, "loop"), tiers.slow(of_a_call, EAGER),
    ],
)  # fmt: skip
def test_tables_are_resumed(make, execution, tmp_path):
    """Whoever holds them, also those of text; and nothing is said of them."""
    resumed(make, tmp_path, execution)
    assert [] == fitted(make(), tmp_path / "again", execution)[1]


def test_lookups_alone_are_named_by_nobody(tmp_path):
    """Vocabularies do not change."""
    rows = tf.lookup.KeyValueTensorInitializer([0, 1], [0.5, 1.5], tf.int64, tf.float32)
    table = tf.lookup.StaticHashTable(rows, 0.0)
    looks = L.Lambda(lambda x: x + table.lookup(tf.cast(tf.round(x), tf.int64)))
    assert [] == fitted(made(looks), tmp_path)[1]


class Shakes(keras.callbacks.Callback):
    """Draws from TensorFlow's generator that has no object."""

    def on_train_batch_end(self, batch, logs=None):
        kernel = self.model.layers[0].kernel
        kernel.assign_add(0.01 * tf.random.normal(kernel.shape))


def test_random_operations_that_run_eagerly_are_resumed(tmp_path):
    """They take their seeds from a generator that is saved."""
    resumed(made, tmp_path, callbacks=lambda: [Shakes()])


class Keeps(keras.metrics.Metric):
    """The largest error of all epochs, and how many batches the set had."""

    def __init__(self):
        super().__init__(name="keeps")
        self.best = self.add_variable((), "zeros")
        self.batches = tf.Variable(0.0)

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.best.assign(tf.maximum(self.best, tf.reduce_max(y_true - y_pred)))
        self.batches.assign_add(1.0)

    def result(self):
        return self.best + 100.0 * self.batches

    def reset_state(self):
        self.batches.assign(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 8, 10])
def test_a_metric_that_is_not_reset_is_resumed(steps, tmp_path):
    """What a validation begins with is state: the largest error when its epoch began."""
    resumed(lambda: made(metrics=[Keeps()]), tmp_path, steps=steps, validation_split=0.2)


def test_each_set_has_metric_states_of_its_own_in_tensorflows_variables_too(tmp_path):
    """The batches of the training are not among those of a validation."""
    metrics = [Keeps()]
    history, _ = fitted(made(metrics=metrics), tmp_path, validation_split=0.2)
    assert [1.0, 1.0] == [value // 100.0 for value in history["val_keeps"]]
    assert [4.0, 4.0] == [value // 100.0 for value in history["keeps"]]


# What cannot be saved is named ---------------------------------------------------------


def noted(x):
    COUNTS["calls"] += 1
    return x


class Queued(L.Layer):
    def __init__(self):
        super().__init__()
        self.queue = tf.queue.FIFOQueue(100, [tf.float32], shapes=[(4,)])
        self.queue.enqueue_many(tf.zeros((8, 4)))

    def call(self, x):
        old = self.queue.dequeue_many(tf.shape(x)[0])
        self.queue.enqueue_many(x)
        return x + 0.1 * tf.ensure_shape(old, (None, 4))


class Iterates(L.Layer):
    def __init__(self):
        super().__init__()
        self.numbers = iter(tf.data.Dataset.range(1000))

    def call(self, x):
        return x + tf.cast(next(self.numbers), tf.float32)


def python_function():
    return L.Lambda(lambda x: x + in_python(noted, x))


def in_python(function, x):
    return tf.ensure_shape(tf.numpy_function(function, [tf.stop_gradient(x)], tf.float32), x.shape)


TRACED = {
    "QueueDequeueManyV2, QueueEnqueueManyV2, whose state": Queued,
    "IteratorGetNext, whose state": Iterates,
    "RandomStandardNormal, whose state": lambda: L.Lambda(
        lambda x: x + 0.1 * tf.random.normal(tf.shape(x))
    ),
    "`COUNTS` of `noted`": python_function,
}


@pytest.mark.parametrize(
    ("plan", "name"),
    tiers.cases(
        itertools.product(["loop", "step"], TRACED), zip(["step"] * 2 + ["loop"] * 2, TRACED)
    ),
)
def test_what_operations_keep_is_named_once(name, plan, tmp_path):
    """From what the step was traced as, also inside of loops."""
    _, messages = fitted(made(TRACED[name]()), tmp_path, plan)
    assert 1 == len(messages) and name in messages[0]


def test_python_functions_without_state_are_not_named(tmp_path):
    """Only what they keep between calls is lost."""
    layer = L.Lambda(lambda x: x + in_python(lambda x: 2.0 * x, x))
    assert [] == fitted(made(layer), tmp_path)[1]


class Holds(L.Layer):
    """Draws from a generator, or counts, in Python."""

    def __init__(self, held, use):
        super().__init__()
        self.held, self.use = held, use

    def call(self, x):
        return x + 0.01 * float(self.use(self.held))


HOLDING = {
    "numpy": lambda: (np.random.default_rng(0), lambda rng: rng.normal()),
    "random state": lambda: (np.random.RandomState(0), lambda rng: rng.normal()),
    "python": lambda: (random.Random(0), lambda rng: rng.random()),
    "list in a list": lambda: ([[]], lambda held: held[0].append(1) or len(held[0])),
    "large array": lambda: (np.zeros((1000, 1000)), lambda a: np.add(a, 1, out=a)[0, 0]),
    "generator": lambda: (iter_numbers(), next),
    "object": lambda: (Meter(), lambda meter: meter.up()),
}


def iter_numbers():
    yield from range(1000)


class Meter:
    def __init__(self):
        self.values = []

    def up(self):
        self.values.append(1.0)
        return len(self.values)


@pytest.mark.parametrize("kind", tiers.cases(HOLDING, ["numpy", "list in a list", "object"]))
def test_what_an_eager_step_changes_in_python_is_named_once(kind, tmp_path):
    """In attributes, whatever kind of object holds the state."""
    _, messages = fitted(made(Holds(*HOLDING[kind]())), tmp_path, EAGER)
    assert 1 == len(messages) and "which is not in a checkpoint" in messages[0]
    assert "Meter.values" in messages[0] if kind == "object" else "Holds.held" in messages[0]


@pytest.mark.parametrize("where", ["closure", tiers.slow("default"), "global"])
def test_what_functions_change_in_an_eager_step_is_named(where, tmp_path):
    """Functions have state in closures, defaults and globals."""
    cell = [0]

    def of_closure(y_true, y_pred):
        cell[0] += 1
        return tf.reduce_mean(tf.square(y_true - y_pred), -1)

    def of_default(y_true, y_pred, held=[0]):
        held[0] += 1
        return tf.reduce_mean(tf.square(y_true - y_pred), -1)

    def of_global(y_true, y_pred):
        noted(0)
        return tf.reduce_mean(tf.square(y_true - y_pred), -1)

    loss = {"closure": of_closure, "default": of_default, "global": of_global}[where]
    _, messages = fitted(made(loss=loss), tmp_path, EAGER)
    name = {"closure": "`cell`", "default": "`held`", "global": "`noted`"}[where]
    assert 1 == len(messages) and (name or "`COUNTS` of `noted`") in messages[0]


class Sets(keras.callbacks.Callback):
    """Sets an attribute at each epoch's begin."""

    def __init__(self, find, name):
        super().__init__()
        self.find, self.name = find, name

    def on_epoch_begin(self, epoch, logs=None):
        setattr(self.find(self.model), self.name, 0.1 * (epoch + 1))


@pytest.mark.parametrize(
    ("find", "name"),
    [
        (lambda model: model.layers[0], "rate"),
        tiers.slow(lambda model: model.optimizer, "weight_decay"),
        tiers.slow(lambda model: model.loss, "weight"),
    ],
    ids=["layer", "optimizer", "loss"],
)
def test_an_attribute_that_was_traced_in_is_named(find, name, tmp_path):
    """The uninterrupted run has its first value, a resumed one the last."""

    class Weighted(keras.losses.Loss):
        weight = 1.0

        def __init__(self):
            super().__init__()
            self.weight = 1.0

        def call(self, y_true, y_pred):
            return self.weight * tf.reduce_mean(tf.square(y_true - y_pred), -1)

    model = made(L.Dropout(0.3), loss=Weighted())
    model.optimizer.weight_decay = 0.01
    _, messages = fitted(model, tmp_path, callbacks=[Sets(find, name)])
    assert 1 == len(messages)
    assert f".{name} (" in messages[0] and "after the step was traced" in messages[0]


def of_a_closure_and_a_rate():
    held = tf.Variable(1.0)

    def loss(y_true, y_pred):
        held.assign(0.9 * held + 0.1)
        return held * tf.reduce_mean(tf.square(y_true - y_pred), -1)

    return made(L.ActivityRegularization(0.1), L.GaussianNoise(0.1, seed=3), loss=loss)


class Begins(keras.callbacks.Callback):
    """Sets an option of a layer when the training begins."""

    def on_train_begin(self, logs=None):
        self.model.layers[1].stddev = 0.7


@pytest.mark.slow
def test_what_callbacks_set_at_the_begin_is_traced_in_after_a_resume_too(tmp_path):
    """Also where a step must run to tell of its variables before callbacks have their say."""
    resumed(of_a_closure_and_a_rate, tmp_path, callbacks=lambda: [Begins()])


# Callbacks -----------------------------------------------------------------------------


def of_lambda():
    seen = []
    return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))


def of_schedule():
    seen = []
    return keras.callbacks.LearningRateScheduler(lambda epoch: seen.append(1) or 0.1 / len(seen))


def of_method():
    seen = []

    class Collects(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(epoch)

    return Collects()


@pytest.mark.parametrize("make", [of_lambda, tiers.slow(of_schedule), of_method])
def test_what_functions_of_callbacks_change_is_named_once(make, tmp_path):
    """Keras's own callbacks hold functions of the user's."""
    _, messages = fitted(made(), tmp_path, callbacks=[make()])
    assert 1 == len(messages) and "changes `seen` of `" in messages[0]


def of_variables():
    """A callback with variables in an attribute, and in the closure of a method."""
    outside = tf.Variable(0.0)

    class Averages(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.inside = tf.Variable(1.0)

        def on_train_batch_end(self, batch, logs=None):
            self.inside.assign(0.9 * self.inside)
            outside.assign_add(self.inside)
            self.model.layers[0].bias.assign(tf.reshape(outside, [1]))

    return [Averages()]


@pytest.mark.slow
def test_variables_of_callbacks_are_saved_and_not_named(tmp_path):
    """Also those that only a method's closure holds."""
    resumed(made, tmp_path, callbacks=of_variables)
    assert [] == fitted(made(), tmp_path / "again", callbacks=of_variables())[1]


# Who changes nothing -------------------------------------------------------------------


@pytest.mark.slow
def test_layers_losses_and_metrics_of_keras_draw_no_warning(tmp_path):
    """Those that keep something, random ones among them."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 4))
    x = L.GRU(4, dropout=0.1, recurrent_dropout=0.1, return_sequences=True)(inputs)
    x = L.MultiHeadAttention(2, 2, dropout=0.1)(x, x)
    x = L.BatchNormalization()(L.GaussianNoise(0.1)(L.SpatialDropout1D(0.1)(x)))
    x = L.SpectralNormalization(L.Dense(3))(L.Flatten()(x))
    model = keras.Model(inputs, L.Dense(1, "sigmoid")(x))
    metrics = ["accuracy", keras.metrics.AUC(), keras.metrics.F1Score(threshold=0.5)]
    optimizer = keras.optimizers.AdamW(use_ema=True, ema_overwrite_frequency=2)
    model.compile(optimizer, keras.losses.BinaryFocalCrossentropy(), metrics=metrics)
    rows = np.random.default_rng(0).normal(size=(24, 6, 4)).astype("float32")
    data = rows, (rows[:, 0, :1] > 0).astype("float32")
    callbacks = [keras.callbacks.EarlyStopping("loss"), keras.callbacks.ReduceLROnPlateau("loss")]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Trainer(model, seed=0, execution="loop").fit(
            *data,
            batch_size=8,
            epochs=2,
            verbose=0,
            callbacks=callbacks,
            validation_data=data,
            run_dir=RunDir(tmp_path, save_every=1),
        )


OF_A_MODULE = types.ModuleType("of_a_script")


class Bumps:
    """Has a variable, and a method that changes it."""

    def __init__(self):
        self.count, self.calls = tf.Variable(0.0), 0

    def bump(self, *_):
        self.count.assign_add(1.0)

    def call(self, *_):
        self.calls += 1


class Hooks(keras.callbacks.Callback):
    """Calls what it is given."""

    def __init__(self, *hooks):
        super().__init__()
        self.hooks = collections.deque(hooks)

    def on_epoch_end(self, epoch, logs=None):
        for hook in self.hooks:
            hook(epoch)


def of_a_method(held):
    return keras.callbacks.LambdaCallback(on_epoch_end=held.bump)


def of_a_partial(held):
    bump = functools.partial(lambda bumps, *_: bumps.bump(), held)
    return keras.callbacks.LambdaCallback(on_epoch_end=bump)


def of_a_namespace(held):
    space = types.SimpleNamespace(held=held.count)
    return keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: space.held.assign_add(1.0))


@pytest.mark.parametrize(
    "make",
    [
        of_a_method,
        tiers.slow(of_a_partial),
        tiers.slow(of_a_namespace),
        tiers.slow(lambda held: Hooks(held.bump)),
    ],
)
def test_whatever_leads_to_a_variable(make, tmp_path):
    """Methods, partial functions and plain holders do, and it is saved without a word."""
    for epochs in (2, 4):
        held = Bumps()
        _, said = fitted(made(), tmp_path, epochs=epochs, callbacks=[make(held)])
        assert not said
        assert epochs == held.count.numpy()


def test_a_variable_that_nothing_leads_to(tmp_path):
    """It is named: a callback finds it in a module."""
    OF_A_MODULE.count = tf.Variable(0.0, name="of_a_script")
    callback = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda *_: OF_A_MODULE.count.assign_add(1.0)
    )
    _, said = fitted(made(), tmp_path, callbacks=[callback])
    (message,) = said
    assert message.startswith("The training changes of_a_script:0, of which neither")


@pytest.mark.slow
def test_variables_that_live_for_a_call(tmp_path):
    """Those that a callback makes and leaves are nobody's state."""

    def measure(*_):
        mean = keras.metrics.Mean()
        mean.update_state(1.0)
        other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        other.compile("adam", "mse", run_eagerly=True)
        other.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)

    callback = keras.callbacks.LambdaCallback(on_epoch_end=measure)
    assert not fitted(made(), tmp_path, callbacks=[callback])[1]


def test_the_object_that_a_callback_calls(tmp_path):
    """What it keeps in Python is named."""
    callback = keras.callbacks.LambdaCallback(on_epoch_end=Bumps().call)
    (message,) = fitted(made(), tmp_path, callbacks=[callback])[1]
    assert "changes `self` of `Bumps.call`, not saved" in message


class Adapts(keras.callbacks.Callback):
    """Adapts the first layer anew in each epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.layers[0].adapt(X * (epoch + 1))


class Scaled(L.Layer):
    def __init__(self):
        super().__init__()
        self.factor = tf.Variable(1.0, trainable=False)

    def call(self, x):
        return self.factor * x


class Replaces(keras.callbacks.Callback):
    """Gives the first layer another variable in each epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.layers[0].factor = tf.Variable(1.0 + epoch, trainable=False)


@pytest.mark.parametrize(
    ("make", "callback", "name"),
    [
        tiers.slow(lambda: L.Normalization(mean=0.0, variance=1.0), None, ""),
        (L.Normalization, Adapts, "Normalization.mean (model/_layers/"),
        tiers.slow(Scaled, None, ""),
        (Scaled, Replaces, "Scaled.factor (model/_layers/"),
    ],
)
def test_what_a_trace_has_taken_in(make, callback, name, tmp_path):
    """Where a callback puts something else in its place, the steps that were traced do not see it."""
    layer = make()
    if isinstance(layer, L.Normalization) and name:
        layer.adapt(X)
    _, said = fitted(made(layer), tmp_path, callbacks=[callback()] if callback else [])
    assert bool(name) == len(said)
    assert all(name in one and "was changed after the step was traced" in one for one in said)


@pytest.mark.slow
def test_what_an_earlier_fit_has_traced(tmp_path):
    """Its steps run again in the next one, and have what was there then."""
    trainer = Trainer(made(Scaled()), seed=0, execution="loop")
    trainer.fit(X, Y, verbose=0)
    options = {"verbose": 0, "run_dir": RunDir(tmp_path, save_every=1), "callbacks": [Replaces()]}
    with pytest.warns(
        UserWarning, match=r"^Scaled.factor \(model/_layers/.* was changed after the"
    ):
        trainer.fit(X, Y, **options)


@pytest.mark.slow
def test_an_adapted_layer_is_put_back_without_a_word(tmp_path):
    """In a process that has traced its steps before."""

    def model():
        layer = L.Normalization()
        layer.adapt(X)
        return made(layer)

    fitted(model(), tmp_path, epochs=1)
    trainer = Trainer(model(), seed=0, execution="loop")
    trainer.fit(X, Y, batch_size=8, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer.fit(X, Y, batch_size=8, verbose=0, epochs=3, run_dir=RunDir(tmp_path, save_every=1))


@pytest.mark.parametrize(
    "make, policy",
    tiers.cases(
        itertools.product([of_a_layer, of_a_loss, of_a_call], ["skip", "rollback", "raise"]),
        [(of_a_layer, "rollback"), (of_a_call, "skip")],
    ),
)
def test_a_bad_step_leaves_tables_as_they_were(make, policy):
    """Whoever holds them; the steps that are run again find what they found."""
    x = X.copy()
    x[20] = np.nan

    def trained(rows, guard):
        model = make()
        trainer = Trainer(model, seed=0, execution="loop", guard=guard)
        options = {"batch_size": 8, "shuffle": False, "verbose": 0}
        try:
            trainer.fit(x[rows], Y[rows], **options)
        except NonFiniteError:
            assert policy == "raise"
        return model

    good = np.r_[0:16, 24:40] if policy != "raise" else np.r_[0:16]
    expected = trained(good, "off")
    with warnings.catch_warnings(action="ignore"):
        found = trained(
            np.r_[0:40], Guard(policy, snapshot_every=1) if policy == "rollback" else policy
        )
    assert 0.0 == largest_difference(expected, found)
