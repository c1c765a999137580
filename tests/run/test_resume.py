"""A training that is killed at any moment ends, after a resume, with the same bits."""

import os
import shutil
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import DataError
from kerastrain import Execution
from kerastrain import Guard
from kerastrain import Trainer
from kerastrain.errors import CheckpointError
from kerastrain.errors import RunError
from kerastrain.execution import plan_choice
from kerastrain.run.checkpoint import Checkpoints
from kerastrain.run.checkpoint import read
from kerastrain.testing import NotResumed
from kerastrain.testing import resume
from kerastrain.testing import verify_resume
from tests.support import resuming
from tests.support import tiers
from tests.support.assertions import assert_close_runs
from tests.support.models import small_network
from tests.support.resuming import BATCH
from tests.support.resuming import network
from tests.support.resuming import rows
from tests.support.resuming import trainer
from tests.support.runs import assert_same_weights
from tests.support.runs import fit
from tests.support.runs import saved_in
from tests.support.runs import weights

pytestmark = pytest.mark.filterwarnings("error::UserWarning:(kerastrain|tests)")


# To the bit ------------------------------------------------------------------


class Stopped(BaseException):
    """Takes the place of a kill."""


def stop(process, number):
    raise Stopped


def test_global_random_numbers(tmp_path, saves_end):
    """A callback that draws from NumPy's draws what it would have drawn."""
    drawn, after = [], []

    class Draws(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            drawn.append(np.random.random())
            if len(drawn) in after:
                raise Stopped

    def run(directory):  # which begins with the same state, as of a new process
        drawn.clear()
        fit(directory, trainer(execution="step"), callbacks=[Draws()], epochs=1)
        return list(drawn)

    whole = run(tmp_path / "whole")
    after.append(3)
    with pytest.raises(Stopped):
        run(tmp_path / "stopped")
    after.clear()
    assert whole[2:] == run(tmp_path / "stopped")


@pytest.mark.parametrize("before, after", [("mirrored:2", None), tiers.slow(None, "mirrored:2")])
def test_another_number_of_replicas(before, after, tmp_path, saves_end):
    """The same numbers, those of the epoch that was interrupted too."""

    class StopsAfter(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == 3:
                raise Stopped

    def run(directory, strategy, **arguments):
        measured = ["mae", keras.metrics.RootMeanSquaredError()]
        make = trainer(strategy=strategy, execution="step", metrics=measured)
        made, history = fit(directory, make, **arguments)
        return made.model, history.history

    whole = run(None, None)
    with pytest.raises(Stopped):
        run(tmp_path, before, callbacks=[StopsAfter()])
    assert_close_runs(whole, run(tmp_path, after))


def test_metrics_of_each_replica_are_saved(tmp_path):
    """Each has summed the losses of its own rows."""
    fit(tmp_path, trainer(strategy="mirrored:2", execution="step"), epochs=1, steps_per_epoch=2)
    tensors = Checkpoints(tmp_path / "checkpoints").newest().tensors
    totals = [name for name in tensors if name.startswith("metrics/0")]
    assert ["metrics/0", "metrics/0@1"] == sorted(totals)
    assert tensors["metrics/0"] != tensors["metrics/0@1"]


# Of each kind of data, plan, callback and precision, one that does the most.
SAMPLE = (
    "arrays, streamed",
    "tf.data",
    "PyDataset that shuffles itself",
    "own callback",
    "bad rows, rolled back",
    "plateau and early stopping",
    "mixed_float16",
)


@pytest.mark.parametrize("name", tiers.cases(SAMPLE, ["arrays, streamed", "own callback"]))
def test_stopped_after_some_steps(tmp_path, monkeypatch, name):
    """Stopped within an epoch, and gone on with by objects made anew, it ends with the same bits.

    What happens here in one process, with an error where a kill would be, happens in processes
    in `test_killed_after_some_steps`.
    """
    case = resuming.CASES[name]()
    parts = case.pop("make_trainer"), case.pop("data"), case.pop("callbacks", None)
    arguments = {"verbose": 0, "save_every": 1, **case, "epochs": 2}

    def train(place, stop_after=None):
        keras.utils.clear_session(free_memory=False)  # names are numbered as in a new process
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Step .* is not finite")
            resume.train_in(*parts, tmp_path / place, stop_after, arguments)

    policy = keras.config.dtype_policy()
    try:
        train("whole")
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(resume.os, "kill", stop)
            train("resumed", stop_after=8)
        train("resumed")
    finally:
        keras.config.set_dtype_policy(policy)
    resume.check_same(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.process
@pytest.mark.parametrize("name", [name for name in resuming.CASES if name != "most"])
def test_killed_after_some_steps(processes, name):
    """Each kind of data, plan, callback and precision, killed within and between epochs."""
    if name in resuming.NEEDS:
        pytest.importorskip(resuming.NEEDS[name])
    verify_resume(**resuming.CASES[name](), kill_after=(4, 7, 10), processes=processes)


@pytest.mark.process
def test_killed_before_the_last_step(processes):
    """What a step of the user's own returned is the same thing, whichever plan ran it."""
    case = resuming.CASES["two optimizers"]()
    verify_resume(**case, kill_after=(17, 18), processes=processes)


@pytest.mark.process
def test_most_at_once_killed_after_every_step(processes):
    """Replicas, micro-batches, tf.data, Dropout, EMA, plateau and early stopping."""
    case = resuming.CASES["most"]() | {"epochs": 2}
    verify_resume(**case, kill_after=range(1, 2 * 6 + 1), processes=processes)


@pytest.mark.process
@pytest.mark.parametrize("name", ["arrays", "tf.data"])
def test_saved_now_and_then(processes, name):
    """What ran after the last save is run again, to the same bits."""
    verify_resume(**resuming.CASES[name](), kill_after=(5, 13), save_every=4, processes=processes)


@pytest.mark.process
def test_variables_that_a_model_has_in_containers(processes):
    """Optimizers in a dict, and variables of TensorFlow's in a list, go on too."""

    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.own = {"all": [keras.optimizers.Adam(0.01)]}
            self.steps = [tf.Variable(0.0)]

        def call(self, x):
            return self.dense(x) + self.steps[0]

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean((self(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, self.trainable_weights)
            self.own["all"][0].apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            self.steps[0].assign_add(0.1)
            return {"loss": loss}

    def make():
        keras.utils.set_random_seed(5)
        return Trainer(Two(), optimizer="sgd", seed=3, execution="step")

    verify_resume(make, rows, epochs=2, batch_size=BATCH, kill_after=(3, 9), processes=processes)


class Forgetful(resuming.Remembers):
    def get_state(self):
        return None

    def set_state(self, state):
        """Begins anew."""


@pytest.mark.process
def test_verify_resume_can_fail(processes):
    """A callback that forgets is found out, and the first difference named."""
    with pytest.raises(NotResumed, match="the history .*loss.* is "):
        verify_resume(
            trainer(),
            rows,
            epochs=3,
            batch_size=BATCH,
            callbacks=lambda: [Forgetful()],
            kill_after=(4,),
            processes=processes,
        )


def test_verify_resume_refuses_what_cannot_be():
    """A step that there is not, and a directory of one's own."""
    with pytest.raises(ArgumentError, match="`run_dir`"):
        verify_resume(trainer(), rows, run_dir="x")


# In this process -------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """``(trainer, history, directory)`` of a run that has ended."""
    place = tmp_path_factory.mktemp("ended")
    return *fit(place), place


@pytest.fixture(scope="module")
def ended(whole):
    """The directory of a run that has ended, to be copied."""
    return whole[-1]


def test_longer_goes_on_where_it_ended(tmp_path, ended):
    """More epochs go on; the history has all of them; so has the result."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    longer, history = fit(tmp_path, epochs=4)
    whole, expected = fit(tmp_path / "other", epochs=4)
    assert expected.history == history.history
    assert [0, 1, 2, 3] == history.epoch
    assert_same_weights(whole, longer)


@pytest.mark.slow
def test_where_it_goes_on_is_said(tmp_path, capsys):
    """One line, unless nothing is to be shown."""
    fit(tmp_path, verbose=2)
    assert "Resuming" not in capsys.readouterr().out
    fit(tmp_path, epochs=3, verbose=2)
    assert "Resuming at epoch 3, step 1 (12 steps done), from " in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_plan_goes_on(tmp_path, monkeypatch):
    """What was chosen is not chosen again, but for a longer training."""
    monkeypatch.setattr(plan_choice, "_STEP_GAIN", 0.0)  # on no machine is a step at a time tried
    auto = trainer(execution="auto")
    fit(tmp_path, auto, epochs=30)
    path = Checkpoints(tmp_path / "checkpoints").paths()[-1]
    plan = read(path).info["state"]["plans"]["train"]
    assert plan in ("loop", "xla_loop")
    state = read(path)
    state.info["state"]["plans"]["train"] = other = {"loop": "step", "xla_loop": "loop"}[plan]
    state.info["state"]["position"] |= {"epoch": 29, "step": 0}
    Checkpoints(tmp_path / "checkpoints").write(state.tensors, state.info)
    made, _ = fit(tmp_path, auto, epochs=30)
    assert made.plans["train"].startswith(other)
    made, _ = fit(tmp_path, auto, epochs=60)
    assert "step" != made.plans["train"].split(",")[0]


def test_what_has_ended_is_not_run_again(tmp_path, whole, ended):
    """The same call returns the same, and trains no step."""
    first, expected, _ = whole
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    before = Checkpoints(tmp_path / "checkpoints").paths()
    again, history = fit(tmp_path)
    assert expected.history == history.history
    assert_same_weights(first, again)
    assert before == Checkpoints(tmp_path / "checkpoints").paths()


def test_without_resume(tmp_path):
    """resume=False wants an empty directory."""
    fit(tmp_path, resume=False)
    with pytest.raises(RunError, match="There is a run in .*resume=True"):
        fit(tmp_path, resume=False)


def test_torn_checkpoint(tmp_path, whole):
    """The one before it is taken; what ran since is run again, to the same bits."""
    uninterrupted, expected, _ = whole
    fit(tmp_path / "torn", epochs=1)
    path = Checkpoints(tmp_path / "torn" / "checkpoints").paths()[-1]
    os.truncate(path / "state.safetensors", 1000)
    with pytest.warns(UserWarning, match="set-aside"):
        resumed, history = fit(tmp_path / "torn")
    assert expected.history == history.history
    assert_same_weights(uninterrupted, resumed)


@pytest.mark.slow
def test_no_checkpoint_is_left(tmp_path):
    """Where none can be used, it begins anew and says so."""
    fit(tmp_path, keep=1)
    (path,) = Checkpoints(tmp_path / "checkpoints").paths()
    (path / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="begins anew|set-aside"):
        _, history = fit(tmp_path)
    assert [0, 1] == history.epoch


@pytest.mark.slow
def test_another_working_directory(tmp_path, monkeypatch):
    """The run stays where it was begun."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()

    class Moves(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            monkeypatch.chdir(tmp_path / "other")

    fit("run", callbacks=[Moves()])
    assert [] == [*(tmp_path / "other").iterdir()]
    assert Checkpoints(tmp_path / "run" / "checkpoints").newest() is not None


@pytest.mark.slow
def test_numbers_of_numpy(tmp_path):
    """They are as good as Python's."""
    two, three = np.int64(2), np.int64(3)
    arguments = {"epochs": two, "steps_per_epoch": three, "save_every": two, "keep": two}
    arguments |= {"shuffle": np.bool_(True), "make": trainer(seed=three)}
    fit(tmp_path, **arguments)
    _, history = fit(tmp_path, **arguments | {"epochs": three})
    assert [0, 1, 2] == history.epoch


def test_a_csv_log_goes_on(tmp_path, saves_end):
    """Rows of the epochs that are run again are not there twice."""
    log = tmp_path / "log.csv"
    fit(tmp_path / "run", epochs=2, callbacks=[keras.callbacks.CSVLogger(log)], keep=100)
    paths = Checkpoints(tmp_path / "run" / "checkpoints").paths()
    assert 8 == read(paths[7]).info["state"]["position"]["steps"] and len(paths) >= 12
    for path in paths[8:]:
        (path / "manifest.json").unlink()  # back to the second step of the second epoch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(tmp_path / "run", epochs=3, callbacks=[keras.callbacks.CSVLogger(log)])
    fit(tmp_path / "whole", epochs=3, callbacks=[keras.callbacks.CSVLogger(tmp_path / "w.csv")])
    assert (tmp_path / "w.csv").read_text() == log.read_text()


@pytest.mark.slow
def test_logs_of_a_step_that_is_taken_back_are_not_reported(tmp_path):
    """The last good step's are, whether something was saved right then or not."""

    class Norms(keras.Model):
        def train_step(self, data):
            logs = super().train_step(data)
            return logs | {"size": keras.ops.sum(keras.ops.abs(self.trainable_weights[0]))}

    def run(place, **arguments):
        keras.utils.set_random_seed(5)
        inputs = keras.Input((6,))
        outputs = keras.layers.Dense(1)(keras.layers.Dense(8, "relu")(inputs))
        model = Norms(inputs, outputs)
        x, y = rows(count=40)
        x[-3] = np.nan
        made = Trainer(model, optimizer="sgd", loss="mse", guard="skip", execution="loop", seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"batch_size": 8, "epochs": 3, "shuffle": False, "verbose": 0} | arguments
            history = made.fit(x, y, **saved_in(place, options))
        return history.history

    expected, saved = run(None), run(tmp_path, save_every=5)
    assert np.isfinite(expected["size"]).all()
    assert expected == saved


@pytest.mark.slow
def test_a_loss_whose_sum_overflows_goes_on(tmp_path):
    """A mean over an epoch that is infinite is no weight that is not finite."""
    large = trainer(loss=lambda y, p: 1e37 + 0 * keras.ops.sum(p, axis=-1))
    for epochs in (1, 1, 2):
        made, _ = fit(tmp_path, large, epochs=epochs, save_every=6)
    assert all(np.isfinite(w).all() for w in weights(made))


# What is the same run --------------------------------------------------------


def decaying():
    return keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.01, 9, 0.5))


def half_width():
    dense = keras.layers.Dense(1, dtype=keras.DTypePolicy("mixed_bfloat16"))
    model = network()
    return keras.Model(model.input, dense(model.layers[1].output))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("model", {"make": trainer(lambda: network(norm=True))}),
        tiers.slow(
            "model.layers.*activation",
            {"make": trainer(lambda: keras.Sequential([
                keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)]))},
        ),
        tiers.slow("loss was 'mse', and is now 'mae'", {"make": trainer(loss="mae")}),
        (
            "optimizer.class was 'Adam', and is now 'SGD'",
            {"make": trainer(optimizer=keras.optimizers.SGD)},
        ),
        tiers.slow("optimizer.beta_1",
                   {"make": trainer(optimizer=lambda: keras.optimizers.Adam(0.01, 0.8))}),
        ("model.*dtype.*name was 'float32'", {"make": trainer(half_width)}),
        ("data.shuffle was True, and is now False", {"shuffle": False}),
        tiers.slow("validation", {"validation_data": rows(1, 12)}),
        ("seed was 3, and is now 4", {"make": trainer(seed=4)}),
        tiers.slow("metrics.*class was 'MeanAbs.*is now 'MeanSquared",
                   {"make": trainer(metrics=["mse"])}),
        tiers.slow("loss_weights was None, and is now '2.0'", {"make": trainer(loss_weights=2.0)}),
        ("optimizer.learning_rate was '0.0099.*is now {'class_name': 'Exp", {"make": trainer(optimizer=decaying)}),
        ("data.rows was 44, and is now 40", {"data": lambda: rows(count=40)}),
        ("x, y or sample_weight have other values", {"data": lambda: rows(seed=8)}),
        tiers.slow("data.batches was 6, and is now 11", {"batch_size": 4}),
        ("data.steps_per_epoch was None, and is now 3", {"steps_per_epoch": 3}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_another_run_is_refused(tmp_path, ended, name, changed):
    """The first thing that differs is named, and the directory stays as it was."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    before = [p.name for p in sorted((tmp_path / "checkpoints").iterdir())]
    if name == "model.layers.*activation":
        fit(tmp_path / "own", make=trainer(lambda: keras.Sequential([
            keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])))  # fmt: skip
        place = tmp_path / "own"
    else:
        place = tmp_path
    with pytest.raises(RunError, match=f"is another one: {name}"):
        fit(place, **changed)
    assert before == [p.name for p in sorted((tmp_path / "checkpoints").iterdir())]


def unnamed():
    """A model with functions and seeds that are others in each process."""
    function = eval(compile("\n" * unnamed.made + "lambda x: 2 * x", f"<{unnamed.made}>", "eval"))
    unnamed.made += 1
    inputs = keras.Input((6,))
    dropped = keras.layers.Dropout(0.1, seed=unnamed.made)(keras.layers.Lambda(function)(inputs))
    dense = keras.layers.Dense(1, activation=function, kernel_initializer="zeros")
    return keras.Model(inputs, dense(dropped))


unnamed.made = 0


@pytest.mark.slow
def test_what_differs_from_process_to_process_is_no_difference(tmp_path):
    """The place of a function without a name, and a seed that was drawn."""
    fit(tmp_path, trainer(unnamed))
    fit(tmp_path, trainer(unnamed), epochs=3)
    assert 2 == unnamed.made


def half():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, dtype="mixed_float16")])


@pytest.mark.slow
@pytest.mark.parametrize("model", [network, half])
def test_another_learning_rate_is_said_not_to_count(tmp_path, model):
    """It is state; the one that was passed is not in force, in an optimizer within another too."""

    def make(rate):
        optimizer = keras.optimizers.SGD(rate)
        if model is half:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        return lambda: Trainer(model(), optimizer=optimizer, loss="mse", seed=3, execution="loop")

    fit(tmp_path, make(0.025))
    made = make(0.025)
    fit(tmp_path, made, epochs=3)
    for epochs in (4, 5):  # each time
        with pytest.warns(UserWarning, match="from the checkpoint, 0.025; .* passed has 0.05"):
            fit(tmp_path, make(0.05), epochs=epochs)

    def halved(epoch, rate):
        return rate / 2

    one = make(0.025)()
    for epochs in (1, 2):  # the rate of the same optimizer has changed since, and nobody passed it
        one.fit(
            *rows(), epochs=epochs, verbose=0, run_dir=tmp_path / "one",
            callbacks=[keras.callbacks.LearningRateScheduler(halved)],
        )  # fmt: skip


# What is refused -------------------------------------------------------------


def test_a_generator_is_refused(tmp_path):
    """It cannot go on anywhere else; what can is named."""
    with pytest.raises(DataError, match="`x` is a generator.*PyDataset"):
        fit(tmp_path, data=lambda: (rows() for _ in range(3)), batch_size=None)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("`save_every` must be", {"save_every": 0}),
        ("`save_every` must be", {"save_every": "60s"}),
        ("`keep` must be", {"keep": 0}),
        ("BackupAndRestore", {"callbacks": [keras.callbacks.BackupAndRestore("x")]}),
        ("`monitor` must be", {"monitor": "best loss"}),
        ("`monitor` must be", {"monitor": 5}),
        ("`monitor` names a result of a validation", {"monitor": "val_loss"}),
        ("`run_dir` cannot be", {"run_dir": "/proc/nowhere"}),
        ("`run_dir` is a file", {"run_dir": __file__}),
        ("`run_dir` must be", {"run_dir": "gs://bucket/run"}),
        ("`run_dir` must be", {"run_dir": ""}),
        ("`run_dir` must be", {"run_dir": 5}),
    ],
)
def test_bad_arguments(tmp_path, message, arguments):
    """Each is named, with the value."""
    arguments = {"run_dir": tmp_path} | arguments
    with pytest.raises(ArgumentError, match=message):
        fit(**arguments)


def test_what_needs_a_directory():
    """By its old name, an option of a run directory without one is an error."""
    with pytest.raises(ArgumentError, match="need a directory"), pytest.warns(DeprecationWarning):
        trainer()().fit(*rows(), monitor="loss")


def test_a_model_of_the_wrong_shape_is_never_filled(tmp_path, ended):
    """Weights of another shape are refused before one is assigned."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    (path, *_) = reversed(Checkpoints(tmp_path / "checkpoints").paths())
    found = read(path)
    found.tensors["model/0"] = found.tensors["model/0"][:1]
    Checkpoints(tmp_path / "checkpoints").write(found.tensors, found.info)
    made = trainer()()
    before = weights(made)
    with pytest.raises(RunError, match=r"kernel is of float32 \(6, 8\), .* float32 \(1, 8\)"):
        made.fit(*rows(), batch_size=BATCH, verbose=0, run_dir=tmp_path)
    for a, b in zip(before, weights(made), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrong", [
    ("position", "steps", -1), tiers.slow(("position", "epoch", "x")), ("data", "x", {}),
    tiers.slow(("data", None)), ("callbacks", None), tiers.slow(("random", "python", None)),
    ("random", "numpy", [1]), ("data", "x", "taken", 10**12),
    tiers.slow(("data", "x", "seed", "x")),
])  # fmt: skip
def test_a_state_that_is_none_changes_nothing(tmp_path, ended, wrong):
    """Whatever stands in a manifest with a right checksum, it is refused in one way."""
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    found = read(Checkpoints(tmp_path / "checkpoints").paths()[-1])
    *where, last, value = wrong
    entry = found.info["state"]
    for key in where:
        entry = entry[key]
    entry[last] = value
    Checkpoints(tmp_path / "checkpoints").write(found.tensors, found.info)
    made = trainer()()
    before = weights(made)
    with pytest.raises((CheckpointError, RunError)):
        made.fit(*rows(), batch_size=BATCH, epochs=3, verbose=0, run_dir=tmp_path)
    for a, b in zip(before, weights(made), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_callback_is_given_its_own_attributes_only(tmp_path):
    """A state cannot let a callback write elsewhere."""
    target = str(tmp_path / "model.keras")
    fit(tmp_path / "run", callbacks=[keras.callbacks.ModelCheckpoint(target)])
    place = Checkpoints(tmp_path / "run" / "checkpoints")
    found = read(place.paths()[-1])
    (state,) = [c for c in found.info["state"]["callbacks"] if "ModelCheckpoint" in c["class"]]
    state["state"]["filepath"] = str(tmp_path / "elsewhere.keras")
    place.write(found.tensors, found.info)
    fit(tmp_path / "run", epochs=3, callbacks=[keras.callbacks.ModelCheckpoint(target)])
    assert not (tmp_path / "elsewhere.keras").exists()


# What the guard has kept -----------------------------------------------------


class SlotsOfAStep(keras.Model):
    """Its own step makes the optimizer's slots, and counts in a variable that is known before."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        self.counts[0][0].assign_add(tf.ones((6, 1)))
        return {"loss": loss}


def test_what_a_rollback_goes_back_to_after_a_resume(tmp_path):
    """Each variable gets what was kept of it, in whichever order steps reported them."""

    def make():
        keras.utils.set_random_seed(5)
        inputs = keras.Input((6,))
        model = SlotsOfAStep(inputs, keras.layers.Dense(1, use_bias=False)(inputs))
        model.counts = ([tf.Variable(tf.fill((6, 1), 4.5), trainable=False)],)
        optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
        guard = Guard("rollback", snapshot_every=100)
        return Trainer(model, optimizer=optimizer, seed=3, guard=guard, execution="step")

    def bad():
        x, y = rows()
        x[-1] = np.nan
        return x, y

    def train(place, *epochs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in epochs:
                made, _ = fit(place, make, bad, epochs=number, shuffle=False)
        variables = *made.model.weights, *made.optimizer.variables, made.model.counts[0][0]
        return [v.numpy() for v in variables]

    for one, two in zip(train(tmp_path / "a", 2), train(tmp_path / "b", 1, 2), strict=True):
        np.testing.assert_array_equal(one, two)


# What is looked for before the training is resumed -----------------------------


def counting():
    """A loss that counts its calls, in a variable that it alone knows."""
    calls = tf.Variable(0.0)

    def count(y_true, y_pred):
        calls.assign_add(1.0)
        return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)

    return count


class Failing(keras.Model):
    """Its train step counts, in a variable that it alone knows, and its test step can fail."""

    fails = False

    def train_step(self, data):
        self.count()
        return super().train_step(data)

    def test_step(self, data):
        if self.fails:
            raise RuntimeError("of the model")
        return super().test_step(data)


@pytest.mark.parametrize("how", [tiers.slow("loop"), "eager"])
def test_looking_for_variables_changes_none(tmp_path, how):
    """Whether it ends well or in an error."""
    execution = Execution(run_eagerly=True) if how == "eager" else Execution(plan=how)
    counters = []

    def make(fails=False):
        keras.utils.set_random_seed(5)
        inputs = keras.Input((6,))
        model = Failing(inputs, keras.layers.Dense(1)(inputs))
        model.fails = fails
        counter = tf.Variable(0.0)
        counters.append(counter)
        model.count = lambda: counter.assign_add(1.0)
        return Trainer(model, optimizer="adam", loss="mse", seed=3, execution=execution)

    arguments = {"validation_data": rows(1, 12), "epochs": 1}
    fit(tmp_path, make, **arguments)
    failing = make(fails=True)
    before = weights(failing)
    with pytest.raises(RuntimeError, match="of the model"):
        fit(tmp_path, lambda: failing, **arguments | {"epochs": 2})
    assert 0.0 == float(counters[-1])
    for one, two in zip(weights(failing), before, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.slow
def test_a_run_whose_batches_were_cut(tmp_path):
    """Looking for variables takes no more memory than its steps."""

    def make():
        model, optimizer = small_network(BATCH // 2)(), keras.optimizers.SGD(0.01)
        options = {"optimizer": optimizer, "loss": counting(), "seed": 3}
        return Trainer(model, micro_batches="auto", execution="loop", **options)

    with pytest.warns(UserWarning, match="cut into 2 micro-batches"):
        fit(tmp_path / "run", make, epochs=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Small.calls")
        resumed, _ = fit(tmp_path / "run", make)
    with pytest.warns(UserWarning, match="cut into 2 micro-batches"):
        whole, _ = fit(tmp_path / "whole", make)
    assert_same_weights(whole, resumed)
