"""A version of Keras or TensorFlow that was not tested is a warning, once."""

import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest
import tensorflow as tf

from kerastrain import versions

ROOT = pathlib.Path(__file__).resolve().parent.parent


def warnings_of_import(keras_version, tensorflow_version):
    """What a program that imports the package and uses it is warned of, with these versions."""
    program = f"""
import warnings
import keras
import tensorflow as tf

keras.__version__, tf.__version__ = {keras_version!r}, {tensorflow_version!r}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import kerastrain
    import kerastrain.metrics
    from kerastrain.cli.quiet import quiet_import
    quiet_import("kerastrain.trainer")
for warning in caught:
    print(warning.filename, warning.message)
"""
    command = [sys.executable, "-c", program]
    ended = subprocess.run(
        command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True, timeout=300
    )
    assert 0 == ended.returncode
    return ended.stdout.splitlines()


@pytest.mark.slow
def test_newer_versions():
    """They warn once at the import, at the user's line, of what was tested and whom to tell."""
    (line,) = warnings_of_import("3.16.0", "2.22.0rc1")
    assert line.startswith("<string> ")
    assert "not tested with Keras 3.16.0 and TensorFlow 2.22.0rc1" in line
    assert "with Keras 3.13 to 3.15 and TensorFlow 2.19 to 2.21" in line
    assert "python -m kerastrain doctor" in line


@pytest.mark.slow
def test_tested_versions():
    """Each of them, whatever its last number, and a mixture of pairs, is no warning."""
    for pair in (("3.13.9", "2.19.0"), ("3.15.99", "2.19.1")):
        assert [] == warnings_of_import(*pair)


def test_what_is_tested():
    """The ends of the ranges, releases before the last one, and what is no version."""
    tested = ("3.13.0", "3.14.1", "3.15.0", "3.15.2.dev3", "3.15.1+local")
    assert [True] * 5 == [versions.is_tested("keras", version) for version in tested]
    others = ("3.12.4", "3.16.0.dev1", "3.150.0", "4.13.0", "nightly")
    assert [False] * 5 == [versions.is_tested("keras", version) for version in others]


def test_these_are_tested():
    """This file runs with a version that it calls tested."""
    assert versions.is_tested("keras", keras.__version__)
    assert versions.is_tested("tensorflow", tf.__version__)


def test_requirements_and_pages_say_the_same():
    """The oldest pair is what the package requires, without an upper bound, and what README says."""
    requirements = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for name, tested in versions.TESTED.items():
        assert [f">={tested[0]}"] == re.findall(rf"^    {name}(>.*)$", requirements, re.MULTILINE)
    words = " ".join((ROOT / "README.rst").read_text(encoding="utf-8").split())
    assert versions.ranges() in words
