"""Each wrong metric is found by the law that should find it."""

import pytest

from kerastrain.testing import check_metric
from kerastrain.testing import LAWS
from kerastrain.testing import MetricLawError
from tests.support import tiers
from tests.testing.mutants import MUTANTS

# One for each law, but where `test_check` has one, or it takes long; the rest in the slow tests.
ELSEWHERE = ("MaximumOfReplicas", "MaximumSummed", "MeanOfBatchMeans", "WeightsNormalisedInBatch")
LONG = ("SignChanges",)
FIRST = {mutant.law: name for name, mutant in reversed(MUTANTS.items())}


@pytest.mark.parametrize(
    "name", tiers.cases(MUTANTS, set(FIRST.values()).difference(ELSEWHERE, LONG))
)
def test_is_found(name):
    """The law breaks, and the message shows the smallest rows and how to see it again."""
    mutant = MUTANTS[name]
    with pytest.raises(MetricLawError, match="factory") as caught:
        check_metric(
            mutant.factory, inputs=mutant.inputs, laws=[mutant.law], seed=0, profile="ci",
            **mutant.declared,
        )  # fmt: skip
    assert mutant.law == caught.value.law
    message = str(caught.value)
    assert f"breaks the law {mutant.law}" in message
    assert LAWS[mutant.law].statement in message
    assert f'laws=["{mutant.law}"], seed=0, profile="ci"' in message


def test_every_law_finds_one():
    """No law is idle: each has a wrong metric that it finds."""
    assert set(LAWS) == {mutant.law for mutant in MUTANTS.values()}


def test_number():
    """There are 45 or more, and all but a few need no reference."""
    assert len(MUTANTS) >= 45
    assert sum(not mutant.needs_reference for mutant in MUTANTS.values()) >= 45
