"""Everything that decides the next number of a training, as one value that can be saved.

::

    state = TrainingState(model, sources, callbacks, plans)
    info, tensors = state.take(Position(epoch=2, step=5, steps=37))
    position = state.put_back(info, tensors)          # in another process

What belongs to it: the weights; the states of the layers' random generators; the optimizer's
slots, counters and loss scale; the metrics' variables, of each replica; where each data set is,
and its order; the callbacks; the plan that runs; Python's, NumPy's and Keras's global random
generators.

`identity_of` tells what must be equal for a state to fit: model, loss, optimizer, data, seed.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerastrain import _keras
from kerastrain import checks
from kerastrain import state_trees
from kerastrain.callbacks import CallbackStates
from kerastrain.data import Source
from kerastrain.errors import CheckpointError
from kerastrain.errors import RunError
from kerastrain.runner import Runner


@dataclasses.dataclass
class Position:
    """Where a training is.

    Attributes:
        epoch: the one that runs, or comes next.
        step: how many of its steps have run.
        steps: how many have run in all epochs.
        is_trained: whether the epoch has no steps left; what comes after them has not happened.
        stopped: whether a callback has set ``stop_training``.
        logs: what the last step returned, where steps return logs.
        epoch_logs: the results of the last epoch that ended.
    """

    epoch: int = 0
    step: int = 0
    steps: int = 0
    is_trained: bool = False
    stopped: bool = False
    logs: dict | None = None
    epoch_logs: dict | None = None

    def after_epoch(self, stopped: bool) -> "Position":
        """The begin of the next epoch."""
        return dataclasses.replace(
            self, epoch=self.epoch + 1, step=0, is_trained=False, stopped=stopped
        )


class TrainingState:
    """The state of one ``fit``.

    Args:
        model: the model that trains, built and compiled.
        sources: the data sets by name.
        callbacks: their states.
        runners: gives the runners of the steps by kind; the plans of those that have chosen
            are kept.
    """

    def __init__(
        self,
        model: keras.Model,
        sources: dict[str, Source],
        callbacks: CallbackStates,
        runners: Callable[[], dict[str, Runner]],
    ):
        self.model, self._sources = model, sources
        self._callbacks, self._runners = callbacks, runners

    # Save -----------------------------------------------------------------------

    def data(self) -> dict[str, dict]:
        """Where each data set is."""
        return {name: source.state() for name, source in self._sources.items()}

    def take(
        self, position: Position, data: dict | None = None
    ) -> tuple[dict, dict[str, np.ndarray]]:
        """The present state as ``(info, tensors)``.

        Nothing is copied on a CPU: TensorFlow writes to a variable's memory only while
        nobody else holds it.

        Args:
            position: where the training is.
            data: where the data sets are, if not where they are now.

        Raises:
            TypeError: something cannot be saved; the message says what.
        """
        values = {
            "position": dataclasses.asdict(position),
            "data": self.data() if data is None else data,
            "callbacks": self._callbacks.get(),
            "plans": {kind: runner.choice.settled for kind, runner in self._runners().items()},
            "random": _random_states(),
        }
        info, tensors = state_trees.pack(values)
        for name, variable in self._variables().items():
            parts = [part.numpy() for part in _keras.read_local(variable)]
            if all(_same(part, parts[0]) for part in parts[1:]):
                parts = parts[:1]
            for index, part in enumerate(parts):
                tensors[f"{name}@{index}" if index else name] = part
        return info, tensors

    def _variables(self):
        """The variables by a name that is the same in each process."""
        model = self.model
        groups = {
            "model": model.variables,
            "metrics": [v for metric in model.metrics for v in metric.variables],
            "optimizer": model.optimizer.variables if model.optimizer is not None else [],
        }
        found, seen = {}, set()
        for group, variables in groups.items():
            for variable in variables:
                if id(variable) not in seen:
                    seen.add(id(variable))
                    found[f"{group}/{len(found)}"] = variable
        return found

    # Put back -------------------------------------------------------------------

    def put_back(
        self, info: dict, tensors: dict[str, np.ndarray], same_plan: bool = True
    ) -> Position:
        """Lets the training go on where `take` was called. Nothing is changed if it cannot.

        Args:
            info, tensors: as `take` returned them.
            same_plan: whether the plan that was chosen then is kept.

        Raises:
            CheckpointError: the state is not of such a training.
        """
        values = state_trees.unpack(info, tensors)
        checks.build_optimizer(self.model)
        parts = self._parts(tensors)
        try:
            position = _checked(Position(**values["position"]))
            data, callbacks = values["data"], values["callbacks"]
            plans, generators = values["plans"], values["random"]
            for name, source in self._sources.items():
                source.set_state(data[name])
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"The state of a training lacks {error}.") from error
        for name, variable in self._variables().items():
            _keras.assign_local(variable, parts[name])
        for kind, runner in self._runners().items():
            if same_plan and plans.get(kind):
                runner.choice.pin(plans[kind])
        self._callbacks.set(callbacks)
        self.model.stop_training = position.stopped
        _set_random_states(generators)
        return position

    def _parts(self, tensors):
        """The value on each replica, of each variable; all are of the right shape."""
        found = {}
        for name, variable in self._variables().items():
            local = _keras.read_local(variable)
            parts = [tensors.get(f"{name}@{i}" if i else name) for i in range(len(local))]
            parts = [parts[0] if part is None else part for part in parts]
            for part, mine in zip(parts, local, strict=True):
                wanted = np.dtype(mine.dtype.as_numpy_dtype), tuple(mine.shape)
                if part is None or (part.dtype, part.shape) != wanted:
                    has = "nothing" if part is None else f"{part.dtype} {part.shape}"
                    raise CheckpointError(
                        f"{variable.path} is of {wanted[0]} {wanted[1]}, and was saved as {has}."
                    )
            found[name] = parts
        return found

    def prepare(self, info: dict, tensors: dict[str, np.ndarray]) -> None:
        """What callbacks need before ``on_train_begin``."""
        self._callbacks.prepare(state_trees.unpack(info, tensors).get("callbacks", []))


def _checked(position):
    """A position, if it is one."""
    for name in ("epoch", "step", "steps"):
        value = getattr(position, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
            raise CheckpointError(f"The position has {name}={value!r}.")
    return position


def _same(one, other):
    return one.tobytes() == other.tobytes()


def _random_states():
    generator = _keras.global_random_state()
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "keras": None if generator is None else generator.numpy(),
    }


def _set_random_states(states):
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    generator = _keras.global_random_state()
    if generator is not None and states["keras"] is not None:
        generator.assign(states["keras"])


# Identity ---------------------------------------------------------------------------


def identity_of(model: keras.Model, source: Source, seed: int | None) -> dict[str, Any]:
    """What must be equal for a run to go on, of JSON's types.

    Args:
        model: built and compiled.
        source: the data to train on.
        seed: as the user passed it.
    """
    return {
        "model": {
            "class": type(model).__qualname__,
            "layers": [_described(layer) for layer in _keras.all_layers(model)[1:]],
            "weights": [[str(v.dtype), list(v.shape)] for v in model.weights],
        },
        "loss": _described(model.loss),
        "optimizer": type(model.optimizer).__qualname__,
        "replicas": model.distribute_strategy.num_replicas_in_sync,
        "seed": seed,
        "data": source.identity(),
    }


def check_identity(saved: Any, now: dict[str, Any], where: str) -> None:
    """Refuses a run of another model, loss, optimizer, data set or seed.

    Raises:
        RunError: names the first thing that differs.
    """
    found = _first_difference(saved, now, "")
    if found is not None:
        path, old, new = found
        raise RunError(
            f"The run in {where} is another one: {path or 'all'} was {_short(old)}, and is now "
            f"{_short(new)}. Pass what it was begun with, or another run_dir."
        )


def _first_difference(old, new, path):
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*new, *old]):
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


def _described(value, depth=6):
    """Values of JSON that are the same for equal objects in each process."""
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value) if isinstance(value, float) else value
    if depth == 0:
        return type(value).__qualname__
    if isinstance(value, dict):
        # Layers are numbered by how many were made before them.
        kept = {k: v for k, v in value.items() if k not in ("name", "build_config", "module")}
        return {str(key): _described(item, depth - 1) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [_described(item, depth - 1) for item in value]
    kind = f"{type(value).__qualname__}"
    if isinstance(value, keras.Layer):
        try:
            config = {} if isinstance(value, keras.Model) else value.get_config()
        except Exception:  # a layer without a config of its own
            config = {}
        return {"class": kind, **_described(config, depth - 1)}
    if hasattr(value, "get_config"):
        try:
            return {"class": kind, **_described(value.get_config(), depth - 1)}
        except Exception:  # as above
            return kind
    if callable(value):
        return getattr(value, "__qualname__", kind)
    return kind
