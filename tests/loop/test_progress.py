"""What is shown of a training: where, when, and at what width."""

import io
import sys
import types

import keras
import numpy as np
import pytest
from rich.console import Console

from kerastrain import ArgumentError
from kerastrain import Trainer
from kerastrain.execution import plan_choice
from kerastrain.execution import plans
from kerastrain.loop import displays
from kerastrain.loop import Progress
from kerastrain.loop import progress as progress_lib
from tests.support import datasets
from tests.support import models

X, Y, _ = datasets.regression(rows=40)
RESULTS = {"accuracy": 0.5, "loss": 0.25, "val_accuracy": 0.75, "val_loss": 2.0}


class Screen(displays.Lines):
    """Keeps what is drawn, as text of some width, and the lines that stay."""

    is_live = True

    def __init__(self, width=160):
        self.drawn, self.printed, self.columns = [], [], width

    @property
    def width(self):
        return self.columns

    def draw(self, renderable):
        out = io.StringIO()
        Console(file=out, width=self.columns, legacy_windows=False).print(renderable)
        self.drawn.append(out.getvalue().rstrip())

    def print(self, line):
        self.printed.append(line)


@pytest.fixture
def screen(monkeypatch):
    """In the place of the terminal, whatever ``verbose`` is; drawn as often as there is something."""
    screen = Screen()
    monkeypatch.setattr(progress_lib, "make_display", lambda live: screen)
    monkeypatch.setattr(progress_lib, "INTERVAL", 0.0)
    monkeypatch.setattr(progress_lib, "_FIRST", 1e9)
    return screen


def fitted(**fit):
    trainer = Trainer(models.mlp(), optimizer="adam", loss="mse", metrics=["mae"], seed=0)
    options = {"batch_size": 4, "epochs": 2, "validation_data": (X[:9], Y[:9])} | fit
    trainer.fit(X, Y, **options)
    return trainer


def test_a_training_from_the_first_second(screen, tmp_path):
    """The title at once, then what takes time, steps, and a line of its own for the validation."""
    fitted(run_dir=tmp_path / "run")
    assert "Epoch 1/2 - starting ..." == screen.drawn[0]
    assert "Epoch 1/2 - drawing the first batch ..." == screen.drawn[1]
    text = "\n".join(screen.drawn)
    order = ["restoring", " 0/10", "Epoch 1/2 - compiling", " 10/10", "validating", "saving"]
    places = [text.index(words) for words in order]
    assert sorted(places) == places
    assert "validating - compiling" in text
    assert "3/3" in text
    assert [line.split(" - ")[0] for line in screen.printed] == ["Epoch 1/2", "Epoch 2/2"]
    for line in screen.printed:
        names = [part.split(":")[0] for part in line.split(" - ") if ":" in part]
        assert ["loss", "mae", "val_loss", "val_mae"] == names
        assert "/step - " in line
        assert " rows/s - " in line


def test_evaluate_and_predict(screen):
    """Begin with a title, and end with a line."""
    trainer = fitted(verbose=0)
    screen.drawn.clear()
    screen.printed.clear()
    trainer.evaluate(X, Y)
    trainer.predict(X)
    assert "Evaluate - starting ..." == screen.drawn[0]
    (evaluated, predicted) = screen.printed
    names = [part.split(":")[0] for part in evaluated.split(" - ") if ":" in part]
    assert ["loss", "mae"] == names
    assert predicted.startswith("Predict - ")


@pytest.mark.parametrize("width", [60, 100, 160])
@pytest.mark.parametrize("steps", [400, None])
def test_width(width, steps, screen):
    """The loss is there at any width; a bar and the speed where there is space for them."""
    screen.columns = width
    with Progress(1, 10) as progress:
        progress.rows = 32
        progress.begin_epoch(2, steps)
        for done in (100, 200):
            progress.update(done, RESULTS)
        line = screen.drawn[-1]
        assert len(line) <= width
        assert "Epoch 3/10" in line
        assert "loss: 0.2500" in line
        assert ("200/400" if steps else "200 steps") in line
        assert ("━" in line) == (width >= 80 and steps is not None)
        assert ("/step" in line) == ("rows/s" in line) == (width >= 110)


def test_an_unknown_length_has_no_bar(screen):
    """A generator's: the steps are counted, and no bar says that it is done."""

    def batches():
        for i in range(0, 40, 4):
            yield X[i : i + 4], Y[i : i + 4]

    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse")
    trainer.fit(batches(), epochs=1)
    assert "10 steps" in screen.drawn[-1]
    assert not [line for line in screen.drawn if "━" in line]


def test_drawing_takes_a_small_share_of_the_time(screen, monkeypatch):
    """Where epochs are short, it is not drawn for each."""
    monkeypatch.setattr(progress_lib, "_FIRST", 0.0)
    monkeypatch.setattr(progress_lib, "_SHARE", 0.0)
    with Progress(1, 100) as progress:
        for epoch in range(100):
            progress.begin_epoch(epoch, 10)
            progress.update(10, RESULTS)
            progress.end_epoch(RESULTS)
    assert 1 == len(screen.drawn)
    assert 100 == len(screen.printed)


def test_interactive_logging(monkeypatch):
    """Where Keras's is off, "auto" is lines, and 1 is live."""
    wanted = []
    make = progress_lib.make_display
    monkeypatch.setattr(
        progress_lib, "make_display", lambda live: wanted.append(live) or make(live)
    )
    try:
        for verbose in ("auto", 1, 2, 0):
            Progress(verbose, 1)
        keras.config.disable_interactive_logging()
        for verbose in ("auto", 1):
            Progress(verbose, 1)
    finally:
        keras.config.enable_interactive_logging()
    assert [True, True, False, False, False, True] == wanted


def test_a_pipe_gets_plain_lines(capsys):
    """A line for each epoch, of text alone."""
    fitted(verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert ["Epoch 1/2", "Epoch 2/2"] == [line.split(" - ")[0] for line in lines]
    assert not [line for line in lines if "\x1b" in line or "/step" in line]


@pytest.mark.parametrize("verbose", [3, -1, "loud"])
def test_another_verbose(verbose):
    with pytest.raises(ArgumentError, match="`verbose` must be 0"):
        Progress(verbose, 1)


def test_a_plan_in_words():
    """How much faster it is than the next, with both times."""
    choice = plan_choice.Choice([plans.LOOP, plans.XLA_LOOP], prepare=lambda plan: None)
    choice.plan = plans.XLA_LOOP
    choice.seconds = {"xla_loop": 81e-6, "loop": 157e-6}
    assert progress_lib.in_words(choice) == (
        "1.9x faster as one XLA program: 81 us a step, 157 us as many steps in one call"
    )
    choice.seconds = {"xla_loop": 81e-6}
    assert "one XLA program, 81 us a step" == progress_lib.in_words(choice)


@pytest.mark.parametrize(
    "seconds, words",
    [
        (81e-6, "81 us/step"),
        (0.0025, "2.5 ms/step"),
        (0.9996, "1 s/step"),
        (3.25, "3.25 s/step"),
    ],
)
def test_a_time_in_words(seconds, words):
    assert words == progress_lib.speed_in_words(seconds, 0)


# A notebook --------------------------------------------------------------------------


class Outputs(list):
    """Of a cell: what `IPython.display` was given."""

    def display(self, data, raw, display_id):
        self.append([data])
        return types.SimpleNamespace(update=lambda data, raw: self[-1].append(data))


@pytest.fixture
def outputs(monkeypatch):
    """In the place of IPython, inside a kernel."""
    outputs = Outputs()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=None)
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.display = outputs.display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    return outputs


def test_a_notebook_has_one_output(outputs):
    """Of all epochs; what was drawn is gone at the end."""
    fitted(epochs=100)
    (updates,) = outputs
    lines = updates[-1]["text/plain"].splitlines()
    assert [f"Epoch {i + 1}/100" for i in range(100)] == [line.split(" - ")[0] for line in lines]
    assert "Epoch 1/100 - starting ..." == updates[0]["text/plain"]
    assert f"<pre>{updates[-1]['text/plain']}</pre>" == updates[-1]["text/html"]


def test_a_notebook_keeps_the_first_and_the_last_lines(outputs):
    with Progress(1, None) as progress:
        for number in range(1000):
            progress.say(f"<{number}>")
    lines = outputs[0][-1]["text/plain"].splitlines()
    assert ["<0>", "<19>", "... 800 lines ...", "<820>", "<999>"] == [
        lines[i] for i in (0, 19, 20, 21, -1)
    ]
    assert "<pre>&lt;0&gt;" in outputs[0][-1]["text/html"]


def test_ipython_without_a_notebook(outputs, monkeypatch):
    """A shell of IPython is a terminal."""
    sys.modules["IPython"].get_ipython = lambda: types.SimpleNamespace()
    assert not isinstance(displays.make_display(live=True), displays.Notebook)
    sys.modules["IPython"].get_ipython = lambda: None
    assert not isinstance(displays.make_display(live=True), displays.Notebook)


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments", ["", ", run_dir=directory, options=FitOptions(validation_every=1)"]
)
def test_a_real_notebook(tmp_path, arguments):
    """Executed: one output of the cell, besides what others print."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    code = f"""
import keras
import numpy as np
from kerastrain import FitOptions, Trainer
directory = {str(tmp_path)!r}
x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
trainer = Trainer(model, optimizer="sgd", loss="mse", seed=0)
trainer.fit(x, x.sum(axis=1), epochs=100, validation_split=0.25{arguments});
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [out for out in notebook.cells[0].outputs if out.output_type == "display_data"]
    assert 1 == len(shown)
    assert 100 == len(shown[0].data["text/plain"].splitlines())
    assert not [o for o in notebook.cells[0].outputs if o.output_type == "execute_result"]


def test_numbers_are_the_same_whether_shown_or_not(screen):
    """Results are only read."""
    weights = []
    for verbose in (0, 1):
        keras.utils.set_random_seed(3)
        weights.append([w.numpy() for w in fitted(verbose=verbose).model.weights])
    for one, two in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, two)
