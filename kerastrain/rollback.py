"""A state of a model and its optimizer that is kept, to go back to.

::

    kept = Kept(state, every=100)
    kept.keep_if_due(steps)            # after each step, or at least where one is due
    kept.put_back(steps)

Which states are kept depends on the number of steps alone, so that a resumed training goes back to
the same.
"""

from typing import Any

from kerastrain.model_state import ModelState
from kerastrain.variables import HostCopies


class Kept:
    """A state that was good: all but metrics, learning rates and states of random generators.

    Args:
        state: of the model, built and compiled.
        every: after so many steps the next is kept.

    Attributes:
        steps: after how many steps of the training it was kept.
    """

    def __init__(self, state: ModelState, every: int):
        self._state, self._every = state, every
        self._copies: HostCopies | None = None
        self.steps = self._next = 0

    def room(self, steps: int) -> int:
        """How many steps may run after so many, until one may be kept."""
        return self._every - steps % self._every

    def keep_if_due(self, steps: int) -> None:
        """Keeps the present state after so many steps, if it is time: or if there is none."""
        if self._copies is None:
            self._copies = HostCopies(self._variables())
        elif steps % self._every or steps < self._next:
            return
        self._copies.take()
        self.steps, self._next = steps, steps + self._every

    def put_back(self, steps: int) -> None:
        """Goes back, after so many steps; it stays the one that is kept for a while."""
        self._copies.put_back()
        self._next = steps + self._every

    def add(self, variables: list[Any]) -> None:
        """Keeps the present values of more variables, which no step has changed so far."""
        if self._copies is not None:
            wanted = {id(v) for v in self._variables()}
            self._copies.add(v for v in variables if id(v) in wanted)

    def _variables(self):
        variables = self._state.variables().values()
        left_out = self._state.left_by_rollback()
        return [v for v in variables if id(v) not in left_out and v.name != "learning_rate"]

    def state(self) -> dict[str, Any] | None:
        """What a resumed training needs; arrays are not copied."""
        if self._copies is None:
            return None
        return {"of": self.steps, "next": self._next, "values": self._copies.values}

    def set_state(self, state: dict[str, Any] | None) -> None:
        """As `state` gave it."""
        if state is not None:
            self._copies = HostCopies(self._variables())
            self._copies.values = state["values"]
            self.steps, self._next = state["of"], state["next"]
