"""What one process has measured of plans is a hint for the next, and never a reason to fail."""

import json
import os

import keras
import numpy as np
import pytest

from kerastrain import Execution
from kerastrain import Trainer
from kerastrain.execution import plan_records
from kerastrain.execution.plan_records import PlanRecord
from kerastrain.execution.plan_records import PlanRecords
from kerastrain.execution.plan_records import Recalled
from tests.execution.test_plan_choice import Machine

RECORD = PlanRecord({"loop": 1e-3, "xla_loop": 1e-4}, {"loop": 0.2, "xla_loop": 0.6}, 3.0)
SECONDS = {"loop": 1e-3, "xla_loop": 1e-4}


@pytest.fixture
def records(tmp_path):
    return PlanRecords(lambda: "key", tmp_path)


def machine(records, seconds=SECONDS):
    """A process of its own."""
    new = Machine(seconds)
    new.choice.recalled = Recalled(records)
    return new


# The next process ---------------------------------------------------------------


def test_the_next_process_begins_with_the_fastest(records):
    """Without a trial, where steps enough are to come; else with the plan that compiles sooner."""
    assert ["loop", "xla_loop"] == machine(records).run(100_000).prepared
    again = machine(records).run(10_000)
    assert ["xla_loop"] == again.prepared
    assert {"xla_loop"} == {name for name, _ in again.ran}
    assert again.choice.is_settled
    assert ["loop"] == machine(records).run(100).prepared


def test_of_unknown_length(records):
    """As many steps as there were decide which plan is the first."""
    records.keep(RECORD)
    assert ["xla_loop"] == machine(records).run(1000, known=False).prepared
    records.keep(PlanRecord(RECORD.seconds, RECORD.compile_seconds, 0.01))
    assert "loop" == machine(records).run(100, known=False).prepared[0]


def test_what_is_true_no_more_is_forgotten(records):
    """Another machine, or another program beside it: plans are compared anew."""
    records.keep(RECORD)
    again = machine(records, {"loop": 1e-3, "xla_loop": 4e-3}).run(100_000)
    assert ["xla_loop", "loop"] == again.prepared
    assert "loop" == again.choice.plan.name
    assert pytest.approx(4e-3) == records.find().seconds["xla_loop"]


def test_a_slower_machine(records):
    """All plans are slower by as much: the order is believed."""
    records.keep(RECORD)
    again = machine(records, {"loop": 1.5e-3, "xla_loop": 1.5e-4}).run(10_000)
    assert ["xla_loop"] == again.prepared
    assert pytest.approx(1.5e-3) == again.choice.seconds["loop"]


def test_a_price_that_is_known(records):
    """What XLA has taken to compile decides whether it is worth a trial, not what it takes elsewhere."""
    seconds = {"loop": 1e-3, "xla_loop": 6e-4}
    assert "xla_loop" not in machine(None, seconds).run(1500).prepared
    records.keep(PlanRecord({"loop": 1e-3}, {"xla_loop": 0.1}, 1.0))
    assert "xla_loop" in machine(records, seconds).run(1500).prepared


def test_a_plan_that_compiles_no_more(records):
    """The next one runs."""
    records.keep(RECORD)
    again = machine(records)
    again.failing["xla_loop"] = ValueError("no kernel")
    assert ["xla_loop", "loop"] == again.run(100_000).prepared
    assert 100_000 == again.steps_of("loop")


# Files --------------------------------------------------------------------------


def test_kept_and_found(records, tmp_path):
    """As it was, for the same key only."""
    assert records.find() is None
    records.keep(RECORD)
    assert RECORD == records.find()
    assert PlanRecords(lambda: "another key", tmp_path).find() is None
    assert 1 == len(list((tmp_path / "plans").iterdir()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "\x00\xff",
        json.dumps({"format": 2, "seconds": {}, "compile_seconds": {}, "spent": 1.0}),
        json.dumps({"format": 1, "seconds": {"loop": "fast"}, "compile_seconds": {}, "spent": 1}),
        json.dumps({"format": 1, "seconds": {"loop": -1.0}, "compile_seconds": {}, "spent": 1}),
        json.dumps({"format": 1, "seconds": {"loop": 0.0}, "compile_seconds": {}, "spent": 1}),
        '{"format": 1, "seconds": {"loop": NaN}, "compile_seconds": {}, "spent": 1}',
        json.dumps({"format": 1, "seconds": {"loop": 1.0}, "compile_seconds": {}}),
        json.dumps({"format": 1, "seconds": [1.0], "compile_seconds": {}, "spent": 1}),
    ],
)
def test_a_damaged_record_is_none(records, tmp_path, text):
    """And a new one takes its place."""
    records.keep(RECORD)
    (path,) = (tmp_path / "plans").iterdir()
    path.write_text(text, encoding="latin-1")
    assert records.find() is None
    records.keep(RECORD)
    assert RECORD == records.find()


def test_where_nothing_can_be_written(tmp_path):
    """A file is in the place of the directory."""
    (tmp_path / "plans").write_text("")
    records = PlanRecords(lambda: "key", tmp_path)
    records.keep(RECORD)
    assert records.find() is None


def test_only_the_newest_are_kept(tmp_path, monkeypatch):
    """The directory does not grow without end."""
    monkeypatch.setattr(plan_records, "_MOST", 3)
    for number in range(5):
        PlanRecords(lambda n=number: str(n), tmp_path).keep(RECORD)
        for path in (tmp_path / "plans").iterdir():  # the new one is of now, in any case the newest
            if path.stat().st_mtime > 5:
                os.utime(path, (number, number))
    found = [PlanRecords(lambda n=number: str(n), tmp_path).find() for number in range(5)]
    assert [None, None, RECORD, RECORD, RECORD] == found


@pytest.mark.parametrize(("value", "there"), [("", False), ("kept", True)])
def test_the_environment_names_the_directory(monkeypatch, tmp_path, value, there):
    """Or says that nothing is kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERASTRAIN_CACHE", value)
    records = PlanRecords(lambda: "key")
    records.keep(RECORD)
    assert (RECORD if there else None) == records.find()
    assert there == (tmp_path / "kept").exists()


# A training ---------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(512, 8)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def plans_of(units=4, **execution):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    trainer = Trainer(model, optimizer="sgd", loss="mse", execution=Execution(**execution))
    trainer.fit(X, Y, batch_size=8, epochs=2, verbose=0)
    return trainer.plans


def keep_for_all(monkeypatch, tmp_path):
    """A record that XLA is much the faster, whatever the steps are."""
    monkeypatch.setenv("KERASTRAIN_CACHE", str(tmp_path))
    record = PlanRecord({"loop": 1.0, "xla_loop": 1e-4}, {"loop": 0.2, "xla_loop": 0.2}, 60.0)
    monkeypatch.setattr(PlanRecords, "find", lambda self: self._key() and record)


def test_a_trainer_begins_with_it(monkeypatch, tmp_path):
    """The plan of the record runs first; without `cache` there is none."""
    keep_for_all(monkeypatch, tmp_path)
    assert plans_of()["train"].startswith("xla_loop")
    assert plans_of(cache=False)["train"].startswith("loop")
    assert plans_of(plan="loop")["train"].startswith("loop")
    assert plans_of(deterministic=True)["train"].startswith("loop")


def test_keys(monkeypatch, tmp_path):
    """The same for the same steps, another for another model or data."""
    keep_for_all(monkeypatch, tmp_path)
    keys = []
    monkeypatch.setattr(PlanRecords, "find", lambda self: keys.append(self._key()))
    for units in (4, 4, 5):
        plans_of(units)
    assert keys[0] == keys[1] != keys[2]
