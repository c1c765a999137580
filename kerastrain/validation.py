"""Checks of single arguments, one for each kind, so that all of them answer alike.

::

    whole_number("epochs", epochs, least=1)
    one_of("plan", plan, PLANS)
"""

import difflib
import numbers
from collections.abc import Iterable
from typing import Any

from kerastrain.errors import ArgumentError


def whole_number(name: str, value: Any, least: int, beside: str = "", received: Any = None) -> int:
    """The value as an ``int``, if it is a whole number from ``least`` on.

    ``True`` is no number; NumPy's integers are.

    Args:
        name: of the argument.
        value: what was passed.
        least: the smallest that is accepted.
        beside: what else the argument accepts, for the message, such as ``"None"``.
        received: all of what was passed, of which this is a part; None where this is all.

    Raises:
        ArgumentError: it is not.

    Example:
        >>> whole_number("epochs", 3, least=1)
        3
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < least:
        also, shown = f", or {beside}" if beside else "", value if received is None else received
        raise ArgumentError(
            f"`{name}` must be a whole number, {least} or more{also}. Received: {name}={shown!r}."
        )
    return int(value)


def positive_number(name: str, value: Any, beside: str = "None for none") -> None:
    """Refuses what is no real number above 0.

    Raises:
        ArgumentError: as said.
    """
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_real or not value > 0:
        raise ArgumentError(
            f"`{name}` must be a number above 0, or {beside}. Received: {name}={value!r}."
        )


def one_of(name: str, value: Any, options: Iterable[Any], beside: str = "") -> None:
    """Refuses what is none of the options.

    Raises:
        ArgumentError: names them, and the one that may have been meant.
    """
    options = tuple(options)
    if any(type(value) is type(option) and value == option for option in options):
        return
    listed = ", ".join(map(repr, options)) + (f", or {beside}" if beside else "")
    raise ArgumentError(
        f"`{name}` must be one of {listed}. Received: {name}={value!r}.{did_you_mean(value, options)}"
    )


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """A sentence with the known name that is closest; empty where none is close.

    Example:
        >>> did_you_mean("lop", ["step", "loop"])
        " Did you mean 'loop'?"
    """
    names = [one for one in known if isinstance(one, str)]
    close = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) else []
    return f" Did you mean {close[0]!r}?" if close else ""
