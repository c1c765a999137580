"""kerastrain: the training loop that Keras 3 on TensorFlow lacks.

A whole program::

    import keras
    import numpy as np
    import kerastrain

    x = np.random.default_rng(0).normal(size=(256, 8)).astype("float32")
    y = x.sum(axis=1, keepdims=True)

    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))

    trainer = kerastrain.Trainer(
        model, optimizer=keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"], seed=0
    )
    trainer.fit(x[:200], y[:200], epochs=5, validation_data=(x[200:], y[200:]), verbose=2)
    print(trainer.evaluate(x[200:], y[200:], return_dict=True, verbose=0))

Or subclass `TrainableModel` and call Keras's own ``fit``. `kerastrain.metrics`,
`kerastrain.datasets` and `kerastrain.testing` are imported when they are asked for.

For readers of the code, from the top down: `trainer` and `model` are the two entry points;
`preparation` is what happens before the first step, `loop` what happens when, `run` saves and
resumes, `guard` rolls steps back, `execution` runs many in one call, and `step` is one of them.
A folder imports only those below it: `cli`, `launch`, `ray`, `testing`, `trainer`, `model`,
`preparation`, `loop`, `run`, `guard`, `execution`, `step`, `xla`, `metrics`, `distribution`,
`data`, `state`, `_keras`.
"""

import importlib as _importlib
import os as _os
import sys as _sys
import typing as _typing

from kerastrain._version import __version__

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DataError",
    "Execution",
    "FitOptions",
    "Guard",
    "KerastrainError",
    "MetricError",
    "ModelError",
    "NonFiniteError",
    "Preempted",
    "RunDir",
    "RunError",
    "ShapeError",
    "StepOptions",
    "TrainableModel",
    "Trainer",
    "UnsupportedTypeError",
    "Update",
    "WorkerLostError",
    "__version__",
]

# Imported when they are asked for. Hypothesis, which `testing` needs, is an extra.
_LAZY = ("datasets", "metrics", "testing")


def _is_command_line() -> bool:
    """Whether this process is the command line, which answers ``--help`` without TensorFlow."""
    if _sys.argv[:1] == ["-m"]:  # the package is imported before its `__main__` is run
        given = _sys.orig_argv
        return "-m" in given and given[given.index("-m") + 1 :][:1] == ["kerastrain"]
    return _os.path.basename(_sys.argv[0] if _sys.argv else "") == "kerastrain"


if not _is_command_line():
    from kerastrain import _backend  # noqa: F401
    from kerastrain import versions as _versions
    from kerastrain.errors import ArgumentError
    from kerastrain.errors import CheckpointError
    from kerastrain.errors import DataError
    from kerastrain.errors import KerastrainError
    from kerastrain.errors import MetricError
    from kerastrain.errors import ModelError
    from kerastrain.errors import NonFiniteError
    from kerastrain.errors import Preempted
    from kerastrain.errors import RunError
    from kerastrain.errors import ShapeError
    from kerastrain.errors import UnsupportedTypeError
    from kerastrain.errors import WorkerLostError
    from kerastrain.fit_options import FitOptions
    from kerastrain.model import TrainableModel
    from kerastrain.options import Execution
    from kerastrain.options import Guard
    from kerastrain.options import RunDir
    from kerastrain.options import StepOptions
    from kerastrain.step import Update
    from kerastrain.trainer import Trainer

    _versions.warn_of_untested()

    # Python makes each imported submodule an attribute; what users see is `__all__`.
    for _name in [name for name in globals() if name[0] != "_" and name not in __all__]:
        del globals()[_name]
    for _name in __all__:
        if isinstance(globals()[_name], type):
            globals()[_name].__module__ = __name__  # where users import it from


if _typing.TYPE_CHECKING:
    from kerastrain import datasets as datasets
    from kerastrain import metrics as metrics
    from kerastrain import testing as testing
else:  # a type checker would take every name for one that is here

    def __getattr__(name: str) -> _typing.Any:
        """The lazy modules; modules that have been imported by their full names."""
        if name in _LAZY:
            module = _importlib.import_module(f"{__name__}.{name}")
            globals().pop(name, None)
            return module
        if name in __all__:  # on the command line
            for home in (
                "_backend",
                "errors",
                "options",
                "fit_options",
                "step",
                "model",
                "trainer",
            ):
                module = _importlib.import_module(f"{__name__}.{home}")
                if hasattr(module, name):
                    return getattr(module, name)
        if f"{__name__}.{name}" in _sys.modules:
            return _sys.modules[f"{__name__}.{name}"]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_LAZY])
