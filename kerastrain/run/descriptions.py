"""Objects as values of JSON that are the same for equal objects in each process.

::

    described(keras.optimizers.Adam(0.01))     # {"class": "Adam", "learning_rate": "0.01", ...}
    described(lambda x: 2 * x)                 # {"function": "<lambda>", "@code": "cpython-311:..."}

A description has what an object's ``get_config`` gives. Many classes have none, or one that lacks
what their constructor was given: of the user's own classes, the attributes are described too.
Names, which count the objects that were made before, and places in memory or in a file are not.

An object is described by its config and by what its attributes hold: `_own` says which. What the
user's objects hold is looked into down to plain values; of objects of other packages only what they
were constructed with is.

Keys that begin with ``"@"`` are compared only where both descriptions have them.
"""

import argparse
import dataclasses
import decimal
import enum
import fractions
import functools
import hashlib
import pathlib
import re
import sys
import types
import warnings
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.notices import is_of_others
from kerastrain.notices import is_passed_over
from kerastrain.run.array_descriptions import LONG
from kerastrain.run.array_descriptions import LONGEST
from kerastrain.run.array_descriptions import of_array
from kerastrain.run.array_descriptions import shortened
from kerastrain.run.constructors import set_from_arguments

# The most objects that are looked into for one description.
_MOST = 2000
# The key of what Keras keeps of an object: another version of it may keep other things.
KEPT = "@keras_" + re.sub(r"\W", "_", keras.__version__)
# The state of a training, or what has no value yet.
_STATE = (
    keras.Variable,
    tf.Variable,
    keras.KerasTensor,
    keras.metrics.Metric,
    keras.random.SeedGenerator,
)
_DESCRIBED_BY_TEXT = (
    *(complex, fractions.Fraction, decimal.Decimal),
    *(range, slice, tf.DType, tf.TensorShape),
)


@dataclasses.dataclass(frozen=True)
class _Context:
    """What else decides a description.

    Args:
        layers: what stands for the layers of a model, by their identity.
        weights: what stands for its weights, by what an optimizer keeps of them.
        brief: whether objects without a config are described by their class alone.
        within: the identities of the objects that are being described.
        count: how many objects have been looked into.
    """

    layers: Mapping[int, str]
    weights: Mapping[Any, str]
    brief: bool = False
    within: frozenset[int] = frozenset()
    count: list[int] = dataclasses.field(default_factory=lambda: [0])

    def inside(self, value: Any) -> "_Context":
        """That of what is in an object."""
        return dataclasses.replace(self, within=self.within | {id(value)})


def described(
    value: Any,
    depth: int = 6,
    layers: Mapping[int, str] = types.MappingProxyType({}),
    weights: Mapping[Any, str] = types.MappingProxyType({}),
) -> Any:
    """Values of JSON that are the same for equal objects in each process.

    Args:
        value: to be described.
        depth: the levels of what is in it that are looked at.
        layers: what stands for the layers of a model, by their identity.
        weights: what stands for its weights, by what an optimizer keeps of them.
    """
    return _described(value, depth, _Context(layers, weights))


def described_layer(layer: keras.Layer, layers: Mapping[int, str]) -> dict[str, Any]:
    """A layer or model: its config, how it is wired, and what it was constructed with.

    Args:
        layer: which may be the whole model.
        layers: what stands for the other layers of the model, by their identity.
    """
    return _of_object(layer, 6, _Context(layers, {}))


def _described(value: Any, depth: int, context: _Context) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return repr(float(value)) if isinstance(value, float) else value
    if isinstance(value, np.generic):
        is_plain = value.dtype.kind in "biufU"
        return _described(value.item(), depth, context) if is_plain else str(value)
    if isinstance(value, np.ndarray | tf.Tensor):
        return of_array(value)
    if id(value) in context.layers:
        return context.layers[id(value)]
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, dict):
        return _of_dict(value, depth, context)
    if isinstance(value, list | tuple):
        return _of_list(value, depth, context)
    if isinstance(value, set | frozenset):
        return sorted((_described(i, depth - 1, _brief(context)) for i in value), key=repr)
    if isinstance(value, types.FunctionType | functools.partial):
        return _of_function(value, depth, context)
    return _of_object(value, depth, context)


def _brief(context: _Context) -> _Context:
    return dataclasses.replace(context, brief=True)


def _of_dict(value: dict[Any, Any], depth: int, context: _Context) -> dict[str, Any] | str:
    if len(value) > LONGEST:
        return f"{len(value)} keys"
    # Layers are numbered by how many were made before them; a policy has nothing but a name.
    left_out = ("build_config", "module", *(["name"] if len(value) > 1 else []))
    kept = {k: v for k, v in value.items() if k not in left_out}
    return {str(key): _described(item, depth - 1, context) for key, item in kept.items()}


def _of_object(value: Any, depth: int, context: _Context) -> Any:
    kind = type(value).__qualname__
    if isinstance(value, type):
        return value.__qualname__
    if id(value) in context.within or context.count[0] > _MOST:
        return kind
    context.count[0] += 1
    context = context.inside(value)
    if isinstance(value, keras.Model):
        return {"class": kind, **_of_model(value, depth, context), **_own(value, depth, context)}
    if hasattr(value, "get_config"):
        config, own = _config_of(value), _own(value, depth, context)
        is_described = config is not None or isinstance(value, keras.Layer)
        if not is_described and (context.brief or not own):
            return kind
        without_layers = dataclasses.replace(context, layers={})
        return {"class": kind, **_described(config or {}, depth - 1, without_layers), **own}
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        text = {"class": kind, **_described(fields, depth, context)}
        others = {k: _described(v, depth - 1, context) for k, v in fields.items() if k not in text}
        return {**text, "@others": others} if others and not context.brief else text
    name = getattr(value, "__qualname__", kind) if callable(value) else kind
    more = {} if context.brief else _of_plain_object(value, depth, context)
    return {"class": name, **more} if more else name


def _of_plain_object(value: Any, depth: int, context: _Context) -> dict[str, Any]:
    """What is in an object that Keras knows nothing of."""
    if isinstance(value, _DESCRIBED_BY_TEXT):
        return {"@value": repr(value)}
    if isinstance(value, bytes | bytearray):
        return {"@value": hashlib.sha256(value).hexdigest()[:16]}
    if isinstance(value, enum.Enum):
        return {"@value": value.name}
    if isinstance(value, re.Pattern):  # alternatives that were joined may come out of a set
        return {"@value": "|".join(sorted(str(value.pattern).split("|")))}
    if isinstance(value, types.MethodType):
        owner, function = value.__self__, value.__func__
        parts = {"@self": owner, "@function": function}
    else:
        wrapped = getattr(value, "__wrapped__", None)
        parts = {"@function": getattr(value, "python_function", wrapped)}
    if any(isinstance(part, types.FunctionType | types.MethodType) for part in parts.values()):
        return {name: _described(part, depth - 1, context) for name, part in parts.items()}
    if isinstance(value, types.SimpleNamespace | argparse.Namespace):
        others = vars(value).items()  # the arguments of a program, say: not all decide numbers
        return {"@others": {name: _described(item, depth - 1, context) for name, item in others}}
    if is_passed_over(type(value).__module__):
        return {}
    own = _own(value, depth, context)
    if _is_installed(type(value).__module__):
        return {"@others": own["@given"]} if "@given" in own else {}
    return own


def _is_installed(module: str) -> bool:
    """Whether a module of this name is of an installed package, which the user has not written."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(pathlib.Path(file).parts))


def _of_model(model: keras.Model, depth: int, context: _Context) -> dict[str, Any]:
    """What distinguishes a model from others with the same layers."""
    if _keras.is_functional(model):
        brief = _brief(context)  # what is in a line of text is compared as a whole
        return {"@wiring": _keras.wiring(model, lambda value: _described(value, depth - 1, brief))}
    defined = getattr(type(model).get_config, "__module__", "keras")
    if is_of_others(defined):
        return {}
    without_layers = dataclasses.replace(context, layers={})
    return {"@config": _described(_config_of(model) or {}, depth - 1, without_layers)}


# Attributes -------------------------------------------------------------------------


def _own(value: Any, depth: int, context: _Context) -> dict[str, Any]:
    """What the user's own class, or function, adds to what Keras knows of an object.

    ``"@given"`` is what the constructor was given, ``"@attributes"`` is what attributes of the same
    names hold, ``"@others"`` are the other attributes, ``"@functions"`` are those of Keras's own
    objects that are functions, and `KEPT` is what Keras's code keeps and its config may lack.
    """
    given, others, functions = {}, {}, {}
    is_metric = isinstance(value, keras.metrics.Metric)  # no number of the training depends on it
    if is_metric and context.brief:
        return {}
    is_users, plain = not is_of_others(type(value).__module__), _keras.plain_attributes(value)
    kind: type = type(value)
    names = set_from_arguments(kind) if is_users else ()
    for name, item in _attributes(value).items():
        bare = name.lstrip("_")
        if name in plain or isinstance(item, _STATE) or _holds_state(item):
            continue
        if not is_users:
            if _is_users_function(item):
                functions[bare] = _described(item, depth - 1, context)
        elif name in names or bare in names:
            given[bare] = _described(item, depth - 1, context)
        elif name == bare and not is_metric:
            others[name] = item
    parts = {"@given": given, "@functions": functions}
    if is_users:
        arguments = _described(_keras.constructor_arguments(value), depth - 1, context)
        held = {name: given[name] for name in given if arguments.get(name) is not None}
        others |= {name: given[name] for name in given if arguments.get(name, given) is None}
        given |= arguments
        if not context.brief:
            parts |= {"@attributes": held}
    # Last: if the limit of objects is reached in them, the other parts are complete.
    parts["@others"] = {name: _described(item, depth - 1, context) for name, item in others.items()}
    parts = {name: part for name, part in parts.items() if part}
    kept = None if context.brief else _keras.settings_of(value)
    return parts if kept is None else {KEPT: _kept(value, kept, is_users, depth, context), **parts}


def _is_users_function(item: Any) -> bool:
    return isinstance(item, types.FunctionType) and not is_of_others(item.__module__ or "")


def _kept(
    value: Any, settings: dict[str, Any], is_users: bool, depth: int, context: _Context
) -> dict[str, Any]:
    """The settings that Keras's code keeps of an object."""
    kept = {}
    for name, item in settings.items():
        if isinstance(item, (*_STATE, keras.Initializer)) or _holds_state(item):
            continue
        if _is_users_function(item) and not is_users and name not in _keras.plain_attributes(value):
            continue  # among the functions
        if isinstance(item, set) and isinstance(value, keras.optimizers.Optimizer):  # of variables
            kept[name] = sorted(context.weights.get(one, "another weight") for one in item)
        else:
            kept[name] = _described(item, depth - 1, context)
    # Some are set when they are first wanted alone.
    return {name: text for name, text in kept.items() if text not in (None, [], {})}


def _attributes(value: Any) -> dict[str, Any]:
    attributes = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = () if is_passed_over(kind.__module__) else vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__") and hasattr(value, name):
                attributes.setdefault(name, getattr(value, name))
    return attributes


def _holds_state(item: Any) -> bool:
    if isinstance(item, tf.Tensor):
        return not isinstance(item, tf.__internal__.EagerTensor)
    return isinstance(item, list | tuple) and any(isinstance(one, _STATE) for one in item[:LONG])


def _config_of(value: Any) -> dict[str, Any] | None:
    """What ``get_config`` gives; None for an object without one of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of functions without a name, which nobody loads from here
        try:
            return dict(value.get_config())
        except Exception:  # whatever one of the user's own may raise
            return None


def _of_list(value: list[Any] | tuple[Any, ...], depth: int, context: _Context) -> list[Any] | str:
    ends = value if len(value) <= LONGEST else [*value[:LONG], *value[-LONG:]]
    if len(value) > LONG:
        context = _brief(context)  # what is in a digest is compared as a whole
    return shortened([_described(item, depth - 1, context) for item in ends], len(value))


# Functions --------------------------------------------------------------------------


def _of_function(
    value: types.FunctionType | functools.partial[Any], depth: int, context: _Context
) -> dict[str, Any] | str:
    """The name; and what a function is made of that has none, or that another one has made."""
    if isinstance(value, functools.partial):
        parts = {"of": value.func, "args": value.args, "keywords": value.keywords}
        return {"function": "partial"} | {
            f"@{name}": _described(part, depth - 1, context) for name, part in parts.items()
        }
    if is_of_others(value.__module__ or ""):
        return value.__qualname__
    more: dict[str, Any] = {}
    is_nameless = value.__qualname__.endswith("<lambda>")
    if is_nameless:
        digest = hashlib.sha256(repr(_of_code(value.__code__)).encode()).hexdigest()[:16]
        more["@code"] = f"{sys.implementation.cache_tag}:{digest}"
        if value.__defaults__:
            more["@defaults"] = _described(value.__defaults__, depth - 1, context)
    if not context.brief:
        more |= _defaults_of(value, () if is_nameless else value.__defaults__, depth, context)
    held = {}
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            item = cell.cell_contents
        except ValueError:  # nothing is in it yet
            continue
        if item is not value and not isinstance(item, _STATE):
            held[name] = _described(item, min(depth - 1, 2), context)
    if held:
        more["@holds"] = held
    return {"function": value.__qualname__, **more} if more else value.__qualname__


def _defaults_of(
    function: types.FunctionType, values: Sequence[Any] | None, depth: int, context: _Context
) -> dict[str, dict[str, Any]]:
    """Those of arguments; what can be changed in place may be a cache, which calls have filled.

    Args:
        function: a Python function.
        values: of its last positional arguments; those of the others are described too.
    """
    names, values = function.__code__.co_varnames[: function.__code__.co_argcount], values or ()
    defaults = dict(zip(names[::-1], values[::-1], strict=False))
    parts: dict[str, dict[str, Any]] = {"@defaults": {}, "@keywords": {}, "@others": {}}
    for key, known in (("@defaults", defaults), ("@keywords", function.__kwdefaults__ or {})):
        for name, value in known.items():
            part = parts["@others" if isinstance(value, dict | list | set) else key]
            part[name] = _described(value, depth - 1, context)
    return {name: part for name, part in parts.items() if part}


def _of_code(code: types.CodeType) -> list[Any]:
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
