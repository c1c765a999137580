"""What is reported to Ray is the whole run, and a lost worker changes no bit of it."""

import itertools
import pickle
import shutil
import sys
import types

import keras
import pytest

from kerastrain import ArgumentError
from kerastrain import CheckpointError
from kerastrain.ray import RunReport
from tests import test_docs
from tests.support import workers
from tests.support.assertions import assert_equal_arrays
from tests.support.resuming import BATCH
from tests.support.resuming import network
from tests.support.resuming import rows
from tests.support.resuming import trainer

# Without Ray --------------------------------------------------------------------------


class Session:
    """What `RunReport` calls of ``ray.train`` and ``ray.tune``; it copies what is reported."""

    def __init__(self, directory, rank=0):
        self.directory, self.numbers = directory, itertools.count(1)
        self.reported, self.last = [], None
        self.get_context = lambda: types.SimpleNamespace(get_world_rank=lambda: rank)
        self.get_checkpoint = lambda: self.last and Copied(self.last)
        self.Checkpoint = types.SimpleNamespace(from_directory=lambda path: path)

    def report(self, metrics, checkpoint):
        self.reported.append(metrics)
        self.last = self.directory / str(next(self.numbers))
        shutil.copytree(checkpoint, self.last)


class Copied:
    def __init__(self, path):
        self.path = path

    def to_directory(self, path):
        shutil.copytree(self.path, path, dirs_exist_ok=True)


@pytest.fixture
def session(tmp_path, monkeypatch):
    return installed(monkeypatch, Session(tmp_path / "storage"))


def installed(monkeypatch, session):
    for name in ("ray", "ray.train", "ray.tune"):
        monkeypatch.setitem(sys.modules, name, session)
    return session


def fit(report, callbacks=(), **arguments):
    made, (x, y) = trainer(lambda: network(dropout=True))(), rows()
    arguments = {"run_dir": report.run_dir} | arguments
    history = made.fit(
        x, y, batch_size=BATCH, epochs=3, verbose=0, callbacks=[*callbacks, report], **arguments
    )
    return [w.numpy() for w in made.model.weights], history.history


class Interrupts(keras.callbacks.Callback):
    """Raises in the middle of the second epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 2):
            raise InterruptedError

    def get_state(self):
        return None

    def set_state(self, state):
        pass


@pytest.mark.parametrize("kind", ["train", "tune"])
def test_resumed_from_what_was_reported(kind, session):
    """The same weights and history, and each epoch is reported once; no directory is left."""
    whole = RunReport(kind)
    expected, first = fit(whole), session.reported
    session.reported, session.last = [], None
    with pytest.raises(InterruptedError):
        fit(RunReport(kind), [Interrupts()])
    assert first[:1] == session.reported
    found = fit(RunReport(kind))
    assert expected[1] == found[1]
    assert_equal_arrays(expected[0], found[0])
    assert first == session.reported
    assert {"epoch", "loss", "mae"} == set(first[0])
    assert [0, 1, 2] == [metrics["epoch"] for metrics in first]
    assert not (session.directory.parent / whole.run_dir.path).exists()


def test_each_checkpoint_is_one_run(session):
    """It has the last checkpoint, and the best one with its model."""
    fit(RunReport(monitor="min loss"))
    names = [path.name for path in (session.last / "checkpoints").iterdir()]
    assert 1 <= len(names) <= 2
    assert (session.last / "best.keras").is_file()


def test_without_ray(monkeypatch):
    """The error names the extra."""
    for name in ("ray", "ray.train", "ray.tune"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'kerastrain\[ray\]'"):
        RunReport()


def test_needs_its_run_directory(session, tmp_path):
    """Nothing is left unreported in silence."""
    report = RunReport()
    with pytest.raises(ArgumentError, match=r"Pass run_dir=report.run_dir"):
        fit(report, run_dir=None)
    with pytest.raises(ArgumentError, match=r"Pass run_dir=report.run_dir .* Received: run_dir="):
        fit(RunReport(), run_dir=tmp_path / "other")


def test_workers_that_train_by_themselves(tmp_path, monkeypatch):
    """They are no cluster: each has a checkpoint."""
    installed(monkeypatch, Session(tmp_path, rank=1))
    with pytest.raises(ArgumentError, match=r"Each of the workers trains by itself"):
        fit(RunReport())


def test_checkpoint_of_something_else(session, tmp_path):
    """Weights that another program has reported are no run."""
    session.last = tmp_path / "weights"
    session.last.mkdir()
    with pytest.raises(CheckpointError, match="has no run of kerastrain"):
        RunReport().run_dir


def test_which_session(session):
    """Ray Train's is the default; in a function of Ray Tune the error names the argument."""
    with pytest.raises(ArgumentError, match="Did you mean 'tune'"):
        RunReport("tunes")

    def get_checkpoint():
        raise DeprecationWarning

    session.get_checkpoint = get_checkpoint
    with pytest.raises(ArgumentError, match=r'pass RunReport\("tune"\)'):
        RunReport().run_dir


# With Ray -----------------------------------------------------------------------------


@pytest.fixture
def ray_is_here():
    pytest.importorskip("ray.train", reason="ray[train,tune] is not installed")
    pytest.importorskip("ray.tune", reason="ray[train,tune] is not installed")


@pytest.mark.process
def test_a_lost_worker(ray_is_here, tmp_path):
    """All start again from the last checkpoint: the bits of a training that nothing happened to."""
    command = [sys.executable, "-m", "tests.support.ray_runs", str(tmp_path)]
    status, text = workers.alone(command, tmp_path)
    assert 0 == status, text[-5000:]
    for rank in range(2):
        assert "anew\n" == (tmp_path / f"whole/starts-{rank}.txt").read_text()
        assert "anew\nresumed\n" == (tmp_path / f"lost/starts-{rank}.txt").read_text()
    whole = read(tmp_path / "whole/0.pickle")
    for found in ("whole/1", "lost/0", "lost/1", "alone"):
        weights, history = read(tmp_path / f"{found}.pickle")
        assert whole[1] == history, found
        assert_equal_arrays(whole[0], weights)
    last = {"epoch": 3} | {name: values[-1] for name, values in whole[1].items()}
    assert (
        last == read(tmp_path / "whole/reported.pickle") == read(tmp_path / "lost/reported.pickle")
    )


@pytest.mark.slow
@pytest.mark.process
def test_one_process_that_fails(ray_is_here, tmp_path):
    """A worker alone, and a trial, start again to the bits of a training without Ray."""
    command = [sys.executable, "-m", "tests.support.ray_runs", str(tmp_path), "alone"]
    status, text = workers.alone(command, tmp_path)
    assert 0 == status, text[-5000:]
    expected, history = read(tmp_path / "here.pickle")
    for name in ("train", "tune"):
        assert (tmp_path / f"{name}-failed").exists()
        weights, found = read(tmp_path / f"{name}.pickle")
        assert history == found, name
        assert_equal_arrays(expected, weights)


def read(path):
    return pickle.loads(path.read_bytes())


@pytest.mark.process
@pytest.mark.parametrize("number", [0, 1], ids=["train", "tune"])
def test_program_of_the_page(number, ray_is_here, tmp_path):
    """Each of the two programs runs as it stands there, and its last line is what is shown."""
    (page,) = (page for page in test_docs.PAGES if page.stem == "ray")
    ((code, shown),) = test_docs.programs(page)[number][0]
    (tmp_path / "program.py").write_text(code)
    status, text = workers.alone([sys.executable, "program.py"], tmp_path)
    assert 0 == status, text[-5000:]
    lines = [line for line in text.splitlines() if line.startswith("{")]
    test_docs.assert_prints(shown, lines[-1])
    assert 2 == len(test_docs.programs(page))
