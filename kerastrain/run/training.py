"""What a run saves of a training, and what it compares."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any
from typing import Protocol

import keras

from kerastrain.data import Source
from kerastrain.execution import Runner
from kerastrain.guard import GuardedSteps
from kerastrain.state import ModelState


class KnowsWhatTrains(Protocol):
    """Of a training's preparation, what a run asks for (`kerastrain.preparation.Preparation`)."""

    def begin(self) -> None:
        """Right before the first step: what trains now does so to the end."""

    def trainable(self) -> dict[str, list[Any]]:
        """Which layers train, to be saved."""

    def plans(self) -> dict[str, str]:
        """How the steps of each kind run: a line."""

    def begun_as(
        self, saved: dict[str, list[Any]] | None
    ) -> contextlib.AbstractContextManager[None]:
        """Inside, the same layers train as when the run was begun."""


@dataclasses.dataclass
class Training:
    """What is saved of a training, and what identifies it.

    Attributes:
        state: the variables of the model that trains, which is built and compiled.
        sources: the data sets by name, that to train on as ``"x"``.
        callbacks: all of them.
        runner: gives what runs the steps of a kind, ``"train"`` or ``"test"``.
        guard: what runs the train steps of that.
        preparation: knows which layers train.
        seed: as the user passed it.
        epochs: to stop before.
        options: other arguments that decide numbers, by name.
    """

    state: ModelState
    sources: dict[str, Source]
    callbacks: list[keras.callbacks.Callback]
    runner: Callable[[str], Runner]
    guard: GuardedSteps
    preparation: KnowsWhatTrains
    seed: int | None
    epochs: int
    options: dict[str, Any]
