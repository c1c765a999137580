"""Mutable tables, such as ``tf.lookup.experimental.MutableHashTable``, are state of a training.

::

    tables = Tables()
    tables.set_found({"model/seen": table})        # by name: what objects and functions hold
    tables.add_captured("train", captured)         # what only a traced step knows
    states = tables.states()                       # {name: {"keys": ..., "values": ...}}
    tables.restore(states)                        # in another process

A table that only a trace knows gets its values when that step is traced, before it first
runs: what it had before that is known too.
"""

from typing import Any

import numpy as np
import tensorflow as tf

MUTABLE = (tf.lookup.experimental.MutableHashTable, tf.lookup.experimental.DenseHashTable)


# A table: its handle, and the dtypes of its keys and values.
Table = tuple[Any, tf.DType, tf.DType]


class Tables:
    """The mutable tables of a training."""

    def __init__(self) -> None:
        self._found: dict[str, Table] = {}
        self._captured: dict[str, list[Table]] = {}
        self._waiting: dict[str, Any] = {}
        self._have_values: set[int] = set()
        # Of those that only a trace knows: what they had before any step ran.
        self._first: dict[str, dict[str, Any]] = {}

    def set_found(self, tables: dict[str, Any]) -> None:
        """The tables that objects hold, by name, as they are now."""
        self._found = {
            name: (table.resource_handle, table.key_dtype, table.value_dtype)
            for name, table in tables.items()
        }

    def add_captured(self, kind: str, tables: list[Table]) -> None:
        """Tables that a traced step changes: ``(handle, dtype of keys, dtype of values)``."""
        found = {id(table[0]) for table in self._found.values()}
        mine = self._captured.setdefault(kind, [])
        for table in tables:
            if id(table[0]) in found or any(table[0] is other[0] for other in mine):
                continue
            mine.append(table)
            name = f"{kind}/{len(mine) - 1}"
            state = self._waiting.pop(name, None)
            if state is not None and id(table[0]) not in self._have_values:
                self._put_back(table, state)
            self._first[name] = _state_of(table)

    def _named(self) -> dict[str, Table]:
        named = dict(self._found)
        for kind, tables in self._captured.items():
            named |= {f"{kind}/{index}": table for index, table in enumerate(tables)}
        return named

    def states(self) -> dict[str, dict[str, Any]]:
        """The keys and values of each."""
        return self._waiting | {name: _state_of(table) for name, table in self._named().items()}

    def restore(self, states: dict[str, dict[str, Any]]) -> set[str]:
        """Gives tables what `states` returned; those that are not known yet, as they are found.

        Returns:
            The names of those that are not known yet.
        """
        self._waiting, self._have_values = dict(states), set()
        for name, table in self._named().items():
            state = self._waiting.pop(name, self._first.get(name))
            if state is not None:
                self._put_back(table, state)
        return set(self._waiting)

    def _put_back(self, table: Table, state: dict[str, Any]) -> None:
        handle, key_dtype, value_dtype = table
        self._have_values.add(id(handle))
        with tf.init_scope():
            keys = _loaded(state["keys"], key_dtype)
            values = _loaded(state["values"], value_dtype)
            tf.raw_ops.LookupTableImportV2(table_handle=handle, keys=keys, values=values)


def _state_of(table: Table) -> dict[str, Any]:
    handle, key_dtype, value_dtype = table
    with tf.init_scope():
        keys, values = tf.raw_ops.LookupTableExportV2(
            table_handle=handle, Tkeys=key_dtype, Tvalues=value_dtype
        )
    return {"keys": _saved(keys.numpy()), "values": _saved(values.numpy())}


def _saved(array: np.ndarray) -> np.ndarray | dict[str, Any]:
    """Text as what a checkpoint can hold."""
    if array.dtype != object:
        return array
    return {"text": [b.decode("latin-1") for b in array.ravel()], "shape": list(array.shape)}


def _loaded(state: np.ndarray | dict[str, Any], dtype: tf.DType) -> tf.Tensor:
    if isinstance(state, dict):
        text = [t.encode("latin-1") for t in state["text"]]
        state = np.array(text, dtype=object).reshape(state["shape"])
    return tf.constant(state, dtype)
