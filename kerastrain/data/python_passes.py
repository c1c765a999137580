"""Passes over what Python draws: a generator, torch's loaders, Grain, a ``PyDataset``."""

from collections.abc import Generator
from collections.abc import Iterator
from typing import Any

from kerastrain import _keras
from kerastrain.data import stacks
from kerastrain.data.blocks import Block
from kerastrain.data.blocks import map_leaves
from kerastrain.data.indexed import IndexedBatches
from kerastrain.data.passes import BEGIN
from kerastrain.data.passes import NOTHING
from kerastrain.data.passes import Passes
from kerastrain.data.passes import skip
from kerastrain.data.torch_states import TorchStates

# Of a data set that gives any batch by its index, how many of the last ones are drawn again, to be
# compared with those of then.
_RECENT = 8


class PythonPasses(Passes):
    """Passes over what Python draws: a generator, torch's loaders, Grain, a ``PyDataset``.

    Args:
        adapter: Keras's.
        data: what the adapter was made of.
        steps: batches of an epoch, or None for a whole pass.
    """

    digests = 0

    def __init__(self, adapter: Any, data: Any, steps: int | None) -> None:
        self._adapter, self._data, self._steps = adapter, data, steps
        self.num_batches = adapter.num_batches
        self._once: Iterator | None = None
        self._lasting: list = []
        if isinstance(data, IndexedBatches):
            self.follow_seed, self.seeks = data.shuffles, not data.has_events
            self.replay = BEGIN if data.has_events else NOTHING
            self.orders_itself = data.has_events
            self.digests = 0 if data.has_events else _RECENT
            self._lasting = [data.data] if data.has_events else []
            self.advice = (
                "`__getitem__` must return the same batch for the same index, in each process; "
                "let it change nothing, and draw random numbers from "
                "np.random.default_rng([seed, index]), say. What differs from pass to pass "
                "belongs in on_epoch_begin or on_epoch_end."
            )
        elif _keras.is_torch_dataloader(data):
            self.advice = (
                "Its order and its random numbers must follow torch's own generator or one "
                "with a seed, the same in each process."
            )
            # A generator of its own keeps its state from pass to pass.
            generators = [data.generator, getattr(data.sampler, "generator", None)]
            self._lasting = [one for one in generators if one is not None]
            if not self._lasting:
                self.replay, self.iterators = NOTHING, TorchStates()
        elif not isinstance(data, Iterator):
            self.replay = NOTHING  # Grain's data sets are the same each time

    def lasting(self) -> tuple[tuple[Any, str], ...]:
        """What keeps its state from pass to pass, in other passes that have it too; with its name."""
        return tuple((one, type(one).__name__) for one in self._lasting)

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        if self.follow_seed:
            self._data.set_seed(seed)

    @property
    def calls_ahead(self) -> bool:
        """Of all but a ``PyDataset``, of which as many batches are drawn again as are compared."""
        return not isinstance(self._data, IndexedBatches)

    def drawn_from(self) -> str:
        """A digest of the global random numbers that passes began or ended with; or empty."""
        return self._data.drawn_from if isinstance(self._data, IndexedBatches) else ""

    def _blocks(self, number: int, taken: int) -> Generator[Block, None, None]:
        batches = map(_keras.list_to_tuple, self._batches(number, taken))
        if self.storage == "stack":
            yield from stacks.of_batches(batches, self._steps, taken)
        else:
            yield from (Block.of_batch(map_leaves(stacks.own_tensor, b)) for b in batches)

    def _batches(self, number: int, taken: int) -> Generator[Any, None, None]:
        if isinstance(self._data, IndexedBatches):
            yield from self._data.one_pass(number, taken)
            return
        self._adapter.on_epoch_begin()
        try:
            if isinstance(self.iterators, TorchStates):
                self.iterators.begin()
            if isinstance(self._data, Iterator):  # each further one of Keras's replays two batches
                self._once = self._once or iter(self._adapter.get_numpy_iterator())
                batches = self._once
            else:
                batches = iter(self._adapter.get_numpy_iterator())
            skip(batches, taken)
            for batch in batches:  # `yield from` would end a generator with the pass  # noqa: UP028
                yield batch
        finally:
            self._adapter.on_epoch_end()
