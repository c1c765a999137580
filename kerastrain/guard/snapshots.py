"""A snapshot of a model and its optimizer, to roll back to.

::

    kept = Snapshot(state, every=100)
    kept.keep_if_due(steps)            # after each step, or at least where one is due
    kept.roll_back(steps)

Which states are kept depends on the number of steps alone, so that a resumed training goes back to
the same. A state is saved by the names of its variables (`ModelState.variables`): in the order in
which steps find them it would differ between processes.
"""

from typing import Any

from kerastrain import _keras
from kerastrain.errors import RunError
from kerastrain.state import HostCopies
from kerastrain.state import learning_rates
from kerastrain.state import ModelState
from kerastrain.state import OF_OTHERS


class Snapshot:
    """A state that was good: all but metrics, learning rates and states of random generators.

    Args:
        state: of the model, built and compiled.
        every: the steps between two.

    Attributes:
        steps: after how many steps of the training it was kept.
    """

    def __init__(self, state: ModelState, every: int):
        self._state, self._every = state, every
        self._copies: HostCopies | None = None
        self.steps = self._next = 0

    def steps_until_due(self, steps: int) -> int:
        """The steps until one may be taken, after ``steps`` of the training."""
        return self._every - steps % self._every

    def keep_if_due(self, steps: int) -> None:
        """Takes one of the present state, if it is due after ``steps``, or if there is none."""
        if self._copies is None:
            variables = self._variables().values()
            self._copies = HostCopies(variables, self._state.find_tables())
        elif steps % self._every or steps < self._next:
            return
        self._copies.take()
        self.steps, self._next = steps, steps + self._every

    def roll_back(self, steps: int) -> None:
        """Rolls back to it, after ``steps`` of the training; it stays the last for a while."""
        assert self._copies is not None  # one was taken when the epoch began
        self._copies.restore()
        self._next = steps + self._every

    def add(self, variables: list[Any]) -> None:
        """Keeps the present values of more variables, which no step has changed so far."""
        if self._copies is not None:
            wanted = {id(v) for v in self._variables().values()}
            self._copies.add(v for v in variables if id(v) in wanted)

    def _variables(self) -> dict[str, Any]:
        named = self._state.variables()
        left_out = self._state.left_by_rollback()
        left_out |= {*map(id, learning_rates(self._state.optimizers()))}
        return {name: v for name, v in named.items() if id(v) not in left_out}

    def state(self) -> dict[str, Any] | None:
        """What a resumed training needs; arrays are not copied."""
        if self._copies is None:
            return None
        # Two objects may stand for one variable, and names may have changed since it was kept.
        named = self._state.variables().items()
        names: dict[int | None, str] = {
            handle: name for name, v in named for handle in _keras.handles_of(v)
        }
        values = {}
        for variable, parts in zip(self._copies.variables, self._copies.values, strict=True):
            name = names.get(next(iter(_keras.handles_of(variable)), None))
            if name is not None:  # else nothing holds it any more
                values[name] = parts
        tables = self._copies.of_tables
        return {"of": self.steps, "next": self._next, "values": values, "tables": tables}

    def set_state(self, state: dict[str, Any] | None) -> None:
        """As `state` gave it.

        Raises:
            RunError: it has variables that there are not now.
        """
        # Before version 0.8 it had no names: the present state is kept instead.
        if state is None or isinstance(state["values"], list):
            return
        variables, values = self._variables(), state["values"]
        missing = [n for n in values if n not in variables and not n.startswith(OF_OTHERS)]
        if missing:
            raise RunError(
                f'The state that guard="rollback" keeps has {missing[0]}, which there is not now. '
                "Pass the model, loss and optimizer that the run was begun with, or another run_dir."
            )
        names = [name for name in values if name in variables]
        tables = self._state.find_tables()
        self._copies = HostCopies([variables[name] for name in names], tables)
        self._copies.values = [values[name] for name in names]
        self._copies.of_tables = state.get("tables", tables.states())  # not in the first versions
        self.steps, self._next = state["of"], state["next"]
