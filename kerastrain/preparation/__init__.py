"""Before the first step: what cannot work is refused, and what can go wrong is named.

`Preparation` does all of it, in order: the model is compiled besides the user's own compile state
(`CompiledModel`), built, checked on shapes alone (`target_checks`), and tried on a few rows without
a change (`lint`, which asks `logits`, `mixing` and others). `checks` has the plain checks of
arguments. `NotAModel` says what a `Trainer` is not. Only then is a weight changed. `Trials` are steps
of which nothing is left.
"""

from kerastrain.preparation import checks
from kerastrain.preparation import lint
from kerastrain.preparation import own_methods
from kerastrain.preparation import target_checks
from kerastrain.preparation.compiled_model import CompiledModel
from kerastrain.preparation.not_a_model import NotAModel
from kerastrain.preparation.prepare import Preparation
from kerastrain.preparation.trials import Trials

__all__ = [
    "CompiledModel",
    "NotAModel",
    "Preparation",
    "Trials",
    "checks",
    "lint",
    "own_methods",
    "target_checks",
]
