"""Trainings to be killed and resumed, by name: what data, what model, what plan.

Each is a function of no arguments that gives the arguments of `verify_resume`. They are run in
processes of their own, so all that they need is made in them.
"""

import pathlib
import tempfile

import keras
import numpy as np
import tensorflow as tf

from kerastrain import Execution
from kerastrain import Guard
from kerastrain import Trainer
from tests.support.models import small_network

ROWS, BATCH = 44, 8  # five full batches and one of four rows


def rows(seed=0, count=ROWS):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 6)).astype("float32")
    return x, (x.sum(axis=1, keepdims=True) + rng.normal(size=(count, 1))).astype("float32")


def network(dropout=False, norm=False):
    keras.utils.set_random_seed(5)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    if norm:
        hidden = keras.layers.BatchNormalization()(hidden)
    if dropout:
        hidden = keras.layers.Dropout(0.4)(hidden)
    return keras.Model(inputs, keras.layers.Dense(1)(hidden))


def trainer(model=network, optimizer=None, devices=1, **options):
    def make():
        if devices > 1:
            cpus = tf.config.list_physical_devices("CPU")[:1]
            tf.config.set_logical_device_configuration(
                cpus[0], [tf.config.LogicalDeviceConfiguration()] * devices
            )
        made = keras.optimizers.Adam(0.01) if optimizer is None else optimizer()
        arguments = {"loss": "mse", "metrics": ["mae"], "seed": 3, "execution": "loop"}
        arguments |= {"strategy": f"mirrored:{devices}"} if devices > 1 else {}
        arguments |= {k: v() if isinstance(v, type) else v for k, v in options.items()}
        return Trainer(model(), optimizer=made, **arguments)

    return make


def whole(make_trainer, data=rows, epochs=3, **arguments):
    return {"make_trainer": make_trainer, "data": data, "epochs": epochs, **arguments}


def on_arrays(**options):
    return lambda: whole(trainer(**options), batch_size=BATCH)


# Data sets --------------------------------------------------------------------


def pipeline(shuffle=True, stateful=False, repeat=False, shapes=False):
    def make():
        keras.utils.set_random_seed(9)
        made = tf.data.Dataset.from_tensor_slices(rows())
        if shuffle:
            made = made.shuffle(16, seed=4)
        if stateful:
            made = made.map(lambda x, y: (x + tf.random.uniform((6,), seed=2), y))
        made = made.batch(BATCH).prefetch(2)
        if shapes:  # not known, so that Python draws them
            made = made.map(lambda x, y: tf.py_function(lambda *b: b, [x, y], [tf.float32] * 2))
        return made.repeat() if repeat else made

    return make


class Batches(keras.utils.PyDataset):
    """A data set by index, which may shuffle itself after each pass."""

    def __init__(self, shuffles=False, **arguments):
        super().__init__(**arguments)
        self.x, self.y = rows()
        self.shuffles, self.rng = shuffles, np.random.default_rng(2)
        self.order = np.arange(6)

    num_batches = 6

    def __getitem__(self, index):
        start = self.order[index] * BATCH
        return self.x[start : start + BATCH], self.y[start : start + BATCH]


class Reshuffled(Batches):
    def on_epoch_end(self):
        self.rng.shuffle(self.order)


class Many(Reshuffled):
    """More batches than Keras's workers have waiting, another order in each pass."""

    num_batches = 30

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.x, self.y = rows(count=30 * BATCH)
        self.order = np.arange(30)

    def on_epoch_begin(self):
        self.x = self.x * 1.1


_PLACES = []  # directories that are removed with this process, which starts those that train


def files_then_rows():
    """Lines of files: the files in an order of their own, then the rows."""
    _PLACES.append(tempfile.TemporaryDirectory())
    place = _PLACES[-1].name
    for number in range(4):
        x, y = rows(number, 11)
        lines = "\n".join(",".join(map(str, row)) for row in np.concatenate([x, y], 1).tolist())
        pathlib.Path(place, f"{number}.csv").write_text(lines)

    def parsed(line):
        values = tf.io.decode_csv(line, [0.0] * 7)
        return tf.stack(values[:6]), tf.stack(values[6:])

    def make():
        made = tf.data.Dataset.list_files(f"{place}/*.csv", seed=1)
        made = made.interleave(tf.data.TextLineDataset, cycle_length=2)
        return made.map(parsed).shuffle(16, seed=2).batch(BATCH)

    return make


def mixtures(kind):
    """Shuffled sets made one, and shuffled."""

    def make():
        one, other = (
            tf.data.Dataset.from_tensor_slices(rows(i, 22)).shuffle(22, seed=i) for i in range(2)
        )
        if kind == "zip":
            made = tf.data.Dataset.zip((one.repeat(2), other.repeat(2)))
            made = made.map(lambda a, b: (a[0] + b[0], a[1] + b[1]))
        elif kind == "concatenate":
            made = one.concatenate(other)
        else:
            made = tf.data.Dataset.sample_from_datasets([one, other], seed=3)
        return made.shuffle(16, seed=4).batch(BATCH).prefetch(1)

    return make


def repeated_twice():
    return tf.data.Dataset.from_tensor_slices(rows()).shuffle(44, seed=1).repeat(2).batch(BATCH)


def text_and_numbers():
    x, y = rows()
    words = np.array(["red", "green", "blue", "green red", "blue blue red"])
    text = tf.constant(words[(x[:, 0] * 10).astype(int) % 5].tolist())
    return {"numbers": x, "text": text, "word": text[:, None]}, y


def sequences():
    x, y = rows(count=24)
    return x.reshape(24, 3, 2), y


def torch_loader():
    import torch

    torch.manual_seed(3)
    x, y = rows()
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y)), BATCH, shuffle=True
    )


def grain_batches():
    import grain

    x, y = rows()
    return grain.MapDataset.source([(x[i], y[i]) for i in range(ROWS)]).shuffle(seed=1).batch(BATCH)


def ragged():
    x, y = rows()
    parts = tf.RaggedTensor.from_row_lengths(x.reshape(-1), [6] * ROWS)
    return tf.data.Dataset.from_tensor_slices((parts, y)).shuffle(16, seed=4).ragged_batch(BATCH)


def on_data(data, **arguments):
    return lambda: whole(
        trainer(ragged_network if data is ragged else dropout_network), data, **arguments
    )


def ragged_network():
    keras.utils.set_random_seed(5)
    inputs = keras.Input((None,), ragged=True)
    dense = keras.layers.Lambda(lambda x: x.to_tensor(shape=(None, 6)), output_shape=(6,))(inputs)
    return keras.Model(inputs, keras.layers.Dense(1)(dense))


def dropout_network():
    return network(dropout=True, norm=True)


def stateful_network():
    """Layers whose states go from batch to batch, one in a wrapper."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input(batch_shape=(4, 3, 2))
    hidden = keras.layers.LSTM(5, stateful=True, return_sequences=True, dropout=0.2)(inputs)
    hidden = keras.layers.Bidirectional(keras.layers.GRU(4, stateful=True))(hidden)
    return keras.Model(inputs, keras.layers.Dense(1)(hidden))


def adapted_network():
    """Layers that learn of the data before the training."""
    keras.utils.set_random_seed(5)
    values, _ = text_and_numbers()
    inputs = {
        "numbers": keras.Input((6,)),
        "text": keras.Input((), dtype="string"),
        "word": keras.Input((1,), dtype="string"),
    }
    layers = {
        "numbers": keras.layers.Normalization(),
        "text": keras.layers.TextVectorization(output_mode="multi_hot"),
        "word": keras.layers.StringLookup(output_mode="one_hot"),
    }
    for name, layer in layers.items():
        layer.adapt(values[name])
    bins = keras.layers.Discretization(num_bins=4, output_mode="one_hot")
    bins.adapt(values["numbers"][:, :1])
    parts = [layer(inputs[name]) for name, layer in layers.items()]
    parts.append(bins(inputs["numbers"][:, :1]))
    hidden = keras.layers.Dropout(0.3)(keras.layers.Concatenate()(parts))
    return keras.Model(inputs, keras.layers.Dense(1)(hidden))


class Annealed(keras.losses.Loss):
    """A loss with state: its weight falls from step to step, and it draws random numbers."""

    def __init__(self):
        super().__init__(name="annealed")
        self.weight = keras.Variable(1.0, trainable=False)
        self.noise = keras.random.SeedGenerator(7)

    def call(self, y_true, y_pred):
        self.weight.assign(self.weight * 0.9)
        noise = keras.random.normal(keras.ops.shape(y_true), stddev=0.1, seed=self.noise)
        return keras.ops.mean(self.weight * keras.ops.square(y_true + noise - y_pred), axis=-1)


# Callbacks --------------------------------------------------------------------


class Remembers(keras.callbacks.Callback):
    """A callback of one's own, whose decisions depend on what it has seen."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(float(logs["loss"]))
        self.model.optimizer.learning_rate.assign(0.01 / len(self.seen))

    def get_state(self):
        return {"seen": self.seen}

    def set_state(self, state):
        self.seen = state["seen"]


class InPlace(keras.callbacks.Callback):
    """A callback whose state is one array, which it changes."""

    def __init__(self):
        super().__init__()
        self.counts = np.zeros(60_000)

    def on_train_batch_end(self, batch, logs=None):
        self.counts += 1

    def get_state(self):
        return self.counts

    def set_state(self, state):
        self.counts = state


@keras.saving.register_keras_serializable("resuming")
class Adversarial(keras.Model):
    """A model with a second optimizer and a variable of TensorFlow's."""

    def __init__(self):
        super().__init__()
        keras.utils.set_random_seed(5)
        self.one, self.other = keras.layers.Dense(8, "relu"), keras.layers.Dense(1)
        self.second = keras.optimizers.Adam(0.02)
        self.scale = tf.Variable(1.0)
        self(np.zeros((1, 6), "float32"))
        self.second.build(self.one.trainable_variables)

    def call(self, x):
        return self.other(self.one(x)) * self.scale

    def train_step(self, data):
        x, y = data
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        for optimizer, layer in ((self.second, self.one), (self.optimizer, self.other)):
            variables = layer.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.scale.assign(self.scale * 0.99)
        self._loss_tracker.update_state(loss)
        return self.get_metrics_result()


def deciding():
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=0, factor=0.5, cooldown=1),
        keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
    ]


def scheduled():
    return [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
    ]


def with_ema():
    return keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)


def half_precision():
    keras.config.set_dtype_policy("mixed_float16")
    return network(dropout=True)


def scaled():
    return keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=1024.0, dynamic_growth_steps=4
    )


def with_bad_rows():
    x, y = rows()
    x[[9, 30]] = np.nan
    return x, y


def guarded(policy):
    guard = Guard(policy, max_skipped=30, snapshot_every=5)
    return lambda: whole(trainer(dropout_network, guard=guard), with_bad_rows, batch_size=BATCH)


def most():
    """Nearly all at once."""
    return whole(
        trainer(dropout_network, with_ema, devices=2, micro_batches=2),
        pipeline(),
        epochs=5,
        validation_data=rows(1, 12),
        callbacks=deciding,
    )


CASES = {
    "arrays": on_arrays(),
    "arrays, streamed": on_arrays(execution=Execution(plan="loop", resident_bytes=0)),
    "plan step": on_arrays(execution="step"),
    "plan xla_step": on_arrays(execution="xla_step"),
    "plan xla_loop": on_arrays(execution="xla_loop"),
    "deterministic": on_arrays(execution=Execution(deterministic=True)),
    "eager": lambda: whole(trainer(execution=Execution(run_eagerly=True)), epochs=2, batch_size=BATCH),
    "arrays, steps per epoch": lambda: whole(
        trainer(), batch_size=BATCH, steps_per_epoch=4, epochs=4
    ),
    "split, by the batch": lambda: whole(
        trainer(dropout_network), batch_size=BATCH, shuffle="batch", validation_split=0.3
    ),
    "tf.data": on_data(pipeline()),
    "tf.data, in order": on_data(pipeline(shuffle=False)),
    "tf.data, endless": on_data(pipeline(repeat=True), steps_per_epoch=5, epochs=4),
    "tf.data, stateful": on_data(pipeline(stateful=True)),
    "tf.data, of Python": on_data(pipeline(shapes=True)),
    "tf.data to validate": lambda: whole(
        trainer(), batch_size=BATCH, validation_data=pipeline(), validation_freq=2, epochs=4
    ),
    "PyDataset": on_data(Batches),
    "PyDataset, shuffled": on_data(Batches, shuffle=True),
    "PyDataset that shuffles itself": on_data(Reshuffled),
    "PyDataset with workers": on_data(lambda: Batches(workers=2)),
    "PyDataset with workers that shuffles itself": on_data(lambda: Reshuffled(workers=2)),
    "PyDataset with workers, many": on_data(lambda: Many(workers=2), epochs=2),
    "PyDataset with processes": on_data(
        lambda: Batches(workers=2, use_multiprocessing=True), shuffle=True
    ),
    "PyDataset with workers to validate": lambda: whole(
        trainer(), batch_size=BATCH, validation_data=lambda: Reshuffled(workers=2)
    ),
    "tf.data, files, then rows": lambda: on_data(files_then_rows())(),
    "tf.data, zip": on_data(mixtures("zip")),
    "tf.data, concatenate": on_data(mixtures("concatenate")),
    "tf.data, sample": on_data(mixtures("sample")),
    "tf.data, repeated twice": on_data(repeated_twice, epochs=2),
    "torch": on_data(torch_loader),
    "Grain": on_data(grain_batches),
    "validation in steps": lambda: whole(
        trainer(), batch_size=BATCH, validation_data=pipeline(), validation_steps=2
    ),
    "ragged": on_data(ragged),
    "stateful RNN": lambda: whole(
        trainer(stateful_network), sequences, batch_size=4, shuffle=False
    ),
    "a loss with state": lambda: whole(
        trainer(dropout_network, loss=Annealed), batch_size=BATCH
    ),
    "adapted layers": lambda: whole(
        trainer(adapted_network), text_and_numbers, batch_size=BATCH
    ),
    "two optimizers": lambda: whole(trainer(Adversarial), batch_size=BATCH),
    "in-place state": lambda: whole(
        trainer(), batch_size=BATCH, callbacks=lambda: [InPlace()]
    ),
    "plateau and early stopping": lambda: whole(
        trainer(dropout_network), batch_size=BATCH, epochs=8, validation_split=0.3,
        callbacks=deciding,
    ),
    "own callback": lambda: whole(
        trainer(), batch_size=BATCH, callbacks=lambda: [Remembers()]
    ),
    "schedule and EMA": lambda: whole(
        trainer(network, with_ema), batch_size=BATCH, callbacks=scheduled
    ),
    "mixed_float16": lambda: whole(trainer(half_precision, scaled), batch_size=BATCH),
    "two replicas": lambda: whole(
        trainer(dropout_network, devices=2, micro_batches=2), batch_size=BATCH
    ),
    "two replicas, XLA": lambda: whole(
        trainer(dropout_network, devices=2, execution="xla_loop"), batch_size=BATCH
    ),
    "bad rows left out": guarded("skip"),
    "bad rows, rolled back": guarded("rollback"),
    "out of memory": lambda: whole(
        trainer(small_network(3), micro_batches="auto"), batch_size=BATCH
    ),
    "most": most,
}  # fmt: skip
# The steps of an epoch, where they are not six.
STEPS = {"PyDataset with workers, many": 30, "tf.data, repeated twice": 11}
NEEDS = {"torch": "torch", "Grain": "grain"}
