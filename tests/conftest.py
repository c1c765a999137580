"""Four logical CPU devices for the replicas, one seed for every test, and fresh processes."""

import concurrent.futures
import gc
import os
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ["KERASTRAIN_CACHE"] = ""  # no test depends on what another has measured

import hypothesis
import keras
import pytest
import tensorflow as tf

from kerastrain.execution import plan_choice
from kerastrain.run.saving import Saver
from kerastrain.testing.fresh import FreshProcesses

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 4,
)
hypothesis.settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # so are machines
)
hypothesis.settings.load_profile("default")

# What has been imported stays; looking for garbage among it takes a tenth of the time.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 10, 10)


def pytest_configure(config):
    """TensorFlow optimizes graphs in the later tiers only: it takes a quarter of the time."""
    if "not slow" in config.option.markexpr:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def seeded():
    """Every test starts from the same random state, whatever ran before it."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def no_plan_by_the_clock(request, monkeypatch):
    """No test depends on how fast the machine is: XLA, or a step at a time, is tried where a test says so."""
    if request.module.__name__.rpartition(".")[2] not in ("test_plan_choice", "test_plan_records"):
        monkeypatch.setattr(plan_choice, "_XLA_SECONDS", 1e9)
        monkeypatch.setattr(plan_choice, "_STEP_GAIN", 0.0)


@pytest.fixture
def saves_end(monkeypatch):
    """Each save has ended before the next step: which of them there are depends on no clock."""
    save = Saver.save

    def ended(self, *arguments, **options):
        save(self, *arguments, **options)
        concurrent.futures.wait([self._writing])

    monkeypatch.setattr(Saver, "save", ended)


@pytest.fixture
def drops_nan(monkeypatch):
    """As on a processor whose minimum and maximum of a number and NaN are the number."""

    def dropping(name, without):
        usual = getattr(keras.ops, name)

        def dropped(x, *arguments, **options):
            x = keras.ops.convert_to_tensor(x)
            if x.dtype.is_floating:
                x = keras.ops.where(keras.ops.isnan(x), without, x)
            return usual(x, *arguments, **options)

        monkeypatch.setattr(keras.ops, name, dropped)

    for name, without in (("clip", 1.0), ("max", -float("inf"))):
        dropping(name, without)


@pytest.fixture(scope="module")
def processes():
    """Fresh processes that run functions and are killed on the way."""
    with FreshProcesses() as fresh:
        yield fresh


def pytest_make_parametrize_id(val):
    """Names of tests hold no addresses, so that all worker processes agree on them."""
    text = str(val)
    return re.sub(r" at 0x[0-9a-f]+", "", text) if " at 0x" in text else None
