"""However the work is cut, weights, loss and metrics are those of the whole batch.

The cells are those of ``tests/cells.py``; every pair of values of two axes
occurs in the covering sample, slow tests included. ``python -m tests.sweep``
runs a thousand more.
"""

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from kerastrain import loss
from tests import cells

TOLERANCE = 1e-6
TOLERANCE_64 = 1e-12
COVERING = cells.covering()


def parameters(cells):
    """The cells; half of them are slow tests, and three of four with four replicas."""

    def parameter(number, cell):
        slow = number % (4 if cell.replicas == 4 else 2)
        name = "-".join(map(str, cell)).replace(" ", "_")
        return pytest.param(cell, id=name, marks=pytest.mark.slow if slow else ())

    return [parameter(number, cell) for number, cell in enumerate(cells)]


@pytest.mark.parametrize("cell", parameters(COVERING))
def test_covering_sample(cell):
    """`Trainer` with the cell's cut equals one device with whole batches."""
    found = cell.difference()
    assert max(found.values()) <= TOLERANCE, found


def test_the_sample_covers():
    """Every pair of values of two axes that exists occurs in the sample."""
    occurring = {
        pair
        for cell in COVERING
        for chosen in cells.choices(cell)
        for pair in itertools.combinations(chosen.items(), 2)
    }
    assert set(cells.combinations(2)) == occurring


@pytest.mark.parametrize("cell", parameters(COVERING[::2]))
def test_under_plain_fit(cell):
    """A `TrainableModel` made in a scope, under Keras's ``fit``, is exact too."""
    found = cell.difference("fit")
    assert max(found.values()) <= TOLERANCE, found


@hypothesis.settings(max_examples=4, deadline=None, database=None)
@hypothesis.given(st.data())
def test_drawn_cells(data):
    """Any cell is exact, and in float64, where no rounding excuses a difference, far more so."""
    cell, _ = cells.draw(lambda values: data.draw(st.sampled_from(values)))
    found = cell.difference()
    assert max(found.values()) <= TOLERANCE, (cell, found)
    with cells.precision("float64"):
        found = cell.difference()
    assert max(found.values()) <= TOLERANCE_64, (cell, found)


@pytest.mark.parametrize("optimizer", cells.AXES["optimizer"])
def test_the_grid_can_fail(monkeypatch, optimizer):
    """The same check finds replicas whose means count the same, whatever their rows."""
    cell = cells.Cell("functional", optimizer, "none", "mean", 2, 1, 3, "none")
    assert cell.difference()["weights"] <= TOLERANCE
    monkeypatch.setattr(
        loss, "shares_by_group", lambda terms, all_rows: {loss.ROWS: terms[0].value / 2}
    )
    assert cell.difference()["weights"] > 100 * TOLERANCE
