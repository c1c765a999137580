"""Transactional steps: non-finite ones, and those that memory is too small for, are rolled back.

::

    with GuardedSteps(model, ModelState(model)).training(Guard("skip")) as steps:
        steps.begin(epoch=0, step=0, steps=0)
        logs = steps.run(run, chunk)       # `run(chunk)`, in a transaction
        steps.verify()                     # before anybody looks at the model

A step is not finite where the loss, a weight, or what the optimizer keeps of one, is not finite
after it (`kerastrain.guard.finite`). To find that inside each step, every gradient is to be read once
more, which made steps 11 to 40 % longer (a small perceptron and one of 21 million weights, by XLA
and in the graph). So steps run unchecked, the variables are checked now and then, and always
before an epoch ends or something is saved. Where they are not finite, all variables are rolled back
to the last snapshot, the steps since are replayed, one by one, and the first that is not finite is
rolled back. As the steps are the same functions of the same numbers, the weights are then
bit-exactly those before it, on every replica, unless plans are still being compared. Checks and
snapshots take a quarter of a percent of the time each, but there is one of each in an epoch; a
snapshot is in the host's memory.

What callbacks do between two steps is not replayed, so it is noted (`kerastrain.guard.between`). What they
set is kept with the steps that ran with it; where they change what steps change too, the next step
begins with a check and a snapshot, so that nothing is rolled back to before that.

What is not part of the transaction: TensorFlow's own random operations.

A step that memory is too small for (``ResourceExhaustedError``) is rolled back in the same way,
and repeated in twice as many micro-batches, with ``StepOptions(micro_batches="auto")``.
"""

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain.data import Chunk
from kerastrain.distribution import Cluster
from kerastrain.distribution import cluster_of
from kerastrain.distribution import Votes
from kerastrain.guard import diagnosis
from kerastrain.guard.between import Between
from kerastrain.guard.between import put
from kerastrain.guard.checks import Checks
from kerastrain.guard.finite import is_finite_in
from kerastrain.guard.journal import Journal
from kerastrain.guard.out_of_memory import Cuts
from kerastrain.guard.policy import SkippedBatches
from kerastrain.guard.recovery import Logs
from kerastrain.guard.recovery import Recovery
from kerastrain.options import Guard
from kerastrain.state import HostCopies
from kerastrain.state import ModelState

Run = Callable[[Chunk], Logs]


class GuardedSteps:
    """Runs train steps in transactions.

    It has a method for each event of a training; what they do is done by its parts.

    Args:
        model: the model that trains, compiled.
        state: its variables.
        cut: sets the number of micro-batches from now on.
        cluster: of the workers that train together; None for this process alone.

    Attributes:
        skipped: ``(epoch, step in it)`` of the batches that the training has skipped, counted
            from 0.
        is_training: whether it is inside `training`.
    """

    def __init__(
        self,
        model: keras.Model,
        state: ModelState,
        cut: Callable[[int], None] | None = None,
        cluster: Cluster | None = None,
    ):
        self._model, self._state = model, state
        cluster = cluster or cluster_of(None)
        self._journal, self._cuts = Journal(), Cuts(cut)
        self._checks = Checks(model, state, cluster)
        self.is_training = False
        self.join(Votes(cluster))
        self._start(Guard("off"), False)

    def _start(self, options: Guard, may_cut: bool) -> None:
        self._options, self._cuts.allowed = options, may_cut
        self._journal.start()
        self._checks.start(enabled=options.policy != "off")
        self._is_used = self._checks.enabled or may_cut
        skipped = SkippedBatches(options, self._state)
        self.skipped, self._skipped, self._kept = skipped.all, skipped, skipped.kept
        self._recovery = Recovery(self._model, self._journal, self._checks, self._cuts, skipped)
        self._has_begun, self._saves = False, False
        self._between = Between(self._state, self._touch)
        self._is_changed_by_callbacks = self._is_touched = False
        self._logs: Logs = None  # of steps that were run again, and that callbacks are yet to get

    @contextlib.contextmanager
    def training(self, options: Guard, cuts: bool = False) -> Iterator["GuardedSteps"]:
        """Around one training.

        Args:
            options: what to do about steps that are not finite.
            cuts: whether steps that memory is too small for are run in more micro-batches.
        """
        self._start(options, cuts)
        self.is_training = True
        try:
            with self._state.telling(self._meet), self._between.watching():
                yield self
        except BaseException:
            # What has run since the last check is in nobody's logs.
            journal = self._journal
            if journal.is_torn or journal.has_run and not self._checks.are_passed(alone=True):
                journal.roll_back()
            raise
        finally:
            self.is_training = False
            self._kept = self._skipped.kept = self._recovery.run = None
            self._journal.end()

    @property
    def seconds(self) -> float:
        """What checks and snapshots have taken in the training."""
        return self._checks.seconds + self._journal.seconds

    def join(self, votes: Votes) -> None:
        """Lets the workers agree when checks and snapshots are due."""
        votes.ask("check", "chief", lambda: self._checks.is_due())
        votes.ask("snapshot", "chief", lambda: self._journal.snapshot_is_due())
        self._votes = votes

    # The steps --------------------------------------------------------------------

    def begin(
        self,
        epoch: int,
        step: int,
        steps: int,
        callbacks_may_act: bool = False,
        saves: bool = False,
    ) -> None:
        """An epoch begins, or is resumed.

        Args:
            epoch: its number.
            step: how many of its steps have run.
            steps: how many have run in all epochs.
            callbacks_may_act: whether callbacks may act between its steps.
            saves: whether they may save the model there.
        """
        if not self._is_used:
            return
        if not self._has_begun:
            self._find_variables()
        self._has_begun, self._is_touched = True, False
        self._recovery.epoch, self._recovery.good_logs = epoch, None
        self._journal.now = step, steps
        self._saves = saves or self._is_changed_by_callbacks
        self._journal.snapshot()
        self._checks.begin_epoch()
        if self._kept is not None:
            self._kept.keep_if_due(steps)
        self._between.begin(callbacks_may_act)
        self._between.open(self._journal.copies, has_run=False)

    def max_steps(self) -> int:
        """How many steps may run in one call."""
        return 2**31 - 1 if self._kept is None else self._kept.steps_until_due(self._journal.now[1])

    def run(self, run: Run, chunk: Chunk) -> Logs:
        """Runs steps; those that are found not to be finite are dealt with as the policy says.

        Args:
            run: runs a `Chunk`, and returns the logs of its steps or None.
            chunk: what is to be run.

        Raises:
            NonFiniteError: the policy is to raise, or too many have been skipped. The
                variables are those before the step.
        """
        if not self._is_used:
            return run(chunk)
        self._between.close()
        self._logs = None
        if self._is_touched:
            self._accept()
        logs = self._run_noted(run, chunk)
        self._between.open(self._journal.copies, bool(self._journal.entries))
        return logs

    def _run_noted(self, run: Run, chunk: Chunk) -> Logs:
        journal, checks, recovery = self._journal, self._checks, self._recovery
        recovery.run, journal.has_run = run, True
        settings = self._between.settings()
        try:
            logs = run(chunk)
        except tf.errors.ResourceExhaustedError as error:
            if not self._cuts.allowed:
                raise
            return recovery.run_smaller(chunk, settings, error)
        except Exception:
            if self._votes.cluster.has_others or checks.are_passed():
                raise  # it may be of this worker alone: the others cannot replay with it
            journal.note(chunk, settings)  # it may follow from a step that was not finite
            return recovery.replay()
        journal.note(chunk, settings)
        odd = checks.enabled and logs is not None and not is_finite_in(logs[-1])
        if odd or journal.is_crowded or self._votes["check"] or self._saves:
            if not checks.are_passed():
                return recovery.replay()
            recovery.good_logs = logs and logs[-1:]
            if journal.is_crowded or self._votes["snapshot"]:
                journal.snapshot()
        if self._kept is not None and self.max_steps() == self._options.snapshot_every:
            logs = self.verify() or logs
            self._kept.keep_if_due(journal.now[1])
        return logs

    def verify(self) -> Logs:
        """Makes sure that all steps so far are finite.

        Returns:
            The logs of the last steps, if they had to be run again.

        Raises:
            NonFiniteError: as `run` does.
        """
        logs, self._logs = self._logs, None
        if self._is_touched:
            self._accept()
        if not self._journal.has_run or self._checks.are_passed():
            return logs
        # Callbacks have had their say after the last step, and may have more.
        with self._between.closed():
            settings = self._between.settings()
            logs = self._recovery.replay()
            put(settings)
        return logs

    def verify_all(self) -> Logs:
        """`verify`, and that nobody else has left anything that is not finite.

        Raises:
            NonFiniteError: as `verify` does; or a callback has.
        """
        logs = self.verify()
        if not self._checks.callbacks_left_all_finite():
            raise diagnosis.of_callbacks(self._recovery.epoch, self._journal.now[0])
        return logs

    def pause(self) -> Logs:
        """Something else than steps is to run, until `begin`: `verify`, and lets go of the data.

        Raises:
            NonFiniteError: as `verify` does.
        """
        logs = self.verify()
        self._between.close()
        self._journal.clear()
        self._is_touched = False
        return logs

    def end(self) -> Logs:
        """The epoch has no more steps: as `pause`.

        Raises:
            NonFiniteError: as `verify` does; or more than half of its batches were skipped.
        """
        logs = self.pause()
        self._skipped.check_end_of(self._recovery.epoch, self._journal.now[0])
        return logs

    # Variables, and what callbacks do to them -----------------------------------------

    def _find_variables(self) -> None:
        generator = _keras.global_random_state()
        variables = [*self._state.variables().values()]
        variables += [] if generator is None else [generator]
        if self._journal.is_of(variables) and self._checks.are_of_all():
            return
        self._checks.watch()
        self._journal.copies = HostCopies(variables, self._state.find_tables())
        self._checks.are_passed()  # so that its time is known

    def _meet(self, variables: list[Any]) -> None:
        """A step is about to change variables that no step has changed so far."""
        if not (self._has_begun and self._is_used):
            return
        self._journal.copies.add(variables)
        if self._kept is not None:
            self._kept.add(variables)
        self._checks.add(variables)

    def _touch(self) -> None:
        """A callback is about to change variables; it has seen them as they are."""
        if not self._is_touched:
            self._logs = self.verify()
            # From here on they are verified before it sees them.
            self._is_touched = self._saves = self._is_changed_by_callbacks = True

    def _accept(self) -> None:
        """Callbacks have changed variables since the last step: they are not rolled back."""
        self._is_touched = False
        if not self._checks.callbacks_left_all_finite():
            raise diagnosis.of_callbacks(self._recovery.epoch, self._journal.now[0])
        self._journal.snapshot()

    # Save and resume ------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a resumed training needs to decide as this one does; arrays are not copied."""
        return {
            "skipped": [list(where) for where in self.skipped],
            "micro_batches": self._cuts.micro_batches,
            "kept": self._kept and self._kept.state(),
        }

    def cut_as(self, state: dict[str, Any]) -> None:
        """Cuts batches as when `state` was called: with fewer parts memory was too small."""
        if self._cuts.allowed:
            self._cuts.cut_into(state["micro_batches"])

    def set_state(self, state: dict[str, Any]) -> None:
        """As `state` gave it."""
        self.skipped[:] = [(epoch, step) for epoch, step in state["skipped"]]
        self.cut_as(state)
        if self._kept is not None:
            self._kept.set_state(state["kept"])
