"""Bytes to arrays, with nothing taken on trust.

::

    arrays = read_npz("mnist.npz", ("x_train", "y_train"))
    images = read_idx("train-images-idx3-ubyte.gz", rank=3)

Both compare the size that a header claims with the size of the file before
they allocate, and turn whatever goes wrong into a one-line `DataError`.
"""

import contextlib
import gzip
import math
import stat
import zipfile
from collections.abc import Iterable
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kerastrain.errors import DataError

# Deflate packs at most 258 bytes into two bits, so a file cannot grow by more.
_DEFLATE_RATIO = 1032
_GZIP_MAGIC = b"\x1f\x8b"
# The idx format: two zero bytes, 8 for unsigned bytes, then the rank.
_IDX_MAGIC = {1: 0x0801, 3: 0x0803}
_IDX_KIND = {1: "labels", 3: "images"}
_CHUNK = 1 << 20


def shown(path: str | Path) -> str:
    """``path`` as an error shows it: quoted where it would not fit on a line."""
    return str(path) if str(path).isprintable() else repr(str(path))


def reason(path: str | Path, error: Exception) -> str:
    """One line that says which file failed and why."""
    if isinstance(error, FileNotFoundError):
        return f"{shown(path)}: no such file."
    what = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{shown(path)}: {' '.join(what.split()).rstrip('.')}."


def read_whole(path: str | Path) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    with _opened(path) as file:
        return file.read()


def read_npz(path: str | Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file.

    Args:
        path: the file.
        keys: the names to read; others are ignored.

    Raises:
        DataError: no such file, no ``.npz`` file, a missing key, an array of
            Python objects, or a member that is damaged or not as long as its
            header says.
    """
    hint = " For idx files, give the directory that holds the four of them."
    with _opened_npz(path, hint) as (archive, members, size):
        missing = [key for key in keys if key not in members]
        if missing:
            raise DataError(
                f"{shown(path)}: no array {', '.join(missing)}; it holds "
                f"{', '.join(map(repr, sorted(members)[:8])) or 'nothing'}."
            )
        largest = _DEFLATE_RATIO * size
        return {key: _read_member(path, archive, members[key], largest) for key in keys}


def npz_names(path: str | Path) -> list[str]:
    """The names of the arrays in an ``.npz`` file.

    Raises:
        DataError: no such file, or no ``.npz`` file.
    """
    with _opened_npz(path) as (_, members, _):
        return sorted(members)


def read_idx(path: str | Path, rank: int) -> np.ndarray:
    """An idx file of unsigned bytes, gzipped or not (by its first bytes).

    Args:
        path: the file.
        rank: 1 for labels, 3 for images.

    Raises:
        DataError: no such file, another magic number, fewer or more bytes than
            the header says, or damaged gzip data.
    """
    with _opened(path) as raw:
        largest = _size(raw)
        stream: BinaryIO | gzip.GzipFile = raw
        if raw.read(2) == _GZIP_MAGIC:
            largest = largest * _DEFLATE_RATIO
            stream = gzip.GzipFile(fileobj=raw)
        raw.seek(0)
        magic = int.from_bytes(_read_exactly(path, stream, 4, "magic number"), "big")
        if magic != _IDX_MAGIC[rank]:
            raise DataError(
                f"{shown(path)}: wrong magic number {magic:#010x}; an idx file of "
                f"{_IDX_KIND[rank]} begins with {_IDX_MAGIC[rank]:#010x}."
            )
        sizes = _read_exactly(path, stream, 4 * rank, "header")
        shape = tuple(np.frombuffer(sizes, ">u4").tolist())
        count = math.prod(shape)
        if count > largest:
            raise DataError(
                f"{shown(path)}: truncated; its header claims {shape}, more than it can hold."
            )
        data = _read_exactly(path, stream, count, f"array of {shape}")
        if stream.read(1):
            raise DataError(f"{shown(path)}: longer than the {shape} that its header claims.")
        return np.frombuffer(data, np.uint8).reshape(shape)


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a regular file; whatever its readers raise becomes a `DataError`.

    The net is wide because zipfile, zlib, gzip and NumPy's header parser have
    no closed list of what they raise on hostile bytes; nothing but reading
    happens inside.
    """
    try:
        # A pipe or a device would block or never end.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise DataError(f"{shown(path)}: not a regular file.")
        with open(path, "rb") as file:
            yield file
    except DataError:
        raise
    except Exception as error:
        raise DataError(reason(path, error)) from error


@contextlib.contextmanager
def _opened_npz(
    path: str | Path, hint: str = ""
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo], int]]:
    """Opens an ``.npz`` file: the archive, its members by the names of the arrays, its size."""
    with _opened(path) as file:
        size = _size(file)
        if not zipfile.is_zipfile(file):
            raise DataError(f"{shown(path)}: not an .npz file, or a truncated one.{hint}")
        with zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            yield archive, members, size


def _size(file: BinaryIO) -> int:
    size = file.seek(0, 2)
    file.seek(0)
    return size


def _read_exactly(
    path: str | Path, stream: BinaryIO | gzip.GzipFile, count: int, what: str
) -> bytearray:
    """``count`` bytes, in chunks: a stream that ends early costs no more memory than it holds."""
    data = bytearray()
    while len(data) < count:
        chunk = stream.read(min(_CHUNK, count - len(data)))
        if not chunk:
            raise DataError(
                f"{shown(path)}: truncated; {count - len(data)} of the {count} bytes of its "
                f"{what} are missing."
            )
        data += chunk
    return data


def _read_member(
    path: str | Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, largest: int
) -> np.ndarray:
    """One ``.npy`` member, after its header has been held against its size."""
    name = f"{shown(path)}: {info.filename.removesuffix('.npy')}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{name} is packed by a method that NumPy does not write.")
    if info.file_size > largest:
        raise DataError(f"{name} claims {info.file_size} bytes, more than the file can hold.")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(member)
        if dtype.hasobject:
            raise DataError(
                f"{name} holds Python objects, which are not loaded; store plain numbers."
            )
        if math.prod(shape) * dtype.itemsize != info.file_size - member.tell():
            raise DataError(
                f"{name} is truncated or damaged: its header claims {shape} of {dtype}, "
                f"and {info.file_size - member.tell()} bytes follow."
            )
    with archive.open(info) as member:
        return np.lib.format.read_array(member, allow_pickle=False)
