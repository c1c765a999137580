"""What identifies a training: model, loss, optimizer, options, data, seed.

::

    identity = identity_of(model, sources, seed, options)   # values of JSON, saved with a run
    check_identity(saved, identity, "runs/a", model)

What a training changes is state, and no difference (`changes_noted`).
"""

import contextlib
import dataclasses
import datetime
import dis
import re
import weakref
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerastrain import _keras
from kerastrain import notices
from kerastrain.data import checks as data_checks
from kerastrain.data import Source
from kerastrain.distribution import Cluster
from kerastrain.errors import ArgumentError
from kerastrain.errors import RunError
from kerastrain.options import Guard
from kerastrain.options import StepOptions
from kerastrain.run.array_descriptions import shortened
from kerastrain.run.descriptions import described
from kerastrain.run.descriptions import described_layer
from kerastrain.run.descriptions import KEPT
from kerastrain.state import python_state
from kerastrain.state import Walk
from kerastrain.step import updates as updates_lib

# What may be other numbers: they are state, and are restored. A schedule is none.
_MAY_DIFFER = ("learning_rate", "seed")
# What earlier versions have not noted, besides what begins with "@".
_MAY_LACK = ("loss_weights", "metrics")
_RENAMED = {"most": "max_skipped", "every": "snapshot_every"}
# Of functional models in the configs of layers: names that differ from process to process.
_BY_NAME = ("inbound_nodes", "input_layers", "output_layers")
# The paths in an identity that the trainings of a model have changed.
_CHANGED: "weakref.WeakKeyDictionary[keras.Model, set[str]]" = weakref.WeakKeyDictionary()
# The key of what each weight has besides its values.
_OF_WEIGHTS = "@weights"
# The key of what is in globals, and how many items of one are compared.
_GLOBALS, _FEW = "@globals", 64
_UPDATES = "@updates"
_NOTHING = type("Nothing", (), {"__repr__": lambda self: "nothing"})()


def identity_of(
    model: keras.Model,
    sources: dict[str, Source],
    seed: int | None,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What must be equal for a run to be resumed, of JSON's types.

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


def compared_options(
    class_weight: dict[int, float] | None,
    validation_freq: int | list[int] | None,
    step: StepOptions,
    guard: Guard,
) -> dict[str, Any]:
    """What identifies a run besides its model, data and seed.

    Args:
        class_weight: as passed to ``fit``.
        validation_freq: the same; None where nothing is validated.
        step, guard: those in force.
    """
    options = dataclasses.asdict(step)
    options.pop("lint")  # decides what is said of it
    weights: dict[str, float] | None = None
    if class_weight is not None:
        weights = {str(index): float(weight) for index, weight in class_weight.items()}
    frequency: list[int] | int | None = None
    if isinstance(validation_freq, Iterable):
        frequency = sorted(map(int, validation_freq))
    elif validation_freq is not None:
        frequency = int(validation_freq)
    return {
        "class_weight": weights,
        "validation_freq": frequency,
        "step": options,
        "guard": dataclasses.asdict(guard),
    }


def describer_of(model: keras.Model) -> Callable[[], dict[str, Any]]:
    """Gives the part of an identity that is the model's, as it is compiled now, whenever called."""
    loss, metrics, optimizer = model.loss, _keras.leaf_metrics(model), model.optimizer
    loss_weights = _keras.compile_arguments(model)["loss_weights"]
    updates = updates_lib.updates_of(model)

    def describe() -> dict[str, Any]:
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
            _UPDATES: [_update(update, model) for update in updates],
            _GLOBALS: _globals(model),
        }

    return describe


def _update(update: updates_lib.Update, model: keras.Model) -> dict[str, Any]:
    numbers = {id(weight): number for number, weight in enumerate(model.weights)}
    keys = _keras.variable_keys(update.optimizer, model.weights)
    weights = {key: f"weight {number}" for key, number in keys.items()}
    return {
        "name": update.name,
        "loss": described(getattr(update.loss, "__func__", update.loss)),
        "weights": [numbers.get(id(weight)) for weight in update.weights()],
        "optimizer": described(update.optimizer, weights=weights),
    }


def _globals(model: keras.Model) -> dict[str, Any]:
    """The plain values in globals that functions of the model and its parts read, and set not."""
    found = {}
    for name, function in python_state.functions_of(*Walk({"model": model}).of(object).values()):
        plain = python_state.plain_function(function)
        assert plain is not None  # `functions_of` gives functions that have one
        is_set = {i.argval for i in dis.get_instructions(plain) if i.opname == "STORE_GLOBAL"}
        for key, value in python_state.globals_of(plain).items():
            if key not in is_set and _is_plain(value):
                found[f"`{key}` of `{name}`"] = described(value)
    return found


def _is_plain(value: Any) -> bool:
    """Whether it is a number, text, or an array or a list of a few of them."""
    if isinstance(value, list | tuple):
        return len(value) <= _FEW and all(map(_is_plain, value))
    if isinstance(value, np.ndarray):
        return value.size <= _FEW and value.dtype.kind in "biufU"
    return isinstance(value, bool | int | float | str | np.generic)


def _flags(variable: keras.Variable) -> dict[str, Any]:
    """Whether a weight trains, and what else decides of its updates."""
    rules = {name: getattr(variable, name, None) for name in ("regularizer", "constraint")}
    text = {name: described(rule) for name, rule in rules.items() if rule is not None}
    return {"trainable": bool(variable.trainable), **text}


def learning_rates_of(identity: dict[str, Any]) -> list[Any]:
    """Those of all optimizers in an identity."""
    optimizers = [identity["optimizer"]]
    optimizers += [update["optimizer"] for update in identity.get(_UPDATES, [])]
    return [rate for optimizer in optimizers for rate in learning_rates(optimizer)]


def learning_rates(optimizer: Any) -> list[Any]:
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
        saved = _with_names_of_now(saved)
        now = {k: value for k, value in now.items() if k in saved or k not in _MAY_LACK}
    changed, doubtful = _CHANGED.get(model, ()), []
    for path, old, new in _differences(saved, now, ""):
        if path in changed:
            continue
        differs = _in_words(path, old, new)
        if ".@others" in path or path.startswith(_GLOBALS):
            doubtful.append(differs)
            continue
        raise RunError(
            f"The run in {where} is another one: {differs}. Pass what it was begun with, or "
            "another run_dir."
        )
    if doubtful:
        notices.warn(
            f"The run in {where} is resumed although {'; '.join(doubtful[:3])}. If that decides the "
            "numbers of the training, they are not those of one run: pass another run_dir."
        )


def contract_of(
    model: keras.Model, sources: dict[str, Source], seed: int | None, options: dict[str, Any]
) -> dict[str, Any]:
    """What several workers must have alike to train together: as `identity_of`, without the data."""
    return {
        **describer_of(model)(),
        "seed": None if seed is None else int(seed),
        "validation": list(sources),
        "@options": described(options),
    }


def check_alike(cluster: Cluster, contract: dict[str, Any]) -> None:
    """Refuses to train where a worker has been given something else than the first. Collective.

    Args:
        cluster: of the workers.
        contract: of this one.

    Raises:
        ArgumentError: names the first thing that differs.
    """
    contracts = cluster.gather_objects(contract)
    for number, other in enumerate(contracts):
        for path, first, its in _differences(contracts[0], other, ""):
            if ".@others" not in path and not path.startswith(_GLOBALS):
                words = _in_words(path, first, its).replace(" was ", " is ", 1)
                words = words.replace(", and is now ", f" on worker 0, and on worker {number} ")
                raise ArgumentError(
                    f"The workers do not train the same: {words}. Run one program with the same "
                    "arguments on all of them."
                )


def check_calls_alike(
    cluster: Cluster, given: dict[str, Any], uses: dict[str, str], rate: float | None
) -> None:
    """Refuses a call that another worker makes with other arguments. Collective.

    Args:
        cluster: of the workers.
        given: arguments by name: numbers are compared, and of data what they are.
        uses: what the callbacks do with batches, by the kind of steps.
        rate: the learning rate; None where it is no number.

    Raises:
        ArgumentError: names the first argument that differs.
    """
    short = {name: _in_short(value) for name, value in given.items()}
    others = {"uses_batches of the callbacks": uses, "the learning rate": rate}
    check_alike(cluster, {"@options": short, **others})


def _in_short(value: Any) -> Any:
    """An argument as workers compare it: numbers and text as they are, of data what they are."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _in_short(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_in_short(one) for one in value]
    if dataclasses.is_dataclass(value):
        return _in_short({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, np.integer | np.floating):
        return value.item()
    if data_checks.is_function(value):
        return "a function"
    return type(value).__name__ if data_checks.is_streamed(value) else "arrays"


def _with_names_of_now(saved: dict[str, Any]) -> dict[str, Any]:
    """An identity in which options have the names that they have had since version 0.8."""
    options = saved.get("@options")
    if not isinstance(options, dict) or not isinstance(options.get("guard"), dict):
        return saved
    guard = {_RENAMED.get(name, name): value for name, value in options["guard"].items()}
    return saved | {"@options": options | {"guard": guard}}


def _in_words(path: str, old: Any, new: Any) -> str:
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
    text = path.removeprefix("@sets.").replace("model.@own", "model").replace(f".{KEPT}", "")
    if text.startswith("@options."):
        text = re.sub(r"\w+", lambda name: f"`{name[0]}`", text.removeprefix("@options."), count=1)
    text = re.sub(r"\.@(given|attributes|others|functions|config)\b|@", "", text)
    text = re.sub(r"\._+(?=\w)", ".", text)
    decided = " (`batch_size` or the rows decide it)" if what == "batches" else ""
    return f"{text or 'all'} was {_short(old)}, and is now {_short(new)}{decided}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The places where two identities differ, with what is there."""
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("class_name") == new.get("class_name") == "__lambda__":
            return  # its code has the line of its source, which changes with other lines
        for key in dict.fromkeys([*new, *old]):
            if _is_compared(key, old, new, path):
                inner = f"{path}.{key}".lstrip(".")
                yield from _differences(old.get(key), new.get(key), inner)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            one, other = (part[index] if index < len(part) else _NOTHING for part in (old, new))
            yield from _differences(one, other, f"{path}[{index}]")
    elif isinstance(old, str) and isinstance(new, dict) and new.keys() & {"function", "class"}:
        # Earlier versions noted no more.
        yield from _differences(old, new.get("class", new.get("function")), path)
    elif isinstance(old, dict) and isinstance(new, str) and new == f"{len(old)} keys":
        return  # they noted all
    elif isinstance(old, list) and isinstance(new, str):  # they noted lists as they were
        yield from _differences(shortened(old), new, path)
    elif old != new or type(old) is not type(new):
        yield path, old, new


def _is_compared(key: str, old: dict[str, Any], new: dict[str, Any], path: str) -> bool:
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
