"""Errors of Keras's, quoted in kerastrain's own messages.

::

    except ValueError as error:
        raise ShapeError(f"... Keras says: {reason_of(error)}") from users_cause(error)

A traceback then ends at the user's line and the message. Where code of the user's own has raised the
error, it stays the cause, for the line in it.
"""

import functools
import re
import traceback
import types
from collections.abc import Callable
from typing import Any
from typing import TypeVar

import keras

from kerastrain import notices
from kerastrain.errors import KerastrainError
from kerastrain.renaming import with_suggestions

Function = TypeVar("Function", bound=Callable[..., Any])

# What terminals show as colours, and what Keras adds to errors of a layer's call.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ARGUMENTS = re.compile(r"\s*Arguments received by [^\n]*:.*", re.DOTALL)


def reason_of(error: BaseException) -> str:
    """What an error says, without colours, and without a list of what a call was given.

    Example:
        >>> reason_of(ValueError("It is \\x1b[1mbad\\x1b[0m. Arguments received by f(): x=1"))
        'It is bad.'
    """
    return _ARGUMENTS.sub("", _COLOURS.sub("", str(error))).strip()


def users_cause(error: BaseException) -> BaseException | None:
    """The error where code of the user's own has raised it; else None: the message says all."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if not notices.is_passed_over(frame.f_globals.get("__name__", "")):
            return error
    return None


def short_tracebacks(function: Function) -> Function:
    """Leaves frames of kerastrain, Keras and TensorFlow out of the tracebacks of kerastrain's errors.

    They are there after ``keras.config.disable_traceback_filtering()``, as Keras's own are.
    """

    suggesting = with_suggestions(function)

    @functools.wraps(function)
    def shortened(*args: Any, **kwargs: Any) -> Any:
        try:
            return suggesting(*args, **kwargs)
        except KerastrainError as error:
            if not keras.config.is_traceback_filtering_enabled():
                raise
            raise error.with_traceback(_users_frames(error.__traceback__)) from error.__cause__

    return shortened  # type: ignore[return-value]


def _users_frames(trace: types.TracebackType | None) -> types.TracebackType | None:
    if trace is None:
        return None
    rest = _users_frames(trace.tb_next)
    if notices.is_passed_over(trace.tb_frame.f_globals.get("__name__", "")):
        return rest
    return types.TracebackType(rest, trace.tb_frame, trace.tb_lasti, trace.tb_lineno)
