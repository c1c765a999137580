"""Transactional steps: a step that is not finite, or too large for the memory, is rolled back.

`GuardedSteps` runs the chunks of the execution in transactions: variables = snapshot + journal of
the steps since. Its parts are in modules of their own: what is finite (`kerastrain.guard.finite`),
what was wrong (`diagnosis`), what callbacks change between steps (`between`), and the snapshot that
the policy ``"rollback"`` goes back to (`snapshots`).
"""

from kerastrain.guard.policy import policy_of
from kerastrain.guard.transactions import GuardedSteps

__all__ = [
    "GuardedSteps",
    "policy_of",
]
