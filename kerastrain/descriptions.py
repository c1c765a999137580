"""Objects as values of JSON that are the same for equal objects in each process.

::

    described(keras.optimizers.Adam(0.01))     # {"class": "Adam", "learning_rate": "0.01", ...}
    described(lambda x: 2 * x)                 # {"function": "<lambda>", "@code": "cpython-311:..."}

A description has what an object's ``get_config`` gives. Many classes have none, or one that lacks
what their constructor was given: of the user's own classes, the attributes are described too.
Names, which count the objects that were made before, and places in memory or in a file are not.

Keys that begin with ``"@"`` are compared only where both descriptions have them.
"""

import ast
import dataclasses
import functools
import hashlib
import inspect
import sys
import textwrap
import types
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.digests import digest_of
from kerastrain.notices import is_of_others

# Longer lists are described by a digest, the longest by one of their ends; so are arrays of up to
# so many bytes.
_LONG, _LONGEST, _LARGE = 64, 10_000, 2**24
# The state of a training, or what has no value yet.
_STATE = (
    keras.Variable,
    tf.Variable,
    keras.KerasTensor,
    keras.metrics.Metric,
    keras.random.SeedGenerator,
)
_Layers = Mapping[int, str]


def described(value: Any, depth: int = 6, layers: _Layers = types.MappingProxyType({})) -> Any:
    """Values of JSON that are the same for equal objects in each process.

    Args:
        value: to be described.
        depth: so many levels of what is in it are looked at.
        layers: what stands for the layers of a model, by their identity.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return repr(float(value)) if isinstance(value, float) else value
    if isinstance(value, np.generic):
        return described(value.item(), depth) if value.dtype.kind in "biufU" else str(value)
    if isinstance(value, np.ndarray | tf.Tensor):
        return _of_array(value)
    if id(value) in layers:
        return layers[id(value)]
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, dict):
        # Layers are numbered by how many were made before them; a policy has nothing but a name.
        left_out = ("build_config", "module", *(["name"] if len(value) > 1 else []))
        kept = {k: v for k, v in value.items() if k not in left_out}
        return {str(key): described(item, depth - 1, layers) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return _of_list(value, depth, layers)
    if isinstance(value, set | frozenset):
        return sorted((described(item, depth - 1, layers) for item in value), key=repr)
    if isinstance(value, types.FunctionType | functools.partial):
        return _of_function(value, depth, layers)
    return _of_object(value, depth, layers)


def described_layer(layer: keras.Layer, layers: _Layers) -> dict[str, Any]:
    """A layer or model: its config, how it is wired, and what it was constructed with.

    Args:
        layer: which may be the whole model.
        layers: what stands for the other layers of the model, by their identity.
    """
    return _of_object(layer, 6, layers)


def _of_object(value, depth, layers):
    kind = type(value).__qualname__
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, keras.Model):
        return {"class": kind, **_of_model(value, depth, layers), **_own(value, depth, layers)}
    if hasattr(value, "get_config"):
        config = _config_of(value)
        if config is None and not isinstance(value, keras.Layer):
            return kind
        if depth <= 1:
            return kind
        return {"class": kind, **described(config or {}, depth - 1), **_own(value, depth, layers)}
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        return {"class": kind, **described(fields, depth, layers)}
    if callable(value):
        return getattr(value, "__qualname__", kind)
    return kind


def _of_model(model, depth, layers):
    """What tells a model from others with the same layers."""
    if _keras.is_functional(model):
        return {"@wiring": _keras.wiring(model, lambda value: described(value, depth - 1, layers))}
    defined = getattr(type(model).get_config, "__module__", "keras")
    if is_of_others(defined):
        return {}
    return {"@config": described(_config_of(model) or {}, depth - 1)}


def _own(value, depth, layers):
    """What the user's own class, or function, adds to what Keras knows of an object.

    ``"@given"`` is what the constructor was given, ``"@others"`` are the other attributes,
    ``"@functions"`` are those of Keras's own objects that are functions.
    """
    given, others, functions = {}, {}, {}
    if isinstance(value, keras.metrics.Metric):
        return {}  # of which no number of the training depends
    is_users, plain = not is_of_others(type(value).__module__), _keras.plain_attributes()
    names = _set_from_arguments(type(value)) if is_users else ()
    for name, item in _attributes(value).items():
        bare = name.lstrip("_")
        is_function = isinstance(item, types.FunctionType) and not is_of_others(item.__module__)
        if name in plain or isinstance(item, _STATE) or _holds_state(item):
            continue
        if not is_users:
            if is_function:
                functions[bare] = described(item, depth - 1, layers)
        elif name in names or bare in names:
            given[bare] = described(item, depth - 1, layers)
        elif name == bare:
            others[name] = described(item, depth - 1, layers)
    if is_users:
        given |= described(_keras.constructor_arguments(value), depth - 1)
    parts = {"@given": given, "@others": others, "@functions": functions}
    return {name: part for name, part in parts.items() if part}


@functools.lru_cache(maxsize=1024)
def _set_from_arguments(kind):
    """The attributes of a class's instances that its constructors set from their arguments."""
    names = set()
    for base in kind.__mro__:
        construct = vars(base).get("__init__")
        if isinstance(construct, types.FunctionType) and not is_of_others(base.__module__):
            names |= _arguments_and_what_they_set(construct)
    return frozenset(names)


def _arguments_and_what_they_set(construct):
    """The names of a constructor's arguments, and of attributes whose values come from them."""
    own, *arguments = inspect.signature(construct).parameters
    names, attributes = set(arguments), set(arguments)
    try:
        source = ast.parse(textwrap.dedent(inspect.getsource(construct)))
    except (OSError, SyntaxError, TypeError):  # made by `exec`, say
        return attributes
    for _ in range(2):  # what is set in a loop may be used further up
        for node in ast.walk(source):
            value = getattr(node, "iter" if isinstance(node, ast.For) else "value", None)
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            if not isinstance(value, ast.AST) or targets == [None]:
                continue
            if not any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(value)):
                continue
            for target in (part for one in targets for part in ast.walk(one)):
                if isinstance(target, ast.Name) and target.id != own:
                    names.add(target.id)
                elif isinstance(target, ast.Attribute) and ast.unparse(target.value) == own:
                    attributes.add(target.attr)
    return attributes


def _attributes(value):
    try:
        return vars(value)
    except TypeError:  # a class with slots
        return {}


def _holds_state(item):
    if isinstance(item, tf.Tensor):
        return not isinstance(item, tf.__internal__.EagerTensor)
    return isinstance(item, list | tuple) and any(isinstance(one, _STATE) for one in item[:_LONG])


def _config_of(value):
    """What ``get_config`` gives; None for an object without one of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of functions without a name, which nobody loads from here
        try:
            return dict(value.get_config())
        except Exception:  # whatever one of the user's own may raise
            return None


def _of_list(value, depth, layers):
    ends = value if len(value) <= _LONGEST else [*value[:_LONG], *value[-_LONG:]]
    return shortened([described(item, depth - 1, layers) for item in ends], len(value))


def shortened(items: list, count: int | None = None) -> list | str:
    """A list as it is described; a long one is its length and a digest.

    Args:
        items: the descriptions of all items, or of the first and last ones of very many.
        count: how many items there are; None where these are all.
    """
    if count is None:
        count = len(items)
        items = items if count <= _LONGEST else [*items[:_LONG], *items[-_LONG:]]
    if count <= _LONG:
        return items
    return f"{count} values, {hashlib.sha256(repr(items).encode()).hexdigest()[:16]}"


def _of_array(value):
    told = f"{value.dtype} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"{told} {digest_of(value)}" if value.nbytes <= _LARGE else told
    is_known = isinstance(value, tf.__internal__.EagerTensor) and value.dtype.size
    if not is_known or value.dtype in (tf.resource, tf.variant):
        return told
    return f"{told} {digest_of(value)}" if np.prod(value.shape) * 8 <= _LARGE else told


# Functions --------------------------------------------------------------------------


def _of_function(value, depth, layers):
    """The name; and what a function is made of that has none, or that another one has made."""
    if isinstance(value, functools.partial):
        parts = {"of": value.func, "args": value.args, "keywords": value.keywords}
        return {"function": "partial"} | {
            f"@{name}": described(part, depth - 1, layers) for name, part in parts.items()
        }
    if is_of_others(value.__module__ or ""):
        return value.__qualname__
    more = {}
    if value.__qualname__.endswith("<lambda>"):
        digest = hashlib.sha256(repr(_of_code(value.__code__)).encode()).hexdigest()[:16]
        more["@code"] = f"{sys.implementation.cache_tag}:{digest}"
        if value.__defaults__:
            more["@defaults"] = described(value.__defaults__, depth - 1, layers)
    held = {}
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            item = cell.cell_contents
        except ValueError:  # nothing is in it yet
            continue
        if item is not value and not isinstance(item, _STATE):
            held[name] = described(item, min(depth - 1, 2), layers)
    if held:
        more["@holds"] = held
    return {"function": value.__qualname__, **more} if more else value.__qualname__


def _of_code(code):
    """What a function does, whatever line it stands on."""
    constants = [
        _of_code(one)
        if isinstance(one, types.CodeType)
        else sorted(map(repr, one))
        if isinstance(one, frozenset)
        else repr(one)
        for one in code.co_consts
    ]
    return [code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars]
