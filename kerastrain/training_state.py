"""Everything that decides the next number of a training, as one value that can be saved.

::

    state = TrainingState(model, sources, callbacks, runners)
    info, tensors = state.get(Position(epoch=2, step=5, steps=37))

    state.find(info, tensors)            # in another process: compares, changes nothing
    position = state.put_back()

What belongs to it: the weights; the states of the layers' random generators; optimizers'
slots, counters and loss scale; the metrics' variables, of each replica; where each data set is,
and its order; the callbacks; the plan that runs; Python's, NumPy's and Keras's global random
generators. What does not: TensorFlow's own random operations, whose state is out of reach.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain import state_trees
from kerastrain.callbacks import CallbackStates
from kerastrain.data import Source
from kerastrain.errors import CheckpointError
from kerastrain.errors import RunError
from kerastrain.guard import GuardedSteps
from kerastrain.identity import described
from kerastrain.identity import learning_rates
from kerastrain.runner import Runner
from kerastrain.variables import GROUPS
from kerastrain.variables import HostCopies
from kerastrain.variables import variables_of


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

    @property
    def place(self) -> tuple[int, int, int]:
        """What tells it from others of the same training."""
        return self.epoch, self.step, self.steps


class TrainingState:
    """The state of one ``fit``.

    Args:
        model: the model that trains, built and compiled.
        sources: the data sets by name, that to train on as ``"x"``.
        callbacks: their states.
        runners: gives the runners of the steps by kind; the plans of those that have chosen
            are kept.
        guard: what runs the train steps; what is saved has been verified by it.
    """

    def __init__(
        self,
        model: keras.Model,
        sources: dict[str, Source],
        callbacks: CallbackStates,
        runners: Callable[[], dict[str, Runner]],
        guard: GuardedSteps,
    ):
        self.model, self._sources = model, sources
        self._guard = guard
        self._callbacks, self._runners = callbacks, runners
        self._found: tuple[dict, dict] = {}, {}
        self._copies = self._before = HostCopies([])

    # Save -----------------------------------------------------------------------

    def get(
        self, position: Position, before: dict | None = None
    ) -> tuple[dict, dict[str, np.ndarray]]:
        """The present state as ``(info, tensors)``, copied to the host; valid until the next call.

        Args:
            position: where the training is.
            before: what `before_validation` returned, if the state is to be that.

        Raises:
            NonFiniteError: a step was not finite, and is taken back.
        """
        before = before or {}
        for variable, value in before.get("generators", []):
            variable.assign(value)
        if before.get("copied"):
            self._before.put_back()
        logs = self._guard.verify_all()
        if logs is not None:
            position.logs = logs[-1]
        values = {
            "position": dataclasses.asdict(
                dataclasses.replace(
                    position,
                    logs=_saved_logs(position.logs),
                    epoch_logs=state_trees.savable(position.epoch_logs),
                )
            ),
            "data": before.get("data") or self._data(),
            "callbacks": before.get("callbacks") or self._callbacks.get(),
            "plans": {kind: runner.choice.settled for kind, runner in self._runners().items()},
            "random": before.get("random") or _random_states(),
            "guard": self._guard.state(),
        }
        info, tensors = state_trees.pack(values)
        self._copies = self._copies_into(self._copies)
        for name, parts in zip(self._variables(), self._copies.take(), strict=True):
            if all(_same(part, parts[0]) for part in parts[1:]):
                parts = parts[:1]
            for index, part in enumerate(parts):
                tensors[f"{name}@{index}" if index else name] = part
        return info, tensors

    def before_validation(self) -> dict[str, Any]:
        """What a validation changes, for one that is left before its end."""
        copied = self._callbacks.may_validate_otherwise()
        if copied:
            self._before = self._copies_into(self._before)
            self._before.take()
        return {
            "data": self._data(),
            "callbacks": self._callbacks.before_test(),
            "copied": copied,
            "random": _random_states(),
            "generators": [(v, v.numpy()) for v in _keras.random_states(self.model)],
        }

    def _data(self):
        return {name: source.state() for name, source in self._sources.items()}

    def _variables(self):
        return variables_of(self.model)

    def _copies_into(self, copies):
        """The copies, or new ones if there are other variables by now."""
        variables = self._variables().values()
        known = [*map(id, variables)] == [*map(id, copies.variables)]
        return copies if known else HostCopies(variables)

    # Put back -------------------------------------------------------------------

    def find(self, info: dict, tensors: dict[str, np.ndarray]) -> None:
        """Takes a state that was saved, and compares. Before ``on_train_begin``.

        Raises:
            RunError: it has other variables than the model, its optimizer and its metrics.
            CheckpointError: it is of no training.
        """
        values = state_trees.unpack(info, tensors)
        _check_values(values, self._sources)
        saved = {name.split("@")[0] for name in tensors if name.split("/")[0] in GROUPS}
        if not saved <= self._variables().keys():
            self._make_variables()
        self._found = values, self._parts(saved, tensors)
        self._callbacks.prepare(values["callbacks"])

    def warn_of_learning_rate(self, begun: Any) -> None:
        """Tells who passes another learning rate than before that it is not the one in force.

        Args:
            begun: the optimizer in the identity of the run.
        """
        passed, parts = learning_rates(described(self.model.optimizer)), self._found[1]
        if learning_rates(begun) in ([], passed):
            return
        for name, variable in self._variables().items():
            if variable.name != "learning_rate" or not name.startswith("optimizer/"):
                continue
            saved = float(parts[name][0])
            if saved != float(variable.numpy()):
                notices.warn(
                    f"The training goes on with the learning rate that it had, {saved:g}; the "
                    f"optimizer that was passed has {float(variable.numpy()):g}. To change it, use "
                    "a callback such as LearningRateScheduler, or another run_dir."
                )

    def _make_variables(self):
        """Runs a step, which may make some when it first runs, and takes its effect back."""
        before = [(v, _keras.read_local(v)) for v in self._variables().values()]
        self._runners()["train"].run_once(self._sources["x"].peek())
        for variable, parts in before:
            _keras.assign_local(variable, parts)

    def put_back(self, same_plan: bool = True) -> Position:
        """Lets the training go on where the state was saved. After ``on_train_begin``.

        Args:
            same_plan: whether the plan that was chosen then is kept.

        Raises:
            RunError: a pipeline is another one.
        """
        values, parts = self._found
        for name, source in self._sources.items():
            try:
                source.set_state(values["data"][name])
            except tf.errors.OpError as error:
                raise RunError(
                    f"`{name}` is another pipeline than it was: {error.message[:200]}. Pass the "
                    "one that the run was begun with, or another run_dir."
                ) from error
        for name, variable in self._variables().items():
            _keras.assign_local(variable, parts[name])
        for kind, runner in self._runners().items():
            if same_plan and values["plans"].get(kind):
                runner.choice.pin(values["plans"][kind])
        if "guard" in values:  # not in the first versions
            self._guard.set_state(values["guard"])
        position = Position(**values["position"])
        self.model.stop_training = position.stopped
        return position

    def put_back_callbacks(self) -> None:
        """The last of it: what is the user's own code, and then the random generators."""
        values, _ = self._found
        self._callbacks.set(values["callbacks"])
        _set_random_states(values["random"])

    def _parts(self, saved, tensors):
        """The value on each replica, of each variable; all are of the right shape."""
        variables = self._variables()
        for name in sorted(saved ^ variables.keys()):
            where, count = name.split("/")[0], sum(n.startswith(name.split("/")[0]) for n in saved)
            mine = sum(n.startswith(where) for n in variables)
            raise RunError(
                f"The run was saved with {count} variables of the {where}, and there are {mine} "
                "now. Pass the layers, optimizer and metrics that it was begun with, or another "
                "run_dir."
            )
        found = {}
        for name, variable in variables.items():
            local = _keras.read_local(variable)
            parts = [tensors.get(f"{name}@{i}" if i else name) for i in range(len(local))]
            parts = [parts[0] if part is None else part for part in parts]
            for part, mine in zip(parts, local, strict=True):
                wanted = np.dtype(mine.dtype.as_numpy_dtype), tuple(mine.shape)
                if (part.dtype, part.shape) != wanted:
                    raise RunError(
                        f"{_path(variable)} is of {wanted[0]} {wanted[1]}, and was saved as "
                        f"{part.dtype} {part.shape}. Pass the model that the run was begun with, "
                        "or another run_dir."
                    )
            found[name] = parts
        return found


def _path(variable):
    return getattr(variable, "path", variable.name)


def _check_values(values, sources):
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
    random.Random().setstate(values["random"]["python"])
    np.random.RandomState().set_state(values["random"]["numpy"])


def _saved_logs(logs):
    """What a step returned, of Python's numbers: it may be tensors, or what was NumPy's."""
    return None if logs is None else state_trees.savable(_keras.python_logs(logs))


def _same(one, other):
    """Whether two arrays have the same bytes."""
    one, other = (np.atleast_1d(array).view("uint8") for array in (one, other))
    return np.array_equal(one, other)


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
    if states["keras"] is not None:
        if _keras.global_random_state() is None:
            keras.random.uniform(())  # makes it
        _keras.global_random_state().assign(states["keras"])
