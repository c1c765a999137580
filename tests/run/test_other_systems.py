"""A run directory where Python lacks what it lacks on Windows, simulated on Linux."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
AS_ON_WINDOWS = ["-W", "error::UserWarning", "-m", "tests.support.as_on_windows"]


@pytest.mark.process
def test_a_run_directory_as_on_windows(tmp_path):
    """A training is saved and resumed; another one meanwhile is refused by what locks there."""
    command = [*AS_ON_WINDOWS, tmp_path / "run"]
    ended = subprocess.run(
        [sys.executable, *command, *command],  # within the training, the same once more
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert 0 == ended.returncode
    refused, *rest = ended.stdout.splitlines()
    assert refused.startswith(f"refused: {tmp_path / 'run'} is in use by process ")
    assert ["trained [0, 1]", "trained [0, 1, 2]", "locked (2, 1073741824, 1)"] == rest
    names = {"best.keras", "checkpoints", "config.json", "events.jsonl", "history.csv", "lock"}
    assert names == {path.name for path in (tmp_path / "run").iterdir()}
