"""What a ``tf.data`` pipeline is made of, and the seeds of TensorFlow's operations."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_registry

# What operations that change the state of a program begin with; those that draw random numbers
# have seeds.
_CHANGES = ("Assign", "Rng", "Stateful", "ResourceScatter", "LookupTableInsert")
_PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


@dataclasses.dataclass
class PipelineTraits:
    """What is known of a pipeline without running it.

    Attributes:
        is_known: whether all of it was seen.
        runs_numpy: whether arrays of NumPy may be what it yields, in their memory.
        runs_python_in_parallel: whether Python functions run in an order that is a matter of
            time; so they do the same each time only if they keep no state.
        differs: why it yields other batches in each process; empty if nothing was found.
        is_same_each_pass: whether it is known that each pass is like the one before.
        begins_at_once: whether it is known that all that has seeds begins once in a pass, at
            its first batch: only how many passes have begun then decides about the next one.
        runs_python: whether functions of Python's, or what nobody has kept, make its batches.
        left: what its own parts leave before its end.
        left_if_cut: the same, where passes are left before their end.
        lasting: what keeps its state from pass to pass, and from one pipeline to another that has it
            too, with its name.
    """

    is_known: bool = True
    runs_numpy: bool = False
    runs_python_in_parallel: bool = False
    differs: str = ""
    is_same_each_pass: bool = False
    begins_at_once: bool = False
    runs_python: bool = False
    left: "Left" = dataclasses.field(default_factory=lambda: Left())
    left_if_cut: "Left" = dataclasses.field(default_factory=lambda: Left())
    lasting: tuple[tuple[Any, str], ...] = ()


@dataclasses.dataclass
class Left:
    """Parts of a pipeline that are left before their end, and continue in the next pass.

    What these yield then depends on how far they were drawn.

    Attributes:
        goes_on: whether there are any.
        runs_ahead: what draws ahead there, so that how far is a matter of time; or empty.
        runs_python_ahead: the same, of what continues only if Python functions keep a state.
        by: what leaves that which runs ahead; empty for the pass itself.
    """

    goes_on: bool = False
    runs_ahead: str = ""
    runs_python_ahead: str = ""
    by: str = ""


def pipeline_traits(dataset: tf.data.Dataset) -> PipelineTraits:
    """What is known of a pipeline, from its parts and their functions."""
    traits, parts = PipelineTraits(), _parts_of(dataset)
    found = [_Operations.of(part) for part in parts]
    traits.is_known = not any(one.is_unknown for one in found)
    traits.runs_python = not traits.is_known or any(one.runs_python for one in found)
    traits.runs_numpy = not traits.is_known or any(one.runs_numpy for one in found)
    traits.runs_python_in_parallel = any(one.runs_python and one.is_parallel for one in found)
    runs_ahead = any(one.runs_ahead for one in found)
    pure = traits.is_known and not any(o.runs_python or o.changes or o.draws for o in found)
    seeded = {id(part) for part in parts if _reshuffles(part)}
    nested = any(one.has_seeds for one in found)
    traits.is_same_each_pass = pure and not nested and not seeded
    traits.begins_at_once = pure and not nested and _begins_at_once(dataset, seeded)
    of_parts = {id(part): one for one, part in zip(found, parts, strict=True)}
    traits.left = _left(dataset, of_parts, seeded, is_cut=False)
    traits.left_if_cut = _left(dataset, of_parts, seeded, is_cut=True)
    traits.lasting = tuple((part, _name_of(part)) for part in parts if id(part) in seeded)
    traits.lasting += tuple(pair for one in found for pair in one.lasting)
    reasons = []
    if dataset.options().deterministic is False and any(one.is_parallel for one in found):
        reasons.append("the option deterministic=False")
    for one, part in zip(found, parts, strict=True):
        name = _name_of(part)
        if one.unseeded:
            reasons.append(f"random numbers without a seed in {one.unseeded}")
        if one.is_any_order:
            reasons.append(f"deterministic=False in {name}")
        if one.is_parallel and (one.draws or one.changes):
            reasons.append(f"{one.draws or one.changes} in what {name} runs in parallel")
        elif one.changes and runs_ahead:
            reasons.append(f"{one.changes} in what runs ahead of the training")
    if traits.left.runs_ahead:
        reasons.append(
            f"{traits.left.runs_ahead}, which has drawn more or less of what follows when "
            f"{traits.left.by} stops (let nothing draw ahead before that)"
        )
    traits.differs = reasons[0] if reasons else ""
    return traits


def begins_alike(dataset: tf.data.Dataset) -> bool:
    """Whether each iterator of a pipeline certainly begins with the same element."""
    traits = pipeline_traits(dataset)
    return traits.is_same_each_pass and not traits.differs


def _begins_at_once(part: tf.data.Dataset, seeded: set[int]) -> bool:
    """Whether the parts that have seeds begin once in a pass, at its first batch."""
    if not seeded.intersection(map(id, _parts_of(part))):
        return True
    known = type(part).__name__ in _BEGIN_AT_ONCE
    return known and all(_begins_at_once(one, seeded) for one in part._inputs())


def _left(
    dataset: tf.data.Dataset, operations: dict[int, "_Operations"], seeded: set[int], is_cut: bool
) -> Left:
    """What of a pipeline is left before its end.

    ``is_cut`` says whether passes over it are left before their end.
    """
    left, seen, coming = Left(), set(), [(dataset, "" if is_cut else None)]
    while coming:
        part, by = coming.pop()
        if by is None and operations[id(part)].is_unknown and operations[id(part)].leaves:
            by = "its function"
        if (id(part), by) in seen:
            continue
        seen.add((id(part), by))
        leaves = [] if by is not None else [id(one) for one in _left_by(part)]
        for one in part._inputs():
            coming.append((one, _name_of(part) if id(one) in leaves else by))
        if by is None:
            continue
        below = [operations[id(one)] for one in _parts_of(part)]
        goes_on = not _begins_at_once(part, seeded)
        goes_on = goes_on or any(one.is_unknown or one.changes for one in below)
        in_python = any(one.runs_python for one in below)
        left.goes_on |= goes_on or in_python
        if operations[id(part)].runs_ahead and (goes_on or in_python):
            kind = "runs_ahead" if goes_on else "runs_python_ahead"
            if not getattr(left, kind):
                setattr(left, kind, _name_of(part))
                left.by = by
    return left


def _left_by(part: tf.data.Dataset) -> list[tf.data.Dataset]:
    """The data sets of a part that it may leave before their end."""
    inputs, name = part._inputs(), type(part).__name__
    if name in _DRAINING or _is_endless(part):
        return []
    if name == "_ZipDataset":
        inputs = [one for one in inputs if not all(_is_endless(o) for o in inputs if o is not one)]
    if name == "_DirectedInterleaveDataset" and not part._stop_on_empty_dataset:
        selector, *_ = inputs
        inputs = [selector] if _is_endless(selector) else inputs
    return [one for one in inputs if not _is_of_one_length(one, part)]


def _is_endless(part: tf.data.Dataset) -> bool:
    """Whether it certainly has no end."""
    if type(part).__name__ == "_DirectedInterleaveDataset":
        selector, *others = part._inputs()
        one = all if part._stop_on_empty_dataset else any
        return _is_endless(selector) and one(map(_is_endless, others))
    return part.cardinality() == tf.data.INFINITE_CARDINALITY and _is_length_known(part)


def _is_of_one_length(part: tf.data.Dataset, other: tf.data.Dataset) -> bool:
    """Whether two have certainly equally many elements, which have an end."""
    count = int(part.cardinality())
    is_known = count >= 0 and _is_length_known(part) and _is_length_known(other)
    return is_known and count == int(other.cardinality())


def _is_length_known(part: tf.data.Dataset) -> bool:
    """Whether its cardinality is to be trusted: TensorFlow takes mixtures of data for endless."""
    return all(
        type(one).__name__ != "_DirectedInterleaveDataset"
        or one.cardinality() != tf.data.INFINITE_CARDINALITY
        or _is_endless(one)
        for one in _parts_of(part)
    )


# Data sets that draw from all of theirs at their first element, and begin these only then.
_BEGIN_AT_ONCE = (
    "_BatchDataset",
    "_DenseToRaggedDataset",
    "_DenseToSparseBatchDataset",
    "_FilterDataset",
    "_FlatMapDataset",
    "_GroupByWindowDataset",
    "_InterleaveDataset",
    "_MapDataset",
    "_OptionsDataset",
    "_PaddedBatchDataset",
    "_ParallelBatchDataset",
    "_ParallelInterleaveDataset",
    "_ParallelMapDataset",
    "_PrefetchDataset",
    "_RandomDataset",
    "_RebatchDataset",
    "_RestructuredDataset",
    "_ScanDataset",
    "_ShardDataset",
    "_ShuffleDataset",
    "_SkipDataset",
    "_TakeDataset",
    "_TakeWhileDataset",
    "_UnbatchDataset",
    "_UniqueDataset",
    "_WindowDataset",
    "_ZipDataset",
)
# Data sets that draw all of theirs to the end, or as long as they are drawn themselves.
_DRAINING = (
    *(name for name in _BEGIN_AT_ONCE if "Take" not in name and "Zip" not in name),
    "CacheDataset",
    "_CacheDataset",
    "_ConcatenateDataset",
    "_RepeatDataset",
)
# Data sets that are made of none.
_SOURCES = (
    "_FixedLengthRecordDataset",
    "_GeneratorDataset",
    "_RangeDataset",
    "_TFRecordDataset",
    "_TensorDataset",
    "_TensorSliceDataset",
    "_TextLineDataset",
)
# Data sets that were made of what nobody has kept: it can only be read from their graphs.
_UNKNOWN = ("_VariantDataset",)


def _name_of(part: tf.data.Dataset) -> str:
    return type(part).__name__.strip("_").removesuffix("Dataset").lower()


def _parts_of(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """The data set, and those that it is made of."""
    parts, coming = {}, [dataset]
    while coming:
        part = coming.pop()
        if id(part) not in parts:
            parts[id(part)] = part
            coming += part._inputs()
    return list(parts.values())


@dataclasses.dataclass
class _Operations:
    """What a part of a pipeline and its operations do; text says which one does it."""

    is_unknown: bool = False
    runs_ahead: bool = False
    leaves: bool = False
    runs_numpy: bool = False
    runs_python: bool = False
    is_parallel: bool = False
    is_any_order: bool = False
    has_seeds: bool = False
    unseeded: str = ""
    draws: str = ""
    changes: str = ""
    lasting: tuple[tuple[Any, str], ...] = ()

    @classmethod
    def of(cls, part: tf.data.Dataset) -> "_Operations":
        """Those of one part, and of its functions."""
        found = cls(
            is_parallel=getattr(part, "_num_parallel_calls", None) is not None,
            is_any_order=getattr(part, "_deterministic", None) == "false",
        )
        if type(part).__name__ == "_ParallelInterleaveDataset":
            found.is_any_order = _interleaves_in_any_order(part)
        if _seeds_of(part) and not _has_seed(*_seeds_of(part)):
            found.unseeded = _name_of(part)
        if type(part).__name__ in _UNKNOWN:
            found.look_into(part._variant_tensor, "a data set that was handed over")
        for function in part._functions():
            graph = function.function.graph.as_graph_def()
            found.look_at(graph.node)
            for inner in graph.library.function:
                found.look_at(inner.node_def)
            captured = function.function.captured_inputs
            for outside in (one for one in captured if one.dtype == tf.variant):
                found.look_into(outside, f"a data set inside of {_name_of(part)}")
            if found.changes:
                resources = [one for one in captured if one.dtype == tf.resource]
                found.lasting += tuple((one, found.changes) for one in resources)
        in_background = any(word in type(part).__name__ for word in ("Prefetch", "Parallel"))
        found.runs_ahead |= found.is_parallel or in_background
        return found

    def look_into(self, variant: tf.Tensor, name: str) -> None:
        """Notes what a data set from outside does: nothing else is known of it."""
        graph = _graph_of(variant)
        if graph is not None:
            inside = _Operations()
            for nodes in (graph.node, *(inner.node_def for inner in graph.library.function)):
                inside.look_at(nodes)
                self.look_at(nodes)
            if not inside.has_seeds:
                return
        self.is_unknown = True
        self.lasting += ((variant, name),)

    def look_at(self, nodes: Iterable[tf.compat.v1.NodeDef]) -> None:
        """Notes what some operations do."""
        constants = {n.name: n.attr["value"].tensor for n in nodes if n.op == "Const"}
        for node in nodes:
            self.runs_numpy |= node.op in _PYTHON[:2]
            self.runs_python |= node.op in _PYTHON
            self.is_parallel |= bool(_inputs(node, "num_parallel_calls"))
            self.is_any_order |= node.attr["deterministic"].s == b"false"
            self.runs_ahead |= "Prefetch" in node.op
            kind, is_dataset, _ = node.op.partition("Dataset")
            self.leaves |= bool(is_dataset) and f"_{kind}Dataset" not in (*_DRAINING, *_SOURCES)
            if node.op.startswith(_CHANGES):
                self.changes = self.changes or node.op
            if {"seed", "seed2"} <= node.attr.keys():
                self.draws = self.draws or node.op
                seeds = [node.attr["seed"].i, node.attr["seed2"].i]
            else:
                seeds = [_constant(value, constants) for value in _inputs(node, "seed", "seed2")]
            self.has_seeds |= bool(seeds)
            if seeds and not _has_seed(*seeds):
                self.unseeded = self.unseeded or node.op


def _interleaves_in_any_order(part: tf.data.Dataset) -> bool:
    """Whether a parallel interleave may mix its files otherwise: only its operation knows."""
    graph = _graph_of(part._variant_tensor)
    if graph is None:  # what cannot be known may be so
        return True
    return any(node.attr["deterministic"].s == b"false" for node in graph.node)


def _graph_of(variant: tf.Tensor) -> tf.compat.v1.GraphDef | None:
    """A data set and all that it is made of as one graph; None where TensorFlow cannot make one."""
    ignore = tf.data.experimental.ExternalStatePolicy.IGNORE.value
    try:
        graph = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=ignore)
    except tf.errors.OpError:
        return None
    return tf.compat.v1.GraphDef.FromString(graph.numpy())


def _reshuffles(part: tf.data.Dataset) -> bool:
    """Whether it has seeds, and each pass over it takes others."""
    fixed = getattr(part, "_reshuffle_each_iteration", True) is False  # None stands for True
    fixed = fixed or not getattr(part, "_rerandomize", True)
    return bool(_seeds_of(part)) and not fixed


def _seeds_of(part: tf.data.Dataset) -> list[Any]:
    """The seeds of a data set that has any."""
    return [getattr(part, name) for name in ("_seed", "_seed2") if hasattr(part, name)]


def _has_seed(*seeds: Any) -> bool:
    return any(value is None or int(value) != 0 for value in seeds)


def _inputs(node: tf.compat.v1.NodeDef, *names: str) -> list[str]:
    """The inputs of an operation that have these names."""
    definition = op_def_registry.get(node.op)
    if definition is None:  # a function
        return []
    places, place = {}, 0
    for argument in definition.input_arg:
        places[argument.name] = place
        if argument.type_list_attr:
            place += len(node.attr[argument.type_list_attr].list.type)
        else:
            place += node.attr[argument.number_attr].i if argument.number_attr else 1
    if not set(names) <= places.keys():
        return []
    return [node.input[places[name]] for name in names]


def _constant(name: str, constants: dict[str, Any]) -> int | None:
    tensor = constants.get(name.split(":")[0])
    return None if tensor is None else int(tf.make_ndarray(tensor))
