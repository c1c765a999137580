"""Laws of the stream: rows count, not how they are cut, ordered or spread."""

import itertools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from hypothesis import strategies as st

from kerastrain.distribution import merging
from kerastrain.errors import MetricError
from kerastrain.testing.case import Case
from kerastrain.testing.case import rows_of
from kerastrain.testing.laws.law import law
from kerastrain.testing.streams import joined
from kerastrain.testing.streams import MANY
from kerastrain.testing.streams import Stream
from kerastrain.testing.subject import as_result
from kerastrain.testing.subject import load
from kerastrain.testing.subject import Result
from kerastrain.testing.subject import Subject

# Numbers in the arguments of a batch of many rows: what metrics make of them takes time and
# memory, a multiple for each class or threshold.
_MOST_NUMBERS = 8192
# The fewest copies of a row, however long it is.
_FEWEST_COPIES = 12


@law("stream")
def split_invariance(case: Case) -> None:
    """Any cut of the rows into batches gives the same result."""
    stream = case.stream(least=2)
    batches = case.batches(stream)
    whole, parts = case.updated(stream), case.updated(*batches)
    expected, found = whole.result(), parts.result()
    of = ("all rows at once", rows_of(batches))
    case.same(expected, found, of, lambda: cause_of_split(case, batches, found))


def cause_of_split(case: Case, batches: list, found: dict) -> tuple[str, str]:
    """What the result over batches is, in terms of the results of each: ``(cause, fix)``."""
    fix = "Add up sums and counts over the rows in `update_state`, and divide in `result`."
    # Twice: the second time with batches of which several ways of counting differ.
    longer = [batches[-1], *batches[:-1], joined([batches[-1]] * 2)]
    trials: list[tuple[list[Any], Any, np.ndarray]] = []
    for trial, result in ((batches, found), (longer, case.quiet(*longer))):
        of_each = [case.quiet(batch) for batch in trial]
        if any(r is None or list(r) != list(found) for r in (result, *of_each)):
            return "a batch alone fails, or gives a result of another form.", fix
        trials.append((of_each, result, np.array([float(batch.rows) for batch in trial])))
    ways = (
        ("the state holds the last batch only: it is assigned, not added to.",
         lambda values, rows: values[-1], "Use `assign_add`, or assign what follows from the old value too."),
        ("the state holds the first batch only.", lambda values, rows: values[0], fix),
        ("the result is a mean of batch means: weigh each batch by its rows.",
         lambda values, rows: np.mean(values, axis=0), fix),
        ("the results of batches are added up.", lambda values, rows: np.sum(values, axis=0), fix),
        ("it is a mean of batch results, weighed by rows; but this result is no mean over rows "
         "(a ratio, a root, a rank).",
         lambda values, rows: np.average(values, axis=0, weights=rows),
         "Keep what the result is computed from (counts, sums), and compute it in `result`."),
        ("it is the largest of the batches' results.", lambda values, _: np.max(values, axis=0), fix),
        ("it is the smallest of the batches' results.", lambda values, _: np.min(values, axis=0), fix),
    )  # fmt: skip
    for cause, of, fix_of_it in ways:
        if all(_is(case, result, of, of_each, rows) for of_each, result, rows in trials):
            return cause, fix_of_it
    return (
        "what a batch adds depends on the rows that come with it (a maximum, a rank, a "
        "normalisation within the batch), or the state holds a mean of a mean.",
        fix,
    )


def _is(
    case: Case, result: Result, of: Callable[..., Any], of_each: list[Result], rows: np.ndarray
) -> bool:
    """Whether a result is this function of the batches' results."""
    try:
        made = {path: of(np.stack([r[path] for r in of_each]).astype("float64"), rows)
                for path in result}  # fmt: skip
    except ValueError:  # their shapes differ
        return False
    return not case.differ(made, result, 1e-4)


@law("stream")
def many_rows(case: Case) -> None:
    """A batch of many rows gives the result of the same rows in small batches.

    A buffer of a fixed length, or a product over the rows, holds a few rows only.
    """
    stream = case.stream(least=2)
    size = sum(a[0].size for a in keras.tree.flatten(stream.arguments))
    stream = stream.take(slice(0, max(2, _MOST_NUMBERS // (MANY * size))))
    copies = min(MANY, max(_FEWEST_COPIES, _MOST_NUMBERS // (stream.rows * size)))
    many = stream.take(np.repeat(np.arange(stream.rows), copies))
    batches = many.cut([copies * k for k in range(1, stream.rows)])
    whole, parts = case.updated(many), case.updated(*batches)
    case.same(
        whole.result(), parts.result(), ("all rows at once", rows_of(batches)),
        lambda: ("rows beyond a number are left out, or a quantity overflows.",
                 "Take all rows, whatever their number; add logarithms in place of multiplying."),
        tolerance=10 * case.trial.tolerance,
    )  # fmt: skip


@law("stream")
def empty_batch(case: Case) -> None:
    """A batch without rows changes nothing, at the beginning or later."""
    stream = case.stream()
    empty = stream.take(slice(0, 0))
    place = case.draw(st.integers(0, 1))
    usual = case.updated(stream)
    found = case.updated(*([empty, stream], [stream, empty])[place])
    case.same(
        usual.result(), found.result(), ("without the empty batch", "with it"),
        lambda: ("a mean over no rows is 0 / 0, or the batch is counted as such.",
                 "Add sums and counts of rows; do not divide in `update_state`."),
    )  # fmt: skip


@law("stream")
def order_invariance(case: Case) -> None:
    """The order of the rows does not matter.

    Does not apply to a metric of the order itself (a streak, the last value):
    skip it with that reason.
    """
    stream = case.stream(least=2)
    order = np.array(case.draw(st.permutations(range(stream.rows))))
    cut = case.draw(st.integers(1, stream.rows - 1))
    usual, moved = case.updated(*stream.cut([cut])), case.updated(*stream.take(order).cut([cut]))
    case.same(
        usual.result(), moved.result(), ("rows as drawn", f"rows in the order {order.tolist()}"),
        lambda: ("the result depends on which rows come first, or together in a batch.",
                 "Keep sums over rows; if the order is the point, skip this law with a reason."),
    )  # fmt: skip


@law("stream")
def merge_equals_one_pass(case: Case) -> None:
    """The states of two parts, merged by the rule of each variable, give the result of all rows.

    Rules are ``sum`` unless ``merge_rules`` says otherwise (`kerastrain.distribution.merging`).
    """
    stream = case.stream(least=2)
    cut = case.draw(st.integers(1, stream.rows - 1))
    first, second = stream.cut([cut])
    whole, a, b = case.updated(stream), case.updated(first), case.updated(second)
    merged = case.metric()
    try:
        merging.check(merged.metric)
    except MetricError as error:
        case.fail(cause=str(error))
    states, rules = (a.state(), b.state()), merged.rules()
    case.needs(len(states[0]) == len(states[1]) == len(rules), "variables appear in update_state")
    merges = "merging.merge(r, [x.value, y.value])"
    merged.load(
        _merged(rules, states), f"[{merges} for r, x, y in zip({rules}, b.variables, c.variables)]"
    )
    expected = whole.result()
    case.same(
        expected, merged.result(),
        ("all rows at once", f"merged by {dict(zip(_names(merged), rules, strict=True))}"),
        lambda: _better_rules(case, merged, first, second),
    )  # fmt: skip


def _state(case: Case, stream: Stream) -> list[np.ndarray]:
    subject = Subject(case.trial.make(), "d", [])
    subject.update(stream)
    return subject.state()


def _result_of(case: Case, state: list[Any]) -> Result:
    metric = case.trial.make()
    load(metric, state)
    return as_result(metric.result())


def _names(subject: Subject) -> list[str]:
    return [v.name for v in subject.variables()]


def _merged(rules: Sequence[str], states: Sequence[list[np.ndarray]]) -> list[Any]:
    return [
        merging.merge(rule, list(parts))
        for rule, parts in zip(rules, zip(*states, strict=True), strict=True)
    ]


def _better_rules(case: Case, subject: Subject, first: Stream, second: Stream) -> tuple[str, str]:
    """Names rules that would be right for several cuts, if there are any."""
    names = _names(subject)
    rich = case.rich_stream()
    cuts = [(first, second), *(rich.cut([n]) for n in range(1, rich.rows, 2))]
    trials: list[tuple[list[list[np.ndarray]], Any]] = [
        ([_state(case, part) for part in cut], case.quiet(joined(cut))) for cut in cuts
    ]
    options = itertools.product(("sum", "max", "min"), repeat=len(names))
    for rules in itertools.islice(options, 81):
        try:
            right = all(
                not case.differ(expected, _result_of(case, _merged(rules, states)))
                for states, expected in trials
            )
        except Exception:  # it only looks for a likely cause
            continue
        if right:
            wanted = {n: r for n, r in zip(names, rules, strict=True) if r != "sum"}
            return ("the states of replicas are added, where this one is not a sum.",
                    f"Declare `merge_rules = {wanted}` in the class.")  # fmt: skip
    return (
        "the state is not a sum over rows (a mean, a ratio, a variance).",
        "Keep sums and counts as state, and divide in `result`.",
    )
