"""Objects by name: of modules and of files, and what is said of names that are wrong."""

import os
import sys
from pathlib import Path

import pytest

from kerastrain.cli import named
from kerastrain.errors import ArgumentError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty directory; modules of it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("look", [named.check, named.load])
def test_mistakes_are_found_alike(look):
    """With and without importing, what may have been meant is said."""
    Path("metrics_of_mine.py").write_text("def f1(): ...")
    for name, fragment in {
        "metrics_of_mien:f1": "Did you mean 'metrics_of_mine'?",
        "metrics_of_mien.py:f1": "Did you mean 'metrics_of_mine.py'?",
        "metrics_of_mine": "Expected MODULE:NAME or FILE.py:NAME",
    }.items():
        with pytest.raises(ArgumentError) as caught:
            look(name)
        assert fragment in str(caught.value) and repr(name) in str(caught.value)
    look("metrics_of_mine:f1")
    look("metrics_of_mine.py:f1")
    assert ("metrics_of_mine" in sys.modules) == (look is named.load)


def test_modules_beside_the_file():
    """A file of another directory imports what lies beside it."""
    os.mkdir("sub")
    Path("sub/parts.py").write_text("units = 7")
    Path("sub/whole.py").write_text("from parts import units")
    assert 7 == named.load("sub/whole.py:units")


def test_two_files_of_one_name():
    """Each is itself, loaded once, and the first is named as a module would be."""
    for directory in ("one", "two"):
        os.mkdir(directory)
        Path(directory, "same.py").write_text(f"class A:\n    of = {directory!r}")
    one, two = named.load("one/same.py:A"), named.load("two/same.py:A")
    assert ("one", "two", "same") == (one.of, two.of, one.__module__)
    assert two is named.load("two/same.py:A") and one is named.load("one/same.py:A")


def test_a_file_that_fails():
    """An error of the file's own code comes out, and the module is not kept half-made."""
    Path("failing.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        named.load("failing.py:a")
    assert "failing" not in sys.modules


def test_names_that_are_none():
    """Files without the suffix, names without a part, files of zeros."""
    os.mkdir("d")
    Path("d/net").touch()
    Path("zeros.py").write_bytes(b"\0")
    for name, fragment in {
        "d/net:a": "must end in .py",
        "net.py:": "Expected",
        "a:b..c": "Expected",
        "zeros.py:a": "is no Python",
    }.items():
        with pytest.raises(ArgumentError, match=fragment):
            named.load(name)
