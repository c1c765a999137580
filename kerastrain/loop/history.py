"""The history of a training, as Keras has it, that can plot itself."""

from typing import Any

import keras


class History(keras.callbacks.History):
    """What `Trainer.fit` returns: Keras's ``History``, with `plot`.

    Attributes:
        history: the results by name, as under Keras's ``fit``.
        epochs_of: the epochs, from 1, that the values of a result are of, by its name.
        validations: ``[steps, results]`` of each validation between steps
            (``FitOptions(validation_every=...)``), the steps counted over all epochs.
    """

    saved_as = keras.callbacks.History  # in a checkpoint: earlier versions had that

    def __init__(self) -> None:
        super().__init__()
        self.epochs_of: dict[str, list[int]] = {}
        self.validations: list[list[Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Notes the results."""
        super().on_epoch_end(epoch, logs)
        for name in logs or {}:
            self.epochs_of.setdefault(name, []).append(epoch + 1)

    def plot(self) -> Any:
        """Plots each result by epoch: training as a solid line, validation as a dashed one.

        Returns:
            An array of matplotlib axes, one for each result of training.

        Raises:
            ArgumentError: matplotlib is not installed; the message says how it is.
        """
        from kerastrain.report import plot_history  # which imports a plotting library

        return plot_history(self.history, self.epochs_of)
