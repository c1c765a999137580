"""Whether a model trains the same, however its batches are cut.

::

    report = check_equivalence(build_and_compile, (x, y), replicas=(1, 2), micro_batches=(1, 3))
    print(report)                 # a row for each cut, with its largest differences

`kerastrain` promises that replicas, micro-batches and a shorter last batch
leave weights, loss and metrics as they are. A layer, a loss, a metric or a
step of the user's own can break that promise; `check_equivalence` trains the
model on one device and on each cut, compares after every step, and names the
first step and the first variable that differ.

What a difference is, and its denominator, is written in
`kerastrain.testing.differences`.

This is the only module of `kerastrain.testing` that imports the trainer;
checks of metrics alone do without it.
"""

import contextlib
import itertools
import math
import numbers
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerastrain import validation
from kerastrain.data import checks as data_checks
from kerastrain.data import named_sets
from kerastrain.data import Source
from kerastrain.errors import ArgumentError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.options import StepOptions
from kerastrain.preparation import checks
from kerastrain.testing.causes import causes
from kerastrain.testing.cut_runs import CutRuns
from kerastrain.testing.differences import Equivalence
from kerastrain.testing.differences import NotEquivalent

# The largest batch that is chosen where none is asked for.
_LARGEST_BATCH = 64


def check_equivalence(
    model_fn: Callable[[], keras.Model],
    data: Any,
    *,
    replicas: tuple[int, ...] = (1, 2),
    micro_batches: tuple[int, ...] = (1, 2),
    batch_sizes: tuple[int, ...] | None = None,
    epochs: int = 2,
    class_weight: dict | None = None,
    tolerance: float = 1e-6,
    seed: int = 0,
    step: StepOptions | None = None,
) -> Equivalence:
    """Trains a model on one device and on each cut of its batches, and compares.

    For each batch size, one replica with the whole batch at once is the
    reference; every other combination of ``replicas`` and ``micro_batches`` is
    a cut. All start from the same weights and see the same rows in the same
    order. After each step every weight on every replica, every optimizer
    variable, and the running loss and metrics are compared, but no state of
    random numbers.

    A few dozen rows are enough. A copy of weights and optimizer variables is
    kept for each step of the reference. Seeds Python's, NumPy's and
    TensorFlow's random numbers.

    Args:
        model_fn: a function without arguments that returns a *compiled*
            ``keras.Model`` of any kind, a new one with a new optimizer at
            each call. It is called inside the strategy's scope, so the model
            needs no ``get_config``.
        data: ``(x, y)`` or ``(x, y, sample_weight)``, arrays or nested dicts
            of arrays with the same number of rows; or ``x`` alone.
        replicas, micro_batches: the numbers to combine. Replicas are GPUs
            where there are GPUs, else logical CPU devices, which are made if
            TensorFlow has not started yet.
        batch_sizes: rows of the global batch. None chooses one or two sizes up
            to 64, with which there are, as far as the number of rows allows:
            a shorter last batch, a batch of unequal shares, and a batch that
            leaves a replica (else a micro-batch) without rows.
        epochs: how often to go through the data.
        class_weight: as in ``fit``.
        tolerance: the largest difference (see `kerastrain.testing.differences`)
            that counts as equal. Half precision needs more, and so does a long
            run with an optimizer that enlarges rounding, such as Adam.
        seed: of initial weights and all other random numbers.
        step: the clipping, `StepOptions`; its ``micro_batches`` is replaced by
            those of each cut. None takes that of a compiled `TrainableModel`.

    Returns:
        An `Equivalence`, which prints as a table.

    Raises:
        NotEquivalent: a cut differs. All cuts have run then.
        ArgumentError: an argument that cannot work, or too few devices.
        ModelError: there are NaNs in the reference.
        DataError, UnsupportedTypeError: as for ``Trainer.fit``, and for data
            that are no arrays.

    Example:
        >>> def build():
        ...     model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        ...     model.compile("adam", "mse", metrics=["mae"])
        ...     return model
        >>> x = np.random.default_rng(0).normal(size=(11, 3)).astype("float32")
        >>> report = check_equivalence(build, (x, x.sum(1)), micro_batches=(1,), epochs=1)
        >>> [(r.replicas, r.batch_size, r.steps, r.passed) for r in report.results]
        [(2, 5, 3, True)]
    """
    for argument, values in (("replicas", replicas), ("micro_batches", micro_batches)):
        _check_counts(argument, values)
    _check_others(model_fn, epochs, tolerance, seed, step)
    cuts = [c for c in dict.fromkeys(itertools.product(replicas, micro_batches)) if c != (1, 1)]
    if not cuts:
        raise ArgumentError(
            "One replica with one micro-batch is the reference itself: there is nothing to "
            f"compare. Received: replicas={replicas!r}, micro_batches={micro_batches!r}. Add "
            "another number, for example replicas=(1, 2)."
        )
    _make_devices(max(replicas))
    data, rows = _arrays(data)
    if batch_sizes is None:
        batch_sizes = choose_batch_sizes(rows, replicas, micro_batches)
    _check_counts("batch_sizes", batch_sizes)
    runs = CutRuns(
        model_fn, data, rows, tolerance, step, micro_batches,
        epochs=epochs, class_weight=class_weight, seed=seed,
    )  # fmt: skip
    results = []
    for size in dict.fromkeys(batch_sizes):
        reference = runs.reference(size)
        results += [runs.cut(reference, *cut, size) for cut in cuts]
    failed = [result for result in results if not result.passed]
    weighted = class_weight is not None or data[2] is not None
    found = causes(runs.model, failed, weighted, tolerance)
    report = Equivalence(type(runs.model).__name__, tolerance, tuple(results), tuple(found))
    if not report.passed:
        raise NotEquivalent(report)
    return report


def choose_batch_sizes(
    rows: int, replicas: tuple[int, ...], micro_batches: tuple[int, ...]
) -> tuple[int, ...]:
    """One or two batch sizes that cut ``rows`` in the ways in which cuts go wrong.

    These are a shorter last batch; a batch whose parts are unequal and not
    empty; and a batch with fewer rows than parts. Of the sizes that have
    most of them, those that make about three batches are preferred.

    Example:
        >>> choose_batch_sizes(11, (1, 2), (1, 2))     # 5 + 5 + 1 rows
        (5,)
    """
    parts = [r for r in replicas if r > 1] or [m for m in micro_batches if m > 1]
    every = max(replicas) * max(micro_batches)

    def ways(size: int) -> set[str]:
        rest, found = rows % size, set()
        for batch in (size, rest) if rest else (size,):
            if batch >= every and all(batch % part for part in parts):
                found.add("unequal")
            if batch < min(parts):
                found.add("empty")
        return found | {"shorter"} if rest else found

    def best(known: set[str]) -> int:
        sizes = range(1, min(rows - 1, _LARGEST_BATCH) + 1)
        batches = {size: abs(math.ceil(rows / size) - 3) for size in sizes}
        return max(sizes, key=lambda size: (len(ways(size) - known), -batches[size]), default=rows)

    first = best(set())
    second = best(ways(first))
    return (first, second) if ways(second) - ways(first) else (first,)


# Training ---------------------------------------------------------------------


# Before any training ----------------------------------------------------------


def _check_counts(argument: str, values: Any) -> None:
    if not isinstance(values, tuple | list) or not values:
        raise ArgumentError(
            f"`{argument}` must be a tuple of whole numbers. Received: {argument}={values!r}. "
            f"Pass for example {argument}=(1, 2)."
        )
    for value in values:
        validation.whole_number(argument, value, 1, f"a tuple such as {argument}=(1, 2)", values)


def _check_others(model_fn: Any, epochs: Any, tolerance: Any, seed: Any, step: Any) -> None:
    checks.check_epochs(epochs, 0, 1)
    is_real = isinstance(tolerance, numbers.Real)
    if not is_real or not 0 <= tolerance < math.inf:
        raise ArgumentError(
            f"`tolerance` must be a number, 0 or more. Received: tolerance={tolerance!r}. "
            "Pass for example tolerance=1e-6."
        )
    if step is not None and not isinstance(step, StepOptions):
        raise UnsupportedTypeError(
            f"`step` must be StepOptions(...) or None. Received: step={step!r} of type "
            f"{type(step).__name__}."
        )
    if checks.as_seed(seed) is None:
        raise ArgumentError(
            "`seed` must be a whole number, 0 or more: all runs start from it. Received: "
            "seed=None. Pass for example seed=0."
        )
    if isinstance(model_fn, keras.Layer) or not callable(model_fn):
        raise ArgumentError(
            "`model_fn` must be a function without arguments that returns a compiled model. "
            f"Received: model_fn={model_fn!r} of type {type(model_fn).__name__}. Pass a function "
            "that builds and compiles it."
        )


def _arrays(data: Any) -> tuple[tuple[Any, Any, Any], int]:
    """``((x, y, sample_weight), rows)``."""
    parts = named_sets.unpack(data, "data")
    if data_checks.is_streamed(parts[0]):
        raise UnsupportedTypeError(
            "`data` must be arrays, which can be cut in several ways. Received: "
            f"{type(parts[0]).__name__}. Pass (x, y) of the first few dozen rows."
        )
    Source(*parts, name="data").peek()
    leaf = next(leaf for leaf in keras.tree.flatten(parts[0]) if leaf is not None)
    return parts, int(leaf.shape[0])


def _make_devices(count: int) -> None:
    """Makes logical CPU devices for the replicas, if TensorFlow has not started yet."""
    if count == 1:
        return
    cpu = tf.config.list_physical_devices("CPU")[0]
    there = tf.config.get_logical_device_configuration(cpu) or ()
    if len(there) < count and not tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):  # too late: it runs with the devices it has
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * count
            )
    gpus = len(tf.config.list_logical_devices("GPU"))
    found = gpus or len(tf.config.list_logical_devices("CPU"))
    if found < count:
        hide = '    tf.config.set_visible_devices([], "GPU")\n' if gpus else ""
        raise ArgumentError(
            f"{count} replicas need {count} devices; TensorFlow has started with {found}. "
            f"Received: replicas up to {count}. Put these lines into conftest.py, before "
            "anything that uses TensorFlow:\n\n    import tensorflow as tf\n\n" + hide +
            "    tf.config.set_logical_device_configuration(\n"
            '        tf.config.list_physical_devices("CPU")[0],\n'
            f"        [tf.config.LogicalDeviceConfiguration()] * {count},\n    )"
        )  # fmt: skip
