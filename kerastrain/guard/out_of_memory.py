"""Smaller parts of a batch for steps that memory is too small for."""

from collections.abc import Callable

from kerastrain import notices
from kerastrain.data import Chunk
from kerastrain.guard import diagnosis
from kerastrain.step import rows as rows_lib


class Cuts:
    """Into how many micro-batches steps cut their batches, and twice as many where that fails.

    Args:
        cut: sets the number of micro-batches from now on.

    Attributes:
        micro_batches: how many now.
        allowed: whether the training may cut further.
    """

    def __init__(self, cut: Callable[[int], None] | None):
        self._cut = cut
        self.micro_batches, self.allowed = 1, False

    def cut_into(self, number: int) -> None:
        """Cuts batches into this number of micro-batches."""
        if self._cut is not None and number != self.micro_batches:
            self._cut(number)
            self.micro_batches = number

    def cut_further(self, chunk: Chunk, error: Exception, epoch: int, step: int) -> None:
        """Cuts into twice as many, after a step that memory was too small for.

        Args:
            chunk: what was to be run.
            error: what it raised.
            epoch, step: where, counted from 0.

        Raises:
            Exception: ``error``, where there are no rows for that.
        """
        rows, number = rows_lib.known_rows(chunk.batch()), 2 * self.micro_batches
        if number > rows:
            raise error
        self.cut_into(number)
        notices.warn(
            f"Memory is too small for step {step + 1} of epoch {epoch + 1}: "
            f"{diagnosis.reason_of(error)}. From it on, each batch is cut into {number} "
            "micro-batches; no step is lost."
        )
