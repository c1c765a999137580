"""A report of runs is one page with all in it, and says what differs and what happened."""

import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from kerastrain import RunError
from kerastrain import Trainer
from kerastrain.cli import app
from kerastrain.report import files
from kerastrain.report import plot_history
from kerastrain.report import write_report

HISTORY = """epoch,steps,seconds,learning_rate,a_loss,loss,val_loss,val_far_mae,mae
1,10,2.0,0.1,0.5,1.0,2.0,,0.7
2,20,1.0,0.05,0.4,0.5,,3.0,0.6
"""
EVENTS = [
    {"time": "2026-01-02T03:04:05.678+00:00", "event": "begin", "epoch": 1, "epochs": 4},
    {"event": "save", "steps": 10},
    {"event": "interrupted", "error": "Preempted: <b>", "seconds": {"step": 1.0, "data": 0.0}},
    {"event": "resume", "epoch": 2, "epochs": 4},
    {"event": "save", "steps": 20},
    {"event": "end", "seconds": {"step": 2.0, "validation": 0.5}},
]


def make_run(directory, rate=0.1, history=HISTORY, events=EVENTS):
    directory.mkdir(parents=True)
    (directory / "history.csv").write_text(history)
    (directory / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    config = {
        "optimizer": {"name": "adam", "learning_rate": rate},
        "model": {"summary": "<layers>"},
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture
def needs_plotly():
    pytest.importorskip("plotly")
    pytest.importorskip("jinja2")


# What is read ------------------------------------------------------------------------


def test_a_run_is_read(tmp_path):
    run = files.RunFiles.read(make_run(tmp_path / "a"))
    assert ("a", [1, 2]) == (run.name, run.epochs)
    assert ["loss", "a_loss", "mae"] == run.results
    assert (["val_loss"], ["val_far_mae"], []) == tuple(
        run.validations_of(name) for name in ("loss", "mae", "a_loss")
    )
    assert [2.0] == [value for value in run.columns["val_loss"] if value == value]
    assert [5.0, 10.0] == run.steps_per_second
    assert {"step": 3.0, "validation": 0.5} == run.seconds
    assert "ended after 2 of 4 epochs" == run.status


@pytest.mark.parametrize(
    "count, status",
    [
        (1, "running, or killed, after 2 of 4 epochs"),
        (3, "interrupted after 2 of 4 epochs: Preempted: <b>"),
        (4, "running, or killed, after 2 of 4 epochs"),
        (0, "unknown after 2 epochs"),
    ],
)
def test_how_it_ended(count, status, tmp_path):
    assert status == files.RunFiles.read(make_run(tmp_path / "a", events=EVENTS[:count])).status


def test_names_tell_runs_apart(tmp_path):
    """By as many parts of their paths as that takes."""
    paths = [make_run(tmp_path / name) for name in ("a/run", "b/run")]
    assert ["a/run", "b/run"] == [run.name for run in files.read_runs([*map(str, paths)])]
    assert ["run"] == [run.name for run in files.read_runs([str(paths[0])])]
    same = files.read_runs([str(paths[0])] * 2)
    assert ["run", "run"] == [run.name for run in same]


def test_what_differs(tmp_path):
    """Values, and not the names that Keras numbers."""
    runs = [
        files.RunFiles.read(make_run(tmp_path / name, rate))
        for name, rate in (("a", 0.1), ("b", {"class_name": "CosineDecay"}))
    ]
    found = files.differences(runs)
    assert {
        "optimizer.learning_rate": [0.1, None],
        "optimizer.learning_rate.class_name": [None, "CosineDecay"],
    } == found


@pytest.mark.parametrize("what", ["nothing", "a directory", "a history without a row"])
def test_no_run(what, tmp_path):
    if what != "nothing":
        (tmp_path / "a").mkdir()
    if what.startswith("a history"):
        (tmp_path / "a" / "history.csv").write_text("epoch,loss\n")
    with pytest.raises(RunError, match="There is no run directory|nothing to report"):
        files.RunFiles.read(tmp_path / "a")


# The page -----------------------------------------------------------------------------


def test_the_page(needs_plotly, tmp_path):
    """Of several runs, with all in it: no address is loaded, and no text of a run is HTML."""
    runs = [str(make_run(tmp_path / "<i>a")), str(make_run(tmp_path / "b", 0.2))]
    text = write_report(runs, tmp_path / "report.html").read_text()
    page = text[text.index("</style>") :]
    library = page[page.index("<script>") : page.index("</script>")]
    page = page.replace(library, "")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert "&lt;i&gt;a" in page
    scripts = page[page.index("const figures") :]
    assert "<i>a" not in page.replace(scripts, "")
    assert "&lt;layers&gt;" in page
    for name in ("loss", "mae", "a_loss", "learning rate", "steps a second"):
        assert f"<h3>{name}</h3>" in page
    assert "optimizer.learning_rate" in page
    assert "2 checkpoints" in page
    assert "2026-01-02 03:04:05" in page
    assert "0.5 (lowest 0.5 in epoch 2, highest 1 in epoch 1)" in page


def test_the_page_of_a_training(needs_plotly, tmp_path):
    """From its run directory, by the command line."""
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    trainer = Trainer(model, optimizer="sgd", loss="mse", metrics=["mae"], seed=0)
    data = {"validation_data": (x, x.sum(axis=1)), "verbose": 0}
    trainer.fit(x, x.sum(axis=1), epochs=3, run_dir=tmp_path / "a", **data)
    output = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(tmp_path / "a"), "-o", str(output)])
    assert 0 == result.exit_code, result.output
    page = output.read_text()
    assert "ended after 3 of 3 epochs" in page
    assert "val_mae" in page
    assert "What differs" not in page


def test_mistakes_are_one_line(needs_plotly, tmp_path):
    result = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert 2 == result.exit_code
    assert "There is no run directory" in result.output


def test_without_plotly(monkeypatch, tmp_path):
    """The message says how to install it."""
    monkeypatch.setitem(__import__("sys").modules, "plotly.graph_objects", None)
    result = CliRunner().invoke(app, ["report", str(make_run(tmp_path / "a"))])
    assert 2 == result.exit_code
    assert "kerastrain[report]" in result.output


@pytest.mark.process
@pytest.mark.parametrize("width", [400, 1300])
def test_in_a_browser(width, needs_plotly, tmp_path):
    """Every figure is drawn, and nothing is wider than the page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("There is no Chromium.")
    path = write_report(
        [str(make_run(tmp_path / "a")), str(make_run(tmp_path / "b"))], tmp_path / "r.html"
    )
    text = path.read_text().replace(
        "</body>",
        "<script>addEventListener('load', () => { document.title = [document.querySelectorAll('.main-svg')"
        ".length > 0, document.documentElement.scrollWidth <= innerWidth,"
        " document.querySelectorAll('.js-plotly-plot').length].join(); });</script></body>",
    )
    path.write_text(text)
    done = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
         "--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}",
         f"--window-size={width},900", path.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    title = re.search("<title>(.*?)</title>", done.stdout)[1]
    assert "true,true,6" == title


# Axes ---------------------------------------------------------------------------------


@pytest.fixture
def pyplot(monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_a_history_plots_itself(pyplot):
    """One axes for each result; a validation's values stand at their epochs."""
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    trainer = Trainer(model, optimizer="sgd", loss="mse", metrics=["mae"], seed=0)
    data = {"validation_data": (x, x.sum(axis=1)), "validation_freq": 2, "verbose": 0}
    history = trainer.fit(x, x.sum(axis=1), epochs=5, **data)
    axes = history.plot()
    assert ["loss", "mae"] == [axis.get_title() for axis in axes]
    lines = {line.get_label(): line for line in axes[0].get_lines()}
    assert ["loss", "val_loss"] == [*lines]
    assert [1, 2, 3, 4, 5] == list(lines["loss"].get_xdata())
    assert [2, 4] == list(lines["val_loss"].get_xdata())
    assert history.history["val_loss"] == list(lines["val_loss"].get_ydata())


def test_a_resumed_history_plots_all(pyplot, tmp_path):
    """Also the epochs before the resume."""
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    for epochs in (2, 5):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        trainer = Trainer(model, optimizer="sgd", loss="mse", seed=0)
        history = trainer.fit(x, x.sum(axis=1), epochs=epochs, run_dir=tmp_path, verbose=0)
    assert {"loss": [1, 2, 3, 4, 5]} == history.epochs_of
    assert isinstance(history, keras.callbacks.History)
    (axis,) = history.plot()
    assert [1, 2, 3, 4, 5] == list(axis.get_lines()[0].get_xdata())


def test_sets_by_name(pyplot):
    axes = plot_history({"loss": [1.0], "val_far_loss": [2.0], "val_near_loss": [3.0]})
    assert ["loss", "val_far_loss", "val_near_loss"] == [x.get_label() for x in axes[0].get_lines()]
