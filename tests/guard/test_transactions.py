"""Steps that are not finite, or that memory is too small for, are taken back."""

import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerastrain
from kerastrain import Guard
from kerastrain import NonFiniteError
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.guard import finite
from kerastrain.guard import journal
from kerastrain.guard import recovery
from kerastrain.guard.diagnosis import diagnose
from kerastrain.state import HostCopies
from tests.support.models import small_network

ROWS, BATCH = 48, 4
BAD = 5  # the batch, of twelve
PLANS = ("step", "loop", "xla_loop")


@pytest.fixture(params=["seldom", pytest.param("always", marks=pytest.mark.slow)])
def checked(request, monkeypatch):
    """Checks and copies by the clock come never, so that most is run again; or after each call."""
    monkeypatch.setattr(finite, "SHARE", 1e-9 if request.param == "seldom" else 1e9)


@pytest.fixture
def seldom(monkeypatch):
    monkeypatch.setattr(finite, "SHARE", 1e-9)


def rows():
    x = np.random.default_rng(0).normal(size=(ROWS, 6)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


def bad_rows(batch=BAD, value=np.nan):
    x, y = rows()
    x[batch * BATCH + 1, 3] = value
    return x, y


def bad_targets():
    """The loss of a row is not finite."""
    x, y = rows()
    y[BAD * BATCH + 1] = np.nan
    return x, y


def without(batch, arrays):
    return tuple(np.delete(a, range(batch * BATCH, (batch + 1) * BATCH), axis=0) for a in arrays)


def network(base=keras.Model):
    keras.utils.set_random_seed(5)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.Dropout(0.3)(hidden)
    return base(inputs, keras.layers.Dense(1, name="last")(hidden))


def trainer(guard="raise", model=network, **options):
    arguments = {"optimizer": keras.optimizers.Adam(0.01), "loss": "mse", "metrics": ["mae"]}
    return Trainer(model(), guard=guard, seed=0, **(arguments | {"execution": "loop"} | options))


def fit(made, data, epochs=1, **options):
    return made.fit(
        *data, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0, **options
    ).history


def everything(made):
    """All that a training changes; not the model's own copy of the metrics."""
    variables = [*made.model.variables, *made.optimizer.variables]
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in variables]


def assert_same(made, other):
    for one, two in zip(everything(made), everything(other), strict=True):
        np.testing.assert_array_equal(one, two)


def strange_loss(y_true, y_pred):
    """Finite where the target is above 100, with a gradient that is not."""

    @tf.custom_gradient
    def odd(values):
        return values * 0.0, lambda above: tf.where(above != 0.0, np.float32("nan"), 0.0)

    losses = tf.where(y_true > 100, odd(y_pred), tf.square(y_true - y_pred))
    return tf.reduce_mean(losses, axis=-1)


def strange_rows(batch=BAD):
    x, y = rows()
    y[batch * BATCH + 2] = 1000
    return x, y


class Own(keras.Model):
    """A model with a step of its own."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self.logged(loss)

    def logged(self, loss):
        self._loss_tracker.update_state(loss)
        return self.get_metrics_result()


SETUPS = {
    **{plan: {"execution": plan} for plan in PLANS},
    "two replicas": {"strategy": "mirrored:2"},
    "two replicas, XLA": {"strategy": "mirrored:2", "execution": "xla_loop"},
    "micro-batches": {"step": StepOptions(micro_batches=2)},
    "TrainableModel": {"model": lambda: network(TrainableModel)},
    "own step": {"model": lambda: network(Own)},
    "eager": {"execution": kerastrain.Execution(run_eagerly=True)},
    "auto": {"execution": "auto"},
}


def sampled(names, fast):
    """Parameters of these names; all but the ``fast`` are slow tests."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


class TestRaise:
    @pytest.mark.parametrize("setup", sampled(SETUPS, ("step",)))
    def test_weights_are_those_before_the_step(self, setup, checked):
        """To the bit, with slots, batch statistics, generators and metrics."""
        made, other = trainer(**SETUPS[setup]), trainer("off", **SETUPS[setup])
        with pytest.raises(NonFiniteError, match="Step 6 of epoch 1") as caught:
            fit(made, bad_rows())
        assert (caught.value.epoch, caught.value.step) == (0, BAD)
        fit(other, rows(), steps_per_epoch=BAD)
        if setup == "auto":  # its plan is what the clock says
            for one, two in zip(everything(made), everything(other), strict=True):
                np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
        else:
            assert_same(made, other)

    @pytest.mark.parametrize("plan", sampled(PLANS, ("loop",)))
    def test_finite_loss_with_a_gradient_that_is_not(self, plan, checked):
        """It is found though the loss says nothing, and named."""
        made = trainer(loss=strange_loss, execution=plan)
        with pytest.raises(NonFiniteError, match="gradient of .*hidden/kernel is nan") as caught:
            fit(made, strange_rows())
        assert caught.value.step == BAD
        other = trainer("off", loss=strange_loss, execution=plan)
        fit(other, rows(), steps_per_epoch=BAD)
        assert_same(made, other)

    def test_last_step_of_all(self, seldom):
        """The end of an epoch is checked, so no results are of a model that is not finite."""
        seen = []
        noted = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
        made = trainer(loss=strange_loss)
        with pytest.raises(NonFiniteError, match="Step 12 of epoch 1"):
            fit(made, strange_rows(11), callbacks=[noted], epochs=2)
        assert not seen

    def test_later_epoch(self, checked):
        """Steps are counted in their epoch; the data may be shuffled."""
        made = trainer(execution="loop")
        made.fit(*rows(), batch_size=BATCH, verbose=0)
        with pytest.raises(NonFiniteError, match=rf"in `x`: {BAD * BATCH + 1}\)") as caught:
            made.fit(*bad_rows(), batch_size=BATCH, initial_epoch=1, epochs=4, verbose=0)
        order = np.random.default_rng([0, 1]).permutation(ROWS)
        where = int(np.flatnonzero(order == BAD * BATCH + 1)[0])
        assert (caught.value.epoch, caught.value.step) == (1, where // BATCH)
        assert caught.value.rows == (where % BATCH,)

    def test_streams(self, checked):
        """Batches that are drawn but once are kept until they are known to be good."""
        x, y = bad_rows()
        other = trainer("off")
        fit(other, rows(), steps_per_epoch=BAD)
        for data in (
            tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH),
            ((x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, ROWS, BATCH)),
        ):
            made = trainer()
            with pytest.raises(NonFiniteError, match=r"`x` is nan in row 1 of the batch\. "):
                made.fit(data, verbose=0)
            assert_same(made, other)

    def test_output_is_named(self):
        """Of several outputs that one whose loss it is."""
        keras.utils.set_random_seed(0)
        inputs = keras.Input((6,))
        outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
        model = keras.Model(inputs, outputs)

        def logarithm(y_true, y_pred):
            return -tf.math.log(y_true) * tf.reduce_mean(tf.square(y_pred), axis=-1)

        x, y = rows()
        y = np.abs(y) + 1
        y[[9, 11]] = 0
        made = Trainer(model, optimizer="sgd", loss={"a": "mse", "b": logarithm})
        with pytest.raises(NonFiniteError, match="the loss of output 'b' is inf in rows 1, 3") as e:
            made.fit(x, {"a": y, "b": y}, batch_size=BATCH, shuffle=False, verbose=0)
        assert (e.value.output, e.value.rows, e.value.step) == ("b", (1, 3), 2)

    def test_callbacks_are_told_of_good_steps_only(self, checked):
        """A loss that is not finite is found before a callback reads it."""
        seen = []
        noted = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append((batch, float(logs["loss"])))
        )
        with pytest.raises(NonFiniteError):
            fit(trainer(), bad_targets(), callbacks=[noted])
        assert [batch for batch, _ in seen] == list(range(BAD))
        assert np.isfinite([loss for _, loss in seen]).all()

    def test_other_errors_leave_good_weights(self, seldom):
        """An error before the next check leaves no weights that are not finite."""

        class Fails(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if batch == BAD:
                    raise KeyError("of the callback")

        made = trainer(loss=strange_loss, execution="step")
        with pytest.raises(KeyError, match="of the callback"):
            fit(made, strange_rows(), callbacks=[Fails()])
        assert all(np.isfinite(value).all() for value in everything(made))

    @pytest.mark.parametrize("devices", sampled([{}, {"strategy": "mirrored:2"}], ({},)))
    def test_rates_that_a_callback_sets(self, devices, seldom):
        """What is run again is run with the learning rates of then, on each replica."""

        class Warmup(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                self.model.optimizer.learning_rate = 0.001 * (batch + 1)

        options = {"loss": strange_loss, "execution": "step", **devices}
        made, other = (trainer(guard, **options) for guard in ("raise", "off"))
        with pytest.raises(NonFiniteError, match="Step 6 "):
            fit(made, strange_rows(), callbacks=[Warmup()])
        fit(other, rows(), steps_per_epoch=BAD, callbacks=[Warmup()])
        other.optimizer.learning_rate = 0.001 * (BAD + 1)  # its begin was reported
        assert_same(made, other)

    @pytest.mark.slow
    def test_second_fit_after_an_error(self):
        """The trainer goes on with the weights that it has."""
        made, other = trainer(), trainer("off")
        with pytest.raises(NonFiniteError):
            fit(made, bad_rows())
        fit(other, rows(), steps_per_epoch=BAD)
        assert fit(made, rows()) == fit(other, rows())
        assert_same(made, other)

    def test_gradients_that_are_accumulated(self, checked):
        """What is added up is watched, so that the step is named which made it."""
        optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=4)
        made = trainer(optimizer=optimizer)
        with pytest.raises(NonFiniteError, match="Step 6 of"):
            fit(made, bad_rows())
        assert all(np.isfinite(value).all() for value in everything(made))
        fit(made, rows())

    @pytest.mark.slow
    def test_error_that_follows(self, seldom):
        """Where code of the user's own finds it later, it is reported where it began."""

        class Checked(keras.Layer):
            def call(self, inputs):
                checked = tf.debugging.check_numerics(tf.stop_gradient(inputs), "of the model")
                with tf.control_dependencies([checked]):
                    return tf.identity(inputs)

        def model():
            keras.utils.set_random_seed(5)
            layers = [keras.layers.Dense(8), Checked(), keras.layers.Dense(1)]
            return keras.Sequential([keras.Input((6,)), *layers])

        made = trainer(model=model, loss=strange_loss)
        with pytest.raises(NonFiniteError, match="Step 6 of epoch 1"):
            fit(made, strange_rows())
        assert all(np.isfinite(value).all() for value in everything(made))
        sound = trainer(model=model)
        with pytest.raises(tf.errors.InvalidArgumentError, match="of the model"):
            fit(sound, bad_rows())  # the step itself fails, and has changed nothing
        assert all(np.isfinite(value).all() for value in everything(sound))

    def test_saved_within_an_epoch(self, tmp_path, seldom):
        """A callback that saves between steps saves none that are not finite."""
        saver = keras.callbacks.ModelCheckpoint(
            tmp_path / "{batch}.weights.h5", save_freq=1, save_weights_only=True
        )
        made = trainer(loss=strange_loss)
        with pytest.raises(NonFiniteError, match="Step 6 of"):
            fit(made, strange_rows(), callbacks=[saver])
        assert len(list(tmp_path.iterdir())) == BAD

    def test_interrupted_while_steps_run_again(self, seldom, monkeypatch):
        """Whatever comes, no weights are left that are not finite."""
        made, calls = trainer(loss=strange_loss), []
        again = recovery.Recovery._attempt

        def interrupted(self, chunk, rates):
            calls.append(again(self, chunk, rates))
            raise KeyboardInterrupt

        monkeypatch.setattr(recovery.Recovery, "_attempt", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(made, strange_rows())
        assert calls and all(np.isfinite(value).all() for value in everything(made))

    @pytest.mark.slow
    @pytest.mark.parametrize("where", ["diagnose", "restore"])
    def test_interrupted_while_a_step_is_taken_back(self, where, seldom, monkeypatch):
        """The variables are those before the step, though half of them had another value then."""
        options = {"loss": strange_loss, "execution": "step"}
        made, other = (trainer(policy, **options) for policy in ("raise", "off"))
        calls, put_back = [], HostCopies.restore

        def diagnosed(model, batch):
            diagnose(model, batch)
            calls.append(1)
            raise KeyboardInterrupt

        def half_put_back(self):
            put_back(self)
            calls.append(1)
            if len(calls) == 2:  # the bad step has been run again
                made.model.layers[1].kernel.assign_add(made.model.layers[1].kernel)
                raise KeyboardInterrupt

        if where == "diagnose":
            monkeypatch.setattr("kerastrain.guard.diagnosis.diagnose", diagnosed)
        else:
            monkeypatch.setattr(HostCopies, "restore", half_put_back)
        with pytest.raises(KeyboardInterrupt):
            fit(made, strange_rows())
        fit(other, rows(), steps_per_epoch=BAD)
        assert calls
        assert_same(made, other)

    def test_many_batches_are_not_held(self, monkeypatch):
        """There is a bound to what is kept to be run again, whatever the clock says."""
        monkeypatch.setattr(finite, "SHARE", 1e-9)
        monkeypatch.setattr(journal, "_MOST_BYTES", 4 * BATCH * 7 * 4)
        held = []
        note = journal.Journal.note

        def noted(self, *arguments):
            note(self, *arguments)
            held.append(len(self.entries))

        monkeypatch.setattr(journal.Journal, "note", noted)
        data = tf.data.Dataset.from_tensor_slices(rows()).batch(BATCH)
        trainer(model=plain_network, execution="step").fit(data, verbose=0)
        assert len(held) == 12 and max(held) <= 6


class WithoutMetrics(Own):
    """Its step returns what no metric stands for."""

    def logged(self, loss):
        return {"my_loss": loss}


class TestSkip:
    @pytest.mark.parametrize(
        "setup", sampled([name for name in SETUPS if name != "auto"], ("loop",))
    )
    def test_is_the_training_without_the_batch(self, setup, checked):
        """To the bit, and the history too."""
        made, other = trainer("skip", **SETUPS[setup]), trainer("off", **SETUPS[setup])
        with pytest.warns(UserWarning, match="Step 6 of epoch . is not finite.* skipped"):
            history = fit(made, bad_rows(), epochs=2)
        assert history == fit(other, without(BAD, rows()), epochs=2)
        assert_same(made, other)
        assert made.skipped == [(0, BAD), (1, BAD)]

    def test_statistics_of_one_replica(self, seldom):
        """They are looked at on each of them, and put back, also where they do not reach the loss."""

        class Watches(keras.layers.Layer):
            def __init__(self):
                super().__init__()
                self.norm = keras.layers.BatchNormalization()

            def call(self, x, training=False):
                self.norm(x[:, :1], training=training)
                return x[:, 1:]

        def model():
            keras.utils.set_random_seed(5)
            return keras.Sequential([keras.Input((6,)), Watches(), keras.layers.Dense(1)])

        x, y = rows()
        x[BAD * BATCH + 3, 0] = np.nan  # of the second replica
        options = {"optimizer": "sgd", "loss": "mse", "strategy": "mirrored:2"}
        made, other = (
            Trainer(model, guard=policy, execution="step", **options) for policy in ("skip", "off")
        )
        with pytest.warns(UserWarning, match=r"Step 6 of epoch 1 .*`x` is nan in row 3"):
            history = fit(made, (x, y))
        assert history == fit(other, without(BAD, rows()))
        assert_same(made, other)

    def test_several_in_one_call(self, seldom):
        """Each is found; those between them count."""
        x, y = bad_rows()
        x[8 * BATCH] = np.inf
        made, other = trainer("skip"), trainer("off")
        with pytest.warns(UserWarning, match="Step 9 .*`x` is inf in row 0"):
            history = fit(made, (x, y))
        assert history == fit(other, without(BAD, without(8, rows())))
        assert_same(made, other)

    @pytest.mark.slow
    def test_first_and_last_step(self, checked):
        """There may be nothing before it, or after."""
        x, y = bad_rows(0)
        x[-1] = np.nan
        made, other = trainer("skip"), trainer("off")
        with pytest.warns(UserWarning, match="Step 12 "):
            assert fit(made, (x, y)) == fit(other, tuple(a[BATCH:-BATCH] for a in rows()))
        assert_same(made, other)

    @pytest.mark.parametrize("reads", sampled([True, False], (False,)))
    def test_callbacks_hear_of_each_batch(self, reads, checked):
        """A batch that batch is skipped has the results from before it."""
        seen = {}

        class Listens(keras.callbacks.Callback):
            only_reads_logs = reads

            def on_train_batch_end(self, batch, logs=None):
                seen[batch] = dict(logs)

        with pytest.warns(UserWarning, match="skipped"):
            fit(trainer("skip"), bad_targets(), callbacks=[Listens()])
        assert list(seen) == list(range(12))
        assert seen[BAD].keys() == seen[0].keys()
        assert {k: float(v) for k, v in seen[BAD].items()} == pytest.approx(
            {k: float(v) for k, v in seen[BAD - 1].items()}
        )

    @pytest.mark.parametrize("batch", sampled([BAD, 11], (BAD,)))
    def test_logs_of_an_own_step(self, batch, checked):
        """A step that batch is skipped has those of the last good one."""
        x, y = rows()
        y[batch * BATCH] = np.nan
        made = trainer("skip", model=lambda: network(WithoutMetrics), metrics=[])
        with pytest.warns(UserWarning, match="skipped"):
            history = fit(made, (x, y), epochs=2)
        assert np.isfinite(history["my_loss"]).all()

    @pytest.mark.parametrize("how", sampled(["own", "eager"], ("own",)))
    @pytest.mark.parametrize("optimizer", sampled(["adagrad", "nadam"], ("adagrad",)))
    def test_slots_that_are_made_in_a_bad_step(self, how, optimizer, checked):
        """They begin as the optimizer begins them."""
        options = {"optimizer": optimizer} | SETUPS["own step" if how == "own" else "eager"]
        made, other = trainer("skip", **options), trainer("off", **options)
        with pytest.warns(UserWarning, match="Step 1 of epoch 1 is not finite.* skipped"):
            fit(made, bad_rows(0))
        fit(other, without(0, rows()))
        assert_same(made, other)

    def test_random_numbers_of_the_global_generator(self, checked):
        """They are drawn as if the step had not been."""

        class Noise(keras.Layer):
            def call(self, inputs):
                return inputs + keras.random.normal((6,))

        def model():
            keras.utils.set_random_seed(5)
            return keras.Sequential([keras.Input((6,)), Noise(), keras.layers.Dense(1)])

        made = trainer("skip", model=model)
        with pytest.warns(UserWarning, match="skipped"):
            fit(made, bad_rows())
        other = trainer("off", model=model)
        fit(other, without(BAD, rows()))
        assert_same(made, other)

    def test_what_a_callback_does_at_a_bad_batch(self, checked):
        """The learning rate that it sets there stays."""

        class Lowers(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                if batch == BAD:
                    self.model.optimizer.learning_rate = 0.001

        made = trainer("skip", plain_network)
        with pytest.warns(UserWarning, match="skipped"):
            fit(made, bad_rows(), callbacks=[Lowers()])
        assert float(made.optimizer.learning_rate) == pytest.approx(0.001)

    def test_is_bounded(self):
        """Data that are bad throughout are reported, not trained on in silence."""
        x, y = rows()
        x[3::BATCH] = np.nan
        with (
            pytest.warns(UserWarning, match="skipped"),
            pytest.raises(NonFiniteError, match="More than max_skipped=2 batches"),
        ):
            fit(trainer(Guard("skip", max_skipped=2), plain_network), (x, y))

    @pytest.mark.parametrize("policy", sampled(["skip", "rollback"], ("skip",)))
    def test_more_than_half_of_an_epoch(self, policy):
        """It is an error at the end of the epoch, whatever `max_skipped` says; half is not."""
        x, y = rows()
        x[: 7 * BATCH : BATCH] = np.nan
        with (
            pytest.warns(UserWarning, match="Step 7 of epoch 1"),
            pytest.raises(NonFiniteError, match="7 of the 12 steps of epoch 1 .* more than half"),
        ):
            fit(trainer(Guard(policy, max_skipped=1000), plain_network), (x, y))
        half = trainer(Guard(policy, max_skipped=1000), plain_network)
        x[6 * BATCH] = 0
        with pytest.warns(UserWarning, match="Step 6 of epoch 1"):
            history = fit(half, (x, y))
        assert len(half.skipped) == 6
        assert np.isfinite(history["loss"]).all()

    def test_an_epoch_of_bad_steps_alone(self):
        """It has no results: no epoch ends, so that nobody takes its 0 for the best."""
        ended = []
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *a: ended.append(a))
        with (
            pytest.warns(UserWarning, match="skipped"),
            pytest.raises(NonFiniteError, match="12 of the 12 steps"),
        ):
            x, y = rows()
            x[::BATCH] = np.nan
            made = trainer(Guard("skip", max_skipped=1000), plain_network)
            fit(made, (x, y), callbacks=[callback])
        assert not ended

    def test_bad_steps_before_any_good_one(self):
        """Listeners hear NaN of them, not the 0 of metrics that have seen nothing."""
        heard = []

        class Listens(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                heard.append([float(logs[name]) for name in ("loss", "mae")])

        x, y = rows()
        y[: 2 * BATCH : BATCH] = np.nan
        with pytest.warns(UserWarning, match="skipped"):
            fit(trainer("skip", plain_network), (x, y), callbacks=[Listens()])
        assert np.isnan(heard[:2]).all()
        assert np.isfinite(heard[2:]).all()

    def test_is_bounded_for_each_epoch(self):
        """A bad row is met again in each epoch, which does not add up."""
        made = trainer(Guard("skip", max_skipped=1), plain_network)
        with pytest.warns(UserWarning, match="skipped") as caught:
            fit(made, bad_rows(), epochs=3)
        assert [0, 1, 2] == [epoch for epoch, _ in made.skipped]
        assert {__file__} == {w.filename for w in caught}  # the line that called `fit`

    def test_validation_after_it(self):
        """The epoch ends with finite results."""
        with pytest.warns(UserWarning, match="skipped"):
            history = fit(trainer("skip", plain_network), bad_rows(11), validation_data=rows())
        assert np.isfinite(history["val_loss"]).all()


class TestRollback:
    def test_goes_on_past_the_bad_batch(self, checked):
        """From the state that was kept, with the batch after the bad one."""
        made = trainer(Guard("rollback", snapshot_every=4), optimizer=keras.optimizers.SGD(0.01))
        with pytest.warns(UserWarning, match="again those after 4 steps of the training"):
            fit(made, bad_rows())
        plain = {"optimizer": keras.optimizers.SGD(0.01), "model": plain_network}
        made = trainer(Guard("rollback", snapshot_every=4), **(plain | {"loss": "mse"}))
        plain["optimizer"] = keras.optimizers.SGD(0.01)
        other = trainer("off", **plain)
        with pytest.warns(UserWarning, match="after 4 steps"):
            fit(made, bad_rows())
        x, y = rows()
        kept = [*range(16), *range(24, ROWS)]  # four batches, then those after the sixth
        fit(other, (x[kept], y[kept]))
        for one, two in zip(made.model.get_weights(), other.model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)

    def test_learning_rate_stays(self):
        """What callbacks have set is not undone."""
        lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 / (epoch + 1))
        x, y = bad_rows()
        made = trainer(Guard("rollback", snapshot_every=8), plain_network)
        fit(made, rows())
        with pytest.warns(UserWarning, match="again those after"):
            made.fit(
                x, y, batch_size=BATCH, initial_epoch=1, epochs=3, verbose=0, callbacks=[lower]
            )
        assert float(made.optimizer.learning_rate) == pytest.approx(0.01 / 3)

    @pytest.mark.parametrize("how", sampled(["own step", "eager"], ()))
    def test_slots_that_are_made_late(self, how, checked):
        """They are part of what is kept."""
        options = SETUPS[how] | {"optimizer": "adam"}
        made = trainer(Guard("rollback", snapshot_every=4), **options)
        with pytest.warns(UserWarning, match="again those after 4 steps"):
            fit(made, bad_rows(), steps_per_epoch=6)
        other = trainer("off", **options)
        fit(other, rows(), steps_per_epoch=4)
        for one, two in zip(made.optimizer.variables, other.optimizer.variables, strict=True):
            np.testing.assert_array_equal(one.numpy(), two.numpy())

    @pytest.mark.slow
    def test_results_of_a_step_that_was_taken_back(self, seldom):
        """Nobody hears of them, where the next state is to be kept after it."""
        seen = []
        noted = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append(float(logs["loss"]))
        )
        made = trainer(
            Guard("rollback", snapshot_every=BAD + 1), loss=strange_loss, execution="step"
        )
        with pytest.warns(UserWarning, match="again those after 0"):
            fit(made, strange_rows(), callbacks=[noted], steps_per_epoch=BAD + 1)
        assert seen[BAD] == pytest.approx(seen[BAD - 1])


def plain_network():
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])


class TestOff:
    def test_nothing_is_watched(self):
        """As Keras does."""
        history = fit(trainer("off", plain_network), bad_targets())
        assert np.isnan(history["loss"]).all()

    def test_terminate_on_nan_is_left_to_it(self):
        """The callback that Keras has for it sees what it looks for."""
        made = trainer(None)
        ended = keras.callbacks.TerminateOnNaN()
        history = fit(made, bad_targets(), epochs=5, callbacks=[ended])
        assert len(history["loss"]) == 1 and np.isnan(history["loss"]).all()

    def test_loss_may_be_finite_all_the_same(self):
        """Why weights are checked: an activation may make 0 of NaN, as some kernels of ReLU do."""
        made = trainer("off", model=hiding_network)
        history = fit(made, bad_rows(), epochs=2, callbacks=[keras.callbacks.TerminateOnNaN()])
        assert np.isnan(made.model.get_weights()[0]).any()
        assert len(history["loss"]) == 2 and np.isfinite(history["loss"]).all()

    def test_raise_is_the_default(self):
        """Nobody must ask for it."""
        with pytest.raises(NonFiniteError):
            fit(trainer(None, plain_network), bad_rows())


def hiding_network():
    keras.utils.set_random_seed(5)

    def relu(values):
        # Not tf.nn.relu: its kernels differ by processor in what they make of NaN.
        return tf.where(values > 0, values, 0.0)

    layers = [keras.layers.Dense(8, activation=relu), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((6,)), *layers])


class TestNoFalseAlarm:
    def test_loss_scaling(self, checked):
        """A scale that is too large makes gradients overflow, which loss scaling deals with."""
        optimizer = keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(0.01), initial_scale=2.0**127
        )
        made = trainer(optimizer=optimizer, execution="step")
        fit(made, rows())
        assert float(optimizer.dynamic_scale) < 2.0**127

    def test_numbers_whose_sum_overflows(self, checked):
        """Large is not infinite."""
        made = trainer(model=plain_network, optimizer=keras.optimizers.SGD(0.0))
        made.model.set_weights([np.full((6, 1), 3e38, "float32"), np.zeros(1, "float32")])
        x, y = rows()
        fit(made, (x * 0, y))

    def test_sum_of_losses_that_overflows(self, checked):
        """In half precision it is soon above what there is."""
        before = keras.config.floatx()
        keras.config.set_floatx("float16")
        try:
            made = trainer(model=plain_network, optimizer=keras.optimizers.SGD(0.0))
            x, y = rows()
            history = fit(made, (x.astype("float16"), y.astype("float16") + 100))
        finally:
            keras.config.set_floatx(before)
        assert not np.isfinite(history["loss"][0])  # as under Keras
        assert all(np.isfinite(w).all() for w in made.model.get_weights())

    def test_weights_that_are_not_finite_from_the_start(self):
        """They are the user's; the others are watched."""
        made = trainer(model=plain_network)
        made.model.layers[0].bias.assign([0.0])
        frozen = keras.Sequential([made.model, Masked()])
        made = Trainer(frozen, optimizer="sgd", loss="mse", execution="loop")
        with pytest.warns(UserWarning, match="mask has values that are not finite before"):
            fit(made, rows())
        with pytest.raises(NonFiniteError):
            fit(made, bad_rows())


class Masked(keras.Layer):
    """A weight with an infinite value whose gradient is 0."""

    def build(self, shape):
        self.mask = self.add_weight(shape=(1,), initializer=lambda *a, **k: [-np.inf], name="mask")

    def call(self, inputs):
        return inputs + tf.nn.relu(self.mask)


class TestArguments:
    @pytest.mark.parametrize(
        ("guard", "error", "message"),
        [
            (
                "ignore",
                kerastrain.ArgumentError,
                "must be one of .raise., .skip., .rollback., .off.",
            ),
            (3, kerastrain.UnsupportedTypeError, "must be a kerastrain.Guard"),
        ],
    )
    def test_what_is_no_guard(self, guard, error, message):
        """It is refused when the Trainer is made, with what there is."""
        with pytest.raises(error, match=message):
            trainer(guard)

    @pytest.mark.parametrize("name", ["max_skipped", "snapshot_every"])
    def test_numbers(self, name):
        """They are whole and 1 or more."""
        with pytest.raises(kerastrain.ArgumentError, match=f"{name}=0"):
            Guard("skip", **{name: 0})


class TestDiagnosis:
    def test_nothing_is_found(self):
        """What the forward pass does not show is said so."""
        model = plain_network()
        model.compile("sgd", "mse")
        assert diagnose(model, rows()) is None

    def test_model_that_fails(self):
        """An error in the user's code does not hide the step's."""
        model = plain_network()
        model.compile("sgd", "mse")
        assert diagnose(model, (np.ones((2, 5)), 0)) is None

    def test_losses_of_more_entries_than_rows(self):
        """They are reported as a whole."""

        def flat(y_true, y_pred):
            losses = tf.square(y_true - y_pred) * tf.ones((1, 4)) + tf.math.log(500.0 - y_true)
            return tf.reshape(losses, (-1,))

        with pytest.raises(NonFiniteError, match="the loss of the model is nan[.]"):
            fit(trainer(loss=flat), strange_rows())

    def test_can_be_pickled(self):
        """As errors are between processes."""
        error = NonFiniteError("Step 2.", 0, 1, "b", (3,), "or so")
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), vars(again)) == (str(error), vars(error))


# Out of memory ------------------------------------------------------------------------


class TestOutOfMemory:
    def test_with_steps_that_are_not_finite(self, seldom):
        """Each is dealt with, in whatever order they are found."""
        made = trainer("skip", model=small_network(1, 8), loss=strange_loss, micro_batches="auto")
        with pytest.warns(UserWarning) as caught:
            fit(made, strange_rows(3))
        messages = [str(w.message) for w in caught]
        assert any("micro-batches" in t for t in messages), messages
        assert made.skipped == [(0, 3)]
        assert all(np.isfinite(value).all() for value in everything(made))
        assert int(made.optimizer.iterations) == 11

    @pytest.mark.slow
    @pytest.mark.parametrize("plan", ["step", "loop", "auto", "xla_loop"])
    @pytest.mark.parametrize("after", [0, 17])
    def test_same_batch_in_more_parts(self, plan, after):
        """No step is lost and none is done twice; the numbers are those of enough memory."""
        made = trainer(model=small_network(1, after), execution=plan, micro_batches="auto")
        other = trainer(model=small_network(BATCH), execution="loop")
        with pytest.warns(UserWarning, match="cut into 4 micro-batches") as caught:
            history = fit(made, rows(), epochs=2)
        messages = [str(w.message) for w in caught if "micro-batches" in str(w.message)]
        assert ["no room" in t for t in messages] == [True, True], messages
        expected = fit(other, rows(), epochs=2)
        for name, values in expected.items():
            np.testing.assert_allclose(history[name], values, rtol=1e-5)
        for one, two in zip(everything(made), everything(other), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)
        assert int(made.optimizer.iterations) == 24

    @pytest.mark.slow
    def test_replicas(self):
        """Each of them cuts its rows."""
        made = trainer(model=small_network(1), strategy="mirrored:2", micro_batches="auto")
        other = trainer(model=small_network(BATCH), strategy="mirrored:2")
        with pytest.warns(UserWarning, match="cut into 2 micro-batches"):
            fit(made, rows())
        fit(other, rows())
        for one, two in zip(everything(made), everything(other), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)

    @pytest.mark.slow
    def test_without_a_guard(self):
        """It does not depend on it."""
        made = trainer("off", model=small_network(2), micro_batches="auto")
        with pytest.warns(UserWarning, match="for step 1 of epoch 1: .*no room.* cut into 2"):
            fit(made, rows())
        assert int(made.optimizer.iterations) == 12

    @pytest.mark.slow
    def test_row_that_is_too_large(self):
        """There is nothing left to cut: the error of TensorFlow, and the weights of before."""
        made = trainer(model=small_network(0), micro_batches="auto")
        before = made.model.get_weights()
        with (
            pytest.warns(UserWarning, match="cut into 4"),
            pytest.raises(tf.errors.ResourceExhaustedError),
        ):
            fit(made, rows())
        for one, two in zip(made.model.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, two)

    def test_not_asked_for(self):
        """Without "auto" it is an error as it was."""
        with pytest.raises(tf.errors.ResourceExhaustedError):
            fit(trainer(model=small_network(1)), rows())

    def test_under_keras_fit(self):
        """There is nobody to repeat a step: it begins with one, as by default."""
        model = small_network(BATCH)()
        inputs, outputs = model.inputs, model.outputs
        model = TrainableModel(inputs, outputs)
        model.compile("sgd", "mse", micro_batches="auto")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            model.fit(*rows(), batch_size=BATCH, verbose=0)

    def test_number_is_checked(self):
        """Of words, there is one."""
        with pytest.raises(kerastrain.ArgumentError, match='or "auto"'):
            StepOptions(micro_batches="all")
