"""The command line: ``python -m kerastrain``, and the console script ``kerastrain``.

`app` declares the verbs and parses the arguments, which needs no TensorFlow, so that ``--help``
and mistakes are answered at once. A verb that runs imports the rest, quietly (`quiet_import`):
the demo is a program in `kerastrain.cli.demo`, the check is `kerastrain.testing`'s. The launcher
is `kerastrain.launch`'s, and needs no TensorFlow either. `doctor` and `fit` are programs that import it
themselves: the one reports how that went, the other first finds mistakes that can be found without.
"""

from kerastrain.cli.app import app
from kerastrain.cli.app import main

__all__ = [
    "app",
    "main",
]
