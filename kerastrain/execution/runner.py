"""Runs the batches of a source by the plan that is fastest, a chunk at a time.

::

    runner = Runner(model, steps, StepKind("train"), execution)
    runner.begin(steps=3000)
    for work in runner.epoch(source, 0):
        logs = work.run()              # `work.steps` steps from `work.first` on

`kerastrain.data.source` cuts the source into blocks, `kerastrain.execution.plan_choice` decides by
which plan and how many steps at a time they run, `kerastrain.execution.compiled_steps` compiles them.

A loop that fails when it first runs gives way to the next simpler plan, as one does that cannot
be compiled: the variables get back the values from before, and the same batches are run by that
plan. Where that one fails too, the error is of the model or the data, and is raised.
"""

import functools
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import notices
from kerastrain.data import Block
from kerastrain.data import Chunk
from kerastrain.data import Source
from kerastrain.distribution import cluster_of
from kerastrain.execution import plans
from kerastrain.execution.agreement import Agreement
from kerastrain.execution.candidates import candidates
from kerastrain.execution.candidates import expected_gain_of_xla
from kerastrain.execution.candidates import leave_out_xla
from kerastrain.execution.candidates import recalled
from kerastrain.execution.compiled_steps import Steps
from kerastrain.execution.loops import Loop
from kerastrain.execution.plan_choice import Choice
from kerastrain.execution.plans import Plan
from kerastrain.execution.step_calls import Listening
from kerastrain.execution.step_calls import StepCall
from kerastrain.execution.step_calls import StepKind
from kerastrain.options import Execution
from kerastrain.state import HostCopies
from kerastrain.step import rows as rows_lib

# Steps of one call at most, where the results of each are kept.
MOST_REPORTED = 64

Run = Callable[[Chunk], list[Any] | None]


class Runner:
    """Runs the steps of one kind.

    It has a method for each row of the table in `_run`, and for each way that one may fail.

    Args:
        model: whose steps run.
        steps: its compiled steps.
        kind: what they are.
        execution: how they run.
        listening: when callbacks are called for each.
        wrapper: is given what runs a `Chunk`, and returns what is run in its place.

    Attributes:
        choice: which plan runs.
        votes: what all workers agree on before each chunk; more may be asked.
        callbacks_may_act: whether a callback may act between steps.
    """

    def __init__(
        self,
        model: keras.Model,
        steps: Steps,
        kind: StepKind,
        execution: Execution,
        listening: Listening = Listening.NEVER,
        wrapper: Callable[[Run], Run] = lambda run: run,
    ):
        self._model, self._steps, self._kind, self._own = model, steps, kind.name, kind.is_users
        self._listening = listening is not Listening.NEVER
        self.callbacks_may_act = listening is Listening.BETWEEN
        self._reports = kind.reports or listening.needs_logs
        self._run_watched = wrapper(self._run)
        self._block: Block | None = None
        self._is_new = True
        self._compiled_seconds = 0.0
        self._unrecorded_steps, self._unrecorded_seconds = 0, 0.0  # the choice is yet to know
        self._has_share = False
        self._agreement = Agreement(cluster_of(steps.strategy), lambda: self._unrecorded_seconds)
        self.votes = self._agreement.votes
        self._waits = bool(tf.config.list_physical_devices("GPU"))
        max_steps_per_call = self._most_steps_of_a_call(execution)
        self._outputs_per_call = (max_steps_per_call or 0) if self._reports else 0
        self.choice = Choice(
            candidates(execution, steps, kind),
            self._prepare,
            max_steps_per_call,
            expected_gain_of_xla(model),
            compares=execution.plan == "auto" and not execution.deterministic,
            agree=self._agreed_on,
        )
        self._pinned = execution.plan if execution.plan != "auto" else None
        self.choice.recalled = recalled(
            model, steps, execution, lambda: (kind, max_steps_per_call, self._signature())
        )
        leave_out_xla(self.choice, model, steps, kind.name, execution)

    def _most_steps_of_a_call(self, execution: Execution) -> int | None:
        """None where only the time of a call limits them."""
        limits = [execution.steps_per_execution] if execution.steps_per_execution else []
        if self._reports:
            limits.append(MOST_REPORTED)
        if self.callbacks_may_act or execution.plan in ("step", "xla_step"):
            limits.append(1)
        return min(limits, default=None)

    def _signature(self) -> tuple:
        assert self._block is not None  # its batches are about to run
        return self._block.signature

    def begin(self, steps: int | None) -> None:
        """Sets how many steps are to come; None where that is not known."""
        self.choice.begin(steps)
        self._is_new = True

    def epoch(
        self,
        source: Source,
        number: int | None = None,
        max_steps: Callable[[], int] = lambda: 2**31 - 1,
        wrapper: Callable[[Run, Chunk], list[Any] | None] = lambda run, chunk: run(chunk),
    ) -> Iterator[StepCall]:
        """Yields the work of an epoch, to be run in turn.

        Args:
            source: the data.
            number: of the epoch, as for `Source.chunks`.
            max_steps: gives the most steps of the next call.
            wrapper: is given what runs a `Chunk`, and the chunk, and runs it.
        """
        first, self._has_share = source.start_step, source.has_share
        try:
            for chunk in source.chunks(number, functools.partial(self._limit, source, max_steps)):
                chunk = self._agreement.noted(chunk)
                yield StepCall(
                    first,
                    chunk.steps,
                    functools.partial(wrapper, self.run, chunk),
                    lambda: self._compiled_seconds,
                    self._listening,
                )
                first += chunk.steps
            self._agreement.finish(source)
        finally:
            self._block = None  # it may hold the whole data set

    def _limit(self, source: Source, max_steps: Callable[[], int]) -> int:
        """The most steps of the next chunk; 0 where a worker asks to stop. Collective."""
        votes = self.votes
        if not votes.cluster.has_others:
            return min(self.choice.steps, max_steps())
        self._agreement.take(source)
        steps, self._unrecorded_steps = self._unrecorded_steps, 0
        seconds, self._unrecorded_seconds = votes["seconds"], 0.0
        if steps and self._block is not None:
            self.choice.record(steps, seconds)
        if votes["stop"]:
            return 0
        return min(self.choice.steps, max_steps(), self._agreement.most_steps)

    def _agreed_on(self, failed: bool, seconds: float) -> tuple[bool, float]:
        """Whether one of the workers has failed, and what the slowest took. Collective."""
        rows = self.votes.cluster.gather([failed, seconds])
        return bool(rows[:, 0].any()), float(rows[:, 1].max())

    def trace(self, batch: Any) -> None:
        """Traces the step of one batch, which finds its variables; an eager step is run."""
        self._steps.trace(self._kind, self._reports, batch)

    def forget_traces(self) -> None:
        """Lets steps be traced anew: what layers are beyond their variables has changed."""
        self._steps.trace_anew()

    def run(self, chunk: Chunk) -> list[Any] | None:
        """Runs a chunk, and notes what of the time went into compiling.

        Returns:
            The logs of each step, where they are reported.
        """
        traces, begun = self._steps.number_of_traces, time.perf_counter()
        logs = self._run_watched(chunk)
        traced = self._steps.number_of_traces > traces
        self._compiled_seconds = time.perf_counter() - begun if traced else 0.0
        return logs

    def _run(self, chunk: Chunk) -> list[Any] | None:
        """Runs a chunk; what is no full batch, or too small for all replicas, runs outside the plan.

        ============================================  =======================================
        the chunk                                     is run by
        ============================================  =======================================
        a batch by itself, or too few rows            the step of one batch
        a batch that is not full                      the loop in the graph, if it can be
        full batches                                  the plan in force, which is measured
        full batches of other shapes than before,     the loop in the graph, if it can be
        for which XLA does not pay
        ============================================  =======================================
        """
        if chunk.is_alone or not self._loop(plans.LOOP).takes(chunk):
            return self._run_each(chunk)
        self._block = chunk.block
        if not chunk.is_full:
            return self._run_beside(chunk)
        if self._is_new or self.choice.plan is None:
            self.choice.start()
            self._is_new = False
        loop, has_run = self._prepared(chunk)
        plan = self._plan()
        if loop is None and plan.loops:
            return self._run_beside(chunk)
        if not (loop is None or has_run) and self.choice.simpler(plan):
            return self._run_first(loop, chunk)
        return self._run_measured(self._run_each if loop is None else loop, chunk)

    def _run_measured(
        self, run: Callable[[Chunk], list[Any] | None], chunk: Chunk
    ) -> list[Any] | None:
        """By the plan in force, whose time is noted."""
        begun = time.perf_counter()
        logs = run(chunk)
        if self._waits:
            tf.test.experimental.sync_devices()
        seconds = time.perf_counter() - begun
        if self.votes.cluster.has_others:
            self._unrecorded_steps += chunk.steps
            self._unrecorded_seconds += seconds
        else:
            self.choice.record(chunk.steps, seconds)
        return logs

    def _run_first(self, loop: Loop, chunk: Chunk) -> list[Any] | None:
        """By a loop that has not run yet; where it fails, by the next simpler plan."""
        plan, before = self._plan(), self._values()
        measured = functools.partial(self._run_measured, loop)
        logs, failure = self._tried(measured, loop, chunk)
        if failure is None:
            return logs
        before.restore()
        memory = isinstance(failure, tf.errors.ResourceExhaustedError)
        if memory and not any(p.name in self.choice.seconds for p in self.choice.simpler(plan)):
            raise failure  # a simpler plan hardly takes less, but smaller parts of a batch do
        left_out = self.choice.give_way(plan, failure)
        try:
            logs = self._run(chunk)
        except Exception:
            before.restore()
            self.choice.readmit(left_out)
            raise
        self._warn_if_pinned("run", failure)
        return logs

    def _tried(
        self, run: Run, loop: Loop, chunk: Chunk
    ) -> tuple[list[Any] | None, Exception | None]:
        """``(the logs, why it cannot run or None)`` of a loop that has not run such a block."""
        logs, failure = None, None
        try:
            logs = run(chunk)
        except Exception as error:
            failure = error
        failure = self._failure_of_all(loop, failure)
        if failure is None:
            loop.note_run(chunk.block)
        return logs, failure

    def _failure_of_all(self, loop: Loop, failure: Exception | None) -> Exception | None:
        """The failure of this worker, or that another has failed; None for none. Collective.

        They agree before the loop has run for the first time. Later, blocks may be of other shapes on
        one worker alone, as when its data are slow.

        Raises:
            Exception: ``failure``, of one worker of several later: it ends, and the others with it.
        """
        cluster = self.votes.cluster
        if not cluster.has_others:
            return failure
        if loop.has_run:
            if failure is not None:
                raise failure
            return None
        is_anybodys = cluster.any_failed(failure)
        return failure or (RuntimeError("another worker cannot run it") if is_anybodys else None)

    def _values(self) -> HostCopies:
        """A copy of all that a step may change."""
        variables = list(self._steps.state.variables().values())
        if self._kind != "train" and not self._own:  # which change no weights
            trained = {*map(id, self._model.trainable_variables)}
            trained |= {id(v) for o in _keras.optimizers_of(self._model) for v in o.variables}
            variables = [v for v in variables if id(v) not in trained]
        random = _keras.global_random_state()
        tables = self._steps.state.find_tables()
        copies = HostCopies([*variables, *([] if random is None else [random])], tables)
        copies.take()
        return copies

    def _prepared(self, chunk: Chunk) -> tuple[Loop | None, bool]:
        """``(loop of the plan, whether it has run)``.

        The loop is None where the plan has none, or XLA does not pay for the chunk.
        """
        while (plan := self._plan()).loops:
            loop = self._loop(plan)
            if not loop.is_prepared(chunk.block) and not self.choice.worth_recompiling():
                return None, False
            try:
                return loop, loop.prepare(chunk.block)
            except Exception as error:  # of other shapes than before, it may not compile
                self.choice.drop(plan, error)
                self.choice.start()
        return None, False

    def _run_beside(self, chunk: Chunk) -> list[Any] | None:
        """By the loop in the graph, which takes any number of rows; else batch by batch."""
        loop = self._loop(plans.LOOP)
        makes_variables = self._own and self.choice.plan in (None, plans.STEP)
        if makes_variables or plans.LOOP.name in self.choice.dropped:
            return self._run_each(chunk)
        has_run, failure = False, None
        try:
            has_run = loop.prepare(chunk.block)
        except Exception as error:  # the step of one batch reports what is wrong, if anything is
            failure = error
        failure = self._failure_of_all(loop, failure)
        if failure is not None or not loop.takes(chunk):
            return self._run_each(chunk)
        if has_run:
            return loop(chunk)
        before = self._values()
        logs, failure = self._tried(loop, loop, chunk)
        if failure is None:
            return logs
        before.restore()
        if isinstance(failure, tf.errors.ResourceExhaustedError):
            raise failure
        return self._run_each(chunk)

    def _run_each(self, chunk: Chunk) -> list[Any] | None:
        """Each batch by itself; there may be several, taken when a loop was to run them."""
        step = self._steps.single_step(self._kind, self._reports)
        logs = []
        for index in range(chunk.start, chunk.start + chunk.steps):
            batch = chunk.block.part(index)
            if chunk.agreed is not None:
                batch = rows_lib.OwnRows(batch, tf.constant(chunk.agreed.rows))
            logs.append(step(batch))
        return logs if self._reports else None

    def _loop(self, plan: Plan) -> Loop:
        return self._steps.loop(self._kind, self._outputs_per_call, plan.xla, self._has_share)

    def _plan(self) -> Plan:
        """The plan in force, once `Choice.start` has chosen one."""
        plan = self.choice.plan
        assert plan is not None
        return plan

    def _prepare(self, plan: Plan) -> None:
        if not plan.loops:
            return
        assert self._block is not None  # plans are prepared while its batches run
        try:
            self._loop(plan).prepare(self._block)
        except Exception as error:
            self._warn_if_pinned("compiled", error)
            raise

    def _warn_if_pinned(self, what: str, error: Exception) -> None:
        if self._pinned:
            reason = " ".join(str(error).split())[:200]
            notices.warn(
                f"The plan {self._pinned!r} cannot be {what} ({type(error).__name__}: {reason}). "
                "The next simpler one runs."
            )
