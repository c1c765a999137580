"""What callbacks do with batches, and how many steps run in one call for it."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import _keras
from kerastrain import ArgumentError
from kerastrain import Trainer
from kerastrain.execution import Listening
from kerastrain.loop import callbacks as callbacks_lib
from tests.support import datasets
from tests.support import models

callbacks = keras.callbacks
X, Y, _ = datasets.regression(rows=40)
KINDS = ("train", "test")


class Own(callbacks.Callback):
    """Has a batch hook, and says what it does."""

    def __init__(self, uses=None):
        super().__init__()
        self.events, self.ahead = [], []
        if uses is not None:
            self.uses_batches = uses

    def on_train_batch_end(self, batch, logs=None):
        self.events.append((batch, dict(logs)))
        self.ahead.append(int(self.model.optimizer.iterations) - len(self.events))


# Of each class of Keras's that has batch hooks, as it is set, and what it does.
STOCK = {
    "ModelCheckpoint": (lambda: callbacks.ModelCheckpoint("a.keras"), "nothing", "nothing"),
    "ModelCheckpoint(save_freq=2)": (
        lambda: callbacks.ModelCheckpoint("a.keras", save_freq=2),
        "acts",
        "nothing",
    ),
    "BackupAndRestore": (lambda: callbacks.BackupAndRestore("a"), "nothing", "nothing"),
    "BackupAndRestore(save_freq=2)": (
        lambda: callbacks.BackupAndRestore("a", save_freq=2),
        "acts",
        "nothing",
    ),
    "TensorBoard": (lambda: callbacks.TensorBoard("a"), "counts", "counts"),
    "TensorBoard(write_steps_per_second)": (
        lambda: callbacks.TensorBoard("a", write_steps_per_second=True),
        "counts",
        "counts",
    ),
    "TensorBoard(update_freq=2)": (
        lambda: callbacks.TensorBoard("a", update_freq=2),
        "acts",
        "acts",
    ),
    "TensorBoard(profile_batch=2)": (
        lambda: callbacks.TensorBoard("a", profile_batch=2),
        "acts",
        "acts",
    ),
    "ProgbarLogger": (callbacks.ProgbarLogger, "logs", "logs"),
    "TerminateOnNaN": (callbacks.TerminateOnNaN, "acts", "nothing"),
    "EarlyStopping": (callbacks.EarlyStopping, "nothing", "nothing"),
    "SwapEMAWeights": (callbacks.SwapEMAWeights, "nothing", "nothing"),
    "LambdaCallback": (
        lambda: callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        "nothing",
        "nothing",
    ),
    "LambdaCallback(on_train_batch_end)": (
        lambda: callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
        "acts",
        "nothing",
    ),
}


@pytest.mark.parametrize("name", STOCK)
def test_stock_callbacks(name):
    """The code of Keras's hooks is code that was read: a Keras with other code fails here."""
    make, train, test = STOCK[name]
    callback = make()
    assert (train, test) == tuple(_keras.use_of_batches(callback, kind) for kind in KINDS)


def test_every_stock_callback_is_known():
    """Those of Keras's that have batch hooks are in the table above."""
    named = {name.split("(")[0] for name in STOCK} | {"CallbackList", "OrbaxCheckpoint"}
    for name, value in vars(callbacks).items():
        if isinstance(value, type) and issubclass(value, callbacks.Callback):
            one = object.__new__(value)
            assert name in named or not any(_keras.listens_to_batches(one, k) for k in KINDS), name


def test_a_checkpoint_of_orbax():
    """Whose package need not be here."""
    if not hasattr(callbacks, "OrbaxCheckpoint"):
        pytest.skip("This Keras has none.")
    one = object.__new__(callbacks.OrbaxCheckpoint)
    for one.save_freq, expected in ("epoch", "nothing"), (2, "acts"):
        assert expected == _keras.use_of_batches(one, "train")


def test_code_that_was_not_read_may_act():
    """A subclass with a hook of its own, one that wraps Keras's, and one set on the object."""

    class Own(callbacks.ModelCheckpoint):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True

    class Helper(callbacks.ModelCheckpoint):
        def _should_save_on_batch(self, batch):
            return True

    def wrapping(hook):
        @functools.wraps(hook)
        def wrapper(self, batch, logs=None):
            self.model.stop_training = True
            return hook(self, batch, logs)

        return wrapper

    class Wrapped(callbacks.ModelCheckpoint):
        on_train_batch_end = wrapping(callbacks.ModelCheckpoint.on_train_batch_end)

    class Begins(callbacks.ModelCheckpoint):
        def on_train_batch_begin(self, batch, logs=None):
            self.model.stop_training = True

    assigned = callbacks.ModelCheckpoint("a.keras")
    assigned.on_train_batch_end = lambda batch, logs=None: None
    partial = callbacks.ModelCheckpoint("a.keras")
    partial.on_train_batch_end = functools.partial(print)
    made = [kind("a.keras") for kind in (Own, Helper, Wrapped, Begins)]
    for callback in (*made, assigned, partial):
        assert "acts" == _keras.use_of_batches(callback, "train"), type(callback)


def test_a_subclass_with_the_hooks_of_keras():
    """Is known by them."""

    class Named(callbacks.ModelCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)

    assert "nothing" == _keras.use_of_batches(Named("a.keras"), "train")


def test_a_writer_that_somebody_has_opened(tmp_path):
    """TensorBoard writes summaries of batches to it, as under Keras's fit."""
    callback = callbacks.TensorBoard(tmp_path)
    assert "counts" == _keras.use_of_batches(callback, "train")
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        assert "acts" == _keras.use_of_batches(callback, "train")


@pytest.mark.parametrize(
    "said, expected",
    [
        ("nothing", Listening.NEVER),
        ("counts", Listening.COUNTING),
        ("logs", Listening.AFTERWARDS),
        ("acts", Listening.BETWEEN),
        ({"train": "counts"}, Listening.COUNTING),
        ({"test": "counts"}, Listening.BETWEEN),
        (None, Listening.BETWEEN),
    ],
)
def test_what_one_says_of_itself(said, expected):
    assert expected is callbacks_lib.listening([Own(said)], "train")
    assert Listening.NEVER is callbacks_lib.listening([Own(said)], "test")  # it has no hook


def test_what_serves_all():
    """Of several callbacks the one that needs most."""
    each = [Own("nothing"), Own("counts"), Own("logs"), Own("acts")]
    expected = [Listening.NEVER, Listening.COUNTING, Listening.AFTERWARDS, Listening.BETWEEN]
    for count in range(1, 5):
        assert expected[count - 1] is callbacks_lib.listening(each[:count], "train")
        assert expected[count - 1] is callbacks_lib.listening(each[:count][::-1], "train")
    assert Listening.NEVER is callbacks_lib.listening([], "train")


def test_what_means_nothing():
    """Is refused before anything runs, with the values that mean something."""
    model = models.mlp()
    trainer = Trainer(model, optimizer="sgd", loss="mse")
    before = [w.numpy() for w in model.weights]
    with pytest.raises(ArgumentError, match="`uses_batches` of Own is 'log'.*'counts'"):
        trainer.fit(X, Y, verbose=0, callbacks=[Own("log")])
    for one, two in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, two.numpy())


def trained(*listed):
    keras.utils.set_random_seed(5)
    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse", execution="loop")
    trainer.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[*listed])
    return [w.numpy() for w in trainer.model.weights]


def test_one_that_counts_gets_each_batch():
    """After several steps have run in one call, without logs; the weights are the same."""
    counts, acts, nothing = Own("counts"), Own("acts"), Own("nothing")
    expected = trained(acts)
    for callback in (counts, nothing):
        for one, two in zip(expected, trained(callback), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)
    assert [(batch, {}) for batch, _ in acts.events] == counts.events
    assert [] == nothing.events
    assert {0} == {*acts.ahead}
    assert max(counts.ahead) > 0


def test_beside_one_that_reads_logs():
    """All get what the one wants."""
    counts, logs = Own("counts"), Own("logs")
    trained(counts, logs)
    assert counts.events == logs.events
    assert {"loss"} == {*counts.events[0][1]}


class Evaluates(callbacks.Callback):
    """Asks the model, by a method of Keras's, after some of the batches."""

    def __init__(self, method="evaluate", every=2):
        super().__init__()
        self.method, self.every, self.seen, self.results = method, every, [], []

    def on_train_batch_end(self, batch, logs=None):
        self._act(batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        self._act(batch, logs)

    def _act(self, batch, logs):
        self.seen.append(dict(logs))
        if self.method and batch % self.every == 0:
            verbose = {"verbose": 0} if self.method == "evaluate" else {}
            self.results.append(getattr(self.model, self.method)(X[:8], Y[:8], **verbose))


@pytest.mark.parametrize("strategy", [None, pytest.param("mirrored:2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["evaluate", "test_on_batch"])
def test_evaluating_between_steps_changes_no_result(method, strategy):
    """A callback may call Keras's own methods: what is logged is as without it, in evaluations too."""

    def run(method):
        keras.utils.set_random_seed(1)
        model = models.mlp()
        model.compile(keras.optimizers.SGD(0.05), "mse", metrics=["mae"])
        trainer, callback = Trainer(model, strategy=strategy, seed=0), Evaluates(method)
        fit = {"batch_size": 8, "epochs": 2, "verbose": 0, "validation_data": (X[:16], Y[:16])}
        history = trainer.fit(X, Y, callbacks=[callback], **fit).history
        results = trainer.evaluate(X, Y, batch_size=8, callbacks=[callback], verbose=0)
        return history, callback.seen, results, callback.results, model

    *expected, nothing, without = run(None)
    *got, results, model = run(method)
    assert expected == got
    assert [] == nothing
    np.testing.assert_allclose(model.evaluate(X[:8], Y[:8], verbose=0), results[-1], rtol=1e-5)
    for wanted, weights in zip(without.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(wanted, weights)
