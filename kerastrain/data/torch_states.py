"""Torch's random numbers, as a ``DataLoader`` draws from them pass by pass."""

import numpy as np


class TorchStates:
    """The states of torch's random numbers where a pass of a ``DataLoader`` begins."""

    def __init__(self) -> None:
        self._begun: np.ndarray | None = None
        self._next: np.ndarray | None = None

    def begin(self) -> None:
        """A pass begins."""
        if self._next is not None:
            self._set(self._next)
            self._next = None
        self._begun = self._now()

    def state(self, is_open: bool) -> dict[str, np.ndarray | None]:
        """Where a pass was begun last, and, if none is open, now."""
        return {"begun": self._begun, "now": None if is_open else self._now()}

    def set_state(self, state: dict | np.ndarray) -> None:
        """Lets the next pass begin where one was begun last, then."""
        self._next = state["begun"] if isinstance(state, dict) else state

    def finish_state(self, state: dict | np.ndarray) -> None:
        """Lets the next pass begin as it was then, where none was open."""
        self._begun = state["begun"] if isinstance(state, dict) else None
        self._next = state["now"] if isinstance(state, dict) else state

    @staticmethod
    def _now() -> np.ndarray:
        import torch

        return torch.get_rng_state().numpy().copy()

    @staticmethod
    def _set(state: np.ndarray) -> None:
        import torch

        torch.set_rng_state(torch.from_numpy(state.copy()))
