"""Metrics, inputs and references by name, for the command line.

::

    load("my_package.metrics:F1")                 # the object
    inputs_named("multiclass_classification")     # a strategy of streams
"""

import importlib
import os
import sys
from typing import Any

from kerastrain import testing
from kerastrain.errors import ArgumentError

# Those that need no arguments.
INPUTS = (
    "binary_classification", "multiclass_classification", "multilabel_classification",
    "regression", "ranking", "sequences", "segmentation",
)  # fmt: skip


def load(name: str) -> Any:
    """The object ``MODULE:NAME``; modules of the working directory are found too.

    Raises:
        ArgumentError: there is no such module, or no such name in it.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ArgumentError(
            f"Expected MODULE:NAME, for example keras.metrics:AUC. Received: {name!r}."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that it imports is missing
        raise ArgumentError(
            f"There is no module {module!r} (in {name!r}). Run in the directory that holds it, "
            "or install it."
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ArgumentError(f"The module {module!r} has no {attribute!r} (in {name!r}).")
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
            "strategy of your own."
        )
    return getattr(testing, name)()
