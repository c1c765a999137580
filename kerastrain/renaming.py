"""Old names of arguments, which work for one minor version more, with a warning.

::

    @renamed_arguments(strict="lint")
    def compile(self, lint="warn"): ...

    @renamed_fields(most="max_skipped")
    @dataclasses.dataclass(frozen=True)
    class Guard: ...
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any
from typing import TypeVar

from kerastrain import notices
from kerastrain.validation import did_you_mean

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type)

# Gives the new value of what was passed by an old name.
Convert = Callable[[Any], Any]


def renamed_arguments(
    convert: dict[str, Convert] | None = None, **names: str
) -> Callable[[Function], Function]:
    """Lets a function take keyword arguments by their old names.

    Args:
        convert: by the old name, how its value becomes one of the new argument.
        **names: the new name of each old one.

    Raises:
        TypeError: when called with both names of an argument.
    """
    converted = convert or {}

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def with_old_names(*args: Any, **kwargs: Any) -> Any:
            for old in [name for name in kwargs if name in names]:
                new, value = names[old], kwargs.pop(old)
                if new in kwargs:
                    raise TypeError(f"`{new}` is given twice, once by its old name `{old}`.")
                warn_of_old_name(f"`{old}`", f"`{new}`")
                kwargs[new] = converted.get(old, _same)(value)
            return function(*args, **kwargs)

        with_old_names.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return with_old_names  # type: ignore[return-value]

    return decorate


def renamed_fields(
    convert: dict[str, Convert] | None = None, **names: str
) -> Callable[[Class], Class]:
    """The same for the constructor of a dataclass; old names can be read too."""

    def decorate(kind: Class) -> Class:
        takes_old = renamed_arguments(convert, **names)
        kind.__init__ = with_suggestions(takes_old(kind.__init__))  # type: ignore[misc]
        for old, new in names.items():
            setattr(kind, old, property(_reading(old, new)))
        return kind

    return decorate


def with_suggestions(function: Function) -> Function:
    """Lets a call with an argument that there is not say which one may have been meant."""

    @functools.wraps(function)
    def suggesting(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            unknown = re.search(r"got an unexpected keyword argument '(\w+)'", str(error))
            known = inspect.signature(function).parameters
            if unknown and unknown[1] in kwargs and unknown[1] not in known:
                hint = did_you_mean(unknown[1], known) or " See its docstring for the names."
                raise TypeError(f"{error}.{hint}") from None
            if re.search(r"takes .* positional arguments? .* given", str(error)):
                raise TypeError(f"{error}. Pass the others by name.") from None
            raise

    return suggesting  # type: ignore[return-value]


def warn_of_old_name(old: str, new: str) -> None:
    """Warns, at the user's line, that a name has another one now."""
    notices.warn(
        f"{old} is now {new}; the old name will not work in the next minor version.",
        DeprecationWarning,
    )


def _reading(old: str, new: str) -> Callable[[Any], Any]:
    def read(self: Any) -> Any:
        warn_of_old_name(f"`{old}`", f"`{new}`")
        return getattr(self, new)

    return read


def _same(value: Any) -> Any:
    return value
