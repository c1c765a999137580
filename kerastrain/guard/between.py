"""What callbacks do to a model between two steps. It is not replayed with the steps, so it is noted.

::

    between = Between(state, about_to_assign)
    with between.watching():
        between.begin(callbacks_may_act=True)
        between.open(copies, True)       # now callbacks act; `about_to_assign()` may be called
        between.close()
        settings = between.settings()    # what the next step runs with
        ...
        put(settings)                    # before that step is run again

Each assignment in Python is seen before it happens, at no cost for steps, which are compiled. There
are two kinds. Learning rates, and other small variables that steps only read, are settings: their
values are kept with each step. What else is assigned is noticed. Not seen is what a function
assigns that a callback has compiled before.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator

import tensorflow as tf

from kerastrain import _keras
from kerastrain.state import HostCopies
from kerastrain.state import learning_rates
from kerastrain.state import ModelState

# Numbers of a variable that is a setting, at most.
_SMALL = 1024

Settings = list[tuple[tf.Variable, tf.Tensor]]


class Between:
    """What callbacks assign between the steps of one training.

    Args:
        state: the variables of the model that trains.
        about_to_assign: called before each assignment to a variable that is no setting.
    """

    def __init__(self, state: ModelState, about_to_assign: Callable[[], None]):
        self._state, self._about_to_assign = state, about_to_assign
        self._stack = contextlib.ExitStack()
        # On each replica, by handle.
        self._settings: dict[int, tf.Variable] = {}
        self._of_steps: set[int] = set()
        self._is_watching = self._callbacks_may_act = self._has_run = False
        self._copies: HostCopies | None = None  # where it is for callbacks to act

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around a training."""
        with self._stack:
            yield

    def begin(self, callbacks_may_act: bool) -> None:
        """An epoch begins.

        Args:
            callbacks_may_act: whether they may act between its steps.
        """
        self._callbacks_may_act = callbacks_may_act
        if not callbacks_may_act:
            return
        optimizers = self._state.optimizers()
        variables = [v for one in optimizers for v in one.variables]
        variables += self._state.model.trainable_variables
        self._of_steps = {handle for v in variables for handle in _keras.handles_of(v)}
        for rate in learning_rates(optimizers):
            self._settings |= {id(part.handle): part for part in _keras.local_variables(rate)}
        if not self._is_watching:
            self._stack.enter_context(_keras.assignments_seen(self._assigned))
            self._is_watching = True

    def open(self, copies: HostCopies, has_run: bool) -> None:
        """A step has run: it is for callbacks to act.

        Args:
            copies: what the variables were before the last steps.
            has_run: whether any have run since.
        """
        if self._callbacks_may_act:
            self._copies, self._has_run = copies, has_run

    def close(self) -> None:
        """A step is about to run."""
        self._copies = None

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Inside, the variables are restored, and steps run again."""
        copies, self._copies, self._has_run = self._copies, None, False
        yield
        self._copies = copies

    def settings(self) -> Settings:
        """What callbacks have set, and steps only read."""
        if not self._callbacks_may_act:
            return []
        # As `variable.value()`, in half of its time.
        return [
            (v, tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=v.dtype))
            for v in self._settings.values()
        ]

    def _assigned(self, variable: tf.Variable) -> None:
        """A variable, on one replica, is about to be assigned."""
        copies = self._copies
        if copies is None:
            return
        handle = id(variable.handle)
        if handle in self._settings:
            return
        before = copies.of(variable)
        if before is None:  # one that no step changes, nor reads
            return
        self._copies = None
        if handle not in self._of_steps and self._has_run and before.size <= _SMALL:
            if before.tobytes() == variable.numpy().tobytes():
                self._settings[handle] = variable
                self._copies = copies
                return
        self._about_to_assign()
        self._copies = copies


def put(settings: Settings) -> None:
    """Sets what callbacks had set."""
    for variable, value in settings:
        variable.assign(value)
