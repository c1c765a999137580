"""Names of the version before work as they did, with a `DeprecationWarning` that gives the new one."""

import keras
import numpy as np
import pytest

from kerastrain import ArgumentError
from kerastrain import Execution
from kerastrain import Guard
from kerastrain import RunDir
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.run.identity import _with_names_of_now
from tests.support import models

X, Y = np.ones((8, 4), "float32"), np.ones((8, 2), "float32")
EAGER = Execution(run_eagerly=True)


def trainer(**options):
    keras.utils.set_random_seed(0)
    return Trainer(models.mlp(), optimizer="sgd", loss="mse", seed=0, **options)


def renamed(new):
    return pytest.warns(DeprecationWarning, match=new)


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        (Guard, {"most": 3}, {"max_skipped": 3}),
        (Guard, {"every": 7}, {"snapshot_every": 7}),
        (Execution, {"eager": True}, {"run_eagerly": True}),
        (Execution, {"steps_per_call": 5}, {"steps_per_execution": 5}),
        (StepOptions, {"strict": True}, {"lint": "error"}),
        (StepOptions, {"strict": False}, {"lint": "warn"}),
    ],
)
def test_fields_of_options(make, old, new):
    """They are taken, and read, by both names; not by both at once."""
    (old_name,), (new_name,) = old, new
    with renamed(new_name):
        made = make(**old)
    assert make(**new) == made
    with renamed(new_name):
        read = getattr(made, old_name)
    assert read == getattr(made, new_name)
    with pytest.raises(TypeError, match="twice"):
        make(**old, **new)


def test_options_of_the_trainer():
    """`step` is all options of the step, `strict` is `lint="error"`."""
    with renamed("micro_batches"):
        made = trainer(step=StepOptions(micro_batches=2, clipnorm=0.5), execution=EAGER)
    history = made.fit(X, Y, verbose=0).history
    expected = trainer(micro_batches=2, clipnorm=0.5, execution=EAGER)
    assert history == expected.fit(X, Y, verbose=0).history
    with renamed("lint"):
        assert "lint='error'" in repr(trainer(strict=True))


def test_step_leaves_no_option_of_the_model():
    """As before, what `step` does not say is the default, whatever the model was compiled with."""

    def weights(**options):
        keras.utils.set_random_seed(0)
        model = models.mlp(TrainableModel)
        model.compile("sgd", "mse", clipnorm=1e-6)
        before = model.get_weights()
        Trainer(model, seed=0, **options).fit(X, Y, verbose=0)
        return max(np.abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True))

    assert weights() < 1e-5 < 1e-3 < weights_of_step(weights)


def weights_of_step(weights):
    with renamed("micro_batches"):
        return weights(step=StepOptions(micro_batches=2))


def test_strict_of_compile(tmp_path):
    """It is taken, and models that were saved with it load."""
    model = models.mlp(TrainableModel)
    with renamed("lint"):
        model.compile("sgd", "mse", strict=True)
    assert "error" == model.step_options.lint
    config = model.get_compile_config()
    config["strict"] = config.pop("lint") == "error"
    with renamed("lint"):
        model.compile_from_config(config)
    assert "error" == model.step_options.lint


def test_arguments_of_fit(tmp_path, capsys):
    """Those of a run directory make a `RunDir`; `profile` prints the times."""
    with renamed("RunDir"), renamed("times"):
        trainer().fit(X, Y, verbose=0, run_dir=tmp_path, save_every=1, keep=3, profile=True)
    assert "Time: " in capsys.readouterr().out
    again = RunDir(tmp_path, save_every=1, keep=3)
    assert [0, 1] == trainer().fit(X, Y, epochs=2, verbose=0, run_dir=again).epoch
    with renamed("RunDir"), pytest.raises(ArgumentError, match="beside a RunDir"):
        trainer().fit(X, Y, run_dir=again, keep=2)
    with renamed("RunDir"), pytest.raises(ArgumentError, match="need a directory"):
        trainer().fit(X, Y, monitor="loss")


def test_identity_of_earlier_runs():
    """What an earlier version has noted of the guard is compared by the names of now."""
    guard = {"policy": "skip", "most": 3, "every": 100}
    saved = {"@options": {"guard": guard, "step": {"clipnorm": 1.0}}, "seed": 0}
    now = {"policy": "skip", "max_skipped": 3, "snapshot_every": 100}
    assert now == _with_names_of_now(saved)["@options"]["guard"]
    assert {"seed": 0} == _with_names_of_now({"seed": 0})
