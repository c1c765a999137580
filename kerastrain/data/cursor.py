"""Where in the passes over a data set one is.

::

    cursor = Cursor("x", passes, first_pass=0, steps=None)
    cursor.track()
    cursor.look()                    # the next batch, which stays the next one
    cursor.take(8)                   # a chunk of at most 8 batches; None at the end of the pass
    state = cursor.state()           # for `kerastrain.data.rewind`
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from kerastrain import notices
from kerastrain.data.blocks import Chunk
from kerastrain.data.blocks import Pass
from kerastrain.data.drawn import Drawn
from kerastrain.data.passes import Passes
from kerastrain.errors import DataError
from kerastrain.state import global_random


class Cursor:
    """A position in the passes over a data set.

    Args:
        name: what the messages call the data.
        passes: over them.
        first_pass: the number of the first pass.
        steps: batches of an epoch, or None for a whole pass.

    Attributes:
        name, passes, first_pass, steps: as passed.
        current: the pass that is open, or None.
        drawn: what has been drawn, as digests; None where nobody asks for `state`.
        next_pass: the number of the one that comes next.
        functions_drew: from which global random numbers, ``"python"`` or ``"numpy"``, functions that
            make the batches, and may run ahead, were seen to draw when a batch was looked at, or
            drawn again.
    """

    def __init__(self, name: str, passes: Passes, first_pass: int, steps: int | None):
        self.name, self.passes, self.steps = name, passes, steps
        self.first_pass = self.next_pass = first_pass
        self.current: Pass | None = None
        self.drawn: Drawn | None = None
        self.functions_drew: set[str] = set()

    def opened(self) -> Pass:
        """The pass that is open; if there is none, the next one."""
        if self.current is None:
            self.current = self.passes.begin(self.next_pass)
            self.next_pass += 1
        return self.current

    def look(self) -> Any:
        """The next batch, which stays the next one; None at the end of the pass."""
        if self.drawn is None:
            return self.opened().peek()
        drew = set(self.functions_drew)
        with self.seeing_draws():
            batch = self.opened().peek()
        if self.functions_drew and not drew:
            notices.warn(
                f"Python functions that make the batches of `{self.name}` draw from the global "
                "random numbers of Python or NumPy, ahead of the training: a run may be refused when "
                "it is to be resumed within an epoch. Let each function draw from a generator of its "
                "own, such as np.random.default_rng((seed, number))."
            )
        self.drawn.look(batch)
        return batch

    def take(self, most: int) -> Chunk | None:
        """The next batches of the pass, ``most`` or fewer; None at its end."""
        chunk = self.opened().take(most)
        if self.drawn is not None and chunk is not None:
            self.drawn.take(chunk)
        return chunk

    @contextlib.contextmanager
    def seeing_draws(self) -> Iterator[None]:
        """Inside, functions that make batches ahead may draw from global random numbers."""
        before = global_random.of_functions() if self.passes.calls_ahead else None
        yield
        if before is not None:
            self.functions_drew |= global_random.moved_since(before)

    def close(self) -> None:
        """Ends the pass that is open, and what runs in the background for it."""
        if self.current is not None:
            if self.drawn is not None:
                self.drawn.end(self.current.number, self.current.is_over)
            self.current.close()
            self.current = None

    def track(self, begins_anew: bool = False) -> None:
        """Lets `state` be asked for. Before a batch is looked at.

        Args:
            begins_anew: whether each epoch begins with a new pass, though it has ``steps``.

        Raises:
            DataError: another process is known to draw other batches.
        """
        cuts = (
            begins_anew
            and self.steps is not None
            and ((count := self.num_batches) is None or self.steps < count)
        )
        if reason := self.passes.not_repeatable() or (cuts and self.passes.cut_differs()):
            raise DataError(
                f"`{self.name}` does not give the same batches in each process, so that a run "
                f"cannot be resumed: it has {reason}. {self.passes.advice}"
            )
        self.passes.stay_behind(cuts)
        if reason := self.passes.may_differ():
            notices.warn(
                f"`{self.name}` runs {reason}: a run can be resumed bit by bit only if these keep "
                "no state from call to call."
            )
        self.drawn = self.nothing_drawn()

    def check_apart(self, other: "Cursor") -> None:
        """Refuses data whose passes depend on one another.

        Raises:
            DataError: names both, and what they have in common.
        """
        lasting = {id(one): name for one, name in other.passes.lasting()}
        shared = [name for one, name in self.passes.lasting() if id(one) in lasting]
        if shared:
            raise DataError(
                f"`{other.name}` and `{self.name}` have the same {shared[0]}: each pass over the "
                "one changes what the other yields, so that a run cannot be resumed. Pass "
                "reshuffle_each_iteration=False to a shuffle that both are made of (without it, "
                "`take` and `skip` of one data set are other rows in each pass), or make what "
                "they have in common for each of them."
            )

    def nothing_drawn(self) -> Drawn:
        """What has been drawn of passes that begin anew."""
        if self.passes.function:
            return Drawn(compares=False)
        return Drawn(self.passes.orders_itself, self.passes.digests)

    @property
    def num_batches(self) -> int | None:
        """Of a pass; None where unknown."""
        count = self.passes.num_batches
        return None if count is None else int(count)

    def state(self) -> dict[str, Any]:
        """All that decides which batches come next, and digests of the last ones."""
        current = self.current
        return {
            "next_pass": self.next_pass,
            "pass": None if current is None else current.number,
            "taken": 0 if current is None else current.taken,
            "batches": self.num_batches,
            "passes": self.passes.iterators.state(is_open=current is not None),
            "drawn_from": self.passes.drawn_from(),
            "drawn": None if self.drawn is None else self.drawn.state(),
        }
