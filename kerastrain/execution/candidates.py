"""Which plans may run steps, what is expected of XLA, and what earlier processes know of them."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.distribution import cluster_of
from kerastrain.errors import UnsupportedByXla
from kerastrain.execution import plan_choice
from kerastrain.execution import plans
from kerastrain.execution.compiled_steps import Steps
from kerastrain.execution.plan_choice import Choice
from kerastrain.execution.plan_records import key_of
from kerastrain.execution.plan_records import PlanRecords
from kerastrain.execution.plan_records import Recalled
from kerastrain.execution.plans import Plan
from kerastrain.execution.step_calls import StepKind
from kerastrain.options import Execution
from kerastrain.xla import support as xla_support

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
    step, loop, xla = plans.STEP, plans.LOOP, plans.XLA_LOOP
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


def leave_out_xla(
    choice: Choice, model: keras.Model, steps: Steps, kind: str, how: Execution
) -> None:
    """Where it cannot be used, and says so where it was asked for."""
    refusal = xla_support.refusal_of_model(model)
    if refusal:
        choice.drop(plans.XLA_LOOP, UnsupportedByXla(refusal))
    if kind != "train" or not (how.jit_compile or how.plan.startswith("xla")):
        return
    asked = "`jit_compile=True`" if how.jit_compile else f"The plan {how.plan!r}"
    if refusal:
        notices.warn(f"{asked} cannot be compiled: {refusal} The loop in the graph runs.")
    elif not (how.jit_compile or steps.can_use_xla("train")):
        notices.warn(
            f"{asked} cannot be used under this strategy: XLA compiles "
            "kerastrain's own step on several replicas, and no step on one. "
            "The loop in the graph runs."
        )


def recalled(
    model: keras.Model, steps: Steps, execution: Execution, what: Callable[[], Any]
) -> Recalled:
    """What earlier processes have measured of plans.

    Of several workers each has measured what all have agreed on, which its own records are not.

    Args:
        model: whose steps they are.
        steps: that are compiled.
        execution: how.
        what: gives what else their time depends on.
    """
    if not execution.cache or cluster_of(steps.strategy).has_others:
        return Recalled(None)
    strategy = type(steps.strategy).__name__
    return Recalled(PlanRecords(lambda: key_of(model, strategy, steps.options, execution, what())))
