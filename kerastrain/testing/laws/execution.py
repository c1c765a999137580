"""Laws of execution: eager, compiled, over replicas, resumed, in `evaluate`."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain.testing import replica_runs
from kerastrain.testing.case import Case
from kerastrain.testing.case import rows_of
from kerastrain.testing.laws.law import law
from kerastrain.testing.streams import Stream
from kerastrain.testing.subject import as_result
from kerastrain.testing.subject import Result
from kerastrain.testing.subject import Subject
from kerastrain.testing.violations import NotApplicable

_TRACE_FIX = (
    "Use `keras.ops` on tensors: no `if`, `float()`, `len()` or NumPy function of their values, "
    "and `keras.ops.shape(x)[0]` for the number of rows."
)


def _weighted(case: Case, stream: Stream, kind: str = "any") -> Stream:
    return stream.weighted(case.weights(stream, kind)) if case.trial.weighted else stream


class _Open:
    """``update_state`` compiled once, with the number of rows left open."""

    def __init__(
        self,
        update: Callable[..., Any],
        stream: Stream,
        rows: int | None = None,
        jit_compile: bool | None = None,
    ) -> None:
        self.traces = 0
        self._stream, self._update = stream, update
        leaves = [np.asarray(leaf) for leaf in _leaves(stream)]
        specs = [tf.TensorSpec((rows, *a.shape[1:]), tf.as_dtype(a.dtype)) for a in leaves]
        self._compiled = tf.function(
            self._run, input_signature=specs, jit_compile=jit_compile, autograph=False
        )

    def _run(self, *leaves: tf.Tensor) -> None:
        self.traces += 1
        remaining = iter(leaves)
        batch = keras.tree.map_structure(lambda _: next(remaining), _parts(self._stream))
        arguments, weight = batch["arguments"], batch.get("weight")
        self._stream.changed(arguments=arguments, sample_weight=weight).call(self._update)

    def __call__(self, batch: Stream) -> None:
        self._compiled(*[tf.constant(leaf) for leaf in _leaves(batch)])


def _parts(stream: Stream) -> dict[str, Any]:
    weight = {} if stream.sample_weight is None else {"weight": stream.sample_weight}
    return {"arguments": stream.arguments, **weight}


def _leaves(stream: Stream) -> list[Any]:
    return keras.tree.flatten(_parts(stream))


def _updated_by(
    case: Case, batches: list[Stream], update_of: Callable[[Callable[..., Any]], _Open], code: str
) -> tuple[Subject, _Open]:
    """A new metric that has seen the batches through a compiled ``update_state``."""
    subject = case.metric()
    call = update_of(subject.metric.update_state)
    for batch in batches:
        subject.program += batch.code(code.format(subject.name))
        with subject.failing_clearly("update_state", _TRACE_FIX):
            call(batch)
    return subject, call


def _of_trace(where: str) -> Callable[[], tuple[str, str]]:
    return lambda: (f"`update_state` or `result` does something else {where}: a Python value is "
                    "taken when it is traced and kept.", _TRACE_FIX)  # fmt: skip


@law("execution", traced=True)
def graph_equals_eager(case: Case) -> None:
    """Compiled by `tf.function` with an open number of rows a metric gives the eager result."""
    batches = case.batches(_weighted(case, case.stream(least=3)))
    eager = case.updated(*batches)
    graph, _ = _updated_by(
        case, batches, lambda update: _Open(update, batches[0]), "tf.function({}.update_state)"
    )
    found = graph.result(tf.function(graph.metric.result, autograph=False))
    case.same(eager.result(), found, ("eager", "compiled"), _of_trace("in a graph"))


@law("execution", traced=True)
def xla_equals_eager(case: Case) -> None:
    """Compiled by XLA a metric gives the eager result.

    Does not apply to a metric whose variables grow with the rows.
    """
    stream = _weighted(case, case.stream(least=2))
    half = stream.rows // 2
    batches = stream.take(slice(0, 2 * half)).cut([half])
    eager = case.updated(*batches)
    case.needs(not eager.grows(), "its variables grow with the rows; XLA's shapes are fixed")
    xla, _ = _updated_by(
        case, batches,
        lambda update: _Open(update, batches[0], rows=half, jit_compile=True),
        "tf.function({}.update_state, jit_compile=True)",
    )  # fmt: skip
    found = xla.result(tf.function(xla.metric.result, jit_compile=True, autograph=False))
    case.same(eager.result(), found, ("eager", "compiled by XLA"), _of_trace("under XLA"))


@law("execution", traced=True)
def bounded_retracing(case: Case) -> None:
    """Batches of all sizes run one trace of `update_state`."""
    stream = _weighted(case, case.stream(least=2))
    batches = [stream, *(stream.take(slice(0, n)) for n in range(1, stream.rows))]
    subject, call = _updated_by(
        case, batches, lambda update: _Open(update, stream), "tf.function({}.update_state)"
    )
    if call.traces != 1:
        case.fail("1 trace", f"{call.traces} traces for {len(batches)} sizes",
                  cause="the number of rows is read in Python.", fix=_TRACE_FIX)  # fmt: skip


@law("execution", traced=True)
def replicas_equal_one_device(case: Case) -> None:
    """On two and on three replicas with unequal shares the result is that of one device.

    Runs on logical CPU devices; where TensorFlow has started with too few of
    them, in a process of its own.
    """
    stream = _weighted(case, case.stream(least=4))
    for count, rows in ((2, stream.rows - (stream.rows + 1) % 2), (3, stream.rows)):
        rows = rows - 1 if rows % count == 0 else rows  # unequal shares
        part = stream.take(slice(0, rows))
        expected = case.updated(part).result()
        case.program.append(f"# The same rows on {count} replicas, as strategy.run cuts them")
        try:
            found = replica_runs.result_on_replicas(case.trial.factory, part, count)
        except NotApplicable:
            raise
        except Exception as error:
            raised = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            case.fail(expected, raised, ("on one device", f"on {count} replicas"),
                      cause="the metric cannot be updated by several replicas.")  # fmt: skip
        case.same(
            expected, found, ("on one device", f"on {count} replicas"),
            lambda: ("the states of replicas are summed, where this one is not a sum.",
                     'Keep sums as state, or declare `merge_rules = {"variable": "max"}`.'),
        )  # fmt: skip


@law("execution")
def resumes_from_variables(case: Case) -> None:
    """A new metric that is given the variables in mid-stream continues as the first one."""
    stream = _weighted(case, case.stream(least=2))
    first, second = stream.cut([case.draw(st.integers(1, stream.rows - 1))])
    whole = case.updated(first)
    copy = case.metric()
    case.needs(len(copy.variables()) == len(whole.variables()), "variables appear in update_state")
    copy.load(whole.state(), "a.variables")
    for subject in (whole, copy):
        subject.update(second)
    case.same(whole.result(), copy.result(), ("without a break", "resumed"), lambda: (
        "something that `update_state` uses is in no variable: a checkpoint would lose it.",
        "Keep all state in variables made by `add_variable` in `__init__`."))  # fmt: skip


@law("execution", traced=True)
def evaluate_equals_one_pass(case: Case) -> None:
    """`model.evaluate` with a shorter last batch gives the result of one pass, with weights too.

    Applies to two arguments, targets and predictions, passed by position.
    """
    stream = case.stream(least=3)
    values = list(stream.arguments.values())
    case.needs(
        len(values) == 2 and not stream.by_keyword and all(isinstance(v, np.ndarray) for v in values)
        and values[1].dtype.kind == "f",
        "`evaluate` passes one array of targets and one of predictions",
    )  # fmt: skip
    case.needs(case.trial.weighted, "`update_state` takes no `sample_weight`, which Keras passes "
               "to every compiled metric, so that it cannot be compiled")  # fmt: skip
    for variant in (stream, stream.weighted(case.weights(stream, "positive"))):
        usual, subject = case.updated(variant), case.metric()
        size = variant.rows - 1
        case.program.append(f"# b: in model.evaluate, {rows_of(variant.cut([size]))}")
        with subject.failing_clearly("evaluate", _TRACE_FIX):
            found = _evaluated(subject.metric, variant, size)
        expected = usual.result()
        case.same(expected, found, ("one pass", "model.evaluate"), lambda: (
            "each batch counts alike, or the state is changed in another way than by `assign`.",
            "Add up sums and counts over the rows, in variables."))  # fmt: skip


def _evaluated(metric: keras.metrics.Metric, stream: Stream, batch_size: int) -> Result:
    y_true, y_pred = stream.arguments.values()
    inputs = keras.Input(y_pred.shape[1:])
    model = keras.Model(inputs, keras.layers.Identity()(inputs))
    weighted = stream.sample_weight is not None
    model.compile(
        loss=lambda target, output: keras.ops.zeros(keras.ops.shape(output)[:1]),
        **{"weighted_metrics" if weighted else "metrics": [metric]},
    )
    model.evaluate(
        y_pred, y_true, batch_size=batch_size, sample_weight=stream.sample_weight, verbose=0
    )
    # The logs give a dict's results other names; the metric has the state.
    return as_result(metric.result())
