"""Finds what objects hold: the variables, and all other objects, that can be reached from some.

::

    found = Walk({"model": model, "loss": loss})
    found.variables                  # {"model/_layers/0/_kernel": variable, ...}
    found.of(keras.Layer)            # {"model": model, "model/_layers/0": layer, ...}

A path names attributes, indices and keys, and so is the same in each process, and in a copy that
was made from the same configuration: layers' own names are numbered by how many there were before.
"""

import sys
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras

# A container of more holds data, and neither layers nor variables.
_LONGEST = 1000
_LEAVES = (
    *(type(None), str, bytes, bool, int, float, complex, np.ndarray, np.generic),
    *(tf.Tensor, tf.DType, tf.TensorShape, tf.TypeSpec, keras.KerasTensor),
    *(tf.distribute.Strategy, tf.data.Dataset, keras.utils.PyDataset, keras.DTypePolicy),
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType),
    # Their order is another in each process.
    *(set, frozenset),
)
_VARIABLES = (keras.Variable, tf.Variable)
_CONTAINERS = (dict, list, tuple)
_FOREIGN = frozenset({*sys.stdlib_module_names, "numpy", "pandas", "scipy", "torch", "jax"})


class Walk:
    """What can be reached from some objects, each once, by the shortest path.

    Args:
        roots: objects by the names that their paths begin with.
        known: objects that are not looked into.

    Attributes:
        variables: of Keras and TensorFlow, by path.
    """

    def __init__(self, roots: dict[str, Any], known: tuple = ()):
        variables, objects = [], []
        seen = {id(one) for one in known}
        # A place is its name and the place that it is in: paths are made of what is found alone.
        waiting = deque(((name, None), value) for name, value in roots.items())
        while waiting:
            place, value = waiting.popleft()
            if id(value) in seen or not _is_looked_at(type(value)):
                continue
            seen.add(id(value))
            if isinstance(value, _VARIABLES):
                variables.append((place, value))
                seen.add(id(_keras.tf_variable(value)))
                continue
            if not isinstance(value, _CONTAINERS):
                objects.append((place, value))
            for name, part in _parts(value):
                if _is_looked_at(type(part)) and id(part) not in seen:
                    waiting.append(((name, place), part))
        self.variables = {_path(place): variable for place, variable in variables}
        self._objects = objects

    def of(self, kind: type) -> dict[str, Any]:
        """The objects of a kind, by path; containers and plain values are none."""
        return {_path(place): one for place, one in self._objects if isinstance(one, kind)}


def _path(place):
    names = []
    while place is not None:
        name, place = place
        names.append(str(name))
    return "/".join(reversed(names))


_KINDS: dict[type, bool] = {}


def _is_looked_at(kind):
    """Whether values of a type are looked at."""
    known = _KINDS.get(kind)
    if known is None:
        known = _KINDS[kind] = not issubclass(kind, _LEAVES) or issubclass(kind, _VARIABLES)
    return known


def _parts(value) -> Iterator[tuple[Any, Any]]:
    """What an object or a container holds, by name."""
    if isinstance(value, dict):
        return iter(value.items()) if len(value) <= _LONGEST else iter(())
    if isinstance(value, list | tuple):
        return iter(enumerate(value)) if len(value) <= _LONGEST else iter(())
    return _attributes(value) if _is_looked_into(value) else iter(())


def _is_looked_into(value):
    module = type(value).__module__.split(".")[0]
    if module == "tensorflow":
        return isinstance(value, tf.__internal__.tracking.AutoTrackable)
    return module not in _FOREIGN and not _keras.is_node(value)


def _attributes(value):
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
