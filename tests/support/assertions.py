"""What trainings end with, compared: within rounding, or to the bit."""

import numpy as np

TOLERANCE = 1e-6


def largest_difference(one, other):
    """The largest absolute difference between the weights of two models."""
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return max((float(np.abs(a - b).max()) for a, b in pairs if a.size), default=0.0)


def assert_close_weights(expected, actual, tolerance=TOLERANCE):
    """Asserts the same weights of two models, but for rounding."""
    assert largest_difference(expected, actual) <= tolerance


def assert_close_histories(expected, actual, rtol=1e-6):
    """Asserts the same results of each epoch under the same names in the same order."""
    assert list(expected) == list(actual)
    for name, values in expected.items():
        np.testing.assert_allclose(actual[name], values, rtol=rtol, atol=TOLERANCE, err_msg=name)


def assert_close_runs(expected, actual, tolerance=TOLERANCE):
    """Asserts the same weights and histories of two runs, ``(model, history)`` each."""
    assert_close_weights(expected[0], actual[0], tolerance)
    assert_close_histories(expected[1], actual[1])


def assert_equal_arrays(expected, actual):
    """Asserts that lists of arrays are equal to the bit; NaN equals NaN."""
    for one, other in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(one, other)
