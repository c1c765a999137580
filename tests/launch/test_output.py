"""The lines of workers: whole, prefixed, in order, and all of them."""

import os
import sys
import threading

from kerastrain.launch import launch
from kerastrain.launch.output import Output
from tests.launch.conftest import BOUND


def copied(data, prefix="[0] "):
    """What is written of what comes through a pipe."""
    reading, writing = os.pipe()
    with open(os.memfd_create("target"), "w+b") as target, open(writing, "wb") as source:
        copying = Output().follow(open(reading, "rb"), prefix, target.fileno())
        source.write(data)
        source.close()
        copying.join()
        target.seek(0)
        return target.read()


def feed(pipe, data):
    """Writes to a pipe, and closes it."""
    with open(pipe, "wb") as source:
        source.write(data)


class TestLines:
    """What is copied."""

    def test_prefix(self):
        """Each line has it, empty ones too."""
        assert b"[12] a\n[12] \n[12] b\n" == copied(b"a\n\nb\n", "[12] ")

    def test_last_line_without_end(self):
        """It gets one; nothing stays nothing."""
        assert b"[0] a\n[0] b\n" == copied(b"a\nb")
        assert b"" == copied(b"")

    def test_bytes(self):
        """What is not UTF-8 passes as it is, and other ends of lines are no ends."""
        data = bytes(range(256)).replace(b"\n", b"")
        assert b"[0] " + data + b"\n" == copied(data)

    def test_long_line(self):
        """A line longer than any buffer stays whole."""
        data = b"x" * 3_000_000
        assert b"[0] " + data + b"\n" == copied(data)

    def test_target_that_does_not_wait(self):
        """Nothing is lost where a target takes a part, or nothing for now."""
        data = b"x" * 300_000 + b"\n" + b"y" * 10
        (reading, writing), (sink, target) = os.pipe(), os.pipe()
        os.set_blocking(target, False)
        copying = Output().follow(open(reading, "rb"), "", target)
        feeding = threading.Thread(target=feed, args=(writing, data))
        feeding.start()
        found = b""
        while len(found) < len(data) + 1:
            found += os.read(sink, 1000)
        assert data + b"\n" == found
        for thread in (feeding, copying):
            thread.join()
        os.close(sink)
        os.close(target)

    def test_of_several_workers(self, processes, capfd):
        """All lines of each come in order, and none is mixed with another's."""
        script = processes.script("""
for number in range(2000):
    print(number, "x" * (number % 500), file=(sys.stdout, sys.stderr)[number % 2])
""")
        assert 0 == launch([sys.executable, str(script)], workers=3)
        for parity, text in enumerate(capfd.readouterr()):
            found = text.splitlines()
            for rank in range(3):
                expected = [f"[{rank}] {n} {'x' * (n % 500)}" for n in range(parity, 2000, 2)]
                assert expected == [line for line in found if line.startswith(f"[{rank}]")]
            assert 3000 == len(found)

    def test_of_a_killed_worker(self, processes, capfd, monkeypatch):
        """What a worker has printed before it was killed is there, without a flush."""
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
        script = processes.script("print('last words'); os.kill(os.getpid(), signal.SIGKILL)")
        assert 137 == launch([sys.executable, str(script)], workers=1)
        assert "[0] last words\n" == capfd.readouterr().out


class TestReaders:
    """Whoever reads the launcher's output."""

    def test_is_gone(self, processes):
        """The workers go on, and it is said once."""
        script = processes.script("""
wait_for("closed")
for number in range(1000):
    print(number)
note(f"done{rank}")
""")
        launcher = processes.launch("--workers", 2, script)
        launcher.stdout.close()
        (processes.directory / "closed").touch()
        error = launcher.stderr.read()
        assert 0 == launcher.wait(BOUND)
        assert "kerastrain: standard output is lost: [Errno 32] Broken pipe.\n" == error
        assert 2 == len(list(processes.directory.glob("done?")))
        launcher.stderr.close()
