"""Imports without the lines that TensorFlow writes when it starts; they are shown where it fails."""

import importlib
import os
import sys
import tempfile
from types import ModuleType


def quiet_import(name: str) -> ModuleType:
    """Imports a module, and passes on what is written to standard error only if that fails.

    TensorFlow's lines come from C++, so it is the file descriptor that is turned aside.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            importlib.import_module("kerastrain._backend")
            module = importlib.import_module(name)
        except BaseException:
            written.seek(0)
            os.write(kept, written.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
    return module
