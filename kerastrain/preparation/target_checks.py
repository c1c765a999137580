"""Whether model, losses and metrics fit the data, found on shapes alone: before a weight changes.

`check_targets` runs all of them on shapes, and so finds what does not fit without a single
number being computed. It also builds what is not built.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.data import part_of
from kerastrain.errors import ArgumentError
from kerastrain.errors import DataError
from kerastrain.errors import KerastrainError
from kerastrain.errors import MetricError
from kerastrain.errors import ModelError
from kerastrain.errors import ShapeError
from kerastrain.preparation import dry_steps
from kerastrain.preparation import graphs
from kerastrain.quoting import reason_of
from kerastrain.quoting import users_cause
from kerastrain.step import loss as loss_lib

# Losses that compare ``y_true`` and ``y_pred`` element by element. Keras
# broadcasts them where the shapes differ, and trains on something else.
_ELEMENTWISE = (
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.huber,
    keras.losses.log_cosh,
    keras.losses.poisson,
    keras.losses.hinge,
    keras.losses.squared_hinge,
    keras.losses.categorical_hinge,
    keras.losses.cosine_similarity,
    keras.losses.dice,
    keras.losses.tversky,
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.kl_divergence,
)
_SPARSE = keras.losses.sparse_categorical_crossentropy
# Operations of TensorFlow that make of NaN what the processor makes of it: NaN, or a number.
_MAXIMA = {
    *("Relu", "Relu6", "LeakyRelu", "ClipByValue", "Maximum", "Minimum", "Max", "Min"),
    *("MaxPool", "MaxPoolV2", "MaxPool3D", "ArgMax", "ArgMin", "TopKV2", "SegmentMax"),
}


def check_targets(model: keras.Model, batch: Any, name: str, eager: bool = False) -> None:
    """Runs model, losses and metrics on the shapes of a batch, which builds them.

    Args:
        model: a compiled model.
        batch: a batch of data; only shapes and dtypes matter.
        name: what messages call the data.
        eager: the model runs eagerly: one that needs numbers, and so cannot be
            called on shapes, is left to the first step.

    Raises:
        ModelError: the model cannot be called on ``x``, or one output has several losses.
        ShapeError: ``y`` does not fit the outputs.
        MetricError: the metrics do not fit the outputs.
    """

    def run(x: Any, y: Any, sample_weight: Any) -> Any:
        y_pred = _call(model, x, name)
        if not _keras.overrides(model, "compute_loss"):
            _check_loss_weights(model, y_pred)
            _check_shapes(model, y, y_pred, sample_weight, name)
        try:
            loss = _keras.compute_loss(model, x, y, y_pred, sample_weight, training=False)
        except (ValueError, TypeError, KeyError) as error:
            raise _loss_error(model, y, y_pred, sample_weight, name, error) from users_cause(error)
        loss_lib.check_losses(model, y, y_pred)
        try:
            model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        except KerastrainError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise MetricError(
                f"The metrics cannot be computed from y of shape {_shapes(y)} and "
                f"outputs of shape {_shapes(y_pred)}: {reason_of(error)}"
            ) from users_cause(error)
        return loss

    def run_collecting_losses(*parts: Any) -> Any:
        with keras.StatelessScope(collect_losses=True):
            return run(*parts)

    parts = keras.utils.unpack_x_y_sample_weight(batch)
    if _keras.model_strategy(model) is None:
        _keras.build_by_trace(model, parts[0])
    try:
        _keras.output_spec(run_collecting_losses, *_keras.as_symbolic(parts))
    except ModelError:
        if not eager:
            raise
    if isinstance(parts[1], tf.Tensor):
        check_labels(model, (None, parts[1].numpy()), name)


def check_call(model: keras.Model, batch: Any, name: str) -> None:
    """Calls the model on the shapes of a batch's ``x``.

    Raises:
        ModelError: it cannot be called on them.
    """
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if _keras.model_strategy(model) is None:
        _keras.build_by_trace(model, x)
    _keras.output_spec(lambda x: _call(model, x, name), _keras.as_symbolic(x))


def _call(model: keras.Model, x: Any, name: str) -> Any:
    try:
        return _keras.forward(model, x, training=False)
    except KerastrainError:
        raise
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be called on `{name}` of shape "
            f"{_shapes(x)}: {type(error).__name__}: {reason_of(error)}"
        ) from users_cause(error)


def _check_loss_weights(model: keras.Model, y_pred: Any) -> None:
    """Refuses weights by output for a single loss: Keras would take one of them for all."""
    received = _keras.compile_arguments(model)
    loss, weights = received["loss"], received["loss_weights"]
    several = len(keras.tree.flatten(y_pred)) > 1
    both = isinstance(loss, dict) and isinstance(weights, dict)
    unknown = both and not weights.keys() <= loss.keys()
    if unknown or (several and keras.tree.is_nested(weights) and not keras.tree.is_nested(loss)):
        raise _loss_weights_error(loss, weights)


def _loss_weights_error(loss: Any, weights: Any, reason: str = "") -> ArgumentError:
    return ArgumentError(
        "`loss_weights` must have a number for each loss, in the structure of `loss`: such as "
        'loss={"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 0.5} where the outputs are named '
        f'"a" and "b", or lists of both. Received: loss={loss!r}, loss_weights={weights!r}.{reason}'
    )


def _loss_error(
    model: keras.Model, y: Any, y_pred: Any, sample_weight: Any, name: str, error: Exception
) -> KerastrainError:
    if "No loss to compute" in str(error):
        return ModelError(
            f"No loss for {type(model).__name__}. Pass `loss` (for example "
            'loss="mse"), compile the model, or use `add_loss` in it.'
        )
    if _keras.overrides(model, "compute_loss"):
        return ModelError(
            f"`compute_loss` of {type(model).__name__} failed on y of shape {_shapes(y)} and outputs of "
            f"shape {_shapes(y_pred)}, of `{name}`: {type(error).__name__}: {reason_of(error)}"
        )
    if y is None:
        return ShapeError(f"`{name}` has no y, which the loss needs. Pass y, or batches of (x, y).")
    weights = "" if sample_weight is None else f", sample_weight of {_shapes(sample_weight)}"
    received = _keras.compile_arguments(model)
    loss = received["loss"]
    if "loss_weights" in str(error):
        return _loss_weights_error(
            loss, received["loss_weights"], f" Keras says: {reason_of(error)}"
        )
    return ShapeError(
        f"The loss cannot be computed from {part_of('y', name)} of shape {_shapes(y)}{weights} and "
        f"outputs of shape {_shapes(y_pred)}. {_hint(loss, y, y_pred)}Reshape the data, or change "
        "the last layer or the loss; those of several outputs are given by the outputs' names. "
        f"Received: loss={loss!r}, loss_weights={received['loss_weights']!r}. Keras says: {reason_of(error)}"
    )


def _hint(loss: Any, y: Any, y_pred: Any) -> str:
    """Which loss is meant, if y seems to be of another kind than the one that was passed takes."""
    if "crossentropy" not in str(loss) or not all(hasattr(t, "shape") for t in (y, y_pred)):
        return ""
    true, pred, is_sparse = tuple(y.shape), tuple(y_pred.shape), "sparse" in str(loss)
    if is_sparse and true == pred:
        return "If y is one-hot, use categorical_crossentropy. "
    if not is_sparse and pred[-1:] != (1,) and true in (pred[:-1], (*pred[:-1], 1)):
        return "If y has class indices, use sparse_categorical_crossentropy. "
    return ""


def _check_shapes(model: keras.Model, y: Any, y_pred: Any, sample_weight: Any, name: str) -> None:
    """Refuses targets that Keras would broadcast against the outputs."""
    if y is None:
        return
    try:
        outputs = _keras.output_losses(model, y, y_pred, sample_weight)
    except (ValueError, TypeError, KeyError) as error:
        raise _loss_error(model, y, y_pred, sample_weight, name, error) from users_cause(error)
    for output in outputs:
        function = getattr(output.loss, "fn", None)
        true, pred = output.y_true, output.y_pred
        if not hasattr(true, "shape") or true.shape.rank is None or pred.shape.rank is None:
            continue
        if function in _ELEMENTWISE:
            fits = _broadcasts_nothing(true.shape, pred.shape)
            wanted = tuple(pred.shape)
        elif function is _SPARSE:
            squeezed = true.shape[:-1] if true.shape[-1:] == [1] else true.shape
            axis_last = _loss_axis(output.loss) in (-1, pred.shape.rank - 1)
            fits = not axis_last or any(
                s.rank == pred.shape.rank - 1 and s.is_compatible_with(pred.shape[:-1])
                for s in (true.shape, squeezed)
            )
            wanted = tuple(pred.shape[:-1])
        else:
            continue
        if not fits:
            hint = _hint(output.loss.name, true, pred)
            raise ShapeError(
                f"{part_of('y', name)} has shape {tuple(true.shape)}, the model's output has "
                f"shape {tuple(pred.shape)}. The loss {output.loss.name!r} needs y of shape "
                f"{wanted}. {hint}Reshape y, or change the last layer or the loss."
            )
        _check_weight_shape(output, name)


def _check_weight_shape(output: _keras.OutputLoss, name: str) -> None:
    """Refuses weights that Keras would broadcast along another axis than theirs."""
    values, weights = output.y_pred.shape[:-1], output.sample_weight
    if weights is None or values.rank == 0 or weights.shape.rank is None:
        return
    shape = weights.shape
    if shape.rank == values.rank + 1 and shape[-1] == 1:
        shape = shape[:-1]
    if values.rank == 2 and values[-1] == 1 and shape.rank == 1:
        return  # Keras gives the weights the axis of length 1
    same_rank = shape.rank == values.rank
    if not same_rank or any(w not in (1, v) for w, v in zip(shape[1:], values[1:], strict=True)):
        raise ShapeError(
            f"{part_of('sample_weight', name)} has shape {tuple(weights.shape)}, the loss has one "
            f"value for each of {tuple(values)}. Reshape sample_weight to that shape, or "
            "give axes after the first the length 1."
        )


def _loss_axis(loss: keras.losses.Loss) -> int:
    return _keras.loss_function_arguments(loss).get("axis", -1)


def _broadcasts_nothing(true: tf.TensorShape, pred: tf.TensorShape) -> bool:
    """Whether the shapes are equal, or differ by a last axis of 1 alone."""
    if true.rank == pred.rank + 1 and true[-1] == 1:
        true = true[:-1]
    elif pred.rank == true.rank + 1 and pred[-1] == 1:
        pred = pred[:-1]
    return true.is_compatible_with(pred)


def check_labels(model: keras.Model, arrays: Any, name: str) -> None:
    """Refuses class indices outside the classes of a single output.

    Args:
        model: a built, compiled model.
        arrays: ``(x, y)`` or more as NumPy arrays, or None to check nothing.
        name: what messages call the data.

    Raises:
        DataError: an index below 0 or beyond the last class. (TensorFlow would
            stop in the middle of an epoch on CPU, and train on NaN on GPU.)
    """
    if not isinstance(arrays, tuple) or len(arrays) < 2 or not hasattr(arrays[1], "dtype"):
        return
    classes = _keras.sparse_classes(model, _SPARSE)
    labels = arrays[1]
    if classes is None or labels.dtype.kind not in "iuf" or not labels.size:
        return
    low, high = labels.min(), labels.max()  # NaN if one is
    if not (low >= 0 and high < classes):
        raise DataError(
            f"{part_of('y', name)} holds the class {low if low < 0 else high}; the output has "
            f"{classes} classes, numbered 0 to {classes - 1}. Renumber the labels, or "
            "widen the last layer."
        )


def check_missing(model: keras.Model, batch: Any, missing: str) -> None:
    """Refuses data that are NaN throughout, unless the model or the loss knows what to do.

    Args:
        model: a built, compiled model.
        batch: the first batch.
        missing: what is NaN, as `data_checks.missing_in` returns it.

    Raises:
        DataError: a loss of Keras's would compare with NaN, the loss of the batch is NaN, or the
            model takes the larger of NaN and a number.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    graph = tf.compat.v1.get_default_graph

    def losses() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with keras.StatelessScope(collect_losses=True):
            before = len(graph().get_operations())
            y_pred = _keras.forward(model, x, training=False)
            # What a maximum makes of NaN, in a ReLU or a hinge loss say, is up to the processor.
            maxima = [op for op in graph().get_operations()[before:] if op.type in _MAXIMA]
            unknown = [tf.reduce_any(_is_nan(value)) for op in maxima for value in op.inputs]
            total = _keras.compute_loss(model, x, y, y_pred, sample_weight, training=False)
            if _keras.overrides(model, "compute_loss"):
                return total, unknown
            outputs = _keras.output_losses(model, y, y_pred, sample_weight)
            plain = [out for out in outputs if _keras.is_plain_loss(out.loss)]
            return total, [*unknown, *(tf.reduce_all(_is_nan(out.y_true)) for out in plain)]

    try:
        with dry_steps.nothing_kept():
            traced = tf.compat.v1.wrap_function(losses, [])
            total, unknown = graphs.without_effects(traced)()
    except Exception:  # of any kind: the code is the user's, and its step reports it
        return
    if any(unknown) or np.isnan(total).any():
        raise DataError(
            f"{missing}, and the loss of the first batch is not masked there. Check how the data "
            "were read; where some are missing, let the model leave out NaN of x, and the loss of y."
        )


def _is_nan(values: Any) -> tf.Tensor:
    values = tf.convert_to_tensor(values)
    return tf.math.is_nan(values) if values.dtype.is_floating else tf.constant(False)


def check_names(model: keras.Model) -> None:
    """Refuses metrics of which one would hide another in the logs of Keras's own step.

    Raises:
        MetricError: two metrics or losses have one name. (Keras renames the
            second of two compiled ones, and drops one of two others.)
    """
    logged = [m.name for m in (*_keras.own_metrics(model), *_keras.metrics_beside(model))]
    for argument, output, names in _keras.metric_names_by_output(model):
        for metric in sorted(set(names)):
            if names.count(metric) > 1:
                where = f" of output {output!r}" if output else ""
                raise MetricError(
                    f"`{argument}`{where} has {names.count(metric)} metrics named "
                    f"{metric!r}. Give each its own, for example name={metric + '_2'!r}."
                )
        logged += {f"{output}_{n}" if output else n for n in names}
    weighted_twins = _keras.weighted_twins(model)
    for metric in sorted(set(logged)):
        if logged.count(metric) - weighted_twins.count(metric) > 1:
            raise MetricError(
                f"{logged.count(metric)} metrics would be logged as {metric!r}: the "
                "losses, the metrics that were passed in and those that the model "
                'owns share one set of names. Rename one with name="...".'
            )


def _shapes(structure: Any) -> Any:
    return keras.tree.map_structure(lambda t: None if t is None else tuple(t.shape), structure)
