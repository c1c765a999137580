"""Several updates in one step, each of its own loss, weights and optimizer.

::

    class Gan(TrainableModel):
        def updates(self):
            return [
                Update("discriminator", self.d_loss, self.discriminator, self.d_optimizer),
                Update("generator", self.g_loss, self.generator, self.optimizer),
            ]

They are run one after the other on each batch: the second sees the weights that the first has left.
Each is exact over replicas and micro-batches, as a step of one loss is.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from kerastrain import _keras
from kerastrain import notices
from kerastrain.errors import ModelError
from kerastrain.quoting import reason_of
from kerastrain.quoting import users_cause

# What is logged of norms, after the name of an update where there are several.
NORMS = ("gradient_norm", "weight_norm")
# Where a model keeps the shapes that its updates were built from.
_BUILT_FROM = "_updates_built_from"


@dataclasses.dataclass(frozen=True)
class Update:
    """One of the updates of a step, for `TrainableModel.updates`.

    Attributes:
        name: the loss is logged as ``"<name>_loss"``, without weight regularisers; ``"loss"`` is the sum of
            all updates' losses, and of the regularisers of each weight once.
        loss: a function of ``(x, y, sample_weight, training)``, of the rows of a batch or of a part of
            one, to the mean of the loss over these rows: a scalar, or values of each row, whose mean is
            taken; not ``sum(w * values) / sum(w)``, which is no mean over rows. What it draws at random
            should have as many rows as ``x``. Weight regularisers are added.
        variables: the weights to train: a layer or model, whose trainable weights they are, or a list of
            layers, models and variables.
        optimizer: that updates them, with these and no others: `self.optimizer`, the compiled one, or an
            optimizer that is an attribute of the model, so that it is saved.

    Example:
        >>> layer = keras.layers.Dense(1)
        >>> update = Update("line", lambda x, y, w, training: (layer(x) - y) ** 2, layer, "sgd")
        Traceback (most recent call last):
        ...
        kerastrain.ModelError: The update 'line' has optimizer='sgd'. Pass a keras.optimizers.Optimizer...
    """

    name: str
    loss: Callable[[Any, Any, Any, bool], Any]
    variables: Any
    optimizer: keras.optimizers.Optimizer

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ModelError(
                f'An update needs a name, such as "generator". Received: name={self.name!r}.'
            )
        if not callable(self.loss):
            raise ModelError(
                f"The loss of the update {self.name!r} must be a function of (x, y, sample_weight, "
                f"training). Received: loss={self.loss!r}."
            )
        if not isinstance(self.optimizer, keras.optimizers.Optimizer):
            raise ModelError(
                f"The update {self.name!r} has optimizer={self.optimizer!r}. Pass a "
                "keras.optimizers.Optimizer that is an attribute of the model, such as self.optimizer."
            )

    def weights(self) -> list[keras.Variable]:
        """The weights that it trains, as they are now: a layer that is not built has none."""
        given = self.variables if isinstance(self.variables, Sequence) else [self.variables]
        found: dict[int, keras.Variable] = {}
        for one in given:
            if isinstance(one, keras.Layer):
                found |= {id(weight): weight for weight in one.trainable_weights}
            elif isinstance(one, keras.Variable):
                found[id(one)] = one
            else:
                raise ModelError(
                    f"`variables` of the update {self.name!r} must be a layer, or a list of layers and "
                    f"variables. Received: {one!r} of type {type(one).__name__}."
                )
        return list(found.values())


def updates_of(model: keras.Model) -> list[Update]:
    """The updates of the model's own hook; empty where it has none, and its step is of one loss.

    Raises:
        ModelError: what the hook returns is no list of updates, two of which have one name or train one
            optimizer.
    """
    if not _keras.has_updates(model):
        return []
    updates = model.updates()
    is_list = isinstance(updates, list | tuple) and len(updates) > 0
    if not is_list or not all(isinstance(update, Update) for update in updates):
        raise ModelError(
            f"`updates` of {type(model).__name__} must return a list of kerastrain.Update. Received: "
            f"{updates!r}."
        )
    for attribute in ("name", "optimizer"):
        values = [getattr(update, attribute) for update in updates]
        for index, value in enumerate(values):
            if any(value is other or value == other for other in values[:index]):
                raise ModelError(
                    f"Two updates of {type(model).__name__} have {attribute}={value!r}. Give each its "
                    "own."
                )
    return list(updates)


def weights_by_optimizer(
    model: keras.Model,
) -> list[tuple[keras.optimizers.Optimizer, list[keras.Variable]]]:
    """``(optimizer, the weights that it trains)`` of each that a step of the model uses."""
    updates = updates_of(model)
    if not updates:
        return [(model.optimizer, model.trainable_variables)]
    return [(update.optimizer, update.weights()) for update in updates]


def make_trackers(model: keras.Model, log_norms: bool) -> None:
    """Makes the metrics that the step itself updates, where they are not there yet.

    Args:
        model: compiled.
        log_norms: whether there are such of norms (`StepOptions`).
    """
    updates = updates_of(model)
    names = [f"{update.name}_loss" for update in updates]
    if log_norms:
        prefixes = [f"{update.name}_" for update in updates] or [""]
        names += [prefix + norm for prefix in prefixes for norm in NORMS]
    for name in names:
        _keras.add_step_tracker(model, name)


def without_norms(model: keras.Model, results: dict[str, Any]) -> dict[str, Any]:
    """Results but for those of norms, which only train steps have."""
    names = {name for name in _keras.step_trackers(model) if name.endswith(NORMS)}
    return {name: value for name, value in results.items() if name not in names}


def build(model: keras.Model, batch: Any) -> bool:
    """Checks the model's updates, and builds the layers that they call, on shapes alone.

    Args:
        model: whose metrics for them have been made.
        batch: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``; only shapes and dtypes matter.

    Returns:
        Whether it has updates.

    Raises:
        ModelError: a loss cannot be computed on such a batch, an update trains nothing, or the model is
            compiled with what its updates do not use.
    """
    updates = updates_of(model)
    if not updates:
        return False
    _check_compiled(model, updates)
    others = updates_of(model)
    if [one.name for one in updates] != [one.name for one in others]:
        raise ModelError(
            f"`updates` of {type(model).__name__} returns {[one.name for one in updates]} in one call and "
            f"{[one.name for one in others]} in the next. All updates are run in each step: return the "
            "same ones whenever it is called."
        )
    for one, again in zip(updates, others, strict=True):
        if one.optimizer is not again.optimizer:
            raise ModelError(
                f"`updates` of {type(model).__name__} makes the optimizer of {one.name!r} anew whenever it "
                "is called, which would begin with each step. Make it in the constructor, as an attribute."
            )

    added: list[Any] = []

    def run(x: Any, y: Any, sample_weight: Any) -> list[Any]:
        with keras.StatelessScope(collect_losses=True) as scope:
            losses = [_checked_loss(model, update, (x, y, sample_weight)) for update in updates]
        added.extend(scope.losses)
        return losses

    parts = keras.utils.unpack_x_y_sample_weight(batch)
    _keras.output_spec(run, *_keras.as_symbolic(parts))
    if added:
        raise ModelError(
            f"A layer of {type(model).__name__} adds a loss (`add_loss`, or an activity regulariser), and "
            "it is not known to which of its `updates` it belongs. Add it in the loss of one of them."
        )
    for update in updates:
        if not update.weights():
            raise ModelError(
                f"The update {update.name!r} of {type(model).__name__} trains no weight: none of its "
                "`variables` is trainable, or its loss does not call the layer that has them."
            )
    model.built = True  # all that its steps call is
    model.__dict__[_BUILT_FROM] = _keras.as_symbolic(parts)
    return True


def build_config(model: keras.Model) -> dict[str, Any]:
    """What `build_from_config` builds the same layers from, of JSON's types; empty where there is nothing."""
    parts = model.__dict__.get(_BUILT_FROM)
    if parts is None:
        return {}
    shapes = keras.tree.map_structure(
        lambda t: None if t is None else {"shape": list(t.shape), "dtype": t.dtype}, parts
    )
    return {"updates": list(shapes)}


def build_from_config(model: keras.Model, config: dict[str, Any]) -> None:
    """Builds the layers of the updates of a model that is not compiled yet, and their optimizers."""
    parts = tuple(_as_symbols(part) for part in config["updates"])
    is_compiled = hasattr(model, "optimizer")
    if not is_compiled:  # the updates ask for it; a file's own one is loaded later
        model.__dict__["optimizer"] = keras.optimizers.SGD()
    try:
        updates = updates_of(model)
        _keras.output_spec(lambda x, y, w: [u.loss(x, y, w, False) for u in updates], *parts)
        for update in updates:
            if update.optimizer is not model.optimizer and not update.optimizer.built:
                update.optimizer.build(update.weights())
    finally:
        if not is_compiled:
            del model.__dict__["optimizer"]
    model.built = True
    model.__dict__[_BUILT_FROM] = parts


def _as_symbols(shapes: Any) -> Any:
    if shapes is None:
        return None
    if isinstance(shapes, dict) and shapes.keys() == {"shape", "dtype"}:
        return keras.KerasTensor(shapes["shape"], shapes["dtype"])
    if isinstance(shapes, dict):
        return {name: _as_symbols(one) for name, one in shapes.items()}
    return [_as_symbols(one) for one in shapes]


def _check_compiled(model: keras.Model, updates: list[Update]) -> None:
    given = _keras.compile_arguments(model)
    ignored = ["loss"] if given["loss"] is not None else []
    if not _keras.overrides(model, "compute_metrics"):
        ignored += [name for name in ("metrics", "weighted_metrics") if given[name]]
    if ignored:
        raise ModelError(
            f"{type(model).__name__} has `updates`, whose losses take the place of a compiled one and "
            f"which have no outputs: {', '.join(f'`{name}`' for name in ignored)} of `compile` would not "
            "be used. Leave it out, or update metrics in `compute_metrics` of the model's own."
        )
    if all(update.optimizer is not model.optimizer for update in updates):
        notices.warn(
            f"No update of {type(model).__name__} has the optimizer that it is compiled with, "
            f"{type(model.optimizer).__name__}, which trains nothing: what callbacks do to its learning "
            "rate has no effect. Pass optimizer=self.optimizer to one of them."
        )


def _checked_loss(model: keras.Model, update: Update, parts: tuple[Any, Any, Any]) -> Any:
    try:
        value = update.loss(*parts, False)
    except Exception as error:
        shapes = keras.tree.map_structure(lambda t: t.shape, parts[0])
        raise ModelError(
            f"The loss of the update {update.name!r} of {type(model).__name__} cannot be computed on x of "
            f"shape {shapes}: {type(error).__name__}: {reason_of(error)}"
        ) from users_cause(error)
    if not hasattr(value, "shape"):
        raise ModelError(
            f"The loss of the update {update.name!r} of {type(model).__name__} must be a tensor, the mean "
            f"over the rows or values of each. It returned {value!r}."
        )
    return value
