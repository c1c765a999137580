"""However the work is cut, weights, loss and metrics are those of the whole batch.

The cells are those of ``tests/cells.py``; every pair of values of two axes
occurs in the covering sample.
"""

import hypothesis
import pytest
from hypothesis import strategies as st

from tests import cells

TOLERANCE = 1e-6
COVERING = cells.covering()


@pytest.mark.parametrize("cell", COVERING, ids=lambda c: "-".join(map(str, c)).replace(" ", "_"))
def test_covering_sample(cell):
    """`Trainer` with the cell's cut equals one device with whole batches."""
    found = cell.difference()
    assert max(found.values()) <= TOLERANCE, found


@pytest.mark.parametrize(
    "cell", COVERING[::3], ids=lambda c: "-".join(map(str, c)).replace(" ", "_")
)
def test_under_plain_fit(cell):
    """A `TrainableModel` made in a scope, under Keras's ``fit``, is exact too."""
    found = cell.difference("fit")
    assert max(found.values()) <= TOLERANCE, found


@hypothesis.settings(max_examples=4, deadline=None, database=None)
@hypothesis.given(st.data())
def test_drawn_cells(data):
    """Any cell is exact."""
    cell, _ = cells.draw(lambda values: data.draw(st.sampled_from(values)))
    found = cell.difference()
    assert max(found.values()) <= TOLERANCE, (cell, found)
