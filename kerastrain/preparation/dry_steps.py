"""Dry steps: what a step would do, found without doing it.

::

    with nothing_kept():
        norms = gradient_norms(model, batch, strategy)

In a dry step nothing is updated. What it assigns to a Keras variable stays in a
``keras.StatelessScope``, optimizers hand over their gradients in place of applying
them, and the graph is a ``wrap_function``, which runs no operation that the asked
value does not need: an assignment to a TensorFlow variable, for example. Only Python
code has run once more, as in any trace.

Whatever the user's code raises, the answer is then None: not known.
"""

import contextlib
import inspect
import random
import threading
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple
from typing import NoReturn

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import cluster_of
from kerastrain.preparation import graphs

# Rows of a dry step on each replica.
_ROWS = 2


def can_run(model: keras.Model, batch: Any, strategy: tf.distribute.Strategy) -> bool:
    """Whether a dry step has rows to pick and runs alone.

    With several workers it would wait for the others, which may have failed.
    """
    return has_rows(batch) and not cluster_of(strategy).has_others


def has_rows(batch: Any) -> bool:
    """Whether rows can be picked from a batch, and there are any."""
    leaves = [leaf for leaf in tf.nest.flatten(batch) if leaf is not None]
    dense = all(isinstance(leaf, tf.Tensor) and leaf.shape.rank for leaf in leaves)
    return bool(leaves) and dense and rows_of(batch) > 0


def rows_of(batch: Any) -> int:
    """The number of rows of a batch that has some."""
    return next(leaf for leaf in tf.nest.flatten(batch) if leaf is not None).shape[0]


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Inside, code of the user's can be traced without consequence.

    A function under ``tf.function`` would keep the trace of a dry step for the
    steps to come, so all run as plain Python. Draws from the random generators of
    Python and NumPy are undone, and warnings are left to the real step.
    """
    eagerly = tf.config.functions_run_eagerly()
    states = random.getstate(), np.random.get_state()
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tf.config.run_functions_eagerly(eagerly)
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def nothing_built(model: keras.Model) -> Iterator[None]:
    """Inside, a layer that is not built fails where it is called, and losses are not built."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("A dry step creates no variable.")

    before = {layer: vars(layer).get("build") for layer in _keras.all_layers(model)}
    unbuilt = {layer: build for layer, build in before.items() if not layer.built}
    for layer in unbuilt:
        vars(layer)["build"] = refuse
    try:
        with _keras.unbuilt_suppressed(model), _keras.none_to_be_initialized():
            yield
    finally:
        for layer, build in unbuilt.items():
            vars(layer)["build"] = build


@contextlib.contextmanager
def watched(
    layers: list[keras.Layer],
    around: Callable[[keras.Layer, Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """Inside, the ``call`` of each layer is ``around(layer, call)``; a layer's own comes back."""
    before = {layer: vars(layer).get("call") for layer in layers}
    try:
        for layer in before:
            vars(layer)["call"] = around(layer, layer.call)
        yield
    finally:
        for layer, call in before.items():
            if call is None:
                vars(layer).pop("call", None)
            else:
                vars(layer)["call"] = call


# Gradients --------------------------------------------------------------------


def gradient_norms(
    model: keras.Model,
    batch: Any,
    strategy: tf.distribute.Strategy,
    *,
    reported_replicas: int | None = None,
    copies: int = 1,
    applied: dict[keras.optimizers.Optimizer, list[Any]] | None = None,
) -> np.ndarray | None:
    """The norms of the gradients that ``model.train_step`` hands to optimizers.

    Args:
        model: whose step it is.
        batch: the rows are taken from it, two for each replica.
        strategy: whose replicas run the step.
        reported_replicas: the number that the step is given; None for the real one.
        copies: how often the rows of a replica are repeated.
        applied: gets the optimizers that are called, with the variables of the first call.

    Returns:
        For each call of an optimizer, in order, the sum over the replicas of the
        global norm. None without such a call, or where all are zero or one is not
        finite.
    """
    count = rows_of(batch)
    failed: list[Exception] = []

    def rows_of_replica(context: tf.distribute.InputContext) -> Any:
        first = _ROWS * context.replica_id_in_sync_group
        return picked(batch, [(first + i) % count for i in range(_ROWS)] * copies)

    def on_replica(data: Any) -> list[tf.Tensor]:
        captured.sets, replicas.number = [], reported_replicas
        try:
            with _updates_dropped(model):
                model.train_step(data)
            if applied is not None:
                for optimizer, _, variables in captured.sets:
                    applied.setdefault(optimizer, variables)
            return [_norm(gradients) for _, gradients, _ in captured.sets]
        except Exception as error:  # of any kind: the code is the user's
            failed.append(error)
            return []
        finally:
            del captured.sets, replicas.number

    def summed() -> tf.Tensor:
        norms = strategy.run(on_replica, args=(data,))
        return tf.stack([tf.add_n(strategy.experimental_local_results(n)) for n in norms])

    data = strategy.experimental_distribute_values_from_function(rows_of_replica)
    try:
        with _captured_gradients() as captured, _reported_replicas(strategy) as replicas:
            with nothing_built(model):
                norms = graphs.computed(summed).numpy()
    except Exception:  # also where the replicas did not do the same
        return None
    useful = not failed and np.isfinite(norms).all() and (norms > 0).any()
    return norms if useful else None


def picked(batch: Any, rows: list[int]) -> Any:
    """These rows of a batch."""
    return tf.nest.map_structure(lambda t: None if t is None else tf.gather(t, rows), batch)


def _norm(gradients: list[tf.Tensor | tf.IndexedSlices | None]) -> tf.Tensor:
    dense = [tf.cast(tf.convert_to_tensor(g), tf.float32) for g in gradients if g is not None]
    return tf.linalg.global_norm(dense) if dense else tf.zeros(())


def _updates_dropped(model: keras.Model) -> keras.StatelessScope:
    """A scope that keeps assignments to itself and lets gradients through."""
    scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
    for weight in model.trainable_weights:
        # A regulariser asks the scope for its weight, and finds the weight itself.
        scope.add_update((weight, weight.value))
    return scope


@contextlib.contextmanager
def _captured_gradients() -> Iterator[threading.local]:
    """Inside, a thread that has ``sets`` finds there what optimizers were to apply.

    In this thread, where replicas meet, it is dropped.
    """
    thread = threading.local()
    thread.sets = []

    def capturing(apply: Callable[..., Any]) -> Callable[..., Any]:
        def capture(
            self: keras.optimizers.Optimizer, grads: Iterable[Any], trainable_variables: Any = None
        ) -> Any:
            if not hasattr(thread, "sets"):
                return apply(self, grads, trainable_variables)
            return thread.sets.append((self, list(grads), trainable_variables))

        return capture

    scaled, plain = keras.optimizers.LossScaleOptimizer, keras.optimizers.Optimizer
    with _keras.patched(scaled, "apply", capturing(scaled.apply)):
        with _keras.patched(plain, "apply", capturing(plain.apply)):
            yield thread


@contextlib.contextmanager
def _reported_replicas(strategy: tf.distribute.Strategy) -> Iterator[threading.local]:
    """Inside, a thread that has a ``number`` is given it as the strategy's number of replicas."""
    thread, owner = threading.local(), type(strategy)
    truth = owner.num_replicas_in_sync

    def count(self: tf.distribute.Strategy) -> int:
        number = getattr(thread, "number", None) if self is strategy else None
        return truth.fget(self) if number is None else number

    with _keras.patched(owner, "num_replicas_in_sync", property(count)):
        yield thread


# A call on shapes -------------------------------------------------------------


class Call(NamedTuple):
    """What a training call of a model does.

    Attributes:
        training: the ids of the watched layers that were called in training mode.
        assigned: the ids of the watched variables that were assigned.
    """

    training: set[int]
    assigned: set[int]


def training_call(
    model: keras.Model, batch: Any, layers: list[keras.Layer], variables: list[keras.Variable]
) -> Call | None:
    """Calls the model in training mode, on shapes alone.

    Args:
        model: a model; of one that is not built nothing is known.
        batch: a batch, or None for the inputs of a functional model.
        layers, variables: what to watch.
    """
    training: set[int] = set()
    scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)

    def noting_mode(layer: keras.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(call)

        def watching(*args: Any, **kwargs: Any) -> Any:
            if signature.bind(*args, **kwargs).arguments.get("training"):
                training.add(id(layer))
            return call(*args, **kwargs)

        return watching

    def run(x: Any) -> Any:
        with scope:
            return _keras.forward(model, x, training=True)

    try:
        if batch is None:
            x = model.inputs[0] if len(model.inputs) == 1 else model.inputs
        else:
            x = _keras.as_symbolic(keras.utils.unpack_x_y_sample_weight(batch)[0])
        with watched(layers, noting_mode), nothing_built(model):
            _keras.output_spec(run, x)
    except Exception:  # a model without `call`, or whose inputs are not known
        return None
    return Call(training, {id(v) for v in variables if scope.get_current_value(v) is not None})


# Metrics ----------------------------------------------------------------------


@contextlib.contextmanager
def statistics_known(model: keras.Model) -> Iterator[None]:
    """Inside, `BatchNormalization` takes its moving mean and variance."""
    kind = keras.layers.BatchNormalization
    layers = [layer for layer in _keras.all_layers(model) if isinstance(layer, kind)]

    def in_inference(layer: keras.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
        del layer
        signature = inspect.signature(call)

        def calling(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            if "training" in signature.parameters:
                bound.arguments["training"] = False
            return call(*bound.args, **bound.kwargs)

        return calling

    with watched(layers, in_inference):
        yield


def cut_rows(part: Any, first: int, last: int) -> Any:
    """The rows from ``first`` to ``last``, with their masks."""

    def cut(tensor: tf.Tensor) -> tf.Tensor:
        rows, mask = tensor[first:last], _keras.get_mask(tensor)
        if mask is not None:
            _keras.set_mask(rows, mask[first:last])
        return rows

    return tf.nest.map_structure(lambda t: None if t is None else cut(t), part)
