"""Which laws the tests of a family run, and how."""

import pytest

from kerastrain.testing import metric_laws

# The examples are the same in each run.
PINNED = {"tolerance": 1e-6, "seed": 0, "profile": "ci"}
# For the siblings of a metric that runs all laws: those which its own formula can break.
OF_A_FORMULA = (
    "equals_reference", "equals_weighted_reference", "integer_weight_is_repetition",
    "merge_equals_one_pass", "finite_when_fresh", "finite_on_valid_input", "arguments_survive",
    "dtype_is_respected",
)  # fmt: skip
# Those that find most of what can be wrong.
QUICK = (
    "equals_reference", "equals_weighted_reference", "merge_equals_one_pass", "finite_when_fresh",
    "replicas_equal_one_device",
)  # fmt: skip
# For the siblings of a metric whose state is merged by the same rules.
WEIGHTED = ("equals_weighted_reference", "finite_when_fresh")


def in_tiers(factory, laws, always=WEIGHTED, **declared):
    """Two tests: of the quick laws, and of all that are named, which is a slow one.

    Of the quick laws those that are not named by ``always`` are slow tests too.
    """
    quick = but_slow(metric_laws(factory, laws=QUICK, **declared), always)
    return quick, pytest.mark.slow(metric_laws(factory, laws=laws, **declared))


def but_slow(test, always):
    """The test of laws; those that are not named are slow tests."""
    (mark,) = test.pytestmark
    names, laws = mark.args
    assert not set(always) - {law.id for law in laws}
    laws = [
        law if law.id in always else pytest.param(
            *law.values, id=law.id, marks=[*law.marks, pytest.mark.slow]
        )
        for law in laws
    ]  # fmt: skip
    test.pytestmark = [pytest.mark.parametrize(names, laws).mark]
    return test
