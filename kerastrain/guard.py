"""Steps that end well or not at all: non-finite ones, and those that memory is too small for.

::

    with GuardedSteps(model, ModelState(model)).training(Guard("skip")) as steps:
        steps.begin(epoch=0, step=0, steps=0)
        logs = steps.run(run, chunk)       # `run(chunk)`, in a transaction
        steps.verify()                     # before anybody looks at the model

A step is not finite where the loss, a weight, or what the optimizer keeps of one, is not finite
after it (`kerastrain.finite`). To find that inside each step, every gradient is to be read once
more, which made steps 11 to 40 % longer (a small perceptron and one of 21 million weights, by XLA
and in the graph). So steps run unchecked, the variables are checked now and then, and always
before an epoch ends or something is saved. Where they are not finite, all variables are put back
to the last copy, the steps since are run again, one by one, and the first that is not finite is
taken back. As the steps are the same functions of the same numbers, the weights are then to the
bit those before it, on every replica, unless plans are still being compared. Checks and copies
take a quarter of a percent of the time each, but there is one of each in an epoch; a copy is in the
host's memory.

What callbacks do between two steps is not run again, so it is noted (`kerastrain.between`). What they
set is kept with the steps that ran with it; where they change what steps change too, the next step
begins with a check and a copy, so that nothing goes back to before that.

What is not part of the transaction: TensorFlow's own random operations.

A step that memory is too small for (``ResourceExhaustedError``) is taken back in the same way,
and repeated in twice as many micro-batches, with ``StepOptions(micro_batches="auto")``.
"""

import contextlib
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import diagnosis
from kerastrain import merging
from kerastrain import notices
from kerastrain import rows as rows_lib
from kerastrain.between import Between
from kerastrain.between import Settings
from kerastrain.between import put
from kerastrain.blocks import Chunk
from kerastrain.blocks import bytes_of
from kerastrain.errors import NonFiniteError
from kerastrain.finite import Watch
from kerastrain.finite import is_finite_in
from kerastrain.model_state import ModelState
from kerastrain.options import Guard
from kerastrain.rollback import Kept
from kerastrain.variables import HostCopies

# Of the time, the part that goes into checks, and into copies.
_SHARE = 1 / 400
# The memory of copies that stays between trainings, in bytes, at most.
_MOST_BETWEEN = 2**24
# Batches that are held to be run again, at most.
_MOST_BYTES = 2**28

Run = Callable[[Chunk], list | None]


class GuardedSteps:
    """Runs train steps in transactions.

    At any time the variables are those of the copy, and what has run since on top of it: after
    `_put_back` nothing has, and after `_copy` nothing is left to be taken back. In between, where
    they are neither, `_is_torn` is set.

    Args:
        model: the model that trains, compiled.
        state: its variables.
        cut: lets steps take a batch in so many micro-batches from now on.

    Attributes:
        skipped: ``(epoch, step in it)`` of the steps that the training has left out, counted
            from 0.
        seconds: what checks and copies have taken in the training.
        is_training: whether it is inside `training`.
    """

    def __init__(
        self,
        model: keras.Model,
        state: ModelState,
        cut: Callable[[int], None] | None = None,
    ):
        self._model, self._state, self._cut = model, state, cut
        self._micro_batches = 1
        self.is_training = False
        self._copies = HostCopies([])
        self._watch: Watch | None = None
        self._check_seconds = self._copy_seconds = 0.0
        self._checked_at = self._copied_at = 0.0
        self._start(Guard("off"), False)

    def _start(self, options, cuts):
        self._options, self._cuts = options, cuts
        self._checks = options.policy != "off"
        self.skipped: list[tuple[int, int]] = []
        self.seconds = 0.0
        rolls_back = options.policy == "rollback"
        self._kept = Kept(self._state, options.every) if rolls_back else None
        self._begins, self._saves = True, False
        self._between = Between(self._state, self._touch)
        self._is_changed_by_callbacks = False
        self._is_torn = False
        self._epoch = 0
        self._now = self._copied = (0, 0)  # steps of the epoch, and of all, that have run
        self._run: Run | None = None
        self._good_logs: list | None = None
        self._logs: list | None = None  # of steps that were run again, and are to be told yet
        self._tells_loss = True
        self._reset()

    def _reset(self):
        self._since: list[tuple[Chunk, Settings]] = []  # what has run since the copy
        self._changed = False  # whether the variables may differ from the copy
        self._is_touched = False  # whether a callback has changed them since the last step
        self._held_bytes = 0  # of the blocks of these, but for the first
        self._block_bytes = 0  # of the last block

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
            if self._is_torn or self._changed and not self._is_good():
                self._put_back()
            raise
        finally:
            self.is_training = False
            self._run = self._kept = None
            self._reset()
            self._copies.forget(_MOST_BETWEEN)

    # The steps --------------------------------------------------------------------

    def begin(
        self, epoch: int, step: int, steps: int, acts: bool = False, saves: bool = False
    ) -> None:
        """An epoch begins, or goes on.

        Args:
            epoch: its number.
            step: how many of its steps have run.
            steps: how many have run in all epochs.
            acts: whether callbacks may act between its steps.
            saves: whether they may save the model there.
        """
        if not (self._checks or self._cuts):
            return
        if self._begins:
            self._find_variables()
        self._begins = False
        self._epoch, self._now = epoch, (step, steps)
        self._saves = saves or self._is_changed_by_callbacks
        self._good_logs, self._tells_loss = None, True
        self._copy()
        self._checked_at = time.perf_counter()
        if self._kept is not None:
            self._kept.keep_if_due(self._now[1])
        self._between.begin(acts)
        self._between.open(self._copies, has_run=False)

    def room(self) -> int:
        """How many steps may run in one call."""
        return 2**31 - 1 if self._kept is None else self._kept.room(self._now[1])

    def run(self, run: Run, chunk: Chunk) -> list | None:
        """Runs steps; those that are found not to be finite are dealt with as the policy says.

        Args:
            run: runs a `Chunk`, and returns the logs of its steps or None.
            chunk: what is to be run.

        Raises:
            NonFiniteError: the policy is to raise, or too many have been left out. The
                variables are those before the step.
        """
        if not (self._checks or self._cuts):
            return run(chunk)
        self._between.close()
        self._logs = None
        if self._is_touched:
            self._accept()
        logs = self._run_noted(run, chunk)
        self._between.open(self._copies, bool(self._since))
        return logs

    def _run_noted(self, run, chunk):
        self._run, self._changed = run, True
        settings = self._between.settings()
        try:
            logs = run(chunk)
        except tf.errors.ResourceExhaustedError as error:
            if not self._cuts:
                raise
            return self._run_smaller(chunk, settings, error)
        except Exception:
            if self._is_good():
                raise
            self._note(chunk, settings)  # it may follow from a step that was not finite
            return self._replay()
        self._note(chunk, settings)
        now = time.perf_counter()
        odd = self._checks and logs is not None and not is_finite_in(logs[-1])
        crowded = self._held_bytes > _MOST_BYTES
        is_due = now - self._checked_at >= self._check_seconds / _SHARE
        if odd or crowded or is_due or self._saves:
            if not self._is_good():
                return self._replay()
            self._good_logs = logs and logs[-1:]
            if crowded or now - self._copied_at >= self._copy_seconds / _SHARE:
                self._copy()
        if self._kept is not None and self.room() == self._options.every:
            logs = self.verify() or logs
            self._kept.keep_if_due(self._now[1])
        return logs

    def verify(self) -> list | None:
        """Makes sure that all steps so far are finite.

        Returns:
            The logs of the last steps, if they had to be run again.

        Raises:
            NonFiniteError: as `run` does.
        """
        logs, self._logs = self._logs, None
        if self._is_touched:
            self._accept()
        if not self._changed or self._is_good():
            return logs
        # Callbacks have had their say after the last step, and may have more.
        with self._between.closed():
            settings = self._between.settings()
            logs = self._replay()
            put(settings)
        return logs

    def verify_all(self) -> list | None:
        """`verify`, and that nobody else has left anything that is not finite.

        Raises:
            NonFiniteError: as `verify` does; or a callback has.
        """
        logs = self.verify()
        self._check_callbacks()
        return logs

    def _check_callbacks(self):
        if self._checks and self._watch and not self._watch.all_are_finite(losses=False):
            raise diagnosis.of_callbacks(self._epoch, self._now[0])

    def end(self) -> list | None:
        """The epoch has no more steps: `verify`, and lets go of its data.

        Raises:
            NonFiniteError: as `verify` does; or more than half of its steps were left out.
        """
        logs = self.verify()
        self._between.close()
        self._reset()
        diagnosis.check_left_out(self._left_out(), self._now[0], self._epoch)
        return logs

    def _left_out(self):
        """The steps of this epoch that were left out."""
        return [step for epoch, step in self.skipped if epoch == self._epoch]

    # Copies and checks --------------------------------------------------------------

    def _find_variables(self):
        generator = _keras.global_random_state()
        variables = [*self._state.variables().values()]
        variables += [] if generator is None else [generator]
        known = [*map(id, variables)] == [*map(id, self._copies.variables)]
        # One with values that were not finite before is looked at again.
        if known and self._watch and self._watch.is_whole and self._watch.all_are_finite():
            return
        self._watch = Watch(self._model, self._state.changed_by_steps().values())
        self._copies = HostCopies(variables, self._state.find_tables())
        if self._watch.left_alone and self._checks:
            notices.warn(
                f"{', '.join(self._watch.left_alone[:3])} has values that are not finite before "
                "the first step: it is not watched."
            )
        self._is_good()  # so that its time is known

    def _meet(self, variables):
        """A step is about to change variables that no step has changed so far."""
        if self._begins or not (self._checks or self._cuts):
            return
        self._copies.add(variables)
        if self._kept is not None:
            self._kept.add(variables)
        changed = {id(v) for v in self._state.changed_by_steps().values()}
        self._watch.add(v for v in variables if id(v) in changed)

    # What callbacks do --------------------------------------------------------------

    def _touch(self):
        """A callback is about to change variables; it has seen them as they are."""
        if not self._is_touched:
            self._logs = self.verify()
            # From here on they are verified before it sees them.
            self._is_touched = self._saves = self._is_changed_by_callbacks = True

    def _accept(self):
        """Callbacks have changed variables since the last step: they are not taken back."""
        self._is_touched = False
        self._check_callbacks()
        self._copy()

    def _note(self, chunk, settings):
        if self._since and self._since[-1][0].block is not chunk.block:
            if not (chunk.block.is_batch and self._block_bytes):
                self._block_bytes = bytes_of(chunk.block.data)
            self._held_bytes += self._block_bytes
        self._since.append((chunk, settings))
        self._now = self._now[0] + chunk.steps, self._now[1] + chunk.steps

    def _copy(self):
        """Lets nothing that has run be taken back; the variables have been found to be good."""
        begun = time.perf_counter()
        self._copies.take()
        self._reset()
        self._copied = self._now
        self._copied_at = time.perf_counter()
        self._copy_seconds = self._copied_at - begun
        self.seconds += self._copy_seconds

    def _put_back(self):
        self._is_torn = True
        self._copies.put_back()
        self._is_torn = False
        self._reset()
        self._now = self._copied

    def _is_good(self):
        if not self._checks:
            return True
        begun = time.perf_counter()
        good = self._watch.all_are_finite(self._tells_loss)
        self._checked_at = time.perf_counter()
        self._check_seconds = self._checked_at - begun
        self.seconds += self._check_seconds
        return good

    # Taking back ----------------------------------------------------------------------

    def _replay(self):
        """Runs what has run since the copy again, and deals with each bad step of it.

        Returns:
            The logs of the steps of the last chunk.
        """
        since, logs = self._since, None
        self._put_back()
        for chunk, settings in since:
            logs = self._again(chunk, settings)
        return logs

    def _again(self, chunk, settings):
        """Runs steps on top of the copy, and makes one: if need be, step by step."""
        try:
            logs = self._attempt(chunk, settings)
            good = self._is_good()
        except Exception:
            if chunk.steps == 1:
                self._put_back()
                raise
            good = False
        if not good:
            if chunk.steps > 1:
                self._put_back()
                steps = range(chunk.start, chunk.start + chunk.steps)
                each = [self._again(Chunk(chunk.block, i, 1), settings) for i in steps]
                return None if each[0] is None else [one[-1] for one in each]
            logs = self._without(chunk, settings, logs)
        elif logs is not None:
            self._good_logs = logs[-1:]
        self._note(chunk, settings)
        self._copy()
        return logs

    def _attempt(self, chunk, settings):
        """Runs steps, in more micro-batches if memory is too small."""
        while True:
            put(settings)
            self._changed = True
            try:
                return self._run(chunk)
            except tf.errors.ResourceExhaustedError as error:
                if not self._cuts:
                    raise
                self._put_back()
                self._cut_further(chunk, error)

    def _without(self, one, settings, logs):
        """Takes back a step that is not finite, and decides what is done in its stead."""
        weights_are_good = self._watch.variables_are_finite()
        self._put_back()
        self._is_torn = True  # it runs the forward pass
        found = diagnosis.diagnose(self._model, one.batch())
        self._put_back()
        if found is None and weights_are_good:
            self._tells_loss = False  # the sum of all losses has overflowed, and none of them
            return self._attempt(one, settings)
        epoch, step = self._epoch, self._now[0]
        told = diagnosis.step_in_words(found or diagnosis.UNKNOWN, one, epoch, step)
        put(settings)
        advice = None
        if self._options.policy == "raise":
            advice = diagnosis.ADVICE
        elif len(self._left_out()) >= self._options.most:
            advice = (
                f"More than most={self._options.most} steps of the epoch were left out. Repair "
                f"what is named, or pass Guard({self._options.policy!r}, most=...)."
            )
        if advice is not None:
            output, rows = (found.output, found.rows) if found else (None, ())
            raise NonFiniteError(told, epoch, step, output, rows, advice)
        self.skipped.append((epoch, step))
        end = "It is left out."
        if self._kept is not None:
            self._is_torn = True
            self._kept.put_back(self._now[1] + 1)
            self._is_torn = False
            put(settings)
            end = f"The weights are again those after {self._kept.steps} steps of the training."
        notices.warn(f"{told} {end}")
        if logs is None:
            return None
        results = self._good_logs or [_keras.python_logs(merging.results(self._model))]
        # Where no step has been good, what fresh metrics say is no result.
        return results if len(self._left_out()) <= step else [merging.no_results(results[0])]

    # Out of memory ----------------------------------------------------------------------

    def _run_smaller(self, chunk, settings, error):
        """Repeats steps that memory was too small for; those before them run as they did."""
        number = self._micro_batches
        self._replay()
        if self._micro_batches == number:
            self._cut_further(chunk, error)
        return self._again(chunk, settings)

    def _cut_further(self, chunk, error):
        rows, number = rows_lib.known_rows(chunk.batch()), 2 * self._micro_batches
        if number > rows:
            raise error
        self._cut_into(number)
        notices.warn(
            f"Memory is too small for step {self._now[0] + 1} of epoch {self._epoch + 1}: "
            f"{diagnosis.reason_of(error)}. From it on, each batch is cut into {number} "
            "micro-batches; no step is lost."
        )

    def _cut_into(self, number):
        self._cut(number)
        self._micro_batches = number

    # Save and resume ------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a resumed training needs to decide as this one does; arrays are not copied."""
        return {
            "skipped": [list(where) for where in self.skipped],
            "micro_batches": self._micro_batches,
            "kept": self._kept and self._kept.state(),
        }

    def cut_as(self, state: dict[str, Any]) -> None:
        """Cuts batches as when `state` was called: with fewer parts memory was too small."""
        if self._cuts and state["micro_batches"] != self._micro_batches:
            self._cut_into(state["micro_batches"])

    def set_state(self, state: dict[str, Any]) -> None:
        """As `state` gave it."""
        self.skipped = [(epoch, step) for epoch, step in state["skipped"]]
        self.cut_as(state)
        if self._kept is not None:
            self._kept.set_state(state["kept"])
