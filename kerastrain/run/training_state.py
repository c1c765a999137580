"""Everything that decides the next number of a training, as one value that can be saved.

::

    state = TrainingState(ModelState(model), sources, callbacks, runners)
    info, tensors = state.get(Position(epoch=2, step=5, steps=37))

    state.load(info, tensors)            # in another process: compares, changes nothing
    position = state.restore()

What belongs to it: the weights; mutable tables; the states of the layers' random generators;
optimizers' slots, counters and loss scale; the metrics' variables, of each replica; where each
data set is, and its order; the callbacks; the plan that runs; Python's, NumPy's and Keras's global
random generators, and what TensorFlow's random operations take their seeds from where they run
eagerly. What does not, such as the state of those in traced steps, is named by
`kerastrain.state.unsaved_state`.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.data import Source
from kerastrain.distribution import cluster_of
from kerastrain.distribution import merging
from kerastrain.distribution import MetricStates
from kerastrain.errors import RunError
from kerastrain.execution import Runner
from kerastrain.guard import GuardedSteps
from kerastrain.run import state_trees
from kerastrain.run.callback_states import CallbackStates
from kerastrain.run.identity import learning_rates_of
from kerastrain.run.position import Position
from kerastrain.run.state_checks import _listed
from kerastrain.run.state_checks import _path
from kerastrain.run.state_checks import _same
from kerastrain.run.state_checks import by_callbacks
from kerastrain.run.state_checks import check_order_of_captured
from kerastrain.run.state_checks import check_values
from kerastrain.run.state_checks import differ_by_worker
from kerastrain.run.state_checks import is_compared
from kerastrain.run.state_checks import saved_logs
from kerastrain.run.state_checks import warn_of_lost
from kerastrain.state import global_random
from kerastrain.state import GROUPS
from kerastrain.state import HostCopies
from kerastrain.state import keeps_more
from kerastrain.state import layer_states
from kerastrain.state import ModelState
from kerastrain.state import OF_OTHERS
from kerastrain.state import rolled_back
from kerastrain.state import set_layer_states

# What a validation leaves as it was.
_SET_ASIDE = ("metrics/", "optimizer/")


class TrainingState:
    """The state of one ``fit``.

    Args:
        variables: those of the model that trains, which is built and compiled.
        sources: the data sets by name, that to train on as ``"x"``.
        callbacks: their states.
        runners: gives the runners of the steps by kind; the plans of those that have chosen
            are kept.
        guard: what runs the train steps; what is saved has been verified by it.
    """

    def __init__(
        self,
        variables: ModelState,
        sources: dict[str, Source],
        callbacks: CallbackStates,
        runners: Callable[[], dict[str, Runner]],
        guard: GuardedSteps,
    ):
        self.model, self._state, self._sources = variables.model, variables, sources
        self._guard = guard
        self._callbacks, self._runners = callbacks, runners
        # What was saved, the value of each variable on each replica, and all tensors.
        self._found: tuple[dict[str, Any], dict[str, list[np.ndarray]], dict[str, np.ndarray]] = (
            {},
            {},
            {},
        )
        self._copies = self._before = HostCopies([])
        self._metrics: MetricStates | None = None
        self._saved_replicas: int | None = None
        self._begun_with: set[str] = set()  # the names of variables
        self._has_warned_of_late = False
        self._drawn_from: set[str] = set()  # global random numbers, by functions that make batches
        self._traced_with: dict[str, Any] | None = (
            None  # Python's values, where steps ran to be compared
        )

    # Save -----------------------------------------------------------------------

    def get(
        self, position: Position, before: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The present state as ``(info, tensors)``, copied to the host; valid until the next call.

        Args:
            position: where the training is; its steps have been verified by the guard.
            before: what `validation` gave, if the state is to be that.
        """
        before = before or {}
        if before:
            self._before.restore()
        values = {
            "position": dataclasses.asdict(
                dataclasses.replace(
                    position,
                    logs=saved_logs(position.logs),
                    epoch_logs=state_trees.savable(position.epoch_logs),
                )
            ),
            "data": before.get("data") or self._data(),
            "callbacks": before.get("callbacks") or self._callbacks.get(),
            "plans": {kind: runner.choice.settled for kind, runner in self._runners().items()},
            "random": before.get("random") or global_random.states(),
            "guard": self._guard.state(),
            "eager": self._state.eager,
        }
        variables = self._variables()
        values["tables"] = self._state.find_tables().states()
        values["metrics"] = self._metrics.fresh if self._metrics else None
        values["layers"] = layer_states(self._state.layers())
        made = [n for n in variables if n.startswith(OF_OTHERS) and n not in self._begun_with]
        if made and not self._has_warned_of_late:
            self._has_warned_of_late = True
            notices.warn(
                f"{_listed(made)}, of a callback or in a global, was made since the training began: "
                "after a resume it begins anew. Make such a variable before, or in on_train_begin."
            )
        for message in self._state.unsaved.messages(self._state.handles):
            notices.warn(message)
        info, tensors = state_trees.pack(values)
        self._copies = _copies_of(variables.values(), self._copies)
        taken = dict(zip(variables, self._copies.take(), strict=True))
        spread = differ_by_worker(self.model, variables, taken)
        for name, parts in taken.items():
            if name in spread:
                parts = [part.numpy() for part in _keras.read_all(variables[name])]
            if all(_same(part, parts[0]) for part in parts[1:]):
                parts = parts[:1]
            for index, part in enumerate(parts):
                tensors[f"{name}@{index}" if index else name] = part
        return info, tensors

    @contextlib.contextmanager
    def validation(self) -> Iterator[dict[str, Any]]:
        """Around a validation: gives what it changes, for one that is left before its end."""
        tables = self._state.find_tables()
        self._before = _copies_of(self._changed_by_validation(), self._before, tables)
        self._before.take()
        known = self._state.found

        def found(variables: list[Any]) -> None:
            if known is not None:
                known(variables)
            changed = {*map(id, self._changed_by_validation())}
            self._before.add(v for v in variables if id(v) in changed)

        with self._state.telling(found):
            yield {
                "data": self._data(),
                "callbacks": self._callbacks.before_test(),
                "random": global_random.states(),
            }

    def _changed_by_validation(self) -> list[Any]:
        named = self._variables()
        if self._callbacks.may_validate_otherwise():
            return list(named.values())
        trained = {id(w) for w in self.model.trainable_weights}
        return [
            v for n, v in named.items() if id(v) not in trained and not n.startswith(_SET_ASIDE)
        ]

    def _data(self) -> dict[str, dict[str, Any]]:
        return {name: source.state() for name, source in self._sources.items()}

    def _variables(self) -> dict[str, Any]:
        return self._state.variables()

    def begin(self, metrics: MetricStates) -> None:
        """Called after ``on_train_begin``: what changes from here on is state.

        Args:
            metrics: what validation begins with is state of theirs.
        """
        self._metrics = metrics
        self._begun_with = set(self._variables())
        self._state.find_tables()
        self._state.unsaved.begin()

    # Restore --------------------------------------------------------------------

    def load(
        self, info: dict[str, Any], tensors: dict[str, np.ndarray], replicas: int | None = None
    ) -> None:
        """Takes a state that was saved, and compares. Before ``on_train_begin``.

        Args:
            info, tensors: as `get` returned them.
            replicas: how many there were then; None for as many as now.

        Raises:
            RunError: it has other variables than the model, its optimizer and its metrics.
            CheckpointError: it is of no training.
        """
        self._saved_replicas = replicas
        values = state_trees.unpack(info, tensors)
        check_values(values, self._sources)
        values, tensors = by_callbacks(values, tensors)
        saved = {name.split("@")[0] for name in tensors if name.split("/")[0] in GROUPS}
        if any(name.startswith("captured/") for name in saved):
            check_order_of_captured(values, self._state.eager)
        if "guard" in values:  # not in the first versions
            self._guard.cut_as(values["guard"])  # an eager step may not fit otherwise
        if not {name for name in saved if is_compared(name)} <= self._variables().keys():
            self._make_variables()
        self._found = values, self._parts(saved, tensors), tensors
        self._callbacks.prepare(values["callbacks"])

    def warn_of_learning_rate(self, begun: dict[str, Any], now: dict[str, Any]) -> None:
        """Warns where another learning rate is passed than before, which is not the one in force.

        Args:
            begun, now: the identity of the run, and of this training.
        """
        parts = self._found[1]
        if learning_rates_of(begun) in ([], learning_rates_of(now)):
            return
        for name, variable in self._variables().items():
            if variable.name != "learning_rate" or name not in parts:
                continue
            saved = float(parts[name][0])
            if saved != float(variable.numpy()):
                notices.warn(
                    f"The learning rate is restored from the checkpoint, {saved:g}; the "
                    f"optimizer that was passed has {float(variable.numpy()):g}. To change it, use "
                    "a callback such as LearningRateScheduler, or another run_dir."
                )

    def _make_variables(self) -> None:
        """Traces a step of each kind, which finds the variables that only steps know.

        Nothing runs but steps that are eager, and these are rolled back.
        """
        sources = [("train", self._sources["x"])]
        sources += [("test", part) for name, part in self._sources.items() if name != "x"]
        variables = self._variables().values()
        with (
            rolled_back(variables, self._state.find_tables()) as copies,
            self._state.telling(copies.add),
        ):
            for kind, source in sources:
                with self._state.watching(kind):
                    self._runners()[kind].trace(source.peek())
        self._traced_with = self._state.unsaved.python_values()

    def restore(self, same_plan: bool = True) -> Position:
        """Restores the state that was saved. After ``on_train_begin``.

        Args:
            same_plan: whether the plan that was chosen then is kept.

        Raises:
            RunError: a pipeline is another one.
            DataError: a data set gives other batches than it gave, or may.
        """
        values, parts, tensors = self._found
        for name, source in self._sources.items():
            try:
                source.set_state(values["data"][name])
            except tf.errors.OpError as error:
                raise RunError(
                    f"`{name}` is another pipeline than it was: {error.message[:200]}. Pass the "
                    "one that the run was begun with, or another run_dir."
                ) from None
        drawing = [name for name, source in self._sources.items() if source.functions_drew]
        self._drawn_from = set().union(*(self._sources[name].functions_drew for name in drawing))
        global_random.await_functions(values["random"], self._drawn_from, drawing)
        for name, variable in self._variables().items():
            if name in parts:
                _keras.assign_local(variable, parts[name])
            elif name in tensors and not is_compared(name):  # of a callback, made since then
                _keras.assign_local(variable, self._local_parts(name, variable, tensors))
        tables = values.get("tables", {})  # not in the first versions
        left = self._state.find_tables().restore(tables) | tensors.keys()
        warn_of_lost(
            {name.split("@")[0].removeprefix("others/") for name in left}, self._variables()
        )
        now = self.model.distribute_strategy.num_replicas_in_sync
        is_cut_alike = (
            self._saved_replicas in (None, now)
            and not cluster_of(self.model.distribute_strategy).has_others
        )
        if self._metrics is not None and is_cut_alike:
            self._metrics.fresh = values.get("metrics")
        self._restore_layers(values.get("layers", {}))
        for kind, runner in self._runners().items():
            if same_plan and values["plans"].get(kind):
                runner.choice.pin(values["plans"][kind])
        if "guard" in values:  # not in the first versions
            self._guard.set_state(values["guard"])
        position = Position(**values["position"])
        self.model.stop_training = position.stopped
        return position

    def _restore_layers(self, states: dict[str, Any]) -> None:
        """What layers keep beyond variables; steps that were traced with other values are dropped."""
        layers, traced = self._state.layers(), self._traced_with
        keep_more = any(map(keeps_more, layers.values()))
        if keep_more:
            set_layer_states(layers, states)
        # Those of before ``on_train_begin`` have other values of Python's than the first run's.
        if keep_more or traced not in (None, self._state.unsaved.python_values()):
            for runner in self._runners().values():
                runner.forget_traces()
            self._state.unsaved.forget_traces()

    def restore_callbacks(self) -> None:
        """The last of it: what is the user's own code, and then the random generators."""
        values, _, _ = self._found
        self._callbacks.set(values["callbacks"])
        global_random.set_states(values["random"], but=self._drawn_from)

    def _parts(
        self, saved: set[str], tensors: dict[str, np.ndarray]
    ) -> dict[str, list[np.ndarray]]:
        """The value on each replica, of each variable; all are of the right shape."""
        variables = {n: v for n, v in self._variables().items() if is_compared(n)}
        # What only steps of other kinds know may be more than the run has.
        mine = {name for name in variables if name in saved or not name.startswith("captured/")}
        for name in sorted({name for name in saved if is_compared(name)} ^ mine):
            where, count = name.split("/")[0], sum(n.startswith(name.split("/")[0]) for n in saved)
            number = sum(n.startswith(where) for n in mine)
            raise RunError(
                f"The run was saved with {count} variables of the {where}, and there are {number} "
                f"now; the first that differs is {name}. Pass the layers, optimizer and metrics "
                "that it was begun with, or another run_dir."
            )
        return {name: self._local_parts(name, variables[name], tensors) for name in mine}

    def _local_parts(
        self, name: str, variable: Any, tensors: dict[str, np.ndarray]
    ) -> list[np.ndarray]:
        """The value of a variable on each replica of this worker, of the right shape."""
        local, (first, count) = _keras.read_local(variable), _keras.span_of(variable)
        number = self._saved_replicas or count
        saved: list[Any] = [tensors.get(f"{name}@{i}" if i else name) for i in range(number)]
        saved = [saved[0] if part is None else part for part in saved]
        rule = merging.rules_of(self.model).get(id(variable))
        if rule is None:
            parts = [saved[min(i, number - 1)] for i in range(count)]
        elif number == count:
            parts = saved
        else:
            merged = merging.merge(rule, saved)
            parts = [np.asarray(part) for part in merging.spread(rule, merged, count)]
        parts = parts[first : first + len(local)]
        for part, mine in zip(parts, local, strict=True):
            wanted = np.dtype(mine.dtype.as_numpy_dtype), tuple(mine.shape)
            if (part.dtype, part.shape) != wanted:
                raise RunError(
                    f"{_path(variable)} is of {wanted[0]} {wanted[1]}, and was saved as "
                    f"{part.dtype} {part.shape}. Pass the model that the run was begun with, "
                    "or another run_dir."
                )
        return parts


def _copies_of(variables: Collection[Any], copies: HostCopies, tables: Any = None) -> HostCopies:
    """The copies, or new ones if there are other variables by now."""
    known = [*map(id, variables)] == [*map(id, copies.variables)] and copies.tables is tables
    return copies if known else HostCopies(variables, tables)
