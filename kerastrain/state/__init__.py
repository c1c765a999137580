"""The state of a training: every value that decides the next number, found and copied.

`ModelState` names every variable that steps may read or change: of the model, its optimizers,
metrics and losses, of callbacks, and of what functions of these hold. It finds them with `Walk`,
which follows what objects hold. What a training changes and no variable holds is noticed by
`python_state` and named in a warning. `HostCopies` keeps values in the host's memory, to be
rolled back to. `global_random` is the same for the generators that a whole process shares.

Above it, `kerastrain.guard` takes copies of the state around steps, and `kerastrain.run` writes it
to disk. Nothing here knows what a step is, or when anything happens.
"""

from kerastrain.state import digests
from kerastrain.state import global_random
from kerastrain.state import python_state
from kerastrain.state.callback_names import class_name
from kerastrain.state.callback_names import numbered
from kerastrain.state.digests import digest_of
from kerastrain.state.host_copies import HostCopies
from kerastrain.state.host_copies import learning_rates
from kerastrain.state.host_copies import rolled_back
from kerastrain.state.layer_states import keeps_more
from kerastrain.state.layer_states import layer_states
from kerastrain.state.layer_states import set_layer_states
from kerastrain.state.model_state import GROUPS
from kerastrain.state.model_state import ModelState
from kerastrain.state.model_state import OF_OTHERS
from kerastrain.state.python_digests import digest
from kerastrain.state.walk import Walk

__all__ = [
    "GROUPS",
    "HostCopies",
    "ModelState",
    "OF_OTHERS",
    "Walk",
    "class_name",
    "digest",
    "digest_of",
    "digests",
    "global_random",
    "keeps_more",
    "layer_states",
    "learning_rates",
    "numbered",
    "python_state",
    "rolled_back",
    "set_layer_states",
]
