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


def in_tiers(factory, laws, **declared):
    """Two tests: of the quick laws, and of all that are named, which is a slow one."""
    quick = metric_laws(factory, laws=QUICK, **declared)
    return quick, pytest.mark.slow(metric_laws(factory, laws=laws, **declared))
