"""How steps are compiled: one for a batch of any number of rows, or many in a loop.

::

    steps = Steps(model, strategy=None, options=StepOptions(), execution=Execution())
    steps.single_step("train")(batch)          # one update, nothing computed for logs
    logs = steps.single_step("train", report=True)(batch)
    steps.loop("train")(chunk)                 # many updates in one call: `kerastrain.execution.loops`

A batch is always the global batch. Under a strategy each replica takes its
own consecutive rows of it (`kerastrain.step.rows`): shards differ by at most one row
and the order of rows is kept. Of several workers each may have its own rows alone.
A batch with fewer rows than all replicas have micro-batches runs a step of its own,
in which an empty shard is padded with a row; the usual step need not provide for that.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import changes_checked
from kerastrain.distribution import cluster_of
from kerastrain.distribution import merging
from kerastrain.distribution import replicas
from kerastrain.execution.dynamic_batch import DynamicBatchFunction
from kerastrain.execution.loops import Loop
from kerastrain.options import Execution
from kerastrain.options import StepOptions
from kerastrain.state import ModelState
from kerastrain.step import rows as rows_lib
from kerastrain.step import steps as step
from kerastrain.step import updates
from kerastrain.xla import support as xla_support


class Steps:
    """The compiled steps of one model, each traced on its first batch.

    Args:
        model: a compiled model.
        strategy: the strategy that the model was built under, or None.
        options: the step's options.
        execution: how to compile.
        state: notes each trace before it runs; None for one of the steps' own.
        observed: is given the kind and the function of a step, and returns what runs in its place.
        check: is given each concrete function before it runs for the first time.

    Attributes:
        state: the variables that steps change.
        strategy, options: as passed.
        traces: how often each step has been traced, ``{name: count}``.
        trainable: which layers train, as ``_keras.trainable_flags`` returns it, in each trace
            from now on; None for those that do when it is traced.
    """

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy | None,
        options: StepOptions,
        execution: Execution,
        state: ModelState | None = None,
        observed: Callable[[str, Callable[..., Any]], Callable[..., Any]] = lambda kind, step: step,
        check: Callable[[Any], None] = lambda function: None,
    ):
        self.state, self._check = state or ModelState(model), check
        self._model, self._strategy, self._execution = model, strategy, execution
        self.strategy = strategy
        self._ones: dict[tuple[str, bool], Callable[[Any], Any]] = {}
        self._loops: dict[tuple[str, int, bool, bool], Loop] = {}
        self.set_options(options)
        own_train = _keras.overrides(model, "train_step")
        own_test = _keras.overrides(model, "test_step")
        self._has_own_results = any(
            _keras.overrides(model, method) for method in ("compute_metrics", "get_metrics_result")
        )

        def train(data: Any, shard: rows_lib.Shard | None = None) -> dict[str, Any]:
            if shard is None and _keras.has_builtin_step(model):
                return model.train_step(data)  # the same, by the method that Keras calls too
            return step.train_step(model, data, self.options, shard)

        def train_by_xla(data: Any, shard: rows_lib.Shard | None = None) -> dict[str, Any]:
            return step.train_step(model, data, self.options, shard, xla=True)

        def test(data: Any, shard: rows_lib.Shard | None = None) -> dict[str, Any]:
            return step.test_step(model, data, shard)

        self.traces: dict[str, int] = {}
        self.trainable: list[str] | None = None
        self._kinds = {
            "train": (observed("train", model.train_step if own_train else train), own_train),
            "test": (observed("test", model.test_step if own_test else test), own_test),
            "predict": (model.predict_step, True),
            # The forward and backward pass on each replica compiled by XLA.
            "xla_train": (observed("train", train_by_xla), False),
        }

    def set_options(self, options: StepOptions) -> None:
        """From now on, steps are of other options; they are traced anew."""
        self.options, self._parts = options, options.parts
        if self._strategy is not None:
            self._parts *= self._strategy.num_replicas_in_sync
        self.trace_anew()

    def trace_anew(self) -> None:
        """What has been traced is not used any more."""
        self._ones.clear()
        self._loops.clear()

    def _note(self, kind: str, function: Any) -> None:
        """A step has been traced, and is about to run for the first time."""
        self._check(function)
        self.state.note(kind, function)

    def can_use_xla(self, kind: str) -> bool:
        """Whether XLA may compile a loop, or on several replicas the part of each."""
        if self._execution.jit_compile is False:
            return False
        if self._has_replicas():
            return kind == "train" and not self._kinds[kind][1]
        # Outputs that are kept make XLA's loop three times as slow as the graph's.
        return self._strategy is None and kind != "predict"

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles each step: it is asked to, and the model's layers support it."""
        return (
            bool(self._execution.jit_compile) and xla_support.refusal_of_model(self._model) is None
        )

    @property
    def number_of_traces(self) -> int:
        """Of all steps, so far."""
        return sum(self.traces.values())

    def single_step(self, kind: str, report: bool = False) -> Callable[[Any], Any]:
        """The step of one batch.

        Args:
            kind: ``"train"``, ``"test"`` or ``"predict"``.
            report: whether it returns the logs (the outputs); else it returns None.
        """
        key = kind, report
        if key not in self._ones:
            self._ones[key] = self._compiled(kind, report)
        return self._ones[key]

    def trace(self, kind: str, report: bool, batch: Any) -> None:
        """Traces `single_step` for a batch, and runs nothing; an eager step is run, as it has no trace."""
        step = self.single_step(kind, report)
        getattr(step, "trace", step)(batch)

    def loop(
        self, kind: str, outputs_per_call: int = 0, xla: bool = False, has_share: bool = False
    ) -> Loop:
        """Many steps in one call.

        Args:
            kind: ``"train"``, ``"test"`` or ``"predict"``.
            outputs_per_call: for how many steps of a call the logs (the outputs) are returned; 0 for none.
            xla: whether XLA compiles the loop.
            has_share: whether batches are one worker's rows of them.
        """
        key = kind, outputs_per_call, xla, has_share
        if key not in self._loops:
            full = self._has_replicas() and not self._kinds[kind][1]
            traced = functools.partial(self._note, kind)
            if xla and self._has_replicas():
                kind, xla = f"xla_{kind}", False
            self._loops[key] = Loop(
                self._run(kind, bool(outputs_per_call), full),
                xla,
                outputs_per_call,
                min_rows=self._parts if full else 1,
                static_batch=kind == "predict",  # outputs of one shape are kept
                traced=traced,
                workers=cluster_of(self._strategy).count if has_share else 0,
            )
        return self._loops[key]

    def _run(self, kind: str, report: bool, full: bool) -> Callable[[Any], Any]:
        """The step of a batch, to be compiled."""
        function, is_users = self._kinds[kind]

        def run(batch: Any) -> Any:
            name = kind.removeprefix("xla_")
            self.traces[name] = self.traces.get(name, 0) + 1
            traced = self.state.unsaved.tracing()
            with traced, _keras.trainable_as(self._model, self.trainable):
                return self._on_replicas(function, is_users, batch, report, full)

        return run

    def _compiled(self, kind: str, report: bool) -> Callable[[Any], Any]:
        step = self._run(kind, report, full=False)
        if self._execution.run_eagerly:
            return step
        by_xla, traced = self.jit_compile, functools.partial(self._note, kind)
        run_any = DynamicBatchFunction(step, by_xla, traced)
        if self._kinds[kind][1] or not self._has_replicas():
            return run_any
        # Nearly every batch has rows for all replicas, and needs no padding.
        run_full = DynamicBatchFunction(self._run(kind, report, full=True), by_xla, traced)

        def either(batch: Any) -> DynamicBatchFunction:
            return run_full if rows_lib.known_rows(batch) >= self._parts else run_any

        def run_either(batch: Any) -> Any:
            return either(batch)(batch)

        with_trace: Any = run_either
        with_trace.trace = lambda batch: either(batch).trace(batch)
        return run_either

    def _has_replicas(self) -> bool:
        return self._strategy is not None and self._strategy.num_replicas_in_sync > 1

    def _on_replicas(
        self, function: Callable[..., Any], is_users: bool, batch: Any, report: bool, full: bool
    ) -> Any:
        """Runs the step; what holds around it while it is traced is kept in the trace."""
        with contextlib.ExitStack() as around:
            if not report and not is_users and not self._has_own_results:
                around.enter_context(_keras.without_results(self._model))
            strategy = self._strategy
            if not self._has_replicas():
                run = strategy.run if strategy else lambda step, args: step(*args)
                logs = run(function, args=(batch,))
                return logs if report else None

            assert strategy is not None  # it has replicas
            around.enter_context(changes_checked(strategy))

            def on_replica(batch: Any) -> Any:
                if is_users:
                    return function(rows_lib.own_rows(batch))
                shard = rows_lib.own_shard(batch, full)
                return function(shard.data if full else rows_lib.own_rows(batch), shard)

            if not is_users:  # its own leaves the sum over replicas to the optimizer
                around.enter_context(replicas.in_step(self._model))
            logs = strategy.run(on_replica, args=(batch,))
        return self._merged(logs) if report else None

    def _merged(self, logs: dict[str, Any]) -> dict[str, Any]:
        """A step's logs with the results of all replicas together."""
        results = merging.results(self._model)
        return {
            name: results[name]
            if name in results
            else tf.nest.map_structure(functools.partial(_mean, self._strategy), value)
            for name, value in logs.items()
        }


def _mean(strategy: tf.distribute.Strategy, per_replica: Any) -> tf.Tensor:
    if cluster_of(strategy).has_others:
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, per_replica, axis=None)
    values = strategy.experimental_local_results(per_replica)
    return tf.reduce_mean(tf.stack(values), axis=0)


def trainable_state(
    model: keras.Model, with_updates: bool = False
) -> tuple[tuple[bool, ...], tuple[int, ...], "_Constants"]:
    """What a traced step depends on: which weights are trainable, and the constants of layers.

    Args:
        model: whose step it is.
        with_updates: whether the optimizers of its `updates` count.
    """
    layers = _keras.all_layers(model)
    flags = tuple(layer.trainable for layer in layers)
    optimizers = [update.optimizer for update in updates.updates_of(model)] if with_updates else []
    return flags, tuple(id(w) for w in model.trainable_weights), _Constants(layers, optimizers)


class _Constants:
    """Tensors and tables that layers hold, and make anew when they are adapted, and more; to compare."""

    def __init__(self, layers: list[keras.Layer], others: list[Any]) -> None:
        values = (value for layer in layers for value in vars(layer).values())
        self._held = [
            v for v in values if isinstance(v, tf.Tensor) or hasattr(v, "resource_handle")
        ]
        self._held += others

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Constants) or len(self._held) != len(other._held):
            return False
        return all(a is b for a, b in zip(self._held, other._held, strict=True))
