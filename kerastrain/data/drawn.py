"""What a source has given so far, as digests: enough to draw it again and to compare.

::

    drawn = Drawn()
    drawn.take(chunk)                       # each chunk of a pass, in turn
    drawn.end(number=0, is_over=True)       # the pass is closed; no batch came after its last one
    drawn.state()                           # of JSON's types

Of each pass the first and the last batch count, and how many there were. The first is looked
at when it comes, the last when it is asked for, or the pass is closed: batches in between cost
nothing.

Where code of the user's own makes the batches, the digest of each is taken as it comes, which
costs about 1.5 ms a megabyte. Kept is one digest of all batches of a pass, or, where any batch
can be drawn again by its index, those of the last few.
"""

from typing import Any

from kerastrain.data.blocks import Chunk
from kerastrain.state import digests

# A pass has fewer batches than this; and a source has been gone through less often.
_MOST = 2**40
_NO_PASSES = _NO_BATCHES = ""
# In place of the digest of a batch.
_NOT_COMPARED = "not compared"


class Drawn:
    """The passes over a data set so far.

    Args:
        orders_itself: whether code of the user's own decides the order of each pass.
        keeps: how many digests of the last batches are kept; 0 for one of all batches of a
            pass. None if only the first and the last batch count.
        compares: whether batches are compared at all.

    Attributes:
        passes: ``[batches, whether the data were over, how many passes]`` of those that have
            been closed, one after another, neighbours that are alike together.
        each: the digests of the pass that is open, as ``keeps`` says.
    """

    def __init__(
        self, orders_itself: bool = False, keeps: int | None = None, compares: bool = True
    ):
        self._compares = compares
        self._keeps, self._all_are_last = keeps, orders_itself and keeps == 0
        self.passes: list[list] = []
        self._digest = _NO_PASSES  # of the first and last batches of all closed passes
        self._closed: list | None = None  # the first and last batch of the last of them
        self._first: str | None = None
        self._last: Chunk | None = None
        self._taken = 0
        self.each: list[str] = []
        # The same of the last closed pass, its number, and one digest of all closed passes, which
        # is None where those of an earlier version were not noted.
        self._closed_each: dict[str, Any] = {"closed": [], "pass": None, "passes": _NO_PASSES}

    def look(self, batch: Any) -> None:
        """The next batch of the pass is seen, and stays the next one."""
        if self._first is None and batch is not None:
            self._first = digests.digest_of(batch) if self._compares else _NOT_COMPARED

    def take(self, chunk: Chunk) -> None:
        """Batches are taken."""
        if self._first is None:
            self.look(chunk.batch() if self._compares else _NOT_COMPARED)
        self._last, self._taken = chunk, self._taken + chunk.steps
        if self._keeps is None:
            return
        indices = range(chunk.start, chunk.start + chunk.steps)
        for batch in chunk.block.batches_on_host(indices[-self._keeps :]):
            new = digests.digest_of(batch)
            if self._keeps:
                self.each = [*self.each, new][-self._keeps :]
            else:
                self.each = [digests.joined(*(self.each or [_NO_BATCHES]), new)]

    def skip(self, count: int, first: str | None) -> None:
        """Leaves out the first ``count`` batches of the pass, given the digest of the first."""
        self._first, self._taken = first, count

    def end(self, number: int, is_over: bool) -> None:
        """The pass is closed.

        Args:
            number: of the pass.
            is_over: whether one more batch was asked for, and there was none.
        """
        entry = [self._taken, is_over]
        if self.passes and self.passes[-1][:2] == entry:
            self.passes[-1][2] += 1
        else:
            self.passes.append([*entry, 1])
        self._closed = [self._first, self._last_digest()]
        self._digest = digests.joined(self._digest, *self._closed, *map(str, entry))
        before = self._closed_each["passes"]
        passes = None if before is None else digests.joined(before, *self.each)
        self._closed_each = {"closed": self.each, "pass": number, "passes": passes}
        self._first, self._last, self._taken, self.each = None, None, 0, []

    def _last_digest(self) -> str | None:
        if self._last is None:
            return None
        if not self._compares:
            return _NOT_COMPARED
        if self._all_are_last or self._keeps:
            return self.each[-1]
        block, index = self._last.block, self._last.start + self._last.steps - 1
        return digests.digest_of(block.batch(index))

    def state(self) -> dict[str, Any]:
        """What is compared, and what is needed to draw all of it again."""
        state: dict[str, Any] = {
            "passes": [list(entry) for entry in self.passes],
            "digest": self._digest,
            "closed": None if self._closed is None else list(self._closed),
            "first": self._first,
            "last": self._last_digest(),
        }
        if self._keeps is not None:
            state["each"] = {"open": list(self.each), **self._closed_each}
        return state

    def set_closed(self, state: dict[str, Any]) -> None:
        """Takes over the closed passes of a `state`, which have not been drawn again."""
        self.passes = [list(entry) for entry in state["passes"]]
        self._digest, self._closed = state["digest"], state["closed"]
        each = state.get("each") or {"closed": [], "pass": None, "passes": None}
        self._closed_each = {key: each[key] for key in self._closed_each}


def passes_of(state: dict[str, Any]) -> list[tuple[int, bool, int]]:
    """`Drawn.passes` of a `Drawn.state`.

    Raises:
        ValueError: it is no such state.
    """
    passes = [tuple(entry) for entry in state["passes"]]
    for taken, is_over, times in passes:
        counts = all(type(n) is int and 0 <= n < _MOST for n in (taken, times))
        if not counts or type(is_over) is not bool:
            raise ValueError(f"passes={state['passes']!r}")
    return passes
