"""Many steps in one call under Keras's own ``fit``, for ``steps_per_execution`` above 1.

Keras's ``fit`` hands over an iterator, and asks for ``steps_per_execution`` steps. They are
drawn in one call, while the ones before them are run in another, by the plan that is measured
to be the fastest (`kerastrain.runner`); the results of the metrics are computed once after them.
"""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import merging
from kerastrain.blocks import Block
from kerastrain.blocks import Chunk
from kerastrain.execution import Steps
from kerastrain.options import Execution
from kerastrain.options import StepOptions
from kerastrain.runner import Runner

# What "auto" stands for: with more, `fit` would serve callbacks too seldom.
AUTO_STEPS = 32


class FitLoops:
    """Keras's function of an iterator, which trains on the next batches.

    Args:
        model: a compiled model.
        options: of its step.
        keras_own: Keras's function, for data that cannot be stacked.
    """

    def __init__(self, model: keras.Model, options: StepOptions, keras_own: Callable):
        self._model, self._keras_own = model, keras_own
        self._number = model.steps_per_execution
        execution = Execution(jit_compile=bool(model.jit_compile))
        self._runner = Runner(model, Steps(model, None, options, execution), "train", execution)
        self._background = concurrent.futures.ThreadPoolExecutor(1)
        self._coming: Any = None  # the iterator, and what is being drawn of it
        self._draw = tf.function(self._drawn, autograph=False)
        self._results = tf.function(lambda: merging.results(model), autograph=False)

    @staticmethod
    def fit_for(model: keras.Model) -> bool:
        """Whether a model asks for several steps a call, and its step is kerastrain's."""
        own = any(_keras.overrides(model, m) for m in ("train_step", "compute_metrics"))
        several = model.steps_per_execution > 1 and not model.run_eagerly
        return several and not own and model.distribute_strategy.num_replicas_in_sync == 1

    def __call__(self, iterator: Any) -> dict:
        """Runs the next steps.

        Returns:
            The metrics' results.

        Raises:
            StopIteration: no batch is left.
        """
        if not isinstance(iterator, tf.data.Iterator) or not _can_be_stacked(iterator):
            return self._keras_own(iterator)
        if self._coming is None or self._coming[0] is not iterator:
            self._coming = iterator, self._background.submit(self._draw, iterator)
        arrays, sizes = self._coming[1].result()
        sizes = sizes.numpy()
        if not sizes.size:
            self._coming = None
            raise StopIteration
        self._coming = iterator, self._background.submit(self._draw, iterator)
        block, start = self._block(arrays, sizes), 0
        while start < len(sizes):
            steps = block.full - start if start < block.full else 1
            self._runner.run(Chunk(block, start, steps))
            start += steps
        return self._results()

    def _drawn(self, iterator):
        """The rows of the next batches one after another, and how many each batch has."""
        growing = {"size": 0, "dynamic_size": True, "infer_shape": False}
        kept = [
            tf.TensorArray(spec.dtype, element_shape=[None, *spec.shape[1:]], **growing)
            for spec in tf.nest.flatten(iterator.element_spec)
        ]
        sizes = tf.TensorArray(tf.int32, element_shape=[], **growing)

        def is_one_more(index, batch, *_):
            return tf.logical_and(index < self._number, batch.has_value())

        def keep(index, batch, kept, sizes):
            leaves = tf.nest.flatten(batch.get_value())
            kept = [array.write(index, leaf) for array, leaf in zip(kept, leaves, strict=True)]
            sizes = sizes.write(index, tf.shape(leaves[0])[0])
            index += 1
            # What is not wanted now stays in the iterator.
            following = tf.cond(
                index < self._number, iterator.get_next_as_optional, lambda: batch
            )
            return index, following, kept, sizes

        first = iterator.get_next_as_optional()
        _, _, kept, sizes = tf.while_loop(is_one_more, keep, (0, first, kept, sizes))
        rows = [array.concat() for array in kept]
        return tf.nest.pack_sequence_as(iterator.element_spec, rows), sizes.stack()

    def _block(self, arrays, sizes):
        """The rows as a block; with zeros up to full batches, so that shapes stay equal."""
        rows = int(sizes.max())
        missing = self._number * rows - int(sizes.sum())
        if missing:
            arrays = tf.nest.map_structure(
                lambda a: tf.pad(a, [[0, missing]] + [[0, 0]] * (a.shape.rank - 1)), arrays
            )
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        order = np.zeros((self._number, rows), "int32")
        for index, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
            order[index, :size] = np.arange(offset, offset + size)
        return Block.of_rows(arrays, order.reshape(-1), sizes, rows)


def _can_be_stacked(iterator) -> bool:
    return all(
        isinstance(spec, tf.TensorSpec)
        and spec.dtype != tf.string
        and spec.shape.rank
        and None not in spec.shape[1:].as_list()
        for spec in tf.nest.flatten(iterator.element_spec)
    )
