"""Validations between steps: when, their numbers, and that nothing of the training depends on them."""

import signal
import warnings

import keras
import numpy as np
import pytest

from kerastrain import ArgumentError
from kerastrain import FitOptions
from kerastrain import RunDir
from kerastrain import Trainer
from kerastrain.run_files import read_events
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

X, Y, _ = datasets.regression(rows=44)
VALIDATION = datasets.regression(rows=12)[:2]
FIT = {
    "batch_size": 4,
    "epochs": 3,
    "verbose": 0,
    "validation_data": VALIDATION,
}  # 11 steps an epoch


class Steps(keras.callbacks.Callback):
    """Notes after how many steps it is validated, and keeps the weights of then."""

    def __init__(self):
        super().__init__()
        self.validated, self.weights, self.results = [], {}, {}

    def on_test_begin(self, logs=None):
        self.validated.append(int(self.model.optimizer.iterations.numpy()))
        self.weights[self.validated[-1]] = self.model.get_weights()

    def on_test_end(self, logs=None):
        self.results[self.validated[-1]] = dict(logs)

    def get_state(self):
        return None

    def set_state(self, state):
        """Nothing is remembered."""


def fit(every, run_dir=None, callbacks=(), fit=(), **options):
    keras.utils.set_random_seed(3)
    arguments = {"optimizer": "adam", "loss": "mse", "metrics": ["mae"], "seed": 0} | options
    trainer, steps = Trainer(models.mlp(), **arguments), Steps()
    options = FitOptions(validation_every=every)
    arguments = {"run_dir": run_dir, "callbacks": [steps, *callbacks], "options": options, **FIT}
    return trainer, trainer.fit(X, Y, **arguments | dict(fit)), steps


HOW = {
    "auto": {},
    "one step at a time": {"execution": "step"},
    "XLA": {"execution": "xla_loop"},
    "replicas": {"strategy": "mirrored:2"},
    "eagerly": {"run_eagerly": True},
    "rollback": {"guard": "rollback"},
}


@pytest.mark.parametrize("how", tiers.cases(HOW, ["auto"]))
def test_when_and_what(how):
    """After each 5 steps and each epoch; weights and other results are those without it."""
    trainer, history, steps = fit(5, **HOW[how])
    assert steps.validated == [5, 10, 11, 15, 20, 22, 25, 30, 33]
    plain, expected, _ = fit("epoch", **HOW[how])
    for one, other in zip(plain.model.get_weights(), trainer.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)
    for name, values in expected.history.items():
        np.testing.assert_allclose(history.history[name], values, rtol=1e-6)
    assert [5, 10, 15, 20, 25, 30] == [number for number, _ in history.validations]
    for number, results in history.validations:
        trainer.model.set_weights(steps.weights[number])
        again = trainer.evaluate(*VALIDATION, verbose=0, return_dict=True)
        assert results == {f"val_{name}": value for name, value in steps.results[number].items()}
        for name, value in again.items():
            np.testing.assert_allclose(results[f"val_{name}"], value, rtol=1e-5)


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (11, [11, 22, 33]),
        (7, [7, 14, 21, 28]),
        *(tiers.slow(*case) for case in ((22, [22]), (1000, []), (1, [*range(1, 34)]))),
    ],
)
def test_once_after_the_same_step(every, expected):
    """An epoch's own validation is not repeated; steps are counted over epochs."""
    _, history, steps = fit(every)
    assert expected == [number for number, _ in history.validations]
    assert sorted({*expected, 11, 22, 33}) == steps.validated


def test_where_epochs_are_not_validated():
    """After the last step of an epoch, too, where it is due then."""
    _, history, steps = fit(11, fit={"validation_freq": 3})
    assert [11, 22, 33] == [number for number, _ in history.validations]
    assert [11, 22, 33] == steps.validated
    assert len(history.history["val_loss"]) == 1


def test_a_callback_stops_there():
    """The training ends with these steps."""

    class Stops(keras.callbacks.Callback):
        def on_test_end(self, logs=None):
            self.model.stop_training = True

    trainer, _, _ = fit(4, callbacks=[Stops()])
    assert int(trainer.optimizer.iterations.numpy()) == 4


class Sends(keras.callbacks.Callback):
    """Sends a signal in a validation after a number of steps."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_test_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) == self.steps:
            self.steps = None
            signal.raise_signal(signal.SIGTERM)

    def get_state(self):
        return None

    def set_state(self, state):
        """Nothing is remembered."""


@pytest.mark.parametrize("steps", [15, tiers.slow(20), tiers.slow(22)])
def test_left_in_a_validation_and_resumed(tmp_path, steps):
    """It is begun again; the results are those of a training that nobody interrupts."""
    whole, expected, _ = fit(5)
    run = RunDir(tmp_path, save_every=10**6)
    with pytest.raises(SystemExit):
        fit(5, run, callbacks=[Sends(steps)])
    resumed, history, after = fit(5, run, callbacks=[Sends(None)])
    assert after.validated[0] == steps
    assert history.history == expected.history
    assert history.validations == expected.validations
    assertions.assert_equal_arrays(resumed.model.get_weights(), whole.model.get_weights())
    found = [event["steps"] for event in read_events(tmp_path) if event["event"] == "validation"]
    assert [5, 10, 15, 20, 25, 30] == found


def test_a_save_after_it_does_not_repeat_it(tmp_path):
    """A run that is resumed there goes on with the next step."""
    with pytest.raises(KeyboardInterrupt):

        class Interrupts(Sends):
            def on_test_batch_end(self, batch, logs=None):
                """It is the step after it that is interrupted."""

            def on_train_batch_begin(self, batch, logs=None):
                if int(self.model.optimizer.iterations.numpy()) == self.steps:
                    self.steps = None
                    raise KeyboardInterrupt

        fit(5, RunDir(tmp_path, save_every=5), callbacks=[Interrupts(15)])
    _, history, after = fit(5, RunDir(tmp_path, save_every=5), callbacks=[Sends(None)])
    assert after.validated[0] == 20
    assert [5, 10, 15, 20, 25, 30] == [number for number, _ in history.validations]


@pytest.mark.parametrize("every", [0, -1, 2.5, "step", None, True])
def test_refused(every):
    """With the values that work."""
    with pytest.raises(ArgumentError, match='`validation_every` must be a whole number.* "epoch"'):
        FitOptions(validation_every=every)


def test_steps_that_are_skipped():
    """A bad step before it is found before it, and named by its own number."""
    x = X.copy()
    keras.utils.set_random_seed(3)
    x[[13]] = np.nan  # of the fourth batch, unshuffled
    trainer = Trainer(models.mlp(), optimizer="adam", loss="mse", guard="skip", seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = FitOptions(validation_every=5)
        history = trainer.fit(x, Y, shuffle=False, options=options, **FIT)
    assert [(0, 3), (1, 3), (2, 3)] == trainer.skipped
    assert all(np.isfinite(results["val_loss"]) for _, results in history.validations)
