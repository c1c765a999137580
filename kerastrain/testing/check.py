"""One line that checks a metric by the laws.

In a test file, a pytest test for each law::

    test_my_metric = metric_laws(lambda: MyMetric(threshold=0.3),
                                 inputs=binary_classification(), reference=my_numpy_version)

Anywhere else, one call::

    print(check_metric(MyMetric, inputs=regression()))

Hypothesis draws the rows and removes what a failure does not need, so what is shown is the
smallest stream of rows that breaks a law.
"""

import contextlib
import dataclasses
import os
import random
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.errors import Unsatisfiable
from hypothesis.errors import UnsatisfiedAssumption

from kerastrain.errors import ArgumentError
from kerastrain.testing import replica_runs
from kerastrain.testing.case import Case
from kerastrain.testing.case import Trial
from kerastrain.testing.examples import RichDraws
from kerastrain.testing.examples import run_examples
from kerastrain.testing.laws import LAWS
from kerastrain.testing.laws.law import Law
from kerastrain.testing.laws.reference import check_that_it_answers
from kerastrain.testing.violations import MetricLawError
from kerastrain.testing.violations import NotApplicable
from kerastrain.testing.violations import Violation

# Examples of a cheap law, and of one that compiles.
PROFILES = {"dev": (30, 1), "ci": (30, 2), "thorough": (200, 4)}
# Families whose laws hold or break whatever the rows are, nearly always.
_HALF_AS_MANY = ("state", "configuration")
# How many rows a law that compiles tries to be broken with.
_FEW_ROWS = (2, 3, 4)
_PROFILE_VARIABLE = "KERASTRAIN_PROFILE"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one law said.

    Attributes:
        law: its name.
        status: ``"passed"``, ``"broken"``, ``"skipped"`` (by the user), ``"not applicable"``,
            ``"expected"`` (broken, as declared) or ``"mended"`` (declared broken, and is not).
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
        return [o.law for o in self.outcomes if o.status in ("broken", "mended")]

    def __str__(self) -> str:
        """A line for each law."""
        counts = [(s, sum(o.status == s for o in self.outcomes)) for s in _STATUSES]
        head = ", ".join(f"{n} {status}" for status, n in counts if n)
        lines = [f"{self.metric}: {head} (seed {self.seed})"]
        for o in self.outcomes:
            lines.append(f"  {o.status:14s} {o.law}{f': {o.reason}' if o.reason else ''}")
        return "\n".join(lines)


_STATUSES = ("passed", "broken", "mended", "expected", "skipped", "not applicable")


def check_metric(
    factory: Callable[[], Any],
    *,
    inputs: Any,
    reference: Callable | None = None,
    laws: str | Iterable[str] | None = None,
    skip: Mapping[str, str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    bounds: tuple[float, float] | None = None,
    shift_invariant: bool = False,
    scale_power: float | None = None,
    tolerance: float = 1e-5,
    profile: str | None = None,
    seed: int | None = None,
) -> MetricReport:
    """Checks a metric by every law that applies to it.

    Args:
        factory: a function without arguments that returns a new metric; a class will do.
        inputs: a strategy of `Stream`, such as `binary_classification`.
        reference: a function of the same arguments as ``update_state``, NumPy arrays in
            float64, columns ``(rows, 1)`` as ``(rows,)``; returns the result. With a
            parameter ``sample_weight``, weights are checked too.
        laws: the laws or families (``"weights"``) to check. None for all but the strict
            ones (`Law.strict`), which most metrics of Keras break; ``"all"`` for these too.
        skip: ``{law: why}``, laws that are not meant to hold.
        expected_failures: ``{law: why}``, laws that are known to be broken. One that holds
            is reported, so that a mended metric shows itself.
        bounds: ``(lowest, highest)`` result.
        shift_invariant: adding one amount to all values leaves the result.
        scale_power: all values times ``c`` multiply the result by ``c ** scale_power``.
            Values are the arguments of that kind (`Column`), and floats of `arguments`.
        tolerance: the largest difference that counts as equal, relative above 1.
        profile: ``"dev"`` (30 examples a law, other ones each time), ``"ci"`` (30, the same
            ones each time, and two rich ones for a law that compiles) or ``"thorough"`` (200
            and four); half as many for the laws of state and configuration. Default: the
            environment variable ``KERASTRAIN_PROFILE``, else ``"ci"`` where ``CI`` is set, else
            ``"dev"``.
        seed: decides all examples. None: 0, and for ``"dev"`` one that is drawn. A failure
            prints it.

    Returns:
        A `MetricReport`.

    Raises:
        MetricLawError: laws are broken; the message shows each. All laws have run then.
        ArgumentError: an unknown law or profile, a skipped law without a reason, or
            something that is declared and that no law can check.
        MetricError: ``factory`` gives no metric.

    Example:
        >>> from kerastrain.testing import regression
        >>> report = check_metric(keras.metrics.MeanSquaredError, inputs=regression(), seed=0,
        ...                       laws=["split_invariance", "within_bounds"])
        >>> print(report)
        MeanSquaredError: 1 passed, 1 not applicable (seed 0)
          passed         split_invariance
          not applicable within_bounds: no `bounds` are declared
    """
    plan = _Plan(
        Trial(factory, inputs, reference, bounds, shift_invariant, scale_power, tolerance),
        skip, expected_failures, profile, seed,
    )  # fmt: skip
    chosen = choose(laws)
    plan.check_declarations()
    prepare_devices(chosen)
    name = type(plan.trial.make()).__name__
    outcomes = tuple(plan.outcomes(chosen))
    report = MetricReport(name, outcomes, plan.seed)
    broken = [o.error for o in outcomes if o.status == "broken"]
    errors = [str(error) for error in broken]
    errors += [
        f"{name} is declared to break {o.law} ({o.reason}), and does not. Remove it from "
        "`expected_failures`."
        for o in outcomes if o.status == "mended"
    ]  # fmt: skip
    if errors:
        law = report.broken[0]
        first = broken[0].__cause__ if broken else None
        raise MetricLawError("\n\n".join([*errors, str(report)]), law) from first
    return report


def metric_laws(
    factory: Callable[[], Any], *, inputs: Any, laws: str | Iterable[str] | None = None,
    skip: Mapping[str, str] | None = None, expected_failures: Mapping[str, str] | None = None,
    profile: str | None = None, seed: int | None = None, **declared: Any,
) -> Callable:  # fmt: skip
    """A pytest test for each law: assign it to a name that begins with ``test_``.

    The tests have the laws' names as ids, so that ``-k split_invariance`` and markers
    (``pytest.mark.slow(metric_laws(...))``) work. Nothing is made before they run. Inside a
    test class write ``staticmethod(metric_laws(...))``.

    Args:
        factory, inputs, laws, skip, expected_failures, profile, seed: as for `check_metric`.
        **declared: ``reference``, ``bounds``, ``shift_invariant``, ``scale_power`` and
            ``tolerance``, as there.

    Returns:
        A parametrised test function. Laws that are skipped or do not apply are skipped with
        their reason; expected failures are strict.

    Example:
        >>> from kerastrain.testing import arguments
        >>> test_mean = metric_laws(keras.metrics.Mean, inputs=arguments(values=st.integers(0, 9)))
        >>> [mark.name for mark in test_mean.pytestmark]
        ['parametrize']
    """
    import pytest

    plan = _Plan(Trial(factory, inputs, **declared), skip, expected_failures, profile, seed)

    def parameter(law):
        marks = []
        if law.name in plan.skip:
            marks = [pytest.mark.skip(reason=plan.skip[law.name])]
        elif law.name in plan.expected:
            reason = plan.expected[law.name]
            marks = [pytest.mark.xfail(strict=True, reason=reason, raises=MetricLawError)]
        return pytest.param(law, id=law.name, marks=marks)

    chosen = choose(laws)

    @pytest.mark.parametrize("law", [parameter(law) for law in chosen])
    def test_metric(law: Law) -> None:
        __tracebackhide__ = True
        plan.check_declarations()
        prepare_devices(chosen)
        try:
            plan.run(law)
        except NotApplicable as reason:
            plan.refuse_expected(law, reason)
            pytest.skip(str(reason))

    return test_metric


def prepare_devices(laws: list[Law]) -> None:
    """Asks for the devices of the law of replicas, if it is among these, before any law runs."""
    if any(law.check.__name__ == "replicas_equal_one_device" for law in laws):
        replica_runs.ask_for_devices()


@contextlib.contextmanager
def _quiet_tensorflow():
    """Without warnings of retracing: each trial compiles functions of its own."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def choose(laws: str | Iterable[str] | None) -> list[Law]:
    """The laws that are asked for, in the order of `LAWS`.

    Args:
        laws: as for `check_metric`.

    Raises:
        ArgumentError: an unknown name.
    """
    if laws is None:
        return [law for law in LAWS.values() if not law.strict]
    if laws == "all":
        return list(LAWS.values())
    names = [laws] if isinstance(laws, str) else list(laws)
    if not names:
        raise ArgumentError(f"`laws` names no law. Received: laws={laws!r}. None stands for all.")
    groups = {law.group for law in LAWS.values()}
    _check_names("laws", [name for name in names if name not in groups])
    return [
        law for law in LAWS.values()
        if law.name in names or (law.group in names and not law.strict)
    ]  # fmt: skip


def _check_names(argument, names):
    unknown = [name for name in names if name not in LAWS]
    if unknown:
        raise ArgumentError(
            f"`{argument}` names {unknown[0]!r}, which is no law. The laws are: {', '.join(LAWS)}."
        )


class _Plan:
    """How the laws of one metric are run: what is skipped, how many examples, which seed."""

    def __init__(self, trial, skip, expected, profile, seed):
        if not callable(trial.factory):
            raise ArgumentError(
                "`factory` must be a function without arguments that returns a new metric. "
                f"Received: {trial.factory!r}. Pass for example `lambda: MyMetric()`."
            )
        if not isinstance(trial.inputs, st.SearchStrategy):
            raise ArgumentError(
                "`inputs` must be a strategy of streams. Received: "
                f"{trial.inputs!r}. Pass for example inputs=binary_classification()."
            )
        for argument, reasons in (("skip", skip), ("expected_failures", expected)):
            if not isinstance(reasons or {}, Mapping):
                raise ArgumentError(
                    f"`{argument}` must be a dict {{law: reason}}. Received: {reasons!r}."
                )
        self.trial, self.skip, self.expected = trial, dict(skip or {}), dict(expected or {})
        for argument, reasons in (("skip", self.skip), ("expected_failures", self.expected)):
            _check_names(argument, reasons)
            for name, reason in reasons.items():
                if not isinstance(reason, str) or not reason.strip():
                    raise ArgumentError(
                        f"`{argument}` needs a reason for {name!r}. Received: {reason!r}. Pass "
                        f'for example {argument}={{"{name}": "the order is what it measures"}}.'
                    )
        is_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
        default = "ci" if is_ci else "dev"
        self.profile = profile or os.environ.get(_PROFILE_VARIABLE) or default
        if self.profile not in PROFILES:
            raise ArgumentError(
                f"`profile` must be one of {', '.join(PROFILES)}. Received: {self.profile!r}."
            )
        drawn = random.SystemRandom().randrange(2**32) if self.profile == "dev" else 0
        self.seed = drawn if seed is None else seed
        self._declarations_checked = False

    def check_declarations(self) -> None:
        """Refuses what is declared and cannot be checked; asks the laws themselves, once.

        Raises:
            ArgumentError: it names the declaration, and why no law can use it.
        """
        if self._declarations_checked:
            return
        self.trial.check_declarations()
        for name in self.skip.keys() & self.expected.keys():
            raise ArgumentError(
                f"`expected_failures` names {name!r}, which `skip` leaves out, so that nothing "
                "checks whether it fails. Remove one of them."
            )
        for law in LAWS.values():
            declared = law.declaration and getattr(self.trial, law.declaration)
            if declared is None or declared is False or law.name in self.skip:
                continue
            try:
                law.check(Case(self.trial, RichDraws(self.seed)))
            except NotApplicable as why:
                raise ArgumentError(
                    f"`{law.declaration}={declared!r}` is declared, and no law can check it: "
                    f"{why}. Say which argument it is about, for example "
                    'arguments(x=Column(strategy, kind="value")), or leave the declaration out.'
                ) from None
            except (Exception, UnsatisfiedAssumption):  # the law itself reports it
                continue
        self._declarations_checked = True

    def refuse_expected(self, law: Law, why: NotApplicable) -> None:
        """Raises ArgumentError for a law that is declared to break, and does not apply."""
        if law.name in self.expected:
            raise ArgumentError(
                f"`expected_failures` names {law.name!r}, which does not apply: {why}. Remove it."
            ) from None

    def outcomes(self, laws: list[Law]) -> Iterator[Outcome]:
        """Runs laws; none after one that shows that the metric does not take the rows at all."""
        refused = False
        for law in laws:
            if refused:
                yield Outcome(law.name, "not applicable", "the metric does not take these inputs")
                continue
            yield (outcome := self.outcome(law))
            refused = law.name == "accepts_stream" and outcome.status == "broken"

    def outcome(self, law: Law) -> Outcome:
        """Runs a law, unless it is skipped."""
        if law.name in self.skip:
            return Outcome(law.name, "skipped", self.skip[law.name])
        reason = self.expected.get(law.name, "")
        try:
            self.run(law)
        except NotApplicable as why:
            self.refuse_expected(law, why)
            return Outcome(law.name, "not applicable", str(why))
        except MetricLawError as error:
            return Outcome(law.name, "expected" if reason else "broken", reason, error)
        return Outcome(law.name, "mended" if reason else "passed", reason)

    def run(self, law: Law) -> None:
        """Runs a law on its examples; raises `MetricLawError` or `NotApplicable`."""
        __tracebackhide__ = True  # a broken law is told in its message
        many, few = PROFILES[self.profile]
        if law.group in _HALF_AS_MANY:
            many //= 2
        tally: dict = {}
        try:
            if law.traced:
                with _quiet_tensorflow():
                    for number in range(few):
                        self._run_traced(law, self.seed + number, tally)
            else:
                run_examples(
                    lambda draw: law.check(Case(self.trial, draw, tally)),
                    1 if law.fixed else many,
                    self.seed,
                )
        except Violation as violation:
            raise self._error(law, violation) from violation.__cause__
        except FlakyFailure as failure:  # the same rows broke the law once and held it once
            violations = [e for e in failure.exceptions if isinstance(e, Violation)]
            if not violations:
                raise
            raise self._error(law, violations[0]) from violations[0].__cause__
        except Unsatisfiable as error:
            check_that_it_answers(tally)
            if law.name == "accepts_stream":
                raise ArgumentError(
                    f"`inputs` gave no stream of rows ({error}). Received: {self.trial.inputs!r}."
                ) from None
            raise NotApplicable("no example has what it needs") from None
        check_that_it_answers(tally)

    def _run_traced(self, law, seed, tally):
        """One rich example; if it breaks the law, its first few rows, if they do too."""
        try:
            law.check(Case(self.trial, RichDraws(seed), tally))
        except Violation as violation:
            for rows in _FEW_ROWS:
                with contextlib.suppress(NotApplicable):
                    law.check(Case(self.trial, RichDraws(seed, rows), tally))
            raise violation from violation.__cause__

    def _error(self, law, violation) -> MetricLawError:
        name = type(self.trial.make()).__name__
        replay = f'laws=["{law.name}"], seed={self.seed}, profile="{self.profile}"'
        message = violation.message(name, law.name, law.statement, f"check_metric(..., {replay})")
        return MetricLawError(message, law.name, violation.cause)
