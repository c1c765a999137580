"""The tests with each pair of Keras and TensorFlow that is supported, and with each Python.

::

    python -m tests.matrix                                    # all pairs, with each Python there is
    python -m tests.matrix --pair oldest --python 3.12
    python -m tests.matrix --pair 3.14-2.20 --whole

Each run has a fresh virtual environment and a fresh copy of the checkout. The newest pair runs the
default tests; the others run `SUBSET`, or with ``--whole`` the default tests too. A Python that this
machine lacks is no failure, but is named. Ends with status 1 where a test fails, or where nothing
was run. Needs nothing but Python, pip and the network.
"""

import argparse
import glob
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
# The newest Python that a version of TensorFlow has wheels for, where that is not the last one.
NEWEST_PYTHON = {"2.19": "3.12"}
# What else a pair needs: Keras 3.13 imports a private module that a newer Grain has elsewhere.
ALSO_PINNED = {"3.13": ("grain<0.2.15",)}
# What older pairs run, in a few minutes: what depends most on Keras's and TensorFlow's own code.
SUBSET = (
    "tests/step/test_steps.py",
    "tests/test_exactness.py",
    "tests/loop",
    "tests/run/test_checkpoint.py",
    "tests/run/test_resume.py",
    "tests/test_model.py",
    "tests/test_trainer.py",
    "tests/test_docs.py",
    # Two by name, where kerastrain does for an older Keras what a newer one does itself.
    "tests/preparation/test_bad_input.py::test_first_call",
    "tests/distribution/test_scoped.py::test_layer_states_are_those_of_another_copy",
)
# Of the examples, those of the README.
SUBSET_ONLY = "not test_docs or README"


def pairs() -> tuple[tuple[str, str], ...]:
    """`kerastrain.versions.PAIRS`, without importing the package and what it needs."""
    text = (ROOT / "kerastrain" / "versions.py").read_text(encoding="utf-8")
    (line,) = re.findall(r"^PAIRS = (.*)$", text, re.MULTILINE)
    return tuple((a, b) for a, b in re.findall(r'\("([\d.]+)", "([\d.]+)"\)', line))


class Run(NamedTuple):
    """The tests with one pair and one Python.

    Attributes:
        keras, tensorflow: as ``"3.13"``.
        python: the interpreter.
        subset: whether only `SUBSET` is run.
    """

    keras: str
    tensorflow: str
    python: str
    subset: bool


class Counts(NamedTuple):
    """How a run has ended; ``installed`` are the versions of Python, Keras, TensorFlow and NumPy."""

    installed: tuple[str, ...]
    passed: int
    failed: int
    skipped: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is asked for, prints the table, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--pair", default="all", help="all, oldest, newest, or one as 3.14-2.20")
    parser.add_argument(
        "--python", default="all", help="all, oldest (that is here), or one as 3.12"
    )
    parser.add_argument("--whole", action="store_true", help="run all default tests in each pair")
    options = parser.parse_args(arguments)
    try:
        chosen = chosen_pairs(options.pair)
    except ValueError as error:
        parser.error(str(error))
    versions = chosen_pythons(options.python, find_python)
    runs, left_out = planned(chosen, versions, find_python, options.whole)
    done = []
    for run in runs:
        print(f"\n=== Keras {run.keras}, TensorFlow {run.tensorflow}, {run.python}", flush=True)
        done.append(carried_out(run))
    print("\n" + "\n".join(table(done)))
    for reason in left_out:
        print(f"not run: {reason}")
    return int(not done or any(counts.failed for counts in done))


def chosen_pairs(name: str) -> list[tuple[str, str]]:
    """The pairs that ``--pair`` names.

    Raises:
        ValueError: it names none.
    """
    if name == "all":
        return [*pairs()]
    if name in ("oldest", "newest"):
        return [pairs()[0 if name == "oldest" else -1]]
    if re.fullmatch(r"\d+\.\d+-\d+\.\d+", name):
        keras, _, tensorflow = name.partition("-")
        return [(keras, tensorflow)]
    raise ValueError(
        f"--pair must be all, oldest, newest, or such as 3.14-2.20. Received: {name!r}."
    )


def chosen_pythons(name: str, find: Callable[[str], str | None]) -> tuple[str, ...]:
    """The versions that ``--python`` names; the oldest is that of those which ``find`` finds."""
    if name == "oldest":
        return next(((v,) for v in PYTHONS if find(v) is not None), PYTHONS)
    return PYTHONS if name == "all" else (name,)


def planned(
    chosen: Sequence[tuple[str, str]],
    versions: Sequence[str],
    find: Callable[[str], str | None],
    whole: bool,
) -> tuple[list[Run], list[str]]:
    """The runs, and in words what is not run.

    Args:
        chosen: pairs.
        versions: of Python.
        find: gives the interpreter of a version; None where there is none.
        whole: whether older pairs run all default tests.
    """
    pythons = {version: find(version) for version in versions}
    left_out = [
        f"Python {v}, which is not on this machine" for v, path in pythons.items() if not path
    ]
    runs = []
    for keras, tensorflow in chosen:
        newest = NEWEST_PYTHON.get(tensorflow, PYTHONS[-1])
        for version, path in pythons.items():
            if _numbers(version) > _numbers(newest):
                left_out.append(
                    f"TensorFlow {tensorflow} with Python {version}, for which it has no wheel"
                )
            elif path is not None:
                subset = not whole and (keras, tensorflow) != pairs()[-1]
                runs.append(Run(keras, tensorflow, path, subset))
    return runs, left_out


def _numbers(version: str) -> list[int]:
    return [*map(int, version.split("."))]


def find_python(version: str) -> str | None:
    """An interpreter of a version: this one, one on the PATH, or one of pyenv's."""
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    of_pyenv = sorted(glob.glob(os.path.join(root, "versions", f"{version}*", "bin", "python")))
    for path in (sys.executable, shutil.which(f"python{version}"), *of_pyenv):
        if path is not None and _version_of(path) == version:
            return path
    return None


def _version_of(python: str) -> str | None:
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.check_output(
            [python, "-c", program], text=True, stderr=subprocess.DEVNULL, timeout=60
        ).strip()
    except (OSError, subprocess.SubprocessError):  # a shim of pyenv's may stand for nothing
        return None


def carried_out(run: Run) -> Counts:
    """Makes the environment, installs, tests, and counts; nothing is left of it."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kerastrain-matrix-") as directory:
        work = pathlib.Path(directory)
        subprocess.run([run.python, "-m", "venv", work / "venv"], check=True, env=environment)
        copy = work / "checkout"
        shutil.copytree(ROOT, copy, ignore=_ignored)
        (python,) = (p for p in work.glob("venv/*/python*") if p.stem == "python")

        def call(*command: object, check: bool = True) -> None:
            subprocess.run([python, "-m", *command], check=check, cwd=copy, env=environment)

        pins = f"keras=={run.keras}.*", f"tensorflow=={run.tensorflow}.*"
        call("pip", "install", "--quiet", ".[test]", *pins, *ALSO_PINNED.get(run.keras, ()))
        # In the copy, which comes first on the path: what is tested is what was installed from it.
        report = work / "report.xml"
        chosen = (*SUBSET, "-k", SUBSET_ONLY) if run.subset else ()
        call("pytest", "-q", f"--junitxml={report}", *chosen, check=False)
        names = (
            "import sys, importlib.metadata as m; print(sys.version.split()[0], *map(m.version, "
        )
        names += "['keras', 'tensorflow', 'numpy']))"
        found = subprocess.check_output([python, "-c", names], text=True, env=environment)
        return Counts(tuple(found.split()), *counted(report), time.monotonic() - begun)


def _ignored(directory: str, names: list[str]) -> Iterator[str]:
    """What is no part of the checkout: what installations, tests and tools leave behind."""
    del directory
    hidden = {name for name in names if name.startswith(".") and name not in (".ci", ".gitignore")}
    others = {"__pycache__", "build", "dist", "venv"}
    return (n for n in names if n in hidden | others or n.endswith(".egg-info"))


def counted(report: pathlib.Path) -> tuple[int, int, int]:
    """``(passed, failed, skipped)`` by pytest's report; without one, a failure."""
    if not report.exists():
        return 0, 1, 0
    suites = list(xml.etree.ElementTree.parse(report).getroot().iter("testsuite"))
    total, failed, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites)
        for name in ("tests", "failures", "errors", "skipped")
    )
    nothing_ran = int(total == 0)
    return total - failed - errors - skipped, failed + errors + nothing_ran, skipped


def table(done: Sequence[Counts]) -> Iterator[str]:
    """The lines of the table."""
    titles = ("python", "keras", "tensorflow", "numpy", "passed", "failed", "skipped", "seconds")
    yield "  ".join(f"{title:>10}" for title in titles)
    for counts in done:
        cells = (*counts.installed, *counts[1:4], f"{counts.seconds:.0f}")
        yield "  ".join(f"{cell:>10}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
