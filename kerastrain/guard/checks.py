"""Whether the variables of a training are finite, checked now and then, and how long that takes."""

import time
from collections.abc import Iterable
from typing import Any

import keras

from kerastrain import notices
from kerastrain.distribution import Cluster
from kerastrain.guard import finite
from kerastrain.guard.finite import FiniteCheck
from kerastrain.state import ModelState


class Checks:
    """The checks of one training after another of a model.

    Args:
        model: the model that trains, compiled.
        state: its variables.
        cluster: of the workers, which judge together.

    Attributes:
        enabled: whether anything is checked.
        counts_loss: whether a loss that is not finite counts.
        seconds: what checks have taken in the training.
    """

    def __init__(self, model: keras.Model, state: ModelState, cluster: Cluster):
        self._model, self._state, self._cluster = model, state, cluster
        self._watch: FiniteCheck | None = None
        self._seconds_of_one = self._checked_at = 0.0
        self.start(enabled=False)

    def start(self, enabled: bool) -> None:
        """A training begins."""
        self.enabled, self.counts_loss, self.seconds = enabled, True, 0.0

    def begin_epoch(self) -> None:
        """The variables are good, and all losses are of the epoch that begins."""
        self.counts_loss, self._checked_at = True, time.perf_counter()

    def are_of_all(self) -> bool:
        """Whether all variables that steps change are watched, and finite."""
        watch = self._watch
        # One with values that were not finite before is looked at again.
        return self._all(watch is not None and watch.is_whole and watch.all_are_finite())

    def _all(self, good: bool) -> bool:
        """Whether it holds on all workers: each has batch statistics and losses of its own."""
        return not self._cluster.any(not good)

    def watch(self) -> None:
        """Watches what steps change from now on."""
        self._watch = FiniteCheck(self._model, self._state.changed_by_steps().values())
        if self._watch.excluded and self.enabled:
            notices.warn(
                f"{', '.join(self._watch.excluded[:3])} has values that are not finite before "
                "the first step: it is not watched."
            )

    def add(self, variables: Iterable[Any]) -> None:
        """Watches more variables, as far as steps change them."""
        changed = {id(v) for v in self._state.changed_by_steps().values()}
        self._watched().add(v for v in variables if id(v) in changed)

    def _watched(self) -> FiniteCheck:
        """What is watched, once `watch` was called, as it is before the first step."""
        assert self._watch is not None
        return self._watch

    def is_due(self) -> bool:
        """Whether a check now takes a small enough share of the time since the last."""
        return time.perf_counter() - self._checked_at >= self._seconds_of_one / finite.SHARE

    def are_passed(self, alone: bool = False) -> bool:
        """Whether all is finite, the loss too where it counts.

        Args:
            alone: whether this worker judges by itself, as the others may have gone.
        """
        if not self.enabled:
            return True
        begun = time.perf_counter()
        good = self._watched().all_are_finite(self.counts_loss)
        good = good if alone else self._all(good)
        self._checked_at = time.perf_counter()
        self._seconds_of_one = self._checked_at - begun
        self.seconds += self._seconds_of_one
        return good

    def variables_are_finite(self) -> bool:
        """Whether all but the loss are."""
        return self._all(self._watched().variables_are_finite())

    def callbacks_left_all_finite(self) -> bool:
        """Whether nobody else has left anything that is not finite, after a step that was good."""
        watch = self._watch
        return not (self.enabled and watch) or self._all(watch.all_are_finite(losses=False))
