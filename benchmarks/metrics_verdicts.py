"""What is to be said of each law that a metric of Keras 3.15.1 breaks, judged by hand.

    VERDICTS["AUC", "dtype_is_respected"]      # Verdict(kind="defect", reason=..., repro=...)

The key is a row of `benchmarks.metrics_audit`, a class of `keras.metrics`, or ``"*"`` for all, and
a law; the first one of these that is there speaks. Where one defect breaks most laws of a row,
``"*"`` stands for them. Each verdict was judged from the smallest
example that the audit prints, the source of the metric and its documentation. A ``defect`` names
the function of `benchmarks.keras_metric_defects` that shows it. Where a law is broken in two ways,
the verdict is on the one that the example shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

KINDS = ("defect", "documented limit", "not applicable")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A judgement.

    Attributes:
        kind: one of `KINDS`.
        reason: one sentence.
        repro: of a defect, the function that shows it.
    """

    kind: str
    reason: str
    repro: str = ""


def _defect(repro: str, reason: str) -> Verdict:
    return Verdict("defect", reason, repro)


def _limit(reason: str) -> Verdict:
    return Verdict("documented limit", reason)


# Verdicts that many rows share ----------------------------------------------------------------

ALL = ("*",)
CONFUSION = (
    "AUC", "TruePositives", "TrueNegatives", "FalsePositives", "FalseNegatives", "Precision",
    "Recall", "SensitivityAtSpecificity", "SpecificityAtSensitivity", "PrecisionAtRecall",
    "RecallAtPrecision",
)  # fmt: skip
IOU = ("BinaryIoU", "IoU", "MeanIoU", "OneHotIoU", "OneHotMeanIoU")
MASKS = ("mask_leaves_out", "masked_row_is_absence", "mask_with_weights")
WEIGHTS = (
    "weight_one", "integer_weight_is_repetition", "zero_weight_is_absence", "all_zero_batch",
    "weight_factor", "weight_forms", "weighted_split_invariance",
    "weight_columns_agree", "scalar_weight",
)  # fmt: skip
REFERENCES = ("equals_reference", "equals_weighted_reference")
# What metrics break whose variables are made by the first batch.
LAZY = (
    "finite_when_fresh", "variables_exist_early", "instances_share_nothing", "state_in_variables",
    "reset_equals_fresh", "zero_weight_is_absence", "bounded_retracing",
)  # fmt: skip
_FLOAT32 = _limit(
    "a float32 sum of ones ends at 2^24; the docstring of Metric says that dtype, float32 by "
    "default, is that of the computations"
)
_RANK_ONE = _defect(
    "outputs_of_rank_one",
    "the mean over the last axis takes the rows for it, and a batch counts as one sample; with "
    "weights it is an error",
)
_STEP_WEIGHTS = _limit(
    "a weight for each row of sequences is an error: the docstring of update_state asks for rank 0 "
    "or that of y_true (with as many steps as rows it is wrong in silence: row_weights_of_sequences)"
)
_IOU_ROWS = _limit(
    "a weight for each image is an error: the docstring of update_state asks for rank 0 or that "
    "of y_true"
)
_LAZY = _defect(
    "no_result_before_the_first_batch",
    "the first batch makes the variables: a new metric has no result and no state",
)
_TWO_DIMENSIONS = _limit("inputs must have two dimensions, as the error says")

_JUDGED: tuple[tuple[tuple[str, ...], tuple[str, ...], Verdict], ...] = (
    # All metrics.
    (ALL, ("no_saturation",), _FLOAT32),
    (ALL, ("mask_with_weights",), _defect(
        "mask_times_row_weights",
        "a mask (rows, steps) times a weight for each row is an error, or weighs the steps")),
    # Rows that one defect spoils.
    (("MeanSquaredError on outputs (rows,)",), ("*",), _RANK_ONE),
    (("MeanSquaredError on outputs (rows,)",), ("no_saturation",), _FLOAT32),
    (("IoU(num_classes=3, target_class_ids=[0, 2], sparse_y_pred=False, axis=1) on images",),
     ("*",), _defect(
        "iou_of_another_axis", "result takes the axis of the inputs for one of the scores")),
    # Accuracy.
    (("TopKCategoricalAccuracy", "SparseTopKCategoricalAccuracy"), ("prediction_dtypes",), _defect(
        "top_k_takes_float32_only", "in_top_k of TensorFlow takes float32 only")),
    (("SparseCategoricalAccuracy on 300 classes", "CategoricalAccuracy on 300 classes"),
     ("prediction_dtypes",), _defect(
        "classes_in_bfloat16", "numbers of classes are rounded to the type of the scores")),
    # Confusion matrices.
    (CONFUSION, ("dtype_is_respected",), _defect(
        "dtype_ignored_by_confusion_metrics", "the variables are made without the metric's dtype")),
    (("AUC", "TruePositives", "Precision", "Recall", "RecallAtPrecision"), MASKS, _defect(
        "mask_ignored_by_confusion_metrics", "nobody reads the mask of y_pred")),
    (("AUC on sequences", "TruePositives on sequences", "Precision on sequences",
      "Recall on sequences", "RecallAtPrecision(precision=0.75) on sequences"), WEIGHTS,
     _STEP_WEIGHTS),
    (("TruePositives", "FalsePositives"), ("kept_result_stays", "stateless_agrees"), _defect(
        "counts_return_the_live_variable", "with several thresholds the result is the variable")),
    (("AUC",), ("arguments_survive",), _limit(
        "with thresholds, num_thresholds is ignored, as the docstring says")),
    (("AUC",), ("variables_exist_early",), _limit(
        "without num_labels variables are made by the first batch, as the docstring says")),
    (("AUC",), ("serialisation_round_trip",), _defect(
        "label_weights_of_auc_cannot_be_reloaded", "label_weights are saved as a tensor's config")),
    (("AUC",), ("xla_equals_eager", "replicas_equal_one_device"), _defect(
        "auc_of_labels_cannot_be_traced",
        "with several labels, uneven thresholds and a known batch size a symbolic tensor goes to "
        "np.where")),
    (("PrecisionAtRecall", "RecallAtPrecision"), REFERENCES, _defect(
        "scores_of_zero_are_never_positive",
        "the lowest threshold is 0, not below it, so that no threshold accepts all rows")),
    # Correlations.
    (("PearsonCorrelation",), ("zero_weight_is_absence",), _defect(
        "pearson_of_a_row_without_weight", "NaN of a constant row, times its weight of 0, is NaN")),
    (("PearsonCorrelation",), ("finite_on_valid_input",), _limit(
        "the coefficient of a constant row is not defined; scipy.stats.pearsonr gives NaN too")),
    # F scores.
    (("F1Score", "FBetaScore"), LAZY, _LAZY),
    (("F1Score",), ("columns_agree", "flat_rows_agree"), _TWO_DIMENSIONS),
    (("F1Score", "FBetaScore"), ("scalar_weight",), _defect(
        "f1_weights_in_a_column", "weights of any rank but 1 get an axis in the wrong place")),
    (("F1Score",), REFERENCES, _defect(
        "f1_of_ties", "all of several largest scores are predictions, not the argmax")),
    (("F1Score(average='macro') on logits",), REFERENCES, _defect(
        "f1_of_a_largest_logit_of_zero", "a row whose largest logit is 0 predicts nothing")),
    (("F1Score", "CategoricalHinge"), ("empty_batch",), _defect(
        "empty_batch_is_refused", "ops.max refuses a tensor without rows")),
    # Intersections over unions.
    (("BinaryIoU",), MASKS, _defect("mask_ignored_by_iou", "nobody reads the mask of y_pred")),
    (IOU, ("dtype_is_respected",), _defect(
        "dtype_ignored_by_iou", "result casts to float32, whatever the dtype is")),
    (IOU, ("weight_factor", "equals_weighted_reference"), _defect(
        "iou_weights_are_cut_to_integers",
        "the default dtype is int, weights are cut to it, and the example of the docstring with "
        "it")),
    (("MeanIoU(num_classes=3, sparse_y_pred=False, dtype='float32') on images",),
     (*WEIGHTS, "inputs_not_mutated", "equals_weighted_reference", "xla_equals_eager",
      "bounded_retracing", "replicas_equal_one_device", "resumes_from_variables",
      "evaluate_equals_one_pass"), _IOU_ROWS),
    (("BinaryIoU on sequences",), WEIGHTS, _IOU_ROWS),
    # Distributions.
    (("BinaryCrossentropy", "MeanMetricWrapper(fn=binary_crossentropy, from_logits=True)"),
     ("columns_agree",), _defect(
        "targets_of_rank_one_are_refused",
        "targets (rows,) beside outputs (rows, 1) are an error; the loss of the same name takes "
        "them")),
    (("BinaryCrossentropy", "KLDivergence"), ("prediction_dtypes",), _defect(
        "crossentropy_in_float16",
        "clipping by epsilon does nothing in float16, in which it computes whatever the dtype is")),
    (("CategoricalCrossentropy(from_logits=True, label_smoothing=0.25, axis=1) on channels first",),
     REFERENCES, _defect(
        "label_smoothing_along_another_axis", "the last axis is taken for that of the classes")),
    (("SparseCategoricalCrossentropy",), ("label_dtypes",), _defect(
        "labels_in_a_list", "a list of labels is an error, as in the example of the docstring")),
    (("SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)",),
     ("weight_one", "integer_weight_is_repetition"), _defect(
        "ignored_class_is_counted",
        "without weights the mask of the ignored rows is not read, and they count")),
    # Errors.
    (("MeanSquaredError", "MeanAbsoluteError", "MeanAbsolutePercentageError",
      "MeanSquaredLogarithmicError", "LogCoshError", "MeanMetricWrapper", "Hinge", "SquaredHinge",
      "Poisson", "BinaryCrossentropy"), ("flat_rows_agree",), _RANK_ONE),
    (("Hinge", "SquaredHinge", "Poisson"), ("columns_agree",), _defect(
        "targets_of_rank_one_are_broadcast",
        "targets (rows,) and outputs (rows, 1), as fit passes them, broadcast to (rows, rows)")),
    (("RootMeanSquaredError",), MASKS, _defect(
        "mask_ignored_by_root_mean_squared_error",
        "Mean is called with values that carry no mask any more")),
    (("CosineSimilarity",), ("config_round_trip", "serialisation_round_trip", "arguments_survive"),
     _defect("axis_lost_by_cosine_similarity", "get_config leaves out axis")),
    (("CosineSimilarity",), ("prediction_dtypes",), _defect(
        "cosine_of_zeros_in_float16", "the epsilon of normalize is 0 in float16")),
    # R2.
    (("R2Score",), LAZY, _LAZY),
    (("R2Score",), ("flat_rows_agree",), _TWO_DIMENSIONS),
    (("R2Score",), ("dtype_is_respected",), _defect(
        "dtype_ignored_by_r2", "the variables are made without the metric's dtype")),
    (("R2Score",), ("finite_on_valid_input",), _limit(
        "the score of one row is not defined; sklearn.metrics.r2_score gives NaN too")),
    (("R2Score",), ("no_cancellation", "equals_reference"), _defect(
        "r2_cancels", "the sum of squares less the squared sum over the count loses all digits")),
    (("R2Score",), ("equals_weighted_reference",), _defect(
        "r2_of_constant_targets", "0 / 0 where the targets are constant and predicted exactly")),
    (("R2Score(num_regressors=1)",), ("integer_weight_is_repetition", "all_zero_batch"), _defect(
        "adjusted_r2_counts_outputs_as_rows",
        "num_samples grows by rows times outputs, whatever the weights are")),
    (("R2Score(num_regressors=1)",),
     ("graph_equals_eager", "xla_equals_eager", "evaluate_equals_one_pass"), _defect(
        "adjusted_r2_cannot_be_traced", "result asks a traced tensor for its truth")),
)  # fmt: skip


def _flattened() -> Iterator[tuple[tuple[str, str], Verdict]]:
    for names, laws, verdict in _JUDGED:
        for name in names:
            for law in laws:
                yield (name, law), verdict


VERDICTS: dict[tuple[str, str], Verdict] = dict(_flattened())
