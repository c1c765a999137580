"""A function of all rows may limit how many are kept."""

import keras
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain.metrics import EpochMetric
from kerastrain.testing import metric_laws
from kerastrain.testing import regression
from tests.metrics.laws import but_slow
from tests.metrics.laws import PINNED


@keras.saving.register_keras_serializable("tests")
def largest_error(y_true, y_pred, sample_weight):
    """The largest error of a row that counts; 0 without rows."""
    errors = keras.ops.abs(y_true - y_pred) * keras.ops.cast(sample_weight > 0, y_pred.dtype)
    return keras.ops.max(errors, initial=0.0)


test_laws = but_slow(metric_laws(
    lambda: EpochMetric(largest_error), inputs=regression(),
    laws=("state", "configuration", "merge_equals_one_pass", "empty_batch"), **PINNED,
), [
    "merge_equals_one_pass", "empty_batch", "reset_equals_fresh", "state_in_variables",
    "config_round_trip", "arguments_survive",
])  # fmt: skip


@pytest.mark.parametrize("compiled", [False, True])
def test_max_rows(compiled):
    """One row too many raises, eager and compiled, and leaves the state as it was."""
    metric = EpochMetric(largest_error, max_rows=2)
    update = tf.function(metric.update_state) if compiled else metric.update_state
    update(tf.constant([1.0]), tf.constant([2.0]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="(?s)largest_error.*max_rows=2"):
        update(tf.constant([1.0, 1.0]), tf.constant([2.0, 5.0]))
    assert [1, 1, 1] == [len(variable.numpy()) for variable in metric.variables]
    assert 1.0 == float(metric.result())


def test_stateless_functions():
    """Keras's stateless functions take values with any number of rows, and assign nothing."""
    metric = EpochMetric(largest_error)
    values = [variable.value for variable in metric.variables]
    for error in (3.0, 2.0):
        values = metric.stateless_update_state(values, [1.0], [1.0 + error])
    assert 3.0 == float(metric.stateless_result(values))
    assert 0.0 == float(metric.result())


def test_max_rows_is_configuration():
    """`max_rows` is saved, and is a whole number."""
    metric = EpochMetric(largest_error, max_rows=2)
    copied = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert 2 == copied.max_rows
    with pytest.raises(ArgumentError, match="`max_rows`.*'all'"):
        EpochMetric(largest_error, max_rows="all")
