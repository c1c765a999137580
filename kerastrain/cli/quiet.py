"""Imports without the lines that TensorFlow writes when it starts; they are shown where it fails."""

import contextlib
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType

from kerastrain import versions


def quiet_import(name: str) -> ModuleType:
    """Imports a module, and passes on what is written to standard error only if that fails."""
    with quiet():
        importlib.import_module("kerastrain._backend")
        module = importlib.import_module(name)
    versions.warn_of_untested()
    return module


@contextlib.contextmanager
def quiet(shows_failure: bool = True) -> Iterator[None]:
    """Inside, nothing comes out on standard error, unless it ends in an error.

    TensorFlow's lines come from C++, so it is the file descriptor that is turned aside.

    Args:
        shows_failure: whether what was written comes out where it ends in an error.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            if shows_failure:
                written.seek(0)
                os.write(kept, written.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
