"""No step is lost or repeated, whichever plan runs and whatever it gives way to."""

import keras
import numpy as np
import pytest

from kerastrain import Execution
from kerastrain import Trainer
from tests import models

X, Y, _ = models.regression(rows=64)


def trained(strategy=None, execution=None, fits=((64, 8),)):
    """A model and its trainer after fits of ``(rows, batch size)``."""
    keras.utils.set_random_seed(0)
    model = models.mlp(outputs=2)
    trainer = Trainer(
        model, optimizer=keras.optimizers.SGD(0.05), loss="mse", metrics=["mae"],
        strategy=strategy, execution=execution,
    )  # fmt: skip
    for rows, size in fits:
        history = trainer.fit(
            X[:rows], Y[:rows], batch_size=size, shuffle=False, epochs=2, verbose=0
        )
    return model, trainer, history


@pytest.mark.parametrize("plan", ["loop", "auto"])
def test_batches_smaller_than_the_replicas(plan):
    """After a fit in loops, batches too small for all replicas run one by one, each of them."""
    fits = ((64, 8), (6, 1), (7, 3), (64, 8))
    alone, _, expected = trained(execution="step", fits=fits)
    model, trainer, history = trained("mirrored:2", plan, fits)
    for one, other in zip(alone.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert int(trainer.optimizer.iterations.numpy()) == 2 * (8 + 6 + 3 + 8)
    np.testing.assert_allclose(expected.history["loss"], history.history["loss"], atol=1e-6)


def test_a_loop_that_cannot_be_compiled_for_later_data(monkeypatch):
    """Where a loop fails to compile for data of other shapes, its steps run one by one."""
    expected, *_ = trained(execution="step", fits=((64, 8), (48, 6)))
    keras.utils.set_random_seed(0)
    model = models.mlp(outputs=2)
    trainer = Trainer(model, optimizer=keras.optimizers.SGD(0.05), loss="mse")
    options = {"shuffle": False, "epochs": 2, "verbose": 0}
    trainer.fit(X, Y, batch_size=8, **options)

    def refuse(self, block):
        raise ValueError("not for such a block")

    monkeypatch.setattr("kerastrain.loops.Loop.prepare", refuse)
    trainer.fit(X[:48], Y[:48], batch_size=6, **options)
    assert "not for such a block" in trainer.plans["train"]
    for one, other in zip(expected.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_data_are_not_kept():
    """After a fit the trainer holds no copy of the arrays."""
    _, trainer, _ = trained()
    runner = trainer._preparation.runner("train")
    assert runner._block is None


def test_steps_per_call_is_kept_to():
    """No call runs more steps than were asked for."""
    seen = []

    class Reads(keras.callbacks.Callback):
        only_reads_logs = True

        def on_train_batch_end(self, batch, logs):
            seen.append((batch, float(logs["loss"])))

    keras.utils.set_random_seed(0)
    trainer = Trainer(
        models.mlp(outputs=2), optimizer="sgd", loss="mse",
        execution=Execution(plan="loop", steps_per_call=3),
    )  # fmt: skip
    history = trainer.fit(X, Y, batch_size=8, shuffle=False, verbose=0, callbacks=[Reads()])
    assert [batch for batch, _ in seen] == list(range(8))
    assert seen[-1][1] == pytest.approx(history.history["loss"][0], abs=1e-6)
    assert trainer._preparation.runner("train", listening=True, replayed=True).choice.steps <= 3


def test_where_the_time_went(capsys):
    """`profile=True` prints the parts, which add up to no more than the whole."""
    keras.utils.set_random_seed(0)
    trainer = Trainer(models.mlp(outputs=2), optimizer="sgd", loss="mse")
    trainer.fit(X, Y, verbose=0, profile=True, validation_data=(X, Y))
    line = capsys.readouterr().out
    assert line.startswith("Time: ") and "compiling" in line and "validation" in line
    assert trainer.times.seconds["compiling"] > trainer.times.seconds["step"] >= 0


def test_metrics_over_many_epochs():
    """Each epoch's results are its own, also when resets and results have been compiled."""
    histories = []
    for own in (False, True):
        keras.utils.set_random_seed(0)
        model = models.mlp(outputs=2)
        parts = {
            "optimizer": keras.optimizers.SGD(0.05),
            "loss": "mse",
            "metrics": ["mae", keras.metrics.RootMeanSquaredError()],
        }
        options = {"epochs": 8, "batch_size": 10, "shuffle": False, "verbose": 0}
        options["validation_data"] = (X[:20], Y[:20])
        if own:
            trainer = Trainer(model, **parts)
            history = trainer.fit(X, Y, **options)
            assert trainer._states._reset.is_compiled and trainer._states._results.is_compiled
        else:
            model.compile(**parts)
            history = model.fit(X, Y, **options)
        histories.append(history.history)
    assert sorted(histories[0]) == sorted(histories[1])
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], atol=1e-6)


def test_a_metric_of_ones_own_is_reset_by_its_own_code():
    """Python code in a metric's `reset_state` runs before each epoch."""
    resets = []

    class Counts(keras.metrics.Mean):
        def reset_state(self):
            resets.append(1)
            super().reset_state()

    trainer = Trainer(
        models.mlp(outputs=2), optimizer="sgd", loss="mse",
        metrics=[keras.metrics.MeanAbsoluteError()], weighted_metrics=[],
    )  # fmt: skip
    trainer.model.extra = Counts(name="extra")
    with pytest.warns(UserWarning, match="not updated"):
        trainer.fit(X, Y, epochs=6, verbose=0)
    assert len(resets) == 6
