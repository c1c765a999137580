"""What the callbacks of a training remember between events.

::

    states = CallbackStates(callbacks.callbacks)
    saved = states.get()                      # a list, for a checkpoint
    states.prepare(saved)                     # in another process, before on_train_begin
    states.set(saved)                         # and after it

A callback of the user's own joins with two methods: ``get_state()`` returns numbers, text, arrays,
and lists and dicts of them; ``set_state(state)`` takes what it returned. Of Keras's callbacks the
attributes are known. One that has neither and is seen to change gets a warning by name.
"""

import copy
import os
import re
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from kerastrain import notices
from kerastrain.run import state_trees
from kerastrain.run.loggers import logger_of
from kerastrain.state import class_name
from kerastrain.state import digest
from kerastrain.state import numbered
from kerastrain.state import python_state

# What each of Keras 3.15's callbacks remembers. Those that are missing remember nothing, or are
# handled below.
_REMEMBERED = {
    keras.callbacks.EarlyStopping: (
        "wait",
        "best",
        "best_epoch",
        "stopped_epoch",
        "best_weights",
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
        "_current_epoch",
    ),
    keras.callbacks.History: ("epoch", "history", "epochs_of", "validations"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: (
        "_global_train_batch",
        "_global_test_batch",
        "_previous_epoch_iterations",
        "_train_accumulated_time",
    ),
}
_STATELESS = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.TerminateOnNaN,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.ProgbarLogger,
)
# Attributes of Keras's that are no state, or follow from what is saved.
_KERAS_OWN = frozenset({"_model", "model", "params", "validation_data", "monitor_op", "min_delta"})
_RUN_ID = "@run"  # of a logger; no attribute has such a name
_BY_POSITION = re.compile(r"^((?:others/)?callbacks/)(\d+)/")


def named_by_class(named: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What a run holds of its callbacks, by `by_name`; before version 0.8 it was by position.

    Args:
        named: by names such as ``"others/callbacks/0/average"``; those of nothing else are changed.
        classes: of the callbacks of the run, in their order.
    """
    names = numbered(classes)

    def by_class(match: re.Match[str]) -> str:
        number = int(match[2])
        return f"{match[1]}{names[number]}/" if number < len(names) else match[0]

    return {_BY_POSITION.sub(by_class, name): value for name, value in named.items()}


class CallbackStates:
    """The states of the callbacks of one ``fit``.

    Args:
        callbacks: all of them, in their order.
    """

    def __init__(self, callbacks: Sequence[keras.callbacks.Callback]):
        self._callbacks = list(callbacks)
        self._begun: list[dict[str, Any]] = [{} for _ in self._callbacks]
        self._warned: set[int] = set()

    def begin(self) -> None:
        """Called after ``on_train_begin``: what changes from here on is state."""
        self._begun = [_fingerprints(callback) for callback in self._callbacks]

    def get(self) -> list[dict[str, Any]]:
        """The state of each callback; warns of those that cannot be saved."""
        return [self._entry(index, callback) for index, callback in enumerate(self._callbacks)]

    def before_test(self) -> list[dict[str, Any]] | None:
        """The same where a validation may change it, as a copy; None where none can."""
        if any(_listens_to_tests(callback) for callback in self._callbacks):
            return copy.deepcopy(self.get())
        return None

    def may_validate_otherwise(self) -> bool:
        """Whether one may change the model for a validation, as to validate with averages."""
        return any(
            _listens_to_tests(callback)
            and (
                isinstance(callback, keras.callbacks.SwapEMAWeights)
                or not type(callback).__module__.startswith("keras.")
            )
            for callback in self._callbacks
        )

    def prepare(self, saved: list[dict[str, Any]]) -> None:
        """Before ``on_train_begin``: a log that is written on must not be begun anew."""
        for callback, entry in self._matched(saved):
            state = entry["state"]
            if (logger := logger_of(callback)) and not _has_state(callback):
                logger.resume((state or {}).get(_RUN_ID))
            if isinstance(callback, keras.callbacks.CSVLogger) and state:
                callback.append = True
                length = int(state["bytes"])
                if (
                    os.path.exists(callback.filename)
                    and os.path.getsize(callback.filename) > length
                ):
                    os.truncate(callback.filename, length)

    def set(self, saved: list[dict[str, Any]]) -> None:
        """After ``on_train_begin``: each callback is as it was when it was saved."""
        for callback, entry in self._matched(saved):
            state = entry["state"]
            if entry.get("failed"):
                notices.warn(
                    f"What {class_name(callback)} remembered was not saved: it begins anew."
                )
            elif _has_state(callback):
                callback.set_state(state)
            elif isinstance(callback, keras.callbacks.CSVLogger):
                callback.keys = state and state["keys"]
            elif state:
                names = _remembered(callback)
                vars(callback).update({k: v for k, v in state.items() if k in names})
        had = {
            entry["class"]
            for entry in saved
            if not (
                entry["state"] is None or isinstance(entry["state"], dict) and not entry["state"]
            )
        }
        lost = had - set(map(class_name, self._callbacks))
        if lost:
            notices.warn(
                f"The run had the callbacks {', '.join(sorted(lost))}, and has them no more: what "
                "they remembered is lost."
            )

    def _matched(
        self, saved: list[dict[str, Any]]
    ) -> Iterator[tuple[keras.callbacks.Callback, dict[str, Any]]]:
        """``(callback, entry)`` of those that were there when it was saved, by class and order."""
        left = list(saved)
        for callback in self._callbacks:
            names = [entry["class"] for entry in left]
            if class_name(callback) in names:
                yield callback, left.pop(names.index(class_name(callback)))

    def _entry(self, index: int, callback: keras.callbacks.Callback) -> dict[str, Any]:
        name, has_state = class_name(callback), _has_state(callback)
        try:
            state = callback.get_state() if has_state else self._known_state(index, callback)
        except Exception as error:  # whatever one of the user's own may raise, or a log's file
            where = "get_state" if has_state else "The state"
            self._warn_once(index, f"{where} of {name} raised {type(error).__name__}: {error}.")
            return {"class": name, "state": None, "failed": True}
        return {"class": name, "state": self._savable(index, callback, state)}

    def _savable(self, index: int, callback: keras.callbacks.Callback, state: Any) -> Any:
        try:
            state_trees.pack(state)
        except TypeError as error:
            self._warn_once(
                index,
                f"What {class_name(callback)} remembers is not all saved: {error}. Use numbers, text, "
                "arrays, and lists and dicts of them.",
            )
            state = state_trees.savable(state)
        return state

    def _warn_once(self, index: int, message: str) -> None:
        if index not in self._warned:
            self._warned.add(index)
            notices.warn(message)

    def _known_state(self, index: int, callback: keras.callbacks.Callback) -> dict[str, Any] | None:
        if isinstance(callback, keras.callbacks.CSVLogger):
            return _of_csv_logger(callback)
        self._warn_of_changes(index, callback)
        names = _remembered(callback)
        state = {name: getattr(callback, name) for name in names if hasattr(callback, name)}
        if logger := logger_of(callback):
            state[_RUN_ID] = logger.run_id()
        return state

    def _warn_of_changes(self, index: int, callback: keras.callbacks.Callback) -> None:
        if index in self._warned:
            return
        now, begun = _fingerprints(callback), self._begun[index]
        changed = sorted(name for name in now if now[name] != begun.get(name))
        if changed:
            self._warn_once(
                index,
                f"{class_name(callback)} changes {_listed(changed)}, not saved: after a resume "
                "it begins anew. Let a callback have it as an attribute, with get_state() and "
                "set_state(state), or, if nothing depends on it, with a get_state that returns "
                "None and a set_state that does nothing.",
            )


def _listed(names: list[str]) -> str:
    listed = ", ".join(f"`{name}`" for name in names[:5])
    return listed + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _has_state(callback: keras.callbacks.Callback) -> bool:
    return hasattr(callback, "get_state") and hasattr(callback, "set_state")


def _listens_to_tests(callback: keras.callbacks.Callback) -> bool:
    """Whether an event of a validation is handled."""
    names = ("on_test_begin", "on_test_batch_begin", "on_test_batch_end", "on_test_end")
    kind = keras.callbacks.Callback
    return any(
        name in vars(callback) or getattr(type(callback), name) is not getattr(kind, name)
        for name in names
    )


def _remembered(callback: keras.callbacks.Callback) -> list[str]:
    names = [n for kind, each in _REMEMBERED.items() if isinstance(callback, kind) for n in each]
    logger = logger_of(callback)
    return names + [*(logger.attributes if logger else ())]


def _of_csv_logger(callback: keras.callbacks.CSVLogger) -> dict[str, Any] | None:
    file = callback.csv_file
    if file is None or file.closed:
        return None
    file.flush()
    # Of the file that is open: another one, or none, may have its name by now.
    return {"bytes": os.fstat(file.fileno()).st_size, "keys": callback.keys}


def _fingerprints(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Digests that show whether something unsaved has changed, by what messages call it.

    Attributes, and what the user's functions hold in closures and globals; not variables, which
    are saved, and not models and layers, which are no callback's own.
    """
    found: dict[str, Any] = {}
    known = _KERAS_OWN.union(_remembered(callback))
    for name, value in vars(callback).items():
        is_function = callable(value) and python_state.is_users_function(value)
        is_looked_at = name not in known and type(callback) not in (*_STATELESS, *_REMEMBERED)
        if is_looked_at and not is_function:
            found[name] = digest(value, _is_of_the_model)
    for name, function in python_state.functions_of(callback):
        for held, value in python_state.held_by(function).items():
            if callable(value) and python_state.is_users_function(value):
                continue  # it is among them
            found[f"{held}` of `{name}"] = digest(value, _is_of_the_model)
    return found


def _is_of_the_model(value: Any) -> bool:
    return isinstance(value, keras.Layer)
