"""What objects and functions hold in Python, as digests that detect whether it has changed.

::

    before = digest(layer.history)
    ...
    digest(layer.history) != before       # a list, an array, a generator, an object was changed
    held_by(function)                     # {"name": value} of its closure, defaults and globals

Variables and tables of Keras and TensorFlow are no part of it. Nor is what belongs to Keras,
TensorFlow and kerastrain themselves, or holds files and locks, such as a progress bar. A digest
looks at a bounded number of parts; of long containers at both ends, of large arrays at a sample.
"""

import argparse
import collections
import dis
import enum
import functools
import inspect
import threading
import types
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerastrain import notices

SCALARS = (type(None), bool, int, float, complex, str, bytes, np.generic, enum.Enum, tf.DType)
# What holds nothing that changes.
NO_STATE = (types.ModuleType, types.BuiltinFunctionType, types.CodeType, type)
# Objects of Python's own that are there to hold what others put into them.
HOLDERS = (
    *(types.SimpleNamespace, argparse.Namespace, threading.local),
    *(collections.UserDict, collections.UserList),
)


def held_by(function: Any) -> dict[str, Any]:
    """What a Python function of the user's own holds between its calls.

    Args:
        function: with or without decorators, a method or a ``functools.partial`` too.

    Returns:
        The cells of its closure, its defaults, the globals that its code reads, and what it is
        given before it is called (`given_to`), by name. Empty for other functions.
    """
    if not is_users_function(function):
        return {}
    found, function = given_to(function), plain_function(function)
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        if name != "__class__" and _is_assigned(cell):
            found[name] = cell.cell_contents
    defaults = function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(defaults) : code.co_argcount]
    found |= dict(zip(names, defaults, strict=True)) | (function.__kwdefaults__ or {})
    found |= globals_of(function)
    return {name: value for name, value in found.items() if not isinstance(value, NO_STATE)}


def globals_of(function: types.FunctionType) -> dict[str, Any]:
    """The globals that a Python function's code reads, by name, as they are now."""
    scope = function.__globals__
    return {name: scope[name] for name in sorted(_names(function.__code__)) if name in scope}


def given_to(function: Any) -> dict[str, Any]:
    """The object that a method is bound to, and the arguments of ``functools.partial``, by name."""
    found: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        found |= {
            f"argument {i}": value for i, value in enumerate(function.args)
        } | function.keywords
        function = function.func
    if inspect.ismethod(function):
        found["self"] = function.__self__
    return found


def plain_function(function: Any) -> types.FunctionType | None:
    """The Python function below methods, decorators, ``partial`` and ``tf.function``, or None."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "python_function", function)
    function = inspect.unwrap(function.__func__ if inspect.ismethod(function) else function)
    return function if isinstance(function, types.FunctionType) else None


def is_users_function(value: Any) -> bool:
    """Whether something is a Python function of the user's own, as it is or decorated."""
    function = plain_function(value)
    return function is not None and not notices.is_passed_over(function.__module__ or "")


def name_of(function: Any) -> str:
    """What messages call a function, or an object that is called."""
    qualified = getattr(plain_function(function), "__qualname__", type(function).__name__)
    return qualified.split("<locals>.")[-1]


def methods_of(kind: type) -> Iterator[tuple[str, types.FunctionType]]:
    """The methods of the user's own classes that a class is, or derives from, by their names."""
    for owner in kind.__mro__:
        if notices.is_passed_over(owner.__module__):
            continue
        for value in vars(owner).values():
            value = value.fget if isinstance(value, property) else value
            value = getattr(value, "__func__", value)
            function = plain_function(value) if callable(value) else None
            if function is not None:
                yield name_of(function), function


def reached(
    functions: Iterable[tuple[str, Any]], seen: set[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """The user's functions among these, and those that they hold, by their names, each once.

    Args:
        functions: by name.
        seen: the identities of what is left out; those that are found are added.
    """
    waiting, seen = [*functions], set() if seen is None else seen
    while waiting:
        name, function = waiting.pop(0)
        if not is_users_function(function):
            continue
        # One function may be bound to several objects, and have several arguments given.
        known = id(plain_function(function)) if not given_to(function) else id(function)
        if known in seen:
            continue
        seen.add(known)
        yield name, function
        held = held_by(function).values()
        waiting += [(name_of(value), value) for value in held if callable(value)]


def functions_of(*objects: Any) -> Iterator[tuple[str, Any]]:
    """The user's functions that objects have as attributes or methods, and what `reached` adds."""
    for _, name, function in functions_by_owner({str(n): one for n, one in enumerate(objects)}):
        yield name, function


def functions_by_owner(objects: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The same of objects by name, each function once: ``(name of the object, its own, function)``.

    The methods of a class are those of the first of its objects.
    """
    seen: set[int] = set()
    for owner, one in objects.items():
        kind, functions = type(one), []
        for value in list(getattr(one, "__dict__", {}).values()):
            if callable(value) and getattr(value, "__self__", None) is not one:
                functions.append((name_of(value), value))
        if id(kind) not in seen:
            seen.add(id(kind))
            functions += methods_of(kind)
        for name, function in reached(functions, seen):
            yield owner, name, function


def held_by_functions(objects: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What objects' functions hold, by the names of the objects, the functions and their own."""
    for owner, name, function in functions_by_owner(objects):
        for key, value in held_by(function).items():
            yield f"{owner}/{name}/{key}", value


def named_items(container: dict | list | tuple | collections.deque) -> Iterator[tuple[Any, Any]]:
    """The items by index or key, as they are called in each process.

    The text of a key that is an object may hold an address, or a number that another process counts
    otherwise: its item goes by the position.
    """
    # As a list at once: another thread may change it.
    if not isinstance(container, dict):
        return enumerate(list(container))
    return (
        (key if _is_plain_key(key) else position, item)
        for position, (key, item) in enumerate(list(container.items()))
    )


def _is_plain_key(key: Any) -> bool:
    if isinstance(key, tuple):
        return all(map(_is_plain_key, key))
    return isinstance(key, (*SCALARS, type))


def class_attributes(kind: type) -> Iterator[tuple[str, Any]]:
    """What the user's own classes hold that is no method, by name."""
    for owner in kind.__mro__:
        if notices.is_passed_over(owner.__module__):
            continue
        for name, value in vars(owner).items():
            is_data = isinstance(value, (*SCALARS, list, dict, set, np.ndarray))
            if is_data and not name.startswith("_"):
                yield f"{owner.__name__}.{name}", value


def _is_assigned(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is cell.cell_contents
    except ValueError:
        return False


@functools.lru_cache(4096)
def _names(code: types.CodeType) -> frozenset[str]:
    """The globals that a function's code may read, its inner functions' too."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    read = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    return frozenset(read).union(*map(_names, inner))
