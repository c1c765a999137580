"""What is wrong with the arguments and the data, found before a weight changes.

`Trainer` calls these in order: the names when it is constructed, the numbers at
the start of ``fit``, and then `check_targets`, which runs model, loss and
metrics on shapes alone and so finds what does not fit without a single number
being computed.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain import validation
from kerastrain.distribution import Cluster
from kerastrain.distribution import cluster_of
from kerastrain.errors import ArgumentError
from kerastrain.errors import DataError
from kerastrain.errors import MetricError
from kerastrain.errors import ModelError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.fit_options import FitOptions
from kerastrain.loop import callbacks as callbacks_lib
from kerastrain.options import Execution
from kerastrain.options import Guard
from kerastrain.options import StepOptions
from kerastrain.step import updates
from kerastrain.validation import did_you_mean

# Short names, which are no attributes of Keras's modules.
_SHORT = ("mse", "mae", "mape", "msle", "accuracy", "crossentropy")
# Names that Keras resolves by the shapes of the output.
_BY_SHAPE = ("accuracy", "acc", "crossentropy", "ce")


# Arguments --------------------------------------------------------------------


def as_optimizer(optimizer: Any) -> Any:
    """The optimizer of a name, a configuration or an object.

    Raises:
        ArgumentError: there is none.
    """
    try:
        return keras.optimizers.get(optimizer)
    except (ValueError, TypeError):
        raise ArgumentError(
            f"Unknown optimizer. Received: optimizer={optimizer!r}."
            f"{did_you_mean(optimizer, map(str.lower, dir(keras.optimizers)))} Use a name such as "
            '"adam", or a keras.optimizers.Optimizer.'
        ) from None


def check_identifiers(arguments: dict[str, Any]) -> None:
    """Resolves the names of losses and metrics, so that unknown ones are found.

    Args:
        arguments: those of ``keras.Model.compile`` by name.

    Raises:
        ArgumentError: an unknown loss.
        MetricError: an unknown metric, or a class in place of an instance.
    """
    for loss in keras.tree.flatten(arguments.get("loss")):
        if loss is None or str(loss).lower() in _BY_SHAPE[2:]:
            continue
        _resolve("loss", loss, keras.losses.get, ArgumentError, 'loss="mse"')
    for argument in ("metrics", "weighted_metrics"):
        metrics = arguments.get(argument)
        if metrics is not None and not isinstance(metrics, list | tuple | dict):
            raise MetricError(
                f"`{argument}` must be a list, tuple or dict. Received: "
                f"{argument}={metrics!r}. Use {argument}=[{metrics!r}]."
            )
        for metric in keras.tree.flatten(metrics):
            if metric is None or str(metric).lower() in _BY_SHAPE:
                continue
            _resolve(argument, metric, keras.metrics.get, MetricError, '["mae"]')


def _resolve(
    argument: str,
    identifier: Any,
    get: Callable[[Any], Any],
    error_class: type[Exception],
    example: str,
) -> None:
    try:
        found = get(identifier)
    except (ValueError, TypeError):
        raise error_class(
            f"Unknown {argument}. Received: {identifier!r}."
            f"{did_you_mean(identifier, [*_SHORT, *dir(keras.losses), *dir(keras.metrics)])} "
            f"Use a name that Keras knows, such as {example}, an object, or a function of (y_true, y_pred)."
        ) from None
    if isinstance(identifier, type) or not callable(found):
        raise error_class(
            f"`{argument}` holds {identifier!r}, which is neither a name, nor an "
            f"instance, nor a function. Example: {example}."
        )


def check_counts(**counts: Any) -> None:
    """Refuses numbers of batches or rows that are below 1 or not whole; None is none.

    Raises:
        ArgumentError: as said.
    """
    for argument, value in counts.items():
        if value is not None:
            validation.whole_number(argument, value, 1, "None")


def check_callbacks(callbacks: Any) -> None:
    """Refuses what is no callback, and one that says of itself what means nothing.

    Raises:
        UnsupportedTypeError: a class, a function, or another object.
        ArgumentError: another ``uses_batches``.
    """
    callbacks_lib.check_uses_of_batches(callbacks)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        return
    for callback in keras.tree.flatten(callbacks):
        if callback is not None and not isinstance(callback, keras.callbacks.Callback):
            hint = "Pass an instance" if isinstance(callback, type) else "Pass callbacks"
            raise UnsupportedTypeError(
                f"`callbacks` holds {callback!r} of type {type(callback).__name__}, which is "
                f"no keras.callbacks.Callback. {hint}, such as "
                "keras.callbacks.TerminateOnNaN()."
            )


def as_fit_options(options: Any) -> FitOptions:
    """Options as they were passed; the defaults for None.

    Raises:
        UnsupportedTypeError: something else.
    """
    if options is not None and not isinstance(options, FitOptions):
        raise UnsupportedTypeError(
            "`options` must be FitOptions(...), such as kerastrain.FitOptions(limit_train_batches=10), or "
            f"None. Received: options={options!r} of type {type(options).__name__}."
        )
    return options or FitOptions()


def check_validation_options(options: FitOptions, validation_data: Any) -> None:
    """Refuses options of a validation where there is none.

    Raises:
        ArgumentError: names the option.
    """
    given = {"validation_every": options.validation_every != "epoch"}
    given["limit_validation_batches"] = options.limit_validation_batches is not None
    for name in (name for name, is_given in given.items() if is_given and validation_data is None):
        raise ArgumentError(
            f"`{name}` needs `validation_data`, or `validation_split`. Received: "
            f"{name}={getattr(options, name)!r}, validation_data=None."
        )


def as_seed(seed: Any) -> int | None:
    """A seed as an ``int``; None stays None.

    Raises:
        ArgumentError: it is no whole number from 0 on.
    """
    return None if seed is None else validation.whole_number("seed", seed, 0, "None")


def check_jit_compile(execution: Execution, strategy: tf.distribute.Strategy | None) -> None:
    """Refuses what XLA cannot compile: a step with the sum over several replicas.

    Raises:
        ArgumentError: as said.
    """
    replicas = 1 if strategy is None else strategy.num_replicas_in_sync
    if replicas > 1 and execution.jit_compile:
        raise ArgumentError(
            f"jit_compile=True cannot be used with {replicas} replicas: XLA cannot compile the sum "
            'over them. Use execution="xla_loop", which compiles the part of each.'
        )


def as_guard(guard: Any) -> Guard | None:
    """What a user passed as ``guard``, as a `Guard`; None stays None.

    Raises:
        ArgumentError: no policy has this name.
        UnsupportedTypeError: it is something else.
    """
    if isinstance(guard, str):
        name: Any = guard  # any text: `Guard` checks it
        return Guard(name)
    if guard is not None and not isinstance(guard, Guard):
        raise UnsupportedTypeError(
            f"`guard` must be a kerastrain.Guard, or the name of its policy. Received: {guard!r} "
            f"of type {type(guard).__name__}."
        )
    return guard


def check_own_step(
    model: keras.Model, options: dict[str, Any], strategy: tf.distribute.Strategy | None
) -> None:
    """Says what a whole ``train_step`` of the user's own takes upon itself.

    Args:
        model: whose step.
        options: of the step, as far as they were given.
        strategy: that it trains under, or None.

    Raises:
        ArgumentError: options are given, which it does not read.
    """
    if not _keras.overrides(model, "train_step"):
        return
    if options and not hasattr(model, "transform_gradients"):
        name, value = next(iter(options.items()))
        raise ArgumentError(
            f"{type(model).__name__} has a `train_step` of its own, which does not know "
            f"{name}={value!r}. Remove the option, or derive the model from TrainableModel "
            "and override its hooks instead of the step."
        )
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        notices.warn(
            f"{type(model).__name__} has a `train_step` of its own: it runs as it is on "
            "each replica, and that its loss is scaled for "
            f"{strategy.num_replicas_in_sync} replicas is up to it. Override the hooks of "
            "TrainableModel to leave that to kerastrain."
        )


def check_own_function(model: keras.Model, kind: str) -> None:
    """Refuses a model that makes what runs its steps itself, where `Trainer` would not ask it.

    Args:
        model: the model.
        kind: ``"train"`` or ``"test"``.

    Raises:
        ModelError: as said.
    """
    if _keras.overrides(model, f"make_{kind}_function"):
        raise ModelError(
            f"{type(model).__name__} has a `make_{kind}_function` of its own, which Trainer does not "
            f"call: it compiles the step itself. Override `{kind}_step`, or call model.fit."
        )


def check_whole_batches(model: keras.Model, parts: int, replicas: int) -> None:
    """Refuses to cut a batch whose rows continue in the next one.

    Args:
        model: the model.
        parts, replicas: into how many each batch is cut.

    Raises:
        ModelError: a layer keeps a state for each row.
    """
    layers = [layer.name for layer in _keras.stateful_layers(model)]
    if layers and parts * replicas > 1:
        cut = f"micro_batches={parts}" if parts > 1 else f"{replicas} replicas"
        raise ModelError(
            f"The layers {layers} of {type(model).__name__} are stateful: they continue each row of a "
            f"batch in the next batch, and cannot with {cut}, which see parts of it. Use "
            "stateful=False, or one replica and micro_batches=1."
        )


def check_rows(
    model: keras.Model, rows: Sequence[int | None], name: str, wanted: int | None
) -> None:
    """Refuses a batch of other rows than a stateful layer has states for.

    Args:
        model: the model.
        rows: of the batches; None where not known.
        name: what messages call the data.
        wanted: the rows of the first batch; None where this is it.

    Raises:
        DataError: as said.
    """
    layers = [layer.name for layer in _keras.stateful_layers(model)]
    wanted = _keras.fixed_rows(model) or wanted
    odd = [count for count in rows if count not in (None, wanted)]
    if layers and wanted and odd:
        raise DataError(
            f"A batch of `{name}` has {odd[0]} rows, and the stateful layers {layers} of "
            f"{type(model).__name__} have states for {wanted}. Pass batch_size={wanted} and a multiple of "
            f"that as rows, x[:n * {wanted}]; with tf.data, call `.batch({wanted}, drop_remainder=True)`."
        )


def check_epochs(epochs: Any, initial_epoch: Any, validation_freq: Any) -> None:
    """Refuses what is no number of epochs.

    Raises:
        ArgumentError: as said.
    """
    validation.whole_number("epochs", epochs, 1)
    validation.whole_number("initial_epoch", initial_epoch, 0)
    listed = isinstance(validation_freq, list | tuple | set) and bool(validation_freq)
    for epoch in validation_freq if listed else [validation_freq]:
        validation.whole_number(
            "validation_freq", epoch, 1, "a list of epochs counted from 1", validation_freq
        )


def is_without_loss(model: keras.Model, loss: Any) -> bool:
    """Whether it is certain that there is nothing to minimise.

    A model that is not built yet, or that has hooks of its own, may add losses.
    """
    if loss is not None and any(item is not None for item in keras.tree.flatten(loss)):
        return False
    own = any(_keras.overrides(model, name) for name in ("train_step", "compute_loss"))
    if not model.built or own or _keras.has_updates(model):
        return False
    return not any(
        layer.activity_regularizer is not None or _keras.defines_losses(layer)
        for layer in _keras.all_layers(model)
    ) and not _keras.regularization_losses(model)


def check_optimizers_know(model: keras.Model) -> None:
    """Refuses weights that the optimizer that trains them was built without.

    Raises:
        ModelError: as said.
    """
    for optimizer, weights in updates.weights_by_optimizer(model):
        unknown = _keras.unknown_to_optimizer(optimizer, weights)
        if not unknown:
            continue
        raise ModelError(
            f"The weights {unknown} of {type(model).__name__} have no state in {type(optimizer).__name__}: "
            "they became trainable after it was built, or it has trained another model. Compile the model "
            "again with a new optimizer; one that was passed to Trainer stays, so make a new Trainer with "
            "another."
        )


def check_steps_of_workers(model: keras.Model) -> None:
    """Refuses several steps of Keras's in one call, which several workers cannot run.

    TensorFlow 2.21 ends with an error about a placeholder there.

    Raises:
        ArgumentError: as said.
    """
    steps = getattr(model, "steps_per_execution", 1)
    if steps != 1 and cluster_of(model.distribute_strategy).has_others:
        raise ArgumentError(
            "`steps_per_execution` of `compile` must be 1 under several workers, where Keras's own `fit` "
            f"cannot run several steps in one call. Received: steps_per_execution={steps!r}. A Trainer "
            "runs many."
        )


def check_workers(cluster: Cluster, options: StepOptions) -> None:
    """Refuses what one of several workers would decide by itself.

    Raises:
        ArgumentError: memory that is too small for one of them.
    """
    if cluster.has_others and options.micro_batches == "auto":
        raise ArgumentError(
            'micro_batches="auto" cuts a batch where memory is too small, which one of several workers '
            f"cannot do alone; there are {cluster.count}. Pass a number, such as micro_batches=2."
        )
