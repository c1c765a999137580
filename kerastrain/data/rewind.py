"""How one gets to a position in the passes over a data set again, in another process.

::

    again = Cursor("x", same_passes, first_pass=0, steps=None)
    again.track()
    Rewind(again).to(state)          # compares; the next batches are those that came next

How one gets there depends on the data (`kerastrain.data.passes`). At an index, one begins there. A
pass that can begin without those before it is drawn again from its first batch on. Otherwise
the passes before it are begun and ended again, or drawn again as far as they were drawn.

What is drawn again is compared with what was drawn (`kerastrain.data.drawn`), at least one batch;
where a pass is over, that is one of that pass. Of batches that code of the user's own makes,
all that are drawn again are compared: where one begins at an index, the last few before it,
of the pass before too.
"""

from collections.abc import Sequence
from typing import Any
from typing import NoReturn

from kerastrain import notices
from kerastrain.data.cursor import Cursor
from kerastrain.data.drawn import Drawn
from kerastrain.data.drawn import passes_of
from kerastrain.data.passes import DRAW
from kerastrain.data.passes import NOTHING
from kerastrain.errors import DataError

# Batches (None for all that there are), whether the data were over, and how many such passes.
ClosedPasses = tuple[int | None, bool, int]

_ALL = 2**31 - 1
_FEW = 8  # batches that do not identify a pass that code of the user's own makes


class Rewind:
    """Takes a cursor to where another one was.

    Args:
        cursor: over equal data, of which the first batch has been looked at, at most.
    """

    def __init__(self, cursor: Cursor):
        self._cursor, self._passes = cursor, cursor.passes

    @property
    def _drawn(self) -> Drawn:
        """What has been drawn again; the cursor notes it (`Cursor.track`)."""
        assert self._cursor.drawn is not None
        return self._cursor.drawn

    def to(self, state: dict[str, Any]) -> None:
        """Lets the batches come next that came after `Cursor.state` was asked for.

        Raises:
            DataError: what is drawn again are other batches.
        """
        if state.get("batches", self._cursor.num_batches) != self._cursor.num_batches:
            self._refuse("the number of batches")
        drawn = state.get("drawn")
        closed = self._closed_before_digests(state) if drawn is None else passes_of(drawn)
        cut = any(not over and count != self._cursor.num_batches for count, over, _ in closed)
        if cut and self._passes.cut_differs():
            self._refuse("how far it ran ahead of a pass that was not drawn to its end")
        drawn = drawn or {"digest": None, "closed": None, "first": None, "last": None}
        each = drawn.get("each") or {"open": [], "closed": [], "pass": None, "passes": None}
        if self._passes.replay == NOTHING:
            self._begin_there(state, drawn, each, closed)
        else:
            with self._cursor.seeing_draws():
                self._draw_again(state, drawn, each, closed)
            if state.get("drawn_from", now := self._passes.drawn_from()) != now:
                self._refuse(
                    "the state of the global random numbers, which on_epoch_begin or on_epoch_end "
                    "draws from (use a generator with a seed, or keras.utils.set_random_seed),"
                )
        if "passes" in drawn:
            self._drawn.set_closed(drawn)
        self._cursor.next_pass = state["next_pass"]

    def _begin_there(
        self,
        state: dict[str, Any],
        drawn: dict[str, Any],
        each: dict[str, Any],
        closed: Sequence[ClosedPasses],
    ) -> None:
        """Begins the pass; where none is open, the last one, to compare."""
        number, taken = state["pass"], state["taken"]
        self._cursor.close()
        self._passes.iterators.set_state(state["passes"])
        if number is not None:
            self._compare_before(taken, each, closed)
            self._begin(number, taken, drawn["first"], len(each["open"]))
            self._compare(drawn["first"], drawn["last"], each["open"], taken)
            return
        self._cursor.drawn = self._cursor.nothing_drawn()
        if closed and closed[-1][0] and drawn["closed"] is not None:
            first, last = drawn["closed"]
            self._begin(state["next_pass"] - 1, closed[-1][0], first, len(each["closed"]))
            self._compare(first, last, each["closed"], closed[-1][0])
            if closed[-1][1] and self._cursor.take(1) is not None:
                self._refuse("the number of batches")
            self._cursor.close()
        self._passes.iterators.finish_state(state["passes"])

    def _begin(self, number: int, taken: int, first: str | None, compared: int) -> None:
        """Begins a pass, and draws of it what is needed to be at a batch, and to compare."""
        self._cursor.drawn = self._cursor.nothing_drawn()
        skipped = max(taken - max(compared, 1), 0) if self._passes.seeks else 0
        self._cursor.current = self._passes.begin(number, skipped)
        if skipped:
            self._drawn.skip(skipped, first)
        self._cursor.look()
        self._take_exactly(taken - skipped)

    def _compare_before(
        self, taken: int, each: dict[str, Any], closed: Sequence[ClosedPasses]
    ) -> None:
        """Compares the last batches of the pass before, where few of this one are drawn again."""
        few = each["closed"][taken:]
        if self._passes.seeks and few and closed:
            count = closed[-1][0]
            assert count is not None  # it is unknown only where no batch was noted
            self._begin(each["pass"], count, "", len(few))
            self._compare_each(few, count, "the pass before")
            self._cursor.close()

    def _draw_again(
        self,
        state: dict[str, Any],
        drawn: dict[str, Any],
        each: dict[str, Any],
        closed: Sequence[ClosedPasses],
    ) -> None:
        """Draws again what was drawn, or begins and ends passes as that was done."""
        number, taken, index, is_whole = state["pass"], state["taken"], 0, True
        total = sum(times for _, _, times in closed)
        # The last pass before is drawn too, if little of this one has been.
        draws_last = number is None or (self._passes.digests is not None and taken < _FEW)
        for count, is_over, times in closed:
            for _ in range(times):
                index += 1
                self._cursor.look()
                if self._passes.replay == DRAW or (draws_last and index == total):
                    self._take_exactly(count)
                    if is_over and self._cursor.take(1) is not None:
                        self._refuse(f"the number of batches of pass {index}")
                else:
                    is_whole = False
                self._cursor.close()
        now = self._drawn.state()
        of_each = now.get("each") or each
        differs = drawn["digest"] not in (None, now["digest"])
        if is_whole and (differs or each["passes"] not in (None, of_each["passes"])):
            self._refuse("a batch of an earlier pass")
        differs = drawn["closed"] not in (None, now["closed"])
        if draws_last and (differs or each["closed"] not in ([], of_each["closed"])):
            self._refuse("a batch of the last pass")
        if number is None:
            return
        if self._cursor.current is None:
            self._cursor.next_pass = number
        self._cursor.look()
        self._take_exactly(taken)
        self._compare(drawn["first"], drawn["last"], each["open"], taken)

    def _take_exactly(self, count: int | None) -> None:
        """Takes ``count`` batches of the pass; all, where it is None."""
        while count is None and self._cursor.take(_ALL):
            pass
        while count:
            chunk = self._cursor.take(min(count, _ALL))
            if chunk is None:
                self._refuse("the number of batches")
            count -= chunk.steps

    def _compare(self, first: str | None, last: str | None, each: list[str], taken: int) -> None:
        """Refuses other batches of the pass than those that were drawn."""
        now = self._drawn.state()
        if first not in (None, now["first"]):
            self._refuse("the first batch of the pass")
        self._compare_each(each, taken, "the pass")
        if last not in (None, now["last"]):
            self._refuse(f"batch {taken} of the pass")

    def _compare_each(self, each: list[str], taken: int, name: str) -> None:
        """The same of each batch that code of the user's own has made."""
        if not each or each == (now := self._drawn.each):
            return
        if self._passes.digests == 0:  # one digest of all
            self._refuse(f"a batch of {name}")
        same = [one == other for one, other in zip(each, now, strict=False)]
        self._refuse(f"batch {taken - len(each) + [*same, False].index(False) + 1} of {name}")

    def _refuse(self, what: str) -> NoReturn:
        raise DataError(
            f"`{self._cursor.name}` does not give the batches that it gave before the run was saved: "
            f"{what} differs. {self._passes.advice} Or begin again in another run_dir."
        )

    def _closed_before_digests(self, state: dict[str, Any]) -> Sequence[ClosedPasses]:
        """The passes of a state of an earlier version, which noted none of what was drawn."""
        notices.warn(
            f"The run was saved by a version that did not note what `{self._cursor.name}` had given: "
            "what it gives now is not compared with it."
        )
        last = state["next_pass"] if state["pass"] is None else state["pass"]
        count = last - self._cursor.first_pass
        return [(self._cursor.steps, self._cursor.steps is None, count)] if count > 0 else []
