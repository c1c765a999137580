"""What a check of a metric found: an outcome for each law."""

import dataclasses

from kerastrain.testing.violations import MetricLawError


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one law said.

    Attributes:
        law: its name.
        status: ``"passed"``, ``"broken"``, ``"skipped"`` (by the user), ``"not applicable"``,
            ``"expected"`` (broken, as declared) or ``"xpass"`` (declared broken, and holds).
        reason: why it was skipped, is not applicable or is expected to fail.
        error: the `MetricLawError` of a broken law.
    """

    law: str
    status: str
    reason: str = ""
    error: MetricLawError | None = None


@dataclasses.dataclass(frozen=True)
class MetricReport:
    """What all laws said; prints as a list.

    Attributes:
        metric: the class's name.
        outcomes: one for each law that was asked for.
        seed: with which the examples were drawn.
    """

    metric: str
    outcomes: tuple[Outcome, ...]
    seed: int

    @property
    def broken(self) -> list[str]:
        """The names of the broken laws."""
        return [o.law for o in self.outcomes if o.status in ("broken", "xpass")]

    def __str__(self) -> str:
        """A line for each law."""
        counts = [(s, sum(o.status == s for o in self.outcomes)) for s in _STATUSES]
        head = ", ".join(f"{n} {status}" for status, n in counts if n)
        lines = [f"{self.metric}: {head} (seed {self.seed})"]
        for o in self.outcomes:
            lines.append(f"  {o.status:14s} {o.law}{f': {o.reason}' if o.reason else ''}")
        return "\n".join(lines)


_STATUSES = ("passed", "broken", "xpass", "expected", "skipped", "not applicable")
