"""The programs of `tests.programs` end by `Trainer` as by Keras's own ``fit``."""

import contextlib

import numpy as np
import pytest

from tests.programs import __main__ as command
from tests.programs import comparison
from tests.programs import differences

QUICK = ("gradient_centralization",)


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_program(name):
    """Weights, state, history, evaluate and predict equal Keras's, and no warning is drawn."""
    result = comparison.compare(name)
    assert result.right, f"{result.details} {result.warnings}"


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in comparison.names() if n not in QUICK])
def test_program(name):
    """As above, or what differs is what the list says; in a process of its own."""
    result = command.run_apart(name, None)
    assert result["right"], str(result)


def test_lists_name_programs():
    """What is listed is a program that exists."""
    assert set(differences.KNOWN) | set(differences.DESERVED) <= set(comparison.names())
    assert len(comparison.names()) >= 25


def outcomes(monkeypatch, *states):
    """Keras's outcome, the Trainer's, then Keras's under a reference; each with one variable."""
    made = [
        comparison.Outcome([("dense/kernel", np.array(v))], {"loss": [1.0]}, [1.0], [2.0], w, 0.0)
        for v, w in states
    ]
    monkeypatch.setattr(comparison, "run", lambda name, entry_point: made.pop(0))


def test_what_differs_is_found(monkeypatch):
    """One variable that is not equal makes a program wrong, and it is named."""
    outcomes(monkeypatch, (1.0, []), (1.1, []))
    result = comparison.compare("one")
    assert not result.equal
    assert not result.right
    assert "dense/kernel" in result.details[0]


def test_a_warning_is_found(monkeypatch):
    """A warning that Keras did not draw makes a program wrong, unless it is deserved."""
    outcomes(monkeypatch, (1.0, ["both"]), (1.0, ["both", "Trainer's of 3"]))
    result = comparison.compare("one")
    assert result.equal
    assert not result.right
    assert result.warnings == ["Trainer's of 3"]
    monkeypatch.setitem(differences.DESERVED, "one", {"Trainer's": "it is so"})
    outcomes(monkeypatch, (1.0, []), (1.0, ["Trainer's of 3"]))
    assert comparison.compare("one").right


def test_a_difference_that_is_known(monkeypatch):
    """It is right if it is there, and if nothing else is: under the reference both are equal."""
    known = differences.Difference("it is so", contextlib.nullcontext)
    monkeypatch.setitem(differences.KNOWN, "one", known)
    outcomes(monkeypatch, (1.0, []), (1.1, []), (1.1, []))
    assert comparison.compare("one").right
    outcomes(monkeypatch, (1.0, []), (1.1, []), (1.2, []))
    assert not comparison.compare("one").right
    outcomes(monkeypatch, (1.0, []), (1.0, []))
    result = comparison.compare("one")
    assert result.equal
    assert not result.right


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"loss": [1.0, 2.0]}, {"loss": [1.0, 2.5]}, 0.25),
        ({"loss": [1.0]}, {"mse": [1.0]}, np.inf),
        ([np.zeros(2)], [np.zeros(3)], np.inf),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), 0.0),
        (np.array([1.0, np.nan]), np.array([1.0, 2.0]), np.inf),
        (np.array(["a"]), np.array(["b"]), np.inf),
        (ValueError("no"), TypeError("neither"), 0.0),
        (ValueError("no"), np.zeros(2), np.inf),
        (np.array([1, 2]), np.array([1, 3]), 0.5),
    ],
)
def test_apart(a, b, expected):
    """Differences relative to values above 1; infinite where the structures differ."""
    assert comparison.apart(a, b) == expected


@pytest.mark.slow
def test_a_program_that_aborts_is_a_row():
    """A process that ends otherwise has failed, with its last words."""
    result = command.run_apart("no_such_program", None)
    assert not result["right"]
    assert "no_such_program" in result["failed"]
