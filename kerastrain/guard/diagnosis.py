"""What in a step is not finite: which input, output, loss or gradient, and in which rows.

::

    found = diagnose(model, batch)
    found.text, found.output, found.rows     # "the loss of output 'b' is nan", "b", [4, 9]

The model is run once more on the batch, without compiling it, so this is for errors.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.data import Chunk
from kerastrain.errors import NonFiniteError
from kerastrain.step import rows as rows_lib
from kerastrain.step import updates


class Diagnosis(NamedTuple):
    """What is not finite.

    Attributes:
        text: in words.
        output: the name of the output whose loss it is, if it is one of several.
        rows: the rows of the batch, where it is in some of them.
    """

    text: str
    output: str | None = None
    rows: tuple[int, ...] = ()


ADVICE = (
    'Look at what is named, lower the learning rate, or pass guard="skip" to skip the batches of such '
    "steps (a run_dir belongs to one guard: pass another)."
)
UNKNOWN = Diagnosis("a weight, or what the optimizer keeps of it, is not finite after it")


def diagnose(model: keras.Model, batch: Any) -> Diagnosis | None:
    """Finds what is not finite first: inputs, outputs, losses, gradients, in this order.

    Variables that the forward pass changes are changed.

    Args:
        model: built and compiled; its weights are finite.
        batch: ``x``, ``(x, y)`` or ``(x, y, sample_weight)`` of tensors.

    Returns:
        None where nothing was found.
    """
    # Code of the user's own may fail outside of the step, and the step is what is reported.
    with contextlib.suppress(Exception):
        for found in _searched(model, batch):
            if found is not None:
                return found
    return None


def step_in_words(found: Diagnosis, one: Chunk, epoch: int, step: int) -> str:
    """What a step has been found to be, and which it is.

    Args:
        found: what is not finite.
        one: the step.
        epoch, step: where, counted from 0.
    """
    message = f"Step {step + 1} of epoch {epoch + 1} is not finite: {found.text}"
    if found.rows:
        shown = ", ".join(map(str, found.rows[:5])) + (", ..." if len(found.rows) > 5 else "")
        message += f" in row{'s' if len(found.rows) > 1 else ''} {shown} of the batch"
        numbers = one.block.numbers(one.start)
        if numbers is not None:
            message += " (in `x`: " + ", ".join(str(numbers[row]) for row in found.rows[:5]) + ")"
    return f"{message}."


def of_callbacks(epoch: int, steps: int) -> NonFiniteError:
    """What is raised where all steps were finite, and a weight is not.

    Args:
        epoch: the number of the epoch, from 0.
        steps: how many of its steps have run.
    """
    return NonFiniteError(
        f"A weight is not finite after {steps} steps of epoch {epoch + 1}, and no step has left it "
        "so: a callback has. It is not saved.",
        epoch,
        steps,
    )


def reason_of(error: tf.errors.OpError) -> str:
    """What TensorFlow says, without where in the program."""
    reason = re.search(r"OOM when allocating.*|\b\w+Error: .*", error.message)
    return (reason.group() if reason else error.message.split("\n")[0])[:200]


def check_skipped(skipped: list[int], steps: int, epoch: int) -> None:
    """Refuses an epoch more than half of whose batches were skipped.

    Args:
        skipped: the steps whose were, counted from 0.
        steps: how many the epoch had.
        epoch: its number, from 0.

    Raises:
        NonFiniteError: then.
    """
    if 2 * len(skipped) > steps:
        raise NonFiniteError(
            f"{len(skipped)} of the {steps} steps of epoch {epoch + 1} were not finite and their "
            f"batches skipped, the first of them step {skipped[0] + 1}: more than half. The model has "
            "the weights after the others. Repair what the warnings name, or lower the learning "
            "rate.",
            epoch,
            skipped[0],
        )


def _searched(model: keras.Model, batch: Any) -> Iterator[Diagnosis | None]:
    parts = keras.utils.unpack_x_y_sample_weight(batch)
    rows = int(rows_lib.count_rows(parts[0]))
    for name, part in zip(("x", "y", "sample_weight"), parts, strict=True):
        for path, leaf in _leaves(part):
            yield _of_rows(f"`{name}{path}`", leaf, rows)
    x, y, sample_weight = parts
    for update in updates.updates_of(model):
        yield from _searched_update(update, parts, rows)
    if _keras.has_updates(model):
        return
    with tf.GradientTape() as tape:
        y_pred = _keras.forward(model, x, training=True)
        total = _keras.compute_loss(model, x, y, y_pred, sample_weight, training=True)
    names = [tracker.name.removesuffix("_loss") for tracker in _keras.output_loss_trackers(model)]
    losses = _keras.output_losses(model, y, y_pred, sample_weight)
    for index, entry in enumerate(losses):
        output = names[index] if len(names) == len(losses) else None
        what = f"output {output!r}" if output else "the model"
        values, _ = _keras.unreduced_loss(entry.loss, entry.y_true, entry.y_pred)
        in_loss = _of_rows(f"the loss of {what}", values, rows)
        in_output = _of_rows(what if output else "the output", entry.y_pred, rows)
        if in_loss is not None and in_output is not None and in_loss.rows == in_output.rows:
            in_loss = in_output
        yield in_loss and in_loss._replace(output=output)
    for path, leaf in _leaves(y_pred):
        yield _of_rows(f"the output{path}", leaf, rows)
    for loss in model.losses:
        yield _whole("a loss of `add_loss` or a regularizer", loss)
    yield _whole("the loss", total)
    gradients = tape.gradient(total, model.trainable_weights)
    for weight, gradient in zip(model.trainable_weights, gradients, strict=True):
        if gradient is not None:
            yield _whole(f"the gradient of {weight.path}", tf.convert_to_tensor(gradient))


def _searched_update(
    update: updates.Update, parts: tuple[Any, Any, Any], rows: int
) -> Iterator[Diagnosis | None]:
    with tf.GradientTape() as tape:
        value = tf.convert_to_tensor(update.loss(*parts, True))
    yield _of_rows(f"the loss of the update {update.name!r}", value, rows)
    weights = update.weights()
    for weight, gradient in zip(weights, tape.gradient(value, weights), strict=True):
        if gradient is not None:
            what = f"the gradient of {weight.path} in the update {update.name!r}"
            yield _whole(what, tf.convert_to_tensor(gradient))


def _leaves(structure: Any) -> Iterator[tuple[str, tf.Tensor]]:
    """``(path, tensor)`` of the leaves that are dense tensors of floats."""
    for path, leaf in keras.tree.flatten_with_path(structure):
        if isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating:
            yield "".join(f"[{key!r}]" for key in path), leaf


def _of_rows(what: str, tensor: tf.Tensor, rows: int) -> Diagnosis | None:
    values = np.asarray(tf.cast(tensor, tf.float64))
    if values.ndim == 0 or len(values) != rows:
        return _whole(what, values)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if not len(bad):
        return None
    return Diagnosis(f"{what} is {_kind(values)}", rows=tuple(map(int, bad)))


def _whole(what: str, tensor: Any) -> Diagnosis | None:
    values = np.asarray(tf.cast(tensor, tf.float64))
    return None if np.isfinite(values).all() else Diagnosis(f"{what} is {_kind(values)}")


def _kind(values: np.ndarray) -> str:
    return "nan" if np.isnan(values).any() else "inf"
