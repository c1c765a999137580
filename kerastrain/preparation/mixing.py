"""Whether the rows of a batch depend on each other, found on a few rows.

::

    with dry_steps.nothing_kept():
        found = mixtures(model, batch, with_loss=True, in_turn=True)

A batch can be cut only where each row is computed by itself. Let ``[A; B]`` be a batch
of two halves. Then

- the outputs of ``A`` must be the same in ``[A; B]`` and in ``[A; D]``, and in ``A`` alone;
- the loss of ``[A; B]`` must be that of its parts, added up as the step adds them
  (`kerastrain.step.loss`), for the same outputs: those of the model, and random ones that are far
  enough apart, as all rows may have nearly the same loss before the training;
- what a layer adds by ``add_loss`` must be a mean over the rows, so that
  ``f([A; B]) + f([C; D]) = f([A; D]) + f([C; B])``. This holds whatever random numbers
  the rows draw by their place in the batch; without such numbers
  ``2 f([A; B]) = f(A) + f(B)`` is asked too;
- what a training call assigns must not depend on the rows, for replicas, nor on how
  often it is assigned, for micro-batches.

`BatchNormalization` of Keras runs in inference mode here: `kerastrain.preparation.lint` reports it in
words of its own.
"""

import functools
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.preparation import dry_steps
from kerastrain.preparation import graphs
from kerastrain.preparation.trial_calls import array_of
from kerastrain.preparation.trial_calls import Assigned
from kerastrain.preparation.trial_calls import Numbers
from kerastrain.preparation.trial_calls import same
from kerastrain.preparation.trial_calls import TracedCall

# Rows of a dry run; half of them are exchanged.
_ROWS = 6
# The relative difference of two results that counts, in float32 and in half precision.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 5e-2
# The same for assigned values, which a small rate may hardly move.
_ASSIGNED_TOLERANCE = 1e-6


class Mixtures(NamedTuple):
    """What depends on how a batch is cut.

    Attributes:
        layers: the layers whose outputs of one row depend on others; the innermost ones.
        losses: the compiled losses, or ``"compute_loss"``.
        added: the lines of ``add_loss``, as in `Assigned`; None for one of Keras's own.
        assigned: the variables.
    """

    layers: list[Any]
    losses: list[Any]
    added: list[tuple[str, str] | None]
    assigned: list[Assigned]


def mixtures(
    model: keras.Model, batch: Any, *, with_loss: bool, in_turn: bool, training: bool = True
) -> Mixtures | None:
    """Finds what depends on how a batch is cut; None if the model cannot be run on a few rows.

    Args:
        model: built and compiled.
        batch: two rows or more of tensors.
        with_loss: whether losses are judged.
        in_turn: whether the parts of a batch run one after the other (micro-batches),
            not at the same time from the same state (replicas).
        training: whether the model is called in training mode.
    """
    count = dry_steps.rows_of(batch)
    half = min(count, _ROWS) // 2
    if not half:
        return None
    rows = _varied_rows(batch, count, 2 * half)
    a, b = rows[:half], rows[half:]
    c, d = (a[1:] + b[:1]), (b[1:] + a[:1])
    try:
        with dry_steps.nothing_built(model), dry_steps.statistics_known(model):
            whole = _traced_whole(model, batch, a + b, with_loss, training)
            numbers = whole(a + b)
            same_shape = [whole(a + d), whole(c + b), whole(c + d)]
            parts = None
            if not whole.random:
                alone = TracedCall(model, batch, a, with_loss, training=training)
                parts = alone(a), alone(b)
            tolerance = _tolerance(model)
            mixes = _mixes(numbers, same_shape[0], parts, half, tolerance)
            return Mixtures(
                _mixing_layers(
                    *(model, batch, [a + b, a + d, *([a] if parts else [])], tolerance, training)
                )
                if mixes
                else [],
                whole.losses_cut(numbers, tolerance),
                whole.added_cut(numbers, same_shape, parts, tolerance),
                _assigned_by_parts(whole, numbers, same_shape, parts, (a, b) if in_turn else None),
            )
    except Exception:  # of any kind: the code is the user's
        return None


def _traced_whole(
    model: keras.Model, batch: Any, rows: list[int], with_loss: bool, training: bool
) -> TracedCall:
    """The call on all rows, with a trial of the losses on other outputs, if they take any."""
    try:
        return TracedCall(model, batch, rows, with_loss, True, training)
    except Exception:  # of any kind: it may be of those outputs
        return TracedCall(model, batch, rows, with_loss, training=training)


def _varied_rows(batch: Any, count: int, number: int) -> list[int]:
    """This number of rows from all over the batch, of different labels where there are such."""
    order = np.arange(count)
    try:
        _, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        labels = tf.nest.flatten(y)[0]
        order = np.argsort(np.reshape(labels, (count, -1)).sum(axis=1), kind="stable")
    except Exception:  # there are none, or no numbers
        pass
    return order[np.linspace(0, count - 1, number).astype(int)].tolist()


def _tolerance(model: keras.Model) -> float:
    dtypes = {layer.compute_dtype for layer in _keras.all_layers(model)}
    return _HALF_TOLERANCE if dtypes & {"float16", "bfloat16"} else _TOLERANCE


def _mixes(
    numbers: Numbers,
    others: Numbers,
    parts: tuple[Numbers, Numbers] | None,
    half: int,
    tolerance: float,
) -> bool:
    """Whether the outputs of the first half depend on the second, or on its being there."""
    rows = 2 * half
    by_rows = [i for i, leaf in enumerate(numbers.outputs) if np.shape(leaf)[:1] == (rows,)]
    here, there = ([n.outputs[i][:half] for i in by_rows] for n in (numbers, others))
    if not same(here, there, _TOLERANCE):
        return True
    if parts is None:
        return False
    alone = [np.concatenate([part.outputs[i] for part in parts]) for i in by_rows]
    return not same([numbers.outputs[i] for i in by_rows], alone, tolerance)


# Layers -----------------------------------------------------------------------


def _mixing_layers(
    model: keras.Model, batch: Any, sets: list[list[int]], tolerance: float, training: bool
) -> list[Any]:
    """The layers that mix rows which they are given unmixed, without those around them.

    Args:
        model, batch: as for `mixtures`.
        sets: rows of the batch; the first half of the first set begins each of them.
        tolerance: of results on fewer rows.
        training: as for `mixtures`.
    """
    layers = _keras.all_operations(model)
    half, heads = len(sets[0]) // 2, []
    for rows in sets:  # in a graph each, where the same random numbers are drawn
        calls: list[Any] = []
        numbers = graphs.computed(
            functools.partial(_calls_of, model, batch, rows, training, layers, calls)
        )
        arrays = tf.nest.map_structure(array_of, list(numbers))
        heads.append(tf.nest.map_structure(lambda a, n=len(rows): _head(a, half, n), arrays))
    found = {}
    for others in heads[1:]:
        for layer, (inputs, outputs), other in zip(calls, heads[0], others, strict=True):
            same_outputs = same(outputs, other[1], tolerance)
            if same(inputs, other[0], tolerance) and not same_outputs:
                found[id(layer)] = layer
    inner = [
        layer
        for layer in found.values()
        if not any(id(below) in found for below in _keras.all_operations(layer)[1:])
    ]
    return inner or [model]


def _calls_of(
    model: keras.Model,
    batch: Any,
    rows: list[int],
    training: bool,
    layers: list[Any],
    calls: list[Any],
) -> list[list[list[tf.Tensor]]]:
    """Inputs and outputs of each call, the innermost first; ``calls`` gets whose they are."""
    graph, found = tf.compat.v1.get_default_graph(), []

    def noted(structure: Any) -> list[tf.Tensor]:
        return [
            tf.identity(leaf)
            for leaf in keras.tree.flatten(structure)
            if isinstance(leaf, tf.Tensor) and leaf.graph is graph
        ]

    def around(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            if tf.compat.v1.get_default_graph() is graph:
                found.append([noted((args, kwargs)), noted(outputs)])
                calls.append(layer)
            return outputs

        return calling

    x, _, _ = keras.utils.unpack_x_y_sample_weight(dry_steps.picked(batch, rows))
    scope = keras.StatelessScope(collect_losses=True, initialize_variables=False)
    with scope, dry_steps.watched(layers, around):
        _keras.forward(model, x, training=training)
    return found


def _head(leaf: np.ndarray, half: int, rows: int) -> np.ndarray:
    """What belongs to the first ``half`` of the rows; nothing of a leaf without rows."""
    length = np.shape(leaf)[0] if np.ndim(leaf) else 1
    return leaf[: length * half // rows] if length % rows == 0 else np.zeros(0)


# Assignments ------------------------------------------------------------------


def _assigned_by_parts(
    whole: TracedCall,
    numbers: Numbers,
    same_shape: list[Numbers],
    parts: tuple[Numbers, Numbers] | None,
    turns: tuple[list[int], list[int]] | None,
) -> list[Assigned]:
    """The assigned variables whose values depend on how the batch is cut."""
    entries = whole.assigned
    if turns and entries:
        others = [whole.after(turns)]
    else:
        others = [n.assigned for n in (*same_shape, *(parts or ()))]
    found = [
        entry
        for index, entry in enumerate(entries)
        if not all(
            same([numbers.assigned[index]], [values[index]], _ASSIGNED_TOLERANCE)
            for values in others
        )
    ]
    return found + whole.plain


def owner_and_name(model: keras.Model, variable: Any) -> tuple[Any, str]:
    """The layer or loss that has a variable as an attribute, and the attribute's name.

    ``(None, "")`` where it is kept elsewhere.
    """
    losses = _keras.compiled_losses(model) or []
    for owner in (*_keras.all_layers(model), *losses):
        for name, value in vars(owner).items():
            if name.startswith("_"):  # the lists in which Keras keeps all of them
                continue
            values = value.values() if isinstance(value, dict) else value
            values = values if isinstance(value, dict | list | tuple) else [value]
            if any(v is variable for v in values):
                return owner, name
    return None, ""
