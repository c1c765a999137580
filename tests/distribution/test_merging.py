"""A metric over several replicas has the result of one, whatever its state is."""

import contextlib
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import MetricError
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.distribution import merging
from kerastrain.distribution import strategy
from kerastrain.metrics import add_growing_variable
from kerastrain.metrics import EpochMetric
from tests.support import assertions
from tests.support import datasets
from tests.support import models
from tests.support import tiers

X, Y, WEIGHT = datasets.regression(rows=11)  # batches of 4, 4 and 3: no half of 3
CUTS = [(None, 3), ("mirrored:2", 1), ("mirrored:4", 2)]
CUTS_AND_ENTRY_POINTS = tiers.cases(
    itertools.product(CUTS, ["trainer", "fit"]),
    [(CUTS[1], "trainer")],
)


@keras.saving.register_keras_serializable("tests")
class Extremes(keras.metrics.Metric):
    """The largest and the smallest output, and how many there were."""

    merge_rules = {"highest": "max", "lowest": "min"}

    def __init__(self, name="extremes", **kwargs):
        super().__init__(name=name, **kwargs)
        self.highest = self.add_variable((), "zeros", name="highest")
        self.lowest = self.add_variable((), "zeros", name="lowest")
        self.count = self.add_variable((), "zeros", name="count")
        self.reset_state()

    def reset_state(self):
        self.highest.assign(-1e9)
        self.lowest.assign(1e9)
        self.count.assign(0)

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.highest.assign(keras.ops.maximum(self.highest, keras.ops.max(y_pred)))
        self.lowest.assign(keras.ops.minimum(self.lowest, keras.ops.min(y_pred)))
        self.count.assign_add(keras.ops.cast(keras.ops.size(y_pred), "float32"))

    def result(self):
        return {"highest": self.highest, "lowest": self.lowest, "count": self.count}


class Undeclared(Extremes):
    """The same without its rules: Keras's sums."""

    merge_rules = {}


@keras.saving.register_keras_serializable("tests")
def exact_auc(y_true, y_pred, sample_weight):
    """The share of pairs of a positive and a negative row in the right order."""
    positive, score = y_true > 0, y_pred
    above = keras.ops.cast(score[:, None] > score[None, :], "float32")
    ties = keras.ops.cast(keras.ops.equal(score[:, None], score[None, :]), "float32")
    pairs = keras.ops.cast(positive[:, None] & ~positive[None, :], "float32")
    pairs = pairs * sample_weight[:, None] * sample_weight[None, :]
    return keras.ops.sum((above + 0.5 * ties) * pairs) / keras.ops.sum(pairs)


def moments(rows):
    """``[n, means, co-moments]`` of rows ``(n, d)``, from NumPy's means."""
    mean = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
    return np.concatenate([[len(rows)], mean, ((rows - mean).T @ (rows - mean)).ravel()])


def trained(cut, metric, entry_point="trainer", outputs=2, weighted=False, callbacks=None):
    """Trains two epochs with the cut, ``metric()`` made by the strategy; the history."""
    where, micro_batches = cut
    keras.utils.set_random_seed(3)
    arguments = {"loss": "mse", "weighted_metrics" if weighted else "metrics": [metric]}
    fit = {
        "x": X, "y": Y[:, :outputs], "batch_size": 4, "epochs": 2, "shuffle": False,
        "sample_weight": WEIGHT if weighted else None, "callbacks": callbacks,
        "validation_data": (X[:5], Y[:5, :outputs]), "verbose": 0,
    }  # fmt: skip
    scope = strategy.resolve(where)
    with scope.scope() if scope else contextlib.nullcontext():
        arguments = {k: v if k == "loss" else [m() for m in v] for k, v in arguments.items()}
        model = models.mlp(TrainableModel if entry_point == "fit" else keras.Model, outputs=outputs)
        if entry_point == "fit":
            model.compile(keras.optimizers.SGD(0.1), **arguments, micro_batches=micro_batches)
    if entry_point == "trainer":
        model = Trainer(
            model,
            optimizer=keras.optimizers.SGD(0.1),
            strategy=scope,
            micro_batches=micro_batches,
            **arguments,
        )
    return model.fit(**fit).history


@pytest.mark.parametrize("cut, entry_point", CUTS_AND_ENTRY_POINTS, ids=str)
def test_declared_rules(cut, entry_point):
    """A maximum, a minimum and a count are those of all rows, in each epoch and validation."""
    whole = trained((None, 1), Extremes)
    assertions.assert_close_histories(whole, trained(cut, Extremes, entry_point))
    assert 22.0 == whole["count"][0] and whole["highest"][0] > whole["lowest"][0]


@pytest.mark.slow
def test_undeclared_rules_are_sums():
    """Without the rules the maxima of two replicas are added: the test above can fail."""
    whole, cut = trained((None, 1), Undeclared), trained(("mirrored:2", 1), Undeclared)
    assert abs(whole["highest"][0] - cut["highest"][0]) > 0.1


@pytest.mark.parametrize("cut, entry_point", CUTS_AND_ENTRY_POINTS, ids=str)
def test_all_rows_at_once(cut, entry_point):
    """A metric of all rows, with zero weights, is that of one device."""
    make = lambda: EpochMetric(exact_auc)
    whole = trained((None, 1), make, outputs=1, weighted=True)
    assertions.assert_close_histories(
        whole, trained(cut, make, entry_point, outputs=1, weighted=True)
    )


def test_epoch_metric_is_exact():
    """The exact area under the curve, which Keras's AUC only approximates."""
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.integers(0, 2, 40), rng.integers(0, 15, 40) / 15.0
    metric = EpochMetric(exact_auc)
    for start in range(0, 40, 7):
        metric.update_state(y_true[start : start + 7, None], y_pred[start : start + 7, None])
    above = y_pred[y_true == 1][:, None] - y_pred[y_true == 0][None, :]
    expected = np.mean((above > 0) + 0.5 * (above == 0))
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)
    copied = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (exact_auc, ()) == (copied.function, copied.shape)
    metric.reset_state()
    assert [0, 0, 0] == [len(v.numpy()) for v in metric.variables]


@pytest.mark.slow
@pytest.mark.parametrize("entry_point", ["trainer", "fit"])
def test_running_results_of_batches(entry_point):
    """What callbacks see after each batch is the result over all replicas, not a mean of them."""

    class Noted(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.logs = []

        def on_train_batch_end(self, batch, logs=None):
            self.logs.append({k: float(v) for k, v in logs.items()})

    def running(cut):
        noted = Noted()
        auc = lambda: keras.metrics.AUC(20, from_logits=True, name="auc")
        trained(cut, auc, entry_point, outputs=1, callbacks=[noted])
        return noted.logs

    keras.utils.set_random_seed(3)
    for one, two in zip(running((None, 1)), running(("mirrored:2", 1)), strict=True):
        assert one == pytest.approx(two, abs=1e-6)


class TestRules:
    def test_unknown_variable(self):
        """A rule for a variable that is not there names those that are."""
        with pytest.raises(MetricError, match="'peak'.*'total', 'count'"):
            merging.declare(keras.metrics.Mean(), peak="max")

    def test_unknown_rule(self):
        """A rule that does not exist names those that do."""
        with pytest.raises(MetricError, match="'median'.*'concat'"):
            merging.declare(keras.metrics.Mean(), total="median")

    def test_wrong_rules_stop_fit(self):
        """Rules of a class are checked before a weight changes."""

        class Wrong(Extremes):
            merge_rules = {"peak": "max"}

        model = models.mlp()
        before = model.get_weights()
        trainer = Trainer(model, optimizer="sgd", loss="mse", metrics=[Wrong()])
        with pytest.raises(MetricError, match="'peak'"):
            trainer.fit(X, Y, verbose=0)
        np.testing.assert_equal(before, model.get_weights())

    @pytest.mark.parametrize("rule", merging.RULES)
    def test_spread_is_the_inverse_of_merge(self, rule):
        """What a reset spreads over replicas merges to the value again."""
        value = tf.constant([[3.0, -1.0, 4.0], [0.5, 2.0, 1.0]])
        merged = merging.merge(rule, merging.spread(rule, value, 3))
        np.testing.assert_array_equal(value, merged)

    @pytest.mark.parametrize("rule", merging.RULES)
    def test_merge_is_associative(self, rule):
        """However replicas are grouped, the merged state is the same."""
        a, b, c = (tf.constant([float(i), -float(i), 2.0 * i]) for i in (1, 3, 4))
        left = merging.merge(rule, [merging.merge(rule, [a, b]), c])
        right = merging.merge(rule, [a, merging.merge(rule, [b, c])])
        np.testing.assert_allclose(left, right, rtol=1e-6 if rule == "moments" else 0)

    @pytest.mark.parametrize("d", [1, 2, 3])
    def test_merged_moments_are_those_of_all_rows(self, d):
        """Counts, means and co-moments of unequal parts merge to NumPy's, beside a large mean."""
        rows = 1e6 + np.random.default_rng(0).normal(size=(11, d))
        parts = [moments(rows[a:b]) for a, b in ((0, 4), (4, 4), (4, 5), (5, 11))]
        np.testing.assert_allclose(
            moments(rows), merging.merge("moments", parts), rtol=1e-12, atol=1e-8
        )

    def test_no_rows_are_the_identity_of_moments(self):
        """Moments of no rows, zeros, change nothing at either side, to the last bit."""
        some = tf.constant(moments(np.array([[0.1, 1e9], [0.3, -7.0]])))
        for parts in ([some, tf.zeros_like(some)], [tf.zeros_like(some), some]):
            np.testing.assert_array_equal(some, merging.merge("moments", parts))

    def test_moments_of_each_output(self):
        """Axes before the last are merged one by one."""
        a, b = np.random.default_rng(0).normal(size=(2, 3, 5, 1))
        merged = merging.merge("moments", [[moments(x) for x in a], [moments(x) for x in b]])
        expected = [moments(np.concatenate(pair)) for pair in zip(a, b, strict=True)]
        np.testing.assert_allclose(expected, merged, rtol=1e-12)

    def test_moments_of_another_size(self):
        """A last axis that cannot hold moments is refused with its shape."""
        for size in (1, 2, 4, 6):
            with pytest.raises(MetricError, match=rf"3, 7, 13.*\({size},\)"):
                merging.merge("moments", [tf.ones(size), tf.ones(size)])

    def test_growing_variable(self):
        """It takes any number of rows, and none after a reset."""
        metric = keras.metrics.Mean()
        grown = add_growing_variable(metric, (2,), name="rows")
        grown.assign(np.ones((3, 2)))
        grown.assign(np.zeros((5, 2)))
        assert (5, 2) == grown.numpy().shape
