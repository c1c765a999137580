"""Metrics of parts of the batch: the numbers by hand, and what cannot be found."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import MetricError
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.metrics import Bind
from kerastrain.metrics import R2Score
from tests.support import tiers

RANDOM = np.random.default_rng(0)
ROWS = 27


def numbers(*shape):
    return RANDOM.normal(size=(ROWS, *shape)).astype("float32")


X = {"image": numbers(4), "before": numbers(2)}
Y = {"heads": {"mask": numbers(1), "kind": numbers(2)}, "weight": abs(numbers())}


class Heads(keras.Model):
    """Two outputs below another key than the loss of Keras could take."""

    def __init__(self):
        super().__init__()
        self.mask, self.kind = keras.layers.Dense(1), keras.layers.Dense(2)

    def call(self, x):
        return {"heads": {"mask": self.mask(x["image"]), "kind": self.kind(x["image"])}}

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        pairs = ((y["heads"][name], y_pred["heads"][name]) for name in ("mask", "kind"))
        return sum(keras.ops.mean((true - pred) ** 2) for true, pred in pairs)


class OwnStep(Heads):
    """The same by a step of its own."""

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight)
        weights = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, weights), weights)
        self._loss_tracker.update_state(loss, sample_weight=keras.ops.shape(x["image"])[0])
        return self.compute_metrics(x, y, y_pred, sample_weight)


def bound():
    return [
        Bind(
            "mae", y_true="heads.mask", y_pred="heads.mask", sample_weight="y.weight", name="mask"
        ),
        Bind(keras.metrics.MeanSquaredError(name="moved"), y_true="x.before", y_pred="heads.kind"),
        Bind(R2Score(outputs=2), y_true=("heads", "kind"), y_pred=["heads", "kind"], name="fits"),
    ]


def expected(model):
    """The results by NumPy."""
    pred = {name: np.asarray(value) for name, value in model(X)["heads"].items()}
    true, weight = Y["heads"], Y["weight"]
    residual = ((true["kind"] - pred["kind"]) ** 2).sum(0)
    total = ((true["kind"] - true["kind"].mean(0)) ** 2).sum(0)
    return {
        "mask": (abs(pred["mask"] - true["mask"])[:, 0] * weight).sum() / weight.sum(),
        "moved": ((pred["kind"] - X["before"]) ** 2).mean(),
        "fits": (1 - residual / total).mean(),
    }


HOW = {
    "whole": (Heads, {}),
    "replicas": (Heads, {"strategy": "mirrored:2"}),
    "micro-batches": (Heads, {"micro_batches": 3}),
    "eagerly": (Heads, {"run_eagerly": True}),
    "XLA": (Heads, {"execution": "xla_loop"}),
    "own step": (OwnStep, {}),
}


@pytest.mark.parametrize("how", tiers.cases(HOW, ["whole", "replicas"]))
def test_numbers(how):
    """In training, validation and evaluation, over all rows."""
    make, options = HOW[how]
    model = make()
    trainer = Trainer(
        model, optimizer=keras.optimizers.SGD(0.0), metrics=bound(), seed=0, **options
    )
    fit = {"batch_size": 8, "epochs": 2, "verbose": 0, "validation_data": (X, Y)}
    history = trainer.fit(X, Y, **fit).history
    results = trainer.evaluate(X, Y, batch_size=5, verbose=0, return_dict=True)
    for name, value in expected(model).items():
        for found in (*history[name], *history[f"val_{name}"], results[name]):
            np.testing.assert_allclose(found, value, rtol=1e-5)


def test_plain_fit_saved_and_loaded(tmp_path):
    """Beside metrics of outputs by their names."""
    inputs = keras.Input((4,))
    outputs = {"a": keras.layers.Dense(1)(inputs), "b": keras.layers.Dense(4)(inputs)}
    model = TrainableModel(inputs, outputs)
    copied = Bind("mse", y_true="x", y_pred="b", name="copied")
    model.compile("sgd", {"a": "mse", "b": "mse"}, metrics={"a": ["mae", copied], "b": "mae"})
    y = {"a": Y["heads"]["mask"], "b": X["image"]}
    logs = set(model.fit(X["image"], y, verbose=0).history)
    assert logs == {"loss", "a_loss", "b_loss", "a_mae", "b_mae", "copied"}
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    results = loaded.evaluate(X["image"], y, verbose=0, return_dict=True)
    np.testing.assert_allclose(results["copied"], results["b_loss"], rtol=1e-5)


@pytest.mark.parametrize(("argument", "weighted"), [("metrics", False), ("weighted_metrics", True)])
def test_the_weights_of_rows(argument, weighted):
    """They are for weighted metrics, unless a path says which."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    trainer = Trainer(
        model, optimizer=keras.optimizers.SGD(0.0), loss="mse", **{argument: [Bind("mae")]}
    )
    x, y, weight = X["image"], Y["heads"]["mask"], Y["weight"]
    errors = abs(np.asarray(model(x)) - y)[:, 0]
    results = trainer.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)
    wanted = (errors * weight).sum() / weight.sum() if weighted else errors.mean()
    np.testing.assert_allclose(results["mae"], wanted, rtol=1e-5)


def test_of_a_model_that_keras_has_compiled():
    """`Trainer` takes them from there; Keras's own ``fit`` refuses."""
    model = Heads()
    model.compile("sgd", metrics=bound())
    assert "moved" in Trainer(model).evaluate(X, Y, verbose=0, return_dict=True)
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    plain.compile("sgd", "mse", metrics=[Bind("mae")])
    with pytest.raises(MetricError, match="is a Bind, which takes its parts of a whole batch"):
        plain.fit(X["image"], Y["heads"]["mask"], verbose=0)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda: Bind("mae", y_true="heads.no"), "no 'no' in `y.heads`. It has 'mask', 'kind'"),
        (lambda: Bind("mae", y_pred="x.picture"), "no 'picture' in `x`. It has 'image', 'before'"),
        (lambda: Bind("mae", y_true="weight.0", y_pred="x.image"), "It has no parts"),
        (lambda: Bind("mae", y_tru="weight"), "takes no argument 'y_tru'. Did you mean 'y_true'"),
        (
            lambda: Bind("mae", y_pred="heads.mask"),
            "`y_true` of the metric 'mae' has 'heads', 'weight'",
        ),
        (lambda: Bind("maee"), "needs a metric, its name, or a function. Received: metric='maee'"),
        (lambda: Bind("mae", y_true="a..b"), r"Received: 'a\.\.b'"),
    ],
)
def test_refused(metric, message):
    """Before a weight changes, with what there is."""
    with pytest.raises(MetricError, match=message):
        Trainer(Heads(), optimizer="sgd", metrics=[metric()]).fit(X, Y, verbose=0)


def test_two_of_one_name():
    """One would hide the other."""
    same = [Bind("mae", y_true="heads.mask", y_pred="heads.mask") for _ in range(2)]
    with pytest.raises(MetricError, match="Several metrics would be logged as 'mae'"):
        Trainer(Heads(), optimizer="sgd", metrics=same).fit(X, Y, verbose=0)


LABELS = (X["image"][:, :1] > 0).astype("float32")
CLASSES = np.argmax(X["image"], axis=1)


@pytest.mark.parametrize(
    "metrics",
    [
        lambda: [Bind("mae", name="a"), Bind("mse", name="a")],
        lambda: ["mae", Bind("mse", name="mae")],
        lambda: [Bind("mse", name="loss")],
    ],
)
def test_two_of_one_name_under_plain_fit(metrics):
    """Keras's logs would have one of them."""
    inputs = keras.Input((4,))
    model = TrainableModel(inputs, keras.layers.Dense(1)(inputs))
    with pytest.raises(MetricError, match=r"logged as '\w+'.*Rename it"):
        model.compile("sgd", "mse", metrics=metrics())
        model.fit(X["image"], Y["heads"]["mask"], verbose=0)


class OtherNames(keras.metrics.MeanAbsoluteError):
    """Its arguments are passed by place, as Keras does it."""

    def update_state(self, target, output, sample_weight=None):
        super().update_state(target, output, sample_weight)


def test_arguments_of_other_names():
    """The first two of a metric are y_true and y_pred."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    metrics = [Bind(OtherNames(name="whole")), Bind(OtherNames(name="copy"), y_true="x")]
    trainer = Trainer(model, optimizer="sgd", loss="mse", metrics=metrics)
    found = trainer.evaluate(X["image"], 0 * X["image"], verbose=0, return_dict=True)
    outputs = model(X["image"]).numpy()
    assert abs(outputs).mean() == pytest.approx(found["whole"], rel=1e-5)
    assert abs(outputs - X["image"]).mean() == pytest.approx(found["copy"], rel=1e-5)


@pytest.mark.parametrize(
    ("activation", "units", "y", "loss"),
    [
        ("sigmoid", 1, LABELS, "binary_crossentropy"),
        ("softmax", 4, CLASSES[:, None], "sparse_categorical_crossentropy"),
        tiers.slow("softmax", 4, CLASSES, "sparse_categorical_crossentropy"),
        ("softmax", 4, np.eye(4, dtype="float32")[CLASSES], "categorical_crossentropy"),
    ],
)
@pytest.mark.parametrize("name", ["accuracy", tiers.slow("acc")])
def test_names_that_stand_for_several_metrics(activation, units, y, loss, name):
    """It is the one that `compile` takes for such outputs."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(units, activation)])
    both = [name, Bind(name, name="bound")]
    results = (
        Trainer(model, optimizer="sgd", loss=loss, metrics=both, seed=0)
        .fit(X["image"], y, epochs=2, verbose=0)
        .history
    )
    assert results[name] == results["bound"]
    assert 0.0 < results[name][0] <= 1.0


def test_the_order_of_a_list():
    """`evaluate` returns results in the order of the metrics."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    metrics = ["mae", Bind("mse", name="bound"), "mape"]
    trainer = Trainer(model, optimizer="sgd", loss="mse", metrics=metrics)
    x, y = X["image"], Y["heads"]["mask"]
    results = trainer.evaluate(x, y, verbose=0, return_dict=True)
    assert trainer.evaluate(x, y, verbose=0) == [
        results[n] for n in ("loss", "mae", "bound", "mape")
    ]


@pytest.mark.parametrize("outputs", ["dict", tiers.slow("list")])
def test_weights_of_several_outputs(outputs):
    """Flat ones are for all; of those for each, the one on the path of ``y_true``."""
    inputs = keras.Input((4,))
    one, two = keras.layers.Dense(1, name="one")(inputs), keras.layers.Dense(1, name="two")(inputs)
    pred, y, key = [one, two], [Y["heads"]["mask"], LABELS], "0"
    if outputs == "dict":
        pred, y, key = (
            dict(zip(("one", "two"), pred, strict=True)),
            dict(zip(("one", "two"), y, strict=True)),
            "one",
        )
    trainer = Trainer(
        keras.Model(inputs, pred), optimizer="sgd", loss="mse",
        weighted_metrics=[Bind("mae", y_true=key, y_pred=key)],
    )  # fmt: skip
    results = trainer.evaluate(
        X["image"], y, sample_weight=Y["weight"], verbose=0, return_dict=True
    )
    found = np.asarray(trainer.model.get_layer("one")(X["image"]))
    errors = abs(found - Y["heads"]["mask"])[:, 0]
    np.testing.assert_allclose(
        results["mae"], (errors * Y["weight"]).sum() / Y["weight"].sum(), rtol=1e-5
    )


def test_places_of_outputs_with_nothing_else():
    """They stay where they are for the others."""
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(1, name="one")(inputs), keras.layers.Dense(1, name="two")(inputs)]
    moved = Bind("mse", y_true="0", y_pred="0", name="moved")
    trainer = Trainer(
        keras.Model(inputs, outputs), optimizer="sgd", loss="mse", metrics=[[moved], ["mae"]]
    )
    results = trainer.evaluate(X["image"], [LABELS, LABELS], verbose=0, return_dict=True)
    assert {"two_mae", "moved"} <= set(results)


def test_one_metric_in_two():
    """They would share its state."""
    metric = keras.metrics.MeanAbsoluteError()
    both = [Bind(metric, y_true="y", name="one"), Bind(metric, y_true="x", name="two")]
    with pytest.raises(MetricError, match="is in two places"):
        Trainer(Heads(), optimizer="sgd", metrics=both).fit(X, Y, verbose=0)


TWICE = {
    "bound": lambda q: {"metrics": [q, Bind(q, y_true="x", name="copy")]},
    "weighted": lambda q: {"metrics": [q], "weighted_metrics": [q]},
    "outputs": lambda q: {"metrics": {"a": [q], "b": [q]}},
}


@pytest.mark.parametrize("places", TWICE)
def test_one_metric_in_two_places(places):
    """Before a weight changes, however it is compiled; Keras gives both places the mixture."""
    inputs = keras.Input((4,))
    outputs = {"a": keras.layers.Dense(1)(inputs), "b": keras.layers.Dense(1)(inputs)}
    given = TWICE[places](keras.metrics.MeanAbsoluteError(name="q"))
    loss = {"a": "mse", "b": "mse"}
    with pytest.raises(MetricError, match="'q' is in two places"):
        TrainableModel(inputs, outputs).compile("sgd", loss, **given)
    trainer = Trainer(keras.Model(inputs, outputs), optimizer="sgd", loss=loss, **given)
    with pytest.raises(MetricError, match="'q' is in two places"):
        trainer.fit(X["image"], {"a": LABELS, "b": LABELS}, verbose=0)


def cubed(y_true, y_pred):
    return keras.ops.mean(abs(y_true - y_pred) ** 3, axis=-1)


def test_a_function_is_saved_and_loaded(tmp_path):
    """By its name, which is also that of the metric."""
    inputs = keras.Input((4,))
    model = TrainableModel(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse", metrics=[Bind(cubed, y_true="y", y_pred="y_pred")])
    expected = model.evaluate(X["image"], LABELS, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"cubed": cubed})
    assert expected == pytest.approx(loaded.evaluate(X["image"], LABELS, verbose=0))


def test_a_path_that_is_none():
    """It is no path."""
    with pytest.raises(MetricError, match="Leave out an argument for its default"):
        Bind("mae", y_true=None)


def test_a_metric_of_other_arguments():
    """Only what it takes is given to it."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    mean = Bind(keras.metrics.Mean(), values="x")
    trainer = Trainer(model, optimizer="sgd", loss="mse", metrics=[mean])
    results = trainer.evaluate(X["image"], LABELS, verbose=0, return_dict=True)
    np.testing.assert_allclose(results["mean"], X["image"].mean(), rtol=1e-4)
