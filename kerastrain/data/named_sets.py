"""Data sets as users pass them: several by name, tuples, and a share of one for validation.

::

    named_sets({"clean": (x1, y1), "noisy": (x2, y2)})     # the dict; None for a dict of arrays
    unpack((x, y))                                         # (x, y, None)
    split(x, y, None, 0.2)                                 # the last fifth is for validation
"""

import numbers
from collections.abc import Callable
from typing import Any

import keras

from kerastrain import _keras
from kerastrain.data import checks as data_checks
from kerastrain.data.checks import is_function
from kerastrain.data.checks import is_streamed
from kerastrain.data.source import Source
from kerastrain.data.tables import as_arrays
from kerastrain.errors import ArgumentError
from kerastrain.errors import DataError
from kerastrain.errors import KerastrainError


def named_sets(data: Any) -> dict[str, Any] | None:
    """``data`` if it is a dict of data sets by name, else None.

    A dict of arrays is one ``x``; a dict whose values are ``(x, y)`` tuples or
    data sets is several sets.
    """
    if not isinstance(data, dict) or not data:
        return None
    if all(isinstance(v, tuple) or is_streamed(v) or is_function(v) for v in data.values()):
        return data
    return None


def are_arguments(given: dict[str, Any]) -> bool:
    """Whether the arguments of `Trainer.evaluate` are several data sets by name."""
    is_alone = given.get("y") is None and given.get("sample_weight") is None
    return is_alone and named_sets(given.get("x")) is not None


def unpack(data: Any, name: str = "x") -> tuple[Any, Any, Any]:
    """``(x, y, sample_weight)`` of a data set: a tuple of these, or a source of batches.

    Raises:
        DataError: a tuple of more than three parts, or of none.
    """
    if isinstance(data, tuple | list):
        if not 1 <= len(data) <= 3:
            raise DataError(
                f"`{name}` has {len(data)} parts. Pass (x, y), (x, y, sample_weight) or a "
                "source of batches."
            )
        return keras.utils.unpack_x_y_sample_weight(tuple(data))
    return data, None, None


def split(x: Any, y: Any, sample_weight: Any, validation_split: float) -> tuple[tuple, tuple]:
    """``((x, y, sample_weight), validation)``; the last rows are for validation.

    Raises:
        ArgumentError: the share is not between 0 and 1, leaves a side empty, or
            the data cannot be cut by rows.
    """
    if not isinstance(validation_split, numbers.Real) or not 0 < validation_split < 1:
        raise ArgumentError(
            "`validation_split` must lie between 0 and 1. "
            f"Received: validation_split={validation_split!r}."
        )
    if is_streamed(x) or is_function(x):
        raise ArgumentError(
            "`validation_split` needs arrays that can be cut by rows. Received: x of "
            f"type {type(x).__name__}. Pass `validation_data` instead."
        )
    x, y, sample_weight = as_arrays("x", x, y, sample_weight)
    data_checks.check_lengths("x", x, y, sample_weight)
    try:
        return _keras.split_rows((x, y, sample_weight), validation_split)
    except ValueError as error:
        raise ArgumentError(
            f"validation_split={validation_split!r} cannot be used: {error}"
        ) from None


def validation_sources(
    data: Any, make_source: Callable[..., Source], **options: Any
) -> dict[str, Source]:
    """The validation sets by name; the name of a single one is empty.

    Args:
        data: as passed for ``validation_data``.
        make_source: makes a `Source`.
        **options: of it.
    """
    if data is None:
        return {}
    sources = {}
    for name, one in (named_sets(data) or {"": data}).items():
        where = f"validation_data[{name!r}]" if name else "validation_data"
        sources[name] = make_source(*unpack(one, where), name=where, **options)
    return sources


def results(sets: dict[str, Any], evaluate: Callable[..., Any]) -> dict[str, Any]:
    """The result of each of several data sets by its name.

    Args:
        sets: as `named_sets` returns them.
        evaluate: gives the result of ``x``, ``y`` and ``sample_weight``, passed by name.

    Raises:
        KerastrainError: what ``evaluate`` raises; the message names the data set.
    """
    found = {}
    for name, data in sets.items():
        x, y, sample_weight = unpack(data, f"x[{name!r}]")
        try:
            found[name] = evaluate(x=x, y=y, sample_weight=sample_weight)
        except KerastrainError as error:
            raise type(error)(f"In the data set {name!r}: {error}") from error.__cause__
    return found
