"""The state of a training: every variable that its steps can read or change, by name.

::

    state = ModelState(model)
    state.callbacks = callbacks
    state.variables()                    # {"model/0": variable, "others/model/loss/mean": ...}
    steps = Steps(model, ..., state=state)

It is found in two ways, neither of which knows places by name. `kerastrain.walk` finds what can be
reached from the model, its compiled optimizer, loss and metrics, and the callbacks. And each traced
step tells which variables it holds, before it runs for the first time: among them those of closures
and modules, and those that its trace has made. Where steps are not traced, each assignment is seen
before it happens. So the value of a variable before the first step that changed it is always known.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.walk import Walk

GROUPS = ("model", "metrics", "optimizer", "others", "captured")
OF_CALLBACKS = "others/callbacks/"
# Longer arrays, in bytes, and lists are not looked into for changes.
_LARGE, _LONGEST = 2**20, 1000


class ModelState:
    """The variables of one model's training.

    Args:
        model: the model that trains; it may be built and compiled later.
        eager: whether its steps run without being traced.

    Attributes:
        model, eager: as passed.
        callbacks: of the training that runs; their variables are state too.
        found: called with variables that were not known, before a step first changes them.
    """

    def __init__(self, model: keras.Model, eager: bool = False):
        self.model, self.eager = model, eager
        self._known: dict[str, Any] = {}
        self._handles: set[int] = set()
        # Those that only a step knows, by its kind. A train step comes first in all processes.
        self._captured: dict[str, list] = {"train": [], "test": [], "predict": []}
        self._walk = Walk({})
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
        self._walk = Walk({"model": model, "callbacks": list(self.callbacks)}, known=(history,))
        groups = {
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
                    self._known[f"{group}/{name}".replace("@", "_")] = variable
                    self._handles |= handles
        return dict(self._known)

    def layers(self) -> dict[str, keras.Layer]:
        """All layers that can be reached, by path, as of the last `variables`."""
        return self._walk.of(keras.Layer)

    def optimizers(self) -> list[keras.optimizers.Optimizer]:
        """All optimizers that can be reached, as of the last `variables`."""
        return list(self._walk.of(keras.optimizers.Optimizer).values())

    def left_by_rollback(self) -> set[int]:
        """The ids of those that going back does not change: metrics, and random generators."""
        metrics = self._walk.of(keras.metrics.Metric).values()
        generators = self._walk.of(keras.random.SeedGenerator).values()
        found = {id(v) for metric in metrics for v in metric.variables}
        found |= {id(generator.state) for generator in generators}
        found |= {id(one.state) for one in self._walk.of(tf.random.Generator).values()}
        captured = [v for variables in self._captured.values() for v in variables]
        return found | {id(v) for v in captured if v.dtype == tf.uint32}  # as Keras's generators

    def changed_by_steps(self) -> dict[str, Any]:
        """Those of `variables`, as they were last, whose numbers a step is answerable for."""
        left = self.left_by_rollback()
        return {
            name: variable
            for name, variable in self._known.items()
            if not name.startswith(("metrics/", OF_CALLBACKS)) and id(variable) not in left
        }

    # What steps tell --------------------------------------------------------------

    def note(self, kind: str, function: Any) -> None:
        """A step has been traced, and is about to run for the first time.

        Args:
            kind: ``"train"``, ``"test"`` or ``"predict"``.
            function: the concrete function.
        """
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

    def _meet(self, kind, variables):
        before = self._handles
        unknown = [v for v in variables if not _keras.handles_of(v) <= before]
        if not unknown:
            return
        self.variables()  # it may have been made since the last time, and have a name
        self._captured[kind] += [v for v in unknown if not _keras.handles_of(v) <= self._handles]
        found, generator = list(self.variables().values()), _keras.global_random_state()
        if generator is not None:
            found.append(generator)
        fresh = [v for v in found if not _keras.handles_of(v) <= before]
        if self.found is not None and fresh:
            self.found(fresh)

    # What only Python sees ----------------------------------------------------------

    def python_values(self) -> dict[str, bytes]:
        """Digests of the numbers, text and lists that objects of the user's own classes hold.

        Returns:
            ``{"<path>.<attribute>": digest}``, as of the last `variables`.
        """
        found = {}
        for path, one in self._walk.of(object).items():
            if _keras.is_of_keras(type(one)) or path.startswith("callbacks"):
                continue
            for name, value in vars(one).items() if hasattr(one, "__dict__") else ():
                if name not in _keras.base_attributes(one) and _is_plain(value):
                    digest = hashlib.sha256(repr(_told(value)).encode()).digest()
                    found[f"{type(one).__name__}.{name} ({path})"] = digest
        return found


def _told(value):
    """A plain value as one whose text tells it from others."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, dict):
        return [(key, _told(item)) for key, item in value.items()]
    return [_told(item) for item in value] if isinstance(value, list | tuple) else value


def _is_plain(value, depth=3):
    """Whether it is a number, text, a small array, or a container of those."""
    if isinstance(value, np.ndarray):
        return value.nbytes <= _LARGE and value.dtype != object
    if isinstance(value, list | tuple | dict):
        items = value.values() if isinstance(value, dict) else value
        return depth > 0 and len(value) <= _LONGEST and all(_is_plain(v, depth - 1) for v in items)
    return isinstance(value, bool | int | float | complex | str | np.generic)
