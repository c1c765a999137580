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
where a pass is over, that is one of that pass. Of batches that code of the user's own makes,
all that are drawn again are compared: where one begins at an index, the last few before it,
of the pass before too.
"""

import contextlib
from typing import Any

from kerastrain import global_random
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
_FEW = 8  # batches that do not tell enough of a pass that code of the user's own makes


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
        functions_drew: from which global random numbers, ``"python"`` or ``"numpy"``, functions that
            make the batches, and may run ahead, were seen to draw when a batch was looked at, or
            drawn again.
    """

    def __init__(self, name: str, passes: Passes, first_pass: int, steps: int | None):
        self._name, self._passes, self._steps = name, passes, steps
        self._first_pass = self.next_pass = first_pass
        self.current: Pass | None = None
        self._drawn: Drawn | None = None
        self.functions_drew: set[str] = set()

    def opened(self) -> Pass:
        """The pass that is open; if there is none, the next one."""
        if self.current is None:
            self.current = self._passes.begin(self.next_pass)
            self.next_pass += 1
        return self.current

    def look(self) -> Any:
        """The next batch, which stays the next one; None at the end of the pass."""
        if self._drawn is None:
            return self.opened().peek()
        drew = set(self.functions_drew)
        with self._seeing_draws():
            batch = self.opened().peek()
        if self.functions_drew and not drew:
            notices.warn(
                f"Python functions that make the batches of `{self._name}` draw from the global "
                "random numbers of Python or NumPy, ahead of the training: a run may be refused when "
                "it is to be resumed within an epoch. Let each function draw from a generator of its "
                "own, such as np.random.default_rng((seed, number))."
            )
        self._drawn.look(batch)
        return batch

    def take(self, most: int) -> Chunk | None:
        """The next batches of the pass, ``most`` or fewer; None at its end."""
        chunk = self.opened().take(most)
        if self._drawn is not None and chunk is not None:
            self._drawn.take(chunk)
        return chunk

    @contextlib.contextmanager
    def _seeing_draws(self):
        before = global_random.of_functions() if self._passes.calls_ahead else None
        yield
        if before is not None:
            self.functions_drew |= global_random.moved_since(before)

    def close(self) -> None:
        """Ends the pass that is open, and what runs in the background for it."""
        if self.current is not None:
            if self._drawn is not None:
                self._drawn.end(self.current.number, self.current.is_over)
            self.current.close()
            self.current = None

    def track(self, begins_anew: bool = False) -> None:
        """Lets `state` be asked for. Before a batch is looked at.

        Args:
            begins_anew: whether each epoch begins with a new pass, though it has ``steps``.

        Raises:
            DataError: another process is known to draw other batches.
        """
        cuts = begins_anew and self._steps is not None
        cuts = cuts and (self._batches is None or self._steps < self._batches)
        if reason := self._passes.not_repeatable() or (cuts and self._passes.cut_differs()):
            raise DataError(
                f"`{self._name}` does not give the same batches in each process, so that a run "
                f"cannot be resumed: it has {reason}. {self._passes.advice}"
            )
        self._passes.stay_behind(cuts)
        if reason := self._passes.may_differ():
            notices.warn(
                f"`{self._name}` runs {reason}: a run can be resumed bit by bit only if these keep "
                "no state from call to call."
            )
        self._drawn = self._nothing_drawn()

    def check_apart(self, other: "Cursor") -> None:
        """Refuses data whose passes go on from one another's.

        Raises:
            DataError: names both, and what they have in common.
        """
        lasting = {id(one): name for one, name in other._passes.lasting()}
        shared = [name for one, name in self._passes.lasting() if id(one) in lasting]
        if shared:
            raise DataError(
                f"`{other._name}` and `{self._name}` have the same {shared[0]}: each pass over the "
                "one changes what the other yields, so that a run cannot be resumed. Pass "
                "reshuffle_each_iteration=False to a shuffle that both are made of (without it, "
                "`take` and `skip` of one data set are other rows in each pass), or make what "
                "they have in common for each of them."
            )

    def _nothing_drawn(self):
        return Drawn(self._passes.orders_itself, self._passes.digests)

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
            "drawn_from": self._passes.drawn_from(),
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
        each = drawn.get("each") or {"open": [], "closed": [], "pass": None, "passes": None}
        if self._passes.replay == NOTHING:
            self._begin_there(state, drawn, each, closed)
        else:
            with self._seeing_draws():
                self._draw_again(state, drawn, each, closed)
            if state.get("drawn_from", now := self._passes.drawn_from()) != now:
                self._refuse(
                    "the state of the global random numbers, which on_epoch_begin or on_epoch_end "
                    "draws from (use a generator with a seed, or keras.utils.set_random_seed),"
                )
        if "passes" in drawn:
            self._drawn.set_closed(drawn)
        self.next_pass = state["next_pass"]

    def _begin_there(self, state, drawn, each, closed):
        """Begins the pass; where none is open, the last one, to compare."""
        number, taken = state["pass"], state["taken"]
        self.close()
        self._passes.set_state(state["passes"])
        if number is not None:
            self._compare_before(taken, each, closed)
            self._begin(number, taken, drawn["first"], len(each["open"]))
            self._compare(drawn["first"], drawn["last"], each["open"], taken)
            return
        self._drawn = self._nothing_drawn()
        if closed and closed[-1][0] and drawn["closed"] is not None:
            first, last = drawn["closed"]
            self._begin(state["next_pass"] - 1, closed[-1][0], first, len(each["closed"]))
            self._compare(first, last, each["closed"], closed[-1][0])
            if closed[-1][1] and self.take(1) is not None:
                self._refuse("the number of batches")
            self.close()
        self._passes.finish_state(state["passes"])

    def _begin(self, number, taken, first, compared):
        """Begins a pass, and draws of it what is needed to be at a batch, and to compare."""
        self._drawn = self._nothing_drawn()
        skipped = max(taken - max(compared, 1), 0) if self._passes.seeks else 0
        self.current = self._passes.begin(number, skipped)
        if skipped:
            self._drawn.skip(skipped, first)
        self.look()
        self._take_exactly(taken - skipped)

    def _compare_before(self, taken, each, closed):
        """Compares the last batches of the pass before, where few of this one are drawn again."""
        few = each["closed"][taken:]
        if self._passes.seeks and few and closed:
            self._begin(each["pass"], closed[-1][0], "", len(few))
            self._compare_each(few, closed[-1][0], "the pass before")
            self.close()

    def _draw_again(self, state, drawn, each, closed):
        """Draws again what was drawn, or begins and ends passes as that was done."""
        number, taken, index, is_whole = state["pass"], state["taken"], 0, True
        total = sum(times for _, _, times in closed)
        # The last pass before is drawn too, if little of this one has been.
        draws_last = number is None or (self._passes.digests is not None and taken < _FEW)
        for count, is_over, times in closed:
            for _ in range(times):
                index += 1
                self.look()
                if self._passes.replay == DRAW or (draws_last and index == total):
                    self._take_exactly(count)
                    if is_over and self.take(1) is not None:
                        self._refuse(f"the number of batches of pass {index}")
                else:
                    is_whole = False
                self.close()
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
        if self.current is None:
            self.next_pass = number
        self.look()
        self._take_exactly(taken)
        self._compare(drawn["first"], drawn["last"], each["open"], taken)

    def _take_exactly(self, count):
        """Takes so many batches of the pass; all, where their number is not known."""
        while count is None and self.take(_ALL):
            pass
        while count:
            chunk = self.take(min(count, _ALL))
            if chunk is None:
                self._refuse("the number of batches")
            count -= chunk.steps

    def _compare(self, first, last, each, taken):
        """Refuses other batches of the pass than those that were drawn."""
        now = self._drawn.state()
        if first not in (None, now["first"]):
            self._refuse("the first batch of the pass")
        self._compare_each(each, taken, "the pass")
        if last not in (None, now["last"]):
            self._refuse(f"batch {taken} of the pass")

    def _compare_each(self, each, taken, name):
        """The same of each batch that code of the user's own has made."""
        if not each or each == (now := self._drawn.each):
            return
        if self._passes.digests == 0:  # one digest of all
            self._refuse(f"a batch of {name}")
        same = [one == other for one, other in zip(each, now, strict=False)]
        self._refuse(f"batch {taken - len(each) + [*same, False].index(False) + 1} of {name}")

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
