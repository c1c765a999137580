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
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import checks
from kerastrain import data_checks
from kerastrain import data as data_lib
from kerastrain import lint
from kerastrain import merging
from kerastrain import target_checks
from kerastrain.metrics import states as metrics_lib
from kerastrain.compiled import CompiledModel
from kerastrain.errors import KerastrainError
from kerastrain.execution import Steps
from kerastrain.execution import trainable_state
from kerastrain.runner import Runner


class Preparation:
    """The steps of a compiled model, and what has been checked of it already.

    Args:
        compiled: the model and its compile state.
        strategy: the strategy that it trains under, or None.

    Attributes:
        steps: the compiled steps; None before the first `ready`.
    """

    def __init__(self, compiled: CompiledModel, strategy: tf.distribute.Strategy | None):
        self._compiled, self._strategy = compiled, strategy
        self._model = compiled.model
        self.steps: Steps | None = None
        self._steps_for: Any = None
        self._checked: set = set()
        self._runners: dict[tuple, Runner] = {}
        self._predictor: Runner | None = None
        self._predictor_for: Any = None

    def ready(
        self, source: data_lib.Source, validation: Iterable = (), train: bool = True
    ) -> Steps:
        """Builds and checks; the model is in charge of its compile state.

        Args:
            source, validation: the data that the steps will see.
            train: whether ``source`` is trained on, or only evaluated.

        Raises:
            KerastrainError: what does not fit together.
        """
        model, eager = self._model, self._compiled.execution.eager
        for part in (source, *validation):
            data_checks.check_batch(part.name, part.peek())
        if self.steps is None or self._steps_for not in (None, trainable_state(model)):
            checks.check_optimizer_knows(model.optimizer, model)
            self.steps = Steps(
                model, self._strategy, self._compiled.options, self._compiled.execution
            )
            self._checked, self._runners = set(), {}
        x, _, _ = keras.utils.unpack_x_y_sample_weight(source.peek())
        self._compiled.build_users(_keras.as_symbolic(x))
        # A step of the user's own decides what a batch means: it is left to it.
        own = {kind: self.reports_own_logs(kind, f"{kind}_step") for kind in ("train", "test")}
        kinds = [("train" if train else "test", source), *(("test", part) for part in validation)]
        for kind, part in kinds:
            if not own[kind]:
                self._check_targets(part, eager)
                target_checks.check_labels(model, part.arrays, part.name)
            else:  # only to build the metrics, where its batch is what Keras takes it for
                with contextlib.suppress(KerastrainError):
                    self._check_targets(part, eager)
        if train and "lint" not in self._checked:  # before the optimizer is built, which may fail
            lint.check(model, source.peek(), self._compiled.options)
            self._checked.add("lint")
        if train and (self._strategy is not None or not (eager or own["train"])):
            checks.build_optimizer(model)
        if self._strategy is not None:
            _keras.let_replicas_update(model)
        target_checks.check_names(model)
        merging.check_model(model)
        if train:
            self._compiled.take_over_optimizer()
        self._steps_for = trainable_state(model) if model.built else None
        return self.steps

    def _check_targets(self, source, eager):
        batch = source.peek()
        signature = (source.name, data_lib.signature(batch))
        if not data_lib.holds_composites(batch) and signature not in self._checked:
            target_checks.check_targets(self._model, batch, source.name, eager)
            self._checked.add(signature)

    def reports_own_logs(self, kind: str, *methods: str) -> bool:
        """Whether the model's own code decides what a step returns.

        Args:
            kind: ``"train"`` or ``"test"``.
            *methods: by which methods; default the step and ``compute_metrics``.
        """
        methods = methods or (f"{kind}_step", "compute_metrics")
        return any(_keras.overrides(self._model, m) for m in methods)

    def runner(self, kind: str, *, listening: bool = False, replayed: bool = False) -> Runner:
        """What runs steps; the choice of its plan is kept.

        Args:
            kind: ``"train"`` or ``"test"``.
            listening: whether a callback is told of each step.
            replayed: whether it may be told after several steps have run.
        """
        key = kind, listening, replayed
        if key not in self._runners:
            self._runners[key] = Runner(
                self._model,
                self.steps,
                kind,
                self._compiled.execution,
                listening=listening,
                replayed=replayed,
                reports=self.reports_own_logs(kind),
                own=self.reports_own_logs(kind, f"{kind}_step"),
                around=lambda run: self._watched(kind, run),
            )
        return self._runners[key]

    def cut(self, micro_batches: int) -> None:
        """Lets steps take a batch in so many micro-batches from now on.

        Raises:
            ModelError, MetricError: what goes wrong silently with these, if that is refused.
        """
        options = dataclasses.replace(self._compiled.options, micro_batches=micro_batches)
        lint.check(self._model, None, options)
        self._compiled.options = options
        _keras.set_step_options(self._model, options)
        self.steps.take(options)

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
            self._predictor = Runner(self._model, steps, "predict", execution, reports=True)
        return self._predictor

    def _watched(self, kind: str, run: Callable) -> Callable:
        """Runs steps; the first run warns of metrics that they mistreat."""

        def watched(chunk):
            if kind in self._checked:
                return run(chunk)
            with metrics_lib.watched_updates(self._model) as updated:
                logs = run(chunk)
            self._checked.add(kind)
            if kind == "train":
                metrics_lib.warn_if_never_updated(self._model, updated)
            metrics_lib.warn_of_plain_tensors(self._model, logs and logs[-1], updated)
            return logs

        return watched
