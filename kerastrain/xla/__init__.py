"""What XLA compiles, and what it leaves alone.

`support` says beforehand whether XLA can compile a model or a graph. `compiled_by_xla` compiles
the part of a step that runs inside one replica. `same_under_xla` lets a compiled loop draw the
random numbers that the graph draws.
"""

from kerastrain.xla import support
from kerastrain.xla.parts import compiled_by_xla
from kerastrain.xla.random_numbers import check_graph
from kerastrain.xla.random_numbers import same_under_xla

__all__ = [
    "check_graph",
    "compiled_by_xla",
    "same_under_xla",
    "support",
]
