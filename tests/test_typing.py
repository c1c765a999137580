"""What mypy sees of the package: right calls pass, and misspelt ones are found without running."""

import functools
import os
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("mypy", reason="mypy is not installed")

ROOT = pathlib.Path(__file__).parent.parent
RIGHT = """\
import datetime

import keras
import numpy as np

import kerastrain
from kerastrain import Execution, Guard, RunDir, StepOptions, TrainableModel, Trainer

x, y, flag = np.ones((8, 3)), np.ones((8, 1)), bool(np.ones(()))
inputs = keras.Input((3,))
model = TrainableModel(inputs, keras.layers.Dense(1)(inputs))
model.compile("sgd", "mse", micro_batches="auto", clipnorm=1.0, lint="off")
Trainer(lambda: keras.Sequential(), guard="skip", execution="loop", micro_batches=2)
trainer = Trainer(
    model,
    optimizer="adam",
    loss="mse",
    seed=0,
    execution=Execution("loop", deterministic=True),
    guard=Guard("rollback", max_skipped=3),
)
every = datetime.timedelta(minutes=1)
history = trainer.fit(x, y, 4, epochs=2, run_dir=RunDir("runs/a", save_every=every, keep=3))
trainer.fit(x, y, verbose=0, validation_data={"again": (x, y)}, run_dir="runs/b")
losses: list[float] = history.history["loss"]
loss: float = trainer.evaluate(x, y, return_dict=True)["loss"]
trainer.evaluate(x, y, verbose="auto", return_dict=flag)
outputs = trainer.predict(x, batch_size=2)
parts: int = StepOptions(micro_batches=2).parts
seconds: dict[str, float] = trainer.times.seconds
kerastrain.testing.check_metric(keras.metrics.Mean, inputs=kerastrain.testing.regression())
"""
WRONG = (
    "kerastrain.Trainerr(model)",
    "kerastrain.testing.check_metrics(keras.metrics.Mean)",
    'Guard("skp")',
    'Trainer(model, guard="skp")',
    'Trainer(model, execution="lop")',
    "Trainer(model, micro_batchs=2)",
    "model.compile(micro_batchs=2)",
    "trainer.fit(x, epochz=3)",
    'RunDir("a", kep=2)',
    "trainer.evaluate(x, return_dict=True).history",
)


@functools.cache
def errors():
    """What mypy says of the right program with all wrong lines after it: ``{line: message}``."""
    options = (
        "--config-file",
        os.devnull,
        "--ignore-missing-imports",
        "--follow-imports",
        "silent",
    )
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            *options,
            "--no-incremental",
            "-c",
            RIGHT + "\n".join(WRONG),
        ],
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode in (0, 1), finished.stdout + finished.stderr
    lines = re.findall(r"^<string>:(\d+): error: (.*)$", finished.stdout, re.MULTILINE)
    return {int(line): message for line, message in lines}


@pytest.mark.slow
def test_right_calls_pass():
    """A program that is right draws no error."""
    count = RIGHT.count("\n")
    assert {} == {line: message for line, message in errors().items() if line <= count}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_calls_are_found(wrong):
    """Each line with a misspelt name or value is an error."""
    assert RIGHT.count("\n") + 1 + WRONG.index(wrong) in errors()
