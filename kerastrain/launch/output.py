"""The lines of all workers on the launcher's own output, each whole and behind its prefix.

::

    output = Output()
    thread = output.follow(process.stdout, "[0] ", target=1)
    thread.join()                                   # until the process's last byte is written

Bytes are copied as they are. A last line without an end gets one. Whoever writes to a target that
takes nothing for now (``| less``) waits. Where nobody reads it any more, or its disk is full, that
is said once on standard error, and the workers' lines are read and dropped: a training does not
end for its log.
"""

import contextlib
import os
import select
import threading
from typing import IO


class Output:
    """Writes to file descriptors, below ``sys.stdout``, from a thread for each source."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._broken: set[int] = set()

    def follow(self, source: IO[bytes], prefix: str, target: int) -> threading.Thread:
        """Copies a pipe line by line until its end, which closes it."""
        copying = threading.Thread(
            target=self._copy, args=(source, prefix.encode(), target), daemon=True
        )
        copying.start()
        return copying

    def _copy(self, source: IO[bytes], prefix: bytes, target: int) -> None:
        with source:
            for line in source:
                self._write(target, prefix + line.removesuffix(b"\n") + b"\n")

    def say(self, text: str) -> None:
        """Writes a line of the launcher's own, and does not wait long where nobody reads."""
        line = f"kerastrain: {text}\n".encode()
        saying = threading.Thread(target=self._write, args=(2, line), daemon=True)
        saying.start()
        saying.join(1.0)

    def _write(self, target: int, line: bytes) -> None:
        with self._lock:  # one for all: both targets may be the same terminal
            while line and target not in self._broken:
                try:
                    line = line[os.write(target, line) :]
                except BlockingIOError:
                    select.select([], [target], [])
                except OSError as error:
                    self._broken.add(target)
                    with contextlib.suppress(OSError):
                        name = {1: "output", 2: "error"}[target]
                        os.write(2, f"kerastrain: standard {name} is lost: {error}.\n".encode())
