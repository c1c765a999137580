"""The rows of each batch that one of several workers reads, holds and trains on.

::

    share = Share(index=1, count=3)
    share.span(16)                     # (6, 11): the rows 6 to 10 of a batch of 16

Arrays are cut here: a worker takes its rows of each global batch, and no others. A data set of its
own rows is what a function returns that is given a ``tf.distribute.InputContext``; then the global
batch is what the workers have together, and is gathered where all of it is to be looked at.
"""

import dataclasses
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from kerastrain.data import checks as data_checks
from kerastrain.errors import DataError
from kerastrain.errors import UnsupportedTypeError
from kerastrain.state import digest_of

# Rows of memory-mapped arrays that workers compare when a pass begins.
_COMPARED = 64


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of each batch is this worker's.

    Attributes:
        index: the number of this worker.
        count: of workers.
        replicas: of all workers together.
        gather: returns a value of each worker, in their order. Collective.
    """

    index: int = 0
    count: int = 1
    replicas: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]

    def span(self, rows: Any) -> tuple[Any, Any]:
        """The first of this worker's rows of a batch, and the first that is not its own.

        Parts are consecutive and differ by at most one row.

        Example:
            >>> [Share(index, 3).span(16) for index in range(3)]
            [(0, 6), (6, 11), (11, 16)]
        """
        return -(-rows * self.index // self.count), -(-rows * (self.index + 1) // self.count)

    def dataset_of(self, function: Callable[[Any], Any], name: str) -> Any:
        """The data set of this worker's rows.

        Args:
            function: of a ``tf.distribute.InputContext``.
            name: what messages call it.

        Raises:
            UnsupportedTypeError: it returns no data set of batches, or cannot be called so.
        """
        try:
            data = function(tf.distribute.InputContext(self.count, self.index, self.replicas))
        except Exception as error:  # it may be any function
            raise UnsupportedTypeError(
                f"`{name}` is a function, {getattr(function, '__name__', function)!r}, which raised "
                f"{type(error).__name__} when it was called with a tf.distribute.InputContext: {error}. "
                "Use a function of that which returns a data set of batches; of a function that makes a "
                "generator, pass what it returns."
            ) from error
        if not data_checks.is_streamed(data):
            raise UnsupportedTypeError(
                f"`{name}` is a function of an input context, and returned an object of type "
                f"{type(data).__name__}. Return a data set of batches, such as a tf.data.Dataset, "
                "with this worker's rows of each; pass arrays as they are."
            )
        return data


ALL = Share()


class Whole(Protocol):
    """The global batches of a block that has one worker's rows."""

    def batch(self, index: int) -> Any:
        """The global batch of an index."""

    def numbers(self, index: int) -> np.ndarray | None:
        """Which rows of the data set it has; None where that is not known."""

    def checksum(self, index: int) -> int:
        """Of what all workers must have alike; 0 where that is nothing."""


class WholeOfArrays:
    """The global batches of arrays that each worker can read.

    Args:
        arrays: a structure of arrays with the rows first.
        order: the rows in the order of a pass, or None for their own.
        rows: of a full batch.
        first: the index, in the pass, of the block's first batch.
        digest: gives `digest_of_arrays`, of which a pass that begins makes sure.
    """

    def __init__(
        self,
        arrays: Any,
        order: np.ndarray | None,
        rows: int,
        first: int,
        digest: Callable[[], str],
    ) -> None:
        self._arrays, self._order, self._rows, self._first = arrays, order, rows, first
        self._digest = digest
        self._count = next(len(a) for a in keras.tree.flatten(arrays) if a is not None)

    def numbers(self, index: int) -> np.ndarray:
        """As of `Whole`."""
        begin = (self._first + index) * self._rows
        end = min(begin + self._rows, self._count)
        return np.arange(begin, end) if self._order is None else self._order[begin:end]

    def batch(self, index: int) -> Any:
        """As of `Whole`."""
        taken = self.numbers(index)
        return self._taken(lambda array: tf.convert_to_tensor(array[taken]))

    def checksum(self, index: int) -> int:
        """Of the first, middle and last row; where a pass begins, of all arrays too."""
        rows = self.numbers(index)
        seen = [rows[0], rows[len(rows) // 2], rows[-1]]
        known = [digest_of(self._taken(lambda array: array[seen])), len(rows), self._count]
        if self._first + index == 0:
            known.append(self._digest())
        return zlib.crc32(repr(known).encode())

    def _taken(self, take: Callable[[np.ndarray], Any]) -> Any:
        return keras.tree.map_structure(lambda a: None if a is None else take(a), self._arrays)


def digest_of_arrays(arrays: Any) -> str:
    """What workers compare of arrays: all that lie in memory, and some rows of those of a file."""
    leaves = [array for array in keras.tree.flatten(arrays) if array is not None]
    return digest_of([_compared(array) if _is_of_file(array) else array for array in leaves])


def _compared(array: np.ndarray) -> np.ndarray:
    return array[np.linspace(0, len(array) - 1, _COMPARED).astype(int)]


def _is_of_file(array: Any) -> bool:
    """Whether it is memory-mapped, or a part of what is."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


class WholeOfWorkers:
    """The global batches of which each worker has its rows, one after another.

    Args:
        part: gives this worker's rows of the batch of an index.
        share: of this worker.
        name: what messages call the data.
    """

    def __init__(self, part: Callable[[int], Any], share: Share, name: str) -> None:
        self._part, self._share, self._name = part, share, name

    def numbers(self, index: int) -> None:
        """As of `Whole`."""

    def batch(self, index: int) -> Any:
        """As of `Whole`. Collective."""
        if self._share.count == 1:
            return self._part(index)
        mine = keras.tree.map_structure(_on_host, self._part(index))
        return joined(self._share.gather(mine), self._name)

    def checksum(self, index: int) -> int:
        """As of `Whole`."""
        return 0


def joined(parts: list[Any], name: str) -> Any:
    """The batch that several workers have rows of, as tensors.

    Args:
        parts: of the batch, in the order of the workers.
        name: what messages call the data.

    Raises:
        DataError: their parts do not fit together.
    """
    kinds = [[*_kinds(part)] for part in parts]
    if any(kind != kinds[0] for kind in kinds):
        raise DataError(
            f"The functions of `{name}` return batches that do not fit together: worker 0 has "
            f"{kinds[0]}, and another one {next(k for k in kinds if k != kinds[0])}. Return data sets "
            "of one structure, and of one type and shape of a row in each step: pad to one length."
        )
    return keras.tree.map_structure(
        lambda *leaves: None if leaves[0] is None else tf.constant(np.concatenate(leaves)), *parts
    )


def _kinds(part: Any) -> Iterator[Any]:
    for path, leaf in keras.tree.flatten_with_path(part):
        yield path, None if leaf is None else (str(leaf.dtype), leaf.shape[1:])


def _on_host(leaf: Any) -> np.ndarray | None:
    if isinstance(leaf, tf.RaggedTensor | tf.SparseTensor):
        raise DataError(
            f"A batch holds a {type(leaf).__name__}, whose rows cannot be cut or joined. "
            "Pass dense tensors where there are several workers."
        )
    return None if leaf is None else np.asarray(leaf)
