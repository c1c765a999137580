"""Laws of the reference: the metric is what it says it is.

A reference is a function of NumPy arrays, in float64, such as scikit-learn's;
columns ``(rows, 1)`` come as ``(rows,)``. Rows for which it raises ValueError or
gives NaN (an area under a curve of one class) are left out: there the result is
not defined.
"""

import inspect
import warnings

import numpy as np
from hypothesis import reject

from kerastrain.errors import ArgumentError
from kerastrain.testing.case import Case
from kerastrain.testing.laws.law import law
from kerastrain.testing.streams import as_it_is
from kerastrain.testing.streams import Stream
from kerastrain.testing.subject import as_result
from kerastrain.testing.subject import Result
from kerastrain.testing.violations import Violation


def reference_result(case: Case, stream: Stream) -> Result:
    """What the reference gives for the rows of a stream."""
    reference = case.trial.reference
    assert reference is not None  # the laws that ask for its result need one
    plain = stream.mapped(lambda kind, array: _plain(array))
    if stream.sample_weight is not None:
        plain = plain.weighted(stream.sample_weight.astype("float64"))
    case.tally["asked"] = case.tally.get("asked", 0) + 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = as_result(plain.call(reference, as_it_is))
    except ValueError as error:
        case.tally["refused"] = f"ValueError: {error}"
        reject()
    except Exception as error:
        program = stream.code("reference")
        found = f"{type(error).__name__}: {error}"
        raise Violation(program, "a result", found, cause="the reference raised it.") from error
    if any(np.any(np.isnan(a)) for a in result.values() if a.dtype.kind == "f"):
        case.tally["refused"] = "NaN"
        reject()
    case.tally["several"] = case.tally.get("several", False) or stream.rows > 1
    return result


def check_that_it_answers(tally: dict) -> None:
    """Refuses a reference that gave no result for any two rows or more.

    Raises:
        ArgumentError: its last answer is in the message.
    """
    if tally.get("asked") and not tally.get("several"):
        raise ArgumentError(
            f"`reference` gave no result for any of {tally['asked']} streams of several rows; the "
            f"last answer was {tally.get('refused')!r}. It takes the arrays of all rows, columns "
            "(rows, 1) as (rows,)."
        )


def _plain(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    return array.astype("float64") if array.dtype.kind == "f" else array


def _compare(case: Case, stream: Stream) -> None:
    expected = reference_result(case, stream)
    found = case.updated(stream).result()
    forms = [{path: a.shape for path, a in r.items()} for r in (expected, found)]
    if forms[0] != forms[1]:
        case.fail(expected, found, ("of the reference", "of the metric"),
                  "the reference and the metric give results of other forms.",
                  "Let the reference return the same names and shapes.")  # fmt: skip
    case.same(expected, found, ("of the reference", "of the metric"),
              lambda: ("the metric computes something else than the reference.", None))  # fmt: skip


@law("reference", declaration="reference")
def equals_reference(case: Case) -> None:
    """The result is that of the reference."""
    case.needs(case.trial.reference, "no `reference` is given")
    _compare(case, case.stream())


@law("reference")
def equals_weighted_reference(case: Case) -> None:
    """With weights the result is that of the reference with weights.

    Applies where the reference takes ``sample_weight``.
    """
    reference = case.trial.reference
    case.needs(reference, "no `reference` is given")
    assert reference is not None
    case.needs_weights()
    try:
        parameters = inspect.signature(reference).parameters.values()
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"`reference` must be a function of NumPy arrays: {error}.") from None
    takes = any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters)
    case.needs(takes, "the reference takes no `sample_weight`")
    stream = case.stream()
    weights = case.weights(stream)
    if not np.any(weights):
        reject()
    _compare(case, stream.weighted(weights))
