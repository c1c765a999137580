"""Data of which Keras would make something else than was meant are refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import DataError
from kerastrain.data.source import Source

X = np.zeros((6, 2), "float32")
CLASSES = np.array([0, 1, 2, 0, 1, 2])
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]
WEIGHTS = {0: 1.0, 1: 2.0, 2: 0.5}


@pytest.mark.parametrize(
    "y", [CLASSES, CLASSES[:, None], CLASSES.astype("float32"), ONE_HOT, ONE_HOT * 0.7 + 0.1]
)
def test_class_weights_of_classes(y):
    """Indices in a row or a column, of any type, one-hot and smoothed: each row has that of its class."""
    expected = [WEIGHTS[c] for c in CLASSES]
    for data in ((X, y), (tf.data.Dataset.from_tensor_slices((X, y)).batch(6), None)):
        source = Source(*data, class_weight=WEIGHTS)
        np.testing.assert_allclose(expected, source.peek()[2])


def test_a_class_without_a_weight():
    """In arrays it weighs 1, as under Keras."""
    np.testing.assert_allclose(
        [1, 2, 1, 1, 2, 1], Source(X, CLASSES, class_weight={1: 2.0}).peek()[2]
    )


@pytest.mark.parametrize(
    ("y", "weights", "says"),
    [
        (CLASSES + 0.25, WEIGHTS, "numbers such as 0.25.*sample_weight"),
        (np.ones((6, 3)), WEIGHTS, "rows of 3 numbers are not one-hot"),
        (ONE_HOT, {3: 2.0}, "classes 0 to 2, and 3 is none"),
        (ONE_HOT[:, :, None].repeat(2, 2), WEIGHTS, r"a row has shape \(3, 2\)"),
        (np.array(list("abcabc")), WEIGHTS, "values of type"),
        ({"a": CLASSES, "b": CLASSES}, WEIGHTS, "2 parts, of several outputs.*structure of y"),
        (None, WEIGHTS, "there is no y"),
        (CLASSES, {"0": 2.0}, "'0' is no class index"),
        (CLASSES, {-1: 2.0}, "-1 is no class index"),
        (CLASSES, {0: "heavy"}, "'heavy' is no class index"),
    ],
)
def test_class_weights_of_what_is_no_class(y, weights, says):
    """The message names `class_weight`, what was received, and what to pass."""
    with pytest.raises(ArgumentError, match=rf"(?s)`class_weight`.*`y`.*{says}.*Received"):
        Source(X, y, class_weight=weights)


@pytest.mark.parametrize(
    ("y", "weights"), [(CLASSES - 0.75, WEIGHTS), (CLASSES, {0: 1.0, 1: 2.0}), (None, WEIGHTS)]
)
def test_class_weights_of_a_stream(y, weights):
    """No error of TensorFlow: a class beyond the weights, no class, and no y."""
    data = tf.data.Dataset.from_tensor_slices(X if y is None else (X, y)).batch(6)
    with pytest.raises(ArgumentError, match=r"(?s)`class_weight`.*`y`.*Received"):
        Source(data, class_weight=weights).peek()


@pytest.mark.parametrize(
    ("y", "weights", "says"),
    [
        ([0, 1], {"a": 0, "b": 1}, r"a dict of \['a', 'b'\], and y is a list of 2"),
        ({"a": 0, "b": 1}, [0, 1], r"a list of 2, and y is a dict of \['a', 'b'\]"),
        ({"a": 0, "b": 1}, {"a": 0}, r"a dict of \['a'\], and y is a dict of \['a', 'b'\]"),
        (0, {"a": 0}, r"a dict of \['a'\], and y is one array"),
    ],
)
def test_sample_weights_in_another_structure(y, weights, says):
    """Both structures are named; no array is printed."""
    y, weights = (keras.tree.map_structure(lambda i: CLASSES, one) for one in (y, weights))
    with pytest.raises(DataError, match=f"`sample_weight` is {says}.*same structure"):
        Source(X, y, weights)
