"""What is trained, by what and on what machine, for ``config.json``: to be read, not to be resumed from.

::

    config_of(training, epochs=3)["model"]["parameters"]
"""

import contextlib
import importlib
import importlib.metadata
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain._version import __version__
from kerastrain.run.training import Training

# Seconds that git may take.
_GIT_SECONDS = 2.0
_PACKAGES = ("keras", "tensorflow", "numpy", "safetensors")


def config_of(training: Training, identity: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a training, of JSON's types.

    Args:
        training: built and compiled.
        identity: of its run, for what its data are.
    """
    model = training.state.model
    return {
        "model": {
            "name": model.name,
            "class": type(model).__qualname__,
            "parameters": _count(model.weights),
            "trainable_parameters": _count(model.trainable_weights),
            "summary": _summary(model),
            "layers": [_layer(layer) for layer in _keras.all_layers(model)[1:]],
        },
        "optimizer": _plain(model.optimizer),
        "loss": _plain(model.loss),
        "metrics": [metric.name for metric in _keras.leaf_metrics(model)],
        "epochs": int(training.epochs),
        "steps_per_epoch": training.sources["x"].num_batches,
        "seed": training.seed,
        "options": training.options,
        "data": {"x": identity["data"], **identity["@sets"]},
        "callbacks": [type(callback).__qualname__ for callback in training.callbacks],
        "strategy": type(model.distribute_strategy).__name__,
        "replicas": identity["replicas"],
        "process": process(),
    }


def process() -> dict[str, Any]:
    """The process that trains: versions, machine, command, and the state of its source in git."""
    return {
        "versions": {
            "python": platform.python_version(),
            "kerastrain": __version__,
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "system": platform.platform(),
        "devices": [device.name for device in tf.config.list_logical_devices()],
        "command": shlex.join([os.path.basename(sys.executable), *sys.argv]),
        "directory": os.getcwd(),
        "git": _git(),
    }


def _count(weights: list[Any]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _summary(model: keras.Model) -> str:
    lines: list[str] = []
    try:
        with _nothing_displayed():
            model.summary(print_fn=lambda line, **_: lines.append(line), line_length=100)
    except Exception as error:  # an own `summary`, or what a subclassed model does not know
        return f"No summary: {type(error).__name__}: {error}"
    return "\n".join(lines)


def _nothing_displayed() -> contextlib.AbstractContextManager[Any]:
    """In a notebook, where Keras's summary displays an empty output even if it is given away."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        return contextlib.nullcontext()
    return importlib.import_module("IPython.utils.capture").capture_output()


def _layer(layer: keras.Layer) -> Any:
    """What a layer is made of, but for its name, which is another one in each process."""
    found = _plain(layer)
    return {k: v for k, v in found.items() if k != "name"} if isinstance(found, dict) else found


def _plain(value: Any) -> Any:
    """Numbers, text, and lists and dicts of them; of other objects the class and the config."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    try:
        config = value.get_config()
    except Exception:  # it has none, or cannot make it
        return getattr(value, "__name__", type(value).__qualname__)
    name = config.pop("class_name", type(value).__qualname__)
    return {"class": name, **_plain({k: v for k, v in config.items() if v is not None})}


def _git() -> dict[str, Any] | None:
    """The commit of the script's directory, and whether files differ from it; None outside of git."""
    if shutil.which("git") is None:
        return None
    place = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else "."
    answers = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                ["git", "-C", place, *arguments],
                capture_output=True, text=True, timeout=_GIT_SECONDS, stdin=subprocess.DEVNULL,
                check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
        answers.append(done.stdout.strip())
    return {"commit": answers[0], "is_changed": bool(answers[1])}
