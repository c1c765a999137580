"""Keras's own callbacks, and which events one listens to."""

import inspect

import keras


def history_of(callback_list: keras.callbacks.CallbackList) -> keras.callbacks.History | None:
    """The ``History`` among the callbacks, or None without one."""
    return callback_list._history


def is_better(
    model: keras.Model, monitor: str, mode: str, value: float, best: float | None
) -> bool:
    """Whether a result is better than the best so far, as Keras's callbacks decide it."""
    (callback := keras.callbacks.EarlyStopping(monitor, mode=mode)).set_model(model)
    callback._set_monitor_op()
    return callback._is_improvement(value, best)


_BATCH_EVENTS = {
    "train": ("on_train_batch_begin", "on_train_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
}


def listens_to_batches(callback: keras.callbacks.Callback, kind: str) -> bool:
    """Whether a callback does anything in the batch events of ``kind``.

    Args:
        callback: a ``keras.callbacks.Callback``.
        kind: ``"train"`` or ``"test"``.
    """
    names: tuple[str, ...] = _BATCH_EVENTS[kind]
    if kind == "train":
        names += ("on_batch_begin", "on_batch_end")
    for name in names:
        method = inspect.getattr_static(callback, name, None)
        if method is not inspect.getattr_static(keras.callbacks.Callback, name):
            return True
    return False
