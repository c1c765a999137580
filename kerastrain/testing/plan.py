"""How a metric is checked: which laws, with how many examples, and which are expected to be broken."""

import contextlib
import os
import random
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping

import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.errors import Unsatisfiable
from hypothesis.errors import UnsatisfiedAssumption

from kerastrain.errors import ArgumentError
from kerastrain.testing.case import Case
from kerastrain.testing.case import Trial
from kerastrain.testing.examples import RichDraws
from kerastrain.testing.examples import run_examples
from kerastrain.testing.laws import LAWS
from kerastrain.testing.laws.law import Law
from kerastrain.testing.laws.reference import check_that_it_answers
from kerastrain.testing.report import Outcome
from kerastrain.testing.violations import MetricLawError
from kerastrain.testing.violations import NotApplicable
from kerastrain.testing.violations import Violation
from kerastrain.validation import did_you_mean

# Examples of a cheap law, and of one that compiles.
PROFILES = {"dev": (30, 1), "ci": (30, 2), "thorough": (200, 4)}
# Families whose laws hold or break whatever the rows are, nearly always.
_HALF_AS_MANY = ("state", "configuration")
# How many rows a law that compiles tries to be broken with.
_FEW_ROWS = (2, 3, 4)
_PROFILE_VARIABLE = "KERASTRAIN_PROFILE"


@contextlib.contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """Without warnings of retracing: each trial compiles functions of its own."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


def check_names(argument: str, names: Iterable[str]) -> None:
    """Refuses names of laws that there are not."""
    unknown = [name for name in names if name not in LAWS]
    if unknown:
        raise ArgumentError(
            f"`{argument}` names {unknown[0]!r}, which is no law.{did_you_mean(unknown[0], LAWS)} "
            f"The laws are: {', '.join(LAWS)}."
        )


class Plan:
    """How the laws of one metric are run: what is skipped, how many examples, which seed."""

    def __init__(
        self,
        trial: Trial,
        skip: Mapping[str, str] | None,
        expected: Mapping[str, str] | None,
        profile: str | None,
        seed: int | None,
    ) -> None:
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
            check_names(argument, reasons)
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
        return Outcome(law.name, "xpass" if reason else "passed", reason)

    def run(self, law: Law) -> None:
        """Runs a law on its examples; raises `MetricLawError` or `NotApplicable`."""
        __tracebackhide__ = True  # the message of a broken law says all
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

    def _run_traced(self, law: Law, seed: int, tally: dict) -> None:
        """One rich example; if it breaks the law, its first few rows, if they do too."""
        try:
            law.check(Case(self.trial, RichDraws(seed), tally))
        except Violation as violation:
            for rows in _FEW_ROWS:
                with contextlib.suppress(NotApplicable):
                    law.check(Case(self.trial, RichDraws(seed, rows), tally))
            raise violation from violation.__cause__

    def _error(self, law: Law, violation: Violation) -> MetricLawError:
        name = type(self.trial.make()).__name__
        replay = f'laws=["{law.name}"], seed={self.seed}, profile="{self.profile}"'
        message = violation.message(name, law.name, law.statement, f"check_metric(..., {replay})")
        return MetricLawError(message, law.name, violation.cause)
