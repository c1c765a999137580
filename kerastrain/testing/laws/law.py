"""What a law is: a small named function of a `Case`, with its statement as docstring.

::

    @law("stream")
    def empty_batch(case):
        \"""A batch without rows changes nothing.\"""
"""

from collections.abc import Callable
from typing import NamedTuple

from kerastrain.testing.case import Case


class Law(NamedTuple):
    """One law.

    Attributes:
        name: of its function.
        group: the family: state, stream, weights, execution, configuration,
            numbers, masks or reference.
        check: the function; raises `Violation` or `NotApplicable`.
        traced: whether it compiles something, so that it runs on few rich examples.
        strict: whether it runs on request only: sound metrics of Keras break it,
            in ways that its own ``fit`` never meets.
        fixed: whether it draws nothing, so that one run is enough.
        declaration: what the user declares for this law to check, a field of
            `kerastrain.testing.case.Trial`; None for a law that needs no such word.
    """

    name: str
    group: str
    check: Callable[[Case], None]
    traced: bool = False
    strict: bool = False
    fixed: bool = False
    declaration: str | None = None

    @property
    def statement(self) -> str:
        """The law in one sentence."""
        text = self.check.__doc__
        assert text is not None  # each law states itself
        return " ".join(text.split("\n\n")[0].split())


def law(
    group: str, *, traced: bool = False, strict: bool = False, fixed: bool = False,
    declaration: str | None = None,
) -> Callable[[Callable], Law]:  # fmt: skip
    """Makes a `Law` of a function of a case."""

    def make(check: Callable[[Case], None]) -> Law:
        return Law(check.__name__, group, check, traced, strict, fixed, declaration)

    return make
