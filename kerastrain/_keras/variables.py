"""Variables on one device and on replicas."""

import contextlib
import functools
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.common import variables as keras_variables
from keras.src.ops import node
from keras.src.utils import tracking
from tensorflow.python.distribute import ps_values
from tensorflow.python.distribute import values as values_lib
from tensorflow.python.ops import resource_variable_ops

from kerastrain._keras.workers import as_sent


def model_strategy(model: keras.Model) -> tf.distribute.Strategy | None:
    """The strategy in whose scope the model was made, or None."""
    return model._distribute_strategy


def replicas_of(model: keras.Model) -> int:
    """The number of replicas of the strategy that the model was made under, or 1."""
    strategy = model_strategy(model)
    return strategy.num_replicas_in_sync if strategy is not None else 1


@contextlib.contextmanager
def under_strategy(parts: Iterable, strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Inside, models and optimizers are as if they had been made in the strategy's scope."""
    names = [
        "_distribute_strategy" if isinstance(part, keras.Model) else "_distribution_strategy"
        for part in parts
    ]
    before = [vars(part)[name] for part, name in zip(parts, names, strict=True)]
    for part, name in zip(parts, names, strict=True):
        vars(part)[name] = strategy
    try:
        yield
    finally:
        for part, name, value in zip(parts, names, before, strict=True):
            vars(part)[name] = value


def is_made_under(variable: keras.Variable, strategy: tf.distribute.Strategy) -> bool:
    """Whether what a variable holds was made in the strategy's scope."""
    return strategy.extended.variable_created_in_scope(variable._value)


def held_by(variable: keras.Variable) -> Any:
    """TensorFlow's variable that one of Keras's holds; None where it has no value yet."""
    return variable._value


def hold(variable: keras.Variable, other: Any, value: Any) -> None:
    """Lets a variable of Keras's hold another one of TensorFlow's.

    Optimizers know both for the same: Keras 3.15.1 keeps their slots, and what has no weight decay,
    by an identifier of TensorFlow's variables (backend/tensorflow/optimizer.py, `_var_key`).

    Args:
        variable: that has a value.
        other: the other one, or None to make one like it in the scope that is open.
        value: of the other one from now on.
    """
    before = variable._value
    if (
        other is None
        or other.dtype != before.dtype
        or not before.shape.is_compatible_with(other.shape)
    ):
        make = tf.Variable if tf.size(value) else made_empty
        other = make(
            value,
            dtype=before.dtype,
            shape=before.shape,
            trainable=before.trainable,
            name=variable.name,
            aggregation=before.aggregation,
            synchronization=before.synchronization,
        )
    else:
        other.assign(value)
    variable._value = other
    held = other._v if isinstance(other, ps_values.AggregatingVariable) else other
    for part in held.values if isinstance(held, tf.distribute.DistributedValues) else [held]:
        part._unique_id = before._unique_id


def made_empty(value: tf.Tensor, **options: Any) -> tf.Variable:
    """A variable of TensorFlow's without rows.

    TensorFlow 2.21 ends the process where one is made in the scope of several workers
    (collective_all_reduce_strategy.py, `_get_variable_creator_initial_value`, sends no bytes), so it
    is made with one row.
    """
    row = tf.zeros([length or 1 for length in value.shape], value.dtype)
    variable = tf.Variable(row, **options)
    assign_local(variable, [value] * len(local_variables(variable)))
    return variable


def is_distributed(variable: keras.Variable | tf.Variable) -> bool:
    """Whether each replica has a value of its own."""
    return isinstance(tf_variable(variable), tf.distribute.DistributedValues)


def differs_by_replica(variable: keras.Variable | tf.Variable) -> bool:
    """Whether the replicas' values are not kept equal: those of metrics are not."""
    return isinstance(tf_variable(variable), values_lib.SyncOnReadVariable)


def tf_variable(variable: keras.Variable | tf.Variable) -> tf.Variable:
    """The TensorFlow variable inside a ``keras.Variable``, or one itself."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def local_variables(variable: keras.Variable | tf.Variable) -> list[tf.Variable]:
    """The variable on each replica (one entry without replicas)."""
    value = tf_variable(variable)
    return list(value.values) if isinstance(value, tf.distribute.DistributedValues) else [value]


def read_local(variable: keras.Variable | tf.Variable) -> list[tf.Tensor]:
    """A copy of the value on each replica."""
    return [tf.identity(part) for part in local_variables(variable)]


def read_all(variable: keras.Variable | tf.Variable) -> list[tf.Tensor]:
    """A copy of the value on each replica of all workers. Collective, where there are several.

    TensorFlow 2.21 ends the process where nothing is gathered, so that a row is added and taken away.
    """
    parts = read_local(variable)
    value = tf_variable(variable)
    strategy = getattr(value, "distribute_strategy", None)
    if strategy is None or getattr(strategy.extended, "_num_workers", 1) == 1:
        return parts

    def gathered(parts: list[tf.Tensor]) -> tf.Tensor:
        found = strategy.gather(values_lib.PerReplica([*map(as_sent, parts)]), axis=0)
        return tf.cast(found, parts[0].dtype)

    count = strategy.num_replicas_in_sync
    if not (value.shape.rank and value.shape[0] is None):
        rows = gathered([part[tf.newaxis] for part in parts])
        return tf.unstack(tf.ensure_shape(rows, [count, *value.shape]))
    # It grows with the rows.
    longer = [tf.concat([part, tf.zeros([1, *part.shape[1:]], part.dtype)], 0) for part in parts]
    sizes = gathered([tf.shape(part)[:1] for part in longer])
    rows = tf.ensure_shape(gathered(longer), value.shape)
    return [part[:-1] for part in tf.split(rows, sizes, num=count)]


def span_of(variable: keras.Variable | tf.Variable) -> tuple[int, int]:
    """``(the number of the first replica of this worker, how many replicas all have)``."""
    local = len(local_variables(variable))
    extended = getattr(
        tf_variable(variable), "distribute_strategy", tf.distribute.get_strategy()
    ).extended
    first = local * getattr(extended, "_id_in_cluster", 0)
    return first, local * getattr(extended, "_num_workers", 1)


def assign_local(variable: keras.Variable | tf.Variable, parts: list[tf.Tensor]) -> None:
    """Gives each replica the value that `read_local` read."""
    for component, part in zip(local_variables(variable), parts, strict=True):
        component.assign(part)


def handles_of(variable: keras.Variable | tf.Variable) -> set[int]:
    """Identifies a variable on each replica: two objects may represent the same one.

    Empty where it has no value yet.
    """
    value = variable._value if isinstance(variable, keras.Variable) else variable
    if value is None:
        return set()
    parts = value.values if isinstance(value, tf.distribute.DistributedValues) else [value]
    return {id(part.handle) for part in parts}


def captured_handles(function: Any) -> set[int]:
    """The handles (`handles_of`) that a traced function has, inside of functions in it too."""
    return {id(external) for external, _ in function.graph.captures}


def captured_variables(function: Any, known: set[int]) -> list[tf.Variable]:
    """The variables that a traced function reads or changes, in the order of their first use.

    Those inside of functions, loops and branches in it too; and those that nobody holds any more.

    Args:
        function: a concrete function.
        known: handles of variables that are left out (`handles_of`).
    """
    found, known = [], known | _ordering_tokens(tf.distribute.get_strategy())
    for external, _ in function.graph.captures:
        if external.dtype != tf.resource or id(external) in known:
            continue
        handle_data = getattr(external, "_handle_data", None)  # a table or an iterator has none
        if handle_data is None or not handle_data.is_set:
            continue
        kind = handle_data.shape_and_type[0]
        found.append(
            resource_variable_ops.BaseResourceVariable(
                trainable=False,
                shape=tf.TensorShape(kind.shape),
                dtype=tf.as_dtype(kind.dtype),
                handle=external,
                name="captured",
            )
        )
    return found


def _ordering_tokens(strategy: tf.distribute.Strategy) -> set[int]:
    """Handles of the variables, never assigned to, that keep collective operations in order."""
    names = ("_cross_device_ops", "_host_cross_device_ops")
    operations = [getattr(strategy.extended, name, None) for name in names]
    launchers = [one for part in operations for one in getattr(part, "_launchers", ())]
    tokens = [getattr(one, "_ordering_token", None) for one in launchers]
    return {id(token.handle) for token in tokens if token is not None}


_ASSIGNMENTS = (
    *("assign", "assign_add", "assign_sub"),
    *("scatter_add", "scatter_sub", "scatter_update", "scatter_nd_add", "scatter_nd_update"),
    *("scatter_max", "scatter_min", "scatter_mul", "scatter_div", "batch_scatter_update"),
)


_SEEING: list[tuple[int | None, Callable]] = []  # threads, None for all, and what is called
_REPLACED: list[tuple[type, str, Callable]] = []
_LOCK = threading.Lock()


@contextlib.contextmanager
def assignments_seen(
    see: Callable[[tf.Variable], None], in_all_threads: bool = False
) -> Iterator[None]:
    """Inside, ``see`` is called with each variable just before this thread assigns to it.

    Several threads may be inside, and leave in any order.

    Args:
        see: called outside of the graph that is traced, if any.
        in_all_threads: whether also where another thread assigns; then it is called right there,
            in a graph too.
    """
    mine = None if in_all_threads else threading.get_ident(), see
    with _LOCK:
        if not _SEEING:
            _replace_assignments()
        _SEEING.append(mine)
    try:
        yield
    finally:
        with _LOCK:
            _SEEING[:] = [other for other in _SEEING if other is not mine]
            while _REPLACED and not _SEEING:
                kind, name, assign = _REPLACED.pop()
                setattr(kind, name, assign)


def _replace_assignments() -> None:
    kinds = [resource_variable_ops.BaseResourceVariable]
    for kind in kinds:  # a class below has the methods once more, as its own
        kinds += kind.__subclasses__()

    def seeing(assign: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(assign)
        def seen(self: tf.Variable, *args: Any, **kwargs: Any) -> Any:
            for thread, see in tuple(_SEEING):
                if thread is None:
                    see(self)
                elif threading.get_ident() == thread:
                    with tf.init_scope():
                        see(self)
            return assign(self, *args, **kwargs)

        return seen

    _REPLACED[:] = [
        (kind, name, vars(kind)[name])
        for kind in kinds
        for name in _ASSIGNMENTS
        if name in vars(kind)
    ]
    for kind, name, assign in _REPLACED:
        setattr(kind, name, seeing(assign))


@contextlib.contextmanager
def none_to_be_initialized() -> Iterator[None]:
    """Variables that are made inside and have no value yet, as in a dry run, are forgotten.

    Keras 3.15.1 keeps them in a list, and gives all of them values at the end of the next scope
    (common/variables.py, `initialize_all_variables`).
    """
    name = "uninitialized_variables"
    before = list(global_state.get_global_attribute(name) or [])
    try:
        yield
    finally:
        global_state.set_global_attribute(name, before)


def is_node(value: Any) -> bool:
    """Whether it is of Keras's record of which layer was called on which output."""
    return isinstance(value, node.Node | tracking.Tracker)


_LISTENERS: list[set] = []
_ASSIGN = keras_variables.Variable.assign


@contextlib.contextmanager
def assigned_variables() -> Iterator[set[int]]:
    """Notes the ``id`` of each Keras variable that is assigned inside, in a trace too."""
    noted: set[int] = set()
    with _LOCK:
        _LISTENERS.append(noted)
        keras_variables.Variable.assign = _noting_assign
    try:
        yield noted
    finally:
        with _LOCK:
            _LISTENERS[:] = [other for other in _LISTENERS if other is not noted]
            if not _LISTENERS:
                keras_variables.Variable.assign = _ASSIGN


def _noting_assign(self: keras.Variable, value: Any) -> Any:
    for noted in tuple(_LISTENERS):
        noted.add(id(self))
    return _ASSIGN(self, value)
