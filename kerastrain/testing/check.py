"""One line that checks a metric by the laws.

In a test file, a pytest test for each law::

    test_my_metric = metric_laws(lambda: MyMetric(threshold=0.3),
                                 inputs=binary_classification(), reference=my_numpy_version)

Anywhere else, one call::

    print(check_metric(MyMetric, inputs=regression()))

Hypothesis draws the rows and removes what a failure does not need, so what is shown is the
smallest stream of rows that breaks a law.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from kerastrain.errors import ArgumentError
from kerastrain.testing import replica_runs
from kerastrain.testing.case import Trial
from kerastrain.testing.laws import LAWS
from kerastrain.testing.laws.law import Law
from kerastrain.testing.plan import check_names
from kerastrain.testing.plan import Plan
from kerastrain.testing.report import MetricReport
from kerastrain.testing.violations import MetricLawError
from kerastrain.testing.violations import NotApplicable


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
            is reported, so that a metric that has been repaired is noticed.
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
    plan = Plan(
        Trial(factory, inputs, reference, bounds, shift_invariant, scale_power, tolerance),
        skip, expected_failures, profile, seed,
    )  # fmt: skip
    chosen = choose(laws)
    plan.check_declarations()
    prepare_devices(chosen)
    name = type(plan.trial.make()).__name__
    outcomes = tuple(plan.outcomes(chosen))
    report = MetricReport(name, outcomes, plan.seed)
    broken = [o.error for o in outcomes if o.status == "broken" and o.error is not None]
    errors = [str(error) for error in broken]
    errors += [
        f"{name} is declared to break {o.law} ({o.reason}), and does not. Remove it from "
        "`expected_failures`."
        for o in outcomes if o.status == "xpass"
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
        >>> from hypothesis import strategies as st
        >>> test_mean = metric_laws(keras.metrics.Mean, inputs=arguments(values=st.integers(0, 9)))
        >>> [mark.name for mark in test_mean.pytestmark]
        ['parametrize']
    """
    import pytest

    plan = Plan(Trial(factory, inputs, **declared), skip, expected_failures, profile, seed)

    def parameter(law: Law) -> Any:
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
    check_names("laws", [name for name in names if name not in groups])
    return [
        law for law in LAWS.values()
        if law.name in names or (law.group in names and not law.strict)
    ]  # fmt: skip
