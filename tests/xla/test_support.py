"""XLA is given a graph only where it has a kernel for all that is in it."""

import keras
import pytest
import tensorflow as tf

from kerastrain.errors import UnsupportedByXla
from kerastrain.xla import support as xla_support

NUMBERS = tf.constant([[1.0, 2.0], [3.0, 4.0]])
WORDS = tf.constant(["a", "b"])
TOTAL = tf.Variable(0.0)


def table():
    numbers = tf.range(5, dtype=tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(numbers, numbers), -1)


def looked_up(x, made=table()):
    return tf.cast(made.lookup(tf.cast(x, tf.int64)), tf.float32)


def by_text(x):
    return tf.strings.to_number(tf.strings.as_string(x))


def by_python(x):
    return tf.ensure_shape(tf.numpy_function(lambda v: v, [x], tf.float32), x.shape)


def repeated(function):
    """The function in the body of a loop."""

    def looping(x):
        body = lambda i, x: (i + 1, function(x))
        return tf.while_loop(lambda i, x: i < 3, body, (0, x), maximum_iterations=3)[1]

    return looping


def in_a_branch(function):
    return lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: function(x), lambda: x)


def nested(function):
    return lambda x: tf.function(function, autograph=False)(x)


def asserting(x):
    checks = [tf.debugging.assert_less(tf.reduce_max(x), 9.0, message="too large")]
    with tf.control_dependencies(checks):
        return tf.identity(x)


def training(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(repeated(tf.sin)(x))
    TOTAL.assign_add(loss)
    return tape.gradient(loss, x)


SUPPORTED = {
    "asserting": asserting,
    "training": training,
    "in a branch": in_a_branch(repeated(tf.cos)),
    "nested": nested(tf.nn.softmax),
    "stacked": lambda x: tf.map_fn(tf.exp, x),
}
UNSUPPORTED = {
    "text": (by_text, "AsString"),
    "text in a loop": (repeated(by_text), "AsString"),
    "a table in a branch": (in_a_branch(looked_up), "LookupTableFindV2"),
    "a table in a function": (nested(looked_up), "LookupTableFindV2"),
    "Python in both": (repeated(in_a_branch(by_python)), "PyFunc"),
    "text for nobody": (lambda x: (by_text(x), x + 1)[1], "AsString"),
    "ragged": (lambda x: tf.RaggedTensor.from_tensor(x).to_tensor(), "Ragged"),
}


def traced(function, *inputs):
    compiled = tf.function(function, jit_compile=True, autograph=False)
    return compiled.get_concrete_function(*inputs)


@pytest.mark.parametrize("name", SUPPORTED)
def test_what_is_supported_is_compiled(name):
    """A graph that passes is one that XLA compiles, to the same numbers."""
    concrete = traced(SUPPORTED[name], NUMBERS)
    xla_support.check_graph(concrete.graph)
    tf.debugging.assert_near(SUPPORTED[name](NUMBERS), concrete(NUMBERS), rtol=1e-5)


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_named(name):
    """Wherever it is in the graph, the operation is named, and nothing has been compiled."""
    function, operation = UNSUPPORTED[name]
    concrete = traced(function, NUMBERS)
    with pytest.raises(UnsupportedByXla, match=f"{operation}.* jit_compile=False"):
        xla_support.check_graph(concrete.graph)


@pytest.mark.parametrize("reads", [True, False])
def test_data_of_text(reads):
    """Text among the data is refused, whether or not anything reads it."""
    concrete = traced(lambda x, words: x + (tf.size(words) if reads else 1), 1, WORDS)
    with pytest.raises(UnsupportedByXla, match="no kernel for data of type string"):
        xla_support.check_graph(concrete.graph)


class Refusing(keras.Layer):
    """A layer of the user's own that says so itself."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_jit = False

    def call(self, x):
        return x


def test_layers_that_do_not_support_it():
    """The first of them is named, also one inside of another model."""
    inputs = keras.Input((3,))
    inner = keras.Sequential([keras.layers.Dense(2), Refusing(name="mine")])
    model = keras.Model(inputs, keras.layers.Dense(1)(inner(inputs)))
    assert "'mine' (Refusing)" in xla_support.refusal_of_model(model)
    assert xla_support.refusal_of_model(keras.Sequential([keras.layers.Dense(1)])) is None
