"""One trial of a law: draws its rows, makes its metrics, compares results.

::

    def split_invariance(case):
        stream = case.stream(least=2)
        whole, parts = case.metric(), case.metric()
        ...
        case.same(whole.result(), parts.result(), of=("at once", "in batches"))
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any
from typing import NoReturn

import hypothesis
import keras
import numpy as np

from kerastrain.errors import ArgumentError
from kerastrain.errors import MetricError
from kerastrain.testing import inputs as inputs_lib
from kerastrain.testing.examples import RichDraws
from kerastrain.testing.streams import Stream
from kerastrain.testing.subject import as_result
from kerastrain.testing.subject import differ
from kerastrain.testing.subject import Result
from kerastrain.testing.subject import Subject
from kerastrain.testing.violations import NotApplicable
from kerastrain.testing.violations import Violation


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is to be checked, as `kerastrain.testing.check_metric` was given it.

    Attributes:
        factory, inputs, reference, bounds, shift_invariant, scale_power,
        tolerance: as there.
    """

    factory: Callable[[], Any]
    inputs: Any
    reference: Callable | None = None
    bounds: tuple[float, float] | None = None
    shift_invariant: bool = False
    scale_power: float | None = None
    tolerance: float = 1e-5

    def check_declarations(self) -> None:
        """Refuses declarations that every metric fulfils, or none.

        Raises:
            ArgumentError: with the value.
        """
        low, high = self.bounds if self.bounds is not None else (0.0, 1.0)
        if not low <= high or (np.isinf(low) and np.isinf(high)):
            raise ArgumentError(
                "`bounds` must be (lowest, highest), one of them finite. Received: "
                f"bounds={self.bounds!r}."
            )
        if not 0 <= self.tolerance < np.inf:
            raise ArgumentError(
                f"`tolerance` must be 0 or more. Received: tolerance={self.tolerance!r}."
            )
        if self.scale_power is not None and not np.isfinite(self.scale_power):
            raise ArgumentError(
                f"`scale_power` must be a number. Received: scale_power={self.scale_power!r}."
            )

    def make(self) -> keras.metrics.Metric:
        """A new metric.

        Raises:
            MetricError: the factory gives something else.
        """
        try:
            metric = self.factory()
        except Exception as error:
            message = f"`factory` raised {type(error).__name__}: {error}."
            if isinstance(self.factory, keras.metrics.Metric):
                message = (
                    "`factory` is a metric, not what makes one. Pass its class, or a function."
                )
            elif isinstance(error, TypeError) and "argument" in str(error):
                message += " Pass a function without arguments: `lambda: MyMetric(threshold=0.3)`."
            raise MetricError(message) from error
        if not isinstance(metric, keras.metrics.Metric):
            raise MetricError(
                "`factory` must be a function without arguments that returns a new "
                f"keras.metrics.Metric. It returned: {metric!r}. Pass for example "
                "`lambda: MyMetric(threshold=0.3)`."
            )
        return metric

    @functools.cached_property
    def weighted(self) -> bool:
        """Whether ``update_state`` takes ``sample_weight``, by name or among ``**kwargs``."""
        parameters = inspect.signature(self.make().update_state).parameters.values()
        return any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters)


class Case:
    """One trial with one set of drawn rows.

    Args:
        trial: what is checked.
        draw: draws from a Hypothesis strategy.
        tally: what is counted over all examples of a law; shared by its cases.

    Attributes:
        program: what was done, as code.
    """

    def __init__(self, trial: Trial, draw: Callable, tally: dict | None = None):
        self.trial, self.draw = trial, draw
        self.tally = {} if tally is None else tally
        self.program: list[str] = []
        self._made = 0

    # Drawing ------------------------------------------------------------------

    def stream(self, least: int = 1) -> Stream:
        """Rows, ``least`` or more."""
        stream = self.draw(self.trial.inputs)
        if not isinstance(stream, Stream):
            raise MetricError(
                "`inputs` must be a strategy of kerastrain.testing.Stream, such as "
                f"binary_classification(). It gave: {stream!r}."
            )
        self.assume(stream.rows >= least)
        return stream

    def assume(self, condition: Any) -> None:
        """Leaves this example out unless the condition holds."""
        if hypothesis.currently_in_test_context():
            hypothesis.assume(condition)
        else:
            self.needs(condition, "the inputs have too few rows")

    def batches(self, stream: Stream, least: int = 1) -> list[Stream]:
        """The rows cut into batches of ``least`` rows or more."""
        return stream.cut(self.draw(inputs_lib.partitions(stream.rows, least=least)))

    def weights(self, stream: Stream, kind: str = "any") -> np.ndarray:
        """A weight for each row, of a kind of `sample_weights`."""
        return self.draw(inputs_lib.sample_weights((stream.rows,), kind))

    def rich_stream(self) -> Stream:
        """Many different rows, the same ones in each trial, for a second look."""
        if "rich" not in self.tally:
            self.tally["rich"] = RichDraws(0)(self.trial.inputs)
        return self.tally["rich"]

    # Metrics ------------------------------------------------------------------

    def metric(self) -> Subject:
        """A new metric, written as ``a``, ``b``, ... in the program."""
        self._made += 1
        return Subject(self.trial.make(), "abcdefgh"[self._made - 1], self.program)

    def updated(self, *batches: Stream) -> Subject:
        """A new metric that has seen these batches."""
        subject = self.metric()
        for batch in batches:
            subject.update(batch)
        return subject

    def quiet(self, *batches: Stream) -> Result | None:
        """The result of a new metric after these batches, not noted; None if that fails."""
        try:
            metric = self.trial.make()
            for batch in batches:
                batch.call(metric.update_state)
            return as_result(metric.result())
        except Exception:  # it only looks for a likely cause
            return None

    # Judging ------------------------------------------------------------------

    def needs(self, condition: Any, reason: str) -> None:
        """Ends the trial as not applicable unless the condition holds."""
        if not condition:
            raise NotApplicable(reason)

    def needs_weights(self) -> None:
        """Ends the trial of a metric that knows no weights."""
        self.needs(self.trial.weighted, "`update_state` takes no `sample_weight`")

    def fail(
        self,
        expected: Any = None,
        found: Any = None,
        of: tuple[str, str] = ("", ""),
        cause: str | None = None,
        fix: str | None = None,
    ) -> NoReturn:
        """Ends the trial: the law is broken."""
        raise Violation(list(self.program), expected, found, of, cause, fix)

    def same(
        self,
        expected: Result,
        found: Result,
        of: tuple[str, str] = ("", ""),
        explain: Callable[[], tuple[str | None, str | None]] = lambda: (None, None),
        tolerance: float | None = None,
    ) -> None:
        """Fails unless both results are equal.

        Args:
            expected, found: results.
            of: what each is the result of.
            explain: gives cause and fix; called only if they differ.
            tolerance: in place of the trial's.
        """
        if self.differ(expected, found, tolerance):
            self.fail(expected, found, of, *explain())

    def differ(self, expected: Result, found: Result, tolerance: float | None = None) -> bool:
        """Whether two results differ by more than the tolerance."""
        return differ(expected, found, self.trial.tolerance if tolerance is None else tolerance)

    def same_state(
        self, expected: list, found: list, of: tuple[str, str], cause: str, fix: str
    ) -> None:
        """Fails unless both states are equal; ``{names}`` in the texts are the variables."""
        pairs = list(zip(expected, found, strict=False))
        unequal = [i for i, (a, b) in enumerate(pairs) if self.differ({(): a}, {(): b})]
        if unequal:
            names = [v.name for v in self.trial.make().variables]
            listed = ", ".join(repr(names[i]) for i in unequal)
            picked = [{(names[i],): state[i] for i in unequal} for state in (expected, found)]
            self.fail(
                picked[0], picked[1], of, cause.format(names=listed), fix.format(names=listed)
            )


def rows_of(batches: list[Stream]) -> str:
    """``"in batches of 2, 1 rows"``."""
    return f"in batches of {', '.join(str(b.rows) for b in batches)} rows"
