"""Every kind of data trains to Keras's weights, in an order that the seed decides."""

import itertools
import multiprocessing
import random
import threading
import time

import hypothesis
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from kerastrain import DataError
from kerastrain import Execution
from kerastrain import Trainer
from kerastrain.data import named_sets
from kerastrain.data import source as data_lib
from tests.support import datasets
from tests.support import models
from tests.support import tiers

ROWS = 11
X, Y, WEIGHT = datasets.regression(rows=ROWS)
LABELS = np.random.default_rng(2).integers(0, 2, size=ROWS)
WORDS = np.array("a b,c,b a,a a,c b,b,c c,a,b c,c a,a b".split(","), dtype=object)
RAGGED = tf.RaggedTensor.from_row_lengths(X.reshape(-1)[:22], [2, 4, 0, 1, 3, 2, 2, 1, 4, 3, 0])
SPARSE = tf.sparse.from_dense(X * (X > 0))


# Models -----------------------------------------------------------------------


def nested():
    """Takes ``{"a": ..., "b": (..., ...)}``."""
    inputs = {"a": keras.Input((4,)), "b": (keras.Input((4,)), keras.Input((2,)))}
    joined = keras.layers.Concatenate()([inputs["a"], *inputs["b"]])
    return keras.Model(inputs, keras.layers.Dense(2)(joined))


def two_inputs():
    """Takes ``(x, x)``."""
    inputs = (keras.Input((4,)), keras.Input((4,)))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Concatenate()(inputs)))


def reader():
    """Takes text."""
    words = keras.layers.TextVectorization(max_tokens=8, output_sequence_length=3)
    words.adapt(tf.constant(list(WORDS)))
    inputs = keras.Input((), dtype="string")
    embedded = keras.layers.Embedding(8, 4)(words(inputs))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(embedded)))


def looked_up():
    """Takes text, one whole entry a row."""
    index = keras.layers.StringLookup(vocabulary=sorted(set(WORDS)), output_mode="one_hot")
    inputs = keras.Input((1,), dtype="string")
    return keras.Model(inputs, keras.layers.Dense(2)(index(inputs)))


class Padded(keras.Model):
    """Takes ragged rows of numbers, at most four."""

    def __init__(self):
        super().__init__()
        self.out = keras.layers.Dense(2)

    def call(self, x):
        if isinstance(x, tf.RaggedTensor):
            x = x.to_tensor(shape=(None, 4))
        return self.out(x)


class Recorder(keras.Model):
    """Notes the first column of every batch that it trains on; runs eagerly."""

    def __init__(self):
        super().__init__()
        self.out = keras.layers.Dense(1)
        self.seen = []

    def call(self, x, training=False):
        if training and hasattr(x, "numpy"):
            self.seen.append([int(v) for v in x.numpy()[:, 0]])
        return self.out(x)


# Sources ----------------------------------------------------------------------


def batches(x=X, y=Y, size=4, **arguments):
    """Batches of ``x`` and ``y`` by index."""
    return datasets.Batches(datasets.cut(x, y, size=size), **arguments)


class Endless(datasets.Batches):
    def __init__(self, **arguments):
        super().__init__(datasets.cut(X, Y), **arguments)

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        return super().__getitem__(index % len(self))


def batched(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(4)


def generator(passes=3):
    return (batches()[i] for _ in range(passes) for i in range(3))


def torch_loader(**arguments):
    return datasets.torch_loader(X, Y, **arguments)


def grain_loader():
    grain = pytest.importorskip("grain")
    rows = [(X[i], Y[i]) for i in range(ROWS)]
    sampler = grain.samplers.IndexSampler(ROWS, shuffle=False, num_epochs=1)
    batch = grain.transforms.Batch(4, drop_remainder=False)
    return grain.DataLoader(data_source=rows, sampler=sampler, operations=[batch])


def arrays(x=X, y=Y, **more):
    return lambda: {"x": x, "y": y, "batch_size": 4, **more}


def stream(make, **more):
    return lambda: {"x": make(), **more}


BY_ARRAYS = {
    "numpy": arrays(),
    "numpy float64": arrays(X.astype("float64"), Y.astype("float64")),
    "numpy float16": arrays(X.astype("float16"), Y.astype("float16")),
    "numpy int64": arrays((X * 3).astype("int64"), Y.astype("int32")),
    "numpy uint8": arrays((X * X * 9).astype("uint8"), Y > 0),
    "numpy not contiguous": arrays(np.asfortranarray(X)[::-1], Y[::-1]),
    "tensors": arrays(tf.constant(X), tf.constant(Y)),
    "variables": arrays(tf.Variable(X), tf.Variable(Y)),
    "pandas": arrays(pd.DataFrame(X), pd.DataFrame(Y)),
    "pandas with an index": arrays(
        pd.DataFrame(X, index=range(100, 100 + ROWS)), pd.DataFrame(Y, index=range(ROWS)[::-1])
    ),
    "pandas weights": arrays(pd.DataFrame(X), Y, sample_weight=pd.Series(WEIGHT)),
    "weights": arrays(sample_weight=WEIGHT),
    "torch tensors": lambda: {
        "x": pytest.importorskip("torch").tensor(X),
        "y": pytest.importorskip("torch").tensor(Y),
        "batch_size": 4,
    },
    "sparse": arrays(SPARSE),
    "split": arrays(validation_split=0.3),
    "batch of all rows": arrays(batch_size=100),
    "batch of one row": arrays(batch_size=1),
    "two steps": arrays(steps_per_epoch=2),
    "steps without batch_size": arrays(batch_size=None, steps_per_epoch=2),
}
BY_STREAM = {
    "tf.data": stream(lambda: batched(X, Y)),
    "tf.data with weights": stream(lambda: batched(X, Y, WEIGHT)),
    "tf.data of unknown length": stream(lambda: datasets.of_unknown_length(X, Y)),
    "tf.data, endless": stream(lambda: batched(X, Y).repeat(), steps_per_epoch=4),
    "tf.data, two steps": stream(lambda: batched(X, Y).repeat(), steps_per_epoch=2),
    "tf.data of sparse": stream(lambda: batched(SPARSE, Y)),
    "PyDataset": stream(batches, shuffle=False),
    "PyDataset with workers": stream(lambda: batches(workers=2), shuffle=False),
    "PyDataset, endless, workers": stream(lambda: Endless(workers=2), steps_per_epoch=4),
    "generator": stream(generator, steps_per_epoch=3),
    "torch": stream(torch_loader),
    "Grain map": stream(lambda: datasets.grain_rows(X, Y).batch(4)),
    "Grain iter": stream(lambda: datasets.grain_rows(X, Y).to_iter_dataset().batch(4)),
    "Grain loader": stream(grain_loader),
}
OTHERS = {
    "tuple of inputs": (two_inputs, arrays((X, X))),
    "nested": (nested, arrays({"a": X, "b": (X, Y)})),
    "nested, pandas": (nested, arrays({"a": pd.DataFrame(X), "b": (X, pd.DataFrame(Y))})),
    "nested, tf.data": (nested, stream(lambda: batched({"a": X, "b": (X, Y)}, Y))),
    "nested, PyDataset": (
        nested,
        stream(lambda: iter_of(({"a": X, "b": (X, Y)}, Y)), steps_per_epoch=1),
    ),
    "text of objects": (reader, arrays(WORDS)),
    "text tensors": (reader, arrays(tf.constant(list(WORDS)))),
    "text, tf.data": (reader, stream(lambda: batched(list(WORDS), Y))),
    "text looked up": (looked_up, arrays(tf.constant(list(WORDS))[:, None])),
    "ragged": (Padded, arrays(RAGGED)),
    "ragged, tf.data": (Padded, stream(lambda: batched(RAGGED, Y))),
}
CASES = {
    **{name: (models.mlp, make) for name, make in (BY_ARRAYS | BY_STREAM).items()},
    **OTHERS,
}


def iter_of(batch, times=4):
    return (batch for _ in range(times))


def weights_after(make_model, fit):
    """The weights after ``fit(model)`` from the same first weights."""
    keras.utils.set_random_seed(5)
    model = make_model()
    fit(model)
    return model.get_weights()


def by_keras(arguments):
    def fit(model):
        model.compile(keras.optimizers.SGD(0.05), "mse", run_eagerly=True)  # no trace
        model.fit(**{"shuffle": False, "epochs": 2, "verbose": 0, **arguments})

    return fit


def by_trainer(arguments):
    def fit(model):
        trainer = Trainer(model, optimizer=keras.optimizers.SGD(0.05), loss="mse")
        trainer.fit(**{"shuffle": False, "epochs": 2, "verbose": 0, **arguments})

    return fit


# Others are converted by the same code.
MUCH_LIKE_OTHERS = [
    *("numpy float64", "numpy float16", "numpy uint8", "numpy not contiguous", "tensors"),
    *("variables", "pandas", "pandas weights", "torch tensors", "sparse", "split"),
    *("batch of all rows", "batch of one row", "two steps", "steps without batch_size"),
    *("tf.data with weights", "tf.data of unknown length", "tf.data, endless"),
    *("tf.data, two steps", "PyDataset with workers", "PyDataset, endless, workers", "Grain iter"),
    *("Grain loader", "tuple of inputs", "nested, pandas", "nested, tf.data"),
    *("nested, PyDataset", "text of objects", "text tensors", "text, tf.data", "ragged, tf.data"),
]


@pytest.mark.parametrize("name", tiers.without(CASES, MUCH_LIKE_OTHERS))
def test_equals_keras(name):
    """The same weights as Keras's fit from the same data, within 1e-6."""
    make_model, make = CASES[name]
    expected = weights_after(make_model, by_keras(make()))
    actual = weights_after(make_model, by_trainer(make()))
    assert len(expected) == len(actual)
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a, e, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name, steps",
    [
        ("Grain map", None), tiers.slow("Grain map", 3), tiers.slow("tf.data", None),
        tiers.slow("tf.data", 3), tiers.slow("PyDataset", None), tiers.slow("PyDataset", 3),
        tiers.slow("generator", 3), tiers.slow("torch", None), tiers.slow("torch", 3),
    ],
)  # fmt: skip
def test_validation_data(name, steps):
    """Each kind of source serves as validation data, with the results of arrays."""
    expected = by_history({"validation_data": (X, Y), "epochs": 2})
    made = BY_STREAM[name]()["x"]
    actual = by_history({"validation_data": made, "validation_steps": steps, "epochs": 2})
    assert expected["val_loss"] == pytest.approx(actual["val_loss"], abs=1e-6)


def test_validation_steps():
    """Each validation looks at the same first batches, as Keras documents it."""
    fit = {"epochs": 3, "validation_steps": 2, "validation_batch_size": 3}
    expected = by_history({**fit, "validation_data": (X[:6], Y[:6]), "validation_steps": None})
    for data in ((X, Y), tf.data.Dataset.from_tensor_slices((X, Y)).batch(3), batches(size=3)):
        actual = by_history({**fit, "validation_data": data})
        assert expected["val_loss"] == pytest.approx(actual["val_loss"], abs=1e-6)


def by_history(arguments):
    keras.utils.set_random_seed(5)
    trainer = Trainer(models.mlp(), optimizer=keras.optimizers.SGD(0.05), loss="mse")
    fit = {"x": X, "y": Y, "batch_size": 4, "shuffle": False, "verbose": 0, **arguments}
    return trainer.fit(**fit).history


@pytest.mark.parametrize(
    "name",
    ["numpy", "tf.data", tiers.slow("tf.data of unknown length"), tiers.slow("PyDataset")],
)
def test_class_weight(name):
    """Class weights act on labels from arrays and from streams as in Keras."""
    weights = {0: 0.25, 1: 3.0}
    source = {
        "numpy": lambda: {"x": X, "y": LABELS, "batch_size": 4},
        "tf.data": lambda: {"x": batched(X, LABELS)},
        "tf.data of unknown length": lambda: {"x": datasets.of_unknown_length(X, LABELS)},
        "PyDataset": lambda: {"x": batches(y=LABELS)},
    }[name]

    def fit(train):
        def run(model):
            arguments = {"class_weight": weights, "shuffle": False, "verbose": 0, **source()}
            train(model, arguments)

        return run

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def keras_fit(model, arguments):
        model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        model.fit(**arguments)

    def trainer_fit(model, arguments):
        Trainer(model, optimizer=keras.optimizers.SGD(0.1), loss=loss).fit(**arguments)

    expected = weights_after(models.mlp, fit(keras_fit))
    actual = weights_after(models.mlp, fit(trainer_fit))
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a, e, atol=1e-6, rtol=0)


# Order ------------------------------------------------------------------------

IDS = np.arange(ROWS, dtype="float32")[:, None]


def order(seed=7, epochs=3, x=IDS, y=IDS, **fit):
    """The rows of each batch, epoch by epoch, that a fit trained on."""
    model = Recorder()
    model.build((None, 1))  # or Keras calls it twice on the first batch
    trainer = Trainer(
        model,
        optimizer=keras.optimizers.SGD(0.0),
        loss="mse",
        seed=seed,
        execution=Execution(run_eagerly=True),
    )
    ends = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(len(model.seen)))
    streamed = {} if y is None else {"y": y, "batch_size": 4}
    trainer.fit(x, **{"epochs": epochs, "verbose": 0, "callbacks": [note], **streamed, **fit})
    starts = [0, *ends[:-1]]
    return [model.seen[a:b] for a, b in zip(starts, ends, strict=True)]


def rows(epoch):
    return [row for batch in epoch for row in batch]


def test_shuffle_is_a_function_of_seed_and_epoch():
    """Epoch e has the same order whenever it runs with the same seed; others differ."""
    first = order(seed=7)
    assert first == order(seed=7)
    assert first[1:] == order(seed=7, initial_epoch=1)
    assert first[2:] == order(seed=7, initial_epoch=2)
    assert first != order(seed=8)
    assert first[0] != first[1] != first[2]
    keras.utils.set_random_seed(99)
    assert first == order(seed=7)


def test_shuffle_without_seed_follows_keras():
    """Without a seed ``keras.utils.set_random_seed`` decides the order."""
    keras.utils.set_random_seed(3)
    first, second = order(seed=None), order(seed=None)
    keras.utils.set_random_seed(3)
    assert first == order(seed=None)
    assert first != second


@pytest.mark.parametrize("shuffle", [True, "batch"])
@pytest.mark.parametrize(
    "make", [generator, lambda: batched(X, Y), torch_loader, grain_loader, Endless]
)
def test_what_keeps_its_order_draws_no_seed(make, shuffle):
    """Data of the user's that draw from Python's generator get the numbers they would get alone."""
    before = random.getstate()
    data_lib.Source(make(), shuffle=shuffle, steps=2)
    assert before == random.getstate()
    for shuffled in (X, batches()):
        before = random.getstate()
        data_lib.Source(shuffled, shuffle=shuffle)
        assert before != random.getstate()


def test_a_generator_draws_as_under_keras():
    """A whole ``fit`` leaves what it draws to it."""

    def drawing():
        while True:
            yield X[:4] * random.random(), Y[:4]

    expected, actual = (
        weights_after(models.mlp, run({"x": drawing(), "steps_per_epoch": 3, "shuffle": True}))
        for run in (by_keras, by_trainer)
    )
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(a, e, atol=1e-6, rtol=0)


def test_every_row_once():
    """Each shuffled epoch has every row once, in batches of batch_size and the rest."""
    for epoch in order():
        assert list(range(ROWS)) == sorted(rows(epoch))
        assert [4, 4, 3] == [len(batch) for batch in epoch]


def test_unshuffled():
    """With shuffle=False rows come as they are."""
    assert [[[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]] * 3 == order(shuffle=False)


def test_shuffle_batch():
    """shuffle="batch" keeps the rows of each batch together and mixes them inside."""
    epochs = order(shuffle="batch")
    for epoch in epochs:
        assert [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]] == [sorted(batch) for batch in epoch]
    assert epochs[0] != epochs[1]
    assert epochs == order(shuffle="batch")


def test_inputs_are_shuffled_alike():
    """Rows of x, y and sample_weight stay together when shuffled."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[2.0]])])
    trainer = Trainer(
        model, optimizer=keras.optimizers.SGD(0.0), loss="mae", weighted_metrics=["mae"], seed=1
    )
    history = trainer.fit(
        IDS, 2 * IDS + IDS, sample_weight=1 / (IDS[:, 0] + 1), batch_size=3, epochs=2, verbose=0
    ).history
    expected = np.mean(IDS[:, 0] / (IDS[:, 0] + 1))
    assert [expected, expected] == pytest.approx(history["loss"], abs=1e-6)


@pytest.mark.parametrize("kind", ["numpy", "PyDataset", tiers.slow("PyDataset, workers")])
def test_equal_seeds_agree_bit_for_bit(kind):
    """Two trainers with one seed end at the same weights; another seed does not."""
    data = {
        "numpy": lambda: {"x": X, "y": Y, "batch_size": 4},
        "PyDataset": lambda: {"x": batches(size=1)},
        "PyDataset, workers": lambda: {"x": batches(size=1, workers=2)},
    }[kind]

    def run(seed):
        keras.utils.set_random_seed(5)
        model = models.mlp()
        keras.utils.set_random_seed(seed * 100 + next(calls))
        trainer = Trainer(model, optimizer="adam", loss="mse", seed=seed)
        trainer.fit(epochs=2, verbose=0, **data())
        return model.get_weights()

    calls = iter(range(9))
    first, second, other = run(1), run(1), run(2)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a != c).any() for a, c in zip(first, other, strict=True))


def test_steps_per_epoch_goes_on_where_the_last_epoch_stopped():
    """Four batches are two epochs of two; the fifth begins the second pass."""
    x = np.arange(16, dtype="float32")[:, None]
    epochs = order(epochs=4, x=x, y=x, steps_per_epoch=2)
    assert list(range(16)) == sorted(rows(epochs[0]) + rows(epochs[1]))
    assert list(range(16)) == sorted(rows(epochs[2]) + rows(epochs[3]))
    assert epochs[:2] != epochs[2:]
    assert [*order(epochs=2, x=x, y=x)] == [epochs[0] + epochs[1], epochs[2] + epochs[3]]


def test_steps_per_epoch_of_a_stream():
    """A stream goes on too: nothing is skipped between epochs."""
    data = tf.data.Dataset.from_tensor_slices((IDS, IDS)).batch(2).repeat()
    epochs = order(x=data, y=None, steps_per_epoch=4)
    trained = sum(map(rows, epochs), [])
    assert [*range(ROWS), *range(ROWS)][: len(trained)] == trained


def test_steps_per_epoch_more_than_there_is():
    """An epoch that wants more batches than there are warns, says how many, and ends."""
    with pytest.warns(UserWarning, match="ran out of data after 3 batches .*wanted: 5"):
        epochs = order(epochs=1, steps_per_epoch=5, shuffle=False)
    assert [list(range(ROWS))] == [rows(epoch) for epoch in epochs]


def test_validation_split_takes_the_last_rows():
    """The last share is for validation, whatever the shuffling; as Keras cuts it."""
    seen = []

    class FiniteCheck(Recorder):
        def call(self, x, training=False):
            if not training and hasattr(x, "numpy"):
                seen.append([int(v) for v in x.numpy()[:, 0]])
            return super().call(x, training=training)

    model = FiniteCheck()
    model.build((None, 1))
    seen.clear()
    trainer = Trainer(
        model, optimizer="sgd", loss="mse", seed=1, execution=Execution(run_eagerly=True)
    )
    trainer.fit(IDS, IDS, batch_size=4, validation_split=0.3, verbose=0)
    assert [[7, 8, 9, 10]] == seen
    assert list(range(7)) == sorted(rows(model.seen))


def test_generator_loses_no_batch():
    """The checks look at the first batch of a generator and train on it all the same."""
    pairs = ((IDS[i : i + 2], IDS[i : i + 2]) for i in range(0, 10, 2))
    assert [[[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]] == order(epochs=1, x=pairs, y=None)


def test_generator_over_epochs():
    """With steps_per_epoch a generator is read on, without a gap, and no batch too far."""
    drawn = []

    def numbers():
        for i in range(100):
            drawn.append(i)
            yield np.full((1, 1), i, "float32"), np.zeros((1, 1), "float32")

    epochs = order(x=numbers(), y=None, steps_per_epoch=2)
    assert [[[0], [1]], [[2], [3]], [[4], [5]]] == epochs
    assert len(drawn) <= 7


UNEQUAL = {"other rows": (8, 7), "rows that broadcast": (8, 1)}
QUICK_UNEQUAL = [
    (True, "loop", "rows that broadcast"),
    (False, "loop", "other rows"),
    (False, "step", "rows that broadcast"),
]


@pytest.mark.parametrize(
    ("pipeline", "plan", "of"),
    tiers.cases(itertools.product((True, False), ("step", "loop"), UNEQUAL), QUICK_UNEQUAL),
)
def test_a_later_batch_of_unequal_parts(pipeline, plan, of):
    """It is refused when it comes: TensorFlow would broadcast it, or say nothing of data."""
    sizes = [(8, 8), (8, 8), UNEQUAL[of]]

    def drawn():
        for x_rows, y_rows in sizes:
            yield X[:8][:x_rows], Y[:8][:y_rows]

    specs = tf.TensorSpec((None, 4), tf.float32), tf.TensorSpec((None, 2), tf.float32)
    data = tf.data.Dataset.from_generator(drawn, output_signature=specs) if pipeline else drawn()
    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse", execution=plan)
    with pytest.raises(DataError, match=rf"`x`.*different lengths: \[{sizes[-1][1]}, 8\]"):
        trainer.fit(data, verbose=0)
    assert 2 == int(trainer.optimizer.iterations)


def test_used_up_generator():
    """A generator without steps is one epoch; the next one warns, and training ends."""
    pairs = ((IDS[i : i + 4], IDS[i : i + 4]) for i in range(0, ROWS, 4))
    with pytest.warns(UserWarning, match="instead of a generator"):
        epochs = order(x=pairs, y=None)
    assert list(range(ROWS)) == rows(epochs[0])
    assert [] == rows(sum(epochs[1:], []))


def test_validation_generator_loses_no_batch():
    """The first batch of a validation generator is evaluated too."""
    pairs = ((X[i : i + 1], Y[i : i + 1]) for i in range(ROWS))
    expected = by_history({"validation_data": (X, Y)})["val_loss"]
    actual = by_history({"validation_data": pairs})["val_loss"]
    assert expected == pytest.approx(actual, abs=1e-6)


def test_data_set_is_iterated_once_per_epoch():
    """Each epoch reads a PyDataset once, with its own epoch events around it."""
    events = []

    class Noting(datasets.Batches):
        def on_epoch_begin(self):
            events.append("begin")

        def on_epoch_end(self):
            events.append("end")

        def __getitem__(self, index):
            events.append(index)
            return super().__getitem__(index)

    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse")
    trainer.fit(Noting(datasets.cut(X, Y)), epochs=2, shuffle=False, verbose=0)
    assert ["begin", 0, 1, 2, "end"] * 2 == events


# The background ---------------------------------------------------------------


class StopAtBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = True


class RaiseAtBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise RuntimeError("as planned")


class RaiseInTest(keras.callbacks.Callback):
    def on_test_batch_end(self, batch, logs=None):
        raise RuntimeError("as planned")


ENDINGS = {
    "end": {},
    "steps": {"steps_per_epoch": 1},
    "stop": {"callbacks": [StopAtBatch()]},
    "error": {"callbacks": [RaiseAtBatch()]},
    "error in validation": {"callbacks": [RaiseInTest()]},
    "validation not due": {"validation_freq": 5},
    "validation steps": {"validation_steps": 1},
    "refused": {"validation_data": (X, Y[:, :1])},
}


def workers_left(before):
    """Threads and processes that are still there; waits a while for them to end."""
    deadline = time.monotonic() + 60
    while True:
        left = [t for t in threading.enumerate() if t not in before]
        left += multiprocessing.active_children()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


@pytest.mark.parametrize("ending", tiers.cases(ENDINGS, ["stop", "error in validation", "refused"]))
def test_workers_end(ending):
    """However fit ends, the workers of train and validation data end with it."""
    before = threading.enumerate()
    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse")
    arguments = {"validation_data": batches(workers=2), "epochs": 2, "verbose": 0}
    arguments.update(ENDINGS[ending])
    try:
        trainer.fit(batches(workers=2), **arguments)
    except (RuntimeError, DataError) as error:
        assert "as planned" in str(error) or ending == "refused"
    else:
        assert "error" not in ending
    assert [] == workers_left(before)


def test_workers_end_after_evaluate():
    """A callback that raises in evaluate leaves no workers either."""
    before = threading.enumerate()
    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse")
    with pytest.raises(RuntimeError, match="as planned"):
        trainer.evaluate(batches(workers=2), callbacks=[RaiseInTest()], verbose=0)
    assert [] == workers_left(before)


def test_torch_workers_end():
    """The processes of a torch loader end when a callback stops training."""
    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse")
    before = threading.enumerate()
    trainer.fit(torch_loader(num_workers=1), callbacks=[StopAtBatch()], verbose=0)
    assert [] == workers_left(before)


# A run of data that have something in common ------------------------------------


@pytest.mark.parametrize("fixed", [False, tiers.slow(True)])
def test_a_split_of_one_shuffle(tmp_path, fixed):
    """Refused before a step, unless its order is fixed; without `run_dir` it is Keras's matter."""
    rows = tf.data.Dataset.from_tensor_slices((X, Y))
    full = rows.shuffle(ROWS, seed=1, reshuffle_each_iteration=not fixed)
    data = {"x": full.skip(4).batch(2), "validation_data": full.take(4).batch(2), "verbose": 0}
    trainer = Trainer(models.mlp(), optimizer="sgd", loss="mse")
    if fixed:
        assert "val_loss" in trainer.fit(**data, epochs=2, run_dir=tmp_path / "run").history
        return
    before = trainer.model.get_weights()
    with pytest.raises(DataError, match="`x` and `validation_data` have the same shuffle"):
        trainer.fit(**data, run_dir=tmp_path / "run")
    for one, other in zip(before, trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    trainer.fit(**data)


# Source -----------------------------------------------------------------------


def batches_of(source):
    return [tuple(int(v) for v in x[:, 0]) for x in source.epoch()]


@hypothesis.given(
    count=st.integers(1, 40),
    size=st.integers(1, 12),
    steps=st.none() | st.integers(1, 6),
    epochs=st.integers(1, 6),
    shuffle=st.sampled_from([False, True, "batch"]),
    peeks=st.integers(0, 2),
)
@hypothesis.settings(max_examples=60)
@pytest.mark.filterwarnings("ignore:.*ran out of data")
def test_source(count, size, steps, epochs, shuffle, peeks):
    """Passes follow one another, each with every row once, cut into epochs of `steps`."""
    x = np.arange(count, dtype="float32")[:, None]

    def source():
        return data_lib.Source(x, batch_size=size, steps=steps, shuffle=shuffle, seed=3)

    one, other = source(), source()
    for _ in range(peeks):
        other.peek()
    seen = [batches_of(one) for _ in range(epochs)]
    assert seen == [batches_of(other) for _ in range(epochs)]

    batches = -(-count // size)
    assert one.num_batches == (steps or batches)
    passes = [[]]
    for epoch in seen:
        if len(passes[-1]) == batches:
            passes.append([])
        room = batches - len(passes[-1])
        assert len(epoch) == (min(steps, room) if steps else room)
        passes[-1] += epoch
    sizes = [min(size, count - start) for start in range(0, count, size)]
    for number, one_pass in enumerate(passes):
        assert sizes[: len(one_pass)] == [len(batch) for batch in one_pass]
        taken = [row for batch in one_pass for row in batch]
        assert len(set(taken)) == len(taken)
        if len(one_pass) == batches:
            assert set(range(count)) == set(taken)
        if shuffle is False:
            assert list(range(len(taken))) == taken
        later = data_lib.Source(x, batch_size=size, shuffle=shuffle, seed=3, first_pass=number)
        assert batches_of(later)[: len(one_pass)] == one_pass
        if shuffle == "batch":
            cut = [range(i, min(i + size, count)) for i in range(0, count, size)]
            assert [list(c) for c in cut[: len(one_pass)]] == [sorted(b) for b in one_pass]


def test_named_sets():
    """A dict of tuples or data sets is several sets; a dict of arrays is one x."""
    assert ["a", "b"] == list(named_sets.named_sets({"a": (X, Y), "b": batched(X, Y)}))
    assert named_sets.named_sets({"a": X, "b": X}) is None
    assert named_sets.named_sets({}) is None
    assert named_sets.named_sets((X, Y)) is None
