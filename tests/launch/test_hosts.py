"""Several hosts: the same TF_CONFIG on each, and who is which of them."""

import json
import re
import sys

import pytest

import kerastrain
from kerastrain.launch import Hosts
from kerastrain.launch import launch
from tests.launch.conftest import BOUND
from tests.launch.conftest import wait_for


class TestAddresses:
    """What the workers of all hosts are told."""

    def test_tf_config(self, processes, capfd):
        """All workers of all hosts, and the index over all of them, which is the prefix too."""
        script = processes.script("print(os.environ['TF_CONFIG'])")
        hosts = Hosts(["a", "[::1]"], port=5000, index=1)
        assert 0 == launch([sys.executable, str(script)], workers=2, hosts=hosts)
        found = sorted(line.split(" ", 1) for line in capfd.readouterr().out.splitlines())
        assert ["[2]", "[3]"] == [prefix for prefix, _ in found]
        for rank, (_, text) in zip((2, 3), found):
            assert {
                "cluster": {"worker": ["a:5000", "a:5001", "[::1]:5000", "[::1]:5001"]},
                "task": {"type": "worker", "index": rank},
            } == json.loads(text)

    @pytest.mark.parametrize("options, message", [
        ({"names": []}, "`hosts` must name each host once, without ports, such as a,b."),
        ({"names": ["a", ""]}, "Received: hosts='a,'"),
        ({"names": ["a", "b", "a"]}, "Received: hosts='a,b,a'"),
        ({"names": ["a:5000"]}, "Received: hosts='a:5000'"),
        ({"names": "a"}, "Received: hosts='a'"),
        ({"port": 0}, "`port` must be a whole number, 1 or more. Received: port=0"),
        ({"index": -1}, "`index` must be a whole number, 0 or more"),
        ({"index": 2}, "`index` of this host must be at most 1, .* Received: index=2"),
        ({"index": None}, "pass either the index of this host .* or a file on a shared disk"),
        ({"rendezvous": "file"}, "pass either the index of this host .* or a file"),
    ])  # fmt: skip
    def test_what_is_refused(self, options, message):
        """The argument, its value, and what works."""
        with pytest.raises(kerastrain.ArgumentError, match=message):
            Hosts(**{"names": ["a", "b"], "port": 5000, "index": 0, **options})

    def test_last_port(self):
        """The ports of all workers of a host are there."""
        hosts = Hosts(["a"], port=65535, index=0)
        assert ["a:65535"] == hosts.addresses(1)
        with pytest.raises(kerastrain.ArgumentError, match="`port` must be at most 65534 for 2"):
            launch([sys.executable], workers=2, hosts=hosts)


class TestRendezvous:
    """A file that says which host this one is."""

    def test_first_own_name(self, processes):
        """The index is that of the name that is this machine's; the file may be a new one."""
        hosts = Hosts(["a.invalid", "127.0.0.1"], port=5000, rendezvous="file")
        with hosts.registered() as index:
            assert 1 == index

    @pytest.mark.parametrize("names, file, message", [
        (["a.invalid"], "file", "`hosts` must name this machine .* of which 0 are of this machine"),
        (["127.0.0.1"], "no/file", "`rendezvous` must be a file .*'no/file': No such file"),
    ])  # fmt: skip
    def test_what_is_refused(self, processes, names, file, message):
        """The argument, its value, and what works."""
        with pytest.raises(kerastrain.ArgumentError, match=message):
            with Hosts(names, port=5000, rendezvous=file).registered():
                pass

    @pytest.mark.process
    def test_each_index_once(self, processes):
        """Two launchers get different ones, a third none, until one has ended or was killed."""
        script = processes.script("print('rank', rank, flush=True); time.sleep(600)")

        def launch_one():
            return processes.launch("--workers", 1, "--hosts", "127.0.0.1,127.0.0.2", "--port",
                                    5000, "--rendezvous", "file", script)  # fmt: skip

        launchers = [launch_one(), launch_one()]
        ranks = [launcher.stdout.readline() for launcher in launchers]
        assert ["[0] rank 0\n", "[1] rank 1\n"] == sorted(ranks)
        third = launch_one()
        _, error = third.communicate(timeout=BOUND)
        assert 2 == third.returncode
        assert re.search("no other launcher has in 'file'.* of which 2 are of this machine", error)
        launchers[0].kill()
        launchers[0].communicate(timeout=BOUND)
        wait_for(lambda: launchers[0].poll() is not None, "it is not killed")
        again = launch_one()
        assert ranks[0] == again.stdout.readline()
        for launcher in (again, launchers[1]):
            launcher.terminate()
            launcher.communicate(timeout=BOUND)
            assert 143 == launcher.returncode
