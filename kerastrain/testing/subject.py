"""A metric on trial: what is done to it is noted as code, what it gives becomes NumPy.

::

    program = []
    subject = Subject(factory(), "a", program)
    subject.update(stream)
    subject.result()              # {path: array}; {(): array} of a plain number
    program                       # ["a = factory()", "a.update_state(...)", "a.result()"]
"""

import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import merging
from kerastrain.testing.streams import Stream
from kerastrain.testing.violations import Violation

Result = dict[tuple, np.ndarray]


class Subject:
    """One metric object on trial.

    Args:
        metric: the object.
        name: its name in the program.
        program: lines of code; what is done is appended.
        made_by: the code that makes it.
    """

    def __init__(self, metric: Any, name: str, program: list[str], made_by: str = "factory()"):
        self.metric, self.name, self.program = metric, name, program
        program.append(f"{name} = {made_by}")

    def update(
        self,
        stream: Stream,
        convert: Callable = tf.convert_to_tensor,
    ) -> None:
        """``update_state`` with the rows of a stream.

        Args:
            stream: one batch.
            convert: as for `Stream.call`.
        """
        self.program += stream.code(f"{self.name}.update_state")
        with self.failing_clearly("update_state"):
            stream.call(self.metric.update_state, convert)

    def result(self, through: Callable | None = None) -> Result:
        """The result as NumPy arrays by path."""
        return as_result(self.raw_result(through))

    def raw_result(self, through: Callable | None = None) -> Any:
        """What ``result`` returns."""
        self.program.append(f"{self.name}.result()")
        with self.failing_clearly("result"):
            return (through or self.metric.result)()

    def reset(self) -> None:
        """``reset_state``."""
        self.program.append(f"{self.name}.reset_state()")
        with self.failing_clearly("reset_state"):
            self.metric.reset_state()

    def variables(self) -> list[keras.Variable]:
        """All variables of the metric and of metrics in it."""
        return list(self.metric.variables)

    def state(self) -> list[np.ndarray]:
        """Copies of the variables' values."""
        values = [np.array(_keras.tf_variable(v).numpy()) for v in self.metric.variables]
        # NumPy does not count bfloat16 among the floats.
        return [v.astype("float32") if v.dtype.name == "bfloat16" else v for v in values]

    def load(self, state: list[Any], source: str) -> None:
        """Gives the variables the values ``state``, which are those of ``source``."""
        self.program.append(f"for v, s in zip({self.name}.variables, {source}): v.assign(s)")
        load(self.metric, state)

    def rules(self) -> list[str]:
        """The merge rule of each variable, in their order."""
        owners = {
            id(variable): metric
            for metric in _keras.all_metrics(self.metric)
            for variable in _keras.own_variables(metric)
        }
        return [merging.rule_of(owners.get(id(v), self.metric), v) for v in self.metric.variables]

    def grows(self) -> bool:
        """Whether a variable's shape is open, so that XLA cannot compile the metric."""
        return any(None in tuple(v.shape) for v in self.metric.variables)

    def failing_clearly(self, method: str, fix: str | None = None) -> "_Failing":
        """Inside, an exception becomes a `Violation` that names the method, and the fix."""
        return _Failing(self, method, fix)


class _Failing:
    def __init__(self, subject: Subject, method: str, fix: str | None) -> None:
        self._subject, self._method, self._fix = subject, method, fix

    def __enter__(self) -> "_Failing":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, Violation):
            return
        assert kind is not None  # of the error
        raised = f"{kind.__name__}: {' '.join(str(error).split())[:300]}"
        raise Violation(
            list(self._subject.program), "no error", raised,
            cause=f"`{self._method}` raised it.", fix=self._fix,
        ) from error  # fmt: skip


def load(metric: keras.metrics.Metric, state: list[Any]) -> None:
    """Gives a metric's variables the values of a state."""
    for variable, value in zip(metric.variables, state, strict=True):
        target = _keras.tf_variable(variable)
        target.assign(tf.cast(value, target.dtype) if target.dtype != tf.string else value)


def as_result(raw: Any) -> Result:
    """Nested tensors as NumPy arrays by path, floats in float64."""
    found = {}
    for path, value in keras.tree.flatten_with_path(raw):
        array = np.array(value.numpy() if hasattr(value, "numpy") else value)
        if array.dtype.kind not in "iubUSO":
            array = array.astype("float64")
        found[tuple(path)] = array
    return found


def differ(expected: Result, found: Result, tolerance: float) -> bool:
    """Whether two results differ by more than ``tolerance * max(1, |expected|)``.

    NaN equals NaN, and infinity itself.
    """
    if list(expected) != list(found):
        return True
    for path, one in expected.items():
        other = found[path]
        if one.shape != other.shape:
            return True
        if one.dtype.kind not in "fiub":
            if not np.array_equal(one, other):
                return True
            continue
        one, other = one.astype("float64"), other.astype("float64")
        if not np.array_equal(np.isfinite(one), np.isfinite(other)):
            return True
        finite = np.isfinite(one)
        if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
            return True
        bound = tolerance * np.maximum(1.0, np.abs(one[finite]))
        if np.any(np.abs(one[finite] - other[finite]) > bound):
            return True
    return False
