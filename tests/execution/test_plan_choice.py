"""The faster plan is taken, and none is tried whose compilation cannot repay itself."""

import bisect
import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kerastrain.execution.plan_choice import CALL_SECONDS
from kerastrain.execution.plan_choice import Choice
from kerastrain.execution.plans import LOOP
from kerastrain.execution.plans import STEP
from kerastrain.execution.plans import XLA_LOOP

MANY = 1_000_000
PLANS = {plan.name: plan for plan in (STEP, LOOP, XLA_LOOP)}


class Machine:
    """A choice whose plans take the seconds that they are given, by a clock of its own.

    Args:
        step: seconds of a step, or a function of how often the plan has run, by plan name.
        compiling: seconds, by plan name.
        failing: what preparing a plan raises, by plan name.
        candidates: the names of plans, the surest first.
        slowed: the times as long that steps take at a time, by the plan's name.
    """

    def __init__(self, step, compiling=None, failing=None, candidates=None, slowed=None, **options):
        self.step, self.failing = step, failing or {}
        self.slowed = slowed or (lambda name, now: 1.0)
        self.compiling = {"step": 0.0, "loop": 0.2, "xla_loop": 0.6} | (compiling or {})
        self.now, self.ran, self.prepared = 0.0, [], []
        self.calls = collections.Counter()
        candidates = candidates or list(step)
        self.choice = Choice(
            [PLANS[name] for name in candidates],
            self.prepare,
            clock=lambda: self.now,
            **options,
        )

    def prepare(self, plan):
        self.prepared.append(plan.name)
        self.now += self.compiling[plan.name]
        if plan.name in self.failing:
            raise self.failing[plan.name]

    def run(self, steps, known=True):
        """A fit of so many steps, known or not."""
        choice, done = self.choice, 0
        choice.begin(steps if known else None)
        choice.start()
        while done < steps:
            plan, taken = choice.plan, min(choice.steps, steps - done)
            seconds = self.step[plan.name]
            if callable(seconds):
                seconds = seconds(self.calls[plan.name])
            seconds *= self.slowed(plan.name, self.now)
            self.calls[plan.name] += 1
            self.ran.append((plan.name, taken))
            self.now += seconds * taken
            choice.record(taken, seconds * taken)
            done += taken
        return self

    def steps_of(self, name):
        return sum(steps for plan, steps in self.ran if plan == name)


# Which plan -------------------------------------------------------------------


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    loop=st.floats(1e-5, 1e-2),
    ratio=st.floats(0.05, 20).filter(lambda r: not 0.9 < r < 1.1),
)
def test_the_faster_plan_is_taken(loop, ratio):
    """With much to do, the plan of the shorter step runs nearly all steps."""
    seconds = {"loop": loop, "xla_loop": loop * ratio}
    machine = Machine(seconds).run(int(100 / loop))
    assert min(seconds, key=seconds.get) == machine.choice.plan.name
    assert machine.choice.is_settled
    assert machine.choice.is_measured
    assert machine.choice.seconds == pytest.approx(seconds, rel=1e-6)
    assert machine.steps_of(machine.choice.plan.name) * loop > 90


@pytest.mark.parametrize("ratio", [1.0, 0.98, 1.02])
def test_a_tie_keeps_the_current_plan(ratio):
    """A plan that is hardly faster is not taken: a noisy machine feigns as much."""
    machine = Machine({"loop": 1e-3, "xla_loop": ratio * 1e-3}).run(MANY)
    assert LOOP is machine.choice.plan
    assert "xla_loop" in machine.choice.seconds


@pytest.mark.parametrize("slow_run", range(16))
def test_no_single_measurement_decides(slow_run):
    """Neither plan is lost or taken for one outlier, whenever it comes."""
    for outlier in (27e-3, 0.3):
        seconds = {"loop": 1e-3, "xla_loop": lambda run: outlier if run == slow_run else 5e-4}
        assert XLA_LOOP is Machine(seconds).run(MANY // 10).choice.plan
        seconds = {"loop": lambda run: outlier if run == slow_run else 1e-3, "xla_loop": 2e-3}
        assert LOOP is Machine(seconds).run(MANY // 10).choice.plan


def neighbour(seed, slows):
    """Another program that computes in bursts: slows each plan by its number, half of the time."""
    ends, random = [0.0], np.random.default_rng(seed)
    while ends[-1] < 1000:
        ends += [ends[-1] + random.exponential(0.15)]

    def slowed(name, now):
        return slows[name] if bisect.bisect(ends, now % 1000) % 2 else 1.0

    return slowed


@pytest.mark.parametrize("xla", [0.4, 0.7, 0.95, 1.3, 3.0])
@pytest.mark.parametrize("slows", [{"loop": 2.0, "xla_loop": 2.0}, {"loop": 2.0, "xla_loop": 1.2}])
def test_beside_a_noisy_neighbour(xla, slows):
    """The plan is the best one, or takes a tenth more, in at least 29 of 30 runs."""
    alone = {"loop": 1e-4, "xla_loop": xla * 1e-4}
    mean = {name: (1 + slows[name]) / 2 * seconds for name, seconds in alone.items()}
    good = 0
    for seed in range(30):
        machine = Machine(alone, slowed=neighbour(seed, slows)).run(400_000)
        good += mean[machine.choice.plan.name] <= 1.1 * min(mean.values())
    assert good >= 29


def test_a_slow_trial_ends_early():
    """What is run of a plan thirty times as slow is a hundredth of the time, and not in vain again."""
    machine = Machine({"loop": 0.01, "xla_loop": 0.3}).run(100)
    machine.run(20_000)
    assert machine.steps_of("xla_loop") * 0.3 < 0.02 * 20_000 * 0.01
    assert LOOP is machine.choice.plan


def test_a_trial_takes_tenths_of_a_second():
    """What trials of a plan twice as slow cost is small, however fast a step is."""
    for seconds in (1e-5, 1e-4, 1e-3):
        machine = Machine({"loop": seconds, "xla_loop": 2 * seconds}).run(MANY)
        assert machine.steps_of("xla_loop") * 2 * seconds < 0.5 + 0.01 * MANY * seconds


def test_a_decision_is_looked_at_again():
    """A plan that is slower until much has run, as where other programs run, is taken later on."""
    machine = Machine(
        {"loop": 1e-3, "xla_loop": 5e-4},
        slowed=lambda name, now: 3.0 if name == "xla_loop" and now < 20 else 1.0,
    )
    assert LOOP is machine.run(15_000).choice.plan
    assert XLA_LOOP is machine.run(200_000).choice.plan


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    fits=st.integers(1, 200),
    steps=st.integers(10, 2000),
    ratio=st.floats(0.1, 0.65),
)
def test_short_trainings_one_after_the_other(fits, steps, ratio):
    """What has been counts as what is to come: twice the least time, and the trials, at most."""
    machine = Machine({"loop": 1e-4, "xla_loop": ratio * 1e-4})
    for _ in range(fits):
        machine.run(steps)
    done = fits * steps * 1e-4
    least = min(0.2 + done, 0.2 + 0.6 + ratio * done)
    assert machine.now <= 2 * least + 0.6


@pytest.mark.parametrize("candidates", [["loop", "xla_loop", "step"], ["step", "loop", "xla_loop"]])
@pytest.mark.parametrize("fastest", ["loop", "step"])
def test_three_plans(candidates, fastest):
    """From any first plan the fastest of three is reached, where a step is worth a trial."""
    seconds = {name: 0.02 if name == fastest else 0.04 for name in candidates}
    machine = Machine(seconds, candidates=candidates).run(100_000)
    assert fastest == machine.choice.plan.name


# What is worth a trial --------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_nothing_is_compiled_that_cannot_repay_it(steps):
    """With a second of work left, no XLA; the loop runs it all."""
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-5}).run(steps)
    assert ["loop"] == machine.prepared
    assert steps == machine.steps_of("loop")


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    steps=st.integers(1, 10**6),
    loop=st.floats(1e-6, 1e-2),
    compiling=st.floats(0.05, 3),
    times=st.floats(1, 4),
    gain=st.floats(0.05, 0.9),
)
def test_the_price_of_a_trial_is_bounded(steps, loop, compiling, times, gain):
    """If XLA saves what is expected of it, or nothing, the work takes little longer than it must.

    It costs what its compilation costs, which is a share of the loop's own time, and a trial.
    """
    expected = 0.3
    compile_xla = min(times * compiling, 0.7 + 3 * compiling)
    machine = Machine(
        {"loop": loop, "xla_loop": loop * (1 - gain)},
        {"loop": compiling, "xla_loop": compile_xla},
    ).run(steps)
    if "xla_loop" in machine.prepared:
        assert compile_xla < expected * steps * loop
    alone = compiling + steps * loop
    assert machine.now <= 1.3 * alone + 0.3


def test_convolutions_on_a_cpu():
    """Where XLA rarely saves anything, it is tried for very long work only."""
    seconds = {"loop": 0.01, "xla_loop": 0.3}
    assert "xla_loop" in Machine(seconds).run(2_000).prepared
    assert "xla_loop" not in Machine(seconds, xla_gain=0.02).run(2_000).prepared
    assert "xla_loop" in Machine(seconds, xla_gain=0.02).run(20_000).prepared


def test_a_step_at_a_time_is_not_tried_where_steps_are_fast():
    """After a loop of fast steps, whose dispatch counts, none is run by itself."""
    machine = Machine({"loop": 1e-3, "step": 1e-4}).run(MANY)
    assert ["loop"] == machine.prepared


def test_more_work_opens_the_choice_again():
    """A later, longer fit tries what the first one could not repay; a settled one tries no more."""
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-4})
    machine.run(100)
    assert (LOOP, True, False) == (
        machine.choice.plan,
        machine.choice.is_settled,
        machine.choice.is_measured,
    )
    machine.run(MANY)
    assert XLA_LOOP is machine.choice.plan
    prepared = list(machine.prepared)
    machine.run(MANY)
    assert prepared == machine.prepared


def test_unknown_work():
    """Where nobody knows what is to come, as many steps again as have been are counted on."""
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-4}).run(20, known=False)
    assert ["loop"] == machine.prepared
    assert machine.choice.steps >= 1


def test_unknown_work_that_turns_out_long():
    """Work without a known end that has gone on for long is worth a trial as well."""
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-4}).run(100_000, known=False)
    assert XLA_LOOP is machine.choice.plan


def test_a_single_plan_is_not_measured():
    """Of a pinned plan only the length of its calls is found out; single steps have none."""
    machine = Machine({"step": 0.5}, compares=False).run(5)
    assert {} == machine.choice.seconds
    assert not machine.choice.is_measured
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-4, "step": 1e-5}, compares=False).run(MANY)
    assert ["loop"] == machine.prepared
    assert {"loop"} == machine.choice.seconds.keys()
    assert not machine.choice.is_measured


def test_a_pinned_plan_gives_way_without_comparing():
    """A pinned plan that cannot be compiled gives way to the next one, and to no other."""
    failing = {"xla_loop": ValueError("no kernel")}
    seconds = {"xla_loop": 1e-4, "loop": 1e-3, "step": 1e-5}
    machine = Machine(seconds, failing=failing, compares=False).run(MANY)
    assert ["xla_loop", "loop"] == machine.prepared
    assert {"loop"} == {name for name, _ in machine.ran}


# How many steps a call --------------------------------------------------------


@pytest.mark.parametrize("seconds", [1e-6, 1e-4, 3e-3, 0.05, 0.5])
def test_steps_of_a_call(seconds):
    """Calls of a chosen loop take a tenth of a second, or one step; the first one is one step."""
    machine = Machine({"loop": seconds}).run(int(5 / seconds))
    assert ("loop", 1) == machine.ran[0]
    assert max(1, CALL_SECONDS / seconds) == pytest.approx(machine.ran[-2][1], abs=1)
    assert all(steps * seconds <= CALL_SECONDS + seconds for _, steps in machine.ran)


def test_steps_of_a_call_follow_the_machine():
    """Where a step becomes slower or faster than it was measured, the calls soon take as long."""
    for factor in (0.2, 5):
        machine = Machine({"loop": lambda call, f=factor: 1e-3 * (1 if call < 20 else f)})
        machine.run(30_000)
        assert CALL_SECONDS / (1e-3 * factor) == pytest.approx(machine.ran[-2][1], rel=0.1)


def test_most_steps_of_a_call():
    """No call has more steps than are allowed, in trials neither."""
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-4}, max_steps_per_call=7).run(20_000)
    assert "xla_loop" in machine.prepared
    assert 7 == max(steps for _, steps in machine.ran)


def test_a_step_at_a_time():
    """A plan without a loop has one step a call, however fast it is."""
    machine = Machine({"step": 1e-7, "loop": 1e-5}).run(2000)
    assert {1} == {steps for name, steps in machine.ran if name == "step"}


# What cannot be compiled ------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ValueError("of a trace\nand more lines"),
        TypeError(""),
        RuntimeError("\n\n  of a compiler"),
        NotImplementedError("of a layer"),
        AttributeError("of a symbol"),
        RecursionError("too deep"),
        MemoryError("x" * 1000),
        KeyError("name"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("first", [True, False])
def test_a_plan_that_cannot_be_compiled_is_dropped(error, first):
    """Whatever compiling raises, the other plan runs; the reason is one short line."""
    failing = "loop" if first else "xla_loop"
    other = "xla_loop" if first else "loop"
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-3}, failing={failing: error}).run(100_000)
    assert other == machine.choice.plan.name
    assert 100_000 == machine.steps_of(other)
    reason = machine.choice.dropped[failing]
    assert reason.startswith(f"{type(error).__name__}: ")
    assert len(reason.splitlines()) == 1
    assert len(reason) < 250
    assert reason in str(machine.choice)
    assert 1 == machine.prepared.count(failing)
    machine.run(100_000)
    assert 1 == machine.prepared.count(failing)


def test_nothing_can_be_compiled():
    """Where every plan fails, the error of the last one is raised, and nothing has run."""
    failing = {"loop": ValueError("first"), "step": ValueError("last")}
    machine = Machine({"loop": 1.0, "step": 1.0}, failing=failing)
    with pytest.raises(ValueError, match="last"):
        machine.run(3)
    assert [] == machine.ran
    assert {"loop", "step"} == machine.choice.dropped.keys()


def test_ctrl_c_while_compiling():
    """An interrupt is no reason to drop a plan."""
    machine = Machine({"loop": 1.0}, failing={"loop": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        machine.run(3)
    assert {} == machine.choice.dropped


def test_a_plan_is_dropped_while_it_runs():
    """A plan that no longer compiles, for other shapes, gives way to the next one at once."""
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-4}).run(MANY)
    assert XLA_LOOP is machine.choice.plan
    machine.choice.drop(XLA_LOOP, ValueError("of other shapes"))
    machine.choice.start()
    assert LOOP is machine.choice.plan
    machine.run(1000)
    assert LOOP is machine.choice.plan
    machine.choice.drop(LOOP, ValueError("too"))
    with pytest.raises(RuntimeError, match="every plan was dropped"):
        machine.choice.start()


# What is reported -------------------------------------------------------------


def test_as_text():
    """The line names the plan, the seconds of a step, those of others, and what was dropped."""
    choice = Machine({"loop": 1e-3}).choice
    assert "nothing has run" == str(choice)
    machine = Machine({"loop": 1e-3, "xla_loop": 2.5e-4}).run(MANY)
    assert "xla_loop, 250 µs a step (loop 1,000 µs)" == str(machine.choice)
    failing = {"xla_loop": ValueError("no kernel\nat line 3")}
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-3}, failing=failing).run(MANY)
    assert "loop, 1,000 µs a step (xla_loop dropped: ValueError: no kernel)" == str(machine.choice)


def test_seconds_of_compiling():
    """What compiling took is noted for each plan; of a step by itself, that of its first run."""
    machine = Machine({"loop": 1e-3, "xla_loop": 1e-4}).run(MANY)
    assert {"loop": 0.2, "xla_loop": 0.6} == pytest.approx(machine.choice.compile_seconds)
    seconds = {"step": lambda run: 0.5 if run == 0 else 1e-3, "loop": 1e-3}
    machine = Machine(seconds, candidates=["step", "loop"]).run(100)
    assert 0.5 == machine.choice.compile_seconds["step"]
    assert STEP is machine.choice.plan
    assert 1e-3 == machine.choice.seconds["step"]
