"""The grid of the exactness tests: models, optimizers, weights, reductions and cuts.

A cell is one way to train and one way to cut the work::

    cell = Cell("masked", "adam", "sample", "sum", 2, 3, 1, "clipnorm")
    cell.difference()         # {"weights": 3e-8, "loss": ...}: from whole batches

Every cell has two epochs of a batch of 8 rows and a shorter one.

Two combinations do not exist. Keras takes ``class_weight`` for models with a
single output only, and looks up one class per row, so ``two outputs`` and
``masked`` (a class for each time step) have none.
"""

import contextlib
import functools
import itertools
from typing import NamedTuple

import keras
import numpy as np

from kerastrain import StepOptions
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.distribution import strategy
from tests.support import datasets
from tests.support import trainings

BATCH = 8
LIMITS = {"clipvalue": 0.02, "clipnorm": 0.05, "global_clipnorm": 0.1}

AXES = {
    "model": ("functional", "subclassed", "two outputs", "masked", "other losses"),
    "optimizer": ("sgd", "adam", "adamw"),
    "weights": ("none", "sample", "class"),
    "reduction": ("sum_over_batch_size", "mean_with_sample_weight", "sum", "mean"),
    "replicas": (1, 2, 4),
    "micro_batches": (1, 2, 3),
    "last": ("1", "R-1", "R+1"),
    "clip": ("none", "clipvalue", "clipnorm", "global_clipnorm"),
}

NO_CLASS_WEIGHTS = ("two outputs", "masked")


@keras.saving.register_keras_serializable("cells")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(6, activation="tanh")
        self.out = keras.layers.Dense(3, activation="softmax")

    def call(self, x):
        return self.out(self.hidden(x))


@keras.saving.register_keras_serializable("cells")
class SubclassedTrainable(TrainableModel):
    call = Subclassed.call

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(6, activation="tanh")
        self.out = keras.layers.Dense(3, activation="softmax")


@keras.saving.register_keras_serializable("cells")
class AddsMean(keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
        return x


def build(name, make):
    """A model by its name on the grid; ``make`` is ``keras.Model`` or `TrainableModel`."""
    layers = keras.layers
    if name == "subclassed":
        return Subclassed() if make is keras.Model else SubclassedTrainable()
    if name == "masked":
        inputs = keras.Input((5,), dtype="int32")
        embedded = layers.Embedding(7, 4, mask_zero=True)(inputs)
        states = layers.SimpleRNN(4, return_sequences=True, unroll=True)(embedded)
        return make(inputs, layers.Dense(3, activation="softmax")(states))
    inputs = keras.Input((4,))
    if name == "other losses":
        hidden = layers.Dense(
            6, activation="tanh", kernel_regularizer="l2", activity_regularizer="l2"
        )(inputs)
        return make(inputs, layers.Dense(3, activation="softmax")(AddsMean()(hidden)))
    hidden = layers.Dense(6, activation="tanh")(inputs)
    if name == "functional":
        return make(inputs, layers.Dense(3, activation="softmax")(hidden))
    p, q = (
        layers.Dense(2, name="p")(hidden),
        layers.Dense(3, activation="softmax", name="q")(hidden),
    )
    return make(inputs, {"p": p, "q": q})


class Cell(NamedTuple):
    """One combination of the axes."""

    model: str
    optimizer: str
    weights: str
    reduction: str
    replicas: int
    micro_batches: int
    last_rows: int
    clip: str

    def data(self) -> dict:
        """Arguments of ``fit``."""
        rows = BATCH + self.last_rows
        rng = np.random.default_rng(0)
        x = rng.normal(size=(BATCH + 5, 4)).astype("float32")[:rows]
        labels = rng.integers(0, 3, size=BATCH + 5)[:rows]
        weight = rng.integers(0, 3, size=BATCH + 5).astype("float32")[:rows]
        y = labels
        if self.model == "masked":
            x = rng.integers(1, 7, size=(BATCH + 5, 5))[:rows]
            x = x * (np.arange(5) < rng.integers(1, 6, size=(BATCH + 5, 1))[:rows])
            y = (labels[:, None, None] + np.arange(5)[:, None]) % 3
            weight = weight[:, None] * np.ones(5, "float32")
        if self.model == "two outputs":
            y = {"p": np.stack([labels, -labels], axis=1).astype("float32"), "q": labels}
            weight = {"p": weight, "q": weight[::-1].copy()}
        fit = {"x": x, "y": y, "batch_size": BATCH, "epochs": 2, "shuffle": False, "verbose": 0}
        if self.weights == "sample":
            fit["sample_weight"] = weight
        if self.weights == "class":
            fit["class_weight"] = {0: 0.5, 1: 2.0, 2: 0.0}
        return fit

    def compile(self) -> dict:
        """Arguments of ``compile`` without the optimizer."""
        cross = keras.losses.SparseCategoricalCrossentropy(reduction=self.reduction)
        if self.model == "two outputs":
            mse = keras.losses.MeanSquaredError(reduction=self.reduction)
            return {
                "loss": {"p": mse, "q": cross},
                "loss_weights": {"p": 0.3, "q": 2.0},
                "metrics": {"p": ["mae"], "q": ["accuracy"]},
            }
        return {"loss": cross, "metrics": ["accuracy"], "weighted_metrics": ["accuracy"]}

    def make_optimizer(self):
        """A new optimizer of this cell.

        Adam has Keras's default rate, 0.001: it divides by the size of a gradient, and
        so multiplies the rounding of a small one. (At 0.01 about one cell in 250 is
        between 1e-6 and 2e-6 in float32, and below 1e-16 in float64.)
        """
        return {
            "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
            "adam": lambda: keras.optimizers.Adam(),
            "adamw": lambda: keras.optimizers.AdamW(weight_decay=0.01),
        }[self.optimizer]()

    def train(self, entry_point: str = "trainer") -> tuple[list, dict]:
        """Trains, and returns ``(weights, history)``.

        Args:
            entry_point: ``"trainer"`` or ``"fit"`` of a `TrainableModel`, which compile their steps,
                or ``"step"``: the same step by itself, run eagerly, which is several times as
                quick.
        """
        if entry_point == "step":
            return self._train_by_steps()
        keras.utils.set_random_seed(1)
        options = StepOptions(micro_batches=self.micro_batches, **self.clipping())
        where = strategy.resolve(f"mirrored:{self.replicas}") if self.replicas > 1 else None
        if entry_point == "trainer":
            model = build(self.model, keras.Model)
            trainer = Trainer(
                model, optimizer=self.make_optimizer(), strategy=where, **options.changed(),
                **self.compile(),
            )  # fmt: skip
            history = trainer.fit(**self.data()).history
            return model.get_weights(), history
        with where.scope() if where else contextlib.nullcontext():
            model = build(self.model, TrainableModel)
            model.compile(self.make_optimizer(), **self.compile(), **options.changed())
        history = model.fit(**self.data()).history
        return model.get_weights(), history

    def _train_by_steps(self):
        data = self.data()
        weight = data.get("sample_weight")
        if "class_weight" in data:
            weight = np.array([data["class_weight"][label] for label in data["y"]], "float32")
        rows = (data["x"], data["y"]) if weight is None else (data["x"], data["y"], weight)
        model, history = trainings.by_steps(
            lambda make: build(self.model, make),
            lambda: {"optimizer": self.make_optimizer(), **self.compile()},
            datasets.cut(*rows, size=BATCH),
            f"mirrored:{self.replicas}" if self.replicas > 1 else None,
            StepOptions(micro_batches=self.micro_batches, **self.clipping()),
            data["epochs"],
        )
        return model.get_weights(), history

    def clipping(self) -> dict:
        return {} if self.clip == "none" else {self.clip: LIMITS[self.clip]}

    def whole(self) -> "Cell":
        """The same work on one device, one batch at a time."""
        return self._replace(replicas=1, micro_batches=1)

    def difference(self, entry_point: str = "trainer") -> dict[str, float]:
        """The largest absolute difference of weights, loss and metrics from `whole`."""
        reference = "step" if entry_point == "step" else "trainer"
        weights, history = _whole_run(self.whole(), keras.config.floatx(), reference)
        own_weights, own_history = self.train(entry_point)
        assert list(history) == list(own_history)
        found = {
            "weights": max(
                float(np.abs(a - b).max()) for a, b in zip(weights, own_weights, strict=True)
            )
        }
        for name, values in history.items():
            scale = np.maximum(1.0, np.abs(values))
            found[name] = float(np.max(np.abs(np.subtract(values, own_history[name])) / scale))
        return found


@functools.cache
def _whole_run(cell, floatx, entry_point):
    del floatx  # the same cell in another precision is another run
    return cell.train(entry_point)


@contextlib.contextmanager
def precision(floatx):
    """Inside, models compute in ``"float64"``, where rounding hides nothing."""
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


def draw(choose) -> tuple[Cell, tuple]:
    """A cell that exists, each axis chosen by ``choose(values)``, and its choices."""
    while True:
        chosen = {name: choose(values) for name, values in AXES.items()}
        if exists(tuple(chosen.items())):
            replicas = chosen["replicas"]
            rows = {"1": 1, "R-1": replicas - 1, "R+1": replicas + 1}[chosen["last"]]
            fields = {**chosen, "last_rows": rows}
            del fields["last"]
            return Cell(**fields), tuple(chosen.items())


def choices(cell: Cell) -> list[dict]:
    """The values of the axes that a cell has; of two replicas, 1 row is also R-1."""
    names = {"1": 1, "R-1": cell.replicas - 1, "R+1": cell.replicas + 1}
    chosen = {name: getattr(cell, name, None) for name in AXES}
    return [{**chosen, "last": name} for name, rows in names.items() if rows == cell.last_rows]


def exists(pairs: tuple) -> bool:
    """Whether a cell can have all of these ``(axis, value)``."""
    chosen = dict(pairs)
    return chosen.get("weights") != "class" or chosen.get("model") not in NO_CLASS_WEIGHTS


def combinations(size):
    """Every choice of values on ``size`` axes that exists."""
    for axes in itertools.combinations(AXES, size):
        for values in itertools.product(*(AXES[axis] for axis in axes)):
            pairs = tuple(zip(axes, values, strict=True))
            if exists(pairs):
                yield pairs


def covering(size: int = 2, seed: int = 0) -> list[Cell]:
    """Cells in which every choice of values on ``size`` axes occurs.

    Each next cell is the one of 60 drawn that has the most choices which have not
    occurred yet. Single values take 5 cells, pairs about 25.
    """
    rng = np.random.default_rng(seed)
    cells, missing = [], set(combinations(size))
    while missing:
        drawn = [draw(lambda values: values[rng.integers(len(values))]) for _ in range(60)]
        cell, chosen = max(
            drawn, key=lambda d: len(missing.intersection(itertools.combinations(d[1], size)))
        )
        new = missing.intersection(itertools.combinations(chosen, size))
        if new and cell not in cells:
            cells.append(cell)
            missing -= new
    return cells
