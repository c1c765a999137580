"""Several workers of one training: started together, watched, ended and restarted together.

::

    import sys
    from kerastrain.launch import launch

    status = launch([sys.executable, "train.py", "--epochs", "5"], workers=2, max_restarts=3)

Each worker runs the same command with a ``TF_CONFIG`` of its own. `launcher` decides when all of
them are ended and started again, `worker` is one of them, behind a `supervisor` that leaves no
process behind, `output` prefixes their lines, and `hosts` knows the addresses. Standard library
only: ``kerastrain launch`` imports no TensorFlow.
"""

from kerastrain.launch.hosts import Hosts
from kerastrain.launch.launcher import launch

__all__ = [
    "Hosts",
    "launch",
]
