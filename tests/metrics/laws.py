"""Which laws the tests of a family run, and how."""

# The examples are the same in each run.
PINNED = {"tolerance": 1e-6, "seed": 0, "profile": "ci"}
# For the siblings of a metric that runs all laws: those which its own formula can break.
OF_A_FORMULA = (
    "equals_reference", "equals_weighted_reference", "integer_weight_is_repetition",
    "merge_equals_one_pass", "finite_when_fresh", "finite_on_valid_input", "arguments_survive",
    "dtype_is_respected",
)  # fmt: skip
