"""However the work is cut, weights, loss and metrics are those of the whole batch.

The cells are those of ``tests/support/cells.py``. Every pair of values of two axes occurs
among those whose steps run eagerly, in the default tests, and among those that are compiled,
slow tests included; of these, the default ones have every value of every axis.
``python -m tests.support.sweep`` runs a thousand more.
"""

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from kerastrain.step import loss
from tests.support import cells

TOLERANCE = 1e-6
TOLERANCE_64 = 1e-12
VALUES, PAIRS = cells.covering(1), cells.covering(2)


def parameters(quick, slow=()):
    """The cells, once each; the second ones are slow tests."""
    marks = [(cell, ()) for cell in quick]
    marks += [(cell, pytest.mark.slow) for cell in slow if cell not in quick]
    return [
        pytest.param(cell, id="-".join(map(str, cell)).replace(" ", "_"), marks=mark)
        for cell, mark in marks
    ]


@pytest.mark.parametrize("cell", parameters(PAIRS))
def test_steps(cell):
    """The step alone, run eagerly, with the cell's cut equals the step of whole batches."""
    found = cell.difference("step")
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("cell", parameters(VALUES, PAIRS))
def test_trainer(cell):
    """`Trainer` with the cell's cut, compiled, equals one device with whole batches."""
    found = cell.difference()
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("cell", parameters(VALUES[-2:], PAIRS[::2]))
def test_under_plain_fit(cell):
    """A `TrainableModel` made in a scope, under Keras's ``fit``, is exact too."""
    found = cell.difference("fit")
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("size, sample", [(1, VALUES), (2, PAIRS)])
def test_the_samples_cover(size, sample):
    """Every value of an axis, and every pair of values of two axes, occurs in its sample."""
    occurring = {
        together
        for cell in sample
        for chosen in cells.choices(cell)
        for together in itertools.combinations(chosen.items(), size)
    }
    assert set(cells.combinations(size)) == occurring


@hypothesis.settings(max_examples=3, deadline=None, database=None)
@hypothesis.given(st.data())
def test_drawn_cells(data):
    """In float64, where no rounding excuses a difference, any cell is far more exact."""
    cell, _ = cells.draw(lambda values: data.draw(st.sampled_from(values)))
    with cells.precision("float64"):
        found = cell.difference("step")
    assert max(found.values()) <= TOLERANCE_64, (cell, found)


@pytest.mark.slow
@hypothesis.settings(max_examples=4, deadline=None, database=None)
@hypothesis.given(st.data())
def test_drawn_cells_of_compiled_steps(data):
    """The same of steps that are compiled, also in float32."""
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
    assert cell.difference("step")["weights"] <= TOLERANCE
    monkeypatch.setattr(
        loss, "shares_by_group", lambda terms, all_rows: {loss.ROWS: terms[0].value / 2}
    )
    assert cell.difference("step")["weights"] > 100 * TOLERANCE
