"""Finds what objects hold: the variables, and all other objects, that can be reached from some.

::

    found = Walk({"model": model, "loss": loss})
    found.variables                  # {"model/_layers/0/_kernel": variable, ...}
    found.of(keras.Layer)            # {"model": model, "model/_layers/0": layer, ...}

A path names attributes, indices and keys, and so is the same in each process, and in a copy that
was made from the same configuration: layers' own names are numbered by how many there were before.
A key that is an object has no such name, and goes by its position. Of several with one path, as in
``{1: ..., "1": ...}``, all but the first get a number too: ``model/1`` and ``model/1#2``.
"""

import functools
import itertools
import sys
import types
from collections import deque
from collections.abc import Container
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.state import python_state

# A container of more is searched only if it holds more than plain values, which is soon seen.
_LONG = 1000
_LEAVES = (
    *(type(None), str, bytes, bool, int, float, complex, np.ndarray, np.generic),
    *(tf.Tensor, tf.DType, tf.TensorShape, tf.TypeSpec, keras.KerasTensor),
    *(tf.distribute.Strategy, tf.data.Dataset, keras.utils.PyDataset, keras.DTypePolicy),
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType),
    # Their order is another in each process.
    *(set, frozenset),
)
_VARIABLES = (keras.Variable, tf.Variable)
_CONTAINERS = (dict, list, tuple, deque)
_FOREIGN = frozenset({*sys.stdlib_module_names, "numpy", "pandas", "scipy", "torch", "jax"})
_CALLED = (types.MethodType, functools.partial)
# The name of an attribute, index or key, and the place of the object that has it.
Place = tuple[Any, "Place | None"]


class Walk:
    """What can be reached from some objects, each once.

    One root is searched to its end before the next, and no other root is entered on the way: what
    several lead to has the shortest path from the first of them, whatever the others hold of it.

    Args:
        roots: objects by the names that their paths begin with.
        known: objects that are not looked into.

    Attributes:
        variables: of Keras and TensorFlow, by path.
    """

    def __init__(self, roots: dict[str, Any], known: tuple[Any, ...] = ()):
        self._places: list[tuple[Place, Any]] = []
        self._seen = {id(one) for one in known}
        self._roots = {id(root) for root in roots.values()}
        variables: list[tuple[Place, Any]] = []
        for name, root in roots.items():
            self._search(name, root, variables)
        self.variables = _by_path(variables)

    def _search(self, name: str, root: Any, variables: list[tuple[Place, Any]]) -> None:
        seen, others = self._seen, self._roots - {id(root)}
        # A place is its name and the place that it is in: paths are made of what is found alone.
        waiting: deque[tuple[Place, Any]] = deque([((name, None), root)])
        while waiting:
            place, value = waiting.popleft()
            if id(value) in seen or id(value) in others or not _is_looked_at(type(value)):
                continue
            seen.add(id(value))
            if isinstance(value, _VARIABLES):
                variables.append((place, value))
                seen.add(id(_keras.tf_variable(value)))
                continue
            if not isinstance(value, _CONTAINERS):
                self._places.append((place, value))
            for name, part in _parts(value):
                if _is_looked_at(type(part)) and id(part) not in seen:
                    waiting.append(((name, place), part))

    @functools.cached_property
    def _objects(self) -> dict[str, Any]:
        return _by_path(self._places)

    def of(self, kind: type | tuple[type, ...]) -> dict[str, Any]:
        """The objects of a kind, by path; containers and plain values are none."""
        return {path: one for path, one in self._objects.items() if isinstance(one, kind)}


def unused(name: str, names: Container[str]) -> str:
    """A name that is none of these: itself, or with the first number from 2 that makes it so."""
    found, number = name, 1
    while found in names:
        number += 1
        found = f"{name}#{number}"
    return found


def _by_path(places: list[tuple[Place, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for place, value in places:
        found[unused(_path(place), found)] = value
    return found


def _path(place: Place | None) -> str:
    names = []
    while place is not None:
        name, place = place
        names.append(str(name))
    return "/".join(reversed(names))


_KINDS: dict[type, bool] = {}


def _is_looked_at(kind: type) -> bool:
    """Whether values of a type are looked at."""
    known = _KINDS.get(kind)
    if known is None:
        known = _KINDS[kind] = not issubclass(kind, _LEAVES) or issubclass(kind, _VARIABLES)
    return known


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """What an object or a container holds, by name."""
    if isinstance(value, _CONTAINERS):
        is_data = len(value) > _LONG and _is_of_plain_values(value)
        return iter(()) if is_data else python_state.named_items(value)
    if isinstance(value, _CALLED):
        given = python_state.given_to(value) if python_state.is_users_function(value) else {}
        return iter(given.items())
    if _is_kerastrains(value):
        parts = getattr(value, "parts_that_train", dict)
        return iter(parts().items())
    return _attributes(value) if _is_looked_into(value) else iter(())


def _is_of_plain_values(container: Any) -> bool:
    """Whether a container holds nothing that is looked at, in containers of its own neither."""
    inner, seen = [container], {id(container)}
    while inner:
        items = list(itertools.chain.from_iterable(map(_items, inner)))
        kinds = {kind for kind in set(map(type, items)) if _is_looked_at(kind)}
        if not all(issubclass(kind, _CONTAINERS) for kind in kinds):
            return False
        found = {id(one): one for one in items if type(one) in kinds} if kinds else {}
        inner = [one for key, one in found.items() if key not in seen]
        seen.update(found)
    return True


def _items(container: Any) -> list[Any]:
    return list(container.values()) if isinstance(container, dict) else list(container)


def _is_kerastrains(value: Any) -> bool:
    """Whether it is of the engine itself, which keeps the same things in several places."""
    of_keras = (keras.Layer, keras.Operation, keras.callbacks.Callback, keras.metrics.Metric)
    module = type(value).__module__
    own = module.split(".")[0] == "kerastrain" and notices.is_of_others(module)
    return own and not isinstance(value, of_keras) and not hasattr(value, "get_config")


def _is_looked_into(value: Any) -> bool:
    module = type(value).__module__.split(".")[0]
    if module == "tensorflow":
        return isinstance(value, tf.__internal__.tracking.AutoTrackable)
    is_foreign = module in _FOREIGN and not isinstance(value, python_state.HOLDERS)
    return not is_foreign and not _keras.is_node(value)


def _attributes(value: Any) -> Iterator[tuple[Any, Any]]:
    attributes = getattr(value, "__dict__", {})
    for name, part in list(attributes.items()):
        # TensorFlow keeps each attribute once more, in those that begin so.
        if not name.startswith(("_self_", "_unconditional_", "__")):
            yield name, part
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in attributes and not name.startswith("__"):
                yield name, getattr(value, name, None)
