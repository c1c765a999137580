"""Keras's callbacks run unchanged under Trainer.fit and do what they do under Keras's fit."""

import csv
import json

import keras
import numpy as np
import pytest

from kerastrain import _keras
from kerastrain import Trainer
from kerastrain.execution import compiled_steps as execution
from kerastrain.run.callback_states import CallbackStates
from kerastrain.run.callback_states import named_by_class
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

callbacks = keras.callbacks
X, Y, _ = datasets.regression(rows=11)
FIT = {"batch_size": 4, "shuffle": False, "verbose": 0, "validation_data": (X[:5], Y[:5])}
BATCHES = 3


def adam():
    return keras.optimizers.Adam(0.05)


def new_model(make=models.mlp):
    keras.utils.set_random_seed(5)
    return make()


def by_keras(callback_list, optimizer=None, model=None, **fit):
    """``(model, its optimizer, history)`` after Keras's fit."""
    model = model or new_model()
    model.compile(optimizer or adam(), "mse", metrics=["mae"], run_eagerly=True)  # no trace
    history = model.fit(X, Y, callbacks=callback_list, **{**FIT, "epochs": 4, **fit})
    return model, model.optimizer, history.history


def by_trainer(callback_list, optimizer=None, model=None, execution=None, **fit):
    """``(model, its optimizer, history)`` after Trainer.fit."""
    model = model or new_model()
    options = {"loss": "mse", "metrics": ["mae"], "execution": execution}
    trainer = Trainer(model, optimizer=optimizer or adam(), **options)
    history = trainer.fit(X, Y, callbacks=callback_list, **{**FIT, "epochs": 4, **fit})
    return model, trainer.optimizer, history.history


def assert_same(expected, actual):
    """Asserts equal weights, optimizer and history of two runs."""
    (model, optimizer, history), (other, other_optimizer, other_history) = expected, actual
    assertions.assert_close_weights(model, other)
    assert int(optimizer.iterations) == int(other_optimizer.iterations)
    assert float(optimizer.learning_rate) == pytest.approx(float(other_optimizer.learning_rate))
    assertions.assert_close_histories(history, other_history)


# Stock callbacks --------------------------------------------------------------


class TooHigh(callbacks.Callback):
    """Replaces val_loss by a series of its own, for the callbacks after it."""

    def __init__(self, values=(3.0, 1.0, 2.0, 2.5, 4.0, 5.0)):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


def diverging():
    return keras.optimizers.SGD(1e38)


STOCK = {
    "EarlyStopping": lambda path: [TooHigh(), callbacks.EarlyStopping(patience=1)],
    "EarlyStopping, best weights": lambda path: [
        TooHigh(),
        callbacks.EarlyStopping(patience=2, restore_best_weights=True),
    ],
    "EarlyStopping, to the end": lambda path: [
        TooHigh(),
        callbacks.EarlyStopping(patience=9, restore_best_weights=True),
    ],
    "ReduceLROnPlateau": lambda path: [
        TooHigh(),
        callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=0.0),
    ],
    "LearningRateScheduler": lambda path: [
        callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5)
    ],
    "ModelCheckpoint": lambda path: [
        callbacks.ModelCheckpoint(path / "m.keras", save_best_only=True)
    ],
    "those that look on": lambda path: [
        callbacks.CSVLogger(path / "log.csv"),
        callbacks.TerminateOnNaN(),
        callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        callbacks.ProgbarLogger(),
        callbacks.History(),
        callbacks.BackupAndRestore(path / "backup"),
    ],
    "None": lambda path: None,
}


@pytest.mark.parametrize("name", tiers.cases(STOCK, ["ReduceLROnPlateau"]))
def test_same_as_keras(name, tmp_path):
    """Stock callbacks lead to the weights, learning rate and history of Keras's fit."""
    (tmp_path / "keras").mkdir()
    (tmp_path / "trainer").mkdir()
    expected = by_keras(STOCK[name](tmp_path / "keras"))
    actual = by_trainer(STOCK[name](tmp_path / "trainer"))
    assert_same(expected, actual)
    files = {p.relative_to(tmp_path / "keras") for p in (tmp_path / "keras").rglob("*")}
    assert files == {p.relative_to(tmp_path / "trainer") for p in (tmp_path / "trainer").rglob("*")}


@pytest.mark.parametrize("kind", [callbacks.EarlyStopping, callbacks.ReduceLROnPlateau])
def test_how_long_a_callback_has_waited(kind):
    """It is state, as is the best of the results."""

    def begun():
        callback, model = kind("loss", patience=5), new_model()
        model.compile("sgd", "mse")
        callback.set_model(model)
        callback.on_train_begin()
        return callback

    one, other = begun(), begun()
    for epoch, loss in enumerate((0.5, 0.25, 1.0, 1.0)):
        one.on_epoch_end(epoch, {"loss": loss})
    CallbackStates([other]).set(CallbackStates([one]).get())
    assert (2, 0.25) == (one.wait, one.best) == (other.wait, other.best)


def test_early_stopping_restores_the_best_weights():
    """The weights of the best epoch are back, in the user's model, and fit has stopped."""
    kept = []
    keep = callbacks.LambdaCallback(on_epoch_end=lambda *_: kept.append(model.get_weights()))
    model = new_model()
    stopping = callbacks.EarlyStopping(patience=2, restore_best_weights=True)
    _, _, history = by_trainer([keep, TooHigh(), stopping], model=model, epochs=6)
    assert 4 == len(history["loss"])
    assert (3, 1) == (stopping.stopped_epoch, stopping.best_epoch)
    for best, now in zip(kept[1], model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, best)


def test_terminate_on_nan():
    """Training ends at the batch whose loss is no number, as under Keras."""
    expected = by_keras([callbacks.TerminateOnNaN()], diverging())
    actual = by_trainer([callbacks.TerminateOnNaN()], diverging())
    assert int(expected[1].iterations) == int(actual[1].iterations) < 4 * BATCHES
    assert len(expected[2]["loss"]) == len(actual[2]["loss"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("save_freq", [1, 4])
def test_model_checkpoint_by_batches(tmp_path, save_freq):
    """With a number as save_freq the same batches are saved, with the same weights."""
    runs = {}
    for name, run in {"keras": by_keras, "trainer": by_trainer}.items():
        path = str(tmp_path / name / "{epoch}-{batch}.weights.h5")
        saving = callbacks.ModelCheckpoint(path, save_freq=save_freq, save_weights_only=True)
        run([saving], epochs=2)
        runs[name] = {p.name: p for p in sorted((tmp_path / name).iterdir())}
    assert 2 * BATCHES // save_freq == len(runs["keras"])
    assert runs["keras"].keys() == runs["trainer"].keys()
    expected, actual = new_model(), new_model()
    for name in runs["keras"]:
        expected.load_weights(runs["keras"][name])
        actual.load_weights(runs["trainer"][name])
        assert assertions.largest_difference(expected, actual) <= 1e-6


def test_model_checkpoint_saves_the_compiled_model(tmp_path):
    """A saved model is compiled with the trainer's optimizer and its state, and goes on."""
    path = tmp_path / "model.keras"
    model, optimizer, _ = by_trainer([callbacks.ModelCheckpoint(path)], epochs=2)
    loaded = keras.models.load_model(path)
    assert assertions.largest_difference(model, loaded) == 0
    assert isinstance(loaded.optimizer, keras.optimizers.Adam)
    assert 2 * BATCHES == int(loaded.optimizer.iterations)
    for a, b in zip(optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    expected, _, _ = by_keras([], epochs=3)
    loaded.fit(X, Y, **FIT)
    assert assertions.largest_difference(expected, loaded) <= 1e-6


@pytest.mark.slow
def test_csv_logger(tmp_path):
    """The file has the epochs, the names and the numbers of the history."""
    _, _, history = by_trainer([callbacks.CSVLogger(tmp_path / "log.csv")])
    with open(tmp_path / "log.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert ["0", "1", "2", "3"] == [line["epoch"] for line in lines]
    for name, values in history.items():
        assert values == pytest.approx([float(line[name]) for line in lines], rel=1e-6)


def test_tensorboard(tmp_path):
    """TensorBoard finds the model, and writes train and validation events."""
    pytest.importorskip("tensorboard")
    by_trainer([callbacks.TensorBoard(tmp_path, histogram_freq=1, update_freq=1)], epochs=2)
    assert {"train", "validation"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("on_epoch", [False, True])
def test_swap_ema_weights(on_epoch):
    """The averaged weights serve validation (and the end), the trained ones training."""

    def optimizer():
        return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)

    expected = by_keras([callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)], optimizer(), epochs=2)
    actual = by_trainer([callbacks.SwapEMAWeights(swap_on_epoch=on_epoch)], optimizer(), epochs=2)
    assert_same(expected, actual)
    plain = by_trainer([], optimizer(), epochs=2)
    assert plain[2]["val_loss"] != actual[2]["val_loss"] or not on_epoch


class Interrupt(callbacks.Callback):
    """Raises at the start of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [False, True])
def test_backup_and_restore(tmp_path, shuffle):
    """An interrupted fit that is started again ends where an uninterrupted one ends."""

    def run(callback_list):
        model = new_model()
        trainer = Trainer(model, optimizer=adam(), loss="mse", seed=3)
        fit = {**FIT, "shuffle": shuffle, "epochs": 4, "callbacks": callback_list}
        try:
            trainer.fit(X, Y, **fit)
        except KeyboardInterrupt:
            pass
        return model, trainer

    expected, _ = run([])
    path = tmp_path / "backup"
    run([callbacks.BackupAndRestore(path), Interrupt(2)])
    assert 2 == json.loads((path / "training_metadata.json").read_text())["epoch"]
    actual, trainer = run([callbacks.BackupAndRestore(path)])
    assert 4 * BATCHES == int(trainer.optimizer.iterations)
    assert assertions.largest_difference(expected, actual) <= 1e-6
    assert not path.exists()


def test_backup_is_not_remembered(tmp_path):
    """The epoch that a backup began at does not shorten a later fit of the same trainer."""
    path = tmp_path / "backup"
    trainer = Trainer(new_model(), optimizer=adam(), loss="mse")
    fit = {**FIT, "epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(X, Y, **fit, callbacks=[callbacks.BackupAndRestore(path), Interrupt(2)])
    resumed = trainer.fit(X, Y, **fit, callbacks=[callbacks.BackupAndRestore(path)])
    assert [2] == resumed.epoch
    assert [0, 1, 2] == trainer.fit(X, Y, **fit).epoch


def test_callback_list():
    """A CallbackList that the user made is used as it is; its History is returned."""
    model = new_model()
    seen = []
    note = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(sorted(logs)))
    made = callbacks.CallbackList([note], add_history=True, model=model, epochs=2, steps=BATCHES)
    trainer = Trainer(model, optimizer=adam(), loss="mse")
    history = trainer.fit(X, Y, **FIT, epochs=2, callbacks=made)
    assert [["loss", "val_loss"]] * 2 == seen
    assert 2 == len(history.history["loss"])


@pytest.mark.slow
def test_callback_list_without_history():
    """A CallbackList without History trains too."""
    model = new_model()
    made = callbacks.CallbackList([callbacks.Callback()], model=model)
    trainer = Trainer(model, optimizer=adam(), loss="mse")
    trainer.fit(X, Y, **FIT, epochs=2, callbacks=made)
    assert 2 * BATCHES == int(trainer.optimizer.iterations)


@pytest.mark.parametrize("known", [tiers.slow(True), False])
def test_callback_list_is_told_of_the_model(known):
    """Its callbacks have the model that trains, and the model the history, as by Keras's fit."""
    model, note = new_model(), callbacks.Callback()
    other = new_model() if known else None
    made = callbacks.CallbackList([note], add_history=True, model=other)
    trainer = Trainer(model, optimizer=adam(), loss="mse")
    history = trainer.fit(X, Y, **FIT, callbacks=made)
    assert model is note.model
    assert history is model.history
    trainer.fit(X, Y, **FIT)
    assert history is not model.history


def test_the_users_history():
    """A History that is passed in is the one that is returned."""
    mine = callbacks.History()
    trainer = Trainer(new_model(), optimizer=adam(), loss="mse")
    assert mine is trainer.fit(X, Y, **FIT, callbacks=[mine])


def test_one_callback_alone():
    """A single callback need not be in a list, as in Keras."""
    seen = []
    note = callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(1))
    by_trainer(note, epochs=2)
    assert [1, 1] == seen


# Order ------------------------------------------------------------------------


class Events(callbacks.Callback):
    """Notes each event with its number."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.logs = {}


def _noting(name):
    def note(self, *args, **kwargs):
        self.seen.append(" ".join([name, *(str(a) for a in args if isinstance(a, int))]))
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, dict)]
        self.logs[self.seen[-1]] = {k: float(v) for k, v in given[0].items()} if given else None

    return note


for _moment in ("begin", "end"):
    for _what in ("train", "epoch", "train_batch", "test", "test_batch"):
        setattr(Events, f"on_{_what}_{_moment}", _noting(f"{_what} {_moment}"))


def test_order_of_events():
    """The order is the one that the docstring of `kerastrain.loop.fit_loop` states."""
    events = Events()
    by_trainer([events], epochs=2)
    epoch = """
        epoch begin {0}
        train_batch begin 0, train_batch end 0, train_batch begin 1, train_batch end 1
        train_batch begin 2, train_batch end 2
        test begin
        test_batch begin 0, test_batch end 0, test_batch begin 1, test_batch end 1
        test end
        epoch end {0}
    """
    text = "train begin" + epoch.format(0) + epoch.format(1) + "train end"
    expected = [e.strip() for line in text.splitlines() for e in line.split(",") if e.strip()]
    assert expected == events.seen


def test_logs_equal_keras():
    """Every event's logs have Keras's names and numbers, per batch too."""
    expected, actual = Events(), Events()
    by_keras([expected], epochs=2)
    by_trainer([actual], epochs=2)
    assert expected.seen == actual.seen
    for event, logs in expected.logs.items():
        if logs is None:
            assert actual.logs[event] is None, event
        else:
            assert list(logs) == list(actual.logs[event]), event
            assert list(logs.values()) == pytest.approx(
                list(actual.logs[event].values()), abs=1e-6
            ), event


def test_logs_of_evaluate_equal_keras():
    """The same for evaluate."""
    expected, actual = Events(), Events()
    model = new_model()
    model.compile("sgd", "mse", metrics=["mae"])
    model.evaluate(X, Y, batch_size=4, callbacks=[expected], verbose=0)
    trainer = Trainer(new_model(), optimizer="sgd", loss="mse", metrics=["mae"])
    trainer.evaluate(X, Y, batch_size=4, callbacks=[actual], verbose=0)
    assert expected.seen == actual.seen
    for event, logs in expected.logs.items():
        assert (logs or {}) == pytest.approx(actual.logs[event] or {}, abs=1e-6), event


def test_history_params():
    """Callbacks find Keras's parameters of the run."""
    seen = {}
    for name, run in {"keras": by_keras, "trainer": by_trainer}.items():
        note = callbacks.Callback()
        run([note], epochs=2)
        seen[name] = note.params
    assert seen["keras"] == seen["trainer"]


# Stopping ---------------------------------------------------------------------


class Stop(callbacks.Callback):
    """Sets stop_training at an event."""

    def __init__(self, event, number):
        super().__init__()

        def stop(at=None, logs=None):
            if at == number:
                self.model.stop_training = True

        setattr(self, event, stop)


class StopAtBatch(callbacks.Callback):
    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == self.batch


@pytest.mark.parametrize(
    "make",
    [
        lambda: StopAtBatch(1),
        tiers.slow(lambda: Stop("on_epoch_end", 1)),
        tiers.slow(lambda: Stop("on_epoch_begin", 1)),
    ],
    ids=["batch", "end of epoch", "begin of epoch"],
)
def test_stop_training(make):
    """Training stops where Keras stops, with validation and the end events."""
    expected_events, events = Events(), Events()
    expected = by_keras([make(), expected_events])
    actual = by_trainer([make(), events])
    assert expected_events.seen == events.seen
    assert_same(expected, actual)
    assert "train end" == events.seen[-1]


def test_stop_before_the_steps_of_an_epoch():
    """As in Keras one of its steps runs, also where nobody listens and many run at a time."""
    expected = by_keras([Stop("on_epoch_begin", 1)])
    assert BATCHES + 1 == int(expected[1].iterations)
    assert_same(expected, by_trainer([Stop("on_epoch_begin", 1)], execution="loop"))


def test_stop_does_not_last():
    """A stopped trainer trains again when fit is called again."""
    trainer = Trainer(new_model(), optimizer=adam(), loss="mse")
    trainer.fit(X, Y, **FIT, callbacks=[StopAtBatch(0)])
    assert 1 == int(trainer.optimizer.iterations)
    trainer.fit(X, Y, **FIT)
    assert 1 + BATCHES == int(trainer.optimizer.iterations)


def test_stop_evaluating():
    """stop_evaluating ends an evaluation after its batch, as in Keras."""

    class StopTest(callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            self.model.stop_evaluating = True

    model = new_model()
    model.compile("sgd", "mse")
    expected = model.evaluate(X, Y, batch_size=4, callbacks=[StopTest()], verbose=0)
    trainer = Trainer(new_model(), optimizer="sgd", loss="mse")
    actual = trainer.evaluate(X, Y, batch_size=4, callbacks=[StopTest()], verbose=0)
    assert expected == pytest.approx(actual, abs=1e-6)
    assert actual != pytest.approx(trainer.evaluate(X, Y, verbose=0))


# Errors and the model ---------------------------------------------------------

EVENTS = [
    f"on_{what}_{moment}"
    for what in ("train", "epoch", "train_batch", "test", "test_batch")
    for moment in ("begin", "end")
]


@pytest.fixture(scope="module")
def shared():
    """A trainer around a compiled model that many errors go through."""
    model = new_model()
    model.compile("sgd", "mae")
    return Trainer(model, optimizer=adam(), loss="mse")


@pytest.mark.parametrize(
    "event",
    tiers.cases(
        EVENTS,
        [
            "on_train_begin",
            "on_train_batch_end",
            "on_test_batch_end",
            "on_epoch_end",
            "on_train_end",
        ],
    ),
)
def test_callback_that_raises(event, shared):
    """The error reaches the user as it is; the model is compiled as the user had it."""

    def fail(*args, **kwargs):
        raise LookupError("mine")

    callback = type("Raises", (callbacks.Callback,), {event: fail})()
    before = _keras.compile_state(shared.model)
    with pytest.raises(LookupError, match="^'?mine'?$"):
        shared.fit(X, Y, **FIT, callbacks=[callback])
    after = _keras.compile_state(shared.model)
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert ["loss", "val_loss"] == list(shared.fit(X, Y, **FIT).history)


def test_callbacks_see_the_trainers_optimizer():
    """Inside, self.model.optimizer, loss and metrics are the trainer's; afterwards the user's."""
    seen = []

    class Look(callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append((self.model.optimizer, self.model.loss, self.model.compiled))

        def on_test_begin(self, logs=None):
            self.on_train_begin()

    model = new_model()
    model.compile("sgd", "mae")
    users = model.optimizer
    optimizer = adam()
    Trainer(model, optimizer=optimizer, loss="mse").fit(X, Y, **FIT, callbacks=[Look()])
    assert [(optimizer, "mse", True)] * 2 == seen
    assert (users, "mae") == (model.optimizer, model.loss)


def test_callback_changes_the_learning_rate_in_the_middle():
    """An assignment to the optimizer's learning rate acts on the next batch, as in Keras."""

    class Halve(callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.optimizer.learning_rate = 0.5 * float(self.model.optimizer.learning_rate)

    assert_same(by_keras([Halve()], epochs=2), by_trainer([Halve()], epochs=2))


@pytest.mark.slow
def test_callback_sets_weights():
    """Weights that a callback sets are trained on."""

    class Zero(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.set_weights([w * 0 for w in self.model.get_weights()])

    assert_same(by_keras([Zero()], epochs=2), by_trainer([Zero()], epochs=2))


def test_callback_evaluates_and_predicts():
    """A callback may evaluate and predict with its model; training is not disturbed."""

    class Looks(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.loss = self.model.evaluate(X[:5], Y[:5], verbose=0, return_dict=True)["loss"]
            self.model.predict(X[:2], verbose=0)

    looks = Looks()
    actual = by_trainer([looks], epochs=2)
    assert actual[2]["val_loss"][-1] == pytest.approx(looks.loss, abs=1e-6)
    assert_same(by_keras([], epochs=2), actual)


# Who listens ------------------------------------------------------------------


class Steps(execution.Steps):
    """Notes which kinds of steps run, and whether they report."""

    ran: list = []

    def loop(self, kind, outputs_per_call=0, *how, **more):
        Steps.ran.append(kind + "_and_report" * bool(outputs_per_call))
        return super().loop(kind, outputs_per_call, *how, **more)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (list, {"train", "test"}),
        tiers.slow(lambda: [callbacks.EarlyStopping()], {"train", "test"}),
        tiers.slow(lambda: [callbacks.LearningRateScheduler(lambda e: 0.1)], {"train", "test"}),
        tiers.slow(lambda: [callbacks.TerminateOnNaN()], {"train_and_report", "test"}),
        tiers.slow(lambda: [StopAtBatch(9)], {"train_and_report", "test"}),
        (lambda: [Events()], {"train_and_report", "test_and_report"}),
    ],
    ids=["none", "EarlyStopping", "LearningRateScheduler", "TerminateOnNaN", "train", "both"],
)
def test_results_are_computed_for_listeners_only(make, expected, monkeypatch):
    """Where no callback listens to batches, the step that reports is not run."""
    monkeypatch.setattr("kerastrain.preparation.prepare.Steps", Steps)
    Steps.ran = []
    by_trainer(make(), epochs=1)
    assert expected == set(Steps.ran)


def test_a_listener_set_on_the_instance():
    """A batch method that was assigned to the object is called too, with logs."""
    seen = []
    callback = callbacks.Callback()
    callback.on_train_batch_end = lambda batch, logs: seen.append(sorted(logs))
    by_trainer([callback], epochs=1)
    assert [["loss", "mae"]] * BATCHES == seen


def test_names_by_position_become_names_by_class():
    """Of callbacks, and of nothing else; what is named by class stays as it is."""
    named = {
        "others/callbacks/2/a/0": 1,
        "callbacks/1/t@1": 2,
        "callbacks/7/t": 3,
        "callbacks/A#0/t": 4,
        "others/model/callbacks/0/t": 5,
    }
    by_class = ["others/callbacks/A#1/a/0", "callbacks/B#0/t@1", *list(named)[2:]]
    found = named_by_class(named, ["A", "B", "A"])
    assert dict(zip(by_class, named.values(), strict=True)) == found
    assert found == named_by_class(found, ["A", "B", "A"])
