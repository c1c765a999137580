"""What in a model may explain that it trains differently when its batches are cut.

::

    for cause in causes(model, failed, weighted=False, tolerance=1e-6):
        print("-", cause)

Looks at the layers, the overridden hooks, the losses, and at which variables
differ; names only what the model has.
"""

import inspect
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras

from kerastrain import _keras
from kerastrain.testing.differences import CutResult

# First differences up to this many times the tolerance may be rounding.
_NEAR = 100


def causes(
    model: keras.Model, failed: list[CutResult], weighted: bool, tolerance: float
) -> list[str]:
    """Sentences that name what to look at, none without a failed cut.

    Args:
        model: one that has trained.
        failed: the results that differ.
        weighted: whether there were sample or class weights.
        tolerance: the largest difference that counts as equal.
    """
    if not failed:
        return []
    found = [*_in_layers(model, failed), *_in_hooks(model, weighted)]
    found += [*_in_values(model, failed), *_rounding(failed, tolerance)]
    return found or [
        "Nothing that usually explains it was found in the model. What remains: random "
        "numbers drawn in `call`, and layers or losses that compare rows with one another."
    ]


def has_own_step(model: keras.Model) -> bool:
    """Whether the model's ``train_step`` is neither Keras's nor kerastrain's."""
    return _keras.overrides(model, "train_step")


def _in_layers(model: keras.Model, failed: list[CutResult]) -> Iterator[str]:
    layers = _keras.all_layers(model)
    norms = [layer for layer in _batch_norms(model) if layer.trainable]
    apart = [layer.name for layer in norms if not layer.synchronized]
    if apart and any(r.replicas > 1 for r in failed):
        yield (
            f"BatchNormalization {_quoted(apart)}: each replica takes the statistics of its own "
            "rows. Pass synchronized=True."
        )
    if norms and any(r.micro_batches > 1 for r in failed):
        yield (
            f"BatchNormalization {_quoted(layer.name for layer in norms)}: it sees one "
            "micro-batch at a time, synchronized or not. Use one micro-batch, or a layer "
            "without batch statistics (LayerNormalization, GroupNormalization)."
        )
    random = [f"{type(layer).__name__} {layer.name!r}" for layer in layers if _is_random(layer)]
    if random:
        yield (
            f"{', '.join(random)}: random numbers are drawn part by part, so each cut draws "
            "others. Switch it off for this check (rate 0)."
        )
    adding = _layers_that_add_losses(model)
    if adding:
        yield (
            f"`add_loss` in {_quoted(adding)}: it is taken for a mean over the rows. Divide a sum "
            "over the rows by their number."
        )


def _batch_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    layers = _keras.all_layers(model)
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def _is_random(layer: keras.Layer) -> bool:
    if not any(isinstance(v, keras.random.SeedGenerator) for v in vars(layer).values()):
        return False
    rates = [vars(layer)[n] for n in ("rate", "dropout", "recurrent_dropout") if n in vars(layer)]
    return not rates or any(rates)  # a recurrent layer without dropout has a generator too


def _layers_that_add_losses(model: keras.Model) -> list[str]:
    """The layers, and else the model, whose code called ``add_loss`` in the last step."""
    if not _keras.added_losses(model):
        return []
    found = [x for x in _keras.all_layers(model) if _keras.defines_losses(x) and x.losses]
    inner = [layer for layer in found if layer is not model]
    return [layer.name for layer in inner or found]


def _in_hooks(model: keras.Model, weighted: bool) -> Iterator[str]:
    name = type(model).__name__
    if has_own_step(model):
        yield (
            f"`train_step` of {name}: it runs as it is on each replica's rows, and the gradients "
            "are summed. Divide its loss by the rows of the global batch, or override a hook of "
            "TrainableModel in place of the step."
        )
    elif _keras.overrides(model, "compute_loss"):
        yield (
            f"`compute_loss` of {name}: its value is taken for a mean over the rows. A sum, or a "
            "mean over anything else, is not exact."
        )
    losses = keras.tree.flatten(_keras.compile_arguments(model)["loss"])
    own = [loss for loss in losses if callable(loss) and not _is_of_keras(loss)]
    if own and weighted:
        names = [x.__name__ if inspect.isroutine(x) else type(x).__name__ for x in own]
        yield (
            f"The loss {_quoted(names)}, with sample or class weights: one that returns one "
            "number cannot be weighed row by row. Return one value per row."
        )


def _is_of_keras(thing: Any) -> bool:
    module = thing.__module__ if inspect.isroutine(thing) else type(thing).__module__
    function = getattr(thing, "fn", None)
    return module.startswith("keras.") and (function is None or _is_of_keras(function))


def _in_values(model: keras.Model, failed: list[CutResult]) -> Iterator[str]:
    """What the first differing step of each cut says by itself."""
    states = {v.path for v in (*model.weights, *model.optimizer.variables)}
    of_norms = {w.path for layer in _batch_norms(model) for w in layer.weights}
    by_layers = {w.path for w in model.non_trainable_weights} - of_norms
    metrics, assigned = [], []
    for first in (r.first for r in failed if r.first is not None):
        if not states.intersection(first.variables):
            metrics += [name for name in first.variables if name != "loss"]
        assigned += [name for name in first.variables if name in by_layers]
    if metrics:
        yield (
            f"Logged {_quoted(metrics)}, where the weights do not differ. A metric that is a mean "
            "of batch means depends on the cut: sum values and count rows. One whose state cannot "
            "be summed over replicas, such as a maximum, needs its `merge_rules`."
        )
    if assigned:
        yield (
            f"The weights {_quoted(assigned)}, which no optimizer trains: a layer assigns them in "
            "its call, once for each replica and micro-batch."
        )


def _rounding(failed: list[CutResult], tolerance: float) -> Iterator[str]:
    firsts = [r.first for r in failed if r.first is not None]
    if max(first.difference for first in firsts) <= _NEAR * tolerance:
        yield (
            f"Rounding, as no first difference is above {_NEAR * tolerance:g}: an optimizer that "
            "divides by the size of the gradient (Adam) enlarges it where a gradient is all but "
            "zero, as of a bias before a normalisation or of attention's keys. Check with SGD, or "
            "raise `tolerance`."
        )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in dict.fromkeys(names))
