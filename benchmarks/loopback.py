"""Runs a command in a network namespace that has nothing but loopback.

    python benchmarks/loopback.py python train.py

TensorFlow's servers bind all interfaces, whatever the cluster says; in there is no other. Linux,
with ``unshare`` and user namespaces.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence

_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40


def command_in_namespace(command: Sequence[str]) -> list[str]:
    """The command that runs another one in a namespace of its own."""
    return ["unshare", "-rn", sys.executable, __file__, *command]


def refusal() -> str | None:
    """Why no namespace can be made; None where one can."""
    try:
        done = subprocess.run(["unshare", "-rn", "true"], capture_output=True, timeout=60)
    except FileNotFoundError:
        return "unshare is not installed"
    error = done.stderr.decode(errors="replace").strip()
    return f"no network namespace can be made: {error}" if done.returncode else None


def bring_up() -> None:
    """What ``ip link set lo up`` does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)


if __name__ == "__main__":
    bring_up()
    os.execvp(sys.argv[1], sys.argv[1:])
