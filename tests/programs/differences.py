"""What is known to differ from Keras in the programs, and why.

A difference is listed with a *reference*: a context in which Keras's side of the comparison
runs, and does what kerastrain does in the one point that differs. Under it both must be equal
as everywhere, so nothing else can hide behind a known difference. One that no longer differs
without its reference is to be taken off the list: the comparison says so.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from collections.abc import Iterator

import keras
import tensorflow as tf


@contextlib.contextmanager
def sums_of_embeddings() -> Iterator[None]:
    """Inside, Keras's optimizers get one gradient for each token, the sum of its occurrences'."""
    apply = keras.optimizers.Optimizer.apply

    def summed(self, grads, trainable_variables=None):
        slices = tf.IndexedSlices
        grads = [tf.convert_to_tensor(g) if isinstance(g, slices) else g for g in grads]
        return apply(self, grads, trainable_variables)

    keras.optimizers.Optimizer.apply = summed
    try:
        yield
    finally:
        keras.optimizers.Optimizer.apply = apply


@dataclasses.dataclass(frozen=True)
class Difference:
    """One that is known.

    Attributes:
        reason: why the numbers differ, and which ones are right.
        reference: makes Keras do the same; None where nothing can.
    """

    reason: str
    reference: Callable[[], contextlib.AbstractContextManager] | None = None


_TOKENS = Difference(
    "A token that occurs twice in a batch has one gradient in its embedding, the sum; Keras "
    "squares (Adam) or clips the two one by one.",
    sums_of_embeddings,
)

KNOWN: dict[str, Difference] = {
    "seq2seq": _TOKENS,
    "text_vectorization": _TOKENS,
}

DESERVED: dict[str, dict[str, str]] = {}
"""Warnings that a program deserves: their beginnings, and the reason, by program."""
