"""Whether what was saved is of the model, the data and the callbacks that are to be resumed."""

import zlib
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.data import Source
from kerastrain.distribution import cluster_of
from kerastrain.errors import CheckpointError
from kerastrain.errors import RunError
from kerastrain.run import state_trees
from kerastrain.run.callback_states import named_by_class
from kerastrain.run.position import Position
from kerastrain.state import global_random
from kerastrain.state import OF_OTHERS


def is_compared(name: str) -> bool:
    """Whether a variable is there before ``on_train_begin``, and part of what is trained."""
    return not name.startswith(OF_OTHERS)


def by_callbacks(
    values: dict[str, Any], tensors: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The same with what is of callbacks by their classes, as it is named now."""
    classes = [entry["class"] for entry in values["callbacks"]]
    of_names = {
        name: named_by_class(values.get(name, {}), classes) for name in ("tables", "layers")
    }
    kept = (values.get("guard") or {}).get("kept")
    if kept and isinstance(kept["values"], dict):
        kept = kept | {"values": named_by_class(kept["values"], classes)}
        of_names["guard"] = values["guard"] | {"kept": kept}
    return values | of_names, named_by_class(tensors, classes)


def check_order_of_captured(values: dict[str, Any], eager: bool) -> None:
    """Refuses variables that have another order now: that of their first use, or assignment."""
    if values.get("eager", eager) != eager:  # not in the first versions
        kinds = ("compiled", "eager") if eager else ("eager", "compiled")
        raise RunError(
            f"The run was saved by {kinds[0]} steps, and they are {kinds[1]} now. Its steps use "
            "variables that nothing but functions holds, and both know those in another order. Let "
            "the model, a layer or the loss hold them, run the steps as before, or pass another "
            "run_dir."
        )


def warn_of_lost(saved: set[str], variables: Iterable[str]) -> None:
    """Names what was saved of callbacks or globals and has no place now."""
    lost = sorted(saved - {name.removeprefix("others/") for name in variables})
    lost = [name for name in lost if f"others/{name}".startswith(OF_OTHERS)]
    if lost:
        notices.warn(
            "The run was saved with variables or tables of callbacks, or in globals, that are not "
            f"there now: {_listed(lost)}. What they held is lost. Pass the callbacks that the run was "
            "begun with, and make such variables before, or in on_train_begin."
        )


def _listed(names: Sequence[str]) -> str:
    """The first of some names of what callbacks and functions hold."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    bare = (name.removeprefix("others/").partition("/")[2] for name in names[:3])
    return ", ".join(bare) + more


def _path(variable: keras.Variable | tf.Variable) -> str:
    return getattr(variable, "path", variable.name)


def check_values(values: dict[str, Any], sources: dict[str, Source]) -> None:
    """Refuses what is of no training, before anything is changed."""
    position = values["position"]
    for name in ("epoch", "step", "steps"):
        if type(position[name]) is not int or not 0 <= position[name] < 2**62:
            raise CheckpointError(f"the position has {name}={position[name]!r}")
    Position(**position)
    if values["data"].keys() != sources.keys():
        raise RunError(
            f"The run has the data sets {sorted(values['data'])}, and there are {sorted(sources)} "
            "now. Pass those that it was begun with, or another run_dir."
        )
    for name, state in values["data"].items():
        known = sources[name].num_batches
        for key in ("taken", "of_epoch", "next_pass"):
            if type(state[key]) is not int or not 0 <= state[key] < 2**40:
                raise CheckpointError(f"the position in {name!r} has {key}={state[key]!r}")
        if known is not None and sources[name].steps is None and state["taken"] > known:
            raise CheckpointError(f"the position in {name!r} is behind its end")
        if not (state["pass"] is None or 0 <= state["pass"] < state["next_pass"]):
            raise CheckpointError(f"the position in {name!r} is in no pass")
        np.random.default_rng([state["seed"], 0])  # raises for what is no seed
    if not all(isinstance(entry["class"], str) for entry in values["callbacks"]):
        raise CheckpointError("the callbacks have no classes")
    global_random.check(values["random"])


def saved_logs(logs: Any) -> Any:
    """What a step returned, of Python's numbers: it may be tensors, or what was NumPy's."""
    return None if logs is None else state_trees.savable(_keras.python_logs(logs))


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same bytes."""
    one, other = (np.atleast_1d(array).view("uint8") for array in (one, other))
    return np.array_equal(one, other)


def differ_by_worker(
    model: keras.Model, variables: dict[str, Any], taken: dict[str, list[np.ndarray]]
) -> set[str]:
    """The names of variables of which another worker has other values. Collective.

    What gradients update is the same on all workers, and is compared at the ends of epochs. All else is
    compared here: statistics, metrics, and what a layer assigns by the rows that it has.

    Args:
        model: the model that trains.
        variables: by name.
        taken: the values of each on the replicas of this worker.
    """
    cluster = cluster_of(model.distribute_strategy)
    if not cluster.has_others:
        return set()
    of_optimizers = (v for one in _keras.optimizers_of(model) for v in one.variables)
    updated = (*model.trainable_weights, *of_optimizers)
    same = {id(variable) for variable in updated}
    shapes = {name: _keras.tf_variable(v).shape for name, v in variables.items()}
    growing = {name for name, shape in shapes.items() if not shape.is_fully_defined()}
    names = [n for n, v in variables.items() if id(v) not in same and n not in growing]
    sums = [[zlib.crc32(np.ascontiguousarray(part).tobytes()) for part in taken[n]] for n in names]
    rows = cluster.gather([number for numbers in sums for number in numbers])
    found, start = set(growing), 0
    for name, numbers in zip(names, sums, strict=True):
        if len(np.unique(rows[:, start : start + len(numbers)])) > 1:  # the same on all workers
            found.add(name)
        start += len(numbers)
    return found
