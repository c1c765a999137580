"""Runs the batches of a source by the plan that is fastest, a chunk at a time.

::

    runner = Runner(model, steps, "train", execution)
    runner.begin(steps=3000)
    for work in runner.epoch(source, 0):
        logs = work.run()              # `work.steps` steps from `work.first` on

`kerastrain.data` cuts the source into blocks, `kerastrain.choice` decides by which plan and
how many steps at a time they run, `kerastrain.execution` compiles them.

A loop that fails when it first runs gives way to the next simpler plan, as one does that cannot
be compiled: the variables get back the values from before, and the same batches are run by that
plan. Where that one fails too, the error is of the model or the data, and is raised.
"""

import functools
import time
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from kerastrain import _keras
from kerastrain import choice as choice_lib
from kerastrain import notices
from kerastrain import xla_support
from kerastrain.blocks import Block
from kerastrain.blocks import Chunk
from kerastrain.choice import Choice
from kerastrain.choice import Plan
from kerastrain.data import Source
from kerastrain.errors import UnsupportedByXla
from kerastrain.execution import Steps
from kerastrain.options import Execution
from kerastrain.timing import Times
from kerastrain.variables import HostCopies

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
# Steps of one call at most, where the results of each are kept.
MOST_REPORTED = 64


class Work(NamedTuple):
    """Steps that are about to run.

    Attributes:
        first: the index of the first in the epoch.
        steps: how many.
        run: runs them; returns the logs of each where they are reported, else None.
        compiled: gives the seconds of ``run`` that went into compiling.
        told: whether callbacks listen to them.
    """

    first: int
    steps: int
    run: Callable[[], list | None]
    compiled: Callable[[], float]
    told: bool


def run_and_tell(
    work: Work, callbacks: keras.callbacks.CallbackList, kind: str, times: Times
) -> dict | None:
    """Runs steps and tells callbacks of each, where their logs are reported to somebody.

    Of several steps callbacks are told when all have run, in turn.

    Args:
        work: the steps.
        callbacks: who is told.
        kind: ``"train"`` or ``"test"``.
        times: where the time is counted.

    Returns:
        The last logs, or None where there are none.
    """
    begin = getattr(callbacks, f"on_{kind}_batch_begin")
    end = getattr(callbacks, f"on_{kind}_batch_end")
    if work.told and work.steps == 1:
        begin(work.first)
        times.lap("callbacks")
    logs = work.run()
    times.lap("step")
    times.move(work.compiled(), "step", "compiling")
    if work.told:
        for index, one in enumerate(logs, work.first):
            if work.steps > 1:
                begin(index)
            end(index, one)
        times.lap("callbacks")
    return logs[-1] if logs else None


class Runner:
    """Runs the steps of one kind.

    Args:
        model: whose steps run.
        steps: its compiled steps.
        kind: ``"train"``, ``"test"`` or ``"predict"``.
        execution: how.
        listening: whether a callback is told of each step.
        replayed: whether it may be told after several steps have run.
        reports: whether each step returns logs, as it does where somebody listens.
        own: whether the step is the model's own, which may make variables when it is
            first run.
        around: is given what runs a `Chunk`, and returns what is run in its stead.

    Attributes:
        choice: which plan runs.
        acts: whether a callback may act between steps.
    """

    def __init__(
        self,
        model: keras.Model,
        steps: Steps,
        kind: str,
        execution: Execution,
        *,
        listening: bool = False,
        replayed: bool = False,
        reports: bool = False,
        own: bool = False,
        around: Callable[[Callable], Callable] = lambda run: run,
    ):
        self._model, self._steps, self._kind, self._own = model, steps, kind, own
        self._listening = listening
        self.acts = listening and not replayed
        self._reports = reports = reports or listening
        self._run_watched = around(self._run)
        self._block: Block | None = None
        self._is_new = True
        self._compiled_seconds = 0.0
        self._waits = bool(tf.config.list_physical_devices("GPU"))
        most = MOST_REPORTED if reports else None
        if (listening and not replayed) or execution.plan in ("step", "xla_step"):
            most = 1
        if execution.steps_per_call is not None:
            most = min(most or execution.steps_per_call, execution.steps_per_call)
        self._keeps = (most or 0) if reports else 0
        on_cpu_convolving = not self._waits and any(
            isinstance(layer, _CONVOLUTIONS) for layer in _keras.all_layers(model)
        )
        self.choice = Choice(
            _candidates(execution, steps, kind, own),
            self._prepare,
            most,
            choice_lib.XLA_GAIN_OF_CONVOLUTIONS if on_cpu_convolving else choice_lib.XLA_GAIN,
            compares=execution.plan == "auto" and not execution.deterministic,
        )
        self._pinned = execution.plan if execution.plan != "auto" else None
        self._leave_out_xla(execution)

    def _leave_out_xla(self, execution):
        """Where it cannot be used, and says so where it was asked for."""
        refusal = xla_support.refusal_of_model(self._model)
        if refusal:
            self.choice.drop(choice_lib.XLA_LOOP, UnsupportedByXla(refusal))
        if self._kind != "train" or not (execution.jit_compile or execution.plan.startswith("xla")):
            return
        asked = "`jit_compile=True`" if execution.jit_compile else f"The plan {execution.plan!r}"
        if refusal:
            notices.warn(f"{asked} cannot be compiled: {refusal} The loop in the graph runs.")
        elif not (execution.jit_compile or self._steps.can_use_xla("train")):
            notices.warn(
                f"{asked} cannot be used under this strategy: XLA compiles "
                "kerastrain's own step on several replicas, and no step on one. "
                "The loop in the graph runs."
            )

    def begin(self, steps: int | None) -> None:
        """Tells how many steps are to come; None where that is not known."""
        self.choice.begin(steps)
        self._is_new = True

    def epoch(
        self,
        source: Source,
        number: int | None = None,
        room: Callable[[], int] = lambda: 2**31 - 1,
        around: Callable[[Callable, Chunk], list | None] = lambda run, chunk: run(chunk),
    ) -> Iterator[Work]:
        """Yields the work of an epoch, to be run in turn.

        Args:
            source: the data.
            number: of the epoch, as for `Source.chunks`.
            room: gives the steps that the next work may have at most.
            around: is given what runs a `Chunk`, and the chunk, and runs it.
        """
        first = source.drawn_of_epoch
        try:
            for chunk in source.chunks(number, lambda: min(self.choice.steps, room())):
                yield Work(
                    first,
                    chunk.steps,
                    functools.partial(around, self.run, chunk),
                    lambda: self._compiled_seconds,
                    self._listening,
                )
                first += chunk.steps
        finally:
            self._block = None  # it may hold the whole data set

    def trace(self, batch: Any) -> None:
        """Traces the step of one batch, which tells of its variables; one that is eager runs."""
        self._steps.trace(self._kind, self._reports, batch)

    def forget_traces(self) -> None:
        """Lets steps be traced anew: what layers are beyond their variables has changed."""
        self._steps.trace_anew()

    def run(self, chunk: Chunk) -> list | None:
        """Runs a chunk, and notes what of the time went into compiling.

        Returns:
            The logs of each step, where they are reported.
        """
        traces, begun = self._steps.number_of_traces, time.perf_counter()
        logs = self._run_watched(chunk)
        traced = self._steps.number_of_traces > traces
        self._compiled_seconds = time.perf_counter() - begun if traced else 0.0
        return logs

    def _run(self, chunk: Chunk) -> list | None:
        """Runs a chunk; what is no full batch, or too small for all replicas, runs beside the plan.

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
        if chunk.block.is_batch or not self._loop(choice_lib.LOOP).takes(chunk):
            return self._run_each(chunk)
        self._block = chunk.block
        if not chunk.is_full:
            return self._run_beside(chunk)
        if self._is_new or self.choice.plan is None:
            self.choice.start()
            self._is_new = False
        loop, has_run = self._prepared(chunk)
        if loop is None and self.choice.plan.loops:
            return self._run_beside(chunk)
        if not (loop is None or has_run) and self.choice.simpler(self.choice.plan):
            return self._run_first(loop, chunk)
        return self._run_measured(self._run_each if loop is None else loop, chunk)

    def _run_measured(self, run, chunk):
        """By the plan in force, which is told how long it took."""
        begun = time.perf_counter()
        logs = run(chunk)
        if self._waits:
            tf.test.experimental.sync_devices()
        self.choice.record(chunk.steps, time.perf_counter() - begun)
        return logs

    def _run_first(self, loop, chunk):
        """By a loop that has not run yet; where it fails, by the next simpler plan."""
        plan, before = self.choice.plan, self._values()
        try:
            logs = self._run_measured(loop, chunk)
        except Exception as error:
            before.put_back()
            memory = isinstance(error, tf.errors.ResourceExhaustedError)
            if memory and not any(p.name in self.choice.seconds for p in self.choice.simpler(plan)):
                raise  # a simpler plan hardly takes less, but smaller parts of a batch do
            left_out = self.choice.give_way(plan, error)
            try:
                logs = self._run(chunk)
            except Exception:
                before.put_back()
                self.choice.readmit(left_out)
                raise
            self._warn_if_pinned("run", error)
            return logs
        loop.note_run(chunk.block)
        return logs

    def _values(self):
        """A copy of all that a step may change."""
        variables = list(self._steps.state.variables().values())
        if self._kind != "train" and not self._own:  # which change no weights
            trained = {*map(id, self._model.trainable_variables)}
            trained |= {*map(id, getattr(self._model.optimizer, "variables", ()))}
            variables = [v for v in variables if id(v) not in trained]
        random = _keras.global_random_state()
        tables = self._steps.state.find_tables()
        copies = HostCopies([*variables, *([] if random is None else [random])], tables)
        copies.take()
        return copies

    def _prepared(self, chunk):
        """``(loop of the plan, whether it has run)``.

        The loop is None where the plan has none, or XLA does not pay for the chunk.
        """
        while self.choice.plan.loops:
            loop = self._loop(self.choice.plan)
            if not loop.is_prepared(chunk.block) and not self.choice.repays_anew():
                return None, False
            try:
                return loop, loop.prepare(chunk.block)
            except Exception as error:  # of other shapes than before, it may not compile
                self.choice.drop(self.choice.plan, error)
                self.choice.start()
        return None, False

    def _run_beside(self, chunk):
        """By the loop in the graph, which takes any number of rows; else batch by batch."""
        loop = self._loop(choice_lib.LOOP)
        makes_variables = self._own and self.choice.plan in (None, choice_lib.STEP)
        if makes_variables or choice_lib.LOOP.name in self.choice.dropped:
            return self._run_each(chunk)
        try:
            has_run = loop.prepare(chunk.block)
        except Exception:  # the step of one batch tells what is wrong, if anything is
            return self._run_each(chunk)
        if not loop.takes(chunk):
            return self._run_each(chunk)
        if has_run:
            return loop(chunk)
        before = self._values()
        try:
            logs = loop(chunk)
        except Exception as error:
            before.put_back()
            if isinstance(error, tf.errors.ResourceExhaustedError):
                raise
            return self._run_each(chunk)
        loop.note_run(chunk.block)
        return logs

    def _run_each(self, chunk):
        """Each batch by itself; there may be several, taken when a loop was to run them."""
        step = self._steps.one(self._kind, self._reports)
        logs = [step(chunk.block.batch(chunk.start + index)) for index in range(chunk.steps)]
        return logs if self._reports else None

    def _loop(self, plan):
        return self._steps.loop(self._kind, self._keeps, plan.xla)

    def _prepare(self, plan: Plan) -> None:
        if not plan.loops:
            return
        try:
            self._loop(plan).prepare(self._block)
        except Exception as error:
            self._warn_if_pinned("compiled", error)
            raise

    def _warn_if_pinned(self, what, error):
        if self._pinned:
            reason = " ".join(str(error).split())[:200]
            notices.warn(
                f"The plan {self._pinned!r} cannot be {what} ({type(error).__name__}: {reason}). "
                "The next simpler one runs."
            )


def _candidates(execution: Execution, steps: Steps, kind: str, own: bool) -> list[Plan]:
    """The plans that may run, the surest first; a step at a time if nothing else can."""
    step, loop, xla = choice_lib.STEP, choice_lib.LOOP, choice_lib.XLA_LOOP
    by_xla = [xla] if steps.can_use_xla(kind) else []
    if execution.eager or execution.plan == "step":
        return [step]
    if execution.plan.startswith("xla"):
        return [*by_xla, loop, step]
    if execution.plan == "loop":
        return [loop, step]
    if steps.jit_compile and kind != "predict":
        return [xla]
    if execution.deterministic:
        return [step] if own else [loop, step]
    return [step, loop, *by_xla] if own else [loop, *by_xla, step]
