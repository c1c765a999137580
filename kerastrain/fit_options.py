"""What of a training is run, and when it is validated: beyond Keras's own arguments of ``fit``.

::

    trainer.fit(x, y, options=FitOptions(fast_dev_run=True))                  # does it run at all?
    trainer.fit(x, y, epochs=99, options=FitOptions(overfit_batches=4))       # can it learn four batches?
    trainer.fit(x, y, epochs=9, options=FitOptions(limit_train_batches=0.1))
    trainer.fit(x, y, epochs=9, options=FitOptions(validation_every=1000))
"""

import dataclasses
import datetime
from typing import Literal

from kerastrain import validation
from kerastrain.errors import ArgumentError

Count = int | float


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """Options of a training, for `Trainer.fit`.

    Attributes:
        limit_train_batches: the batches of an epoch at most: a whole number, or a share of those that there
            are, as 0.1. The next epoch continues where one has stopped, as with ``steps_per_epoch``.
        limit_validation_batches: the same of each validation set, of which each validation takes the first.
        overfit_batches: trains on the same batches in each epoch, the first ones, in their order, to see
            whether the model can learn them: the loss should go to its least.
        fast_dev_run: one epoch of one batch, with one batch of each validation set, and without
            ``run_dir``, to see whether all of it runs. Callbacks are called.
        max_time: after these seconds, or this ``datetime.timedelta``, the training ends with the step
            that runs: it returns what has been trained, without the results of the broken epoch. With
            ``run_dir`` it is saved, and the next call continues it.
        validation_every: validates after so many steps, too: whenever the steps of all epochs together
            are a multiple of it; default ``"epoch"``, after epochs alone (``validation_freq``), which is
            done in any case. The results are in ``history.validations``, in ``events.jsonl`` of the
            ``run_dir``, and given to ``on_test_end`` of callbacks; the logs of epochs are of the weights
            at the end of each. For epochs of so many steps, with all that depends on epochs (early
            stopping, the best model), pass ``steps_per_epoch`` instead.

    Raises:
        ArgumentError: a value that cannot work, or two that exclude each other.

    Example:
        >>> FitOptions(limit_train_batches=10).limit_train_batches
        10
    """

    limit_train_batches: Count | None = None
    limit_validation_batches: Count | None = None
    overfit_batches: int | None = None
    fast_dev_run: bool = False
    max_time: float | datetime.timedelta | None = None
    validation_every: int | Literal["epoch"] = "epoch"

    def __post_init__(self) -> None:
        if self.validation_every != "epoch":
            validation.whole_number("validation_every", self.validation_every, 1, '"epoch"')
        for name in ("limit_train_batches", "limit_validation_batches"):
            value = getattr(self, name)
            if isinstance(value, float):
                if not 0.0 < value <= 1.0:
                    raise ArgumentError(
                        f"`{name}` must be a whole number of batches, or a share above 0.0 up to 1.0. "
                        f"Received: {name}={value!r}."
                    )
            elif value is not None:
                validation.whole_number(name, value, 1, "a share such as 0.1, or None")
        if self.overfit_batches is not None:
            validation.whole_number("overfit_batches", self.overfit_batches, 1, "None")
            if self.limit_train_batches is not None:
                raise ArgumentError(
                    f"limit_train_batches={self.limit_train_batches} and "
                    f"overfit_batches={self.overfit_batches} both say which batches are trained on. "
                    "Remove one of them."
                )
        if self.max_time is not None:
            if not isinstance(self.max_time, datetime.timedelta):
                validation.positive_number(
                    "max_time", self.max_time, "a datetime.timedelta, or None"
                )
            elif self.max_time.total_seconds() <= 0:
                raise ArgumentError(
                    f"`max_time` must be above 0. Received: max_time={self.max_time!r}."
                )

    @property
    def steps_between_validations(self) -> int | None:
        """Those of ``validation_every``, if they are counted."""
        every = self.validation_every
        return None if isinstance(every, str) else every

    @property
    def of_training(self) -> Count | None:
        """The batches of an epoch at most."""
        return 1 if self.fast_dev_run else self.overfit_batches or self.limit_train_batches

    @property
    def of_validation(self) -> Count | None:
        """The same of a validation set."""
        return 1 if self.fast_dev_run else self.limit_validation_batches

    @property
    def seconds(self) -> float | None:
        """After which the training ends."""
        time = self.max_time
        return time.total_seconds() if isinstance(time, datetime.timedelta) else time
