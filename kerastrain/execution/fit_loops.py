"""Many steps in one call under Keras's own ``fit``, for ``steps_per_execution`` above 1.

Keras's ``fit`` hands over an iterator, and asks for ``steps_per_execution`` steps. They are
drawn in one call, while the ones before them are run in another, by the plan that is measured
to be the fastest (`kerastrain.execution.runner`); the results of the metrics are computed once after them.
"""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.data import Block
from kerastrain.data import Chunk
from kerastrain.data import stacks
from kerastrain.distribution import merging
from kerastrain.execution.compiled_steps import Steps
from kerastrain.execution.runner import Runner
from kerastrain.execution.step_calls import StepKind
from kerastrain.options import Execution
from kerastrain.options import StepOptions

# What "auto" stands for: with more, `fit` would serve callbacks too seldom.
AUTO_STEPS = 32


class FitLoops:
    """Keras's function of an iterator, which trains on the next batches.

    Args:
        model: a compiled model.
        options: of its step.
        keras_own: Keras's function, for data that cannot be stacked.
    """

    def __init__(self, model: keras.Model, options: StepOptions, keras_own: Callable[[Any], Any]):
        self._model, self._keras_own = model, keras_own
        self._number = model.steps_per_execution
        execution = Execution(jit_compile=True if model.jit_compile else None)
        self._runner = Runner(
            model, Steps(model, None, options, execution), StepKind("train"), execution
        )
        self._background = concurrent.futures.ThreadPoolExecutor(1)
        self._coming: Any = None  # the iterator, and what is being drawn of it
        self._results = tf.function(lambda: merging.results(model), autograph=False)

    @staticmethod
    def fit_for(model: keras.Model) -> bool:
        """Whether a model asks for several steps a call, and its step is kerastrain's."""
        own = any(_keras.overrides(model, m) for m in ("train_step", "compute_metrics"))
        several = model.steps_per_execution > 1 and not model.run_eagerly
        return several and not own and model.distribute_strategy.num_replicas_in_sync == 1

    def __call__(self, iterator: Any) -> dict[str, Any]:
        """Runs the next steps.

        Returns:
            The metrics' results.

        Raises:
            StopIteration: no batch is left.
        """
        if not isinstance(iterator, tf.data.Iterator) or not stacks.is_drawable(iterator):
            return self._keras_own(iterator)
        if self._coming is None or self._coming[0] is not iterator:
            self._coming = iterator, self._drawing(iterator)
        arrays, sizes = self._coming[1].result()
        sizes = sizes.numpy()[:, 0]
        if not sizes.size:
            self._coming = None
            raise StopIteration
        self._coming = iterator, self._drawing(iterator)
        block, start = Block.of_rows(arrays, sizes, int(sizes.max()), self._number), 0
        while start < len(sizes):
            steps = block.full - start if start < block.full else 1
            self._runner.run(Chunk(block, start, steps))
            start += steps
        return self._results()

    def _drawing(self, iterator: tf.data.Iterator) -> concurrent.futures.Future[Any]:
        """Draws the next batches in the background."""
        return self._background.submit(stacks.draw, iterator, self._number)
