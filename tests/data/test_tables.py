"""Columns of tables train as the arrays of their numbers do, or the error says what to write instead."""

import datetime
import decimal
import re

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from kerastrain import DataError
from kerastrain import Trainer
from kerastrain import UnsupportedTypeError
from kerastrain.data import named_sets
from kerastrain.data import Source
from kerastrain.data.tables import as_arrays

ROWS = 6
NUMBERS = np.random.default_rng(0).integers(0, 9, size=(ROWS, 2))
FRAME = pd.DataFrame(NUMBERS, columns=["a", "b"])
TEXTS = list("uvvuwv")
DAYS = [datetime.datetime(2020, 1, 1 + day) for day in range(ROWS)]
PRICES = [decimal.Decimal(f"{n}.5") for n in range(ROWS)]
PANDAS_TYPES = ("int8", "uint64", "float16", "float64", "Int64", "UInt8", "Float32")
ARROW_TYPES = ("int8[pyarrow]", "uint64[pyarrow]", "float[pyarrow]", "double[pyarrow]")


def first(x):
    """What a model is given for ``x``."""
    return as_arrays("x", x, None, None)[0]


def polars():
    return pytest.importorskip("polars")


def arrow():
    return pytest.importorskip("pyarrow")


# Numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*PANDAS_TYPES, *ARROW_TYPES])
def test_pandas_numbers(dtype):
    """Frames and series of any type of numbers have these numbers; a series is one column."""
    if dtype in ARROW_TYPES:
        arrow()
    frame = FRAME.astype(dtype)
    kind = np.dtype(getattr(frame["a"].dtype, "numpy_dtype", frame["a"].dtype))
    for expected, table in ((NUMBERS, frame), (NUMBERS[:, :1], frame["a"])):
        assert kind == first(table).dtype
        np.testing.assert_array_equal(expected, first(table))
    np.testing.assert_array_equal(NUMBERS[:, 0], first(frame["a"].array))


def test_pandas_columns_of_several_types():
    """Columns may differ in type, and may have the same name; the index plays no part."""
    frame = pd.DataFrame({0: pd.array([1, 2], "Int64"), 1: [0.5, 1.5], 2: [True, False]}, [7, 3])
    frame.columns = [None, "b", "b"]
    np.testing.assert_array_equal([[1, 0.5, 1], [2, 1.5, 0]], first(frame))
    booleans = pd.Series([True, False], dtype="boolean")
    np.testing.assert_array_equal([[True], [False]], first(booleans))


def test_a_frame_of_one_type_is_not_copied():
    """It may be large."""
    array = np.zeros((4, 3), "float32")
    assert np.shares_memory(first(pd.DataFrame(array, copy=False)), array)


def test_numpys_nan_is_a_value():
    """A model or a loss may mask it; only what has no value at all is missing."""
    np.testing.assert_array_equal([[np.nan], [1]], first(pd.Series([np.nan, 1.0])))


def test_polars_numbers():
    """Frames and series, of any type of numbers."""
    pl = polars()
    frame = pl.DataFrame(NUMBERS, schema=["a", "b"])
    np.testing.assert_array_equal(NUMBERS, first(frame))
    np.testing.assert_array_equal(NUMBERS[:, 0], first(frame["a"].cast(pl.UInt8)))
    np.testing.assert_array_equal(NUMBERS[:, 0] > 4, first(frame["a"] > 4))
    of_arrays = pl.Series(NUMBERS.tolist(), dtype=pl.Array(pl.Float32, 2))
    np.testing.assert_array_equal(NUMBERS, first(of_arrays))


def test_arrow_numbers():
    """Tables, record batches, arrays and chunked arrays."""
    pa = arrow()
    columns = {"a": NUMBERS[:, 0], "b": NUMBERS[:, 1].astype("float32")}
    for table in (pa.table(columns), pa.record_batch(columns)):
        np.testing.assert_array_equal(NUMBERS, first(table))
    for array in (pa.array(NUMBERS[:, 0]), pa.chunked_array([NUMBERS[:4, 0], NUMBERS[4:, 0]])):
        np.testing.assert_array_equal(NUMBERS[:, 0], first(array))
    np.testing.assert_array_equal([True, False], first(pa.array([True, False])))


def test_all_else_is_left_alone():
    """Structures keep their form, and what is no table is the same object."""
    dataset, array = tf.data.Dataset.range(3), np.zeros(3)
    assert first(dataset) is dataset
    x = {"a": [FRAME["a"].astype("Int64"), array], "b": (array, None)}
    plain = first(x)
    assert plain["a"][1] is array
    assert plain["b"] == (array, None)
    np.testing.assert_array_equal(NUMBERS[:, :1], plain["a"][0])


# What is refused, and what to write -------------------------------------------


def with_missing(dtype):
    column = FRAME["a"].astype(dtype)
    column.iloc[3] = pd.NA
    return column


REFUSED = {
    "pandas Int64": (lambda: with_missing("Int64"), "no value in 1 of 6 rows, .* row 3"),
    "pandas boolean": (lambda: (FRAME["a"] > 4).astype("boolean").shift(1), "no value .* row 0"),
    "pandas Float64": (lambda: with_missing("Float64"), "no value"),
    "pandas int64[pyarrow]": (lambda: arrow() and with_missing("int64[pyarrow]"), "no value"),
    "pandas category": (lambda: pd.Series(TEXTS, dtype="category"), "categories"),
    "pandas category of numbers": (lambda: FRAME["a"].astype("category"), "categories"),
    "pandas text": (lambda: pd.Series(TEXTS), "text"),
    "pandas objects of text": (lambda: pd.Series(TEXTS, dtype=object), "text"),
    "pandas arrow text": (lambda: arrow() and pd.Series(TEXTS, dtype="string[pyarrow]"), "text"),
    "pandas times": (lambda: pd.Series(DAYS), "times"),
    "pandas durations": (lambda: pd.Series(DAYS) - DAYS[0], "times"),
    "pandas sparse": (lambda: FRAME["a"].astype("Sparse[int64]"), "sparse"),
    "pandas objects": (lambda: FRAME["a"].astype(object), "values of type object"),
    "pandas decimals": (lambda: pd.Series(PRICES), "values of type object"),
    "polars null": (lambda: polars().Series([1, None, 3]), "no value in 1 of 3 rows, .* row 1"),
    "polars null of booleans": (lambda: polars().Series([True, None]), "no value"),
    "polars categorical": (
        lambda: polars().Series(TEXTS, dtype=polars().Categorical),
        "categories",
    ),
    "polars enum": (lambda: polars().Series(TEXTS, dtype=polars().Enum(list("wvu"))), "categories"),
    "polars text": (lambda: polars().Series(TEXTS), "text"),
    "polars times": (lambda: polars().Series(DAYS), "times"),
    "polars dates": (lambda: polars().Series([day.date() for day in DAYS]), "times"),
    "polars decimals": (lambda: polars().Series(PRICES), "values of type Decimal"),
    "polars lists": (lambda: polars().Series(NUMBERS.tolist()), "values of type List"),
    "arrow null": (lambda: arrow().array([1, None, 3]), "no value in 1 of 3 rows, .* row 1"),
    "arrow null of booleans": (lambda: arrow().array([True, None]), "no value"),
    "arrow dictionary": (lambda: arrow().array(TEXTS).dictionary_encode(), "categories"),
    "arrow text": (lambda: arrow().chunked_array([TEXTS]), "text"),
    "arrow times": (lambda: arrow().array(DAYS), "times"),
    "arrow dates": (lambda: arrow().array([day.date() for day in DAYS]), "times"),
    "arrow decimals": (lambda: arrow().array(PRICES), "values of type decimal128"),
    "arrow lists": (lambda: arrow().array(NUMBERS.tolist()), "values of type list"),
}


def codes_in(error):
    """What the message says to write."""
    return [code for code in re.findall("`([^`]*)`", str(error)) if "(" in code or "[" in code]


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    """The message says what is wrong, and what it says to write is taken."""
    make, what = REFUSED[case]
    column = make()
    with pytest.raises(DataError, match=f"`x` .*{what}") as raised:
        first(column)
    names = {"x": column, "np": np, "pandas": pd}
    if "polars" in case:
        names["polars"] = polars()
    if "arrow" in case:
        names["pyarrow"] = arrow()
        __import__("pyarrow.compute")
    written = codes_in(raised.value)
    assert written
    for code in written:
        # The categories of numbers are numbers.
        texts = sorted(set(NUMBERS[:, 0].tolist())) if "of numbers" in case else list("uvw")
        taken = first(eval(code.replace("[...]", repr(texts)), names))
        assert len(column) == len(taken)
        if "categories" in what and taken.ndim == 1:
            assert sorted(set(taken.tolist())) == list(range(len(texts)))


@pytest.mark.parametrize("part", ["y", "sample_weight"])
def test_the_message_names_part_and_column(part):
    """Of a table, the column; of data to validate on, which."""
    frame = FRAME.astype({"b": "category"})
    given = {"x": NUMBERS, "y": NUMBERS, "sample_weight": None, part: frame}
    with pytest.raises(DataError, match=rf"Column 'b' of `{part}` .*`pandas.*\({part}\['b'\]"):
        as_arrays("x", **given)
    with pytest.raises(DataError, match=f"Column 'b' of `{part}` of `validation_data`"):
        as_arrays("validation_data", **given)


def test_what_is_no_table():
    """A frame that has not been computed, and others without rows, are refused."""
    pl = polars()
    with pytest.raises(UnsupportedTypeError, match=r"LazyFrame of polars.* Pass x\.collect\(\)"):
        first(pl.LazyFrame({"a": [1]}))
    with pytest.raises(UnsupportedTypeError, match="DataFrameGroupBy of pandas"):
        first(FRAME.groupby("a"))
    with pytest.raises(DataError, match="without columns"):
        first(pd.DataFrame(index=range(3)))
    of_arrays = pl.DataFrame({"a": pl.Series(NUMBERS.tolist(), dtype=pl.Array(pl.Int64, 2))})
    with pytest.raises(DataError, match=r"Column 'a' .* holds arrays.* `x\['a'\]`"):
        first(of_arrays)


# Training ---------------------------------------------------------------------


def trained(x, y, sample_weight=None, **more):
    """``(weights, history, evaluation, prediction)`` after two epochs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.001), "mse")
    trainer = Trainer(model, seed=0, execution="step")
    fit = {"batch_size": 4, "epochs": 2, "verbose": 0, "sample_weight": sample_weight, **more}
    history = trainer.fit(x, y, **fit).history
    results = trainer.evaluate(x, y, verbose=0, sample_weight=sample_weight)
    return [*model.get_weights(), history["loss"], results, trainer.predict(x, verbose=0)]


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_trained_as_numpy(kind):
    """Fit, evaluate and predict have the numbers of the arrays."""
    x, y, weight = NUMBERS, NUMBERS.sum(1), 1 + NUMBERS[:, 0] % 3
    expected = trained(x.astype("float32"), y.astype("float32"), weight.astype("float32"))
    if kind == "pandas":
        given = (
            FRAME.astype("Int64"),
            pd.Series(y, dtype="Int32"),
            pd.Series(weight).astype("Float64"),
        )
    elif kind == "polars":
        pl = polars()
        given = (pl.DataFrame(x, schema=["a", "b"]), pl.Series(y), pl.Series(weight))
    else:
        pa = arrow()
        given = (pa.table({"a": x[:, 0], "b": x[:, 1]}), pa.array(y), pa.chunked_array([weight]))
    for wanted, got in zip(expected, trained(*given), strict=True):
        np.testing.assert_allclose(wanted, got, rtol=1e-5)


def test_refused_before_a_weight_changes():
    """Also where a share of the rows is for validation, and where only outputs are wanted."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    before, trainer = model.get_weights(), Trainer(model)
    x = FRAME.astype("Int64")
    x.iloc[5, 1] = pd.NA
    for call in (
        lambda: trainer.fit(x, NUMBERS[:, 0], verbose=0),
        lambda: trainer.fit(x, NUMBERS[:, 0], validation_split=0.5, verbose=0),
        lambda: trainer.fit(NUMBERS, NUMBERS[:, 0], validation_data=(x, NUMBERS[:, 0]), verbose=0),
        lambda: trainer.evaluate(x, NUMBERS[:, 0], verbose=0),
        lambda: trainer.predict(x, verbose=0),
        lambda: trainer.predict(x, steps=1, verbose=0),
    ):
        with pytest.raises(DataError, match=r"Column 'b' .*no value in 1 of 6 rows"):
            call()
    for wanted, got in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(wanted, got)


def test_a_share_for_validation():
    """Rows of a table are split as those of arrays."""
    halves = named_sets.split(FRAME.astype("Int64"), NUMBERS[:, 0], None, 0.5)
    np.testing.assert_array_equal(NUMBERS, np.concatenate([half[0] for half in halves]))


def test_the_part_of_a_type_that_is_no_data():
    """The message names the part that is wrong, not the first one."""
    with pytest.raises(UnsupportedTypeError, match="`y` is of type set"):
        Source(NUMBERS, {1, 2})


# Hugging Face -----------------------------------------------------------------


@pytest.mark.slow
def test_hugging_face():
    """A data set, or a column of it, is refused; what the message says to write has its rows."""
    datasets = pytest.importorskip("datasets")
    rows = NUMBERS.astype("float32")
    data = datasets.Dataset.from_dict({"x": rows.tolist(), "y": rows.sum(1).tolist()})

    def taken(x):
        """What becomes of each thing that the message says to write."""
        with pytest.raises(UnsupportedTypeError, match="`x` is of Hugging Face's type") as raised:
            first(x)
        codes = [code.replace("32)", "4)") for code in codes_in(raised.value)]
        return [eval(code, {"x": x, "dataset": data}) for code in codes]

    for x in (data, data.with_format("numpy"), datasets.DatasetDict(train=data)):
        dataset, array = taken(x)
        np.testing.assert_array_equal(rows, array)
        for expected, weights in zip(fitted(rows, rows.sum(1)), fitted(dataset), strict=True):
            np.testing.assert_allclose(expected, weights, rtol=1e-5)
    np.testing.assert_array_equal(rows, taken(data["x"])[0])
    (batches,) = taken(data.to_iterable_dataset())
    for wanted, got in zip(
        fitted(rows, rows.sum(1), epochs=1), fitted(batches, epochs=1), strict=True
    ):
        np.testing.assert_allclose(wanted, got, rtol=1e-5)


def fitted(x, y=None, epochs=2):
    """The weights after training in order."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.001), "mse")
    rows = {} if y is None else {"batch_size": 4, "shuffle": False}
    Trainer(model, execution="step").fit(x, y, epochs=epochs, verbose=0, **rows)
    return model.get_weights()
