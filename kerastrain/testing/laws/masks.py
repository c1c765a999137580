"""Laws of masks: what a Keras mask on the predictions leaves out counts for nothing.

Apply to inputs with time steps (`sequences`). A metric that is never used with
masked outputs may skip them.
"""

import numpy as np

from kerastrain.testing import inputs as inputs_lib
from kerastrain.testing.case import Case
from kerastrain.testing.laws.law import law
from kerastrain.testing.streams import Stream

_FIX = (
    "Multiply the mask of `y_pred` (its attribute `_keras_mask`) into the weights, or pass a "
    "function of values per row to `keras.metrics.MeanMetricWrapper`, which does."
)


def _stream(case: Case, least: int = 1) -> Stream:
    stream = case.stream(least)
    case.needs(stream.steps, "the inputs have no time steps; use `sequences(...)`")
    return stream


def _masked(case: Case, stream: Stream) -> Stream:
    assert stream.steps is not None  # `_stream` needs them
    return stream.changed(mask=case.draw(inputs_lib.masks((stream.rows, stream.steps))))


def _other_values(stream: Stream) -> Stream:
    """The same rows, with other values where the mask is False."""
    mask = stream.mask
    assert mask is not None  # `_masked` has drawn it

    def change(kind: str, array: np.ndarray) -> np.ndarray:
        hidden = ~mask.reshape(mask.shape + (1,) * (array.ndim - 2))
        return np.where(hidden, np.flip(array[::-1], axis=1), array).astype(array.dtype)

    return stream.mapped(change)


@law("masks")
def mask_leaves_out(case: Case) -> None:
    """What stands at masked time steps does not matter."""
    stream = _masked(case, _stream(case))
    usual, other = case.updated(stream), case.updated(_other_values(stream))
    case.same(usual.result(), other.result(), ("values as drawn", "others where masked"),
              lambda: ("the mask is ignored.", _FIX))  # fmt: skip


@law("masks")
def masked_row_is_absence(case: Case) -> None:
    """A row whose time steps are all masked is as no row, and a mask of True as no mask."""
    stream = _stream(case, least=2)
    assert stream.steps is not None  # `_stream` needs them
    full = np.ones((stream.rows, stream.steps), bool)
    plain, all_true = case.updated(stream), case.updated(stream.changed(mask=full))
    case.same(plain.result(), all_true.result(), ("without a mask", "a mask of True"),
              lambda: ("the mask counts for something else than rows.", _FIX))  # fmt: skip
    rows = case.draw(inputs_lib.masks((stream.rows,)))
    masked = stream.changed(mask=np.repeat(rows[:, None], stream.steps, axis=1))
    without, found = case.updated(stream.take(rows)), case.updated(masked)
    case.same(without.result(), found.result(), ("without these rows", "rows masked"),
              lambda: ("masked rows are counted.", _FIX))  # fmt: skip


@law("masks")
def mask_with_weights(case: Case) -> None:
    """With weights too, what stands at masked time steps does not matter."""
    case.needs_weights()
    stream = _masked(case, _stream(case))
    stream = stream.weighted(case.weights(stream, "positive"))
    usual, other = case.updated(stream), case.updated(_other_values(stream))
    case.same(usual.result(), other.result(), ("values as drawn", "others where masked"),
              lambda: ("given weights take the place of the mask.", _FIX))  # fmt: skip
