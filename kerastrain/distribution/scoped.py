"""A model that was made outside a strategy's scope, with the scope's variables while it trains.

::

    scoped = ScopedVariables(strategy)
    with scoped.inside({"model": model, "optimizer": optimizer}):
        ...                        # each variable is the strategy's
    # each is what it was, with the value that it has got

Replicas want variables that were made in the strategy's scope. A variable of Keras's holds one of
TensorFlow's: inside, it holds another one, which the scope has made. So nothing is made again from
a configuration: layers, losses and optimizers stay the objects that they are, with all that was
ever set on them, and whoever holds them sees what trains.

What is no variable of Keras's cannot change so. A step that changes it on several replicas, or
reads a variable as it is outside, is refused before it runs for the first time.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.distribution import merging
from kerastrain.distribution.cluster import cluster_of
from kerastrain.errors import ModelError
from kerastrain.state import Walk

_FIX = (
    "Make it inside the strategy's scope: pass a function that builds and compiles the model, "
    "Trainer(lambda: build(), strategy=...)."
)


class ScopedVariables:
    """The two variables of TensorFlow's that each variable of Keras's holds in turn.

    Args:
        strategy: in whose scope one of them was made.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        # By the id of a variable: itself, the one outside, the one inside.
        self._pairs: dict[int, tuple[keras.Variable, Any, Any]] = {}

    @contextlib.contextmanager
    def inside(self, roots: dict[str, Any]) -> Iterator[None]:
        """Inside, what can be reached from some objects has the scope's variables.

        Variables that are made inside are made once more outside, when it ends.

        Args:
            roots: by name, such as a model and its optimizer.
        """
        with contextlib.ExitStack() as stack:
            stack.push(lambda kind, error, traceback: self._leave(roots, alone=error is not None))
            walk = self._enter(roots)
            stack.enter_context(
                _keras.under_strategy(
                    [*walk.of(keras.Model).values(), *walk.of(keras.optimizers.Optimizer).values()],
                    self._strategy,
                )
            )
            yield

    def check(self, function: Any) -> None:
        """Makes sure that a step has the variables that are there inside.

        Args:
            function: the concrete function, before it runs for the first time.

        Raises:
            ModelError: it has one as it is outside.
        """
        captured = _keras.captured_handles(function)
        for variable, outside, _ in self._pairs.values():
            if captured & _keras.handles_of(outside):
                raise ModelError(
                    f"A step reads {variable.path!r} as it is outside the strategy's scope, by the "
                    f"tf.Variable that it held there. {_FIX}"
                )

    def _enter(self, roots: dict[str, Any]) -> Walk:
        walk = Walk(roots)
        rules = _rules(walk)
        with self._strategy.scope():
            entering = [v for v in _of_keras(walk) if not _keras.is_made_under(v, self._strategy)]
            for variable, value in zip(entering, self._values(entering), strict=True):
                outside = _keras.held_by(variable)
                _, _, inside = self._pairs.get(id(variable), (None, None, None))
                _keras.hold(variable, inside, value)
                if id(variable) in rules and _keras.is_distributed(variable):
                    merging.assign_spread(rules[id(variable)], variable, value)
                self._pairs[id(variable)] = variable, outside, _keras.held_by(variable)
        return walk

    def _values(self, variables: list[keras.Variable]) -> list[Any]:
        """What the variables have outside: of several workers, what the chief's have."""
        values = [tf.identity(_keras.held_by(variable)) for variable in variables]
        cluster = cluster_of(self._strategy)
        if not (cluster.has_others and values):
            return values
        arrays = [value.numpy() for value in values]
        joined = np.concatenate([np.frombuffer(array.tobytes(), "uint8") for array in arrays])
        parts = np.split(cluster.chiefs(joined), np.cumsum([a.nbytes for a in arrays])[:-1])
        return [
            tf.constant(np.frombuffer(part.tobytes(), array.dtype).reshape(array.shape))
            for part, array in zip(parts, arrays, strict=True)
        ]

    def _leave(self, roots: dict[str, Any], alone: bool) -> None:
        """Gives the variables what they hold outside.

        Args:
            roots: as of `inside`.
            alone: whether the other workers may not come: after an error here. What metrics have
                counted elsewhere is lost then.
        """
        read = _keras.read_local if alone else _keras.read_all
        walk = Walk(roots)
        rules = _rules(walk)
        for variable in _of_keras(walk):
            _, outside, _ = self._pairs.get(id(variable), (None, None, None))
            if outside is None and not _keras.is_made_under(variable, self._strategy):
                continue
            inside = _keras.held_by(variable)
            if id(variable) in rules and _keras.is_distributed(variable):
                value = merging.merge(rules[id(variable)], read(variable))
            else:
                value = inside.numpy()
            if not inside.shape.is_compatible_with(value.shape):
                continue  # made in a trace that has failed, it never had a value
            _keras.hold(variable, outside, value)
            self._pairs[id(variable)] = variable, _keras.held_by(variable), inside


def _rules(walk: Walk) -> dict[int, str]:
    """How the replicas' values of metrics' variables become one, by the variables' ids."""
    return {
        id(variable): merging.rule_of(metric, variable)
        for metric in walk.of(keras.metrics.Metric).values()
        for variable in _keras.own_variables(metric)
    }


def _of_keras(walk: Walk) -> list[keras.Variable]:
    """The variables of Keras's that have a value."""
    found = walk.variables.values()
    return [v for v in found if isinstance(v, keras.Variable) and _keras.held_by(v) is not None]


@contextlib.contextmanager
def changes_checked(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Inside, a replica changes only variables that have a value on each replica.

    Raises:
        ModelError: it changes another one, as every replica would.
    """

    def check(variable: tf.Variable) -> None:
        is_ours = tf.distribute.get_strategy() is strategy
        in_replica = is_ours and not tf.distribute.in_cross_replica_context()
        if in_replica and not strategy.extended.variable_created_in_scope(variable):
            raise ModelError(
                f"A step changes {variable.name!r}, a tf.Variable or a keras.Variable that only a "
                f"function holds, which was made outside the strategy's scope: each replica would "
                f"change it. {_FIX}"
            )

    with _keras.assignments_seen(check, in_all_threads=True):
        yield
