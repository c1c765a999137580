"""What is to come: steps that are left, and epochs after which to validate."""

from collections.abc import Iterable

from kerastrain.data import Source


def left_of(sources: Source | Iterable[Source], epochs: int, done: int = 0) -> int | None:
    """The steps that are left; None where that is not known.

    Args:
        sources: one data set, or several of which each epoch takes all.
        epochs: to come, with the one that runs.
        done: steps of the one that runs.
    """
    counts = [part.num_batches for part in ([sources] if isinstance(sources, Source) else sources)]
    known = [count for count in counts if count is not None]
    return sum(known) * epochs - done if len(known) == len(counts) else None


def is_due(epoch: int, validation_freq: int | list[int]) -> bool:
    """Whether to validate after ``epoch``, which is counted from 0."""
    if isinstance(validation_freq, list | tuple | set):
        return epoch + 1 in validation_freq
    return (epoch + 1) % validation_freq == 0
