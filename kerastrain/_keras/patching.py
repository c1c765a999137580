"""Attributes of classes and modules that are another for a while."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, an attribute of a class or module is another, in all threads.

    Args:
        owner: the class or module; what a class inherits is inherited again afterwards.
        name: of the attribute.
        value: that it has inside.
    """
    inherited, before = name not in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
