"""What people read in a run directory: the configuration, the history, and what has happened."""

import csv
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from kerastrain import _keras
from kerastrain import NonFiniteError
from kerastrain import run_files
from kerastrain import RunDir
from kerastrain import RunError
from kerastrain import Trainer
from kerastrain.run import run_log
from kerastrain.run.position import Position
from tests.support import datasets
from tests.support import models

X, Y, _ = datasets.regression(rows=24)


def fit(directory, epochs=3, callbacks=(), x=X, **options):
    keras.utils.set_random_seed(2)
    options = {"optimizer": "adam", "loss": "mse", "metrics": ["mae"], "seed": 0} | options
    trainer = Trainer(models.mlp(), **options)
    data = {"validation_data": (X[:6], Y[:6]), "batch_size": 8, "verbose": 0}
    run_dir = RunDir(directory, save_every=1)
    return trainer.fit(x, Y, epochs=epochs, callbacks=[*callbacks], run_dir=run_dir, **data)


def rows(directory):
    return list(csv.DictReader((directory / "history.csv").open(newline="")))


def events(directory):
    return [json.loads(line) for line in (directory / "events.jsonl").open()]


class Stop(keras.callbacks.Callback):
    """Interrupts a training in its third epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations == 8:
            raise KeyboardInterrupt


def test_history(tmp_path):
    """A row for each epoch, of the numbers that `fit` returns."""
    history = fit(tmp_path).history
    found = rows(tmp_path)
    assert ["epoch", "steps", "seconds", "learning_rate", *sorted(history)] == list(found[0])
    assert ["1", "2", "3"] == [row["epoch"] for row in found]
    assert ["3", "6", "9"] == [row["steps"] for row in found]
    for name, values in history.items():
        assert [float(row[name]) for row in found] == pytest.approx([float(v) for v in values])
    assert [0.001] * 3 == pytest.approx([float(row["learning_rate"]) for row in found])
    assert all(float(row["seconds"]) > 0 for row in found)


class Decaying(keras.optimizers.schedules.LearningRateSchedule):
    """A rate by the number of the step; of some kinds, each call changes something."""

    def __init__(self, kind):
        self.kind, self.calls = kind, 0
        self.variable = keras.Variable(1.0, trainable=False)

    def __call__(self, step):
        self.calls += 1
        if self.kind == "assigns":
            self.variable.assign(0.5 * self.variable)
        return self.variable / (1.0 + keras.ops.cast(step, "float32"))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (keras.optimizers.schedules.InverseTimeDecay(1.0, 1, 1.0), 0.25),
        (Decaying("counts in Python"), 0.25),
        (Decaying("assigns"), None),
        (lambda: 0.125, 0.125),
    ],
)
def test_a_learning_rate_is_read_without_a_change(schedule, expected):
    """A schedule that changes a variable at each call cannot be asked between steps."""
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.iterations.assign(3)
    assert expected == _keras.current_learning_rate(optimizer)
    if isinstance(schedule, Decaying):
        assert (0, 1.0) == (schedule.calls, float(schedule.variable))


def test_config(tmp_path):
    """Model, optimizer, loss, data, versions, and the command."""
    fit(tmp_path, callbacks=[keras.callbacks.EarlyStopping()])
    config = json.loads((tmp_path / "config.json").read_text())
    parameters = models.mlp().count_params()
    assert parameters == config["model"]["parameters"] == config["model"]["trainable_parameters"]
    assert "Total params" in config["model"]["summary"]
    assert "Adam" == config["optimizer"]["class"]
    assert 0.001 == pytest.approx(config["optimizer"]["learning_rate"])
    assert ("mse", 3, 3) == (config["loss"], config["epochs"], config["steps_per_epoch"])
    assert {"x", "validation_data"} == config["data"].keys()
    assert "EarlyStopping" in config["callbacks"]
    assert keras.__version__ == config["process"]["versions"]["keras"]
    assert os.getcwd() == config["process"]["directory"]


def test_events(tmp_path):
    """From the begin to the end, with the plan and what was saved."""
    fit(tmp_path)
    found = events(tmp_path)
    names = [event["event"] for event in found]
    assert ("begin", "end") == (names[0], names[-1])
    assert {"begin", "plan", "save", "end"} == {*names}
    assert 1 == names.count("plan")
    assert [9] == [event["steps"] for event in found if event["event"] == "save"][-1:]
    assert {"compiling", "step", "validation"} <= found[-1]["seconds"].keys()


def test_a_resumed_training_writes_on(tmp_path):
    """The interruption and the resume are events, and each epoch has one row."""
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "a", callbacks=[Stop()])
    assert ["1", "2"] == [row["epoch"] for row in rows(tmp_path / "a")]
    before = (tmp_path / "a" / "config.json").read_text()
    fit(tmp_path / "a", epochs=4)
    fit(tmp_path / "b", epochs=4)
    whole, resumed = rows(tmp_path / "b"), rows(tmp_path / "a")
    for one, other in zip(whole, resumed, strict=True):
        for name in one.keys() - {"seconds"}:
            assert one[name] == other[name], name
    names = [event["event"] for event in events(tmp_path / "a")]
    assert ["begin", "interrupted", "resume", "end"] == [
        n for n in names if n not in ("plan", "save")
    ]
    assert before == (tmp_path / "a" / "config.json").read_text()
    resumed = next(event for event in events(tmp_path / "a") if event["event"] == "resume")
    assert 4 == resumed["epochs"]


def test_skipped_batches(tmp_path):
    """By epoch and step, counted from 1."""
    x = X.copy()
    x[9] = np.nan
    fit(tmp_path, epochs=1, x=x, guard="skip", metrics=[], lint="off")
    skips = [event for event in events(tmp_path) if event["event"] == "skip"]
    assert [1] == [event["epoch"] for event in skips]
    assert 1 <= skips[0]["step"] <= 3


def test_an_error_is_an_event(tmp_path):
    x = X.copy()
    x[:] = np.where(np.arange(24)[:, None] == 9, np.nan, x)
    with pytest.raises(NonFiniteError):
        fit(tmp_path, x=x, metrics=[], lint="off")
    last = events(tmp_path)[-1]
    assert "interrupted" == last["event"]
    assert last["error"].startswith("NonFiniteError: ")


def test_what_was_cut_off(tmp_path):
    """By a kill in mid-line: the row and the line are left out, and the next begin lines of their own."""
    fit(tmp_path, epochs=2)
    for name in ("history.csv", "events.jsonl"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-7])
    fit(tmp_path, epochs=3)
    assert ["1", "3"] == [row["epoch"] for row in rows(tmp_path)]
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    with pytest.raises(ValueError, match="."):
        [json.loads(line) for line in lines]
    assert len(lines) - 1 == len(run_files.read_events(tmp_path))
    assert {"resume", "end"} <= {event["event"] for event in run_files.read_events(tmp_path)}


def test_results_with_new_names(tmp_path):
    """A validation that comes later has columns of its own, empty before."""
    log = run_log.RunLog(tmp_path)
    log.begin(lambda: {"process": None}, Position(), run_log.Times())
    log.epoch(Position(epoch=1, steps=3, epoch_logs={"loss": 1.0}), 0.1, {}, [])
    log.epoch(Position(epoch=2, steps=6, epoch_logs={"loss": 0.5, "val_loss": 2.0}), 0.1, {}, [])
    assert [("1.0", ""), ("0.5", "2.0")] == [(r["loss"], r["val_loss"]) for r in rows(tmp_path)]


def test_a_configuration_that_cannot_be_made(tmp_path):
    """Says why; the training is not ended by it."""

    def fails():
        raise ValueError("as it likes")

    log = run_log.RunLog(tmp_path)
    log.begin(fails, Position(), run_log.Times())
    assert "ValueError: as it likes" == json.loads((tmp_path / "config.json").read_text())["failed"]


def test_a_file_that_cannot_be_written(tmp_path):
    """Is one warning, and the training goes on."""
    (tmp_path / "history.csv").mkdir()
    with pytest.warns(match="The log in .* is written no more") as record:
        fit(tmp_path)
    assert 1 == len([one for one in record if "The log in" in str(one.message)])


def test_nothing_is_written_before_the_begin(tmp_path):
    """As on workers that are not the chief."""
    log = run_log.RunLog(tmp_path)
    log.epoch(Position(epoch=1), 0.1, {}, [])
    log.event("save")
    log.end(None)
    assert [] == os.listdir(tmp_path)


def test_a_directory_of_another_run(tmp_path):
    """Is left as it is; a save warns of it."""

    def another():
        raise RunError("as it is")

    log = run_log.RunLog(tmp_path, another)
    log.begin(lambda: {"process": None}, Position(), run_log.Times())
    log.epoch(Position(epoch=1), 0.1, {}, [])
    log.end(None)
    assert [] == os.listdir(tmp_path)


def test_the_state_in_git(tmp_path):
    """The commit of the script, and whether files differ from it."""
    from kerastrain.run import run_config

    script = tmp_path / "train.py"
    script.write_text("pass\n")

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(script)])
        assert run_config.process()["git"] is None
        git("init", "-q")
        git("add", ".")
        git("commit", "-qm", "first")
        clean = run_config.process()["git"]
        script.write_text("1\n")
        changed = run_config.process()["git"]
    assert (40, False) == (len(clean["commit"]), clean["is_changed"])
    assert {**clean, "is_changed": True} == changed
