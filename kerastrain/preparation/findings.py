"""What the lint finds: a rule that is broken, and a message that says where and how to mend it."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

from kerastrain.preparation import user_code

LOSS = "unscaled loss"
SCOPE = "outside the scope"
STATISTICS = "batch statistics"
ROWS = "rows compared"
ASSIGNMENT = "assignment"
METRIC = "metric state"
LOGITS = "from_logits"
# How many variables or layers a message names.
_NAMED = 5


class Finding(NamedTuple):
    """One mistake.

    Attributes:
        rule: one of the names in the table above.
        message: what happens, the line to change, and the change.
    """

    rule: str
    message: str


def listed(names: list[str]) -> str:
    """A few of the names, and how many there are more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def place_of(kind: type | Callable[..., Any]) -> str:
    """Where a class or function is defined, if it is the user's."""
    return f" ({user_code.place(kind)})" if user_code.is_users(kind) else ""
