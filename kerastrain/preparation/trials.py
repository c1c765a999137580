"""Steps that train, and of which nothing is left: for searches.

::

    trials = Trials(compiled, preparation, state, metric_states)
    with trials.of(source) as make_runner:
        runner = make_runner(Listening.BETWEEN)
        ...
    # all variables, tables and random generators are as before
"""

import contextlib
import functools
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import numpy as np

from kerastrain.data import Source
from kerastrain.distribution import MetricStates
from kerastrain.execution import Listening
from kerastrain.execution import Runner
from kerastrain.loop import Evaluation
from kerastrain.preparation.compiled_model import CompiledModel
from kerastrain.preparation.prepare import Preparation
from kerastrain.state import ModelState


class Trials:
    """Trial steps of a compiled model.

    Args:
        compiled, preparation: the model, and what has been checked and compiled of it.
        state: its variables.
        states: of its metrics.
    """

    def __init__(
        self,
        compiled: CompiledModel,
        preparation: Preparation,
        state: ModelState,
        states: MetricStates,
    ):
        self._compiled, self._preparation, self._state = compiled, preparation, state
        self._states, self._evaluation = states, Evaluation(compiled.model, states)

    @contextlib.contextmanager
    def of(self, source: Source) -> Iterator[Callable[[Listening], Runner]]:
        """Around train steps on a source, which is closed; gives what makes a runner of them."""
        preparation = self._preparation
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._compiled.activated())
            stack.enter_context(contextlib.closing(source))
            stack.callback(preparation.end)
            preparation.ready(source)
            preparation.begin()
            with self._state.untouched():
                yield functools.partial(preparation.runner, "train", anew=True)

    def loss_of_step(self, logs: dict[str, Any] | None) -> float:
        """The loss of the only step that the metrics have seen, which are reset; NaN after a bad one."""
        loss = float(self._evaluation.epoch_logs(logs, "train").get("loss", math.nan))
        self._states.reset()
        weights = (np.asarray(w, "float32") for w in self._compiled.model.trainable_weights)
        return loss if all(np.isfinite(values).all() for values in weights) else math.nan
