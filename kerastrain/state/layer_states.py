"""What layers keep beyond their variables: vocabularies, statistics made constants, arrays of their own.

::

    states = layer_states(layers)          # {path: {"own": {...}, "assets": {...}}}
    set_layer_states(layers, states)       # in a copy, or in another process

By Keras's own saving protocol: ``save_own_variables`` and ``save_assets``, and what loads them.
What a layer derives from its variables, as ``Normalization`` its constants, is derived anew by
loading; compiled steps hold it, and are to be traced again.
"""

import contextlib
import os
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np

from kerastrain import _keras


def keeps_more(layer: keras.Layer) -> bool:
    """Whether a layer may keep more than variables, or derive something from them."""
    if hasattr(layer, "save_assets") or hasattr(layer, "finalize_state"):
        return True
    # Keras's own layers that save variables in their own way do so to quantise them.
    methods = ("save_own_variables", "load_own_variables")
    return any(_keras.is_users_method(layer, name) for name in methods)


def layer_states(layers: dict[str, keras.Layer]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """What each of the layers keeps beyond variables, by path; of those that keep more."""
    return {path: _state_of(layer) for path, layer in layers.items() if keeps_more(layer)}


def set_layer_states(layers: dict[str, keras.Layer], states: dict[str, Any]) -> None:
    """Gives layers what `layer_states` found; their variables have their values already."""
    for path, layer in layers.items():
        if keeps_more(layer):
            _set_state(layer, states.get(path, {"own": {}, "assets": {}}))


def _state_of(layer: keras.Layer) -> dict[str, dict[str, np.ndarray]]:
    store: dict[str, Any] = {}
    try:
        layer.save_own_variables(store)
    except AttributeError:
        if layer.built:
            raise
        store = {}  # it has no state yet
    own = {
        name: np.asarray(value)
        for name, value in store.items()
        if not isinstance(value, keras.Variable)
    }
    assets = {}
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as directory:
            with contextlib.suppress(ValueError):  # a table that has not been made yet
                layer.save_assets(directory)
            for file in sorted(pathlib.Path(directory).rglob("*")):
                if file.is_file():
                    name = str(file.relative_to(directory))
                    assets[name] = np.frombuffer(file.read_bytes(), np.uint8)
    return {"own": own, "assets": assets}


def _set_state(layer: keras.Layer, state: dict[str, Any]) -> None:
    store: dict[str, Any] = {}
    with contextlib.suppress(AttributeError):  # of what is not there before it is loaded
        layer.save_own_variables(store)
    store |= state["own"]
    if store:
        layer.load_own_variables(store)
    if state["assets"]:
        with tempfile.TemporaryDirectory() as directory:
            for name, data in state["assets"].items():
                file = pathlib.Path(directory, name)
                os.makedirs(file.parent, exist_ok=True)
                file.write_bytes(np.asarray(data, np.uint8).tobytes())
            _keras.load_assets(layer, directory)
