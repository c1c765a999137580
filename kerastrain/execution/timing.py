"""Where the time of a loop goes, part by part.

::

    times = Times()
    batch = next(batches);  times.lap("data")       # since the last lap
    step(batch);            times.lap("step")
    print(times)

A lap costs a fifth of a microsecond, so that it is always on. Times are of the thread that
runs the loop: what the background does while it computes is not in them.
"""

import time
from collections.abc import Callable

# What a loop does, in the order of the table.
PARTS = (
    "data",
    "compiling",
    "step",
    "checks",
    "metrics",
    "callbacks",
    "validation",
    "saving",
    "progress",
)


class Times:
    """Seconds of each part of a loop, from now on.

    Attributes:
        seconds: by the part's name.

    Example:
        >>> ticks = iter([0.0, 3.0, 4.0])
        >>> times = Times(clock=lambda: next(ticks))
        >>> times.lap("step"); times.lap("data")
        >>> print(times)
        data 1.00 s (25 %), step 3.00 s (75 %)
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._last = clock()

    def begin(self) -> None:
        """Leaves out the time so far."""
        self._last = self._clock()

    def lap(self, part: str) -> None:
        """Counts the time since the last lap to a part."""
        now = self._clock()
        self.seconds[part] += now - self._last
        self._last = now

    def move(self, seconds: float, before: str, after: str) -> None:
        """Counts some of the seconds of one part to another."""
        self.seconds[before] -= seconds
        self.seconds[after] += seconds

    def __str__(self) -> str:
        """The parts that took time, on one line."""
        total = sum(self.seconds.values()) or 1.0
        return ", ".join(
            f"{part} {seconds:.2f} s ({100 * seconds / total:.0f} %)"
            for part, seconds in self.seconds.items()
            if seconds > 0
        )
