"""How steps run: each step compiled once, whatever the number of rows.

::

    steps = Steps(model, strategy=None, options=StepOptions(), execution=Execution())
    steps.train(batch)                 # one update, nothing computed for logs
    logs = steps.train_and_report(batch)

A batch is always the global batch. Under a strategy each replica takes its
own consecutive rows of it (`kerastrain.rows`): shares differ by at most one row
and the order of rows is kept. A batch with fewer rows than all replicas have
micro-batches runs a step of its own, in which a row stands in where there is
none; the usual step need not provide for that.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import merging
from kerastrain import replicas
from kerastrain import rows as rows_lib
from kerastrain import step
from kerastrain.model import TrainableModel
from kerastrain.options import Execution
from kerastrain.options import StepOptions


class Steps:
    """The compiled steps of one model, each traced on its first batch.

    Args:
        model: a compiled model.
        strategy: the strategy that the model was built under, or None.
        options: the step's options.
        execution: how to compile.

    Attributes:
        traces: how often each step has been traced, ``{name: count}``.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy | None,
        options: StepOptions,
        execution: Execution,
    ):
        self._model, self._strategy, self._execution = model, strategy, execution
        self._parts = options.micro_batches
        if strategy is not None:
            self._parts *= strategy.num_replicas_in_sync
        own_train = _keras.overrides(model, "train_step", TrainableModel)
        own_test = _keras.overrides(model, "test_step", TrainableModel)
        self._has_own_results = any(
            _keras.overrides(model, method, TrainableModel)
            for method in ("compute_metrics", "get_metrics_result")
        )

        def train(data, share=None):
            return step.train_step(model, data, options, share)

        def test(data, share=None):
            return step.test_step(model, data, share)

        self.traces = {}
        steps = {
            "train": (model.train_step if own_train else train, own_train),
            "test": (model.test_step if own_test else test, own_test),
        }
        self.train = self._compiled("train", *steps["train"], report=False)
        self.train_and_report = self._compiled("train", *steps["train"], report=True)
        self.test = self._compiled("test", *steps["test"], report=False)
        self.test_and_report = self._compiled("test", *steps["test"], report=True)

    def _compiled(self, name, function, is_users, report):
        def run(batch, full):
            self.traces[name] = self.traces.get(name, 0) + 1
            return self._on_replicas(function, is_users, batch, report, full)

        def run_any(batch):
            return run(batch, full=False)

        def run_full(batch):
            return run(batch, full=True)

        if self._execution.eager:
            return run_any
        run_any = OpenRows(run_any, self._execution.jit_compile)
        if is_users or not self._has_replicas():
            return run_any
        # Nearly every batch has rows for all, and needs no row that stands in for none.
        run_full = OpenRows(run_full, self._execution.jit_compile)

        def run_either(batch):
            return (run_full if rows_lib.known_rows(batch) >= self._parts else run_any)(batch)

        return run_either

    def _has_replicas(self):
        return self._strategy is not None and self._strategy.num_replicas_in_sync > 1

    def _on_replicas(self, function, is_users, batch, report, full):
        """Runs the step; what holds around it while it is traced is kept in the trace."""
        with contextlib.ExitStack() as around:
            if not report and not is_users and not self._has_own_results:
                around.enter_context(_keras.without_results(self._model))
            strategy = self._strategy
            if not self._has_replicas():
                run = strategy.run if strategy else lambda step, args: step(*args)
                logs = run(function, args=(batch,))
                return logs if report else None

            def on_replica(batch):
                if is_users:
                    return function(rows_lib.own_rows(batch))
                share = rows_lib.own_share(batch, full)
                return function(share.data if full else rows_lib.own_rows(batch), share)

            if not is_users:  # its own leaves the sum over replicas to the optimizer
                around.enter_context(replicas.in_step(self._model))
            logs = strategy.run(on_replica, args=(batch,))
        return self._merged(logs) if report else None

    def _merged(self, logs):
        """A step's logs with the results of all replicas together."""
        results = merging.results(self._model)
        return {
            name: results[name] if name in results else tf.nest.map_structure(self._mean, value)
            for name, value in logs.items()
        }

    def _mean(self, per_replica):
        values = self._strategy.experimental_local_results(per_replica)
        return tf.reduce_mean(tf.stack(values), axis=0)


def trainable_state(model: keras.Model) -> tuple:
    """What a traced step depends on: the trainable flags and the weights they leave."""
    flags = tuple(layer.trainable for layer in _keras.all_layers(model))
    return flags, tuple(id(w) for w in model.trainable_weights)


class OpenRows:
    """A compiled function of a batch, traced with the number of rows left open.

    Batches of other sizes, a shorter last one for example, run the same trace.
    Where the lengths of further axes differ between batches, one more trace
    leaves them open too.
    """

    def __init__(self, function: Callable, jit_compile: bool):
        self._function = tf.function(
            function, jit_compile=jit_compile or None, autograph=False
        )
        self._traced: list[tuple[Any, list, Callable]] = []

    def __call__(self, batch: Any) -> Any:
        # Calling the concrete function costs about half of tf.function's own
        # dispatch, which compares types by hash on every call.
        skeleton, leaves = _skeleton(batch), tf.nest.flatten(batch)
        for nesting, signature, concrete in self._traced:
            if skeleton == nesting and _fits(leaves, signature):
                return concrete(batch)
        signature = [_Open.of(leaf) for leaf in leaves]
        for nesting, other, _ in self._traced:
            if skeleton == nesting:
                signature = _joined(signature, other) or signature
        try:
            concrete = self._trace(batch, signature)
        except (TypeError, ValueError):
            # A model that reads the number of rows in Python needs it fixed.
            signature = [_Open.of(leaf, fixed=True) for leaf in leaves]
            concrete = self._trace(batch, signature)
        self._traced.insert(0, (skeleton, signature, concrete))
        return concrete(batch)

    def _trace(self, batch, signature):
        specs = [None if entry is None else entry.spec() for entry in signature]
        return self._function.get_concrete_function(tf.nest.pack_sequence_as(batch, specs))


def _skeleton(structure: Any) -> Any:
    """The nesting of a structure, to compare."""
    if isinstance(structure, dict):
        return {key: _skeleton(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return [type(structure), *map(_skeleton, structure)]
    return None


class _Open(NamedTuple):
    """The type of one leaf of a batch.

    Attributes:
        dtype: of its elements.
        axes: the lengths of all axes, rows first; None is open. None for a
            scalar.
        composite: the whole type, for ragged and sparse tensors.
    """

    dtype: tf.DType
    axes: tuple | None
    composite: tf.TypeSpec | None = None

    @classmethod
    def of(cls, leaf, fixed: bool = False) -> "_Open | None":
        """The type of a leaf, with the number of rows open unless ``fixed``."""
        if leaf is None:
            return None
        if isinstance(leaf, tf.Tensor):
            rows = leaf.shape[:1] if fixed else [None]
            return cls(leaf.dtype, (*rows, *leaf.shape[1:]) if leaf.shape.rank else None)
        composite = tf.type_spec_from_value(leaf)
        shape = composite.shape if fixed else [None, *composite.shape[1:]]
        if isinstance(leaf, tf.SparseTensor):
            composite = tf.SparseTensorSpec(shape, leaf.dtype)
        elif isinstance(leaf, tf.RaggedTensor):
            composite = tf.RaggedTensorSpec(
                shape, leaf.dtype, composite.ragged_rank, composite.row_splits_dtype
            )
        return cls(leaf.dtype, None, composite)

    def spec(self) -> tf.TypeSpec:
        """The type as ``tf.function`` takes it."""
        return self.composite or tf.TensorSpec(self.axes, self.dtype)

    def accepts(self, leaf) -> bool:
        """Whether a leaf is of this type."""
        if self.composite is not None:
            return self.composite.is_compatible_with(leaf)
        if not isinstance(leaf, tf.Tensor) or leaf.dtype != self.dtype:
            return False
        axes = leaf.shape.as_list()
        return self.axes is None or (
            len(axes) == len(self.axes)
            and all(mine in (None, its) for mine, its in zip(self.axes, axes, strict=True))
        )


def _fits(leaves, signature) -> bool:
    return all(
        leaf is None if entry is None else leaf is not None and entry.accepts(leaf)
        for leaf, entry in zip(leaves, signature, strict=True)
    )


def _joined(one, other):
    """The signature that accepts both, or None if they differ in more than lengths."""
    joined = []
    for a, b in zip(one, other, strict=True):
        if a == b:
            joined.append(a)
        elif a is None or b is None or a.dtype != b.dtype or a.axes is None or b.axes is None:
            return None
        elif len(a.axes) != len(b.axes):
            return None
        else:
            axes = tuple(m if m == n else None for m, n in zip(a.axes, b.axes, strict=True))
            joined.append(_Open(a.dtype, axes))
    return joined
