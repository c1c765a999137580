"""Random numbers in a program of XLA are those of TensorFlow's kernels, or are refused."""

import itertools

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain.errors import OtherRandomNumbers
from kerastrain.xla.random_numbers import check_graph
from kerastrain.xla.random_numbers import same_under_xla
from tests.support import tiers

FLOATS = ["float32", "float16", "bfloat16"]
OTHERS = ["truncated_normal", "gamma", "binomial", "categorical", "poisson"]
PATCHED = [
    (tf.random, "stateless_uniform"),
    (tf.random, "stateless_normal"),
    (tf.nn.experimental, "stateless_dropout"),
    *((tf.random, f"stateless_{name}") for name in OTHERS),
]


def compiled_by_xla(function, *arguments):
    """A function for such arguments that XLA compiles, with the numbers of the kernels."""
    with same_under_xla():
        compiled = tf.function(function, jit_compile=True, autograph=False)
        compiled = compiled.get_concrete_function(*arguments)
    check_graph(compiled.graph)
    return compiled


def by_xla(function, *arguments):
    """What a function returns when XLA has compiled it, in the numbers of the kernels."""
    return compiled_by_xla(function, *arguments)(*arguments)


def by_kernels(function, *arguments):
    return tf.function(function, autograph=False)(*arguments)


def by_both(function, seeds, *others):
    """``(result of the kernels, result of XLA)`` for each seed, of one program each."""
    seeds = [tf.constant(seed) for seed in seeds]
    kernels = tf.function(function, autograph=False)
    xla = compiled_by_xla(function, seeds[0], *others)
    return [(kernels(seed, *others), xla(seed, *others)) for seed in seeds]


def bits(tensor):
    return tensor.numpy().tobytes()


# The same numbers -------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype, shape",
    tiers.cases(
        itertools.product(FLOATS, [(), (7,), (4, 5, 3), (0, 2)]),
        [(FLOATS[0], (7,)), (FLOATS[0], (0, 2)), (FLOATS[2], ())],
    ),
)
def test_uniform(dtype, shape):
    """Uniform numbers are the same to the bit."""

    def draw(seed):
        return tf.random.stateless_uniform(shape, seed, dtype=dtype)

    for expected, actual in by_both(draw, [[0, 0], [1, 2], [-5, 2**31 - 1]]):
        assert bits(expected) == bits(actual)


@hypothesis.settings(max_examples=5)
@hypothesis.given(
    minval=st.floats(-100, 100, width=32),
    width=st.floats(0.125, 50, width=32),
    seed=st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2),
)
def test_uniform_between(minval, width, seed):
    """Uniform numbers between two bounds are the same to rounding."""

    def draw(seed):
        return tf.random.stateless_uniform((50,), seed, minval, minval + width)

    expected, actual = by_kernels(draw, tf.constant(seed)), by_xla(draw, tf.constant(seed))
    tolerance = 3e-7 * max(1.0, abs(minval) + width)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("shape", [tiers.slow(()), (1001,), tiers.slow((4, 5, 3))])
def test_normal(shape):
    """Normal numbers are the same to rounding, odd counts and the tails included."""

    def draw(seed):
        return tf.random.stateless_normal(shape, seed, mean=1.5, stddev=0.5)

    for expected, actual in by_both(draw, [[number, 7] for number in range(3)]):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "dtype, rate, noise_shape",
    tiers.cases(
        itertools.product(FLOATS, [0.0, 0.1, 0.9], [None, (6, 1)]),
        [(FLOATS[0], 0.1, None), (FLOATS[1], 0.9, (6, 1)), (FLOATS[2], 0.0, None)],
    ),
)
def test_dropout(dtype, rate, noise_shape):
    """Dropout has the same mask and the same numbers, to the bit."""

    def drop(seed, x):
        return tf.nn.experimental.stateless_dropout(x, rate, seed, noise_shape=noise_shape)

    x = tf.cast(tf.reshape(tf.range(1.0, 49.0), (6, 8)) / 7, dtype)
    for expected, actual in by_both(drop, [[number, 7] for number in range(3)], x):
        assert bits(expected) == bits(actual)


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda: keras.layers.Dropout(0.3), id="dropout"),
        tiers.slow(lambda: keras.layers.Dropout(0.3, noise_shape=(None, 1)), id="rows"),
        tiers.slow(lambda: keras.layers.SpatialDropout1D(0.3), id="spatial"),
        pytest.param(lambda: keras.layers.GaussianDropout(0.3), id="gaussian"),
        tiers.slow(lambda: keras.layers.GaussianNoise(0.3), id="noise"),
        tiers.slow(lambda: keras.layers.AlphaDropout(0.3), id="alpha"),
        pytest.param(lambda: keras.layers.Dropout(0.3, dtype="mixed_float16"), id="half"),
        tiers.slow(lambda: keras.layers.Dropout(0.3, dtype="mixed_bfloat16"), id="bfloat"),
    ],
)
def test_layers(layer):
    """Keras's layers draw the same numbers, call after call."""
    results = []
    for run in (by_kernels, by_xla):
        keras.utils.set_random_seed(3)
        made = layer()
        x = tf.reshape(
            tf.range(1.0, 61.0), (3, 4, 5) if "Spatial" in type(made).__name__ else (12, 5)
        )
        made.build(x.shape)
        results.append(run(lambda x, m=made: [m(x, training=True) for _ in range(2)], x))
    for expected, actual in zip(*results, strict=True):
        assert (expected.numpy() == 0).tolist() == (actual.numpy() == 0).tolist()
        np.testing.assert_allclose(
            tf.cast(actual, "float32"), tf.cast(expected, "float32"), rtol=0, atol=1e-4
        )
    assert (results[0][0].numpy() != results[0][1].numpy()).any()


# What is refused --------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: tf.random.stateless_uniform((3,), seed, 0, 9, tf.int32),
        lambda seed: tf.random.stateless_uniform((3,), seed, dtype="float64"),
        lambda seed: tf.random.stateless_normal((3,), seed, dtype="float64"),
        lambda seed: tf.random.stateless_normal((3,), seed, dtype="float16"),
        lambda seed: tf.random.stateless_normal((3,), seed, dtype="bfloat16"),
        lambda seed: tf.nn.experimental.stateless_dropout(tf.ones(3, "float64"), 0.5, seed),
        lambda seed: tf.random.stateless_truncated_normal((3,), seed),
        lambda seed: tf.random.stateless_gamma((3,), seed, 1.0),
        lambda seed: tf.random.stateless_binomial((3,), seed, 2.0, 0.5),
        lambda seed: tf.random.stateless_categorical([[0.5, 0.5]], 3, seed),
        lambda seed: tf.random.stateless_poisson((3,), seed, 1.0),
        lambda seed: keras.random.truncated_normal((3,), seed=1),
        lambda seed: keras.random.randint((3,), 0, 9, seed=1),
        lambda seed: keras.random.categorical(tf.zeros((1, 2)), 3, seed=1),
    ],
)
def test_others_are_refused(draw):
    """What differs under XLA, or was not compared, is not traced."""
    with pytest.raises(OtherRandomNumbers, match="XLA"):
        by_xla(draw, tf.constant([1, 2]))


def own_generator():
    generator = tf.random.Generator.from_seed(1)
    return lambda: generator.uniform((20,))


@pytest.mark.parametrize(
    "make",
    [
        lambda: lambda: keras.random.shuffle(tf.range(20.0), seed=1),
        lambda: lambda: tf.random.experimental.stateless_shuffle(tf.range(20.0), [1, 2]),
        lambda: lambda: tf.random.shuffle(tf.range(20.0), seed=1),
        own_generator,
        lambda: lambda: tf.random.uniform((20,), seed=1),
        lambda: lambda: tf.random.normal((20,), seed=1),
        lambda: lambda: tf.nn.dropout(tf.ones(20), 0.5, seed=1),
    ],
    ids=["keras shuffle", "stateless", "shuffle", "generator", "uniform", "normal", "dropout"],
)
def test_what_tensorflow_draws_itself(make):
    """Numbers of TensorFlow's own functions are the same, or refused, as Keras's are."""
    results = []
    for run in (by_kernels, by_xla):
        tf.random.set_seed(4)
        try:
            results.append(run(make()))
        except (OtherRandomNumbers, tf.errors.OpError):
            return
    np.testing.assert_allclose(*results, rtol=0, atol=1e-6)


# Outside ----------------------------------------------------------------------


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_nothing_stays_patched(error):
    """After the context, however it ends, TensorFlow's functions are its own."""
    before = [getattr(module, name) for module, name in PATCHED]
    try:
        with same_under_xla():
            assert all(
                getattr(module, name) is not original
                for (module, name), original in zip(PATCHED, before, strict=True)
            )
            if error:
                raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert before == [getattr(module, name) for module, name in PATCHED]


def test_nested_contexts():
    """A context within another one ends with the outer one's numbers, and then TensorFlow's."""
    before = tf.random.stateless_uniform
    with same_under_xla():
        outer = tf.random.stateless_uniform
        with same_under_xla():
            pass
        assert tf.random.stateless_uniform is outer is not before
    assert tf.random.stateless_uniform is before
