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
import tempfile
import time
from typing import NamedTuple

import pytest

from benchmarks import loopback

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Output(NamedTuple):
    """How a worker has ended: its exit status, what it printed, and after how many seconds."""

    status: int | None
    text: str
    seconds: float


def need_namespace():
    """Skips a test where no network namespace can be made."""
    if why := loopback.refusal():
        pytest.skip(why)


def slurm(index, count):
    """What SLURM says to a task of a step, of which all run on this machine."""
    values = {"NODELIST": "localhost", "TASKS_PER_NODE": count, "NUM_TASKS": count, "NUM_NODES": 1}
    step = {f"SLURM_STEP_{name}": str(value) for name, value in values.items()}
    return step | {"SLURM_PROCID": str(index)}


def run(
    count, module, *arguments, directory, seconds=300, present=None, by_slurm=False, **environment
):
    """Runs a module as several workers; returns an `Output` for each that was started.

    Args:
        count: workers of the cluster.
        module: what is run, as by ``python -m``.
        *arguments: of it.
        directory: for what they print.
        seconds: after which all are killed.
        present: the workers that are started; None for all.
        by_slurm: whether they find each other by the variables of SLURM.
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
        "slurm": by_slurm,
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


def alone(command, directory, seconds=900):
    """Runs a program that starts daemons; returns its exit status and what was printed.

    Args:
        command: the program.
        directory: where it runs; its home, too.
        seconds: after which all are killed.

    Raises:
        AssertionError: a process that it has started was left, and has been killed.
    """
    need_namespace()
    # Not below `directory`: the paths of Ray's sockets would be too long.
    with tempfile.TemporaryDirectory(prefix="kt-", dir="/tmp", ignore_cleanup_errors=True) as short:
        places = {"HOME": str(directory), "TMPDIR": short, "RAY_TMPDIR": short}
        environment = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"} | places
        plan = {"alone": command, "namespace": f"{short}/namespace"}
        with open(f"{short}/output", "w+b") as output:
            process = subprocess.Popen(
                ["unshare", "-rn", sys.executable, "-m", __name__, json.dumps(plan)],
                cwd=directory, env=os.environ | environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            status = None
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(seconds)
            finally:
                left = _end_all(
                    pathlib.Path(plan["namespace"]), process, 30.0 if status == 0 else 0.0
                )
            output.seek(0)
            text = output.read().decode(errors="replace")
    assert status != 0 or not left, f"left: {left}"
    return status, text


def _end_all(file, process, grace):
    """Kills what is in the namespace that a file names; returns what was there after a grace."""
    if not file.exists():  # nothing was started there
        process.kill()
        process.wait()
        return {}
    namespace, deadline = file.read_text(), time.monotonic() + grace
    while (left := _inside(namespace)) and time.monotonic() < deadline:
        time.sleep(0.2)
    found = left
    while left:
        for number in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.1)
        process.poll()
        left = _inside(namespace)
    process.wait()
    return found


def _inside(namespace):
    """The processes of a network namespace, with their command lines."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(path / "ns/net") == namespace:
                found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ")
    return found


def _text(directory, index):
    return (pathlib.Path(directory) / f"output-{index}.txt").read_text(errors="replace")


def main(plan):
    """In the namespace: starts the workers, and waits for them."""
    loopback.bring_up()
    if "launch" in plan:
        from kerastrain.launch import launch

        sys.exit(launch(plan.pop("launch"), **plan))
    if "alone" in plan:
        pathlib.Path(plan["namespace"]).write_text(os.readlink("/proc/self/ns/net"))
        os.execvp(plan["alone"][0], plan["alone"])
    directory = pathlib.Path(plan["directory"])
    addresses = [f"127.0.0.1:{23450 + index}" for index in range(plan["count"])]
    begun, running = time.monotonic(), {}
    for index in plan["present"]:
        task = {"type": "worker", "index": index}
        cluster = {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}
        if plan["slurm"]:
            cluster = slurm(index, plan["count"])
        with open(directory / f"output-{index}.txt", "wb") as output:
            running[index] = subprocess.Popen(
                plan["command"], env=os.environ | cluster,
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
