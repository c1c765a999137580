"""An audit of `keras.metrics`: every public class, with its options, by every law of the test kit.

    python -m benchmarks.metrics_audit                        # all, in two processes
    python -m benchmarks.metrics_audit --only AUC --examples  # each violation's smallest example
    python -m benchmarks.metrics_audit --laws weights masks   # these laws or families
    python -m benchmarks.metrics_audit --rst                  # a table for README.rst

A row is a metric with options, and the rows of data that it is fed with. Each law
(`kerastrain.testing.LAWS`) is run on its own, on 30 examples of a fixed seed. A law that is broken
has a verdict in `benchmarks.metrics_verdicts`, judged by hand from the source and the docs:

``defect``
    Keras gives a wrong number, an error, or loses a part of the configuration, where its
    documentation promises otherwise. `benchmarks.keras_metric_defects` shows each in a few lines.
``documented limit``
    the documentation says so, or the quantity is not defined there.
``not applicable``
    the law says nothing that this metric claims.

A violation without a verdict is "unjudged", and a verdict whose law now holds is "mended": both
end the run with the exit code 1, so that a new release of Keras shows itself.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import functools
import inspect
import json
import logging
import multiprocessing
import os
import pathlib
import signal
import sys
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import rich.box
import rich.console
import rich.progress
import rich.table
from hypothesis import strategies as st
from scipy.special import expit
from scipy.special import log_softmax
from sklearn import metrics as sk

from benchmarks.harness import machine_line
from benchmarks.metrics_verdicts import Verdict
from benchmarks.metrics_verdicts import VERDICTS
from kerastrain.testing import arguments  # fmt: skip
from kerastrain.testing import binary_classification  # fmt: skip
from kerastrain.testing import check_metric  # fmt: skip
from kerastrain.testing import Column  # fmt: skip
from kerastrain.testing import LAWS  # fmt: skip
from kerastrain.testing import MetricLawError  # fmt: skip
from kerastrain.testing import multiclass_classification  # fmt: skip
from kerastrain.testing import multilabel_classification  # fmt: skip
from kerastrain.testing import regression  # fmt: skip
from kerastrain.testing import segmentation  # fmt: skip
from kerastrain.testing import sequences  # fmt: skip

PROFILE, SEED = "dev", 0
# A row ends after so many seconds; laws that were not reached are shown as such.
SECONDS_PER_ROW = 120
FAMILIES = tuple(dict.fromkeys(law.group for law in LAWS.values()))
# Not metrics but what they are made from.
ABSTRACT = {"Metric": "the base class: `update_state` and `result` raise NotImplementedError"}


# Rows of data -------------------------------------------------------------------------------


def in_order(steps: int | None = None, **columns: Any) -> st.SearchStrategy:
    """`arguments` that are passed by position; with ``steps`` masks apply."""
    return arguments(**columns).map(lambda s: s.changed(by_keyword=False, steps=steps))


def lists(element: st.SearchStrategy, *shape: int) -> st.SearchStrategy:
    """Nested lists of this shape."""
    for size in reversed(shape):
        element = st.lists(element, min_size=size, max_size=size)
    return element


def flat(strategy: st.SearchStrategy) -> st.SearchStrategy:
    """The same rows with columns ``(rows, 1)`` as ``(rows,)``."""
    return strategy.map(lambda s: s.mapped(lambda kind, array: array[:, 0]))


def inner(strategy: st.SearchStrategy) -> st.SearchStrategy:
    """The same rows with probabilities away from 0 and 1, where clipping does not matter."""
    return strategy.map(
        lambda s: s.mapped(
            lambda kind, a: a * np.float32(0.5) + np.float32(0.125) if kind == "score" else a
        )
    )


def one_hot_scores(classes: int, least: int) -> st.SearchStrategy:
    """A score of 1 for one class, ``least`` or the one after it, and 0 for all others."""
    return st.integers(least, least + 1).map(lambda k: [float(k == i) for i in range(classes)])


def encoded(strategy: st.SearchStrategy, classes: int) -> st.SearchStrategy:
    """The same rows, labels one-hot."""
    return strategy.map(
        lambda s: s.mapped(
            lambda kind, a: np.eye(classes, dtype="int32")[a] if kind == "label" else a
        )
    )


def values(*shape: int) -> Column:
    """Multiples of 1/8 from -8 to 8."""
    return Column(lists(st.integers(-64, 64).map(lambda k: k / 8), *shape), kind="value")


def labels(classes: int, *shape: int, dtype: str = "int32", kind: str = "label") -> Column:
    """Numbers of classes."""
    return Column(lists(st.integers(0, classes - 1), *shape), dtype, kind)


def scores(*shape: int) -> Column:
    """Multiples of 1/16 from 0 to 1."""
    return Column(lists(st.integers(0, 16).map(lambda k: k / 16), *shape), kind="score")


BINARY, LOGITS = binary_classification(), binary_classification(logits=True)
SPARSE, ONE_HOT = (multiclass_classification(labels=kind) for kind in ("sparse", "one_hot"))
ONE_HOT_LOGITS = multiclass_classification(labels="one_hot", logits=True)
MULTILABEL = multilabel_classification()
ONE, THREE = regression(), regression(3)
POSITIVE = regression(low=0.125, high=8.0)
NAMES = in_order(y_true=labels(3), y_pred=labels(3, dtype="float32", kind="score"))
CLASSES = in_order(y_true=labels(3), y_pred=labels(3))
LATE_CLASSES = in_order(
    y_true=Column(st.sampled_from((256, 257)), "int32", "label"),
    y_pred=Column(one_hot_scores(300, least=256), kind="score"),
)
SORTED_IDS = in_order(
    y_true=labels(4),
    y_pred=Column(st.permutations(range(4)).map(lambda p: p[:3]), "float32", "score"),
)
MATRICES = in_order(y_true=values(2, 3), y_pred=values(2, 3))
IMAGES = segmentation(classes=3)
CHANNELS_FIRST = IMAGES.map(
    lambda s: s.mapped(lambda kind, a: np.moveaxis(a, -1, 1) if kind == "score" else a)
)
STEPS, CLASS_STEPS = sequences(), sequences(classes=3)
BINARY_STEPS = in_order(3, y_true=labels(2, 3, 1), y_pred=scores(3, 1))
NAME_STEPS = in_order(3, y_true=labels(3, 3), y_pred=labels(3, 3, dtype="float32", kind="score"))
NUMBERS = arguments(values=Column(st.integers(-64, 64).map(lambda k: k / 8), kind="value"))
NUMBER_ROWS = arguments(values=values(3))


# References ---------------------------------------------------------------------------------


def mean_of(of_row: Callable) -> Callable:
    """The weighted mean over rows of what a function gives for each row, or element."""

    def reference(y_true, y_pred, sample_weight=None):
        found = np.asarray(of_row(y_true, y_pred), "float64")
        return np.average(found.reshape(len(found), -1).mean(axis=1), weights=sample_weight)

    return reference


def crossentropy(logits: bool = False, smoothing: float = 0.0) -> Callable:
    """Of two classes, for each element."""

    def of_row(y_true, y_pred):
        p = expit(y_pred) if logits else y_pred
        y = y_true * (1 - smoothing) + smoothing / 2
        return -y * np.log(p) - (1 - y) * np.log1p(-p)

    return mean_of(of_row)


def class_crossentropy(logits: bool = False, smoothing: float = 0.0, axis: int = -1) -> Callable:
    """Of several classes along an axis; labels are numbers, or one-hot."""

    def of_row(y_true, y_pred):
        total = y_pred.sum(axis=axis, keepdims=True)
        log_p = log_softmax(y_pred, axis=axis) if logits else np.log(y_pred / total)
        classes = y_pred.shape[axis]
        if y_true.ndim < y_pred.ndim:
            y_true = np.moveaxis(np.eye(classes)[y_true], -1, axis)
        y = y_true * (1 - smoothing) + smoothing / classes
        return -(y * log_p).sum(axis=axis)

    return mean_of(of_row)


def cosine(axis: int = -1) -> Callable:
    """Of vectors along an axis; 0 for a vector of zeros."""

    def of_row(a, b):
        norms = np.linalg.norm(a, axis=axis) * np.linalg.norm(b, axis=axis)
        return np.where(norms > 0, (a * b).sum(axis=axis) / np.where(norms > 0, norms, 1), 0)

    return mean_of(of_row)


def correlation(concordance: bool = False, axis: int = -1) -> Callable:
    """Pearson's or Lin's coefficient along an axis; NaN where a vector is constant."""

    def of_row(a, b):
        covariance = (a * b).mean(axis) - a.mean(axis) * b.mean(axis)
        if concordance:
            scale = (a.var(axis) + b.var(axis) + (a.mean(axis) - b.mean(axis)) ** 2) / 2
        else:
            scale = a.std(axis) * b.std(axis)
        return np.where(scale > 0, covariance / np.where(scale > 0, scale, 1), np.nan)

    return mean_of(of_row)


def thresholded(score: Callable, thresholds: Any = 0.5, **options: Any) -> Callable:
    """A score of scikit-learn for predictions above a threshold, or above each of several."""

    def reference(y_true, y_pred, sample_weight=None):
        if np.ndim(y_true) == 2 and sample_weight is not None and options.get("flat"):
            sample_weight = np.repeat(sample_weight, y_true.shape[1])
        passed = {name: value for name, value in options.items() if name != "flat"}
        if options.get("flat"):
            y_true, y_pred = y_true.ravel(), y_pred.ravel()
        found = [
            score(y_true, (y_pred > t).astype(int), sample_weight=sample_weight, **passed)
            for t in np.atleast_1d(thresholds)
        ]
        return np.array(found) if np.ndim(thresholds) else found[0]

    return reference


def count(of_true: int, of_pred: int) -> Callable:
    """The weight of the elements with this label and this prediction."""

    def score(y_true, y_pred, sample_weight=None):
        hit = (y_true == of_true) & (y_pred == of_pred)
        return np.sum(hit * (1.0 if sample_weight is None else sample_weight))

    return score


def column(reference: Callable, number: int) -> Callable:
    """A reference of one class."""

    def of_column(y_true, y_pred, sample_weight=None):
        return reference(y_true[:, number], y_pred[:, number], sample_weight)

    return of_column


def best(constrained: str, at_least: float, wanted: str) -> Callable:
    """The best of one rate over all thresholds where another one is ``at_least``."""

    def reference(y_true, y_pred, sample_weight=None):
        found = [0.0]
        for t in [-1.0, *y_pred]:
            tp, fp, tn, fn = (
                count(label, guess)(y_true, y_pred > t, sample_weight)
                for label, guess in ((1, 1), (0, 1), (0, 0), (1, 0))
            )
            rates = {"sensitivity": (tp, fn), "specificity": (tn, fp), "precision": (tp, fp)}
            of = {name: a / (a + b) if a + b else 0.0 for name, (a, b) in rates.items()}
            if of[constrained] >= at_least:
                found.append(of[wanted])
        return max(found)

    return reference


def fbeta(average: str | None, beta: float = 1.0, threshold: float | None = None) -> Callable:
    """Of scikit-learn; without a threshold the first largest score is the prediction."""

    def reference(y_true, y_pred, sample_weight=None):
        y_true = y_true.reshape(len(y_true), -1)
        y_pred = y_pred.reshape(y_true.shape)
        if threshold is None:
            guess = np.eye(y_pred.shape[1], dtype=int)[y_pred.argmax(axis=1)]
        else:
            guess = (y_pred > threshold).astype(int)
        if guess.shape[1] == 1:
            found = sk.fbeta_score(y_true[:, 0], guess[:, 0], beta=beta, zero_division=0,
                                   sample_weight=sample_weight)  # fmt: skip
            return np.array([found]) if average is None else found
        return sk.fbeta_score(y_true, guess, beta=beta, average=average, zero_division=0,
                              sample_weight=sample_weight)  # fmt: skip

    return reference


def iou(classes: Iterable[int], ignored: int | None = None, threshold: float | None = None,
        axis: int = -1) -> Callable:  # fmt: skip
    """The mean over those classes that occur, of one weight for each row or element."""

    def reference(y_true, y_pred, sample_weight=None):
        if y_true.ndim == y_pred.ndim == 2:
            y_true = y_true.argmax(axis=-1)
        guess = y_pred if threshold is None else (y_pred >= threshold).astype(int)
        guess = guess.argmax(axis=axis) if guess.ndim > y_true.ndim else guess
        weight = np.ones(y_true.shape) if sample_weight is None else sample_weight
        weight = weight * (y_true != ignored)
        found = []
        for k in classes:
            union = weight[(y_true == k) | (guess == k)].sum()
            if union:
                found.append(weight[(y_true == k) & (guess == k)].sum() / union)
        return np.mean(found) if found else 0.0

    return reference


def r2(multioutput: str = "uniform_average", regressors: int = 0) -> Callable:
    """Of scikit-learn, adjusted for the number of rows."""

    def reference(y_true, y_pred, sample_weight=None):
        found = sk.r2_score(y_true, y_pred, sample_weight=sample_weight, multioutput=multioutput)
        if not regressors:
            return found
        if len(y_true) - regressors - 1 <= 0:
            raise ValueError("fewer rows than regressors: not defined")
        return 1 - (1 - found) * (len(y_true) - 1) / (len(y_true) - regressors - 1)

    if regressors:  # How weights count rows is a matter of taste.
        return lambda y_true, y_pred: reference(y_true, y_pred)
    return reference


def in_top(k: int) -> Callable:
    """Whether fewer than ``k`` classes score higher than the label's."""

    def of_row(y_true, y_pred):
        if y_true.ndim == y_pred.ndim:
            y_true = y_true.argmax(axis=-1)
        own = np.take_along_axis(y_pred, y_true[..., None], axis=-1)
        return (y_pred > own).sum(axis=-1) < k

    return mean_of(of_row)


def auc(average: str | None = None, weights: Sequence[float] | None = None) -> Callable:
    """Of scikit-learn, exact where scores differ by more than a bucket's width."""

    def reference(y_true, y_pred, sample_weight=None):
        if average is None:
            if y_true.ndim == 2:
                weight = 1.0 if sample_weight is None else sample_weight[:, None]
                sample_weight = (np.ones(y_true.shape) * weight * np.asarray(weights)).ravel()
                y_true, y_pred = y_true.ravel(), y_pred.ravel()
            return sk.roc_auc_score(y_true, y_pred, sample_weight=sample_weight)
        each = sk.roc_auc_score(y_true, y_pred, sample_weight=sample_weight, average=None)
        return np.average(each, weights=weights)

    return reference


square = mean_of(lambda a, b: (a - b) ** 2)
match = mean_of(np.equal)
hits = mean_of(lambda a, b: (a.argmax(-1) if a.ndim == b.ndim else a) == b.argmax(-1))
above = mean_of(lambda a, b: a == (b > 0.5))


def root_mean_square(y_true, y_pred, sample_weight=None):
    """The root of the mean square."""
    return np.sqrt(square(y_true, y_pred, sample_weight))


def signs(y_true: np.ndarray) -> np.ndarray:
    """Labels 0 and 1 as -1 and 1."""
    return 2.0 * y_true - 1.0


def mean_values(values, sample_weight=None):
    """The mean over rows."""
    return mean_of(lambda a, b: a)(values, values, sample_weight)


def sum_values(values, sample_weight=None):
    """The sum over all elements."""
    weight = np.ones(len(values)) if sample_weight is None else sample_weight
    return np.sum(values.reshape(len(values), -1).sum(axis=1) * weight)


# The table ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Row:
    """A metric with options, and what it is fed with.

    Attributes:
        metric: the name of its class.
        options: of the constructor.
        inputs: a strategy of streams.
        on: what the inputs are, where they are not the usual ones of that metric.
        reference, bounds, shift_invariant, scale_power: as `check_metric` takes them.
        families: of the laws that are run, or single laws; a row that differs from another one in its
            inputs only, or in what `result` makes of the same state, needs those that
            depend on it.
    """

    metric: str
    options: dict[str, Any]
    inputs: st.SearchStrategy
    on: str = ""
    reference: Callable | None = None
    bounds: tuple[float, float] | None = None
    shift_invariant: bool = False
    scale_power: float | None = None
    families: tuple[str, ...] = FAMILIES

    @property
    def name(self) -> str:
        """As code, and what it is fed with."""
        given = ", ".join(f"{k}={getattr(v, '__name__', repr(v))}" for k, v in self.options.items())
        return f"{self.metric}{f'({given})' if given else ''}{f' on {self.on}' if self.on else ''}"

    @property
    def factory(self) -> Callable:
        """Makes the metric."""
        return functools.partial(getattr(keras.metrics, self.metric), **self.options)

    def laws(self, wanted: Sequence[str] = ()) -> list[str]:
        """The laws to run: all of the row's families, or those of them that are named."""
        return [
            law.name for law in LAWS.values()
            if (law.group in self.families or law.name in self.families)
            and (not wanted or law.name in wanted or law.group in wanted)
        ]  # fmt: skip


def _row(metric, inputs, *, on="", families=FAMILIES, reference=None, bounds=None,
         shift_invariant=False, scale_power=None, **options):  # fmt: skip
    return Row(metric, options, inputs, on, reference, bounds, shift_invariant, scale_power,
               families)  # fmt: skip


_SHAPES = ("stream", "weights", "masks", "reference")
_OPTION = ("stream", "configuration", "numbers", "masks", "reference")
_FEW = ("variables_exist_early", "split_invariance", "configuration", "equals_reference",
        "graph_equals_eager", "xla_equals_eager")  # fmt: skip
_PORTION = {"bounds": (0.0, 1.0)}
_UNEVEN, _EVEN = [0.25, 0.5, 0.625], [0.0, 0.5, 1.0]
_FLAT = {"flat": True}
_ERROR = {"shift_invariant": True}
# fmt: off
ROWS = (
    # Accuracy.
    _row("Accuracy", NAMES, reference=match, **_PORTION),
    _row("Accuracy", NAME_STEPS, on="sequences", families=_SHAPES),
    _row("BinaryAccuracy", BINARY, reference=above, **_PORTION),
    _row("BinaryAccuracy", LOGITS, on="logits", reference=mean_of(lambda a, b: a == (b > 0)),
         threshold=0.0, **_PORTION),
    _row("BinaryAccuracy", MULTILABEL, on="3 labels", families=_SHAPES, reference=above),
    _row("BinaryAccuracy", BINARY_STEPS, on="sequences", families=_SHAPES, reference=above),
    _row("CategoricalAccuracy", ONE_HOT, reference=hits, **_PORTION),
    _row("SparseCategoricalAccuracy", SPARSE, reference=hits, **_PORTION),
    _row("SparseCategoricalAccuracy", CLASS_STEPS, on="sequences", families=_SHAPES,
         reference=hits),
    _row("SparseCategoricalAccuracy", LATE_CLASSES, on="300 classes",
         families=("prediction_dtypes", "reference"), reference=hits),
    _row("CategoricalAccuracy", encoded(LATE_CLASSES, 300), on="300 classes",
         families=("prediction_dtypes", "reference"), reference=hits),
    _row("TopKCategoricalAccuracy", ONE_HOT, k=2, reference=in_top(2), **_PORTION),
    _row("SparseTopKCategoricalAccuracy", SPARSE, k=2, reference=in_top(2), **_PORTION),
    _row("SparseTopKCategoricalAccuracy", CLASS_STEPS, on="sequences", families=_SHAPES, k=2,
         reference=in_top(2)),
    _row("SparseTopKCategoricalAccuracy", SORTED_IDS, k=2, from_sorted_ids=True,
         reference=mean_of(lambda y, ids: (ids[:, :2] == y[:, None]).any(axis=1)), **_PORTION),
    # Areas under curves.
    _row("AUC", BINARY, reference=auc(), **_PORTION),
    _row("AUC", LOGITS, families=_OPTION, from_logits=True, **_PORTION),
    _row("AUC", BINARY, families=_OPTION, curve="PR", **_PORTION),
    _row("AUC", BINARY, families=_OPTION, curve="PRGAIN"),
    _row("AUC", BINARY, families=_OPTION, summation_method="minoring", **_PORTION),
    _row("AUC", BINARY, families=_OPTION, curve="PR", summation_method="majoring", **_PORTION),
    _row("AUC", BINARY, thresholds=_UNEVEN, **_PORTION),
    # Evenly spaced thresholds of several labels take a tenth of a second for each batch.
    _row("AUC", MULTILABEL, families=_FEW, multi_label=True, num_labels=3,
         reference=auc("macro"), **_PORTION),
    _row("AUC", MULTILABEL, families=_FEW, multi_label=True, reference=auc("macro"), **_PORTION),
    _row("AUC", MULTILABEL, multi_label=True, num_labels=3, thresholds=_UNEVEN, **_PORTION),
    _row("AUC", MULTILABEL, families=_OPTION, multi_label=True, num_labels=3,
         thresholds=_UNEVEN, label_weights=[1.0, 2.0, 0.5], **_PORTION),
    _row("AUC", MULTILABEL, label_weights=[1.0, 2.0, 0.5],
         reference=auc(weights=[1.0, 2.0, 0.5]), **_PORTION),
    _row("AUC", BINARY_STEPS, on="sequences", families=_SHAPES),
    # Counts and rates.
    _row("TruePositives", BINARY, reference=thresholded(count(1, 1))),
    _row("TruePositives", BINARY, thresholds=_UNEVEN,
         reference=thresholded(count(1, 1), _UNEVEN)),
    _row("TruePositives", BINARY_STEPS, on="sequences", families=_SHAPES),
    _row("TrueNegatives", BINARY, reference=thresholded(count(0, 0))),
    _row("FalsePositives", BINARY, reference=thresholded(count(0, 1))),
    _row("FalsePositives", BINARY, thresholds=_EVEN,
         reference=thresholded(count(0, 1), _EVEN)),
    _row("FalseNegatives", BINARY, reference=thresholded(count(1, 0))),
    _row("Precision", BINARY, reference=thresholded(sk.precision_score, zero_division=0),
         **_PORTION),
    _row("Precision", MULTILABEL, on="3 labels",
         reference=thresholded(sk.precision_score, zero_division=0, **_FLAT), families=_SHAPES),
    _row("Precision", BINARY, families=_OPTION, thresholds=_UNEVEN,
         reference=thresholded(sk.precision_score, _UNEVEN, zero_division=0), **_PORTION),
    _row("Precision", MULTILABEL, top_k=2, **_PORTION),
    _row("Precision", MULTILABEL, families=_OPTION, class_id=1,
         reference=column(thresholded(sk.precision_score, zero_division=0), 1), **_PORTION),
    _row("Precision", BINARY_STEPS, on="sequences", families=_SHAPES),
    _row("Recall", BINARY, reference=thresholded(sk.recall_score, zero_division=0), **_PORTION),
    _row("Recall", BINARY, families=_OPTION, thresholds=_EVEN,
         reference=thresholded(sk.recall_score, _EVEN, zero_division=0), **_PORTION),
    _row("Recall", MULTILABEL, top_k=2, class_id=1, **_PORTION),
    _row("Recall", BINARY_STEPS, on="sequences", families=_SHAPES),
    _row("SensitivityAtSpecificity", BINARY, specificity=0.5,
         reference=best("specificity", 0.5, "sensitivity"), **_PORTION),
    _row("SensitivityAtSpecificity", MULTILABEL, families=_OPTION, specificity=0.5, class_id=1,
         reference=column(best("specificity", 0.5, "sensitivity"), 1), **_PORTION),
    _row("SpecificityAtSensitivity", BINARY, sensitivity=0.5,
         reference=best("sensitivity", 0.5, "specificity"), **_PORTION),
    _row("PrecisionAtRecall", BINARY, recall=0.5,
         reference=best("sensitivity", 0.5, "precision"), **_PORTION),
    _row("RecallAtPrecision", BINARY, precision=0.75,
         reference=best("precision", 0.75, "sensitivity"), **_PORTION),
    _row("RecallAtPrecision", BINARY_STEPS, precision=0.75, on="sequences", families=_SHAPES),
    # Correlations.
    _row("PearsonCorrelation", regression(4), reference=correlation(), bounds=(-1.0, 1.0), **_ERROR),
    _row("PearsonCorrelation", MATRICES, axis=1, reference=correlation(axis=1), bounds=(-1.0, 1.0)),
    _row("ConcordanceCorrelation", regression(4), reference=correlation(True), bounds=(-1.0, 1.0),
         **_ERROR),
    _row("ConcordanceCorrelation", MATRICES, axis=1, reference=correlation(True, axis=1),
         bounds=(-1.0, 1.0)),
    # F scores.
    _row("F1Score", ONE_HOT, reference=fbeta(None), **_PORTION),
    _row("F1Score", ONE_HOT_LOGITS, on="logits", average="macro", reference=fbeta("macro"),
         families=("reference", "numbers", "weights"), **_PORTION),
    _row("F1Score", MULTILABEL, threshold=0.5, average="macro",
         reference=fbeta("macro", threshold=0.5), **_PORTION),
    _row("F1Score", MULTILABEL, families=_OPTION, threshold=0.5, average="weighted",
         reference=fbeta("weighted", threshold=0.5), **_PORTION),
    _row("F1Score", BINARY, threshold=0.5, reference=fbeta(None, threshold=0.5), **_PORTION),
    _row("FBetaScore", MULTILABEL, threshold=0.5, average="micro", beta=2.0,
         reference=fbeta("micro", 2.0, 0.5), **_PORTION),
    # Hinges.
    _row("Hinge", LOGITS, reference=mean_of(lambda a, b: np.maximum(1 - signs(a) * b, 0))),
    _row("SquaredHinge", LOGITS, reference=mean_of(lambda a, b: np.maximum(1 - signs(a) * b, 0) ** 2)),
    _row("CategoricalHinge", ONE_HOT_LOGITS, reference=mean_of(
        lambda a, b: np.maximum(((1 - a) * b).max(axis=-1) - (a * b).sum(axis=-1) + 1, 0))),
    # Intersections over unions.
    _row("BinaryIoU", BINARY, reference=iou((0, 1), threshold=0.5), **_PORTION),
    _row("BinaryIoU", BINARY, families=_OPTION, target_class_ids=[1], threshold=0.25, dtype="float32",
         reference=iou((1,), threshold=0.25), **_PORTION),
    _row("BinaryIoU", BINARY_STEPS, on="sequences", families=_SHAPES),
    _row("IoU", CLASSES, num_classes=3, target_class_ids=[0, 2], reference=iou((0, 2)), **_PORTION),
    _row("IoU", CHANNELS_FIRST, on="images", num_classes=3, target_class_ids=[0, 2],
         sparse_y_pred=False, axis=1, reference=iou((0, 2), axis=1), **_PORTION),
    _row("MeanIoU", CLASSES, num_classes=3, reference=iou(range(3)), **_PORTION),
    _row("MeanIoU", CLASSES, num_classes=3, dtype="float32", reference=iou(range(3)), **_PORTION),
    _row("MeanIoU", CLASSES, families=_OPTION, num_classes=3, ignore_class=0, dtype="float32",
         reference=iou(range(3), ignored=0), **_PORTION),
    _row("MeanIoU", IMAGES, on="images", num_classes=3, sparse_y_pred=False, dtype="float32",
         reference=iou(range(3)), **_PORTION),
    _row("OneHotIoU", ONE_HOT, num_classes=3, target_class_ids=[0, 2], reference=iou((0, 2)), **_PORTION),
    _row("OneHotMeanIoU", ONE_HOT, num_classes=3, reference=iou(range(3)), **_PORTION),
    # Distributions.
    _row("BinaryCrossentropy", BINARY),
    _row("BinaryCrossentropy", inner(BINARY), families=_OPTION, on="inner probabilities", label_smoothing=0.25,
         reference=crossentropy(smoothing=0.25)),
    _row("BinaryCrossentropy", LOGITS, from_logits=True, reference=crossentropy(True)),
    _row("BinaryCrossentropy", BINARY_STEPS, on="sequences", families=_SHAPES),
    _row("CategoricalCrossentropy", ONE_HOT),
    _row("CategoricalCrossentropy", inner(ONE_HOT), families=_OPTION, on="inner probabilities", label_smoothing=0.25,
         reference=class_crossentropy(smoothing=0.25)),
    _row("CategoricalCrossentropy", ONE_HOT_LOGITS, from_logits=True,
         reference=class_crossentropy(True)),
    _row("CategoricalCrossentropy", in_order(
            y_true=labels(2, 3, 2), y_pred=Column(lists(st.integers(-16, 16).map(lambda k: k / 4), 3, 2), kind="score")),
         on="channels first", from_logits=True, label_smoothing=0.25, axis=1,
         reference=class_crossentropy(True, 0.25, axis=1)),
    _row("SparseCategoricalCrossentropy", SPARSE),
    _row("SparseCategoricalCrossentropy", inner(SPARSE), families=_OPTION, on="inner probabilities",
         reference=class_crossentropy()),
    _row("SparseCategoricalCrossentropy", multiclass_classification(logits=True), from_logits=True,
         reference=class_crossentropy(True)),
    _row("SparseCategoricalCrossentropy", multiclass_classification(logits=True), from_logits=True,
         ignore_class=0),
    _row("SparseCategoricalCrossentropy", CLASS_STEPS, on="sequences", families=_SHAPES),
    _row("KLDivergence", ONE_HOT, reference=mean_of(lambda a, b: (np.clip(a, 1e-7, 1) * np.log(
        np.clip(a, 1e-7, 1) / np.clip(b, 1e-7, 1))).sum(axis=-1))),
    _row("Poisson", POSITIVE, reference=mean_of(lambda a, b: b - a * np.log(b))),
    # Sums and means.
    _row("Mean", NUMBERS, reference=mean_values, scale_power=1),
    _row("Mean", NUMBER_ROWS, on="3 values a row", reference=mean_values, families=_SHAPES),
    _row("Sum", NUMBERS, reference=sum_values, scale_power=1),
    _row("Sum", NUMBER_ROWS, on="3 values a row", reference=sum_values, families=_SHAPES),
    _row("MeanMetricWrapper", ONE, fn=keras.losses.mean_squared_error, reference=square, **_ERROR),
    _row("MeanMetricWrapper", LOGITS, fn=keras.losses.binary_crossentropy, from_logits=True,
         reference=crossentropy(True)),
    # Errors.
    _row("MeanSquaredError", ONE, reference=square, scale_power=2, **_ERROR),
    _row("MeanSquaredError", flat(ONE), on="outputs (rows,)", reference=square, scale_power=2, **_ERROR),
    _row("MeanSquaredError", THREE, on="3 outputs", reference=square, families=_SHAPES, **_ERROR),
    _row("MeanSquaredError", STEPS, on="sequences", families=_SHAPES),
    _row("RootMeanSquaredError", ONE, reference=root_mean_square, scale_power=1, **_ERROR),
    _row("RootMeanSquaredError", STEPS, on="sequences", families=_SHAPES),
    _row("MeanAbsoluteError", ONE, reference=mean_of(lambda a, b: abs(a - b)), scale_power=1, **_ERROR),
    _row("MeanAbsolutePercentageError", POSITIVE, scale_power=0,
         reference=mean_of(lambda a, b: 100 * abs((a - b) / a))),
    _row("MeanSquaredLogarithmicError", POSITIVE,
         reference=mean_of(lambda a, b: (np.log1p(a) - np.log1p(b)) ** 2)),
    _row("LogCoshError", ONE, reference=mean_of(lambda a, b: np.logaddexp(a - b, b - a) - np.log(2)),
         **_ERROR),
    _row("CosineSimilarity", THREE, reference=cosine(), bounds=(-1.0, 1.0), scale_power=0),
    _row("CosineSimilarity", MATRICES, axis=1, reference=cosine(axis=1), bounds=(-1.0, 1.0)),
    _row("CosineSimilarity", in_order(3, y_true=values(3, 2), y_pred=values(3, 2)), on="sequences",
         families=_SHAPES),
    _row("R2Score", ONE, reference=r2(), scale_power=0, **_ERROR),
    _row("R2Score", THREE, class_aggregation=None, reference=r2("raw_values"), **_ERROR),
    _row("R2Score", THREE, families=_OPTION, class_aggregation="variance_weighted_average",
         reference=r2("variance_weighted"), **_ERROR),
    _row("R2Score", THREE, num_regressors=1, reference=r2(regressors=1), **_ERROR),
)
# fmt: on


def public_classes() -> list[str]:
    """The names of all classes in `keras.metrics`."""
    return sorted(name for name, value in vars(keras.metrics).items() if inspect.isclass(value))


# Running ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one law said of one row.

    Attributes:
        row, metric: the row's name, and the class's.
        law, family: the law's name and family.
        status: ``"passed"``, ``"broken"``, ``"not applicable"``, ``"not run"`` (the row's
            seconds were over) or ``"crashed"`` (the law itself raised an error).
        message: the smallest example of a broken law, why it does not apply, or the error.
    """

    row: str
    metric: str
    law: str
    family: str
    status: str
    message: str = ""

    @property
    def verdict(self) -> Verdict | None:
        """What was judged of it: for the row, else for the class, else for all metrics."""
        key = verdict_key(self)
        return VERDICTS[key] if key else None


def verdict_key(finding: Finding) -> tuple[str, str] | None:
    """The key of the verdict that speaks of a finding: the closest one that there is."""
    row, metric, law = finding.row, finding.metric, finding.law
    keys = ((row, law), (row, "*"), (metric, law), ("*", law))
    return next((key for key in keys if key in VERDICTS), None)


class _OutOfTime(BaseException):
    """Raised in the middle of a law; no Exception, so that no law takes it for its metric's."""


def _out_of_time(signum, frame):
    raise _OutOfTime


def audit(row: Row, wanted: Sequence[str] = (), seconds: float = SECONDS_PER_ROW) -> list[Finding]:
    """Runs the laws of one row, one by one.

    Args:
        row: what to check.
        wanted: laws or families; all that the row has by default.
        seconds: that the row may take; what is left then is ``"not run"``.
    """
    end = time.monotonic() + seconds
    usual = signal.signal(signal.SIGALRM, _out_of_time)
    findings = []
    try:
        for law in row.laws(wanted):
            status, message = _outcome(row, law, end - time.monotonic())
            findings.append(Finding(row.name, row.metric, law, LAWS[law].group, status, message))
    finally:
        signal.signal(signal.SIGALRM, usual)
    return findings


def _outcome(row, law, seconds):
    if seconds <= 0:
        return "not run", ""
    try:
        try:
            # Again each second: an error that is raised in a callback of C code is lost.
            signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
            report = check_metric(
                row.factory, inputs=row.inputs, reference=row.reference, bounds=row.bounds,
                shift_invariant=row.shift_invariant, scale_power=row.scale_power,
                laws=[law], seed=SEED, profile=PROFILE,
            )  # fmt: skip
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except MetricLawError as error:
        example = str(error).split("\nReplay: ")[0].replace("factory()", f"{_code(row)}")
        return "broken", example
    except _OutOfTime:
        signal.setitimer(signal.ITIMER_REAL, 0)  # it may have come before the line above
        return "not run", ""
    except Exception as error:  # Of the law itself: the other laws run all the same.
        return "crashed", f"{type(error).__name__}: {error}"
    return report.outcomes[0].status, report.outcomes[0].reason


def _code(row):
    name = dataclasses.replace(row, on="").name
    return f"keras.metrics.{name if row.options else name + '()'}"


def _prepare() -> None:
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def _audit_number(number, wanted, seconds):
    keras.utils.clear_session()
    return audit(ROWS[number], wanted, seconds)


def run(
    rows: Sequence[Row], *, wanted: Sequence[str] = (), processes: int = 2,
    seconds: float = SECONDS_PER_ROW,
) -> list[Finding]:  # fmt: skip
    """Audits rows, each in one of some processes; the findings in the order of the rows."""
    progress = functools.partial(
        rich.progress.track, total=len(rows), description="rows", transient=True,
        console=rich.console.Console(stderr=True),
    )  # fmt: skip
    if processes < 2:
        _prepare()
        found = [audit(row, wanted, seconds) for row in progress(rows)]
        return [finding for of_row in found for finding in of_row]
    numbers = [next(i for i, one in enumerate(ROWS) if one is row) for row in rows]
    with concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _prepare
    ) as pool:
        tasks = [pool.submit(_audit_number, number, wanted, seconds) for number in numbers]
        for task in progress(concurrent.futures.as_completed(tasks)):
            task.result()
    return [finding for task in tasks for finding in task.result()]


# What is shown ------------------------------------------------------------------------------


def judged(finding: Finding) -> str:
    """The verdict's kind, or ``"unjudged"``."""
    return finding.verdict.kind if finding.verdict else "unjudged"


def mended(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """The keys of verdicts whose law was run, on all rows that they speak of, and broken on none.

    Args:
        findings: of a run of all rows; a part of them says nothing about ``"*"``.
    """
    ran = {f.row for f in findings}
    found = collections.defaultdict(set)
    for finding in findings:
        key = verdict_key(finding)
        if key:
            found[key].add(finding.status)
    return [
        key for key, statuses in found.items()
        if "passed" in statuses and not statuses & {"broken", "not run", "crashed"}
        and (key[0] in ran or all(row.name in ran for row in ROWS if key[0] in ("*", row.metric)))
    ]  # fmt: skip


def table_rows(findings: Sequence[Finding]) -> list[list[str]]:
    """A head, and a line for each row: broken laws of each family, and which they are.

    ``.`` stands for a family of which no law is broken, a space for one of which none applies;
    a law is marked with ``!`` for a defect, ``?`` where it is not judged.
    """
    marks = {"defect": "!", "unjudged": "?"}
    lines = [["metric", *(family[:5] for family in FAMILIES), "broken laws"]]
    for name in dict.fromkeys(finding.row for finding in findings):
        own = [finding for finding in findings if finding.row == name]
        cells = []
        for family in FAMILIES:
            statuses = [f.status for f in own if f.family == family]
            broken = statuses.count("broken")
            ran = broken or "passed" in statuses
            cells.append(str(broken or ".") if ran else "")
        laws = [f.law + marks.get(judged(f), "") for f in own if f.status == "broken"]
        laws += [f"{f.law} ({f.status})" for f in own if f.status in ("crashed", "not run")]
        lines.append([name, *cells, ", ".join(laws)])
    return lines


def summary(findings: Sequence[Finding], seconds: float) -> str:
    """The numbers of a run, in one paragraph."""
    statuses = collections.Counter(finding.status for finding in findings)
    kinds = collections.Counter(judged(f) for f in findings if f.status == "broken")
    defects = {f.verdict.repro for f in findings if f.status == "broken" and judged(f) == "defect"}
    rows = len({finding.row for finding in findings})
    classes = len({finding.metric for finding in findings})
    ran = statuses["passed"] + statuses["broken"]
    of_kind = ", ".join(f"{n} x {kind}" for kind, n in kinds.most_common())
    return (
        f"{rows} rows of {classes} classes; {ran} laws ran, {statuses['not applicable']} did not "
        f"apply, {statuses['not run']} were not reached, {statuses['crashed']} crashed; {statuses['broken']} are broken "
        f"({of_kind}; {len(defects)} distinct defects); {seconds:.0f} s."
    )


def print_findings(findings: Sequence[Finding], *, examples: bool) -> None:
    """Prints the table, and the verdict on each violation, with its example if wanted."""
    console = rich.console.Console()
    console.width = max(console.width, 160)  # A file counts as 80 wide.
    head, *lines = table_rows(findings)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if 0 < number < len(head) - 1 else "left")
    for line in lines:
        table.add_row(*(rich.markup.escape(cell) for cell in line))
    console.print(table)
    console.print("! a defect of Keras, ? not judged; others are documented limits or do not apply")
    said = set()
    for finding in findings:
        if finding.status == "crashed":
            print(f"{finding.law} itself crashed: {finding.row}: {finding.message}")
        if finding.status != "broken":
            continue
        reason = finding.verdict.reason if finding.verdict else "no verdict"
        if examples:
            print(f"\n{'-' * 100}\n{finding.row}: {judged(finding)}: {reason}\n{finding.message}")
        elif (finding.metric, finding.law, reason) not in said:
            said.add((finding.metric, finding.law, reason))
            print(f"{judged(finding)}: {finding.row}: {finding.law}: {reason}")


def rst_table(findings: Sequence[Finding]) -> str:
    """For each class how many laws are broken, and by how many distinct defects."""
    cells = [["``keras.metrics``", "rows", "laws", "broken", "limits only", "defects"]]
    for metric in dict.fromkeys(finding.metric for finding in findings):
        own = [finding for finding in findings if finding.metric == metric]
        broken = [finding for finding in own if finding.status == "broken"]
        of_defects = {f.law for f in broken if judged(f) == "defect"}
        limits = {f.law for f in broken if judged(f) != "unjudged"} - of_defects
        laws = {f.law for f in own if f.status in ("passed", "broken")}
        defects = {f.verdict.repro for f in broken if judged(f) == "defect"}
        rows = {f.row for f in own}
        numbers = (rows, laws, {f.law for f in broken}, limits, defects)
        cells.append([metric, *(str(len(found)) for found in numbers)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    rule = " ".join("=" * width for width in widths)
    padded = [[c.ljust(w) for c, w in zip(line, widths, strict=True)] for line in cells]
    text = [" ".join(line).rstrip() for line in padded]
    return "\n".join([rule, text[0], rule, *text[1:], rule])


def _findings(rows, options):
    """What is found, and in how many seconds; from a file, or by running the rows."""
    if options.judge:
        record = json.loads(pathlib.Path(options.judge).read_text(encoding="utf-8"))
        names = {row.name for row in rows}
        found = [Finding(**one) for one in record["findings"] if one["row"] in names]
        return found, record["seconds"]
    start = time.monotonic()
    found = run(rows, wanted=options.laws, processes=min(options.processes, len(rows)))
    return found, time.monotonic() - start


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    """Audits the rows that the command line asks for, prints and returns what was found.

    Raises:
        SystemExit: with the code 1, for violations without a verdict, verdicts whose law holds,
            and laws that crashed or were not reached.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metrics_audit", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--only", metavar="PATTERN", default="", help="rows whose name holds this")
    parser.add_argument("--laws", metavar="LAW", nargs="+", default=(), help="laws or families")
    parser.add_argument("--examples", action="store_true", help="print the smallest examples")
    parser.add_argument("--processes", type=int, default=2, help="how many run at once")
    parser.add_argument("--rst", action="store_true", help="print the table as README.rst has it")
    parser.add_argument("--json", metavar="FILE", help="also write all findings to FILE")
    parser.add_argument("--judge", metavar="FILE", help="run nothing: judge findings of --json")
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if options.only.lower() in row.name.lower()]
    if not rows:
        parser.error(f"no row's name holds {options.only!r}")
    unknown = {*options.laws} - {*LAWS, *FAMILIES}
    if unknown:
        parser.error(f"{sorted(unknown)[0]!r} is no law and no family of laws")
    findings, seconds = _findings(rows, options)
    if options.rst:
        print(rst_table(findings))
    else:
        print_findings(findings, examples=options.examples)
        print(summary(findings, seconds))
        print(machine_line())
    if options.json:
        record = {"machine": machine_line(), "seconds": seconds,
                  "findings": [dataclasses.asdict(finding) for finding in findings]}  # fmt: skip
        pathlib.Path(options.json).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    repaired = mended(findings)
    for metric, law in repaired:
        print(f"mended: {metric}: {law} holds now; remove its verdict", file=sys.stderr)
    unjudged = [f for f in findings if f.status == "broken" and f.verdict is None]
    missed = [f for f in findings if f.status in ("crashed", "not run")]
    if unjudged or repaired or missed:
        print(f"{len(unjudged)} violations are unjudged, {len(repaired)} verdicts mended, "
              f"{len(missed)} laws crashed or were not reached", file=sys.stderr)  # fmt: skip
        raise SystemExit(1)
    return findings


if __name__ == "__main__":
    main()
