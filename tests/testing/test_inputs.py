"""The strategies are the specification of valid input, and shrink well."""

import numpy as np
import pytest
from hypothesis import find
from hypothesis import given
from hypothesis import Phase
from hypothesis import settings
from hypothesis import strategies as st

from kerastrain.errors import ArgumentError
from kerastrain.testing import arguments
from kerastrain.testing import binary_classification
from kerastrain.testing import Column
from kerastrain.testing import multiclass_classification
from kerastrain.testing import multilabel_classification
from kerastrain.testing import ranking
from kerastrain.testing import regression
from kerastrain.testing import segmentation
from kerastrain.testing import sequences
from kerastrain.testing.inputs import masks
from kerastrain.testing.inputs import partitions
from kerastrain.testing.inputs import sample_weights
from kerastrain.testing.streams import as_it_is
from kerastrain.testing.streams import joined
from kerastrain.testing.streams import Stream
from tests.support import tiers

SHAPES = {
    "binary": (binary_classification(), (1,), (1,)),
    "sparse": (multiclass_classification(4), (), (4,)),
    "one-hot": (multiclass_classification(4, labels="one_hot"), (4,), (4,)),
    "labels": (multilabel_classification(2), (2,), (2,)),
    "values": (regression(2), (2,), (2,)),
    "ranking": (ranking(5), (5,), (5,)),
    "sequences": (sequences(3), (3, 1), (3, 1)),
    "tokens": (sequences(3, classes=4), (3,), (3, 4)),
    "images": (segmentation(2, 3, classes=4), (2, 3), (2, 3, 4)),
}


@pytest.mark.parametrize("name", SHAPES)
@given(data=st.data())
@settings(max_examples=50)
def test_streams_are_valid(name, data):
    """Shapes, types and ranges are those of the problem; sums are exact in 16 bits."""
    strategy, of_true, of_pred = SHAPES[name]
    stream = data.draw(strategy)
    y_true, y_pred = stream.arguments.values()
    assert (stream.rows, *of_true) == y_true.shape
    assert (stream.rows, *of_pred) == y_pred.shape
    assert np.all(y_pred == y_pred.astype("float16"))
    if stream.has("label"):
        assert "int32" == y_true.dtype and np.all(y_true >= 0)
    if stream.has("score"):
        assert np.all((y_pred >= 0) & (y_pred <= 1))
    if name in ("sparse", "one-hot", "tokens", "images"):
        np.testing.assert_array_equal(y_pred.sum(-1), 1)
    if name == "one-hot":
        np.testing.assert_array_equal(y_true.sum(-1), 1)


@pytest.mark.parametrize("strategy, wanted, rows", (
    (binary_classification(), lambda s: s.arguments["y_true"].sum() >= 1, 1),
    (binary_classification(), lambda s: len(np.unique(s.arguments["y_true"])) == 2, 2),
    tiers.slow(regression(), lambda s: np.abs(s.arguments["y_pred"]).max() > 0, 1),
    tiers.slow(multiclass_classification(5), lambda s: s.arguments["y_true"].max() >= 2, 1),
    tiers.slow(sequences(3), lambda s: s.rows >= 3, 3),
))  # fmt: skip
def test_shrinks_to_few_rows(strategy, wanted, rows):
    """The smallest stream with a property has no row, and no number, that it does not need."""
    found = find(strategy, wanted)
    assert rows == found.rows
    others = [a for a in found.arguments.values() if np.any(a)]
    assert sum(np.count_nonzero(a) for a in others) <= 1 + found.rows


@pytest.mark.parametrize("wanted", (
    lambda s: s.rows == 1,
    lambda s: len(np.unique(s.arguments["y_pred"])) < s.rows,  # ties
    lambda s: s.rows > 2 and len(np.unique(s.arguments["y_pred"])) == 1,  # all alike
    lambda s: s.rows > 1 and s.arguments["y_true"].min() == 1,  # one class only
    lambda s: 0.5 in s.arguments["y_pred"],
))  # fmt: skip
def test_edges_occur(wanted):
    """What breaks metrics is drawn within a hundred examples."""
    find(binary_classification(), wanted, settings=settings(max_examples=100, database=None))


def test_logits_and_partial_ranges():
    """Logits leave [0, 1]; a range is kept."""
    assert find(binary_classification(logits=True), lambda s: s.arguments["y_pred"].min() < 0)
    low = find(regression(low=3, high=4), lambda s: True).arguments["y_true"]
    assert np.all((low >= 3) & (low <= 4))


@pytest.mark.slow
def test_arguments_of_any_nesting():
    """Dicts and lists of strategies give dicts and lists of arrays, passed by keyword."""
    strategy = arguments(
        y={
            "a": st.integers(0, 3),
            "b": [st.booleans(), Column(st.integers(0, 9), "int64", "label")],
        }
    )
    stream = find(strategy, lambda s: s.rows == 2)
    assert ((2,), "int64") == (
        stream.arguments["y"]["b"][1].shape,
        stream.arguments["y"]["b"][1].dtype,
    )
    assert {"y": stream.arguments["y"]} == stream.call(lambda **given: given, as_it_is)


@pytest.mark.parametrize("strategy, kind", (
    tiers.slow(st.floats(0, 1), "value"),
    tiers.slow(st.integers(-32, 32).map(lambda k: k / 8), "value"),
    tiers.slow(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2), "value"),
    tiers.slow(st.just(np.float32(0.5)), "value"),
    tiers.slow(st.floats(0, 1).map(lambda v: np.array([v, v])), "value"),
    tiers.slow(st.integers(0, 3), "other"),
    tiers.slow(st.booleans(), "other"),
    (Column(st.floats(0, 1), kind="other"), "other"),
    (Column(st.floats(0, 1), kind="score"), "score"),
))  # fmt: skip
def test_floats_are_values(strategy, kind):
    """What is drawn as floats is a value unless a `Column` says otherwise; in a dict too."""
    for rows, name in ((arguments(x=strategy), "x"), (arguments(y={"a": strategy}), "y")):
        one = settings(max_examples=1, phases=[Phase.generate], database=None)
        assert kind == find(rows, lambda stream: True, settings=one).kind(name)


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_floats_are_values_inside_a_property(data):
    """Inputs may be made while Hypothesis draws others."""
    low = data.draw(st.integers(0, 3))
    assert "value" == data.draw(arguments(x=st.floats(low, 9))).kind("x")


@given(rows=st.integers(1, 8), data=st.data())
@settings(max_examples=100)
def test_cuts_lose_nothing(rows, data):
    """Parts of any cut, put together, are the stream, with its weights and mask."""
    least = data.draw(st.integers(0, 1))
    places = data.draw(partitions(rows, least=least))
    weight = data.draw(sample_weights((rows,)))
    stream = Stream({"x": np.arange(rows)}, sample_weight=weight, mask=data.draw(masks((rows,))))
    parts = stream.cut(places)
    assert all(part.rows >= least for part in parts)
    whole = joined(parts)
    for expected, actual in ((stream.arguments["x"], whole.arguments["x"]), (weight, whole.sample_weight),
                             (stream.mask, whole.mask)):  # fmt: skip
        np.testing.assert_array_equal(expected, actual)


@given(rows=st.integers(1, 6), data=st.data())
@settings(max_examples=60)
def test_weights_by_kind(rows, data):
    """Integers are whole, zero ones have a zero, positive ones none."""
    drawn = {
        k: data.draw(sample_weights((rows,), k)) for k in ("any", "integer", "zero", "positive")
    }
    assert np.all(drawn["integer"] == drawn["integer"].astype(int)) and drawn["integer"].min() >= 1
    assert 0 in drawn["zero"] and np.all(drawn["positive"] > 0) and np.all(drawn["any"] >= 0)


@pytest.mark.parametrize("make, message", (
    (lambda: multiclass_classification(1), "`classes`.*2 or more.*classes=1"),
    (lambda: multiclass_classification(labels="dense"), "sparse.*one_hot.*'dense'"),
    (lambda: regression(low=1, high=1), "`low` must be below"),
    (lambda: ranking(0), "`items`.*items=0"),
    (lambda: sequences(True), "`steps`"),
    (lambda: arguments(), "a strategy for each argument"),
    (lambda: arguments(x=3), "strategy of one row.*3"),
    (lambda: arguments(x=Column(st.integers(), kind="labels")), "kind 'labels'"),
    (lambda: binary_classification(max_rows=1), "`max_rows`"),
))  # fmt: skip
def test_refused(make, message):
    """Bad arguments are refused with their value."""
    with pytest.raises(ArgumentError, match=message):
        make()
