"""`check_equivalence` passes what is exact, and names the first step and variable that are not."""

import dataclasses
import math
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ArgumentError
from kerastrain import DataError
from kerastrain import KerastrainError
from kerastrain import ModelError
from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import UnsupportedTypeError
from kerastrain.testing import check_equivalence
from kerastrain.testing import Equivalence
from kerastrain.testing import NotEquivalent
from kerastrain.testing.differences import difference
from kerastrain.testing.differences import pairs
from kerastrain.testing.differences import Value
from kerastrain.testing.equivalence import choose_batch_sizes
from tests.support import datasets
from tests.support import models
from tests.support import tiers

X, Y, WEIGHT = datasets.regression(19)
# Batches of 8, 8 and 3 rows, on two replicas or in two micro-batches.
TWO = {"replicas": (2,), "micro_batches": (1,), "batch_sizes": (8,), "epochs": 1}
HALVES = {"replicas": (1,), "micro_batches": (2,), "batch_sizes": (8,), "epochs": 1}
AT_ONCE, IN_THE_LAST = (1, 1, 8), (1, 3, 3)
layers, ops = keras.layers, keras.ops


def built(*extra, make=keras.Model, optimizer="sgd", loss="mse", metrics=("mae",), **others):
    """A ``model_fn``: two dense layers, with what ``extra`` makes between them."""

    def build():
        inputs = keras.Input((4,))
        hidden = layers.Dense(6, activation="tanh", name="hidden")(inputs)
        for layer in extra:
            hidden = layer()(hidden)
        model = make(inputs, layers.Dense(2, name="out")(hidden))
        model.compile(
            keras.optimizers.get(optimizer), loss,
            metrics=[m() if isinstance(m, type) else m for m in metrics], **others,
        )  # fmt: skip
        return model

    return build


def failure(*args, **kwargs):
    """The report of a check that must fail."""
    with pytest.raises(NotEquivalent) as caught:
        check_equivalence(*args, **kwargs)
    assert str(caught.value) == str(caught.value.report)
    return caught.value.report


def first(report):
    """Where the only cut first differs: ``(epoch, batch, rows, variable)``."""
    (result,) = report.results
    return result.first.epoch, result.first.batch, result.first.rows, result.first.variable


# What is planted ----------------------------------------------------------------


class AddsSum(layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * ops.sum(ops.square(x)))
        return x


class Counts(layers.Layer):
    def __init__(self, numbers="float32", **kwargs):
        super().__init__(**kwargs)
        self.numbers = numbers

    def build(self, shape):
        self.calls = self.add_weight(
            shape=(), initializer="zeros", dtype=self.numbers, trainable=False, name="calls"
        )

    def call(self, x):
        self.calls.assign_add(1)
        return x


class SumOfSquares(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.sum(ops.square(y - y_pred))


class OwnStep(keras.Model):
    """The usual hand-written step: the gradients of replicas are summed, the loss is a mean."""

    def replicas(self):
        return 1

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = ops.mean(ops.square(y - y_pred)) / self.replicas()
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        return self.compute_metrics(x, y, y_pred)


class DividedStep(OwnStep):
    """Right for equal shares, as most guides have it."""

    def replicas(self):
        return tf.distribute.get_strategy().num_replicas_in_sync


class BatchMeans(keras.metrics.Metric):
    """A mean of batch means."""

    def __init__(self, name="batch_means", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", name="total")
        self.batches = self.add_variable((), "zeros", name="batches")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(ops.mean(ops.abs(y_true - y_pred)))
        self.batches.assign_add(1.0)

    def result(self):
        return self.total / self.batches


class Largest(keras.metrics.Metric):
    """A maximum that declares no merge rule."""

    def __init__(self, name="largest", **kwargs):
        super().__init__(name=name, **kwargs)
        self.peak = self.add_variable((), "zeros", name="peak")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.peak.assign(ops.maximum(self.peak, ops.max(ops.abs(y_pred))))

    def result(self):
        return self.peak


class Rows(keras.metrics.Metric):
    """Counts rows; undefined until there are more than 8."""

    def __init__(self, name="rows", enough=8, **kwargs):
        super().__init__(name=name, **kwargs)
        self.enough = enough
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(ops.cast(ops.shape(y_true)[0], "float32"))

    def result(self):
        return ops.where(self.count > self.enough, self.count, math.nan)


class Subclassed(keras.Model):
    """Not built before its first call, and without a configuration to rebuild it from."""

    def __init__(self, nothing):
        super().__init__()
        self.hidden, self.out = layers.Dense(5, activation="tanh"), layers.Dense(2)

    def call(self, x):
        return self.out(self.hidden(x))


class SubclassedWithOwnStep(Subclassed):
    replicas, train_step = OwnStep.replicas, OwnStep.train_step


def subclassed(make=Subclassed):
    model = make(object())
    model.compile("adam", "mse", metrics=["mae"])
    return model


# What is exact passes -------------------------------------------------------------


def two_outputs():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    hidden = layers.Dense(6, activation="tanh")(inputs["a"] + inputs["b"])
    outputs = {name: layers.Dense(2, name=name)(hidden) for name in ("p", "q")}
    model = keras.Model(inputs, outputs)
    model.compile("adam", {"p": "mse", "q": "mae"}, loss_weights={"p": 0.3, "q": 2.0})
    return model


def classifier():
    model = models.mlp(outputs=3)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    return model


EXACT = {
    "functional": (
        built(optimizer="adam"), (X, Y, WEIGHT), {"micro_batches": (1, 2), "epochs": 2}
    ),
    "TrainableModel": (built(make=TrainableModel, clipnorm=0.1, micro_batches=3), (X, Y), {}),
    "clipping": (built(), (X, Y), {"step": StepOptions(global_clipnorm=0.1)}),
    "subclassed": (subclassed, (X, Y), {}),
    "dicts": (
        two_outputs,
        ({"a": X, "b": X[::-1]}, {"p": Y, "q": -Y}, {"p": WEIGHT, "q": WEIGHT[::-1]}),
        {},
    ),
    "class weights": (classifier, datasets.classes(19), {"class_weight": {0: 0.5, 1: 2.0, 2: 0.0}}),
    "x alone": (built(lambda: layers.ActivityRegularization(0.1), loss=None, metrics=()), X, {}),
    "synchronised": (
        built(lambda: layers.BatchNormalization(synchronized=True)),
        (X, Y),
        {"micro_batches": (1,)},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("name", EXACT)
def test_exact_models_pass(name):
    """Models that kerastrain trains exactly pass, with a ragged last batch too."""
    build, data, options = EXACT[name]
    report = check_equivalence(
        build, data, **{"batch_sizes": (8,), "micro_batches": (2,), "epochs": 1, **options}
    )
    assert report.passed
    assert {r.steps for r in report.results} == {3 * options.get("epochs", 1)}
    assert all(r.first is None and r.weights <= 1e-6 for r in report.results)


@pytest.mark.parametrize(
    "replicas, parts", [((1, 1), (2, 1, 2)), tiers.slow((2, 1, 2), (1,))], ids=str
)
def test_every_cut_is_run_once(replicas, parts):
    """Each batch size is cut by all combinations but that of the reference."""
    cut = {"replicas": replicas, "micro_batches": parts}
    report = check_equivalence(built(), (X, Y), **cut, batch_sizes=(8, 19, 8), epochs=1)
    cuts = [(r.replicas, r.micro_batches, r.batch_size, r.steps) for r in report.results]
    assert cuts == [(max(replicas), max(parts), 8, 3), (max(replicas), max(parts), 19, 1)]
    head, _, columns, *rows = str(report).splitlines()
    assert "trains the same" in head and "1e-06" in head
    assert columns.split()[:4] == ["replicas", "micro-batches", "batch", "size"]
    assert [tuple(map(int, row.split()[:4])) for row in rows] == cuts


def test_runs_start_from_the_same_weights():
    """A `model_fn` that draws other initial weights in each call is no difference."""
    calls = []

    def build():
        calls.append(1)
        keras.utils.set_random_seed(len(calls))
        return built()()

    assert check_equivalence(build, (X, Y), micro_batches=(1,)).passed
    assert len(calls) == 2


@pytest.mark.slow
def test_names_that_keras_numbers_are_matched():
    """Two metrics and two outputs without names are compared with their like."""

    def build():
        inputs = keras.Input((4,))
        model = keras.Model(inputs, [layers.Dense(2)(inputs), layers.Dense(2)(inputs)])
        errors = [[keras.metrics.RootMeanSquaredError()], [keras.metrics.RootMeanSquaredError()]]
        model.compile("sgd", ["mse", "mae"], metrics=errors)
        return model

    names = [set(build().fit(X, [Y, Y], verbose=0).history) for _ in range(2)]
    assert len(names[0] & names[1]) < len(names[0]) == 5  # or this would test nothing
    assert check_equivalence(build, (X, [Y, 2 * Y]), replicas=(1,), epochs=1).passed


@pytest.mark.slow
def test_a_metric_may_be_undefined_for_a_while():
    """NaN of a metric in the first steps is compared with NaN."""
    report = check_equivalence(built(metrics=(Rows,)), (X, Y), **HALVES)
    assert report.passed


# What is planted is found ---------------------------------------------------------

PLANTED = {
    "batch norm": (
        built(lambda: layers.BatchNormalization(name="norm")), TWO, AT_ONCE, "hidden/kernel",
        ["BatchNormalization 'norm'", "synchronized=True"],
    ),
    "batch norm in micro-batches": (
        built(lambda: layers.BatchNormalization(synchronized=True, name="norm")), HALVES, AT_ONCE,
        "hidden/kernel", ["BatchNormalization 'norm'", "one micro-batch at a time"],
    ),
    "dropout": (
        built(lambda: layers.Dropout(0.5, name="drop")), HALVES, AT_ONCE, "hidden/kernel",
        ["Dropout 'drop'", "random numbers"],
    ),
    "noise": (
        built(lambda: layers.GaussianNoise(0.5, name="noise")), TWO, AT_ONCE, "hidden/kernel",
        ["GaussianNoise 'noise'"],
    ),
    "add_loss": (
        built(lambda: AddsSum(name="adds")), HALVES, AT_ONCE, "hidden/kernel",
        ["`add_loss` in 'adds'", "mean over the rows"],
    ),
    "compute_loss": (
        built(make=SumOfSquares, loss=None, metrics=()), HALVES, AT_ONCE, "hidden/kernel",
        ["`compute_loss` of SumOfSquares", "mean over the rows"],
    ),
    "train_step": (
        built(make=OwnStep), TWO, AT_ONCE, "hidden/kernel", ["`train_step` of OwnStep"],
    ),
    "train_step, unbuilt": (
        lambda: subclassed(SubclassedWithOwnStep), TWO, AT_ONCE, None,
        ["`train_step` of SubclassedWithOwnStep"],
    ),
    "train_step, ragged": (
        built(make=DividedStep), TWO, IN_THE_LAST, "hidden/kernel", ["`train_step` of DividedStep"],
    ),
    "batch means, ragged": (
        built(metrics=(BatchMeans, "mae")), TWO, IN_THE_LAST, "batch_means",
        ["Logged 'batch_means'", "sum values and count rows"],
    ),
    "maximum": (
        built(metrics=("mae", Largest)), TWO, AT_ONCE, "largest",
        ["Logged 'largest'", "merge_rules"],
    ),
    "layer state": (
        built(lambda: Counts(name="counts")), HALVES, AT_ONCE, "counts/calls",
        ["weights 'counts/calls'", "a layer assigns them"],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*train_step.*", "ignore:The step of.*")
@pytest.mark.parametrize(
    "name",
    tiers.without(
        PLANTED,
        [
            "batch norm",
            "train_step, unbuilt",
            "noise",
            "train_step, ragged",
            "dropout",
            "compute_loss",
            "batch means, ragged",
            "batch norm in micro-batches",
            "add_loss",
            "layer state",
        ],
    ),
)
def test_planted_faults_are_named(name):
    """The first step, the first variable that differs, and the cause in the model."""
    build, cut, where, variable, causes = PLANTED[name]
    report = failure(build, (X, Y), **cut)
    assert first(report)[:3] == where
    assert variable in (None, first(report)[3])
    assert len(report.causes) == 1
    assert all(part in report.causes[0] for part in causes), report.causes


@pytest.mark.slow
def test_the_innocent_are_not_named():
    """Layers that are exact here are no cause: synchronised, frozen, or without dropout."""
    build = built(
        lambda: layers.BatchNormalization(synchronized=True),
        lambda: layers.BatchNormalization(trainable=False),
        lambda: layers.Reshape((6, 1)),
        lambda: layers.SimpleRNN(4, unroll=True),
        lambda: layers.Dropout(0.0),
        metrics=(BatchMeans,),
    )
    report = failure(build, (X, Y), tolerance=1e-5, **TWO)
    assert first(report) == (*IN_THE_LAST, "batch_means")
    assert ["Logged 'batch_means'" in cause for cause in report.causes] == [True]


@pytest.mark.parametrize("itself", [tiers.slow(True), False])
def test_who_adds_a_loss(itself):
    """The layer that calls `add_loss` is named, or the model if that does."""

    class Penalised(Subclassed):
        def __init__(self):
            super().__init__(None)
            self.adds = None if itself else AddsSum(name="adds")

        def call(self, x):
            hidden = self.hidden(x)
            if itself:
                self.add_loss(0.1 * ops.sum(ops.square(hidden)))
            return self.out(hidden if itself else self.adds(hidden))

    def build():
        model = Penalised()
        model.compile("sgd", "mse")
        return model

    (cause,) = failure(build, (X, Y), **HALVES).causes
    assert cause.startswith(f"`add_loss` in '{'penalised' if itself else 'adds'}':")


@pytest.mark.slow
def test_scalar_losses_with_weights():
    """A loss that returns one number, and sample weights, are named together."""

    def mean_error(y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred))

    report = failure(built(loss=mean_error), (X, Y, WEIGHT), **TWO)
    assert first(report) == (*AT_ONCE, "hidden/kernel")
    assert ["The loss 'mean_error', with" in cause for cause in report.causes] == [True]
    assert check_equivalence(built(loss=mean_error), (X, Y), **TWO).passed


@pytest.mark.slow
def test_class_weights_reach_the_loss():
    """A loss that returns one number is exact without class weights, and not with them."""

    def build():
        model = classifier()
        cross = keras.losses.sparse_categorical_crossentropy
        model.compile("sgd", lambda y, p: ops.mean(cross(y, p, from_logits=True)))
        return model

    data = datasets.classes(19)
    assert check_equivalence(build, data, **TWO).passed
    report = failure(build, data, class_weight={0: 0.5, 1: 2.0, 2: 0.0}, **TWO)
    assert first(report)[:3] == AT_ONCE


def test_integers_know_no_tolerance():
    """A weight of whole numbers that differs by one differs."""
    report = failure(built(lambda: Counts("int32", name="counts")), (X, Y), tolerance=2.0, **HALVES)
    assert first(report) == (*AT_ONCE, "counts/calls")
    assert (report.results[0].first.reference, report.results[0].first.value) == (1.0, 2.0)


@pytest.mark.slow
def test_rounding_is_said_to_be_rounding():
    """A tolerance below float32 fails, and the message says why."""
    report = failure(built(optimizer="adam"), (X, Y), tolerance=1e-9, **TWO)
    assert ["Rounding" in cause for cause in report.causes] == [True]


@pytest.mark.slow
def test_one_error_for_all_cuts():
    """All cuts run; the message has a row for each that fails, and names those that agree."""
    report = failure(built(metrics=(BatchMeans,)), (X, Y), replicas=(1, 2), batch_sizes=(8,))
    assert [r.passed for r in report.results] == [True, False, False]
    lines = str(report).splitlines()
    assert "2 of 3 cuts differ by more than 1e-06" in lines[0]
    rows = [line.split() for line in lines if "batch_means" in line and "epoch" in line]
    assert [row[:3] for row in rows] == [["2", "1", "8"], ["2", "2", "8"]]
    d = report.results[1].first
    assert rows[0][-3:] == [f"{d.difference:.1e}", f"{d.reference:.6g}", f"{d.value:.6g}"]
    assert "These agree (replicas, micro-batches, batch size): (1, 2, 8)." in lines
    assert isinstance(report, Equivalence) and not report.passed


class FewUpdates(keras.metrics.Metric):
    """A number until its second update, which comes with the first step of two replicas."""

    def __init__(self, name="few_updates"):
        super().__init__(name=name)
        self.updates = self.add_variable((), "zeros", name="updates")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.updates.assign_add(1.0)

    def result(self):
        return ops.sqrt(1.5 - self.updates)


@pytest.mark.slow
def test_nan_on_one_side_is_a_difference():
    """A number on one device that is NaN on two replicas differs by infinity."""
    report = failure(built(metrics=(FewUpdates,)), (X[:9], Y[:9]), **{**TWO, "batch_sizes": (8,)})
    (result,) = report.results
    assert first(report) == (1, 1, 8, "few_updates")
    assert result.first.difference == math.inf and math.isnan(result.first.value)
    assert result.weights <= 1e-6 and result.logs == math.inf


@pytest.mark.slow
def test_logs_of_other_names_are_a_difference():
    """A value that is logged by one run only is missing in the other."""

    class Logs(DividedStep):
        def train_step(self, data):
            logs = super().train_step(data)
            return logs if self.replicas() == 1 else {**logs, "more": logs["loss"]}

    with pytest.warns(UserWarning):
        report = failure(built(make=Logs), (X[:8], Y[:8]), **TWO)
    assert first(report) == (*AT_ONCE, "more")
    assert (report.results[0].first.reference, report.results[0].first.difference) == (
        "missing",
        math.inf,
    )


# The arithmetic -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([0.5, 0.25], [0.5, 0.75], 0.5),
        ([100.0, 2.0], [100.0, 1.0], 0.01),
        ([math.nan, math.inf], [math.nan, math.inf], 0.0),
        ([math.inf], [-math.inf], math.inf),
        ([1.0], [math.nan], math.inf),
        ([[1.0]], [1.0], math.inf),
        ([], [], 0.0),
        ("a", "b", math.inf),
    ],
)
def test_difference(one, other, expected):
    """Absolute below 1, relative to the largest magnitude above, infinite for one NaN."""
    values = [Value("logs", "v", [np.asarray(v)]) for v in (one, other)]
    assert difference(*values)[0] == expected


def test_logs_are_paired_by_number():
    """The order of Keras's numbers counts, not that of the names; what is left over is missing."""
    named = [["loss", "out_9_auc", "out_10_auc"], ["loss", "more", "out_10_auc", "out_11_auc"]]
    steps = [[Value("logs", name, [np.zeros(())]) for name in names] for names in named]
    is_there = lambda value: value.parts[0].dtype.kind == "f"
    shown = [tuple(v.name if is_there(v) else "" for v in pair) for pair in pairs(*steps)]
    assert shown == [
        ("loss", "loss"), ("out_9_auc", "out_10_auc"), ("out_10_auc", "out_11_auc"), ("", "more")
    ]  # fmt: skip


def test_every_replica_is_compared():
    """The copy of a variable that differs most counts; integers are not scaled."""
    reference = Value("weights", "w", [np.array([1000, 2000])])
    found = Value("weights", "w", [np.array([1000, 2000]), np.array([1000, 2003])])
    assert difference(reference, found) == (3.0, 2000.0, 2003.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_floating(dtype):
    """The tolerance holds for numbers of half precision too."""
    a = tf.constant([1.0, 2.0], dtype).numpy()
    assert difference(Value("weights", "w", [a]), Value("weights", "w", [a * 2]))[0] == 1.0


@pytest.mark.parametrize("rows", [3, 5, 9, 11, 16, 33, 64, 100, 1797])
@pytest.mark.parametrize(("replicas", "parts"), [((1, 2), (1, 2)), ((2,), (3,)), ((1,), (1, 2))])
def test_chosen_batch_sizes(rows, replicas, parts):
    """A ragged batch always; from 9 rows on unequal shares, and a part without rows."""
    sizes = choose_batch_sizes(rows, replicas, parts)
    assert 1 <= len(sizes) <= 2 and all(1 <= size <= 64 for size in sizes)
    assert any(rows % size for size in sizes)
    batches = {size for size in sizes} | {rows % size for size in sizes} - {0}
    most = max(max(replicas), max(parts) if max(replicas) == 1 else 0)
    if rows >= 9:
        assert any(batch > most and batch % most for batch in batches)
        assert any(batch < most for batch in batches)


@pytest.mark.parametrize("rows", [1, tiers.slow(2)])
def test_few_rows_are_cut_as_well(rows):
    """One row is one batch."""
    assert choose_batch_sizes(rows, (1, 2), (1,)) == (1,)
    assert check_equivalence(built(), (X[:rows], Y[:rows]), micro_batches=(1,), epochs=1).passed


# Errors ---------------------------------------------------------------------------


def uncompiled():
    return keras.Sequential([layers.Dense(2)])


ONE_MODEL = []


def same_model():
    if not ONE_MODEL:
        ONE_MODEL.append(built()())
    return ONE_MODEL[0]


def same_optimizer(optimizer=[]):
    optimizer = optimizer or optimizer.append(keras.optimizers.SGD()) or optimizer
    model = uncompiled()
    model.compile(optimizer[0], "mse")
    return model


def same_layer(layer=[]):
    if not layer:
        layer.append(layers.Dense(2, name="shared"))
        layer[0].build((None, 4))
    model = keras.Sequential([keras.Input((4,)), layer[0]])
    model.compile("sgd", "mse")
    return model


def other_shapes(calls=[]):
    calls.append(1)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(len(calls)), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"replicas": ()}, "`replicas`"),
        ({"replicas": 2}, "replicas=2"),
        ({"replicas": (1, 0)}, "replicas=(1, 0)"),
        ({"micro_batches": (1.5,)}, "micro_batches=(1.5,)"),
        ({"batch_sizes": (0,)}, "batch_sizes=(0,)"),
        ({"batch_sizes": ()}, "batch_sizes=()"),
        ({"replicas": (1,), "micro_batches": (1,)}, "nothing to compare"),
        ({"epochs": 0}, "epochs=0"),
        ({"tolerance": -1.0}, "tolerance=-1.0"),
        ({"tolerance": math.nan}, "tolerance=nan"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": None}, "seed=None"),
        ({"model_fn": 3}, "model_fn=3"),
        ({"model_fn": uncompiled}, "an uncompiled Sequential"),
        ({"model_fn": lambda: None}, "It returned: None"),
        ({"model_fn": same_model}, "same model"),
        ({"model_fn": same_optimizer}, "same optimizer"),
        ({"model_fn": same_layer}, "same weights ['shared/kernel', 'shared/bias']"),
        tiers.slow({"model_fn": other_shapes}, "different weights"),
        ({"model_fn": built(make=OwnStep)}, "micro_batches=(1,)"),
    ],
)
def test_argument_errors(change, named):
    """Each names the argument, the value received and what works."""
    arguments = {"model_fn": built(), "data": (X, Y), "replicas": (1,), **change}
    with pytest.raises(ArgumentError) as caught:
        check_equivalence(arguments.pop("model_fn"), arguments.pop("data"), **arguments)
    assert named in str(caught.value)
    assert "Received" in str(caught.value) or "It returned" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "error", "named"),
    [
        ((X[:0], Y[:0]), DataError, "no rows"),
        ((X, Y[:3]), DataError, "different lengths"),
        (tf.data.Dataset.from_tensor_slices((X, Y)), UnsupportedTypeError, "must be arrays"),
    ],
)
def test_data_errors(data, error, named):
    """Data that cannot be cut, or compared, are refused before any model is made."""
    with pytest.raises(error, match=named):
        check_equivalence(lambda: pytest.fail("was made"), data)


def test_nan_in_the_reference():
    """A reference that diverges is an error that says where, not a difference."""
    x = X.copy()
    x[9] = math.nan
    with pytest.raises(ModelError, match="'hidden/kernel' is NaN after epoch 1, batch 2") as caught:
        check_equivalence(built(), (x, Y), **TWO)
    assert "nothing to compare with" in str(caught.value)
    with pytest.raises(ModelError, match=r"\['rows'\] are NaN after every step"):
        check_equivalence(built(metrics=(lambda *_: 1.0, Rows)), (X[:8], Y[:8]), **TWO)


@pytest.mark.slow
def test_errors_in_a_cut_say_in_which():
    """An error of the trainer keeps its type, with the cut in a note."""
    build = built(make=TrainableModel, loss=lambda y, p: ops.reshape(y - p, (16,)))
    with pytest.raises((KerastrainError, ValueError, tf.errors.OpError)) as caught:
        check_equivalence(build, (X[:8], Y[:8]), **HALVES)
    assert "replicas=1, micro_batches=2, batch_size=8" in "".join(caught.value.__notes__)


def test_too_few_devices():
    """When TensorFlow has started, the error has the lines to put into conftest.py."""
    with pytest.raises(ArgumentError) as caught:
        check_equivalence(built(), (X, Y), replicas=(1, 5))
    message = str(caught.value)
    assert "5 replicas need 5 devices; TensorFlow has started with 4" in message
    assert "conftest.py" in message
    lines = [line[4:] for line in message.split("\n\n", 1)[1].splitlines()]
    with pytest.raises(RuntimeError, match="after being initialized"):
        exec(compile("\n".join(lines), "<lines>", "exec"), {})  # they run, if only too late here


@pytest.mark.process
def test_makes_devices_where_there_are_none():
    """In a new process the logical devices are made."""
    code = """
import keras, numpy, tensorflow
from kerastrain.testing import check_equivalence

def build():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model

x = numpy.arange(22.0).reshape(11, 2) / 22
report = check_equivalence(build, (x, x[:, 0]), replicas=(1, 3), micro_batches=(1,), epochs=1)
print(len(tensorflow.config.list_logical_devices("CPU")), report.passed)
"""
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=900
    )
    assert done.stdout.split() == ["3", "True"], done.stderr[-2000:]


def test_reports_cannot_be_changed():
    """A report is frozen, as are its parts."""
    report = Equivalence("Functional", 1e-6, results=())
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.tolerance = 1.0
