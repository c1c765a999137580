"""The demo: its metric is exact, its model fits any image, and its errors name the file."""

import itertools
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from kerastrain.cli import demo
from kerastrain.errors import DataError
from tests.support import tiers


def save(path, x, y, x_test=None, y_test=None):
    """Writes an `.npz` file, with the training data as the test data by default."""
    x_test, y_test = (x, y) if x_test is None else (x_test, y_test)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return path


@st.composite
def predictions(draw):
    """Strategy: `(y_true, y_pred, weight, cuts)` for four classes."""
    rows = draw(st.integers(1, 20))
    labels = st.lists(st.integers(0, 3), min_size=rows, max_size=rows)
    weights = st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0]), min_size=rows, max_size=rows)
    y_true, chosen = np.array(draw(labels)), np.array(draw(labels))
    cuts = sorted(draw(st.lists(st.integers(0, rows), max_size=3)))
    return y_true, np.eye(4, dtype="float32")[chosen], np.array(draw(weights), "float32"), cuts


class TestBalancedAccuracy:
    """The demo's own metric."""

    @settings(max_examples=25)
    @given(predictions())
    def test_is_exact_over_batches(self, drawn):
        """Any cut into batches, empty ones too, gives the balanced accuracy of all the rows."""
        balanced_accuracy_score = pytest.importorskip("sklearn.metrics").balanced_accuracy_score
        y_true, y_pred, weight, cuts = drawn
        metric = demo.BalancedAccuracy(4)
        pieces = (np.split(array, cuts) for array in (y_true, y_pred, weight))
        for y, p, w in zip(*pieces, strict=True):
            metric.update_state(y[:, None], p, w)
        with warnings.catch_warnings():
            # It warns of classes that are predicted and never true, and counts them as we do.
            warnings.simplefilter("ignore")
            expected = balanced_accuracy_score(y_true, y_pred.argmax(axis=1), sample_weight=weight)
        assert expected == pytest.approx(float(metric.result()), abs=1e-6)

    def test_before_any_row(self):
        """It is 0, not NaN, before any row, and again after a reset."""
        metric = demo.BalancedAccuracy(3)
        assert 0 == float(metric.result())
        metric.update_state([0], [[1.0, 0.0, 0.0]])
        assert 1 == float(metric.result())
        metric.reset_state()
        assert 0 == float(metric.result())

    def test_survives_its_config(self):
        """A metric made from the config is an equal one."""
        metric = demo.BalancedAccuracy(3, name="mine")
        copy = keras.metrics.deserialize(keras.metrics.serialize(metric))
        assert metric.get_config() == copy.get_config()


SHAPES = (1, 1), (1, 9, 1), (3, 5, 2), (8, 8), (28, 28, 3), (64, 20)
DTYPES = "uint8", "bool", ">i2", "float64"
QUICK = [((1, 9, 1), "bool")]


@pytest.mark.parametrize(
    ("shape", "dtype"), tiers.cases(itertools.product(SHAPES, DTYPES), QUICK), ids=str
)
def test_any_image_size_and_type(tmp_path, shape, dtype):
    """Images of any size and type of number train to finite results."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 200, (9, *shape)).astype(dtype)
    path = save(tmp_path / "my.npz", x, np.arange(9) % 3)
    outcome = demo.run(path, epochs=1, batch_size=4)
    assert 9 == outcome.held_out
    assert {"loss", "accuracy", "balanced_accuracy"} == set(outcome.results)
    assert np.isfinite(list(outcome.results.values())).all()


def test_black_images(tmp_path):
    """Images of zeros have no largest value to divide by."""
    path = save(tmp_path / "my.npz", np.zeros((4, 5, 5), "uint8"), np.array([0, 1, 0, 1]))
    assert np.isfinite(demo.run(path, epochs=1).results["loss"])


@pytest.mark.slow
def test_seed_decides_every_number():
    """Two runs with a seed agree in every result of every epoch; another seed does not."""
    one, other = (demo.run(epochs=1, batch_size=256, seed=1) for _ in range(2))
    assert one.history == other.history
    assert one.results == other.results
    assert one.history != demo.run(epochs=1, batch_size=256, seed=2).history


def test_validation_images_are_not_trained_on(tmp_path, monkeypatch):
    """Of 19 training images one validates and 18 are trained on."""
    path = save(tmp_path / "my.npz", np.zeros((19, 2, 2), "uint8"), np.arange(19) % 2)
    seen = []
    fit = demo.Trainer.fit

    def spy(trainer, x, y, *, validation_data, **arguments):
        seen.append([len(x), len(y), *map(len, validation_data)])
        return fit(trainer, x, y, validation_data=validation_data, **arguments)

    monkeypatch.setattr(demo.Trainer, "fit", spy)
    demo.run(path, epochs=1)
    assert [[18, 18, 1, 1]] == seen


@pytest.mark.parametrize(
    "y, fragment", [([0], "at least 2"), ([0, 9], "a label is 9"), ([0, 2**31 - 1], "2 training")]
)
def test_too_small_to_learn_from(tmp_path, y, fragment):
    """One image, or more classes than images, is refused before a model of that size is built."""
    path = save(tmp_path / "my.npz", np.zeros((len(y), 4, 4)), np.array(y))
    with pytest.raises(DataError, match=fragment) as caught:
        demo.run(path)
    assert str(path) in str(caught.value)
