"""Wrong metrics, as people write them, and the law that tells.

`MUTANTS` has each with the law that finds it. ``needs_reference`` marks those which only
a reference or a declaration can tell from a sound metric of something else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from keras import ops
from sklearn import metrics as sk

from kerastrain import _keras
from kerastrain.testing import arguments
from kerastrain.testing import binary_classification
from kerastrain.testing import Column
from kerastrain.testing import multiclass_classification
from kerastrain.testing import regression
from kerastrain.testing import sequences
from tests.testing.right_metrics import absolute_error
from tests.testing.right_metrics import MeanAbsolute
from tests.testing.right_metrics import PrecisionAndRecall
from tests.testing.right_metrics import rows


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One wrong metric.

    Attributes:
        factory: makes it.
        law: the law that must find it.
        inputs: what it is fed with.
        declared: what else is known of it.
        needs_reference: whether a reference or a declaration is what finds it.
    """

    factory: Callable
    law: str
    inputs: Any
    declared: dict = dataclasses.field(default_factory=dict)
    needs_reference: bool = False


MUTANTS: dict[str, Mutant] = {}
BINARY, REGRESSION = binary_classification(), regression()
# One of two of 300 classes, and one of 400 equal numbers: long rows that are drawn quickly.
FEW_OF_MANY_CLASSES = arguments(
    y_true=Column(st.integers(0, 1), "int32", "label"),
    y_pred=Column(st.integers(0, 1).map(lambda k: np.eye(300)[k].tolist()), kind="score"),
)
LONG_ROWS = arguments(
    y_true=Column(st.integers(0, 1).map(lambda k: [k] * 400), "int32", "label"),
    y_pred=Column(st.integers(0, 1).map(lambda k: [float(k)] * 400), kind="score"),
)


def mutant(law, inputs=REGRESSION, needs_reference=False, **declared):
    """Puts a class, or a function that makes a metric, into `MUTANTS`."""

    def add(factory):
        MUTANTS[factory.__name__] = Mutant(factory, law, inputs, declared, needs_reference)
        return factory

    return add


def flat(*arrays):
    """Arrays of floats, of shape (rows,)."""
    return [ops.reshape(ops.cast(a, "float32"), (-1,)) for a in arrays]


class Sums(keras.metrics.Metric):
    """A total and a count, which each mutant fills in its own way."""

    def __init__(self, name="metric", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def add(self, total, count):
        self.total.assign_add(total)
        self.count.assign_add(count)

    def result(self):
        return ops.divide_no_nan(self.total.value, self.count.value)


# Streams ----------------------------------------------------------------------


@mutant("split_invariance")
class MeanOfBatchMeans(Sums):
    def update_state(self, y_true, y_pred, sample_weight=None):
        self.add(ops.mean(ops.square(y_true - y_pred)), 1.0)


@mutant("split_invariance")
class LastBatch(Sums):
    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        self.total.assign(ops.sum(error * weight))
        self.count.assign(ops.sum(weight))


@mutant("split_invariance", BINARY)
class MeanOfBatchF1(Sums):
    """A ratio in each batch, weighed by its rows."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        true, found = flat(y_true, y_pred)
        found = ops.cast(found > 0.5, "float32")
        f1 = ops.divide_no_nan(2 * ops.sum(true * found), ops.sum(true) + ops.sum(found))
        size = ops.cast(ops.size(true), "float32")
        self.add(f1 * size, size)


@mutant("split_invariance")
class MeanOfRoots(Sums):
    """RMSE of each batch, averaged by rows."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        true, found = flat(y_true, y_pred)
        size = ops.cast(ops.size(true), "float32")
        root = ops.sqrt(ops.divide_no_nan(ops.sum(ops.square(true - found)), size))
        self.add(root * size, size)


@mutant("split_invariance")
class NormalisedInBatch(Sums):
    """Errors over the largest of the batch."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        top = ops.max(ops.concatenate([error, ops.ones(1)]))
        self.add(ops.sum(weight * error / top), ops.sum(weight))


@mutant("split_invariance")
class SumOfBatchMeans(Sums):
    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(ops.mean(ops.abs(y_true - y_pred)))

    def result(self):
        return ops.copy(self.total.value)


@mutant("order_invariance")
class SignChanges(keras.metrics.Metric):
    """How often one row's error has another sign than that before."""

    def __init__(self, name="changes", **kwargs):
        super().__init__(name=name, **kwargs)
        self.last = self.add_variable((), "zeros", name="last")
        self.changes = self.add_variable((), "zeros", name="changes")

    def update_state(self, y_true, y_pred):
        true, found = flat(y_true, y_pred)
        signs = ops.concatenate([self.last.value[None], ops.sign(found - true)])
        self.changes.assign_add(ops.sum(ops.cast(signs[1:] != signs[:-1], "float32")))
        self.last.assign(signs[-1])

    def result(self):
        return ops.copy(self.changes.value)


@mutant("empty_batch")
class MeanTimesRows(Sums):
    """0 / 0 of an empty batch, which stays NaN for ever."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        true, found = flat(y_true, y_pred)
        size = ops.cast(ops.size(true), "float32")
        self.add(ops.mean(ops.abs(true - found)) * size, size)


@mutant("empty_batch")
class AtLeastOneRow(Sums):
    """A guard against 0 rows, in the wrong place."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        self.add(ops.sum(error * weight), ops.maximum(ops.sum(weight), 1.0))


@mutant("merge_equals_one_pass")
class MaximumSummed(keras.metrics.Metric):
    """No merge rule for a maximum."""

    def __init__(self, name="largest", **kwargs):
        super().__init__(name=name, **kwargs)
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, y_true, y_pred):
        true, found = flat(y_true, y_pred)
        self.largest.assign(
            ops.max(ops.concatenate([self.largest.value[None], ops.abs(true - found)]))
        )

    def result(self):
        return ops.copy(self.largest.value)


@mutant("replicas_equal_one_device")
class MaximumOfReplicas(MaximumSummed):
    """The same, found by running replicas."""


@mutant("merge_equals_one_pass")
class RunningMean(Sums):
    """The state is a mean, which replicas add up."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        seen = self.count.value + ops.sum(weight)
        total = self.total.value * self.count.value + ops.sum(error * weight)
        self.total.assign(ops.divide_no_nan(total, seen))
        self.count.assign(seen)

    def result(self):
        return ops.copy(self.total.value)


@mutant("merge_equals_one_pass")
class RuleOfNothing(MeanAbsolute):
    """A rule for a variable of another name."""

    merge_rules = {"sum": "sum"}


# State ------------------------------------------------------------------------


@mutant("accepts_stream", BINARY)
class IntegersMinusFloats(Sums):
    """TensorFlow subtracts no float from an integer."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.add(tf.reduce_sum(tf.abs(tf.constant(y_true) - tf.constant(y_pred))), 1.0)


@mutant("reset_equals_fresh")
class ForgetsHalfOfReset(MeanAbsolute):
    def reset_state(self):
        self.total.assign(0.0)


@mutant("reset_equals_fresh")
class NeverReset(MeanAbsolute):
    def reset_state(self):
        pass


@mutant("reset_equals_fresh")
class MinimumResetToZero(keras.metrics.Metric):
    """Begins at infinity; Keras resets to 0."""

    merge_rules = {"least": "min"}

    def __init__(self, name="least", **kwargs):
        super().__init__(name=name, **kwargs)
        self.least = self.add_variable((), keras.initializers.Constant(1e6), name="least")

    def update_state(self, y_true, y_pred):
        true, found = flat(y_true, y_pred)
        self.least.assign(ops.min(ops.concatenate([self.least.value[None], ops.abs(true - found)])))

    def result(self):
        return ops.copy(self.least.value)


@mutant("state_in_variables")
class PythonCount(Sums):
    """Batches, counted by a Python number."""

    def __init__(self, name="metric", **kwargs):
        super().__init__(name=name, **kwargs)
        self.seen = 0

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.seen += y_pred.shape[0]
        self.total.assign_add(ops.sum(ops.abs(y_true - y_pred)))

    def reset_state(self):
        super().reset_state()
        self.seen = 0

    def result(self):
        return self.total.value / max(self.seen, 1)


@mutant("state_in_variables")
class PythonList(keras.metrics.Metric):
    """Collects errors, and takes the median at the end."""

    def __init__(self, name="median", **kwargs):
        super().__init__(name=name, **kwargs)
        self.errors = []

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.errors.extend(np.abs(np.asarray(y_true) - np.asarray(y_pred)).ravel())

    def reset_state(self):
        self.errors = []

    def result(self):
        return ops.cast(np.median(self.errors) if self.errors else 0.0, "float32")


@mutant("instances_share_nothing")
class SharedList(PythonList):
    """The list belongs to the class."""

    kept = []

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.kept.extend(np.abs(np.asarray(y_true) - np.asarray(y_pred)).ravel())

    def reset_state(self):
        self.kept.clear()

    def result(self):
        return ops.cast(np.median(self.kept) if self.kept else 0.0, "float32")


class _OfAModule:
    variables: list = []


@mutant("instances_share_nothing")
class SharedVariable(MeanAbsolute):
    """One variable for all metrics."""

    def __init__(self, name="metric", **kwargs):
        super().__init__(name=name, **kwargs)
        if not _OfAModule.variables:
            _OfAModule.variables.append(self.total)
        self.total = _OfAModule.variables[0]


@mutant("instances_share_nothing")
def one_metric_for_all(kept=[]):
    """A factory that keeps its metric."""
    if not kept:
        kept.append(MeanAbsolute())
    return kept[0]


@mutant("variables_exist_early", BINARY)
class LateVariable(keras.metrics.Metric):
    """Makes its variable when it sees the first batch."""

    def __init__(self, name="late", **kwargs):
        super().__init__(name=name, **kwargs)
        self.hits = None

    def update_state(self, y_true, y_pred, sample_weight=None):
        if self.hits is None:
            self.hits = self.add_variable(tuple(y_pred.shape[1:]), "zeros", name="hits")
        self.hits.assign_add(ops.sum(ops.cast(y_pred > 0.5, "float32"), axis=0))

    def result(self):
        return ops.zeros(1) if self.hits is None else ops.copy(self.hits.value)


@mutant("result_is_pure")
class ResultThatResets(MeanAbsolute):
    def result(self):
        value = super().result()
        self.reset_state()
        return value


@mutant("result_is_pure")
class ResultThatCounts(MeanAbsolute):
    """Smooths the result over calls."""

    def result(self):
        self.count.assign_add(1.0)
        return super().result()


@mutant("kept_result_stays")
class LiveVariable(MeanAbsolute):
    def result(self):
        return self.total


@mutant("inputs_not_mutated")
class InPlace(Sums):
    def update_state(self, y_true, y_pred, sample_weight=None):
        if isinstance(y_pred, np.ndarray):
            y_pred -= y_true
            y_true = 0 * y_true
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        self.add(ops.sum(error * weight), ops.sum(weight))


@mutant("state_in_variables")
class PlainTensorFlowVariable(Sums):
    """A variable that Keras does not know."""

    def __init__(self, name="metric", **kwargs):
        super().__init__(name=name, **kwargs)
        self.kept = tf.Variable(0.0)

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        self.kept.assign_add(ops.sum(error * weight))
        self.count.assign_add(ops.sum(weight))

    def reset_state(self):
        super().reset_state()
        self.kept.assign(0.0)

    def result(self):
        return tf.math.divide_no_nan(self.kept.value(), self.count.value)


@mutant("stateless_agrees")
class PastKeras(MeanAbsolute):
    """Assigns TensorFlow's variable inside Keras's."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        _keras.tf_variable(self.total).assign_add(ops.sum(error * weight))
        self.count.assign_add(ops.sum(weight))


@mutant("resumes_from_variables")
class OffsetInPython(keras.metrics.Metric):
    """Sums differences from the first value, which no variable holds."""

    def __init__(self, name="level", **kwargs):
        super().__init__(name=name, **kwargs)
        self.first = None
        self.above = self.add_variable((), "zeros", name="above")

    def update_state(self, y_true, y_pred):
        (values,) = flat(y_pred)
        if self.first is None and int(ops.size(values)):
            self.first = float(values[0])
        self.above.assign_add(ops.sum(ops.cast(values > (self.first or 0.0), "float32")))

    def reset_state(self):
        super().reset_state()
        self.first = None

    def result(self):
        return ops.copy(self.above.value)


# Weights ----------------------------------------------------------------------


@mutant("integer_weight_is_repetition")
class WeightsIgnored(Sums):
    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred))
        self.add(ops.sum(error), ops.sum(weight))


@mutant("integer_weight_is_repetition")
class WeightsAboveOnly(Sums):
    """Weighted sum over the number of rows."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        self.add(ops.sum(error * weight), ops.cast(ops.size(error), "float32"))


@mutant("integer_weight_is_repetition")
class WeightedTwice(keras.metrics.Mean):
    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        super().update_state(error * weight, sample_weight=weight)


@mutant("weight_one")
class WeightsBroadcast(Sums):
    """(rows, 1) times (rows,)."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = ops.abs(y_true - y_pred)
        weight = (
            ops.ones_like(error) if sample_weight is None else ops.cast(sample_weight, "float32")
        )
        self.add(ops.sum(error * weight), ops.sum(weight))


@mutant("all_zero_batch")
class WeightedMeanTimesRows(Sums):
    """0 / 0 of a batch without weight."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        mean = ops.sum(error * weight) / ops.sum(weight)
        self.add(mean * ops.sum(weight), ops.sum(weight))


@mutant("zero_weight_is_absence")
class CountsNonzeroWeights(Sums):
    """The largest error does not see weights."""

    merge_rules = {"total": "max"}

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, _ = rows(ops.abs(y_true - y_pred))
        self.total.assign(ops.max(ops.concatenate([self.total.value[None], error])))

    def result(self):
        return ops.copy(self.total.value)


@mutant("weighted_split_invariance")
class WeightsNormalisedInBatch(Sums):
    """Weights that add up to the rows of the batch."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        size = ops.cast(ops.size(error), "float32")
        weight = ops.divide_no_nan(weight, ops.sum(weight)) * size
        self.add(ops.sum(error * weight), size)


@mutant("weight_factor")
class WeightsSquared(Sums):
    """Their squares above, themselves below."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        self.add(ops.sum(error * weight), ops.sum(ops.square(weight)))


@mutant("weight_forms")
class WeightsUncast(Sums):
    """TensorFlow multiplies no float by an integer."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = tf.reshape(tf.abs(tf.cast(y_true, tf.float32) - tf.cast(y_pred, tf.float32)), [-1])
        if sample_weight is not None:
            weight = tf.convert_to_tensor(sample_weight)
            error = tf.multiply(error, tf.reshape(weight, [-1]))
            self.add(tf.reduce_sum(error), tf.reduce_sum(weight))
        else:
            self.add(tf.reduce_sum(error), tf.cast(tf.size(error), tf.float32))


@mutant("scalar_weight")
class ScalarCountedOnce(Sums):
    """A single number is added to the count once."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, _ = rows(ops.abs(y_true - y_pred))
        weight = (
            ops.ones_like(error) if sample_weight is None else ops.cast(sample_weight, "float32")
        )
        self.add(ops.sum(error * weight), ops.sum(weight))


@mutant("columns_agree")
class ColumnsBroadcast(Sums):
    """(rows,) minus (rows, 1)."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred))
        self.add(ops.sum(error), ops.sum(weight))


@mutant("weight_columns_agree", regression(2))
class WeightColumnsBroadcast(Sums):
    """Values (rows,) of two outputs, times weights (rows, 1)."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = ops.mean(ops.abs(y_true - y_pred), axis=-1)
        weight = ops.ones_like(error) if sample_weight is None else sample_weight
        weight = ops.cast(weight, "float32")
        self.add(ops.sum(error * weight), ops.sum(weight))


@mutant("weight_columns_agree", multiclass_classification())
class WeightColumnsOfClasses(Sums):
    """Hits (rows,) of numbers of classes (rows,), times weights (rows, 1)."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        hit = ops.cast(
            ops.equal(ops.cast(y_true, "int32"), ops.cast(ops.argmax(y_pred, -1), "int32")),
            "float32",
        )
        weight = ops.ones_like(hit) if sample_weight is None else sample_weight
        weight = ops.cast(weight, "float32")
        self.add(ops.sum(hit * weight), ops.sum(weight))


@mutant("prediction_dtypes", FEW_OF_MANY_CLASSES)
class ClassesInHalfPrecision(Sums):
    """Numbers of classes in the type of the scores: 257 is 256 in bfloat16."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        true = ops.cast(ops.cast(y_true, y_pred.dtype), "int32")
        hit = ops.cast(ops.equal(true, ops.cast(ops.argmax(y_pred, -1), "int32")), "float32")
        self.add(ops.sum(hit), ops.cast(ops.size(hit), "float32"))


@mutant("flat_rows_agree")
class LastAxisIsRows(keras.metrics.Mean):
    """A mean over the last axis, which is the rows where there are no columns."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = ops.mean(
            ops.abs(ops.cast(y_true, "float32") - ops.cast(y_pred, "float32")), axis=-1
        )
        super().update_state(error, sample_weight=sample_weight)


# Execution --------------------------------------------------------------------


@mutant("graph_equals_eager")
class PythonIf(MeanAbsolute):
    """Asks a tensor for its value."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        if float(ops.sum(ops.abs(y_pred))) > 0:
            super().update_state(y_true, y_pred, sample_weight)


@mutant("graph_equals_eager")
class NumPyInside(Sums):
    def update_state(self, y_true, y_pred, sample_weight=None):
        error = np.abs(np.asarray(y_true) - np.asarray(y_pred))
        self.add(float(error.sum()), float(error.size))


@mutant("graph_equals_eager")
class RowsInPython(Sums):
    """The rows by `len`, unknown in a graph."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.add(ops.sum(ops.abs(y_true - y_pred)), float(y_pred.shape[0]))


@mutant("bounded_retracing")
class LenOfTensor(MeanAbsolute):
    def update_state(self, y_true, y_pred, sample_weight=None):
        for row in range(y_pred.shape[0]):
            weight = None if sample_weight is None else sample_weight[row : row + 1]
            super().update_state(y_true[row : row + 1], y_pred[row : row + 1], weight)


@mutant("xla_equals_eager")
class PythonFunctionInside(Sums):
    """A Python function in the graph, which XLA cannot compile."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error = ops.abs(ops.cast(y_true, "float32") - ops.cast(y_pred, "float32"))
        total = tf.numpy_function(lambda e: e.sum(dtype="float32"), [error], tf.float32)
        total.set_shape(())
        self.add(total, ops.cast(ops.size(error), "float32"))


@mutant("evaluate_equals_one_pass")
class EagerOnly(Sums):
    """Works by hand, not in a compiled step."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        values = ops.convert_to_numpy(ops.abs(y_true - y_pred))
        self.add(float(values.sum()), float(values.size))


# Configuration ----------------------------------------------------------------


@mutant("arguments_survive", BINARY)
class NoConfig(keras.metrics.Metric):
    """A threshold that `get_config` does not tell."""

    def __init__(self, threshold=0.5, name="above", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        self.above = self.add_variable((), "zeros", name="above")

    def update_state(self, y_true, y_pred, sample_weight=None):
        found, weight = rows(ops.cast(y_pred, "float32") > self.threshold, sample_weight)
        self.above.assign_add(ops.sum(found * weight))

    def result(self):
        return ops.copy(self.above.value)


@mutant("config_round_trip", BINARY)
def threshold_lost():
    """The same with a threshold that is not the default: the copy behaves otherwise."""
    return NoConfig(threshold=0.25)


@mutant("arguments_survive", BINARY)
class ConfigOfDefaults(PrecisionAndRecall):
    """Tells the default, whatever was given."""

    def get_config(self):
        return {**super().get_config(), "threshold": 0.5}


@mutant("serialisation_round_trip", BINARY)
class ConfigNotJson(PrecisionAndRecall):
    """A set does not become JSON."""

    def __init__(self, threshold=0.5, tags=frozenset({"a"}), name="metric", **kwargs):
        super().__init__(threshold, name=name, **kwargs)
        self.tags = tags

    def get_config(self):
        return {**super().get_config(), "tags": complex(1, 2) if self.tags else None}


@mutant("config_round_trip")
class NoName(MeanAbsolute):
    """A constructor that takes neither `name` nor `dtype`."""

    def __init__(self):
        super().__init__(name="fixed")


# Numbers ----------------------------------------------------------------------


class _CountIn(keras.metrics.Metric):
    kind = "float32"

    def __init__(self, name="count", **kwargs):
        super().__init__(name=name, **kwargs)
        self.seen = self.add_variable((), "zeros", dtype=self.kind, name="seen")

    def update_state(self, y_true, y_pred):
        self.seen.assign_add(ops.cast(ops.shape(y_pred)[0], self.kind))

    def result(self):
        return ops.copy(self.seen.value)


@mutant("no_early_saturation")
class CountInHalf(_CountIn):
    kind = "float16"


@mutant("no_early_saturation")
class CountInBytes(_CountIn):
    kind = "uint8"


@mutant("no_saturation")
class CountInSingle(_CountIn):
    """Stops at 2^24."""


class Deviation(keras.metrics.Metric):
    """Standard deviation by the difference of two sums, in float32."""

    def __init__(self, name="deviation", **kwargs):
        super().__init__(name=name, **kwargs)
        self.sums = self.add_variable((3,), "zeros", name="sums")

    def update_state(self, y_true, y_pred, sample_weight=None):
        values, weight = rows(y_pred, sample_weight)
        self.sums.assign_add(
            ops.stack([ops.sum(weight), ops.sum(weight * values), ops.sum(weight * values**2)])
        )

    def result(self):
        n, total, squares = ops.unstack(self.sums.value)
        variance = ops.divide_no_nan(squares, n) - ops.square(ops.divide_no_nan(total, n))
        return ops.sqrt(ops.maximum(variance, 0.0))


@mutant("no_cancellation", needs_reference=True, shift_invariant=True)
class Cancellation(Deviation):
    """Loses its digits where the mean is large."""


@mutant("label_dtypes", BINARY)
class OneMinusLabel(Sums):
    """1 - y of unsigned labels."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        negative = ops.cast(-ops.convert_to_tensor(y_true) + 1, "float32")
        error, weight = rows(negative * ops.cast(y_pred, "float32"), sample_weight)
        self.add(ops.sum(error * weight), ops.sum(weight))


@mutant("prediction_dtypes")
class PredictionsUncast(Sums):
    """TensorFlow adds no float16 to a float32."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        values, weight = rows(tf.ones_like(y_true), sample_weight)
        error = tf.abs(tf.reshape(y_pred, [-1]) - tf.reshape(y_true, [-1])) * tf.constant(weight)
        self.add(tf.reduce_sum(error), tf.reduce_sum(weight))


@mutant("dtype_is_respected")
class DtypeIgnored(Sums):
    """Names `dtype`, and keeps float32."""

    def __init__(self, name="metric", dtype=None):
        super().__init__(name=name, dtype=dtype)

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        self.add(ops.sum(error * weight), ops.sum(weight))


@mutant("finite_when_fresh")
class ZeroOverZero(MeanAbsolute):
    def result(self):
        return self.total.value / self.count.value


@mutant("finite_on_valid_input")
class DividedByDeviation(Deviation):
    """A quotient by a deviation, which constants have none of."""

    def result(self):
        n, total, _ = ops.unstack(self.sums.value)
        fresh = ops.cast(ops.equal(n, 0), "float32")
        return ops.divide_no_nan(total, n) / (super().result() + fresh)


@mutant("finite_on_valid_input", BINARY)
class LogOfZero(Sums):
    """The logarithm of a probability of 0."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(-ops.log(ops.cast(y_pred, "float32")), sample_weight)
        self.add(ops.sum(error * weight), ops.sum(weight))


@mutant("within_bounds", BINARY, needs_reference=True, bounds=(0, 1))
class PrecisionAboveOne(Sums):
    """Hits over rows with a label, where it should be over rows found."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        true, weight = rows(y_true, sample_weight)
        found, _ = rows(ops.cast(y_pred, "float32") > 0.5)
        self.add(ops.sum(found * weight), ops.sum(true * found * weight))


@mutant("scale_behaviour", needs_reference=True, scale_power=1)
class SquaredNotAbsolute(Sums):
    """Declared to be in the units of the values."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.square(y_true - y_pred), sample_weight)
        self.add(ops.sum(error * weight), ops.sum(weight))


@mutant("shift_behaviour", needs_reference=True, shift_invariant=True)
class RelativeNotAbsolute(Sums):
    """Declared not to depend on the level of the values."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        error, weight = rows(ops.abs(y_true - y_pred) / (ops.abs(y_true) + 1), sample_weight)
        self.add(ops.sum(error * weight), ops.sum(weight))


# Masks ------------------------------------------------------------------------


class _Sequence(Sums):
    def weights(self, y_pred, values, sample_weight):
        raise NotImplementedError

    def update_state(self, y_true, y_pred, sample_weight=None):
        mask = _keras.get_mask(y_pred)
        values = ops.mean(
            ops.abs(ops.cast(y_true, "float32") - ops.cast(y_pred, "float32")), axis=-1
        )
        weight = ops.ones_like(values)
        if sample_weight is not None:
            weight = weight * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        weight = self.masked(weight, mask, sample_weight)
        self.add(ops.sum(values * weight), ops.sum(weight))

    def masked(self, weight, mask, sample_weight):
        return weight


@mutant("mask_leaves_out", sequences())
class MaskIgnored(_Sequence):
    """Padding counts."""


@mutant("mask_with_weights", sequences())
class MaskOrWeights(_Sequence):
    """Weights take the mask's place."""

    def masked(self, weight, mask, sample_weight):
        if mask is None or sample_weight is not None:
            return weight
        return weight * ops.cast(mask, "float32")


@mutant("masked_row_is_absence", sequences())
class MeanOfRowMeans(Sums):
    """A row without any time step counts as one of mean 0."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        mask = _keras.get_mask(y_pred)
        values = ops.mean(
            ops.abs(ops.cast(y_true, "float32") - ops.cast(y_pred, "float32")), axis=-1
        )
        mask = ops.ones_like(values) if mask is None else ops.cast(mask, "float32")
        of_rows = ops.divide_no_nan(ops.sum(values * mask, axis=1), ops.sum(mask, axis=1))
        of_rows, weight = rows(of_rows, sample_weight)
        self.add(ops.sum(of_rows * weight), ops.sum(weight))


# Meaning ----------------------------------------------------------------------


@mutant("equals_reference", BINARY, needs_reference=True, reference=lambda y_true, y_pred: (
    sk.precision_score(y_true, y_pred > 0.5, zero_division=0)))  # fmt: skip
class RecallForPrecision(Sums):
    """Divides by the rows with a label."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        true, weight = rows(y_true, sample_weight)
        found, _ = rows(ops.cast(y_pred, "float32") > 0.5)
        self.add(ops.sum(true * found * weight), ops.sum(true * weight))


@mutant("equals_reference", BINARY, needs_reference=True, reference=lambda y_true, y_pred: (
    sk.accuracy_score(y_true, y_pred > 0.5)))  # fmt: skip
class ThresholdIncluded(Sums):
    """`>=` for `>`."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        true, weight = rows(y_true, sample_weight)
        found, _ = rows(ops.cast(y_pred, "float32") >= 0.5)
        self.add(ops.sum(ops.cast(ops.equal(true, found), "float32") * weight), ops.sum(weight))


@mutant("equals_reference", needs_reference=True, reference=lambda y_true, y_pred: np.std(y_pred))
class SampleDeviation(Deviation):
    """Divides by n - 1."""

    def result(self):
        n = self.sums.value[0]
        return super().result() * ops.sqrt(ops.divide_no_nan(n, ops.maximum(n - 1, 1.0)))


@mutant("equals_reference", multiclass_classification(), needs_reference=True,
        reference=lambda y_true, y_pred: sk.accuracy_score(y_true, y_pred.argmax(-1)))  # fmt: skip
class LastOfTies(Sums):
    """Takes the last of equal scores, not the first."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_pred = ops.cast(y_pred, "float32")
        last = ops.shape(y_pred)[-1] - 1 - ops.argmax(ops.flip(y_pred, axis=-1), axis=-1)
        hit = ops.equal(ops.cast(ops.reshape(y_true, (-1,)), "int32"), ops.cast(last, "int32"))
        hit, weight = rows(hit, sample_weight)
        self.add(ops.sum(hit * weight), ops.sum(weight))


@mutant("equals_weighted_reference", needs_reference=True, reference=absolute_error)
class WeightsOfReferenceUnused(WeightsAboveOnly):
    """Equals the reference, and does not with weights."""


# What only some forms show ----------------------------------------------------


@mutant("columns_agree", multiclass_classification())
class ClassesBroadcast(Sums):
    """Numbers of classes (rows, 1) beside (rows,) found ones."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        hit = ops.equal(ops.cast(y_true, "int32"), ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
        hit = ops.cast(hit, "float32")
        self.add(ops.sum(hit), ops.cast(ops.size(hit), "float32"))


@mutant("no_early_saturation")
class CountInBrainFloat(_CountIn):
    """Stops at 256, in a type that NumPy does not count among the floats."""

    kind = "bfloat16"


@mutant("integer_weight_is_repetition")
class WeightsAmongKeywords(Sums):
    """Takes weights without a name, and does not look at them."""

    def update_state(self, y_true, y_pred, **kwargs):
        error, weight = rows(ops.abs(y_true - y_pred))
        self.add(ops.sum(error), ops.sum(weight))


@mutant("arguments_survive", BINARY)
class AverageLost(MeanAbsolute):
    """A name of a way, which `get_config` does not tell."""

    def __init__(self, average="macro", name="metric", **kwargs):
        super().__init__(name=name, **kwargs)
        self.average = average


@mutant("arguments_survive", BINARY)
class ThresholdsLost(MeanAbsolute):
    """A tuple that `get_config` does not tell."""

    def __init__(self, thresholds=(0.5,), name="metric", **kwargs):
        super().__init__(name=name, **kwargs)
        self.thresholds = thresholds


@mutant("prediction_dtypes", FEW_OF_MANY_CLASSES)
class FoundInHalfPrecision(Sums):
    """Both are rounded: the class 257 is taken for 256."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        found = ops.cast(ops.argmax(y_pred, axis=-1), y_pred.dtype)
        hit = ops.cast(ops.equal(ops.cast(y_true, y_pred.dtype), found), "float32")
        self.add(ops.sum(hit), ops.cast(ops.size(hit), "float32"))


@mutant("many_rows", LONG_ROWS)
class ShortBufferOfLongRows(Sums):
    """The hits of the first sixteen rows of each batch, however many labels they have."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        hit = ops.cast(ops.equal(ops.cast(y_true, "float32"), ops.round(y_pred)), "float32")[:16]
        self.add(ops.sum(hit), ops.cast(ops.size(hit), "float32"))


@mutant("many_rows")
class ShortBuffer(keras.metrics.Metric):
    """The largest error, of the first sixteen rows of each batch."""

    merge_rules = {"largest": "max"}

    def __init__(self, name="largest", **kwargs):
        super().__init__(name=name, **kwargs)
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, y_true, y_pred):
        true, found = flat(y_true, y_pred)
        error = ops.abs(true - found)[:16]
        self.largest.assign(ops.max(ops.concatenate([self.largest.value[None], error])))

    def result(self):
        return ops.copy(self.largest.value)
