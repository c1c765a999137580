"""The loss of a batch that is cut into parts, equal to the loss of the whole batch.

A Keras loss of one output is ``L = N / D``. The numerator ``N`` sums the
weighted values over the rows; the denominator ``D`` is, by the reduction:

=========================== ==================================================
``sum_over_batch_size``,    the number of values, or with a mask the number
``mean``                    that the mask lets through
``mean_with_sample_weight`` the sum of the sample weights (times the mask)
``sum``, None               1
=========================== ==================================================

Both sums add over parts of the batch (replicas, micro-batches), so with local
``N_s`` and ``D_s`` of part ``s``::

    L = sum_s N_s / sum_s D_s = sum_s (D_s / D) L_s        D = sum_s D_s

and the gradient of the whole is the sum of those of ``(D_s / D) L_s``: each
part's mean is multiplied by its own denominator, and divided by the global
one. The factor stands before the backward pass, because a layer may depend on
the rows of other replicas (synchronised batch statistics), whose part has
another factor. ``D`` is not known by then where a mask comes out of the forward
pass, so parts are differentiated with ``D_s / E``, where ``E`` is the ``D`` of
no mask and no weights, and the sum is multiplied by ``E / D``. (Were it ``D_s``
alone, the loss scale of mixed precision would act on another magnitude than on
one device.) Weight regularisers depend on no row and are added once.

Rules for what is not a Keras loss:

- a loss function that returns one number, an overridden ``compute_loss``,
  ``add_loss`` and activity regularisers (Keras divides those by the rows) are
  taken as *means over the rows*: ``D_s`` is the number of rows. A sum over the
  rows in ``add_loss`` is thereby not exact when the batch is cut; divide it by
  the rows, or use a compiled loss with ``reduction="sum"``. An activity
  regulariser that Keras has not divided, as 3.13, is a sum: ``D_s`` is 1.
- a loss function that returns one number cannot be weighed row by row: with
  sample weights Keras multiplies it by their mean, and so does each part. That
  is exact only without sample weights; return one value per row instead.
- ``reduction=None`` of a single output trains on the sum of its values, as
  TensorFlow differentiates a vector, and logs their mean.
"""

from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import ModelError

# The group of all terms whose denominator is the number of rows.
ROWS = "rows"
# The group of all terms that are sums: their denominator is 1.
SUM = "sum"
# The group of terms that are means over the rows, logged and not trained on.
LOGGED = "logged"


class Term(NamedTuple):
    """One summand of the loss on one part of the batch.

    Attributes:
        group: terms of one group share their denominator.
        value: the part's ``L_s``, a scalar; a sum for the group `SUM`.
        denominator: the part's ``D_s``, a scalar; the number of rows for
            the group `ROWS`, and 1 for `SUM`.
        per_row: what a row without mask and weights adds to the denominator:
            1 for the group `ROWS`.
        weight: the factor of ``value`` in the total loss.
        reported: ``(numerator, denominator)`` of the logged value, scalars.
        logs_sum: whether the numerator alone is logged.
    """

    group: str
    value: tf.Tensor
    denominator: tf.Tensor
    per_row: Any
    weight: Any
    reported: tuple[tf.Tensor, tf.Tensor]
    logs_sum: bool = False


def check_losses(model: keras.Model, y: Any, y_pred: Any) -> None:
    """Refuses several losses for one output.

    Args:
        model: a compiled model, whose losses are known by now.
        y, y_pred: its targets and outputs.

    Raises:
        ModelError: as said.
    """
    ignored = _keras.ignored_losses(model, y, y_pred)
    if ignored and not _keras.overrides(model, "compute_loss"):
        raise ModelError(
            f"`loss` has {1 + len(ignored)} losses for one output. Keras trains on the first alone, "
            f"ignores {', '.join(repr(loss.name) for loss in ignored)} and logs 0 for all. Pass "
            "one loss, for example a function that adds them."
        )


def local_terms(
    model: keras.Model,
    x: Any,
    y: Any,
    y_pred: Any,
    sample_weight: Any,
    rows: tf.Tensor,
    training: bool,
) -> list[Term]:
    """The terms of the loss on one part of a batch.

    Args:
        model: a compiled model whose forward pass has just run on ``x``.
        x, y, y_pred, sample_weight: the part, with ``rows`` rows.
        rows: scalar integer; how many rows of the part are real. Zero for a
            stand-in row, which then weighs nothing.
        training: passed to an overridden ``compute_loss``.

    Returns:
        The compiled losses in the order of their trackers, then the others.

    Raises:
        ModelError: there is nothing to minimise, ``reduction=None`` stands
            beside other losses, or one output has several.
    """
    if _keras.overrides(model, "compute_loss"):
        _keras.build_output_losses(model, y, y_pred, sample_weight)
        with _keras.output_trackers_suppressed(model) as held_back, _keras.losses_not_scaled():
            value = _keras.compute_loss(model, x, y, y_pred, sample_weight, training)
        logged = [row_mean(tf.reduce_mean(v), rows) for o in held_back for v in o.values[:1]]
        if len(logged) < len(held_back):  # it does not compute each output's loss
            logged = [row_mean(tf.zeros(()), tf.zeros((), tf.int32)) for _ in held_back]
        logged = [term._replace(group=LOGGED) for term in logged]
        return [*logged, row_mean(tf.reduce_mean(value), rows)]
    _keras.build_output_losses(model, y, y_pred, sample_weight)
    check_losses(model, y, y_pred)
    outputs = _keras.output_losses(model, y, y_pred, sample_weight)
    added = _keras.added_losses(model)
    terms = [_output_term(i, output, rows) for i, output in enumerate(outputs)]
    unreduced = [o for o in outputs if o.loss.reduction in (None, "none")]
    if unreduced and len(outputs) + len(added) > 1:
        raise ModelError(
            f"The loss {unreduced[0].loss.name!r} has reduction=None beside other "
            'losses, which Keras adds by broadcasting. Give it reduction="sum" or '
            '"sum_over_batch_size" to train with micro-batches or replicas.'
        )
    terms += [_added_term(loss, rows) for loss in added]
    if not terms and not _keras.regularization_losses(model):
        raise ModelError(
            f"{type(model).__name__} has no loss to minimise. Pass `loss` (for "
            'example loss="mse"), or call `add_loss` in the model.'
        )
    return terms


def row_mean(value: tf.Tensor, rows: tf.Tensor) -> Term:
    """The term of a mean over ``rows`` rows."""
    denominator = tf.cast(rows, value.dtype)
    # Nothing from no rows, even where the value of a stand-in row is NaN.
    numerator = tf.math.multiply_no_nan(value, denominator)
    return Term(ROWS, value, denominator, 1.0, None, (numerator, denominator))


def _added_term(loss: tf.Tensor, rows: tf.Tensor) -> Term:
    value = tf.reduce_sum(_as_float(loss))
    if not _keras.is_undivided(loss):
        return row_mean(value, rows)
    one, value = tf.ones_like(value), tf.where(rows > 0, value, tf.zeros_like(value))
    return Term(SUM, value, one, 1.0, None, (value, one), logs_sum=True)


def _output_term(index: int, output: _keras.OutputLoss, rows: tf.Tensor) -> Term:
    loss, reduction = output.loss, output.loss.reduction
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        with _keras.losses_not_scaled():
            value = loss(output.y_true, output.y_pred, output.sample_weight)
        return row_mean(tf.reduce_mean(value), rows)._replace(weight=output.weight)
    values, mask = _keras.unreduced_loss(loss, output.y_true, output.y_pred)
    values = tf.convert_to_tensor(values)
    weights = _weights(values, mask, output.sample_weight)
    if values.shape.rank == 0:
        if weights is not None:
            values = values * tf.reduce_mean(weights)
        return row_mean(values, rows)._replace(weight=output.weight)
    if weights is not None:
        values, weights = _keras.same_rank(values, weights)
        values = values * weights
    numerator = tf.reduce_sum(values)
    count = tf.cast(tf.size(values), numerator.dtype)
    real = tf.cast(rows > 0, numerator.dtype)
    if reduction in ("sum", None, "none"):
        one = tf.ones_like(numerator)
        numerator = tf.math.multiply_no_nan(numerator, real)
        logged = (numerator, count * real)
        return Term(SUM, numerator, one, 1.0, output.weight, logged, reduction == "sum")
    if reduction == "mean_with_sample_weight" and weights is not None:
        group, denominator = f"output {index}", tf.reduce_sum(weights) * real
    elif mask is not None:
        mask = tf.cast(mask, numerator.dtype)
        total = tf.cast(tf.size(mask), numerator.dtype)
        group = f"output {index}"
        denominator = tf.math.divide_no_nan(count * tf.reduce_sum(mask), total) * real
    else:
        # values per row are constant: the mean of the values is weighed by rows
        value = tf.math.divide_no_nan(numerator, count)
        return row_mean(value, rows)._replace(weight=output.weight)
    value = tf.math.divide_no_nan(numerator, denominator)
    numerator = tf.math.multiply_no_nan(value, denominator)
    per_row = count / tf.cast(tf.shape(values)[0], count.dtype)
    return Term(group, value, denominator, per_row, output.weight, (numerator, denominator))


def _weights(values: tf.Tensor, mask: tf.Tensor | None, sample_weight: Any) -> tf.Tensor | None:
    """Sample weights times mask, or None where there is neither."""
    if sample_weight is not None:
        sample_weight = tf.cast(sample_weight, values.dtype)
    if mask is None:
        return sample_weight
    mask = tf.cast(mask, values.dtype)
    if sample_weight is None:
        return mask
    mask, sample_weight = _keras.same_rank(mask, sample_weight)
    return mask * sample_weight


def shares_by_group(terms: list[Term], all_rows: tf.Tensor) -> dict[str, tf.Tensor]:
    """What a part adds to the loss, to differentiate: ``{group: sum of L_s D_s / E}``.

    Args:
        terms: of the part.
        all_rows: scalar; the rows of the global batch.
    """
    groups: dict[str, tf.Tensor] = {}
    for term in terms:
        if term.group == LOGGED:
            continue
        share = term.value
        if term.group != SUM:
            share = tf.math.multiply_no_nan(share, term.denominator / expected(term, all_rows))
        share = weighed(term, share)
        groups[term.group] = groups[term.group] + share if term.group in groups else share
    return groups


def weighed(term: Term, value: tf.Tensor) -> tf.Tensor:
    """What a term's value adds to the total loss: of Keras's default type, whatever its own is."""
    value = tf.cast(value, keras.config.floatx())  # as `CompileLoss` does, before it weighs
    return value if term.weight is None else value * term.weight


def expected(term: Term, all_rows: tf.Tensor) -> tf.Tensor:
    """The global denominator ``E`` that there is without mask and weights, a scalar."""
    return tf.cast(all_rows, term.denominator.dtype) * term.per_row


def regularization(model: keras.Model) -> tf.Tensor | None:
    """The sum of the weight regularisers, a scalar, or None without any."""
    losses = _keras.regularization_losses(model)
    return tf.add_n([tf.reduce_sum(_as_float(v)) for v in losses]) if losses else None


def _as_float(value: tf.Tensor) -> tf.Tensor:
    return value if value.dtype.is_floating else tf.cast(value, keras.config.floatx())
