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
