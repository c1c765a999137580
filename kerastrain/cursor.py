"""Where in the passes over a data set one is, and how to get there again.

::

    cursor = Cursor("x", passes, first_pass=0, steps=None)
    cursor.track()
    cursor.look()                    # the next batch, which stays the next one
    cursor.take(8)                   # a chunk of at most 8 batches; None at the end of the pass
    state = cursor.state()

    again = Cursor("x", same_passes, first_pass=0, steps=None)
    again.track()
    again.set_state(state)           # compares; the next batches are those that came next

How one gets there depends on the data (`kerastrain.passes`). At an index, one begins there. A
pass that can begin without those before it is drawn again from its first batch on. Otherwise
the passes before it are begun and ended again, or drawn again as far as they were drawn.

What is drawn again is compared with what was drawn (`kerastrain.drawn`), at least one batch;
where a pass is over, that is one of that pass.
"""

from typing import Any

from kerastrain import notices
from kerastrain.blocks import Chunk
from kerastrain.blocks import Pass
from kerastrain.drawn import Drawn
from kerastrain.drawn import passes_of
from kerastrain.errors import DataError
from kerastrain.passes import DRAW
from kerastrain.passes import NOTHING
from kerastrain.passes import Passes

_ALL = 2**31 - 1


class Cursor:
    """A position in the passes over a data set.

    Args:
        name: what the messages call the data.
        passes: over them.
        first_pass: the number of the first pass.
        steps: batches of an epoch, or None for a whole pass.

    Attributes:
        current: the pass that is open, or None.
        next_pass: the number of the one that comes next.
    """

    def __init__(self, name: str, passes: Passes, first_pass: int, steps: int | None):
        self._name, self._passes, self._steps = name, passes, steps
        self._first_pass = self.next_pass = first_pass
        self.current: Pass | None = None
        self._drawn: Drawn | None = None

    def opened(self) -> Pass:
        """The pass that is open; if there is none, the next one."""
        if self.current is None:
            self.current = self._passes.begin(self.next_pass)
            self.next_pass += 1
        return self.current

    def look(self) -> Any:
        """The next batch, which stays the next one; None at the end of the pass."""
        batch = self.opened().peek()
        if self._drawn is not None:
            self._drawn.look(batch)
        return batch

    def take(self, most: int) -> Chunk | None:
        """The next batches of the pass, ``most`` or fewer; None at its end."""
        chunk = self.opened().take(most)
        if self._drawn is not None and chunk is not None:
            self._drawn.take(chunk)
        return chunk

    def close(self) -> None:
        """Ends the pass that is open, and what runs in the background for it."""
        if self.current is not None:
            if self._drawn is not None:
                self._drawn.end(self.current.is_over)
            self.current.close()
            self.current = None

    def track(self, begins_anew: bool = False) -> None:
        """Lets `state` be asked for. Before a batch is looked at.

        Args:
            begins_anew: whether each epoch begins with a new pass, though it has ``steps``.

        Raises:
            DataError: another process is known to draw other batches.
        """
        cuts = begins_anew and self._steps not in (None, self._batches)
        if reason := self._passes.not_repeatable() or (cuts and self._passes.cut_differs()):
            raise DataError(
                f"`{self._name}` does not give the same batches in each process, so that a run "
                f"cannot be resumed: it has {reason}. {self._passes.advice}"
            )
        if cuts:
            self._passes.stay_behind()
        if reason := self._passes.may_differ():
            notices.warn(
                f"`{self._name}` runs {reason}: a run can be resumed bit by bit only if these keep "
                "no state from call to call."
            )
        self._drawn = Drawn(self._passes.orders_itself)

    @property
    def _batches(self):
        count = self._passes.num_batches
        return None if count is None else int(count)

    # Get there again --------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that decides which batches come next, and digests of the last ones."""
        current = self.current
        return {
            "next_pass": self.next_pass,
            "pass": None if current is None else current.number,
            "taken": 0 if current is None else current.taken,
            "batches": self._batches,
            "passes": self._passes.state(is_open=current is not None),
            "drawn": None if self._drawn is None else self._drawn.state(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Lets the batches come next that came after `state` was asked for.

        Of a cursor over equal data, that has looked at the first batch at most.

        Raises:
            DataError: what is drawn again are other batches.
        """
        if state.get("batches", self._batches) != self._batches:
            self._refuse("the number of batches")
        drawn = state.get("drawn")
        closed = self._closed_before_digests(state) if drawn is None else passes_of(drawn)
        cut = any(not over and count != self._batches for count, over, _ in closed)
        if cut and self._passes.cut_differs():
            self._refuse("how far it ran ahead of a pass that was not drawn to its end")
        drawn = drawn or {"digest": None, "closed": None, "first": None, "last": None}
        if self._passes.replay == NOTHING:
            self._begin_there(state, drawn, closed)
        else:
            self._draw_again(state, drawn, closed)
        if "passes" in drawn:
            self._drawn.set_closed(drawn)
        self.next_pass = state["next_pass"]

    def _begin_there(self, state, drawn, closed):
        """Begins the pass; where none is open, the last one, to compare."""
        number, taken = state["pass"], state["taken"]
        self.close()
        self._drawn = Drawn(self._passes.orders_itself)
        self._passes.set_state(state["passes"])
        if number is not None:
            self._begin(number, taken, drawn["first"])
            self._compare(drawn["first"], drawn["last"], taken)
            return
        if closed and closed[-1][0] and drawn["closed"] is not None:
            first, last = drawn["closed"]
            self._begin(state["next_pass"] - 1, closed[-1][0], first)
            self._compare(first, last, closed[-1][0])
            if closed[-1][1] and self.take(1) is not None:
                self._refuse("the number of batches")
            self.close()
        self._passes.finish_state(state["passes"])

    def _begin(self, number, taken, first):
        """Begins a pass, and draws of it what is needed to be at a batch, and to compare."""
        skipped = max(taken - 1, 0) if self._passes.seeks else 0
        self.current = self._passes.begin(number, skipped)
        if skipped:
            self._drawn.skip(skipped, first)
        self.look()
        self._take_exactly(taken - skipped)

    def _draw_again(self, state, drawn, closed):
        """Draws again what was drawn, or begins and ends passes as that was done."""
        number, taken, index, is_whole = state["pass"], state["taken"], 0, True
        total = sum(times for _, _, times in closed)
        for count, is_over, times in closed:
            for _ in range(times):
                index += 1
                self.look()
                if self._passes.replay == DRAW or (number is None and index == total):
                    self._take_exactly(count)
                    if is_over and self.take(1) is not None:
                        self._refuse(f"the number of batches of pass {index}")
                else:
                    is_whole = False
                self.close()
        now = self._drawn.state()
        if is_whole and drawn["digest"] not in (None, now["digest"]):
            self._refuse("a batch of an earlier pass")
        if number is None:
            if drawn["closed"] not in (None, now["closed"]):
                self._refuse("a batch of the last pass")
            return
        if self.current is None:
            self.next_pass = number
        self.look()
        self._take_exactly(taken)
        self._compare(drawn["first"], drawn["last"], taken)

    def _take_exactly(self, count):
        """Takes so many batches of the pass; all, where their number is not known."""
        while count is None and self.take(_ALL):
            pass
        while count:
            chunk = self.take(min(count, _ALL))
            if chunk is None:
                self._refuse("the number of batches")
            count -= chunk.steps

    def _compare(self, first, last, taken):
        """Refuses another first or last batch of the pass than those that were drawn."""
        now = self._drawn.state()
        if first not in (None, now["first"]):
            self._refuse("the first batch of the pass")
        if last not in (None, now["last"]):
            self._refuse(f"batch {taken} of the pass")

    def _refuse(self, what):
        raise DataError(
            f"`{self._name}` does not give the batches that it gave before the run was saved: "
            f"{what} differs. {self._passes.advice} Or begin again in another run_dir."
        )

    def _closed_before_digests(self, state):
        """The passes of a state of an earlier version, which noted none of what was drawn."""
        notices.warn(
            f"The run was saved by a version that did not note what `{self._name}` had given: "
            "it goes on unchecked."
        )
        last = state["next_pass"] if state["pass"] is None else state["pass"]
        count = last - self._first_pass
        return [(self._steps, self._steps is None, count)] if count > 0 else []
