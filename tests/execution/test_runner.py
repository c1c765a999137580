"""Steps that run many at a time: none is lost when a plan fails, callbacks act where they may."""

import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import Execution
from kerastrain import Trainer
from kerastrain.errors import UnsupportedByXla
from kerastrain.execution import loops
from kerastrain.execution import plan_choice
from kerastrain.execution.plan_choice import Choice
from kerastrain.execution.runner import Listening
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

layers = keras.layers
X, Y, _ = datasets.regression(rows=27)
LONG_X, LONG_Y, _ = datasets.regression(rows=64)
WORDS = np.array("a b c b a c b".split() * 4)[:27, None]
FIT = {"batch_size": 4, "shuffle": False, "verbose": 0, "epochs": 2}
STEPS = 7
PLANS = {
    "step": Execution(plan="step"),
    "loop": Execution(plan="loop"),
    "xla_loop": Execution(plan="xla_loop"),
    "auto, all tried": Execution(),
    "loop, streamed": Execution(plan="loop", resident_bytes=0),
}
MANY_AT_A_TIME = ("xla_loop", "auto, all tried")
QUICK = (tiers.slow("xla_loop"), "auto, all tried")


@pytest.fixture(autouse=True)
def quick_trials(request, monkeypatch):
    """Where all are to be tried, every plan is worth a trial, whose rounds are single steps."""
    parameters = getattr(request.node, "callspec", None)
    if parameters is not None and parameters.params.get("plan") == "auto, all tried":
        try_all(monkeypatch)


def try_all(monkeypatch):
    monkeypatch.setattr(Choice, "_repays", lambda self, plan: True)
    monkeypatch.setattr(plan_choice, "_ROUND_SECONDS", 0.0)


def trained(plan, build=models.mlp, x=X, y=Y, callbacks=None, **fit):
    """``(trainer, history)`` after a fit by a plan."""
    keras.utils.set_random_seed(5)
    optimizer = keras.optimizers.SGD(0.05, momentum=0.5)
    trainer = Trainer(
        build(), optimizer=optimizer, loss="mse", metrics=["mae"], execution=PLANS.get(plan, plan)
    )
    history = trainer.fit(x, y, callbacks=callbacks, **{**FIT, **fit}).history
    return trainer, history


def assert_same(expected, actual, tolerance=1e-6):
    """Asserts equal weights, iterations and history of two trainers."""
    (one, history), (other, other_history) = expected, actual
    assertions.assert_close_weights(one.model, other.model, tolerance)
    assert int(one.optimizer.iterations) == int(other.optimizer.iterations)
    assertions.assert_close_histories(history, other_history)


# Plans that cannot run --------------------------------------------------------


class ByPython(layers.Layer):
    """Runs Python within the graph, which XLA has no kernel for."""

    def call(self, x):
        same = tf.numpy_function(lambda v: v, [x], tf.float32)
        return x + 0.0 * tf.stop_gradient(tf.ensure_shape(same, x.shape))


class Through(layers.Layer):
    """The same by text."""

    def call(self, x):
        return x + 0.0 * tf.stop_gradient(tf.strings.to_number(tf.strings.as_string(x)))


class Truncated(layers.Layer):
    """Adds numbers that XLA would draw otherwise."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x, training=False):
        noise = keras.random.truncated_normal(keras.ops.shape(x), seed=self.seeds)
        return x + noise if training else x


class Static(keras.Model):
    """Reads the number of rows in Python."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(tf.reshape(x, (int(x.shape[0]), -1)))


def with_layer(layer):
    def build():
        inputs = keras.Input((4,))
        return keras.Model(inputs, layers.Dense(2)(layer()(layers.Dense(4)(inputs))))

    return build


def looked_up():
    index = layers.StringLookup(vocabulary=["a", "b", "c"], output_mode="one_hot")
    inputs = keras.Input((1,), dtype="string")
    return keras.Model(inputs, layers.Dense(2)(index(inputs)))


NOT_BY_XLA = {
    "python": with_layer(ByPython),
    "text": with_layer(Through),
    "random": with_layer(Truncated),
    "lookup": looked_up,
}


def data_of(name):
    return {"x": tf.constant(WORDS)} if name == "lookup" else {}


@pytest.mark.parametrize("plan", [tiers.slow("auto, all tried"), "xla_loop"])
@pytest.mark.parametrize("name", tiers.cases(NOT_BY_XLA, ["python", "random"]))
def test_what_xla_cannot_compile(name, plan):
    """Training goes on by another plan, no step lost or repeated; the reason is one line."""
    build, data = NOT_BY_XLA[name], data_of(name)
    expected = trained("step", build, **data)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        actual = trained(plan, build, **data)
    assert_same(expected, actual)
    line = actual[0].plans["train"]
    assert re.search(r"xla_loop dropped: \w+: .", line), line
    assert 1 == len(line.splitlines())
    assert not line.startswith("xla")
    messages = [w for w in warned if "cannot be compiled" in str(w.message)]
    assert (1 if plan == "xla_loop" else 0) == len(messages)


class Ids(keras.Model):
    """Is given text that it does not read."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs["x"])


@pytest.mark.parametrize(
    "execution", ["xla_loop", pytest.param(Execution(jit_compile=True), marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("build", [looked_up, tiers.slow(Ids)])
def test_text_is_not_given_to_xla(build, execution):
    """Time and again, as the second such program of XLA's would end the process."""
    x = tf.constant(WORDS) if build is looked_up else {"x": X, "id": tf.constant(WORDS)}
    for _ in range(2):
        if build is Ids and execution != "xla_loop":  # nothing but XLA is allowed
            with pytest.raises(UnsupportedByXla, match="string.*jit_compile=False"):
                trained(execution, build, x, epochs=1)
        else:
            with pytest.warns(UserWarning, match="cannot be compiled.*(StringLookup|string)"):
                trained(execution, build, x, epochs=1)


class Breaks:
    """Stands in for `Loop.__call__`: loops of some kinds run, and fail nevertheless."""

    def __init__(self, monkeypatch, *kinds):
        run = loops.Loop.__call__

        def breaking(loop, chunk):
            logs = run(loop, chunk)
            if ("xla" if loop._xla else "graph") in kinds:
                raise tf.errors.InternalError(None, None, "it broke")
            return logs

        monkeypatch.setattr(loops.Loop, "__call__", breaking)


@pytest.mark.parametrize(
    "plan, kinds",
    [
        ("loop", ("graph",)),
        *(
            tiers.slow(plan, kinds)
            for plan, kinds in (
                ("xla_loop", ("xla",)),
                ("xla_loop", ("graph", "xla")),
                ("auto, all tried", ("graph",)),
                ("auto, all tried", ("xla",)),
                ("auto, all tried", ("graph", "xla")),
            )
        ),
    ],
)
def test_a_plan_that_fails_at_its_first_run(plan, kinds, monkeypatch):
    """The next simpler one runs the same batches, from the same variables; none is lost."""
    fit = {"build": with_dropout, "validation_data": (X, Y)}
    expected = trained("step", **fit)
    Breaks(monkeypatch, *kinds)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        actual = trained(plan, **fit)
    assert_same(expected, actual)
    failed = {"loop": ("graph",), "xla_loop": ("xla",)}.get(plan, ())
    said = any("cannot be run (InternalError: it broke)" in str(w.message) for w in warned)
    assert bool({*failed} & {*kinds}) == said
    if plan == "auto, all tried" and "graph" in kinds:  # XLA is no simpler
        assert re.search("loop dropped.*xla_loop dropped", actual[0].plans["train"])
        assert re.search("loop dropped.*xla_loop dropped", actual[0].plans["test"])


def with_dropout():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6), layers.Dropout(0.5), layers.Dense(2)]
    )


@pytest.mark.parametrize("plan", ["loop", tiers.slow("auto, all tried")])
def test_an_error_of_the_data_is_not_the_plans(plan):
    """It is raised where the simplest plan fails too, and no plan is given up for it."""
    table = [keras.Input((2,)), layers.Embedding(3, 2), layers.Flatten(), layers.Dense(2)]
    ids = np.zeros((27, 2), "int32")
    trainer, _ = trained(plan, lambda: keras.Sequential(table), x=ids)
    fresh = Trainer(trainer.model, optimizer="sgd", loss="mse", execution=PLANS[plan])
    ids[1] = 7
    with pytest.raises(tf.errors.InvalidArgumentError, match="7 is not in"):
        fresh.fit(ids, Y, **FIT)
    assert int(fresh.optimizer.iterations) == 0
    assert "dropped" not in fresh.plans["train"]
    fresh.fit(np.zeros_like(ids), Y, **FIT)
    assert fresh.plans["train"].startswith("loop")


@pytest.mark.parametrize(
    "plan", tiers.cases(["loop", "auto, all tried", "loop, streamed", "xla_loop"], ["loop"])
)
def test_a_model_that_reads_the_rows_in_python(plan):
    """A model that needs the number of rows gets it, by each plan; the last batch is shorter."""
    expected = trained("step", Static)
    assert_same(expected, trained(plan, Static))


@pytest.mark.slow
def test_a_data_set_smaller_than_a_batch():
    """Fewer rows than a batch are run; a plan of full batches is kept for a later fit."""
    expected = trained("step", x=X[:3], y=Y[:3], validation_data=(X[:2], Y[:2]))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*cannot be compiled")
        actual = trained("xla_loop", x=X[:3], y=Y[:3], validation_data=(X[:2], Y[:2]))
    assert_same(expected, actual)
    histories = [trainer.fit(X, Y, **FIT).history for trainer, _ in (expected, actual)]
    assert_same((expected[0], histories[0]), (actual[0], histories[1]))
    assert actual[0].plans["train"].startswith("xla_loop")


@pytest.mark.slow
@pytest.mark.parametrize("plan", MANY_AT_A_TIME)
def test_other_shapes_that_xla_cannot_compile(plan, monkeypatch):
    """A plan that fails for batches of another length gives way then, and nothing is lost."""
    original = loops.Loop._traced

    def traced(loop, block):
        if loop._xla and block.rows == 3:
            raise NotImplementedError("not of this shape")
        return original(loop, block)

    def twice(name):
        trainer, _ = trained(name, epochs=6)
        return trainer, trainer.fit(X, Y, **{**FIT, "epochs": 6, "batch_size": 3}).history

    expected = twice("step")
    monkeypatch.setattr(loops.Loop, "_traced", traced)
    actual = twice(plan)
    assert_same(expected, actual)
    assert 6 * (STEPS + 9) == int(actual[0].optimizer.iterations)
    if plan == "xla_loop":
        assert "xla_loop dropped: NotImplementedError: not of" in actual[0].plans["train"]


def test_an_error_of_the_model_is_raised():
    """What no plan can compile is the model's own error, and no weight has changed."""

    class Fails(layers.Layer):
        def call(self, x, training=False):
            if training and isinstance(x, tf.Tensor):
                raise NotImplementedError("not yet")
            return x

    keras.utils.set_random_seed(5)
    model = with_layer(Fails)()
    before = model.get_weights()
    trainer = Trainer(model, optimizer="sgd", loss="mse")
    with pytest.raises(Exception, match="not yet"):
        trainer.fit(X, Y, **FIT)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_data_with_another_part_missing():
    """Labels without weights and then weights without labels are each trained on as they are."""

    class Either(keras.Model):
        def __init__(self):
            super().__init__()
            self.out = layers.Dense(1)

        def call(self, x):
            return self.out(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            labels = 0.0 if y is None else keras.ops.mean(y)
            weights = 0.0 if sample_weight is None else keras.ops.mean(sample_weight)
            return 0.0 * keras.ops.mean(y_pred) + labels + 10.0 * weights

    def endless(*batch):
        while True:
            yield batch

    ones = np.ones(4, "float32")
    trainer = Trainer(Either(), optimizer="sgd", execution="xla_loop")
    found = [
        trainer.fit(endless(X[:4], y, weight), steps_per_epoch=2, verbose=0).history["loss"]
        for y, weight in ((ones, None), (None, ones))
    ]
    assert [[1.0], [10.0]] == found


# How many at a time -----------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """The steps of each call of a loop."""
    found, original = [], loops.Loop.__call__

    def call(loop, chunk):
        found.append(chunk.steps)
        return original(loop, chunk)

    monkeypatch.setattr(loops.Loop, "__call__", call)
    return found


@pytest.mark.parametrize("most", [tiers.slow(1), 3, tiers.slow(100)])
def test_steps_per_call(calls, most, monkeypatch):
    """No call has more steps than ``steps_per_call``; many have as many, where it is not much."""
    monkeypatch.setattr(plan_choice, "CALL_SECONDS", 1e3)  # however long a step takes here
    execution = Execution(plan="loop", steps_per_execution=most)
    assert_same(trained("step", epochs=6), trained(execution, epochs=6))
    assert 6 * STEPS == sum(calls)
    assert min(most, 6) == max(calls)


def test_deterministic(calls, monkeypatch):
    """A deterministic fit compares nothing: it runs the loop, whatever the others might save."""
    try_all(monkeypatch)
    trainer, _ = trained(Execution(deterministic=True))
    assert re.fullmatch(r"loop(, [\d,]+ µs a step)?", trainer.plans["train"])
    assert 2 * STEPS == sum(calls)


@pytest.mark.parametrize("plan", ["auto, all tried"])
def test_every_plan_is_tried(calls, plan):
    """Where all are worth it, three plans run in turn in one fit, and the line names them."""
    trainer, _ = trained(plan, epochs=6)
    line = trainer.plans["train"]
    assert all(re.search(rf"\b{name}\b", line) for name in ("loop", "xla_loop", "step")), line
    assert 0 < sum(calls) < 6 * STEPS


def test_a_later_fit_compiles_nothing():
    """A second fit of such data runs what is compiled, with validation and evaluation too."""
    for plan in ("loop", "xla_loop"):
        trainer, _ = trained(plan, validation_data=(X[:9], Y[:9]))
        traces = dict(trainer.traces)
        trainer.fit(X, Y, **FIT, validation_data=(X[:9], Y[:9]))
        trainer.evaluate(X[:9], Y[:9], batch_size=4, verbose=0)
        assert traces == trainer.traces
        assert 0 == trainer.times.seconds["compiling"]


# Callbacks --------------------------------------------------------------------


class Listener(keras.callbacks.Callback):
    """Notes each batch's number, its logs, and the steps that the optimizer has made."""

    def __init__(self):
        super().__init__()
        self.seen, self.logs, self.begun = [], [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.begun.append(batch)

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append((batch, int(self.model.optimizer.iterations)))
        self.logs.append({name: float(value) for name, value in logs.items()})


class Reader(Listener):
    only_reads_logs = True


@pytest.mark.slow
@pytest.mark.parametrize("plan", MANY_AT_A_TIME)
def test_a_listener_gets_each_batch_before_the_next(plan):
    """Each batch is reported when it has run, with its own logs, before the next one runs."""
    expected, actual = Listener(), Listener()
    assert_same(trained("step", callbacks=[expected]), trained(plan, callbacks=[actual]))
    assert [*range(STEPS)] * 2 == actual.begun
    assert [(i % STEPS, i + 1) for i in range(2 * STEPS)] == expected.seen == actual.seen
    for one, two in zip(expected.logs, actual.logs, strict=True):
        assert one == pytest.approx(two, abs=1e-6)


@pytest.mark.parametrize("plan", ["loop, streamed", tiers.slow("auto, all tried")])
def test_who_only_reads_logs_is_told_later(plan):
    """The same events in the same order with the same logs, of several steps a call."""
    expected, actual = Listener(), Reader()
    expected_run = trained("step", callbacks=[expected], epochs=6)
    assert_same(expected_run, trained(plan, callbacks=[actual], epochs=6))
    assert [batch for batch, _ in expected.seen] == [batch for batch, _ in actual.seen]
    assert expected.begun == actual.begun
    for one, two in zip(expected.logs, actual.logs, strict=True):
        assert one == pytest.approx(two, abs=1e-6)
    ahead = [done - i - 1 for i, (_, done) in enumerate(actual.seen)]
    assert min(ahead) == 0
    assert max(ahead) > 0


def test_one_who_acts_makes_all_wait():
    """Beside one who may act, one who only reads hears of each batch at once as well."""
    reader, listener = Reader(), Listener()
    trained("loop", callbacks=[reader, listener])
    assert [(i % STEPS, i + 1) for i in range(2 * STEPS)] == reader.seen == listener.seen


@pytest.mark.parametrize("plan", ["loop, streamed", tiers.slow("xla_loop")])
def test_listening_to_a_validation(plan):
    """A callback of test batches gets the logs of each."""

    class Tests(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.logs = []

        def on_test_batch_end(self, batch, logs=None):
            self.logs.append((batch, {name: float(value) for name, value in logs.items()}))

    expected, actual = Tests(), Tests()
    for plan_or_step, callback in (("step", expected), (plan, actual)):
        trained(plan_or_step, callbacks=[callback], validation_data=(X[:10], Y[:10]))
    assert [0, 1, 2] * 2 == [batch for batch, _ in actual.logs]
    for one, two in zip(expected.logs, actual.logs, strict=True):
        assert one[1] == pytest.approx(two[1], abs=1e-6)


class StopAt(keras.callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == self.batch


@pytest.mark.slow
@pytest.mark.parametrize("plan", MANY_AT_A_TIME)
def test_stop_training_stops_at_once(plan):
    """After the batch whose callback stops training no step is run."""
    expected = trained("step", callbacks=[StopAt(4)])
    actual = trained(plan, callbacks=[StopAt(4)])
    assert_same(expected, actual)
    assert 5 == int(actual[0].optimizer.iterations)


class Slower(keras.callbacks.Callback):
    """Changes the learning rate, the momentum's memory and a weight, at either end of an epoch."""

    def __init__(self, event):
        super().__init__()
        setattr(self, event, self.act)

    def act(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.05 / (epoch + 2)
        self.model.set_weights([w * 0.5 for w in self.model.get_weights()])


@pytest.mark.parametrize("plan", QUICK)
@pytest.mark.parametrize(
    "event", tiers.cases(["on_epoch_begin", "on_epoch_end", "scheduler"], ["scheduler"])
)
def test_changes_between_epochs(plan, event):
    """A new learning rate and new weights hold from the next step on."""

    def callback():
        if event == "scheduler":
            return keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
        return Slower(event)

    expected = trained("step", callbacks=[callback()], epochs=4)
    assert_same(expected, trained(plan, callbacks=[callback()], epochs=4))
    plain = trained("step", epochs=4)
    assert assertions.largest_difference(plain[0].model, expected[0].model) > 1e-3


@pytest.mark.parametrize("plan", QUICK)
def test_changes_between_batches(plan):
    """A callback of batches that changes the learning rate is obeyed by the next step."""

    class Each(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.optimizer.learning_rate = 0.1 / (batch + 1)

    expected = trained("step", callbacks=[Each()])
    assert_same(expected, trained(plan, callbacks=[Each()]))


@pytest.mark.parametrize("plan", ["loop, streamed", tiers.slow("auto, all tried")])
def test_an_interrupt_leaves_a_trainer_that_trains(plan):
    """After an exception of a callback, a new fit goes on from the weights there are."""

    class Raise(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    states = []
    for name in ("step", plan):
        keras.utils.set_random_seed(5)
        trainer = Trainer(
            models.mlp(), optimizer=keras.optimizers.SGD(0.05), loss="mse", execution=PLANS[name]
        )
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(X, Y, **FIT, callbacks=[Raise()])
        states.append((trainer, trainer.fit(X, Y, **FIT).history))
    assert 3 * STEPS == int(states[1][0].optimizer.iterations)
    assert_same(*states)


# Over several fits ------------------------------------------------------------


def fitted(strategy=None, execution=None, fits=((64, 8),)):
    """A model and its trainer after fits of ``(rows, batch size)``."""
    keras.utils.set_random_seed(0)
    model = models.mlp(outputs=2)
    trainer = Trainer(
        model, optimizer=keras.optimizers.SGD(0.05), loss="mse", metrics=["mae"],
        strategy=strategy, execution=execution,
    )  # fmt: skip
    for rows, size in fits:
        history = trainer.fit(
            LONG_X[:rows], LONG_Y[:rows], batch_size=size, shuffle=False, epochs=2, verbose=0
        )
    return model, trainer, history


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["loop", "auto"])
def test_batches_smaller_than_the_replicas(plan):
    """After a fit in loops, batches too small for all replicas run one by one, each of them."""
    fits = ((64, 8), (6, 1), (7, 3), (64, 8))
    alone, _, expected = fitted(execution="step", fits=fits)
    model, trainer, history = fitted("mirrored:2", plan, fits)
    for one, other in zip(alone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert int(trainer.optimizer.iterations.numpy()) == 2 * (8 + 6 + 3 + 8)
    np.testing.assert_allclose(expected.history["loss"], history.history["loss"], atol=1e-6)


def test_a_loop_that_cannot_be_compiled_for_later_data(monkeypatch):
    """Where a loop fails to compile for data of other shapes, its steps run one by one."""
    expected, *_ = fitted(execution="step", fits=((64, 8), (48, 6)))
    keras.utils.set_random_seed(0)
    model = models.mlp(outputs=2)
    trainer = Trainer(model, optimizer=keras.optimizers.SGD(0.05), loss="mse")
    options = {"shuffle": False, "epochs": 2, "verbose": 0}
    trainer.fit(LONG_X, LONG_Y, batch_size=8, **options)

    def refuse(self, block):
        raise ValueError("not for such a block")

    monkeypatch.setattr("kerastrain.execution.loops.Loop.prepare", refuse)
    trainer.fit(LONG_X[:48], LONG_Y[:48], batch_size=6, **options)
    assert "not for such a block" in trainer.plans["train"]
    for one, other in zip(expected.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_data_are_not_kept():
    """After a fit the trainer holds no copy of the arrays."""
    _, trainer, _ = fitted()
    runner = trainer._parts.preparation.runner("train")
    assert runner._block is None


def test_steps_per_call_is_kept_to():
    """No call runs more steps than were asked for."""
    seen = []

    class Reads(keras.callbacks.Callback):
        only_reads_logs = True

        def on_train_batch_end(self, batch, logs):
            seen.append((batch, float(logs["loss"])))

    keras.utils.set_random_seed(0)
    trainer = Trainer(
        models.mlp(outputs=2), optimizer="sgd", loss="mse",
        execution=Execution(plan="loop", steps_per_execution=3),
    )  # fmt: skip
    history = trainer.fit(
        LONG_X, LONG_Y, batch_size=8, shuffle=False, verbose=0, callbacks=[Reads()]
    )
    assert [batch for batch, _ in seen] == list(range(8))
    assert seen[-1][1] == pytest.approx(history.history["loss"][0], abs=1e-6)
    assert trainer._parts.preparation.runner("train", Listening.AFTERWARDS).choice.steps <= 3


def test_where_the_time_went(capsys):
    """`profile=True` prints the parts, which add up to no more than the whole."""
    keras.utils.set_random_seed(0)
    trainer = Trainer(models.mlp(outputs=2), optimizer="sgd", loss="mse")
    trainer.fit(LONG_X, LONG_Y, verbose=0, profile=True, validation_data=(LONG_X, LONG_Y))
    line = capsys.readouterr().out
    assert line.startswith("Time: ") and "compiling" in line and "validation" in line
    assert trainer.times.seconds["compiling"] > 0
    assert trainer.times.seconds["step"] >= 0


def test_metrics_over_many_epochs():
    """Each epoch's results are its own, also when resets and results have been compiled."""
    histories = []
    for own in (False, True):
        keras.utils.set_random_seed(0)
        model = models.mlp(outputs=2)
        parts = {
            "optimizer": keras.optimizers.SGD(0.05),
            "loss": "mse",
            "metrics": ["mae", keras.metrics.RootMeanSquaredError()],
        }
        options = {"epochs": 8, "batch_size": 10, "shuffle": False, "verbose": 0}
        options["validation_data"] = (LONG_X[:20], LONG_Y[:20])
        if own:
            trainer = Trainer(model, **parts)
            history = trainer.fit(LONG_X, LONG_Y, **options)
            assert (
                trainer._parts._states._reset.is_compiled
                and trainer._parts._states._results.is_compiled
            )
        else:
            model.compile(**parts)
            history = model.fit(LONG_X, LONG_Y, **options)
        histories.append(history.history)
    assert sorted(histories[0]) == sorted(histories[1])
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], atol=1e-6)


def test_a_metric_of_ones_own_is_reset_by_its_own_code():
    """Python code in a metric's `reset_state` runs before each epoch."""
    resets = []

    class Counts(keras.metrics.Mean):
        def reset_state(self):
            resets.append(1)
            super().reset_state()

    trainer = Trainer(
        models.mlp(outputs=2), optimizer="sgd", loss="mse",
        metrics=[keras.metrics.MeanAbsoluteError()], weighted_metrics=[],
    )  # fmt: skip
    trainer.model.extra = Counts(name="extra")
    with pytest.warns(UserWarning, match="not updated"):
        trainer.fit(LONG_X, LONG_Y, epochs=6, verbose=0)
    assert len(resets) == 6


class OwnStep(keras.Model):
    """Counts its own training step's traces, and moves no weight."""

    traced = 0

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        OwnStep.traced += 1
        return {"loss": tf.reduce_mean(self(data[0]) ** 2)}


def test_a_pinned_plan_leaves_a_step_of_ones_own_alone_on_replicas():
    """XLA has no part in a user's own step on replicas, which runs as it is; it is said."""
    trainer = Trainer(
        lambda: OwnStep(), optimizer="sgd", loss="mse", strategy="mirrored:2", execution="xla_loop"
    )
    OwnStep.traced = 0
    with pytest.warns(UserWarning, match="cannot be used under this strategy"):
        trainer.fit(X[:8], Y[:8], batch_size=4, verbose=0)
    assert OwnStep.traced
    assert trainer.plans["train"].startswith("loop")


@pytest.mark.slow
def test_evaluation_on_replicas_under_a_plan_of_xla():
    """Evaluation, which XLA does not compile on replicas, runs in the graph without a word."""
    trainer = Trainer(
        models.mlp(), optimizer="sgd", loss="mse", strategy="mirrored:2", execution="xla_loop"
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*(cannot be).*")
        trainer.fit(X[:8], Y[:8], batch_size=4, verbose=0, validation_data=(X[:8], Y[:8]))
    assert trainer.plans["test"].startswith("loop")


def test_callbacks_that_do_not_listen_are_told_nothing():
    """Where nobody listens to batches, no batch event is fired, batch by batch neither."""
    events = []

    class Watched(keras.callbacks.CallbackList):
        def on_train_batch_begin(self, batch, logs=None):
            events.append(batch)

        def on_train_batch_end(self, batch, logs=None):
            events.append(batch)

    for plan in ("step", "loop"):
        trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse", execution=plan)
        trainer.fit(X, Y, verbose=0, callbacks=Watched(model=trainer.model))
    assert events == []
