"""Short trials that train and leave nothing behind: for a learning rate, and for a batch size.

::

    found = trainer.find_learning_rate(x, y)
    found.suggestion, found.plot()
    print(trainer.find_batch_size(x, y))
"""

import random
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kerastrain import _keras
from kerastrain import validation
from kerastrain.assembly import Assembly
from kerastrain.data import free_memory
from kerastrain.data import Source
from kerastrain.errors import ArgumentError
from kerastrain.errors import DataError
from kerastrain.errors import ModelError
from kerastrain.execution import Listening
from kerastrain.loop import batch_sizes
from kerastrain.loop import learning_rates
from kerastrain.preparation import CompiledModel
from kerastrain.quoting import short_tracebacks


class Searches:
    """The methods of `kerastrain.Trainer` that try something out."""

    _parts: Assembly
    _seed: int | None
    take_up_compile: Callable[[], CompiledModel]

    @short_tracebacks
    def find_learning_rate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        *,
        sample_weight: Any = None,
        lowest: float = 1e-6,
        highest: float = 10.0,
        steps: int = 100,
    ) -> learning_rates.LearningRates:
        """Trains a few steps with rates from very low to too high, and sees where the loss falls most.

        Weights, optimizer, metrics and random generators are afterwards what they were before, to the
        bit; what a data set or a layer keeps in Python objects is not restored. The test is of
        L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", 2017.

        Args:
            x, y, sample_weight, batch_size: as for ``fit``. A generator is refused: it would lose the
                batches.
            lowest, highest: the rates to begin and end with; each is the one before times a factor. It
                ends before where the loss is four times its best, or not finite.
            steps: how many rates are tried, a step each; epochs are repeated where there are too few.

        Returns:
            `kerastrain.loop.learning_rates.LearningRates`, with ``suggestion`` (None and a warning where
            the loss never falls), ``rates``, ``losses``, ``smoothed`` and ``plot()``.

        Raises:
            ArgumentError: numbers that cannot be, or an optimizer with a schedule.
            KerastrainError: as for ``fit``, before any step.

        Example:
            >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            >>> trainer = kerastrain.Trainer(model, optimizer="adam", loss="mse", seed=0)
            >>> x = np.random.default_rng(0).normal(size=(256, 3))
            >>> found = trainer.find_learning_rate(x, x.sum(axis=1), steps=60)
            >>> 1e-3 < found.suggestion < 1.0
            True
        """
        for name, value in (("lowest", lowest), ("highest", highest)):
            validation.positive_number(name, value, "a learning rate")
        if not lowest < highest:
            raise ArgumentError(
                f"`lowest` must be below `highest`. Received: lowest={lowest!r}, highest={highest!r}."
            )
        validation.whole_number("steps", steps, 10, "the default, 100")
        learning_rates.check_optimizer(self.take_up_compile().optimizer)
        drawn = random.getstate()  # from which a source without a seed draws one
        source = self._trial_source(x, y, sample_weight, batch_size=batch_size)
        with self._parts.trials.of(source) as runner:
            found = learning_rates.measured(
                runner(Listening.BETWEEN),
                source,
                self._parts.compiled.optimizer,
                np.geomspace(lowest, highest, steps),
                self._parts.trials.loss_of_step,
            )
        random.setstate(drawn)
        learning_rates.warn_without_suggestion(found)
        return found

    @short_tracebacks
    def find_batch_size(
        self,
        x: Any,
        y: Any = None,
        *,
        sample_weight: Any = None,
        sizes: Sequence[int] | None = None,
        seconds: float = 60.0,
    ) -> batch_sizes.BatchSizes:
        """Measures how fast steps are with batches of several sizes, and the memory that they take.

        It ends where larger batches are no faster, do not fit into memory, or the time is over. Nothing
        is left of the steps, as of those of `find_learning_rate`.

        Args:
            x, y, sample_weight: arrays, as for ``fit``.
            sizes: rows of a global batch to try, in increasing order; default powers of two from 8 on, as
                far as there are rows.
            seconds: about the time to be taken. A size that has been begun is measured.

        Returns:
            `kerastrain.loop.batch_sizes.BatchSizes`, to be printed, with ``suggestion``, the smallest size
            with nine tenths of the best throughput, ``measured`` (of each size ``rows_per_second``,
            ``step_seconds``, ``peak_bytes`` and the plan), ``stopped`` and ``plot()``.

        Raises:
            ArgumentError: numbers that cannot be.
            DataError: ``x`` is no array, so that its batches are what they are.
            KerastrainError: as for ``fit``, before any step.

        Example:
            >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            >>> trainer = kerastrain.Trainer(model, optimizer="adam", loss="mse", execution="loop")
            >>> found = trainer.find_batch_size(np.ones((64, 3)), np.ones((64, 1)), sizes=[16, 32])
            >>> [one.size for one in found.measured]
            [16, 32]
        """
        validation.positive_number("seconds", seconds, "the default, 60.0")
        drawn = random.getstate()
        whole = self._trial_source(x, y, sample_weight)
        given = x if _keras.are_arrays(x) else whole.arrays  # of text, the source has batches alone
        rows = None if given is None else keras.tree.flatten(given)[0].shape[0]
        whole.close()
        if rows is None:
            raise DataError(
                "`x` gives batches, whose size is not the trainer's to choose. Pass arrays to "
                "`find_batch_size`."
            )
        sizes = _sizes(sizes, rows)

        def measure(size: int) -> batch_sizes.BatchSize:
            source = self._trial_source(x, y, sample_weight, batch_size=size)
            with self._parts.trials.of(source) as runner:
                return batch_sizes.measured(runner(Listening.NEVER), source, size)

        found = batch_sizes.compared(sizes, float(seconds), measure, free_memory)
        random.setstate(drawn)
        return found

    def _trial_source(self, *data: Any, **options: Any) -> Source:
        parts = self._parts
        parts.refuse_within_fit()
        if parts.cluster.has_others:
            raise ModelError(
                "Several workers train: what is measured differs by worker. Search in a process by itself, "
                "without the strategy."
            )
        source = parts.source(*data, seed=self._seed, **options)
        if source.is_one_shot:
            source.close()
            raise DataError(
                "`x` is a generator, which a search would use up. Pass arrays, a keras.utils.PyDataset or a "
                "tf.data.Dataset."
            )
        return source


def _sizes(sizes: Sequence[int] | None, rows: int) -> list[int]:
    if sizes is None:
        return [2**power for power in range(3, 31) if 2**power <= rows] or [rows]
    found = [validation.whole_number("sizes", size, 1, "None") for size in sizes]
    if not found or found != sorted({*found}) or found[-1] > rows:
        raise ArgumentError(
            f"`sizes` must be in increasing order, and none above the rows of x, {rows}. Received: "
            f"sizes={list(sizes)!r}."
        )
    return found
