"""Every command of the page of the command line runs, and prints what stands below it.

The rule for ``.. code-block:: console``: each line that begins with ``$ kerastrain`` is run, with status
0, in a directory where ``net.py`` is the first block of Python and the others have been run; what
stands below it, up to the next command, is what it prints.
"""

import re
import shlex
import sys

import pytest
from typer.testing import CliRunner

from kerastrain.cli import app
from tests import test_docs

(PAGE,) = (page for page in test_docs.PAGES if page.stem == "command_line")
CONSOLE = re.compile(r"^\.\. code-block:: console\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def commands():
    """``(command, what it prints)``."""
    for block in re.findall(CONSOLE, PAGE.read_text(encoding="utf-8")):
        for piece in re.split(r"^\$ ", test_docs.dedented(block), flags=re.MULTILINE)[1:]:
            command, _, shown = piece.partition("\n")
            slow = command.startswith("kerastrain demo")
            marks = pytest.mark.slow if slow else ()
            yield pytest.param(command, shown.strip(), marks=marks, id=command[:50])


@pytest.mark.parametrize("command, shown", list(commands()))
def test_command(command, shown, tmp_path, monkeypatch, capsys):
    """It ends with status 0."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "net", raising=False)
    ((net, _),), *others = (blocks for blocks, _ in test_docs.programs(PAGE))
    (tmp_path / "net.py").write_text(net)
    for blocks in others:
        for code, _ in blocks:
            test_docs.run(code, capsys, {"__name__": "__main__"})
    program, *arguments = shlex.split(command)
    assert "kerastrain" == program
    if "plane.csv" in arguments:
        pytest.importorskip("pandas")
    done = CliRunner().invoke(app, arguments)
    sys.modules.pop("net", None)
    assert 0 == done.exit_code, (done.output, done.exception)
    if shown:
        durations = re.compile(r"\d+\.\d s\b")
        test_docs.assert_prints(durations.sub("", shown), durations.sub("", done.output))


def test_all_verbs_and_options():
    """The page has every verb that there is, and every option of `fit`."""
    text = PAGE.read_text(encoding="utf-8")
    verbs = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert len(verbs) >= 6
    assert [] == [verb for verb in verbs if f"``kerastrain {verb}" not in text]
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["fit", "--help"]).stdout
    options = set(re.findall(r"(--[a-z][a-z-]+) ", listed)) - {"--help"}
    assert len(options) >= 13
    assert [] == [option for option in options if f"``{option}``" not in text]
