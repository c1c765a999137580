"""What happens before the first step: build what is not built, check, compile.

::

    preparation = Preparation(compiled, strategy)
    preparation.ready(source, [validation_source])
    runner = preparation.runner("train")      # its first step warns of metrics

All of it is over before a weight changes; what was checked once is not checked
again by a later ``fit``.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.data import checks as data_checks
from kerastrain.data import Chunk
from kerastrain.data import holds_composites
from kerastrain.data import known_rows
from kerastrain.data import rows_of
from kerastrain.data import signature as signature_of
from kerastrain.data import Source
from kerastrain.distribution import merging
from kerastrain.distribution import strategy as strategy_lib
from kerastrain.errors import KerastrainError
from kerastrain.execution import Listening
from kerastrain.execution import Runner
from kerastrain.execution import StepKind
from kerastrain.execution import Steps
from kerastrain.execution import trainable_state
from kerastrain.preparation import checks
from kerastrain.preparation import dry_steps
from kerastrain.preparation import lint
from kerastrain.preparation import target_checks
from kerastrain.preparation.compiled_model import CompiledModel
from kerastrain.preparation.logged_values import StepObserver
from kerastrain.state import ModelState
from kerastrain.step import updates

Run = Callable[[Chunk], list[Any] | None]


class Preparation:
    """The steps of a compiled model, and what has been checked of it already.

    Args:
        compiled: the model and its compile state.
        strategy: the strategy that it trains under, or None.
        state: notes each step that is traced.

    Attributes:
        steps: the compiled steps; None before the first `ready`.
        lint: says what goes wrong silently in them.
    """

    def __init__(
        self,
        compiled: CompiledModel,
        strategy: tf.distribute.Strategy | None,
        state: ModelState,
    ):
        self._compiled, self._strategy, self._state = compiled, strategy, state
        self._model = compiled.model
        self.steps: Steps | None = None
        self._steps_for: Any = None
        self.lint = lint.Lint(self._model, lambda: compiled.options)
        self._fitting: set[tuple[Any, ...]] = (
            set()
        )  # the data, by name and signature, that fit the model
        self._run_once: set[str] = set()  # the kinds of steps that have run
        self._runners: dict[tuple[str, Listening], Runner] = {}
        self._predictor: Runner | None = None
        self._predictor_for: Any = None
        self._begun: list[str] | None = None
        self._fits = False  # whether a training has begun its first step

    def ready(self, source: Source, validation: Iterable[Source] = (), train: bool = True) -> Steps:
        """Builds and checks; the model has the trainer's compile state.

        Args:
            source, validation: the data that the steps will see.
            train: whether ``source`` is trained on, or only evaluated.

        Raises:
            KerastrainError: what does not fit together.
        """
        model, eager = self._model, self._compiled.execution.run_eagerly
        state, was_built = trainable_state(model, True), model.built
        merging.check_apart(model)
        updates.make_trackers(model, self._compiled.options.log_norms)
        if self.steps is None or not (self._fits or self._steps_for in (None, state)):
            self._observer = StepObserver(model)
            self._observer.adds_state = not was_built
            self.steps = Steps(
                *(model, self._strategy, self._compiled.options, self._compiled.execution),
                *(self._state, self._observer.observed, self._compiled.check_trace),
            )
            self._runners = {}
            self._fitting, self._run_once = set(), set()
            self.lint.forget()
        # A step of the user's own decides what a batch is and means: it is left to it.
        own = {kind: self.reports_own_logs(kind, f"{kind}_step") for kind in ("train", "test")}
        kinds = [("train" if train else "test", source), *(("test", part) for part in validation)]
        for kind, part in kinds:
            checks.check_own_function(model, kind)
            if kind == "test":
                data_checks.check_ends(part.name, part.is_endless)
            if not own[kind]:
                data_checks.check_batch(part.name, part.peek())
        parts = self._compiled.options.parts if train else 1
        replicas = 1 if self._strategy is None else self._strategy.num_replicas_in_sync
        if self._strategy is not None:
            strategy_lib.check_sums(self._strategy)
        checks.check_whole_batches(model, parts, replicas)
        for _, part in kinds:
            self.check_rows(part)
        for kind, part in kinds:
            if not own[kind]:
                self._check_targets(part, eager)
                target_checks.check_labels(model, part.arrays, part.name)
                if part.missing:
                    target_checks.check_missing(model, part.peek(), part.missing)
            else:  # only to build the metrics, where its batch is what Keras takes it for
                with contextlib.suppress(KerastrainError, ValueError):
                    self._check_targets(part, eager, own=True)
        for kind, part in kinds:  # before the optimizer is built, which may fail
            self.lint.once(kind, part.peek())
        if train and not own["train"]:
            checks.check_optimizers_know(model)
        if self._strategy is not None:
            _keras.let_replicas_update(model)
        if train and own["train"] and replicas > 1:
            _build_applied(model, self._state, self._strategy, source.peek())
        if any(self._logs_metrics(kind) for kind, _ in kinds):
            target_checks.check_names(model)
        merging.check_model(model)
        if not self._fits:
            self._steps_for = trainable_state(model, True) if model.built else None
        return self.steps

    # What trains, in one fit --------------------------------------------------------

    def begin(self) -> None:
        """Right before the first step of a training: what trains now does so to its end.

        Callbacks may have changed that until now. As under Keras, whose ``fit`` traces its step
        once, a layer that is frozen or not later on is so for the next training.

        Raises:
            ModelError: the optimizer has been built before without what trains now.
        """
        model, eager = self._model, self._compiled.execution.run_eagerly
        if self._fits:
            if eager and not _keras.overrides(model, "train_step"):  # it sees what changes
                checks.check_optimizers_know(model)
            return
        own, steps = _keras.overrides(model, "train_step"), self.steps
        assert steps is not None  # `ready` has made them
        state = trainable_state(model, True) if model.built else None
        if self._steps_for != state:
            steps.trace_anew()
            self._steps_for = state
        if not own:
            checks.check_optimizers_know(model)
        if self._strategy is not None or not (eager or own):
            build_optimizers(model)
        self._begun = _keras.trainable_flags(model)
        steps.trainable = None if eager else self._begun
        self._fits = True

    def end(self) -> None:
        """After a training."""
        self._fits = False

    def trainable(self) -> dict[str, list[str]]:
        """What trains, and which layers a callback has frozen or not since, to be saved."""
        now = _keras.trainable_flags(self._model)
        return {"begun": self._begun or now, "now": now}

    @contextlib.contextmanager
    def begun_as(self, saved: dict[str, list[str]] | None) -> Iterator[None]:
        """Begins as a training that was saved; inside, the same layers train as when it was begun.

        Args:
            saved: what `trainable` returned; None where that is not known.
        """
        with _keras.trainable_as(self._model, saved["begun"] if saved else None):
            self.begin()
            yield

    def check_rows(self, source: Source) -> None:
        """Whether all batches have the rows that layers keep states for, as far as that is known.

        Raises:
            DataError: they have not.
        """
        if not _keras.stateful_layers(self._model):
            return
        first = known_rows(source.peek())
        rows = [first]
        if source.arrays is not None and source.steps is None and first is not None:
            rows.append(rows_of(source.arrays) % first or first)
        checks.check_rows(self._model, rows, source.name, first)

    def _check_targets(self, source: Source, eager: bool, own: bool = False) -> None:
        batch = source.peek()
        signature = (source.name, signature_of(batch))
        if not holds_composites(batch) and signature not in self._fitting:
            with _quietly(self._model, own):
                if not updates.build(self._model, batch):
                    target_checks.check_targets(self._model, batch, source.name, eager)
            self._fitting.add(signature)

    def reports_own_logs(self, kind: str, *methods: str) -> bool:
        """Whether the model's own code decides what a step returns.

        Args:
            kind: ``"train"`` or ``"test"``.
            *methods: by which methods; default the step and ``compute_metrics``.
        """
        methods = methods or (f"{kind}_step", "compute_metrics")
        return any(_keras.overrides(self._model, m) for m in methods)

    def _logs_metrics(self, kind: str) -> bool:
        """Whether a step's logs are all metrics by their names, as Keras has it."""
        own_results = _keras.overrides(self._model, "get_metrics_result")
        return not (own_results or self.reports_own_logs(kind))

    def runner(
        self, kind: str, listening: Listening = Listening.NEVER, anew: bool = False
    ) -> Runner:
        """What runs steps; the choice of its plan is kept.

        Args:
            kind: ``"train"`` or ``"test"``.
            listening: when callbacks are called for each step.
            anew: whether it is one by itself, with a choice of its own.
        """
        key = kind, listening
        if key in self._runners and not anew:
            return self._runners[key]
        is_users = self.reports_own_logs(kind, f"{kind}_step")
        assert self.steps is not None  # `ready` has made them
        runner = Runner(
            self._model,
            self.steps,
            StepKind(kind, reports=self.reports_own_logs(kind), is_users=is_users),
            self._compiled.execution,
            listening,
            wrapper=lambda run: self._watched(kind, run),
        )
        if not anew:
            self._runners[key] = runner
        return runner

    def cut(self, micro_batches: int) -> None:
        """Lets steps cut a batch into ``micro_batches`` from now on.

        Raises:
            ModelError, MetricError: what goes wrong silently with these, if that is refused.
        """
        options = dataclasses.replace(self._compiled.options, micro_batches=micro_batches)
        checks.check_whole_batches(self._model, micro_batches, 1)
        lint.check(self._model, None, options)
        self._compiled.options = options
        _keras.set_step_options(self._model, options)
        assert self.steps is not None  # one of them is to be cut
        self.steps.set_options(options)

    def plans(self) -> dict[str, str]:
        """How the steps of each kind run that have been asked for: a line."""
        return {
            kind: str(runner.choice) if runner.choice.plan is not None else "step"
            for (kind, *_), runner in self._runners.items()
        }

    def predictor(self) -> Runner:
        """What runs the model on batches of inputs, and keeps the outputs."""
        state = trainable_state(self._model)
        if self._predictor is None or self._predictor_for != state:
            self._predictor_for = state
            execution = self._compiled.execution
            steps = Steps(self._model, self._strategy, self._compiled.options, execution)
            self._predictor = Runner(
                self._model, steps, StepKind("predict", reports=True), execution
            )
        return self._predictor

    def _watched(self, kind: str, run: Run) -> Run:
        """Runs steps; the first run warns of metrics that they mistreat."""

        stateful = bool(_keras.stateful_layers(self._model))
        own = self.reports_own_logs(kind, f"{kind}_step")

        def watched(chunk: Chunk) -> list[Any] | None:
            if chunk.block.is_batch and not own:  # others lie together, so their parts agree
                data_checks.check_equal_rows("x", chunk.block.data)
            if stateful:
                checks.check_rows(self._model, chunk.sizes, "x", None)
            if kind in self._run_once:
                with self._state.watching(kind):
                    return run(chunk)
            with self._state.watching(kind):
                logs = run(chunk)
            self._run_once.add(kind)
            self._observer.warn(kind, chunk.batch())
            return logs

        return watched


def build_optimizers(model: keras.Model) -> None:
    """Creates the optimizers' variables, outside any step."""
    for optimizer, weights in updates.weights_by_optimizer(model):
        if isinstance(optimizer, keras.optimizers.Optimizer) and not optimizer.built and weights:
            optimizer.build(weights)


@contextlib.contextmanager
def _quietly(model: keras.Model, own: bool) -> Iterator[None]:
    """Around a dry run: the step itself warns, but for what is said once, where something is built.

    Args:
        model: that the dry run may build.
        own: whether the step is the user's own: it may do other things than the dry run.
    """
    was_built = model.built
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for one in () if own or was_built else caught:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _build_applied(
    model: keras.Model, state: ModelState, strategy: tf.distribute.Strategy, batch: Any
) -> None:
    """Those that a step of the user's own applies: on a replica, they cannot make variables."""
    state.variables()
    unbuilt = [one for one in state.optimizers() if not one.built]
    if not unbuilt or not dry_steps.can_run(model, batch, strategy):
        return
    applied: dict[Any, list[Any]] = {}
    with dry_steps.nothing_kept():
        dry_steps.gradient_norms(model, batch, strategy, applied=applied)
    for optimizer in unbuilt:
        if applied.get(optimizer):
            optimizer.build(applied[optimizer])
