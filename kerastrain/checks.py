"""What is wrong with the arguments and the data, found before a weight changes.

`Trainer` calls these in order: the names when it is constructed, the numbers at
the start of ``fit``, and then `build_and_check`, which runs model, loss and
metrics on shapes alone and so finds what does not fit without a single number
being computed.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import ArgumentError
from kerastrain.errors import KerastrainError
from kerastrain.errors import DataError
from kerastrain.errors import MetricError
from kerastrain.errors import ModelError
from kerastrain.errors import ShapeError

# Names that Keras resolves by the shapes of the output.
_BY_SHAPE = ("accuracy", "acc", "crossentropy", "ce")

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


# Arguments --------------------------------------------------------------------


def check_identifiers(arguments: dict[str, Any]) -> None:
    """Resolves the names of losses and metrics, so that unknown ones are found.

    Args:
        arguments: those of ``keras.Model.compile`` by name.

    Raises:
        ArgumentError: an unknown loss.
        MetricError: an unknown metric, or a class in place of an instance.
    """
    for loss in keras.tree.flatten(arguments.get("loss")):
        if loss is None or str(loss).lower() in _BY_SHAPE[2:]:
            continue
        _resolve("loss", loss, keras.losses.get, ArgumentError, 'loss="mse"')
    for argument in ("metrics", "weighted_metrics"):
        metrics = arguments.get(argument)
        if metrics is not None and not isinstance(metrics, list | tuple | dict):
            raise MetricError(
                f"`{argument}` must be a list, tuple or dict. Received: "
                f"{argument}={metrics!r}. Use {argument}=[{metrics!r}]."
            )
        for metric in keras.tree.flatten(metrics):
            if metric is None or str(metric).lower() in _BY_SHAPE:
                continue
            _resolve(argument, metric, keras.metrics.get, MetricError, '["mae"]')


def _resolve(argument, identifier, get, error_class, example):
    try:
        found = get(identifier)
    except (ValueError, TypeError) as error:
        raise error_class(
            f"Unknown {argument}. Received: {identifier!r}. Use a name that Keras "
            f"knows, such as {example}, an object, or a function of (y_true, y_pred)."
        ) from error
    if isinstance(identifier, type) or not callable(found):
        raise error_class(
            f"`{argument}` holds {identifier!r}, which is neither a name, nor an "
            f"instance, nor a function. Example: {example}."
        )


def check_epochs(epochs: Any, initial_epoch: Any, validation_freq: Any) -> None:
    """Refuses numbers of epochs with which nothing would run.

    Raises:
        ArgumentError: as said.
    """
    if not isinstance(epochs, int | np.integer) or epochs < 1:
        raise ArgumentError(
            f"`epochs` must be a whole number, 1 or more. Received: epochs={epochs!r}."
        )
    if not isinstance(initial_epoch, int | np.integer) or initial_epoch < 0:
        raise ArgumentError(
            "`initial_epoch` must be a whole number, 0 or more. "
            f"Received: initial_epoch={initial_epoch!r}."
        )
    frequent = isinstance(validation_freq, int | np.integer) and validation_freq >= 1
    listed = (
        isinstance(validation_freq, list | tuple | set)
        and validation_freq
        and all(isinstance(e, int | np.integer) and e >= 1 for e in validation_freq)
    )
    if not frequent and not listed:
        raise ArgumentError(
            "`validation_freq` must be a whole number, 1 or more, or a list of "
            f"epochs counted from 1. Received: validation_freq={validation_freq!r}."
        )


def is_without_loss(model: keras.Model, loss: Any) -> bool:
    """Whether it is certain that there is nothing to minimise.

    A model that is not built yet, or that has hooks of its own, may add losses.
    """
    if loss is not None and any(item is not None for item in keras.tree.flatten(loss)):
        return False
    own = ("train_step", "compute_loss")
    if not model.built or any(_keras.overrides(model, name) for name in own):
        return False
    return not any(
        layer.activity_regularizer is not None or _keras.defines_losses(layer)
        for layer in _keras.all_layers(model)
    ) and not _keras.regularization_losses(model)


# Model and data ---------------------------------------------------------------


def build_and_check(model: keras.Model, batch: tuple, name: str) -> None:
    """Builds model, losses, metrics and optimizer from the shapes of a batch.

    Args:
        model: a compiled model.
        batch: its first batch of training data; only shapes and dtypes matter.
        name: what messages call the data.

    Raises:
        ModelError: the model cannot be called on ``x``.
        ShapeError: ``y`` does not fit the outputs.
        MetricError: the metrics do not fit the outputs.
    """
    check_targets(model, batch, name)
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def check_targets(model: keras.Model, batch: tuple, name: str) -> None:
    """Runs model, loss and metrics on the shapes of a batch; see `build_and_check`."""

    def run(x, y, sample_weight):
        y_pred = _call(model, x, name)
        if not _keras.overrides(model, "compute_loss"):
            _check_shapes(model, y, y_pred, sample_weight, name)
        try:
            loss = _keras.compute_loss(model, x, y, y_pred, sample_weight, training=False)
        except (ValueError, TypeError, KeyError) as error:
            raise _loss_error(model, y, y_pred, sample_weight, name, error) from error
        try:
            model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        except (ValueError, TypeError, KeyError) as error:
            raise MetricError(
                f"The metrics cannot be computed from y of shape {_shapes(y)} and "
                f"outputs of shape {_shapes(y_pred)}: {error}"
            ) from error
        return loss

    parts = keras.utils.unpack_x_y_sample_weight(batch)
    _keras.output_spec(run, *_keras.as_symbolic(parts))
    if isinstance(parts[1], tf.Tensor):
        check_labels(model, (None, parts[1].numpy()), name)


def build_model(model: keras.Model, batch: tuple) -> None:
    """Builds a model whose own ``train_step`` decides what the batch means.

    What cannot be built from ``x`` alone is left to the first step.
    """
    x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if not model.built:
        try:
            _keras.output_spec(lambda x: _keras.forward(model, x, False), _keras.as_symbolic(x))
        except (ValueError, TypeError, NotImplementedError):
            return
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.Optimizer) and not optimizer.built:
        optimizer.build(model.trainable_variables)


def _call(model, x, name):
    try:
        return _keras.forward(model, x, training=False)
    except KerastrainError:
        raise
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be called on `{name}` of shape "
            f"{_shapes(x)}: {type(error).__name__}: {error}"
        ) from error


def _loss_error(model, y, y_pred, sample_weight, name, error):
    if "No loss to compute" in str(error):
        return ModelError(
            f"No loss for {type(model).__name__}. Pass `loss` (for example "
            'loss="mse"), compile the model, or use `add_loss` in it.'
        )
    if y is None:
        return ShapeError(
            f"`{name}` has no y, which the loss needs. Pass y, or batches of (x, y)."
        )
    weights = "" if sample_weight is None else f", sample_weight of {_shapes(sample_weight)}"
    received = _keras.compile_arguments(model)
    return ShapeError(
        f"The loss cannot be computed from y of `{name}` of shape {_shapes(y)}{weights} "
        f"and outputs of shape {_shapes(y_pred)}: {error} Received: "
        f"loss={received['loss']!r}, loss_weights={received['loss_weights']!r}. Reshape "
        "the data, or change the last layer or the loss; those of several outputs are "
        "given by the outputs' names."
    )


def _check_shapes(model, y, y_pred, sample_weight, name):
    """Refuses targets that Keras would broadcast against the outputs."""
    if y is None:
        return
    try:
        outputs = _keras.output_losses(model, y, y_pred, sample_weight)
    except (ValueError, TypeError, KeyError) as error:
        raise _loss_error(model, y, y_pred, sample_weight, name, error) from error
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
            raise ShapeError(
                f"y of `{name}` has shape {tuple(true.shape)}, the model's output has "
                f"shape {tuple(pred.shape)}. The loss {output.loss.name!r} needs y of "
                f"shape {wanted}. Reshape y, or change the last layer or the loss."
            )
        _check_weight_shape(output, name)


def _check_weight_shape(output, name):
    """Refuses weights that Keras would broadcast along another axis than theirs."""
    values, weights = output.y_pred.shape[:-1], output.sample_weight
    if weights is None or values.rank == 0 or weights.shape.rank is None:
        return
    shape = weights.shape
    if shape.rank == values.rank + 1 and shape[-1] == 1:
        shape = shape[:-1]
    same_rank = shape.rank == values.rank
    if not same_rank or any(w not in (1, v) for w, v in zip(shape[1:], values[1:], strict=True)):
        raise ShapeError(
            f"sample_weight of `{name}` has shape {tuple(weights.shape)}, the loss has one "
            f"value for each of {tuple(values)}. Reshape sample_weight to that shape, or "
            "give axes after the first the length 1."
        )


def _loss_axis(loss):
    return _keras.loss_function_arguments(loss).get("axis", -1)


def _broadcasts_nothing(true, pred) -> bool:
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
    low, high = labels.min(), labels.max()
    if low < 0 or high >= classes:
        raise DataError(
            f"y of `{name}` holds the class {low if low < 0 else high}; the output has "
            f"{classes} classes, numbered 0 to {classes - 1}. Renumber the labels, or "
            "widen the last layer."
        )


def check_names(model: keras.Model) -> None:
    """Refuses metrics of which one would hide another in the logs.

    Raises:
        MetricError: two metrics or losses have one name. (Keras renames the
            second of two compiled ones, and drops one of two others.)
    """
    logged = [m.name for m in _keras.own_metrics(model)]
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


def _shapes(structure) -> Any:
    return keras.tree.map_structure(
        lambda t: None if t is None else tuple(t.shape), structure
    )
