"""Laws of numbers: types, limits, size and offset."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain.testing.case import Case
from kerastrain.testing.laws.law import law
from kerastrain.testing.laws.reference import reference_result
from kerastrain.testing.streams import LABEL
from kerastrain.testing.streams import SCORE
from kerastrain.testing.streams import Stream
from kerastrain.testing.streams import VALUE
from kerastrain.testing.subject import differ
from kerastrain.testing.subject import load
from kerastrain.testing.subject import Subject

_CAST = "Begin with `y_pred = keras.ops.cast(y_pred, self.dtype)`, and the same for `y_true`."
# The first whole number that is rounded to another one.
_FIRST_INEXACT = {"bfloat16": 257, "float16": 2049}
# Half precision computes with 8 or 11 bits.
_HALF_TOLERANCE = 3e-2
# Added to values with eight fractional steps: exact in float32.
_OFFSET = 4096.0


@law("numbers")
def prediction_dtypes(case: Case) -> None:
    """Predictions in float16, bfloat16 and float64 give the result of float32.

    In 16 bits up to their precision. Where there are enough classes, labels are tried
    too whose numbers half precision does not hold: from 257 in bfloat16, from 2049 in float16.
    """
    stream = case.stream()
    case.needs(stream.has(SCORE) or stream.has(VALUE), "no argument is a score or a value")
    dtype = case.draw(st.sampled_from(("float16", "bfloat16", "float64")))
    first = _FIRST_INEXACT.get(dtype, 1)
    # The one before it too, which it becomes.
    stream = _renumbered(stream, case.draw(st.sampled_from((0, first - 1, first))))
    usual, other = case.updated(stream), case.metric()
    other.program += stream.code("b.update_state", lambda name, text: (
        f"tf.cast({text}, {dtype!r})" if stream.kind(name) in (SCORE, VALUE) else text))  # fmt: skip
    cast = stream.mapped(lambda kind, a: tf.cast(a, dtype) if kind in (SCORE, VALUE) else a)
    with other.failing_clearly("update_state"):
        cast.call(other.metric.update_state)
    case.same(
        usual.result(), other.result(), ("in float32", f"in {dtype}"),
        lambda: ("the numbers are used in the type that they come in.", _CAST),
        tolerance=case.trial.tolerance if dtype == "float64" else _HALF_TOLERANCE,
    )  # fmt: skip


def _renumbered(stream: Stream, first: int) -> Stream:
    """The same rows, with the classes numbered on from ``first``, if there are enough."""
    scores = [a for n, a in stream.arguments.items() if stream.kind(n) == SCORE]
    labels = [a for n, a in stream.arguments.items() if stream.kind(n) == LABEL]
    alone = len(scores) == len(labels) == 1
    if not alone or not all(isinstance(a, np.ndarray) for a in (*scores, *labels)):
        return stream
    classes = scores[0].shape[-1]
    if scores[0].shape[:-1] not in (labels[0].shape, labels[0].shape[:-1]) or classes <= first:
        return stream
    if labels[0].shape == scores[0].shape:  # a column for each class: no number to round
        return stream

    def renumber(kind: str, array: np.ndarray) -> np.ndarray:
        if kind == LABEL:
            return ((array + first) % classes).astype(array.dtype)
        return np.roll(array, first, axis=-1) if kind == SCORE else array

    return stream.mapped(renumber)


@law("numbers")
def label_dtypes(case: Case) -> None:
    """Labels as int32, int64, uint8, bool, float32 or a list give the same result."""
    stream = case.stream()
    case.needs(stream.has(LABEL), "no argument is a label")
    labels = [v for name, v in stream.arguments.items() if stream.kind(name) == LABEL]
    largest = max(np.max(array) for array in keras.tree.flatten(labels))
    forms = ["int64", "float32", "list"]
    forms += ["uint8"] * bool(largest < 256) + ["bool"] * bool(largest < 2)
    form = case.draw(st.sampled_from(forms))
    usual, other = case.updated(stream), case.metric()
    change = ".tolist()" if form == "list" else f".astype({form!r})"
    other.program += stream.code("b.update_state", lambda name, text: (
        text + change if stream.kind(name) == LABEL else text))  # fmt: skip

    def convert(kind: str, array: np.ndarray) -> Any:
        if kind != LABEL:
            return array
        return array.astype(form) if form != "list" else _Listed(array.tolist())

    changed = stream.mapped(convert)
    with other.failing_clearly("update_state"):
        changed.call(other.metric.update_state, _listed_or_tensor)
    case.same(usual.result(), other.result(), ("labels as int32", f"labels as {form}"),
              lambda: ("the labels are used in the type that they come in.", _CAST))  # fmt: skip


class _Listed:
    """A list that counts as one leaf of a nested structure."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows


def _listed_or_tensor(value: Any) -> Any:
    return value.rows if isinstance(value, _Listed) else tf.convert_to_tensor(value)


@law("numbers", strict=True)
def dtype_is_respected(case: Case) -> None:
    """With `dtype="float64"` the variables and the result are float64.

    Applies where the constructor names ``dtype``. ``fit`` never asks for it, and many metrics
    of Keras ignore it, so this law runs on request.
    """
    subject = case.metric()
    kind = type(subject.metric)
    case.needs("dtype" in inspect.signature(kind.__init__).parameters,
               "its constructor names no `dtype`")  # fmt: skip
    config = {**subject.metric.get_config(), "dtype": "float64"}
    case.program.append('a = type(a).from_config({**a.get_config(), "dtype": "float64"})')
    with subject.failing_clearly("from_config"):
        subject.metric = kind.from_config(config)
    stream = case.stream()
    subject.update(stream)
    raw = subject.raw_result()
    narrow = [v.name for v in subject.variables() if _is_narrow(v)]
    results = [
        keras.backend.standardize_dtype(r.dtype)
        for r in keras.tree.flatten(raw) if hasattr(r, "dtype") and _is_narrow(r)
    ]  # fmt: skip
    if narrow or results:
        case.fail("float64", f"variables {narrow}, results {results} of fewer bits",
                  cause="variables or results are made without `dtype=self.dtype`.",
                  fix="Pass `dtype=self.dtype` to `add_variable`, and cast to it.")  # fmt: skip


def _is_narrow(tensor: Any) -> bool:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return "float" in dtype and dtype != "float64"


@law("numbers", fixed=True)
def finite_when_fresh(case: Case) -> None:
    """A new metric has a finite result."""
    _finite(case, case.metric(), "before any row", "a sum is divided by a count of 0.")


@law("numbers")
def finite_on_valid_input(case: Case) -> None:
    """The result is finite on valid rows: on one row, and on rows that are all alike, too."""
    stream = case.stream()
    form = case.draw(st.sampled_from(("one row", "rows all alike", "any rows")))
    size = {"one row": 1, "rows all alike": 3}.get(form)
    rows = stream if size is None else stream.take(np.zeros(size, int))
    _finite(case, case.updated(rows), f"on {form}", "a quantity that can be 0 divides, or its "
            "logarithm or root is taken.")  # fmt: skip


def _finite(case: Case, subject: Subject, where: str, cause: str) -> None:
    result = subject.result()
    if not all(np.all(np.isfinite(a)) for a in result.values() if a.dtype.kind == "f"):
        case.fail("finite", result, ("", where), cause,
                  "Divide by `keras.ops.maximum(x, keras.backend.epsilon())`, or use "
                  "`keras.ops.divide_no_nan`.")  # fmt: skip


@law("numbers", declaration="bounds")
def within_bounds(case: Case) -> None:
    """The result is within the declared bounds."""
    bounds = case.trial.bounds
    case.needs(bounds is not None, "no `bounds` are declared")
    assert bounds is not None
    low, high = bounds
    result = case.updated(case.stream()).result()
    slack = case.trial.tolerance
    if any(np.any(a < low - slack) or np.any(a > high + slack) for a in result.values()):
        case.fail(f"from {low} to {high}", result, cause="a numerator and its denominator count "
                  "different rows, or the declaration is wrong.")  # fmt: skip


# Very many rows ---------------------------------------------------------------


@law("numbers")
def no_early_saturation(case: Case) -> None:
    """After a million rows one more row still counts."""
    _saturation(case, 20)


@law("numbers", strict=True)
def no_saturation(case: Case) -> None:
    """After 2^24 rows one more row still counts.

    A float32 sum of ones stops there. Keras's own means do so, and in batches of
    many rows it never shows, so this law runs on request.
    """
    _saturation(case, 24)


def _saturation(case: Case, doublings: int) -> None:
    row = case.stream().take(slice(0, 1))
    fresh = case.metric()
    case.needs("sum" in fresh.rules(), "none of its variables is summed")
    case.needs(not fresh.grows(), "its variables keep the rows themselves")
    before = fresh.state()
    fresh.update(row)
    one = fresh.state()
    case.needs(len(before) == len(one), "variables appear in update_state")
    case.assume(all(np.all(np.isfinite(v.astype("float64"))) for v in one))
    sums = [
        rule == "sum" and b.dtype.kind in "fiu" and not np.array_equal(a, b)
        for rule, a, b in zip(fresh.rules(), before, one, strict=True)
    ]
    case.assume(any(sums))
    exact = [v.astype("float64") * 2**doublings for v in one]
    times = [
        e.astype(v.dtype) if is_sum else v for e, v, is_sum in zip(exact, one, sums, strict=True)
    ]
    fresh.program.append(f"# the same row 2**{doublings} times: its sums times {2**doublings}")
    load(fresh.metric, times)
    full = fresh.state()
    fresh.update(row)
    after = fresh.state()
    names = [
        v.name
        for v, is_sum, e, a, b in zip(fresh.variables(), sums, exact, full, after, strict=True)
        if is_sum and (np.array_equal(a, b) or not np.allclose(a.astype("float64"), e, rtol=0.1))
    ]
    if names:
        case.fail("changed by one more row", f"{names} stay", ("", f"after 2^{doublings} rows"),
                  f"{', '.join(names)} cannot hold that number of rows in its type.",
                  'Count in `dtype="int64"`, or sum in `dtype="float64"`.')  # fmt: skip


# Offset and size --------------------------------------------------------------


def _moved(stream: Stream, change: Callable[[np.ndarray], np.ndarray]) -> Stream:
    return stream.mapped(lambda kind, array: change(array) if kind == VALUE else array)


@law("numbers")
def no_cancellation(case: Case) -> None:
    """A large offset of all values loses no digits.

    Applies to values, where the result is declared to be shift-invariant or
    there is a reference.
    """
    stream = case.stream(least=2)
    trial = case.trial
    case.needs(stream.has(VALUE), "no argument is a value")
    case.needs(trial.shift_invariant or trial.reference,
               "neither `shift_invariant` nor `reference` is given")  # fmt: skip
    moved = _moved(stream, lambda a: a + np.array(_OFFSET, a.dtype))
    if trial.reference:
        expected, of = reference_result(case, moved), f"of the reference, all values + {_OFFSET:g}"
    else:
        expected, of = case.updated(stream).result(), "near 0"
    found = case.updated(moved).result()
    case.same(expected, found, (of, f"all values + {_OFFSET:g}"), lambda: (
        "the difference of two large numbers, such as a mean of squares and a squared mean.",
        "Sum the differences from a value near the mean (Welford, Chan), or in float64."),
        tolerance=1e-3)  # fmt: skip


@law("numbers", declaration="shift_invariant")
def shift_behaviour(case: Case) -> None:
    """The same amount added to all values leaves the result, as declared by `shift_invariant`."""
    case.needs(case.trial.shift_invariant, "`shift_invariant` is not declared")
    stream = case.stream()
    case.needs(stream.has(VALUE), "no argument is a value")
    moved = _moved(stream, lambda a: a + np.array(2.0, a.dtype))
    case.same(case.updated(stream).result(), case.updated(moved).result(),
              ("values as drawn", "values + 2"))  # fmt: skip


@law("numbers", declaration="scale_power")
def scale_behaviour(case: Case) -> None:
    """All values times 2 multiply the result by `2 ** scale_power`, as declared."""
    power = case.trial.scale_power
    case.needs(power is not None, "`scale_power` is not declared")
    assert power is not None
    stream = case.stream()
    case.needs(stream.has(VALUE), "no argument is a value")
    scaled = _moved(stream, lambda a: a * np.array(2.0, a.dtype))
    usual = case.updated(stream).result()
    expected = {path: value * 2.0**power for path, value in usual.items()}
    found = case.updated(scaled).result()
    if differ(expected, found, case.trial.tolerance):
        case.fail(expected, found, (f"2 ** {power:g} times that of the values", "of values * 2"))
