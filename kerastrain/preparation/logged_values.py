"""Whether what a step returns is measured by a metric, found in the step's own trace.

::

    observer = StepObserver(model)
    train_step = observer.observed("train", model.train_step)
    ...                                   # it is traced, and run once
    observer.warn("train", batch)

An epoch logs what Keras logs of it: the results of the metrics where the step returns exactly
their names, else what the last step returned, which on one device is Keras's number whatever it is.
A metric none of whose variables a step assigns has measured nothing. The result of a metric is read
from variables, so a value that is computed from the batch by any other way is of the batch alone.
On several replicas each has values of its own, of its rows; only what is logged by the name of a
metric is computed from all rows.
"""

import contextlib
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.preparation import dry_steps

_NOTHING = contextlib.nullcontext()


class _Seen:
    """What the traces of one kind of step have shown so far."""

    def __init__(self) -> None:
        self.assigned: set[int] = set()
        self.names: set[str] | None = None  # which the step returns, nested ones as they are
        self.logged: set[str] = set()  # the same, as they are logged
        self.of_rows: set[str] = set()  # of these, what is computed from the rows of a replica

    def add(self, logs: Any, data: Any, handles: set[int]) -> None:
        if not isinstance(logs, dict):
            return
        self.names = set(logs)
        tensors = [t for t in tf.nest.flatten(data, expand_composites=True) if tf.is_tensor(t)]
        for name, value in _flat(logs):
            self.logged.add(name)
            depends = _keras.depends_on(value, tensors, handles)
            if depends is None:
                depends = tf.executing_eagerly() and not _is_variable(value)
            if depends:
                self.of_rows.add(name)


class StepObserver:
    """Looks at the steps of a model while they are traced, or run eagerly, until it has warned.

    Args:
        model: a compiled model.

    Attributes:
        adds_state: whether a step may make metrics when it first runs, as it may under Keras in a
            model that is not built before.
    """

    def __init__(self, model: keras.Model):
        self._model, self.adds_state = model, False
        self._seen: dict[str, _Seen] = {}
        self._done: set[str] = set()
        self._lock = threading.Lock()  # replicas are traced in threads

    def observed(self, kind: str, step: Callable[..., Any]) -> Callable[..., Any]:
        """A step that is looked at.

        Args:
            kind: ``"train"`` or ``"test"``.
            step: a function of a batch, and more.
        """

        def observed_step(data: Any, *args: Any, **kwargs: Any) -> Any:
            if kind in self._done:
                return step(data, *args, **kwargs)
            adding = _keras.state_may_be_added(self._model) if self.adds_state else _NOTHING
            with adding, _keras.assigned_variables() as assigned:
                logs = step(data, *args, **kwargs)
            with self._lock:
                seen = self._seen.setdefault(kind, _Seen())
                seen.assigned |= assigned
                seen.add(logs, data, self._handles())
            return logs

        return observed_step

    def _handles(self) -> set[int]:
        """Of the variables of all metrics."""
        metrics = _keras.all_metrics(self._model)
        return {h for m in metrics for v in m.variables for h in _keras.handles_of(v)}

    def warn(self, kind: str, batch: Any) -> None:
        """Warns of what the epoch's logs would get wrong, when a step has run; once for each kind.

        Args:
            kind: ``"train"`` or ``"test"``.
            batch: what the step was run on.
        """
        self._done.add(kind)
        seen, model = self._seen.pop(kind, _Seen()), self._model
        stale = [m for m in _keras.leaf_metrics(model) if _is_untouched(m, seen.assigned)]
        silent = self._never_updated(stale, seen, batch) if kind == "train" else []
        if silent:
            notices.warn(
                f"The metrics {[m.name for m in silent]} of {type(model).__name__} are not updated "
                "by its step, so their logged values mean nothing. Call `update_state` in "
                "`compute_metrics`, pass them as `metrics=`, or remove them."
            )
        if not seen.names:
            return
        results, replicas = model.get_metrics_result(), _keras.replicas_of(model)
        if seen.names == set(results):
            self._warn_of_results(kind, stale, silent, seen, batch)
        elif replicas > 1 and (of_rows := seen.of_rows - set(results)):
            notices.warn(
                f"The step of {type(model).__name__} returns {sorted(of_rows)}, which are no "
                "results of metrics by their names: the epoch's logs show the mean of the values that "
                f"the {replicas} replicas have after the last batch, each of its own rows. Return the "
                "result of a metric that the step updates, under its name."
            )

    def _warn_of_results(
        self,
        kind: str,
        stale: list[keras.metrics.Metric],
        silent: list[keras.metrics.Metric],
        seen: _Seen,
        batch: Any,
    ) -> None:
        """Warns of metrics whose results are logged in place of what the step returned."""
        model = self._model
        last = {m.name: m for m in _keras.leaf_metrics(model)}
        # What is updated in a test step of the user's own only is logged for its sake.
        own_test = kind == "train" and _keras.overrides(model, "test_step")
        others = self._updated_in_test(stale, batch) if own_test else set()
        # Of several of one name, Keras logs the last.
        logged = [m for m in stale if last[m.name] is m and m not in silent]
        plain = {m.name for m in logged if id(m) not in others} & seen.logged
        if plain:
            notices.warn(
                f"The step of {type(model).__name__} returns {sorted(plain)}, and the metrics of these "
                "names, which Keras logs in place of what is returned, are not updated by it: the "
                "epoch's logs would show 0. Return the result of a `keras.metrics.Mean` that the step "
                "updates."
            )
        ids = {id(m) for m in stale}
        updated = [m.name for m in _keras.own_metrics(model) if id(m) not in ids]
        twice = {name for name in updated if updated.count(name) > 1}
        if twice:
            notices.warn(
                f"{type(model).__name__} updates several metrics of one name, {sorted(twice)}: of these, "
                "Keras logs the last alone, whatever the step returns. Give each its own name."
            )

    def _never_updated(
        self, stale: list[keras.metrics.Metric], seen: _Seen, batch: Any
    ) -> list[keras.metrics.Metric]:
        """Those that no step updates; of Keras's loss trackers a step of the user's own may do without."""
        model = self._model
        trackers = {id(_keras.loss_tracker(model)), *map(id, _keras.output_loss_trackers(model))}
        silent = [m for m in stale if id(m) not in trackers]
        if not silent or not any(_keras.overrides(model, f"{k}_step") for k in ("train", "test")):
            return silent
        others = self._updated_in_test(silent, batch)
        if _keras.overrides(model, "test_step"):
            return [m for m in silent if id(m) not in others]
        # Keras's test step updates what was compiled; a train step that returns it does not.
        return [m for m in silent if id(m) not in others or m.name in seen.logged]

    def _updated_in_test(self, metrics: list[keras.metrics.Metric], batch: Any) -> set[int]:
        """The ids of those of the metrics that the model's test step updates, or may update."""
        model = self._model
        if not metrics:
            return set()
        try:
            with dry_steps.nothing_kept(), _keras.assigned_variables() as assigned:
                with keras.StatelessScope(collect_losses=True):
                    _keras.output_spec(model.test_step, _keras.as_symbolic(batch))
        except Exception:  # of any kind: the code is the user's
            is_own = _keras.overrides(model, "test_step")
            return {id(m) for m in metrics} if is_own else set()
        return {id(m) for m in metrics if not _is_untouched(m, assigned)}


def _is_variable(value: Any) -> bool:
    return isinstance(value, keras.Variable | tf.Variable)


def _is_untouched(metric: keras.metrics.Metric, assigned: set[int]) -> bool:
    """Whether a metric has state, and none of it is among the ids of what was assigned."""
    return bool(metric.variables) and not any(id(v) in assigned for v in metric.variables)


def _flat(logs: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """``(name, value)`` of logs, of nested ones by their own names, as Keras logs them."""
    for name, value in logs.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value
