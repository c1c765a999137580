"""A compiled function of a batch, whatever the batch's number of rows.

::

    step = DynamicBatchFunction(train, jit_compile=False)
    step(batch_of_32)         # traced
    step(batch_of_7)          # the same trace
"""

import warnings
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from kerastrain.errors import UnsupportedByXla
from kerastrain.xla import support as xla_support


class DynamicBatchFunction:
    """A compiled function of a batch, traced with the number of rows left open.

    Batches of other sizes, a shorter last one for example, run the same trace.
    Where the lengths of further axes differ between batches, one more trace
    leaves them open too.

    Args:
        function: of a batch.
        jit_compile: whether XLA compiles it.
        traced: called with each concrete function before it runs for the first time.

    Raises:
        UnsupportedByXla: when called, if XLA is to compile what it has no kernels for.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        jit_compile: bool,
        traced: Callable[[Any], None] = lambda _: None,
    ):
        self._by_xla, self._tell = jit_compile, traced
        self._function = tf.function(function, jit_compile=jit_compile or None, autograph=False)
        self._traced: list[tuple[Any, list[_Open | None], Callable[[Any], Any]]] = []

    def __call__(self, batch: Any) -> Any:
        return self.trace(batch)(batch)

    def trace(self, batch: Any) -> Callable[[Any], Any]:
        """The trace that takes a batch, made where there is none yet; nothing is run."""
        # Calling the concrete function costs about half of tf.function's own
        # dispatch, which compares types by hash on every call.
        skeleton, leaves = _skeleton(batch), tf.nest.flatten(batch)
        for nesting, signature, concrete in self._traced:
            if skeleton == nesting and _fits(leaves, signature):
                return concrete
        signature = [_Open.of(leaf) for leaf in leaves]
        for nesting, other, _ in self._traced:
            if skeleton == nesting:
                signature = _joined(signature, other) or signature
        drawn: list[
            warnings.WarningMessage
        ] = []  # of one trace, or the same would be said of open and of fixed rows
        try:
            concrete = self._trace(batch, signature, drawn)
        except UnsupportedByXla:
            raise
        except (TypeError, ValueError):
            # A model that reads the number of rows in Python needs it fixed.
            drawn_again: list[warnings.WarningMessage] = []
            signature = [_Open.of(leaf, fixed=True) for leaf in leaves]
            concrete = self._trace(batch, signature, drawn_again)
            drawn = drawn_again
        finally:
            for one in drawn:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        self._tell(concrete)
        self._traced.insert(0, (skeleton, signature, concrete))
        return concrete

    def _trace(
        self, batch: Any, signature: "list[_Open | None]", drawn: list[warnings.WarningMessage]
    ) -> Any:
        """A trace; what it warns of is added to ``drawn``."""
        specs = [None if entry is None else entry.spec() for entry in signature]
        given = tf.nest.pack_sequence_as(batch, specs)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                concrete = self._function.get_concrete_function(given)
            finally:
                drawn += caught
        if self._by_xla:
            xla_support.check_graph(concrete.graph)
        return concrete


def _skeleton(structure: Any) -> Any:
    """The nesting of a structure, to compare."""
    if isinstance(structure, dict):
        return {key: _skeleton(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return [type(structure), *map(_skeleton, structure)]
    return None


class _Open(NamedTuple):
    """The type of one leaf of a batch.

    Attributes:
        dtype: of its elements.
        axes: the lengths of all axes, rows first; None is open. None where their number is
            not known.
        composite: the whole type, for ragged and sparse tensors.
    """

    dtype: tf.DType
    axes: tuple[int | None, ...] | None
    composite: tf.TypeSpec | None = None

    @classmethod
    def of(cls, leaf: Any, fixed: bool = False) -> "_Open | None":
        """The type of a leaf, with the number of rows open unless ``fixed``."""
        if leaf is None:
            return None
        if isinstance(leaf, tf.Tensor):
            rank = leaf.shape.rank
            rows = leaf.shape[:1] if fixed or not rank else [None]
            return cls(leaf.dtype, None if rank is None else (*rows, *leaf.shape[1:]))
        composite = tf.type_spec_from_value(leaf)
        shape = composite.shape if fixed else [None, *composite.shape[1:]]
        if isinstance(leaf, tf.SparseTensor):
            composite = tf.SparseTensorSpec(shape, leaf.dtype)
        elif isinstance(leaf, tf.RaggedTensor):
            composite = tf.RaggedTensorSpec(
                shape, leaf.dtype, composite.ragged_rank, composite.row_splits_dtype
            )
        return cls(leaf.dtype, None, composite)

    def spec(self) -> tf.TypeSpec:
        """The type as ``tf.function`` takes it."""
        return self.composite or tf.TensorSpec(self.axes, self.dtype)

    def accepts(self, leaf: Any) -> bool:
        """Whether a leaf is of this type."""
        if self.composite is not None:
            return self.composite.is_compatible_with(leaf)
        if not isinstance(leaf, tf.Tensor) or leaf.dtype != self.dtype:
            return False
        axes = leaf.shape.as_list()
        return self.axes is None or (
            len(axes) == len(self.axes)
            and all(mine in (None, its) for mine, its in zip(self.axes, axes, strict=True))
        )


def _fits(leaves: list[Any], signature: list[_Open | None]) -> bool:
    return all(
        leaf is None if entry is None else leaf is not None and entry.accepts(leaf)
        for leaf, entry in zip(leaves, signature, strict=True)
    )


def _joined(one: list[_Open | None], other: list[_Open | None]) -> list[_Open | None] | None:
    """The signature that accepts both, or None if they differ in more than lengths."""
    joined: list[_Open | None] = []
    for a, b in zip(one, other, strict=True):
        if a == b:
            joined.append(a)
        elif a is None or b is None or a.dtype != b.dtype or a.axes is None or b.axes is None:
            return None
        elif len(a.axes) != len(b.axes):
            return None
        else:
            axes = tuple(m if m == n else None for m, n in zip(a.axes, b.axes, strict=True))
            joined.append(_Open(a.dtype, axes))
    return joined
