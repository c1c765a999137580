"""Where workers listen: free ports of this machine, or given ports of several hosts.

::

    free_addresses(2)                                   # ["127.0.0.1:41233", "127.0.0.1:36041"]
    Hosts(["a", "b"], port=5000, index=0).addresses(2)  # ["a:5000", "a:5001", "b:5000", "b:5001"]
"""

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator
from collections.abc import Sequence

from kerastrain import file_locks
from kerastrain.errors import ArgumentError
from kerastrain.validation import whole_number


def free_addresses(count: int) -> list[str]:
    """Loopback addresses with ports that are free now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The hosts of a training, on each of which a launcher starts as many workers.

    Attributes:
        names: of all hosts, in the same order for each launcher.
        port: of the first worker of each host; the others have those that follow.
        index: which of the hosts this one is, counted from 0; None with a ``rendezvous``.
        rendezvous: a file on a shared disk, created if missing, that lets the launcher find its
            index: the first name that is an address of this machine and that no other launcher
            has. It is a lock on one byte of the file, so of two launchers one gets it, and the
            end of a launcher, whatever its reason, gives it back.

    Raises:
        ArgumentError: a name is missing or there twice, or a number is out of its range.

    Example:
        >>> Hosts(["a", "b"], port=5000, index=1).addresses(workers=1)
        ['a:5000', 'b:5000']
    """

    names: Sequence[str]
    port: int
    index: int | None = None
    rendezvous: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        names = self.names
        is_named = not isinstance(names, str) and names and all(names)
        if not is_named or len(set(names)) < len(names) or any(map(_has_port, names)):
            raise ArgumentError(
                "`hosts` must name each host once, without ports, such as a,b. IPv6 addresses "
                f"stand in brackets. Received: hosts={self._shown!r}."
            )
        whole_number("port", self.port, least=1)
        if (self.index is None) == (self.rendezvous is None):
            raise ArgumentError(
                "With `hosts` pass either the index of this host (--host-index) or a file on a "
                f"shared disk (--rendezvous). Received: index={self.index!r}, "
                f"rendezvous={self.rendezvous!r}."
            )
        if self.index is not None and whole_number("index", self.index, least=0) >= len(names):
            raise ArgumentError(
                f"`index` of this host must be at most {len(names) - 1}, as it counts from 0 in "
                f"hosts={self._shown!r}. Received: index={self.index}."
            )

    @property
    def _shown(self) -> str:
        return self.names if isinstance(self.names, str) else ",".join(self.names)

    def addresses(self, workers: int) -> list[str]:
        """``host:port`` of each worker of all hosts.

        Raises:
            ArgumentError: the last port would be above 65535.
        """
        if self.port + workers - 1 > 65535:
            raise ArgumentError(
                f"`port` must be at most {65536 - workers} for {workers} workers. "
                f"Received: port={self.port}."
            )
        return [f"{name}:{self.port + i}" for name in self.names for i in range(workers)]

    @contextlib.contextmanager
    def registered(self) -> Iterator[int]:
        """The index of this host, which with ``rendezvous`` no other launcher gets meanwhile.

        Raises:
            ArgumentError: no name is this machine's, or others have those that are, or the file
                cannot be locked.
        """
        with contextlib.ExitStack() as stack:
            index = self.index
            if self.rendezvous is not None:
                own = [i for i, name in enumerate(self.names) if _is_of_this_machine(name)]
                try:
                    file = stack.enter_context(open(self.rendezvous, "ab"))
                    index = next((i for i in own if file_locks.take(file.fileno(), i)), None)
                except OSError as error:
                    raise ArgumentError(
                        "`rendezvous` must be a file that can be written and locked. Received: "
                        f"rendezvous={str(self.rendezvous)!r}: {error.strerror}. Pass another one, "
                        "or the index (--host-index)."
                    ) from None
            if index is None:
                raise ArgumentError(
                    "`hosts` must name this machine by a name that no other launcher has in "
                    f"{str(self.rendezvous)!r}. Received: hosts={self._shown!r}, of which "
                    f"{len(own)} are of this machine. Correct the names, end the other launcher, or "
                    "pass the index (--host-index)."
                )
            yield index


def _has_port(name: str) -> bool:
    return ":" in name.rpartition("]")[2]


def _is_of_this_machine(name: str) -> bool:
    """Whether a socket can be bound to it."""
    try:
        found = socket.getaddrinfo(name.strip("[]"), 0, type=socket.SOCK_STREAM)
    except OSError:  # a name that is not known here may be so on its own machine only
        return False
    for family, kind, _, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind) as probe:
            probe.bind(address)
            return True
    return False
