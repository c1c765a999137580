"""No process is left behind, whoever is killed."""

import contextlib
import os
import pathlib
import signal
import sys

import pytest

from kerastrain.launch import launch
from tests.launch.conftest import BOUND
from tests.launch.conftest import wait_for

# A worker with processes in its group, in a session of its own, without its environment, and
# orphans, all of which ignore SIGTERM.
FAMILY = """
CHILD = "import os, signal, sys, time; signal.signal(15, signal.SIG_IGN); " \\
    "open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
python = [sys.executable, "-I", "-S", "-c", CHILD]
subprocess.Popen([*python, f"group{rank}.pid"])
subprocess.Popen([*python, f"session{rank}.pid"], start_new_session=True)
subprocess.Popen([*python, f"bare{rank}.pid"], env={}, start_new_session=True)
if os.fork() == 0:
    subprocess.Popen([*python, f"orphan{rank}.pid"], start_new_session=True)
    os._exit(0)
note(f"worker{rank}.pid", os.getpid())
for name in ("group", "session", "bare", "orphan"):
    while not os.path.exists(f"{name}{rank}.pid") or not os.path.getsize(f"{name}{rank}.pid"):
        time.sleep(0.01)
note(f"ready{rank}")
"""


def family(processes, end="time.sleep(600)"):
    """A script that has started processes; how it goes on."""
    return processes.script(FAMILY + end)


def launched(processes, *options, end="time.sleep(600)"):
    """A launcher whose two workers have all their processes."""
    script = family(processes, end)
    launcher = processes.launch("--workers", 2, *options, script, start_new_session=True)
    ready = [processes.directory / f"ready{rank}" for rank in (0, 1)]
    wait_for(lambda: all(path.exists() for path in ready), "the workers do not start")
    return launcher


def closed(launcher):
    """The status, when it has ended, and what it wrote on standard error."""
    error = launcher.communicate(timeout=BOUND)[1]
    return launcher.returncode, error


@pytest.mark.process
class TestKilled:
    """SIGKILL to one of the processes."""

    def test_launcher(self, processes):
        """Nothing is left of any worker, nor of what they have started.

        Also where the signal is for the whole group of the launcher's processes.
        """
        launcher = launched(processes)
        assert len(processes.alive()) >= 13  # and the supervisors, with the mark
        os.killpg(launcher.pid, signal.SIGKILL)
        closed(launcher)
        processes.assert_none_left()

    def test_launcher_while_it_starts(self, processes):
        """Also where a worker is just being started."""
        for _ in range(5):
            launcher = processes.launch("--workers", 4, processes.script("time.sleep(600)"))
            wait_for(lambda: len(processes.alive()) > 2, "nothing starts")
            launcher.kill()
            closed(launcher)
            processes.assert_none_left()

    def test_worker(self, processes):
        """It has failed; what it has started is killed before all are started again."""
        launcher = launched(processes, "--max-restarts", 1, end="sys.exit(0) if restart else "
                            "time.sleep(600)")  # fmt: skip
        family = [pid for pid in processes.alive() if pid != str(launcher.pid)]
        os.kill(int((processes.directory / "worker1.pid").read_text()), signal.SIGKILL)
        status, error = closed(launcher)
        assert 0 == status
        assert "worker 1 was killed by SIGKILL: ending all workers, then restart 1 of 1" in error
        assert not set(family) & processes.alive()

    def test_all_that_name_the_script(self, processes):
        """``pkill -9 -f script.py`` finds the launcher and the workers, and leaves nothing."""
        launcher = launched(processes)
        commands = {pid: pathlib.Path(f"/proc/{pid}/cmdline") for pid in processes.alive()}
        found = [int(pid) for pid, file in commands.items() if b"script" in file.read_bytes()]
        assert 3 == len(found)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):  # it ends with the launcher
                os.kill(pid, signal.SIGKILL)
        assert -signal.SIGKILL == closed(launcher)[0]
        processes.assert_none_left()

    def test_supervisor(self, processes):
        """Its worker dies with it, and the launcher ends the others."""
        launcher = launched(processes)
        worker = int((processes.directory / "worker1.pid").read_text())
        supervisor = pathlib.Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(supervisor), signal.SIGKILL)
        # Nobody is there for the rest of its family; they have no parent that knows them.
        for name in ("group", "session", "bare", "orphan"):
            os.kill(int((processes.directory / f"{name}1.pid").read_text()), signal.SIGKILL)
        status, error = closed(launcher)
        assert 137 == status
        assert "worker 1 was killed by SIGKILL" in error


class TestEnded:
    """Workers that end by themselves."""

    @pytest.mark.process
    def test_leave_nothing(self, processes):
        """What they have started ends with them."""
        assert 0 == launch([sys.executable, str(family(processes, ""))], workers=2)
        assert set() == processes.alive()

    def test_leave_time_to_end(self, processes):
        """What ends by itself soon is not killed."""
        script = processes.script("""
subprocess.Popen([sys.executable, "-I", "-S", "-c",
                  "import time; open('begun', 'w'); time.sleep(0.2); open('done', 'w')"])
wait_for("begun")
""")
        assert 0 == launch([sys.executable, str(script)], workers=1)
        assert (processes.directory / "done").exists()
