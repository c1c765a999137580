"""Nested Python values, as what a checkpoint holds: values of JSON, and arrays by name.

::

    info, tensors = pack({"wait": 2, "best": np.float32(0.5), "order": (1, None)})
    unpack(info, tensors)          # the same, as dicts, lists and tuples

What JSON knows stays as it is and can be read by eye. Other values become objects with the
one key ``"$"`` and what follows: arrays, NumPy's numbers, tuples, numbers that are not finite,
dicts whose keys are not text. Of anything else `pack` raises a `TypeError` that says where.
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain.errors import CheckpointError
from kerastrain.run import checkpoint

_MARK = "$"


def pack(value: Any, name: str = "state") -> tuple[Any, dict[str, np.ndarray]]:
    """A nested value as ``(info, tensors)``.

    Args:
        value: dicts, lists and tuples of numbers, text, None, arrays and tensors.
        name: of the value; the names of its tensors begin with it.

    Raises:
        TypeError: something else is in it; the message says where and what.
    """
    tensors: dict[str, np.ndarray] = {}
    return _packed(value, name, tensors), tensors


def savable(value: Any) -> Any:
    """The value without the entries of dicts that `pack` would refuse; None for nothing left."""
    try:
        pack(value)
        return value
    except TypeError:
        if not isinstance(value, dict):
            return None
    kept = {key: savable(item) for key, item in value.items()}
    return {key: item for key, item in kept.items() if item is not None or value[key] is None}


def unpack(info: Any, tensors: dict[str, np.ndarray]) -> Any:
    """The value that `pack` was given.

    Raises:
        CheckpointError: it is not what `pack` makes.
    """
    try:
        return _unpacked(info, tensors)
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise CheckpointError(f"A state cannot be read: {type(error).__name__}: {error}") from error


def _packed(value: Any, name: str, tensors: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.str_):
        value = str(value)
    if value is None or isinstance(value, bool | int | str) and not isinstance(value, np.generic):
        return value
    if isinstance(value, float) and not isinstance(value, np.generic):
        return value if math.isfinite(value) else {_MARK: "float", "value": repr(value)}
    if isinstance(value, list | tuple):
        items = [_packed(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {_MARK: "tuple", "items": items}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and _MARK not in value:
            return {key: _packed(item, f"{name}/{key}", tensors) for key, item in value.items()}
        pairs = [
            [_packed(part, f"{name}/{i}", tensors) for part in pair]
            for i, pair in enumerate(value.items())
        ]
        return {_MARK: "dict", "items": pairs}
    if isinstance(value, tf.Tensor | tf.Variable | keras.Variable):
        value = keras.ops.convert_to_numpy(value)
    if isinstance(value, np.ndarray | np.generic) and checkpoint.is_storable(value.dtype):
        while name in tensors:  # {"a": [..], "a/0": ..}
            name += "'"
        tensors[name] = np.array(value)  # a copy: what is saved is of this moment
        return {_MARK: "array" if isinstance(value, np.ndarray) else "number", "name": name}
    kind = f"{type(value).__name__}"
    if isinstance(value, np.ndarray):
        kind += f" of {value.dtype}"
    raise TypeError(f"{name} is of {kind}, which cannot be saved")


def _unpacked(info: Any, tensors: dict[str, np.ndarray]) -> Any:
    if isinstance(info, list):
        return [_unpacked(item, tensors) for item in info]
    if not isinstance(info, dict):
        return info
    kind = info.get(_MARK)
    if kind is None:
        return {key: _unpacked(item, tensors) for key, item in info.items()}
    if kind == "float":
        return float(info["value"])
    if kind == "tuple":
        return tuple(_unpacked(item, tensors) for item in info["items"])
    if kind == "dict":
        return {_unpacked(key, tensors): _unpacked(item, tensors) for key, item in info["items"]}
    array = tensors[info["name"]]
    return array if kind == "array" else array[()]
