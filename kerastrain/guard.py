"""Steps that end well or not at all: non-finite ones, and those that memory is too small for.

::

    with GuardedSteps(model).training(Guard("skip")) as steps:
        steps.begin(epoch=0, step=0, steps=0)
        logs = steps.run(run, chunk)       # `run(chunk)`, in a transaction
        steps.verify()                     # before anybody looks at the model

A step is not finite where the loss or a weight is not finite after it. To find that inside each
step, every gradient is to be read once more, which made steps 11 to 40 % longer (a small
perceptron and one of 21 million weights, by XLA and in the graph). So steps run unchecked, the
weights are checked now and then, and always before something outlives it: the end of an epoch,
a save. Where they are not finite, all variables are put back to the last copy, the steps since
are run again, one by one, and the first that is not finite is taken back. As the steps are the
same functions of the same numbers, the weights are then to the bit those before it, on every
replica. Checks and copies take a quarter of a percent of the time each, but there is one of each in
an epoch; a copy is in the host's memory.

What is not part of the transaction: variables that no layer, optimizer or metric of the model
holds, TensorFlow's own random operations, and what callbacks that listen to batches do to a model
between two steps other than to set the learning rate.

A step that memory is too small for (``ResourceExhaustedError``) is taken back in the same way,
and repeated in twice as many micro-batches, with ``StepOptions(micro_batches="auto")``.
"""

import contextlib
import math
import re
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain import merging
from kerastrain import rows as rows_lib
from kerastrain.blocks import Chunk
from kerastrain.blocks import bytes_of
from kerastrain.diagnosis import diagnose
from kerastrain.errors import NonFiniteError
from kerastrain.options import Guard
from kerastrain.variables import HostCopies
from kerastrain.variables import variables_of

# Of the time, the part that goes into checks, and into copies.
_SHARE = 1 / 400
# The memory of copies that stays between trainings, in bytes, at most.
_MOST_BETWEEN = 2**24
# Batches that are held to be run again, at most.
_MOST_BYTES = 2**28

Run = Callable[[Chunk], list | None]


class GuardedSteps:
    """Runs train steps in transactions.

    Args:
        model: the model that trains, compiled.
        cut: lets steps take a batch in so many micro-batches from now on.

    Attributes:
        skipped: ``(epoch, step in it)`` of the steps that the training has left out, counted
            from 0.
        seconds: what checks and copies have taken in the training.
    """

    def __init__(self, model: keras.Model, cut: Callable[[int], None] | None = None):
        self._model, self._cut = model, cut
        self._micro_batches = 1
        self._options = Guard("off")
        self._cuts = self._checks = self._is_on = False
        self.skipped: list[tuple[int, int]] = []
        self.seconds = 0.0
        self._key: Any = None
        self._copies = HostCopies([])
        self._watched: list = []
        self._check: Callable[[], Any] | None = None
        self._check_seconds = self._copy_seconds = 0.0
        self._checked_at = self._copied_at = 0.0
        self._kept: HostCopies | None = None
        self._kept_of = self._keep_next = 0
        self._begins, self._finds_more = True, False
        self._rate: Any = None
        self._forget()

    @contextlib.contextmanager
    def training(self, options: Guard, cuts: bool = False) -> Iterator["GuardedSteps"]:
        """Around one training.

        Args:
            options: what to do about steps that are not finite.
            cuts: whether steps that memory is too small for are run in more micro-batches.
        """
        self._options, self._cuts = options, cuts
        self._checks = options.policy != "off"
        self._is_on = self._checks or cuts
        self.skipped, self._kept, self.seconds = [], None, 0.0
        self._begins, self._finds_more = True, False
        self._forget()
        try:
            yield self
        except BaseException:
            # What has run since the last check is in nobody's logs.
            if self._since and not self._is_good():
                self._copies.put_back()
            raise
        finally:
            self._forget()
            self._kept = None
            self._copies.forget(_MOST_BETWEEN)

    def _forget(self):
        self._since: list[tuple[Chunk, Any]] = []  # what has run since the copy
        self._done = 0  # the steps of these
        self._held_bytes = 0  # of the blocks of these, but for the first
        self._block_bytes = 0  # of the last block
        self._run: Run | None = None

    # The steps --------------------------------------------------------------------

    def begin(self, epoch: int, step: int, steps: int, acts: bool = False) -> None:
        """An epoch begins, or goes on.

        Args:
            epoch: its number.
            step: how many of its steps have run.
            steps: how many have run in all epochs.
            acts: whether callbacks may act between its steps.
        """
        if not self._is_on:
            return
        if self._begins:
            self._find_variables()
            # It may make some when it is first run, as the slots of an optimizer.
            own = _keras.overrides(self._model, "train_step")
            self._finds_more = own or not self._model.optimizer.built
        self._begins = False
        self._epoch, self._step, self._steps = epoch, step, steps
        self._rate = _learning_rate(self._model.optimizer) if acts else None
        self._done = 0
        self._copy()
        self._checked_at = time.perf_counter()
        self._keep_if_due()

    def _find_variables(self):
        variables = list(variables_of(self._model).values())
        weights = [w for w in self._model.trainable_weights if _is_float(w)]
        odd = [w for w in weights if not _is_finite(w)]
        if odd and self._begins and self._checks:
            warnings.warn(
                f"{', '.join(w.path for w in odd[:3])} has values that are not finite before the "
                "first step: it is not watched.",
                stacklevel=5,
            )
        watched = [w for w in weights if all(w is not other for other in odd)]
        key = [*map(id, variables)], [*map(id, watched)]
        if key != self._key:
            self._key, self._watched = key, watched
            self._copies = HostCopies(variables)
            self._check = _sum_of([*watched, *_losses(self._model)])
            self._is_good()  # so that its time is known

    def room(self) -> int:
        """How many steps may run in one call."""
        if self._finds_more:
            return 1
        if self._options.policy != "rollback":
            return 2**31 - 1
        return self._options.every - (self._steps + self._done) % self._options.every

    def run(self, run: Run, chunk: Chunk) -> list | None:
        """Runs steps; those that are found not to be finite are dealt with as the policy says.

        Args:
            run: runs a `Chunk`, and returns the logs of its steps or None.
            chunk: what is to be run.

        Raises:
            NonFiniteError: the policy is to raise, or too many have been left out. The
                variables are those before the step.
        """
        if not self._is_on:
            return run(chunk)
        self._run = run
        rate = None if self._rate is None else self._rate.value()
        try:
            logs = run(chunk)
        except tf.errors.ResourceExhaustedError as error:
            if not self._cuts:
                raise
            logs = self._run_smaller(chunk, rate, error)
        else:
            self._note(chunk, rate)
        if self._finds_more:
            return self._with_more(logs)
        now = time.perf_counter()
        odd = self._checks and logs is not None and not math.isfinite(logs[-1].get("loss", 0.0))
        if odd or now - self._checked_at >= self._check_seconds / _SHARE:
            if not self._is_good():
                return self._repaired()
            crowded = self._held_bytes > _MOST_BYTES
            if crowded or now - self._copied_at >= self._copy_seconds / _SHARE:
                self._copy()
        if self._options.policy == "rollback" and self.room() == self._options.every:
            self.verify()
            self._keep_if_due()
        return logs

    def _with_more(self, logs):
        """After the first step, if variables may have been made in it: these were 0 before it."""
        self._finds_more = False
        known, good = self._copies, self._is_good()
        if good:
            self._find_variables()
            self._copy()
            return logs
        known.put_back()
        for variable in variables_of(self._model).values():
            if all(variable is not other for other in known.variables):
                variable.assign(tf.zeros_like(variable))
        self._find_variables()
        self._copies.take()
        return self._repaired()

    def verify(self) -> None:
        """Makes sure that all steps so far are finite.

        Raises:
            NonFiniteError: as `run` does.
        """
        if self._since and not self._is_good():
            self._repaired()

    # Copies and checks --------------------------------------------------------------

    def _note(self, chunk, rate=None):
        if self._since and self._since[-1][0].block is not chunk.block:
            if not (chunk.block.is_batch and self._block_bytes):
                self._block_bytes = bytes_of(chunk.block.data)
            self._held_bytes += self._block_bytes
        self._since.append((chunk, rate))
        self._done += chunk.steps

    def _copy(self):
        """What has run is not taken back any more; the variables are known to be good."""
        self._step, self._steps = self._step + self._done, self._steps + self._done
        self._since, self._done, self._held_bytes = [], 0, 0
        begun = time.perf_counter()
        self._copies.take()
        self._copied_at = time.perf_counter()
        self._copy_seconds = self._copied_at - begun
        self.seconds += self._copy_seconds

    def _is_good(self):
        if not self._checks:
            return True
        begun = time.perf_counter()
        # A sum takes a quarter of the time of looking at each number, but may overflow.
        good = bool(np.isfinite(self._check().numpy())) or all(
            map(_is_finite, [*self._watched, *_losses(self._model)])
        )
        self._checked_at = time.perf_counter()
        self._check_seconds = self._checked_at - begun
        self.seconds += self._check_seconds
        return good

    # Taking back ----------------------------------------------------------------------

    def _repaired(self):
        """Runs what has run since the copy again, and deals with each bad step of it.

        Returns:
            The logs of the steps of the last chunk.
        """
        since, logs = self._since, None
        self._since, self._done, self._held_bytes = [], 0, 0
        self._copies.put_back()
        for chunk, rate in since:
            self._set_rate(rate)
            logs = self._run(chunk)
            if self._is_good():
                self._note(chunk)
                self._copy()
                continue
            self._copies.put_back()
            self._set_rate(rate)
            logs = [self._run_one(chunk, index) for index in range(chunk.steps)]
            logs = None if logs[0] is None else [one[-1] for one in logs]
        return logs

    def _run_one(self, chunk, index):
        """A step of a chunk, which is taken back if it is not finite."""
        one = Chunk(chunk.block, chunk.start + index, 1)
        logs = self._run(one)
        if not self._is_good():
            self._copies.put_back()
            self._leave_out(one)
            results = _keras.python_logs(merging.results(self._model))
            logs = None if logs is None else [results]
        self._note(one)
        self._copy()
        return logs

    def _leave_out(self, one):
        found = diagnose(self._model, one.batch())
        self._copies.put_back()
        error = _error(found, one, self._epoch, self._step)
        most = self._options.most
        if self._options.policy == "raise":
            raise error
        self.skipped.append((self._epoch, self._step))
        if len(self.skipped) > most:
            error.args = (f"{error} More than most={most} steps of the training were left out.",)
            raise error
        told = "It is left out."
        if self._kept is not None:
            self._kept.put_back()
            self._keep_next = self._steps + 1 + self._options.every
            told = f"The weights are again those after {self._kept_of} steps of the training."
        warnings.warn(f"{error.what} {told}", stacklevel=7)

    def _set_rate(self, rate):
        if rate is not None:
            self._rate.assign(rate)

    # Out of memory ----------------------------------------------------------------------

    def _run_smaller(self, chunk, rate, error):
        """Repeats steps, each in more micro-batches, until memory suffices."""
        since, logs = [*self._since, (chunk, rate)], None
        self._since, self._done, self._held_bytes = [], 0, 0
        self._copies.put_back()
        for one, rate_then in since:
            if self._done:
                self._copy()
            if one is chunk and error is not None:
                self._cut_further(one, error)
            while True:
                self._set_rate(rate_then)
                try:
                    logs = self._run(one)
                    break
                except tf.errors.ResourceExhaustedError as again:  # or in one that ran before
                    self._copies.put_back()
                    self._cut_further(one, again)
                    error = None
            self._note(one, rate_then)
        return logs

    def _cut_further(self, chunk, error):
        rows, number = rows_lib.known_rows(chunk.batch()), 2 * self._micro_batches
        if number > rows:
            raise error
        self._cut_into(number)
        epoch, step = self._epoch + 1, self._step + 1
        warnings.warn(
            f"Memory is too small for step {step} of epoch {epoch}: {_reason(error)}. From it on, "
            f"each batch is cut into {number} micro-batches; no step is lost.",
            stacklevel=7,
        )

    def _cut_into(self, number):
        self._cut(number)
        self._micro_batches = number

    # Roll back ------------------------------------------------------------------------

    def _keep_if_due(self):
        """Keeps a state after each so many steps, whatever else ends there."""
        now, every = self._steps + self._done, self._options.every
        if self._options.policy != "rollback":
            return
        if self._kept is None:
            self._kept = HostCopies(self._weights_and_slots())
        elif now % every or now < self._keep_next:
            return
        self._kept.take()
        self._kept_of, self._keep_next = now, now + every

    def _weights_and_slots(self):
        random = {id(v) for v in _keras.random_states(self._model)}
        slots = [v for v in self._model.optimizer.variables if v.name != "learning_rate"]
        return [*(w for w in self._model.weights if id(w) not in random), *slots]

    # Save and resume --------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a resumed training needs to decide as this one does."""
        kept = None
        if self._kept is not None:
            kept = {"of": self._kept_of, "next": self._keep_next, "values": self._kept.values}
        return {
            "skipped": [list(where) for where in self.skipped],
            "micro_batches": self._micro_batches,
            "kept": kept,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """As `state` gave it."""
        self.skipped = [(epoch, step) for epoch, step in state["skipped"]]
        if self._cuts and state["micro_batches"] != self._micro_batches:
            self._cut_into(state["micro_batches"])
        kept = state["kept"]
        if self._options.policy == "rollback" and kept is not None:
            self._kept = HostCopies(self._weights_and_slots())
            self._kept.values = kept["values"]
            self._kept_of, self._keep_next = kept["of"], kept["next"]


def _reason(error):
    """What TensorFlow says, without where in the program."""
    told = re.search(r"OOM when allocating.*|\b\w+Error: .*", error.message)
    return (told.group() if told else error.message.split("\n")[0])[:200]


def _learning_rate(optimizer):
    """TensorFlow's variable of the learning rate; None where a schedule gives it."""
    found = next((v for v in optimizer.variables if v.name == "learning_rate"), None)
    return None if found is None else _keras.local_variables(found)[0]


def _losses(model):
    return [part for v in _keras.loss_tracker(model).variables for part in _keras.local_variables(v)]


def _is_float(variable):
    return tf.as_dtype(variable.dtype).is_floating


def _is_finite(variable):
    return bool(tf.reduce_all(tf.math.is_finite(_keras.local_variables(variable)[0])))


def _sum_of(variables):
    """A compiled function that sums all numbers of variables."""
    local = [_keras.local_variables(v)[0] for v in variables]

    def add():
        return tf.add_n([tf.reduce_sum(tf.cast(v, tf.float32)) for v in local])

    return tf.function(add, autograph=False).get_concrete_function()


def _error(found, one, epoch, step):
    batch = f"Step {step + 1} of epoch {epoch + 1} is not finite: {found.text}"
    if found.rows:
        shown = ", ".join(map(str, found.rows[:5])) + (", ..." if len(found.rows) > 5 else "")
        batch += f" in row{'s' if len(found.rows) > 1 else ''} {shown} of the batch"
        numbers = one.block.numbers(one.start)
        if numbers is not None:
            batch += " (in `x`: " + ", ".join(str(numbers[row]) for row in found.rows[:5]) + ")"
    return NonFiniteError(f"{batch}.", epoch, step, found.output, found.rows)
