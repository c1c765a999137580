"""The state of a training: every variable that its steps can read or change, by name.

::

    state = ModelState(model)
    state.callbacks = callbacks
    state.variables()                    # {"model/0": variable, "others/model/loss/mean": ...}
    steps = Steps(model, ..., state=state)

It is found in two ways, neither of which knows places by name. `kerastrain.state.walk` finds what can be
reached from the model, its compiled optimizer, loss and metrics, and the callbacks. And each traced
step lists the variables that it holds, before it runs for the first time: among them those of closures
and modules, and those that its trace has made. Where steps are not traced, each assignment is seen
before it happens. So the value of a variable before the first step that changed it is always known.
What closures and modules hold is also found by the functions that read it, where no trace shows
it: those of callbacks, and of an eager model.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.state import global_random
from kerastrain.state import python_state
from kerastrain.state.callback_names import by_name as callbacks_by_name
from kerastrain.state.host_copies import rolled_back
from kerastrain.state.tables import MUTABLE
from kerastrain.state.tables import Tables
from kerastrain.state.unsaved_state import UnsavedState
from kerastrain.state.walk import unused
from kerastrain.state.walk import Walk

GROUPS = ("model", "metrics", "optimizer", "others", "captured")
# What begins so may be there or not: it is no part of the model.
OF_OTHERS = ("others/callbacks/", "others/functions/")


class ModelState:
    """The variables of one model's training.

    Args:
        model: the model that trains; it may be built and compiled later.
        eager: whether its steps run without being traced.

    Attributes:
        model, eager: as passed.
        callbacks: of the training that runs; their variables are state too.
        found: called with variables that were not known, before a step first changes them.
        unsaved: what the training changes beyond variables and tables.
    """

    def __init__(self, model: keras.Model, eager: bool = False):
        self.model, self.eager = model, eager
        self._tables = Tables()
        self.unsaved = UnsavedState(model, eager)
        self._known: dict[str, Any] = {}
        self._handles: set[int] = set()
        self._of_functions: set[int] = set()
        # Those that only a step knows, by its kind. A train step comes first in all processes.
        self._captured: dict[str, list] = {"train": [], "test": [], "predict": []}
        self._advanced: dict[int, Any] = {}  # handles of generators' states, as far as steps show
        self._walk = self._held = Walk({})  # what objects hold, and what only functions do
        self.callbacks: list[keras.callbacks.Callback] = []
        self.found: Callable[[list], None] | None = None

    def variables(self) -> dict[str, Any]:
        """All of them, as things are now.

        Returns:
            ``{"<group>/<index or path>": variable}``; the groups are `GROUPS`. Keras's global
            random generator is not among them.
        """
        model = self.model
        history = vars(model).get("history")  # of the last fit
        # The model first: what it holds has a name of its own, whichever callback gets hold of it.
        callbacks = callbacks_by_name(self.callbacks)
        roots = {"model": model} | {f"callbacks/{name}": one for name, one in callbacks.items()}
        self._walk = Walk(roots, known=(history,))
        groups: dict[str, dict[Any, Any]] = {
            "model": dict(enumerate(model.variables)),
            "metrics": dict(enumerate(v for m in model.metrics for v in m.variables)),
            "optimizer": dict(enumerate(model.optimizer.variables if model.optimizer else [])),
            "others": self._walk.variables,
            "captured": dict(enumerate(v for found in self._captured.values() for v in found)),
        }
        generator = _keras.global_random_state()
        self._known = {}
        self._handles = set() if generator is None else _keras.handles_of(generator)
        for group, variables in groups.items():
            for name, variable in variables.items():
                handles = _keras.handles_of(variable)
                if not handles <= self._handles:
                    self._name(f"{group}/{name}", variable)
                    self._handles |= handles
        # Last, and unknown to `_meet`: what steps change too is theirs.
        owners = {}
        if self.eager:
            objects = self._walk.of(object).items()
            owners = {f"functions/{p}": one for p, one in objects if not p.startswith("callbacks/")}
        owners |= {f"callbacks/{name}": one for name, one in callbacks.items()}
        self._held = Walk(_held_by_functions(owners), known=(history, model, *callbacks.values()))
        known = set(self._handles)
        for name, variable in self._held.variables.items():
            handles = _keras.handles_of(variable)
            if not handles <= known:
                self._name(f"others/{name}", variable)
                known |= handles
        self._of_functions = known - self._handles
        return dict(self._known)

    @property
    def handles(self) -> set[int]:
        """Identifies the `variables` of the last call, Keras's generator included."""
        return self._handles | self._of_functions

    def _name(self, name: str, variable: Any) -> None:
        """Adds a variable; behind an "@" checkpoints have the number of the replica."""
        self._known[unused(name.replace("@", "_"), self._known)] = variable

    def find_tables(self) -> Tables:
        """Those that the training may change, as of the last `variables`."""
        objects = self._walk.of(object)
        held = Walk(_held_by_functions(objects), known=tuple(objects.values()))
        self._tables.set_found(held.of(MUTABLE) | self._walk.of(MUTABLE))
        return self._tables

    def layers(self) -> dict[str, keras.Layer]:
        """All layers that can be reached, by path, as of the last `variables`."""
        return self._walk.of(keras.Layer)

    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """All optimizers that can be reached, as of the last `variables`."""
        return list(self._walk.of(keras.optimizers.Optimizer).values())

    def left_by_rollback(self) -> set[int]:
        """The ids of those that a rollback does not change: metrics, and random generators."""
        metrics = self._walk.of(keras.metrics.Metric).values()
        found = {id(v) for metric in metrics for v in metric.variables}
        for walk in (self._walk, self._held):
            for kind in (keras.random.SeedGenerator, tf.random.Generator):
                found |= {id(generator.state) for generator in walk.of(kind).values()}
        captured = [v for variables in self._captured.values() for v in variables]
        found |= {id(v) for v in captured if v.dtype == tf.uint32}  # as Keras's generators
        known = self._known.values() if self._advanced else ()
        return found | {id(v) for v in known if self._advanced.keys() & _keras.handles_of(v)}

    def changed_by_steps(self) -> dict[str, Any]:
        """Those of `variables`, as they were last, whose numbers a step is answerable for."""
        left = self.left_by_rollback()
        return {
            name: variable
            for name, variable in self._known.items()
            if not name.startswith(("metrics/", *OF_OTHERS)) and id(variable) not in left
        }

    # What steps show --------------------------------------------------------------

    def note(self, kind: str, function: Any) -> None:
        """A step has been traced, and is about to run for the first time.

        Args:
            kind: ``"train"``, ``"test"`` or ``"predict"``.
            function: the concrete function.
        """
        self._tables.add_captured(kind, self.unsaved.note(function))
        self._advanced |= _keras.advanced_generators(function)
        self._meet(kind, _keras.captured_variables(function, self._handles))

    def watching(self, kind: str) -> contextlib.AbstractContextManager:
        """Around steps of a kind: where they run eagerly, what they assign is seen."""
        if not self.eager:
            return contextlib.nullcontext()
        return _keras.assignments_seen(lambda variable: self._meet(kind, [variable]))

    @contextlib.contextmanager
    def telling(self, found: Callable[[list], None]) -> Iterator[None]:
        """Inside, ``found`` is called with variables that were not known."""
        before, self.found = self.found, found
        try:
            yield
        finally:
            self.found = before

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Inside, steps may train; afterwards all variables, tables and generators are as before."""
        copied = list(self.variables().values())
        generators = global_random.states()
        with rolled_back(copied, self.find_tables()) as copies, self.telling(copies.add):
            try:
                yield
            finally:
                global_random.set_states(generators)

    def _meet(self, kind: str, variables: list[Any]) -> None:
        before, of_functions = self._handles, self._of_functions
        unknown = [v for v in variables if not _keras.handles_of(v) <= before]
        if not unknown:
            return
        self.variables()  # it may have been made since the last time, and have a name
        self._captured[kind] += [v for v in unknown if not _keras.handles_of(v) <= self._handles]
        found, generator = list(self.variables().values()), _keras.global_random_state()
        if generator is not None:
            found.append(generator)
        fresh = [v for v in found if not _keras.handles_of(v) <= before | of_functions]
        if self.found is not None and fresh:
            self.found(fresh)


def _held_by_functions(owners: dict[str, Any]) -> dict[str, Any]:
    """What functions of some objects hold, by the paths of the objects and the functions' names."""
    found: dict[str, Any] = {}
    for name, value in python_state.held_by_functions(owners):
        found[unused(name, found)] = value
    return found
