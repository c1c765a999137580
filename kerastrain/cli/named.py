"""Models, metrics, inputs and references by name, for the command line.

::

    load("my_package.metrics:F1")                 # the object
    load("experiments/net.py:network")            # of a file
    inputs_named("multiclass_classification")     # a strategy of streams

`check` finds what is wrong with a name before anything is imported, so without TensorFlow.
"""

import glob
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from kerastrain.errors import ArgumentError
from kerastrain.validation import did_you_mean

# Those that need no arguments.
INPUTS = (
    "binary_classification", "multiclass_classification", "multilabel_classification",
    "regression", "ranking", "sequences", "segmentation",
)  # fmt: skip


def check(name: str) -> None:
    """Refuses what `load` cannot find, as far as that shows without running any of its code.

    Raises:
        ArgumentError: not ``MODULE:NAME`` or ``FILE.py:NAME``, no such file or module, or a file
            that is no Python.

    Example:
        >>> check("keras.metrics:AUC")
    """
    module, attribute = _parts(name)
    if _is_file(module):
        _check_file(module, name)
        return
    _look_in_working_directory()
    # Only the top package: to look for a module inside a package imports the package.
    top = module.partition(".")[0]
    if not top or (top not in sys.modules and importlib.util.find_spec(top) is None):
        raise _no_module(module, name)


def load(name: str) -> Any:
    """The object ``MODULE:NAME`` or ``FILE.py:NAME``.

    Modules of the working directory are found too, and by a file those beside it.

    Raises:
        ArgumentError: there is no such module or file, or no such name in it.

    Example:
        >>> load("keras.metrics:AUC").__name__
        'AUC'
    """
    module, attribute = _parts(name)
    is_file = _is_file(module)
    found: Any = _from_file(module, name) if is_file else _imported(module, name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            kind = "file" if is_file else "module"
            raise ArgumentError(
                f"The {kind} {module!r} has no {attribute!r} (in {name!r})."
                f"{did_you_mean(part, dir(found)) or ' Define it there, or pass another name.'}"
            )
        found = getattr(found, part)
    return found


def inputs_named(name: str) -> Any:
    """A strategy of streams: one of `INPUTS`, or ``MODULE:NAME`` of your own.

    Raises:
        ArgumentError: no such inputs.
    """
    if ":" in name:
        return load(name)
    if name not in INPUTS:
        raise ArgumentError(
            f"Unknown inputs {name!r}. Use one of {', '.join(INPUTS)}, or MODULE:NAME of a "
            f"strategy of your own.{did_you_mean(name, INPUTS)}"
        )
    from kerastrain import testing  # needs TensorFlow, which `check` goes without

    return getattr(testing, name)()


def _parts(name: str) -> tuple[str, str]:
    module, colon, attribute = name.rpartition(":")
    if not colon or not module or not all(attribute.split(".")):
        raise ArgumentError(
            "Expected MODULE:NAME or FILE.py:NAME, for example keras.metrics:AUC or net.py:network. "
            f"Received: {name!r}."
        )
    return module, attribute


def _is_file(module: str) -> bool:
    return module.endswith(".py") or os.sep in module


def _look_in_working_directory() -> None:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _imported(module: str, name: str) -> ModuleType:
    _look_in_working_directory()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that it imports is missing
        raise _no_module(module, name) from None


def _no_module(module: str, name: str) -> ArgumentError:
    beside = [Path(path).stem for path in glob.glob("*.py")]
    return ArgumentError(
        f"There is no module {module!r} (in {name!r}). Run in the directory that holds it, "
        f"or install it.{did_you_mean(module, beside)}"
    )


def _check_file(file: str, name: str) -> None:
    if not os.path.isfile(file):
        beside = glob.glob(os.path.join(glob.escape(os.path.dirname(file)), "*.py"))
        raise ArgumentError(
            f"There is no file {file!r} (in {name!r}). Pass the path of a Python file."
            f"{did_you_mean(file, beside)}"
        )
    try:
        compile(Path(file).read_bytes(), file, "exec")
    except OSError as error:
        raise ArgumentError(f"The file {file!r} cannot be read: {error.strerror}.") from None
    except (SyntaxError, ValueError) as error:  # a ValueError for bytes of zero
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        what = error.msg if isinstance(error, SyntaxError) else error
        raise ArgumentError(f"The file {file!r} is no Python{where}: {what}. Correct it.") from None


def _from_file(file: str, name: str) -> ModuleType:
    """The module of a file, by the name that it would have where its directory is imported from.

    So a saved model names its classes as a program beside the file would. Where another module
    has that name already, the path makes one of its own.
    """
    _check_file(file, name)
    path = os.path.realpath(file)
    stem = Path(path).stem
    for known in (stem, f"{stem} of {path}"):
        there = sys.modules.get(known)
        if there is not None and os.path.realpath(getattr(there, "__file__", None) or "") == path:
            return there
    if stem in sys.modules:
        stem = f"{stem} of {path}"
    spec = importlib.util.spec_from_file_location(stem, path)
    if spec is None or spec.loader is None:
        raise ArgumentError(f"The name of the file {file!r} must end in .py (in {name!r}).")
    module = importlib.util.module_from_spec(spec)
    if os.path.dirname(path) not in sys.path:  # what it imports may lie beside it
        sys.path.insert(0, os.path.dirname(path))
    sys.modules[stem] = module  # a class looks for its module there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[stem]
        raise
    return module
