"""What one step is: forward, loss, gradients, clip, update, metrics.

Plain functions without a loop and without ``tf.function``; both doors run
them, `TrainableModel` under ``model.fit`` and `Trainer` in its own loop::

    logs = train_step(model, (x, y, sample_weight), StepOptions(micro_batches=4))

The order inside a step, on every replica of a ``tf.distribute`` strategy:

1. split the replica's rows into micro-batches
2. forward pass and local gradients of each, summed
3. one all-reduce of gradients, loss numerators and denominators
4. gradients of the weight regularisers, once
5. the model's ``transform_gradients`` hook, then clipping: both see the
   gradient of the global batch
6. one optimizer update (the optimizer's own clipping, weight decay, EMA and
   loss scaling happen in it, once)
7. loss and metrics are updated

On one replica with one micro-batch steps 1 and 3 vanish, and the loss is what
``model.compute_loss`` returns: that path is Keras's own arithmetic. Otherwise
`kerastrain.loss` combines the parts so that weights, loss and metrics equal
those of the whole batch at once. Exceptions: layers that use statistics of
the batch (``BatchNormalization`` without ``synchronized=True``) see the part
only, and dropout draws its masks part by part.
"""

import dataclasses
import warnings
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import loss as loss_lib
from kerastrain.errors import ArgumentError
from kerastrain.errors import ModelError


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What the step does beyond ``compile``'s own arguments.

    Attributes:
        micro_batches: into how many parts each replica's rows are cut for
            forward and backward passes, to save memory. The result does not
            depend on it. Default 1.
        clipvalue: each element of the gradient is clipped to
            ``[-clipvalue, clipvalue]``.
        clipnorm: the gradient of each weight is scaled down to this L2 norm.
        global_clipnorm: all gradients together are scaled down to this L2
            norm (Pascanu, Mikolov, Bengio: On the difficulty of training
            recurrent neural networks, 2013, section 3.2).

    Clipping acts on the gradient of the global batch, unlike the optimizer's
    own under Keras's ``fit`` with replicas. At most one of the three may be
    set, and none if the optimizer clips.

    Raises:
        ArgumentError: a value that is not positive, or two kinds of clipping.

    Example:
        >>> StepOptions(micro_batches=2, global_clipnorm=1.0)
        StepOptions(micro_batches=2, clipvalue=None, clipnorm=None, global_clipnorm=1.0)
    """

    micro_batches: int = 1
    clipvalue: float | None = None
    clipnorm: float | None = None
    global_clipnorm: float | None = None

    def __post_init__(self):
        if not isinstance(self.micro_batches, int) or self.micro_batches < 1:
            raise ArgumentError(
                "`micro_batches` must be a whole number, 1 or more. "
                f"Received: micro_batches={self.micro_batches!r}."
            )
        for name in _CLIPS:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ArgumentError(
                    f"`{name}` must be above 0, or None for no clipping. "
                    f"Received: {name}={value!r}."
                )
        if len(self.clips) > 1:
            raise ArgumentError(
                "Only one kind of clipping can be set. Received: "
                + ", ".join(f"{name}={getattr(self, name)}" for name in self.clips)
                + ". Keep one of them."
            )

    @property
    def clips(self) -> list[str]:
        """The names of the clipping options that are set."""
        return [name for name in _CLIPS if getattr(self, name) is not None]

    def changed(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


_CLIPS = ("clipvalue", "clipnorm", "global_clipnorm")


def check_clips_once(options: StepOptions, optimizer: Any) -> None:
    """Refuses clipping that is set both in the options and on the optimizer.

    Raises:
        ArgumentError: both clip.
    """
    if not options.clips or optimizer is None:
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    theirs = [name for name in _CLIPS if getattr(inner, name, None)]
    if theirs:
        raise ArgumentError(
            f"Clipping is set twice: {options.clips[0]} of the step and "
            f"{theirs[0]}={getattr(inner, theirs[0])} of the optimizer. Remove one."
        )


def train_step(model: keras.Model, data: Any, options: StepOptions) -> dict:
    """Runs one optimizer update on one global batch (this replica's part of it).

    Args:
        model: a compiled model.
        data: ``x``, ``(x, y)`` or ``(x, y, sample_weight)``; each leaf has the
            rows of the batch as its first axis.
        options: micro-batches and clipping.

    Returns:
        What ``model.compute_metrics`` returns: ``{name: scalar}``.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    rows = count_rows(x)
    if replicas() == 1 and options.micro_batches == 1:
        y_pred, gradients = _whole_gradients(model, x, y, sample_weight, rows)
    else:
        y_pred, gradients = _summed_gradients(
            model, x, y, sample_weight, rows, options.micro_batches
        )
    update_weights(model, gradients, options)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


def test_step(model: keras.Model, data: Any) -> dict:
    """Updates loss and metrics on one batch without training.

    Args:
        model: a compiled model.
        data: as in `train_step`.

    Returns:
        What ``model.compute_metrics`` returns: ``{name: scalar}``.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    rows = count_rows(x)
    if replicas() == 1:
        y_pred = _keras.forward(model, x, training=False)
        total, parts = _whole_loss(model, x, y, y_pred, sample_weight, training=False)
        _update_loss_metrics(model, total, parts, rows)
    else:
        padded = at_least_one_row((x, y, sample_weight), rows)
        y_pred = _keras.forward(model, padded[0], training=False)
        terms = loss_lib.local_terms(
            model, padded[0], padded[1], y_pred, padded[2], rows, training=False
        )
        sums = _all_reduce_sum(_loss_sums([terms]))
        _update_sharded_loss_metrics(model, terms, sums, rows)
        y_pred = _first_rows(y_pred, rows)
    return model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)


# The whole batch at once ------------------------------------------------------


def _whole_gradients(model, x, y, sample_weight, rows):
    with tf.GradientTape() as tape:
        y_pred = _keras.forward(model, x, training=True)
        total, parts = _whole_loss(model, x, y, y_pred, sample_weight, training=True)
        scaled = _scaled(model.optimizer, total)
    _update_loss_metrics(model, total, parts, rows)
    return y_pred, tape.gradient(scaled, model.trainable_weights)


def _whole_loss(model, x, y, y_pred, sample_weight, training):
    """``(loss, [loss of each output])`` as ``model.compute_loss`` computes it."""
    _keras.build_output_losses(model, y, y_pred, sample_weight)
    with _keras.output_trackers_held_back(model) as held_back:
        total = _keras.compute_loss(model, x, y, y_pred, sample_weight, training)
    if total is None:
        raise ModelError(
            f"`compute_loss` of {type(model).__name__} returned None. Return the "
            "loss as a scalar tensor."
        )
    return total, [tracker.values for tracker in held_back]


def _update_loss_metrics(model, total, parts, rows):
    _keras.loss_tracker(model).update_state(total, sample_weight=rows)
    trackers = _keras.output_loss_trackers(model)
    for tracker, values in zip(trackers, parts, strict=True):
        for value in values:
            tracker.update_state(value, sample_weight=rows)


# The batch in parts -----------------------------------------------------------


def _summed_gradients(model, x, y, sample_weight, rows, micro_batches):
    """Gradients of the global loss from micro-batches on every replica.

    Each part's gradient is that of its local mean, multiplied by its local
    denominator (`kerastrain.loss`). Terms of one denominator share one
    gradient set; most models have a single one.
    """
    variables = model.trainable_weights
    data = at_least_one_row((x, y, sample_weight), rows)
    terms_by_part, outputs, sums = [], [], {}
    for part, size in _micro_batches(data, rows, micro_batches):
        # One after another, or memory would not fall: the next part waits for
        # the gradients of this one.
        done = [g for group in sums.values() for g in group if g is not None]
        with tf.control_dependencies(done):
            part = _identity(part)
        with tf.GradientTape(persistent=True) as tape:
            y_pred = _keras.forward(model, part[0], training=True)
            terms = loss_lib.local_terms(model, part[0], part[1], y_pred, part[2], size, True)
            means = {
                group: (_scaled(model.optimizer, value), denominator)
                for group, (value, denominator) in loss_lib.means_by_group(terms).items()
            }
        for group, (value, denominator) in means.items():
            local = _weighed(tape.gradient(value, variables), denominator, size)
            sums[group] = _add(sums.get(group), local)
        del tape
        terms_by_part.append(terms)
        outputs.append(_first_rows(y_pred, size))
    reduced_losses, reduced = _all_reduce_sum((_loss_sums(terms_by_part), sums))
    gradients = _divided(terms_by_part[0], reduced_losses, reduced)
    gradients = _add(gradients, _regularization_gradients(model, variables))
    _update_sharded_loss_metrics(model, terms_by_part[0], reduced_losses, rows)
    return _concat(outputs), gradients


def _micro_batches(data, rows, count):
    """Yields ``(part, rows of the part)``; parts differ by at most one row.

    A part without rows is given the first row of the batch, so that no layer
    sees an empty tensor; it counts as zero rows.
    """
    if count == 1:
        yield data, rows
        return
    for k in range(count):
        start, stop = rows * k // count, rows * (k + 1) // count
        size = stop - start
        first = tf.where(size > 0, start, 0)
        yield slice_rows(data, first, tf.maximum(size, 1)), size


def _weighed(gradients, denominator, rows):
    """Gradients of a local mean times its denominator; nothing from no rows."""

    def weigh(gradient):
        gradient = tf.convert_to_tensor(gradient)
        weighed = gradient * tf.cast(denominator, gradient.dtype)
        return tf.where(rows > 0, weighed, tf.zeros_like(weighed))

    return [None if g is None else weigh(g) for g in gradients]


def _divided(terms, sums, gradients):
    """The groups' gradient sets, each over its global denominator, added up."""
    denominators = {
        term.group: total for term, (total, *_) in zip(terms, sums, strict=True)
    }
    denominators[loss_lib.SUM] = None
    combined = None
    for group, local in gradients.items():
        denominator = denominators[group]
        if denominator is not None:
            local = [
                None
                if g is None
                else tf.math.divide_no_nan(g, tf.cast(denominator, g.dtype))
                for g in local
            ]
        combined = _add(combined, local)
    return combined


def _loss_sums(terms_by_part):
    """``[(denominator, logged numerator, logged denominator)]`` of each term."""
    return [
        (
            tf.add_n([term.denominator for term in same]),
            tf.add_n([term.reported[0] for term in same]),
            tf.add_n([term.reported[1] for term in same]),
        )
        for same in zip(*terms_by_part, strict=True)
    ]


def _update_sharded_loss_metrics(model, terms, sums, rows):
    """Logs the global loss, weighed by this replica's rows."""
    trackers = _keras.output_loss_trackers(model)
    total = None
    for index, (term, (_, numerator, denominator)) in enumerate(
        zip(terms, sums, strict=True)
    ):
        if term.group == loss_lib.SUM and term.reported[1] is term.denominator:
            value = numerator
        else:
            value = tf.math.divide_no_nan(numerator, denominator)
        if index < len(trackers) and len(trackers) > 0:
            trackers[index].update_state(value, sample_weight=rows)
        value = value if term.weight is None else value * term.weight
        total = value if total is None else total + value
    regularization = None
    if not _keras.overrides(model, "compute_loss"):
        regularization = loss_lib.regularization(model)
    if regularization is not None:
        total = regularization if total is None else total + regularization
    _keras.loss_tracker(model).update_state(total, sample_weight=rows)


def _regularization_gradients(model, variables):
    if _keras.overrides(model, "compute_loss"):
        return None  # the override's value holds what it wants of them
    with tf.GradientTape() as tape:
        value = loss_lib.regularization(model)
        if value is None:
            return None
        value = _scaled(model.optimizer, value)
    return tape.gradient(value, variables)


# The update -------------------------------------------------------------------


def update_weights(model: keras.Model, gradients: list, options: StepOptions) -> None:
    """Applies the gradients of the global batch: hook, clip, one update.

    Args:
        model: a compiled model.
        gradients: one per ``model.trainable_weights``, or None where the
            loss does not depend on the weight; scaled as the optimizer's
            ``scale_loss`` scaled the loss, and equal on all replicas.
        options: the clipping.
    """
    variables = model.trainable_weights
    if not variables:
        warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return
    optimizer = model.optimizer
    if _has_gradient_hook(model) or options.clips:
        scale = _scaled(optimizer, tf.ones(()))
        if _has_gradient_hook(model):
            gradients = _rescaled(gradients, 1.0 / scale)
            gradients = model.transform_gradients(gradients, variables)
            gradients = _rescaled(gradients, scale)
        gradients = clip(gradients, options, scale)
    if replicas() > 1 and not _keras.expects_summed_gradients(optimizer):
        # Somebody else's `strategy.run`: Keras will sum the equal gradients
        # over the replicas once more.
        gradients = _rescaled(gradients, 1.0 / replicas())
    optimizer.apply_gradients(zip(gradients, variables, strict=True))


def clip(gradients: list, options: StepOptions, scale: Any = 1.0) -> list:
    """Clips gradients; those that are not finite stay so, for loss scaling to see.

    Args:
        gradients: tensors, ``IndexedSlices`` or None, each times ``scale``.
        options: at most one kind of clipping.
        scale: the loss scale, a scalar.

    Example:
        >>> clip([tf.constant([3.0, -4.0])], StepOptions(clipvalue=1.0))[0].numpy()
        array([ 1., -1.], dtype=float32)
    """
    if options.clipvalue is not None:
        limit = options.clipvalue * scale

        def clip_one(gradient):
            gradient = tf.convert_to_tensor(gradient)
            bound = tf.cast(limit, gradient.dtype)
            clipped = tf.clip_by_value(gradient, -bound, bound)
            return tf.where(tf.math.is_finite(gradient), clipped, gradient)

        return [None if g is None else clip_one(g) for g in gradients]
    if options.clipnorm is not None:
        limit = options.clipnorm * scale
        return [
            None if g is None else tf.clip_by_norm(g, tf.cast(limit, g.dtype))
            for g in gradients
        ]
    if options.global_clipnorm is not None:
        limit = tf.cast(options.global_clipnorm * scale, tf.float32)
        return tf.clip_by_global_norm(gradients, limit)[0]
    return gradients


def _has_gradient_hook(model):
    hook = getattr(type(model), "transform_gradients", None)
    return hook is not None and not getattr(hook, "does_nothing", False)


def _scaled(optimizer, value):
    return value if optimizer is None else optimizer.scale_loss(value)


def _rescaled(gradients, factor):
    def rescale(gradient):
        by = tf.cast(factor, gradient.dtype)
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(
                gradient.values * by, gradient.indices, gradient.dense_shape
            )
        return gradient * by

    return [None if g is None else rescale(g) for g in gradients]


# Batches ----------------------------------------------------------------------


def replicas() -> int:
    """The number of replicas in sync that run this step; 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def count_rows(x: Any) -> tf.Tensor:
    """The rows of a batch, from its first leaf: a scalar integer."""
    leaf = next(leaf for leaf in tf.nest.flatten(x) if leaf is not None)
    if isinstance(leaf, tf.RaggedTensor):
        return tf.cast(leaf.nrows(), tf.int32)
    if isinstance(leaf, tf.SparseTensor):
        return tf.cast(leaf.dense_shape[0], tf.int32)
    return tf.shape(leaf)[0]


def at_least_one_row(data: Any, rows: tf.Tensor) -> Any:
    """The batch, or one row of zeros where it has no rows.

    Layers such as recurrent ones and batch statistics fail on empty tensors.
    """

    def pad(leaf):
        missing = tf.where(rows > 0, 0, 1)
        return tf.pad(leaf, [[0, missing]] + [[0, 0]] * (leaf.shape.rank - 1))

    return _map(lambda leaf: _dense_only(leaf, pad), data)


def slice_rows(data: Any, start: Any, size: Any) -> Any:
    """The ``size`` rows from ``start`` on of every leaf."""
    return _map(
        lambda leaf: _dense_only(leaf, lambda t: t[start : start + size]), data
    )


def _first_rows(outputs, rows):
    """The outputs' first ``rows`` rows, with their Keras masks."""

    def first(tensor):
        mask = _keras.get_mask(tensor)
        cut = tensor[:rows]
        if mask is not None:
            _keras.set_mask(cut, mask[:rows])
        return cut

    return _map(first, outputs)


def _concat(parts):
    """Outputs of consecutive parts as one, with their Keras masks."""
    if len(parts) == 1:
        return parts[0]

    def concat(*tensors):
        if tensors[0] is None:
            return None
        whole = tf.concat(tensors, axis=0)
        masks = [_keras.get_mask(t) for t in tensors]
        if all(mask is not None for mask in masks):
            _keras.set_mask(whole, tf.concat(masks, axis=0))
        return whole

    return tf.nest.map_structure(concat, *parts)


def _dense_only(leaf, function):
    if isinstance(leaf, tf.SparseTensor | tf.RaggedTensor):
        raise ArgumentError(
            f"A batch holds a {type(leaf).__name__}, which cannot be cut into "
            "micro-batches or replicas. Use micro_batches=1 on one device, or "
            "pass dense tensors."
        )
    return function(tf.convert_to_tensor(leaf))


def _map(function, structure):
    return tf.nest.map_structure(
        lambda leaf: None if leaf is None else function(leaf), structure
    )


def _identity(data):
    return _map(tf.identity, data)


def _add(left, right):
    """Adds two gradient sets; None in a set counts as nothing."""
    if left is None or right is None:
        return right if left is None else left
    return [
        b if a is None else a if b is None else a + tf.convert_to_tensor(b)
        for a, b in zip(left, right, strict=True)
    ]


def _all_reduce_sum(structure):
    """Sums every tensor over the replicas, in one all-reduce."""
    if replicas() == 1:
        return structure
    flat = tf.nest.flatten(structure)
    present = [t for t in flat if t is not None]
    summed = iter(
        tf.distribute.get_replica_context().all_reduce(
            tf.distribute.ReduceOp.SUM, present
        )
    )
    return tf.nest.pack_sequence_as(
        structure, [None if t is None else next(summed) for t in flat]
    )
