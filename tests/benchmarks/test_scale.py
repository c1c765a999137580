"""The scale benchmark: the formula, what is derived from measurements, and that it measures."""

import doctest
import io
import json
import math
import sys

import numpy as np
import pytest
import rich.console

from benchmarks import scale
from benchmarks import scale_measure
from benchmarks import scale_model
from benchmarks import scale_plot
from benchmarks.scale_model import efficiency
from benchmarks.scale_model import FIXED
from benchmarks.scale_model import Link
from benchmarks.scale_model import step_seconds
from benchmarks.scale_model import Work
from tests.support import workers

WORK = Work("w", compute=0.1, gradient_bytes=1e8)
LINK = Link(alpha=1e-3, bandwidth=1e9)


def text_of(show, *arguments):
    """What is printed, as text."""
    console = rich.console.Console(file=io.StringIO(), width=200)
    show(*arguments, console)
    return console.file.getvalue()


def measured():
    """As if two workers took 1.5 times as long side by side, and 2 times together."""
    return scale_measure.Measured(
        work={"sizes": [4, 4], "batch": 10, "steps": 2, "chunk": 4},
        gradient_bytes=1000,
        steps={
            "1, alone": [0.1, 0.1, 0.2],
            "1, together": [0.1, 0.11, 0.2],
            "2, alone": [0.15, 0.15, 0.3],
            "2, together": [0.2, 0.2, 0.4],
            "2, alone, fixed": [0.075, 0.075, 0.15],
            "2, together, fixed": [0.125, 0.125, 0.25],
        },
        spread={"1": [0.01] * 3, "2": [0.02] * 3},
        votes={"1": [0.0] * 3, "2": [0.004] * 3},
        reductions={"2": {"1000": [0.003] * 3, "2000": [0.004] * 3}},
        difference={"1": 0.0, "2": 1e-7},
        load=[0.5, 0.6],
    )


def test_the_examples_in_the_docstrings_run():
    """They print what they say."""
    for module, examples in ((scale_model, 6), (scale, 4)):
        assert doctest.TestResults(failed=0, attempted=examples) == doctest.testmod(module)


@pytest.mark.parametrize(
    "count, shape, expected", [(1, "ring", 0), (4, "ring", 6), (5, "tree", 6), (1024, "tree", 20)]
)
def test_messages(count, shape, expected):
    """2 (n - 1) in a ring, 2 ceil(log2 n) in a tree."""
    assert expected == scale_model.messages(count, shape)


def test_an_unknown_shape_is_refused():
    """It is no ring by default."""
    with pytest.raises(ValueError, match="star"):
        scale_model.messages(2, "star")


def test_a_step_by_hand():
    """Four workers: 6 messages of 1 ms, 1.5 times 100 MB at 1 GB/s."""
    assert pytest.approx(0.156) == scale_model.reduce_seconds(4, 1e8, LINK)
    assert pytest.approx(0.256) == step_seconds(4, WORK, LINK)
    assert pytest.approx(0.1 / 0.256) == efficiency(4, WORK, LINK)
    # The whole computation hides 100 ms of it, half of it 50.
    assert pytest.approx(0.156) == step_seconds(4, WORK, LINK, overlap=1.0)
    assert pytest.approx(0.206) == step_seconds(4, WORK, LINK, overlap=0.5)


def test_a_fixed_global_batch_by_hand():
    """A quarter of the rows for each, but for 20 ms that depend on none."""
    work = Work("w", compute=0.1, gradient_bytes=1e8, fixed=0.02)
    assert pytest.approx(0.02 + 0.08 / 4 + 0.156) == step_seconds(4, work, LINK, scaling=FIXED)
    assert pytest.approx(0.025 / 0.196) == efficiency(4, work, LINK, scaling=FIXED)
    assert pytest.approx(0.04 + 0.116) == step_seconds(4, work, LINK, 1.0, FIXED)


def test_stragglers_and_votes_by_hand():
    """The slowest of n is sigma sqrt(2 ln n) late; a vote is spread over its chunk."""
    work = Work("w", compute=0.1, gradient_bytes=0, sigma=0.01, vote=0.004, chunk=5)
    expected = 0.1 + 0.006 + 0.01 * math.sqrt(2 * math.log(4)) + (0.004 + 0.006) / 5
    assert pytest.approx(expected) == step_seconds(4, work, LINK)


@pytest.mark.parametrize("scaling", [scale_model.WEAK, FIXED])
@pytest.mark.parametrize("overlap", [0.0, 1.0])
def test_more_workers_are_less_efficient(scaling, overlap):
    """One is the unit, and none is above it."""
    work = Work("w", compute=0.1, gradient_bytes=1e6, sigma=1e-3, vote=1e-3, chunk=4)
    found = [efficiency(n, work, LINK, overlap, scaling) for n in (1, 2, 4, 32, 1024)]
    assert 1.0 == found[0]
    assert sorted(found, reverse=True) == found and len({*found}) == len(found)


def test_overlap_that_explains_a_value():
    """It is the inverse of the efficiency, where there is one."""
    wanted = efficiency(4, WORK, LINK, overlap=0.3)
    assert pytest.approx(0.3) == scale_model.overlap_for(wanted, 4, WORK, LINK)
    assert scale_model.overlap_for(0.99, 4, WORK, LINK) is None
    assert scale_model.overlap_for(0.1, 4, WORK, LINK) is None


def test_published_curves():
    """Each input is there, and the ranges are those that the docs name."""
    found = {}
    for one in scale_model.PUBLISHED:
        link = one.network.link(one.shape)
        none, full = (efficiency(one.workers, one.work, link, o) for o in (0.0, 1.0))
        assert none <= one.efficiency <= full
        found[one.work.name.split(",")[0]] = round(100 * none), round(100 * full)
    assert {"ResNet-50": (84, 100), "ResNet-101": (76, 100), "VGG-16": (49, 96)} == found


def test_a_link_is_found_again():
    """From all-reduces that follow the formula, whatever their sizes."""
    times = {size: scale_model.reduce_seconds(4, size, LINK) for size in (1000, 10**6, 10**8)}
    found = scale_model.fitted_link(4, times)
    np.testing.assert_allclose([LINK.alpha, LINK.bandwidth], [found.alpha, found.bandwidth])


def test_what_was_measured_is_the_input_of_the_formula():
    """All-reduces of 2 + size / 1 MB/s ms: a vote of 4 ms has 2 ms beside its two messages."""
    work = measured().as_work()
    assert ("the model measured here", 0.1, 1000, 4) == (
        work.name, work.compute, work.gradient_bytes, work.chunk,
    )  # fmt: skip
    assert pytest.approx(1e-3) == measured().link(2).alpha
    assert pytest.approx(1e6) == measured().link(2).bandwidth
    assert pytest.approx((0.01, 0.002)) == (work.sigma, work.vote)
    assert 0.15 == measured().as_work(2).compute


def test_tables_are_of_ratios_of_one_round():
    """Half as fast, three quarters for shared cores alone: the last column is 3/4 of the ideal."""
    lines = text_of(scale.print_measured, measured()).splitlines()
    rows = [line.split("  ") for line in lines if line.startswith(" 2 workers ")]
    weak, fixed, _ = ([cell.strip() for cell in row if cell.strip()] for row in rows)
    assert ["2 workers", "100", "50 % (50..50)", "67 % (67..67)", "75 % (75..75)"] == weak
    assert ["2 workers", "80", "40 % (40..40)", "67 % (67..67)", "60 % (60..60)"] == fixed
    assert any("over that of none: 1.000 (1.000..1.050)" in line for line in lines)


def test_predictions_are_printed_without_measuring(capsys):
    """The checks of published curves, and the tables of all networks."""
    assert scale.main(["--only", "predict"]) is None
    text = capsys.readouterr().out
    assert "published" in text and "predicted" in text
    assert "one worker, time under" not in text
    for network in scale_model.NETWORKS:
        assert f"weak scaling, {network.name}" in text


def test_the_picture(tmp_path, capsys, monkeypatch):
    """It is drawn with matplotlib; without it that is said, and no error."""
    arguments = measured(), scale.works(measured()), (1, 2, 1024), "ring"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not scale_plot.draw(*arguments, str(tmp_path / "none.svg"))
    assert "matplotlib is not installed" in capsys.readouterr().err
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    assert scale_plot.draw(*arguments, str(tmp_path / "scale.svg"))
    assert "<svg" in (tmp_path / "scale.svg").read_text(encoding="utf-8")


def test_sizes_of_clusters_are_checked(capsys):
    """One worker is what all are compared with."""
    with pytest.raises(SystemExit):
        scale.main(["--workers", "2", "4"])
    assert "must begin with 1" in capsys.readouterr().err


@pytest.mark.process
def test_two_workers_are_measured(tmp_path, capsys):
    """Equal weights, a value for each round, and the tables of a saved run are the same."""
    workers.need_namespace()
    file = tmp_path / "scale.json"
    found = scale.main(["--quick", "--json", str(file)])
    text = capsys.readouterr().out
    assert [1, 2] == found.workers
    assert max(found.difference.values()) <= scale_measure.TOLERANCE
    ways = {"alone", "together", "alone, fixed", "together, fixed"}
    assert {"1, alone", "1, together", *(f"2, {way}" for way in ways)} == {*found.steps}
    assert all(len(values) == 1 and values[0] > 0 for values in found.steps.values())
    assert all(times[0] > 0 for times in found.reductions["2"].values())
    assert found.votes["2"][0] > found.votes["1"][0]
    assert found == scale.main(["--from", str(file)])
    assert text == capsys.readouterr().out
    assert json.loads(file.read_text())["gradient_bytes"] == found.gradient_bytes
