"""Metrics of a confusion matrix obey the laws and equal scikit-learn's."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn import metrics as sklearn_metrics

from kerastrain import ArgumentError
from kerastrain import ShapeError
from kerastrain.metrics import ConfusionMatrix
from kerastrain.metrics import FScore
from kerastrain.metrics import MatthewsCorrelation
from kerastrain.metrics import Precision
from kerastrain.metrics import Recall
from kerastrain.testing import binary_classification
from kerastrain.testing import check_metric
from kerastrain.testing import metric_laws
from kerastrain.testing import multiclass_classification
from kerastrain.testing import sequences
from tests.metrics.laws import but_slow
from tests.metrics.laws import in_tiers
from tests.metrics.laws import OF_A_FORMULA
from tests.metrics.laws import PINNED
from tests.metrics.laws import WEIGHTED
from tests.support import tiers

BINARY, THREE = binary_classification(), multiclass_classification(3)
AVERAGES = ["macro", "micro", "weighted", None]


def classes_of(y_pred):
    """What the metrics predict."""
    return y_pred.argmax(axis=-1) if y_pred.ndim > 1 else (y_pred > 0.5).astype(int)


def reference(function, classes, **arguments):
    """A function of scikit-learn, of labels and scores."""

    def of(y_true, y_pred, sample_weight=None):
        return function(
            y_true.astype(int), classes_of(y_pred), labels=range(classes),
            sample_weight=sample_weight, **arguments,
        )  # fmt: skip

    return of


def averaged(function, classes, average, **arguments):
    """The same for a fraction; 0 where it is undefined."""
    return reference(function, classes, average=average, zero_division=0, **arguments)


def matthews(y_true, y_pred, sample_weight=None):
    """scikit-learn's."""
    return sklearn_metrics.matthews_corrcoef(
        y_true.astype(int), classes_of(y_pred), sample_weight=sample_weight
    )


test_f_score_laws, test_all_f_score_laws = in_tiers(
    lambda: FScore(3), inputs=THREE, laws="all", bounds=(0, 1),
    always=(*WEIGHTED, "replicas_equal_one_device"),
    reference=averaged(sklearn_metrics.fbeta_score, 3, "macro", beta=1), **PINNED,
)  # fmt: skip
test_binary_f_score_laws = but_slow(metric_laws(
    lambda: FScore(2, beta=2.0, average="binary"), inputs=BINARY, laws="reference",
    reference=averaged(sklearn_metrics.fbeta_score, 2, "binary", beta=2), **PINNED,
), ["equals_weighted_reference"])  # fmt: skip
test_confusion_matrix_laws, test_more_confusion_matrix_laws = in_tiers(
    lambda: ConfusionMatrix(3), inputs=THREE, laws=OF_A_FORMULA,
    reference=reference(sklearn_metrics.confusion_matrix, 3), **PINNED,
)  # fmt: skip
test_matthews_laws, test_more_matthews_laws = in_tiers(
    lambda: MatthewsCorrelation(3), inputs=THREE, reference=matthews, laws=OF_A_FORMULA, **PINNED,
)  # fmt: skip
test_binary_matthews_laws, test_more_binary_matthews_laws = in_tiers(
    lambda: MatthewsCorrelation(2), inputs=BINARY, reference=matthews,
    laws=("reference", "columns_agree", "flat_rows_agree", "label_dtypes"), **PINNED,
)  # fmt: skip
test_mask_laws = but_slow(metric_laws(
    lambda: Recall(3, average="weighted"), inputs=sequences(2, classes=3),
    laws=("masks", "replicas_equal_one_device"), **PINNED,
), ["mask_with_weights"])  # fmt: skip


class TestAverages:
    """Every average of every fraction."""

    def check(self, make, function, average, **arguments):
        check_metric(
            lambda: make(3, average=average, **arguments), inputs=THREE,
            reference=averaged(function, 3, average, **arguments),
            laws="equals_weighted_reference", **PINNED,
        )  # fmt: skip

    @pytest.mark.parametrize("average", tiers.cases(AVERAGES, ["micro"]), ids=str)
    def test_precision(self, average):
        """Precision equals scikit-learn's, of weighted rows."""
        self.check(Precision, sklearn_metrics.precision_score, average)

    @pytest.mark.parametrize("average", tiers.cases(AVERAGES, ["weighted"]), ids=str)
    def test_recall(self, average):
        """Recall equals scikit-learn's, of weighted rows."""
        self.check(Recall, sklearn_metrics.recall_score, average)

    @pytest.mark.parametrize("average", tiers.cases(AVERAGES, [None]), ids=str)
    def test_f_score(self, average):
        """F-beta equals scikit-learn's, of weighted rows."""
        self.check(FScore, sklearn_metrics.fbeta_score, average, beta=0.5)


@pytest.mark.parametrize("normalize", ["true", "pred", "all"])
def test_normalized_matrix(normalize):
    """Shares of labels, of predictions and of all equal scikit-learn's."""
    y_true, y_pred = np.array([0, 2, 2, 2, 0]), np.eye(3)[[0, 2, 1, 2, 1]]
    metric = ConfusionMatrix(3, normalize=normalize)
    metric.update_state(y_true, y_pred)
    expected = sklearn_metrics.confusion_matrix(y_true, y_pred.argmax(1), normalize=normalize)
    np.testing.assert_allclose(expected, metric.result(), atol=1e-6)


@pytest.mark.parametrize("make", [Precision, Recall, FScore])
def test_binary(make):
    """The score of class 1, from one score for a row, equals scikit-learn's."""
    y_true, y_pred = np.array([0, 1, 1, 1, 0]), np.array([0.5, 0.9, 0.6, 0.4, 0.7])
    metric = make(2, average="binary")
    metric.update_state(y_true, y_pred)
    function = {Precision: sklearn_metrics.precision_score, Recall: sklearn_metrics.recall_score,
                FScore: sklearn_metrics.f1_score}[make]  # fmt: skip
    assert function(y_true, y_pred > 0.5) == pytest.approx(float(metric.result()))


def test_forms_of_labels_and_scores():
    """One score or two, labels of any form, logits with a threshold: one matrix."""
    labels, score = np.array([0, 1, 1, 0]), np.array([0.2, 0.9, 0.4, 0.7], "float32")
    two = np.stack([1 - score, score], axis=1)
    cases = [
        (labels, score, 0.5), (labels[:, None], score[:, None], 0.5), (labels, score[:, None], 0.5),
        (labels.astype(bool), two, 0.5), (keras.utils.to_categorical(labels), two, 0.5),
        (labels.tolist(), np.log(score / (1 - score)), 0.0),
    ]  # fmt: skip
    for y_true, y_pred, threshold in cases:
        metric = ConfusionMatrix(2, threshold=threshold)
        metric.update_state(y_true, y_pred)
        np.testing.assert_array_equal([[1, 1], [1, 1]], metric.result())


def test_threshold_itself():
    """A score equal to the threshold is class 0, and the first of equal scores wins."""
    metric = ConfusionMatrix(2)
    metric.update_state([0], [0.5])
    metric.update_state([0], [[0.5, 0.5]])
    np.testing.assert_array_equal([[2, 0], [0, 0]], metric.result())


def test_rows_of_weight_zero_may_hold_anything():
    """A label out of range and a NaN count for nothing in a row of weight 0."""
    metric = ConfusionMatrix(2)
    metric.update_state([1, -1], [0.9, np.nan], [1.0, 0.0])
    np.testing.assert_array_equal([[0, 0], [0, 1]], metric.result())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("label", [2, -1, 0.5])
def test_unknown_label(label, compiled):
    """A label out of range is refused, eager and compiled, and nothing is counted."""
    metric = MatthewsCorrelation(2)
    update = tf.function(metric.update_state) if compiled else metric.update_state
    with pytest.raises(tf.errors.InvalidArgumentError, match="whole numbers from 0 to 1"):
        update(tf.constant([0.0, label]), tf.constant([0.1, 0.2]))
    assert 0.0 == np.sum(metric.matrix.numpy())


def test_unknown_label_under_xla():
    """XLA has no errors: a row with a label out of range batch is skipped."""
    metric = ConfusionMatrix(2)
    update = tf.function(metric.update_state, jit_compile=True)
    update(tf.constant([1, 2, -1]), tf.constant([0.9, 0.1, 0.9]))
    np.testing.assert_array_equal([[0, 0], [0, 1]], metric.result())


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"classes": 1}, "`classes`.*2 or more.*classes=1"),
            ({"classes": 2.0}, "`classes`.*2.0"),
            ({"classes": 3, "average": "mean"}, "`average` must be one of 'macro'.*'mean'"),
            ({"classes": 3, "average": "binary"}, 'classes=3.*Use "macro"'),
            ({"classes": 2, "beta": -1.0}, "`beta`.*-1.0"),
            ({"classes": 2, "threshold": float("nan")}, "`threshold`.*nan"),
        ],
        ids=str,
    )
    def test_bad_arguments(self, arguments, message):
        """Each names the argument, the value and what works."""
        with pytest.raises(ArgumentError, match=message):
            FScore(**arguments)

    def test_bad_normalize(self):
        """An unknown way to normalise names those that there are."""
        with pytest.raises(ArgumentError, match="'true', 'pred', 'all'.*'rows'"):
            ConfusionMatrix(2, normalize="rows")

    def test_other_number_of_classes(self):
        """Scores of another number of classes are refused with both numbers."""
        for y_pred, found in ((np.zeros((2, 4)), 4), (np.zeros(2), 2)):
            with pytest.raises(ShapeError, match=f"scores of {found} classes.*counts 3"):
                Recall(3).update_state([0, 1], y_pred)

    def test_unknown_number_of_scores(self):
        """A last axis of unknown length is refused."""
        update = tf.function(
            ConfusionMatrix(2).update_state,
            autograph=False,
            input_signature=[tf.TensorSpec((None,)), tf.TensorSpec((None, None))],
        )
        with pytest.raises(ShapeError, match="last axis of known length"):
            update(tf.zeros(2), tf.zeros((2, 2)))


def test_names_of_keras_are_free():
    """Both packages' metrics of one name are saved and loaded as what they are."""
    for make in (functools.partial(Precision, 2), keras.metrics.Precision):
        metric = make()
        copied = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
        assert type(metric) is type(copied)
