"""Whether losses are given what they take: probabilities, or logits.

::

    with dry_steps.nothing_kept():
        found = misread(model, batch)     # losses whose `from_logits` is not what the outputs are

A crossentropy that takes probabilities clips what is below 0 or above 1, and has no
gradient there; one that takes logits hardly distinguishes the probabilities 0 and 1. Both
train, badly, without a word. Outputs are judged by their values on a few rows, with the
weights as they are and with some that are drawn around them: what ends in a softmax or a
sigmoid, in whatever layer or function, stays within [0, 1] with all of them.
"""

import inspect
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.preparation import dry_steps
from kerastrain.preparation import graphs
from kerastrain.preparation import user_code

# What makes logits, and probabilities.
_OF_LOGITS = (keras.activations.linear,)
_OF_PROBABILITIES = (keras.activations.softmax, keras.activations.sigmoid)
# Rows that the outputs are looked at on.
_ROWS = 8
# How far weights are moved, in terms of what keeps the size of a layer's outputs.
_MOVES = (0.0, 1.0, -1.0, 2.0)
# A model of more weights than this is judged as it is.
_MOST_WEIGHTS = 20_000_000
# What rounding makes of 0, 1 and a sum of 1, in half precision too.
_SLACK = 0.02
# With fewer numbers outputs may lie in [0, 1] by chance.
_FEWEST = 24


class Read(NamedTuple):
    """What one crossentropy takes its outputs for.

    Attributes:
        what: the loss, or the line of the user's code that computes it.
        from_logits: whether for logits.
        normalises: whether it divides them by their sum, so that some may be above 1.
    """

    what: str
    from_logits: bool
    normalises: bool


class Misread(NamedTuple):
    """A crossentropy and outputs that do not go together.

    Attributes:
        what, from_logits: as in `Read`.
        lowest, highest: of the outputs on the first rows.
    """

    what: str
    from_logits: bool
    lowest: float
    highest: float


def takes_logits(loss: Any) -> bool | None:
    """The value of a loss's ``from_logits``; None of one that has no such argument."""
    function = getattr(loss, "fn", None)
    if function is None:
        value = getattr(loss, "from_logits", None)
        return value if isinstance(value, bool) else None
    given = _keras.loss_function_arguments(loss)
    if "from_logits" in given:
        return bool(given["from_logits"])
    parameter = inspect.signature(function).parameters.get("from_logits")
    return None if parameter is None else bool(parameter.default)


def may_be_misread(model: keras.Model) -> bool:
    """Whether the model's step computes a loss that has ``from_logits``, or is the user's own.

    Not where one look tells that it goes together with the activation that makes the outputs.
    """
    if _keras.overrides(model, "train_step"):
        return False
    losses = _keras.compiled_losses(model)
    if losses is not None and len(losses) == 1 and not _keras.overrides(model, "compute_loss"):
        from_logits, activation = takes_logits(losses[0]), _keras.output_activation(model)
        if from_logits is not None and activation is not None:
            goes_together = _OF_LOGITS if from_logits else _OF_PROBABILITIES
            return activation not in goes_together
    return (
        losses is None
        or _keras.overrides(model, "compute_loss")
        or any(_is_own(loss) or takes_logits(loss) is not None for loss in losses)
    )


def _is_own(loss: Any) -> bool:
    return user_code.is_users(getattr(loss, "fn", None) or type(loss))


def misread(model: keras.Model, batch: Any) -> list[Misread]:
    """The losses whose ``from_logits`` is not what the outputs are, in inference mode.

    Nothing of the model changes; of a model that cannot be run so nothing is known.

    Args:
        model: built and compiled.
        batch: ``(x, y)`` or ``(x, y, sample_weight)`` of tensors.
    """
    rows = list(range(min(dry_steps.rows_of(batch), _ROWS)))
    few = dry_steps.picked(batch, rows)
    size = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    moves = _MOVES if size <= _MOST_WEIGHTS else _MOVES[:1]
    reads: list[Read] = []

    def run(move: tf.Tensor) -> list[tf.Tensor]:
        reads.clear()
        with _moved(model, move):
            found = _crossentropies(model, *keras.utils.unpack_x_y_sample_weight(few))
        reads.extend(read for read, _ in found)
        return [_looked_at(outputs) for _, outputs in found]

    try:
        with dry_steps.nothing_built(model):
            traced = tf.compat.v1.wrap_function(run, [tf.TensorSpec((), tf.float32)])
            if not reads:
                return []
            function = graphs.without_effects(traced, 1)
            seen = [np.array([t.numpy() for t in function(tf.constant(m))]) for m in moves]
    except Exception:  # of any kind: the code is the user's
        return []
    return [
        found
        for index, read in enumerate(reads)
        for found in _judged(read, np.array([of_move[index] for of_move in seen]))
    ]


def _crossentropies(
    model: keras.Model, x: Any, y: Any, sample_weight: Any
) -> list[tuple[Read, tf.Tensor]]:
    """All crossentropies of a loss, and the outputs that they are given."""
    found: list[tuple[Read, tf.Tensor]] = []

    def note(name: str, outputs: tf.Tensor, from_logits: bool) -> None:
        line = user_code.running()
        if line is not None and outputs.graph is graph:
            normalises = name == "categorical_crossentropy"
            found.append((Read(f"{name!r} at {line[1]}", from_logits, normalises), outputs))

    graph = tf.compat.v1.get_default_graph()
    y_pred = _keras.forward(model, x, training=False)
    if _keras.overrides(model, "compute_loss"):
        with _keras.noted_crossentropies(note):
            _keras.compute_loss(model, x, y, y_pred, sample_weight, training=False)
        return found
    for entry in _keras.output_losses(model, y, y_pred, sample_weight):
        from_logits = takes_logits(entry.loss)
        if from_logits is not None:
            read = Read(f"The loss {entry.loss.name!r}", from_logits, _normalises(entry.loss))
            found.append((read, entry.y_pred))
        elif _is_own(entry.loss):
            with _keras.noted_crossentropies(note):
                _keras.unreduced_loss(entry.loss, entry.y_true, entry.y_pred)
    return found


def _moved(model: keras.Model, move: tf.Tensor) -> keras.StatelessScope:
    """A scope in which trainable weights are moved by random amounts, times ``move``."""
    scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
    for number, weight in enumerate(model.trainable_variables):
        shape = [int(length) for length in weight.shape]
        inputs = np.prod(shape[:-1]) if len(shape) > 1 else 4
        noise = tf.random.stateless_normal(shape, (number, 0)) / max(inputs, 1) ** 0.5
        value = tf.convert_to_tensor(weight.value)
        value += tf.cast(move * noise, value.dtype)
        if weight.constraint is not None:
            value = weight.constraint(value)
        scope.add_update((weight, value))
    return scope


def _looked_at(outputs: tf.Tensor) -> tf.Tensor:
    """``[lowest, highest, whether some differ from 0 and 1, how many, farthest sum from 1]``."""
    outputs = tf.cast(outputs, tf.float32)
    inner = tf.reduce_any((outputs > _SLACK) & (outputs < 1 - _SLACK))
    sums = tf.reduce_sum(outputs, axis=-1) if outputs.shape.rank else outputs
    return tf.stack(
        [
            tf.reduce_min(outputs),
            tf.reduce_max(outputs),
            tf.cast(inner, tf.float32),
            tf.cast(tf.size(outputs), tf.float32),
            tf.reduce_max(tf.abs(sums - 1)),
        ]
    )


def _judged(read: Read, seen: np.ndarray) -> Iterator[Misread]:
    lowest, highest, inner, sizes, sums = seen.T
    usable = np.isfinite(seen).all(axis=1)
    if not usable[0]:
        return
    lowest, highest = lowest[usable], highest[usable]
    below, above = lowest < -_SLACK, highest > 1 + _SLACK
    if read.from_logits:
        # Probabilities of classes show themselves by their sum, of single labels by their range.
        certain = (sums[usable] < _SLACK).all() or sizes[usable].sum() >= _FEWEST
        is_moved = len(lowest) > 1
        if certain and is_moved and inner[usable].any() and not (below | above).any():
            yield Misread(*read[:2], lowest[0], highest[0])
        return
    outside = below if read.normalises else below | above
    if outside.any():
        first = int(np.argmax(outside))
        yield Misread(*read[:2], lowest[first], highest[first])


def _normalises(loss: Any) -> bool:
    functions = (keras.losses.categorical_crossentropy, keras.losses.categorical_focal_crossentropy)
    return getattr(loss, "fn", None) in functions
