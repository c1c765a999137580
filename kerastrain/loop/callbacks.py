"""The callbacks of a training as one list, and which of them save the model themselves."""

from collections.abc import Sequence
from typing import Any

import keras

from kerastrain import _keras
from kerastrain import notices
from kerastrain.errors import ArgumentError
from kerastrain.execution import Listening
from kerastrain.loop.history import History


def make_list(
    callbacks: Any,
    model: keras.Model,
    verbose: Any,
    epochs: int,
    steps: int | None,
    add_history: bool,
) -> keras.callbacks.CallbackList:
    """Callbacks as one object that calls all; one that is given gets the model."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.set_model(model)  # which trains, and need not be the user's own
        return callbacks
    listed = [one for one in keras.tree.flatten(callbacks) if one is not None]
    if add_history and not any(isinstance(one, keras.callbacks.History) for one in listed):
        listed.append(History())
    return keras.callbacks.CallbackList(
        listed,
        add_history=add_history,
        add_progbar=False,
        model=model,
        verbose=1 if verbose == "auto" else int(verbose),
        epochs=epochs,
        steps=steps,
    )


def save_between_steps(callbacks: Sequence[keras.callbacks.Callback]) -> bool:
    """Whether one of Keras's callbacks saves the model within an epoch."""
    savers = keras.callbacks.ModelCheckpoint | keras.callbacks.BackupAndRestore
    return any(isinstance(c, savers) and c.save_freq != "epoch" for c in callbacks)


def listening(callbacks: Sequence[keras.callbacks.Callback], kind: str) -> Listening:
    """Whether, and when, callbacks are called for each step.

    Args:
        callbacks: all of them.
        kind: of the steps, ``"train"`` or ``"test"``.
    """
    return Listening.for_all(_listening(one, kind) for one in callbacks)


def uses_of_batches(callbacks: Any, kind: str) -> str:
    """What callbacks, as they are passed, do with the steps of a kind, in a word."""
    listed = keras.tree.flatten(getattr(callbacks, "callbacks", callbacks))
    return listening([one for one in listed if one is not None], kind).value


def _listening(callback: keras.callbacks.Callback, kind: str) -> Listening:
    """What one says of itself, or what is known of its code."""
    said = getattr(callback, "uses_batches", None)
    if isinstance(said, dict):
        said = said.get(kind)
    if said is None and getattr(callback, "only_reads_logs", False):
        said = "logs"
    if said is None or not _keras.listens_to_batches(callback, kind):
        said = _keras.use_of_batches(callback, kind)
    return Listening(said)


def check_uses_of_batches(callbacks: Any) -> None:
    """Refuses what a callback says of itself, where it means nothing.

    Raises:
        ArgumentError: as said.
    """
    known = [one.value for one in Listening]
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)):
        said = getattr(callback, "uses_batches", None)
        each = list(said.values()) if isinstance(said, dict) else [said]
        if unknown := [one for one in each if one not in (None, *known)]:
            raise ArgumentError(
                f"`uses_batches` of {type(callback).__name__} is {unknown[0]!r}. Set it to one of {known}."
            )


# What a package that logs Keras's `fit` has for a training that does not call it.
_CALLBACKS = {
    "mlflow": "mlflow.keras.MlflowCallback()",
    "wandb": "wandb.integration.keras.WandbMetricsLogger()",
}


def warn_of_replaced_fit(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Warns where a package has put a function of its own in the place of Keras's ``fit``."""
    place = getattr(_keras.base_method("fit"), "__globals__", {}).get("__name__", "")
    package = place.partition(".")[0]
    classes = [kind for callback in callbacks for kind in type(callback).__mro__]
    if package in ("", "keras") or any(c.__module__.partition(".")[0] == package for c in classes):
        return
    callback = _CALLBACKS.get(package, f"a callback of {package}'s")
    notices.warn(
        f"{package} has replaced keras.Model.fit, as its autologging does, and a Trainer does not call "
        f"that: {package} will log nothing of this training. Pass callbacks=[{callback}]."
    )


# Those of Keras's that write, and change nothing that trains.
_WRITERS = (
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.RemoteMonitor,
)


def let_chief_write(callbacks: keras.callbacks.CallbackList) -> None:
    """On a worker that is not the chief, replaces those that write by ones that do nothing.

    These are called where the others are, so that all workers run the same steps in one call.
    """
    listed = callbacks.callbacks
    listed[:] = [_silent(one) if isinstance(one, _WRITERS) else one for one in listed]


def _silent(callback: keras.callbacks.Callback) -> keras.callbacks.Callback:
    def nothing(self: Any, *args: Any, **kwargs: Any) -> None:
        pass

    uses = {kind: _listening(callback, kind).value for kind in ("train", "test")}
    hooks = {f"on_{kind}_batch_end": nothing for kind in uses}
    if hasattr(callback, "on_epoch_saved"):  # whether an epoch is saved is a decision of all
        hooks["on_epoch_saved"] = nothing
    silent = type("Silent", (keras.callbacks.Callback,), hooks)()
    silent.uses_batches = uses
    return silent
