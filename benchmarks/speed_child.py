"""The process of one contender of the speed benchmark: a JSON line in, a JSON line out.

    python -m benchmarks.speed_child Trainer '{"name": "mlp", "rows": 640}'
    {"do": "warm"}       ->  {"note": "xla_loop, 120 µs a step (loop 480 µs)"}
    {"do": "check"}      ->  {"results": [2.01, 1.73]}
    {"do": "round"}      ->  {"seconds": 0.25}
    {"do": "job"}        ->  {"seconds": 4.1, "peak": 611.0, "own": 402.3, "results": [...]}

``warm``, ``check`` and ``round`` share one contender that is made before the first of them.
A ``check`` starts from the initial weights and does not shuffle; a ``round`` starts from them
too, shuffles, and is timed. A ``job`` is for a fresh process: its clock starts when packages
are imported and the data are made, so model, compilation and training are in it; ``peak`` is
the highest resident memory of the process, in MB, and ``own`` the highest of its own pages,
without those of files that are mapped. An error is given as ``{"error": ...}``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pathlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CHECK_EPOCHS = 2


def make_entrant(contender: str, task: Any) -> Any:
    """Makes a contender by its name."""
    from benchmarks import speed_contenders
    from benchmarks import speed_others

    return (speed_contenders.MAKERS | speed_others.MAKERS)[contender](task)


def import_all(task: Any) -> None:
    """Imports packages, makes the data and the logical devices: on nobody's clock."""
    if task.replicas:
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        one = tf.config.LogicalDeviceConfiguration()
        tf.config.set_logical_device_configuration(cpu, [one] * task.replicas)
    if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
        importlib.import_module("kerastrain")  # And with it all that the others import.
    task.data()


def do_round(entrant: Any, task: Any) -> dict[str, Any]:
    """Runs the epochs of a round from the initial weights, and times them."""
    entrant.reset()
    gc.collect()
    begun = time.perf_counter()
    entrant.run(task.work.epochs, shuffle=True)
    return {"seconds": time.perf_counter() - begun}


def do_job(contender: str, task: Any) -> dict[str, Any]:
    """Makes the contender and trains, with the clock on from the start."""
    with highest_own_memory() as own:
        begun = time.perf_counter()
        entrant = make_entrant(contender, task)
        results = entrant.run(task.work.epochs, shuffle=True)
        seconds = time.perf_counter() - begun
    from benchmarks.micro_batch_memory import highest_memory

    return {
        "seconds": seconds,
        "peak": highest_memory() / 1e6,
        "own": own[0] / 1e6,
        "results": [float(value) for value in results],
    }


@contextlib.contextmanager
def highest_own_memory() -> Iterator[list[float]]:
    """Samples the process's own resident bytes, a hundred times a second; holds the highest."""
    status = pathlib.Path("/proc/self/status")
    highest, ended = [0.0], threading.Event()

    def sample() -> None:
        while status.exists() and not ended.wait(0.01):
            for line in status.read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("RssAnon:"):
                    highest[0] = max(highest[0], int(line.split()[1]) * 1024.0)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield highest
    finally:
        ended.set()
        thread.join()


def serve(contender: str, task: Any, lines: Any, write: Any) -> None:
    """Answers each line until there are no more."""
    import_all(task)
    entrant = None
    for line in lines:
        do = json.loads(line)["do"]
        if do == "job":
            write(do_job(contender, task))
            continue
        if entrant is None:
            entrant = make_entrant(contender, task)
        if do == "warm":
            write({"note": entrant.warm()})
        elif do == "check":
            entrant.reset()
            results = entrant.run(CHECK_EPOCHS, shuffle=False)
            write({"results": [float(value) for value in results]})
        else:
            write(do_round(entrant, task))


def main() -> None:
    """Serves the contender of the command line; whatever else is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from benchmarks.speed_contenders import Task

    def write(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        serve(sys.argv[1], Task(**json.loads(sys.argv[2])), sys.stdin, write)
    except Exception as error:  # The other side decides what it means.
        traceback.print_exc()
        write({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
