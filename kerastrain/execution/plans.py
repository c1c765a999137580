"""Ways to run the steps of one step function."""

from typing import NamedTuple


class Plan(NamedTuple):
    """A way to run steps.

    Attributes:
        name: by which it is pinned and reported.
        loops: whether one call runs many steps, in a compiled loop.
        xla: whether XLA compiles it.
    """

    name: str
    loops: bool
    xla: bool


STEP = Plan("step", loops=False, xla=False)
LOOP = Plan("loop", loops=True, xla=False)
XLA_LOOP = Plan("xla_loop", loops=True, xla=True)
