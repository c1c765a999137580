"""What objects and functions hold in Python, as digests that tell whether it has changed.

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
import hashlib
import inspect
import io
import operator
import pickle
import random
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices

# How deep, and at how many parts in all, a digest looks.
_DEPTH, _PARTS = 12, 20_000
# Of containers that are longer, so many items at each end; of arrays with more bytes, a sample
# of so many elements; and of more than the last, in bytes, nothing.
_ENDS, _LARGE, _SAMPLE, _HUGE = 2000, 2**20, 2**17, 2**30

# Objects of Python's own that are there to hold what others put into them.
HOLDERS = (
    *(types.SimpleNamespace, argparse.Namespace, threading.local),
    *(collections.UserDict, collections.UserList),
)
_SCALARS = (type(None), bool, int, float, complex, str, bytes, np.generic, enum.Enum, tf.DType)
_NO_STATE = (types.ModuleType, types.BuiltinFunctionType, types.CodeType, type)
_VARIABLES = (keras.Variable, tf.Variable)
_OPAQUE = (io.IOBase, threading.Thread, threading.Event, type(threading.Lock()), types.FrameType)
# Whose state is saved with each training.
_SAVED = (np.random.get_state.__self__, random.random.__self__)
_OF_CALLBACKS = frozenset({"_model", "model", "params", "validation_data", "monitor_op"})


class _Opaque(Exception):
    """An object holds what has no state that can be told."""


def digest(value: Any, leave_out: Callable[[Any], bool] = lambda _: False) -> Any:
    """What tells a value from others, to compare within one process.

    Args:
        value: anything.
        leave_out: whether an object within is not looked into.
    """
    if isinstance(value, _SCALARS):
        return repr(value)
    found = _Digest(leave_out)
    try:
        found.add(value, 0)
    except _Opaque:
        return id(value)
    return found.hash.digest()


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
    return {name: value for name, value in found.items() if not isinstance(value, _NO_STATE)}


def globals_of(function: types.FunctionType) -> dict[str, Any]:
    """The globals that a Python function's code reads, by name, as they are now."""
    scope = function.__globals__
    return {name: scope[name] for name in sorted(_names(function.__code__)) if name in scope}


def given_to(function: Any) -> dict[str, Any]:
    """The object that a method is bound to, and the arguments of ``functools.partial``, by name."""
    found: dict[str, Any] = {}
    while isinstance(function, functools.partial):
        found |= {f"argument {i}": value for i, value in enumerate(function.args)} | function.keywords
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


def _is_plain_key(key):
    if isinstance(key, tuple):
        return all(map(_is_plain_key, key))
    return isinstance(key, (*_SCALARS, type))


def class_attributes(kind: type) -> Iterator[tuple[str, Any]]:
    """What the user's own classes hold that is no method, by name."""
    for owner in kind.__mro__:
        if notices.is_passed_over(owner.__module__):
            continue
        for name, value in vars(owner).items():
            is_data = isinstance(value, (*_SCALARS, list, dict, set, np.ndarray))
            if is_data and not name.startswith("_"):
                yield f"{owner.__name__}.{name}", value


def _is_assigned(cell):
    try:
        return cell.cell_contents is cell.cell_contents
    except ValueError:
        return False


@functools.lru_cache(4096)
def _names(code):
    """The globals that a function's code may read, its inner functions' too."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    read = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return frozenset(read).union(*map(_names, inner))


class _Digest:
    """Takes in values part by part; objects that hold one another end no way."""

    def __init__(self, leave_out):
        self.hash, self._leave_out = hashlib.blake2b(digest_size=16), leave_out
        self._seen: dict[int, Any] = {}  # kept, so that no other gets its `id`
        self._left = _PARTS

    def add(self, value, depth):
        self._left -= 1
        if isinstance(value, _SCALARS):
            self._note(type(value).__name__, repr(value))
        elif isinstance(value, (*_NO_STATE, *_VARIABLES)) or any(value is one for one in _SAVED):
            self._note("no state")
        elif isinstance(value, _OPAQUE):
            raise _Opaque
        elif id(value) in self._seen or depth > _DEPTH or self._left < 0:
            self._note("seen")
        else:
            self._seen[id(value)] = value
            self._note(type(value).__name__)
            self._add_parts(value, depth + 1)

    def _note(self, *parts):
        for part in parts:
            self.hash.update(part if isinstance(part, bytes) else part.encode(errors="replace"))
            self.hash.update(b";")

    def _add_parts(self, value, depth):
        if isinstance(value, np.ndarray | tf.Tensor):
            return self._add_array(value, depth)
        if isinstance(value, dict | types.MappingProxyType):
            parts = [part for item in _ends(value.items()) for part in item]
            return self._add_items(parts, value, depth)
        if isinstance(value, list | tuple | collections.deque):
            return self._add_items(_ends(value), value, depth)
        if isinstance(value, set | frozenset):
            return self._note(*sorted(repr(digest(item)) for item in _ends(value)), str(len(value)))
        if callable(value) and not hasattr(value, "get_config"):
            if not is_users_function(value):
                self._add_items(given_to(value).values(), (), depth)
            if plain_function(value) is not None:
                return self._add_items(held_by(value).values(), (), depth)
        return self._add_object(value, depth)

    def _add_items(self, items, whole, depth):
        self._note(str(len(whole)))
        for item in items:
            self.add(item, depth)

    def _add_array(self, value, depth):
        if isinstance(value, tf.Tensor):
            if not hasattr(value, "numpy"):  # of a graph
                return None
            value = value.numpy()
        value = np.asarray(value)
        self._note(value.dtype.str, str(value.shape))
        if value.dtype == object:
            return self._add_items(_ends(value.reshape(-1).tolist()), value.reshape(-1), depth)
        if value.nbytes <= _LARGE:
            return self._note(value.tobytes())
        if value.nbytes > _HUGE or isinstance(value, np.memmap) or not value.flags.c_contiguous:
            return self._note(str(id(value)))
        return self._note(value.reshape(-1)[:: -(-value.size // _SAMPLE)].tobytes())

    def _add_object(self, value, depth):
        state = _random_state(value)
        if state is not None:
            return self.add(state, depth)
        if isinstance(value, types.GeneratorType):
            frame = value.gi_frame
            state = [] if frame is None else [frame.f_lasti, frame.f_locals, value.gi_yieldfrom]
            return self._add_items(state, (), depth)
        if hasattr(value, "__next__"):
            return self._note(str(operator.length_hint(value, -1)), repr(value))
        attributes = _attributes(value)
        if self._leave_out(value):
            return self._note("left out")
        if attributes is None:
            return self._note("a library's")
        is_library = notices.is_passed_over(type(value).__module__)
        if not attributes or is_library and not isinstance(value, HOLDERS):
            return self._note(_pickled(value))
        before, self.hash = self.hash, self.hash.copy()
        try:
            parts = [part for item in attributes.items() for part in item]
            return self._add_items(parts, (), depth)
        except _Opaque:
            self.hash = before
            return self._note("opaque")


def _ends(items):
    """All items, or of many those at both ends."""
    if len(items) <= 2 * _ENDS:
        return list(items)
    items = list(items)
    return items[:_ENDS] + items[-_ENDS:]


def _random_state(value):
    """The state of a random generator of Python's or NumPy's, or None."""
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.BitGenerator):
        return value.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    return value.getstate() if isinstance(value, random.Random) else None


def _attributes(value) -> dict[str, Any] | None:
    """What an object holds; None where that is a library's own matter."""
    held = dict(getattr(value, "__dict__", None) or {})
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and not name.startswith("__"):
                held[name] = getattr(value, name)
    if isinstance(value, keras.callbacks.Callback):
        return {name: part for name, part in held.items() if name not in _OF_CALLBACKS}
    if isinstance(value, keras.Layer | keras.Operation) or hasattr(value, "get_config"):
        if _keras.is_of_keras(type(value)):
            return None
        base = _keras.base_attributes(value)
        return {n: part for n, part in held.items() if n not in base and not n.startswith("_self_")}
    is_data = notices.is_of_others(type(value).__module__) or _is_data(type(value))
    return None if is_data else held


def _is_data(kind):
    return kind.__module__.partition(".")[0] == "pandas"


class _Bounded(io.BytesIO):
    """Takes no more than `_LARGE` bytes."""

    def write(self, data):
        if self.tell() + len(data) > _LARGE:
            raise OverflowError
        return super().write(data)


def _pickled(value):
    """What `pickle` makes of an object; the identity of what is large, or cannot be pickled."""
    try:
        pickle.Pickler(file := _Bounded(), pickle.HIGHEST_PROTOCOL).dump(value)
        return file.getvalue()
    except Exception:  # whatever an object of one's own may raise
        return str(id(value))
