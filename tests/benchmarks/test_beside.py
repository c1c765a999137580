"""The benchmark beside other trainers: its figures where they are installed, and its table."""

import doctest
import io
import json

import numpy as np
import pytest
import rich.console

from benchmarks import beside
from benchmarks import beside_work

EXACT = 1e-6
WRONG = 1e-3  # Whoever is further from itself does other work.
# The first way and the last one of each experiment: whether it is exact.
EXPECTED = {
    "kerastrain": {"ragged": (True, True), "tokens": (True, True), "resume": (True, True)},
    "keras": {"ragged": (False, False), "tokens": (False, False), "resume": (False, False)},
    "lightning": {"ragged": (False, False), "tokens": (False, False), "resume": (False, False)},
    "composer": {"ragged": (True, True), "tokens": (False, True), "resume": (True, True)},
    "accelerate": {"ragged": (False, True), "tokens": (False, True), "resume": (False, False)},
    "orbit": {"resume": (False, False)},
}
REPORTED = {"kerastrain": (True, True), "keras": (True, True), "lightning": (True, True)}
REPORTED |= {"composer": (False, True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", beside_work.TRAINERS)
def test_what_the_page_says_of_a_trainer(name, tmp_path, capsys):
    """Even parts and clipping are exact in all; the other figures are as small or large as it says."""
    if missing := beside_work.missing(name):
        pytest.skip(f"not installed: {missing}")
    file = tmp_path / "figures.json"
    (result,) = beside.main(["--quick", "--only", name, "--json", str(file)])
    assert list(beside.EXPERIMENTS) == list(result.found)
    expected = {"even": (True, True), "clipping": (True, True)} if name != "orbit" else {}
    expected |= EXPECTED[name] | ({"report": REPORTED[name]} if name in REPORTED else {})
    for experiment, ways in result.found.items():
        if experiment == "bad batch":
            continue
        assert bool(ways) == (experiment in expected), experiment
        for entry, exact in zip([*ways[:1], *ways[-1:]], expected.get(experiment, ()), strict=True):
            assert entry["found"] <= EXACT if exact else entry["found"] > WRONG, (experiment, entry)
    bad = result.found["bad batch"][0]["found"]
    assert (name == "kerastrain") == bad["finite"] == bool(bad["named"])
    if name == "kerastrain":
        assert 0 == result.found["resume"][0]["found"]
    assert (36 if name == "keras" else 32) == result.found["resume"][0]["updates"]
    assert name in capsys.readouterr().out
    (saved,) = json.loads(file.read_text(encoding="utf-8"))
    assert result.found == saved["found"]


def test_the_examples_in_the_docstrings_run():
    """They print what they say."""
    assert doctest.TestResults(failed=0, attempted=2) == doctest.testmod(beside)
    assert doctest.TestResults(failed=0, attempted=2) == doctest.testmod(beside_work)


@pytest.mark.parametrize("cut", beside_work.CUTS.values(), ids=beside_work.CUTS)
def test_the_plain_gradients_are_slopes(cut):
    """The largest entry of each gradient is the slope of the loss, by central differences."""
    weights = [w.astype("float64") for w in beside_work.initial_weights()]
    x, y, counts = (array[: beside_work.BATCH] for array in beside_work.data_of(cut))

    def loss(weights):
        error = (beside_work.forward(weights, x)[1] - y)[..., 0] ** 2
        return np.sum(error * counts) / np.sum(counts)

    gradients = beside_work.gradients_of(weights, x, y, counts)
    for index, gradient in enumerate(gradients):
        place = np.unravel_index(np.argmax(np.abs(gradient)), gradient.shape)
        moved = [[w.copy() for w in weights] for _ in range(2)]
        for sign, one in zip((1, -1), moved, strict=True):
            one[index][place] += sign * 1e-5
        slope = (loss(moved[0]) - loss(moved[1])) / 2e-5
        assert gradient[place] == pytest.approx(slope, rel=1e-6)


def test_clipping_is_active():
    """The gradients are longer than what they are clipped to."""
    clipped, whole = (
        beside_work.plain_mathematics(beside_work.CUTS[n]) for n in ("clipping", "even")
    )
    assert beside_work.distance(clipped, whole) > 0.1


def test_the_table_shows_what_is_missing_by_hand_or_fails():
    """Each has its words in the table, and a way is named beside its figure."""
    found = {name: [] for name in beside.EXPERIMENTS}
    found["even"] = [{"way": "", "found": "crash: ValueError"}]
    found["resume"] = [{"way": "an option", "found": 0.25, "updates": 36}]
    results = [
        beside.Result("keras", {"keras": "3"}, found),
        beside.Result("orbit", {}, {}, missing=["orbit"]),
    ]
    console = rich.console.Console(file=io.StringIO(), width=120)
    beside.print_table(results, console)
    text = console.file.getvalue()
    for said in (beside.BY_HAND, beside.NOT_INSTALLED, "crash: ValueError", "orbit: not installed"):
        assert said in text
    assert "2.5e-1, 36 updates (an option)" in text


def test_a_process_that_fails_is_an_error(monkeypatch):
    """Its last lines are in the message; so is a time limit."""
    with pytest.raises(beside.ProcessFailed, match="(?s)no such trainer.*ended with 1.*KeyError"):
        beside.run(beside.sys.executable, "no such trainer", "figures")
    monkeypatch.setattr(beside, "TIMEOUT", 1e-3)
    with pytest.raises(beside.ProcessFailed, match="took more than"):
        beside.run(beside.sys.executable, "keras", "figures")


def test_an_interpreter_of_no_trainer_is_refused(capsys):
    """The message names it."""
    with pytest.raises(SystemExit):
        beside.main(["--python", "nobody=python"])
    assert "'nobody'" in capsys.readouterr().err
