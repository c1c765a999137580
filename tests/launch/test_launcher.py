"""The launcher: statuses, restarts, the grace, stalls, and what it refuses."""

import json
import os
import signal
import sys
import threading

import pytest

import kerastrain
from kerastrain.launch import launch


def run(script, workers=2, **options):
    """Launches a script in this process."""
    return launch([sys.executable, str(script)], workers=workers, **options)


def lines(text):
    """The lines of each worker, by rank."""
    found = {}
    for line in text.splitlines():
        prefix, _, rest = line.partition(" ")
        found.setdefault(prefix.strip("[]"), []).append(rest)
    return found


class TestEnvironment:
    """What a worker finds in its environment."""

    def test_tf_config(self, processes, capfd):
        """All have the same cluster of different loopback ports, each an index of its own."""
        script = processes.script("print(os.environ['TF_CONFIG'])")
        assert 0 == run(script, workers=3)
        found = {rank: json.loads(text) for rank, (text,) in lines(capfd.readouterr().out).items()}
        assert {"0", "1", "2"} == set(found)
        for rank, config in found.items():
            assert {"type": "worker", "index": int(rank)} == config["task"]
            assert found["0"]["cluster"] == config["cluster"]
        (addresses,) = found["0"]["cluster"].values()
        assert 3 == len(set(addresses))
        assert {"127.0.0.1"} == {address.partition(":")[0] for address in addresses}

    def test_other_variables(self, processes, capfd):
        """The run directory where it is given, and a progress file that is not there yet."""
        script = processes.script(
            "file = os.environ['KERASTRAIN_PROGRESS_FILE']\n"
            "print(os.environ.get('KERASTRAIN_RUN_DIR'), os.path.exists(file), file)"
        )
        assert 0 == run(script, run_dir="runs/a")
        found = lines(capfd.readouterr().out)
        for (text,) in found.values():
            assert text.startswith("runs/a False ")
        assert found["0"] != found["1"]
        assert not os.path.exists(os.path.dirname(found["0"][0].split()[-1]))

    def test_sessions(self, processes, capfd):
        """Each worker leads a session of its own, reads nothing, and is the program itself."""
        script = processes.script(
            "assert os.getpid() == os.getsid(0) == os.getpgrp()\n"
            "assert '' == sys.stdin.read()\n"
            "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
        )
        assert 0 == run(script), capfd.readouterr().err


class TestStatus:
    """The exit status, and the line that says why."""

    @pytest.mark.parametrize(
        "end, status, said",
        [
            ("sys.exit(3)", 3, "ended with status 3"),
            ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was killed by SIGKILL"),
            ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "was killed by SIGSEGV"),
            ("os.kill(os.getpid(), signal.SIGRTMIN + 1)", 163, "was killed by signal 35"),
            ("os.kill(os.getpid(), signal.SIGTERM)", 143, "was killed by SIGTERM"),
            ("import no_such_module", 1, "ended with status 1"),
        ],
    )
    def test_of_a_failure(self, processes, capfd, end, status, said):
        """It is that of the worker that failed, 128 and the signal for one that was killed."""
        script = processes.script(f"if rank == 1:\n    {end}\ntime.sleep(600)")
        assert status == run(script)
        error = capfd.readouterr().err
        assert f"worker 1 {said}: ending all workers, no restart is left.\n" in error

    def test_first_that_failed(self, processes, capfd):
        """What the others end with when they are ended counts for nothing."""
        script = processes.script("""
if rank == 1:
    wait_for("ready")
    sys.exit(5)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
note("ready")
time.sleep(600)
""")
        assert 5 == run(script)
        assert 1 == capfd.readouterr().err.count("kerastrain: ")

    def test_no_such_program(self, processes, capfd):
        """A program that cannot be run is named."""
        assert 127 == launch(["./no_such_program"], workers=1)
        assert "[0] Cannot run ./no_such_program: No such file" in capfd.readouterr().err

    def test_in_a_thread(self, processes):
        """Other threads than the main one launch too; handlers of signals stay as they were."""
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        found = []
        script = processes.script("sys.exit(4)")
        thread = threading.Thread(target=lambda: found.append(run(script)))
        thread.start()
        thread.join()
        assert [4] == found
        assert 4 == run(script)
        assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


class TestRestarts:
    """All workers are started again."""

    def test_until_they_succeed(self, processes, capfd):
        """Those that had ended well too, with new ports and progress files."""
        script = processes.script("""
print(restart, os.environ["TF_CONFIG"], os.environ["KERASTRAIN_PROGRESS_FILE"], sep="|")
if rank == 0:
    note(f"printed{restart}")
elif restart < 2:
    wait_for(f"printed{restart}")
    sys.exit(7)
""")
        assert 0 == run(script, max_restarts=5)
        captured = capfd.readouterr()
        for found in lines(captured.out).values():
            restarts, configs, progress_files = zip(*(line.split("|") for line in found))
            assert ("0", "1", "2") == restarts
            assert [3, 3] == [len(set(configs)), len(set(progress_files))]
        said = captured.err.splitlines()
        assert [f"then restart {n} of 5." for n in (1, 2)] == [line[-20:] for line in said]

    def test_are_counted(self, processes, capfd):
        """A script that fails at import is started as often as was asked for, and no more."""
        assert 1 == run(processes.script("import no_such_module"), workers=1, max_restarts=2)
        error = capfd.readouterr().err
        assert 3 == error.count("[0] ModuleNotFoundError")
        assert 1 == error.count("no restart is left")

    def test_lines_come_before_the_reason(self, processes, capfd):
        """A traceback stands above the launcher's line about it."""
        run(processes.script("raise RuntimeError('broken')"), workers=1)
        *_, last, said = capfd.readouterr().err.splitlines()
        assert ("[0] RuntimeError: broken", True) == (last, said.startswith("kerastrain: worker 0"))


class TestGrace:
    """How workers are ended."""

    def test_sigterm_comes_first(self, processes):
        """A worker has time to save what it has."""
        script = processes.script("""
if rank == 1:
    wait_for("ready")
    sys.exit(1)

def save(*_):
    time.sleep(0.2)
    note("saved")
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
note("ready")
time.sleep(600)
""")
        assert 1 == run(script)
        assert (processes.directory / "saved").exists()

    @pytest.mark.process
    def test_sigkill_comes_after_the_grace(self, processes, capfd):
        """One that does not end is killed, with all that it has started."""
        script = processes.script("""
if rank == 1:
    wait_for("ready")
    sys.exit(1)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "600"])
note("ready")
time.sleep(600)
""")
        assert 1 == run(script, grace=0.1)
        assert "kerastrain: killing what has not ended: 0.\n" in capfd.readouterr().err
        processes.assert_none_left()


# A worker that ends with 0 a while after SIGQUIT, before SIGTERM comes.
STUCK = """
def leave(*_):
    time.sleep(0.3)
    sys.exit(0)

signal.signal(signal.SIGQUIT, leave)
touch()
"""


class TestStall:
    """Workers that touch their progress files no more."""

    @pytest.mark.process
    def test_oldest_file_is_named(self, processes, capfd):
        """The one whose file is oldest has failed; its stacks are printed."""
        script = processes.script("""
import faulthandler
faulthandler.register(signal.SIGQUIT)

def stuck():
    note("stuck")
    time.sleep(600)

if rank == 1:
    touch()
    stuck()
wait_for("stuck")
while True:
    touch()
    time.sleep(0.02)
""")
        assert 143 == run(script, stall=0.3)
        error = capfd.readouterr().err
        assert "kerastrain: worker 1 made no progress for 0.3 s, the longest of all: " in error
        assert " in stuck\n" in error
        assert "[0] " not in error

    def test_is_restarted(self, processes):
        """A stall is a failure like others."""
        script = processes.script(STUCK + "if restart == 0:\n    time.sleep(600)")
        assert 0 == run(script, workers=1, stall=0.2, max_restarts=1)

    def test_is_no_success(self, processes):
        """The status is 1 where a worker that has stalled ends with 0."""
        assert 1 == run(processes.script(STUCK + "time.sleep(600)"), workers=1, stall=0.2)

    @pytest.mark.parametrize("before, options", [
        ("", {"stall": 0.05}),
        ("touch(); os.remove(os.environ['KERASTRAIN_PROGRESS_FILE'])", {"stall": 0.2}),
        ("touch()", {"stall": 0}),
    ], ids=["never there", "removed", "switched off"])  # fmt: skip
    def test_not_watched(self, processes, before, options):
        """A file that is not there is not watched, and none with 0."""
        assert 0 == run(processes.script(f"{before}\ntime.sleep(0.4)"), workers=1, **options)


class TestArguments:
    """What is refused, before anything is started."""

    @pytest.mark.parametrize("options, message", [
        ({"command": "python train.py"}, "`command` must be a list"),
        ({"command": []}, "`command` must be a list"),
        ({"workers": 0}, "`workers` must be a whole number, 1 or more"),
        ({"workers": True}, "Received: workers=True"),
        ({"max_restarts": -1}, "`max_restarts` must be a whole number, 0 or more"),
        ({"grace": -1}, "`grace` must be a number of seconds, 0 or more. Received: grace=-1"),
        ({"grace": float("nan")}, "Received: grace=nan"),
        ({"stall": "600"}, "Received: stall='600'"),
    ])  # fmt: skip
    def test_is_named(self, options, message):
        """The argument, its value, and what works."""
        with pytest.raises(kerastrain.ArgumentError, match=message):
            launch(**{"command": [sys.executable], "workers": 1, **options})
