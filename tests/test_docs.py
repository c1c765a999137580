"""Every example runs: the docstrings', the package's synopsis, the README's and the pages'.

The rule for ``.. code-block:: python`` in ``README.rst`` and ``kerastrain/docs/*.rst``: a block whose
first line is an import is a program of its own; any other block continues the program before it.
What a program printed since the block before is compared with the literal block that follows a line
that ends in ``prints::``. A program with ``:class: slow`` in one of its blocks runs with ``-m slow``,
and so do those of the pages that show what the README or another page shows. One with
``:class: process`` starts processes: it is a script of its own, and runs with ``-m process``. The
programs of ``ray.rst`` start daemons, and are run by ``tests/test_ray.py``. A program that imports a
package of an extra is skipped where that is not installed.
"""

import ast
import contextlib
import doctest
import importlib
import os
import pathlib
import pkgutil
import re
import signal
import subprocess
import sys
import warnings
from importlib.util import find_spec

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerastrain
from benchmarks import loopback
from tests.support import workers

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.rst"
PAGES = sorted((ROOT / "kerastrain" / "docs").glob("*.rst"))
NAMES = ["kerastrain"] + [
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


def run(code, capsys, names):
    """Runs code in a namespace and returns what it prints; a warning is an error."""
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=UserWarning)
        warnings.filterwarnings("error", category=DeprecationWarning, module="__main__")
        exec(compile(code, "<example>", "exec"), names)
    return capsys.readouterr().out


def test_package_synopsis(capsys):
    """The program in the package's docstring runs and learns."""
    lines = kerastrain.__doc__.split("::\n", 1)[1].splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    ") or not line)
    printed = run(code, capsys, {"__name__": "__main__"})
    losses = [float(number) for number in re.findall(r"(?<!_)loss: ([\d.e-]+)", printed)]
    assert len(losses) == 5
    assert losses[-1] < 0.5 * losses[0]
    assert "'mae'" in printed


BLOCK = re.compile(
    r"^\.\. code-block:: python\n((?:    :.*\n)*)\n((?:    .*\n|\n)+)"  # options, code
    r"(?:[^\n]*prints::\n\n((?:    .*\n|\n)+))?",  # what it prints
    re.MULTILINE,
)


def dedented(text):
    """Without the four spaces of a block."""
    return re.sub(r"^    ", "", text, flags=re.MULTILINE)


def programs(page):
    """``[(code, what it prints or None) of each block], its classes`` of each program of a page."""
    found = []
    for options, code, shown in re.findall(BLOCK, page.read_text(encoding="utf-8")):
        if re.match(r"(import|from) ", dedented(code)):
            found.append(([], set()))
        found[-1][0].append((dedented(code), dedented(shown) or None))
        found[-1][1].update(re.findall(":class: (\\w+)", options))
    return found


# What they show is in other examples, or in tests of what they call.
MUCH_LIKE_OTHERS = {
    *("callbacks_and_loggers-0", "data-0", "exactness-0", "exactness-1", "models-1"),
    *("resume-0", "several_devices-0"),
}


def with_programs(of_processes=False):
    for page in (README, *(page for page in PAGES if page.stem != "ray")):
        for number, (blocks, classes) in enumerate(programs(page)):
            name = f"{page.stem}-{number}"
            slow = "slow" in classes or name in MUCH_LIKE_OTHERS
            if of_processes == ("process" in classes):
                yield pytest.param(blocks, id=name, marks=pytest.mark.slow if slow else ())


def numbers_and_words(text):
    """The output with durations left out, split into words and numbers."""
    text = re.sub(r"\b\d+(\.\d+)?s\b", "", text)
    pieces = re.findall(r"-?\d+\.\d+(?:e-?\d+)?|[^\s\d.]+|\d+", text)
    return [float(p) if re.fullmatch(r"-?\d+\.\d+(?:e-?\d+)?", p) else p for p in pieces]


def assert_prints(shown, printed):
    """What was printed is what is shown, numbers to 0.02."""
    expected, actual = numbers_and_words(shown), numbers_and_words(printed)
    assert len(expected) == len(actual), printed
    for want, got in zip(expected, actual, strict=True):
        assert got == (pytest.approx(want, abs=0.02) if isinstance(want, float) else want), printed


def imported(code):
    """The packages that a program imports."""
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        yield from (name.partition(".")[0] for name in names)


@pytest.mark.parametrize("blocks", list(with_programs()))
def test_example(blocks, capsys, tmp_path, monkeypatch):
    """Each program of the README and of the pages runs, and prints what stands below it."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    if missing := [name for code, _ in blocks for name in imported(code) if not find_spec(name)]:
        pytest.skip(f"{missing[0]} is not installed.")
    for code, shown in blocks:
        printed = run(code, capsys, names)
        if shown is not None:
            assert_prints(shown, printed)


@pytest.mark.process
@pytest.mark.parametrize("blocks", list(with_programs(of_processes=True)))
def test_example_of_processes(blocks, tmp_path):
    """It prints what stands below it, in time, and leaves no process behind."""
    workers.need_namespace()
    ((code, shown),) = blocks
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen(
        loopback.command_in_namespace([sys.executable, str(script)]),
        cwd=tmp_path, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=(tmp_path / "errors").open("w"), text=True,
    )  # fmt: skip
    try:
        printed, _ = process.communicate(timeout=300)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 0 == process.returncode, (tmp_path / "errors").read_text()[-3000:]
    assert_prints(shown, printed)


def test_readme_has_a_first_screen():
    """One sentence, then a program of about 20 lines, then its output."""
    (code, shown), *_ = programs(README)[0][0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    assert shown


def test_readme_is_short():
    """All that is not for everybody is in the pages, which the README or a page it lists links."""
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 330
    listed = {target.resolve() for target, _ in links(README)}
    listed |= {target.resolve() for page in listed & {*PAGES} for target, _ in links(page)}
    assert [] == [page.name for page in PAGES if page not in listed]


def links(page):
    """``(file, section or None)`` of each relative link."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"`[^`<]*<([^`>]+)>`__", text):
        if not re.match("[a-z]+:", target):
            file, _, section = target.partition("#")
            yield page.parent / file, section or None


def sections(page):
    """The anchors of a page's titles."""
    titles = re.findall(r"^(\S.*)\n[=-]{3,}$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") for title in titles}


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_links(page):
    """Every relative link points to a file, and to a section that it has."""
    for target, section in links(page):
        assert target.is_file(), target
        assert section is None or section in sections(target), f"{target}#{section}"


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_tables(page):
    """No text of a table stands in the margin of two columns, where it would not be a table."""
    border = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if re.fullmatch(r" *=+( =+)+", line):
            border = line
        elif not line.strip():
            border = None
        elif border:
            margins = [m.start() for m in re.finditer("(?<==) ", border)]
            assert {" "} >= {line[at] for at in margins if at < len(line)}, line


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_paths(page):
    """Every file or folder of the project that a page names exists."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"``((?:kerastrain|tests|benchmarks)/[\w/]*(?:\.\w+)?)``", text)
    assert [] == [path for path in named if not (ROOT / path).exists()]
    modules = re.findall(r"python -m\s+((?:benchmarks|tests|kerastrain)\.[\w.]+)", text)
    files = [ROOT / module.replace(".", "/") for module in modules]
    assert [] == [f for f in files if not (f.with_suffix(".py").exists() or f.is_dir())]


def test_every_law_is_documented():
    """The page names each law, and those that are strict."""
    text = (ROOT / "kerastrain" / "docs" / "metrics_and_laws.rst").read_text(encoding="utf-8")
    laws = kerastrain.testing.LAWS
    assert [] == [name for name in laws if f"``{name}``" not in text]
    strict = re.search(r"strict laws run with (.*?\. )", text, re.DOTALL)
    for name, law in laws.items():
        assert law.strict == (f"``{name}``" in strict.group(1)), name
