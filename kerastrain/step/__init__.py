"""What one step is: forward, loss, gradients, one sum over the replicas, clip, update, metrics.

`steps` has it from beginning to end, for both `Trainer` and ``model.fit``, and for any number of
replicas and micro-batches. `kerastrain.step.objectives` is what it minimises, one loss or those of
several `updates`. `loss` weighs each part of a batch by its own denominator, `rows` cuts
batches and puts them together, and `kerastrain.step.gradients` sums and clips. Nothing here knows
how steps are compiled, or what happens between them.
"""

from kerastrain.step import loss
from kerastrain.step import rows
from kerastrain.step import steps
from kerastrain.step import updates
from kerastrain.step.updates import Update

__all__ = [
    "Update",
    "loss",
    "rows",
    "steps",
    "updates",
]
