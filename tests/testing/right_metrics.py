"""Sound metrics, as users write them: no law complains of one.

`RIGHT` has each with its inputs and what is declared of it.
"""

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from keras import ops
from sklearn import metrics as sk

from kerastrain import _keras
from kerastrain.metrics import EpochMetric
from kerastrain.testing import arguments
from kerastrain.testing import binary_classification
from kerastrain.testing import multiclass_classification
from kerastrain.testing import regression
from kerastrain.testing import segmentation
from kerastrain.testing import sequences


def rows(values, sample_weight=None):
    """One value for each row, and its weight, both of shape (rows,)."""
    values = ops.reshape(ops.cast(values, "float32"), (-1,))
    if sample_weight is None:
        return values, ops.ones_like(values)
    weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
    return values, ops.broadcast_to(weight, ops.shape(values))


class MeanAbsolute(keras.metrics.Metric):
    """Mean absolute error, as sum and count."""

    def __init__(self, name="mean_absolute", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = (ops.reshape(ops.cast(y, "float32"), (-1,)) for y in (y_true, y_pred))
        values, weight = rows(ops.abs(y_true - y_pred), sample_weight)
        self.total.assign_add(ops.sum(values * weight))
        self.count.assign_add(ops.sum(weight))

    def result(self):
        return ops.divide_no_nan(self.total.value, self.count.value)


class RootMeanSquare(MeanAbsolute):
    """The root of a mean, taken at the end."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = (ops.reshape(ops.cast(y, "float32"), (-1,)) for y in (y_true, y_pred))
        values, weight = rows(ops.square(y_true - y_pred), sample_weight)
        self.total.assign_add(ops.sum(values * weight))
        self.count.assign_add(ops.sum(weight))

    def result(self):
        return ops.sqrt(super().result())


class BalancedError(keras.metrics.Mean):
    """A subclass of Keras's mean."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = (ops.reshape(ops.cast(y, "float32"), (-1,)) for y in (y_true, y_pred))
        values, weight = rows(ops.cast(ops.not_equal(y_true, ops.cast(y_pred > 0.5, "float32")),
                                       "float32"), sample_weight)  # fmt: skip
        super().update_state(values, sample_weight=weight)


class Spread(keras.metrics.Metric):
    """Mean and standard deviation of the predictions, as a dict, from sums in float64."""

    def __init__(self, name="spread", **kwargs):
        super().__init__(name=name, **kwargs)
        self.sums = self.add_variable((3,), "zeros", dtype="float64", name="sums")

    def update_state(self, y_true, y_pred, sample_weight=None):
        values, weight = rows(y_pred, sample_weight)
        values, weight = ops.cast(values, "float64"), ops.cast(weight, "float64")
        self.sums.assign_add(
            ops.stack([ops.sum(weight), ops.sum(weight * values), ops.sum(weight * values**2)])
        )

    def result(self):
        n, total, squares = ops.unstack(self.sums.value)
        mean = ops.divide_no_nan(total, n)
        variance = ops.maximum(ops.divide_no_nan(squares, n) - mean**2, 0.0)
        return {"mean": mean, "deviation": ops.sqrt(variance)}


def spread(y_true, y_pred, sample_weight=None):
    """`Spread` in NumPy."""
    mean = np.average(y_pred, weights=sample_weight)
    deviation = np.sqrt(np.average((y_pred - mean) ** 2, weights=sample_weight))
    return {"mean": mean, "deviation": deviation}


class Confusion(keras.metrics.Metric):
    """A matrix as result."""

    def __init__(self, classes=3, name="confusion", **kwargs):
        super().__init__(name=name, **kwargs)
        self.classes = classes
        self.matrix = self.add_variable((classes, classes), "zeros", name="matrix")

    def update_state(self, y_true, y_pred, sample_weight=None):
        true = ops.one_hot(ops.cast(ops.reshape(y_true, (-1,)), "int32"), self.classes)
        found = ops.one_hot(ops.argmax(y_pred, axis=-1), self.classes)
        if sample_weight is not None:
            weight = ops.reshape(ops.cast(sample_weight, true.dtype), (-1, 1))
            true = true * weight
        self.matrix.assign_add(ops.matmul(ops.transpose(true), found))

    def result(self):
        return ops.copy(self.matrix.value)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


def confusion(y_true, y_pred, sample_weight=None):
    """`Confusion` by scikit-learn."""
    return sk.confusion_matrix(
        y_true, y_pred.argmax(-1), labels=range(3), sample_weight=sample_weight
    ).astype("float64")


class PrecisionAndRecall(keras.metrics.Metric):
    """A dict of ratios of sums, with a threshold."""

    def __init__(self, threshold=0.5, name="precision_and_recall", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        self.counts = self.add_variable((3,), "zeros", name="counts")

    def update_state(self, y_true, y_pred, sample_weight=None):
        true, weight = rows(y_true, sample_weight)
        found, _ = rows(ops.cast(y_pred, "float32") > self.threshold)
        self.counts.assign_add(
            ops.stack(
                [ops.sum(weight * true * found), ops.sum(weight * found), ops.sum(weight * true)]
            )
        )

    def result(self):
        hits, found, true = ops.unstack(self.counts.value)
        return {
            "precision": ops.divide_no_nan(hits, found),
            "recall": ops.divide_no_nan(hits, true),
        }

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}


class MaskedMean(keras.metrics.Metric):
    """The mean squared error over the time steps that the mask of `y_pred` lets through."""

    def __init__(self, name="masked_mean", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        mask = _keras.get_mask(y_pred)
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        values = ops.mean(ops.square(y_true - y_pred), axis=-1)
        weight = ops.ones_like(values) if mask is None else ops.cast(mask, "float32")
        if sample_weight is not None:
            weight = weight * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        self.total.assign_add(ops.sum(values * weight))
        self.count.assign_add(ops.sum(weight))

    def result(self):
        return ops.divide_no_nan(self.total.value, self.count.value)


class Largest(keras.metrics.Metric):
    """A maximum, with its merge rule."""

    merge_rules = {"largest": "max"}

    def __init__(self, name="largest", **kwargs):
        super().__init__(name=name, **kwargs)
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, y_true, y_pred):
        errors = ops.abs(ops.reshape(ops.cast(y_true, "float32"), (-1,)) - ops.reshape(
            ops.cast(y_pred, "float32"), (-1,)))  # fmt: skip
        self.largest.assign(ops.max(ops.concatenate([self.largest.value[None], errors])))

    def result(self):
        return ops.copy(self.largest.value)


class Nested(keras.metrics.Metric):
    """Made of two metrics."""

    def __init__(self, name="nested", **kwargs):
        super().__init__(name=name, **kwargs)
        self.hits, self.loss = keras.metrics.BinaryAccuracy(), MeanAbsolute()

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true, y_pred = (ops.reshape(ops.cast(y, "float32"), (-1, 1)) for y in (y_true, y_pred))
        if sample_weight is not None:
            sample_weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        for metric in (self.hits, self.loss):
            metric.update_state(y_true, y_pred, sample_weight)

    def reset_state(self):
        self.hits.reset_state()
        self.loss.reset_state()

    def result(self):
        return {"hits": self.hits.result(), "loss": self.loss.result()}


class ClickRate(keras.metrics.Metric):
    """Of arguments of its own: clicks over views."""

    def __init__(self, name="click_rate", **kwargs):
        super().__init__(name=name, **kwargs)
        self.clicks = self.add_variable((), "zeros", name="clicks")
        self.views = self.add_variable((), "zeros", name="views")

    def update_state(self, clicks, views):
        self.clicks.assign_add(ops.sum(ops.cast(clicks, "float32")))
        self.views.assign_add(ops.sum(ops.cast(views, "float32")))

    def result(self):
        return ops.divide_no_nan(self.clicks.value, self.views.value)


class TwoHeads(keras.metrics.Metric):
    """Of dicts: the mean of two heads' absolute errors."""

    def __init__(self, name="two_heads", **kwargs):
        super().__init__(name=name, **kwargs)
        self.totals = self.add_variable((2,), "zeros", name="totals")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        errors = [ops.abs(ops.cast(y_true[k], "float32") - ops.cast(y_pred[k], "float32"))
                  for k in ("a", "b")]  # fmt: skip
        weight = rows(errors[0], sample_weight)[1]
        self.totals.assign_add(ops.stack([ops.sum(e * weight) for e in errors]))
        self.count.assign_add(ops.sum(weight))

    def result(self):
        return ops.divide_no_nan(self.totals.value, self.count.value)


class PixelIoU(keras.metrics.Metric):
    """Intersection over union of class 1, over all pixels of all images."""

    def __init__(self, name="pixel_iou", **kwargs):
        super().__init__(name=name, **kwargs)
        self.both = self.add_variable((), "zeros", name="both")
        self.either = self.add_variable((), "zeros", name="either")

    def update_state(self, y_true, y_pred, sample_weight=None):
        true = ops.cast(ops.equal(ops.cast(y_true, "int32"), 1), "float32")
        found = ops.cast(ops.equal(ops.argmax(y_pred, axis=-1), 1), "float32")
        weight = 1.0
        if sample_weight is not None:
            weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1, 1))
        self.both.assign_add(ops.sum(weight * true * found))
        self.either.assign_add(ops.sum(weight * ops.maximum(true, found)))

    def result(self):
        return ops.divide_no_nan(self.both.value, self.either.value)


class CountInIntegers(keras.metrics.Metric):
    """A count that does not saturate."""

    def __init__(self, name="rows", **kwargs):
        super().__init__(name=name, **kwargs)
        self.seen = self.add_variable((), "zeros", dtype="int64", name="seen")

    def update_state(self, y_true, y_pred):
        self.seen.assign_add(ops.cast(ops.shape(y_pred)[0], "int64"))

    def result(self):
        return ops.copy(self.seen.value)


class FromTensorFlow(keras.metrics.Metric):
    """Written with TensorFlow's own functions."""

    def __init__(self, name="from_tensorflow", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = tf.reshape(tf.cast(y_true, tf.float32), [-1])
        y_pred = tf.reshape(tf.cast(y_pred, tf.float32), [-1])
        weight = tf.ones_like(y_true)
        if sample_weight is not None:
            weight = tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
        self.total.assign_add(tf.reduce_sum(weight * tf.square(y_true - y_pred)))
        self.count.assign_add(tf.reduce_sum(weight))

    def result(self):
        return tf.math.divide_no_nan(self.total.value, self.count.value)


@keras.saving.register_keras_serializable(package="tests")
def median_error(y_true, y_pred, sample_weight):
    """The median, 0 of no rows."""
    errors = tf.sort(tf.abs(y_true - y_pred))
    return tf.cond(tf.size(errors) > 0, lambda: errors[(tf.size(errors) - 1) // 2], lambda: 0.0)


def absolute_error(y_true, y_pred, sample_weight=None):
    """`MeanAbsolute` by scikit-learn."""
    return sk.mean_absolute_error(y_true, y_pred, sample_weight=sample_weight)


HEADS = {"a": st.integers(0, 8), "b": st.integers(0, 8)}
RIGHT = {
    "mean absolute error": (MeanAbsolute, {
        "inputs": regression(), "reference": absolute_error, "bounds": (0, 16),
        "shift_invariant": True, "scale_power": 1}),
    "root mean square": (RootMeanSquare, {
        "inputs": regression(), "shift_invariant": True, "scale_power": 1}),
    "subclass of Mean": (lambda: BalancedError(name="balanced"), {
        "inputs": binary_classification(), "bounds": (0, 1)}),
    "standard deviation": (Spread, {"inputs": regression(), "reference": spread}),
    "confusion matrix": (Confusion, {
        "inputs": multiclass_classification(), "reference": confusion}),
    "precision and recall": (lambda: PrecisionAndRecall(threshold=0.25), {
        "inputs": binary_classification(), "bounds": (0, 1)}),
    "masked mean": (MaskedMean, {"inputs": sequences()}),
    "maximum": (Largest, {"inputs": regression(), "bounds": (0, 16), "scale_power": 1}),
    "nested": (Nested, {"inputs": binary_classification(), "bounds": (0, 1)}),
    "click rate": (ClickRate, {
        "inputs": arguments(clicks=st.integers(0, 3), views=st.integers(3, 9)), "bounds": (0, 1)}),
    "two heads": (TwoHeads, {"inputs": arguments(y_true=HEADS, y_pred=HEADS)}),
    "intersection over union": (PixelIoU, {"inputs": segmentation(), "bounds": (0, 1)}),
    "count": (CountInIntegers, {"inputs": regression()}),
    "written in TensorFlow": (FromTensorFlow, {"inputs": regression(), "scale_power": 2}),
    "function of all rows": (lambda: EpochMetric(median_error), {
        "inputs": regression(),
        "skip": dict.fromkeys(("integer_weight_is_repetition", "zero_weight_is_absence", "all_zero_batch", "scalar_weight"), "the function takes no account of weights")}),
}  # fmt: skip
