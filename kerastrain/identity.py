"""What tells one training from another: model, loss, optimizer, options, data, seed.

::

    identity = identity_of(model, sources, seed, options)   # values of JSON, saved with a run
    check_identity(saved, identity, "runs/a", model)

What a training changes is state, and no difference (`changes_noted`).
"""

import contextlib
import dis
import re
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerastrain import _keras
from kerastrain import notices
from kerastrain import python_state
from kerastrain.data import Source
from kerastrain.descriptions import KEPT
from kerastrain.descriptions import described
from kerastrain.descriptions import described_layer
from kerastrain.descriptions import shortened
from kerastrain.errors import RunError
from kerastrain.walk import Walk

# What may be other numbers: they are state, and go on as they were. A schedule is none.
_MAY_DIFFER = ("learning_rate", "seed")
# What earlier versions have not noted, besides what begins with "@".
_MAY_LACK = ("loss_weights", "metrics")
# Of functional models in the configs of layers: names that differ from process to process.
_BY_NAME = ("inbound_nodes", "input_layers", "output_layers")
# The paths in an identity that the trainings of a model have changed.
_CHANGED: "weakref.WeakKeyDictionary[keras.Model, set[str]]" = weakref.WeakKeyDictionary()
# The key of what each weight has beside its values.
_OF_WEIGHTS = "@weights"
# The key of what is in globals, and how many items of one are compared.
_GLOBALS, _FEW = "@globals", 64
_NOTHING = type("Nothing", (), {"__repr__": lambda self: "nothing"})()


def identity_of(
    model: keras.Model,
    sources: dict[str, Source],
    seed: int | None,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What must be equal for a run to go on, of JSON's types.

    Args:
        model: built and compiled.
        sources: the data sets by name, that to train on as ``"x"``.
        seed: as the user passed it.
        options: other arguments that decide numbers, by name.
    """
    return {
        **describer_of(model)(),
        "replicas": model.distribute_strategy.num_replicas_in_sync,
        "seed": None if seed is None else int(seed),
        "validation": sorted(sources.keys() - {"x"}),
        "@options": described(options or {}),
        "data": sources["x"].identity(),
        "@sets": {name: one.identity() for name, one in sources.items() if name != "x"},
    }


def describer_of(model: keras.Model) -> Callable[[], dict[str, Any]]:
    """Gives the part of an identity that is the model's, as it is compiled now, whenever called."""
    loss, metrics, optimizer = model.loss, _keras.leaf_metrics(model), model.optimizer
    loss_weights = _keras.compile_arguments(model)["loss_weights"]

    def describe():
        layers = _keras.all_layers(model)
        numbers = {id(layer): f"layer {number}" for number, layer in enumerate(layers)}
        keys = _keras.variable_keys(optimizer, model.weights)
        weights = {key: f"weight {number}" for key, number in keys.items()}
        return {
            "model": {
                "class": type(model).__qualname__,
                "layers": [described_layer(layer, numbers) for layer in layers[1:]],
                "weights": [[str(v.dtype), list(v.shape)] for v in model.weights],
                _OF_WEIGHTS: [_flags(v) for v in model.weights],
                "@own": described_layer(model, numbers),
            },
            "loss": described(loss),
            "loss_weights": described(loss_weights),
            "metrics": [described(metric) for metric in metrics],
            "optimizer": described(optimizer, weights=weights),
            _GLOBALS: _globals(model),
        }

    return describe


def _globals(model):
    """The plain values in globals that functions of the model and its parts read, and set not."""
    found = {}
    for name, function in python_state.functions_of(*Walk({"model": model}).of(object).values()):
        plain = python_state.plain_function(function)
        is_set = {i.argval for i in dis.get_instructions(plain) if i.opname == "STORE_GLOBAL"}
        for key, value in python_state.globals_of(plain).items():
            if key not in is_set and _is_plain(value):
                found[f"`{key}` of `{name}`"] = described(value)
    return found


def _is_plain(value):
    """Whether it is a number, text, or an array or a list of a few of them."""
    if isinstance(value, list | tuple):
        return len(value) <= _FEW and all(map(_is_plain, value))
    if isinstance(value, np.ndarray):
        return value.size <= _FEW and value.dtype.kind in "biufU"
    return isinstance(value, bool | int | float | str | np.generic)


def _flags(variable):
    """Whether a weight trains, and what else decides of its updates."""
    rules = {name: getattr(variable, name, None) for name in ("regularizer", "constraint")}
    told = {name: described(rule) for name, rule in rules.items() if rule is not None}
    return {"trainable": bool(variable.trainable), **told}


def learning_rates(optimizer: Any) -> list:
    """Those of an optimizer as it is `described`, and of one in it."""
    if not isinstance(optimizer, dict):
        return []
    parts = (value for key, value in optimizer.items() if not key.startswith("@"))
    inner = [rate for value in parts for rate in learning_rates(value)]
    return [optimizer["learning_rate"], *inner] if "learning_rate" in optimizer else inner


@contextlib.contextmanager
def changes_noted(model: keras.Model, before: dict[str, Any]) -> Iterator[None]:
    """What is changed of a model inside is state: another run of it does not differ by that.

    Args:
        model: compiled as it trains.
        before: its identity.
    """
    describe = describer_of(model)
    try:
        yield
    finally:
        now = describe()
        changed = {path for path, _, _ in _differences({k: before[k] for k in now}, now, "")}
        _CHANGED.setdefault(model, set()).update(changed)


def check_identity(saved: Any, now: dict[str, Any], where: str, model: keras.Model) -> None:
    """Refuses a run of another model, loss, optimizer, data set, seed or option.

    Warns where an attribute of the model has another value that no argument of its class's
    constructor has set, or a global that its functions read: it may as well be the time of day.

    Raises:
        RunError: names the first thing that differs.
    """
    if isinstance(saved, dict):
        now = {k: value for k, value in now.items() if k in saved or k not in _MAY_LACK}
    changed, doubtful = _CHANGED.get(model, ()), []
    for path, old, new in _differences(saved, now, ""):
        if path in changed:
            continue
        differs = _told(path, old, new)
        if ".@others" in path or path.startswith(_GLOBALS):
            doubtful.append(differs)
            continue
        raise RunError(
            f"The run in {where} is another one: {differs}. Pass what it was begun with, or "
            "another run_dir."
        )
    if doubtful:
        notices.warn(
            f"The run in {where} goes on although {'; '.join(doubtful[:3])}. If that decides the "
            "numbers of the training, they are not those of one run: pass another run_dir."
        )


def _told(path, old, new):
    """A difference in words."""
    data, _, what = path.rpartition(".")
    name = data.removeprefix("@sets.")
    if what == "@digest":
        return f"the first batch of {'x' if name == 'data' else name} has other values"
    if what == "checksum":
        where = "" if name == "data" else f" of {name}"
        return f"x, y or sample_weight{where} have other values"
    if path.startswith(_GLOBALS):
        return f"{path.removeprefix(_GLOBALS)[1:]} was {_short(old)}, and is now {_short(new)}"
    told = path.removeprefix("@sets.").replace("model.@own", "model").replace(f".{KEPT}", "")
    if told.startswith("@options."):
        told = re.sub(r"\w+", lambda name: f"`{name[0]}`", told.removeprefix("@options."), count=1)
    told = re.sub(r"\.@(given|attributes|others|functions|config)\b|@", "", told)
    told = re.sub(r"\._+(?=\w)", ".", told)
    return f"{told or 'all'} was {_short(old)}, and is now {_short(new)}"


def _short(value):
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The places where two identities differ, with what is there."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("class_name") == new.get("class_name") == "__lambda__":
            return  # its code tells the place of its source, which changes with other lines
        for key in dict.fromkeys([*new, *old]):
            if _is_compared(key, old, new, path):
                inner = f"{path}.{key}".lstrip(".")
                yield from _differences(old.get(key), new.get(key), inner)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            pair = [one[index] if index < len(one) else _NOTHING for one in (old, new)]
            yield from _differences(*pair, f"{path}[{index}]")
    elif isinstance(old, str) and isinstance(new, dict) and new.keys() & {"function", "class"}:
        # Earlier versions noted no more.
        yield from _differences(old, new.get("class", new.get("function")), path)
    elif isinstance(old, dict) and isinstance(new, str) and new == f"{len(old)} keys":
        return  # they noted all
    elif isinstance(old, list) and isinstance(new, str):  # they noted lists as they were
        yield from _differences(shortened(old), new, path)
    elif old != new or type(old) is not type(new):
        yield path, old, new


def _is_compared(key, old, new, path):
    if key in _BY_NAME:
        return False
    if key in _MAY_DIFFER and path:
        numbers = not any(isinstance(one.get(key), dict) for one in (old, new))
        return not numbers and key in old
    if key.startswith("@"):
        is_optional = True
    else:  # what only newer versions note, they note in full
        inside = path.rpartition(".")[2]
        is_optional = inside.startswith("@") and not inside.startswith((KEPT, _OF_WEIGHTS))
    if is_optional and not (key in old and key in new):
        return False
    if key == "@code":  # the code of another version of Python
        return old[key].partition(":")[0] == new[key].partition(":")[0]
    return True
