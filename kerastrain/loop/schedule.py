"""What is to come: steps that are left, epochs after which to validate, and Keras's limits of both."""

import itertools
import math
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras

from kerastrain import notices
from kerastrain.data import rows_of
from kerastrain.data import Source
from kerastrain.errors import ArgumentError
from kerastrain.errors import DataError


class Validation(NamedTuple):
    """What a training is validated on.

    Attributes:
        sources: the data sets by name; empty for none.
        frequency: after which epochs, as for ``fit``.
        every: after how many steps, too; None for none.
        validate: runs an evaluation of the set of a name, which it is given as a function of
            the source; with it the callbacks.
    """

    sources: dict[str, Source]
    frequency: int | list[int]
    every: int | None
    validate: Callable[..., dict[str, float]]


class Extent(NamedTuple):
    """How long a training is.

    Attributes:
        epochs: all of them.
        seconds: after which it ends with the step that runs; None for never.
    """

    epochs: range
    seconds: float | None = None


def limited_epochs(epochs: int) -> int:
    """At most ``keras.config.max_epochs()``, of which a warning speaks."""
    most = keras.config.max_epochs()
    if not most or epochs <= most:
        return epochs
    notices.warn(f"The training ends before epoch {most}, by KERAS_MAX_EPOCHS.")
    return most


def limited_batches(data: tuple[Any, ...], options: dict[str, Any]) -> dict[str, Any]:
    """Options of a `Source` with as many batches an epoch as limits allow.

    Args:
        data: x, y, sample_weight.
        options: as the user has them, with ``most``: the most batches, or a share of them, or None.
            ``keras.config.max_steps_per_epoch()`` limits them too, with a warning.

    Returns:
        The options without ``most``; the batches have as many rows as without limits.

    Raises:
        ArgumentError: a share of nobody knows how many.
        DataError: epochs are to begin anew with data that cannot.
    """
    options = dict(options)
    most, of_keras = options.pop("most", None), keras.config.max_steps_per_epoch()
    if not (most or of_keras):
        return options
    steps, name = options.get("steps"), options.get("name", "x")
    if options.get("begins_anew") and isinstance(data[0], Iterator):
        raise DataError(
            f"`{name}` is a generator, which cannot begin anew with each epoch, as overfit_batches does "
            "where several workers train. Pass arrays, a keras.utils.PyDataset or a tf.data.Dataset."
        )
    if not isinstance(data[0], Iterator):  # of which all are limited, as looking would draw
        whole = Source(*data, **options)
        whole.close()
        steps = whole.num_batches
        if whole.arrays is not None and options.get("batch_size") is None:
            given, rows = options.get("steps"), rows_of(whole.arrays)
            options["batch_size"] = math.ceil(rows / given) if given else 32
    if isinstance(most, float):
        if steps is None:
            raise ArgumentError(
                f"A share of the batches of `{name}` was asked for, {most!r}, and nobody knows how many "
                "it has. Pass a number of batches."
            )
        most = max(1, round(most * steps))
    if of_keras and min(steps or math.inf, most or math.inf) > of_keras:
        notices.warn(f"An epoch of `{name}` has {of_keras} batches, by KERAS_MAX_STEPS_PER_EPOCH.")
    least = min(number for number in (steps, most, of_keras) if number)
    return options if least == steps else options | {"steps": least}


class _Held(keras.utils.PyDataset):
    """Batches that have been drawn, again in each pass."""

    def __init__(self, batches: list[Any]):
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


def held(data: tuple[Any, ...], options: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The data and options of a `Source` that has the first batches only, the same in each epoch.

    Those of arrays are so as they are. Of any other source they are drawn once, as another pass may have
    others.

    Args:
        data, options: as of `limited_batches`, with ``begins_anew``.
    """
    drawn = {key: value for key, value in options.items() if key not in ("most", "begins_anew")}
    source = Source(*data, **drawn)
    try:
        if source.arrays is not None or source.has_share:
            return data, options
        batches = list(itertools.islice(source.epoch(), options["most"]))
    finally:
        source.close()
    kept = {key: value for key, value in options.items() if key in ("name", "seed", "share")}
    return (_Held(batches), None, None), kept


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
