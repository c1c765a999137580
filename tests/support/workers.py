"""Several workers of one training, in a network namespace that has nothing but loopback.

::

    outputs = run(2, "tests.support.worker_cases", "ragged,micro_batches", directory)
    outputs[1].status, outputs[1].text

TensorFlow's servers bind all interfaces, whatever the cluster says; here there is no other.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Output(NamedTuple):
    """How a worker has ended: its exit status, what it printed, and after how many seconds."""

    status: int | None
    text: str
    seconds: float


def need_namespace():
    """Skips a test where no network namespace can be made."""
    try:
        done = subprocess.run(["unshare", "-rn", "true"], capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if done.returncode:
        pytest.skip(f"no network namespace can be made: {done.stderr.decode().strip()}")


def run(count, module, *arguments, directory, seconds=300, present=None, **environment):
    """Runs a module as several workers; returns an `Output` for each that was started.

    Args:
        count: workers of the cluster.
        module: what is run, as by ``python -m``.
        *arguments: of it.
        directory: for what they print.
        seconds: after which all are killed.
        present: the workers that are started; None for all.
        **environment: more variables.
    """
    need_namespace()
    present = list(range(count) if present is None else present)
    plan = {
        "count": count,
        "present": present,
        "command": [sys.executable, "-m", module, *map(str, arguments)],
        "directory": str(directory),
        "seconds": seconds,
    }
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    parent = subprocess.Popen(
        ["unshare", "-rn", sys.executable, "-m", __name__, json.dumps(plan)],
        cwd=ROOT, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        parent.wait(seconds + 60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
        parent.wait()
    ended = json.loads((pathlib.Path(directory) / "ended.json").read_text())
    return {
        index: Output(*ended[str(index)][:1], _text(directory, index), ended[str(index)][1])
        for index in present
    }


def launched(count, module, *arguments, restarts, seconds=300):
    """The same by `kerastrain.launch`; returns its exit status and what was printed."""
    need_namespace()
    command = [sys.executable, "-m", module, *map(str, arguments)]
    plan = {"launch": command, "workers": count, "max_restarts": restarts}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-m", __name__, json.dumps(plan)],
        cwd=ROOT, env=environment, timeout=seconds, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def _text(directory, index):
    return (pathlib.Path(directory) / f"output-{index}.txt").read_text(errors="replace")


def _loopback_up():
    """What ``ip link set lo up`` does."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS


def main(plan):
    """In the namespace: starts the workers, and waits for them."""
    _loopback_up()
    if "launch" in plan:
        from kerastrain.launch import launch

        sys.exit(launch(plan.pop("launch"), **plan))
    directory = pathlib.Path(plan["directory"])
    addresses = [f"127.0.0.1:{23450 + index}" for index in range(plan["count"])]
    begun, running = time.monotonic(), {}
    for index in plan["present"]:
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        with open(directory / f"output-{index}.txt", "wb") as output:
            running[index] = subprocess.Popen(
                plan["command"], env=os.environ | {"TF_CONFIG": config},
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
    ended, left = {}, dict(running)
    while left and time.monotonic() - begun < plan["seconds"]:
        for index, process in list(left.items()):
            if process.poll() is not None:
                ended[index] = process.returncode, time.monotonic() - begun
                del left[index]
        if left and all(_is_stopped(process.pid) for process in left.values()):
            break
        time.sleep(0.1)
    for index, process in left.items():
        process.kill()
        process.wait()
        ended[index] = None, time.monotonic() - begun
    (directory / "ended.json").write_text(json.dumps(ended))


def _is_stopped(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
