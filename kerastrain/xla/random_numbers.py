"""The same random numbers inside XLA as outside of it.

::

    with same_under_xla():            # while a function is traced for XLA
        loss = model(x, training=True)

TensorFlow 2.21 draws the same random bits from one seed in both (Philox; J. K. Salmon,
M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011),
but makes other numbers of them: its kernels take the low bits of a word, XLA the high ones.
So a dropout mask would depend on how the step was compiled. Here the bits are drawn, in
XLA's faster way of naming the algorithm, and the kernels' own formulas make the numbers:
dropout masks and uniform numbers are bit-exact, normal ones equal to rounding.

What else Keras draws from (truncated normal, gamma, binomial, categorical, shuffles) differs
between the two, and so do TensorFlow's own generators: `same_under_xla` and `check_graph`
refuse them, so that no plan of another result is chosen.
"""

import contextlib
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NoReturn

import tensorflow as tf

from kerastrain import _keras
from kerastrain.errors import OtherRandomNumbers

# By dtype: (unsigned integer of its size, bits of its fraction, bits of 1.0).
_FORMATS = {
    tf.float16: (tf.uint16, 10, 0x3C00),
    tf.bfloat16: (tf.uint16, 7, 0x3F80),
    tf.float32: (tf.uint32, 23, 0x3F800000),
}
_REFUSED = (
    "stateless_truncated_normal",
    "stateless_gamma",
    "stateless_binomial",
    "stateless_categorical",
    "stateless_poisson",
)


@contextlib.contextmanager
def same_under_xla() -> Iterator[None]:
    """Inside, what is traced for XLA draws the numbers that TensorFlow's kernels draw.

    Raises:
        OtherRandomNumbers: inside, where it cannot.
    """
    replaced = [
        (tf.random, "stateless_uniform", _uniform),
        (tf.random, "stateless_normal", _normal),
        (tf.nn.experimental, "stateless_dropout", _dropout),
        *((tf.random, name, _refusing(name)) for name in _REFUSED),
    ]
    with contextlib.ExitStack() as stack:
        for module, name, own in replaced:
            stack.enter_context(_keras.patched(module, name, own))
        yield


# Operations that draw, other than those that `same_under_xla` leaves in a graph.
_DRAWING = (
    "RandomUniform",
    "RandomUniformInt",
    "RandomStandardNormal",
    "ParameterizedTruncatedNormal",
    "TruncatedNormal",
    "RandomGamma",
    "RandomPoisson",
    "RandomPoissonV2",
    "RandomShuffle",
    "Multinomial",
    "StatefulUniform",
    "StatefulUniformInt",
    "StatefulUniformFullInt",
    "StatefulStandardNormalV2",
    "StatefulTruncatedNormal",
    "StatefulRandomBinomial",
    "RngReadAndSkip",
)


def check_graph(graph: tf.Graph) -> None:
    """Refuses a graph that draws random numbers which are others under XLA.

    Raises:
        OtherRandomNumbers: as said.
    """
    definition = graph.as_graph_def()
    nodes = [definition.node, *(f.node_def for f in definition.library.function)]
    for node in (node for group in nodes for node in group):
        if node.op in _DRAWING:
            raise OtherRandomNumbers(f"the operation {node.op} draws other numbers under XLA")


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise OtherRandomNumbers(f"tf.random.{name} draws other numbers under XLA")

    return refuse


_draw = tf.random.stateless_uniform


def _bits(shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Words of 32 random bits. XLA draws seven times faster where the algorithm is named."""
    bits = _draw(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    return tf.bitcast(bits, tf.uint32)


def _unit(shape: Any, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Uniform numbers in [0, 1): random fractions of a float in [1, 2), less 1."""
    dtype = tf.as_dtype(dtype)
    if dtype not in _FORMATS:
        raise OtherRandomNumbers(f"random numbers of {dtype.name} are others under XLA")
    word, fraction, one = _FORMATS[dtype]
    bits = tf.cast(tf.bitwise.bitwise_and(_bits(shape, seed), (1 << fraction) - 1), word)
    return tf.bitcast(tf.bitwise.bitwise_or(bits, tf.constant(one, word)), dtype) - 1


def _uniform(
    shape: Any,
    seed: tf.Tensor,
    minval: Any = 0,
    maxval: Any = None,
    dtype: Any = tf.float32,
    name: str | None = None,
    alg: str = "auto_select",
) -> tf.Tensor:
    del name, alg
    dtype = tf.as_dtype(dtype)
    if not dtype.is_floating:
        raise OtherRandomNumbers("random integers are not compared with XLA's")
    maxval = 1 if maxval is None else maxval
    minval, maxval = tf.cast(minval, dtype), tf.cast(maxval, dtype)
    return _unit(shape, seed, dtype) * (maxval - minval) + minval


def _normal(
    shape: Any,
    seed: tf.Tensor,
    mean: Any = 0.0,
    stddev: Any = 1.0,
    dtype: Any = tf.float32,
    name: str | None = None,
    alg: str = "auto_select",
) -> tf.Tensor:
    """G. E. P. Box, M. E. Muller, "A Note on the Generation of Random Normal Deviates", 1958."""
    del name, alg
    if tf.as_dtype(dtype) != tf.float32:
        name = tf.as_dtype(dtype).name
        raise OtherRandomNumbers(f"normal numbers of {name} are others under XLA")
    shape = tf.convert_to_tensor(shape, tf.int32)
    count = tf.reduce_prod(shape)
    pairs = tf.reshape(_unit([2 * -(-count // 2)], seed, tf.float32), [-1, 2])
    radius = tf.sqrt(-2.0 * tf.math.log(tf.maximum(pairs[:, 0], 1e-7)))
    angle = 2 * math.pi * pairs[:, 1]
    both = tf.stack([tf.sin(angle) * radius, tf.cos(angle) * radius], axis=1)
    return tf.reshape(tf.reshape(both, [-1])[:count], shape) * stddev + mean


def _dropout(
    x: Any,
    rate: float,
    seed: tf.Tensor,
    rng_alg: Any = None,
    noise_shape: Any = None,
    name: str | None = None,
) -> tf.Tensor:
    del rng_alg, name
    x = tf.convert_to_tensor(x)
    if rate == 0:
        return x
    shape = tf.shape(x) if noise_shape is None else noise_shape
    kept = _unit(shape, seed, x.dtype) >= tf.cast(rate, x.dtype)
    return tf.where(kept, x * tf.cast(1 / (1 - rate), x.dtype), tf.zeros((), x.dtype))
