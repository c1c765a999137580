"""The example programs run and return what their docstrings say. No time is compared."""

import json
import subprocess
import sys

import numpy as np
import pytest

from kerastrain.examples import mean_loss_metric
from kerastrain.examples import plain_loop

MIRRORED = """
import dataclasses, json, sys
from kerastrain.examples import mirrored
figures = mirrored.main()
figures = {name: dataclasses.asdict(found) for name, found in figures.items()}
print(json.dumps(figures), file=sys.stderr)
"""


def test_plain_loop_ends_at_the_same_weights_as_the_loop_by_hand(capsys):
    """Compiling changes the time of a step and not the weights."""
    figures = plain_loop.main(epochs=1)
    assert figures.by_hand > 0
    assert figures.kerastrain > 0
    assert figures.weight_difference <= 1e-6
    assert "µs per step" in capsys.readouterr().out


def test_mean_loss_metric_by_hand_is_off_and_kerastrain_is_exact(capsys):
    """The mean of batch means is off in every epoch; the sum over rows is exact."""
    figures = mean_loss_metric.main()
    assert 3 == len(figures.exact) == len(figures.by_hand)
    assert np.min(np.abs(np.subtract(figures.by_hand, figures.exact))) > 1e-3
    np.testing.assert_allclose(figures.kerastrain_loss, figures.exact, rtol=0, atol=1e-6)
    np.testing.assert_allclose(figures.kerastrain_metric, figures.exact, rtol=0, atol=1e-6)
    assert f"{figures.exact[0]:.6f}  {figures.by_hand[0]:.6f}" in capsys.readouterr().out


@pytest.mark.process
def test_mirrored_by_hand_doubles_the_learning_rate_and_kerastrain_does_not():
    """On two replicas the loop by hand ends at twice the rate, `Trainer` where one device ends."""
    # A process of its own: logical devices must be made before TensorFlow starts.
    child = subprocess.run(
        [sys.executable, "-c", MIRRORED], capture_output=True, text=True, timeout=300
    )
    assert 0 == child.returncode, child.stderr[-3000:]
    figures = json.loads(child.stderr.splitlines()[-1])
    assert {"full batches": 64, "short last batch": 5, "one row left": 1} == {
        name: found["last_batch"] for name, found in figures.items()
    }
    for name, found in figures.items():
        assert found["by_hand"] > 1e-2, name
        assert found["kerastrain"] <= 1e-6, name
        assert found["kerastrain_loss"] <= 1e-6, name
        assert name in child.stdout
    assert figures["full batches"]["by_hand_double_rate"] <= 1e-6
