"""The matrix runs what it says, and says what it does not run."""

import pytest

from kerastrain import versions
from tests import matrix


def test_pairs():
    """They are those of the package, the oldest first; any other can be named."""
    assert versions.PAIRS == matrix.pairs()
    assert [*versions.PAIRS] == matrix.chosen_pairs("all")
    assert [("3.13", "2.19")] == matrix.chosen_pairs("oldest")
    assert [("3.15", "2.21")] == matrix.chosen_pairs("newest")
    assert [("3.15", "2.20")] == matrix.chosen_pairs("3.15-2.20")
    with pytest.raises(ValueError, match="Received: '3.15'"):
        matrix.chosen_pairs("3.15")


def test_what_is_run():
    """Older pairs run the subset; a Python that is not there, or has no wheel, is named."""
    there = {"3.11": "/a/python", "3.13": "/b/python"}
    runs, left_out = matrix.planned(versions.PAIRS, matrix.PYTHONS, there.get, whole=False)
    expected = [("3.13", "/a/python", True), ("3.14", "/a/python", True)]
    expected += [("3.14", "/b/python", True), ("3.15", "/a/python", False)]
    expected += [("3.15", "/b/python", False)]
    assert expected == [(run.keras, run.python, run.subset) for run in runs]
    assert left_out == [
        "Python 3.12, which is not on this machine",
        "TensorFlow 2.19 with Python 3.13, for which it has no wheel",
    ]
    runs, _ = matrix.planned(versions.PAIRS, matrix.PYTHONS, there.get, whole=True)
    assert not any(run.subset for run in runs)


def test_which_python():
    """All, one, or the oldest that is there."""
    assert matrix.PYTHONS == matrix.chosen_pythons("all", {}.get)
    assert ("3.12",) == matrix.chosen_pythons("3.12", {}.get)
    assert ("3.13",) == matrix.chosen_pythons("oldest", {"3.13": "/b/python"}.get)
    assert matrix.PYTHONS == matrix.chosen_pythons("oldest", {}.get)


def test_the_subset_is_there():
    """A file that is renamed is missed here, and not first where an older pair runs."""
    for path, _, name in (one.partition("::") for one in matrix.SUBSET):
        assert (matrix.ROOT / path).exists()
        assert not name or f"\ndef {name}(" in (matrix.ROOT / path).read_text(encoding="utf-8")


def test_a_python_that_is_not_there():
    """It is looked for by running it."""
    assert matrix.find_python("3.99") is None


def test_counts(tmp_path):
    """Errors are failures, and so is a run without tests, or without a report."""
    report = tmp_path / "report.xml"
    assert (0, 1, 0) == matrix.counted(report)
    suite = '<testsuite tests="9" failures="2" errors="1" skipped="1"/>'
    report.write_text(f"<testsuites>{suite}</testsuites>")
    assert (5, 3, 1) == matrix.counted(report)
    report.write_text('<testsuites><testsuite tests="0"/></testsuites>')
    assert (0, 1, 0) == matrix.counted(report)


def test_table():
    """A line for each run, below the titles."""
    counts = matrix.Counts(("3.11.7", "3.13.2", "2.19.1", "2.1.3"), 5, 3, 1, 61.4)
    titles, line = matrix.table([counts])
    assert ["3.11.7", "3.13.2", "2.19.1", "2.1.3", "5", "3", "1", "61"] == line.split()
    assert len(line.split()) == len(titles.split())


def test_nothing_to_run(capsys):
    """It is a failure, and says why."""
    assert 1 == matrix.main(["--python", "3.99"])
    assert "not run: Python 3.99, which is not on this machine" in capsys.readouterr().out
