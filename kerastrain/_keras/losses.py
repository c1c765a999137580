"""Compiled losses, their values, and masks."""

import contextlib
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf
from keras.src import backend as keras_backend
from keras.src import tree
from keras.src.losses import loss as keras_loss

from kerastrain._keras.compiling import as_symbolic
from kerastrain._keras.patching import patched


class OutputLoss(NamedTuple):
    """One compiled loss with the tensors of its own output.

    Attributes:
        loss: a ``keras.losses.Loss``.
        weight: the entry of ``loss_weights``, or None.
        y_true, y_pred, sample_weight: this output's, unreduced.
    """

    loss: Any
    weight: Any
    y_true: Any
    y_pred: Any
    sample_weight: Any


def output_loss_trackers(model: keras.Model) -> list[keras.metrics.Mean]:
    """The metrics that log each output's loss; empty for a single output."""
    compiled = model._compile_loss
    if compiled is None:
        return []
    return list(getattr(compiled._metrics, "trackers", compiled._metrics))


def output_losses(model: keras.Model, y: Any, y_pred: Any, sample_weight: Any) -> list[OutputLoss]:
    """Pairs each compiled loss with its output, as ``CompileLoss`` would.

    Runs Keras's own matching of nested structures with losses that only note
    what they were given.
    """
    compiled = model._compile_loss
    if compiled is None:
        return []
    build_output_losses(model, y, y_pred, sample_weight)
    found: list[OutputLoss] = []

    def note(entry: Any) -> Any:
        def noting_loss(y_true: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
            found.append(OutputLoss(entry.loss, entry.loss_weights, y_true, y_pred, sample_weight))
            return tf.zeros((), tf.float32)

        return entry._replace(loss=noting_loss)

    with output_trackers_suppressed(model):
        flat, compiled._flat_losses = (
            compiled._flat_losses,
            [note(entry) for entry in compiled._flat_losses],
        )
        try:
            compiled(y, y_pred, sample_weight)
        finally:
            compiled._flat_losses = flat
    return found


def compiled_losses(model: keras.Model) -> list | None:
    """The compiled losses; None where it is not known yet what their names stand for."""
    compiled = model._compile_loss
    if compiled is None:
        return []
    return [entry.loss for entry in compiled._flat_losses] if compiled.built else None


def ignored_losses(model: keras.Model, y: Any, y_pred: Any) -> list[Any]:
    """The compiled losses that Keras computes and drops: of one output, all but the first.

    ``CompileLoss.call`` returns the first value there (compile_utils.py, 3.15.1), and updates
    none of the metrics that log each.
    """
    if tree.is_nested(y) or tree.is_nested(y_pred):
        return []
    return (compiled_losses(model) or [])[1:]


def is_plain_loss(loss: Any) -> bool:
    """Whether the code of a compiled loss is Keras's own."""
    modules = type(loss).__module__, getattr(getattr(loss, "fn", None), "__module__", "keras.")
    return all((module or "").startswith("keras.") for module in modules)


def build_output_losses(model: keras.Model, y: Any, y_pred: Any, sample_weight: Any) -> None:
    """Resolves the names of the compiled losses, once, without computing any."""
    compiled = model._compile_loss
    if compiled is None or compiled.built:
        return
    keras_backend.compute_output_spec(
        compiled, *as_symbolic((y, y_pred)), as_symbolic(sample_weight)
    )


class _HeldBack:
    """Stands in for the metric of one output's loss and keeps what it is given, by thread."""

    def __init__(self) -> None:
        self._values: dict[int, list[Any]] = {}

    @property
    def values(self) -> list:
        return self._values.setdefault(threading.get_ident(), [])

    def update_state(self, value: Any, sample_weight: Any = None) -> None:
        del sample_weight
        self.values.append(value)


class _StandIns(list):
    """Stand-ins for ``trackers``, in use by ``entered`` replicas at the moment."""

    def __init__(self, trackers: list[keras.metrics.Mean]) -> None:
        super().__init__(_HeldBack() for _ in trackers)
        self.trackers, self.entered = trackers, 0


@contextlib.contextmanager
def output_trackers_suppressed(model: keras.Model) -> Iterator[list[_HeldBack]]:
    """Keeps ``CompileLoss`` from updating the metrics of the single outputs.

    It weighs a batch by its *static* size, which is None in a graph: the logged
    ``<output>_loss`` is a mean of batch means (compile_utils.py, 3.15.1). Replicas
    take turns, so one may come in while another is inside.
    """
    compiled = model._compile_loss
    if compiled is None:
        yield []
        return
    if not isinstance(compiled._metrics, _StandIns):
        compiled._metrics = _StandIns(compiled._metrics)
    stand_ins = compiled._metrics
    stand_ins.entered += 1
    for one in stand_ins:
        one.values.clear()
    try:
        yield stand_ins
    finally:
        stand_ins.entered -= 1
        if not stand_ins.entered:
            compiled._metrics = stand_ins.trackers


@contextlib.contextmanager
def losses_not_scaled() -> Iterator[None]:
    """Keeps Keras from dividing losses by the number of replicas, and from undoing it."""
    with (
        patched(keras_loss, "scale_loss_for_distribution", lambda value: value),
        patched(keras_loss, "unscale_loss_for_distribution", lambda value: value),
    ):
        yield


def unreduced_loss(
    loss: keras.losses.Loss, y_true: Any, y_pred: Any
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """``loss.call`` and the Keras mask that goes with its values, if any.

    Follows ``keras.losses.Loss.__call__`` up to its reduction.
    """
    in_mask = keras_backend.get_keras_mask(y_pred)
    y_pred = tree.map_structure(lambda t: keras.ops.convert_to_tensor(t, dtype=loss.dtype), y_pred)
    y_true = tree.map_structure(lambda t: keras.ops.convert_to_tensor(t, dtype=loss.dtype), y_true)
    values = loss.call(y_true, y_pred)
    out_mask = keras_backend.get_keras_mask(values)
    masks = [mask for mask in (in_mask, out_mask) if mask is not None]
    if len(masks) == 2:
        return values, masks[0] & masks[1]
    return values, masks[0] if masks else None


def loss_function_arguments(loss: keras.losses.Loss) -> dict[str, Any]:
    """The keyword arguments that a loss object passes to its function."""
    return getattr(loss, "_fn_kwargs", {})


@contextlib.contextmanager
def noted_crossentropies(note: Callable) -> Iterator[None]:
    """Inside, ``note(name, outputs, from_logits)`` is called for every crossentropy of Keras."""
    module = keras_backend.nn
    names = ("binary_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy")

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def crossentropy(
            target: Any, output: Any, from_logits: bool = False, *args: Any, **kwargs: Any
        ) -> Any:
            note(name, output, from_logits)
            return function(target, output, from_logits, *args, **kwargs)

        return crossentropy

    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(patched(module, name, noting(name, getattr(module, name))))
        yield


def same_rank(values: Any, weights: Any) -> tuple[Any, Any]:
    """Squeezes or expands the last axis where two ranks differ by one."""
    return keras_loss.squeeze_or_expand_to_same_rank(values, weights)


def get_mask(tensor: Any) -> Any:
    """The Keras mask of a tensor, or None."""
    return keras_backend.get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Attaches a Keras mask to a tensor."""
    keras_backend.set_keras_mask(tensor, mask)
