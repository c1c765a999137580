"""Many steps in one call: a compiled loop over the batches of a block.

::

    loop = Loop(step, xla=True)
    loop.prepare(block)                # traces and compiles, runs no step
    loop(chunk)                        # runs the steps of the chunk

The number of steps is an argument, so one compilation serves chunks of any length, and
`prepare` runs none: a loop that cannot be compiled has changed nothing. Calls that keep the
results of one step have no loop and no other branch, in which replicas could not meet; their
`prepare` only traces.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kerastrain.data import batch_at
from kerastrain.data import Block
from kerastrain.data import Chunk
from kerastrain.execution.dynamic_batch import DynamicBatchFunction
from kerastrain.step import rows as rows_lib
from kerastrain.xla import check_graph
from kerastrain.xla import same_under_xla
from kerastrain.xla import support as xla_support


class Loop:
    """Runs consecutive batches of a block by one function of a batch.

    Args:
        step: a function of a batch; what it returns is kept where there are any ``outputs_per_call``.
        xla: whether XLA compiles the loop as one program. It takes full batches only, and
            each number of rows is compiled by itself.
        outputs_per_call: for how many steps of a call to return what each of them returned; 0
            for none.
        min_rows: the rows that a batch needs.
        workers: how many there are, where each has its own rows of a batch; 0 where batches are whole.
        static_batch: whether the number of rows is known in the trace, as it always is with ``xla``.
        traced: called with each concrete function before it runs for the first time.
    """

    def __init__(
        self,
        step: Callable[[Any], Any],
        xla: bool = False,
        outputs_per_call: int = 0,
        min_rows: int = 1,
        static_batch: bool = False,
        traced: Callable[[Any], None] = lambda _: None,
        workers: int = 0,
    ):
        self._tell, self._no_rows = traced, (0,) * workers
        self._step, self._outputs_per_call, self._min_rows = step, outputs_per_call, min_rows
        self._xla, self._static_batch = xla, static_batch or xla
        self._always_one = outputs_per_call == 1 and not xla
        self._open = DynamicBatchFunction(self._loop_over_any, False, traced)
        self._compiled: dict[tuple[Any, ...], Callable[..., Any]] = {}
        # Of the blocks that nothing is left to compile for, whether steps have run.
        self._prepared: dict[tuple[Any, ...], bool] = {}

    def takes(self, chunk: Chunk) -> bool:
        """Whether these batches can be run."""
        return chunk.rows >= self._min_rows and (chunk.is_full or not self._static_batch)

    def is_prepared(self, block: Block) -> bool:
        """Whether nothing is left to compile for such a block. An open trace takes any."""
        return not self._static_batch or block.signature in self._prepared

    def prepare(self, block: Block) -> bool:
        """Traces and compiles for a block, unless that is done; no step is run.

        Returns:
            Whether steps of such a block have run (`note_run`).

        Raises:
            Exception: of many kinds; the loop cannot be compiled.
        """
        has_run = self._prepared.get(block.signature)
        if has_run is not None:
            return has_run
        if not self._static_batch:
            try:
                self._compile(block)
            except (TypeError, ValueError):
                self._static_batch = (
                    True  # a model that reads the number of rows in Python needs it
                )
                self._prepared.clear()
        if self._static_batch:
            self._compiled[block.signature] = self._traced(block)
            self._compile(block)
        self._prepared[block.signature] = False
        return False

    @property
    def has_run(self) -> bool:
        """Whether it has run steps of any block."""
        return any(self._prepared.values())

    def note_run(self, block: Block) -> None:
        """Steps of such a block have run, and no error came of it."""
        self._prepared[block.signature] = True

    def _compile(self, block: Block) -> None:
        """By a call without steps, where there can be one; else by tracing alone."""
        if not self._always_one:
            self._run(block, 0, 0, self._no_rows)
        elif not self._static_batch:
            self._open.trace((block.data, tf.constant([0, 1, block.rows, *self._no_rows])))

    def __call__(self, chunk: Chunk) -> list[Any] | None:
        """Runs the steps; returns what each of them returned, where that is asked for.

        The loop is prepared for such a block.
        """
        each = chunk.agreed.rows if chunk.agreed is not None else ()
        kept = self._run(chunk.block, chunk.start, chunk.steps, each)
        if not self._outputs_per_call:
            return None
        kept = tf.nest.map_structure(lambda leaf: leaf.numpy(), kept)
        return [tf.nest.map_structure(lambda leaf, i=i: leaf[i], kept) for i in range(chunk.steps)]

    def _run(self, block: Block, start: int, steps: int, each: tuple[int, ...]) -> Any:
        """Runs steps; ``each`` are the rows of the workers in each of their batches."""
        span = tf.constant([start, steps, block.rows, *each])
        if self._static_batch:
            return self._compiled[block.signature](block.data, span)
        return self._open((block.data, span))

    def _traced(self, block: Block) -> Callable[..., Any]:
        def loop(data: Any, span: tf.Tensor) -> Any:
            return self._looping(
                lambda i: self._with_rows(batch_at(data, i, block.rows, fixed=True), span), span
            )

        function = tf.function(loop, jit_compile=self._xla or None, autograph=False)
        with same_under_xla() if self._xla else contextlib.nullcontext():
            span = tf.constant([0, 0, block.rows, *self._no_rows])
            compiled = function.get_concrete_function(block.data, span)
        if self._xla:
            check_graph(compiled.graph)
            xla_support.check_graph(compiled.graph)
        self._tell(compiled)
        return compiled

    def _loop_over_any(self, arguments: tuple[Any, tf.Tensor]) -> Any:
        data, span = arguments
        return self._looping(
            lambda index: self._with_rows(batch_at(data, index, span[2]), span), span
        )

    def _with_rows(self, batch: Any, span: tf.Tensor) -> Any:
        return rows_lib.OwnRows(batch, span[3:]) if self._no_rows else batch

    def _looping(self, batch: Callable[[tf.Tensor], Any], span: tf.Tensor) -> Any:
        start, stop = span[0], span[0] + span[1]
        if self._outputs_per_call:
            return self._keeping(batch, start, stop)

        def one_step(index: tf.Tensor) -> tuple[tf.Tensor]:
            self._step(batch(index))
            return (index + 1,)

        tf.while_loop(lambda index: index < stop, one_step, (start,), parallel_iterations=1)
        return ()

    def _keeping(self, batch: Callable[[tf.Tensor], Any], start: tf.Tensor, stop: tf.Tensor) -> Any:
        """The loop that stacks what each step returns."""
        step = tf.function(self._step, autograph=False).get_concrete_function(
            tf.nest.map_structure(tf.type_spec_from_value, batch(start))
        )
        example = step.structured_outputs
        if self._outputs_per_call == 1:  # a loop would take a tenth more
            if self._always_one:
                logs = step(batch(start))
            else:
                none = tf.nest.map_structure(_zeros, example)
                logs = tf.cond(start < stop, lambda: step(batch(start)), lambda: none)
            return tf.nest.map_structure(lambda leaf: leaf[tf.newaxis], logs)
        kept = [
            tf.TensorArray(leaf.dtype, self._outputs_per_call, element_shape=leaf.shape)
            for leaf in tf.nest.flatten(example)
        ]

        def one_step(
            index: tf.Tensor, kept: list[tf.TensorArray]
        ) -> tuple[tf.Tensor, list[tf.TensorArray]]:
            logs = step(batch(index))
            pairs = zip(kept, tf.nest.flatten(logs), strict=True)
            return index + 1, [array.write(index - start, leaf) for array, leaf in pairs]

        _, kept = tf.while_loop(
            lambda index, _: index < stop,
            one_step,
            (start, kept),
            parallel_iterations=1,
        )
        return tf.nest.pack_sequence_as(example, [array.stack() for array in kept])


def _zeros(leaf: tf.Tensor) -> tf.Tensor:
    return tf.zeros([length or 0 for length in leaf.shape] if leaf.shape.rank else (), leaf.dtype)
