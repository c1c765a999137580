"""Which attributes of Keras's objects are settings: made with the object, and left as they are.

The others are state, caches and what a build makes of the settings. The code of the classes
separates the two, so nothing here goes by the names of attributes.
"""

import dis
import functools
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras

_OF_KERAS = ("keras", "keras_hub")
_LOADS = ("LOAD_ATTR", "LOAD_METHOD")
_CHANGES = (
    *("add", "append", "clear", "discard", "extend", "insert"),
    *("pop", "popitem", "remove", "setdefault", "update"),
)


def settings_of(value: Any) -> dict[str, Any] | None:
    """The attributes that Keras's code sets in a constructor, or in a method for users alone.

    Such a method is ``exclude_from_weight_decay``: nothing in the class calls it. What any other
    method sets too, or changes in place, is left out. Of the attributes that each object of the
    kind has, those are given that are other numbers than in a new one, or functions or objects of
    the user's own.

    Args:
        value: any object, also one of a user's class below one of Keras.

    Returns:
        The values by name; None for models, and for what is of no class of Keras.
    """
    if isinstance(value, keras.Model) or not any(map(_is_of_keras, type(value).__mro__)):
        return None
    kind: type = type(value)
    names, changed_in_place = _settings(kind)
    common, found = _common(value), {}
    for name, item in getattr(value, "__dict__", {}).items():
        if isinstance(item, list | dict | set) and name in changed_in_place:
            continue
        if name in common:
            is_number = item is None or isinstance(item, bool | int | float)
            is_other = is_number and (type(item), item) != (type(common[name]), common[name])
            replaces = hasattr(type(value), name) and callable(item)  # a method, such as build
            if name in names and (is_other or (_is_users(item) and not replaces)):
                found[name] = item
        elif name in names or (isinstance(item, types.FunctionType) and not _is_users(item)):
            found[name] = item
    found.pop("name", None)
    return found


def _is_of_keras(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _OF_KERAS


def _is_users(item: Any) -> bool:
    owner = item if isinstance(item, types.FunctionType) else type(item)
    root = (owner.__module__ or "").partition(".")[0]
    return root not in (*_OF_KERAS, "tensorflow", "numpy", "", *sys.stdlib_module_names)


class _Method(NamedTuple):
    """What the code of a method stores and loads, of any object.

    What a function in it stores, it stores later, whenever that is called.
    """

    name: str
    of: str  # "method", "setter", or "getter": what that sets is a cache, whoever calls it
    stores: frozenset[str]
    stores_later: frozenset[str]
    loads: frozenset[str]
    changes: frozenset[str]


@functools.lru_cache(maxsize=1024)
def _settings(kind: type) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the settings of a class, and those of attributes that it changes in place."""
    methods = [(base, method) for base in kind.__mro__ for method in _methods(base)]
    keras_methods = [method for base, method in methods if _is_of_keras(base)]
    set_once: set[str] = set()
    set_again: set[str] = set()
    changed: set[str] = set()
    for base, method in methods:
        if method.name in ("__init__", "__new__") or _is_for_users(method, keras_methods):
            set_once |= method.stores if _is_of_keras(base) else frozenset()
            set_again |= method.stores_later
        else:
            set_again |= method.stores | method.stores_later
            changed |= method.changes
    return frozenset(set_once - set_again), frozenset(changed)


def _is_for_users(method: _Method, keras_methods: list[_Method]) -> bool:
    """Whether no other method of Keras's classes calls it, or assigns to it."""
    others = [other for other in keras_methods if other.name != method.name]
    if method.of == "getter":
        return False
    if method.of == "setter":
        later = [other for other in others if other.name != "__init__"]
        return not any(method.name in other.stores | other.stores_later for other in later)
    return method.name[0] != "_" and not any(method.name in other.loads for other in others)


@functools.lru_cache(maxsize=1024)
def _methods(kind: type) -> tuple[_Method, ...]:
    if kind is object:
        return ()
    return tuple(
        _method(name, function, of)
        for name, member in vars(kind).items()
        for of, function in _functions(member)
        if isinstance(function, types.FunctionType)
    )


def _functions(member: Any) -> list[tuple[str, Any]]:
    if isinstance(member, property):
        return [("getter", member.fget), ("setter", member.fset), ("setter", member.fdel)]
    member = getattr(member, "__func__", member)
    return [("method", inspect.unwrap(member))] if callable(member) else []


def _method(name: str, function: types.FunctionType, of: str) -> _Method:
    stores: set[str] = set()
    stores_later: set[str] = set()
    loads: set[str] = set()
    changes: set[str] = set()
    for code in _codes(function.__code__):
        loaded, before, is_stored_into = set(), "", False
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("STORE_ATTR", "DELETE_ATTR"):
                (stores if code is function.__code__ else stores_later).add(instruction.argval)
            elif instruction.opname in _LOADS:
                if before and instruction.argval in _CHANGES:
                    changes.add(before)
                loaded.add(instruction.argval)
            is_stored_into |= instruction.opname in ("STORE_SUBSCR", "DELETE_SUBSCR")
            if instruction.opname not in ("CACHE", "EXTENDED_ARG"):
                before = instruction.argval if instruction.opname in _LOADS else ""
        changes |= loaded if is_stored_into else set()
        loads |= set(code.co_names)
    return _Method(name, of, *map(frozenset, (stores, stores_later, loads, changes)))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def constructor_arguments(operation: Any) -> dict[str, Any]:
    """What a layer was constructed with, as far as Keras has noted it.

    Of models it notes the defaults alone, whatever was passed (Keras 3.15.1, models/model.py,
    ``__new__``).
    """
    noted = None if isinstance(operation, keras.Model) else getattr(operation, "_auto_config", None)
    return {} if noted is None else dict(noted.config)


def plain_attributes(value: Any) -> frozenset[str]:
    """The names of the attributes that Keras gives each object of the kind of ``value``."""
    return frozenset(_common(value))


def _common(value: Any) -> dict[str, Any]:
    """The attributes of a new object of the kind of ``value``."""
    for kind in (keras.Model, keras.Layer, keras.optimizers.Optimizer, keras.Loss, keras.Metric):
        if isinstance(value, kind):
            return _attributes_of_new(kind)
    return {}


@functools.lru_cache
def _attributes_of_new(kind: Any) -> dict[str, Any]:
    # With names, so as not to count as the user's.
    if kind is keras.Model:
        inputs = keras.Input((1,), name="plain")
        model = keras.Model(inputs, keras.layers.Identity(name="same")(inputs), name="plain")
        model.compile(keras.optimizers.SGD(name="plain"), "mse")
        return dict.fromkeys((*vars(keras.Layer(name="plain")), *vars(model)))
    if kind is keras.optimizers.Optimizer:
        return dict(vars(kind(learning_rate=0.1, name="plain")))
    return dict(vars(kind(name="plain")))
