"""How fast steps are with batches of other sizes, and how much memory they take."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from kerastrain.data import Source
from kerastrain.execution import Runner

# The share of the best throughput that the suggestion has at least, and by how much a size is to be
# faster than the fastest before it for larger ones to be tried, for so many sizes one after the other.
_NEARLY, _GAIN, _PATIENCE = 0.9, 1.05, 3
# Seconds that steps of one size are measured at least, and the steps of a training that its plan is for.
_SECONDS, _STEPS = 0.5, 100_000
# Seconds after which what has been measured is enough: to begin an epoch may take longer than its steps.
_ENOUGH = 5.0


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """What was measured of one size.

    Attributes:
        size: rows of a global batch.
        rows_per_second: that are trained on.
        step_seconds: of one step, by the plan that is the fastest.
        peak_bytes: the most memory that the devices had allocated during the steps, or on CPUs the
            process; None where the system does not say.
        plan: by which the steps ran.
    """

    size: int
    rows_per_second: float
    step_seconds: float
    peak_bytes: int | None
    plan: str


@dataclasses.dataclass(frozen=True)
class BatchSizes:
    """What was measured of several sizes.

    Attributes:
        measured: of each size, from the smallest on.
        stopped: why no larger one was tried.
        suggestion: the smallest size with nine tenths of the best throughput. It is the fastest, and says
            nothing of how well a model learns: larger batches have fewer steps in an epoch.
    """

    measured: list[BatchSize]
    stopped: str

    @property
    def suggestion(self) -> int:
        best = max(one.rows_per_second for one in self.measured)
        return next(o.size for o in self.measured if o.rows_per_second >= _NEARLY * best)

    def __str__(self) -> str:
        """A line for each size."""
        lines = ["batch_size    rows/s      step    memory"]
        for one in self.measured:
            memory = "" if one.peak_bytes is None else f"{one.peak_bytes / 2**20:,.0f} MiB"
            mark = "  <- suggestion" if one.size == self.suggestion else ""
            seconds = f"{one.step_seconds * 1e3:,.3g} ms"
            lines.append(
                f"{one.size:>10}{one.rows_per_second:>10,.0f}{seconds:>10}{memory:>10}{mark}"
            )
        return "\n".join([*lines, self.stopped])

    def plot(self) -> Any:
        """Plots the throughput by size.

        Returns:
            The matplotlib axes.

        Raises:
            ArgumentError: matplotlib is not installed; the message says how it is.
        """
        from kerastrain.report import new_axes  # which imports a plotting library

        axes = new_axes()
        axes.plot([o.size for o in self.measured], [o.rows_per_second for o in self.measured], "o-")
        axes.axvline(self.suggestion, linestyle="--", label=f"suggestion: {self.suggestion}")
        axes.set(xscale="log", xlabel="batch size", ylabel="rows/s")
        axes.legend()
        return axes


def compared(
    sizes: list[int],
    seconds: float,
    measure: Callable[[int], BatchSize],
    free_bytes: Callable[[], int | None],
) -> BatchSizes:
    """Measures sizes one after the other, until a larger one is not worth it.

    Args:
        sizes: from the smallest on.
        seconds: to be spent in all, about.
        measure: measures a size.
        free_bytes: gives the memory that is free; None where that is not known.
    """
    until, found, slower, best = time.monotonic() + seconds, list[BatchSize](), 0, 0.0
    free = free_bytes()
    for size in sizes:
        if found and time.monotonic() > until:
            return BatchSizes(found, f"No larger size was tried: {seconds:g} seconds were over.")
        if len(found) > 1 and _may_not_fit(found, size, free):
            return BatchSizes(found, f"Batches of {size} may not fit into the memory that is free.")
        try:
            found.append(measure(size))
        except (tf.errors.ResourceExhaustedError, MemoryError):
            if not found:
                raise
            return BatchSizes(found, f"Memory is too small for batches of {size}.")
        speed = found[-1].rows_per_second
        slower = 0 if speed > _GAIN * best else slower + 1
        best = max(best, speed)
        if slower >= _PATIENCE:
            return BatchSizes(found, "Larger batches were no faster.")
    return BatchSizes(found, "These were all the sizes.")


def _may_not_fit(found: list[BatchSize], size: int, free: int | None) -> bool:
    """Whether the memory that the next size adds, as the last one did, is more than was free."""
    one, other = found[-2].peak_bytes, found[-1].peak_bytes
    if free is None or one is None or other is None:
        return False
    for_each_row = (other - one) / (found[-1].size - found[-2].size)
    first = found[0].peak_bytes or 0
    return other - first + for_each_row * (size - found[-1].size) > free


def measured(runner: Runner, source: Source, size: int) -> BatchSize:
    """Trains until its plan is chosen, and then for a moment that counts.

    Args:
        runner: of train steps, that has run none.
        source: batches of this size.
        size: their rows.
    """
    choice, rows, seconds, epoch = runner.choice, 0, 0.0, 0
    runner.begin(_STEPS)
    until = time.monotonic() + _ENOUGH
    with _peak_memory() as peak:
        while seconds < _SECONDS and not (rows and time.monotonic() > until):
            for work in runner.epoch(source, epoch):
                # Steps that no plan runs, such as eager ones, count from the second epoch on.
                by_plan, begun = choice.is_settled, time.perf_counter()
                counts = by_plan or (choice.plan is None and epoch > 0)
                work.run()
                if counts:
                    rows += size * work.steps
                    compiled = work.compiled() if by_plan else 0.0
                    seconds += time.perf_counter() - begun - compiled
                if seconds >= _SECONDS:
                    break
            epoch += 1
    plan = choice.plan.name if choice.plan is not None else "step"
    return BatchSize(size, rows / seconds, seconds * size / rows, peak(), plan)


@contextlib.contextmanager
def _peak_memory() -> Iterator[Callable[[], int | None]]:
    """Gives what tells the most memory that was allocated inside, in bytes."""
    devices = [device.name for device in tf.config.list_logical_devices("GPU")]
    for device in devices:
        tf.config.experimental.reset_memory_stats(device)
    own = Path("/proc/self/clear_refs")
    with contextlib.suppress(OSError):
        own.write_text("5")  # of Linux: the peak of the process begins anew

    def peak() -> int | None:
        if devices:
            infos = map(tf.config.experimental.get_memory_info, devices)
            return sum(int(info["peak"]) for info in infos)
        with contextlib.suppress(OSError, StopIteration):
            lines = Path("/proc/self/status").read_text().splitlines()
            line = next(line for line in lines if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
        return None

    yield peak
