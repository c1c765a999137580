"""The message of a broken law, which is what the laws are for.

::

    BinaryF1 breaks the law split_invariance:
    any cut of the rows into batches gives the same result.

        a = factory()
        a.update_state(np.array([[0], [1]], 'int32'), np.array([[0.0], [1.0]], 'float32'))
        ...

    Expected  0.5     all rows at once
    Found     0.25    in batches of 1, 1 rows

    Likely cause: the result is a mean of batch means.
    Fix: ...
"""

from typing import Any

import numpy as np


class MetricLawError(AssertionError):
    """A metric breaks a law; the message shows the smallest rows that prove it.

    Attributes:
        law: the name of the law.
        cause: the likely cause, one sentence, or None.
    """

    def __init__(self, message: str, law: str, cause: str | None = None):
        super().__init__(message)
        self.law, self.cause = law, cause


class NotApplicable(Exception):
    """Raised by a law that has nothing to say about this metric; the message says why."""


class Violation(Exception):
    """Raised by a law that is broken; `kerastrain.testing.check` makes the message of it.

    Attributes:
        program: lines of code that show it.
        expected, found: results or sentences, with ``of`` saying what they are of.
        cause: the likely cause, or None.
        fix: what to change, or None.
    """

    def __init__(
        self,
        program: list[str],
        expected: Any = None,
        found: Any = None,
        of: tuple[str, str] = ("", ""),
        cause: str | None = None,
        fix: str | None = None,
    ):
        super().__init__(cause or "law broken")
        self.program, self.expected, self.found, self.of = program, expected, found, of
        self.cause, self.fix = cause, fix

    def message(self, metric: str, law: str, statement: str, replay: str) -> str:
        """The whole message.

        Args:
            metric: how the metric is called.
            law: the law's name.
            statement: the law in one sentence.
            replay: the call that shows the same again.
        """
        lines = [f"{metric} breaks the law {law}:", f"{statement}", ""]
        lines += [f"    {line}" for line in self.program]
        lines += ["", *self._compared()]
        if self.cause:
            lines += [f"Likely cause: {self.cause}"]
        if self.fix:
            lines += [f"Fix: {self.fix}"]
        return "\n".join([*lines, f"Replay: {replay}"])

    def _compared(self) -> list[str]:
        if self.expected is None and self.found is None:
            return []
        expected, found = shown(self.expected), shown(self.found)
        width = max(len(expected), len(found)) if max(len(expected), len(found)) < 40 else 0
        pairs = (("Expected", expected, self.of[0]), ("Found", found, self.of[1]))
        return [f"{name:9s} {text:{width}s}  {of}".rstrip() for name, text, of in pairs] + [""]


def shown(result: Any) -> str:
    """A result in one line."""
    if isinstance(result, str):
        return result
    if isinstance(result, dict):
        if list(result) == [()]:
            return shown(result[()])
        return (
            "{" + ", ".join(f"{'.'.join(map(str, k))}: {shown(v)}" for k, v in result.items()) + "}"
        )
    array = np.asarray(result)
    if array.dtype.kind not in "fiub":
        return str(result)
    return np.array2string(array.astype("float64"), precision=9, separator=", ", threshold=50)
