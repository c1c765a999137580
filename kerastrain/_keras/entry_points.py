"""Keras's own ``fit``, ``evaluate``, ``predict`` and ``compile``, as one model sees them."""

import contextlib
import functools
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

_LOCK = threading.RLock()
# {method: (the class that defines it, Keras's function, how many models have it replaced)}
_REPLACED: dict[str, tuple[type, Callable, int]] = {}


@contextlib.contextmanager
def base_method_replaced(
    model: keras.Model, method: str, function: Callable | None
) -> Iterator[None]:
    """Inside, what ``keras.Model.<method>`` does with this model is ``function``.

    For calls by ``super()`` and by name alike. Other models have Keras's method as ever.

    Args:
        model: whose calls are taken over.
        method: such as ``"fit"``.
        function: takes the arguments without the model; None for Keras's own.
    """
    key = f"_kerastrain_{method}"
    before = model.__dict__.get(key)
    _install(method, key)
    model.__dict__[key] = function
    try:
        yield
    finally:
        if before is None:
            model.__dict__.pop(key, None)
        else:
            model.__dict__[key] = before
        _remove(method)


def base_method(method: str) -> Callable:
    """What ``keras.Model.<method>`` is, but for what `base_method_replaced` has put in its place."""
    with _LOCK:
        _, original, count = _REPLACED.get(method, (None, None, 0))
        return original if original is not None and count else getattr(keras.Model, method)


def _install(method: str, key: str) -> None:
    with _LOCK:
        replaced = _REPLACED.get(method)
        if replaced is not None and replaced[2] > 0:
            owner, original, count = replaced
        else:
            count = 0
            owner = next(c for c in keras.Model.__mro__ if method in vars(c))
            original = vars(owner)[method]

            @functools.wraps(original)
            def dispatch(self: keras.Model, *args: Any, **kwargs: Any) -> Any:
                function = self.__dict__.get(key)
                if function is None:
                    return original(self, *args, **kwargs)
                return function(*args, **kwargs)

            setattr(owner, method, dispatch)
        _REPLACED[method] = owner, original, count + 1


def _remove(method: str) -> None:
    with _LOCK:
        owner, original, count = _REPLACED[method]
        if count == 1:
            setattr(owner, method, original)
        _REPLACED[method] = owner, original, count - 1
