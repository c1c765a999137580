"""The command line: what it prints, and one line with status 2 for what is wrong."""

import gzip
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import kerastrain
from kerastrain.cli import app

# Where Debian's package dataset-fashion-mnist puts its files.
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def invoke(*arguments):
    """Runs the command line in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run(*arguments, **environment):
    """Runs ``python -m kerastrain`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "kerastrain", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "PYTHONPATH": str(Path(kerastrain.__file__).parents[1]), **environment},
    )


def held_out_accuracy(printed):
    """The accuracy on the last line."""
    return float(
        re.search(r"Held-out accuracy: (\d\.\d{4}) on \d+ images", printed.splitlines()[-1])[1]
    )


def small(directory, **changes):
    """The path of an `.npz` file of twelve little images, with changes."""
    x, y = np.zeros((12, 4, 4), "uint8"), np.arange(12) % 3
    path = directory / "small.npz"
    np.savez(path, **{"x_train": x, "y_train": y, "x_test": x, "y_test": y, **changes})
    return path


class TestHelp:
    """What it says of itself."""

    def test_version(self):
        """`--version` is the package's version, which is that of the installed metadata."""
        result = invoke("--version")
        assert (0, f"kerastrain {kerastrain.__version__}\n") == (result.exit_code, result.stdout)
        try:
            assert kerastrain.__version__ == importlib.metadata.version("kerastrain")
        except importlib.metadata.PackageNotFoundError:
            pass  # Tested from the checkout.

    def test_help_names_the_verbs(self):
        """`--help` lists the verbs; a verb's lists its options."""
        listed = invoke("--help").stdout
        for verb in ("demo", "check", "launch", "doctor", "fit"):
            assert f" {verb} " in listed
        found = invoke("demo", "--help")
        assert 0 == found.exit_code
        for option in ("--data", "--epochs", "--batch-size", "--seed", "--quiet"):
            assert option in found.stdout

    @pytest.mark.parametrize(
        "arguments",
        [
            ["teach"],
            ["demo", "--epochs", "0"],
            ["demo", "--batch-size", "-1"],
            ["demo", "--seed", "4294967296"],
            ["demo", "--epochs", "many"],
            ["demo", "stray"],
        ],
        ids=" ".join,
    )
    def test_wrong_arguments(self, arguments):
        """A wrong argument is named, with status 2."""
        result = invoke(*arguments)
        assert 2 == result.exit_code
        assert "" == result.stdout
        assert arguments[-1] in result.stderr or arguments[-2] in result.stderr


class TestDemo:
    """`kerastrain demo`."""

    def test_prints_a_table_and_the_accuracy(self, tmp_path):
        """A row of the table for each epoch, then the held-out accuracy."""
        result = invoke("demo", "--data", small(tmp_path), "--epochs", 3)
        assert 0 == result.exit_code, result.output
        assert ["1", "2", "3"] == re.findall(r"^│ +(\d+) │", result.stdout, re.MULTILINE)
        assert "Results per epoch" in result.stdout
        for word in ("loss", "balanced", "val"):
            assert word in result.stdout
        assert 0 <= held_out_accuracy(result.stdout) <= 1

    @pytest.mark.slow
    def test_quiet(self, tmp_path):
        """`--quiet` leaves the accuracy."""
        result = invoke("demo", "--data", small(tmp_path), "--epochs", 1, "--quiet")
        assert 0 == result.exit_code, result.output
        assert 1 == len(result.stdout.splitlines())
        assert 0 <= held_out_accuracy(result.stdout) <= 1

    @pytest.mark.parametrize(
        "changes, fragment",
        [
            ({"x_train": np.zeros((12, 16))}, "x_train"),
            ({"y_test": np.zeros(5, int)}, "5 labels"),
            ({"y_train": np.array([{}] * 12)}, "Python objects"),
            ({"y_train": np.arange(12) + 1000}, "a label is 1011"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_wrong_data(self, tmp_path, changes, fragment):
        """Data that cannot be trained on: one line that names the file, status 2."""
        path = small(tmp_path, **changes)
        self.assert_one_line(invoke("demo", "--data", path), path, fragment)

    def test_damaged_files(self, tmp_path):
        """Missing, empty and truncated files: one line that names the file, status 2."""
        missing = tmp_path / "missing.npz"
        self.assert_one_line(invoke("demo", "--data", missing), missing, "no such file")
        path = small(tmp_path)
        path.write_bytes(path.read_bytes()[:-30])
        self.assert_one_line(invoke("demo", "--data", path), path, "truncated")
        images = tmp_path / "train-images-idx3-ubyte.gz"
        for name in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (tmp_path / f"{name}-ubyte").touch()
        self.assert_one_line(
            invoke("demo", "--data", tmp_path), images.with_suffix(""), "no such file"
        )
        images.write_bytes(gzip.compress(b"\0\0\x08\x03" + bytes([0, 0, 0, 9] * 3) + bytes(700)))
        self.assert_one_line(invoke("demo", "--data", tmp_path), images, "29 of the 729 bytes")

    def assert_one_line(self, result, path, fragment):
        assert 2 == result.exit_code
        assert "" == result.stdout
        assert 1 == len(result.stderr.splitlines())
        assert str(path) in result.stderr
        assert fragment in result.stderr


class TestCheck:
    """``kerastrain check MODULE:METRIC``."""

    @pytest.mark.slow
    def test_sound_metric(self):
        """Every law is listed; status 0."""
        done = invoke("check", "tests.testing.right_metrics:MeanAbsolute", "--inputs", "regression",
                      "--laws", "stream,within_bounds", "--seed", 4)  # fmt: skip
        assert 0 == done.exit_code, done.output
        assert "MeanAbsolute: 5 passed, 1 not applicable (seed 4)" in done.output
        assert "passed         split_invariance" in done.output

    def test_wrong_metric(self):
        """The message is printed; status 1."""
        done = invoke("check", "tests.testing.mutants:MeanOfBatchMeans", "--inputs", "regression",
                      "--laws", "split_invariance", "--profile", "ci")  # fmt: skip
        assert 1 == done.exit_code
        assert "Likely cause: the result is a mean of batch means" in done.output

    def test_reference(self):
        """A reference is named as the metric is."""
        done = invoke("check", "tests.testing.right_metrics:MeanAbsolute", "--inputs", "regression",
                      "--laws", "reference", "--reference",
                      "tests.testing.right_metrics:absolute_error")  # fmt: skip
        assert 0 == done.exit_code and "2 passed" in done.output

    @pytest.mark.parametrize("arguments, message", (
        (["keras.metrics"], "Expected MODULE:NAME"),
        (["no_such_file.py:AUC"], "no file 'no_such_file.py'"),
        (["no_such_module:AUC"], "no module 'no_such_module'"),
        (["keras.metrics:Nothing"], "has no 'Nothing'"),
        (["keras.metrics:AUC", "--inputs", "numbers"], "Unknown inputs 'numbers'"),
        (["keras.metrics:AUC", "--laws", "splits"], "names 'splits', which is no law"),
        (["keras.metrics:AUC", "--profile", "fast"], "one of dev, ci, thorough"),
        (["kerastrain:__version__"], "must be a function"),
    ))  # fmt: skip
    def test_wrong_arguments(self, arguments, message):
        """One line, status 2."""
        done = invoke("check", *arguments)
        assert 2 == done.exit_code
        assert message in done.stderr and 1 == len(done.stderr.strip().splitlines())


class TestProcess:
    """The whole program, as a user starts it."""

    @pytest.mark.process
    def test_learns_the_digits(self):
        """The main job reaches 0.97 on the held-out digits."""
        finished = run("demo")
        assert 0 == finished.returncode, finished.stderr[-3000:]
        assert 0.97 <= held_out_accuracy(finished.stdout)
        assert "Traceback" not in finished.stderr

    @pytest.mark.process
    def test_wrong_data_has_no_traceback(self, tmp_path):
        """The line about the file is the last on standard error, and the status is 2."""
        path = tmp_path / "missing.npz"
        finished = run("demo", "--data", path)
        assert (2, "") == (finished.returncode, finished.stdout)
        assert f"kerastrain: {path}: no such file." == finished.stderr.splitlines()[-1]
        assert "Traceback" not in finished.stderr

    def test_other_backend_is_one_sentence(self, tmp_path):
        """On another Keras backend the import fails, and the last line says what to do."""
        # The other backends are not installed, so a module plays a Keras that runs on one.
        (tmp_path / "keras.py").write_text("class backend:\n    backend = lambda: 'torch'\n")
        checkout = Path(kerastrain.__file__).parents[1]
        finished = run("demo", PYTHONPATH=f"{tmp_path}{os.pathsep}{checkout}")
        assert 1 == finished.returncode
        last = finished.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: kerastrain needs")
        assert "'torch'" in last
        assert "KERAS_BACKEND=tensorflow" in last

    @pytest.mark.parametrize(
        "arguments",
        [
            *(["--help"], ["--version"], ["check", "--help"], ["doctor", "--help"]),
            *(["fit", "--help"], ["demo", "--epochs", "0"]),
        ],
    )
    def test_answers_without_tensorflow(self, tmp_path, arguments):
        """What needs no training is answered where TensorFlow and Keras cannot be imported."""
        for name in ("tensorflow", "keras", "numpy"):
            (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')")
        checkout = Path(kerastrain.__file__).parents[1]
        finished = run(*arguments, PYTHONPATH=f"{tmp_path}{os.pathsep}{checkout}")
        assert (0 if "demo" not in arguments else 2) == finished.returncode, finished.stderr
        assert "imported" not in finished.stderr

    @pytest.mark.process
    def test_lines_of_an_import_are_shown_only_if_it_fails(self, tmp_path):
        """What TensorFlow writes when it starts reaches a user where the import fails."""
        lines = "import os; os.write(2, b'a line of C++')"
        (tmp_path / "quiet.py").write_text(lines)
        (tmp_path / "failing.py").write_text(f"{lines}; raise RuntimeError('no')")
        program = "import sys; from kerastrain.cli.quiet import quiet_import as q; q(sys.argv[1])"
        for name, shown in (("quiet", False), ("failing", True)):
            finished = subprocess.run(
                [sys.executable, "-c", program, name],
                capture_output=True,
                text=True,
                timeout=600,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
            )
            assert shown == (finished.returncode != 0)
            assert shown == ("a line of C++" in finished.stderr)

    @pytest.mark.slow
    @pytest.mark.skipif(
        not FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
    )
    def test_learns_fashion_mnist(self):
        """The same job reaches 0.90 on Fashion-MNIST's 10,000 test images in five epochs."""
        finished = run("demo", "--data", FASHION_MNIST, "--epochs", 5)
        assert 0 == finished.returncode, finished.stderr[-3000:]
        print(finished.stdout)
        assert "on 10000 images" in finished.stdout
        assert 0.90 <= held_out_accuracy(finished.stdout)
