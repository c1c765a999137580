"""Laws of sample weights: a weight is a number of copies.

None applies to a metric whose ``update_state`` takes no ``sample_weight``.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain.testing.case import Case
from kerastrain.testing.case import rows_of
from kerastrain.testing.laws.law import law
from kerastrain.testing.laws.stream import cause_of_split
from kerastrain.testing.streams import joined
from kerastrain.testing.streams import LABEL
from kerastrain.testing.streams import Stream

_ONE_SHAPE = (
    "Bring all to one shape first: `keras.ops.reshape(y_true, keras.ops.shape(y_pred))`, or "
    "`keras.ops.reshape(x, (-1,))` of each."
)
_FLAT_WEIGHTS = (
    "Bring the weights to the shape of the values: `keras.ops.reshape(sample_weight, (-1,))` "
    "where there is one value for each row."
)
_BOTH = "Multiply by the weights above and below the fraction: sum(w * value) / sum(w)."


def _broadcast(case: Case, stream: Stream) -> str:
    """The usual cause of wrong weights, where the shapes allow it."""
    return (
        "values of shape (rows, 1) times weights of shape (rows,) broadcast to (rows, rows), or "
        "the weights are left out of the sum or of the count."
    )


@law("weights")
def weight_one(case: Case) -> None:
    """The weight 1 for every row is as no weight."""
    case.needs_weights()
    stream = case.stream()
    plain, ones = (
        case.updated(stream),
        case.updated(stream.weighted(np.ones(stream.rows, "float32"))),
    )
    case.same(plain.result(), ones.result(), ("without weights", "with weights of 1"),
              lambda: (_broadcast(case, stream), _BOTH))  # fmt: skip


@law("weights")
def integer_weight_is_repetition(case: Case) -> None:
    """A row of weight 2 or 3 is as two or three such rows."""
    case.needs_weights()
    stream = case.stream(least=2)
    weights = case.weights(stream, "integer")
    copies = case.updated(stream.take(np.repeat(np.arange(stream.rows), weights.astype(int))))
    weighted = case.updated(stream.weighted(weights))
    case.same(copies.result(), weighted.result(), ("rows repeated", "rows weighted"),
              lambda: _explain(case, stream))  # fmt: skip


def _explain(case: Case, stream: Stream) -> tuple[str, str]:
    """Ignored, if three rows of very different weights are as three of the weight 1."""
    longer = joined([stream] * 3)
    weights = np.resize([1.0, 5.0, 0.25], longer.rows).astype("float32")
    plain, weighted = case.quiet(longer), case.quiet(longer.weighted(weights))
    if plain is not None and weighted is not None and not case.differ(plain, weighted):
        return "`sample_weight` is ignored.", _BOTH
    return _broadcast(case, stream), _BOTH


@law("weights")
def zero_weight_is_absence(case: Case) -> None:
    """A row of weight 0 is as no row."""
    case.needs_weights()
    stream = case.stream(least=2)
    weights = case.weights(stream, "zero")
    kept = np.flatnonzero(weights)
    without = (
        case.updated(stream.take(kept).weighted(weights[kept])) if len(kept) else case.metric()
    )
    weighted = case.updated(stream.weighted(weights))
    case.same(without.result(), weighted.result(), ("without the rows of weight 0", "with them"),
              lambda: _explain(case, stream))  # fmt: skip


@law("weights")
def all_zero_batch(case: Case) -> None:
    """A batch whose weights are all 0 changes nothing."""
    case.needs_weights()
    stream = case.stream()
    batch = stream.weighted(np.ones(stream.rows, "float32"))
    zero = stream.weighted(np.zeros(stream.rows, "float32"))
    place = case.draw(st.integers(0, 1))
    usual, found = case.updated(batch), case.updated(*([zero, batch], [batch, zero])[place])
    case.same(
        usual.result(), found.result(), ("without that batch", "with it"),
        lambda: ("a weighted mean within the batch is 0 / 0, or its rows are counted in spite "
                 "of their weights.", _BOTH),
    )  # fmt: skip


@law("weights")
def weight_factor(case: Case) -> None:
    """All weights times one factor leave the result, or multiply it by that factor."""
    case.needs_weights()
    stream = case.stream()
    weights, factor = case.weights(stream, "positive"), case.draw(st.sampled_from((2.0, 0.5)))
    usual = case.updated(stream.weighted(weights))
    scaled = case.updated(stream.weighted(weights * np.float32(factor)))
    expected, found = usual.result(), scaled.result()
    times = {path: value * factor for path, value in expected.items()}
    if case.differ(times, found):
        mixed = {p: (times if not case.differ({p: times[p]}, {p: found[p]}) else expected)[p]
                 for p in expected if p in found}  # fmt: skip
        case.same(mixed or expected, found, ("weights as drawn", f"weights times {factor}"),
                  lambda: (_broadcast(case, stream), _BOTH))  # fmt: skip


@law("weights")
def weight_forms(case: Case) -> None:
    """The same weights as integers, floats of 64 bits, a list or a tensor give the same result."""
    case.needs_weights()
    stream = case.stream()
    weights = case.weights(stream, "integer")
    name, form = case.draw(st.sampled_from((
        ("int64", weights.astype("int64")), ("float64", weights.astype("float64")),
        ("list", weights.tolist()), ("tensor", tf.constant(weights)),
    )))  # fmt: skip
    usual, other = case.updated(stream.weighted(weights)), case.metric()
    changes = {"list": "{}.tolist()", "tensor": "tf.constant({})"}
    change = changes.get(name, f"{{}}.astype({name!r})")
    other.program += stream.weighted(weights).code("b.update_state", lambda argument, text: (
        change.format(text) if argument == "sample_weight" else text))  # fmt: skip
    with other.failing_clearly("update_state"):
        stream.weighted(None).call(
            lambda *a, **k: other.metric.update_state(*a, sample_weight=form, **k)
        )
    case.same(usual.result(), other.result(), ("weights as float32", f"weights as {name}"),
              lambda: ("the weights are used without a cast.",
                       "Begin with `sample_weight = keras.ops.cast(sample_weight, self.dtype)`."))  # fmt: skip


@law("weights", strict=True)
def scalar_weight(case: Case) -> None:
    """One number as weight is that weight for every row.

    Keras documents it; ``fit`` never passes it, so this law runs on request.
    """
    case.needs_weights()
    stream = case.stream()
    factor = case.draw(st.sampled_from((2.0, 1.0, 0.5)))
    full = case.updated(stream.weighted(np.full(stream.rows, factor, "float32")))
    scalar = case.updated(stream.weighted(factor).changed())
    case.same(full.result(), scalar.result(), ("a weight for each row", "one number"),
              lambda: ("the number is added to the count once, not once for each row.",
                       "Broadcast it: `keras.ops.broadcast_to(sample_weight, (rows,))`."))  # fmt: skip


@law("weights")
def columns_agree(case: Case) -> None:
    """Targets of shape `(rows,)` give the result of `(rows, 1)`.

    ``model.fit`` passes targets ``(rows,)`` beside outputs ``(rows, 1)``, and numbers of
    classes in both shapes. Applies where the first argument is of one of them.
    """
    stream = case.stream(least=2)
    name, value = next(iter(stream.arguments.items()))
    is_flat = isinstance(value, np.ndarray) and value.ndim == 1 and stream.kind(name) == LABEL
    case.needs(_is_column(value) or is_flat, "the first argument is no column (rows, 1)")
    other = value[:, None] if is_flat else value[:, 0]
    changed = stream.changed(arguments={**stream.arguments, name: other})
    _agree(case, stream, changed, f"{name} of shape {'(rows, 1)' if is_flat else '(rows,)'}",
           "shapes (rows,) and (rows, 1) broadcast to (rows, rows).")  # fmt: skip


@law("weights")
def weight_columns_agree(case: Case) -> None:
    """Weights of shape `(rows, 1)` give the result of `(rows,)`, whatever the arguments' shapes."""
    case.needs_weights()
    stream = case.stream(least=2)
    weights = case.weights(stream, "positive")
    usual, found = case.updated(stream.weighted(weights)), case.metric()
    found.update(stream.weighted(weights[:, None]))
    case.same(usual.result(), found.result(), ("weights (rows,)", "weights (rows, 1)"),
              lambda: (_broadcast(case, stream), _FLAT_WEIGHTS))  # fmt: skip


@law("weights", strict=True)
def flat_rows_agree(case: Case) -> None:
    """Arguments all of shape `(rows,)` give the result of `(rows, 1)`.

    Applies where all arguments are such columns. Keras's means of a last axis break it,
    and few models have outputs ``(rows,)``, so this law runs on request.
    """
    stream = case.stream(least=2)
    case.needs(all(map(_is_column, stream.arguments.values())), "not all arguments are columns")
    flat = stream.changed(arguments={n: v[:, 0] for n, v in stream.arguments.items()})
    _agree(case, stream, flat, "all of shape (rows,)",
           "a mean over the last axis takes the rows for it, and a batch counts as one sample.")  # fmt: skip


def _agree(case: Case, stream: Stream, flat: Stream, of: str, cause: str) -> None:
    """Both streams, cut into two batches at the same place, give the same result."""
    cut = case.draw(st.integers(1, stream.rows - 1))
    usual, found = case.updated(*stream.cut([cut])), case.updated(*flat.cut([cut]))
    case.same(usual.result(), found.result(), ("as drawn", of), lambda: (cause, _ONE_SHAPE))


def _is_column(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 1


@law("weights")
def weighted_split_invariance(case: Case) -> None:
    """Any cut of weighted rows into batches gives the same result."""
    case.needs_weights()
    stream = case.stream(least=2)
    stream = stream.weighted(case.weights(stream))
    batches = case.batches(stream)
    whole, parts = case.updated(stream), case.updated(*batches)
    found = parts.result()
    case.same(whole.result(), found, ("all rows at once", rows_of(batches)),
              lambda: cause_of_split(case, batches, found))  # fmt: skip
