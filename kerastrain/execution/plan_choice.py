"""Which plan runs the steps: measured on steps that train, none repeated, none lost.

A plan is a way to run K steps of one step function. XLA makes a small transformer
three times as fast and a small convolutional network thirty times as slow on a CPU, so no
fixed choice is right. `Choice` runs the first plan that compiles, measures it, and tries
each further one only where the steps that remain can repay its compilation::

    choice = Choice([LOOP, XLA_LOOP], prepare)
    choice.begin(remaining=10_000)
    while ...:
        choice.plan, choice.steps          # what to run next, and how many steps of it
        choice.record(steps, seconds)      # what they took; decides what is next

A trial is seven rounds of both plans, turn by turn, of a few hundredths of a second each, and the
best round of each decides: other programs on the machine make a round slower, never faster. A plan
whose steps take twice as long in each of three looks ends its trial early.

What earlier trainings took counts as evidence that more is to come (the ski rental problem: Karlin,
Manasse, Rudolph and Sleator, Competitive snoopy caching, Algorithmica 3, 1988): a plan is compiled
where what is known to come repays it, and once as much has been spent as it costs, so that never
more than twice the least time is spent. What a trial has decided is looked at again after twice the
time, while as much is to come, so that no measurement decides for good.
"""

import math
import time
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Sequence

from kerastrain.execution.plan_records import Recalled
from kerastrain.execution.plans import Plan
from kerastrain.execution.plans import STEP

# About the seconds that a call takes, so that callbacks, the progress line and Ctrl-C are
# served several times a second.
CALL_SECONDS = 0.1
# About the seconds that a round of a trial takes, the number of rounds, and of looks before them.
_ROUND_SECONDS, _ROUNDS, _LOOKS = 0.03, 7, 3
# A trial is repeated after this multiple of the time before it, times how much slower the plan was,
# and where it takes this share of the time that is left.
_AGAIN_AFTER, _AGAIN_SHARE = 2.0, 0.01
# The weight of a call's time in the moving average of the times of the plan in force.
_EMA_WEIGHT = 0.1
# A plan is taken if its time is below this share of the other's: noise accounts for less.
_MIN_GAIN = 0.97
# XLA takes about this number of seconds, and this multiple of the graph's, to compile: on two
# cores, 0.33 s for a small perceptron (0.11 s) and 2.8 s for a small transformer (1.0 s).
_XLA_SECONDS, _XLA_TIMES = 0.05, 3.0
# The share of the time that XLA is expected to save, before it is tried.
XLA_GAIN = 0.3
# The same for a loop in place of a step at a time.
_LOOP_GAIN = 0.3
# The same for a step at a time in place of a loop, where a step takes this number of seconds.
_STEP_GAIN, _SLOW_STEP = 0.05, 0.005
# The same for XLA where it rarely saves any: convolutions on a CPU.
XLA_GAIN_OF_CONVOLUTIONS = 0.02


class Choice:
    """Chooses among plans while they run.

    It has many methods, as each question that decides is one of a few lines, and all read the same
    times.

    Args:
        candidates: plans, the surest first.
        prepare: compiles a plan without running a step; raises if it cannot.
        max_steps_per_call: the most steps of one call; None for any number.
        xla_gain: the share of the time that XLA is expected to save.
        compares: whether plans are compared; else the first that compiles runs.
        clock: gives seconds.
        agree: is given whether a plan could not be prepared, and the seconds that it took; returns
            both as all workers have it.

    Attributes:
        plan, steps: what to run next.
        seconds: of a step, by the plan's name, as measured; of the plan in force a mean over
            its last calls.
        compile_seconds: by the plan's name.
        dropped: why a plan is not used, by its name.
        recalled: what earlier processes have measured; to be set, if anything.
    """

    def __init__(
        self,
        candidates: Sequence[Plan],
        prepare: Callable[[Plan], None],
        max_steps_per_call: int | None = None,
        xla_gain: float = XLA_GAIN,
        compares: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        agree: Callable[[bool, float], tuple[bool, float]] = lambda failed, seconds: (
            failed,
            seconds,
        ),
    ):
        self._candidates, self._prepare = list(candidates), prepare
        self._max_steps_per_call = max_steps_per_call or 2**31 - 1
        self._xla_gain, self._compares, self._clock = xla_gain, compares, clock
        self._agree, self.recalled = agree, Recalled(None)
        self.plan: Plan | None = None
        self.steps = 1
        self.seconds: dict[str, float] = {}
        self.compile_seconds: dict[str, float] = {}
        self.dropped: dict[str, str] = {}
        self._remaining: int | None = None
        self._done = 0  # steps of this training
        self._spent = self._earlier = (
            0.0  # seconds of all steps, and of the trainings before this one
        )
        self._tried_at: dict[str, float] = {}  # what was spent at the end of the last trial of each
        self._exploring: Generator[tuple[Plan, float], float, None] | None = None

    def begin(self, remaining: int | None) -> None:
        """Sets how many steps are to come; None where that is not known."""
        self._remaining, self._done = remaining, 0
        self._earlier = self._spent + sum(self.compile_seconds.values())

    def start(self) -> None:
        """Decides what runs first, unless something runs already.

        Raises:
            Exception: of the last plan, where none can be prepared.
        """
        if self.plan is None or self._exploring is None:
            self._exploring = self._explore()
            self._advance(None)

    def record(self, steps: int, seconds: float) -> None:
        """Notes what ``steps`` steps by the plan took, and decides what is next."""
        self._done += steps
        self._spent += seconds
        if self._exploring is not None:
            self._advance(seconds / steps)
            return
        plan = self.plan
        assert plan is not None  # its steps have run
        if plan.name in self.seconds:
            known = self.seconds[plan.name]
            self.seconds[plan.name] = known + _EMA_WEIGHT * (seconds / steps - known)
            self.steps = self._steps_in(plan, CALL_SECONDS)
            if any(map(self._is_worth_a_try, self._candidates)):
                self.start()

    def worth_recompiling(self) -> bool:
        """Whether it pays to compile the plan once more, for data of other shapes."""
        plan = self.plan
        assert plan is not None  # it has run
        simpler = [p for p in self._candidates if p.loops and not p.xla and p.name in self.seconds]
        if not plan.xla or not simpler or plan.name not in self.seconds:
            return True
        saved = self.seconds[simpler[0].name] - self.seconds[plan.name]
        return saved * self._left() > self.compile_seconds[plan.name]

    def _left(self) -> int:
        """The steps to come; where that is not known, as many again as have been."""
        return self._done if self._remaining is None else self._remaining - self._done

    def _seconds_left(self) -> float:
        """What the steps to come take by the plan in force."""
        return self._left() * self.seconds.get(self.plan.name, 0.0) if self.plan else 0.0

    @property
    def is_settled(self) -> bool:
        """Whether the choice is made, until more steps are to come than was known."""
        return self.plan is not None and self._exploring is None

    @property
    def is_measured(self) -> bool:
        """Whether the choice is made, and plans were compared for it."""
        return self.is_settled and len(self.seconds) + len(self.dropped) > 1

    @property
    def settled(self) -> str | None:
        """The name of the plan that was chosen, if the choice is made."""
        return self.plan.name if self.plan is not None and self.is_settled else None

    def pin(self, name: str) -> None:
        """Lets the plan of this name run, without a further trial, if there is one."""
        plans = self._candidates
        if name in (plan.name for plan in plans):
            self._candidates = sorted(plans, key=lambda plan: plan.name != name)
            self._compares = False
            self.plan = self._exploring = None

    def drop(self, plan: Plan, error: Exception) -> None:
        """Leaves a plan out for good, because of an error, if it is one of the candidates."""
        if plan not in self._candidates:
            return
        first_line = next(iter(str(error).strip().splitlines()), "")
        self.dropped[plan.name] = f"{type(error).__name__}: {first_line[:200]}"
        if plan is self.plan:
            self.plan, self._exploring = None, None

    def simpler(self, plan: Plan) -> list[Plan]:
        """The plans that may take the place of one whose first run fails.

        None of those that are less simple: XLA, say, trains on without a word where the graph
        finds a label out of range.
        """
        return [
            other
            for other in self._candidates
            if (other.loops, other.xla) < (plan.loops, plan.xla) and other.name not in self.dropped
        ]

    @property
    def activity(self) -> str:
        """What the next steps are for, besides training; empty for nothing."""
        if self.plan is None:
            return "compiling"
        return "comparing plans" if self._compares and self._exploring is not None else ""

    def give_way(self, plan: Plan, error: Exception) -> list[str]:
        """Leaves out a plan whose first run has failed, and all that are not simpler.

        Returns:
            The names of those left out, for `readmit`.
        """
        simpler = self.simpler(plan)
        failed = [p for p in self._candidates if p not in simpler and p.name not in self.dropped]
        for other in failed:
            self.drop(other, error)
        self.plan = self._exploring = None
        return [other.name for other in failed]

    def readmit(self, names: Sequence[str]) -> None:
        """Lets plans run again that were left out: the error was not theirs."""
        for name in names:
            del self.dropped[name]
        self.plan = self._exploring = None

    def __str__(self) -> str:
        """The plan and its timings on one line.

        Example:
            >>> from kerastrain.execution.plans import LOOP
            >>> choice = Choice([LOOP], prepare=lambda plan: None)
            >>> choice.start()
            >>> str(choice)
            'loop'
        """
        if self.plan is None:
            return "nothing has run"
        parts = [self.plan.name]
        if self.plan.name in self.seconds:
            parts.append(_microseconds(self.seconds[self.plan.name]) + " a step")
        others = [
            f"{name} {_microseconds(seconds)}"
            for name, seconds in self.seconds.items()
            if name != self.plan.name
        ]
        others += [f"{name} dropped: {why}" for name, why in self.dropped.items()]
        line = ", ".join(parts)
        return f"{line} ({'; '.join(others)})" if others else line

    # Deciding -----------------------------------------------------------------

    def _advance(self, seconds: float | None) -> None:
        exploring, wanted = self._exploring, CALL_SECONDS
        assert exploring is not None  # both callers have seen to that
        try:
            plan, wanted = next(exploring) if seconds is None else exploring.send(seconds)
            self.plan = plan
        except StopIteration:
            self._exploring = None
            if self.is_measured:
                self.recalled.keep(self.seconds, self.compile_seconds, self._spent)
            assert self.plan is not None  # which is what was explored
            plan = self.plan
        self.steps = self._steps_in(plan, wanted)

    def _steps_in(self, plan: Plan, wanted: float) -> int:
        """The steps of a plan that take ``wanted`` seconds, as far as is known."""
        if not plan.loops or plan.name not in self.seconds:
            return 1
        steps = wanted / max(self.seconds[plan.name], 1e-9)
        return max(1, min(self._max_steps_per_call, math.ceil(steps)))

    def _explore(self) -> Generator[tuple[Plan, float], float, None]:
        """Yields ``(plan, seconds to run it)``, and is sent the seconds of a step."""
        if self.plan is None:
            if self._compares:
                self.recalled.begin()
            self.plan = self._first()
            if self._compares or self.plan.loops:
                yield from self._measured(self.plan)
            self._take_up_record(self.plan)
        for plan in self._candidates:
            if not self._is_worth_a_try(plan):
                continue
            current = self.plan
            if plan.name in self.compile_seconds or self._try_to_prepare(plan) is None:
                self.plan = yield from self._faster(current, plan)
                self._tried_at |= {current.name: self._spent, plan.name: self._spent}

    def _is_worth_a_try(self, plan: Plan) -> bool:
        if not self._compares or self.plan in (None, plan) or plan.name in self.dropped:
            return False
        if plan.name not in self._tried_at:
            return self._repays(plan)
        slower = max(1.0, self.seconds[plan.name] / self.seconds[self.plan.name])
        price = max(_ROUNDS * _ROUND_SECONDS, (_LOOKS + 1) * self.seconds[plan.name])
        is_due = self._spent > _AGAIN_AFTER * slower * self._tried_at[plan.name]
        return is_due and price < _AGAIN_SHARE * self._seconds_left()

    def _take_up_record(self, current: Plan) -> None:
        """Believes what is recorded of other plans, if that of the one that runs is found again."""
        if current.name in self.seconds:
            found = self.recalled.of_others(current.name, self.seconds[current.name])
            for plan in self._candidates:
                if plan.name in found and plan.name not in self.seconds:
                    self.seconds[plan.name] = found[plan.name]
                    self._tried_at[plan.name] = self._spent = max(self._spent, self.recalled.spent)

    def _first(self) -> Plan:
        error: Exception = RuntimeError("every plan was dropped")
        recalled, left = self.recalled, self._remaining
        for plan in sorted(self._candidates, key=lambda plan: recalled.expected(plan.name, left)):
            if plan.name not in self.dropped:
                failure = self._try_to_prepare(plan)
                if failure is None:
                    return plan
                error = failure
        raise error

    def _try_to_prepare(self, plan: Plan) -> Exception | None:
        begun, failure = self._clock(), None
        try:
            self._prepare(plan)
        except Exception as error:  # whatever a compiler may raise
            failure = error
        failed, seconds = self._agree(failure is not None, self._clock() - begun)
        self.compile_seconds[plan.name] = seconds
        if failed:
            failure = failure or RuntimeError("another worker cannot compile it")
            self.drop(plan, failure)
        return failure

    def _measured(self, plan: Plan) -> Generator[tuple[Plan, float], float, None]:
        """Some steps of a plan that has just been compiled; the first one is not counted."""
        first = yield plan, 0
        if not plan.loops:  # it is traced when it first runs
            self.compile_seconds[plan.name] = first
        best = math.inf
        for seconds in (0, _ROUND_SECONDS / 4, _ROUND_SECONDS):
            best = min(best, (yield plan, seconds))
            self.seconds[plan.name] = best

    def _faster(self, current: Plan, other: Plan) -> Generator[tuple[Plan, float], float, Plan]:
        """A trial of ``other`` against ``current``."""
        if other.name not in self.seconds:
            yield other, 0
        for look in range(_LOOKS):
            found = yield other, 0
            self.seconds[other.name] = min(found, self.seconds.get(other.name, found))
            if found <= max(2 * self.seconds[current.name], 0.01):
                break
            if look == _LOOKS - 1:
                return current
            self.seconds[current.name] = yield current, _ROUND_SECONDS
        best: dict[str, float] = {}
        for _ in range(_ROUNDS):
            for plan in (current, other):
                found = yield plan, _ROUND_SECONDS
                best[plan.name] = min(found, best.get(plan.name, found))
                self.seconds[plan.name] = best[plan.name]
        return other if best[other.name] < _MIN_GAIN * best[current.name] else current

    def _repays(self, plan: Plan) -> bool:
        """Whether the steps that remain are expected to save what compiling costs."""
        current = self.plan
        assert current is not None  # the one that runs, with which others are compared
        left = self._seconds_left()
        known = self.compile_seconds.get(current.name, 0.0)
        if plan is STEP and current.loops:
            # Only where dispatch is next to nothing may a loop be the slower one.
            slow = self.seconds[current.name] > _SLOW_STEP and not current.xla
            return slow and _STEP_GAIN * left > known
        gain, price = _LOOP_GAIN, known
        if plan.xla:
            gain, price = self._xla_gain, _XLA_SECONDS + _XLA_TIMES * known
        price = self.recalled.price(plan.name, price)
        return gain * left > price or gain / XLA_GAIN * self._earlier > price


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs"
