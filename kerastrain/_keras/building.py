"""Models that Keras builds from shapes alone."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend as keras_backend
from keras.src import tree

from kerastrain._keras.models import forward
from kerastrain._keras.models import is_users_method
from kerastrain._keras.replicated_layers import let_replicas_update


class BuildsFromShapes:
    """Mixed into a model: Keras's ``fit`` notes the shapes of its data, and builds from them.

    It builds so under a strategy only:

    Keras 3.15.1 draws a first batch and averages it over the replicas, which
    fails where the batch does not divide and for strings, and loses the batch
    of a generator (backend/tensorflow/trainer.py, `_maybe_symbolic_build`).
    """

    _distribute_strategy: tf.distribute.Strategy | None
    _symbolic_build: Callable[..., None]
    build_updates: Callable[[Any], bool]

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        if data_batch is None:
            spec = getattr(iterator._distributed_dataset, "element_spec", None)
            data_batch = tree.map_structure(_symbol_of_spec, spec)
        self.__dict__["_built_from"] = data_batch
        if self._distribute_strategy is None:
            self.build_updates(data_batch)
            return
        with self._distribute_strategy.scope():
            if not self.build_updates(data_batch):
                self._symbolic_build(data_batch=data_batch)
            let_replicas_update(self)


def build_by_trace(model: keras.Model, x: Any) -> None:
    """Builds a model as Keras's ``fit`` does, where it cannot be built from shapes alone: by its first trace.

    In a call on shapes Keras 3.15.1 lets no layer make a variable of a value, such as the states of a
    stateful recurrent layer, or a count of the user's own. Of a ``build`` that ends there, weights are left.

    Args:
        model: unbuilt, or built already.
        x: a batch, of which only shapes and dtypes matter.
    """
    layers = list(model._flatten_layers())
    if all(layer.built for layer in layers) or not any(map(_may_make_values, layers)):
        return
    call = tf.function(lambda x: forward(model, x, training=False), autograph=False)
    with contextlib.suppress(Exception):  # of the model's code, which the next call reports
        call.get_concrete_function(x)


def _may_make_values(layer: keras.Layer) -> bool:
    """Whether a layer may make variables of values when it is built."""
    return getattr(layer, "stateful", False) or is_users_method(layer, "build")


def _symbol_of_spec(spec: Any) -> keras.KerasTensor | None:
    while hasattr(spec, "_value_specs"):  # one for each replica
        spec = spec._value_specs[0]
    if isinstance(spec, tf.OptionalSpec):
        return None
    shape = [None, *spec.shape[1:]] if spec.shape.rank else spec.shape
    return keras.KerasTensor(shape, keras_backend.standardize_dtype(spec.dtype))


def random_batch(model: keras.Model) -> Any:
    """A batch of the shapes that the model was built from: numbers from 0 to 1.

    None where there are no such shapes, or where it would need other than numbers.
    """
    symbols = model.__dict__.get("_built_from")
    leaves = [leaf for leaf in tree.flatten(symbols) if leaf is not None]
    if not leaves or any(leaf.dtype == "string" for leaf in leaves):
        return None
    random = np.random.default_rng(0)

    def numbers(symbol: keras.KerasTensor) -> tf.Tensor:
        shape = [8 if length is None else length for length in symbol.shape]
        values = random.uniform(size=shape)
        whole = not keras_backend.is_float_dtype(symbol.dtype)
        return tf.constant((values > 0.5) if whole else values, tf.as_dtype(symbol.dtype))

    return tree.map_structure(lambda s: None if s is None else numbers(s), symbols)
