"""What a pass over a data set is: blocks of batches, and how one gets back to a batch of it.

There is a kind of them for each kind of data: `kerastrain.data.array_passes`, of arrays;
`pipeline_passes`, of ``tf.data``; `python_passes`, of what Python draws.

Where a training is resumed, what a pass has given before can be skipped (`Passes.seeks`), or the
pass is drawn again; and so can the passes before (`Passes.replay`).
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
from collections.abc import Generator
from collections.abc import Iterator
from typing import Any
from typing import Protocol

from kerastrain.data.blocks import Block
from kerastrain.data.blocks import Pass
from kerastrain.data.shares import ALL
from kerastrain.data.shares import Share
from kerastrain.data.shares import WholeOfWorkers

# What has to be done of the passes before one, to begin it as it was begun: nothing; begin and
# end each; or draw each as far as it was drawn.
NOTHING, BEGIN, DRAW = "nothing", "begin", "draw"


class IteratorStates(Protocol):
    """What the iterators of passes depend on beyond their data: states of random numbers."""

    def state(self, is_open: bool) -> Any:
        """What else the next batches depend on.

        Args:
            is_open: whether a pass has begun that has not been closed.
        """

    def set_state(self, state: Any) -> None:
        """Lets the next pass that begins be that which was begun last when `state` was asked for."""

    def finish_state(self, state: Any) -> None:
        """As `state` gave it, where no pass is open."""


class NoStates:
    """The states of iterators that have none."""

    def state(self, is_open: bool) -> None:
        """None."""

    def set_state(self, state: Any) -> None:
        """Nothing depends on it."""

    finish_state = set_state


class Passes:
    """Passes over a data set.

    Attributes:
        follow_seed: whether the order is a function of the seed and the pass.
        storage: ``"batch"``, ``"stack"`` or ``"arrays"`` (`kerastrain.data.blocks`).
        num_batches: of a pass, or None where unknown.
        replay: ``NOTHING``, ``BEGIN`` or ``DRAW``.
        seeks: whether a pass can begin at any batch without those before it.
        orders_itself: whether code of the user's own decides the order between passes.
        digests: where code of the user's own makes the batches, how many of the last ones are
            compared one by one; 0 for all of a pass, together. None elsewhere.
        is_endless: whether a pass is known never to end.
        iterators: the states that the next pass begins with.
        advice: what to do if the batches are not the same in another process.
        function: what messages call a function of the input context that has made the data set, of
            the rows of one worker; else empty. Nothing of such data is compared, as another number
            of workers cuts them otherwise.
        share: of this worker in such data.
    """

    follow_seed, storage, orders_itself = False, "batch", False
    num_batches: int | None = None
    replay, seeks, advice = DRAW, False, "Make the data set the same in each process."
    digests: int | None = None
    is_endless = False
    iterators: IteratorStates = NoStates()
    function, share = "", ALL

    def in_blocks(self, resident_bytes: int) -> None:
        """From the next pass on, batches lie together."""
        self.storage = "stack"

    def begin(self, number: int, taken: int = 0) -> Pass:
        """A pass, from the batch on that comes after those ``taken``."""
        return Pass(self._of_workers(self._blocks(number, taken)), number, taken)

    def _blocks(self, number: int, taken: int) -> Generator[Block, None, None]:
        raise NotImplementedError

    def _of_workers(self, blocks: Generator[Block, None, None]) -> Generator[Block, None, None]:
        """The same blocks; where each worker has its own rows, with the batches of all."""
        if self.share.count == 1:
            return blocks
        return _with_whole(blocks, self.share, self.function)

    def not_repeatable(self) -> str:
        """Why another process cannot draw the same batches, if that is known; else empty."""
        return ""

    def may_differ(self) -> str:
        """Why another process may draw other batches, which cannot be known; else empty."""
        return ""

    def cut_differs(self) -> str:
        """Why what follows a pass that is left before its end is a matter of time; or empty."""
        return ""

    def stay_behind(self, is_cut: bool) -> None:
        """Nothing is drawn ahead unasked of what is left before its end.

        Args:
            is_cut: whether passes are.
        """

    def lasting(self) -> tuple[tuple[Any, str], ...]:
        """What keeps its state from pass to pass, in other passes that have it too; with its name."""
        return ()

    @property
    def calls_ahead(self) -> bool:
        """Whether Python functions that make batches may be called ahead of the training."""
        return False

    def drawn_from(self) -> str:
        """A digest of the global random numbers that passes began or ended with; or empty."""
        return ""

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""


def drawn_ahead(blocks: Iterator[Block], limit: int | None = None) -> Generator[Block, None, None]:
    """The same blocks; the next one is made in the background, but not beyond an epoch.

    What is drawn before a pass is left is so the same each time.

    Args:
        blocks: an iterator.
        limit: the batches of an epoch.
    """
    drawn = 0
    with concurrent.futures.ThreadPoolExecutor(1) as background:
        coming = background.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            drawn += block.steps
            waits = limit is not None and drawn % limit == 0
            if not waits:
                coming = background.submit(next, blocks, None)
            yield block
            if waits:
                coming = background.submit(next, blocks, None)


def _with_whole(
    blocks: Generator[Block, None, None], share: Share, name: str
) -> Generator[Block, None, None]:
    with contextlib.closing(blocks):
        for block in blocks:
            whole = WholeOfWorkers(block.part, share, name)
            yield dataclasses.replace(block, whole=whole)


def skip(iterator: Iterator[Any], number: int) -> None:
    """Draws batches, and drops them."""
    for _ in itertools.islice(iterator, number):
        pass
