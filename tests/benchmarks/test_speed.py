"""The speed benchmark: it runs, unequal work stops it, and what it prints follows from values."""

import doctest
import io

import numpy as np
import pytest
import rich.console

from benchmarks import speed
from benchmarks import speed_process
from benchmarks import speed_report
from benchmarks import speed_works
from benchmarks.speed_process import Result
from benchmarks.speed_process import Runner
from tests.support import tiers

TINY = {"name": "columns", "rows": 128, "batch": 32, "epochs": 1}


def text_of(show, *arguments):
    """What a table shows, as text."""
    console = rich.console.Console(file=io.StringIO(), width=120)
    show(*arguments, console)
    return console.file.getvalue()


def measured(contender, values, *, group="works", work="mlp", results=()):
    """A result as a race returns it."""
    return Result(group, work, contender, "µs/step", list(values), list(results))


def test_the_examples_in_the_docstrings_run():
    """They print what they say."""
    for module, examples in ((speed_works, 3), (speed_report, 1)):
        expected = doctest.TestResults(failed=0, attempted=examples)
        assert expected == doctest.testmod(module)


@pytest.mark.slow
def test_it_runs_and_compares_with_itself(tmp_path, capsys):
    """The quick mode: two processes, equal losses, the tables, the file, and ratios to it."""
    file = str(tmp_path / "new.json")
    arguments = ["--quick", "--groups", "overhead", "--only", "mlp"]
    results = speed.main([*arguments, "--json", file])
    text = capsys.readouterr().out
    assert ["by hand", "Trainer, plan step"] == [result.contender for result in results]
    by_hand, trainer = results
    np.testing.assert_allclose(by_hand.results, trainer.results, rtol=speed_process.TOLERANCE)
    assert 2 == len(trainer.results)
    assert all(value > 0 for result in results for value in result.values)
    assert "overhead: mlp, µs/step, 1 rounds" in text
    line = next(line for line in text.splitlines() if "above the loop by hand" in line)
    assert line.split()[-1] in ("yes", "NO")
    old = speed_report.load(file)
    assert results == [Result(**record) for record in old["results"]]
    compared = text_of(speed_report.print_comparison, results, old).splitlines()
    line = next(line for line in compared if "Trainer, plan step" in line)
    assert "1.00" == line.split()[-1]


def test_an_older_run_is_compared_with(tmp_path, monkeypatch, capsys):
    """`--compare` gives the older median over the newer one, where both are there."""
    file = tmp_path / "old.json"
    speed_report.save([measured("Trainer", [6.0, 3.0, 9.0])], file)
    new = [measured("Trainer", [3.0]), measured("by hand", [3.0])]
    monkeypatch.setattr(speed, "GROUPS", {"works": lambda settings: new})
    speed.main(["--compare", str(file)])
    compared = capsys.readouterr().out.split("compared with")[1].splitlines()
    lines = [line.split() for line in compared if "works: mlp" in line]
    assert [["works:", "mlp:", "Trainer", "µs/step", "6.00", "3.00", "2.00"]] == lines


@pytest.mark.slow
def test_unequal_losses_stop_it():
    """A contender that learns at another rate is found out before it is timed."""
    runners = [
        Runner("by hand", TINY),
        Runner("by hand", TINY | {"learning_rate": 0.01}, "by another hand"),
    ]
    with pytest.raises(speed_process.UnequalResults, match="'by another hand' found"):
        speed_process.race(runners, group="works", work="columns", rounds=1)


@pytest.mark.parametrize(
    "results", [[1.001], [float("nan")], [1.0, 1.0], []], ids=["far", "NaN", "more", "none"]
)
def test_results_that_differ_are_found(results):
    """By their values and by their number."""
    pair = [measured("a", [], results=[1.0]), measured("b", [], results=results)]
    with pytest.raises(speed_process.UnequalResults, match="'b' found"):
        speed_process.check_equal(pair)
    speed_process.check_equal([pair[0], measured("b", [], results=[1.00001])])


@pytest.mark.slow
def test_who_cannot_run_is_left_out(monkeypatch):
    """A package that is missing, and a process that fails: a line each, and no result."""
    monkeypatch.setitem(speed_process.NEEDS, "PyTorch", ("no_such_package",))
    messages = []
    runners = [Runner("PyTorch", TINY), Runner("by magic", TINY)]
    race = speed_process.race
    assert [] == race(runners, group="works", work="columns", rounds=1, tell=messages.append)
    assert "left out of columns: PyTorch: not installed: no_such_package" == messages[0]
    assert "by magic: KeyError: 'by magic'" in messages[1]


def test_ratios_pair_values_of_one_round():
    """Times as fast is a median over rounds: here the ratio of the medians would be 1.5."""
    results = [measured("model.fit", [20.0, 30.0, 90.0]), measured("Trainer", [1.0, 20.0, 30.0])]
    row = next(
        line for line in text_of(speed_report.print_results, results).splitlines() if "Tr" in line
    )
    assert ["Trainer", "20.0", "10.5..25.0", "1.00", "3.00"] == row.split()[:5]
    target = speed_report.faster("MLP", "mlp", "model.fit", 10)
    assert 3.0 == target.measured(results)


def test_targets_say_what_was_met():
    """At least, at most, a difference; and what was not run."""
    results = [measured("model.fit", [20.0]), measured("Trainer", [2.0])]
    results += [
        measured("by hand", [500.0], group="overhead"),
        measured("Trainer, plan step", [520.0], group="overhead"),
    ]
    (overhead,) = (target for target in speed_report.TARGETS if target.group == "overhead")
    assert overhead.least <= -20.0 <= overhead.most == 10.0  # To be the faster one meets it.
    lines = text_of(speed_report.print_targets, results).splitlines()
    found = {line.split("  ")[0].strip(): line.split()[-2:] for line in lines}
    assert ["10.00", "yes"] == found["MLP, NumPy arrays, times as fast as model.fit"]
    assert ["20.00", "NO"] == found["plan `step`, µs a step above the loop by hand"]
    assert "LSTM, times as fast as model.fit" not in found
    assert (
        f"{len(speed_report.TARGETS) - 2} of {len(speed_report.TARGETS)} were not run" in lines[0]
    )


@pytest.mark.parametrize("name", tiers.without(speed_works.WORKS, ["large"]))
def test_data_fit_the_model(name):
    """Logits have the shape that labels ask for; weights do not depend on the process."""
    work = speed_works.WORKS[name].quick()
    x, y = speed_works.make_data(work)
    assert 4 == work.steps
    model = speed_works.make_model(work)
    logits = np.asarray(model(x[:2]))
    assert (2, 1 if work.binary else speed_works.CLASSES) == logits.shape
    assert len(x) == len(y) == work.rows
    first = model.get_weights()
    speed_works.set_weights(model)
    for expected, weight in zip(first, model.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, weight)


def test_unknown_names_are_refused(capsys):
    """The message has the names that there are."""
    with pytest.raises(SystemExit):
        speed.main(["--only", "mpl"])
    assert "there is no mpl. There are: mlp, convnet" in capsys.readouterr().err
