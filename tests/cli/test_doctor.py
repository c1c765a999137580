"""The doctor: what it finds is what there is, and what fails is said in a line, with status 1."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

import kerastrain
from kerastrain.cli import app
from kerastrain.cli import doctor
from kerastrain.run import Lock


def invoke(*arguments, **environment):
    """Runs ``kerastrain doctor`` in this process."""
    return CliRunner(env=environment).invoke(app, ["doctor", *arguments])


def report(*arguments, status=0, **environment):
    """What ``--json`` prints."""
    done = invoke("--json", *arguments, **environment)
    assert status == done.exit_code, done.output
    assert "" == done.stderr
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty directory, and no setting of Keras's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")


@pytest.fixture
def requires(monkeypatch):
    """A function that sets what the metadata of the package say that it requires."""

    def set_to(*lines, python=">=3.11"):
        metadata = {"Requires-Python": python, "Version": kerastrain.__version__}
        monkeypatch.setattr(importlib.metadata, "metadata", lambda name: metadata)
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(lines))

    return set_to


class TestVersions:
    """Versions and their ranges."""

    def test_ranges_are_those_of_the_metadata(self, requires):
        """A version inside its range is ok, one outside has failed, and the status is 1."""
        requires("keras<4,>=3.13", "tensorflow<2.3", 'jax>=9; extra == "other"', python=">=3.99")
        found = report("--no-steps", status=1)
        assert not found["works"]
        versions = found["versions"]
        assert ["python", "kerastrain", "keras", "tensorflow"] == list(versions)
        assert keras.__version__ == versions["keras"]["found"]
        assert ("ok", "needs >=3.13,<4") == (
            versions["keras"]["status"],
            versions["keras"]["remark"],
        )
        assert tf.__version__ == versions["tensorflow"]["found"]
        assert "failed" == versions["tensorflow"]["status"] == versions["python"]["status"]
        assert "ok" == versions["kerastrain"]["status"]

    def test_a_version_that_was_not_tested(self, requires, monkeypatch):
        """One in its range that is newer than those of the tests is a warning."""
        requires("keras>=3.13", "tensorflow>=2.19")
        monkeypatch.setattr(keras, "__version__", "3.99.0")
        versions = report("--no-steps")["versions"]
        assert ["3.99.0", "warning", "was not tested; 3.13 to 3.15 were"] == [
            *versions["keras"].values()
        ]
        assert "ok" == versions["tensorflow"]["status"]

    def test_a_package_that_is_not_there(self, requires):
        """What is required and not installed has failed."""
        requires("no-such-package>=1")
        line = report("--no-steps", status=1)["versions"]["no-such-package"]
        assert ("not installed", "failed") == (line["found"], line["status"])

    def test_a_version_that_is_none(self):
        """A version that is not one of Python's is outside every range."""
        found = doctor._judged("versions", "a", "unknown", doctor.SpecifierSet(">=1"))
        assert "failed" == found.status

    def test_a_checkout_has_no_ranges(self, monkeypatch):
        """Without metadata, versions are shown, nothing has failed, and a warning says why."""

        def missing(name):
            raise importlib.metadata.PackageNotFoundError(name)

        for name in ("metadata", "requires"):
            monkeypatch.setattr(importlib.metadata, name, missing)
        versions = report("--no-steps")["versions"]
        assert keras.__version__ == versions["keras"]["found"]
        assert "warning" == versions["kerastrain"]["status"]

    def test_another_version_is_installed(self, requires, monkeypatch):
        """Code and metadata of two versions are a warning."""
        requires()
        monkeypatch.setattr(doctor, "__version__", "0.0.1")
        line = report("--no-steps")["versions"]["kerastrain"]
        assert ("0.0.1", "warning") == (line["found"], line["status"])
        assert f"{kerastrain.__version__} is installed" in line["remark"]

    def test_optional_packages(self, requires, monkeypatch):
        """Each is shown with the smallest extra that brings it, or how to install it."""
        requires(
            'hypothesis>=6; extra == "test"', 'pytest; extra == "test"',
            'hypothesis>=6; extra == "testing"', 'no-such>=1; extra == "missing"',
            'pandas>=999; extra == "tables"',
        )  # fmt: skip
        monkeypatch.setattr(doctor, "OPTIONAL", ("hypothesis", "no-such", "numpy", "pandas", "no"))
        found = report("--no-steps")
        assert found["works"]  # nothing of it is needed
        lines = {name: tuple(line.values()) for name, line in found["optional"].items()}
        assert ("ok", "extra testing") == lines["hypothesis"][1:]
        assert ("not installed", "info", "pip install 'kerastrain[missing]'") == lines["no-such"]
        assert (np.__version__, "info", "of no extra") == lines["numpy"]
        assert "pip install no" == lines["no"][2]
        pytest.importorskip("pandas")
        assert ("warning", "needs >=999: pip install 'kerastrain[tables]'") == lines["pandas"][1:]


class TestBackend:
    """Keras on another backend."""

    def test_of_the_environment(self):
        """It is named, with where it is set and what to do; nothing is imported for it."""
        done = invoke("--no-steps", KERAS_BACKEND="jax")
        assert 1 == done.exit_code
        last = done.stdout.splitlines()[-1]
        assert "backend: jax" in last and "set by the environment variable" in last
        assert "KERAS_BACKEND=tensorflow" in last

    def test_of_the_file(self, tmp_path, monkeypatch):
        """That of Keras's own file is found too; the environment goes before it."""
        (tmp_path / "keras").mkdir()
        file = tmp_path / "keras" / "keras.json"
        file.write_text('{"backend": "torch"}')
        assert "ok" == report("--no-steps")["keras"]["backend"]["status"]
        monkeypatch.delenv("KERAS_BACKEND")
        line = report("--no-steps", status=1)["keras"]["backend"]
        assert "torch" == line["found"] and str(file) in line["remark"]
        file.write_text("[")
        assert report("--no-steps")["works"]

    def test_an_import_that_fails(self, monkeypatch):
        """An error of an import is a line of the report."""

        def failing(name):
            raise ImportError(f"{name} has\nno wheel")

        monkeypatch.setattr(doctor, "quiet_import", failing)
        line = report(status=1)["keras"]["import"]
        assert ("fails", "failed", "ImportError: keras has no wheel") == tuple(line.values())


class TestMachine:
    """Devices, memory and files."""

    def test_what_is_found(self):
        """The system, the devices, the backend, the policy, the memory and the locks."""
        found = report("--no-steps")
        assert found["works"]
        groups = ["works", "versions", "optional", "system", "devices", "keras", "what works"]
        assert groups == list(found)
        assert 1 <= int(found["devices"]["CPU cores"]["found"])
        assert "tensorflow" == found["keras"]["backend"]["found"]
        assert "float32" == found["keras"]["float policy"]["found"]
        assert "work" == found["what works"]["locks of run_dir"]["found"]
        assert found["what works"]["free memory"]["found"].endswith(" GiB")

    def test_it_leaves_nothing_behind(self, tmp_path):
        """The directory is as empty as before."""
        invoke("--no-steps")
        assert [] == list(tmp_path.iterdir())

    def test_unknown_memory(self, monkeypatch):
        """A system that does not say how much memory is free is a warning."""
        monkeypatch.setattr("kerastrain.data.free_memory", lambda: None)
        line = report("--no-steps")["what works"]["free memory"]
        assert ("unknown", "warning") == (line["found"], line["status"])

    def test_locks_that_do_not_exclude(self, monkeypatch):
        """Where two processes get one lock, the status is 1."""
        monkeypatch.setattr(Lock, "__enter__", lambda self: (self._directory / "lock").touch())
        line = report("--no-steps", status=1)["what works"]["locks of run_dir"]
        assert ("do not exclude", "failed") == (line["found"], line["status"])

    def test_a_directory_that_cannot_be_written(self, monkeypatch):
        """It is a warning: a training without a run directory needs no file."""

        def refused(**options):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", refused)
        line = report("--no-steps")["what works"]["locks of run_dir"]
        assert "warning" == line["status"] and "Permission denied" in line["remark"]

    def test_gpus(self, monkeypatch):
        """GPUs are named; one that TensorFlow does not see is a warning."""
        monkeypatch.setattr(doctor.glob, "glob", lambda pattern: ["/dev/nvidia0"])
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
        assert "warning" == report("--no-steps")["devices"]["GPUs"]["status"]
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a", "b"])
        details = tf.config.experimental
        monkeypatch.setattr(details, "get_device_details", lambda gpu: {"device_name": f"G {gpu}"})
        assert "2: G a, G b" == report("--no-steps")["devices"]["GPUs"]["found"]


class TestSteps:
    """The ways to run steps."""

    def test_they_work(self):
        """Each of them trains to the weights of NumPy, whatever Keras's policy is."""
        policy = keras.config.dtype_policy()
        try:
            keras.config.set_dtype_policy("mixed_bfloat16")
            found = report()
        finally:
            keras.config.set_dtype_policy(policy)
        for plan in ("step", "loop", "xla_loop"):
            assert "ok" == found["what works"][f"plan {plan}"]["status"], found

    @pytest.mark.parametrize(
        "changes, found",
        [
            ({"fit": lambda self, *data, **options: 1 / 0}, ("fails", "failed", "division")),
            (
                {"fit": lambda *data, **options: None, "plans": {"train": "loop"}},
                ("wrong numbers", "failed", "NumPy has"),
            ),
            ({"plans": {"train": "step: no XLA"}}, ("gives way", "warning", "to step: no XLA")),
        ],
        ids=["error", "numbers", "gives way"],
    )
    def test_one_that_does_not(self, changes, found, monkeypatch):
        """An error, wrong numbers and a plan that gives way are lines of the report."""
        for name, value in changes.items():
            monkeypatch.setattr(kerastrain.Trainer, name, value)
        modules = {"keras": keras, "numpy": np, "kerastrain.trainer": kerastrain}
        line = doctor._trained("loop", modules)
        assert found[:2] == (line.found, line.status)
        assert found[2] in line.remark


def test_table():
    """The table has every finding, and brackets are no markup."""
    finding = doctor.Finding("optional", "ray", "no", "failed", "pip install 'kerastrain[ray]'")
    console = doctor.rich.get_console()
    with console.capture() as captured:
        console.print(doctor.table([finding, finding._replace(group="system", name="b")]))
    assert "kerastrain[ray]" in captured.get()
    assert 2 == captured.get().count("failed")


def test_summary():
    """What has failed is said in full."""
    finding = doctor.Finding("system", "name", "Plan 9", "failed", "x" * 200)
    assert [f"failed: system, name: Plan 9. {'x' * 200}."] == doctor.summary([finding])
    assert not doctor.works([finding])


def test_without_tensorflow(tmp_path):
    """Where TensorFlow cannot be imported, that is a line of the report, without a traceback."""
    (tmp_path / "tensorflow.py").write_text("raise RuntimeError('no AVX')")
    checkout = Path(kerastrain.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "kerastrain", "doctor"],
        capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{checkout}"},
    )  # fmt: skip
    assert (1, "") == (done.returncode, done.stderr)
    assert "failed: keras, import: fails. RuntimeError: no AVX." == done.stdout.splitlines()[-1]
