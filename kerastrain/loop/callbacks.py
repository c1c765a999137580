"""The callbacks of a training as one list, and which of them save the model themselves."""

from collections.abc import Sequence
from typing import Any

import keras

from kerastrain import _keras
from kerastrain.execution import Listening


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
    return keras.callbacks.CallbackList(
        callbacks,
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
    listeners = [one for one in callbacks if _keras.listens_to_batches(one, kind)]
    if not listeners:
        return Listening.NONE
    if all(getattr(one, "only_reads_logs", False) for one in listeners):
        return Listening.AFTERWARDS
    return Listening.BETWEEN


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

    kinds = [kind for kind in ("train", "test") if _keras.listens_to_batches(callback, kind)]
    hooks = {f"on_{kind}_batch_end": nothing for kind in kinds}
    silent = type("Silent", (keras.callbacks.Callback,), hooks)()
    silent.only_reads_logs = getattr(callback, "only_reads_logs", False)
    return silent
