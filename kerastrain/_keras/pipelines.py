"""What a ``tf.data`` pipeline is made of, and the seeds of TensorFlow's operations."""

import contextlib
import dataclasses
import random
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import op_def_registry


# What operations that change the state of a program begin with; those that draw random numbers
# have seeds.
_CHANGES = ("Assign", "Rng", "Stateful", "ResourceScatter", "LookupTableInsert")
_PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


@dataclasses.dataclass
class PipelineTraits:
    """What can be told of a pipeline without running it.

    Attributes:
        is_known: whether all of it was seen.
        runs_numpy: whether arrays of NumPy may be what it yields, in their memory.
        runs_python_in_parallel: whether Python functions run in an order that is a matter of
            time; so they do the same each time only if they keep no state.
        differs: why it yields other batches in each process; empty if nothing was found.
        is_same_each_pass: whether it is known that each pass is like the one before.
        begins_at_once: whether it is known that all that has seeds begins once in a pass, at
            its first batch: only how many passes have begun then decides about the next one.
        runs_ahead: what makes it a matter of time how far it has run when a pass is cut; or empty.
    """

    is_known: bool = True
    runs_numpy: bool = False
    runs_python_in_parallel: bool = False
    differs: str = ""
    is_same_each_pass: bool = False
    begins_at_once: bool = False
    runs_ahead: str = ""


def pipeline_traits(dataset: tf.data.Dataset) -> PipelineTraits:
    """What can be told of a pipeline, from its parts and their functions."""
    traits, parts = PipelineTraits(), _parts_of(dataset)
    traits.is_known = all(type(part).__name__ not in _UNKNOWN for part in parts)
    found = [_Operations.of(part) for part in parts]
    traits.runs_numpy = not traits.is_known or any(one.runs_numpy for one in found)
    traits.runs_python_in_parallel = any(one.runs_python and one.is_parallel for one in found)
    ahead = [
        _name_of(part)
        for one, part in zip(found, parts, strict=True)
        if one.is_parallel or "Prefetch" in type(part).__name__
    ]
    traits.runs_ahead = ahead[0] if ahead else ""
    pure = traits.is_known and not any(o.runs_python or o.changes or o.draws for o in found)
    seeded = {id(part) for part in parts if _seeds_of(part)}
    nested = any(one.has_seeds for one in found)
    traits.is_same_each_pass = pure and not nested and not seeded
    traits.begins_at_once = pure and not nested and _begins_at_once(dataset, seeded)
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
        elif one.changes and ahead:
            reasons.append(f"{one.changes} in what runs ahead of the training")
    traits.differs = reasons[0] if reasons else ""
    return traits


def begins_alike(dataset: tf.data.Dataset) -> bool:
    """Whether each iterator of a pipeline certainly begins with the same element."""
    traits = pipeline_traits(dataset)
    return traits.is_same_each_pass and not traits.differs


def _begins_at_once(part, seeded):
    """Whether the parts that have seeds begin once in a pass, at its first batch."""
    if not seeded.intersection(map(id, _parts_of(part))):
        return True
    known = type(part).__name__ in _BEGIN_AT_ONCE
    return known and all(_begins_at_once(one, seeded) for one in part._inputs())


# Data sets that draw from all of theirs at their first element, and begin these only then.
_BEGIN_AT_ONCE = (
    "_BatchDataset",
    "_DenseToRaggedDataset",
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
    "_ShuffleDataset",
    "_TakeDataset",
    "_UnbatchDataset",
    "_ZipDataset",
)
# Data sets that were made of what nobody has kept.
_UNKNOWN = ("_VariantDataset",)


def _name_of(part):
    return type(part).__name__.strip("_").removesuffix("Dataset").lower()


def _parts_of(dataset):
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
    """What the operations of a part of a pipeline do; text says which one does it."""

    runs_numpy: bool = False
    runs_python: bool = False
    is_parallel: bool = False
    is_any_order: bool = False
    has_seeds: bool = False
    unseeded: str = ""
    draws: str = ""
    changes: str = ""

    @classmethod
    def of(cls, part):
        """Those of one part, and of its functions."""
        found = cls(
            is_parallel=getattr(part, "_num_parallel_calls", None) is not None,
            is_any_order=getattr(part, "_deterministic", None) == "false",
        )
        if type(part).__name__ == "_ParallelInterleaveDataset":
            found.is_any_order = _interleaves_in_any_order(part)
        if _seeds_of(part) and not _has_seed(*_seeds_of(part)):
            found.unseeded = _name_of(part)
        for function in part._functions():
            graph = function.function.graph.as_graph_def()
            found.look_at(graph.node)
            for inner in graph.library.function:
                found.look_at(inner.node_def)
        return found

    def look_at(self, nodes):
        """Notes what some operations do."""
        constants = {n.name: n.attr["value"].tensor for n in nodes if n.op == "Const"}
        for node in nodes:
            self.runs_numpy |= node.op in _PYTHON[:2]
            self.runs_python |= node.op in _PYTHON
            self.is_parallel |= bool(_inputs(node, "num_parallel_calls"))
            self.is_any_order |= node.attr["deterministic"].s == b"false"
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


def _interleaves_in_any_order(part):
    """Whether a parallel interleave may mix its files otherwise: only its operation knows."""
    policy = tf.data.experimental.ExternalStatePolicy.IGNORE
    try:
        told = part._as_serialized_graph(external_state_policy=policy).numpy()
    except tf.errors.OpError:  # what cannot be known may be so
        return True
    nodes = tf.compat.v1.GraphDef.FromString(told).node
    return any(node.attr["deterministic"].s == b"false" for node in nodes)


def _seeds_of(part):
    """The seeds of a data set that has any."""
    return [getattr(part, name) for name in ("_seed", "_seed2") if hasattr(part, name)]


def _has_seed(*seeds):
    return any(value is None or int(value) != 0 for value in seeds)


def _inputs(node, *names):
    """The inputs of an operation that have these names."""
    definition = op_def_registry.get(node.op)
    if definition is None:  # a function
        return []
    places = {argument.name: place for place, argument in enumerate(definition.input_arg)}
    if not set(names) <= places.keys():
        return []
    return [node.input[places[name]] for name in names]


def _constant(name, constants):
    tensor = constants.get(name.split(":")[0])
    return None if tensor is None else int(tf.make_ndarray(tensor))


@contextlib.contextmanager
def seeded_operations(seed: int) -> Iterator[None]:
    """Operations that are made inside, without a seed of their own, follow this one."""
    current = context.context()
    # A generator is there only where a seed was set, or something was drawn.
    kept = {name: vars(current)[name] for name in ("_seed", "_rng") if name in vars(current)}
    current._seed, current._rng = seed, random.Random(seed)
    try:
        yield
    finally:
        del current._rng
        vars(current).update(kept)


def operation_seeds() -> tuple[int, tuple] | None:
    """Where the seeds of random operations come from that run eagerly and have none of their own.

    Returns:
        The seed that ``tf.random.set_seed`` was given, and the state of the generator of Python's
        that is behind it; None without a seed.
    """
    current = vars(context.context())
    seed, generator = current.get("_seed"), current.get("_rng")
    return None if seed is None or generator is None else (int(seed), generator.getstate())


def set_operation_seeds(seeds: tuple[int, tuple]) -> None:
    """Lets them go on where `operation_seeds` was called."""
    generator = random.Random()
    generator.setstate(seeds[1])
    current = context.context()
    current._seed, current._rng = seeds[0], generator
    current.clear_kernel_cache()  # one that has drawn from a seed would go on from there
