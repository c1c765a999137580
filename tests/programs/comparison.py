"""Runs a program by Keras and by `Trainer`, and says what is not equal.

::

    result = compare("gan")
    result.equal, result.weights, result.history

Everything that decides the next number is compared: weights, seed generators, variables of
optimizers (all that the model has), history, and what ``evaluate`` and ``predict`` return.
"""

import dataclasses
import importlib
import pathlib
import time
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import Trainer
from tests.programs import differences

TOLERANCE = 1e-6
"""The largest difference of a weight, relative to values above 1; of most programs it is 0."""

HERE = pathlib.Path(__file__).parent
NO_PROGRAMS = ("__init__", "__main__", "comparison", "differences")


def names() -> list[str]:
    """The programs, by name."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NO_PROGRAMS)


@dataclasses.dataclass
class Outcome:
    """What a program has computed.

    Attributes:
        state: the variables in order, each with its path.
        history: of all its fits.
        evaluated, predicted: what these returned, or the exception they ended with.
        warnings: the texts of the warnings.
        seconds: how long the fits took.
    """

    state: list[tuple[str, np.ndarray]]
    history: dict[str, list[float]]
    evaluated: Any
    predicted: Any
    warnings: list[str]
    seconds: float


@dataclasses.dataclass
class Result:
    """How far apart the two are.

    Attributes:
        program: its name.
        weights: the largest difference of a variable.
        history: that of a value in the history; infinite if the names differ.
        evaluated, predicted: that of a value; infinite if only one of the two ended in an error.
        warnings: those that Keras's run did not draw, but for those that are deserved.
        seconds: of Keras's fits, of `Trainer`'s.
        details: what is not equal, in words.
        known: why the numbers differ from Keras's as it is; "" where they should not. Then the
            others say how far they are from Keras under the reference of the difference.
    """

    program: str
    weights: float = np.inf
    history: float = np.inf
    evaluated: float = np.inf
    predicted: float = np.inf
    warnings: list[str] = dataclasses.field(default_factory=list)
    seconds: tuple[float, float] = (np.nan, np.nan)
    details: list[str] = dataclasses.field(default_factory=list)
    known: str = ""

    @property
    def equal(self) -> bool:
        """Whether all numbers are within `TOLERANCE`."""
        found = (self.weights, self.history, self.evaluated, self.predicted)
        return all(value <= TOLERANCE for value in found)

    @property
    def right(self) -> bool:
        """Whether all is as it should be: equal as far as it can be, and no warning."""
        return self.equal and not self.warnings and not self.details


class ByKeras:
    """Keras's own methods."""

    def fit(self, model, **arguments):
        return model.fit(verbose=0, **arguments)

    def evaluate(self, model, **arguments):
        return model.evaluate(verbose=0, return_dict=True, **arguments)

    def predict(self, model, **arguments):
        return model.predict(verbose=0, **arguments)


class ByTrainer:
    """The same, by a new `Trainer` each time."""

    def __init__(self, execution=None):
        self.execution = execution

    def _trainer(self, model):
        return Trainer(model, seed=0, execution=self.execution)

    def fit(self, model, **arguments):
        return self._trainer(model).fit(verbose=0, **arguments)

    def evaluate(self, model, **arguments):
        return self._trainer(model).evaluate(verbose=0, return_dict=True, **arguments)

    def predict(self, model, **arguments):
        return self._trainer(model).predict(verbose=0, **arguments)


def run(name: str, entry_point: ByKeras | ByTrainer) -> Outcome:
    """Runs a program from its beginning."""
    keras.utils.clear_session(free_memory=False)
    program = importlib.import_module(f"tests.programs.{name}")
    histories, seconds = [], 0.0

    def fit(model, **arguments):
        nonlocal seconds
        begun = time.perf_counter()
        histories.append(entry_point.fit(model, **arguments).history)
        seconds += time.perf_counter() - begun
        return histories[-1]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, arguments = program.build()
        getattr(program, "train", _train_once)(fit, model, arguments)
        state = state_of(model)
        data = {k: arguments[k] for k in ("x", "y", "batch_size") if k in arguments}
        evaluated = _value_or_error(entry_point.evaluate, model, **data)
        data.pop("y", None)
        predicted = _value_or_error(entry_point.predict, model, **data)
    history = {}
    for part in histories:
        for key, values in part.items():
            history.setdefault(key, []).extend(values)
    texts = sorted({str(warning.message) for warning in caught})
    return Outcome(state, history, evaluated, predicted, texts, seconds)


def _train_once(fit, model, arguments):
    fit(model, **arguments)


def _value_or_error(function, model, **arguments):
    try:
        return function(model, **arguments)
    except Exception as error:  # of any kind: what matters is whether both end in one
        return error


def state_of(model: keras.Model) -> list[tuple[str, np.ndarray]]:
    """Every variable of a model but its metrics', and those of every optimizer it has."""
    of_metrics = {id(v) for v in model.metrics_variables}
    variables = [v for v in model.variables if id(v) not in of_metrics]
    for _, optimizer in sorted(vars(model).items()):
        if isinstance(optimizer, keras.optimizers.Optimizer):
            variables += optimizer.variables
    each_once = {id(v): v for v in variables}.values()
    return [(v.path, keras.ops.convert_to_numpy(v.value)) for v in each_once]


def apart(a: Any, b: Any) -> float:
    """The largest difference of two structures of numbers, relative to those above 1."""
    if isinstance(a, Exception) or isinstance(b, Exception):
        return 0.0 if isinstance(a, Exception) and isinstance(b, Exception) else np.inf
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = [(a[key], b[key]) for key in a] if set(a) == set(b) else None
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple):
        pairs = list(zip(a, b, strict=True)) if len(a) == len(b) else None
    elif isinstance(a, tf.RaggedTensor) and isinstance(b, tf.RaggedTensor):
        pairs = [(a.flat_values, b.flat_values), *zip(a.nested_row_splits, b.nested_row_splits)]
    else:
        return _difference(np.asarray(a), np.asarray(b))
    return np.inf if pairs is None else max((apart(*pair) for pair in pairs), default=0.0)


def _difference(a, b):
    if a.shape != b.shape:
        return np.inf
    if a.dtype.kind not in "fiub":
        return 0.0 if np.array_equal(a, b) else np.inf
    a, b = a.astype("float64"), b.astype("float64")
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        relative = np.where(same, 0.0, np.abs(a - b) / np.maximum(1.0, np.abs(a)))
    relative = np.where(np.isnan(relative), np.inf, relative)
    return float(relative.max(initial=0.0))


def compare(name: str, execution: Any = None) -> Result:
    """Runs a program by both, Keras first.

    Args:
        name: of the program.
        execution: of the `Trainer`.
    """
    known = differences.KNOWN.get(name)
    expected = run(name, ByKeras())
    found = run(name, ByTrainer(execution))
    result = difference(name, expected, found)
    deserved = tuple(differences.DESERVED.get(name, ()))
    texts = [text for text in found.warnings if text not in expected.warnings]
    if known is not None:
        if result.equal:
            result.details.append(f"it is equal, and on the list of differences: {known.reason}")
        elif known.reference is not None:
            with known.reference():
                result = difference(name, run(name, ByKeras()), found)
        result.known = known.reason
    result.warnings = [text for text in texts if not (deserved and text.startswith(deserved))]
    return result


def difference(name: str, expected: Outcome, found: Outcome) -> Result:
    """How far apart two outcomes are; nothing about warnings."""
    result = Result(name, seconds=(expected.seconds, found.seconds))
    for field in ("state", "history", "evaluated", "predicted"):
        a, b = getattr(expected, field), getattr(found, field)
        # Paths may differ: Keras builds the optimizer in one scope, kerastrain in another.
        value = apart(*([v for _, v in s] for s in (a, b))) if field == "state" else apart(a, b)
        setattr(result, "weights" if field == "state" else field, value)
        if not value <= TOLERANCE:
            result.details.append(_words(field, a, b))
    return result


def _words(field, a, b):
    if field == "state" and len(a) == len(b):
        path, value = max(
            ((path, apart(v, w)) for (path, v), (_, w) in zip(a, b, strict=True)),
            key=lambda p: p[1],
        )
        return f"variable {path}: {value:.2g} apart"
    if field == "state":
        only = set(dict(a)) ^ set(dict(b))
        return f"{len(a)} variables by Keras, {len(b)} by Trainer; not in both: {sorted(only)}"
    short = [f"{type(v).__name__}: {v}" if isinstance(v, Exception) else str(v) for v in (a, b)]
    return f"{field}: Keras {short[0][:300]}, Trainer {short[1][:300]}"
