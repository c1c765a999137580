"""What tells one training from another: model, loss, optimizer, data, seed.

::

    identity = identity_of(model, sources, seed)       # values of JSON, saved with a run
    check_identity(saved, identity, "runs/a")
"""

import warnings
from typing import Any

import keras

from kerastrain import _keras
from kerastrain.data import Source
from kerastrain.errors import RunError


def identity_of(
    model: keras.Model, sources: dict[str, Source], seed: int | None
) -> dict[str, Any]:
    """What must be equal for a run to go on, of JSON's types.

    Args:
        model: built and compiled.
        sources: the data sets by name, that to train on as ``"x"``.
        seed: as the user passed it.
    """
    return {
        "model": {
            "class": type(model).__qualname__,
            "layers": [described(layer) for layer in _keras.all_layers(model)[1:]],
            "weights": [[str(v.dtype), list(v.shape)] for v in model.weights],
        },
        "loss": described(model.loss),
        "loss_weights": described(_keras.compile_arguments(model)["loss_weights"]),
        "metrics": [described(metric) for metric in _keras.leaf_metrics(model)],
        "optimizer": described(model.optimizer),
        "replicas": model.distribute_strategy.num_replicas_in_sync,
        "seed": None if seed is None else int(seed),
        "data": sources["x"].identity(),
        "validation": sorted(sources.keys() - {"x"}),
    }


# What may be other numbers: they are state, and go on as they were. A schedule is none.
_MAY_DIFFER = ("learning_rate", "seed")
# What earlier versions have not noted.
_MAY_LACK = ("loss_weights", "metrics")


def learning_rates(optimizer: Any) -> list:
    """Those of an optimizer as it is `described`, and of one in it."""
    if not isinstance(optimizer, dict):
        return []
    inner = [rate for value in optimizer.values() for rate in learning_rates(value)]
    return [optimizer["learning_rate"], *inner] if "learning_rate" in optimizer else inner


def check_identity(saved: Any, now: dict[str, Any], where: str) -> None:
    """Refuses a run of another model, loss, optimizer, data set or seed.

    Raises:
        RunError: names the first thing that differs.
    """
    if isinstance(saved, dict):
        now = {k: value for k, value in now.items() if k in saved or k not in _MAY_LACK}
    found = _first_difference(saved, now, "")
    if found is not None:
        path, old, new = found
        differs = f"{path or 'all'} was {_short(old)}, and is now {_short(new)}"
        if path == "data.checksum":
            differs = "x, y or sample_weight have other values"
        raise RunError(
            f"The run in {where} is another one: {differs}. Pass what it was begun with, or "
            "another run_dir."
        )


def _first_difference(old, new, path):
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("class_name") == new.get("class_name") == "__lambda__":
            return None  # its code tells the place of its source, which changes with other lines
        for key in dict.fromkeys([*new, *old]):
            numbers = not any(isinstance(one.get(key), dict) for one in (old, new))
            if path and key in _MAY_DIFFER and (numbers or key not in old):
                continue
            found = _first_difference(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
            if found:
                return found
        return None
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, pair in enumerate(zip(old, new, strict=True)):
            found = _first_difference(*pair, f"{path}[{index}]")
            if found:
                return found
        return None
    return None if old == new and type(old) is type(new) else (path, old, new)


def _short(value):
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _config_of(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of functions without a name, which nobody loads from here
        return value.get_config()


def described(value: Any, depth: int = 6) -> Any:
    """Values of JSON that are the same for equal objects in each process."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value) if isinstance(value, float) else value
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, dict):
        # Layers are numbered by how many were made before them; a policy has nothing but a name.
        left_out = ("build_config", "module", *(["name"] if len(value) > 1 else []))
        kept = {k: v for k, v in value.items() if k not in left_out}
        return {str(key): described(item, depth - 1) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [described(item, depth - 1) for item in value]
    kind = f"{type(value).__qualname__}"
    if isinstance(value, keras.Layer):
        try:
            config = {} if isinstance(value, keras.Model) else _config_of(value)
        except Exception:  # a layer without a config of its own
            config = {}
        return {"class": kind, **described(config, depth - 1)}
    if hasattr(value, "get_config"):
        try:
            return {"class": kind, **described(_config_of(value), depth - 1)}
        except Exception:  # as above
            return kind
    if callable(value):
        return getattr(value, "__qualname__", kind)
    return kind
