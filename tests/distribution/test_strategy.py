"""Every strategy of one machine gives the numbers of one device, through both entry points."""

import contextlib
import itertools
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerastrain
from kerastrain import ArgumentError
from kerastrain import Execution
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain import UnsupportedTypeError
from kerastrain.distribution import strategy
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers
from tests.support import trainings

TOLERANCE = 1e-6
X, _, WEIGHT = datasets.regression(rows=11)  # batches of 5, 5 and 1: fewer rows than replicas
Y = (X[:, :1] > 0).astype("float32")
STRATEGIES = ("one_device", "central_storage:1", "central_storage:2", "mirrored:1", "mirrored:4")
ENTRY_POINTS = ("trainer", "fit")
EAGER = Execution(run_eagerly=True)
OPTIMIZERS = {
    "accumulation": lambda o: o.Adam(0.05, gradient_accumulation_steps=2),
    "EMA": lambda o: o.Adam(0.05, use_ema=True, ema_momentum=0.9),
    "EMA that overwrites": lambda o: o.SGD(0.1, use_ema=True, ema_overwrite_frequency=2),
    "loss scale": lambda o: o.LossScaleOptimizer(o.SGD(0.1)),
    "loss scale and accumulation": lambda o: o.LossScaleOptimizer(
        o.SGD(0.1, gradient_accumulation_steps=2, global_clipnorm=0.1)
    ),
    "weight decay and clipping": lambda o: o.AdamW(0.05, weight_decay=0.1, clipnorm=0.1),
    "Muon": lambda o: o.Muon(0.05),
    "Adafactor": lambda o: o.Adafactor(0.05),
}


def net(make, normalized=False):
    """A classifier, with batch statistics of all replicas where asked."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="tanh", kernel_regularizer="l2")(inputs)
    if normalized:
        hidden = keras.layers.BatchNormalization(synchronized=True)(hidden)
    return make(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))


def trained(where, entry_point, build=net, optimizer=None, micro_batches=1, metrics=None, **fit):
    """Trains two epochs; returns ``(model, history)``. A Trainer's model is built outside."""
    keras.utils.set_random_seed(1)
    optimizer = optimizer or (lambda o: o.Adam(0.05))
    scope = strategy.resolve(where)
    with scope.scope() if scope and entry_point == "fit" else contextlib.nullcontext():
        metrics = metrics or ["accuracy", keras.metrics.AUC(20, name="auc")]
    compiled = {"loss": "binary_crossentropy", "metrics": metrics}
    fit = {
        "x": X, "y": Y, "sample_weight": WEIGHT, "batch_size": 5, "epochs": 2, "shuffle": False,
        "validation_data": (X[:7], Y[:7]), "verbose": 0, **fit,
    }  # fmt: skip
    if entry_point == "trainer":
        model = build(keras.Model)
        options = StepOptions(micro_batches=micro_batches)
        trainer = Trainer(
            model,
            optimizer=optimizer(keras.optimizers),
            strategy=scope,
            **options.changed(),
            **compiled,
        )
        return model, trainer.fit(**fit).history
    with scope.scope() if scope else contextlib.nullcontext():
        model = build(TrainableModel)
        model.compile(optimizer(keras.optimizers), **compiled, micro_batches=micro_batches)
    return model, model.fit(**fit).history


@pytest.fixture(scope="module")
def whole():
    """The run of one device."""
    return trained(None, "trainer")


QUICK = [("central_storage:2", "trainer")]


@pytest.mark.parametrize(
    "where, entry_point", tiers.cases(itertools.product(STRATEGIES, ENTRY_POINTS), QUICK)
)
def test_each_strategy(whole, where, entry_point):
    """Weights, loss and metrics of a ragged epoch, with validation, are those of one device."""
    assertions.assert_close_runs(whole, trained(where, entry_point))


def stepped(where, build=net, optimizer=None, micro_batches=1):
    """The same by the step alone, without validation."""

    def compiled():
        made = (optimizer or (lambda o: o.Adam(0.05)))(keras.optimizers)
        return {"optimizer": made, "loss": "binary_crossentropy", "metrics": ["accuracy"]}

    batches = datasets.cut(X, Y, WEIGHT, size=5)
    options = StepOptions(micro_batches=micro_batches)
    return trainings.by_steps(build, compiled, batches, where, options)


@pytest.mark.parametrize(
    "name", tiers.cases(OPTIMIZERS, ["loss scale and accumulation", "EMA that overwrites"])
)
def test_each_optimizer(name):
    """What an optimizer does once, or at every other step, it does once for all replicas."""
    arguments = {"optimizer": OPTIMIZERS[name], "micro_batches": 2}
    one, other = (stepped(where, **arguments) for where in (None, "mirrored:2"))
    assertions.assert_close_runs(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("number, name", list(enumerate(OPTIMIZERS)))
def test_each_optimizer_in_compiled_steps(number, name):
    """The same compiled, through one entry point or the other."""
    where, entry_point = (("central_storage:2", "trainer"), ("mirrored:2", "fit"))[number % 2]
    one = trained(None, "trainer", optimizer=OPTIMIZERS[name])
    other = trained(where, entry_point, optimizer=OPTIMIZERS[name], micro_batches=2)
    assertions.assert_close_runs(one, other)


def synchronized(make):
    """Batch statistics of all replicas."""
    return net(make, normalized=True)


def synchronized_with_losses(make):
    """A layer where replicas meet, with added losses before and after it."""
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activity_regularizer="l2")(inputs)
    hidden = keras.layers.BatchNormalization(synchronized=True)(hidden)
    outputs = keras.layers.Dense(1, activation="sigmoid", activity_regularizer="l1")(hidden)
    return make(inputs, outputs)


@pytest.mark.parametrize("where", ["mirrored:2", tiers.slow("mirrored:4")])
@pytest.mark.parametrize("build", [synchronized, synchronized_with_losses])
def test_synchronised_batch_statistics(build, where):
    """They are those of the global batch, with unequal shares and an empty one; losses add once."""
    sgd = lambda o: o.SGD(0.1)
    assertions.assert_close_runs(stepped(None, build, sgd), stepped(where, build, sgd))


@pytest.mark.parametrize(
    "build, where, entry_point",
    [
        tiers.slow(synchronized, "central_storage:2", "trainer"),
        tiers.slow(synchronized, "mirrored:2", "fit"),
        tiers.slow(synchronized_with_losses, "mirrored:4", "trainer"),
        tiers.slow(synchronized_with_losses, "mirrored:2", "fit"),
    ],
)
def test_synchronised_batch_statistics_of_compiled_steps(build, where, entry_point):
    """The same compiled, and in validation."""
    sgd = lambda o: o.SGD(0.1)
    one = trained(None, "trainer", build, sgd)
    assertions.assert_close_runs(one, trained(where, entry_point, build, sgd))


@pytest.mark.parametrize("where", (tiers.slow(None), "mirrored:2"))
def test_own_step_with_compiled_metrics(where, recwarn):
    """A `train_step` of the user's own finds its metrics built, and nothing says otherwise."""

    @keras.saving.register_keras_serializable("tests")
    class OwnStep(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x, y, y_pred)
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply(gradients, self.trainable_weights)
            self.compute_metrics(x, y, y_pred)
            return {metric.name: metric.result() for metric in self.metrics}

    trainer = Trainer(OwnStep(), optimizer="sgd", loss="mse", metrics=["mae"], strategy=where)
    trainer.fit(X, Y, batch_size=4, verbose=0)
    assert not [w for w in recwarn if "'mae'" in str(w.message)]


class TestRandomness:
    def dropped(self, where):
        """The masks of each call of a dropout layer in one step, and the trained model."""
        seen = []

        class Noted(keras.layers.Dropout):
            def call(self, inputs, training=False):
                outputs = super().call(inputs, training=training)
                if isinstance(outputs, tf.Tensor) and hasattr(outputs, "numpy") and training:
                    seen.append(outputs.numpy() > 0)
                return outputs

        scope = strategy.resolve(where)
        with scope.scope():
            model = keras.Sequential([keras.Input((64,)), Noted(0.5, seed=1)])
            model.add(keras.layers.Dense(1))
        trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=scope, execution=EAGER)
        trainer.fit(np.ones((4, 64), "float32"), np.ones((4, 1)), batch_size=4, verbose=0)
        return seen

    @pytest.mark.parametrize("where", (tiers.slow("central_storage:2"), "mirrored:2"))
    def test_replicas_draw_different_masks(self, where):
        """Two replicas drop other units; the first one those of one device."""
        first, second = self.dropped(where)
        assert 0.3 < np.mean(first != second) < 0.7
        (alone,) = self.dropped("one_device")
        np.testing.assert_array_equal(alone[:2], first)

    def test_a_model_goes_on_with_its_seeds(self):
        """A model in a scope of one replica drops what it would have dropped outside."""

        def run(where):
            keras.utils.set_random_seed(1)
            hidden = [keras.layers.Dense(8), keras.layers.Dropout(0.5)]  # no seed given
            model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(1)])
            trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=where, seed=0)
            trainer.fit(X, Y, epochs=2, verbose=0)
            return model

        one, other = run(None), run("mirrored:1")
        assert assertions.largest_difference(one, other) == 0.0
        states = [model.layers[1].seed_generator.state.numpy() for model in (one, other)]
        np.testing.assert_array_equal(*states)


class TestHandedBack:
    """A model built outside the scope has afterwards what was trained inside."""

    @pytest.mark.parametrize("compiled", (True, tiers.slow(False)))
    def test_optimizer(self, compiled):
        """The user's own optimizer has the state of the one that trained, and trains on."""

        def run(where):
            keras.utils.set_random_seed(1)
            model, adam = models.mlp(outputs=1), keras.optimizers.Adam(0.05)
            if compiled:
                model.compile(adam, "mse")
                trainer = Trainer(model, strategy=where, execution=EAGER)
            else:
                options = {"optimizer": adam, "loss": "mse", "execution": EAGER}
                trainer = Trainer(model, strategy=where, **options)
            trainer.fit(X, Y, epochs=2, shuffle=False, verbose=0)
            model.compile(adam, "mse")
            model.fit(X, Y, epochs=1, shuffle=False, verbose=0)
            return model, adam

        (one, adam_one), (two, adam_two) = run(None), run("mirrored:2")
        assert 3 == int(adam_one.iterations) == int(adam_two.iterations)
        assert assertions.largest_difference(one, two) <= TOLERANCE
        for a, b in zip(adam_one.variables, adam_two.variables, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=TOLERANCE)

    @pytest.mark.slow
    def test_after_an_error(self):
        """What was trained before a callback failed is not lost."""

        class Fails(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                raise RuntimeError("stop here")

        model, adam = models.mlp(outputs=1), keras.optimizers.Adam(0.05)
        before = model.get_weights()
        trainer = Trainer(model, optimizer=adam, loss="mse", strategy="mirrored:2")
        with pytest.raises(RuntimeError, match="stop here"):
            trainer.fit(X, Y, callbacks=[Fails()], verbose=0)
        assert 1 == int(adam.iterations)
        assert np.abs(before[0] - model.get_weights()[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("where", "row"),
    [
        ("mirrored:2", 3), tiers.slow("mirrored:2", 0), tiers.slow("central_storage:2", 3),
        tiers.slow("central_storage:2", 0),
    ],
)  # fmt: skip
def test_one_decision_on_overflow(where, row):
    """An overflow on whichever replica skips the step on all: no weight, half the scale."""

    def run(where):
        keras.utils.set_random_seed(1)
        keras.config.set_dtype_policy("mixed_float16")
        try:
            model = net(keras.Model)
        finally:
            keras.config.set_dtype_policy("float32")
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=4096)
        trainer = Trainer(model, optimizer=scaled, loss="mse", strategy=where)
        before = model.get_weights()
        y = Y[:4].copy()
        # The loss of this row is finite, and 4096 * 2 * 500 / 4, its gradient, is too large for
        # float16. (What an activation makes of a number that is not finite, processors differ on.)
        y[row] = 500
        trainer.fit(X[:4], y, batch_size=4, verbose=0)
        skipped = model.get_weights()
        trainer.fit(X[:4], Y[:4], batch_size=4, epochs=2, verbose=0)
        return before, skipped, model, float(trainer.optimizer.dynamic_scale.numpy())

    before, skipped, one, scale = run(None)
    replicas_before, replicas_skipped, two, replicas_scale = run(where)
    np.testing.assert_equal(before, skipped)
    np.testing.assert_equal(replicas_before, replicas_skipped)
    assert 2048 == scale == replicas_scale
    assert assertions.largest_difference(one, two) <= 2e-4  # of float16's 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("where", ("one_device", "central_storage:2", "mirrored:2", "mirrored:4"))
def test_predict_keeps_rows_and_their_order(where):
    """Every row has its prediction at its place, batches that do not divide included."""
    model = models.mlp(outputs=3)
    expected = model(X).numpy()
    trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=where)
    for batch_size in (3, 11):
        predicted = trainer.predict(X, batch_size=batch_size, verbose=0)
        np.testing.assert_allclose(expected, predicted, atol=1e-6)
    stream = tf.data.Dataset.from_tensor_slices(X).batch(5)
    np.testing.assert_allclose(expected, trainer.predict(stream, verbose=0), atol=1e-6)
    np.testing.assert_allclose(
        expected[:1], trainer.predict(X[:1], verbose=0), atol=1e-6, err_msg="one row"
    )


def test_predict_of_a_model_that_is_not_built():
    """A subclass meets its first batch in predict, which does not divide by the replicas."""

    @keras.saving.register_keras_serializable("tests")
    class Doubles(keras.Model):
        def call(self, x):
            return {"twice": 2 * x}

    trainer = Trainer(Doubles(), optimizer="sgd", loss="mse", strategy="mirrored:2")
    predicted = trainer.predict(X, batch_size=3, verbose=0)
    np.testing.assert_allclose(2 * X, predicted["twice"])


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", (1, 2))
def test_traces_of_ragged_batches(micro_batches):
    """Shares of other sizes run one trace; all batches too small for all replicas a second."""
    parts = 4 * micro_batches
    trainer = Trainer(
        models.mlp(outputs=1), optimizer="sgd", loss="mse", strategy="mirrored:4",
        micro_batches=micro_batches,
    )  # fmt: skip
    for rows in (11, 10, 9, parts):
        trainer.fit(X[:rows], Y[:rows], batch_size=12, verbose=0)
    assert {"train": 1} == trainer.traces
    for rows in (parts - 1, 2, 1, 11):
        trainer.fit(X[:rows], Y[:rows], batch_size=12, verbose=0)
    assert {"train": 2} == trainer.traces


class TestNames:
    def test_kinds(self):
        """A name gives its strategy, on as many devices as it says."""
        kinds = {
            "one_device": (tf.distribute.OneDeviceStrategy, 1),
            "mirrored": (tf.distribute.MirroredStrategy, 4),
            "mirrored:3": (tf.distribute.MirroredStrategy, 3),
            "central_storage": (tf.distribute.experimental.CentralStorageStrategy, 4),
            "central_storage:2": (tf.distribute.experimental.CentralStorageStrategy, 2),
        }
        for name, (kind, replicas) in kinds.items():
            found = strategy.resolve(name)
            assert (kind, replicas) == (type(found), found.num_replicas_in_sync)
        assert strategy.resolve("auto") is None  # no GPU

    @pytest.mark.parametrize("name", ("mirror", "mirrored:", "mirrored:0", "mirrored:-1",
                                      "mirrored:x", "one_device:2", "auto:2", ""))  # fmt: skip
    def test_unknown(self, name):
        """Another name is refused with those that there are."""
        with pytest.raises(ArgumentError, match="Unknown strategy.*one_device"):
            strategy.resolve(name)

    @pytest.mark.parametrize("name", ("mirrored:9", "central_storage:9"))
    def test_too_many(self, name):
        """More devices than there are is an error that says how to make them."""
        with pytest.raises(ArgumentError, match="9 devices; there are 4.*logical"):
            strategy.resolve(name)

    def test_other_types(self):
        """What is no strategy is refused."""
        with pytest.raises(UnsupportedTypeError, match="int"):
            strategy.resolve(2)

    def test_parameter_servers(self):
        """Replicas that are not in step are refused, with the page that has a loop for them."""
        asynchronous = tf.distribute.experimental.ParameterServerStrategy
        with pytest.raises(UnsupportedTypeError, match="not train in step") as caught:
            strategy.resolve(asynchronous.__new__(asynchronous))
        (page,) = re.findall(r"kerastrain/docs/\w+\.rst", str(caught.value))
        text = pathlib.Path(kerastrain.__file__).parents[1].joinpath(page).read_text()
        assert "ClusterCoordinator" in text


class TestOwnCode:
    """A user's callbacks, overrides and changes between fits act as on one device."""

    @pytest.mark.slow
    def test_evaluate_in_a_callback(self):
        """A callback that evaluates with the trainer does not disturb what trains."""

        def run(where):
            keras.utils.set_random_seed(1)
            model, seen = models.mlp(outputs=1), []
            trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=where)

            def evaluate(epoch, logs):
                seen.append(trainer.evaluate(X, Y, verbose=0))

            callback = keras.callbacks.LambdaCallback(on_epoch_end=evaluate)
            fit = {"epochs": 3, "batch_size": 4, "shuffle": False, "verbose": 0}
            history = trainer.fit(X, Y, callbacks=[callback], **fit)
            return model, {**history.history, "seen": seen}

        assertions.assert_close_runs(run(None), run("mirrored:2"))

    def test_changes_between_two_fits(self):
        """A layer frozen, and a learning rate changed, hold for the copy that trains."""

        def run(where):
            keras.utils.set_random_seed(1)
            model, sgd = models.mlp(outputs=1), keras.optimizers.SGD(0.1)
            trainer = Trainer(model, optimizer=sgd, loss="mse", strategy=where)
            fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
            first = trainer.fit(X, Y, **fit).history
            model.layers[1].trainable = False
            sgd.learning_rate = 0.01
            frozen = model.layers[1].get_weights()
            second = trainer.fit(X, Y, **fit).history
            np.testing.assert_array_equal(frozen[0], model.layers[1].get_weights()[0])
            trainer.optimizer.learning_rate = 0.02
            third = trainer.fit(X, Y, **fit).history
            return model, {"loss": first["loss"] + second["loss"] + third["loss"]}

        assertions.assert_close_runs(run(None), run("mirrored:2"))

    @pytest.mark.slow
    def test_own_loss_of_two_outputs(self):
        """With a `compute_loss` of the user's own, each output still logs its own loss."""

        @keras.saving.register_keras_serializable("tests")
        class Twice(keras.Model):
            def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
                return 2 * super().compute_loss(x, y, y_pred, sample_weight, training)

        def run(where, micro_batches):
            keras.utils.set_random_seed(1)
            inputs = keras.Input((4,))
            outputs = {n: keras.layers.Dense(1, name=n)(inputs) for n in ("p", "q")}
            model = Twice(inputs, outputs)
            trainer = Trainer(
                model,
                optimizer="sgd",
                loss={"p": "mse", "q": "mae"},
                strategy=where,
                micro_batches=micro_batches,
            )
            fit = {"batch_size": 4, "shuffle": False, "verbose": 0}
            return model, trainer.fit(X, {"p": Y, "q": -Y}, **fit).history

        assertions.assert_close_runs(run(None, 1), run("mirrored:2", 2))

    @pytest.mark.slow
    def test_own_loss_in_which_replicas_meet(self):
        """Replicas take turns inside of it; what holds there holds for each, and ends."""

        @keras.saving.register_keras_serializable("tests")
        class Centred(keras.Model):
            def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
                context = tf.distribute.get_replica_context()
                counted = [tf.reduce_sum(y), tf.cast(tf.size(y), "float32")]
                if context is not None and context.num_replicas_in_sync > 1:
                    counted = context.all_reduce(tf.distribute.ReduceOp.SUM, counted)
                mean = counted[0] / counted[1]
                return super().compute_loss(x, y - mean, y_pred, sample_weight, training)

        def run(where):
            keras.utils.set_random_seed(1)
            inputs = keras.Input((4,))
            outputs = {n: keras.layers.Dense(1, name=n)(inputs) for n in ("p", "q")}
            model = Centred(inputs, outputs["p"])
            trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=where)
            fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
            return model, trainer.fit(X[:8], Y[:8], **fit).history

        assertions.assert_close_runs(run(None), run("mirrored:2"))

    @pytest.mark.slow
    def test_own_reset_of_something_else(self):
        """What a `reset_metrics` of the user's own sets beside metrics is set."""

        @keras.saving.register_keras_serializable("tests")
        class Counts(keras.Model):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.epochs = self.add_weight(shape=(), name="epochs", trainable=False)

            def reset_metrics(self):
                super().reset_metrics()
                self.epochs.assign_add(1.0)

        with (scope := strategy.resolve("mirrored:2")).scope():
            inputs = keras.Input((4,))
            model = Counts(inputs, keras.layers.Dense(1)(inputs))
        begun = float(model.epochs.numpy())
        trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=scope)
        trainer.fit(X, Y, epochs=2, verbose=0)
        assert begun + 2 == float(model.epochs.numpy())

    @pytest.mark.slow
    @pytest.mark.parametrize("entry_point", ["trainer", "fit"])
    def test_metric_of_no_rows(self, entry_point):
        """A metric function that is a mean of its rows stays a number where a share is empty."""

        def error(y, y_pred):
            return keras.ops.mean(keras.ops.abs(y - y_pred))

        _, history = trained("mirrored:2", entry_point, metrics=[error])
        assert np.isfinite(history["error"] + history["val_error"]).all()

    def test_rate_set_before_the_first_fit(self):
        """A learning rate that is changed before anything is built is that of the copy."""
        model, sgd = models.mlp(outputs=1), keras.optimizers.SGD(0.1)
        trainer = Trainer(model, optimizer=sgd, loss="mse", strategy="mirrored:2")
        sgd.learning_rate = 0.0
        before = model.get_weights()
        trainer.fit(X, Y, verbose=0)
        np.testing.assert_equal(before, model.get_weights())

    def test_model_made_in_a_scope(self):
        """A model trains under the strategy that it was made under, if none is given."""
        with (scope := strategy.resolve("mirrored:2")).scope():
            model = models.mlp(outputs=1)
        trainer = Trainer(model, optimizer="sgd", loss="mse")
        seen = []
        callback = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(trainer.optimizer._distribution_strategy)
        )
        trainer.fit(X, Y, batch_size=4, verbose=0, callbacks=[callback])
        assert [scope] == seen

    @pytest.mark.slow
    def test_predict_before_fit(self):
        """An unbuilt model is built once: its predictions do not change without training."""

        @keras.saving.register_keras_serializable("tests")
        class Lazy(keras.Model):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.dense = keras.layers.Dense(1)

            def call(self, x):
                return self.dense(x)

        trainer = Trainer(Lazy(), optimizer="sgd", loss="mse", strategy="mirrored:2")
        first = trainer.predict(X, verbose=0)
        trainer.evaluate(X, Y, verbose=0)
        np.testing.assert_allclose(first, trainer.predict(X, verbose=0), atol=1e-6)

    @pytest.mark.parametrize("entry_point", [tiers.slow("trainer"), "fit"])
    def test_a_row_that_stands_in_has_no_gradient(self, entry_point):
        """A model whose derivative at zero is NaN stays finite where a share is empty."""

        @keras.saving.register_keras_serializable("tests")
        class Logarithm(keras.layers.Layer):
            def call(self, x):
                return keras.ops.log(keras.ops.sum(x**2, axis=-1, keepdims=True))

        def build(make):
            inputs = keras.Input((4,))
            hidden = Logarithm()(keras.layers.Dense(3, use_bias=False)(inputs))
            return make(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))

        sgd = lambda o: o.SGD(0.1)
        fit = {"metrics": ["accuracy"], "validation_data": None}
        one = trained(None, "trainer", build, sgd, **fit)
        assert np.isfinite(one[0].get_weights()[0]).all()
        assertions.assert_close_runs(one, trained("mirrored:2", entry_point, build, sgd, **fit))


class TestAsTensorFlowMakesThem:
    """A ``MirroredStrategy`` whose reduction nobody has chosen, of any sizes in one process."""

    @staticmethod
    def made(number, **options):
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(number)], **options)

    @staticmethod
    def run(scope, entry_point="trainer", build=net):
        """``(model, history)`` of a fit with a callback that listens, evaluate and predict."""
        seen = []
        listener = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append(float(logs["loss"])),
            on_test_batch_end=lambda batch, logs: seen.append(float(logs["loss"])),
        )
        model, history = trained(scope, entry_point, build, callbacks=[listener])
        options = {"optimizer": "sgd", "loss": "binary_crossentropy", "metrics": []}
        trainer = Trainer(model, strategy=scope if entry_point == "trainer" else None, **options)
        loss = trainer.evaluate(X, Y, verbose=0)
        np.testing.assert_allclose(trainer.predict(X, verbose=0), model(X), atol=TOLERANCE)
        return model, {**history, "evaluated": [loss], "seen": seen}

    @pytest.mark.parametrize(
        "sizes",
        [tiers.slow(sizes) for sizes in ((2, 3), (4, 2), (1, 4))],
    )
    def test_several_sizes(self, sizes):
        """Each gives the numbers of one device, and is as it was afterwards."""
        expected = self.run(None)
        for number in sizes:
            found = self.made(number)
            reduction = found.extended._cross_device_ops
            assertions.assert_close_runs(expected, self.run(found))
            assert reduction is found.extended._cross_device_ops

    @pytest.mark.slow
    def test_another_size(self):
        """A second strategy of another size trains, and a callback listens to both."""
        heard = []
        listener = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: heard.append(logs["loss"])
        )
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        for number in (2, 3):
            trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=self.made(number))
            trainer.fit(X, Y, batch_size=6, verbose=0, callbacks=[listener])
        assert len(heard) == 4
        assert np.isfinite(heard).all()

    @pytest.mark.slow
    def test_one_for_several_models(self):
        """One object serves several models, beside one of another size."""
        expected, found = self.run(None), self.made(2)
        for scope in (found, self.made(3), found):
            assertions.assert_close_runs(expected, self.run(scope))

    @pytest.mark.slow
    def test_the_other_door(self):
        """Keras's own `fit` of a `TrainableModel` gets along with them too."""
        expected = self.run(None, "fit")
        for number in (3, 2):
            assertions.assert_close_runs(expected, self.run(self.made(number), "fit"))

    @pytest.mark.slow
    def test_own_steps(self):
        """So does a step of the user's own, which reduces through the optimizer."""

        @keras.saving.register_keras_serializable("tests")
        class Summed(keras.Model):
            def train_step(self, data):
                x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(tf.square(self(x, training=True) - y))
                weights = self.trainable_weights
                self.optimizer.apply(tape.gradient(loss, weights), weights)
                return {}

        def weights(scope):
            keras.utils.set_random_seed(1)
            model = net(Summed)
            trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=scope)
            trainer.fit(X, Y, batch_size=6, shuffle=False, verbose=0)
            return model.get_weights()

        expected = weights(None)
        for number in (2, 4):
            for one, other in zip(expected, weights(self.made(number)), strict=True):
                np.testing.assert_allclose(one, other, atol=TOLERANCE)

    @pytest.mark.slow
    @pytest.mark.parametrize("reduction", ["NcclAllReduce", "HierarchicalCopyAllReduce"])
    def test_chosen_reductions(self, reduction):
        """Those that are made for GPUs work on CPUs."""
        chosen = getattr(tf.distribute, reduction)()
        assertions.assert_close_runs(
            self.run(None), self.run(self.made(2, cross_device_ops=chosen))
        )

    def test_a_reduction_that_leaves_out_a_replica(self):
        """It is found before a step runs: TensorFlow's for GPUs makes 3 of 1 + 2 + 3 on CPUs."""
        chosen = self.made(3, cross_device_ops=tf.distribute.HierarchicalCopyAllReduce())
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        before = model.get_weights()
        trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=chosen)
        with pytest.raises(
            ArgumentError, match="of the numbers 1 to 3 it makes 3, and their sum is 6"
        ):
            trainer.fit(X, Y, verbose=0)
        for one, other in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)

    @pytest.mark.slow
    def test_after_an_error(self):
        """A step that fails leaves nothing behind that another training could stumble over."""
        ids = np.zeros((6, 2), "int32")
        model = keras.Sequential(
            [keras.Input((2,)), keras.layers.Embedding(3, 2), keras.layers.Flatten()]
        )
        trainer = Trainer(model, optimizer="sgd", loss="mse", strategy=self.made(2))
        ids[5] = 7
        with pytest.raises(tf.errors.InvalidArgumentError, match="not in"):
            trainer.fit(ids, np.zeros((6, 4)), verbose=0)
        assert np.isfinite(trainer.fit(0 * ids, np.zeros((6, 4)), verbose=0).history["loss"])
