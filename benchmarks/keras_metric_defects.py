"""Defects of `keras.metrics` 3.15.1, each in a few lines: what Keras gives, and what is right.

    python -m benchmarks.keras_metric_defects              # all
    python -m benchmarks.keras_metric_defects --only mask  # those whose name holds "mask"

They were found by `benchmarks.metrics_audit`, and its verdicts name them. What is right is computed
here: from the formula with NumPy, by scikit-learn, or by Keras itself in one pass or another type.
Each function's docstring says what is wrong and where the cause is; all paths are below
``keras/src``.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.box
import rich.console
import rich.table
import tensorflow as tf
from sklearn import metrics as sk

from benchmarks.harness import machine_line
from kerastrain import _keras

Pair = tuple[Any, Any]
DEFECTS: dict[str, Callable[[], Pair]] = {}


def defect(function: Callable[[], Pair]) -> Callable[[], Pair]:
    """Adds a function that returns what Keras gives, and what is right."""
    DEFECTS[function.__name__] = function
    return function


def result(metric: keras.metrics.Metric, *batches: Sequence, **options: Any) -> np.ndarray:
    """The result after some batches, each of which are the arguments of ``update_state``."""
    for batch in batches:
        metric.update_state(*batch, **options)
    return as_array(metric.result())


def as_array(value: Any) -> np.ndarray:
    """A copy of a tensor's or a variable's value."""
    return np.array(keras.ops.convert_to_numpy(value))


def attempt(function: Callable, *arguments: Any, **options: Any) -> Any:
    """What a function returns, or the error that it raises, in one line."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:70]}"


def masked(values: Any, mask: Any) -> tf.Tensor:
    """A tensor with a Keras mask, as a layer that supports masking returns it."""
    tensor = tf.constant(values)
    _keras.set_mask(tensor, tf.constant(mask))
    return tensor


def column(*values: float) -> np.ndarray:
    """Shape ``(rows, 1)``."""
    return np.array(values, "float32")[:, None]


# Shapes -------------------------------------------------------------------------------------


@defect
def outputs_of_rank_one() -> Pair:
    """Targets and outputs ``(rows,)``: a batch counts as one sample, however many rows it has.

    losses/losses.py, ``mean_squared_error`` and the others: the mean over the last axis, which is
    that of the rows; then `Mean.update_state` counts a scalar as 1. With ``sample_weight`` of
    shape ``(rows,)`` it raises an error.
    """
    y_true, y_pred = np.zeros(4, "float32"), np.array([2, 2, 2, 0], "float32")
    batches = [(y_true[:3], y_pred[:3]), (y_true[3:], y_pred[3:])]
    return result(keras.metrics.MeanSquaredError(), *batches), np.mean((y_true - y_pred) ** 2)


@defect
def weights_of_outputs_of_rank_one() -> Pair:
    """Targets, outputs and weights ``(rows,)`` raise an error.

    metrics/reduction_metrics.py, ``reduce_to_samplewise_values``: the values are a scalar by then,
    see `outputs_of_rank_one`, to which the weights cannot be broadcast.
    """
    y_true, y_pred = np.zeros(3, "float32"), np.array([2, 0, 0], "float32")
    weights = np.array([1, 2, 1], "float32")
    found = attempt(
        result, keras.metrics.MeanSquaredError(), (y_true, y_pred), sample_weight=weights
    )
    return found, np.average((y_true - y_pred) ** 2, weights=weights)


@defect
def targets_of_rank_one_are_broadcast() -> Pair:
    """Targets ``(rows,)`` beside outputs ``(rows, 1)``: each target meets each output.

    losses/losses.py, ``poisson``, ``kl_divergence``, ``hinge``, ``squared_hinge`` and
    ``categorical_hinge``: they do not call ``squeeze_or_expand_to_same_rank``, as
    ``mean_squared_error`` does, and as `keras.losses.Loss` does for all of them.
    """
    y_true, y_pred = np.array([0, 1, 4], "float32"), column(1, 2, 4)
    right = keras.losses.Poisson()(y_true, y_pred)
    return result(keras.metrics.Poisson(), (y_true, y_pred)), np.array(right)


@defect
def targets_of_rank_one_are_refused() -> Pair:
    """Targets ``(rows,)`` beside outputs ``(rows, 1)``: `BinaryCrossentropy` raises an error.

    losses/losses.py, ``binary_crossentropy``: as in `targets_of_rank_one_are_broadcast`; the loss
    of the same name takes them.
    """
    y_true, y_pred = np.array([0, 1, 1], "float32"), column(0.25, 0.5, 0.75)
    right = keras.losses.BinaryCrossentropy()(y_true, y_pred)
    return attempt(result, keras.metrics.BinaryCrossentropy(), (y_true, y_pred)), np.array(right)


@defect
def scalar_weight_counts_once() -> Pair:
    """One number as ``sample_weight``: a batch counts as one sample, however many rows it has.

    metrics/reduction_metrics.py, ``reduce_to_samplewise_values``: values are reduced to the rank
    of the weight, which is 0, and the count grows by the weight alone. A rank of 0 is documented.
    """
    first, second = column(2, 2, 2), column(0)
    batches = [(np.zeros_like(part), part) for part in (first, second)]
    found = result(keras.metrics.RootMeanSquaredError(), *batches, sample_weight=1.0)
    return found, np.sqrt(np.mean(np.concatenate([first, second]) ** 2))


@defect
def f1_weights_in_a_column() -> Pair:
    """`F1Score` with weights ``(rows, 1)`` weighs every row by the sum of all weights.

    metrics/f_score_metrics.py, ``FBetaScore.update_state``: ``expand_dims(sample_weight, 1)``
    makes ``(rows, 1, 1)`` of them, which is broadcast to ``(rows, rows, classes)``.
    """
    y_true, y_pred = column(1, 1, 0), column(1, 0, 1)
    weights = column(4, 1, 1)
    metric = keras.metrics.F1Score(threshold=0.5, average="micro")
    found = result(metric, (y_true, y_pred), sample_weight=weights)
    return found, sk.f1_score(y_true[:, 0], y_pred[:, 0], sample_weight=weights[:, 0])


@defect
def row_weights_of_sequences() -> Pair:
    """`Precision` of ``(rows, steps, 1)``, a weight for each row: the steps are weighed instead.

    metrics/metrics_utils.py, ``update_confusion_matrix_variables``: weights become ``(rows, 1)``,
    which is broadcast to the last two axes. It shows where rows and steps are of one number;
    otherwise it raises an error. `MeanSquaredError` weighs the rows.
    """
    y_true = np.array([[[0], [1]], [[0], [0]]], "float32")
    y_pred = np.ones_like(y_true)
    weights = np.array([3, 1], "float32")
    found = result(keras.metrics.Precision(), (y_true, y_pred), sample_weight=weights)
    return found, np.average(y_true.mean(axis=(1, 2)), weights=weights)


@defect
def iou_weights_that_broadcast() -> Pair:
    """`MeanIoU` of images: weights ``(rows, 1, 1)`` raise an error.

    metrics/iou_metrics.py, ``_IoUBase.update_state``: weights are flattened before they are
    broadcast; its docstring asks for the rank of ``y_true``, "broadcastable to ``y_true``".
    """
    y_true = np.array([[[0, 1]], [[1, 1]]])
    y_pred = np.array([[[0, 0]], [[1, 0]]])
    weights = np.array([2, 1], "float32").reshape(2, 1, 1)
    metric = keras.metrics.MeanIoU(2, dtype="float32")
    found = attempt(result, metric, (y_true, y_pred), sample_weight=weights)
    full = np.broadcast_to(weights, y_true.shape).ravel()
    each = [
        full[(y_true.ravel() == k) & (y_pred.ravel() == k)].sum()
        / full[(y_true.ravel() == k) | (y_pred.ravel() == k)].sum()
        for k in (0, 1)
    ]
    return found, np.mean(each)


@defect
def iou_of_another_axis() -> Pair:
    """`IoU` with the classes in axis 1: ``result`` raises an error.

    metrics/iou_metrics.py, ``IoU.result``: ``ops.sum(iou, axis=self.axis)`` takes the axis of the
    inputs for one of the scores, which have rank 1.
    """
    y_true = np.array([[0, 1], [1, 1]])
    scores = np.eye(2)[np.array([[0, 0], [1, 1]])]
    options = {"num_classes": 2, "sparse_y_pred": False}
    found = attempt(
        result, keras.metrics.MeanIoU(**options, axis=1), (y_true, np.moveaxis(scores, -1, 1))
    )
    return found, result(keras.metrics.MeanIoU(**options), (y_true, scores))


# Masks --------------------------------------------------------------------------------------


def _steps() -> tuple[np.ndarray, tf.Tensor, np.ndarray]:
    """Targets ``(2, 2, 1)``, masked predictions, and the mask, which leaves out the wrong ones."""
    mask = np.array([[True, False], [True, True]])
    y_true = np.array([[[1], [0]], [[0], [1]]], "float32")
    return y_true, masked(np.where(mask[..., None], y_true, 1 - y_true), mask), mask


@defect
def mask_ignored_by_root_mean_squared_error() -> Pair:
    """Masked time steps count in `RootMeanSquaredError`; in `MeanSquaredError` they do not.

    metrics/regression_metrics.py, ``RootMeanSquaredError.update_state``: calls `Mean` with values
    that carry no mask any more, where `MeanMetricWrapper` reads it from ``y_pred``.
    """
    y_true, y_pred, _ = _steps()
    mean = result(keras.metrics.MeanSquaredError(), (y_true, y_pred))
    return result(keras.metrics.RootMeanSquaredError(), (y_true, y_pred)), np.sqrt(mean)


@defect
def mask_ignored_by_confusion_metrics() -> Pair:
    """Masked time steps count in `Precision`, `Recall`, `AUC` and all others of this family.

    metrics/metrics_utils.py, ``update_confusion_matrix_variables``: nobody reads the mask.
    """
    y_true, y_pred, mask = _steps()
    right = sk.precision_score(y_true[mask].ravel(), np.array(y_pred)[mask].ravel())
    return result(keras.metrics.Precision(), (y_true, y_pred)), right


@defect
def mask_ignored_by_iou() -> Pair:
    """Masked time steps count in `IoU` and its family.

    metrics/iou_metrics.py, ``_IoUBase.update_state``: nobody reads the mask.
    """
    y_true, y_pred, mask = _steps()
    right = sk.jaccard_score(y_true[mask].ravel(), np.array(y_pred)[mask].ravel(), average="macro")
    return result(keras.metrics.BinaryIoU(), (y_true, y_pred)), right


@defect
def mask_times_row_weights() -> Pair:
    """A mask ``(rows, steps)`` and a weight for each row: the steps are weighed, not the rows.

    losses/loss.py, ``apply_mask``: weights ``(rows,)`` times a mask ``(rows, steps)`` broadcast
    along the steps. It shows where rows and steps are of one number, and is an error elsewhere.
    """
    mask = np.array([[True, True], [True, False]])
    y_true = np.zeros((2, 2, 1), "float32")
    errors = np.array([[1, 2], [3, 0]], "float32")
    weights = np.array([1, 0], "float32")
    metric = keras.metrics.MeanSquaredError()
    found = result(metric, (y_true, masked(errors[..., None], mask)), sample_weight=weights)
    return found, np.average(errors**2, weights=mask * weights[:, None])


@defect
def ignored_class_is_counted() -> Pair:
    """`SparseCategoricalCrossentropy(ignore_class=0)`: ignored rows count as rows of loss 0.

    metrics/reduction_metrics.py, ``reduce_to_samplewise_values``: the mask that the loss set on
    its values is read only where there are weights. With weights of 1 the result is right.
    """
    labels, scores = np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]], "float32")
    metric = keras.metrics.SparseCategoricalCrossentropy(ignore_class=0)
    return result(metric, (labels, scores)), sk.log_loss(labels[1:], scores[1:], labels=[0, 1])


# Types --------------------------------------------------------------------------------------


@defect
def integer_predictions_truncate_targets() -> Pair:
    """Predictions as integers: targets are cut to integers too.

    losses/losses.py, all errors and ``metrics/accuracy_metrics.py``, ``accuracy``: ``y_true`` is
    converted to the type of ``y_pred``, and not both to the metric's ``dtype``.
    """
    y_true, y_pred = column(0.75, 1.5), np.array([[0], [1]])
    right = np.mean(abs(y_true - y_pred))
    return attempt(result, keras.metrics.MeanAbsoluteError(), (y_true, y_pred)), right


@defect
def integers_wrap_around() -> Pair:
    """Images in uint8: a difference of -2 is 254.

    losses/losses.py, ``mean_absolute_error`` and the others: they compute in the inputs' type, as
    in `integer_predictions_truncate_targets`. `RootMeanSquaredError` casts first.
    """
    y_true, y_pred = np.array([[3], [5]], "uint8"), np.array([[5], [5]], "uint8")
    right = sk.mean_absolute_error(y_true.astype(int), y_pred.astype(int))
    return result(keras.metrics.MeanAbsoluteError(), (y_true, y_pred)), right


@defect
def squares_overflow_in_float16() -> Pair:
    """Outputs in float16: the squares overflow, although the metric's ``dtype`` is float32.

    metrics/reduction_metrics.py, ``MeanMetricWrapper.update_state``: the function is called with
    the inputs' type; only its values are cast. `RootMeanSquaredError` casts first.
    """
    y_true, y_pred = column(0, 0), column(300, 300).astype("float16")
    right = np.mean((y_true - y_pred.astype("float32")) ** 2)
    return result(keras.metrics.MeanSquaredError(), (y_true, y_pred)), right


@defect
def crossentropy_in_float16() -> Pair:
    """A certain and right prediction in float16 gives NaN.

    backend/tensorflow/nn.py, ``binary_crossentropy``: in float16 ``1 - epsilon`` is 1, so that the
    logarithm of 0 is taken; see `squares_overflow_in_float16` for why it computes in float16.
    """
    y_true, y_pred = column(1, 0), column(1, 0)
    found = result(keras.metrics.BinaryCrossentropy(), (y_true, y_pred.astype("float16")))
    return found, sk.log_loss(y_true[:, 0], y_pred[:, 0])


@defect
def cosine_of_zeros_in_float16() -> Pair:
    """A vector of zeros in float16 gives NaN, in float32 0, as the docstring says.

    backend-independent, utils/numerical_utils.py, ``normalize``: its epsilon of 1e-12 is 0 in
    float16; see `squares_overflow_in_float16` for why it computes in float16.
    """
    batch = np.zeros((1, 2), "float16"), np.ones((1, 2), "float16")
    right = result(keras.metrics.CosineSimilarity(), [array.astype("float32") for array in batch])
    return result(keras.metrics.CosineSimilarity(), batch), right


@defect
def classes_in_bfloat16() -> Pair:
    """Scores in bfloat16: class 257 counts as class 256.

    metrics/accuracy_metrics.py, ``sparse_categorical_accuracy`` and ``categorical_accuracy``:
    numbers of classes are converted to the type of the scores, which has 8 bits.
    """
    scores = np.eye(300, dtype="float32")[[256, 256]]
    labels = np.array([257, 256])
    metric = keras.metrics.SparseCategoricalAccuracy()
    found = result(metric, (labels, tf.cast(scores, "bfloat16")))
    return found, sk.accuracy_score(labels, scores.argmax(axis=1))


@defect
def top_k_takes_float32_only() -> Pair:
    """Scores in float16, bfloat16 or float64 raise an error.

    backend/tensorflow/math.py, ``in_top_k``: ``tf.math.in_top_k`` takes float32 only.
    """
    labels, scores = np.array([0, 1]), np.array([[0.5, 0.25, 0.25], [0.5, 0.0, 0.5]])
    metric = keras.metrics.SparseTopKCategoricalAccuracy(k=2)
    right = sk.top_k_accuracy_score(labels, scores, k=2, labels=[0, 1, 2])
    return attempt(result, metric, (labels, scores)), right


@defect
def dtype_ignored_by_confusion_metrics() -> Pair:
    """`TruePositives(dtype="float64")` counts in float32, and stops at 2^24.

    metrics/confusion_metrics.py, all classes: ``add_variable`` without ``dtype=self.dtype``.
    """
    metric = keras.metrics.TruePositives(dtype="float64")
    metric.accumulator.assign([2.0**24])
    return f"{result(metric, (column(1), column(1))):.0f}", f"{2**24 + 1}"


@defect
def dtype_ignored_by_r2() -> Pair:
    """`R2Score(dtype="float64")` adds in float32.

    metrics/regression_metrics.py, ``R2Score._build``: ``add_variable`` without ``dtype``.
    """
    y_true = np.array([[100.0], [100.1], [100.2], [100.3]])
    y_pred = np.array([[100.0], [100.1], [100.2], [100.2]])
    found = result(keras.metrics.R2Score(dtype="float64"), (y_true, y_pred))
    return found, sk.r2_score(y_true, y_pred)


@defect
def dtype_ignored_by_iou() -> Pair:
    """`MeanIoU(dtype="float64")` gives float32.

    metrics/iou_metrics.py, ``IoU.result``: casts to ``"float32"``, whatever the dtype is.
    """
    metric = keras.metrics.IoU(2, [1], dtype="float64")
    found = result(metric, (np.array([1, 1, 1]), np.array([1, 0, 0])))
    return repr(float(found)), repr(1 / 3)


@defect
def iou_weights_are_cut_to_integers() -> Pair:
    """Weights of a half are 0, in the example of the docstring of `MeanIoU` too.

    metrics/iou_metrics.py, ``_IoUBase``: ``dtype or "int"``, and ``update_state`` converts the
    weights to it. For an array there is a warning, for a list as in the docstring there is none.
    """
    y_true, y_pred, weights = [0, 0, 1, 1], [0, 1, 0, 1], [0.3, 0.3, 0.3, 0.1]
    found = result(keras.metrics.MeanIoU(2), (y_true, y_pred), sample_weight=weights)
    return found, sk.jaccard_score(y_true, y_pred, average="macro", sample_weight=weights)


# Configuration ------------------------------------------------------------------------------


@defect
def axis_lost_by_cosine_similarity() -> Pair:
    """A `CosineSimilarity(axis=1)` that is reloaded has the axis -1.

    metrics/regression_metrics.py, ``CosineSimilarity.get_config`` leaves out ``axis``.
    """
    metric = keras.metrics.CosineSimilarity(axis=1)
    batch = np.ones((1, 2, 2), "float32"), np.array([[[1, 1], [0, 0]]], "float32")
    again = type(metric).from_config(metric.get_config())
    return result(again, batch), result(metric, batch)


@defect
def label_weights_of_auc_cannot_be_reloaded() -> Pair:
    """`AUC(label_weights=...)` cannot be loaded from the JSON that it was saved as.

    metrics/confusion_metrics.py, ``AUC.get_config``: gives the tensor, not the numbers, and
    `AUC.from_config` does not deserialise it.
    """
    metric = keras.metrics.AUC(multi_label=True, num_labels=2, label_weights=[1.0, 3.0])
    batch = np.array([[0, 1], [1, 0]]), np.array([[0, 0], [1, 1]], "float32")

    def reloaded():
        text = json.dumps(keras.saving.serialize_keras_object(metric))
        return result(keras.saving.deserialize_keras_object(json.loads(text)), batch)

    return attempt(reloaded), result(metric, batch)


# State --------------------------------------------------------------------------------------


@defect
def empty_batch_is_refused() -> Pair:
    """A batch without rows raises an error in `CategoricalHinge`, and in `F1Score` without threshold.

    backend/tensorflow/numpy.py, ``max``: refuses any tensor without elements, also where the axis
    that is reduced has some, as NumPy does not.
    """
    batch = np.eye(2, dtype="float32"), np.array([[0.5, 1], [1, 0.5]], "float32")
    empty = [array[:0] for array in batch]
    found = attempt(result, keras.metrics.CategoricalHinge(), batch, empty)
    return found, result(keras.metrics.CategoricalHinge(), batch)


@defect
def counts_return_the_live_variable() -> Pair:
    """A kept result of `TruePositives(thresholds=[...])` changes with the next batch.

    metrics/confusion_metrics.py, ``_ConfusionMatrixConditionCount.result``: with several
    thresholds it returns the variable itself, which ``convert_to_tensor`` does not copy. For the
    same reason ``stateless_result`` ignores the state that it is given.
    """
    metric = keras.metrics.TruePositives(thresholds=[0.25, 0.5])
    metric.update_state(column(1), column(1))
    kept = metric.result()
    right = as_array(kept)
    metric.update_state(column(1), column(1))
    return as_array(kept), right


@defect
def no_result_before_the_first_batch() -> Pair:
    """`F1Score().result()`, or `R2Score`'s, before the first batch raises; `Precision` gives 0.

    metrics/f_score_metrics.py, ``FBetaScore._build``, and metrics/regression_metrics.py,
    ``R2Score._build``: the first batch makes the variables, so that a new metric has no state to
    read, to reset or to restore, and a compiled ``update_state`` is traced twice.
    """
    found = attempt(result, keras.metrics.F1Score(average="micro"))
    return found, result(keras.metrics.Precision())


# Numbers ------------------------------------------------------------------------------------


@defect
def r2_of_constant_targets() -> Pair:
    """Constant targets, predicted exactly: NaN.

    metrics/regression_metrics.py, ``R2Score.result``: 0 / 0; only infinity is replaced.
    """
    y_true = y_pred = column(2, 2)
    return result(keras.metrics.R2Score(), (y_true, y_pred)), sk.r2_score(y_true, y_pred)


@defect
def r2_cancels() -> Pair:
    """Targets far from 0 lose all digits.

    metrics/regression_metrics.py, ``R2Score.result``: the difference of two large numbers, the sum
    of squares and the squared sum over the count.
    """
    y_true = column(4096, 4096.125, 4096.25, 4096.375)
    y_pred = column(4096, 4096.125, 4096.25, 4096.25)
    right = sk.r2_score(y_true.astype("float64"), y_pred.astype("float64"))
    return result(keras.metrics.R2Score(), (y_true, y_pred)), right


@defect
def adjusted_r2_counts_outputs_as_rows() -> Pair:
    """`R2Score(num_regressors=1)` of two outputs takes four rows for eight.

    metrics/regression_metrics.py, ``R2Score.update_state``: ``num_samples`` grows by
    ``ops.size(y_true)``, rows times outputs.
    """
    y_true = np.array([[0, 0], [1, 2], [2, 1], [3, 3]], "float32")
    y_pred = np.array([[0, 1], [1, 1], [1, 1], [3, 3]], "float32")
    rows, regressors = len(y_true), 1
    plain = sk.r2_score(y_true, y_pred)
    right = 1 - (1 - plain) * (rows - 1) / (rows - regressors - 1)
    return result(keras.metrics.R2Score(num_regressors=regressors), (y_true, y_pred)), right


@defect
def adjusted_r2_cannot_be_traced() -> Pair:
    """`R2Score(num_regressors=1)` in ``model.evaluate`` raises an error, or ignores its argument.

    metrics/regression_metrics.py, ``R2Score.result``: ``if self.num_regressors >
    self.num_samples - 1`` asks a traced tensor for its truth.
    """
    metric = keras.metrics.R2Score(num_regressors=1)
    eager = result(metric, (column(0, 1, 2, 3), column(0, 1, 1, 3)))
    return attempt(lambda: np.array(tf.function(metric.result, autograph=False)())), eager


@defect
def auc_of_labels_cannot_be_traced() -> Pair:
    """`AUC(multi_label=True, thresholds=[...])` in a graph with a known batch size: an error.

    metrics/metrics_utils.py, ``update_confusion_matrix_variables``: ``one_thresh`` is made by
    ``ops.equal``, a symbolic tensor there, and given to ``np.where``.
    """
    batch = np.array([[0, 1], [1, 0]]), np.array([[0, 0], [1, 1]], "float32")
    options = {"multi_label": True, "num_labels": 2, "thresholds": [0.25, 0.5, 0.625]}
    graph, eager = (keras.metrics.AUC(**options) for _ in range(2))
    update = tf.function(graph.update_state, autograph=False)
    found = attempt(update, *(tf.constant(array) for array in batch))
    return graph.result() if found is None else found, result(eager, batch)


@defect
def pearson_of_a_row_without_weight() -> Pair:
    """A constant row, such as padding, makes the result NaN, although its weight is 0.

    metrics/correlation_metrics.py, ``pearson_correlation``: the coefficient of a constant row is
    0 / 0, and 0 times NaN is NaN. `ConcordanceCorrelation` adds an epsilon.
    """
    y_true = np.array([[0, 1, 2], [0, 0, 0]], "float32")
    y_pred = np.array([[0, 1, 1], [0, 0, 0]], "float32")
    weights = np.array([1, 0], "float32")
    found = result(keras.metrics.PearsonCorrelation(), (y_true, y_pred), sample_weight=weights)
    return found, np.corrcoef(y_true[0], y_pred[0])[0, 1]


@defect
def f1_of_ties() -> Pair:
    """`F1Score` without a threshold: all of several largest scores are predictions.

    metrics/f_score_metrics.py, ``FBetaScore.update_state``: ``y_pred >= max``, where the docstring
    says "the argmax of ``y_pred`` is converted to 1, and the rest to 0".
    """
    y_true, y_pred = np.eye(3)[[0, 1]], np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]], "float32")
    found = result(keras.metrics.F1Score(average="micro"), (y_true, y_pred))
    return found, sk.f1_score(y_true.argmax(1), y_pred.argmax(1), average="micro")


@defect
def f1_of_a_largest_logit_of_zero() -> Pair:
    """`F1Score` without a threshold: a row whose largest logit is 0 predicts nothing.

    metrics/f_score_metrics.py, ``FBetaScore.update_state``: ``abs(y_pred) > 1e-9``.
    """
    y_true, y_pred = np.eye(3)[[0, 1]], np.array([[0, -1, -2], [-1, 2, -3]], "float32")
    found = result(keras.metrics.F1Score(average="micro"), (y_true, y_pred))
    return found, sk.f1_score(y_true.argmax(1), y_pred.argmax(1), average="micro")


@defect
def f1_of_small_weights() -> Pair:
    """`F1Score` with weights of a millionth is off by a tenth; `Precision` and `Recall` are not.

    metrics/f_score_metrics.py, ``FBetaScore.result``: an epsilon of 1e-7 is added to each divisor,
    where ``divide_no_nan`` would do.
    """
    y_true = y_pred = column(1)
    weights = np.array([1e-6], "float32")
    metric = keras.metrics.F1Score(threshold=0.5, average="micro")
    found = result(metric, (y_true, y_pred), sample_weight=weights)
    return found, sk.f1_score(y_true[:, 0], y_pred[:, 0], sample_weight=weights)


@defect
def scores_of_zero_are_never_positive() -> Pair:
    """`SensitivityAtSpecificity(0.0)` is 1 by definition, but not where a score is 0.

    metrics/confusion_metrics.py, ``SensitivitySpecificityBase.__init__``: the lowest threshold is
    0, and predictions must be above it. `AUC` puts its lowest one below 0 for this reason.
    """
    y_true, y_pred = column(1, 1, 0), column(0, 1, 0.5)
    _, sensitivity, _ = sk.roc_curve(y_true, y_pred)
    found = result(keras.metrics.SensitivityAtSpecificity(0.0), (y_true, y_pred))
    return found, max(sensitivity)


@defect
def evenly_spaced_thresholds_round() -> Pair:
    """A score of 0.3 is above the threshold 0.3, if thresholds are evenly spaced.

    metrics/metrics_utils.py, ``_update_confusion_matrix_variables_optimized``: the bucket is
    ``ceil(y_pred * 100) - 1``, and in float32 that product is above 30.
    """
    y_true, y_pred = column(0), column(0.3)
    thresholds = [number / 100 for number in range(101)]
    found = result(keras.metrics.FalsePositives(thresholds=thresholds), (y_true, y_pred))
    return found[30], result(keras.metrics.FalsePositives(thresholds=0.3), (y_true, y_pred))


@defect
def label_smoothing_along_another_axis() -> Pair:
    """`CategoricalCrossentropy(label_smoothing=..., axis=1)` divides by the size of the last axis.

    losses/losses.py, ``categorical_crossentropy``: ``num_classes`` is ``shape(y_true)[-1]``.
    """
    y_true = np.eye(2, dtype="float32")[[[0, 1, 1]]]
    scores = np.array([[[0.25, 0.75], [0.5, 0.5], [0.25, 0.75]]], "float32")
    moved = [np.moveaxis(array, -1, 1) for array in (y_true, scores)]
    first = keras.metrics.CategoricalCrossentropy(label_smoothing=0.5, axis=1)
    last = keras.metrics.CategoricalCrossentropy(label_smoothing=0.5)
    return result(first, moved), result(last, (y_true, scores))


@defect
def labels_in_a_list() -> Pair:
    """`SparseCategoricalCrossentropy`: labels as a list raise an error, as in its docstring.

    losses/losses.py, ``sparse_categorical_crossentropy``: ``y_true.shape``, without a conversion.
    """
    labels, scores = [1, 0], [[0.25, 0.75], [0.5, 0.5]]
    found = attempt(result, keras.metrics.SparseCategoricalCrossentropy(), (labels, scores))
    return found, sk.log_loss(labels, scores)


# All of them --------------------------------------------------------------------------------


def differ(gives: Any, right: Any) -> bool:
    """Whether two results are not the same, to six digits; a NaN is the same as a NaN."""
    if isinstance(gives, str) or isinstance(right, str):
        return gives != right
    return not np.allclose(gives, right, rtol=1e-6, atol=1e-9, equal_nan=True)


def shown(value: Any) -> str:
    """A number in eight digits, a list of them, or the error."""
    if isinstance(value, str):
        return value
    return " ".join(f"{number:.8g}" for number in np.ravel(value))


def main(arguments: Sequence[str] | None = None) -> dict[str, Pair]:
    """Runs the defects that the command line asks for, prints and returns what they give."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.keras_metric_defects", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", metavar="PATTERN", default="", help="names that hold this")
    options = parser.parse_args(arguments)
    names = [name for name in DEFECTS if options.only.lower() in name]
    if not names:
        parser.error(f"no defect's name holds {options.only!r}")
    console = rich.console.Console()
    console.width = max(console.width, 130)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for head in ("defect", "Keras gives", "right"):
        table.add_column(head)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = {name: DEFECTS[name]() for name in names}
    for name, (gives, right) in pairs.items():
        mended = "" if differ(gives, right) else " (mended)"
        table.add_row(name + mended, *(rich.markup.escape(shown(v)) for v in (gives, right)))
    console.print(table)
    print(machine_line())
    return pairs


if __name__ == "__main__":
    main()
