"""Calls on a few rows, which change nothing, and what they compute.

::

    with dry_steps.nothing_kept(), dry_steps.nothing_built(model), dry_steps.statistics_known(model):
        run = TracedCall(model, batch, rows=[0, 1, 2], with_loss=True)
        numbers = run([0, 1, 2])      # outputs, added losses, losses, assigned values

A call is traced once, and run on several sets of rows, which are the same numbers of a batch
or others. `kerastrain.preparation.mixing` compares what they give.
"""

import contextlib
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from kerastrain import _keras
from kerastrain.preparation import dry_steps
from kerastrain.preparation import graphs
from kerastrain.preparation import user_code
from kerastrain.step import loss as loss_lib

# What Keras calls the state of a random generator, wherever that is kept.
_SEED_STATE = "seed_generator_state"
# What the operations that change a variable or a table begin with.
_CHANGING = ("Assign", "ResourceScatter", "LookupTableInsert", "LookupTableImport")
# How often losses are tried on outputs that are spread, on the rows in another order each time.
_TRIALS = 3
# What rounding makes of a loss in float32 and in half precision, in terms of its size.
_ROUNDING, _HALF_ROUNDING = 1e-5, 5e-2
# The difference that counts, in terms of how far apart the losses of the parts are.
_OF_VARIATION = 1e-3
# How far from 1 the sum of probabilities may be.
_SUM_SLACK = 0.02
# Indices of rows of a batch; the numbers of each half of the rows by itself.
Rows = list[int]
Halves = tuple["Numbers", "Numbers"]


class Assigned(NamedTuple):
    """A variable that a training call assigns.

    Attributes:
        variable: of Keras or TensorFlow, or a table.
        line: ``(name of the function, "file:line")`` of the user's code; None if no such
            code does it.
    """

    variable: Any
    line: tuple[str, str] | None


class _Scope(keras.StatelessScope):
    """Keeps assignments and added losses to itself, and who made them."""

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self.assigned: dict[int, Assigned] = {}
        self.draws = 0
        self.lines: list[tuple[str, str] | None] = []

    def copy(self) -> "_Scope":
        """A scope with the same values and losses, for what comes after."""
        scope = _Scope()
        scope.state_mapping.update(self.state_mapping)
        scope.losses.extend(self.losses)
        return scope

    def add_update(self, update: tuple[Any, Any]) -> None:
        """Notes who assigns a variable, and what is drawn."""
        super().add_update(update)
        variable, _ = update
        if variable.name == _SEED_STATE:
            self.draws += 1
        elif id(variable) not in self.assigned:
            self.assigned[id(variable)] = Assigned(variable, user_code.running())

    def add_loss(self, loss: Any) -> None:
        """Notes who adds a loss."""
        super().add_loss(loss)
        self.lines.append(user_code.running())


class Numbers(NamedTuple):
    """What a training call computes: lists of arrays."""

    outputs: list[np.ndarray]
    added: list[np.ndarray]
    losses: list[np.ndarray]  # for each: numerator and denominator of the whole, and of the parts
    assigned: list[np.ndarray]
    spread: list[np.ndarray]  # the losses once more, of outputs that are spread: for each trial


class TracedCall:
    """A call on a number of rows, traced once and run on several sets of them.

    Attributes:
        random: whether it draws random numbers.
        scope: what the forward pass has added, and drawn.
        assigned: the variables that it assigns, or the losses do, in the order of `Numbers`.
        plain: the variables of TensorFlow that it assigns, as `Assigned`.
        names: the losses, in the order of `Numbers.losses`.
    """

    def __init__(
        self,
        model: keras.Model,
        batch: Any,
        rows: Rows,
        with_loss: bool,
        spreads: bool = False,
        training: bool = True,
    ):
        self._model, self._batch, self._with_loss = model, batch, with_loss
        self._spreads, self._training = spreads, training
        self._trace(rows)
        # TensorFlow's own random operations continue from one run to the next.
        self._unsteady = not same(self._run(rows), self._run(rows), 0.0)
        self.random = self._unsteady or self.scope.draws > 0

    def __call__(self, rows: Rows) -> Numbers:
        if self._unsteady:  # draws the same numbers again in a graph of its own
            self._trace(rows)
        return self._run(rows)

    def _trace(self, rows: Rows) -> None:
        self._rows = len(rows)
        few = dry_steps.picked(self._batch, rows)
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in tf.nest.flatten(few) if t is not None]

        def run(*given: tf.Tensor) -> list[list[tf.Tensor]]:
            tf.compat.v1.set_random_seed(0)
            tensors = iter(given)
            batch = tf.nest.map_structure(lambda t: None if t is None else next(tensors), few)
            return self._numbers(batch)

        traced = tf.compat.v1.wrap_function(run, specs)
        self._function = graphs.without_effects(traced, len(specs))
        self.plain = _assigned_in_graph(self._model, traced)

    def _run(self, rows: Rows) -> Numbers:
        few = dry_steps.picked(self._batch, rows)
        found = self._function(*[leaf for leaf in tf.nest.flatten(few) if leaf is not None])
        return Numbers(*tf.nest.map_structure(array_of, list(found)))

    def _numbers(self, batch: Any) -> list[list[tf.Tensor]]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        losses, spread = list[tf.Tensor](), list[tf.Tensor]()
        self.scope, self.names = _Scope(), list[Any]()
        with self.scope:
            y_pred = _keras.forward(self._model, x, training=self._training)
        added, scope = list(self.scope.losses), self.scope
        if self._with_loss:
            with contextlib.suppress(Exception):  # of any kind: there may be none to compute
                scope, losses = self._losses(dry_steps.rows_of(batch), x, y, y_pred, sample_weight)
            if scope.draws or not losses:  # what is drawn, the parts would draw anew
                losses, self.names = [], []
            elif self._spreads:
                with contextlib.suppress(Exception):  # of any kind: it may want other outputs
                    spread = self._losses_of_spread(x, y, y_pred, sample_weight)
        metrics = {id(v) for m in _keras.all_metrics(self._model) for v in m.variables}
        # The metrics' variables are merged by rules of their own.
        kept = {**scope.assigned, **self.scope.assigned}
        self.assigned = [entry for key, entry in kept.items() if key not in metrics]
        assigned = [scope.get_current_value(entry.variable) for entry in self.assigned]
        outputs = [leaf for leaf in keras.tree.flatten(y_pred) if isinstance(leaf, tf.Tensor)]
        return [[tf.identity(t) for t in ts] for ts in (outputs, added, losses, assigned, spread)]

    def _losses(self, count: int, *batch: Any) -> tuple[_Scope, list[tf.Tensor]]:
        """Numerators and denominators over all rows, and over the rows of two parts.

        Each from the state that the forward pass leaves; the first one's scope is returned too.
        """
        cut = _first_part(count)
        found, scopes = [], []
        for first, last in ((0, count), (0, cut), (cut, count))[: 3 if count > 1 else 1]:
            x, y, y_pred, weight = (dry_steps.cut_rows(part, first, last) for part in batch)
            rows = tf.constant(last - first)
            with self.scope.copy() as scope:
                terms = self._terms(x, y, y_pred, weight, rows)
                if _keras.overrides(self._model, "compute_loss"):
                    terms, self.names = terms[-1:], ["compute_loss"]
                else:
                    outputs = _keras.output_losses(self._model, y, y_pred, weight)
                    self.names = [output.loss for output in outputs]
                    terms = terms[: len(self.names)]
            scopes.append(scope)
            is_half = any(term.value.dtype.size < 4 for term in terms)
            self._rounding = _HALF_ROUNDING if is_half else _ROUNDING
            for term in terms:
                of_sum = term.group == loss_lib.SUM
                count_of = tf.zeros_like(term.value) if of_sum else term.denominator
                found += [tf.math.multiply_no_nan(term.value, term.denominator), count_of]
        return scopes[0], found

    def _terms(self, x: Any, y: Any, y_pred: Any, weight: Any, rows: Any) -> list[loss_lib.Term]:
        return loss_lib.local_terms(self._model, x, y, y_pred, weight, rows, self._training)

    def _losses_of_spread(self, x: Any, y: Any, y_pred: Any, weight: Any) -> list[tf.Tensor]:
        """The losses of each trial, one after the other, as `_losses` has them."""
        count, found = dry_steps.rows_of(x), []
        for number in range(_TRIALS):
            order = [*range(number, count), *range(number)][:: 1 if number % 2 else -1]
            outputs = _spread(y_pred, number)
            parts = (_ordered(part, order) for part in (x, y, outputs, weight))
            found += self._losses(count, *parts)[1]
        return found

    def after(self, turns: Sequence[Rows]) -> list[np.ndarray]:
        """The assigned values after calls on several sets of rows, one after the other."""

        def run() -> list[tf.Tensor]:
            with (scope := _Scope()):
                for rows in turns:
                    few = dry_steps.picked(self._batch, rows)
                    x, y, weight = keras.utils.unpack_x_y_sample_weight(few)
                    y_pred = _keras.forward(self._model, x, training=self._training)
                    if self._with_loss:
                        count = tf.constant(len(rows))
                        self._terms(x, y, y_pred, weight, count)
            return [tf.identity(scope.get_current_value(entry.variable)) for entry in self.assigned]

        return [array_of(value) for value in graphs.computed(run)]

    def losses_cut(self, numbers: Numbers, tolerance: float) -> list[Any]:
        """The losses whose value over all rows is not that of the parts.

        For the model's outputs, where all rows may have nearly the same loss as long as it is not
        trained, and for outputs that are spread.
        """
        size = 2 * len(self.names)
        if not size:
            return []
        trials = [numbers.spread[i : i + 3 * size] for i in range(0, len(numbers.spread), 3 * size)]
        found = []
        for index, name in enumerate(self.names):
            whole, one, other = _of_parts(numbers.losses, size, index)
            parts = [a + b for a, b in zip(one, other, strict=True)]
            spread = [_of_parts(losses, size, index) for losses in trials]
            if not same(whole, parts, tolerance) or any(
                _is_cut(t, self._rows, self._rounding) for t in spread
            ):
                found.append(name)
        return found

    def added_cut(
        self, numbers: Numbers, same_shape: list[Numbers], parts: Halves | None, tolerance: float
    ) -> list[tuple[str, str] | None]:
        """The lines of added losses that are no mean over the rows, or no sum where they are to be."""
        found = []
        for index, line in enumerate(self.scope.lines[: len(numbers.added)]):
            ab, ad, cb, cd = (n.added[index] for n in (numbers, *same_shape))
            is_mean = same([ab + cd], [ad + cb], tolerance)
            if is_mean and parts is not None:
                times = 1 if _keras.is_undivided(self.scope.losses[index]) else 2
                is_mean = same([times * ab], [sum(n.added[index] for n in parts)], tolerance)
            if not is_mean and line not in found:
                found.append(line)
        return found


def _of_parts(losses: list[np.ndarray], size: int, index: int) -> list[list[np.ndarray]]:
    """Numerator and denominator of one loss: of all rows, and of the two parts."""
    return [losses[size * part + 2 * index :][:2] for part in range(3)]


def _first_part(count: int) -> int:
    """How many of ``count`` rows are the first of two unequal parts."""
    return max(count * 2 // 3, 1)


def _is_cut(losses: list[list[np.ndarray]], count: int, rounding: float) -> bool:
    """Whether a loss of outputs that are spread is not that of its parts."""
    whole, one, other = (np.asarray(numerator, "float64") for numerator, _ in losses)
    size, first = abs(whole) + abs(one) + abs(other), _first_part(count)
    variation = abs(one / first - other / (count - first)) * count
    apart = abs(whole - (one + other))
    return bool(apart > rounding * size and apart > _OF_VARIATION * variation)


def _spread(outputs: Any, number: int) -> Any:
    """Random outputs of the same kind, far enough apart for the rows to have different losses.

    Probabilities stay such, and what is nowhere below 0 stays so.
    """
    leaves = enumerate(keras.tree.flatten(outputs))
    spread = [_spread_leaf(leaf, (number, index)) for index, leaf in leaves]
    return keras.tree.pack_sequence_as(outputs, spread)


def _spread_leaf(leaf: Any, seed: tuple[int, int]) -> Any:
    if not isinstance(leaf, tf.Tensor) or not leaf.dtype.is_floating or not leaf.shape.rank:
        return leaf
    values = tf.cast(leaf, tf.float32)
    noise = tf.random.stateless_normal(tf.shape(values), seed)
    moved = values + noise * tf.maximum(tf.math.reduce_std(values), 1.0)
    within = tf.reduce_all((values >= 0) & (values <= 1))
    of_classes = tf.reduce_all(tf.abs(tf.reduce_sum(values, axis=-1) - 1) < _SUM_SLACK)
    shares = tf.where(of_classes, tf.nn.softmax(noise), tf.sigmoid(noise))
    moved = tf.where(tf.reduce_all(values >= 0), tf.abs(moved), moved)
    spread = tf.cast(tf.where(within, shares, moved), leaf.dtype)
    return _with_mask(spread, _keras.get_mask(leaf))


def _ordered(part: Any, order: list[int]) -> Any:
    """The rows in another order, with their masks."""

    def ordered(tensor: Any) -> Any:
        if not isinstance(tensor, tf.Tensor):
            return tensor
        rows, mask = tf.gather(tensor, order), _keras.get_mask(tensor)
        return _with_mask(rows, None if mask is None else tf.gather(mask, order))

    return tf.nest.map_structure(ordered, part)


def _with_mask(tensor: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    if mask is not None:
        _keras.set_mask(tensor, mask)
    return tensor


def array_of(tensor: tf.Tensor) -> np.ndarray:
    """The numbers of a tensor; those of half precision as float32."""
    half = tensor.dtype in (tf.float16, tf.bfloat16)
    return (tf.cast(tensor, tf.float32) if half else tensor).numpy()


def same(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two nested lists of numbers are equal, relative to the largest of each array."""
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        if np.shape(a) != np.shape(b):
            return False
        if np.asarray(a).dtype.kind not in "fiub":
            if not np.array_equal(a, b):
                return False
            continue
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        differs = ~((a == b) | (np.isnan(a) & np.isnan(b)))
        with np.errstate(invalid="ignore"):
            largest = max(np.abs(a).max(initial=0.0), np.abs(b).max(initial=0.0))
            if np.any(differs & ~(np.abs(a - b) <= tolerance * largest)):
                return False
    return True


def _assigned_in_graph(model: keras.Model, function: Any) -> list[Assigned]:
    """The variables and tables of TensorFlow that a traced call changes: Keras's stay in the scope.

    Raises:
        RuntimeError: running the graph would move a random generator of TensorFlow.
    """
    graph = function.graph
    captures = zip(graph.internal_captures, graph.external_captures, strict=True)
    handles = {inside.ref(): outside for inside, outside in captures}
    assigned = []
    for operation in graph.get_operations():
        for tensor in operation.inputs:
            if tensor.dtype != tf.resource or tensor.ref() not in handles:
                continue
            if operation.type.startswith(("Stateful", "Rng")):
                raise RuntimeError("A dry run moves no random generator.")
            if operation.type.startswith(_CHANGING):
                assigned.append(handles[tensor.ref()])
    found = {}
    for layer in _keras.all_layers(model):
        for value in vars(layer).values():
            for one in value if isinstance(value, list | tuple) else [value]:
                if any(handle is other for handle in _handles(one) for other in assigned):
                    found[id(one)] = Assigned(one, None)
    return list(found.values())


def _handles(value: Any) -> list[tf.Tensor]:
    """Those of a variable of TensorFlow's, on each replica, or of a table; else none."""
    if isinstance(value, tf.Variable):
        return [part.handle for part in _keras.local_variables(value)]
    handle = getattr(value, "resource_handle", None)
    return [] if handle is None else [handle]
