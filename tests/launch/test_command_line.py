"""``kerastrain launch``: its arguments, its signals, and that it imports nothing heavy."""

import contextlib
import fcntl
import os
import signal
import sys
import termios

import pytest
from typer.testing import CliRunner

from kerastrain.cli import app
from tests.launch.conftest import BOUND
from tests.launch.conftest import wait_for


def invoke(*arguments):
    """Runs the verb in this process."""
    return CliRunner().invoke(app, ["launch", *map(str, arguments)])


class TestArguments:
    """What is the launcher's, and what the script's."""

    def test_the_scripts_own(self, processes, capfd):
        """All that follows the script is passed to it."""
        script = processes.script("print(sys.argv[1:])")
        assert 0 == invoke("--workers", 1, script, "-m", "--workers", "x", "--", "-").exit_code
        assert "[0] ['-m', '--workers', 'x', '--', '-']\n" == capfd.readouterr().out

    def test_module(self, processes, capfd):
        """-m runs a module, as Python does."""
        (processes.directory / "a_module.py").write_text(
            "import sys; print(__name__, sys.argv[1:])"
        )
        assert 0 == invoke("--workers", 1, "-m", "a_module", "--flag").exit_code
        assert "[0] __main__ ['--flag']\n" == capfd.readouterr().out

    def test_options(self, processes, capfd):
        """Options arrive."""
        script = processes.script("print(os.environ['KERASTRAIN_RUN_DIR'], restart); sys.exit(6)")
        given = ("--workers", 1, "--max-restarts", 1, "--run-dir", "runs/a", script)
        assert 6 == invoke(*given).exit_code
        assert "[0] runs/a 0\n[0] runs/a 1\n" == capfd.readouterr().out

    @pytest.mark.parametrize("arguments, message", [
        (["script.py"], "Missing option '--workers'"),
        (["--workers", "1"], "Missing argument 'SCRIPT'"),
        (["--workers", "0", "x.py"], "'--workers'"),
        (["--worker", "2", "x.py"], "--workers"),
        (["--workers", "2", "--max-restarts", "-1", "x.py"], "'--max-restarts'"),
        (["--workers", "2", "tran.py"], "Did you mean 'train.py'?"),
        (["--workers", "2", "--port", "5000", "train.py"], "--port 5000 needs --hosts"),
        (["--workers", "2", "--host-index", "0", "train.py"], "--host-index 0 needs --hosts"),
        (["--workers", "2", "--hosts", "a,b", "--host-index", "0", "train.py"], "needs --port"),
        (["--workers", "2", "--hosts", "a,b", "--port", "5000", "train.py"], "--rendezvous"),
    ])  # fmt: skip
    def test_what_is_refused(self, processes, arguments, message):
        """It is named, with status 2."""
        (processes.directory / "train.py").touch()
        result = invoke(*arguments)
        assert (2, "") == (result.exit_code, result.stdout)
        assert message in result.stderr

    def test_imports_nothing_heavy(self, processes, tmp_path, monkeypatch):
        """The launcher runs where TensorFlow, Keras and NumPy cannot be imported."""
        for name in ("tensorflow", "keras", "numpy"):
            (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
        launcher = processes.launch("--workers", 1, processes.script("print('ran')"))
        assert ("[0] ran\n", "") == launcher.communicate(timeout=BOUND)
        assert 0 == launcher.returncode


# A worker that counts the signals it gets, and ends a while after the first.
COUNTING = """
def count(number, frame):
    with open(f"signals{rank}", "a") as file:
        file.write(f"{number} ")

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, count)
note(f"ready{rank}")
"""


def ready(processes, *options, end):
    """A launcher whose two workers have their handlers."""
    launcher = processes.launch("--workers", 2, *options, processes.script(COUNTING + end))
    files = [processes.directory / f"ready{rank}" for rank in (0, 1)]
    wait_for(lambda: all(file.exists() for file in files), "the workers do not start")
    return launcher


def is_full(pipe):
    """Whether little more fits into a pipe."""
    waiting = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(waiting, sys.byteorder) > 60_000


@pytest.mark.process
class TestSignals:
    """What signals to the launcher do."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("status", [0, 143])
    def test_first(self, processes, number, status):
        """It is passed on once, and no worker is started again, whatever they end with."""
        end = f"wait_for(f'signals{{rank}}'); time.sleep(0.3); sys.exit({status})"
        launcher = ready(processes, "--max-restarts", 3, end=end)
        launcher.send_signal(number)
        _, error = launcher.communicate(timeout=BOUND)
        assert 128 + number == launcher.returncode
        assert error.startswith(f"kerastrain: {number.name} is passed on to all workers, which have"
                                " 30 s to end. Once more kills them.\n")  # fmt: skip
        assert 1 == error.count("kerastrain: ")
        for rank in (0, 1):
            assert f"{number} " == (processes.directory / f"signals{rank}").read_text()

    def test_of_a_closed_terminal(self, processes):
        """It is SIGTERM for the workers, which would end without saving by their own SIGHUP."""
        usual = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under `nohup`
        try:
            launcher = ready(processes, end="wait_for(f'signals{rank}'); sys.exit(143)")
        finally:
            signal.signal(signal.SIGHUP, usual)
        launcher.send_signal(signal.SIGHUP)
        launcher.communicate(timeout=BOUND)
        assert 143 == launcher.returncode
        assert "15 " == (processes.directory / "signals1").read_text()

    def test_ignored(self, processes):
        """One that the launcher was started to ignore stays ignored."""
        usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            launcher = ready(processes, end="wait_for(f'signals{rank}'); time.sleep(0.2)")
        finally:
            signal.signal(signal.SIGINT, usual)
        launcher.send_signal(signal.SIGINT)
        launcher.terminate()
        launcher.communicate(timeout=BOUND)
        assert 143 == launcher.returncode
        assert "15 " == (processes.directory / "signals0").read_text()

    def test_to_every_process(self, processes):
        """As a scheduler sends it: the workers save, and no supervisor ends before them."""
        launcher = ready(
            processes, end="wait_for(f'signals{rank}'); time.sleep(0.5); note(f'saved{rank}')"
        )
        for pid in processes.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGTERM)
        launcher.communicate(timeout=BOUND)
        assert 143 == launcher.returncode
        assert 2 == len(list(processes.directory.glob("saved?")))

    def test_grace(self, processes):
        """What has not ended by then is killed."""
        launcher = ready(processes, "--grace", 0.2, end="time.sleep(600)\n" * 3)
        launcher.terminate()
        _, error = launcher.communicate(timeout=BOUND)
        assert 143 == launcher.returncode
        assert "kerastrain: killing what has not ended: 0, 1.\n" in error

    def test_second(self, processes):
        """It kills at once."""
        launcher = ready(processes, "--grace", 100000, end="time.sleep(600)\n" * 3)
        launcher.send_signal(signal.SIGINT)
        assert "SIGINT is passed on" in launcher.stderr.readline()
        launcher.terminate()
        _, error = launcher.communicate(timeout=BOUND)
        assert 130 == launcher.returncode
        assert "killing what has not ended" in error

    def test_output_that_nobody_takes(self, processes):
        """Two signals end it too while its output is stuck."""
        launcher = ready(processes, end="while True: print('x' * 1000)")
        wait_for(lambda: is_full(launcher.stdout), "the pipe does not fill")
        launcher.terminate()
        passed_on = [processes.directory / f"signals{rank}" for rank in (0, 1)]
        wait_for(lambda: all(file.exists() for file in passed_on), "it is not passed on")
        launcher.terminate()
        assert 143 == launcher.wait(BOUND)
        launcher.communicate(timeout=BOUND)

    def test_while_it_restarts(self, processes):
        """A signal among restarts ends them."""
        launcher = processes.launch("--workers", 2, "--max-restarts", 10**6,
                                    processes.script("sys.exit(1)"))  # fmt: skip
        assert "restart 1 of 1000000" in launcher.stderr.readline()
        launcher.terminate()
        launcher.communicate(timeout=BOUND)
        assert 143 == launcher.returncode
