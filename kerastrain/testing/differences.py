"""Two runs side by side: what differs, where first, and how it is shown.

::

    for a, b in pairs(expected, found):         # the values after one step of each run
        size, reference, value = difference(a, b)

The difference of two values of a variable is::

    max |a - b| / max(1, max |a|)

with ``a`` the variable in the reference: absolute for small numbers, relative
to the variable's largest magnitude above 1. Integers and strings must be
equal. A number that is NaN or infinite on one side only differs by infinity.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from kerastrain.errors import ArgumentError
from kerastrain.errors import ModelError

_HEADER = ("replicas", "micro-batches", "batch size")
# What Keras appends to the names that it makes.
_NUMBER = re.compile(r"_(\d+)(?=_|$)")


class Value(NamedTuple):
    """One variable, or one logged number, after a step.

    Attributes:
        kind: ``"weights"``, ``"optimizer"`` or ``"logs"``.
        name: its path, or its name in the logs.
        parts: its value on each replica, or one value.
    """

    kind: str
    name: str
    parts: list[np.ndarray]


# Comparing --------------------------------------------------------------------


def pairs(expected: list[Value], found: list[Value]) -> Iterator[tuple[Value, Value]]:
    """The values after one step side by side: variables in order, logs by name.

    Keras numbers the metrics and layers that are given no name, on and on in
    one process: ``auc_3`` of one model is ``auc_5`` of the next. So names are
    paired without their numbers, in the numbers' order.

    Raises:
        ArgumentError: the two models have not the same number of variables.
    """
    states = [[v for v in values if v.kind != "logs"] for values in (expected, found)]
    if len(states[0]) != len(states[1]):
        raise ArgumentError(
            "`model_fn` returned models with different variables: "
            f"{[v.name for v in states[0]]}, then {[v.name for v in states[1]]}. Make the same "
            "model in each call."
        )
    yield from zip(*states, strict=True)
    logs = [{v.name: v for v in values if v.kind == "logs"} for values in (expected, found)]
    names = [_by_number(side) for side in logs]
    for place in {**names[0], **names[1]}:
        a, b = (side.get(place) for side in names)
        yield (
            _missing(b) if a is None else logs[0][a],
            _missing(a) if b is None else logs[1][b],
        )


def _by_number(names: Iterable[str]) -> dict[tuple[str, int], str]:
    """``{(name without numbers, rank of its numbers): name}``."""
    alike: dict[str, list[tuple[tuple[int, ...], str]]] = {}
    for name in names:
        number = tuple(map(int, _NUMBER.findall(name)))
        alike.setdefault(_NUMBER.sub("", name), []).append((number, name))
    return {
        (bare, rank): name
        for bare, group in alike.items()
        for rank, (_, name) in enumerate(sorted(group))
    }


def _missing(name: str | None) -> Value:
    return Value("logs", str(name), [np.asarray("missing")])


def is_float(array: np.ndarray) -> bool:
    """Whether the array holds floating-point numbers, of any precision."""
    return array.dtype.kind not in "OSU" and keras.backend.is_float_dtype(array.dtype.name)


def difference(expected: Value, found: Value) -> tuple[float, Any, Any]:
    """``(difference, reference, value)``, the two numbers where they differ most.

    Example:
        >>> difference(
        ...     Value("weights", "w", [np.array([1.0, 4.0])]),
        ...     Value("weights", "w", [np.array([1.0, 4.5])]),
        ... )
        (0.125, 4.0, 4.5)
    """
    a = expected.parts[0]
    return max((_array_difference(a, b) for b in found.parts), key=lambda result: result[0])


def _array_difference(a: np.ndarray, b: np.ndarray) -> tuple[float, Any, Any]:
    if a.shape != b.shape or {a.dtype.kind, b.dtype.kind} & set("OSU"):
        equal = a.shape == b.shape and bool(np.all(a == b))
        shown = [x.item() if x.ndim == 0 else f"shape {x.shape}" for x in (a, b)]
        return 0.0 if equal else math.inf, shown[0], shown[1]
    if a.size == 0:
        return 0.0, None, None
    integers = not is_float(a)
    a, b = a.astype("float64").ravel(), b.astype("float64").ravel()
    with np.errstate(invalid="ignore"):
        gaps = np.abs(a - b)
    gaps[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    gaps[np.isnan(gaps)] = math.inf
    scale = 1.0 if integers else max(1.0, np.abs(a[np.isfinite(a)]).max(initial=0.0))
    worst = int(gaps.argmax())
    return float(gaps[worst] / scale), a[worst].item(), b[worst].item()


def refuse_nan(steps: list[list[Value]], batches: int) -> None:
    """Refuses a reference with which nothing can be compared.

    A metric may be undefined for a while, but not after every step.

    Args:
        steps: the values after each step.
        batches: steps of an epoch.

    Raises:
        ModelError: a weight, an optimizer variable or the loss is NaN, or a
            metric always.
    """
    undefined = {v.name for v in steps[0] if v.kind == "logs" and v.name != "loss"}
    for number, values in enumerate(steps):
        for value in values:
            is_nan = is_float(value.parts[0]) and np.isnan(value.parts[0].astype("float64")).any()
            if not is_nan:
                undefined.discard(value.name)
            elif value.kind != "logs" or value.name == "loss":
                raise ModelError(
                    f"On one device with the whole batch at once, {value.name!r} is NaN after "
                    f"epoch {number // batches + 1}, batch {number % batches + 1}: there is "
                    "nothing to compare with. Lower the learning rate, or check data and loss."
                )
    if undefined:
        raise ModelError(
            f"On one device with the whole batch at once, {sorted(undefined)} are NaN after "
            "every step: there is nothing to compare with. Correct the metric, or remove it."
        )


# The report -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where a cut first differs from the reference.

    Attributes:
        epoch, batch, batches: the step, counted from 1, and how many it has.
        rows: of that global batch.
        variable: the path of the first weight that differs after that step,
            or of an optimizer variable, or the name of the loss or metric.
        variables: all that differ after that step.
        difference: of the first, see the module's equation.
        reference, value: its two numbers where they differ most.
    """

    epoch: int
    batch: int
    batches: int
    rows: int
    variable: str
    variables: tuple[str, ...]
    difference: float
    reference: Any
    value: Any


@dataclasses.dataclass(frozen=True)
class CutResult:
    """How one cut compares with the reference.

    Attributes:
        replicas, micro_batches, batch_size: the cut.
        steps: how many were compared.
        weights, optimizer, logs: the largest difference of any weight,
            optimizer variable, and running loss or metric, after any step.
        first: where it first differs by more than the tolerance, or None.
    """

    replicas: int
    micro_batches: int
    batch_size: int
    steps: int
    weights: float
    optimizer: float
    logs: float
    first: Difference | None

    @property
    def passed(self) -> bool:
        """Whether nothing differs by more than the tolerance."""
        return self.first is None


@dataclasses.dataclass(frozen=True)
class Equivalence:
    """What `check_equivalence` found; prints as a table.

    Attributes:
        model: the name of the model's class.
        tolerance: the largest difference that counts as equal.
        results: one `CutResult` for each cut and batch size.
        causes: what in the model may explain the differences.
    """

    model: str
    tolerance: float
    results: tuple[CutResult, ...]
    causes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no cut differs."""
        return all(result.passed for result in self.results)

    def __str__(self) -> str:
        if not self.passed:
            return self._failure()
        header = (*_HEADER, "steps", "weights", "optimizer", "loss and metrics")
        rows = [
            (
                *(r.replicas, r.micro_batches, r.batch_size, r.steps),
                *(f"{value:.1e}" for value in (r.weights, r.optimizer, r.logs)),
            )
            for r in self.results
        ]
        return (
            f"{self.model} trains the same however its batches are cut: the largest "
            f"differences from one device are at most {self.tolerance:g}.\n\n"
            f"{_table(header, rows)}"
        )

    def _failure(self) -> str:
        failed = [r for r in self.results if not r.passed]
        agree = [r for r in self.results if r.passed]
        header = (
            *(*_HEADER, "first step that differs", "first variable that differs"),
            *("difference", "one device", "this cut"),
        )
        rows = []
        for r in failed:
            d = r.first
            assert d is not None  # it has failed
            others = f" (+{len(d.variables) - 1})" if len(d.variables) > 1 else ""
            where = f"epoch {d.epoch}, batch {d.batch} of {d.batches} ({d.rows} rows)"
            found = (f"{d.difference:.1e}", _number(d.reference), _number(d.value))
            cut = (r.replicas, r.micro_batches, r.batch_size)
            rows.append((*cut, where, d.variable + others, *found))
        lines = [
            f"{self.model} trains differently when its batches are cut: {len(failed)} of "
            f"{len(self.results)} cuts differ by more than {self.tolerance:g} from one device "
            "with the whole batch at once.",
            "",
            _table(header, rows),
            "",
            "difference: max |a - b| / max(1, max |a|) over the variable, a on one device. "
            "(+n): as many others differ after the same step.",
        ]
        if agree:
            cuts = ", ".join(str((r.replicas, r.micro_batches, r.batch_size)) for r in agree)
            lines.append(f"These agree (replicas, micro-batches, batch size): {cuts}.")
        return "\n".join([*lines, "", "Look at:", *(f"- {cause}" for cause in self.causes)])


class NotEquivalent(AssertionError):
    """A model trains differently when its batches are cut.

    The message is the report: the first step and variable that differ, and
    what to look at in the model.

    Attributes:
        report: the `Equivalence`.
    """

    def __init__(self, report: Equivalence):
        super().__init__(str(report))
        self.report = report


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    )


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, numbers.Real) else str(value)
