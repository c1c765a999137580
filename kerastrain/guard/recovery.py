"""Running steps again from the last snapshot, and dealing with each bad one of them.

::

    recovery.replay()                # all of the journal, step by step where one is bad
    recovery.run_smaller(...)        # in more micro-batches, where memory was too small

As steps are the same functions of the same numbers, the variables are then, bit-exactly, those of a
training without the bad steps, on every replica.
"""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.data import Chunk
from kerastrain.distribution import merging
from kerastrain.errors import NonFiniteError
from kerastrain.guard import diagnosis
from kerastrain.guard.between import put
from kerastrain.guard.between import Settings
from kerastrain.guard.checks import Checks
from kerastrain.guard.journal import Journal
from kerastrain.guard.out_of_memory import Cuts
from kerastrain.guard.policy import SkippedBatches

Logs = list[Any] | None


class Recovery:
    """Runs the steps of a journal again.

    Args:
        model: the model that trains.
        journal, checks, cuts, skipped: of its training.

    Attributes:
        run: runs a chunk.
        epoch: that the steps are of.
        good_logs: of the last step of the epoch that was good, in a list, if it returned any.
    """

    def __init__(
        self,
        model: keras.Model,
        journal: Journal,
        checks: Checks,
        cuts: Cuts,
        skipped: SkippedBatches,
    ):
        self._model, self._journal, self._checks = model, journal, checks
        self._cuts, self._skipped = cuts, skipped
        self.run: Callable[[Chunk], Logs] | None = None
        self.epoch = 0
        self.good_logs: Logs = None

    def replay(self) -> Logs:
        """Runs what has run since the snapshot again, without the steps that are bad.

        Returns:
            The logs of the steps of the last chunk.

        Raises:
            NonFiniteError: the policy is to raise, or too many batches have been skipped. The
                variables are those before the step.
        """
        entries, logs = self._journal.entries, None
        self._journal.roll_back()
        for chunk, settings in entries:
            logs = self.run_again(chunk, settings)
        return logs

    def run_again(self, chunk: Chunk, settings: Settings) -> Logs:
        """Runs steps on top of the snapshot, and takes one: if need be, step by step."""
        try:
            logs = self._attempt(chunk, settings)
            good = self._checks.are_passed()
        except Exception:
            if chunk.steps == 1:
                self._journal.roll_back()
                raise
            good = False
        if not good:
            if chunk.steps > 1:
                self._journal.roll_back()
                steps = range(chunk.start, chunk.start + chunk.steps)
                # Lists of logs, or None each.
                each: list[Any] = [
                    self.run_again(chunk._replace(start=i, steps=1), settings) for i in steps
                ]
                return None if each[0] is None else [one[-1] for one in each]
            logs = self._without(chunk, settings, logs)
        elif logs is not None:
            self.good_logs = logs[-1:]
        self._journal.note(chunk, settings)
        self._journal.snapshot()
        return logs

    def run_smaller(self, chunk: Chunk, settings: Settings, error: Exception) -> Logs:
        """Repeats steps that memory was too small for; those before them run as they did."""
        number = self._cuts.micro_batches
        self.replay()
        if self._cuts.micro_batches == number:
            self._cut_further(chunk, error)
        return self.run_again(chunk, settings)

    def _cut_further(self, chunk: Chunk, error: Exception) -> None:
        self._cuts.cut_further(chunk, error, self.epoch, self._journal.now[0])

    def _attempt(self, chunk: Chunk, settings: Settings) -> Logs:
        """Runs steps, in more micro-batches if memory is too small."""
        run = self.run
        assert run is not None  # what was noted in the journal was run by it
        while True:
            put(settings)
            self._journal.has_run = True
            try:
                return run(chunk)
            except tf.errors.ResourceExhaustedError as error:
                if not self._cuts.allowed:
                    raise
                self._journal.roll_back()
                self._cut_further(chunk, error)

    def _without(self, one: Chunk, settings: Settings, logs: Logs) -> Logs:
        """Rolls back a step that is not finite, and applies the policy to it."""
        weights_are_good = self._checks.variables_are_finite()
        self._journal.roll_back()
        with self._journal.torn():  # it runs the forward pass
            found = diagnosis.diagnose(self._model, one.batch())
        self._journal.roll_back()
        if found is None and weights_are_good:
            # The sum of all losses has overflowed, and none of them.
            self._checks.counts_loss = False
            return self._attempt(one, settings)
        epoch, (step, steps) = self.epoch, self._journal.now
        message = diagnosis.step_in_words(found or diagnosis.UNKNOWN, one, epoch, step)
        put(settings)
        advice = self._skipped.refusal(epoch)
        if advice is not None:
            output, rows = (found.output, found.rows) if found else (None, ())
            raise NonFiniteError(message, epoch, step, output, rows, advice)
        self._skipped.add(epoch, step)
        end, kept = "Its batch is skipped.", self._skipped.kept
        if kept is not None:
            with self._journal.torn():
                kept.roll_back(steps + 1)
            put(settings)
            end = f"The weights are again those after {kept.steps} steps of the training."
        notices.warn(f"{message} {end}")
        if logs is None:
            return None
        results = self.good_logs or [_keras.python_logs(merging.results(self._model))]
        # Where no step has been good, what fresh metrics say is no result.
        only_bad = len(self._skipped.of(epoch)) > step
        return [merging.no_results(results[0])] if only_bad else results
