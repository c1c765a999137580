"""Laws of the state: it is all in the variables, and each metric has its own."""

import keras
import numpy as np

from kerastrain.testing.case import Case
from kerastrain.testing.laws.law import law
from kerastrain.testing.streams import as_it_is
from kerastrain.testing.streams import Stream
from kerastrain.testing.subject import as_result
from kerastrain.testing.subject import Subject


@law("state")
def accepts_stream(case: Case) -> None:
    """Valid rows are taken, and the result is one or more numbers."""
    subject = case.updated(case.stream())
    result = subject.result()
    if not result or any(a.dtype.kind not in "fiub" for a in result.values()):
        case.fail("numbers", result, cause="`result` returns something else than numbers.",
                  fix="Return a tensor, or a dict of tensors.")  # fmt: skip


@law("state")
def reset_equals_fresh(case: Case) -> None:
    """After `reset_state` a metric is as new: its result, its state, and all that follows."""
    stream = case.stream()
    fresh, used = case.metric(), case.metric()
    used.update(stream)
    used.reset()
    of = ("a new metric", "after reset_state")
    cause = "`reset_state` leaves {names} as it was, or sets another value than the constructor."
    fix = "Assign {names} its initial value in `reset_state`."
    if type(used.metric).reset_state is keras.metrics.Metric.reset_state:
        cause = "Keras's `reset_state` assigns 0 to {names}, not the value of its initializer."
        fix = "Write a `reset_state` that assigns {names} its initial value."
    case.same_state(fresh.state(), used.state(), of, cause, fix)

    def explain() -> tuple[str, str]:
        return (
            "something outside the variables outlives `reset_state`.",
            "Keep all state in `add_variable`, or reset the rest too.",
        )

    case.same(fresh.result(), used.result(), of, explain)
    for subject in (fresh, used):
        subject.update(stream)
    case.same(fresh.result(), used.result(), of, explain)


@law("state")
def instances_share_nothing(case: Case) -> None:
    """What one metric sees does not change another one."""
    seen, other = case.metric(), case.metric()
    if seen.metric is other.metric:
        case.fail("two metrics", "the same object twice", cause="the factory keeps one object.",
                  fix="Make a new metric in each call of the factory.")  # fmt: skip
    mine = {id(v) for v in seen.variables()}
    shared = [v.name for v in other.variables() if id(v) in mine]
    if shared:
        case.fail("variables of its own", f"shared: {shared}",
                  cause="variables are made outside of the constructor, once for all metrics.",
                  fix="Call `add_variable` in `__init__`.")  # fmt: skip
    before = other.result()
    seen.update(case.stream())
    case.same(
        before, other.result(), ("before the other one's update", "after it"),
        lambda: ("the state is kept in the class or in a global, not in the object.",
                 "Make it with `add_variable` in `__init__`."),
    )  # fmt: skip


@law("state")
def state_in_variables(case: Case) -> None:
    """The variables are the whole state: a new metric that is given their values has the result."""
    used = case.updated(case.stream())
    expected = used.result()
    initial, copy = case.metric(), case.metric()
    start = initial.state()
    _load(case, copy, used.state(), "a.variables")
    fix = "Keep it in variables made by `add_variable` in `__init__`."
    cause = "`result` depends on a Python attribute (a number, a list), which no variable holds."
    case.same(expected, copy.result(), ("of a", "of b, with the variables of a"),
              lambda: (cause, fix))  # fmt: skip
    expected = initial.result()
    _load(case, used, start, "b.variables")
    case.same(expected, used.result(), ("a new metric", "of a, with the variables of a new one"),
              lambda: (cause, fix))  # fmt: skip


def _load(case: Case, subject: Subject, state: list[np.ndarray], source: str) -> None:
    if len(subject.variables()) != len(state):
        case.fail(f"{len(state)} variables", f"{len(subject.variables())} variables",
                  cause="variables are made during `update_state`.",
                  fix="Call `add_variable` in `__init__`.")  # fmt: skip
    subject.load(state, source)


@law("state")
def variables_exist_early(case: Case) -> None:
    """All variables exist before the first update, and none appears later."""
    subject = case.metric()
    before = subject.variables()
    subject.update(case.stream())
    subject.result()
    after = subject.variables()
    if [id(v) for v in before] != [id(v) for v in after]:
        names = [v.name for v in after if id(v) not in {id(b) for b in before}]
        case.fail(f"{len(before)} variables", f"{len(after)}: new are {names}",
                  cause="`update_state` or `result` makes variables.",
                  fix="Call `add_variable` in `__init__`: saving, distribution and compiled steps "
                      "miss what comes later.")  # fmt: skip


@law("state")
def result_is_pure(case: Case) -> None:
    """`result` may be asked at any time, any number of times, and changes nothing."""
    stream = case.stream()
    asked, silent = case.updated(stream), case.updated(stream)
    cause, fix = "`result` changes {names}.", "Compute with the values of {names}; assign nothing."
    before = asked.state()
    first, again = asked.result(), asked.result()
    of = ("asked once", "asked again")
    case.same_state(before, asked.state(), ("before result()", "after it"), cause, fix)
    case.same(first, again, of, lambda: ("`result` changes something.", "Compute only."))
    for subject in (asked, silent):
        subject.update(stream)
    case.same(silent.result(), asked.result(), ("asked at the end only", "asked before too"),
              lambda: ("`result` changes something.", "Compute only."))  # fmt: skip


@law("state")
def kept_result_stays(case: Case) -> None:
    """A result that is kept does not change with later updates or a reset."""
    stream = case.stream()
    subject = case.updated(stream)
    kept = subject.raw_result()
    before = as_result(kept)
    subject.update(stream)
    subject.reset()
    case.same(
        before, as_result(kept), ("when it was asked", "the same object later"),
        lambda: ("`result` returns a variable, not its value.",
                 "Return `keras.ops.copy(variable)`, or compute with it (`variable + 0`)."),
    )  # fmt: skip


@law("state")
def inputs_not_mutated(case: Case) -> None:
    """The arrays that are passed in are not changed."""
    stream = case.stream()
    if case.trial.weighted:
        stream = stream.weighted(case.weights(stream))
    given = stream.mapped(lambda kind, array: array.copy())
    if stream.sample_weight is not None:
        given = given.weighted(stream.sample_weight.copy())
    case.metric().update(given, convert=as_it_is)
    for name, arrays in _arrays(stream).items():
        for one, other in zip(arrays, _arrays(given)[name], strict=True):
            case.same({(name,): one}, {(name,): other}, ("before", "after update_state"),
                      lambda: ("`update_state` works in place.", "Copy before you assign."))  # fmt: skip


def _arrays(stream: Stream) -> dict[str, list[np.ndarray]]:
    found = {name: keras.tree.flatten(value) for name, value in stream.arguments.items()}
    if stream.sample_weight is not None:
        found["sample_weight"] = [stream.sample_weight]
    return found


@law("state")
def stateless_agrees(case: Case) -> None:
    """`stateless_update_state` and `stateless_result` give the same, and assign nothing.

    Does not apply to a metric whose variables grow with the rows, unless it has these
    functions of its own.
    """
    stream = case.stream()
    usual, subject = case.updated(stream), case.metric()
    keras_own = keras.metrics.Metric.stateless_update_state
    case.needs(
        type(subject.metric).stateless_update_state is not keras_own or not subject.grows(),
        "its variables grow with the rows; Keras's functions want fixed shapes",
    )
    before = subject.state()
    values = [v.value for v in subject.variables()]
    case.program.append("values = [v.value for v in b.variables]")
    case.program += stream.code("values = b.stateless_update_state")
    with subject.failing_clearly("stateless_update_state"):
        values = stream.call(lambda *a, **k: subject.metric.stateless_update_state(values, *a, **k))
    case.program.append("b.stateless_result(values)")
    with subject.failing_clearly("stateless_result"):
        found = as_result(subject.metric.stateless_result(values))
    case.same(usual.result(), found, ("of a.update_state", "of the stateless functions"),
              lambda: ("the state is changed in another way than by `assign` of a variable.",
                       "Assign variables (`assign`, `assign_add`) only."))  # fmt: skip
    case.same_state(before, subject.state(), ("b before", "b after"),
                    "{names} is assigned past Keras (a TensorFlow variable, a nested metric).",
                    "Use variables made by `add_variable`.")  # fmt: skip
