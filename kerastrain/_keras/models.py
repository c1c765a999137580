"""Models and their layers."""

import contextlib
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras.src import tree
from keras.src.backend.common import global_state
from keras.src.models import functional as keras_functional
from keras.src.models.model import functional_init_arguments
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.saving import object_registration
from keras.src.saving import saving_lib

from kerastrain._keras.activity_losses import undivided_marked
from kerastrain._keras.compiling import _COMPILE_ATTRIBUTES


def forward(model: keras.Model, x: Any, training: bool) -> Any:
    """Calls the model, with ``training`` only where its ``call`` takes it."""
    with undivided_marked(model):
        if model._call_has_training_arg:
            return model(x, training=training)
        return model(x)


def overrides(model: keras.Model, method: str) -> bool:
    """Whether the model defines ``method`` itself: it is neither Keras's nor kerastrain's."""
    if method in model.__dict__:
        return True
    defined = getattr(type(model), method)
    return defined is not getattr(keras.Model, method) and not getattr(defined, "is_builtin", False)


def is_users_method(layer: keras.Layer, name: str) -> bool:
    """Whether a layer has the method from code that is not Keras's."""
    defined = getattr(type(layer), name, None)
    return defined is not None and not defined.__module__.startswith("keras.")


def is_of_keras(kind: type) -> bool:
    """Whether a class is Keras's, TensorFlow's or kerastrain's own."""
    return kind.__module__.split(".")[0] in ("keras", "tensorflow", "kerastrain", "builtins")


def base_attributes(one: Any) -> set[str]:
    """The attributes that the Keras class which an object's class derives from gives it."""
    base = next((kind for kind in type(one).__mro__ if is_of_keras(kind)), object)
    known = _BASE_ATTRIBUTES.get(base)
    if known is None:
        known = {"history", *_COMPILE_ATTRIBUTES}
        with contextlib.suppress(Exception):  # some need arguments, and are known by their code
            known |= vars(base()).keys()
        for kind in base.__mro__:
            init = vars(kind).get("__init__")
            known |= set(getattr(getattr(init, "__code__", None), "co_names", ()))
        _BASE_ATTRIBUTES[base] = known
    return known


_BASE_ATTRIBUTES: dict[type, set[str]] = {}


def has_builtin_step(model: keras.Model) -> bool:
    """Whether the model's ``train_step`` is that of ``TrainableModel``."""
    return getattr(type(model).train_step, "is_builtin", False) and not overrides(
        model, "train_step"
    )


def has_updates(model: keras.Model) -> bool:
    """Whether a step of the model is of several updates, by a hook of ``TrainableModel``."""
    hook = getattr(type(model), "updates", None)
    return has_builtin_step(model) and not getattr(hook, "is_default_hook", False)


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Those that a step of the model uses; the compiled one is the first, if it is used or alone."""
    if not has_updates(model):
        return [] if model.optimizer is None else [model.optimizer]
    return sorted(
        (u.optimizer for u in model.updates()), key=lambda one: one is not model.optimizer
    )


def compute_loss(
    model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool
) -> Any:
    """Calls ``model.compute_loss``, with ``training`` where its signature has it."""
    return model._compute_loss(x, y, y_pred, sample_weight, training=training)


def regularization_losses(model: keras.Model) -> list:
    """The losses of the weight regularisers: functions of the weights alone."""
    return model._get_regularization_losses()


def added_losses(model: keras.Model) -> list:
    """The values of ``add_loss`` and of activity regularisers in the last call."""
    losses = []
    for layer in model._flatten_layers():
        losses.extend(layer._get_own_losses())
    return losses


class _LossesByReplica:
    """Stands in for a layer's list of added losses: each replica's thread has its own."""

    def __init__(self) -> None:
        self._lists: dict[int, list[Any]] = {}

    def _own(self) -> list[Any]:
        return self._lists.setdefault(threading.get_ident(), [])

    def extend(self, losses: list[Any]) -> None:
        self._own().extend(losses)

    def clear(self) -> None:
        self._own().clear()

    def __getitem__(self, index: Any) -> Any:
        return self._own()[index]


@contextlib.contextmanager
def losses_by_replica(model: keras.Model) -> Iterator[None]:
    """Inside, what a layer adds as a loss on one replica is not seen on another.

    Keras 3.15.1 keeps one list a layer (layers/layer.py, `add_loss`), and the replicas'
    threads take turns wherever a layer looks at the others. Must surround
    ``strategy.run``.
    """
    before = [(layer, layer._losses) for layer in model._flatten_layers()]
    for layer, _ in before:
        layer.__dict__["_losses"] = _LossesByReplica()
    try:
        yield
    finally:
        for layer, losses in before:
            layer.__dict__["_losses"] = losses


def defines_losses(layer: keras.Layer) -> bool:
    """Whether the layer's code may call ``add_loss``: it is not one of Keras's own."""
    return not type(layer).__module__.startswith("keras.")


@contextlib.contextmanager
def without_results(model: keras.Model) -> Iterator[None]:
    """Inside, ``model.compute_metrics`` updates metrics and computes no result."""
    model.__dict__["get_metrics_result"] = dict
    try:
        yield
    finally:
        del model.__dict__["get_metrics_result"]


def has_one_loss(model: keras.Model) -> bool:
    """Whether it is certain that the loss has a single term beside weight regularisers."""
    if overrides(model, "compute_loss"):
        return True
    compiled = model._compile_loss
    if compiled is None or not compiled.built or len(compiled._flat_losses) != 1:
        return False
    return not any(
        layer.activity_regularizer is not None
        or (defines_losses(layer) and not type(layer).__module__.startswith("kerastrain."))
        for layer in all_layers(model)
    )


def loss_tracker(model: keras.Model) -> keras.metrics.Mean:
    """The metric that is logged as ``"loss"``."""
    return model._loss_tracker


def all_layers(model: keras.Model) -> list:
    """The model itself and every layer below it."""
    return list(model._flatten_layers())


def output_activation(model: keras.Model) -> Callable | None:
    """The activation by which a layer of Keras's makes the only output; None where that is not seen."""
    outputs = tree.flatten(getattr(model, "outputs", None) or ())
    if len(outputs) != 1 or not isinstance(model, keras_functional.Functional | keras.Sequential):
        return None
    if overrides(model, "call"):
        return None
    operation = outputs[0]._keras_history.operation
    is_known = isinstance(operation, keras.layers.Dense | keras.layers.Activation)
    return operation.activation if is_known and is_of_keras(type(operation)) else None


def all_operations(layer: Any) -> list:
    """A layer or operation itself, every layer below it, and what functional models do between layers."""
    found = {id(layer): layer}
    if isinstance(layer, keras.Layer):
        found |= {id(one): one for one in layer._flatten_layers()}
    for one in list(found.values()):
        for operation in getattr(one, "operations", None) or []:
            found.setdefault(id(operation), operation)
    return list(found.values())


@contextlib.contextmanager
def state_may_be_added(model: keras.Model) -> Iterator[None]:
    """Inside, attributes with state may be set on a model that is built."""
    tracker = model._tracker
    locked = tracker.locked
    tracker.unlock()
    try:
        yield
    finally:
        if locked:
            tracker.lock(tracker._lock_violation_msg)


def trainable_flags(model: keras.Model) -> list[str]:
    """Which layers and weights are trainable: for each layer "1" or "0", its own and its weights'."""
    return [
        "".join("01"[bool(flag)] for flag in (layer._trainable, *(v.trainable for v in own)))
        for layer, own in _layers_and_weights(model)
    ]


@contextlib.contextmanager
def trainable_as(model: keras.Model, flags: list[str] | None) -> Iterator[None]:
    """Inside, a model has these `trainable_flags`; None for its own."""
    before = None if flags is None else trainable_flags(model)
    if flags is None or before is None or before == flags:
        yield
        return
    set_trainable_flags(model, flags)
    try:
        yield
    finally:
        set_trainable_flags(model, before)


def set_trainable_flags(model: keras.Model, flags: list[str]) -> None:
    """Gives a model what `trainable_flags` returned, of it or of one like it.

    Layer by layer: ``layer.trainable = ...`` would hand the flag down. A layer that had other
    weights then keeps its weights' flags.
    """
    for (layer, own), digits in zip(_layers_and_weights(model), flags, strict=False):
        flag, *others = list(digits)
        layer._trainable = flag == "1"
        if len(own) == len(others):
            for variable, one in zip(own, others, strict=True):
                variable.trainable = one == "1"


def _layers_and_weights(model: keras.Model) -> Iterator[tuple[keras.Layer, list[keras.Variable]]]:
    for layer in model._flatten_layers():
        yield layer, [*layer._trainable_variables, *layer._non_trainable_variables]


def stateful_layers(model: keras.Model) -> list:
    """The layers that keep a state for each row of a batch from one batch to the next."""
    return [layer for layer in model._flatten_layers() if getattr(layer, "stateful", False)]


def fixed_rows(model: keras.Model) -> int | None:
    """The rows that each batch must have by the model's inputs, or by the states of its layers."""
    shapes = [tensor.shape for tensor in tree.flatten(getattr(model, "inputs", None) or ())]
    for layer in stateful_layers(model):
        shapes += [s.shape for s in tree.flatten(getattr(layer, "states", None) or ())]
    return next((shape[0] for shape in shapes if shape and shape[0] is not None), None)


def random_states(model: keras.Model) -> list[keras.Variable]:
    """The states of the random generators of the model's layers."""
    return [g.state for layer in model._flatten_layers() for g in layer._seed_generators]


def global_random_state() -> keras.Variable | None:
    """The state of Keras's global random generator; None before it is first used."""
    generator = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    return None if generator is None else generator.state


def is_functional_call(args: tuple, kwargs: dict) -> bool:
    """Whether these are the arguments ``(inputs, outputs)`` of a functional model."""
    return functional_init_arguments(args, kwargs)


def functional_class(cls: type[Any]) -> type[Any]:
    """A class of the same name that is ``cls`` and a functional model.

    Keras inserts ``Functional`` into the bases of the *named* class, for all
    later instances too; a class beside it leaves ``cls`` as it was.
    """
    if issubclass(cls, keras_functional.Functional):
        return cls
    made = cls.__dict__.get("_kerastrain_functional_class")
    if made is None:
        made = type(cls.__name__, (cls, keras_functional.Functional), {})
        made.__module__ = cls.__module__
        made.__qualname__ = cls.__qualname__
        made.__doc__ = cls.__doc__
        registered = object_registration.GLOBAL_CUSTOM_NAMES.get(cls)
        if registered is not None:
            object_registration.GLOBAL_CUSTOM_NAMES[made] = registered
        cls._kerastrain_functional_class = made
    return made


def functional_init(model: keras.Model, args: tuple, kwargs: dict) -> None:
    """Initialises an instance of `functional_class`."""
    keras_functional.Functional.__init__(model, *args, **kwargs)


def reduce_model(model: keras.Model) -> tuple:
    """How to pickle a model: as its ``.keras`` archive, by no name of its class."""
    _, arguments = keras.Model.__reduce__(model)
    return keras.Model._unpickle_model, arguments


def prepare_saving() -> None:
    """Lets one worker save a model by itself. Not under the strategy.

    For each save Keras makes an optimizer, to see its attributes, and under a strategy of several
    workers its variable is made by all of them or by none. Keras notes the attributes, but looks for
    them by another name.
    """
    for kind in ("Layer", "Functional", "Sequential", "Metric", "Optimizer", "Loss"):
        name = f"saving_attr_skiplist_{kind}"
        global_state.set_global_attribute(name, saving_lib.get_attr_skipset(kind))


def take_initial_epoch(model: keras.Model) -> int | None:
    """The first epoch, where a callback such as ``BackupAndRestore`` has set it."""
    epoch, model._initial_epoch = model._initial_epoch, None
    return epoch


def step_options(model: keras.Model) -> Any:
    """What `set_step_options` has set; None where nothing has."""
    return model.__dict__.get("_step_options")


def set_step_options(model: keras.Model, options: Any) -> Any:
    """Sets what ``TrainableModel.compile`` keeps, and returns what it was."""
    before = model.__dict__.get("_step_options")
    model.__dict__["_step_options"] = options
    return before
