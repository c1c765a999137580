"""How examples are drawn: by Hypothesis's search, or a few rich ones.

::

    run_examples(lambda draw: law(draw(strategy)), count=30, seed=0)
    rich = RichDraws(seed=0)(strategy)
"""

from collections.abc import Callable
from typing import Any

import hypothesis
import keras
from hypothesis import strategies as st

from kerastrain.testing.streams import Stream

# The number of drawn streams, of which the richest are taken for laws that compile.
_POOL = 25


def run_examples(
    body: Callable[[Callable], None], count: int, seed: int, shrink: bool = True
) -> None:
    """Runs ``body(draw)`` on examples; raises what it raises, on the smallest of them.

    Args:
        body: draws by ``draw(strategy)``.
        count: how many examples.
        seed: decides them.
        shrink: whether to look for the smallest example that raises.
    """
    phases = (hypothesis.Phase.generate, hypothesis.Phase.shrink)
    settings = hypothesis.settings(
        max_examples=count, deadline=None, database=None, derandomize=False, print_blob=False,
        report_multiple_bugs=False, suppress_health_check=list(hypothesis.HealthCheck),
        phases=phases if shrink else phases[:1],
        verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip

    @hypothesis.seed(seed)
    @settings
    @hypothesis.given(st.data())
    def run(data: st.DataObject) -> None:
        body(data.draw)

    run()


class RichDraws:
    """Draws without Hypothesis's search: of some examples the one that holds the most.

    A law that compiles has few examples, and Hypothesis begins with the simplest.

    Args:
        seed: decides the examples.
        rows: the most rows of a stream; the others are left out. None for all.
    """

    def __init__(self, seed: int, rows: int | None = None):
        self._seed, self._rows = seed, rows

    def __call__(self, strategy: st.SearchStrategy) -> Any:
        found: list[Any] = []
        run_examples(lambda draw: found.append(draw(strategy)), _POOL, self._seed)
        self._seed += 1
        richest = max(found, key=_richness)
        return richest.take(slice(0, self._rows)) if isinstance(richest, Stream) else richest


def _richness(value: Any) -> int:
    if isinstance(value, Stream):
        leaves = keras.tree.flatten(value.arguments)
        return sum(map(_richness, leaves)) + 100 * value.rows
    try:
        return len({str(v) for v in (value.ravel() if hasattr(value, "ravel") else value)})
    except TypeError:
        return 0
