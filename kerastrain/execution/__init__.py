"""How K steps run: one by one, or many in one compiled call; which of these is measured.

::

    Runner  takes chunks of a source
      -> plan_choice   which plan, and how many steps in one call, by their times
      -> Steps         the compiled step of a batch, or a loop over a block of batches

A plan that fails gives way to the next simpler one, with the same batches and the same numbers.
`FitLoops` gives the same loops to Keras's own ``fit``. `Times` says where the time went.
"""

from kerastrain.execution.agreement import other_batches
from kerastrain.execution.compiled_steps import Steps
from kerastrain.execution.compiled_steps import trainable_state
from kerastrain.execution.fit_loops import AUTO_STEPS
from kerastrain.execution.fit_loops import FitLoops
from kerastrain.execution.plan_choice import Choice
from kerastrain.execution.runner import Runner
from kerastrain.execution.step_calls import Listening
from kerastrain.execution.step_calls import run_and_notify
from kerastrain.execution.step_calls import StepCall
from kerastrain.execution.step_calls import StepKind
from kerastrain.execution.timing import Times

__all__ = [
    "AUTO_STEPS",
    "Choice",
    "FitLoops",
    "Listening",
    "Runner",
    "StepCall",
    "StepKind",
    "Steps",
    "Times",
    "other_batches",
    "run_and_notify",
    "trainable_state",
]
