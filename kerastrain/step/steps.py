"""What one step is: forward, loss, gradients, clip, update, metrics.

Plain functions without a loop and without ``tf.function``; both entry
points run them, `TrainableModel` under ``model.fit`` and `Trainer` in its own loop::

    logs = train_step(model, (x, y, sample_weight), StepOptions(micro_batches=4))

The order inside a step, on every replica of a ``tf.distribute`` strategy, for each objective of the
model in turn (`kerastrain.step.objectives`; most have one):

1. split the replica's rows into micro-batches; the replicas agree on the
   number of rows in the global batch
2. forward pass and gradients of each part's share of the loss, summed
3. one all-reduce of gradients, loss numerators and denominators
4. gradients of the weight regularisers, once
5. the model's ``transform_gradients`` hook, then clipping: both see the
   gradient of the global batch
6. one optimizer update (the optimizer's own clipping, weight decay, EMA and
   loss scaling happen in it, once)
7. loss and metrics are updated

On one replica with one micro-batch steps 1 and 3 vanish, and the loss is what
``model.compute_loss`` returns: that path is Keras's own arithmetic. Otherwise
`kerastrain.step.loss` combines the parts so that weights, loss and metrics equal
those of the whole batch at once. Exceptions: layers that use statistics of
the batch see a micro-batch only, and without ``synchronized=True`` a replica's
rows only; dropout draws its masks part by part.
"""

from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.distribution import replicas
from kerastrain.errors import ModelError
from kerastrain.options import StepOptions
from kerastrain.step import gradients as gradients_lib
from kerastrain.step import loss as loss_lib
from kerastrain.step import rows as rows_lib
from kerastrain.step import updates
from kerastrain.step.objectives import Objective
from kerastrain.step.objectives import objectives_of
from kerastrain.xla import compiled_by_xla

# Of a term: its denominator, the numerator and the denominator of what is logged.
_Sums = tuple[tf.Tensor, tf.Tensor, tf.Tensor]


def train_step(
    model: keras.Model,
    data: Any,
    options: StepOptions,
    shard: rows_lib.Shard | None = None,
    xla: bool = False,
) -> dict:
    """Runs one optimizer update on one global batch (this replica's part of it).

    Args:
        model: a compiled model.
        data: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``; each leaf has the
            rows of the batch as its first axis.
        options: micro-batches and clipping.
        shard: the same rows, where the whole batch is at hand. By default the
            replicas count their rows and sum the counts.
        xla: whether XLA compiles the forward and backward pass of each part, as it cannot
            compile what replicas do together. For parts only.

    Returns:
        What ``model.compute_metrics`` returns: ``{name: scalar}``.
    """
    x, y, sample_weight = batch = keras.utils.unpack_x_y_sample_weight(data)
    rows, y_pred, totals = rows_lib.count_rows(x), None, []
    for objective in objectives_of(model):
        if replicas.count() == 1 and options.parts == 1:
            y_pred, gradients, total = _whole_gradients(objective, batch, rows)
        else:
            y_pred, gradients, total = _summed_gradients(
                objective, batch, rows, shard, options.parts, xla
            )
        update_weights(model, objective, gradients, options)
        totals.append(total)
    _log_loss(model, totals, rows)
    return _computed_metrics(model, x, y, y_pred, sample_weight, rows, _is_full(shard))


def test_step(model: keras.Model, data: Any, shard: rows_lib.Shard | None = None) -> dict:
    """Updates loss and metrics on one batch without training.

    Args:
        model: a compiled model.
        data, shard: as in `train_step`.

    Returns:
        What ``model.compute_metrics`` returns: ``{name: scalar}``.
    """
    x, y, sample_weight = batch = keras.utils.unpack_x_y_sample_weight(data)
    rows, y_pred, totals = rows_lib.count_rows(x), None, []
    for objective in objectives_of(model):
        if replicas.count() == 1:
            y_pred, value = objective.whole(batch, training=False)
            totals.append(objective.log_whole(value, rows))
            continue
        y_pred, terms = objective.terms(_pad_empty_shard(batch, rows, shard), rows, False)
        sums, _ = _all_reduced([terms])
        totals.append(_log_sharded(objective, terms, sums, rows))
        if not _is_full(shard):
            y_pred = rows_lib.first_rows(y_pred, rows)
    _log_loss(model, totals, rows)
    logs = _computed_metrics(model, x, y, y_pred, sample_weight, rows, _is_full(shard))
    return updates.without_norms(model, logs)


def _is_full(shard: rows_lib.Shard | None) -> bool:
    return shard is not None and shard.full


def _computed_metrics(
    model: keras.Model, x: Any, y: Any, y_pred: Any, sample_weight: Any, rows: tf.Tensor, full: bool
) -> dict[str, Any]:
    """``model.compute_metrics``; without rows, no metric of the user's own is updated."""

    def compute() -> dict[str, Any]:
        return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    if (
        full
        or replicas.count() == 1
        or _keras.take_no_rows(model)
        or _keras.overrides(model, "compute_metrics")
    ):
        return compute()
    tf.cond(rows > 0, lambda: (compute(), rows)[1], lambda: rows)
    return model.get_metrics_result()


def _pad_empty_shard(
    data: tuple[Any, Any, Any], rows: tf.Tensor, shard: rows_lib.Shard | None
) -> tuple[Any, Any, Any]:
    """``(x, y, sample_weight)`` with a row that stands in where there is none."""
    if shard is None:
        return rows_lib.at_least_one_row(data, rows)
    return keras.utils.unpack_x_y_sample_weight(shard.data)


# The whole batch at once ------------------------------------------------------


def _whole_gradients(
    objective: Objective, batch: tuple[Any, Any, Any], rows: tf.Tensor
) -> tuple[Any, gradients_lib.Gradients, tf.Tensor]:
    with tf.GradientTape() as tape:
        y_pred, value = objective.whole(batch, training=True)
        scaled = _scaled(objective.optimizer, value)
    total = objective.log_whole(value, rows)
    return y_pred, tape.gradient(scaled, objective.variables), total


def _log_loss(model: keras.Model, totals: list[tf.Tensor], rows: tf.Tensor) -> None:
    """Logs the loss of all objectives together, weighed by this replica's rows."""
    total = totals[0]
    for other in totals[1:]:
        total = total + tf.cast(other, total.dtype)
    _keras.loss_tracker(model).update_state(total, sample_weight=rows)


# The batch in parts -----------------------------------------------------------


def _summed_gradients(
    objective: Objective,
    data: tuple[Any, Any, Any],
    rows: tf.Tensor,
    shard: rows_lib.Shard | None,
    micro_batches: int,
    xla: bool,
) -> tuple[Any, gradients_lib.Gradients, tf.Tensor]:
    """Gradients of the global loss from micro-batches on every replica.

    Each part is differentiated as its share of the global loss
    (`kerastrain.step.loss`). Terms of one denominator share one gradient set; most
    models have a single one.
    """
    data = _pad_empty_shard(data, rows, shard)
    if shard is None:
        all_rows = replicas.all_reduce_sum(tf.cast(rows, tf.float32))
    else:
        all_rows = shard.all_rows
    full = _is_full(shard)
    # A persistent tape keeps three times the memory of a recurrent layer.
    persistent_tape = not objective.has_one_term
    terms_by_part: list[list[loss_lib.Term]] = []
    outputs: list[Any] = []
    sums: dict[str, gradients_lib.Gradients] = {}
    for part, size in rows_lib.micro_batches(data, rows, micro_batches, full):
        # One after another, or memory would not fall: the next part waits for
        # the gradients of this one.
        if done := [g for group in sums.values() for g in group if g is not None]:
            with tf.control_dependencies(done):
                part = rows_lib.identity(part)
        with replicas.valid_rows(None if full else size):
            gradients_of = compiled_by_xla(_part_gradients) if xla else _part_gradients
            y_pred, terms, by_group = gradients_of(objective, part, size, all_rows, persistent_tape)
        for group, local in by_group.items():
            sums[group] = gradients_lib.add(sums.get(group), local)
        terms_by_part.append(terms)
        outputs.append(y_pred if full else rows_lib.first_rows(y_pred, size))
    if replicas.count() > 1 and shard is None:
        sums = {g: gradients_lib.of_real_rows(local, rows) for g, local in sums.items()}
    reduced_losses, reduced = _all_reduced(terms_by_part, sums)
    gradients = _over_denominators(terms_by_part[0], reduced_losses, reduced, all_rows)
    gradients = gradients_lib.add(gradients, _regularization_gradients(objective))
    assert gradients is not None  # without any loss `local_terms` raises
    total = _log_sharded(objective, terms_by_part[0], reduced_losses, rows)
    return rows_lib.concat(outputs), gradients, total


def _part_gradients(
    objective: Objective,
    part: tuple[Any, Any, Any],
    size: tf.Tensor,
    all_rows: tf.Tensor,
    persistent_tape: bool,
) -> tuple[Any, list[loss_lib.Term], dict[str, gradients_lib.Gradients]]:
    """``(outputs, terms of the loss, {group: gradients})`` of a part's rows."""
    with tf.GradientTape(persistent=persistent_tape) as tape:
        y_pred, terms = objective.terms(part, size, True)
        shares = {
            group: _scaled(objective.optimizer, part_share)
            for group, part_share in loss_lib.shares_by_group(terms, all_rows).items()
        }
    variables = objective.variables
    by_group = {
        group: gradients_lib.dense(tape.gradient(part_share, variables))
        for group, part_share in shares.items()
    }
    return y_pred, terms, by_group


def _over_denominators(
    terms: list[loss_lib.Term],
    sums: list[_Sums],
    gradients: dict[str, gradients_lib.Gradients],
    all_rows: tf.Tensor,
) -> gradients_lib.Gradients | None:
    """The groups' gradient sets, each over its global denominator, added up."""
    combined = None
    known = {loss_lib.SUM, loss_lib.ROWS}  # whose denominator the shares had already
    for term, (denominator, *_) in zip(terms, sums, strict=True):
        if term.group in gradients:
            local = gradients.pop(term.group)
            if term.group not in known:
                factor = tf.math.divide_no_nan(loss_lib.expected(term, all_rows), denominator)
                local = gradients_lib.rescale(local, factor)
            combined = gradients_lib.add(combined, local)
    return combined


def _all_reduced(
    terms_by_part: list[list[loss_lib.Term]],
    gradients: dict[str, gradients_lib.Gradients] | None = None,
) -> tuple[list[_Sums], Any]:
    """Sums over all parts of all replicas: ``(sums of each term, gradients)``.

    The sums are ``(denominator, logged numerator, logged denominator)``. Those of
    a mean over rows stay the replica's: its denominator is known, and what is
    logged is weighed by the replica's rows.
    """
    own = [
        (
            tf.add_n([term.denominator for term in same]),
            tf.add_n([term.reported[0] for term in same]),
            tf.add_n([term.reported[1] for term in same]),
        )
        for same in zip(*terms_by_part, strict=True)
    ]
    is_mean = [term.group in (loss_lib.ROWS, loss_lib.LOGGED) for term in terms_by_part[0]]
    others = [None if mean else sums for mean, sums in zip(is_mean, own, strict=True)]
    others, gradients = replicas.all_reduce_sum((others, gradients))
    sums = [mine if all_ is None else all_ for all_, mine in zip(others, own, strict=True)]
    return sums, gradients


def _log_sharded(
    objective: Objective, terms: list[loss_lib.Term], sums: list[_Sums], rows: tf.Tensor
) -> tf.Tensor:
    """Logs the terms, weighed by this replica's rows; returns what they add to the loss."""
    trackers = objective.trackers()
    total = None
    for index, (term, (_, numerator, denominator)) in enumerate(zip(terms, sums, strict=True)):
        if term.logs_sum:
            value = numerator
        else:
            value = tf.math.divide_no_nan(numerator, denominator)
        if index < len(trackers):
            trackers[index].update_state(value, sample_weight=rows)
        if term.group == loss_lib.LOGGED:
            continue
        value = loss_lib.weighed(term, value)
        total = value if total is None else total + value
    regularization = objective.logged_regularization()
    if regularization is not None:
        total = regularization if total is None else total + regularization
    return total


def _regularization_gradients(objective: Objective) -> gradients_lib.Gradients | None:
    with tf.GradientTape() as tape:
        value = objective.regularization()
        if value is None:
            return None
        value = _scaled(objective.optimizer, value)
    return tape.gradient(value, objective.variables)


# The update -------------------------------------------------------------------


def update_weights(
    model: keras.Model, objective: Objective, gradients: list, options: StepOptions
) -> None:
    """Applies the gradients of the global batch: hook, clip, one update.

    Args:
        model: a compiled model.
        objective: whose gradients they are.
        gradients: one for each of its variables, or None where the loss does not depend on
            it; scaled as the optimizer's ``scale_loss`` scaled the loss, and equal on all
            replicas.
        options: the clipping.
    """
    variables, optimizer = objective.variables, objective.optimizer
    if not variables:
        notices.warn("The model does not have any trainable weights.")
        return
    if objective.prefix and all(gradient is None for gradient in gradients):
        raise ModelError(
            f"The loss of the update {objective.prefix[:-1]!r} of {type(model).__name__} does not depend on "
            "the weights that it is to train."
        )
    hook = _has_gradient_hook(model)
    gradients = gradients_lib.sum_duplicates(gradients, dense=hook or model.jit_compile)
    if hook or options.clips or options.log_norms:
        scale = _scaled(optimizer, tf.ones(()))
        if hook:
            gradients = gradients_lib.rescale(gradients, 1.0 / scale)
            gradients = model.transform_gradients(gradients, variables)
            gradients = gradients_lib.rescale(gradients, scale)
        if options.log_norms:
            _log_norm(model, objective.prefix + "gradient_norm", gradients, scale)
        gradients = gradients_lib.clip(gradients, options, scale)
    replicas.apply(optimizer, gradients, variables)
    if options.log_norms:
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        _log_norm(model, objective.prefix + "weight_norm", values)


def _log_norm(model: keras.Model, name: str, tensors: list, scale: Any = 1.0) -> None:
    """Logs the L2 norm of tensors over ``scale``; one that is not finite, as of a loss scale, is not."""
    dense = [tf.cast(tf.convert_to_tensor(t), tf.float32) for t in tensors if t is not None]
    norm = tf.linalg.global_norm(dense) / tf.cast(scale, tf.float32)
    finite = tf.math.is_finite(norm)
    weight = tf.cast(finite, tf.float32)
    _keras.step_trackers(model)[name].update_state(tf.where(finite, norm, 0.0), weight)


def _has_gradient_hook(model: keras.Model) -> bool:
    hook = getattr(type(model), "transform_gradients", None)
    return hook is not None and not getattr(hook, "is_default_hook", False)


def _scaled(optimizer: keras.optimizers.Optimizer | None, value: tf.Tensor) -> tf.Tensor:
    return value if optimizer is None else optimizer.scale_loss(value)
