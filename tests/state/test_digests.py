"""A digest tells batches apart by what they hold, in each process alike."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from kerastrain.state.digests import digest_of
from kerastrain.state.digests import joined

X = np.arange(6.0, dtype="float32").reshape(3, 2)


def different():
    """Batches, each of which is another than all others."""
    ragged = tf.ragged.constant([[1.0, 2.0], [3.0]])
    return {
        "x": X,
        "a value": X + np.eye(3, 2, dtype="float32") * 1e-7,
        "negative zero": X * np.where(X, 1, -1).astype("float32"),
        "order of rows": X[::-1],
        "shape": X.reshape(2, 3),
        "a row less": X[:2],
        "no rows": X[:0],
        "none of two rows": np.zeros((0, 3), "float32"),
        "dtype": X.astype("float64"),
        "dtype of the same bytes": X.view("int32"),
        "tuple": (X,),
        "pair": (X, X),
        "none after": (X, None),
        "none before": (None, X),
        "none": None,
        "nested": ((X, None),),
        "dict": {"a": X},
        "another name": {"b": X},
        "dict of two": {"a": X, "b": X + 1},
        "names exchanged": {"b": X, "a": X + 1},
        "ragged": ragged,
        "ragged elsewhere": tf.ragged.constant([[1.0], [2.0, 3.0]]),
        "flat": ragged.flat_values,
        "sparse": tf.sparse.from_dense(X),
        "sparse of another shape": tf.sparse.reshape(tf.sparse.from_dense(X), (2, 3)),
        "text": np.array(["ab", "c"], dtype=object),
        "text elsewhere": np.array(["a", "bc"], dtype=object),
        "one text": np.array(["abc"], dtype=object),
        "number": 1,
        "bool": True,
        "half": X.astype("float16"),
        "bfloat16": tf.cast(X, tf.bfloat16),
        "complex": X.astype("complex64"),
    }


def test_different_batches_have_different_digests():
    """Whatever differs - a value, a shape, a type, the nesting - the digest does."""
    digests = {name: digest_of(batch) for name, batch in different().items()}
    assert len(digests) == len(set(digests.values())), sorted(digests.items(), key=lambda d: d[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (X, tf.constant(X)),
        (X, np.asfortranarray(X)),
        (X, np.repeat(X, 2, axis=0)[::2]),
        (X, X.astype(">f4")),
        ((X, None), [tf.constant(X), None]),
        ({"a": X, "b": None}, {"b": None, "a": X}),
        (np.array(["é", "b"]), tf.constant(["é", "b"])),
        (np.array(["a"], dtype=object), np.array([b"a"])),
        (np.array([np.nan, -0.0]), np.array([np.nan, -0.0])),
        (np.float32(2.0), tf.constant(2.0)),
    ],
)
def test_equal_batches_have_one_digest(one, other):
    """How a batch is held - where, in which order of memory - makes no difference."""
    assert digest_of(one) == digest_of(other)


@pytest.mark.process
def test_it_is_the_same_in_another_process():
    """What one process has saved, another compares."""
    code = (
        "import numpy as np; from kerastrain.state.digests import digest_of;"
        "print(digest_of(({'b': np.arange(3), 'a': np.array(['x', 'yz'])}, None, 0.5)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).parents[2],
    )
    batch = ({"b": np.arange(3), "a": np.array(["x", "yz"])}, None, 0.5)
    assert ran.stdout.split()[-1] == digest_of(batch)


def test_joined():
    """The order of digests counts, and what is missing."""
    assert joined("a", "b") == joined("a", "b")
    assert 4 == len({joined("a", "b"), joined("b", "a"), joined("ab"), joined("a", None)})
