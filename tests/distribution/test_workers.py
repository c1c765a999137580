"""Several workers come to the numbers of one device, and each ends where another one does."""

import functools
import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution.cluster import Cluster
from kerastrain.distribution.cluster import Votes
from tests.support import tiers
from tests.support import worker_cases
from tests.support import worker_runs
from tests.support import workers

# What is the user's to say: no reference of one device.
WITHOUT_REFERENCE = ("no_seed", "slow_steps", "slow_data")
CLOSE = {"float64": 1e-12}
OTHER_BATCHES = "DataError", "`x` gives the workers other batches"
REFUSED = {
    "other_data": OTHER_BATCHES,
    "fewer_batches": ("DataError", "`x` gives worker 1 fewer batches than others"),
    "other_rows_of_a_stream": OTHER_BATCHES,
    "one_other_row": OTHER_BATCHES,
    "other_rows_to_predict": OTHER_BATCHES,
    "longer_rows": ("DataError", "`x` gives the workers rows of other types or shapes in one step"),
    "other_arguments": ("ArgumentError", "loss is 'mae' on worker 0, and on worker 1 'mse'"),
    "other_names": ("ArgumentError", "`validation_data`."),
    "other_calls": ("all", "are named"),
    "other_weights": ("ModelError", "The workers have other weights, or another learning rate"),
}
ALL = [case.__name__ for case in worker_cases.CASES]
SOME = [
    "ragged",
    "micro_batches",
    "batch_norm",
    "updates",
    "all_rows",
    "skipped",
    "stopped",
    "own_rows_on_each",
]


# One worker ---------------------------------------------------------------------------


def test_one_worker_asks_nobody():
    """Its answers are its own, as they are when they are read."""
    values = [0, 1]
    votes = Votes(Cluster(None))
    votes.ask("next", "chief", lambda: values.pop(0))
    votes.take()
    assert [0, 1] == [votes["next"], votes["next"]]
    alone = votes.cluster
    assert (1, 0, True, False) == (alone.count, alone.index, alone.is_chief, alone.has_others)
    np.testing.assert_array_equal([[1.0, 2.0]], alone.gather([1, 2]))
    assert alone.any(True) and not alone.any(False)
    np.testing.assert_array_equal(np.arange(3), alone.chiefs(np.arange(3)))


@pytest.mark.parametrize(
    "kind, text, task",
    [
        (tf.errors.UnavailableError, "from /job:worker/replica:0/task:1 while", "worker 1"),
        (tf.errors.DeadlineExceededError, "no name", ""),
        (
            tf.errors.DeadlineExceededError,
            "first: /job:worker/task:1. Some timed out task names:\n/job:worker/task:2",
            "worker 2",
        ),
        (tf.errors.InternalError, "peer /job:worker/task:2 is gone", "worker 2"),
        (tf.errors.InternalError, "a kernel failed on /job:worker/task:0/device:CPU:0", None),
        (tf.errors.InvalidArgumentError, "in /job:worker/task:0", None),
    ],
)
def test_which_errors_are_of_a_lost_worker(kind, text, task):
    """Those of collective operations; others only where they name a worker."""
    assert task == _keras.lost_task(kind(None, None, text), own=0)


def test_the_first_worker_is_lost():
    """It serves all, and does not answer."""
    text = "Deadline Exceeded RPC: /tensorflow.CoordinationService/Heartbeat"
    error = tf.errors.DeadlineExceededError(None, None, text)
    assert "worker 0" == _keras.lost_task(error, own=1)


# Several ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    subprocess.run(
        [sys.executable, "-m", "tests.support.worker_cases", ",".join(ALL), str(directory)],
        check=True, timeout=600, cwd=workers.ROOT,
    )  # fmt: skip
    return pickle.loads((directory / "one.pickle").read_bytes())


@pytest.fixture(
    scope="module", params=[(2, 1, ALL), (3, 1, SOME), (2, 2, SOME)], ids=["2", "3", "2 x 2"]
)
def several(request, tmp_path_factory):
    """What each of the workers has come to, by case."""
    count, replicas, names = request.param
    directory = tmp_path_factory.mktemp("several")
    arguments = "tests.support.worker_cases", ",".join(names), directory
    bound = {"directory": directory, "seconds": 900}
    outputs = workers.run(count, *arguments, **bound, REPLICAS=str(replicas))
    assert [0] * count == [out.status for out in outputs.values()], outputs[0].text[-3000:]
    return [pickle.loads((directory / f"{i}.pickle").read_bytes()) for i in range(count)]


def apart(one, other):
    """The largest difference of two outcomes, which are of one structure."""
    if isinstance(one, dict):
        assert list(one) == list(other)
        return apart(list(one.values()), list(other.values()))
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        return max(map(apart, one, other), default=0.0)
    assert np.shape(one) == np.shape(other)
    return float(np.max(np.abs(np.subtract(one, other, dtype="float64")), initial=0.0))


@pytest.mark.process
def test_numbers_of_one_device(several, one_device):
    """Weights, logs, results and outputs, of each case; and all workers' are equal to the bit."""
    for name in several[0]:
        found = [outcomes[name] for outcomes in several]
        assert not any(isinstance(one, str) for one in found), found
        if name in REFUSED:
            kind, words = REFUSED[name]
            assert {kind} == {kind for kind, _ in found}
            assert all(words in text for _, text in found), found
            continue
        assert 0.0 == max(apart(found[0], one) for one in found[1:]), name
        if name not in WITHOUT_REFERENCE:
            assert apart(one_device[name], found[0]) <= CLOSE.get(name, 1e-6), name


@pytest.mark.process
def test_found_by_the_variables_of_slurm(one_device, tmp_path):
    """Without TF_CONFIG."""
    arguments = "tests.support.worker_cases", "ragged", tmp_path
    outputs = workers.run(2, *arguments, directory=tmp_path, by_slurm=True)
    assert [0, 0] == [out.status for out in outputs.values()], outputs[0].text[-3000:]
    for index in range(2):
        found = pickle.loads((tmp_path / f"{index}.pickle").read_bytes())
        assert apart(one_device["ragged"], found["ragged"]) <= 1e-6


# Saved and resumed --------------------------------------------------------------------


def resumed(count, mode, directory, **options):
    """The outputs of `worker_runs` on so many workers; 0 for one device."""
    module = "tests.support.worker_runs"
    if count:
        return workers.run(count, module, mode, directory, directory=directory, **options)
    done = subprocess.run(
        [sys.executable, "-m", module, mode, str(directory)],
        timeout=300, cwd=workers.ROOT, capture_output=True, text=True,
    )  # fmt: skip
    return {0: workers.Output(done.returncode, done.stdout + done.stderr, 0.0)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    assert 0 == resumed(0, "whole", directory)[0].status
    return pickle.loads((directory / "0.pickle").read_bytes())


@pytest.mark.process
@pytest.mark.parametrize("before, after", [(2, 2), (2, 0), (0, 2), tiers.slow(2, 3)])
def test_resumed_by_another_number(before, after, whole, tmp_path):
    """Killed in the middle of an epoch: the weights and logs of all epochs are those of one run."""
    killed = resumed(before, "kill", tmp_path)
    assert {-9} == {out.status for out in killed.values()}, killed[0].text[-3000:]
    ended = resumed(after, "resume", tmp_path)
    assert {0} == {out.status for out in ended.values()}, ended[0].text[-3000:]
    assert "Resuming at epoch 2, step " in ended[0].text
    for index in ended:
        found = pickle.loads((tmp_path / f"{index}.pickle").read_bytes())
        assert apart(whole, found) <= 1e-6


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory):
    @functools.cache
    def directory_of(mode):
        directory = tmp_path_factory.mktemp("whole of two")
        resumed(2, mode, directory)
        return directory

    return directory_of


@pytest.mark.process
@pytest.mark.parametrize(
    "mode",
    [
        "statistics: once: kill at step",
        tiers.slow("once: kill at step"),
        tiers.slow("chief: once: kill at save"),
        tiers.slow("once: kill at validation"),
    ],
)
def test_launched_and_restarted(mode, whole_of_two, tmp_path):
    """One is killed, and all are started again: the bits of a training that nothing happened to.

    Also of what a layer keeps of the rows of each worker, as batch statistics that are not synchronised.
    """
    uninterrupted = whole_of_two("statistics: whole" if "statistics" in mode else "whole")
    module = "tests.support.worker_runs"
    status, text = workers.launched(2, module, mode, tmp_path, restarts=1)
    assert 0 == status, text[-3000:]
    lost = 0 if mode.startswith("chief") else 1
    assert f"worker {lost} was killed by SIGKILL: ending all workers, then restart 1 of 1" in text
    assert "[0] Resuming at epoch " in text
    for index in range(2):
        one, other = (d / f"{index}.pickle" for d in (uninterrupted, tmp_path))
        assert 0.0 == apart(pickle.loads(one.read_bytes()), pickle.loads(other.read_bytes()))


@pytest.mark.process
def test_the_chief_saves_models(whole, tmp_path):
    """The best and the last one: saving them is an affair of one worker, and changes nothing."""
    ended = resumed(2, "models", tmp_path)
    assert {0} == {out.status for out in ended.values()}, ended[0].text[-3000:]
    found = pickle.loads((tmp_path / "1.pickle").read_bytes())
    assert apart(whole, found) <= 1e-6
    names = {"Traced": worker_runs.Traced}
    files = tmp_path / "last.keras", tmp_path / "run" / "best.keras"
    last, best = (keras.saving.load_model(file, custom_objects=names) for file in files)
    assert 0.0 == apart(found[0][: len(last.weights)], last.get_weights())
    assert len(best.weights) == len(last.weights)


@pytest.mark.process
@pytest.mark.parametrize("mode", ["term", "term, unsaved"])
def test_a_signal_to_one_ends_all(mode, whole, tmp_path):
    """After the same step, saved where there is a directory, with the status of SIGTERM."""
    ended = resumed(2, mode, tmp_path)
    assert {143} == {out.status for out in ended.values()}, ended[0].text[-3000:]
    if mode == "term":
        ended = resumed(2, "resume", tmp_path)
        assert {0} == {out.status for out in ended.values()}
        found = pickle.loads((tmp_path / "1.pickle").read_bytes())
        assert apart(whole, found) <= 1e-6


# Lost ---------------------------------------------------------------------------------

MOMENTS = ("import", "start", "tracing", "step", "validation", "save")
LOST = [
    "kill at step",
    "stop at save",
    "chief: kill at validation",
    *(tiers.slow(f"kill at {moment}") for moment in MOMENTS if moment != "step"),
    *(tiers.slow(f"stop at {moment}") for moment in ("start", "step")),
    *(tiers.slow(f"chief: {what}") for what in ("kill at import", "kill at save", "stop at step")),
]
HANGS = ["hang at tracing", *(tiers.slow(f"hang at {moment}") for moment in ("step", "save"))]


def seconds_since(text):
    """The last step, or the start, when the process ended."""
    return float(text.rpartition("seconds since: ")[2].split()[0])


@pytest.mark.process
@pytest.mark.parametrize("mode", LOST)
def test_a_worker_that_is_lost(mode, tmp_path):
    """The other one ends within a minute, or two on a busy machine, and names it."""
    lost = 0 if mode.startswith("chief") else 1
    ended = resumed(2, mode, tmp_path)[1 - lost]
    assert 1 == ended.status, ended.text[-3000:]
    assert f"WorkerLostError: The worker 'worker {lost}' has " in ended.text
    assert seconds_since(ended.text) <= 120


@pytest.mark.process
@pytest.mark.parametrize("mode", HANGS)
def test_a_worker_that_hangs(mode, tmp_path):
    """Both end after the bound that was set; who notices first prints the stacks of its threads."""
    ended = resumed(2, mode, tmp_path)
    text = ended[0].text + ended[1].text
    assert 1 == ended[0].status, text[-3000:]
    assert "has heard nothing of the others for 8 s" in text
    assert "most recent call first" in text


@pytest.mark.process
@pytest.mark.parametrize(
    "mode, words",
    [
        tiers.slow("raise at validation", "an error of its own"),
        ("raise at step", "an error of its own"),
        ("bad row 172", "a bad row"),
        tiers.slow("bad row 12", "a bad row"),
    ],
)
def test_what_fails_on_one_worker(mode, words, tmp_path):
    """A callback, or a step on a row of its own: it says why, and the other that it is lost."""
    ended = resumed(2, mode, tmp_path)
    assert {1} == {out.status for out in ended.values()}, ended[0].text[-3000:]
    assert words in ended[1].text
    assert "WorkerLostError: The worker 'worker 1' has " in ended[0].text
