"""Measures 1, 2 and 4 workers of this machine, in processes that have nothing but loopback.

    measured = measure(rounds=5)
    measured.step("together", 2)            # seconds of a step, two workers, weak scaling

One cluster of each size is started by `kerastrain.launch` and kept; they take turns, so that a
round has every size once. In each, workers train alone side by side, without communication, and
together: the first shares the cores of the machine just so, and the ratio is what communication
costs. Before any time is given, the weights of all sizes are compared with those of one worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing.connection
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import harness
from benchmarks import loopback
from benchmarks import scale_model
from kerastrain.launch import launch

ROOT = pathlib.Path(__file__).resolve().parents[1]
WORK = {"sizes": [784, 512, 256], "batch": 256, "steps": 16, "chunk": 8}
SIZES = (4 << 10, 512 << 10, 4 << 20)  # bytes of all-reduces
TOLERANCE = 1e-5


class MeasuringFailed(RuntimeError):
    """A worker ended, or all took too long."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured; a list has a value for each round.

    Attributes:
        work: that was measured, as `WORK`.
        gradient_bytes: of one step.
        steps: ``{"workers, way": seconds of a step}``; the ways are ``"alone"`` and ``"together"``,
            and the same with ``", fixed"`` for the fixed global batch.
        spread: by workers, the standard deviation of single steps.
        votes: by workers, seconds of a vote.
        reductions: by workers and bytes, seconds of an all-reduce.
        difference: by workers, max|dw| to one worker.
        load: of the machine, before and after: how many processes wanted to run in the last minute.
    """

    work: dict[str, Any]
    gradient_bytes: int
    steps: dict[str, list[float]]
    spread: dict[str, list[float]]
    votes: dict[str, list[float]]
    reductions: dict[str, dict[str, list[float]]]
    difference: dict[str, float]
    load: list[float]

    @property
    def workers(self) -> list[int]:
        """The sizes of the clusters."""
        return [int(count) for count in self.votes]

    def step(self, way: str, workers: int) -> float:
        """The median of the seconds of a step."""
        return statistics.median(self.steps[f"{workers}, {way}"])

    def ratios(self, over: tuple[str, int], under: tuple[str, int]) -> list[float]:
        """Each round's seconds of one way and size over those of another one."""
        first, second = (self.steps[f"{workers}, {way}"] for way, workers in (over, under))
        return [a / b for a, b in zip(first, second, strict=True)]

    def link(self, workers: int) -> scale_model.Link:
        """What the all-reduces of so many workers follow from."""
        found = self.reductions[str(workers)]
        medians = {int(size): statistics.median(times) for size, times in found.items()}
        return scale_model.fitted_link(workers, medians)

    def as_work(self, workers: int = 1) -> scale_model.Work:
        """The work of one of so many workers that share the machine, for the model.

        Its vote is without messages, as they are of the network.
        """
        vote = 0.0
        if several := [n for n in self.workers if n > 1]:
            least = several[0]
            messages = scale_model.messages(least, "ring") * self.link(least).alpha
            vote = max(0.0, statistics.median(self.votes[str(least)]) - messages)
        return scale_model.Work(
            "the model measured here",
            compute=self.step("alone", workers),
            gradient_bytes=self.gradient_bytes,
            sigma=statistics.median(self.spread[str(workers)]),
            vote=vote,
            chunk=self.work["chunk"],
        )


def measure(
    workers: tuple[int, ...] = (1, 2, 4),
    rounds: int = 7,
    work: dict[str, Any] = WORK,
    seconds: float = 240,
) -> Measured:
    """Measures in a network namespace; no process is left behind.

    Args:
        workers: sizes of clusters; the first is 1.
        rounds: that count at most, after one of warm-up.
        work: of one worker, as `WORK`.
        seconds: after which no round is begun but the first. Much later all are killed.

    Raises:
        MeasuringFailed: there is no namespace, or a worker failed, or it took too long.
    """
    if why := loopback.refusal():
        raise MeasuringFailed(why)
    with tempfile.TemporaryDirectory(prefix="kerastrain-scale-") as directory:
        result = pathlib.Path(directory, "result.json")
        plan = {"workers": workers, "rounds": rounds, "work": work, "directory": directory}
        plan["seconds"], limit = seconds, 2 * seconds + 300
        log = pathlib.Path(directory, "log").open("w+", errors="replace")
        command = [sys.executable, "-m", "benchmarks.scale_measure", json.dumps(plan)]
        process = subprocess.Popen(
            loopback.command_in_namespace(command),
            cwd=ROOT, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            raise MeasuringFailed(f"it took more than {limit:g} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # supervisors end their workers then
            process.wait()
        if process.returncode:
            log.seek(0)
            raise MeasuringFailed("".join(log.readlines()[-20:]))
        return Measured(**json.loads(result.read_text()))


# In the namespace -------------------------------------------------------------------


@contextlib.contextmanager
def _cluster(count: int, work: dict[str, Any], directory: str) -> Iterator[list[Any]]:
    """Connections to the workers of a new cluster, in their order; their end ends the workers."""
    address = f"{directory}/{count}"
    command = [sys.executable, "-m", "benchmarks.scale_child", address, json.dumps(work)]
    connections: list[Any] = [None] * count
    with multiprocessing.connection.Listener(address, "AF_UNIX", backlog=count) as listener:
        starting = threading.Thread(target=_run_workers, args=(command, count), daemon=True)
        starting.start()
        for _ in range(count):
            connection = listener.accept()
            connections[connection.recv()[1]] = connection
        try:
            yield connections
        finally:
            for connection in connections:
                connection.close()
            starting.join(60)


def _run_workers(command: list[str], count: int) -> None:
    """Runs them to their end. Where one has failed, nobody is to wait for it: all end."""
    if launch(command, workers=count, grace=5):
        os._exit(1)


def _asked(connections: list[Any], name: str, *arguments: Any) -> list[Any]:
    """What each worker answers.

    Raises:
        RuntimeError: one has failed.
    """
    for connection in connections:
        connection.send((name, arguments))
    answers = [connection.recv() for connection in connections]
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _trained(connections: list[Any], together: bool, batch: int) -> float:
    """Seconds of a step, of workers that train at once: of the slowest, or the mean if alone."""
    answers = _asked(connections, "train", together, batch, 2)
    seconds = [statistics.median(answer) for answer in answers]
    return max(seconds) if together else statistics.mean(seconds)


def _ways(count: int, batch: int) -> dict[str, tuple[bool, int]]:
    """``{name: (together, batch of fit)}`` of what a cluster is asked to train."""
    ways = {"alone": (False, batch), "together": (True, batch * count)}
    if count > 1:
        ways |= {"alone, fixed": (False, batch // count), "together, fixed": (True, batch)}
    return ways


def _check(clusters: dict[int, list[Any]], batch: int) -> dict[str, float]:
    """Max|dw| to one worker, of all sizes with the same global batch.

    Raises:
        UnequalWeights: they have not done the same work.
    """
    (reference,) = _asked(clusters[1], "weights", False, batch)
    found = {}
    for count, connections in clusters.items():
        ended = _asked(connections, "weights", True, batch)
        found[str(count)] = max(harness.largest_difference(own, reference) for own in ended)
        if not found[str(count)] <= TOLERANCE:
            raise harness.UnequalWeights(f"{count} workers: max|dw| = {found[str(count)]:.3g}")
    return found


def _measure_all(
    clusters: dict[int, list[Any]], work: dict[str, Any], rounds: int, until: float
) -> Measured:
    """Rounds of all sizes, until a moment of the clock; one of them at least."""
    load = [os.getloadavg()[0]]
    names = [str(count) for count in clusters]
    result = Measured(
        work, _asked(clusters[1], "gradient_bytes")[0], {}, {n: [] for n in names},
        {n: [] for n in names}, {n: {str(s): [] for s in SIZES} for n in names if n != "1"},
        _check(clusters, work["batch"]), load,
    )  # fmt: skip
    for number in range(rounds + 1):
        if number > 1 and time.perf_counter() > until:
            break
        for count, connections in clusters.items():
            ways = list(_ways(count, work["batch"]).items())
            for name, (together, batch) in ways[:: -1 if number % 2 else 1]:
                seconds = _trained(connections, together, batch)
                if number:
                    result.steps.setdefault(f"{count}, {name}", []).append(seconds)
            if not number:
                continue
            spreads = map(scale_model.spread, _asked(connections, "steps", work["batch"]))
            result.spread[str(count)].append(statistics.median(spreads))
            (votes, *_) = _asked(connections, "vote", 20)
            result.votes[str(count)].append(statistics.median(votes))
            for size in SIZES if count > 1 else ():
                (times, *_) = _asked(connections, "reduce", size, 8)
                result.reductions[str(count)][str(size)].append(statistics.median(times))
        print(f"round {number} has ended", flush=True)
    load.append(os.getloadavg()[0])
    return result


def main(plan: dict[str, Any]) -> None:
    """Starts the clusters, measures, and writes the result."""
    begun = time.perf_counter()
    with contextlib.ExitStack() as stack:
        clusters = {}
        for count in plan["workers"]:
            cluster = _cluster(count, plan["work"], plan["directory"])
            clusters[count] = stack.enter_context(cluster)
            print(f"{count} workers are there, {time.perf_counter() - begun:.0f} s", flush=True)
        until = begun + plan["seconds"]
        measured = _measure_all(clusters, plan["work"], plan["rounds"], until)
    result = pathlib.Path(plan["directory"], "result.json")
    result.write_text(json.dumps(dataclasses.asdict(measured)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
