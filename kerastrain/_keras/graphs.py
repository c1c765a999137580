"""What a tensor of a graph is computed from, and what the operations of a graph keep."""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry
from tensorflow.python.ops import handle_data_util
from tensorflow.python.ops import script_ops

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def depends_on(
    value: Any, tensors: list[tf.Tensor], handles: set[int] | frozenset[int] = frozenset()
) -> bool | None:
    """Whether a value is computed from tensors other than by way of a variable.

    What is read from a variable depends on nothing here, whatever was assigned to it before.

    Args:
        value: a tensor of a graph, or anything else.
        tensors: of the same graph.
        handles: of variables (`handles_of`): what is read from these counts too.

    Returns:
        None where that is not known: it is no tensor of a graph.
    """
    if not tf.is_tensor(value) or not hasattr(value, "op"):
        return None
    try:
        leaves = tf.nest.flatten(value, expand_composites=True)
        return any(_reaches(leaf, {id(t) for t in tensors} | handles) for leaf in leaves)
    except (AttributeError, NotImplementedError, KeyError):  # a tensor that is no part of a graph
        return None


def _reaches(tensor: Any, wanted: set[int]) -> bool:
    """Whether the tensor is one of these, or is computed from one."""
    seen, waiting = set(), [tensor]
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in wanted:
            return True
        if id(tensor) not in seen:
            seen.add(id(tensor))
            waiting += _sources(tensor)
    return False


def _sources(tensor: Any) -> list[Any]:
    """The tensors that it is computed from; the handle of a variable is computed from none."""
    if not hasattr(tensor, "graph"):  # outside of all graphs
        return []
    operation = tensor.op
    if operation.type == "Placeholder":  # of a graph inside another one
        return [of for of, inner in getattr(operation.graph, "captures", ()) if inner is tensor]
    if operation.type not in _CALLS:
        return list(operation.inputs)
    called = operation.graph._get_function(operation.get_attr("f").name).graph
    output = called.outputs[tensor.value_index]
    return [
        given
        for given, inner in zip(operation.inputs, called.inputs, strict=True)
        if _reaches(output, {id(inner)})
    ]


# What the operations of a graph keep ---------------------------------------------

# Stateful by TensorFlow's register, and without a state that a later step could read: they
# write, check, talk to other devices or read the clock, or read what others keep.
_HARMLESS = (
    *("Print", "Assert", "CheckNumerics", "Debug", "Write", "Save", "Restore", "Merge", "Delete"),
    *("Collective", "Nccl", "AllToAll", "CrossReplica", "Send", "Recv", "_Send", "_Recv", "TPU"),
    *("SyncDevice", "DeviceIndex", "Timestamp", "StatelessRandom", "Empty", "DeepCopy", "Mutex"),
    *("GuaranteeConst", "DestroyResource", "DisableCopyOnRead", "LookupTableFind", "Initialize"),
    *("LookupTableSize", "LookupTableExport", "QueueSize", "QueueIsClosed", "QueueClose"),
    *("IteratorGetDevice", "IteratorToString", "Cudnn", "VarIsInitialized", "VariableShape"),
)
_CHANGING_TABLES = ("LookupTableInsert", "LookupTableImport")
_VARIABLES = ("ReadVariable", "AssignVariable", "AssignAddVariable", "AssignSubVariable")


@dataclasses.dataclass
class KeptState:
    """What the operations of traced functions keep outside of variables.

    Attributes:
        random: the types of those that draw random numbers by a hidden state.
        others: the types of the others, such as ``"LookupTableInsertV2"``.
        functions: the Python functions that they call.
    """

    random: set[str] = dataclasses.field(default_factory=set)
    others: set[str] = dataclasses.field(default_factory=set)
    functions: list[Callable] = dataclasses.field(default_factory=list)

    def add(self, function: Any) -> list[tuple]:
        """Looks into a concrete function, and into the functions that it calls.

        Returns:
            The tables that it changes: ``(handle, dtype of keys, dtype of values)``.
        """
        tables = []
        for operation in _all_operations(function.graph):
            kind = operation.type
            table = _changed_table(operation) if kind.startswith(_CHANGING_TABLES) else None
            if table is not None:
                tables.append(table)
            elif kind in ("PyFunc", "EagerPyFunc"):
                self._add_python(operation.get_attr("token").decode())
            elif not _is_stateful(kind) or _is_of_variables(operation):
                continue
            elif {"seed", "seed2"} <= {a.name for a in operation.op_def.attr} or "Determin" in kind:
                self.random.add(kind)
            else:
                self.others.add(kind)
        return tables

    def _add_python(self, token: str) -> None:
        called = script_ops._py_funcs.get(token)
        called = called._func if isinstance(called, script_ops.EagerFunc) else called
        if called is not None and not any(called is one for one in self.functions):
            self.functions.append(called)


def changes_something(function: Any) -> bool:
    """Whether a concrete function, or one that it calls, changes what is read after it."""
    return any(
        _is_stateful(operation.type) and operation.type != "ReadVariableOp"
        for operation in _all_operations(function.graph)
    )


def advanced_generators(function: Any) -> dict[int, Any]:
    """The handles of the states of each ``tf.random.Generator`` that a traced function advances.

    Args:
        function: a concrete function; those that it calls are looked into.

    Returns:
        By what `handles_of` gives; while one is held, no other variable gets that.
    """
    found = {}
    for operation in _all_operations(function.graph):
        if _takes_generator(operation.type):
            handle = operation.inputs[0]
            while handle is not None and hasattr(handle, "op"):  # inside of a graph
                captures = getattr(handle.graph, "captures", ())
                handle = {inner.name: outer for outer, inner in captures}.get(handle.name)
            if handle is not None:
                found[id(handle)] = handle
    return found


def _takes_generator(kind: str) -> bool:
    """Whether operations of a type change a variable by an algorithm of random numbers."""
    found = op_def_registry.get(kind)
    names = [argument.name for argument in found.input_arg] if found is not None else []
    return names[:1] == ["resource"] and not {"alg", "algorithm"}.isdisjoint(names)


def _all_operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Those of a graph, and of the functions, loops and branches in it."""
    waiting, seen = [graph], set()
    while waiting:
        graph = waiting.pop()
        for operation in graph.get_operations():
            yield operation
            if not _calls(operation.type):
                continue
            for value in operation.node_def.attr.values():
                for name in (value.func.name, *(f.name for f in value.list.func)):
                    called = graph._get_function(name) if name and name not in seen else None
                    seen.add(name)
                    inner = getattr(called, "graph", None)
                    if inner is not None:
                        waiting.append(inner)


_STATEFUL: dict[str, bool] = {}
_CALLING: dict[str, bool] = {}


def _calls(kind: str) -> bool:
    """Whether operations of a type call functions."""
    if kind not in _CALLING:
        found = op_def_registry.get(kind)
        attributes = found.attr if found is not None else ()
        _CALLING[kind] = any(attribute.type in ("func", "list(func)") for attribute in attributes)
    return _CALLING[kind]


def _is_stateful(kind: str) -> bool:
    """Whether operations of a type keep something that counts."""
    if kind not in _STATEFUL:
        found = op_def_registry.get(kind)
        _STATEFUL[kind] = (
            found is not None
            and found.is_stateful
            and not _calls(kind)
            and not kind.startswith(_HARMLESS)
            and "Summary" not in kind
            # What only makes something makes it anew at each step.
            and not any(output.type == tf.resource.as_datatype_enum for output in found.output_arg)
        )
    return _STATEFUL[kind]


def _changed_table(operation: tf.Operation) -> tuple[Any, tf.DType, tf.DType] | None:
    """``(handle, dtype of keys, dtype of values)`` of a table from outside, or None."""
    captured = {inner.name: outer for outer, inner in operation.graph.captures}
    handle = captured.get(operation.inputs[0].name)
    if handle is None or not hasattr(handle, "numpy"):
        return None
    return handle, operation.inputs[1].dtype, operation.inputs[2].dtype


def _is_of_variables(operation: tf.Operation) -> bool:
    """Whether what an operation changes is variables, or was made in the same step."""
    resources = [t for t in operation.inputs if t.dtype == tf.resource]
    return bool(resources) and all(
        operation.type.startswith(_VARIABLES)
        or handle_data_util.get_resource_handle_data(tensor).is_set
        or tensor.op.type != "Placeholder"
        for tensor in resources
    )
