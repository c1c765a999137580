"""Passes over what ``tf.data`` yields, in its order."""

from collections.abc import Generator
from typing import Any

import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.data import memory
from kerastrain.data import stacks
from kerastrain.data.blocks import Block
from kerastrain.data.passes import BEGIN
from kerastrain.data.passes import DRAW
from kerastrain.data.passes import drawn_ahead
from kerastrain.data.passes import NOTHING
from kerastrain.data.passes import Passes
from kerastrain.data.passes import skip


class PipelinePasses(Passes):
    """Passes over what ``tf.data`` yields, in its order.

    Of a pipeline of the user's, each pass takes up where those before have left its seeds: a
    shuffle draws one whenever it begins. Where all of it begins once in a pass, at the first
    batch, it is enough to begin the passes before; else (``repeat`` or ``cache`` after a
    shuffle, ``concatenate``, Python functions) they are drawn again. Where some of it stops before
    its data are over (``take``, ``zip``), how far these were drawn decides about the next pass:
    nothing then draws ahead unasked, and what was asked to is refused.

    Ragged and sparse arrays are shuffled by a pipeline of Keras's, which is made anew for each
    pass, with the seed ``(seed, pass)``.

    Args:
        adapter: Keras's.
        seed: an integer.
        steps: batches of an epoch, or None for a whole pass.
    """

    advice = (
        "Pass `seed=` to each shuffle, or call keras.utils.set_random_seed before the data set "
        "is made; leave out deterministic=False; draw random numbers of elements with "
        "tf.random.stateless_uniform; and make the data set anew for each fit."
    )

    def __init__(self, adapter: Any, seed: int, steps: int | None) -> None:
        self._adapter, self._seed, self._steps = adapter, seed, steps
        self._is_users = not _keras.is_of_arrays(adapter)
        self.num_batches = adapter.num_batches
        cardinality = adapter.get_tf_dataset().cardinality() if self._is_users else 0
        self.is_endless = int(cardinality) == tf.data.INFINITE_CARDINALITY
        self._traits: _keras.PipelineTraits | None = None
        self._left: _keras.Left | None = None

    def set_seed(self, seed: int) -> None:
        """Lets the order of passes follow another seed."""
        self._seed = seed

    @property  # nothing assigns to it in passes of this kind
    def replay(self) -> str:  # type: ignore[override]
        """What has to be done of the passes before one; see `Passes`."""
        if not self._is_users or self.traits.is_same_each_pass:
            return NOTHING
        return BEGIN if self.traits.begins_at_once else DRAW

    def not_repeatable(self) -> str:
        """Why another process cannot draw the same batches, if that is known; else empty."""
        return self.traits.differs if self._is_users else ""

    def may_differ(self) -> str:
        """Why another process may draw other batches, which cannot be known; else empty."""
        if not self._is_users:
            return ""
        if self.traits.runs_python_in_parallel:
            return "Python functions in an order that is a matter of time (num_parallel_calls)"
        if self._left is not None and self._left.runs_python_ahead:
            by = f"what {self._left.by} stops" if self._left.by else "a pass that is left"
            return f"Python functions ahead of {by} before its end ({self._left.runs_python_ahead})"
        return ""

    def cut_differs(self) -> str:
        """Why what follows a pass that is left before its end is a matter of time; or empty."""
        if not self._is_users or not self.traits.left_if_cut.runs_ahead:
            return ""
        return (
            f"{self.traits.left_if_cut.runs_ahead}, which has drawn more or less of what follows "
            "when a pass is left before its end (go through all of it, or shuffle after `repeat`)"
        )

    def stay_behind(self, is_cut: bool) -> None:
        """Nothing is drawn ahead unasked of what is left before its end.

        Args:
            is_cut: whether passes are.
        """
        if self._is_users:
            self._left = self.traits.left_if_cut if is_cut else self.traits.left

    def lasting(self) -> tuple[tuple[Any, str], ...]:
        """What keeps its state from pass to pass, in other passes that have it too; with its name."""
        return self.traits.lasting if self._is_users else ()

    @property
    def digests(self) -> int | None:  # type: ignore[override]
        """Of Python functions, all batches of a pass are compared; see `Passes`."""
        return 0 if self._is_users and self.traits.runs_python else None

    @property
    def calls_ahead(self) -> bool:
        """Whether there are Python functions."""
        return self.digests is not None

    @property
    def traits(self) -> "_keras.PipelineTraits":
        """What is known of the pipeline."""
        if self._traits is None:
            self._traits = _keras.pipeline_traits(self._adapter.get_tf_dataset())
        return self._traits

    def _blocks(self, number: int, taken: int) -> Generator[Block, None, None]:
        self._adapter.on_epoch_begin()
        try:
            copies = self._is_users and self.traits.runs_numpy
            iterator = self._iterator(number, copies)
            skip(iterator, taken)
            if self.storage == "stack":
                yield from drawn_ahead(
                    stacks.of_pipeline(iterator, copies, self._steps, taken), self._steps
                )
            else:
                for batch in iterator:
                    yield Block.of_batch(memory.copied_tensors(batch) if copies else batch)
        finally:
            self._adapter.on_epoch_end()

    def _iterator(self, number: int, copies: bool) -> tf.data.Iterator:
        if not self._is_users:
            with _keras.seeded_operations(_seed_of(self._seed, number)):
                return iter(self._adapter.get_tf_dataset())
        dataset = self._adapter.get_tf_dataset()
        stays_behind = self._left is not None and self._left.goes_on
        options = tf.data.Options()
        # TensorFlow would draw ahead in its own way: before a batch can be copied ...
        if copies:
            options.experimental_optimization.inject_prefetch = False
        # ... and in all that it makes parallel, maps and batches for one.
        if stays_behind:
            _keras.without_optimizations(options, dataset)
        return iter(dataset.with_options(options) if copies or stays_behind else dataset)


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0] >> 1)
