"""A ``PyDataset`` from any batch on: each pass has its own view of it, and its own workers.

::

    view = Indexed(data, order=[2, 0, 1], taken=1)      # the batches 0 and 1
    view[0]                                             # data[0]

Keras keeps the batches that its workers have made beyond the end of an epoch for the next one,
and lets them begin before ``on_epoch_begin`` has been called. A pass that may begin anywhere
needs neither: its view does not change, its workers begin after ``on_epoch_begin`` and end
before ``on_epoch_end``, and what they have made in vain is dropped.
"""

import inspect
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerastrain.data import memory
from kerastrain.state import digests
from kerastrain.state import global_random


class Indexed(keras.utils.PyDataset):
    """Some of the batches of a ``PyDataset``, in an order.

    Args:
        data: the ``PyDataset``.
        order: the index of each of its batches, or None for its own order.
        taken: how many of these are left out, from the first on.
        copies: whether each batch is copied by whom it is made by, since it waits for others.
    """

    def __init__(
        self,
        data: keras.utils.PyDataset,
        order: list[int] | None = None,
        taken: int = 0,
        copies: bool = False,
    ) -> None:
        super().__init__(data.workers, data.use_multiprocessing, data.max_queue_size)
        self._data, self._order, self._taken, self._copies = data, order, taken, copies

    @property
    def num_batches(self) -> int | None:
        count = self._data.num_batches
        return None if count is None else max(count - self._taken, 0)

    def __getitem__(self, index: int) -> Any:
        index += self._taken
        batch = self._data[index if self._order is None else self._order[index]]
        return memory.copied_parts(batch) if self._copies else batch


def safe_for_keras(data: Any) -> Any:
    """A ``PyDataset`` or generator as one whose batches Keras may keep while it draws others.

    Keras hands them to ``tf.data``, which draws some ahead and takes over their memory.
    """
    if inspect.isgenerator(data):
        return memory.PeekedAt(data).batches
    return _WithEvents(data) if isinstance(data, keras.utils.PyDataset) else data


class _WithEvents(Indexed):
    """All batches of a ``PyDataset``, copied, and what it does between passes."""

    def __init__(self, data: keras.utils.PyDataset) -> None:
        super().__init__(data, copies=True)
        self.on_epoch_begin, self.on_epoch_end = data.on_epoch_begin, data.on_epoch_end


class IndexedBatches:
    """The passes over a ``PyDataset``.

    Args:
        data: the ``PyDataset``.
        make_adapter: gives Keras's adapter for one.
        seed: an integer that the order follows, or None for the order that it has.

    Attributes:
        data: the ``PyDataset``.
        has_events: whether it does something between passes.
        shuffles: whether the order follows the seed.
        drawn_from: a digest of the states of the global random numbers of Python and NumPy, from
            which the data set has drawn between passes; empty if it has not.
    """

    def __init__(
        self,
        data: keras.utils.PyDataset,
        make_adapter: Callable[[keras.utils.PyDataset], Any],
        seed: int | None,
    ):
        self.data, self._make_adapter, self._seed = data, make_adapter, seed
        self.shuffles, self.drawn_from = seed is not None, ""
        self.has_events = any(
            getattr(type(data), name) is not getattr(keras.utils.PyDataset, name)
            for name in ("on_epoch_begin", "on_epoch_end")
        )

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        self._seed = seed if self.shuffles else None

    def one_pass(self, number: int, taken: int) -> Iterator[Any]:
        """Yields the batches of a pass, after the first ones of its order.

        They are as they are drawn, in the memory of the data set, except that those of threads
        have been copied there.
        """
        data = self.data
        self._run(data.on_epoch_begin)
        try:
            order = None
            if self._seed is not None:  # it shuffles
                rng = np.random.default_rng([self._seed, number])
                order = rng.permutation(data.num_batches).tolist()
            in_threads = data.workers > 1 and not data.use_multiprocessing
            view = Indexed(data, order, taken, copies=in_threads)
            if view.num_batches == 0:  # with which Keras's workers would never end
                return
            adapter = self._make_adapter(view)
            adapter.on_epoch_begin()
            try:
                yield from adapter.get_numpy_iterator()
            finally:
                adapter.on_epoch_end()
        finally:
            self._run(data.on_epoch_end)

    def _run(self, event: Callable[[], None]) -> None:
        """Runs what the data set does between passes, and notes what that follows."""
        before = global_random.of_functions() if self.has_events else {}
        event()
        if self.has_events and global_random.moved_since(before):
            self.drawn_from = digests.joined(self.drawn_from, *before.values())
