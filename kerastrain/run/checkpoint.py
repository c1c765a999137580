"""Checkpoints on disk: written atomically, and verified when they are read.

::

    checkpoints = Checkpoints("runs/a/checkpoints")
    checkpoints.write({"weights/0": array}, {"epoch": 3})
    found = checkpoints.newest()                 # a `Checkpoint`, or None
    found.tensors["weights/0"], found.info["epoch"]

A checkpoint is a directory of two files. ``state.safetensors`` has the tensors, in a format
that executes nothing when it is read and that other programs read too
(https://github.com/huggingface/safetensors). ``manifest.json`` has all else, and the size and
the SHA-256 of the tensors, and its own SHA-256. Both are written to a temporary directory and
flushed to the disk, and the directory is renamed atomically when they are complete: a process
that is killed leaves either the whole checkpoint or none. The name is a number that counts up,
so the newest is known without a clock.

A checkpoint that fails verification is quarantined in ``set-aside``, with a warning, and the
previous one is loaded.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from collections.abc import Container
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from kerastrain import notices
from kerastrain._version import __version__
from kerastrain.errors import CheckpointError
from kerastrain.errors import KerastrainError
from kerastrain.run.system_files import flush
from kerastrain.run.system_files import open_file

FORMAT, VERSION = "kerastrain-checkpoint", 1
_TENSORS, _MANIFEST = "state.safetensors", "manifest.json"
# A manifest is read whole: one that is larger is none.
_LARGEST_MANIFEST = 64 * 2**20
_NAME = re.compile(r"[0-9]{8,18}")
# An `info` that the manifest would be too large for is the last tensor, as text.
_INFO = "manifest/info"
# Of the names of numpy's own types; others, such as bfloat16, are stored as bytes.
_PLAIN = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        path: its directory.
        tensors: arrays by name.
        info: of JSON's types.
    """

    path: Path
    tensors: dict[str, np.ndarray]
    info: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run.

    Args:
        directory: where they are, made when the first is written.

    Attributes:
        ready: called when a checkpoint is complete, before it gets its name.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        self.directory = Path(directory)
        self.ready: Callable[[], None] = lambda: None

    def paths(self) -> list[Path]:
        """The directories of all, the oldest first; none of them has been verified.

        Raises:
            OSError: the directory cannot be listed.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = [path for path in self.directory.iterdir() if _NAME.fullmatch(path.name)]
            return sorted(found, key=lambda path: (int(path.name), path.name))
        return []

    def next_name(self) -> str:
        """The name of the checkpoint that is written next."""
        existing = self.paths()
        return f"{int(existing[-1].name) + 1 if existing else 1:08d}"

    def write(self, tensors: dict[str, np.ndarray], info: dict[str, Any]) -> Path:
        """Writes a checkpoint as the newest one.

        Args:
            tensors: arrays by name.
            info: of JSON's types.

        Returns:
            Its directory.

        Raises:
            OSError: the disk is full, or the directory cannot be written; nothing is left.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / self.next_name()
        unfinished = self.directory / f".unfinished-{path.name}"
        _remove(unfinished)
        try:
            unfinished.mkdir()
            write_files(unfinished, tensors, info)
            self.ready()
            os.rename(unfinished, path)
            flush(self.directory)
        except BaseException:
            _remove(unfinished)
            raise
        return path

    def newest(self) -> Checkpoint | None:
        """The newest that verifies; those that do not are quarantined. None where there is none.

        Raises:
            CheckpointError: one of a later version of the format.
        """
        for path in reversed(self.paths()):
            try:
                return read(path)
            except NewerFormat:
                raise
            except CheckpointError as error:
                kept = self._quarantine(path)
                notices.warn(f"{error} {kept} The one before it is taken, if any.")
        return None

    def remove_unfinished(self) -> None:
        """Removes what a process that was killed has begun to write."""
        for path in self.directory.glob(".unfinished-*"):
            _remove(path)

    def keep(self, kept: Container[Path | None], last: int) -> None:
        """Removes checkpoints, but for the last few and those that are named."""
        for path in self.paths()[:-last]:
            if path not in kept:
                _remove(path)

    def _quarantine(self, path: Path) -> str:
        aside = self.directory / "set-aside"
        try:
            if aside.is_symlink():
                raise OSError(errno.ELOOP, "it would leave the directory")
            aside.mkdir(exist_ok=True)
            target = next(
                aside / f"{path.name}-{number}"
                for number in range(1, 10**6)
                if not os.path.lexists(aside / f"{path.name}-{number}")
            )
            os.rename(path, target)
            return f"It was moved to {target}."
        except OSError as error:
            return f"It could not be moved away ({error.strerror})."


# One checkpoint ---------------------------------------------------------------------


class NewerFormat(CheckpointError):
    """A checkpoint of a later version of the format."""


def write_files(directory: Path, tensors: dict[str, np.ndarray], info: dict[str, Any]) -> None:
    """Writes the two files of a checkpoint, the manifest last, and flushes them to the disk."""
    path = directory / _TENSORS
    stored = {name: _storable(array) for name, array in tensors.items()}
    try:
        safetensors.numpy.save_file(stored, path)
    except safetensors.SafetensorError as error:  # the library's own name for an OSError
        raise OSError(_errno_in(error), str(error), str(path)) from error
    os.chmod(
        path, directory.stat().st_mode & 0o666
    )  # not for its owner alone, as the library has it
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "written_by": f"kerastrain {__version__}",
        "file": {"bytes": path.stat().st_size, "sha256": digest},
        "tensors": {
            name: {"dtype": array.dtype.name, "shape": list(array.shape)}
            for name, array in tensors.items()
        },
        "info": info,
    }
    manifest["sha256"] = _digest(manifest)
    text = json.dumps(manifest, indent=1, allow_nan=False)
    if len(text) > _LARGEST_MANIFEST and _INFO not in tensors:
        as_text = np.frombuffer(json.dumps(info, allow_nan=False).encode(), "uint8")
        write_files(directory, tensors | {_INFO: as_text}, {})
        return
    with open(directory / _MANIFEST, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    flush(directory)


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint and verifies every byte of it. Nothing in it is executed.

    Raises:
        CheckpointError: a file is missing, no file, of another size or of other bytes than
            was written; or it is of a later version (`NewerFormat`).
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise CheckpointError("it is no directory")
        manifest = _read_manifest(path / _MANIFEST)
        tensors = _read_tensors(path / _TENSORS, manifest)
        info = manifest["info"]
        if _INFO in tensors:
            info = _read_info(tensors)
        return Checkpoint(path, tensors, info)
    except NewerFormat as error:
        raise NewerFormat(f"The checkpoint {path} {error}") from None
    except CheckpointError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be used: {error}.") from error
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be used: {error.filename or path}: {error.strerror}."
        ) from error


def _read_manifest(path: Path) -> dict[str, Any]:
    with _regular_file(path) as file:
        if os.fstat(file.fileno()).st_size > _LARGEST_MANIFEST:
            raise CheckpointError(f"{_MANIFEST} is larger than {_LARGEST_MANIFEST} bytes")
        text = file.read(_LARGEST_MANIFEST)
    try:
        manifest = json.loads(text)
        digest = manifest.pop("sha256")
        intact = manifest["format"] == FORMAT and digest == _digest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise CheckpointError(f"{_MANIFEST} is not what was written")
    version = manifest.get("version")
    if version != VERSION:
        raise NewerFormat(
            f"is of version {version!r} of its format, and this is {VERSION}: it was written by "
            f"{str(manifest.get('written_by'))[:80]}. Resume with that, or start in another "
            "directory."
        )
    if not _is_of(manifest, {"file": {"bytes": int, "sha256": str}, "tensors": dict, "info": dict}):
        raise CheckpointError(f"{_MANIFEST} lacks an entry")
    return manifest


def _read_tensors(path: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    with _regular_file(path) as file:
        if os.fstat(file.fileno()).st_size != manifest["file"]["bytes"]:
            raise CheckpointError(f"{_TENSORS} has another size than was written")
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["file"]["sha256"]:
            raise CheckpointError(f"{_TENSORS} has other bytes than were written")
    try:
        stored = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{_TENSORS} cannot be read: {error}") from error
    if stored.keys() != manifest["tensors"].keys():
        raise CheckpointError(f"{_TENSORS} has other tensors than its manifest")
    return {name: _restored(name, stored[name], manifest["tensors"][name]) for name in stored}


def _read_info(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """Takes what the manifest was too small for out of the tensors."""
    try:
        info = json.loads(tensors.pop(_INFO).tobytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the tensor {_INFO!r} is not what was written") from error
    if not isinstance(info, dict):
        raise CheckpointError(f"the tensor {_INFO!r} is not what was written")
    return info


def _restored(name: str, array: np.ndarray, entry: dict[str, Any]) -> np.ndarray:
    """A tensor as it was before `_storable`."""
    try:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        if not _PLAIN.fullmatch(dtype.name):
            array = array.view(dtype)
        array = array.reshape(shape)
    except (TypeError, ValueError, KeyError, AttributeError, SyntaxError) as error:
        raise CheckpointError(f"the tensor {name!r} is not of its type: {error}") from error
    if (array.dtype, array.shape) != (dtype, shape):
        raise CheckpointError(f"the tensor {name!r} is not of its type and shape")
    return array


def _storable(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array).reshape(array.shape)
    if not is_storable(array.dtype):
        raise TypeError(f"Arrays of {array.dtype} cannot be stored.")
    return array if _PLAIN.fullmatch(array.dtype.name) else np.atleast_1d(array).view("uint8")


def is_storable(dtype: np.dtype) -> bool:
    """Whether arrays of a type can be stored: of numbers, those of `ml_dtypes` too."""
    return dtype.kind in "biufc" or (dtype.names is None and hasattr(ml_dtypes, dtype.name))


def _digest(manifest: dict[str, Any]) -> str:
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value of JSON has entries of these types."""
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_is_of(value.get(k), t) for k, t in kind.items())
    return isinstance(value, kind) and not isinstance(value, bool)


# Files ------------------------------------------------------------------------------


def _regular_file(path: Path) -> io.BufferedReader:
    """Opens a file that is one: no link, no device, no pipe that would never end."""
    descriptor = open_file(path, os.O_RDONLY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path.name} is no regular file")
    return open(descriptor, "rb")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _errno_in(error: Exception) -> int:
    """The number of the operating system's error, which the library gives in its message."""
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else errno.EIO


@contextlib.contextmanager
def of_a_training(path: Path) -> Iterator[None]:
    """What is found is what a training saved, or that is an error."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, KerastrainError):
            raise
        raise CheckpointError(
            f"{path} is not of a training: {type(error).__name__}: {error}. "
            "Move it away to resume from the one before it."
        ) from error
