"""Every example runs: the docstrings', the package's synopsis and the README's."""

import doctest
import importlib
import pathlib
import pkgutil
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerastrain

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.rst"
NAMES = [
    m.name
    for m in pkgutil.walk_packages(kerastrain.__path__, "kerastrain.")
    if not m.name.endswith("__main__") and ".examples." not in m.name
]


def with_docstring_examples():
    for name in NAMES:
        module = importlib.import_module(name)
        for test in doctest.DocTestFinder(exclude_empty=True).find(module):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("test", list(with_docstring_examples()))
def test_docstring_example(test):
    """The example prints what the docstring says."""
    test.globs.update(keras=keras, np=np, tf=tf, kerastrain=kerastrain)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.DocTestRunner(optionflags=flags).run(test).failed == 0


def run(code, capsys):
    """Runs a program and returns what it prints."""
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)
        exec(compile(code, "<example>", "exec"), {"__name__": "__main__"})
    return capsys.readouterr().out


def test_package_synopsis(capsys):
    """The program in the package's docstring runs and learns."""
    lines = kerastrain.__doc__.split("::\n", 1)[1].splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    ") or not line)
    printed = run(code, capsys)
    losses = [float(number) for number in re.findall(r"(?<!_)loss: ([\d.e-]+)", printed)]
    assert len(losses) == 5
    assert losses[-1] < 0.5 * losses[0]
    assert "'mae'" in printed


def blocks(language):
    """``(code, the output block right after it, or None)`` in the README."""
    text = README.read_text(encoding="utf-8")
    pattern = rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)"
    for match in re.finditer(pattern, text, re.MULTILINE):
        code = re.sub(r"^    ", "", match.group(1), flags=re.MULTILINE)
        shown = re.match(
            r"[^\n]*prints::\n\n((?:    .*\n|\n)+)", text[match.end() :], re.MULTILINE
        )
        yield code, shown and re.sub(r"^    ", "", shown.group(1), flags=re.MULTILINE)


def numbers_and_words(text):
    """The output with durations left out, split into words and numbers."""
    text = re.sub(r"\b\d+(\.\d+)?s\b", "", text)
    pieces = re.findall(r"-?\d+\.\d+(?:e-?\d+)?|[^\s\d.]+|\d+", text)
    return [float(p) if re.fullmatch(r"-?\d+\.\d+(?:e-?\d+)?", p) else p for p in pieces]


@pytest.mark.parametrize("number", range(len(list(blocks("python"))) if README.exists() else 0))
def test_readme_example(number, capsys, tmp_path, monkeypatch):
    """Each program of the README runs, and prints what stands below it."""
    monkeypatch.chdir(tmp_path)
    code, shown = list(blocks("python"))[number]
    printed = run(code, capsys)
    if shown is None:
        return
    expected, actual = numbers_and_words(shown), numbers_and_words(printed)
    assert len(expected) == len(actual), printed
    for want, got in zip(expected, actual, strict=True):
        assert got == (pytest.approx(want, abs=0.02) if isinstance(want, float) else want), printed


def test_readme_has_a_first_screen():
    """One sentence, then a program of about 20 lines, then its output."""
    code, shown = next(blocks("python"))
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    assert shown
