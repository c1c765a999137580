"""What passes in Keras's own `trainer_test.py` passes for `TrainableModel` too.

`run_keras_trainer_test.py` tells how the installed file is run on another base.
Both bases run here, each in a process of its own, and no baseline is stored.
The whole file takes minutes and is marked `slow`; a few of its tests, one of
each kind of model, run always.
"""

import functools
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys

import keras
import pytest

from tests.parity import run_keras_trainer_test as runner

MODEL, TRAINABLE = "keras:Model", "kerastrain:TrainableModel"
# A layer mixed in; a custom step; a functional subclass; Functional; Sequential.
A_FEW = (
    "test_fit_flow_graph_fn or test_evaluate_flow_graph_fn or test_symbolic_build "
    "or test_fit_with_custom_train_step or test_retracing or test_constraints "
    "or test_trainer_with_raggeds or test_loss_scaling or test_metric_update"
)
# Keras 3.15.1: 173 collected. With TensorFlow, 8 are skipped and the 6 that make
# jax tensors fail where jax is not installed; torch, grain and scipy serve 13 more.
COLLECTED_AT_LEAST, PASSED_AT_LEAST = 170, 145
A_FEW_AT_LEAST = 11
SECONDS_AT_MOST = 1200


class WrongLogs(keras.Model):
    """A base whose training step trains and loses the metrics on the way."""

    def train_step(self, data):
        return {"loss": super().train_step(data)["loss"]}


class BesideItsStep(keras.Model):
    """A base that has a training step and does not train with it."""

    def train_step(self, data):
        raise NotImplementedError

    def make_train_function(self, force=False):
        self.train_step = functools.partial(keras.Model.train_step, self)
        super().make_train_function(force)


@pytest.fixture(scope="module")
def report_of(tmp_path_factory):
    """`report_of(base, keyword)`, one child process for each pair."""
    folder = tmp_path_factory.mktemp("keras_trainer_test")
    return functools.cache(functools.partial(_run_in_child, folder))


def _run_in_child(folder, base, keyword):
    name = base.replace(":", ".") + (".few" if keyword else "")
    report, log = folder / f"{name}.json", folder / f"{name}.log"
    options = ["--base", base, "--keyword", keyword, "--json", str(report)]
    with log.open("w", encoding="utf-8") as stream:
        child = subprocess.Popen(
            [sys.executable, runner.__file__, *options],
            env=_child_environment(folder),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = child.wait(timeout=SECONDS_AT_MOST)
        except subprocess.TimeoutExpired:
            status = f"none within {SECONDS_AT_MOST} seconds"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)  # its data workers too
                child.wait()
    tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
    assert 0 == status, f"exit status of the run on {base}: {status}\n{tail}"
    result = json.loads(report.read_text(encoding="utf-8"))
    # 0 and 1 are pytest's "all passed" and "some failed".
    assert result["exit_status"] in (0, 1), tail
    return result


def _child_environment(folder):
    """One device, Keras's defaults, and the kerastrain that this process imports."""
    package = pathlib.Path(importlib.util.find_spec("kerastrain").origin).parents[1]
    tests = pathlib.Path(__file__).parents[2]  # behind an installed kerastrain
    path = [str(package), str(tests), os.environ.get("PYTHONPATH", "")]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    return kept | {
        "CUDA_VISIBLE_DEVICES": "",
        "KERAS_BACKEND": "tensorflow",
        "KERAS_HOME": str(folder),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def passed(report):
    """The ids of the tests that passed."""
    return {i for i, test in report["tests"].items() if test["outcome"] == "passed"}


def lost(baseline, candidate):
    """`{id: why}` of the tests that pass in the baseline only."""
    absent = {"outcome": "not collected", "message": ""}
    tests = {i: candidate["tests"].get(i, absent) for i in passed(baseline)}
    return {
        i: f"{test['outcome']}: {test['message'][-1500:]}"
        for i, test in tests.items()
        if test["outcome"] != "passed"
    }


def gone_around(baseline, candidate):
    """`(id, method)` where a base's own method ran in the baseline only."""
    return {
        (i, method)
        for i in passed(baseline) & passed(candidate)
        for method in baseline["tests"][i]["calls"]
        if method not in candidate["tests"][i]["calls"]
    }


def check_candidate(baseline, candidate):
    """No test is lost, and none passes without the candidate's own methods."""
    failures = [f"{i}\n{why}" for i, why in sorted(lost(baseline, candidate).items())]
    assert not failures, "\n\n".join(failures)
    assert set() == gone_around(baseline, candidate)


def counts(report):
    """One line for a person to read."""
    return (
        f"{report['base']} on Keras {report['keras']}: "
        f"{len(report['tests'])} collected, {len(passed(report))} passed, "
        f"{report['seconds']:.0f} s"
    )


# The property -----------------------------------------------------------------


@pytest.mark.slow
def test_whole_file(report_of, capsys):
    """Every test of the file that passes for the one passes for the other."""
    baseline, candidate = report_of(MODEL, ""), report_of(TRAINABLE, "")
    with capsys.disabled():
        print("", counts(baseline), counts(candidate), sep="\n")
    assert len(baseline["tests"]) >= COLLECTED_AT_LEAST
    assert len(passed(baseline)) >= PASSED_AT_LEAST
    check_candidate(baseline, candidate)


@pytest.mark.process
def test_a_few_of_the_file(report_of):
    """Tests of each kind of model pass for both, and train with the base's step."""
    baseline, candidate = report_of(MODEL, A_FEW), report_of(TRAINABLE, A_FEW)
    print(counts(baseline), counts(candidate), sep="\n")
    assert len(passed(baseline)) >= A_FEW_AT_LEAST
    check_candidate(baseline, candidate)
    owners = {"kerastrain.TrainableModel"}
    assert owners == set(candidate["owners"].values())


# The check can fail -----------------------------------------------------------


@pytest.mark.slow
def test_a_step_with_wrong_logs_is_reported(report_of):
    """A broken step fails the tests that read its logs, and only those."""
    broken = report_of(f"{__name__}:WrongLogs", A_FEW)
    failing = {i.partition("::")[2] for i in lost(report_of(MODEL, A_FEW), broken)}
    assert "test_fit_flow_graph_fn" in failing
    assert "test_fit_with_custom_train_step" in failing
    assert "test_evaluate_flow_graph_fn" not in failing


@pytest.mark.slow
def test_a_step_that_never_runs_is_reported(report_of):
    """Tests that pass although the base's step did not run do not count."""
    beside = report_of(f"{__name__}:BesideItsStep", A_FEW)
    around = gone_around(report_of(MODEL, A_FEW), beside)
    assert ("TestTrainer::test_fit_flow_graph_fn", "train_step") in around


@pytest.mark.parametrize("outcome", ["failed", "skipped", "not collected"])
def test_any_outcome_but_a_pass_is_lost(outcome):
    """A test that no longer passes is lost, whatever it does instead."""
    passes = {"outcome": "passed", "message": "", "calls": {}}
    baseline = {"tests": {"a": passes, "b": passes}}
    candidate = {"tests": {"a": passes, "b": {**passes, "outcome": outcome}}}
    if outcome == "not collected":
        del candidate["tests"]["b"]
    assert {"b": f"{outcome}: "} == lost(baseline, candidate)
    assert {} == lost(candidate, baseline)


# The rules --------------------------------------------------------------------

MODELS = """
import keras

class Mixed(Trainer, keras.layers.Dense):
    def __init__(self):
        keras.layers.Dense.__init__(self, 3, name="mine")
        Trainer.__init__(self)
        self.layers = []

class Bare(Trainer, keras.layers.Layer):
    def __init__(self):
        keras.layers.Layer.__init__(self, dtype="float64")
        Trainer.__init__(self)

class Functional(keras.src.Functional):
    pass

def sequential():
    return keras.Sequential([keras.layers.Dense(3)])

model = keras.Model
"""


def test_every_model_of_a_rewritten_file_is_on_the_base():
    """The base is initialised once, and the layer keeps its call and arguments."""
    initialised = []

    class Base(keras.Model):
        def __init__(self, *args, **kwargs):
            initialised.append(type(self).__name__)
            super().__init__(*args, **kwargs)

    module = runner.load(MODELS, "models.py", Base)
    mixed, bare, sequential = module.Mixed(), module.Bare(), module.sequential()
    assert ["Mixed", "Bare", "Sequential"] == initialised
    for made in (mixed, sequential):
        assert (2, 3) == made(keras.ops.ones((2, 4))).shape
    assert ("mine", []) == (mixed.name, mixed.layers)
    assert "float64" == bare.dtype
    assert issubclass(module.Functional, Base)
    assert isinstance(sequential, Base)
    assert module.model is Base


def test_keras_model_as_the_base_leaves_its_subclasses_alone():
    """The baseline's `Sequential` and `Functional` are Keras's own."""
    module = runner.load(MODELS, "models.py", keras.Model)
    assert type(module.sequential()) is keras.Sequential
    assert (keras.src.Functional,) == module.Functional.__bases__


def test_a_use_without_a_rule_is_refused():
    """A file that makes models in a way unknown here does not pass unnoticed."""
    with pytest.raises(NotImplementedError, match=r"Lines \[2\] .* Add a rule"):
        runner.rewrite("import keras\nmodel = Trainer()")


@pytest.mark.skipif(importlib.util.find_spec("jax") is not None, reason="jax is there")
def test_the_stand_in_for_jax_is_gone_after_the_import():
    """Loading needs no jax and leaves none behind."""
    module = runner.load("import jax", "models.py", keras.Model)
    assert "jax" == module.jax.__name__
    assert "jax" not in sys.modules
