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
import traceback

import keras
import numpy as np
import tensorflow as tf

from kerastrain import metrics
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain.distribution import strategy as strategy_lib

REPLICAS = int(os.environ.get("REPLICAS", "1"))


def worker():
    """The number of this worker; None for one device."""
    config = json.loads(os.environ.get("TF_CONFIG", "null"))
    return config and config["task"]["index"]


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
    trainer = Trainer(model or network(), strategy=strategy(), **(defaults | options))
    arguments = {"x": x, "y": y, "batch_size": 16, "epochs": 2, "verbose": 0}
    arguments |= {"validation_data": (x[:31], y[:31])}
    return trainer, trainer.fit(**(arguments | (fit or {}))).history


def outcome(trainer, history, *more):
    return [w.numpy() for w in trainer.model.weights], history, more


def ragged():
    """Metrics of each rule, that were made outside the scope; evaluate, and predict in order."""
    measured = [keras.metrics.AUC(), metrics.PearsonCorrelation(), Largest(), "accuracy"]
    trainer, history = fitted(metrics=measured)
    x, y, _ = data(37, 5)
    evaluated = trainer.evaluate(x, y, return_dict=True, verbose=0)
    return outcome(trainer, history, evaluated, trainer.predict(x, batch_size=8, verbose=0))


def micro_batches():
    return outcome(*fitted(micro_batches=2, global_clipnorm=0.5, fit={"sample_weight": data()[2]}))


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
        measured = ["accuracy", keras.metrics.AUC()]
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
    try:
        fitted(fit={"x": x, "y": y})
    except Exception as error:
        return type(error).__name__, str(error)
    return "nothing was refused"


CASES = (
    ragged, micro_batches, batch_norm, all_rows, pipeline, py_dataset, listener, stopped, skipped,
    many_steps, xla_loop, trainable_model, no_seed, other_data,
)  # fmt: skip


def main(names, directory):
    """Runs the cases, and writes what they have come to, or their errors."""
    if REPLICAS > 1:
        cpu, devices = tf.config.list_physical_devices("CPU")[0], REPLICAS
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
