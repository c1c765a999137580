"""What a metric is fed with: rows, how they are cut, weighed and masked.

::

    stream = Stream({"y_true": y_true, "y_pred": y_pred}, kinds={"y_true": "label"})
    first, second = stream.cut([3])            # rows 0..2, and the others
    stream.weighted(weights).take([0, 0, 1])   # rows may repeat

A `Stream` holds all rows of a trial; a batch is a stream too. Arrays are
NumPy's, with the rows as their first axis, in any nesting of dicts and lists.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras

# What an argument means, so that laws know what may be done with it.
LABEL = "label"  # whole numbers that name or flag classes
SCORE = "score"  # predictions: probabilities or logits
VALUE = "value"  # real numbers that may be shifted and scaled together
OTHER = "other"
KINDS = (LABEL, SCORE, VALUE, OTHER)
# How often a row is repeated where many are wanted.
MANY = 24
# Fewer rows than this are written one by one.
_FEWEST_SHOWN = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Rows for ``update_state``.

    Attributes:
        arguments: ``{name: nested arrays}``, the rows as the first axis of each;
            passed by position, in this order, unless ``by_keyword``.
        kinds: ``{name: one of KINDS}``; `OTHER` where it is not named.
        by_keyword: pass the arguments by their names.
        sample_weight: shape ``(rows,)`` or that of a mask; None for none.
        mask: True where rows (or time steps) count, ``(rows,)`` or
            ``(rows, steps)``; None for none. Attached to the last argument.
        steps: the length of the axis of time steps, if there is one.
    """

    arguments: dict[str, Any]
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    by_keyword: bool = False
    sample_weight: np.ndarray | None = None
    mask: np.ndarray | None = None
    steps: int | None = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(keras.tree.flatten(self.arguments)[0])

    def changed(self, **fields: Any) -> "Stream":
        """The same stream with other fields."""
        return dataclasses.replace(self, **fields)

    def weighted(self, sample_weight: Any) -> "Stream":
        """The same rows with these weights."""
        return self.changed(sample_weight=sample_weight)

    def mapped(self, change: Callable[[str, np.ndarray], Any]) -> "Stream":
        """Every array of the arguments changed by ``change(kind, array)``."""
        return self.changed(
            arguments={
                name: keras.tree.map_structure(
                    lambda array, kind=self.kind(name): change(kind, array), value
                )
                for name, value in self.arguments.items()
            }
        )

    def kind(self, name: str) -> str:
        """What the argument means, one of `KINDS`."""
        return self.kinds.get(name, OTHER)

    def has(self, kind: str) -> bool:
        """Whether an argument is of this kind."""
        return any(self.kind(name) == kind for name in self.arguments)

    def take(self, index: Any) -> "Stream":
        """The rows of an index, a slice or an array."""
        taken = self.mapped(lambda kind, array: array[index])
        extra = {
            name: value[index]
            for name in ("sample_weight", "mask")
            if (value := getattr(self, name)) is not None
        }
        return taken.changed(**extra)

    def cut(self, places: Sequence[int]) -> list["Stream"]:
        """Consecutive batches, cut before the rows at ``places`` (in order)."""
        edges = [0, *places, self.rows]
        return [self.take(slice(a, b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]

    # Calling ------------------------------------------------------------------

    def call(self, update: Callable, convert: Callable = tf.convert_to_tensor) -> Any:
        """Calls ``update`` with these rows.

        Args:
            update: such as ``update_state``.
            convert: what every array goes through first; a tensor is what ``fit`` passes.
        """
        arguments = {
            name: keras.tree.map_structure(convert, value) for name, value in self.arguments.items()
        }
        if self.mask is not None:
            name = list(arguments)[-1]
            masked = keras.ops.convert_to_tensor(arguments[name])
            _keras.set_mask(masked, keras.ops.convert_to_tensor(self.mask))
            arguments[name] = masked
        weight = {}
        if self.sample_weight is not None:
            weight = {"sample_weight": keras.tree.map_structure(convert, self.sample_weight)}
        if self.by_keyword:
            return update(**arguments, **weight)
        return update(*arguments.values(), **weight)

    def code(
        self, function: str, wrap: Callable[[str, str], str] = lambda name, text: text
    ) -> list[str]:
        """Lines that call ``function`` with these rows, to paste into a program.

        Args:
            function: its name.
            wrap: makes of an argument's name and code the code that is passed.
        """
        shown = {name: wrap(name, _shown(value)) for name, value in self.arguments.items()}
        lines = []
        if self.mask is not None:
            name = list(shown)[-1]
            lines.append(f"{name} = keras.ops.convert_to_tensor({shown[name]})")
            lines.append(f"{name}._keras_mask = keras.ops.convert_to_tensor({_shown(self.mask)})")
            shown[name] = name
        parts = [f"{k}={v}" for k, v in shown.items()] if self.by_keyword else [*shown.values()]
        if self.sample_weight is not None:
            weight = wrap("sample_weight", _shown(self.sample_weight))
            parts.append(f"sample_weight={weight}")
        one = f"{function}({', '.join(parts)})"
        if len(one) <= 96:
            return [*lines, one]
        return [*lines, f"{function}(", *(f"    {part}," for part in parts), ")"]


def as_it_is(value: Any) -> Any:
    """The value, for `Stream.call` where arrays are to be NumPy's."""
    return value


def joined(streams: Sequence[Stream]) -> Stream:
    """The rows of consecutive batches as one."""
    first = streams[0]
    arguments = keras.tree.map_structure(
        lambda *arrays: np.concatenate(arrays), *(s.arguments for s in streams)
    )
    extra = {
        name: np.concatenate([getattr(s, name) for s in streams])
        for name in ("sample_weight", "mask")
        if getattr(first, name) is not None
    }
    return first.changed(arguments=arguments, **extra)


def _copies(array: np.ndarray) -> int:
    """How often each row stands one after the other; 1 for a few rows, which can be read."""
    if len(array) < _FEWEST_SHOWN:
        return 1
    changes = (array[1:] != array[:-1]).reshape(len(array) - 1, -1).any(axis=1)
    return int(np.gcd.reduce([len(array), *(np.flatnonzero(changes) + 1)]))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_shown(v)}" for k, v in value.items()) + "}"
    if isinstance(value, np.ndarray):
        if not value.size:
            return f"np.zeros({value.shape}, {value.dtype.name!r})"
        if (copies := _copies(value)) > 1:
            return f"np.repeat({_shown(value[::copies])}, {copies}, axis=0)"
        return f"np.array({value.tolist()}, {value.dtype.name!r})"
    if isinstance(value, list | tuple):
        inner = ", ".join(map(_shown, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner},)"
    return repr(value)
