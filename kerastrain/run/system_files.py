"""What Linux, macOS and Windows do differently with files.

::

    descriptor = open_file(path, os.O_RDONLY)      # no link, and no wait for a pipe
    flush(directory)                               # its names are on the disk

Flags that a system does not have are left out. Windows opens no directory, and writes the names in
one without being asked to.
"""

import errno
import os
from pathlib import Path


def open_file(path: Path, flags: int) -> int:
    """Opens a file in binary, but none that a link leads to.

    Args:
        path: of the file, which is made with ``os.O_CREAT``.
        flags: of `os.open`, such as ``os.O_RDONLY``.

    Raises:
        OSError: it is a link, or cannot be opened.
    """
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"):
        flags |= getattr(os, name, 0)
    return os.open(path, flags, 0o644)


def open_directory(path: Path) -> int | None:
    """Opens a directory; None where the system cannot."""
    if not hasattr(os, "O_DIRECTORY"):
        return None
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def flush(directory: Path) -> None:
    """Flushes the names in a directory to the disk."""
    descriptor = open_directory(directory)
    if descriptor is not None:
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
