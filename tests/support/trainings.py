"""Trainings by the step alone, run eagerly: no loop, no checks and no traces, so they are quick."""

import contextlib

import keras
import tensorflow as tf

from kerastrain import Execution
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain.distribution import strategy
from kerastrain.execution.compiled_steps import Steps


def by_steps(build, compiled, batches, where=None, options=None, epochs=2):
    """Trains by `kerastrain.step` alone, as a `TrainableModel` would.

    Args:
        build: makes the model; takes the class of its base. It is called in the scope.
        compiled: gives the arguments of ``compile``; it is called in the scope.
        batches: of an epoch; a list of ``(x, y)`` or ``(x, y, sample_weight)``.
        where: the name of a strategy, or None.
        options: `StepOptions`.
        epochs: how often the batches are gone through.

    Returns:
        ``(model, history)``, as of ``fit``.
    """
    options = options or StepOptions()
    keras.utils.set_random_seed(3)
    scope = strategy.resolve(where)
    history = {}
    with scope.scope() if scope else contextlib.nullcontext():
        model = build(TrainableModel)
        if not model.built:
            model(batches[0][0])
        model.compile(**compiled(), **options.changed())
        model.optimizer.build(model.trainable_variables)
        steps = Steps(model, scope, options, Execution(run_eagerly=True))
    step = steps.single_step("train", report=True)
    tensors = [tf.nest.map_structure(tf.convert_to_tensor, batch) for batch in batches]
    for _ in range(epochs):
        model.reset_metrics()
        for batch in tensors:
            logs = step(batch)
        for name, value in logs.items():
            history.setdefault(name, []).append(float(value))
    return model, history
