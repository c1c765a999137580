"""One compiled step for batches of any number of rows."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import Execution
from kerastrain import ModelError
from kerastrain import ShapeError
from kerastrain import Trainer
from kerastrain.execution import compiled_steps as execution
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

X, Y, _ = datasets.regression(rows=8)


def counted():
    """A compiled function that returns the number of rows, and its traces."""
    traces = []

    def rows(batch):
        traces.append(1)
        return tf.shape(tf.nest.flatten(batch)[0])[0]

    return execution.DynamicBatchFunction(rows, jit_compile=False), traces


class TestOpenRows:
    def test_rows_are_open(self):
        """Batches of all sizes share a trace; None leaves stay None."""
        function, traces = counted()
        for rows in (4, 1, 7, 4):
            assert rows == int(function((tf.zeros((rows, 3)), None)))
        assert len(traces) == 1

    def test_further_axes_open_once(self):
        """A second length of an axis makes one more trace, a third none."""
        function, traces = counted()
        for length in (3, 5, 9, 3):
            function(tf.zeros((2, length)))
        assert len(traces) == 2

    def test_other_structures_and_dtypes(self):
        """Another nesting, dtype or number of leaves is another trace."""
        function, traces = counted()
        one = tf.zeros((2, 3))
        for batch in ((one, one), {"a": one, "b": one}, (one,), (tf.cast(one, tf.int32),)):
            function(batch)
            function(batch)
        assert len(traces) == 4

    @pytest.mark.parametrize("kind", ["sparse", "ragged"])
    def test_composites(self, kind):
        """Ragged and sparse batches of several sizes share a trace."""
        function, traces = counted()
        for rows in (3, 2, 5):
            dense = tf.ones((rows, 4))
            if kind == "sparse":
                function(tf.sparse.from_dense(dense))
            else:
                function(tf.RaggedTensor.from_tensor(dense))
        assert len(traces) == 1

    def test_a_function_that_needs_the_number(self):
        """Rows are fixed where the code reads them in Python."""
        function = execution.DynamicBatchFunction(
            lambda batch: tf.zeros(int(batch.shape[0])), False
        )
        assert function(tf.zeros((4, 2))).shape == (4,)
        assert function(tf.zeros((3, 2))).shape == (3,)

    @pytest.mark.parametrize("fails", (False, True))
    def test_warnings_are_of_one_trace(self, fails):
        """What both traces warn of is said once, also where the second fails too."""

        def warning(batch):
            warnings.warn(f"rows: {batch.shape[0]}", stacklevel=1)
            if fails:
                raise ValueError("wrong for any rows")
            return tf.zeros(int(batch.shape[0]))

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(ValueError, match="any rows") if fails else contextlib.nullcontext():
                execution.DynamicBatchFunction(warning, False)(tf.zeros((4, 2)))
        assert ["rows: None" if fails else "rows: 4"] == [str(w.message) for w in caught]


def test_a_model_that_reads_its_batch_size():
    """A model that needs a static batch size trains, as under Keras."""

    class Static(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(tf.reshape(x, (int(x.shape[0]), -1)))

    Trainer(Static(), optimizer="sgd", loss="mse").fit(X, Y, batch_size=4, verbose=0)


class TestEager:
    def model(self):
        class Branches(keras.Model):
            def __init__(self):
                super().__init__()
                self.dense = keras.layers.Dense(2)

            def call(self, x):
                return self.dense(x) if float(tf.reduce_sum(x)) > 0 else -self.dense(x)

        return Branches()

    def test_a_model_that_needs_numbers(self):
        """Eager execution runs what only eager execution can; compiled, it is refused."""
        eager = Trainer(
            self.model(), optimizer="sgd", loss="mse", execution=Execution(run_eagerly=True)
        )
        assert np.isfinite(eager.fit(X, Y, batch_size=4, verbose=0).history["loss"][0])
        compiled = Trainer(self.model(), optimizer="sgd", loss="mse")
        with pytest.raises(ModelError, match="cannot be called"):
            compiled.fit(X, Y, verbose=0)

    def test_shapes_are_checked_too(self):
        """The mode to debug in finds targets that would broadcast."""
        trainer = Trainer(
            models.mlp(), optimizer="sgd", loss="mse", execution=Execution(run_eagerly=True)
        )
        with pytest.raises(ShapeError, match=r"\(8, 2\)"):
            trainer.fit(X, Y[:, :1], verbose=0)


@pytest.mark.parametrize("what", [tiers.slow("layer"), tiers.slow("activity"), "model"])
def test_losses_of_layers_alone(what):
    """A model whose only loss is its own trains as under Keras."""

    class Adds(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(keras.ops.square(x)))
            return x

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            outputs = self.dense(x)
            self.add_loss(keras.ops.mean(keras.ops.square(outputs)))
            return outputs

    def build():
        keras.utils.set_random_seed(1)
        if what == "model":
            return Net()
        inputs = keras.Input((4,))
        if what == "activity":
            return keras.Model(inputs, keras.layers.Dense(2, activity_regularizer="l2")(inputs))
        return keras.Model(inputs, Adds()(keras.layers.Dense(2)(inputs)))

    expected, model = build(), build()
    expected.compile("sgd")
    expected.fit(X, batch_size=4, shuffle=False, verbose=0)
    Trainer(model, optimizer="sgd").fit(X, batch_size=4, shuffle=False, verbose=0)
    assert assertions.largest_difference(expected, model) <= 1e-6


def test_a_flag_without_weights_is_seen():
    """Freezing a BatchNormalization that has no trainable weights stops its statistics."""
    inputs = keras.Input((4,))
    normal = keras.layers.BatchNormalization(center=False, scale=False)
    model = keras.Model(inputs, keras.layers.Dense(2)(normal(inputs)))
    trainer = Trainer(model, optimizer="sgd", loss="mse")
    trainer.fit(X, Y, verbose=0)
    kept = normal.moving_mean.numpy()
    normal.trainable = False
    trainer.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(kept, normal.moving_mean.numpy())


@pytest.mark.parametrize("strategy", [None, tiers.slow("mirrored:2")])
def test_batches_of_inputs_alone(strategy):
    """A data set that yields a dict of inputs, without a tuple, trains on added losses."""
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    joined = keras.layers.Concatenate()(list(inputs.values()))
    outputs = keras.layers.Dense(2, activity_regularizer="l2")(joined)
    model = keras.Model(inputs, outputs)
    data = tf.data.Dataset.from_tensor_slices({"a": X, "b": X}).batch(4)
    history = Trainer(model, optimizer="sgd", strategy=strategy).fit(data, verbose=0, epochs=2)
    assert history.history["loss"][1] < history.history["loss"][0]


@pytest.mark.parametrize("strategy", [None, tiers.slow("mirrored:2")])
def test_predict_keeps_every_row_of_a_generator(strategy):
    """Predictions of a stream are those of its arrays, in order, none lost."""
    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse", strategy=strategy)
    batches = ((X[start : start + 3],) for start in range(0, 8, 3))
    np.testing.assert_allclose(
        trainer.predict(X, batch_size=3, verbose=0), trainer.predict(batches, verbose=0), atol=1e-6
    )
