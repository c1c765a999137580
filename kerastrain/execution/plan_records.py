"""What was measured of plans, kept in the user's cache directory from one process to the next.

::

    records = PlanRecords(key)
    records.find()                        # PlanRecord(seconds={"loop": 7e-05, ...}, ...) or None
    records.keep(PlanRecord(...))

A record is a hint: it says which plan to begin with, which is measured again. One that cannot be read
is none, and where nothing can be written nothing is kept. The directory is ``kerastrain`` in that of
the user's caches, or what the environment variable ``KERASTRAIN_CACHE`` names; empty, it keeps nothing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import platformdirs
import tensorflow as tf

from kerastrain import _keras
from kerastrain._version import __version__

# Files that are kept, of some hundred bytes each.
_MOST = 500
# A record is true where what it says of a plan is found again, up to this factor.
_AS_BEFORE = 2.0
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class PlanRecord:
    """What was measured of the plans of one kind of steps.

    Attributes:
        seconds: of a step, by the plan's name.
        compile_seconds: by the plan's name.
        spent: the seconds of training that it was learned from.
    """

    seconds: dict[str, float]
    compile_seconds: dict[str, float]
    spent: float


_NOTHING = PlanRecord({}, {}, 0.0)


class PlanRecords:
    """The record of one kind of steps.

    Args:
        key: gives what the steps are, as text; asked for when it is needed.
        directory: of all records; None for that of the user.
    """

    def __init__(self, key: Callable[[], str], directory: Path | None = None):
        self._key, self._directory = key, directory

    def find(self) -> PlanRecord | None:
        """The record, if there is one that can be read."""
        path = self._path()
        if path is None:
            return None
        try:
            return _checked(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def keep(self, record: PlanRecord) -> None:
        """Takes the place of the one there is, whole or not at all."""
        path = self._path()
        if path is None:
            return
        text = json.dumps({"format": _FORMAT} | dataclasses.asdict(record))
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(temporary, path)
            _prune(path.parent)

    def _path(self) -> Path | None:
        directory = self._directory or cache_directory()
        if directory is None:
            return None
        name = hashlib.sha256(self._key().encode()).hexdigest()[:32]
        return directory / "plans" / f"{name}.json"


class Recalled:
    """What earlier processes have measured, as far as it is believed.

    Args:
        records: where it is kept; None for nowhere.
    """

    def __init__(self, records: PlanRecords | None):
        self._records, self._record = records, _NOTHING

    def begin(self) -> None:
        """Reads it."""
        self._record = (self._records and self._records.find()) or _NOTHING

    @property
    def spent(self) -> float:
        """The seconds of training that it was learned from."""
        return self._record.spent

    def expected(self, name: str, steps: int | None) -> float:
        """The seconds that so many steps take by a plan, compiled anew; infinity where there is no record.

        Args:
            name: of the plan.
            steps: that are to come; None for as many as there were.
        """
        record = self._record
        if name not in record.seconds:
            return math.inf
        if steps is None:
            steps = math.ceil(record.spent / min(record.seconds.values()))
        return record.compile_seconds.get(name, 0.0) + steps * record.seconds[name]

    def price(self, name: str, otherwise: float) -> float:
        """The seconds that a plan takes to be compiled."""
        return self._record.compile_seconds.get(name, otherwise)

    def of_others(self, name: str, seconds: float) -> dict[str, float]:
        """The seconds of a step by other plans, if what is recorded of one is found again.

        Else all of it is forgotten.

        Args:
            name, seconds: the plan that was measured now. A machine that is somewhat slower than it was
                is so for the others, too.
        """
        known = self._record.seconds
        if name not in known:
            return {}
        changed = seconds / known[name]
        if not 1 / _AS_BEFORE < changed < _AS_BEFORE:
            self._record = _NOTHING
            return {}
        return {other: changed * value for other, value in known.items() if other != name}

    def keep(
        self, seconds: dict[str, float], compile_seconds: dict[str, float], spent: float
    ) -> None:
        """Lets later processes have what was measured, and what is recalled of other plans."""
        if self._records is not None:
            prices = self._record.compile_seconds | compile_seconds
            self._records.keep(PlanRecord(dict(seconds), prices, spent))


def cache_directory() -> Path | None:
    """Where records are kept; None where ``KERASTRAIN_CACHE`` is empty."""
    named = os.environ.get("KERASTRAIN_CACHE")
    if named is not None:
        return Path(named) if named else None
    return Path(platformdirs.user_cache_path("kerastrain"))


def key_of(model: keras.Model, *parts: Any) -> str:
    """What steps of a model are, as text: all that their time depends on, as far as is known.

    Args:
        model: built and compiled.
        *parts: what else, such as options, of which the ``repr`` counts.
    """
    layers = [type(layer).__qualname__ for layer in _keras.all_layers(model)]
    weights = [(tuple(v.shape), str(v.dtype), v.trainable) for v in model.variables]
    optimizers = [type(one).__qualname__ for one in _keras.optimizers_of(model)]
    return repr((_machine(), layers, weights, optimizers, *parts))


def _machine() -> tuple[Any, ...]:
    versions = __version__, keras.__version__, tf.__version__, platform.python_version()
    devices = [device.device_type for device in tf.config.list_logical_devices()]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return *versions, platform.machine(), _processor(), cores, devices


@functools.cache
def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line
    return platform.processor()


def _checked(found: Any) -> PlanRecord:
    """A record as it was read.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    if found["format"] != _FORMAT:
        raise ValueError(found["format"])
    seconds, compile_seconds = ({k: float(v) for k, v in found[n].items()} for n in _TIMES)
    spent = float(found["spent"])
    times = [*seconds.values(), *compile_seconds.values(), spent]
    if not all(math.isfinite(time) and time >= 0.0 for time in times) or 0.0 in seconds.values():
        raise ValueError(times)
    return PlanRecord(seconds, compile_seconds, spent)


_TIMES = ("seconds", "compile_seconds")


def _prune(directory: Path) -> None:
    """Leaves the newest."""
    files = [entry for entry in os.scandir(directory) if entry.is_file()]
    if len(files) > _MOST:
        for entry in sorted(files, key=lambda entry: entry.stat().st_mtime)[:-_MOST]:
            os.unlink(entry.path)
