"""Metrics of classes, each computed from one confusion matrix.

::

    model.compile(loss="sparse_categorical_crossentropy",
                  metrics=[FScore(3), Recall(3, average=None)])

Unlike ``keras.metrics``, which counts what is above a threshold in each column, these
compare one predicted class with one label for each row, as scikit-learn does:

- ``y_true``: whole numbers from 0 to ``classes - 1``, ``(rows,)`` or ``(rows, 1)``; or
  one-hot ``(rows, classes)`` beside scores of that shape.
- ``y_pred``: scores ``(rows, classes)``, of which the highest is the predicted class (the
  first one of equals); or, for two classes, the scores of class 1 alone, ``(rows,)`` or
  ``(rows, 1)``: class 1 is predicted where the score is above ``threshold`` (with logits,
  pass ``threshold=0.0``). Time steps may stand between: ``(rows, steps, classes)`` with
  labels ``(rows, steps)``.

Shapes that do not fit raise `ShapeError`, labels out of range (but in rows of weight 0)
``tf.errors.InvalidArgumentError``; compiled by XLA, which has no errors, such rows are left
out. The state is ``classes * classes`` float64 numbers whatever ``dtype`` is, which is that of
the result.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import ArgumentError
from kerastrain.errors import ShapeError
from kerastrain.metrics import arguments

AVERAGES = ("macro", "micro", "weighted", "binary", None)
NORMALIZATIONS = (None, "true", "pred", "all")


class _Confusion(keras.metrics.Metric):
    """Sums the weights of the rows of each label (first axis) and predicted class (second)."""

    def __init__(self, classes: int, *, threshold: float, name: str, dtype: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self.classes = arguments.whole_number("classes", classes, 2)
        self.threshold = arguments.number("threshold", threshold, -math.inf, math.inf)
        self.matrix = self.add_variable((classes, classes), "zeros", dtype="float64", name="matrix")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts the rows of a batch.

        Args:
            y_true: labels, and
            y_pred: scores, as the module says.
            sample_weight: for each row, or row and step, or one number; default 1.
        """
        mask = _keras.get_mask(y_pred)
        predicted = self._predicted(y_pred)
        labels = arguments.class_labels(y_true, predicted, self.classes)
        weight = arguments.flat(arguments.weights(sample_weight, mask, predicted))
        labels = arguments.checked_labels(arguments.flat(labels), weight, self.classes)
        cells = labels * self.classes + arguments.flat(predicted, "int32")
        counts = keras.ops.segment_sum(weight, cells, self.classes**2)
        self.matrix.assign_add(keras.ops.reshape(counts, (self.classes, self.classes)))

    def _predicted(self, y_pred: Any) -> tf.Tensor:
        scores, found = arguments.class_scores(y_pred)
        if found != self.classes:
            raise ShapeError(
                f"`y_pred` has the scores of {found} classes, the metric {self.name!r} counts "
                f"{self.classes}. Received: shape {tuple(scores.shape)}. Pass the number of "
                "classes to the metric, or scores (rows, classes)."
            )
        if len(scores.shape) > 1 and scores.shape[-1] == self.classes:
            return keras.ops.argmax(scores, axis=-1)
        return scores > self.threshold

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {**super().get_config(), "classes": self.classes, "threshold": self.threshold}


class _Averaged(_Confusion):
    """A fraction for each class, averaged."""

    def __init__(
        self, classes: int, *, average: str | None, threshold: float, name: str, dtype: Any
    ) -> None:
        super().__init__(classes, threshold=threshold, name=name, dtype=dtype)
        self.average = arguments.one_of("average", average, AVERAGES)
        if average == "binary" and classes != 2:
            raise ArgumentError(
                f'`average` must not be "binary" with more than two classes. Received: '
                f'average="binary", classes={classes}. Use "macro", or None for every class.'
            )

    def _fraction(self, hits: tf.Tensor, labelled: tf.Tensor, predicted: tf.Tensor) -> tuple:
        """Numerators and denominators of the classes, from weights ``(classes,)``."""
        raise NotImplementedError

    def result(self) -> tf.Tensor:
        """The average of all rows since the last reset."""
        matrix = keras.ops.copy(self.matrix.value)
        labelled = keras.ops.sum(matrix, axis=1)
        parts, wholes = self._fraction(
            keras.ops.diagonal(matrix), labelled, keras.ops.sum(matrix, axis=0)
        )
        if self.average == "micro":
            parts, wholes = keras.ops.sum(parts), keras.ops.sum(wholes)
        score = keras.ops.divide_no_nan(parts, wholes)
        if self.average == "macro":
            score = keras.ops.mean(score)
        elif self.average == "weighted":
            score = keras.ops.divide_no_nan(
                keras.ops.sum(labelled * score), keras.ops.sum(labelled)
            )
        elif self.average == "binary":
            score = score[1]
        return keras.ops.cast(score, self.dtype)

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {**super().get_config(), "average": self.average}


@keras.saving.register_keras_serializable(package="kerastrain")
class Precision(_Averaged):
    """The share of the rows predicted as a class that have its label.

    ``precision_c = weight(label c and predicted c) / weight(predicted c)``, 0.0 for a class
    that is never predicted. Equals ``sklearn.metrics.precision_score`` with
    ``labels=range(classes)`` and ``zero_division=0``.

    Args:
        classes: how many there are, 2 or more.
        average: ``"macro"``, the mean over all classes, those without rows too;
            ``"weighted"``, the mean weighted by the weight of each label; ``"micro"``, sums
            over classes divided once (here the accuracy); ``"binary"``, that of class 1 of
            two; None for a result of shape ``(classes,)``.
        threshold: above which a single score is class 1; not used with a score a class.
        name: what is logged.
        dtype: of the result.

    Raises:
        ArgumentError: fewer than two classes, an unknown average, a threshold that is no
            finite number.
        ShapeError, tf.errors.InvalidArgumentError: in ``update_state``, as the module says.

    Example:
        >>> metric = Precision(2, average="binary")
        >>> metric.update_state([0, 1, 1], [0.6, 0.7, 0.2])
        >>> float(metric.result())
        0.5

    Source: C. J. van Rijsbergen, "Information Retrieval", 2nd edition 1979, chapter 7.
    """

    def __init__(
        self,
        classes: int,
        *,
        average: str | None = "macro",
        threshold: float = 0.5,
        name: str = "precision",
        dtype: Any = None,
    ):
        super().__init__(classes, average=average, threshold=threshold, name=name, dtype=dtype)

    def _fraction(self, hits: tf.Tensor, labelled: tf.Tensor, predicted: tf.Tensor) -> tuple:
        return hits, predicted


@keras.saving.register_keras_serializable(package="kerastrain")
class Recall(_Averaged):
    """The share of the rows with a label that are predicted as its class.

    ``recall_c = weight(label c and predicted c) / weight(label c)``, 0.0 for a label that no
    row has. Equals ``sklearn.metrics.recall_score`` with ``labels=range(classes)`` and
    ``zero_division=0``.

    Args:
        classes: how many there are, 2 or more.
        average: ``"macro"``, the mean over all classes, those without rows too;
            ``"weighted"``, the mean weighted by the weight of each label; ``"micro"``, sums
            over classes divided once (here the accuracy); ``"binary"``, that of class 1 of
            two; None for a result of shape ``(classes,)``.
        threshold: above which a single score is class 1; not used with a score a class.
        name: what is logged.
        dtype: of the result.

    Raises:
        ArgumentError: fewer than two classes, an unknown average, a threshold that is no
            finite number.
        ShapeError, tf.errors.InvalidArgumentError: in ``update_state``, as the module says.

    Example:
        >>> metric = Recall(3, average=None)
        >>> metric.update_state([0, 0, 2], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9]])
        >>> metric.result().numpy().tolist()
        [0.5, 0.0, 1.0]

    Source: C. J. van Rijsbergen, "Information Retrieval", 2nd edition 1979, chapter 7.
    """

    def __init__(
        self,
        classes: int,
        *,
        average: str | None = "macro",
        threshold: float = 0.5,
        name: str = "recall",
        dtype: Any = None,
    ):
        super().__init__(classes, average=average, threshold=threshold, name=name, dtype=dtype)

    def _fraction(self, hits: tf.Tensor, labelled: tf.Tensor, predicted: tf.Tensor) -> tuple:
        return hits, labelled


@keras.saving.register_keras_serializable(package="kerastrain")
class FScore(_Averaged):
    """The harmonic mean of precision and recall, in which recall counts ``beta**2`` times.

    ::

        f_c = (1 + beta**2) * weight(label c and predicted c)
              / (beta**2 * weight(label c) + weight(predicted c))

    0.0 for a class that is neither a label nor predicted. Equals
    ``sklearn.metrics.fbeta_score`` with ``labels=range(classes)`` and ``zero_division=0``.

    Args:
        classes: how many there are, 2 or more.
        beta: 1 for the F1 score; above 1 recall counts more, at 0 it is the precision.
        average: ``"macro"``, the mean over all classes, those without rows too;
            ``"weighted"``, the mean weighted by the weight of each label; ``"micro"``, sums
            over classes divided once (here the accuracy); ``"binary"``, that of class 1 of
            two; None for a result of shape ``(classes,)``.
        threshold: above which a single score is class 1; not used with a score a class.
        name: what is logged.
        dtype: of the result.

    Raises:
        ArgumentError: fewer than two classes, an unknown average, ``beta`` below 0 or a
            threshold that is no finite number.
        ShapeError, tf.errors.InvalidArgumentError: in ``update_state``, as the module says.

    Example:
        >>> metric = FScore(2, average="binary")
        >>> metric.update_state([0, 1, 1], [0.6, 0.7, 0.2])
        >>> metric.update_state([1], [0.9])
        >>> round(float(metric.result()), 4)
        0.6667

    Source: C. J. van Rijsbergen, "Information Retrieval", 2nd edition 1979, chapter 7.
    """

    def __init__(
        self,
        classes: int,
        *,
        beta: float = 1.0,
        average: str | None = "macro",
        threshold: float = 0.5,
        name: str = "f_score",
        dtype: Any = None,
    ):
        super().__init__(classes, average=average, threshold=threshold, name=name, dtype=dtype)
        self.beta = arguments.number("beta", beta, 0, math.inf)

    def _fraction(self, hits: tf.Tensor, labelled: tf.Tensor, predicted: tf.Tensor) -> tuple:
        square = self.beta**2
        return (1 + square) * hits, square * labelled + predicted

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {**super().get_config(), "beta": self.beta}


@keras.saving.register_keras_serializable(package="kerastrain")
class ConfusionMatrix(_Confusion):
    """The weight of the rows of each label (first axis) and each predicted class (second).

    Equals ``sklearn.metrics.confusion_matrix`` with ``labels=range(classes)``. The result has
    the shape ``(classes, classes)``; a float32 result is exact up to 2**24 rows a cell, with
    ``dtype="float64"`` up to 2**53.

    Args:
        classes: how many there are, 2 or more.
        normalize: None for weights; ``"true"`` for shares of each label (rows sum to 1),
            ``"pred"`` of each predicted class (columns do), ``"all"`` of everything. Shares
            of nothing are 0.0.
        threshold: above which a single score is class 1; not used with a score a class.
        name: what is logged.
        dtype: of the result.

    Raises:
        ArgumentError: fewer than two classes, an unknown ``normalize``, a threshold that is
            no finite number.
        ShapeError, tf.errors.InvalidArgumentError: in ``update_state``, as the module says.

    Example:
        >>> metric = ConfusionMatrix(2)
        >>> metric.update_state([0, 1, 1], [0.6, 0.7, 0.2])
        >>> metric.result().numpy().tolist()
        [[0.0, 1.0], [1.0, 1.0]]
    """

    def __init__(
        self,
        classes: int,
        *,
        normalize: str | None = None,
        threshold: float = 0.5,
        name: str = "confusion_matrix",
        dtype: Any = None,
    ):
        super().__init__(classes, threshold=threshold, name=name, dtype=dtype)
        self.normalize = arguments.one_of("normalize", normalize, NORMALIZATIONS)

    def result(self) -> tf.Tensor:
        """The matrix of all rows since the last reset."""
        matrix = keras.ops.copy(self.matrix.value)
        if self.normalize is not None:
            axis = {"true": 1, "pred": 0, "all": None}[self.normalize]
            total = keras.ops.sum(matrix, axis=axis, keepdims=True)
            matrix = keras.ops.divide_no_nan(matrix, total)
        return keras.ops.cast(matrix, self.dtype)

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {**super().get_config(), "normalize": self.normalize}


@keras.saving.register_keras_serializable(package="kerastrain")
class MatthewsCorrelation(_Confusion):
    """The correlation of labels and predicted classes, from -1 to 1.

    ::

        (c * n - sum(t_k * p_k)) / sqrt((n**2 - sum(p_k**2)) * (n**2 - sum(t_k**2)))

    with the weight ``n`` of all rows, ``c`` of those predicted right, ``t_k`` of label ``k``
    and ``p_k`` predicted as ``k``. Equals ``sklearn.metrics.matthews_corrcoef``. 0.0 where
    there is one label or one predicted class only, and without rows.

    Args:
        classes: how many there are, 2 or more.
        threshold: above which a single score is class 1; not used with a score a class.
        name: what is logged.
        dtype: of the result.

    Raises:
        ArgumentError: fewer than two classes, a threshold that is no finite number.
        ShapeError, tf.errors.InvalidArgumentError: in ``update_state``, as the module says.

    Example:
        >>> metric = MatthewsCorrelation(2)
        >>> metric.update_state([0, 1, 1, 0], [0.6, 0.7, 0.8, 0.2])
        >>> round(float(metric.result()), 4)
        0.5774

    Source: J. Gorodkin, "Comparing two K-category assignments by a K-category correlation
    coefficient", Computational Biology and Chemistry 28, 2004.
    """

    def __init__(
        self,
        classes: int,
        *,
        threshold: float = 0.5,
        name: str = "matthews_correlation",
        dtype: Any = None,
    ):
        super().__init__(classes, threshold=threshold, name=name, dtype=dtype)

    def result(self) -> tf.Tensor:
        """The correlation over all rows since the last reset."""
        # As shares of all rows, whose squares cannot overflow.
        matrix = keras.ops.copy(self.matrix.value)
        matrix = keras.ops.divide_no_nan(matrix, keras.ops.sum(matrix))
        labelled, predicted = keras.ops.sum(matrix, axis=1), keras.ops.sum(matrix, axis=0)
        one = keras.ops.square(keras.ops.sum(matrix))

        def product(a: tf.Tensor, b: Any) -> tf.Tensor:
            return keras.ops.sum(a * b)

        spread = (one - product(predicted, predicted)) * (one - product(labelled, labelled))
        covariance = product(keras.ops.diagonal(matrix), 1.0) - product(labelled, predicted)
        correlation = keras.ops.divide_no_nan(
            covariance, keras.ops.sqrt(keras.ops.maximum(spread, 0.0))
        )
        return keras.ops.cast(keras.ops.clip(correlation, -1.0, 1.0), self.dtype)
