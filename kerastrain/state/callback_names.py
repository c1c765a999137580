"""Names of callbacks, the same in each process: the class, and how many of it come before."""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Sequence

import keras


def by_name(callbacks: Sequence[keras.callbacks.Callback]) -> dict[str, keras.callbacks.Callback]:
    """Callbacks by their class and how many of it come before: as their states are matched."""
    return dict(zip(numbered(map(class_name, callbacks)), callbacks, strict=True))


def numbered(classes: Iterable[str]) -> list[str]:
    """``["A#0", "B#0", "A#1"]`` of A, B, A."""
    counts: Counter[str] = Counter()
    names = []
    for name in classes:
        names.append(f"{name}#{counts[name]}")
        counts[name] += 1
    return names


def class_name(callback: keras.callbacks.Callback) -> str:
    """Module and name of a callback's class, or of the one that it is saved as."""
    kind = getattr(callback, "saved_as", type(callback))
    return f"{kind.__module__}.{kind.__qualname__}"
