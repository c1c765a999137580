"""What a step minimises: the loss of the compiled model, or those of several updates in turn.

::

    for objective in objectives_of(model):
        y_pred, total = objective.whole((x, y, sample_weight), training=True)

An objective knows its loss, the weights that it is differentiated by, and the optimizer that
updates them. `kerastrain.step.steps` knows the rest, which is the same for all.
"""

from collections.abc import Sequence
from typing import Any
from typing import Protocol

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import ModelError
from kerastrain.step import loss as loss_lib
from kerastrain.step.updates import Update
from kerastrain.step.updates import updates_of

Batch = tuple[Any, Any, Any]  # x, y, sample_weight


class Objective(Protocol):
    """A loss, and the weights that it trains.

    Attributes:
        optimizer: that updates them.
        variables: these weights, after the loss has been computed once, which may build them.
        has_one_term: whether it is certain that its parts have one term (`kerastrain.step.loss`).
        prefix: what the names of its norms begin with.
    """

    prefix: str

    @property
    def optimizer(self) -> Any: ...

    @property
    def variables(self) -> list[keras.Variable]: ...

    @property
    def has_one_term(self) -> bool: ...

    def whole(self, batch: Batch, training: bool) -> tuple[Any, tf.Tensor]:
        """``(outputs, loss)`` of a whole batch."""

    def terms(
        self, part: Batch, rows: tf.Tensor, training: bool
    ) -> tuple[Any, list[loss_lib.Term]]:
        """``(outputs, terms of the loss)`` of a part of a batch, of which ``rows`` rows are real."""

    def regularization(self) -> tf.Tensor | None:
        """What of the loss is of no rows, and is added to that of the parts once; None for nothing."""

    def logged_regularization(self) -> tf.Tensor | None:
        """What of that is logged with this objective."""

    def log_whole(self, total: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Logs what `whole` has computed; returns what it adds to ``"loss"``."""

    def trackers(self) -> Sequence[keras.metrics.Mean]:
        """That log the first of the terms."""


class CompiledLoss:
    """The loss that the model is compiled with, or computes itself, by all of its trainable weights."""

    prefix = ""

    def __init__(self, model: keras.Model):
        self._model = model
        self._of_outputs: list[list[tf.Tensor]] = []

    @property
    def optimizer(self) -> Any:
        return self._model.optimizer

    @property
    def variables(self) -> list[keras.Variable]:
        return self._model.trainable_weights

    @property
    def has_one_term(self) -> bool:
        return _keras.has_one_loss(self._model)

    def whole(self, batch: Batch, training: bool) -> tuple[Any, tf.Tensor]:
        """As ``model.compute_loss`` computes it."""
        model, (x, y, sample_weight) = self._model, batch
        y_pred = _keras.forward(model, x, training=training)
        _keras.build_output_losses(model, y, y_pred, sample_weight)
        loss_lib.check_losses(model, y, y_pred)
        with _keras.output_trackers_suppressed(model) as held_back:
            total = _keras.compute_loss(model, x, y, y_pred, sample_weight, training)
            self._of_outputs = [list(one.values) for one in held_back]
        if total is None:
            raise ModelError(
                f"`compute_loss` of {type(model).__name__} returned None. Return the "
                "loss as a scalar tensor."
            )
        return y_pred, total

    def terms(
        self, part: Batch, rows: tf.Tensor, training: bool
    ) -> tuple[Any, list[loss_lib.Term]]:
        """Those of `kerastrain.step.loss.local_terms`."""
        x, y, sample_weight = part
        y_pred = _keras.forward(self._model, x, training=training)
        terms = loss_lib.local_terms(self._model, x, y, y_pred, sample_weight, rows, training)
        return y_pred, terms

    def regularization(self) -> tf.Tensor | None:
        """That of the weights, unless the model's own loss holds what it wants of them."""
        own = _keras.overrides(self._model, "compute_loss")
        return None if own else loss_lib.regularization(self._model)

    def logged_regularization(self) -> tf.Tensor | None:
        """All of it."""
        return self.regularization()

    def log_whole(self, total: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The losses of each output."""
        for tracker, values in zip(self.trackers(), self._of_outputs, strict=True):
            for value in values:
                tracker.update_state(value, sample_weight=rows)
        return total

    def trackers(self) -> Sequence[keras.metrics.Mean]:
        """Of each output, where there are several."""
        return _keras.output_loss_trackers(self._model)


class UpdateLoss:
    """The loss of one of several updates, with the regularisers of the weights that it trains.

    Args:
        model: whose update it is.
        update: the update.
        is_first: whether it is the first of the step, which logs the regularisers of all.
    """

    has_one_term = True

    def __init__(self, model: keras.Model, update: Update, is_first: bool):
        self._model, self._update, self._is_first = model, update, is_first
        self.prefix = f"{update.name}_"

    @property
    def optimizer(self) -> Any:
        return self._update.optimizer

    @property
    def variables(self) -> list[keras.Variable]:
        return self._update.weights()

    def _mean(self, batch: Batch, training: bool) -> tf.Tensor:
        value = self._update.loss(*batch, training)
        if value is None:
            raise ModelError(
                f"The loss of the update {self._update.name!r} of {type(self._model).__name__} returned "
                "None. Return the mean over the rows as a scalar tensor."
            )
        value = tf.convert_to_tensor(value)
        if not value.dtype.is_floating:
            value = tf.cast(value, keras.config.floatx())
        return tf.reduce_mean(value)

    def whole(self, batch: Batch, training: bool) -> tuple[Any, tf.Tensor]:
        """The loss, with the regularisers; there are no outputs."""
        self._value = value = self._mean(batch, training)
        of_weights = self.regularization()
        return None, value if of_weights is None else value + tf.cast(of_weights, value.dtype)

    def terms(
        self, part: Batch, rows: tf.Tensor, training: bool
    ) -> tuple[Any, list[loss_lib.Term]]:
        """A mean over the rows; there are no outputs."""
        with _keras.losses_not_scaled():
            return None, [loss_lib.row_mean(self._mean(part, training), rows)]

    def regularization(self) -> tf.Tensor | None:
        """Of all weights: those of others have no gradient here."""
        return loss_lib.regularization(self._model)

    def logged_regularization(self) -> tf.Tensor | None:
        """That of all weights with the first update."""
        return self.regularization() if self._is_first else None

    def log_whole(self, total: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The loss without the regularisers, of which the first update speaks."""
        (tracker,) = self.trackers()
        tracker.update_state(self._value, sample_weight=rows)
        return total if self._is_first else self._value

    def trackers(self) -> Sequence[keras.metrics.Mean]:
        """Its own."""
        return [_keras.step_trackers(self._model)[f"{self._update.name}_loss"]]


def objectives_of(model: keras.Model) -> list[Objective]:
    """What a step of the model minimises, in turn."""
    updates = updates_of(model)
    if not updates:
        return [CompiledLoss(model)]
    return [UpdateLoss(model, update, update is updates[0]) for update in updates]
