"""Metrics: states of their own for each set of data, and early warnings.

One metric object serves all sets; what each set owns is the *state*, the
values of the metric's variables::

    states = MetricStates(model)
    states.reset()                   # once per epoch: the train state
    with states.set_aside():         # validation begins fresh, in the same objects
        ...
    # here every metric has its train state again

So a metric needs no configuration to be copied, all sets share one compiled
step, ``reset_state`` runs once per epoch, and after ``fit`` the object that the
user passed in holds the train result of the last epoch. (Keras 3.15.1 resets
the train state when validation begins.)
"""

import contextlib
import warnings
from collections.abc import Iterator

import keras

from kerastrain import _keras


class MetricStates:
    """The metric state of the set that runs, and the states set aside.

    Args:
        model: a built, compiled model; its ``metrics`` are handled.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._fresh: dict[int, list] = {}

    def _variables(self):
        found = {}
        for metric in self._model.metrics:
            for variable in metric.variables:
                found[id(variable)] = variable
        return found

    def reset(self) -> None:
        """Resets every metric, by ``model.reset_metrics``."""
        self._model.reset_metrics()
        self._fresh = {
            key: _keras.read_local(variable)
            for key, variable in self._variables().items()
        }

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Inside, metrics start fresh; afterwards they have their state again.

        Copies each metric's variables once on the way in (a few kilobytes for
        most metrics).
        """
        variables = self._variables()
        kept = {key: _keras.read_local(v) for key, v in variables.items()}
        if variables.keys() <= self._fresh.keys():
            for key, variable in variables.items():
                _keras.assign_local(variable, self._fresh[key])
        else:
            self._model.reset_metrics()
        try:
            yield
        finally:
            for key, variable in variables.items():
                _keras.assign_local(variable, kept[key])


@contextlib.contextmanager
def warn_if_never_updated(model: keras.Model) -> Iterator[None]:
    """Warns of metrics that the step traced inside does not update.

    Such a metric would be logged as if it had been measured. Keras's own loss
    trackers are left out: a custom step may do without them.
    """
    own = {id(_keras.loss_tracker(model))}
    own |= {id(m) for m in _keras.output_loss_trackers(model)}
    watched = [m for m in _keras.leaf_metrics(model) if id(m) not in own]
    updated = set()

    def watch(metric):
        update = metric.update_state

        def update_state(*args, **kwargs):
            updated.add(id(metric))
            return update(*args, **kwargs)

        metric.__dict__["update_state"] = update_state

    for metric in watched:
        watch(metric)
    try:
        yield
    finally:
        for metric in watched:
            metric.__dict__.pop("update_state", None)
    silent = [m.name for m in watched if id(m) not in updated]
    if silent:
        warnings.warn(
            f"The metrics {silent} of {type(model).__name__} are not updated by its "
            "step, so their logged values mean nothing. Call `update_state` in "
            "`compute_metrics`, pass them as `metrics=`, or remove them.",
            stacklevel=2,
        )


def warn_of_plain_tensors(model: keras.Model, logs: dict) -> None:
    """Warns of returned values that are no metric: they are of the last batch only."""
    known = set(model.get_metrics_result())
    plain = sorted(set(logs) - known)
    if plain:
        warnings.warn(
            f"The step of {type(model).__name__} returns {plain}, which are no "
            "metrics: the epoch's logs would show their values in the last batch. "
            "Return the result of a `keras.metrics.Mean` that the step updates.",
            stacklevel=2,
        )
