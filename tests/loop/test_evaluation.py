"""A pass over data in which nothing is measured has no results, and says so."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import DataError
from kerastrain import RunDir
from kerastrain import Trainer
from tests.support import tiers


def rows():
    x = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def trainer(**options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    return Trainer(model, optimizer="sgd", loss="mse", metrics=["mae"], seed=0, **options)


def a_generator():
    x, y = rows()
    yield x[:8], y[:8]


def a_pipeline():
    """It yields nothing from its third pass on, of which one is only looked at."""
    passes = []

    def batches():
        passes.append(1)
        if len(passes) < 3:
            yield from a_generator()

    shapes = tuple(tf.TensorSpec((None, n)) for n in (3, 1))
    return tf.data.Dataset.from_generator(batches, output_signature=shapes)


class Shrinks(keras.utils.PyDataset):
    """It has no batch after its first pass."""

    num_batches = 1

    def __len__(self):
        return self.num_batches

    def __getitem__(self, index):
        return next(a_generator())

    def on_epoch_end(self):
        self.num_batches = 0


class Empties(Shrinks):
    """It has batches without rows after its first pass."""

    first = True

    def __getitem__(self, index):
        x, y = next(a_generator())
        return (x, y) if self.first else (x[:0], y[:0])

    def on_epoch_end(self):
        self.first = False


@pytest.mark.parametrize(
    "data", [a_generator, tiers.slow(a_pipeline), tiers.slow(Shrinks), Empties]
)
def test_a_validation_without_a_batch(data):
    """Every result is NaN, in the history and for callbacks, with a warning; none is 0."""
    heard = []
    listener = keras.callbacks.LambdaCallback(
        on_test_end=lambda logs: heard.append(logs["mae"]),
        on_epoch_end=lambda epoch, logs: heard.append(logs["val_mae"]),
    )
    said = "No test batch of this epoch had a row|`validation_data` ran out of data after 0 batches"
    with pytest.warns(UserWarning, match=said):
        history = (
            trainer()
            .fit(*rows(), epochs=4, verbose=0, validation_data=data(), callbacks=[listener])
            .history
        )
    for name in ("val_loss", "val_mae"):
        assert np.isfinite(history[name][0])
        assert np.isnan(history[name][-1])
        assert 0.0 not in history[name]
    assert np.isfinite(heard[:2]).all()
    assert np.isnan(heard[-2:]).all()
    assert np.isfinite(history["loss"]).all()


def test_one_of_several_sets_without_a_batch(tmp_path):
    """The others keep their results, and the best is not that of the empty one."""
    with pytest.warns(UserWarning, match=r"`validation_data\['b'\]` ran out of data"):
        history = (
            trainer()
            .fit(
                *rows(),
                epochs=3,
                verbose=0,
                validation_data={"a": rows(), "b": Shrinks()},
                callbacks=[
                    keras.callbacks.ModelCheckpoint(
                        str(tmp_path / "{epoch}.keras"),
                        "val_b_loss",
                        save_best_only=True,
                        mode="min",
                    )
                ],
            )
            .history
        )
    assert np.isfinite(history["val_a_loss"]).all()
    assert np.isnan(history["val_b_loss"][1:]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["1.keras"]


def test_the_best_of_a_run(tmp_path):
    """An epoch whose validation had no batch is never the best of a run directory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer().fit(
            *rows(),
            epochs=2,
            verbose=0,
            validation_data=Shrinks(),
            run_dir=RunDir(tmp_path, monitor="val_loss"),
        )
    best = keras.models.load_model(tmp_path / "best.keras", compile=False)
    other = trainer()
    other.fit(*rows(), epochs=1, verbose=0)
    for one, two in zip(best.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_results_that_are_zero():
    """A loss that is 0 is a result: of a perfect model, and of rows that weigh nothing."""
    x, y = rows()
    perfect = Trainer(
        keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda v: 0.0 * v[:, :1])]),
        optimizer="sgd",
        loss="mse",
    )
    assert perfect.evaluate(x, 0 * y, verbose=0) == 0.0
    results = trainer().evaluate(x, y, sample_weight=0 * y[:, 0], verbose=0, return_dict=True)
    assert results["loss"] == 0.0
    assert results["mae"] > 0


@pytest.mark.parametrize("callbacks", (None, [keras.callbacks.Callback()]))
@pytest.mark.parametrize("steps", (None, 2))
def test_no_batch_to_predict(callbacks, steps):
    """There are no outputs to return: it is refused."""
    x, _ = rows()
    empty = tf.data.Dataset.from_tensor_slices(x).take(0).batch(4)
    with (
        warnings.catch_warnings(action="ignore"),
        pytest.raises(DataError, match="`x` has no batches"),
    ):
        trainer().predict(empty, steps=steps, callbacks=callbacks, verbose=0)


def test_data_without_end():
    """Their results would never be there: said before a step runs, with what to pass."""
    data = tf.data.Dataset.from_tensor_slices(rows()).batch(8).repeat()
    with pytest.raises(DataError, match=r"`x` is without end .* Pass steps=,"):
        trainer().evaluate(data, verbose=0)
    for sets, name in ((data, "validation_data"), ({"far": data}, r"validation_data\['far'\]")):
        with pytest.raises(DataError, match=rf"`{name}` is without end .* Pass validation_steps=,"):
            trainer().fit(*rows(), validation_data=sets, verbose=0)
    expected = trainer().evaluate(*rows(), batch_size=8, verbose=0)
    assert expected == trainer().evaluate(data, steps=2, verbose=0)
