"""The benchmark of the laws of metrics runs, and counts what it says it counts."""

import pytest

from benchmarks import metric_laws
from tests.testing.mutants import MUTANTS
from tests.testing.right_metrics import MeanAbsolute


@pytest.mark.slow
def test_quick(capsys):
    """Both tables are printed, and no sound metric is complained of."""
    assert 0 == metric_laws.main(["--quick"])
    printed = capsys.readouterr().out
    assert "0 complaints of 1 sound metrics" in printed and "mean absolute error" in printed


def test_first_found():
    """The number of the example that finds a mutant is the same for the same seed."""
    mutant = MUTANTS["MeanOfBatchMeans"]
    found = [metric_laws.first_found(mutant, seed, 100) for seed in (0, 0, 1)]
    assert found[0] == found[1] and all(1 <= number <= 100 for number in found)
    assert metric_laws.first_found(mutant, 0, found[0] - 1 or 1) in (None, 1)
    rates = metric_laws.rates(mutant, 3)
    assert rates == sorted(rates) and rates[-1] == 1


@pytest.mark.slow
def test_complaints_are_shown(monkeypatch):
    """A metric that breaks a law is named with its seed, and a sound one is not."""
    mutant = MUTANTS["NeverReset"]
    wrong = (mutant.factory, {"inputs": mutant.inputs, "laws": "state"})
    sound = (MeanAbsolute, {"inputs": mutant.inputs, "laws": "state"})
    monkeypatch.setattr(metric_laws, "RIGHT", {"wrong": wrong, "sound": sound})
    assert metric_laws.complaints_of(("wrong", 3)).startswith("wrong, seed 3:\nNeverReset breaks")
    assert "" == metric_laws.complaints_of(("sound", 3))
