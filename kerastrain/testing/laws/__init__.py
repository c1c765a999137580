"""The laws that a metric obeys, by family.

`LAWS` has all of them by name, in the order in which they are checked: cheap and
basic ones first.
"""

from kerastrain.testing.laws import configuration
from kerastrain.testing.laws import execution
from kerastrain.testing.laws import masks
from kerastrain.testing.laws import numbers
from kerastrain.testing.laws import reference
from kerastrain.testing.laws import state
from kerastrain.testing.laws import stream
from kerastrain.testing.laws import weights
from kerastrain.testing.laws.law import Law

_FAMILIES = (state, stream, weights, configuration, numbers, masks, reference, execution)
LAWS: dict[str, Law] = {
    value.name: value
    for family in _FAMILIES
    for value in vars(family).values()
    if isinstance(value, Law)
}
