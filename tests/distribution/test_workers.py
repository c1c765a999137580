"""Several workers come to the numbers of one device, and each ends where another one does."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution.cluster import Cluster
from kerastrain.distribution.cluster import Votes
from tests.support import tiers
from tests.support import worker_cases
from tests.support import workers

# What is the user's to say: no reference of one device.
WITHOUT_REFERENCE = ("no_seed", "other_data")
ALL = [case.__name__ for case in worker_cases.CASES]
SOME = ["ragged", "micro_batches", "batch_norm", "all_rows", "skipped", "stopped"]


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
        (tf.errors.InternalError, "peer /job:worker/task:2 is gone", "worker 2"),
        (tf.errors.InternalError, "a kernel failed on /job:worker/task:0/device:CPU:0", None),
        (tf.errors.InvalidArgumentError, "in /job:worker/task:0", None),
    ],
)
def test_which_errors_are_of_a_lost_worker(kind, text, task):
    """Those of collective operations; others only where they name a worker."""
    assert task == _keras.lost_task(kind(None, None, text), own=0)


# Several ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    subprocess.run(
        [sys.executable, "-m", "tests.support.worker_cases", ",".join(ALL), str(directory)],
        check=True, timeout=300, cwd=workers.ROOT,
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
    outputs = workers.run(count, *arguments, directory=directory, REPLICAS=str(replicas))
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
        if name == "other_data":
            assert {"DataError"} == {kind for kind, _ in found}
            assert all("`x` gives the workers other batches" in text for _, text in found)
            continue
        assert 0.0 == max(apart(found[0], one) for one in found[1:]), name
        if name not in WITHOUT_REFERENCE:
            assert apart(one_device[name], found[0]) <= 1e-6, name


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


@pytest.mark.process
def test_launched_and_restarted(tmp_path):
    """One is killed, and all are started again: the bits of a training that nothing happened to."""
    (tmp_path / "whole").mkdir()
    resumed(2, "whole", tmp_path / "whole")
    module = "tests.support.worker_runs"
    status, text = workers.launched(2, module, "kill one, once", tmp_path, restarts=1)
    assert 0 == status, text[-3000:]
    assert "worker 1 was killed by SIGKILL: ending all workers, then restart 1 of 1" in text
    assert "[0] Resuming at epoch 2, step " in text
    for index in range(2):
        one, other = (d / f"{index}.pickle" for d in (tmp_path / "whole", tmp_path))
        assert 0.0 == apart(pickle.loads(one.read_bytes()), pickle.loads(other.read_bytes()))


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


@pytest.mark.process
@pytest.mark.parametrize("mode", ["kill one", "stop one", tiers.slow("kill one in validation")])
def test_a_worker_that_is_lost(mode, tmp_path):
    """The other one ends within a minute, and names it."""
    ended = resumed(2, mode, tmp_path, seconds=150)
    assert 1 == ended[0].status, ended[0].text[-3000:]
    assert "WorkerLostError: The worker 'worker 1' has ended, or does not answer" in ended[0].text
    waited = float(ended[0].text.rpartition("seconds since: ")[2].split()[0])
    assert waited <= 60


@pytest.mark.process
def test_a_worker_that_hangs(tmp_path):
    """Both end after the bound that was set; who notices first prints the stacks of its threads."""
    ended = resumed(2, "hang", tmp_path, seconds=150)
    assert {1} == {out.status for out in ended.values()}, ended[0].text[-3000:]
    text = ended[0].text + ended[1].text
    assert "has heard nothing of the others for 8 s" in text
    assert "most recent call first" in text


@pytest.mark.slow
@pytest.mark.process
def test_a_worker_that_is_absent(tmp_path):
    """The other one ends in bounded time, and names it."""
    ended = resumed(2, "whole", tmp_path, present=[0], seconds=150)
    assert ended[0].status not in (0, None), ended[0].text[-3000:]
    assert "task:1" in ended[0].text
