"""Digests of what objects hold in Python, to detect whether it has changed.

before = digest(value)
digest(value) == before
"""

import collections
import hashlib
import io
import operator
import pickle
import random
import threading
import types
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.state.python_state import given_to
from kerastrain.state.python_state import held_by
from kerastrain.state.python_state import HOLDERS
from kerastrain.state.python_state import is_users_function
from kerastrain.state.python_state import NO_STATE
from kerastrain.state.python_state import plain_function
from kerastrain.state.python_state import SCALARS

# How deep, and at how many parts in all, a digest looks.
_DEPTH, _PARTS = 12, 20_000
# Of longer containers the number of items at each end; of larger arrays, in bytes, the size of a
# sample; and the bytes beyond which nothing is looked at.
_ENDS, _LARGE, _SAMPLE, _HUGE = 2000, 2**20, 2**17, 2**30

_VARIABLES = (keras.Variable, tf.Variable)
_OPAQUE = (io.IOBase, threading.Thread, threading.Event, type(threading.Lock()), types.FrameType)
# Whose state is saved with each training.
_SAVED = (
    np.random.get_state.__self__,  # type: ignore[attr-defined]
    random.random.__self__,  # type: ignore[attr-defined]
)
_OF_CALLBACKS = frozenset({"_model", "model", "params", "validation_data", "monitor_op"})


class _Opaque(Exception):
    """An object holds what has no state that can be compared."""


def digest(value: Any, leave_out: Callable[[Any], bool] = lambda _: False) -> Any:
    """Identifies a value, to compare within one process.

    Args:
        value: anything.
        leave_out: whether an object within is not looked into.
    """
    if isinstance(value, SCALARS):
        return repr(value)
    found = _Digest(leave_out)
    try:
        found.add(value, 0)
    except _Opaque:
        return id(value)
    return found.hash.digest()


class _Digest:
    """Takes in values part by part; objects that hold one another end no way."""

    def __init__(self, leave_out: Callable[[Any], bool]) -> None:
        self.hash, self._leave_out = hashlib.blake2b(digest_size=16), leave_out
        self._seen: dict[int, Any] = {}  # kept, so that no other gets its `id`
        self._left = _PARTS

    def add(self, value: Any, depth: int) -> None:
        self._left -= 1
        if isinstance(value, SCALARS):
            self._note(type(value).__name__, repr(value))
        elif isinstance(value, (*NO_STATE, *_VARIABLES)) or any(value is one for one in _SAVED):
            self._note("no state")
        elif isinstance(value, _OPAQUE):
            raise _Opaque
        elif id(value) in self._seen or depth > _DEPTH or self._left < 0:
            self._note("seen")
        else:
            self._seen[id(value)] = value
            self._note(type(value).__name__)
            self._add_parts(value, depth + 1)

    def _note(self, *parts: str | bytes) -> None:
        for part in parts:
            self.hash.update(part if isinstance(part, bytes) else part.encode(errors="replace"))
            self.hash.update(b";")

    def _add_parts(self, value: Any, depth: int) -> None:
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

    def _add_items(self, items: Iterable[Any], whole: Collection[Any], depth: int) -> None:
        self._note(str(len(whole)))
        for item in items:
            self.add(item, depth)

    def _add_array(self, value: np.ndarray | tf.Tensor, depth: int) -> None:
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

    def _add_object(self, value: Any, depth: int) -> None:
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


def _ends(items: Collection[Any]) -> list[Any]:
    """All items, or of many those at both ends."""
    if len(items) <= 2 * _ENDS:
        return list(items)
    items = list(items)
    return items[:_ENDS] + items[-_ENDS:]


def _random_state(value: Any) -> Any:
    """The state of a random generator of Python's or NumPy's, or None."""
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.BitGenerator):
        return value.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    return value.getstate() if isinstance(value, random.Random) else None


def _attributes(value: Any) -> dict[str, Any] | None:
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


def _is_data(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "pandas"


class _Bounded(io.BytesIO):
    """Takes no more than `_LARGE` bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > _LARGE:
            raise OverflowError
        return super().write(data)


def _pickled(value: Any) -> bytes | str:
    """What `pickle` makes of an object; the identity of what is large, or cannot be pickled."""
    try:
        pickle.Pickler(file := _Bounded(), pickle.HIGHEST_PROTOCOL).dump(value)
        return file.getvalue()
    except Exception:  # whatever an object of one's own may raise
        return str(id(value))
