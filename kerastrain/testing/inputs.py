"""What metrics may be fed with, as Hypothesis strategies.

::

    check_metric(keras.metrics.AUC, inputs=binary_classification())
    check_metric(MyMetric, inputs=arguments(clicks=integers(0, 3), views=integers(1, 9)))

Each function returns a strategy of `Stream`: a few rows that are valid input for
one kind of problem. They hold what breaks metrics: ties, rows that are all
alike, one class only, a single row. Numbers are small multiples of powers of
two, so that sums of them are exact, in half precision too, and a failing
example is short: Hypothesis removes rows and moves numbers towards 0.

Weights, masks, the cuts into batches and the shares of replicas are drawn by
the laws themselves (`sample_weights`, `partitions`, `masks`).
"""

import concurrent.futures
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from hypothesis import strategies as st

from kerastrain import validation
from kerastrain.errors import ArgumentError
from kerastrain.testing.examples import run_examples
from kerastrain.testing.streams import KINDS
from kerastrain.testing.streams import LABEL
from kerastrain.testing.streams import OTHER
from kerastrain.testing.streams import SCORE
from kerastrain.testing.streams import Stream
from kerastrain.testing.streams import VALUE

# Rows that are drawn to see what a strategy draws.
_SAMPLE = 10
# Rows of a stream where nothing else is asked for.
MAX_ROWS = 8


class Column(NamedTuple):
    """One row of one argument: how it is drawn, of which type, and what it means.

    Attributes:
        row: a strategy of a number, or of nested lists of one shape.
        dtype: of the array of all rows.
        kind: one of `kerastrain.testing.streams.KINDS`.
    """

    row: st.SearchStrategy
    dtype: str = "float32"
    kind: str = OTHER


def binary_classification(
    *, logits: bool = False, max_rows: int = MAX_ROWS
) -> st.SearchStrategy[Stream]:
    """Labels 0 and 1 ``(rows, 1)``, and a score for each.

    Args:
        logits: scores from -4 to 4 in place of probabilities from 0 to 1.
        max_rows: the most rows of a stream.

    Example:
        >>> from hypothesis import find
        >>> find(binary_classification(), lambda s: s.rows > 1).arguments["y_true"].tolist()
        [[0], [0]]
    """
    return _streams(
        {
            "y_true": Column(_lists(st.integers(0, 1), 1), "int32", LABEL),
            "y_pred": Column(_lists(_scores(logits), 1), kind=SCORE),
        },
        max_rows,
    )


def multiclass_classification(
    classes: int = 3, *, labels: str = "sparse", logits: bool = False, max_rows: int = MAX_ROWS
) -> st.SearchStrategy[Stream]:
    """One of several classes for each row, and scores ``(rows, classes)``.

    Args:
        classes: how many, 2 or more.
        labels: ``"sparse"`` for numbers ``(rows,)``, ``"one_hot"`` for ``(rows, classes)``.
        logits: scores from -4 to 4; else probabilities, which add up to 1.
        max_rows: the most rows of a stream.
    """
    validation.whole_number("classes", classes, 2)
    if labels not in ("sparse", "one_hot"):
        raise ArgumentError(f'`labels` must be "sparse" or "one_hot". Received: labels={labels!r}.')
    label: st.SearchStrategy[Any] = st.integers(0, classes - 1)
    if labels == "one_hot":
        label = label.map(lambda k: [int(k == i) for i in range(classes)])
    scores = _lists(_scores(True), classes) if logits else _probabilities(classes)
    return _streams(
        {"y_true": Column(label, "int32", LABEL), "y_pred": Column(scores, kind=SCORE)}, max_rows
    )


def multilabel_classification(
    labels: int = 3, *, logits: bool = False, max_rows: int = MAX_ROWS
) -> st.SearchStrategy[Stream]:
    """Several labels 0 and 1 for each row ``(rows, labels)``, and a score for each."""
    validation.whole_number("labels", labels, 1)
    return _streams(
        {
            "y_true": Column(_lists(st.integers(0, 1), labels), "int32", LABEL),
            "y_pred": Column(_lists(_scores(logits), labels), kind=SCORE),
        },
        max_rows,
    )


def regression(
    outputs: int = 1, *, low: float = -8.0, high: float = 8.0, max_rows: int = MAX_ROWS
) -> st.SearchStrategy[Stream]:
    """Targets and predictions ``(rows, outputs)``, multiples of 1/8 from ``low`` to ``high``."""
    validation.whole_number("outputs", outputs, 1)
    value = _lists(_eighths(low, high), outputs)
    return _streams(
        {"y_true": Column(value, kind=VALUE), "y_pred": Column(value, kind=VALUE)}, max_rows
    )


def ranking(
    items: int = 4, *, grades: int = 2, max_rows: int = MAX_ROWS
) -> st.SearchStrategy[Stream]:
    """Grades of relevance 0 to ``grades - 1`` of several items, and a score for each.

    Both have the shape ``(rows, items)``; a row is one list to be ranked. Scores tie.
    """
    validation.whole_number("items", items, 1)
    validation.whole_number("grades", grades, 2)
    return _streams(
        {
            "y_true": Column(_lists(st.integers(0, grades - 1), items), "int32", LABEL),
            "y_pred": Column(_lists(_scores(False), items), kind=SCORE),
        },
        max_rows,
    )


def sequences(
    steps: int = 3, *, classes: int | None = None, max_rows: int = MAX_ROWS
) -> st.SearchStrategy[Stream]:
    """Time steps, which a mask may leave out.

    Args:
        steps: the length of a sequence.
        classes: their number; labels ``(rows, steps)``, and probabilities
            ``(rows, steps, classes)``. None for a regression: values
            ``(rows, steps, 1)`` of both.
        max_rows: the most rows of a stream.
    """
    validation.whole_number("steps", steps, 1)
    if classes is None:
        value = _lists(_eighths(-8, 8), steps, 1)
        columns = {"y_true": Column(value, kind=VALUE), "y_pred": Column(value, kind=VALUE)}
    else:
        validation.whole_number("classes", classes, 2)
        columns = {
            "y_true": Column(_lists(st.integers(0, classes - 1), steps), "int32", LABEL),
            "y_pred": Column(
                st.lists(_probabilities(classes), min_size=steps, max_size=steps), kind=SCORE
            ),
        }
    return _streams(columns, max_rows, steps=steps)


def segmentation(
    height: int = 2, width: int = 2, *, classes: int = 2, max_rows: int = 4
) -> st.SearchStrategy[Stream]:
    """Images: the class ``(rows, height, width)`` of each pixel, and each class's probability."""
    for name, value in (("height", height), ("width", width)):
        validation.whole_number(name, value, 1)
    validation.whole_number("classes", classes, 2)
    pixels = st.lists(_probabilities(classes), min_size=width, max_size=width)
    return _streams(
        {
            "y_true": Column(_lists(st.integers(0, classes - 1), height, width), "int32", LABEL),
            "y_pred": Column(st.lists(pixels, min_size=height, max_size=height), kind=SCORE),
        },
        max_rows,
    )


def arguments(*, max_rows: int = MAX_ROWS, **columns: Any) -> st.SearchStrategy[Stream]:
    """Rows for an ``update_state`` of any signature, passed by keyword.

    Args:
        max_rows: the most rows of a stream.
        **columns: for each argument a strategy of *one row* (a number, or nested
            lists of one shape), or a `Column` that says the type and the
            meaning too; or a dict or list of these. What a strategy draws as
            floats are values, which laws may shift and scale, and try in half
            precision; say ``Column(strategy, kind="other")`` where that makes no
            sense, or ``"score"`` for predictions.

    Example:
        >>> from hypothesis import find
        >>> from hypothesis import strategies as st
        >>> rows = arguments(clicks=st.integers(0, 3), views=Column(st.integers(1, 9), "int32"))
        >>> {name: a.tolist() for name, a in find(rows, lambda s: s.rows > 1).arguments.items()}
        {'clicks': [0.0, 0.0], 'views': [1, 1]}
    """
    if not columns:
        raise ArgumentError("`arguments` needs a strategy for each argument of `update_state`.")
    found = {name: _as_columns(name, value) for name, value in columns.items()}
    return _streams(found, max_rows, by_keyword=True)


# What the laws draw -----------------------------------------------------------


def partitions(rows: int, *, least: int = 1, parts: int | None = None) -> st.SearchStrategy[list]:
    """Where to cut ``rows`` rows: places in order, for `Stream.cut`.

    Args:
        rows: of the stream.
        least: the fewest rows of a batch: with 0 batches may be empty.
        parts: exactly this number; None for up to four.
    """
    if least:
        places = st.lists(
            st.integers(1, max(rows - 1, 1)), unique=True, min_size=min(1, rows - 1), max_size=3
        )
        if rows < 2:
            places = st.just([])
    else:
        size = None if parts is None else parts - 1
        places = st.lists(st.integers(0, rows), min_size=size or 0, max_size=size or 3)
    return places.map(sorted)


def sample_weights(shape: tuple[int, ...], kind: str = "any") -> st.SearchStrategy[np.ndarray]:
    """Weights for rows, or for rows and time steps.

    Args:
        shape: of the weights.
        kind: ``"integer"`` (1 to 3, not all the same), ``"zero"`` (0 to 2, one of them 0), ``"any"``
            (multiples of a quarter from 0 to 3, all of them 0 among them) or ``"positive"``.
    """
    size = int(np.prod(shape))
    quarters = {"any": st.integers(0, 12), "positive": st.integers(1, 12),
                "integer": st.integers(1, 3).map(lambda k: 4 * k),
                "zero": st.integers(0, 2).map(lambda k: 4 * k)}  # fmt: skip
    weights = st.lists(quarters[kind], min_size=size, max_size=size)
    if kind == "zero":
        weights = weights.filter(lambda w: 0 in w)
    if kind == "integer" and size > 1:
        weights = weights.filter(lambda w: len(set(w)) > 1)
    return weights.map(lambda w: (np.array(w, "float32") / 4).reshape(shape))


def masks(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """Booleans, of which one at least is True: the rows or time steps that count."""
    size = int(np.prod(shape))
    drawn = st.lists(st.booleans(), min_size=size, max_size=size).filter(any)
    return drawn.map(lambda m: np.array(m, bool).reshape(shape))


# Building ---------------------------------------------------------------------


def _streams(
    columns: dict[str, Any], max_rows: int, by_keyword: bool = False, steps: int | None = None
) -> st.SearchStrategy[Stream]:
    validation.whole_number("max_rows", max_rows, 2)
    paths = [
        [(name, column) for column in keras.tree.flatten(_hidden(value))]
        for name, value in columns.items()
    ]
    flat = [(name, column.column) for path in paths for name, column in path]
    row = st.tuples(*(column.row for _, column in flat))
    alike = st.tuples(row, st.integers(1, 4)).map(lambda pair: [pair[0]] * pair[1])
    many = st.lists(row, min_size=1, max_size=max_rows)
    kinds = {name: column.kind for name, column in flat}

    def stream(rows: list[tuple[Any, ...]]) -> Stream:
        arrays = iter(
            np.array([r[i] for r in rows], column.dtype) for i, (_, column) in enumerate(flat)
        )
        arguments = {
            name: keras.tree.map_structure(lambda _: next(arrays), _hidden(value))
            for name, value in columns.items()
        }
        return Stream(arguments, kinds, by_keyword=by_keyword, steps=steps)

    # One in five streams has rows that are all alike.
    return st.one_of(many, many, many, many, alike).map(stream)


class _Leaf:
    """Hides a `Column`, a tuple, from functions on nested structures."""

    def __init__(self, column: Column) -> None:
        self.column = column


def _hidden(value: Any) -> Any:
    if isinstance(value, Column):
        return _Leaf(value)
    if isinstance(value, dict):
        return {key: _hidden(inner) for key, inner in value.items()}
    return [_hidden(inner) for inner in value]


def _as_columns(name: str, value: Any) -> Any:
    if isinstance(value, Column):
        if value.kind not in KINDS:
            raise ArgumentError(
                f"The argument {name!r} has the kind {value.kind!r}. Use one of {KINDS}."
            )
        return value
    if isinstance(value, st.SearchStrategy):
        return Column(value, kind=VALUE if _draws_floats(value) else OTHER)
    if isinstance(value, dict):
        return {key: _as_columns(f"{name}[{key!r}]", inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_as_columns(f"{name}[{i}]", inner) for i, inner in enumerate(value)]
    raise ArgumentError(
        f"The argument {name!r} needs a Hypothesis strategy of one row. Received: {value!r}. "
        f"Pass for example {name}=hypothesis.strategies.integers(0, 1)."
    )


def _draws_floats(strategy: st.SearchStrategy) -> bool:
    """Whether some of the numbers that a strategy draws are Python's or NumPy's floats."""
    drawn: list[Any] = []
    # In a thread of its own: inputs may be made in a test of Hypothesis, which allows no other.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(run_examples, lambda draw: drawn.append(draw(strategy)), _SAMPLE, 0).result()
    leaves = keras.tree.flatten([getattr(v, "tolist", lambda v=v: v)() for v in drawn])
    return any(isinstance(leaf, float | np.floating) for leaf in leaves)


def _lists(element: st.SearchStrategy, *shape: int) -> st.SearchStrategy:
    for size in reversed(shape):
        element = st.lists(element, min_size=size, max_size=size)
    return element


def _scores(logits: bool) -> st.SearchStrategy[float]:
    if logits:
        return _often((-16, 0, 16), st.integers(-16, 16)).map(lambda k: k / 4)
    return _often((0, 8, 16), st.integers(0, 16)).map(lambda k: k / 16)


def _often(edges: Sequence[int], usual: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    """Every other number is a limit, or the middle: usual thresholds, and ties."""
    return st.one_of(usual, st.sampled_from(edges))


def _eighths(low: float, high: float) -> st.SearchStrategy[float]:
    if not low < high:
        raise ArgumentError(f"`low` must be below `high`. Received: low={low!r}, high={high!r}.")
    return st.integers(int(np.ceil(low * 8)), int(np.floor(high * 8))).map(lambda k: k / 8)


def _probabilities(classes: int) -> st.SearchStrategy[list[float]]:
    """Multiples of 1/16 that add up to 1."""
    cuts = _lists(_often((0, 8, 16), st.integers(0, 16)), classes - 1)
    return cuts.map(lambda c: (np.diff([0, *sorted(c), 16]) / 16).tolist())
