"""Keras's own callbacks."""

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
