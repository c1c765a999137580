"""Every private Keras and TensorFlow name that kerastrain touches, one function each.

Written against Keras 3.15.1 and TensorFlow 2.21.0. Nothing else in the package
imports from ``keras.src`` or ``tensorflow.python``, or reads an attribute whose
name starts with an underscore from a Keras object, so a new Keras release is
checked by reading this file.
"""

import contextlib
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend as keras_backend
from keras.src import tree
from keras.src.backend.common import global_state
from keras.src.backend.tensorflow import nn as keras_nn
from keras.src.losses import loss as keras_loss
from keras.src.models import functional as keras_functional
from keras.src.models.model import functional_init_arguments
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.saving import object_registration
from keras.src.trainers import compile_utils
from keras.src.trainers.data_adapters import array_data_adapter
from keras.src.trainers.data_adapters import array_slicing
from keras.src.trainers.data_adapters import data_adapter_utils
from keras.src.trainers.data_adapters import get_data_adapter
from keras.src.trainers.data_adapters import is_grain_dataset
from keras.src.trainers.data_adapters import is_torch_dataloader
from keras.src.trainers.data_adapters import tf_dataset_adapter
from keras.src.utils.python_utils import pythonify_logs
from tensorflow.python.distribute import ps_values

# What `compile` sets on a model (trainers/trainer.py, `Trainer.compile`), and
# what `fit` caches there. Plain entries of `model.__dict__`, one set a model.
_COMPILE_ATTRIBUTES = (
    "optimizer",
    "_compile_loss",
    "loss",
    "_compile_metrics",
    "_jit_compile",
    "_run_eagerly",
    "stop_training",
    "_compiled_trainable_state",
    "compiled",
    "_loss_tracker",
    "steps_per_execution",
    "_compile_config",
    "train_function",
    "test_function",
    "predict_function",
    "_initial_epoch",
)


# Models -----------------------------------------------------------------------


def forward(model: keras.Model, x: Any, training: bool) -> Any:
    """Calls the model, with ``training`` only where its ``call`` takes it."""
    if model._call_has_training_arg:
        return model(x, training=training)
    return model(x)


def overrides(model: keras.Model, method: str) -> bool:
    """Whether the model defines ``method`` itself: it is neither Keras's nor kerastrain's."""
    if method in model.__dict__:
        return True
    defined = getattr(type(model), method)
    return defined is not getattr(keras.Model, method) and not getattr(
        defined, "is_kerastrains", False
    )


def has_kerastrains_step(model: keras.Model) -> bool:
    """Whether the model's ``train_step`` is that of ``TrainableModel``."""
    return getattr(type(model).train_step, "is_kerastrains", False) and not overrides(
        model, "train_step"
    )


def compute_loss(model, x, y, y_pred, sample_weight, training):
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

    def __init__(self):
        self._lists = {}

    def _own(self):
        return self._lists.setdefault(threading.get_ident(), [])

    def extend(self, losses):
        self._own().extend(losses)

    def clear(self):
        self._own().clear()

    def __getitem__(self, index):
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


def defines_losses(layer) -> bool:
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


def functional_class(cls: type) -> type:
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


class BuildsFromShapes:
    """Mixed into a model: under a strategy, Keras's ``fit`` builds it from shapes.

    Keras 3.15.1 draws a first batch and averages it over the replicas, which
    fails where the batch does not divide and for strings, and loses the batch
    of a generator (backend/tensorflow/trainer.py, `_maybe_symbolic_build`).
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if self._distribute_strategy is None:
            return
        if data_batch is None:
            spec = iterator._distributed_dataset.element_spec
            data_batch = tree.map_structure(_symbol_of_spec, spec)
        self.__dict__["_built_from"] = data_batch
        with self._distribute_strategy.scope():
            self._symbolic_build(data_batch=data_batch)
            let_replicas_update(self)


def _symbol_of_spec(spec):
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

    def numbers(symbol):
        shape = [8 if length is None else length for length in symbol.shape]
        values = random.uniform(size=shape)
        whole = not keras_backend.is_float_dtype(symbol.dtype)
        return tf.constant((values > 0.5) if whole else values, tf.as_dtype(symbol.dtype))

    return tree.map_structure(lambda s: None if s is None else numbers(s), symbols)


def reduce_model(model: keras.Model) -> tuple:
    """How to pickle a model: as its ``.keras`` archive, by no name of its class."""
    _, arguments = keras.Model.__reduce__(model)
    return keras.Model._unpickle_model, arguments


def take_initial_epoch(model: keras.Model) -> int | None:
    """The first epoch, where a callback such as ``BackupAndRestore`` has set it."""
    epoch, model._initial_epoch = model._initial_epoch, None
    return epoch


def set_step_options(model: keras.Model, options: Any) -> Any:
    """Sets what ``TrainableModel.compile`` keeps, and returns what it was."""
    before = model.__dict__.get("_step_options")
    model.__dict__["_step_options"] = options
    return before


# Compile state ----------------------------------------------------------------


def compile_state(model: keras.Model) -> dict[str, Any]:
    """A copy of what ``compile`` and ``fit`` have set on the model."""
    state = model.__dict__
    return {name: state[name] for name in _COMPILE_ATTRIBUTES if name in state}


def set_compile_state(model: keras.Model, state: dict[str, Any]) -> None:
    """Puts a `compile_state` back.

    Past Keras's attribute tracking, but with TensorFlow's, so that
    ``tf.train.Checkpoint(model=model)`` finds the optimizer of this state.
    """
    for name in _COMPILE_ATTRIBUTES:
        model._delete_tracking(name)
        model.__dict__.pop(name, None)
        if name in state:
            model.__dict__[name] = state[name]
            if isinstance(state[name], tf.__internal__.tracking.Trackable):
                model._track_trackable(state[name], name, overwrite=True)


def clear_compile_state(model: keras.Model) -> None:
    """Makes the model as it is before ``compile``."""
    empty = dict.fromkeys(
        ("_compile_loss", "_compile_metrics", "_loss_tracker", "loss", "_initial_epoch")
    )
    set_compile_state(model, {**empty, "compiled": False, "steps_per_execution": 1})


def base_compile(model: keras.Model, **arguments) -> None:
    """``keras.Model.compile``, whatever the model's own ``compile`` takes."""
    keras.Model.compile(model, **arguments)


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """The arguments that the model was compiled with, as the user's own objects."""
    loss, metrics = model._compile_loss, model._compile_metrics
    return {
        "optimizer": model.optimizer,
        "loss": model.loss,
        "loss_weights": loss._user_loss_weights if loss is not None else None,
        "metrics": metrics._user_metrics if metrics is not None else None,
        "weighted_metrics": (
            metrics._user_weighted_metrics if metrics is not None else None
        ),
    }


@contextlib.contextmanager
def unbuilt_held_back(model: keras.Model) -> Iterator[None]:
    """Inside, compiled losses and metrics that are not built yet have stand-ins.

    The stand-ins build themselves in place of them, the metrics' without any metric.
    """
    before = {name: model.__dict__.get(name) for name in ("_compile_loss", "_compile_metrics")}
    loss, metrics = before.values()
    if loss is not None and not loss.built:
        model.__dict__["_compile_loss"] = compile_utils.CompileLoss(
            loss._user_loss, loss._user_loss_weights, output_names=loss.output_names
        )
    if metrics is not None and not metrics.built:
        model.__dict__["_compile_metrics"] = compile_utils.CompileMetrics(None, None)
    try:
        yield
    finally:
        model.__dict__.update(before)


def output_spec(function: Callable, *args, **kwargs) -> Any:
    """The shapes and dtypes of ``function(...)``; no number is computed.

    Variables that ``function`` creates are created for good.
    """
    return keras_backend.compute_output_spec(function, *args, **kwargs)


def as_symbolic(structure: Any) -> Any:
    """Tensors or arrays as ``KerasTensor`` of the same shape and dtype."""
    return tree.map_structure(
        lambda t: None
        if t is None
        else keras.KerasTensor(
            t.shape,
            keras_backend.standardize_dtype(t.dtype),
            sparse=isinstance(t, tf.SparseTensor),
            ragged=isinstance(t, tf.RaggedTensor),
        ),
        structure,
    )


# Losses -----------------------------------------------------------------------


class OutputLoss(NamedTuple):
    """One compiled loss with the tensors of its own output.

    Attributes:
        loss: a ``keras.losses.Loss``.
        weight: the entry of ``loss_weights``, or None.
        y_true, y_pred, sample_weight: this output's, unreduced.
    """

    loss: Any
    weight: Any
    y_true: Any
    y_pred: Any
    sample_weight: Any


def output_loss_trackers(model: keras.Model) -> list[keras.metrics.Mean]:
    """The metrics that log each output's loss; empty for a single output."""
    compiled = model._compile_loss
    if compiled is None:
        return []
    return list(getattr(compiled._metrics, "trackers", compiled._metrics))


def output_losses(model, y, y_pred, sample_weight) -> list[OutputLoss]:
    """Pairs each compiled loss with its output, as ``CompileLoss`` would.

    Runs Keras's own matching of nested structures with losses that only note
    what they were given.
    """
    compiled = model._compile_loss
    if compiled is None:
        return []
    build_output_losses(model, y, y_pred, sample_weight)
    found: list[OutputLoss] = []

    def note(entry):
        def noting_loss(y_true, y_pred, sample_weight=None):
            found.append(
                OutputLoss(
                    entry.loss, entry.loss_weights, y_true, y_pred, sample_weight
                )
            )
            return tf.zeros((), tf.float32)

        return entry._replace(loss=noting_loss)

    with output_trackers_held_back(model):
        flat, compiled._flat_losses = (
            compiled._flat_losses,
            [note(entry) for entry in compiled._flat_losses],
        )
        try:
            compiled(y, y_pred, sample_weight)
        finally:
            compiled._flat_losses = flat
    return found


def build_output_losses(model, y, y_pred, sample_weight) -> None:
    """Resolves the names of the compiled losses, once, without computing any."""
    compiled = model._compile_loss
    if compiled is None or compiled.built:
        return
    keras_backend.compute_output_spec(
        compiled, *as_symbolic((y, y_pred)), as_symbolic(sample_weight)
    )


class _HeldBack:
    """Stands in for the metric of one output's loss and keeps what it is given, by thread."""

    def __init__(self):
        self._values = {}

    @property
    def values(self) -> list:
        return self._values.setdefault(threading.get_ident(), [])

    def update_state(self, value, sample_weight=None):
        del sample_weight
        self.values.append(value)


class _StandIns(list):
    """Stand-ins for ``trackers``, in use by ``entered`` replicas at the moment."""

    def __init__(self, trackers):
        super().__init__(_HeldBack() for _ in trackers)
        self.trackers, self.entered = trackers, 0


@contextlib.contextmanager
def output_trackers_held_back(model) -> Iterator[list[_HeldBack]]:
    """Keeps ``CompileLoss`` from updating the metrics of the single outputs.

    It weighs a batch by its *static* size, which is None in a graph: the logged
    ``<output>_loss`` is a mean of batch means (compile_utils.py, 3.15.1). Replicas
    take turns, so one may come in while another is inside.
    """
    compiled = model._compile_loss
    if compiled is None:
        yield []
        return
    if not isinstance(compiled._metrics, _StandIns):
        compiled._metrics = _StandIns(compiled._metrics)
    stand_ins = compiled._metrics
    stand_ins.entered += 1
    for one in stand_ins:
        one.values.clear()
    try:
        yield stand_ins
    finally:
        stand_ins.entered -= 1
        if not stand_ins.entered:
            compiled._metrics = stand_ins.trackers


@contextlib.contextmanager
def losses_not_scaled() -> Iterator[None]:
    """Keeps Keras from dividing losses by the number of replicas, and from undoing it."""
    names = ("scale_loss_for_distribution", "unscale_loss_for_distribution")
    before = [getattr(keras_loss, name) for name in names]
    for name in names:
        setattr(keras_loss, name, lambda value: value)
    try:
        yield
    finally:
        for name, function in zip(names, before, strict=True):
            setattr(keras_loss, name, function)


def unreduced_loss(loss, y_true, y_pred) -> tuple[tf.Tensor, tf.Tensor | None]:
    """``loss.call`` and the Keras mask that goes with its values, if any.

    Follows ``keras.losses.Loss.__call__`` up to its reduction.
    """
    in_mask = keras_backend.get_keras_mask(y_pred)
    y_pred = tree.map_structure(
        lambda t: keras.ops.convert_to_tensor(t, dtype=loss.dtype), y_pred
    )
    y_true = tree.map_structure(
        lambda t: keras.ops.convert_to_tensor(t, dtype=loss.dtype), y_true
    )
    values = loss.call(y_true, y_pred)
    out_mask = keras_backend.get_keras_mask(values)
    masks = [mask for mask in (in_mask, out_mask) if mask is not None]
    if len(masks) == 2:
        return values, masks[0] & masks[1]
    return values, masks[0] if masks else None


def loss_function_arguments(loss) -> dict[str, Any]:
    """The keyword arguments that a loss object passes to its function."""
    return getattr(loss, "_fn_kwargs", {})


def same_rank(values, weights):
    """Squeezes or expands the last axis where two ranks differ by one."""
    return keras_loss.squeeze_or_expand_to_same_rank(values, weights)


def get_mask(tensor):
    """The Keras mask of a tensor, or None."""
    return keras_backend.get_keras_mask(tensor)


def set_mask(tensor, mask) -> None:
    """Attaches a Keras mask to a tensor."""
    keras_backend.set_keras_mask(tensor, mask)


# Metrics ----------------------------------------------------------------------


def metric_names_by_output(model: keras.Model) -> list[tuple[str, str | None, list]]:
    """``(argument, output name, metric names)`` of the compiled metrics.

    The names are those that the metrics were given, before Keras renames equal
    ones.
    """
    compiled = model._compile_metrics
    if compiled is None or not compiled.built:
        return []
    groups = (
        ("metrics", compiled._flat_metrics),
        ("weighted_metrics", compiled._flat_weighted_metrics),
    )
    return [
        (argument, entry.output_name, [m.name for m in entry.metrics])
        for argument, entries in groups
        for entry in entries
        if entry is not None
    ]


def weighted_twins(model: keras.Model) -> list[str]:
    """Logged names of weighted metrics whose unweighted twin has the same name.

    Keras logs them as ``weighted_<name>``.
    """
    names = {"metrics": [], "weighted_metrics": []}
    for argument, output, group in metric_names_by_output(model):
        names[argument] += [f"{output}_{n}" if output else n for n in group]
    return [name for name in names["weighted_metrics"] if name in names["metrics"]]


def own_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """The loss trackers and the metrics that the model and its layers own."""
    return [m for m in model.metrics if m is not model._compile_metrics]


def sparse_classes(model: keras.Model, function: Callable) -> int | None:
    """The number of classes where a single output has the loss ``function``.

    None for other losses, for one that ignores a class, or another axis.
    """
    compiled = model._compile_loss
    if compiled is None or not compiled.built or len(compiled._flat_losses) != 1:
        return None
    loss = compiled._flat_losses[0].loss
    if getattr(loss, "fn", None) is not function:
        return None
    arguments = loss_function_arguments(loss)
    if arguments.get("ignore_class") is not None or arguments.get("axis", -1) != -1:
        return None
    try:
        shape = model.output_shape
    except (AttributeError, ValueError):
        return None
    return shape[-1] if isinstance(shape, tuple) and isinstance(shape[-1], int) else None


def leaf_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """Every metric of the model, the compiled ones unpacked, once each."""
    found = {}
    for metric in model.metrics:
        for leaf in getattr(metric, "metrics", None) or [metric]:
            found[id(leaf)] = leaf
    return list(found.values())


def all_metrics(owner: keras.Model | keras.metrics.Metric) -> list[keras.metrics.Metric]:
    """Every metric of a model, or a metric itself, and every metric inside another, once each."""
    is_metric = isinstance(owner, keras.metrics.Metric)
    found, waiting = {}, [owner] if is_metric else list(owner.metrics)
    while waiting:
        metric = waiting.pop(0)
        if id(metric) not in found:
            found[id(metric)] = metric
            waiting += metric._metrics
            waiting += getattr(metric, "metrics", None) or []
    return list(found.values())


def own_variables(metric: keras.metrics.Metric) -> list[keras.Variable]:
    """The state of the metric itself, without that of metrics inside it."""
    return list(metric._variables)


def metric_function(metric: keras.metrics.Metric) -> Callable | None:
    """The function whose mean a metric is, or None."""
    return getattr(metric, "_fn", None)


def take_no_rows(model: keras.Model) -> bool:
    """Whether all metrics can be updated by no rows: they are Keras's own, or ours."""

    def is_known(thing):
        module = getattr(thing, "__module__", None) or ""
        return thing is None or module.startswith(("keras.", "kerastrain."))

    return all(
        is_known(type(metric)) and is_known(getattr(metric, "_fn", None))
        for metric in all_metrics(model)
    )


def has_plain_metrics(model: keras.Model) -> bool:
    """Whether all metrics, and what resets and asks them, are Keras's own, on one device."""
    return (
        replicas_of(model) == 1
        and not any(overrides(model, m) for m in ("reset_metrics", "get_metrics_result"))
        and all(type(m).__module__.startswith("keras.") for m in all_metrics(model))
    )


def add_growing_variable(metric, shape: tuple, dtype, name: str) -> keras.Variable:
    """A state variable whose first axis grows: it begins with no rows.

    Keras 3.15.1 makes variables of fixed shapes only (common/variables.py,
    `_validate_shape`); TensorFlow's own may grow.
    """
    variable = metric.add_variable((0, *shape), "zeros", dtype=dtype, name=name)
    variable._value = tf.Variable(
        tf.zeros((0, *shape), variable.dtype),
        shape=(None, *shape),
        trainable=False,
        name=name,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
    variable._shape = (None, *shape)
    return variable


def metrics_or_logs(model: keras.Model, logs: dict) -> dict:
    """The metrics' results, or ``logs`` where a custom step returned other names."""
    return model._get_metrics_result_or_logs(logs)


def flatten_results(model: keras.Model, logs: dict) -> Any:
    """Results as ``evaluate(return_dict=False)`` returns them: a number or a list."""
    return model._flatten_metrics_in_order(logs)


def python_logs(logs: dict | None) -> dict:
    """Results as Python floats."""
    return pythonify_logs(logs)


# Optimizers -------------------------------------------------------------------


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


@contextlib.contextmanager
def gradients_already_summed(optimizer) -> Iterator[None]:
    """Inside, ``optimizer.apply`` takes gradients that are summed over replicas."""
    inner = _inner(optimizer)
    if inner is None or not hasattr(inner, "_all_reduce_sum_gradients"):
        yield
        return
    inner.__dict__["_all_reduce_sum_gradients"] = list
    try:
        yield
    finally:
        inner.__dict__.pop("_all_reduce_sum_gradients", None)


def expects_summed_gradients(optimizer) -> bool:
    """Whether `gradients_already_summed` is in force for the optimizer."""
    return "_all_reduce_sum_gradients" in _inner(optimizer).__dict__


def updates_in_replicas(optimizer) -> bool:
    """Whether each replica can run ``optimizer.apply`` itself.

    It cannot where something is updated at every n-th step only: Keras 3.15.1 does
    that in a ``tf.cond`` (optimizers/base_optimizer.py), inside of which replicas
    cannot meet. Nor where they share their variables.
    """
    inner = _inner(optimizer)
    conditional = getattr(inner, "gradient_accumulation_steps", None) or getattr(
        inner, "ema_overwrite_frequency", None
    )
    strategy = tf.distribute.get_strategy()
    return not conditional and not isinstance(
        strategy, tf.distribute.experimental.CentralStorageStrategy
    )


def apply_for_all_replicas(optimizer, gradients: list, variables: list) -> None:
    """``optimizer.apply`` outside the replicas, on the variables of all of them.

    Args:
        gradients: one tensor, or None, for each of ``variables``.
    """
    interim = tf.__internal__.distribute.interim
    meet = interim.maybe_merge_call
    interim.maybe_merge_call = lambda function, strategy, *args: function(strategy, *args)
    try:
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            if not optimizer.built:
                optimizer.build(variables)
            optimizer._common_apply(gradients, variables)
        else:
            optimizer.apply(gradients, variables)
    finally:
        interim.maybe_merge_call = meet


def unknown_to_optimizer(optimizer, variables) -> list[str]:
    """The paths of variables that a built optimizer was not built with."""
    inner = _inner(optimizer)
    if not getattr(inner, "built", False) or not hasattr(inner, "_trainable_variables_indices"):
        return []
    known = inner._trainable_variables_indices
    return [v.path for v in variables if inner._var_key(v) not in known]


def optimizer_strategy(optimizer):
    """The strategy in whose scope the optimizer was made."""
    return getattr(_inner(optimizer), "_distribution_strategy", None)


# Layers over replicas ---------------------------------------------------------


@contextlib.contextmanager
def synchronized_moments(moments: Callable) -> Iterator[None]:
    """Inside, synchronised batch statistics are ``moments(x, axes, keepdims)``."""
    keras_own = keras_nn._compute_moments_sync  # backend/tensorflow/nn.py
    keras_nn._compute_moments_sync = moments
    try:
        yield
    finally:
        keras_nn._compute_moments_sync = keras_own


@contextlib.contextmanager
def random_seeds(change: Callable) -> Iterator[None]:
    """Inside, what a ``SeedGenerator`` draws goes through ``change(seed)``."""
    draw = keras.random.SeedGenerator.next
    keras.random.SeedGenerator.next = lambda *args, **kwargs: change(draw(*args, **kwargs))
    try:
        yield
    finally:
        keras.random.SeedGenerator.next = draw


# Variables and strategies -----------------------------------------------------


def model_strategy(model: keras.Model):
    """The strategy in whose scope the model was made, or None."""
    return model._distribute_strategy


def replicas_of(model: keras.Model) -> int:
    """The number of replicas of the strategy that the model was made under, or 1."""
    strategy = model_strategy(model)
    return strategy.num_replicas_in_sync if strategy is not None else 1


def let_replicas_update(model: keras.Model) -> None:
    """Under a ``CentralStorageStrategy``, lets replicas update the one variable they share.

    Metrics become plain variables, which the replicas update in turn: TensorFlow
    would add up what each has read and added. Other variables, of which Keras
    3.15.1 says nothing, get the mean of what the replicas assign if they are
    floats (batch statistics), else what the first assigns (random seeds).
    """
    state = {id(v) for metric in all_metrics(model) for v in own_variables(metric)}
    for variable in [*model.variables, *(v for m in model.metrics for v in m.variables)]:
        value = tf_variable(variable)
        if not isinstance(value, ps_values.AggregatingVariable):
            continue
        if id(variable) in state:
            variable._value = value._v
        elif value.aggregation == tf.VariableAggregation.NONE:
            value._aggregation = (
                tf.VariableAggregation.MEAN
                if value.dtype.is_floating
                else tf.VariableAggregation.ONLY_FIRST_REPLICA
            )


def is_distributed(variable) -> bool:
    """Whether each replica has a value of its own."""
    return isinstance(tf_variable(variable), tf.distribute.DistributedValues)


def tf_variable(variable):
    """The TensorFlow variable inside a ``keras.Variable``, or one itself."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def local_variables(variable) -> list[tf.Variable]:
    """The variable on each replica (one entry without replicas)."""
    value = tf_variable(variable)
    return list(value.values) if isinstance(value, tf.distribute.DistributedValues) else [value]


def read_local(variable) -> list[tf.Tensor]:
    """A copy of the value on each replica."""
    return [tf.identity(part) for part in local_variables(variable)]


def assign_local(variable, parts: list[tf.Tensor]) -> None:
    """Gives each replica the value that `read_local` read."""
    for component, part in zip(local_variables(variable), parts, strict=True):
        component.assign(part)


# Data -------------------------------------------------------------------------


def data_adapter(x, y, sample_weight, batch_size, steps, shuffle, class_weight):
    """Keras's adapter for any of its data sources."""
    return get_data_adapter(
        x=x,
        y=y,
        sample_weight=sample_weight,
        batch_size=batch_size,
        steps_per_epoch=steps,
        shuffle=shuffle,
        class_weight=class_weight,
    )


def are_arrays(structure: Any) -> bool:
    """Whether every leaf can be sliced by rows (NumPy, tensors, pandas, ...)."""
    return array_data_adapter.can_convert_arrays(structure)


def dense_arrays(adapter) -> tuple | None:
    """The rows of an array adapter as NumPy arrays, or None.

    None where the adapter holds no arrays, or arrays that NumPy cannot hold
    (ragged, sparse).
    """
    if not isinstance(adapter, array_data_adapter.ArrayDataAdapter):
        return None
    sliceables = array_slicing.convert_to_sliceable(
        adapter._inputs, target_backend="numpy"
    )
    try:
        arrays = tree.map_structure(
            lambda s: None if s is None else s.convert_to_numpy(s[:]),
            sliceables,
        )
    except (TypeError, NotImplementedError, AttributeError):
        return None
    dense = all(
        isinstance(a, np.ndarray) and a.dtype != object
        for a in tree.flatten(arrays)
        if a is not None
    )
    return arrays if dense else None


def yields_tensors(adapter) -> bool:
    """Whether the adapter's own form is a ``tf.data`` pipeline."""
    return isinstance(
        adapter, tf_dataset_adapter.TFDatasetAdapter | array_data_adapter.ArrayDataAdapter
    )


def iterator_state(iterator: tf.data.Iterator) -> np.ndarray | None:
    """The state of an iterator as bytes; None where TensorFlow 2.21 finds it stateful."""
    resource, fail = iterator._iterator_resource, 2
    try:
        state = tf.raw_ops.SerializeIterator(resource_handle=resource, external_state_policy=fail)
    except (tf.errors.FailedPreconditionError, tf.errors.UnimplementedError):
        return None
    return np.frombuffer(tf.io.serialize_tensor(state).numpy(), np.uint8)


def set_iterator_state(iterator: tf.data.Iterator, state: np.ndarray) -> None:
    """Gives the iterator of an equal pipeline the state of `iterator_state`."""
    tf.raw_ops.DeserializeIterator(
        resource_handle=iterator._iterator_resource,
        serialized=tf.io.parse_tensor(state.tobytes(), tf.variant),
    )


def split_rows(arrays: tuple, validation_split: float) -> tuple[tuple, tuple]:
    """``(train, validation)``: the last share of the rows is for validation."""
    return array_slicing.train_validation_split(arrays, validation_split)


def is_stream(data: Any) -> bool:
    """Whether the object itself yields batches (a loader, a grain data set)."""
    return is_torch_dataloader(data) or is_grain_dataset(data)


def list_to_tuple(batch: Any) -> Any:
    """A batch's outer list as a tuple, which is what Keras unpacks."""
    return data_adapter_utils.list_to_tuple(batch)


# Callbacks --------------------------------------------------------------------


def history_of(callback_list: keras.callbacks.CallbackList) -> keras.callbacks.History | None:
    """The ``History`` among the callbacks, or None without one."""
    return callback_list._history


def is_better(model, monitor: str, mode: str, value: float, best: float | None) -> bool:
    """Whether a result is better than the best so far, as Keras's callbacks decide it."""
    (callback := keras.callbacks.EarlyStopping(monitor, mode=mode)).set_model(model)
    callback._set_monitor_op()
    return callback._is_improvement(value, best)


_BATCH_EVENTS = {
    "train": ("on_train_batch_begin", "on_train_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
}


def listens_to_batches(callback, kind: str) -> bool:
    """Whether a callback does anything in the batch events of ``kind``.

    Args:
        callback: a ``keras.callbacks.Callback``.
        kind: ``"train"`` or ``"test"``.
    """
    names = _BATCH_EVENTS[kind]
    if kind == "train":
        names += ("on_batch_begin", "on_batch_end")
    for name in names:
        method = inspect.getattr_static(callback, name, None)
        if method is not inspect.getattr_static(keras.callbacks.Callback, name):
            return True
    return False
