"""Metrics: states of their own for each set of data.

One metric object serves all sets; what each set owns is the *state*, the
values of the metric's variables::

    states = MetricStates(model)
    states.reset()                   # once per epoch: the train state
    with states.isolated():         # validation begins fresh, in the same objects
        ...
    # here every metric has its train state again
    with states.untouched_by_callbacks():
        ...                          # the same where a callback calls `model.evaluate`

So a metric needs no configuration to be copied, all sets share one compiled
step, ``reset_state`` runs once per epoch, and after ``fit`` the object that the
user passed in holds the train result of the last epoch. (Keras 3.15.1 resets
the train state when validation begins.)

On several replicas states are merged by `kerastrain.distribution.merging`'s rules.
"""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import merging

# How often something is done for each epoch before it is worth its compilation.
_OFTEN = 3


class MetricStates:
    """The metric state of the set that runs, and the isolated states of the others.

    Args:
        model: a built, compiled model; its ``metrics`` are handled.
        compiles: whether what is done for each epoch may be compiled, where all metrics
            are Keras's own: a small model's epoch takes little longer than that.
    """

    def __init__(self, model: keras.Model, compiles: bool = False):
        self._model, self._compiles = model, compiles
        self._fresh: dict[int, list] = {}
        self._reset = _Often(lambda: merging.reset(model, model.reset_metrics))
        self._results = _Often(lambda: merging.results(model))

    def _variables(self) -> dict[int, Any]:
        found = {}
        for metric in (*self._model.metrics, *_keras.waiting_metrics(self._model)):
            for variable in metric.variables:
                found[id(variable)] = variable
        if not _keras.has_plain_metrics(self._model):
            found |= self._tf_variables()
        return found

    def _tf_variables(self) -> dict[int, tf.Variable]:
        """Those that metrics hold as ``tf.Variable``, which Keras does not count among theirs."""
        weights = {handle for v in self._model.variables for handle in _keras.handles_of(v)}
        found = {}
        for metric in _keras.all_metrics(self._model):
            for value in vars(metric).values():
                parts = value.values() if isinstance(value, dict) else value
                parts = parts if isinstance(value, dict | list | tuple) else [value]
                for part in parts:
                    if isinstance(part, tf.Variable) and not _keras.handles_of(part) <= weights:
                        found[id(part)] = part
        return found

    @property
    def fresh(self) -> list[list] | None:
        """What validation begins with, for a checkpoint; None where a reset always makes it."""
        if _keras.has_plain_metrics(self._model) or not self._fresh:
            return None
        values = (self._fresh.get(key) for key in self._variables())
        return [[part.numpy() for part in parts] for parts in values if parts is not None]

    @fresh.setter
    def fresh(self, values: list[list] | None) -> None:
        variables = self._variables()
        if values is not None and len(values) == len(variables):
            pairs = zip(variables, values, strict=True)
            self._fresh = {key: [tf.constant(part) for part in parts] for key, parts in pairs}

    def reset(self) -> None:
        """Resets every metric, by ``model.reset_metrics``."""
        variables = self._variables()
        self._reset(self._compilable(variables))
        if self._fresh.keys() != variables.keys() or not self._reset.is_compiled:
            self._fresh = {key: _keras.read_local(v) for key, v in variables.items()}

    def results(self) -> dict:
        """``{name: result}`` of the set that runs, of all replicas together."""
        return self._results(self._compilable(self._variables()))

    def _compilable(self, variables: dict[int, Any]) -> tuple[int, ...] | None:
        """What a compiled reset depends on; None where nothing may be compiled."""
        return (
            tuple(variables) if self._compiles and _keras.has_plain_metrics(self._model) else None
        )

    @contextlib.contextmanager
    def isolated(self) -> Iterator[None]:
        """Inside, metrics start fresh; afterwards they have their state again.

        Copies each metric's variables once on the way in (a few kilobytes for
        most metrics). Fresh is what the last reset of the train state has left, in each process:
        a metric may keep something over its resets.
        """
        variables = self._variables()
        kept = {key: _keras.read_local(v) for key, v in variables.items()}
        if variables.keys() <= self._fresh.keys():
            for key, variable in variables.items():
                _keras.assign_local(variable, self._fresh[key])
        else:
            merging.reset(self._model, self._model.reset_metrics)
        try:
            yield
        finally:
            for key, variable in variables.items():
                _keras.assign_local(variable, kept[key])

    @contextlib.contextmanager
    def untouched_by_callbacks(self) -> Iterator[None]:
        """Inside, Keras's own ``evaluate`` and ``test_on_batch`` of the model use isolated states.

        A callback may call them at any time. (Keras 3.15.1 resets the metrics, so that the epoch has
        the results of what came after the last call.)
        """
        with contextlib.ExitStack() as stack:
            for method in ("evaluate", "test_on_batch"):
                function = functools.partial(self._call_isolated, method)
                stack.enter_context(_keras.base_method_replaced(self._model, method, function))
            yield

    def _call_isolated(self, method: str, *args: Any, **kwargs: Any) -> Any:
        with self.isolated(), _keras.base_method_replaced(self._model, method, None):
            return getattr(keras.Model, method)(self._model, *args, **kwargs)


class _Often:
    """A function without arguments, compiled when it has been called a few times."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._key: tuple[int, ...] | None = None
        self._calls = 0
        self._compiled: Callable[[], Any] | None = None

    @property
    def is_compiled(self) -> bool:
        return self._compiled is not None

    def __call__(self, key: tuple[int, ...] | None) -> Any:
        """Calls it; ``key`` is what it depends on, None that it is not to be compiled."""
        if key is None or key != self._key:
            self._key, self._calls, self._compiled = key, 0, None
        self._calls += 1
        if key is None or self._calls <= _OFTEN:
            return self._function()
        if self._compiled is None:
            self._compiled = tf.function(self._function, autograph=False).get_concrete_function()
        return self._compiled()
