"""Columns of pandas, polars, Arrow and Hugging Face data sets as NumPy arrays, or what to write.

::

    x, y, sample_weight = as_arrays("x", frame[["a", "b"]], frame["c"], None)

A column of numbers or booleans becomes an array of them, whatever its type is called. All else has
more than one meaning as numbers, or none: a missing value, a category, text, a time. It is refused,
by a message with what to write for each meaning. (Keras 3.15.1 makes NaN of what is missing in polars
and Arrow, and refuses pandas' nullable types by their names.)

No such library is imported here: who has an object of one has imported it.
"""

import sys
from collections.abc import Callable
from typing import Any
from typing import NamedTuple
from typing import NoReturn

import keras
import numpy as np

from kerastrain.data.checks import part_of
from kerastrain.errors import DataError
from kerastrain.errors import UnsupportedTypeError


class _Library(NamedTuple):
    """How the tables of a library are read.

    Attributes:
        columns: ``(label, column)`` of each column of a table; the label is None for a column that
            is passed by itself. None for an object that is no table.
        kind: what a column holds: ``"numbers"``, or a key of ``advice``.
        missing: where a column has no value.
        values: a column of numbers as an array.
        advice: what to write instead, by kind, where ``{it}`` is the column.
    """

    columns: Callable[[Any], list[tuple[Any, Any]] | None]
    kind: Callable[[Any], str]
    missing: Callable[[Any], np.ndarray]
    values: Callable[[Any], np.ndarray]
    advice: dict[str, str]


_WHAT = {
    "missing": "has no value in {count} of {rows} rows, the first time in row {row}",
    "categories": "holds categories, whose codes depend on which there are and in what order",
    "text": "holds text",
    "times": "holds dates or times",
    "sparse": "is sparse",
    "others": "holds values of type {dtype}, which are no numbers",
}


def as_arrays(name: str, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """The data with tables and columns in them as arrays; all else as it is.

    A pandas ``Series`` becomes one column, as in Keras.

    Args:
        name: what messages call the data.
        x, y, sample_weight: as passed for ``fit``.

    Raises:
        DataError: a column is not of numbers, or values are missing.
        UnsupportedTypeError: a data set of Hugging Face, or another object that is no table.
    """
    parts = (("x", x), ("y", y), ("sample_weight", sample_weight))
    return tuple(_part(part, part_of(part, name), data) for part, data in parts)


def _part(part: str, shown: str, data: Any) -> Any:
    if _package(data):
        return _array(part, shown, data)
    if not any(map(_package, keras.tree.flatten(data))):
        return data
    return keras.tree.map_structure(
        lambda leaf: _array(part, shown, leaf) if _package(leaf) else leaf, data
    )


def _package(value: Any) -> str | None:
    """The library that an object is of, if it is one of those here."""
    for kind in type(value).__mro__:
        root, _, rest = kind.__module__.partition(".")
        # There are other modules of the name `datasets`, a user's own perhaps.
        if root in _LIBRARIES or (root == "datasets" and rest in _HUGGING_FACE):
            return root
    return None


def _array(part: str, shown: str, value: Any) -> np.ndarray:
    package = _package(value)
    if package == "datasets":
        _refuse_hugging_face(part, shown, value)
    library = _LIBRARIES[str(package)]
    if package == "pandas" and _lies_together(value):
        return value.to_numpy()
    columns = library.columns(value)
    if columns is None:
        fix = f" Pass {part}.collect()." if hasattr(value, "collect") else ""
        raise UnsupportedTypeError(
            f"{shown} is of type {type(value).__name__} of {package}, which has no rows.{fix}"
        )
    if not columns:
        raise DataError(f"{shown} is a {type(value).__name__} without columns.")
    for label, column in columns:
        _check_column(library, part, shown, label, column)
    if len(getattr(value, "shape", ())) == 2:
        arrays = [(label, library.values(column)) for label, column in columns]
        return _side_by_side(part, shown, arrays)
    array = library.values(columns[0][1])
    is_series = package == "pandas" and isinstance(value, sys.modules["pandas"].Series)
    return array[:, None] if is_series else array


def _side_by_side(part: str, shown: str, columns: list[tuple[Any, np.ndarray]]) -> np.ndarray:
    for label, column in columns:
        if column.ndim > 1:
            raise DataError(
                f"Column {label!r} of {shown} holds arrays. Pass it as an input of its own, "
                f"`{part}[{label!r}]`."
            )
    return np.column_stack([column for _, column in columns])


def _check_column(library: _Library, part: str, shown: str, label: Any, column: Any) -> None:
    """Refuses what is not a number in each row.

    Raises:
        DataError: says what to write.
    """
    kind = library.kind(column)
    missing = library.missing(column) if kind == "numbers" else np.zeros(0, bool)
    if missing.any():
        kind = "missing"
    if kind == "numbers":
        return
    where = shown if label is None else f"Column {label!r} of {shown}"
    it = part if label is None else f"{part}[{label!r}]"
    dtype = getattr(column, "dtype", None) or getattr(column, "type", None)
    zero = "False" if "bool" in str(dtype).lower() else "0"
    what = _WHAT[kind].format(
        count=int(missing.sum()),
        rows=len(column),
        row=int(missing.argmax()) if missing.size else 0,
        dtype=dtype,
    )
    raise DataError(f"{where} {what}. {library.advice[kind].format(it=it, zero=zero)}")


# pandas -----------------------------------------------------------------------


def _lies_together(value: Any) -> bool:
    """Whether a table is one array of numbers of NumPy's, which need not be copied."""
    types = {*value.dtypes} if isinstance(value, sys.modules["pandas"].DataFrame) else ()
    return len(types) == 1 and all(isinstance(t, np.dtype) and t.kind in "biuf" for t in types)


def _pandas_columns(value: Any) -> list[tuple[Any, Any]] | None:
    pandas = sys.modules["pandas"]
    if isinstance(value, pandas.DataFrame):
        return [(label, value.iloc[:, at]) for at, label in enumerate(value.columns)]
    if isinstance(value, pandas.Series):
        return [(None, value)]
    if isinstance(value, pandas.MultiIndex):
        return None
    if isinstance(value, pandas.Index | pandas.api.extensions.ExtensionArray):
        return [(None, pandas.Series(value))]
    return None


def _pandas_kind(column: Any) -> str:
    pandas = sys.modules["pandas"]
    types, dtype = pandas.api.types, column.dtype
    if isinstance(dtype, pandas.CategoricalDtype):
        return "categories"
    if isinstance(dtype, pandas.SparseDtype):
        return "sparse"
    if any(is_type(dtype) for is_type in (types.is_bool_dtype, types.is_integer_dtype)):
        return "numbers"
    if types.is_float_dtype(dtype):
        return "numbers"
    inferred = types.infer_dtype(column, skipna=True)
    if inferred == "string":
        return "text"
    times = ("datetime", "datetime64", "date", "timedelta", "timedelta64")
    return "times" if inferred in times else "others"


def _pandas_missing(column: Any) -> np.ndarray:
    # A NaN of NumPy's is a value, which a model or a loss may mask.
    is_numpys = isinstance(column.dtype, np.dtype)
    return np.zeros(0, bool) if is_numpys else column.isna().to_numpy(bool)


def _pandas_values(column: Any) -> np.ndarray:
    dtype = column.dtype
    return column.to_numpy(dtype if isinstance(dtype, np.dtype) else dtype.numpy_dtype)


_PANDAS = _Library(
    columns=_pandas_columns,
    kind=_pandas_kind,
    missing=_pandas_missing,
    values=_pandas_values,
    advice={
        "missing": "Fill them, as by `{it}.fillna({zero})`, or leave out their rows, of x and y alike; where "
        'the model or the loss masks NaN, pass `{it}.to_numpy("float32", na_value=np.nan)`.',
        "categories": "Pass codes of categories that you name, "
        "`pandas.Series(pandas.Categorical({it}, [...]).codes)`, which are -1 for any other, or columns "
        "of 0 and 1, `pandas.get_dummies({it})`.",
        "text": "Pass codes of texts that you name, `pandas.Series(pandas.Categorical({it}, [...]).codes)`, "
        "which are -1 for any other; or, to a layer that reads text, `{it}.to_numpy(object)`, as an input "
        "of its own.",
        "times": "Pass numbers, such as `({it} - {it}.min()).dt.total_seconds()`.",
        "sparse": "Pass `{it}.sparse.to_dense()`.",
        "others": 'Pass numbers, such as `{it}.astype("float32")`.',
    },
)


# polars -----------------------------------------------------------------------


def _polars_columns(value: Any) -> list[tuple[Any, Any]] | None:
    polars = sys.modules["polars"]
    if isinstance(value, polars.DataFrame):
        return [(column.name, column) for column in value.get_columns()]
    return [(None, value)] if isinstance(value, polars.Series) else None


def _polars_kind(column: Any) -> str:
    polars = sys.modules["polars"]
    dtype = column.dtype
    if dtype == polars.Boolean or (dtype.is_numeric() and not dtype.is_decimal()):
        return "numbers"
    if isinstance(dtype, polars.Array):
        inner = column.explode()
        return "others" if inner.null_count() else _polars_kind(inner)
    if dtype in (polars.Categorical, polars.Enum):
        return "categories"
    if dtype == polars.String:
        return "text"
    return "times" if dtype in (polars.Date, polars.Datetime, polars.Duration) else "others"


_POLARS = _Library(
    columns=_polars_columns,
    kind=_polars_kind,
    missing=lambda column: column.is_null().to_numpy(),
    values=lambda column: column.to_numpy(),
    advice={
        "missing": "Fill them, as by `{it}.fill_null({zero})`, or leave out their rows, of x and y alike; "
        "where the model or the loss masks NaN, pass "
        '`{it}.cast(polars.Float32).fill_null(float("nan"))`.',
        "categories": "Pass codes of categories that you name, "
        "`{it}.cast(polars.String).cast(polars.Enum([...])).to_physical()`, or columns of 0 and 1, "
        "`{it}.to_dummies()`.",
        "text": "Pass codes of texts that you name, `{it}.cast(polars.Enum([...])).to_physical()`; or, to a "
        "layer that reads text, `{it}.to_numpy()`, as an input of its own.",
        "times": "Pass numbers, such as `({it} - {it}.min()).dt.total_seconds()`.",
        "others": "Pass numbers, such as `np.array({it}.to_list(), dtype=float)`.",
    },
)


# Arrow ------------------------------------------------------------------------


def _arrow_columns(value: Any) -> list[tuple[Any, Any]] | None:
    arrow = sys.modules["pyarrow"]
    if isinstance(value, arrow.Table | arrow.RecordBatch):
        return list(zip(value.schema.names, value.columns, strict=True))
    return [(None, value)] if isinstance(value, arrow.Array | arrow.ChunkedArray) else None


def _arrow_kind(column: Any) -> str:
    types, kind = sys.modules["pyarrow"].types, column.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "numbers"
    if types.is_dictionary(kind):
        return "categories"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "times"
    return "others"


def _arrow_to_numpy(column: Any) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False)


_ARROW = _Library(
    columns=_arrow_columns,
    kind=_arrow_kind,
    missing=lambda column: _arrow_to_numpy(column.is_null()),
    values=_arrow_to_numpy,
    advice={
        "missing": "Fill them, as by `{it}.fill_null({zero})`, or leave out their rows, of x and y alike; "
        'where the model or the loss masks NaN, pass `{it}.cast("float32").fill_null(float("nan"))`.',
        "categories": "Pass codes of categories that you name, `pyarrow.compute.index_in("
        '{it}.cast("string"), value_set=pyarrow.array([...]))`.',
        "text": "Pass codes of texts that you name, `pyarrow.compute.index_in({it}, "
        "value_set=pyarrow.array([...]))`; or, to a layer that reads text, "
        "`{it}.to_numpy(zero_copy_only=False)`, as an input of its own.",
        "times": "Pass numbers, such as "
        "`pyarrow.compute.seconds_between(pyarrow.compute.min({it}), {it})`.",
        "others": "Pass numbers, such as `np.array({it}.to_pylist(), dtype=float)`.",
    },
)

_LIBRARIES = {"pandas": _PANDAS, "polars": _POLARS, "pyarrow": _ARROW}


# Hugging Face -----------------------------------------------------------------

_HUGGING_FACE = {"arrow_dataset", "iterable_dataset", "dataset_dict"}


def _refuse_hugging_face(part: str, shown: str, value: Any) -> NoReturn:
    """Refuses a data set, or a column of one: what its values are depends on its format.

    Raises:
        UnsupportedTypeError: says what to write.
    """
    kind, written = type(value).__name__, part
    if isinstance(value, dict) and value:  # data sets by name
        name, value = next(iter(value.items()))
        written = f"{part}[{name!r}]"
    columns = getattr(value, "column_names", None) or ["x", "y"]
    column = getattr(value, "column_name", None)
    if column is not None:
        fix = f'`dataset.with_format("numpy")[{column!r}][:]`'
    elif "Iterable" in type(value).__name__:
        batches = f'for batch in {written}.with_format("numpy").batch(32)'
        fix = f"`((batch[{columns[0]!r}], batch[{columns[-1]!r}]) {batches})`"
    else:
        fix = (
            f"`{written}.to_tf_dataset(columns={columns[0]!r}, label_cols={columns[-1]!r}, "
            f'batch_size=32)`, or arrays, `{written}.with_format("numpy")[{columns[0]!r}][:]`'
        )
    raise UnsupportedTypeError(
        f"{shown} is of Hugging Face's type {kind}, which has no batches. Pass {fix}."
    )
