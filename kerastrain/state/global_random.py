"""The random generators of Python's, NumPy's and Keras's that all code of a process shares.

::

    saved = states()
    ...
    before = of_functions()                       # in another process
    ...                                           # data are drawn again
    drew = moved_since(before)                    # {"numpy"}
    await_functions(saved, drew, ["x"])
    set_states(saved, but=drew)

Python functions that make batches may draw from those of Python and NumPy, in threads that run
ahead of the training. Then what is saved is how far these threads were, and what is drawn again
has to get as far before the training continues.
"""

import random
import time
from collections.abc import Collection
from typing import Any

import keras
import numpy as np

from kerastrain import _keras
from kerastrain.errors import DataError
from kerastrain.state import digests

# How long, in seconds, threads have to draw ahead as far as they had.
_PATIENCE = 2.0


def states() -> dict[str, Any]:
    """Their states, and that which TensorFlow's random operations take their seeds from."""
    generator = _keras.global_random_state()
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "keras": None if generator is None else generator.numpy(),
        "operations": _keras.operation_seeds(),
    }


def set_states(saved: dict[str, Any], but: Collection[str] = ()) -> None:
    """As `states` gave them.

    Args:
        saved: what it gave.
        but: which of ``"python"`` and ``"numpy"`` stay as they are.
    """
    if "python" not in but:
        random.setstate(saved["python"])
    if "numpy" not in but:
        np.random.set_state(saved["numpy"])
    if saved["keras"] is not None:
        generator = _keras.global_random_state()
        if generator is None:
            keras.random.uniform(())  # makes it
            generator = _keras.global_random_state()
        assert generator is not None
        generator.assign(saved["keras"])
    if saved.get("operations") is not None:  # not in the first versions
        _keras.set_operation_seeds(saved["operations"])


def check(saved: dict[str, Any]) -> None:
    """Raises what `set_states` would raise for states that are none, and changes nothing."""
    _of_saved(saved)
    if saved.get("operations") is not None:
        random.Random().setstate(saved["operations"][1])


def of_functions() -> dict[str, str]:
    """Digests of the states of those of Python and NumPy, from which functions may draw."""
    return _digests(random.getstate(), np.random.get_state())


def moved_since(before: dict[str, str]) -> set[str]:
    """Which of them have been drawn from since `of_functions` gave these digests."""
    return {name for name, digest in of_functions().items() if digest != before[name]}


def await_functions(saved: dict[str, Any], drew: set[str], names: list[str]) -> None:
    """Waits until Python functions that were called again have drawn as much as they had.

    Args:
        saved: what `states` gave then.
        drew: from which of ``"python"`` and ``"numpy"`` they draw.
        names: of the data whose functions have drawn.

    Raises:
        DataError: they do not get there.
    """
    expected, until = _of_saved(saved), time.monotonic() + _PATIENCE
    while drew & moved_since(expected):
        if time.monotonic() > until:
            raise DataError(
                f"Python functions that make the batches of {names} draw from the global random "
                "numbers of Python or NumPy, and how far they had run ahead of the training, or "
                "who else drew between them, cannot be repeated. Let each function draw from a "
                "generator of its own, such as np.random.default_rng((seed, number)). Or begin "
                "again in another run_dir."
            )
        time.sleep(0.01)


def _of_saved(saved: dict[str, Any]) -> dict[str, str]:
    python, numpy = random.Random(), np.random.RandomState()
    python.setstate(saved["python"])
    numpy.set_state(saved["numpy"])
    return _digests(python.getstate(), numpy.get_state())


def _digests(python: Any, numpy: Any) -> dict[str, str]:
    return {"python": digests.digest_of(repr(python)), "numpy": digests.digest_of(numpy)}
