"""What a training changes and no checkpoint has: it is named in a warning, at the first save.

::

    unsaved = UnsavedState(model, eager=False)
    unsaved.begin()                      # what changes from here on counts
    with unsaved.tracing():              # a trace calls the model's code once more
        ...
    unsaved.note(concrete)               # what its operations keep
    with unsaved.watching():             # around the training
        ...
    unsaved.messages(known)              # ["The training changes Memory.seen ..."], each once

Four things are seen. Python state of the model, its losses and metrics: attributes, and what
their functions hold in closures and globals (`kerastrain.state.python_state`). Where steps are traced,
it has no effect after the trace, so a resumed run, which is traced later, is another one. And the
operations of a trace show states that TensorFlow keeps: queues, iterators, random operations
without a generator, and Python functions. (Tables are saved: `kerastrain.state.tables`.) And each
assignment in Python shows its variable: a callback's, say, that nothing leads to.
"""

import contextlib
import gc
import types
import weakref
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.state import python_digests
from kerastrain.state import python_state
from kerastrain.state.walk import Walk

_INSTEAD = "Hold it in a variable (add_weight, keras.Variable)."
_RANDOM = "Draw random numbers with a keras.random.SeedGenerator."


class UnsavedState:
    """What a model's training changes beyond variables.

    Args:
        model: the model that trains.
        eager: whether its steps run without being traced.
    """

    def __init__(self, model: keras.Model, eager: bool):
        self._model, self._eager = model, eager
        self._operations = _keras.KeptState()
        self._values: dict[str, Any] | None = None
        self._taken: dict[str, Any] = {}  # the objects that traces have taken in, by attribute
        self._changed: dict[str, None] = {}
        self._is_traced = False
        self._reported: set[str] = set()
        self._assigned: dict[int, weakref.ref] = {}  # variables, by handle

    def begin(self) -> None:
        """From here on, what changes counts; what a first trace changes does not."""
        self._values, taken = self._look()
        self._taken = taken if self._is_traced else {}
        self._changed, self._reported, self._assigned = {}, set(), {}

    def note(self, function: Any) -> list[tuple]:
        """A concrete function is about to run for the first time.

        Returns:
            The tables that it changes: ``(handle, dtype of keys, dtype of values)``.
        """
        tables = self._operations.add(function)
        if self._values is not None and self._operations.functions:
            for name, value in self.python_values().items():
                self._values.setdefault(name, value)
        return tables

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Around a trace: the next one does to Python's values what it does."""
        counts = self._values is not None and not self._eager
        if counts and self._is_traced:
            self._note_changes()
        try:
            yield
        finally:
            self._is_traced = True
            if counts:
                self._values, taken = self._look()
                self._taken |= taken

    def forget_traces(self) -> None:
        """What has been traced is traced anew."""
        self._is_traced, self._taken = False, {}

    def _note_changes(self) -> None:
        (now, taken), begun = self._look(), self._values
        assert begun is not None  # only called after `begin`
        replaced = {n for n, one in self._taken.items() if n in taken and taken[n] is not one}
        self._changed |= dict.fromkeys(sorted(replaced))
        for name, value in now.items():
            # What is there for the first time, a first call may have made.
            if value != begun.setdefault(name, value):
                self._changed[name] = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around a training: sees what is assigned in it."""
        with _keras.assignments_seen(self._see):
            yield

    def _see(self, variable: tf.Variable) -> None:
        for handle in _keras.handles_of(variable):
            known = self._assigned.get(handle)
            if known is None or known() is None:  # another one may have had this handle
                self._assigned[handle] = weakref.ref(variable)

    def _unknown(self, known: set[int]) -> list[str]:
        """The names of variables that have been assigned, are not known, and still exist."""
        references = [ref for handle, ref in self._assigned.items() if handle not in known]
        if any(ref() is not None for ref in references):
            gc.collect()  # what a callback has left may hold itself
        return [variable.name for ref in references if (variable := ref()) is not None]

    def messages(self, known: set[int]) -> list[str]:
        """What is to be said by now, each sentence once.

        Args:
            known: the handles of variables that are saved (``_keras.handles_of``).
        """
        if self._values is None:
            return []
        found = {}
        if "variables" not in self._reported and (names := self._unknown(known)):
            found["variables"] = (
                f"The training changes {_listed(names)}, of which neither the model nor a callback "
                "leads to, so that it is not in a checkpoint: after a resume it begins anew. Hold it "
                "in an attribute of a callback or of the model."
            )
        if "python" not in self._reported:
            self._note_changes()
            if self._changed:
                found["python"] = self._of_python(list(self._changed))
        if self._operations.others:
            found["operations"] = (
                f"The steps run {_listed(self._operations.others)}, whose state is not in a "
                f"checkpoint: after a resume it begins anew. {_INSTEAD}"
            )
        if self._operations.random:
            found["random"] = (
                f"The steps draw random numbers by {_listed(self._operations.random)}, whose state "
                "TensorFlow does not give out: after a resume the numbers are others. Use "
                "keras.random with a keras.random.SeedGenerator, or a tf.random.Generator."
            )
        messages = [text for key, text in found.items() if key not in self._reported]
        self._reported |= found.keys()
        return messages

    def _of_python(self, changed: list[str]) -> str:
        names = _listed(changed)
        of_called = [name for name in changed if name in self._of_called_functions()]
        if of_called:
            return (
                f"The steps call Python functions (tf.numpy_function, tf.py_function), and {names} "
                "changes, which is not in a checkpoint: after a resume it begins anew. A training "
                f"is resumed exactly only if they keep no state. {_INSTEAD} {_RANDOM}"
            )
        if self._eager:
            return (
                f"The training changes {names} in Python, which is not in a checkpoint: "
                f"after a resume it begins anew. {_INSTEAD} {_RANDOM}"
            )
        return (
            f"{names} was changed after the step was traced, where it has no effect; a resumed run "
            f"is traced with the value that it has then. {_INSTEAD}"
        )

    # Python's values ------------------------------------------------------------------

    def python_values(self) -> dict[str, Any]:
        """Digests of what the model's objects and functions hold in Python.

        Returns:
            ``{"<class>.<attribute> (<path>)": digest}``.
        """
        return self._look()[0]

    def _look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """`python_values`, and the objects that a trace would take in."""
        history = vars(self._model).get("history")  # of the last fit
        walked = Walk({"model": self._model}, known=(history,)).of(object)
        objects = {path: one for path, one in walked.items() if not _is_of_library(type(one))}
        ids = {id(one) for one in objects.values()}
        found: dict[str, Any] = {}
        taken: dict[str, Any] = {}
        functions: list[tuple[str, Any]] = []
        for path, one in objects.items():
            of_one = {} if self._eager else dict(_captured_attributes(one))
            taken |= {f"{type(one).__name__}.{n} ({path})": value for n, value in of_one.items()}
            for name, value in _own_attributes(one):
                if _is_users_function(value):
                    functions.append((python_state.name_of(value), value))
                else:
                    found[f"{type(one).__name__}.{name} ({path})"] = _digest(value, ids)
        for kind in {type(one): None for one in objects.values()}:
            functions += python_state.methods_of(kind)
            for name, value in python_state.class_attributes(kind):
                found[name] = _digest(value, ids)
        _add_held(found, functions, ids)
        return found | self._of_called_functions(ids), taken

    def _of_called_functions(self, ids: Collection[int] = ()) -> dict[str, Any]:
        found: dict[str, Any] = {}
        called = [(python_state.name_of(one), one) for one in self._operations.functions]
        _add_held(found, called, ids)
        for name, function in called:
            if not isinstance(function, types.FunctionType):
                found[f"what `{name}` belongs to"] = python_digests.digest(function)
        return found


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _add_held(
    found: dict[str, Any], functions: Iterable[tuple[str, Any]], ids: Collection[int]
) -> None:
    for name, function in python_state.reached(functions):
        for key, value in python_state.held_by(function).items():
            if callable(value) and python_state.is_users_function(value):
                continue  # it is reached too
            key = f"`{key}` of `{name}`"
            while key in found:  # another function of this name
                key += " (another)"
            found[key] = _digest(value, ids)


def _digest(value: Any, ids: Collection[int]) -> Any:
    """Of what is reported nowhere else."""
    return python_digests.digest(value, lambda part: id(part) in ids)


def _is_of_library(kind: type) -> bool:
    """Whether its objects are a library's own matter: of all but Keras, where users set options."""
    root = kind.__module__.partition(".")[0]
    return root != "keras" and notices.is_passed_over(kind.__module__)


def _is_users_function(value: Any) -> bool:
    return callable(value) and python_state.is_users_function(value)


def _own_attributes(one: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds beyond what its Keras class gives each of its kind."""
    attributes = list(getattr(one, "__dict__", {}).items())
    if not _keras.is_of_keras(type(one)):
        base = _keras.base_attributes(one)
        yield from ((n, v) for n, v in attributes if n not in base and not n.startswith("_self_"))
        return
    plain = _keras.plain_attributes(one)
    if isinstance(one, keras.optimizers.Optimizer):  # whose options are among those
        plain = frozenset({"built", "name"})
    for name, value in attributes:
        options = not name.startswith("_") and name not in plain and _is_option(value)
        if options or _is_users_function(value):
            yield name, value


def _captured_attributes(one: Any) -> Iterator[tuple[str, Any]]:
    """What a trace takes into it as the object that it is then; others may come into its place."""
    for name, value in list(getattr(one, "__dict__", {}).items()):
        is_table = hasattr(type(value), "resource_handle")
        is_captured = is_table or isinstance(value, (tf.Variable, keras.Variable, tf.Tensor))
        if is_captured and not name.startswith("_self_"):
            yield name, value


def _is_option(value: Any) -> bool:
    """Whether it is a number, text, or a few of them, as layers have their options."""
    if isinstance(value, list | tuple):
        return len(value) <= 16 and all(map(_is_option, value))
    return isinstance(value, (bool, int, float, str, type(None)))
