"""Which plans may run steps, and what is expected of XLA."""

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.execution import plan_choice
from kerastrain.execution.compiled_steps import Steps
from kerastrain.execution.plan_choice import Plan
from kerastrain.execution.step_calls import StepKind
from kerastrain.options import Execution

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def candidates(execution: Execution, steps: Steps, kind: StepKind) -> list[Plan]:
    """The plans that may run, the surest first; a step at a time if nothing else can."""
    step, loop, xla = plan_choice.STEP, plan_choice.LOOP, plan_choice.XLA_LOOP
    by_xla, own = [xla] if steps.can_use_xla(kind.name) else [], kind.is_users
    if execution.run_eagerly or execution.plan == "step":
        return [step]
    if execution.plan.startswith("xla"):
        return [*by_xla, loop, step]
    if execution.plan == "loop":
        return [loop, step]
    if steps.jit_compile and kind.name != "predict":
        return [xla]
    if execution.deterministic:
        return [step] if own else [loop, step]
    return [step, loop, *by_xla] if own else [loop, *by_xla, step]


def expected_gain_of_xla(model: keras.Model) -> float:
    """The share of the time that XLA is expected to save, before it is tried."""
    convolves = any(isinstance(one, _CONVOLUTIONS) for one in _keras.all_layers(model))
    on_cpu = not tf.config.list_physical_devices("GPU")
    return plan_choice.XLA_GAIN_OF_CONVOLUTIONS if convolves and on_cpu else plan_choice.XLA_GAIN
