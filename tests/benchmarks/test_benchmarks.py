"""The harness on contenders that move a fake clock, and the step benchmark; no time asserted."""

import doctest
import io
import json

import numpy as np
import pytest
import rich.console

from benchmarks import guard_cost
from benchmarks import harness
from benchmarks import saving_cost
from benchmarks import speed_works
from benchmarks import step_overhead


class FakeClock:
    """A clock that stands still unless a contender moves it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def contender(self, name, seconds, *, weight=1.0, **options):
        """Gives a contender that takes the next of `seconds` in each round."""
        left = iter(seconds)

        def run():
            self.now += next(left)

        return harness.Contender(name, run, weights=lambda: [np.array([weight])], **options)


def printed(result):
    """What `print_race` shows, as text."""
    console = rich.console.Console(file=io.StringIO(), width=100)
    harness.print_race(result, console=console)
    return console.file.getvalue()


@pytest.mark.slow
def test_the_examples_in_the_docstrings_run():
    """They print what they say."""
    assert doctest.TestResults(failed=0, attempted=6) == doctest.testmod(harness)


@pytest.mark.slow
def test_times_are_seconds_per_step_without_the_warm_up():
    """Every round after the first is in the times, divided by the steps."""
    clock = FakeClock()
    result = harness.race(
        [clock.contender("a", [50.0, 2.0, 4.0, 6.0])],
        title="t",
        baseline="a",
        steps=2,
        repeats=3,
        clock=clock,
    )
    assert {"a": [1.0, 2.0, 3.0]} == result.times


@pytest.mark.slow
def test_a_ratio_pairs_times_of_one_round():
    """A ratio is taken within each round: here the ratio of the medians would be 3."""
    clock = FakeClock()
    contenders = [
        clock.contender("a", [9, 1.0, 2.0, 30.0]),
        clock.contender("b", [9, 2.0, 6.0, 60.0]),
    ]
    result = harness.race(contenders, title="t", baseline="a", steps=1, repeats=3, clock=clock)
    assert [2.0, 3.0, 2.0] == result.ratios("b")
    assert [1.0, 1.0, 1.0] == result.ratios("a")


@pytest.mark.slow
def test_the_table_shows_median_quartiles_best_and_ratio():
    """The printed figures are those that NumPy gives for the times, in microseconds."""
    clock = FakeClock()
    microseconds = [[9, 100, 200, 300, 400, 500], [9, 150, 300, 450, 600, 1000]]
    contenders = [
        clock.contender(name, [time * 1e-6 for time in times])
        for name, times in zip("ab", microseconds, strict=True)
    ]
    result = harness.race(contenders, title="t", baseline="a", steps=1, repeats=5, clock=clock)
    row = next(line.split() for line in printed(result).splitlines() if line.split()[:1] == ["b"])
    assert ["b", "450", "300..600", "150", "1.50", "1.50..1.50", "0e+00"] == row


@pytest.mark.slow
def test_contenders_run_interleaved_and_are_reset_before_each_round():
    """The order is reset a, run a, reset b, run b, in every round."""
    events = []

    def contender(name):
        return harness.Contender(
            name,
            run=lambda: events.append(f"run {name}"),
            weights=lambda: [np.zeros(1)],
            reset=lambda: events.append(f"reset {name}"),
        )

    harness.race([contender("a"), contender("b")], title="t", baseline="a", steps=1, repeats=2)
    assert ["reset a", "run a", "reset b", "run b"] * 3 == events


def test_seconds_that_a_contender_returns_replace_the_clock():
    """A contender in a process of its own measures itself."""
    contender = harness.Contender("child", run=lambda: 12.0, weights=lambda: [np.zeros(1)])
    result = harness.race([contender], title="t", baseline="child", steps=4, repeats=1)
    assert {"child": [3.0]} == result.times


@pytest.mark.parametrize(
    "weight", [1.1, float("nan"), [1.0, 1.0]], ids=["too far", "NaN", "other shape"]
)
def test_unequal_weights_abort_before_a_time_is_printed(weight, capsys):
    """A contender that did other work stops the race, with its name and the distance."""
    clock = FakeClock()
    contenders = [clock.contender("a", [1.0] * 9), clock.contender("b", [1.0] * 9, weight=weight)]
    with pytest.raises(
        harness.UnequalWeights,
        match=r"'b' and 'a' ended round 0 .* max\|dw\| = (0.1|nan|inf), tolerance 1e-06",
    ):
        harness.race(contenders, title="t", baseline="a", steps=1, clock=clock)
    assert "" == capsys.readouterr().out


@pytest.mark.slow
def test_weights_that_part_in_a_later_round_abort_too():
    """Equality is asked for after every round, not only after the warm-up."""
    weights = iter([1.0, 1.0, 2.0])
    contenders = [
        harness.Contender("a", run=lambda: None, weights=lambda: [np.array(1.0)]),
        harness.Contender("b", run=lambda: None, weights=lambda: [np.array(next(weights))]),
    ]
    with pytest.raises(harness.UnequalWeights, match="round 2"):
        harness.race(contenders, title="t", baseline="a", steps=1, repeats=5)


@pytest.mark.slow
def test_a_difference_within_the_tolerance_passes_and_is_shown():
    """The largest difference is kept for the table."""
    clock = FakeClock()
    contenders = [clock.contender("a", [1.0] * 9), clock.contender("b", [1.0] * 9, weight=1.25)]
    result = harness.race(
        contenders, title="t", baseline="a", steps=1, repeats=1, tolerance=0.5, clock=clock
    )
    assert {"a": 0.0, "b": 0.25} == result.difference


@pytest.mark.slow
def test_a_trace_after_the_warm_up_is_shown():
    """Traces of the warm-up are expected; later ones are printed under the table."""
    for counts, expected in [([0, 5, 5], 0), ([0, 5, 7], 2)]:
        contender = FakeClock().contender("a", [1.0] * 9, traces=iter(counts).__next__)
        result = harness.race([contender], title="t", baseline="a", steps=1, repeats=1)
        assert {"a": expected} == result.retraces
        assert (expected > 0) == ("a was traced 2 times after the warm-up" in printed(result))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "c"}, "hold the baseline. Received: .*baseline='c'"),
        ({"steps": 0}, "steps=0"),
        ({"repeats": 0}, "repeats=0"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    """The message names the value received."""
    contender = harness.Contender("a", run=lambda: None, weights=lambda: [np.zeros(1)])
    with pytest.raises(ValueError, match=message):
        harness.race([contender], **{"title": "t", "baseline": "a", "steps": 1, **options})


def test_two_contenders_of_one_name_are_refused():
    """Their times would be mixed."""
    contender = harness.Contender("a", run=lambda: None, weights=lambda: [np.zeros(1)])
    with pytest.raises(ValueError, match="Names must differ"):
        harness.race([contender, contender], title="t", baseline="a", steps=1)


@pytest.mark.slow
def test_step_overhead_runs_and_prints_all_contenders(tmp_path, capsys):
    """The quick benchmark prints two tables of four contenders and saves them; none retraces."""
    results = step_overhead.main(["--quick", "--json", str(tmp_path / "times.json")])
    text = capsys.readouterr().out
    names = ["by hand", "model.fit", "TrainableModel.fit", "Trainer.fit"]
    for name in names:
        assert 2 == sum(line.strip().startswith(name + " ") for line in text.splitlines()), name
    for result in results:
        assert names == list(result.times)
        assert dict.fromkeys(names, 0) == result.retraces
    record = json.loads((tmp_path / "times.json").read_text(encoding="utf-8"))
    assert [result.times for result in results] == [saved["times"] for saved in record["races"]]


@pytest.mark.slow
def test_cost_of_the_guard_on_four_steps(monkeypatch, capsys):
    """With and without it, and where a callback listens."""
    monkeypatch.setitem(speed_works.WORKS, "mlp", speed_works.WORKS["mlp"].quick())
    monkeypatch.setitem(guard_cost.EPOCHS, "mlp", 1)
    guard_cost.main(["--rounds", "1", "--only", "mlp"])
    printed = capsys.readouterr().out
    assert printed.count("mlp") == 2 and printed.count("%") == 4


def test_cost_of_saving_on_four_steps(monkeypatch, capsys):
    """With and without a directory."""
    monkeypatch.setitem(saving_cost.MODELS, "small", ((8, 4, 2), 32, 8, 1, 2))
    saving_cost.main(["--rounds", "1", "--only", "small"])
    assert "small" in capsys.readouterr().out
