"""However the work is cut, weights, loss and metrics are those of the whole batch.

The cells are those of ``tests/support/cells.py``. Every pair of values of two axes occurs
among those whose steps run eagerly, and among those that are compiled, slow tests included.
In the default tests, every value of every axis occurs among those that run eagerly.
``python -m tests.support.sweep`` runs a thousand more.
"""

import itertools

import hypothesis
import pytest
from hypothesis import strategies as st

from kerastrain.step import loss
from tests.support import cells
from tests.support import tiers

TOLERANCE = 1e-6
TOLERANCE_64 = 1e-12
VALUES, PAIRS = cells.covering(1), cells.covering(2)
FEW_PARTS = [cell for cell in PAIRS if 1 < cell.replicas * cell.micro_batches <= 6]
REPLICAS = cells.Cell("functional", "sgd", "sample", "mean", 2, 3, 1, "clipvalue")
ONE_REPLICA = cells.Cell("other losses", "adam", "sample", "sum", 1, 3, 2, "clipvalue")


def parameters(all_of_them, quick):
    """The cells, once each; those that are not among the quick ones are slow tests."""
    all_of_them = list(dict.fromkeys(all_of_them))
    assert not [cell for cell in quick if cell not in all_of_them]
    return [
        pytest.param(
            cell,
            id="-".join(map(str, cell)).replace(" ", "_"),
            marks=() if cell in quick else pytest.mark.slow,
        )
        for cell in all_of_them
    ]


@pytest.mark.parametrize("cell", parameters(PAIRS, FEW_PARTS))
def test_steps(cell):
    """The step alone, run eagerly, with the cell's cut equals the step of whole batches."""
    found = cell.difference("step")
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("cell", parameters([*VALUES, *PAIRS], [REPLICAS]))
def test_trainer(cell):
    """`Trainer` with the cell's cut, compiled, equals one device with whole batches."""
    found = cell.difference()
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("cell", parameters([*VALUES[-2:], *PAIRS[::2]], [ONE_REPLICA]))
def test_under_plain_fit(cell):
    """A `TrainableModel` made in a scope, under Keras's ``fit``, is exact too."""
    found = cell.difference("fit")
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize("size, sample", [(1, VALUES), (1, FEW_PARTS), (2, PAIRS)])
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


@pytest.mark.parametrize("optimizer", tiers.cases(cells.AXES["optimizer"], ["sgd"]))
def test_the_grid_can_fail(monkeypatch, optimizer):
    """The same check finds replicas whose means count the same, whatever their rows."""
    cell = cells.Cell("functional", optimizer, "none", "mean", 2, 1, 3, "none")
    assert cell.difference("step")["weights"] <= TOLERANCE
    monkeypatch.setattr(
        loss, "shares_by_group", lambda terms, all_rows: {loss.ROWS: terms[0].value / 2}
    )
    assert cell.difference("step")["weights"] > 100 * TOLERANCE
