"""The step gives the numbers of the whole batch, however the batch is cut."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import ModelError
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.distribution import strategy
from kerastrain.step import gradients
from kerastrain.step import loss as loss_lib
from kerastrain.step import rows
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers
from tests.support import trainings

TOLERANCE = 1e-6
X, Y, WEIGHT = datasets.regression(rows=9)  # batches of 8 rows and of 1
CUTS = [(None, 3), ("mirrored:2", 1), ("mirrored:2", 2)]


REDUCTIONS = ("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum")


def trained(cut, build=models.mlp, optimizer=None, loss="mse", options=(), metrics=("mae",),
            x=X, y=Y, sample_weight=None, **compiled):  # fmt: skip
    """Trains two epochs with the cut, by the step alone; returns ``(model, history)``."""
    where, micro_batches = cut
    whole = (x, y) if sample_weight is None else (x, y, sample_weight)
    batches = datasets.cut(*whole, size=8)

    def arguments():
        made = optimizer() if optimizer else keras.optimizers.Adam(0.05)
        return {"optimizer": made, "loss": loss, "metrics": metrics and list(metrics), **compiled}

    step_options = StepOptions(micro_batches=micro_batches, **dict(options))
    return trainings.by_steps(build, arguments, batches, where, step_options)


def fitted(cut, entry_point, loss="mse", metrics=("mae",), **fit):
    """The same by the compiled steps of `Trainer`, or of a `TrainableModel` under Keras's fit."""
    where, micro_batches = cut
    keras.utils.set_random_seed(3)
    scope = strategy.resolve(where)
    fit = {"x": X, "y": Y, "batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0} | fit
    metrics = metrics and list(metrics)
    if entry_point == "trainer":
        options = {"optimizer": keras.optimizers.Adam(0.05), "loss": loss, "metrics": metrics}
        options["micro_batches"] = micro_batches
        model = models.mlp()
        return model, Trainer(model, strategy=scope, **options).fit(**fit).history
    with scope.scope() if scope else tf.init_scope():
        model = models.mlp(TrainableModel)
        adam = keras.optimizers.Adam(0.05)
        model.compile(adam, loss, metrics=metrics, micro_batches=micro_batches)
    return model, model.fit(**fit).history


@pytest.fixture(scope="module", params=REDUCTIONS)
def reduced(request):
    """A loss of each reduction, and the run of the whole batch with it."""
    make = lambda: keras.losses.MeanSquaredError(request.param)
    return make, trained((None, 1), loss=make(), sample_weight=WEIGHT)


@pytest.mark.parametrize(
    "cut", [tiers.slow((None, 3)), ("mirrored:2", 2), tiers.slow(("mirrored:4", 2))], ids=str
)
def test_reductions(reduced, cut):
    """Every reduction, with sample weights that are partly zero."""
    make, whole = reduced
    assertions.assert_close_runs(whole, trained(cut, loss=make(), sample_weight=WEIGHT))


@pytest.mark.parametrize("cut", [(None, 2), ("mirrored:2", 1)], ids=str)
def test_function_that_returns_a_mean(cut):
    """A loss function that returns one number is a mean over its rows."""
    loss = lambda y, p: keras.ops.mean((y - p) ** 2)
    assertions.assert_close_runs(trained((None, 1), loss=loss), trained(cut, loss=loss))


@pytest.mark.parametrize("cut", [tiers.slow((None, 3)), ("mirrored:2", 2)], ids=str)
def test_other_losses(cut):
    """Regularisers count once; `add_loss` and activity regularisers are means."""
    assertions.assert_close_runs(
        trained((None, 1), models.with_losses), trained(cut, models.with_losses)
    )


class Undivided(keras.layers.Dense):
    """Adds what its activity regulariser returns as Keras 3.13 does: not divided by the rows."""

    def __call__(self, *arguments, **options):
        regularizer = self.activity_regularizer
        self.__dict__["activity_regularizer"] = None
        try:
            outputs = super().__call__(*arguments, **options)
        finally:
            self.__dict__["activity_regularizer"] = regularizer
        if isinstance(outputs, tf.Tensor):
            self.add_loss(regularizer(outputs))
        return outputs


def with_undivided_losses(make=keras.Model):
    """A model with losses that are sums over the rows, and means."""
    inputs = keras.Input((4,))
    hidden = Undivided(8, activation="tanh", activity_regularizer="l2")(inputs)
    return make(inputs, keras.layers.Dense(2)(models.AddsLoss()(hidden)))


@pytest.mark.parametrize("cut", [(None, 3), ("mirrored:2", 2)], ids=str)
def test_activity_regularisers_that_keras_does_not_divide(cut):
    """They are sums over the rows."""
    whole = trained((None, 1), with_undivided_losses)
    assertions.assert_close_runs(whole, trained(cut, with_undivided_losses))


@pytest.mark.filterwarnings("error::UserWarning:(kerastrain|tests)")
def test_undivided_losses_are_no_finding_of_the_lint():
    """They may be cut, and the layer has its own regulariser afterwards."""
    model = with_undivided_losses()
    Trainer(model, optimizer="sgd", loss="mse", micro_batches=2).fit(X, Y, verbose=0)
    assert keras.regularizers.L2 is type(model.layers[1].activity_regularizer)


@pytest.mark.parametrize(
    "reduction, cut",
    tiers.cases(
        itertools.product(["sum_over_batch_size", "mean_with_sample_weight", "sum"], CUTS[::2]),
        [("sum_over_batch_size", CUTS[0]), ("sum", CUTS[2])],
    ),
    ids=str,
)
def test_masks(reduction, cut):
    """A mask counts the time steps of the global batch, not of each part."""

    def build(make):
        inputs = keras.Input((5,), dtype="int32")
        embedded = keras.layers.Embedding(7, 4, mask_zero=True)(inputs)
        states = keras.layers.SimpleRNN(4, return_sequences=True, unroll=True)(embedded)
        return make(inputs, keras.layers.Dense(3, activation="softmax")(states))

    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 7, size=(9, 5)) * (np.arange(5) < rng.integers(1, 6, size=(9, 1)))
    data = {"x": tokens, "y": rng.integers(0, 3, size=(9, 5))}
    if reduction == "sum":
        data["sample_weight"] = np.repeat(WEIGHT[:, None], 5, axis=1)
    data["loss"] = keras.losses.SparseCategoricalCrossentropy(reduction=reduction)
    data |= {"optimizer": lambda: keras.optimizers.SGD(0.1), "metrics": ["accuracy"]}
    assertions.assert_close_runs(trained((None, 1), build, **data), trained(cut, build, **data))


@pytest.mark.parametrize("cut", [*map(tiers.slow, CUTS[:2]), CUTS[2]], ids=str)
def test_two_outputs(cut):
    """Outputs of different reductions have denominators of their own."""

    def build(make):
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(8, activation="tanh")(inputs)
        return make(inputs, {name: keras.layers.Dense(2, name=name)(hidden) for name in "pq"})

    mean, total = (
        keras.losses.MeanSquaredError("mean_with_sample_weight"),
        keras.losses.MeanAbsoluteError("sum"),
    )
    arguments = {
        "loss": {"p": mean, "q": total}, "loss_weights": {"p": 2.0, "q": 0.1}, "metrics": None,
        "y": {"p": Y, "q": -Y}, "sample_weight": {"p": WEIGHT, "q": WEIGHT[::-1].copy()},
        "optimizer": lambda: keras.optimizers.SGD(0.1),
    }  # fmt: skip
    one, cut_run = (trained(c, build, **arguments) for c in ((None, 1), cut))
    assertions.assert_close_runs(one, cut_run)


@pytest.mark.parametrize(
    "weights", [None, tiers.slow([1.0, 0.5])], ids=["one output", "two outputs"]
)
def test_a_sum_that_xla_computes_is_logged_as_one(weights):
    """On replicas, by itself and beside a mean, the logged losses are those of Keras's fit."""
    loss = keras.losses.MeanSquaredError("sum")

    def built():
        keras.utils.set_random_seed(3)
        inputs = keras.Input((4,))
        outputs = [keras.layers.Dense(2, name=name)(inputs) for name in "pq"]
        model = keras.Model(inputs, outputs if weights else outputs[0])
        model.compile("sgd", [loss, "mse"] if weights else loss, loss_weights=weights)
        return model

    fit = {"x": X[:8], "y": [Y[:8], -Y[:8]] if weights else Y[:8], "verbose": 0}
    fit |= {"batch_size": 4, "shuffle": False}
    expected = built().fit(**fit).history
    history = Trainer(built(), strategy="mirrored:2", execution="xla_loop").fit(**fit).history
    assert set(expected) == set(history)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("cut", [tiers.slow(CUTS[0]), CUTS[1]], ids=str)
def test_losses_of_different_types(cut):
    """Each is cast before they are added, as Keras does, and regularisers beside them."""

    def build(make):
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(8, activation="tanh", kernel_regularizer="l2")(inputs)
        return make(inputs, [keras.layers.Dense(2, name=n)(hidden) for n in "pq"])

    def run(cut):
        double = keras.losses.MeanSquaredError("mean_with_sample_weight", dtype="float64")
        losses, weights = [double, "mse"], [WEIGHT, WEIGHT]
        return trained(cut, build, loss=losses, y=[Y, -Y], sample_weight=weights, metrics=None)

    assertions.assert_close_runs(run((None, 1)), run(cut))


@pytest.mark.parametrize(
    "clip, cut",
    tiers.cases(
        itertools.product(["clipvalue", "clipnorm", "global_clipnorm"], CUTS[::2]),
        [("clipvalue", CUTS[0]), ("clipnorm", CUTS[0]), ("global_clipnorm", CUTS[2])],
    ),
    ids=str,
)
def test_clipping_sees_the_global_gradient(clip, cut):
    """Clipping in the step, and by the optimizer, is that of the whole batch."""
    limit = {"clipvalue": 0.05, "clipnorm": 0.1, "global_clipnorm": 0.1}[clip]
    by_optimizer = lambda: keras.optimizers.SGD(0.5, **{clip: limit})
    plain = lambda: keras.optimizers.SGD(0.5)
    whole = trained((None, 1), optimizer=by_optimizer)
    assertions.assert_close_runs(whole, trained(cut, optimizer=by_optimizer))
    assertions.assert_close_runs(whole, trained(cut, optimizer=plain, options={clip: limit}))
    assert assertions.largest_difference(whole[0], trained(cut, optimizer=plain)[0]) > 1e-3


@pytest.mark.parametrize(
    "entry_point, cut",
    [
        ("fit", ("mirrored:2", 1)), tiers.slow("fit", (None, 3)),
        tiers.slow("trainer", ("mirrored:2", 2)), tiers.slow("fit", ("mirrored:2", 3)),
        tiers.slow("trainer", (None, 3)),
    ],
    ids=str,
)  # fmt: skip
def test_compiled_steps(entry_point, cut):
    """Compiled, by `Trainer` and under Keras's own fit, the arithmetic is the same."""
    whole = trained((None, 1), sample_weight=WEIGHT)
    assertions.assert_close_runs(whole, fitted(cut, entry_point, sample_weight=WEIGHT))


def test_micro_batches_of_an_unbuilt_model():
    """A subclass that is built by its first batch trains in micro-batches."""

    class Net(TrainableModel):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    def run(micro_batches):
        keras.utils.set_random_seed(3)
        model = Net()
        model.compile("sgd", "mse", micro_batches=micro_batches)
        model.fit(X, Y, batch_size=4, shuffle=False, verbose=0)
        return model

    assert assertions.largest_difference(run(1), run(3)) <= TOLERANCE


def test_compute_loss_override_is_a_mean_over_rows():
    """An overridden `compute_loss` is weighed by the rows of each part."""

    def build(make):
        class Net(make):
            def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
                return keras.ops.mean(keras.ops.abs(y - y_pred)) + sum(self.losses)

        inputs = keras.Input((4,))
        return Net(inputs, keras.layers.Dense(2, kernel_regularizer="l2")(inputs))

    assertions.assert_close_runs(trained((None, 1), build), trained((None, 3), build))


def test_a_loss_scale_changes_nothing():
    """The hook gets the unscaled gradient of one device, which is clipped and applied unscaled."""

    def run(micro_batches, scales=True):
        noted = []

        class Net(TrainableModel):
            def transform_gradients(self, gradients, variables):
                noted.extend(tf.convert_to_tensor(g).numpy() for g in gradients)
                return gradients

        keras.utils.set_random_seed(3)
        inputs = keras.Input((4,))
        model = Net(inputs, keras.layers.Dense(2)(inputs))
        optimizer = keras.optimizers.SGD(0.1)
        if scales:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0)
        model.compile(
            optimizer, "mse", run_eagerly=True, micro_batches=micro_batches, clipvalue=1e-3
        )
        model.fit(X, Y, batch_size=9, shuffle=False, verbose=0)
        return [*noted, *model.get_weights()]

    plain = run(1, scales=False)
    assert np.abs(plain[0]).max() > 1e-3  # it is clipped
    for found in (run(1), run(3)):
        for one, other in zip(plain, found, strict=True):
            np.testing.assert_allclose(one, other, atol=TOLERANCE)


def test_a_token_that_occurs_twice():
    """Its gradients are added before they are clipped, as those of a dense weight are."""

    def weights(layer, x):
        inputs = keras.Input(x.shape[1:])
        model = TrainableModel(inputs, keras.layers.Flatten()(layer(inputs)))
        model.compile(keras.optimizers.SGD(1.0), "mse", run_eagerly=True, clipnorm=0.1)
        model.fit(x, np.ones((1, 6), "float32"), verbose=0)
        return model.get_weights()[0]

    tokens = np.array([[1, 1, 3]])
    sparse = weights(keras.layers.Embedding(4, 2, embeddings_initializer="zeros"), tokens)
    as_dense = keras.layers.Dense(2, use_bias=False, kernel_initializer="zeros")
    dense = weights(as_dense, np.eye(4, dtype="float32")[tokens])
    np.testing.assert_allclose(dense, sparse, atol=TOLERANCE)


def test_empty_replica_slice_contributes_nothing():
    """One row on four replicas is one row; nothing becomes NaN."""
    one = trained((None, 1), x=X[:1], y=Y[:1])
    assertions.assert_close_runs(one, trained(("mirrored:4", 2), x=X[:1], y=Y[:1]))


def test_batch_statistics_of_no_rows():
    """The row that stands in on a replica without rows is not among them."""

    def build(make):
        inputs = keras.Input((4,))
        hidden = keras.layers.BatchNormalization(synchronized=True)(inputs)
        return make(inputs, keras.layers.Dense(2)(hidden))

    options = {"x": X[:3], "y": Y[:3], "build": build}
    assertions.assert_close_runs(
        trained((None, 1), **options), trained(("mirrored:4", 1), **options)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_of_no_rows(value):
    """What a row that stands in has is not in what is logged, whatever it is."""
    term = loss_lib.row_mean(tf.constant(value, "float32"), tf.constant(0))
    assert [0.0, 0.0] == [float(part) for part in term.reported]


def test_reduction_none_beside_others_is_refused():
    """Keras would broadcast a vector of losses against a scalar."""

    def build(make):
        inputs = keras.Input((4,))
        return make(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)])

    losses = [keras.losses.MeanSquaredError(None), keras.losses.MeanSquaredError(None)]
    with pytest.raises(ModelError, match="reduction=None"):
        trained((None, 2), build, loss=losses, y=[Y, Y], metrics=None)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("entry_point", ["fit", "trainer"])
def test_several_losses_of_one_output_are_refused(entry_point, micro_batches):
    """Keras would train on the first alone, and log zeros; a sum of parts would be all of them."""
    with pytest.raises(ModelError, match="2 losses for one output.*ignores 'mae'"):
        fitted((None, micro_batches), entry_point, loss=["mse", "mae"], metrics=None)


class TestOptions:
    def test_only_one_kind_of_clipping(self):
        """Two kinds at once are refused, with both values named."""
        with pytest.raises(ArgumentError, match="clipvalue=1.0, clipnorm=2.0"):
            StepOptions(clipvalue=1.0, clipnorm=2.0)

    @pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
    def test_micro_batches_are_counted(self, value):
        """Anything but a whole number from 1 on is refused."""
        with pytest.raises(ArgumentError, match="micro_batches="):
            StepOptions(micro_batches=value)

    def test_clipping_twice_is_refused(self):
        """Clipping of the step and of the optimizer together would act twice."""
        with pytest.raises(ArgumentError, match="twice"):
            models.mlp(TrainableModel).compile(
                keras.optimizers.SGD(clipnorm=1.0), "mse", global_clipnorm=1.0
            )


class TestGradients:
    def test_clip_keeps_what_is_not_finite(self):
        """A clipped infinity would hide from loss scaling."""
        clipped = gradients.clip(
            [tf.constant([np.inf, -np.inf, np.nan, 5.0])], StepOptions(clipvalue=1.0)
        )[0].numpy()
        np.testing.assert_array_equal([np.inf, -np.inf, np.nan, 1.0], clipped)

    def test_clip_is_of_the_unscaled_gradient(self):
        """With a loss scale, the limit scales too."""
        for options in (StepOptions(clipvalue=1.0), StepOptions(clipnorm=1.0),
                        StepOptions(global_clipnorm=1.0)):  # fmt: skip
            plain = gradients.clip([tf.constant([3.0, 4.0]), None], options)
            scaled = gradients.clip([tf.constant([24.0, 32.0]), None], options, scale=8.0)
            np.testing.assert_allclose(plain[0] * 8.0, scaled[0], rtol=1e-6)
            assert plain[1] is scaled[1] is None


class TestRows:
    @pytest.mark.parametrize("count", [1, 2, 3, 7])
    @pytest.mark.parametrize("size", [1, 2, 6, 7])
    def test_parts_are_the_batch(self, size, count):
        """Parts hold every row once, in order, and differ by at most one row."""
        batch = {"x": tf.range(size), "none": None}
        parts = list(rows.micro_batches(batch, tf.constant(size), count))
        real = [part["x"][:n].numpy() for part, n in parts]
        np.testing.assert_array_equal(np.concatenate(real), np.arange(size))
        sizes = [len(r) for r in real]
        assert max(sizes) - min(sizes) <= 1
        assert all(part["x"].shape[0] >= 1 for part, _ in parts)

    def test_sparse_cannot_be_cut(self):
        """A sparse tensor is refused with a way out."""
        sparse = tf.sparse.from_dense(np.eye(3))
        with pytest.raises(ArgumentError, match="micro_batches=1"):
            rows.slice_rows(sparse, 0, 1)
