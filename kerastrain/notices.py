"""Warnings that name the line of the user's own code.

::

    warn("The best is not kept.")        # at the line that called `fit`
"""

import contextlib
import inspect
import sys
import warnings
from collections.abc import Iterator
from types import FrameType

# The roots of modules whose source the user does not change.
_OTHERS = ("keras", "keras_hub", "kerastrain", "tensorflow", "numpy", "builtins", "")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warns, with the line of the user's code that is being run.

    In a thread that runs none it is the caller's. Nothing while it is `silenced`.
    """
    if _SILENCED:
        return
    here = inspect.currentframe()
    frame, level = here and here.f_back, 2
    while frame is not None and is_passed_over(frame.f_globals.get("__name__", "")):
        level += not _is_of_imports(frame)
        frame = frame.f_back
    warnings.warn(message, category, stacklevel=2 if frame is None else level)


def _is_of_imports(frame: FrameType) -> bool:
    """Whether Python imports something here: `warnings` does not count such a frame."""
    file = frame.f_code.co_filename
    return "importlib" in file and "_bootstrap" in file


@contextlib.contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """Inside, `warn` does nothing: of several workers, one says what all would say."""
    if silent:
        _SILENCED.append(None)
    try:
        yield
    finally:
        if silent:
            _SILENCED.pop()


_SILENCED: list[None] = []


def is_passed_over(module: str) -> bool:
    """Whether a module of this name is not the user's own: of others, or of Python."""
    return is_of_others(module) or module.partition(".")[0] in sys.stdlib_module_names


def is_of_others(module: str) -> bool:
    """Whether a module of this name is not the user's own; the examples are."""
    return module.partition(".")[0] in _OTHERS and not module.startswith("kerastrain.examples")
