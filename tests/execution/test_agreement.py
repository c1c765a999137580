"""What several workers agree on before a chunk, with the votes of others that a test gives."""

import dataclasses

import numpy as np
import pytest

from kerastrain import DataError
from kerastrain.data import Ahead
from kerastrain.data import Block
from kerastrain.data import Chunk
from kerastrain.data import ChunkKind
from kerastrain.execution.agreement import Agreement

BLOCK = Block.of_rows(np.zeros((8, 1), "float32"), [2, 2, 2, 2], 2, 4)
OWN = dataclasses.replace(BLOCK, whole=object())


class Workers:
    """A cluster whose other worker has said before what comes next for it."""

    count, index, is_chief, has_others = 2, 0, True, True

    def __init__(self, others):
        self.others = others

    def gather(self, mine):
        if len(mine) == 1:  # what has been taken
            return np.asarray([mine, [0]], "float64")
        ahead = self.others
        other = [ahead.steps, ahead.kind, ahead.checksum, 0, ahead.rows, ahead.shape, 2.0, 0]
        return np.asarray([mine, other], "float64")


class Next:
    """A source before a chunk."""

    name = "x"

    def __init__(self, ahead, has_share):
        self._ahead, self.has_share = ahead, has_share

    def ahead(self):
        return self._ahead


def agreed(mine, others, has_share=True):
    agreement = Agreement(Workers(others), lambda: 1.0)
    agreement.take(Next(mine, has_share))
    assert 2.0 == agreement.votes["seconds"]  # of the slowest
    return agreement


def test_as_many_steps_as_all_can_take():
    agreement = agreed(Ahead(7, ChunkKind.FULL, 5, 8), Ahead(4, ChunkKind.FULL, 5, 7))
    assert 4 == agreement.most_steps
    chunk = agreement.noted(Chunk(OWN, 0, 4))
    assert (ChunkKind.FULL, (8, 7)) == chunk.agreed
    assert chunk.is_full and not chunk.is_alone
    assert [15] * 4 == chunk.sizes
    assert 14 == chunk.rows  # that all have for certain


@pytest.mark.parametrize("kind", [ChunkKind.SHORT, ChunkKind.ALONE])
def test_what_is_not_full_for_one_is_so_for_all(kind):
    agreement = agreed(Ahead(7, ChunkKind.FULL, 5, 8), Ahead(1, kind, 5, 3))
    chunk = agreement.noted(Chunk(OWN, 0, 1))
    assert 1 == agreement.most_steps
    assert not chunk.is_full or kind == ChunkKind.ALONE
    assert (kind == ChunkKind.ALONE) == chunk.is_alone


def test_batches_that_all_have_alike():
    """Nothing is said of rows where each worker has the whole batch."""
    agreement = agreed(Ahead(7, ChunkKind.FULL, 5), Ahead(4, ChunkKind.FULL, 5), has_share=False)
    assert 4 == agreement.most_steps
    assert agreement.noted(Chunk(BLOCK, 0, 4)).agreed is None


def test_the_end_of_all():
    assert (
        1 == agreed(Ahead(0, ChunkKind.ALONE, 0), Ahead(0, ChunkKind.ALONE, 0)).most_steps
    )  # to find that there is none


@pytest.mark.parametrize(
    "mine, others, has_share, message",
    [
        (
            Ahead(3, ChunkKind.FULL, 5),
            Ahead(3, ChunkKind.SHORT, 5),
            False,
            "`x` gives the workers other batches",
        ),
        (
            Ahead(3, ChunkKind.FULL, 5),
            Ahead(3, ChunkKind.FULL, 6),
            False,
            "`x` gives the workers other batches",
        ),
        (
            Ahead(3, ChunkKind.FULL, 5, 8),
            Ahead(3, ChunkKind.FULL, 6, 8),
            True,
            "`x` gives the workers other batches",
        ),
        (
            Ahead(3, ChunkKind.FULL, 0, 8),
            Ahead(0, ChunkKind.ALONE, 0, 0),
            True,
            "`x` gives worker 1 fewer batches",
        ),
        (
            Ahead(3, ChunkKind.FULL, 0, 8, 1),
            Ahead(3, ChunkKind.FULL, 0, 8, 2),
            True,
            "`x` gives the workers rows of other types or shapes",
        ),
    ],
)
def test_what_does_not_fit_together(mine, others, has_share, message):
    with pytest.raises(DataError, match=message):
        agreed(mine, others, has_share)


def test_batches_that_each_has_drawn_are_compared():
    """Those of a chunk with the next one, and the last ones when the epoch is over."""
    agreement = agreed(Ahead(4, ChunkKind.FULL, 5), Ahead(4, ChunkKind.FULL, 5), has_share=False)
    source = Next(Ahead(2, ChunkKind.FULL, 5), has_share=False)
    agreement.finish(source)
    agreement.noted(Chunk(BLOCK, 0, 2))  # the other one has taken none
    with pytest.raises(DataError, match="`x` gives the workers other batches"):
        agreement.take(source)
    with pytest.raises(DataError, match="`x` gives the workers other batches"):
        agreement.finish(source)
