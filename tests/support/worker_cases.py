"""Trainings whose numbers do not depend on how many workers run them.

::

    python -m tests.support.worker_cases ragged,batch_norm DIRECTORY

writes what each has come to, ``DIRECTORY/<worker>.pickle``. Without ``TF_CONFIG`` it is one device.
"""

import json
import os
import pathlib
import pickle
import sys
import tempfile
import time
import traceback
import zlib

import keras
import numpy as np
import tensorflow as tf

from kerastrain import Execution
from kerastrain import FitOptions
from kerastrain import Guard
from kerastrain import metrics
from kerastrain import NonFiniteError
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.distribution import strategy as strategy_lib
from kerastrain.execution import Runner
from tests.step import test_updates
from tests.support import cells

REPLICAS = int(os.environ.get("REPLICAS", "1"))
PARTS = 2  # replicas of one machine, in place of workers


def worker():
    """The number of this worker; None for one device."""
    config = json.loads(os.environ.get("TF_CONFIG", "null"))
    if config:
        return config["task"]["index"]
    number = os.environ.get("SLURM_PROCID")
    return None if number is None else int(number)


def strategy():
    """That of all workers; None for one device."""
    return strategy_lib.resolve("multi_worker") if worker() is not None else None


def data(rows=75, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 8)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) > 0).astype("float32"), rng.random(rows, "float32")


def network(middle=None, make=keras.Model):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(16, activation="tanh", kernel_regularizer="l2")(inputs)
    hidden = middle(hidden) if middle else hidden
    return make(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return tuple(part[index * 11 : index * 11 + 11] for part in data())


class Largest(keras.metrics.Metric):
    """The largest output."""

    merge_rules = {"largest": "max"}

    def __init__(self, name="largest", **kwargs):
        super().__init__(name=name, **kwargs)
        self.largest = self.add_variable((), "zeros", name="largest")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(y_pred)))

    def result(self):
        return self.largest


def fitted(model=None, fit=None, **options):
    """A trainer that has trained two epochs with a ragged last batch, and its history."""
    x, y, _ = data()
    defaults = {"optimizer": keras.optimizers.Adam(0.01), "loss": "binary_crossentropy", "seed": 3}
    defaults["strategy"] = strategy()
    trainer = Trainer(model or network(), **(defaults | options))
    arguments = {"x": x, "y": y, "batch_size": 16, "epochs": 2, "verbose": 0}
    arguments |= {"validation_data": (x[:31], y[:31])}
    return trainer, trainer.fit(**(arguments | (fit or {}))).history


def outcome(trainer, history, *more):
    return [w.numpy() for w in trainer.model.weights], history, more


def ragged():
    """Metrics of each rule, that were made outside the scope; evaluate, and predict in order."""
    measured = [keras.metrics.AUC(name="auc"), metrics.PearsonCorrelation(), Largest(), "accuracy"]
    measured.append(metrics.ROCAUC())  # which keeps small integers, that TensorFlow does not send
    trainer, history = fitted(metrics=measured)
    x, y, _ = data(37, 5)
    evaluated = trainer.evaluate(x, y, return_dict=True, verbose=0)
    return outcome(trainer, history, evaluated, trainer.predict(x, batch_size=8, verbose=0))


def micro_batches():
    """With norms of gradients, and validations between steps."""
    fit = {"sample_weight": data()[2], "options": FitOptions(validation_every=2)}
    options = {"micro_batches": 2, "global_clipnorm": 0.5, "log_norms": True}
    trainer, history = fitted(fit=fit, **options)
    return outcome(trainer, history, trainer.model.history.validations)


def updates():
    """Of two optimizers in each step."""
    fit = {
        "x": test_updates.DATA,
        "y": None,
        "validation_data": (test_updates.DATA,),
        "batch_size": 8,
    }
    trainer, history = fitted(test_updates.Gan(), fit=fit, loss=None)
    return outcome(trainer, history)


def batch_norm():
    return outcome(*fitted(network(keras.layers.BatchNormalization(synchronized=True))))


def all_rows():
    largest = lambda y, p, w: keras.ops.max(keras.ops.abs(y - p))
    return outcome(*fitted(metrics=[metrics.EpochMetric(largest, name="worst")]))


def pipeline():
    x, y, _ = data()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(75, seed=4).batch(16)
    sets = {"a": (x[:9], y[:9]), "b": (x, y)}
    return outcome(
        *fitted(fit={"x": batches, "y": None, "batch_size": None, "validation_data": sets})
    )


def own_rows(context):
    """A data set of this worker's rows of each global batch of 18."""
    x, y, weight = data()
    rows = tf.data.Dataset.from_tensor_slices((x, y, weight))
    rows = rows.shard(context.num_input_pipelines, context.input_pipeline_id)
    return rows.batch(18 // context.num_input_pipelines)


def own_rows_on_each():
    """By a function of the input context: a worker reads its own rows alone."""
    measured = [keras.metrics.AUC(name="auc"), metrics.PearsonCorrelation(), Largest(), "accuracy"]
    fit = {"x": own_rows, "y": None, "batch_size": None, "validation_data": own_rows}
    options = {"metrics": measured, "micro_batches": 2, "global_clipnorm": 0.5}
    trainer, history = fitted(fit=fit, **options)
    return outcome(trainer, history, trainer.evaluate(own_rows, return_dict=True, verbose=0))


def skipped_on_each():
    """A row that is not finite, of one worker."""

    def with_nan(context):
        spoil = lambda x, y, weight: (tf.where(weight == data()[2][40], np.nan, x), y)
        return own_rows(context).unbatch().map(spoil).batch(18 // context.num_input_pipelines)

    return outcome(*fitted(guard="skip", fit={"x": with_nan, "y": None, "batch_size": None}))


def fewer_batches():
    """An error that names the data, where one worker has fewer batches than another."""
    short = lambda context: own_rows(context).take(4 - context.input_pipeline_id)
    unknown = lambda context: short(context).filter(lambda *_: True)
    return refusal(lambda: fitted(fit={"x": unknown, "y": None, "batch_size": None}))


def mapped():
    """Rows of a memory-mapped file, a few batches at a time."""
    x, y, _ = data()
    with tempfile.TemporaryDirectory() as directory:
        np.save(f"{directory}/x.npy", x)
        x = np.load(f"{directory}/x.npy", mmap_mode="r")
        return outcome(*fitted(execution=Execution(resident_bytes=0), fit={"x": x}))


def refusal(fit):
    """The kind and words of an error; else that there was none."""
    try:
        fit()
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing", "was refused"


def other_rows_of_a_stream():
    """In one batch in the middle, on one worker."""

    def batches():
        x, y, _ = data()
        x[32:36] += worker() or 0
        yield from ((x[i : i + 4], y[i : i + 4]) for i in range(0, 72, 4))

    return refusal(lambda: fitted(fit={"x": batches(), "y": None, "batch_size": None, "epochs": 1}))


def one_other_row():
    """Of arrays, on one worker."""
    x, y, _ = data()
    x[33] += worker() or 0
    return refusal(lambda: fitted(fit={"x": x}))


def other_rows_to_predict():
    trainer = fitted()[0]
    x, _, _ = data()
    return refusal(lambda: trainer.predict(x[::-1].copy() if worker() else x, verbose=0))


def other_arguments():
    """A loss, on one worker."""
    return refusal(lambda: fitted(loss="mse" if worker() else "mae"))


def other_names():
    """Of validation data, on one worker."""
    x, y, _ = data()
    return refusal(lambda: fitted(fit={"validation_data": {"b" if worker() else "a": (x, y)}}))


def other_calls():
    """Arguments of `fit` that are other ones on one worker: each is named."""

    class Listens(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    other, rate = bool(worker()), keras.optimizers.SGD(0.1 if worker() else 0.01)
    calls = {
        "batch_size": {"fit": {"batch_size": 15 if other else 16}},
        "shuffle": {"fit": {"shuffle": other}},
        "steps_per_epoch": {"fit": {"steps_per_epoch": 3 if other else 4}},
        "validation_data": {"fit": {"validation_data": None if other else data()[:2]}},
        "options": {"fit": {"options": FitOptions(max_time=9.0 if other else 8.0)}},
        "uses_batches": {"fit": {"callbacks": [Listens()] if other else []}},
        "learning rate": {"optimizer": rate},
    }
    found = {word: refusal(lambda given=given: fitted(**given)) for word, given in calls.items()}
    named = [
        word for word, (kind, text) in found.items() if kind == "ArgumentError" and word in text
    ]
    return ("all", "are named") if named == [*calls] else ("not all", str(found))


def other_weights():
    """By a callback that acts on one worker alone."""

    class Acts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if worker():
                kernel = self.model.layers[1].kernel
                kernel.assign(kernel * 0.5)

    return refusal(lambda: fitted(fit={"callbacks": [Acts()]}))


def evaluates():
    """A callback evaluates and predicts by Keras's own methods."""
    found = []

    class Evaluates(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            x, y, _ = data(19, 2)
            found.append(self.model.evaluate(x, y, batch_size=8, verbose=0, return_dict=True))
            found.append(self.model.predict(x, batch_size=8, verbose=0))

    return outcome(*fitted(metrics=["accuracy"], fit={"callbacks": [Evaluates()]}), found)


def uneven():
    """Rows of other numbers on each worker, in blocks of a few batches, and other numbers later."""
    x, y, _ = data(56)
    trainer, history = fitted(execution=Execution(resident_bytes=0), fit={"batch_size": 7})
    results = [trainer.evaluate(x, y, batch_size=n, verbose=0, return_dict=True) for n in (7, 8, 3)]
    return outcome(trainer, history, results)


def longer_rows():
    """A function whose batches are padded, to another length on each worker: an error that says so."""
    lengths = [5] * 12 + [5, 5, 5, 7, 5, 5, 6, 5]

    pairs = [(np.full(n, 0.1 * i, "float32"), [float(i % 2)]) for i, n in enumerate(lengths)]

    def sequences(context):
        signature = tf.TensorSpec((None,)), tf.TensorSpec((1,))
        rows = tf.data.Dataset.from_generator(lambda: iter(pairs), output_signature=signature)
        rows = rows.shard(context.num_input_pipelines, context.input_pipeline_id)
        return rows.padded_batch(4 // context.num_input_pipelines)

    def summed():
        keras.utils.set_random_seed(1)
        inputs = keras.Input((None,))
        total = keras.layers.Lambda(lambda x: keras.ops.sum(x, 1, keepdims=True))(inputs)
        return keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(total))

    fit = {"x": sequences, "y": None, "batch_size": None, "validation_data": None, "epochs": 1}
    return refusal(lambda: fitted(summed(), optimizer="sgd", fit=fit))


def py_dataset():
    return outcome(*fitted(fit={"x": Batches(workers=2), "y": None, "batch_size": None}))


def listener():
    """A callback that hears of each batch gets the same logs."""
    seen = []
    note = lambda batch, logs: seen.append((batch, float(logs["loss"])))
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    return outcome(*fitted(metrics=["accuracy"], fit={"callbacks": [callback]}), seen)


def stopped():
    """By a callback, in the middle of the second epoch, on one of the workers."""

    class Stop(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == 7 and worker() in (None, 1):
                self.model.stop_training = True

    return outcome(*fitted(fit={"callbacks": [Stop()], "epochs": 4}))


def skipped():
    x, y, _ = data()
    x[40, 2] = np.nan
    return outcome(*fitted(guard="skip", fit={"x": x, "shuffle": False}))


def rolled_back():
    x, y, _ = data()
    x[40, 2] = np.nan
    return outcome(*fitted(guard=Guard("rollback"), fit={"x": x, "shuffle": False}))


def raised():
    """The error, and the weights that it leaves."""
    x, y, _ = data()
    x[40, 2] = np.nan
    trainer = Trainer(
        network(), optimizer="adam", loss="binary_crossentropy", strategy=strategy(), seed=3
    )
    try:
        trainer.fit(x, y, batch_size=16, shuffle=False, verbose=0)
    except NonFiniteError as error:
        weights = [w.numpy() for w in trainer.model.weights]
        return weights, (error.epoch, error.step, error.rows), []
    raise AssertionError("nothing was raised")


def float64():
    with cells.precision("float64"):
        x, y, weight = (part.astype("float64") for part in data())
        measured = [keras.metrics.AUC(name="auc"), metrics.PearsonCorrelation()]
        fit = {"x": x, "y": y, "sample_weight": weight, "validation_data": (x[:31], y[:31])}
        return outcome(*fitted(metrics=measured, micro_batches=2, global_clipnorm=0.5, fit=fit))


def mixed_precision():
    """Against as many replicas of one machine: half precision rounds by how a batch is cut."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        cut = {} if worker() is not None else {"strategy": f"mirrored:{PARTS}"}
        return outcome(*fitted(**cut))
    finally:
        keras.config.set_dtype_policy(usual)


CHUNKS = []  # of the steps that have run


def noting_chunks(fit):
    """Fits, and notes how many steps each call had, and by which plan."""
    usual = Runner.run

    def noted(self, chunk):
        CHUNKS.append(
            (chunk.steps, zlib.crc32(self.choice.plan.name.encode()) if self.choice.plan else 0)
        )
        return usual(self, chunk)

    CHUNKS.clear()
    Runner.run = noted
    try:
        return outcome(*fit(), *zip(*CHUNKS, strict=True))
    finally:
        Runner.run = usual


class Slow(keras.layers.Layer):
    """Takes ten times as long on one worker."""

    def call(self, x):
        seconds = 0.01 if worker() == 1 else 0.001

        def slowly(values):
            time.sleep(seconds)
            return values

        return tf.ensure_shape(tf.numpy_function(slowly, [x], x.dtype), x.shape)


def slow_steps():
    """Plans are compared, and one worker takes ten times as long for each step."""
    x, y, _ = data(2000)
    fit = {"x": x, "y": y, "epochs": 4}
    return noting_chunks(lambda: fitted(network(Slow()), optimizer="sgd", fit=fit))


def slow_data():
    """The same of drawing each batch."""

    def batches():
        for start in range(0, 8000, 16):
            time.sleep(0.01 if worker() == 1 else 0.001)
            yield tuple(part[start % 64 : start % 64 + 16] for part in data()[:2])

    fit = {"x": batches(), "y": None, "batch_size": None, "epochs": 1}
    return noting_chunks(lambda: fitted(optimizer="sgd", fit=fit))


def many_steps():
    """Plans are compared."""
    x, y, _ = data(3000)
    return outcome(*fitted(optimizer="sgd", fit={"x": x, "y": y, "epochs": 3}))


def xla_loop():
    return outcome(*fitted(execution="xla_loop"))


def trainable_model():
    """Under Keras's own fit, evaluate and predict."""
    x, y, _ = data()
    scope = strategy()
    with strategy_lib.scope(scope):
        model = network(make=TrainableModel)
        optimizer = keras.optimizers.Adam(0.01)
        measured = ["accuracy", keras.metrics.AUC(name="auc")]
        model.compile(optimizer, "binary_crossentropy", metrics=measured, micro_batches=2)
    arguments = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0}
    history = model.fit(x, y, validation_data=(x[:31], y[:31]), **arguments).history
    evaluated = model.evaluate(x, y, verbose=0, return_dict=True)
    outputs = model.predict(x, batch_size=8, verbose=0)
    return [w.numpy() for w in model.weights], history, (evaluated, outputs)


def no_seed():
    """Other random numbers in each process, and a model that was made outside: equal all the same."""
    number = worker() or 0
    keras.utils.set_random_seed(number)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, activation="sigmoid")])
    return outcome(*fitted(model, seed=None))


def other_data():
    """An error that names the data, and no number."""
    x, y, _ = data(seed=worker() or 0)
    return refusal(lambda: fitted(fit={"x": x, "y": y}))


CASES = (
    ragged, micro_batches, updates, batch_norm, all_rows, pipeline, py_dataset, listener, stopped, skipped,
    many_steps, xla_loop, trainable_model, no_seed, other_data, own_rows_on_each, skipped_on_each,
    fewer_batches, mapped, rolled_back, raised, float64, mixed_precision, slow_steps, slow_data,
    evaluates, uneven, longer_rows, other_rows_of_a_stream, one_other_row, other_rows_to_predict,
    other_arguments, other_names, other_calls, other_weights,
)  # fmt: skip


def main(names, directory):
    """Runs the cases, and writes what they have come to, or their errors."""
    devices = PARTS if worker() is None else REPLICAS
    if devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * devices
        )
    if worker() is not None:
        strategy()  # before anything else of TensorFlow's
    outcomes = {}
    for case in CASES:
        if case.__name__ not in names:
            continue
        try:
            outcomes[case.__name__] = case()
        except Exception:
            outcomes[case.__name__] = traceback.format_exc()
        print(case.__name__, flush=True)
    name = "one" if worker() is None else worker()
    pathlib.Path(directory, f"{name}.pickle").write_bytes(pickle.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2])
