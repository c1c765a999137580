"""Training data from files, for `kerastrain fit`, without TensorFlow.

::

    data = load("digits.npz")                       # x and y, or x_train and y_train
    data = load("x.npy,y.npy")                      # memory-mapped
    data = load("points.csv", target="label")       # the other columns are x
    data.x, data.y, data.validation

The contract, for whatever a file holds: `load` returns arrays of numbers with equally many rows,
or raises a `DataError` or an `ArgumentError` with one line that names the file and the fix.
"""

import glob
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from typing import NamedTuple

import numpy as np

from kerastrain import datasets
from kerastrain.errors import ArgumentError
from kerastrain.errors import DataError
from kerastrain.validation import did_you_mean

# What `read_table` reads, by the ends of names.
TABLES = {
    ".csv": "read_csv",
    ".csv.gz": "read_csv",
    ".parquet": "read_parquet",
}
KINDS = "a .npz, .csv, .csv.gz or .parquet file, x.npy,y.npy, or a directory with x.npy and y.npy"
# The names of x and y to train on and to validate on, in the order in which they are looked for.
TRAIN = ("", "_train")
VALIDATION = ("_val", "_test")


class Data(NamedTuple):
    """Arrays to train on.

    Attributes:
        x: inputs, numbers.
        y: targets, with as many rows.
        validation: ``(x, y)`` of the same file, if it has them.
        columns: the names of ``x``'s columns, of a table.
    """

    x: np.ndarray
    y: np.ndarray
    validation: tuple[np.ndarray, np.ndarray] | None = None
    columns: list[str] | None = None


class _Arrays(NamedTuple):
    """Arrays by name: of an ``.npz`` file, a directory, or two files."""

    source: str
    names: list[str]
    read: Callable[[str], np.ndarray]


def is_table(path: str) -> bool:
    """Whether the path is of a table, which has columns by name.

    Example:
        >>> is_table("points.csv"), is_table("points.npz")
        (True, False)
    """
    return _ending(path) in TABLES


def load(
    path: str,
    target: str | None = None,
    *,
    option: str = "--data",
    columns: list[str] | None = None,
) -> Data:
    """Reads what the path names: `KINDS`.

    Args:
        path: as on the command line.
        target: the columns of a table that are ``y``, with commas.
        option: that the path was given for, named in errors. Data of ``--validation-data`` may be
            called ``x_val`` and ``y_val``, or ``x_test`` and ``y_test``.
        columns: those that ``x`` must have, of a table.

    Raises:
        DataError: the file is missing, damaged, of no known kind, or holds what cannot be trained
            on.
        ArgumentError: a target that is missing or is no column.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     np.savez(directory + "/a.npz", x=np.ones((3, 2)), y=np.ones(3))
        ...     load(directory + "/a.npz").x.shape
        (3, 2)
    """
    try:
        if is_table(path):
            return _of_table(path, target, columns)
        arrays = _arrays(path)
        if option != "--data":
            return Data(*_pair(arrays, (*TRAIN[:1], *VALIDATION)))
        x, y = _pair(arrays, TRAIN)
        has_more = any({f"x{end}", f"y{end}"} <= {*arrays.names} for end in VALIDATION)
        return Data(x, y, _pair(arrays, VALIDATION) if has_more else None)
    except DataError as error:
        raise DataError(f"{option} {error}") from error


# Arrays ---------------------------------------------------------------------------


def _arrays(path: str) -> _Arrays:
    """The arrays of what is no table."""
    if os.path.isdir(path):
        files = {Path(file).stem: file for file in glob.glob(f"{glob.escape(path)}/*.npy")}
        return _Arrays(path, sorted(files), lambda name: _mapped(files[name]))
    parts = [part.strip() for part in path.split(",")]
    if len(parts) == 2 and not os.path.exists(path):
        for part in parts:
            _check_exists(part)
        return _Arrays(path, ["x", "y"], lambda name: _mapped(parts["xy".index(name)]))
    _check_exists(path)
    if _ending(path) == ".npz":
        names = datasets.npz_names(path)
        return _Arrays(path, names, lambda name: datasets.read_npz(path, [name])[name])
    if _ending(path) == ".npy":
        raise DataError(
            f"{path} is one array. Pass the file of x and that of y: {path},y.npy, for example."
        )
    raise DataError(f"{datasets.shown(path)} is of no kind that is read. Pass {KINDS}.")


def _pair(arrays: _Arrays, ends: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """``x`` and ``y`` by the first of the names that are there."""
    source = datasets.shown(arrays.source)
    for end in ends:
        x_name, y_name = f"x{end}", f"y{end}"
        if x_name in arrays.names and y_name in arrays.names:
            x = _numbers(arrays.read(x_name), f"{source}: {x_name}")
            y = _numbers(arrays.read(y_name), f"{source}: {y_name}")
            if len(x) != len(y):
                raise DataError(
                    f"{source}: {x_name} has {len(x)} rows, and {y_name} has {len(y)}. Store as "
                    "many of both."
                )
            return x, y
    wanted = [name for end in ends for name in (f"x{end}", f"y{end}")]
    others = [name for name in arrays.names if name not in wanted]
    meant = {name: did_you_mean(name, wanted) for name in others}
    raise DataError(
        f"{source}: no arrays {', or '.join(f'x{end} and y{end}' for end in ends)}; it holds "
        f"{_listed(arrays.names) or 'none'}. Store them by these names."
        + "".join(f" {name!r}:{question}" for name, question in meant.items() if question)
    )


def _mapped(path: str) -> np.ndarray:
    """The array of an ``.npy`` file, which stays in the file until its rows are used."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        failure = error
    with open(path, "rb") as file:
        is_npy = file.read(6) == b"\x93NUMPY"
    if not is_npy:
        what = "not an .npy file. Write it by numpy.save."
    elif "object" in str(failure):
        what = "holds Python objects, which are not loaded; store plain numbers."
    elif "mmap length" in str(failure):
        what = "truncated: shorter than its header says. Write it anew by numpy.save."
    else:
        raise DataError(datasets.reason(path, failure))
    raise DataError(f"{datasets.shown(path)}: {what}")


def _numbers(array: np.ndarray, what: str) -> np.ndarray:
    """The array, in the byte order of this machine, if it is one of numbers with rows."""
    if array.dtype.kind not in "buif":
        kind = "text" if array.dtype.kind in "US" else f"values of type {array.dtype}"
        raise DataError(f"{what} holds {kind}. Store numbers; for classes, their indices from 0.")
    if not array.ndim or not len(array):
        raise DataError(f"{what} has no rows; its shape is {array.shape}. Store one row at least.")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


# Tables ---------------------------------------------------------------------------


def _of_table(path: str, target: str | None, columns: list[str] | None) -> Data:
    _check_exists(path)
    shown = datasets.shown(path)
    if target is None:
        raise DataError(f"{shown} needs --target, the column that is y (several with commas).")
    pandas = _pandas(path)
    table = _read_table(pandas, path)
    table.columns = known = [str(name) for name in table.columns]
    targets = [name.strip() for name in target.split(",")]
    for name in targets:
        if targets.count(name) > 1:
            raise ArgumentError(f"--target {target} names {name!r} more than once. Pass it once.")
        if name not in known:
            raise ArgumentError(
                f"--target {target}: {name!r} is no column of {shown}, which has {_listed(known)}. "
                f"Pass the name of one of them.{did_you_mean(name, known)}"
            )
    others = [name for name in known if name not in targets]
    if not others:
        raise ArgumentError(
            f"--target {target} is all that {shown} has: no column is left for x. Pass fewer."
        )
    if columns is not None:
        _check_columns(others, columns, shown)
        others = columns
    if not len(table):
        raise DataError(f"{shown}: no rows. Store one at least.")
    for name in (*others, *targets):
        _check_column(pandas, table[name], name, path, is_target=name in targets)
    types = pandas.api.types
    is_whole = [types.is_integer_dtype(t) or types.is_bool_dtype(t) for t in table[targets].dtypes]
    y = table[targets].to_numpy("int64" if all(is_whole) else "float32")
    x = np.ascontiguousarray(table[others].to_numpy("float32"))
    return Data(x, y[:, 0] if len(targets) == 1 else y, columns=others)


def _pandas(path: str) -> ModuleType:
    try:
        pandas = importlib.import_module("pandas")
        if _ending(path) == ".parquet":
            importlib.import_module("pyarrow")  # by which pandas reads it
    except ImportError as error:
        raise DataError(
            f"{datasets.shown(path)} is read by {error.name or 'pandas'}, which is not installed: "
            "`pip install 'kerastrain[tables]'`."
        ) from None
    return pandas


def _read_table(pandas: ModuleType, path: str) -> Any:
    """The table; pandas, and what it reads by, have no closed list of what they raise."""
    try:
        return getattr(pandas, TABLES[_ending(path)])(path)
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{datasets.shown(path)} cannot be read as a {_ending(path)} file: {what}"
        ) from None


def _check_columns(found: list[str], wanted: list[str], what: str) -> None:
    """Refuses data to validate on that have other inputs than those to train on."""
    for name in wanted:
        if name not in found:
            raise DataError(
                f"{what}: no column {name!r}, which --data has. Store the same columns."
                f"{did_you_mean(name, [one for one in found if one not in wanted])}"
            )
    for name in found:
        if name not in wanted:
            raise DataError(f"{what}: a column {name!r}, which --data has not. Remove it.")


def _check_column(pandas: ModuleType, column: Any, name: str, path: str, is_target: bool) -> None:
    """Refuses a column that is not all numbers: what is to be done about it is the user's choice."""
    what = f"{datasets.shown(path)}: the column {name!r}"
    if getattr(column, "ndim", 1) != 1:
        raise DataError(f"{what} is there more than once. Rename one of them.")
    types = pandas.api.types
    is_number = types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype)
    filled = column.dropna()
    if not is_number and len(filled):
        example = filled.iloc[0]
        holds = "text" if isinstance(example, str) else f"values of type {type(example).__name__}"
        numbers = (
            f"class indices, table[{name!r}].astype('category').cat.codes"
            if is_target
            else f"numbers, pandas.get_dummies(table, columns=[{name!r}])"
        )
        raise DataError(
            f"{what} holds {holds} ({str(example)[:40]!r}). Write {numbers}, or leave it out."
        )
    if len(filled) < len(column):
        first = int(np.argmax(column.isna().to_numpy()))
        raise DataError(
            f"{what} has empty cells ({len(column) - len(filled)}, the first in row {first}, counted "
            "from 0). Fill them, table.fillna(...), or leave the rows out, table.dropna()."
        )


# Paths ----------------------------------------------------------------------------


def _ending(path: str) -> str:
    """The end of the name that says the kind of file, in small letters."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    whole = "".join(suffixes[-2:])
    return whole if whole in TABLES else suffixes[-1] if suffixes else ""


def _check_exists(path: str) -> None:
    if os.path.exists(path):
        return
    beside = glob.glob(os.path.join(glob.escape(os.path.dirname(path)), "*"))
    raise DataError(
        f"{datasets.shown(path)}: no such file. Pass {KINDS}.{did_you_mean(path, beside)}"
    )


def _listed(names: list[str]) -> str:
    """The names, not more than fit into a line."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(repr, names[:8])) + more
