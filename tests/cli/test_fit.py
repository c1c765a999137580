"""``kerastrain fit``: each kind of data trains, and each mistake is one line with status 2."""

import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import kerastrain
from kerastrain.cli import app
from kerastrain.cli import data_files
from kerastrain.cli import fit
from kerastrain.errors import ArgumentError
from kerastrain.errors import DataError

NET = """
import keras
from kerastrain.cli import data_files as somewhere

def network():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

def compiled():
    model = network()
    model.compile("sgd", "mse", metrics=["mae"])
    return model

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)

ready = network()
number = 3

def needs(units, rate=0.1):
    return network()

def wrong():
    return "no model"
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A directory with the file of a model and data; modules of it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    Path("net.py").write_text(NET)
    np.savez("a.npz", **arrays())
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def arrays(rows=40, end=""):
    """``x`` and ``y`` of a plane."""
    x = np.random.default_rng(rows).normal(size=(rows, 2)).astype("float32")
    return {f"x{end}": x, f"y{end}": x @ np.array([1, -2], "float32")}


def table(pandas, **changes):
    """The same as a table."""
    data = arrays()
    columns = {"east": data["x"][:, 0], "north": data["x"][:, 1], "height": data["y"]}
    return pandas.DataFrame({**columns, **changes})


def invoke(*arguments, model="net.py:network", loss="mse"):
    """Runs ``kerastrain fit`` in this process."""
    given = ["fit", model, *(["--loss", loss] if loss else []), "--quiet"]
    return CliRunner().invoke(app, [*given, *map(str, arguments)])


def results(done):
    """``{name: result}`` of the last lines."""
    assert 0 == done.exit_code, (done.output, done.exception)
    return {name: float(value) for name, value in re.findall(r"(\w+) (-?\d+\.\d{4})", done.stdout)}


def error(*arguments, **options):
    """The one line of a mistake."""
    done = invoke(*arguments, **options)
    assert 2 == done.exit_code, (done.output, done.exception)
    assert "" == done.stdout
    assert 1 == len(done.stderr.splitlines()), done.stderr
    return done.stderr


class TestTraining:
    """What is trained, printed and saved."""

    def test_is_that_of_trainer(self):
        """The weights are those of a Trainer with the same seed and arguments."""
        arguments = ("--data", "a.npz", "--epochs", 3, "--batch-size", 8, "--seed", 5)
        results(invoke(*arguments, "--optimizer", "sgd", "--save", "m.keras"))
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        trainer = kerastrain.Trainer(model, optimizer="sgd", loss="mse", seed=5)
        trainer.fit(*arrays().values(), epochs=3, batch_size=8, verbose=0)
        saved = keras.models.load_model("m.keras")
        for expected, actual in zip(model.get_weights(), saved.get_weights(), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)

    def test_says_what_was_saved_where(self):
        """The last lines name the model and the run directory, or say that nothing was saved."""
        done = invoke("--data", "a.npz", "--save", "m.keras", "--run-dir", "runs/a")
        assert results(done)["loss"] > 0
        assert "Saved the model in m.keras" in done.stdout and Path("m.keras").is_file()
        assert re.search("Saved the run.* in runs/a", done.stdout) and Path("runs/a").is_dir()
        assert "Nothing was saved" in invoke("--data", "a.npz").stdout

    def test_resumes(self):
        """A run directory is resumed, with the results of a training that was not interrupted."""
        whole = results(invoke("--data", "a.npz", "--epochs", 4))
        results(invoke("--data", "a.npz", "--epochs", 2, "--run-dir", "r"))
        done = invoke("--data", "a.npz", "--epochs", 4, "--run-dir", "r")
        assert whole == results(done)
        assert "epoch 4" in done.stdout

    @pytest.mark.parametrize(
        "name", ["net.py:compiled", "net:compiled", "net.py:Own", "net.py:ready", "./net.py:ready"]
    )
    def test_models(self, name):
        """A model or what returns one, of a file or a module, compiled or not."""
        is_compiled = name.endswith("compiled")
        done = invoke("--data", "a.npz", model=name, loss=None if is_compiled else "mse")
        assert ({"loss", "mae"} if is_compiled else {"loss"}) == set(results(done)) - {"in"}

    def test_progress_and_metrics(self):
        """Progress is printed but for --quiet; metrics are those that are named."""
        given = ["fit", "net.py:network", "--data", "a.npz", "--loss", "mse", "--epochs", "2"]
        done = CliRunner().invoke(app, [*given, "--metrics", "mae, mse"])
        assert "Epoch 2/2" in done.stdout
        assert re.search(r": loss \S+ mae \S+ mse \S+$", done.stdout, re.MULTILINE)
        assert {"loss", "mae", "mse"} <= set(results(done))
        assert "Epoch" not in invoke("--data", "a.npz").stdout


class TestData:
    """Each kind of file."""

    @pytest.mark.parametrize(
        "ends", [("", None), ("_train", None), ("_train", "_test"), ("", "_val")]
    )
    def test_npz(self, ends):
        """``x`` and ``y`` by either name; those to validate on are used."""
        parts = [arrays(12 + len(end), end) for end in ends if end is not None]
        np.savez("b.npz", **{name: array for part in parts for name, array in part.items()})
        names = set(results(invoke("--data", "b.npz")))
        assert ("val_loss" in names) == (ends[1] is not None)

    def test_npy(self):
        """A pair of files and a directory of them are memory-mapped, and train alike."""
        os.mkdir("d")
        for name, array in arrays().items():
            np.save(f"d/{name}.npy", array)
        for data in (data_files.load("d"), data_files.load("d/x.npy,d/y.npy")):
            assert isinstance(data.x, np.memmap) and isinstance(data.y, np.memmap)
        expected = results(invoke("--data", "a.npz"))
        assert expected == results(invoke("--data", "d"))
        assert expected == results(invoke("--data", "d/x.npy,d/y.npy"))

    @pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
    def test_tables(self, name):
        """The target is y; the other columns are x, in one float32 array."""
        pandas = pytest.importorskip("pandas")
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
            table(pandas).to_parquet(name)
        else:
            table(pandas).to_csv(name, index=False)
        data = data_files.load(name, "height")
        assert ("float32", "float32") == (data.x.dtype, data.y.dtype)
        np.testing.assert_array_equal(data.x, arrays()["x"])
        assert ["east", "north"] == data.columns
        assert results(invoke("--data", "a.npz")) == results(
            invoke("--data", name, "--target", "height")
        )

    def test_targets(self):
        """Several columns are one array; whole numbers and booleans are integers."""
        pandas = pytest.importorskip("pandas")
        table(pandas, kind=np.arange(40) % 3, flag=True).to_csv("t.csv", index=False)
        assert (40, 2) == data_files.load("t.csv", "height,kind").y.shape
        for target, shape in (("kind", (40,)), ("kind,flag", (40, 2))):
            y = data_files.load("t.csv", target).y
            assert (shape, "int64") == (y.shape, y.dtype)

    def test_byte_order(self):
        """Numbers of another byte order are read as what they are."""
        np.savez("b.npz", **{name: array.astype(">f4") for name, array in arrays().items()})
        assert results(invoke("--data", "a.npz")) == results(invoke("--data", "b.npz"))

    def test_validation(self):
        """Data to validate on are those given, a share, or those of the file, in this order."""
        np.savez("b.npz", **arrays(), **arrays(8, "_test"))
        np.savez("other.npz", **arrays(5))
        shapes = {}
        for name, options in {
            "given": {"validation_data": "other.npz"},
            "of the file given": {"validation_data": "b.npz"},
            "share": {"validation_split": 0.2},
            "file": {},
        }.items():
            validation = fit.read(fit.Request("net.py:network", "b.npz", **options))[1]
            shapes[name] = None if validation is None else len(validation[0])
        assert {"given": 5, "of the file given": 40, "share": None, "file": 8} == shapes
        assert "val_loss" in results(invoke("--data", "a.npz", "--validation-split", 0.2))

    def test_validation_of_tables(self):
        """Its columns are found by name, whatever their order; arrays may be validated on, too."""
        pandas = pytest.importorskip("pandas")
        whole = table(pandas)
        whole.to_csv("t.csv", index=False)
        whole[["north", "height", "east"]].to_csv("v.csv", index=False)
        given = ("--data", "t.csv", "--target", "height", "--validation-data")
        expected = results(invoke(*given, "t.csv"))
        assert expected == results(invoke(*given, "v.csv")) == results(invoke(*given, "a.npz"))


class TestMistakes:
    """One line that says what is wrong and what to do."""

    @pytest.mark.parametrize(
        "arguments, fragments",
        [
            (["--data", "b.npz"], ["--data b.npz: no such file", "Did you mean 'a.npz'?"]),
            (["--data", "net.py"], ["--data net.py is of no kind", ".parquet"]),
            (["--data", "x.npy,y.npy"], ["--data x.npy: no such file"]),
            (["--data", "a.npz", "--target", "y"], ["--target y", "a.npz", "Remove --target"]),
            (["--data", "a.npz", "--validation-split", "1"], ["--validation-split 1", "0.2"]),
            (
                ["--data", "a.npz", "--validation-split", "0.1", "--validation-data", "a.npz"],
                ["--validation-split 0.1 and --validation-data a.npz exclude each other"],
            ),
            (["--data", "a.npz", "--save", "m.h5"], ["--save m.h5", "--save m.keras"]),
            (["--data", "a.npz", "--save", "no/m.keras"], ["no directory 'no'"]),
            (["--data", "a.npz", "--run-dir", "net.py"], ["--run-dir net.py is a file"]),
            (["--data", "a.npz", "--optimizer", "adm"], ["optimizer", "Did you mean 'adam'?"]),
            (["--data", "a.npz", "--metrics", "mee"], ["'mee'", "Did you mean"]),
        ],
        ids=lambda value: " ".join(value) if "--data" in value else "",
    )
    def test_arguments(self, arguments, fragments):
        """The option, the value and the fix."""
        line = error(*arguments)
        assert [] == [fragment for fragment in fragments if fragment not in line], line

    @pytest.mark.parametrize(
        "model, fragment",
        [
            ("net.py:netwrk", "Did you mean 'network'?"),
            ("nett.py:network", "Did you mean 'net.py'?"),
            ("nett:network", "Did you mean 'net'?"),
            ("net.py", "Expected MODULE:NAME or FILE.py:NAME"),
            ("net.py:needs", "needs the arguments units. Give them defaults"),
            ("net.py:wrong", "returned 'no model' of type str"),
            ("net.py:number", "is of type int. Pass the name of a keras.Model"),
            ("broken.py:network", "The file 'broken.py' is no Python, line 2"),
        ],
    )
    def test_models(self, model, fragment):
        """What is named and cannot be trained."""
        Path("broken.py").write_text("import keras\ndef network(:\n")
        assert fragment in error("--data", "a.npz", model=model)

    def test_no_loss(self):
        """A model that is not compiled needs --loss; a misspelt one is answered with a name."""
        line = error("--data", "a.npz", loss=None)
        assert "No loss for Sequential" in line and "--loss mse" in line
        assert "Did you mean 'mse'?" in error("--data", "a.npz", loss="msee")

    @pytest.mark.parametrize(
        "changes, fragments",
        [
            ({"y": np.ones(9)}, ["x has 40 rows", "y has 9"]),
            ({"y": np.array(["a"] * 40)}, ["y holds text", "indices from 0"]),
            ({"y": np.array([{}] * 40)}, ["Python objects"]),
            ({"x": np.ones((0, 2)), "y": np.ones(0)}, ["x has no rows"]),
            ({"x": np.ones(())}, ["x has no rows"]),
        ],
        ids=["rows", "text", "objects", "empty", "scalar"],
    )
    def test_arrays(self, changes, fragments):
        """Arrays that cannot be trained on, in each kind of file."""
        os.mkdir("d")
        changed = arrays() | changes
        np.savez("b.npz", **changed)
        for name, array in changed.items():
            np.save(f"d/{name}.npy", array)
        for data in ("b.npz", "d", "d/x.npy,d/y.npy"):
            with pytest.raises(DataError) as caught:
                data_files.load(data)
            assert str(caught.value).startswith(f"--data {data[:1]}")
            assert [] == [one for one in fragments if one not in str(caught.value)]

    def test_names(self):
        """What the file holds is listed, with the name that may be meant."""
        np.savez("b.npz", x_trian=np.ones(3), y_train=np.ones(3))
        line = error("--data", "b.npz")
        assert "it holds 'x_trian', 'y_train'" in line
        assert "'x_trian': Did you mean 'x_train'?" in line
        line = error("--data", "a.npz", "--validation-data", "b.npz")
        assert "--validation-data b.npz: no arrays x and y, or x_val and y_val, or x_test" in line

    def test_damaged_files(self):
        """Files that are cut off, or of another kind than their names say."""
        np.save("x.npy", np.ones((9, 2)))
        Path("cut.npy").write_bytes(Path("x.npy").read_bytes()[:-8])
        Path("no.npy").write_text("no")
        Path("no.npz").write_text("no")
        for data, fragment in {
            "cut.npy,x.npy": "cut.npy: truncated",
            "no.npy,x.npy": "no.npy: not an .npy file",
            "no.npz": "no.npz: not an .npz file",
            "x.npy": "x.npy is one array",
        }.items():
            with pytest.raises(DataError, match=re.escape(fragment)):
                data_files.load(data)

    def test_shapes_of_validation(self):
        """Inputs to validate on have the shape of those to train on."""
        np.savez("b.npz", x=np.ones((4, 3)), y=np.ones(4))
        line = error("--data", "a.npz", "--validation-data", "b.npz")
        assert "--validation-data b.npz: x has rows of shape (3,)" in line and "(2,)" in line

    @pytest.mark.parametrize(
        "changes, target, fragments",
        [
            ({}, None, ["needs --target"]),
            ({}, "hight", ["'hight' is no column", "Did you mean 'height'?"]),
            ({}, "height,height", ["more than once"]),
            ({}, "east,north,height", ["no column is left for x"]),
            ({"city": "Berlin"}, "height", ["'city' holds text ('Berlin')", "get_dummies"]),
            ({"city": "Berlin"}, "city", ["'city' holds text", "cat.codes"]),
            ({"east": [np.nan, *range(39)]}, "height", ["'east' has empty cells (1, the first in row 0"]),
        ],
        ids=["none", "misspelt", "twice", "all", "text", "text target", "empty cell"],
    )  # fmt: skip
    def test_tables(self, changes, target, fragments):
        """Columns that are missing, or hold what is no number."""
        pandas = pytest.importorskip("pandas")
        table(pandas, **changes).to_csv("t.csv", index=False)
        with pytest.raises((ArgumentError, DataError)) as caught:
            data_files.load("t.csv", target)
        message = str(caught.value)
        assert [] == [fragment for fragment in fragments if fragment not in message], message

    def test_damaged_tables(self):
        """Files that pandas does not read."""
        pytest.importorskip("pandas")
        Path("empty.csv").touch()
        Path("head.csv").write_text("a,b\n")
        for data, fragment in {
            "empty.csv": "cannot be read as a .csv file",
            "head.csv": "no rows",
        }.items():
            assert fragment in error("--data", data, "--target", "a")

    def test_columns_of_validation(self):
        """A table to validate on has the columns of that to train on, and no others."""
        pandas = pytest.importorskip("pandas")
        whole = table(pandas)
        whole.to_csv("t.csv", index=False)
        given = ("--data", "t.csv", "--target", "height", "--validation-data", "v.csv")
        whole.rename(columns={"north": "nort"}).to_csv("v.csv", index=False)
        assert "no column 'north'" in (line := error(*given)) and "Did you mean 'nort'?" in line
        table(pandas, more=1).to_csv("v.csv", index=False)
        assert "a column 'more', which --data has not" in error(*given)

    @pytest.mark.parametrize("missing, data", [("pandas", "t.csv"), ("pyarrow", "t.parquet")])
    def test_without_the_extra(self, monkeypatch, missing, data):
        """The extra that reads tables is named."""
        pytest.importorskip("pandas")
        Path(data).touch()
        monkeypatch.setitem(sys.modules, missing, None)
        line = error("--data", data, "--target", "a")
        assert f"{data} is read by {missing}" in line
        assert "pip install 'kerastrain[tables]'" in line

    def test_are_answered_without_tensorflow(self, tmp_path):
        """A mistake in arguments or data is answered where TensorFlow cannot be imported."""
        for name in ("tensorflow", "keras"):
            (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')")
        np.savez("short.npz", x=np.ones((3, 2)), y=np.ones(2))
        checkout = Path(kerastrain.__file__).parents[1]
        for given in (
            ["net.py:network", "--data", "short.npz"],
            ["no.py:network", "--data", "a.npz"],
        ):
            done = subprocess.run(
                [sys.executable, "-m", "kerastrain", "fit", *given],
                capture_output=True, text=True, timeout=600,
                env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{checkout}"},
            )  # fmt: skip
            assert 2 == done.returncode, done.stderr
            assert 1 == len(done.stderr.splitlines()) and "imported" not in done.stderr
