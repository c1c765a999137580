"""The versions of Keras and TensorFlow that the tests have run with.

::

    is_tested("keras", "3.15.1")     # True
    warn_of_untested()               # once in a process, where one of those in use is another

A newer version is most often fine, so it is a warning and never an error. ``python -m tests.matrix``
runs the tests with each pair of `PAIRS`.
"""

from packaging.version import InvalidVersion
from packaging.version import Version

from kerastrain import notices

# Keras and TensorFlow, the oldest pair first.
PAIRS = (("3.13", "2.19"), ("3.14", "2.20"), ("3.15", "2.21"))
TESTED = {name: tuple(pair[i] for pair in PAIRS) for i, name in enumerate(("keras", "tensorflow"))}

_warned: list[str] = []


def is_tested(name: str, version: str) -> bool:
    """Whether a version is one of those that were tested, whatever its last number is.

    Args:
        name: ``"keras"`` or ``"tensorflow"``.
        version: as in ``keras.__version__``.

    Example:
        >>> is_tested("keras", "3.14.0"), is_tested("keras", "3.99.0.dev1")
        (True, False)
    """
    try:
        found = Version(version)
    except InvalidVersion:
        return False
    return f"{found.major}.{found.minor}" in TESTED[name]


def ranges() -> str:
    """What was tested, in words.

    Example:
        >>> ranges()
        'Keras 3.13 to 3.15 and TensorFlow 2.19 to 2.21'
    """
    keras, tensorflow = TESTED["keras"], TESTED["tensorflow"]
    return f"Keras {keras[0]} to {keras[-1]} and TensorFlow {tensorflow[0]} to {tensorflow[-1]}"


def warn_of_untested() -> None:
    """Warns, once in a process, where Keras or TensorFlow is of a version that was not tested."""
    import keras
    import tensorflow as tf

    in_use = {"Keras": keras.__version__, "TensorFlow": tf.__version__}
    others = [f"{n} {v}" for n, v in in_use.items() if not is_tested(n.lower(), v)]
    if others and not _warned:
        _warned.extend(others)
        notices.warn(
            f"kerastrain was not tested with {' and '.join(others)}, but with {ranges()}. It is likely "
            "to work. If something fails here and not with those, report it to kerastrain with the "
            "traceback and what `python -m kerastrain doctor` prints."
        )
