"""The benchmarks of exactness, its cost and micro-batches' memory: their figures; no time asserted."""

import doctest
import io
import json
import math

import numpy as np
import pytest
import rich.console

from benchmarks import exactness
from benchmarks import exactness_cost
from benchmarks import harness
from benchmarks import micro_batch_memory


def printed(print_table, *arguments):
    """What a function prints to a console, as text."""
    console = rich.console.Console(file=io.StringIO(), width=130)
    print_table(*arguments, console=console)
    return console.file.getvalue()


def raises_key_error(row):
    raise KeyError(row.what)


def test_the_examples_in_the_docstrings_run():
    """They print what they say."""
    assert doctest.TestResults(failed=0, attempted=1) == doctest.testmod(exactness)


def test_names_of_rows_differ():
    """A line of the table says which row it is."""
    names = [(row.name, shown) for row in exactness.ROWS for shown in row.shown]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_quick_rows_hold_what_they_claim(tmp_path, capsys):
    """Of three rows with short batches kerastrain is exact, and no other way is."""
    file = tmp_path / "figures.json"
    lines = exactness.main(["--quick", "--json", str(file)])
    text = capsys.readouterr().out
    assert 3 == len(lines)
    for line in lines:
        assert line.name in text
        assert line.check <= exactness.TOLERANCE, line
        assert line.found["kerastrain"] <= exactness.TOLERANCE, line
        for way in ("model.fit", "hand-written loop"):
            inexact = line.found[way]
            assert isinstance(inexact, str) or not inexact <= 1e-3, (line.name, way)
            assert exactness.shown_figure(inexact) in text
    saved = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [line.found for line in lines] == [row["found"] for row in saved]


@pytest.mark.slow
def test_even_batches_are_exact_in_all_ways():
    """Where nothing can go wrong the three ways agree: they do the same work."""
    (line,) = exactness.measure(exactness.Row("mse"))
    assert set(exactness.WAYS) == set(line.found)
    assert max(line.found.values()) <= exactness.TOLERANCE, line


def test_a_way_that_crashes_is_reported(monkeypatch):
    """The exception's name stands in its column, and the other columns are measured."""
    monkeypatch.setattr(exactness, "by_hand", raises_key_error)
    (line,) = exactness.measure(exactness.Row("mse", replicas=1))
    assert "crash: KeyError" == line.found["hand-written loop"]
    assert line.found["kerastrain"] <= exactness.TOLERANCE
    assert "crash: KeyError" in printed(exactness.print_table, [line])
    assert "crash: KeyError" in exactness.rst_table([line])


def test_a_reference_that_cannot_be_trusted_is_named():
    """A row where one device of kerastrain is elsewhere is printed under the table."""
    found = dict.fromkeys(exactness.WAYS, 0.5)
    text = printed(exactness.print_table, [exactness.Figures("row", found, check=0.25)])
    assert "row: kerastrain on one device is 2.5e-01 from model.fit." in text


@pytest.mark.parametrize(("value", "text"), [(math.nan, "nan"), (math.inf, "inf"), (2.0, "2.0e0")])
def test_figures_that_are_not_small_are_shown(value, text):
    """A NaN is not taken for a small difference."""
    assert text == exactness.shown_figure(value)


def test_the_rst_table_is_one():
    """Columns begin where the rules say, whatever is in the cells."""
    found = dict(zip(exactness.WAYS, [0.27, "crash: ValueError", 0.0], strict=True))
    lines = exactness.rst_table([exactness.Figures("a rather long name", found, 0.0)]).split("\n")
    rule, head, below, row, end = lines
    assert rule == below == end
    assert {"=", " "} == set(rule)
    starts = [i for i, c in enumerate(rule) if c == "=" and (i == 0 or rule[i - 1] == " ")]
    ends = [*(start - 1 for start in starts[1:]), None]
    cells = [row[start:end].strip() for start, end in zip(starts, ends, strict=True)]
    assert ["a rather long name", "2.7e-1", "crash: ValueError", "0"] == cells
    assert exactness.WAYS[0] == head[starts[1] : starts[2]].strip()


def test_a_pattern_without_rows_is_refused(capsys):
    """The message names the pattern."""
    with pytest.raises(SystemExit):
        exactness.main(["--rows", "no such row"])
    assert "no row's name holds 'no such row'" in capsys.readouterr().err


@pytest.mark.slow
def test_exactness_cost_runs_and_prints(tmp_path, capsys):
    """Each model is raced with equal weights, saved, and nothing is traced again."""
    file = tmp_path / "times.json"
    title = exactness_cost.WORKS[0].title
    (result,) = exactness_cost.main(["--quick", "--work", title, "--json", str(file)])
    assert ["usual", "exact"] == list(result.times)
    assert {"usual": 0, "exact": 0} == result.retraces
    assert f"{title}, 2 replicas: exactness costs " in capsys.readouterr().out
    saved = json.loads(file.read_text(encoding="utf-8"))["races"]
    assert [result.times] == [race["times"] for race in saved]


def test_the_cost_is_the_median_ratio_less_one():
    """Here the ratios are 1.1, 1.2 and 1.5."""
    times = {"usual": [1.0, 2.0, 2.0], "exact": [1.1, 3.0, 2.4]}
    result = harness.Race("t", "usual", times, {}, {})
    assert "t: exactness costs +20.0 % (+15.0 .. +35.0)" == exactness_cost.cost_line(result)


@pytest.mark.slow
def test_micro_batches_save_memory(tmp_path, capsys):
    """Eight parts need less than the whole batch, in both models, for the same weights."""
    file = tmp_path / "memory.json"
    found = micro_batch_memory.main(["--quick", "--json", str(file)])
    text = capsys.readouterr().out
    for name, results in found.items():
        assert [1, 8] == [one.micro_batches for one in results]
        assert results[1].peak < 0.9 * results[0].peak, (name, results)
        assert results[1].difference <= micro_batch_memory.TOLERANCE
        assert micro_batch_memory.WORKS[name].title in text
    saved = json.loads(file.read_text(encoding="utf-8"))["results"]
    assert list(found) == list(saved)


def test_memory_of_other_work_is_not_printed(monkeypatch, capsys):
    """Weights that depend on the number of parts stop the benchmark before the table."""
    weights = {1: [np.zeros(2)], 8: [np.ones(2)]}
    monkeypatch.setattr(
        micro_batch_memory,
        "measure",
        lambda name, count, rows, directory: ({"peak": 1, "seconds": 1.0}, weights[count]),
    )
    with pytest.raises(AssertionError, match="perceptron: 8 micro-batches ended 1 from the whole"):
        micro_batch_memory.main(["--quick"])
    assert "" == capsys.readouterr().out


@pytest.mark.slow
def test_a_process_that_fails_is_an_error(tmp_path):
    """Its last lines are in the message."""
    with pytest.raises(RuntimeError, match="(?s)no such model.*ended with 1.*KeyError"):
        micro_batch_memory.measure("no such model", 1, 1, tmp_path)
