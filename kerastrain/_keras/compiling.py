"""What `compile` sets on a model, and calls on shapes alone."""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src import backend as keras_backend
from keras.src import tree
from keras.src.trainers import compile_utils

from kerastrain._keras.bound_metrics import bind_metrics
from kerastrain._keras.entry_points import base_method_replaced

# What `compile` sets on a model (trainers/trainer.py, `Trainer.compile`), and
# what `fit` caches there. Plain entries of `model.__dict__`, one set a model.
_COMPILE_ATTRIBUTES = (
    "optimizer",
    "_compile_loss",
    "loss",
    "_compile_metrics",
    "_jit_compile",
    "_run_eagerly",
    "stop_training",
    "_compiled_trainable_state",
    "compiled",
    "_loss_tracker",
    "steps_per_execution",
    "_compile_config",
    "train_function",
    "test_function",
    "predict_function",
    "_initial_epoch",
)


def compile_state(model: keras.Model) -> dict[str, Any]:
    """A copy of what ``compile`` and ``fit`` have set on the model."""
    state = model.__dict__
    return {name: state[name] for name in _COMPILE_ATTRIBUTES if name in state}


def compile_marks(model: keras.Model) -> tuple:
    """Objects that are others, each for itself, after the model was compiled again."""
    if not model.compiled:
        return (None,)
    return (model._loss_tracker, model.optimizer, bool(model.run_eagerly), bool(model.jit_compile))


def set_compile_state(model: keras.Model, state: dict[str, Any]) -> None:
    """Puts a `compile_state` back.

    Past Keras's attribute tracking, but with TensorFlow's, so that
    ``tf.train.Checkpoint(model=model)`` finds the optimizer of this state.
    """
    for name in _COMPILE_ATTRIBUTES:
        model._delete_tracking(name)
        model.__dict__.pop(name, None)
        if name in state:
            model.__dict__[name] = state[name]
            if isinstance(state[name], tf.__internal__.tracking.Trackable):
                model._track_trackable(state[name], name, overwrite=True)


def clear_compile_state(model: keras.Model) -> None:
    """Makes the model as it is before ``compile``."""
    empty = dict.fromkeys(
        ("_compile_loss", "_compile_metrics", "_loss_tracker", "loss", "_initial_epoch")
    )
    set_compile_state(model, {**empty, "compiled": False, "steps_per_execution": 1})


def base_compile(model: keras.Model, **arguments: Any) -> None:
    """``keras.Model.compile``, whatever the model's own ``compile`` takes."""
    with base_method_replaced(model, "compile", None):
        keras.Model.compile(model, **arguments)
    bind_metrics(model)


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """The arguments that the model was compiled with, as the user's own objects."""
    loss, metrics = model._compile_loss, model._compile_metrics
    return {
        "optimizer": model.optimizer,
        "loss": model.loss,
        "loss_weights": loss._user_loss_weights if loss is not None else None,
        "metrics": metrics._user_metrics if metrics is not None else None,
        "weighted_metrics": (metrics._user_weighted_metrics if metrics is not None else None),
    }


@contextlib.contextmanager
def unbuilt_suppressed(model: keras.Model) -> Iterator[None]:
    """Inside, compiled losses and metrics that are not built yet have stand-ins.

    The stand-ins build themselves in place of them, the metrics' without any metric.
    """
    before = {name: model.__dict__.get(name) for name in ("_compile_loss", "_compile_metrics")}
    loss, metrics = before.values()
    if loss is not None and not loss.built:
        model.__dict__["_compile_loss"] = compile_utils.CompileLoss(
            loss._user_loss, loss._user_loss_weights, output_names=loss.output_names
        )
    if metrics is not None and not metrics.built:
        model.__dict__["_compile_metrics"] = compile_utils.CompileMetrics(None, None)
    try:
        yield
    finally:
        model.__dict__.update(before)


def output_spec(function: Callable, *args: Any, **kwargs: Any) -> Any:
    """The shapes and dtypes of ``function(...)``; no number is computed.

    Variables that ``function`` creates are created for good.
    """
    return keras_backend.compute_output_spec(function, *args, **kwargs)


def as_symbolic(structure: Any) -> Any:
    """Tensors or arrays as ``KerasTensor`` of the same shape and dtype."""
    return tree.map_structure(
        lambda t: (
            None
            if t is None
            else keras.KerasTensor(
                t.shape,
                keras_backend.standardize_dtype(t.dtype),
                sparse=isinstance(t, tf.SparseTensor),
                ragged=isinstance(t, tf.RaggedTensor),
            )
        ),
        structure,
    )
