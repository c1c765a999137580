"""Several updates in a step: the numbers of whole batches by hand, however they are cut."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import ModelError
from kerastrain import NonFiniteError
from kerastrain import RunDir
from kerastrain import RunError
from kerastrain import TrainableModel
from kerastrain import Trainer
from kerastrain import Update
from tests.support import tiers

RANDOM = np.random.default_rng(0)
REAL = RANDOM.normal(size=(43, 4)).astype("float32")
NOISE = RANDOM.normal(size=(43, 3)).astype("float32")
SIZE = 8
RATES = {"discriminator": 0.02, "generator": 0.01}


class Gan(TrainableModel):
    """A generator and a discriminator, with an optimizer each; the noise comes with the data."""

    def __init__(self):
        super().__init__()
        dense, penalty = keras.layers.Dense, keras.regularizers.L2(0.01)
        self.generator = keras.Sequential([dense(8, "tanh"), dense(4, kernel_regularizer=penalty)])
        self.discriminator = keras.Sequential([dense(8, "tanh"), dense(1)])
        self.other_optimizer = keras.optimizers.Adam(RATES["discriminator"])
        self.crossentropy = keras.losses.BinaryCrossentropy(from_logits=True)

    def discriminator_loss(self, x, y, sample_weight, training):
        real = self.discriminator(x["real"], training=training)
        fake = self.discriminator(self.generator(x["noise"]), training=training)
        is_real, is_fake = keras.ops.ones_like(real), keras.ops.zeros_like(fake)
        return self.crossentropy(is_real, real) + self.crossentropy(is_fake, fake)

    def generator_loss(self, x, y, sample_weight, training):
        fake = self.discriminator(self.generator(x["noise"], training=training))
        return self.crossentropy(keras.ops.ones_like(fake), fake)

    def updates(self):
        discriminator = Update(
            "discriminator", self.discriminator_loss, self.discriminator, self.other_optimizer
        )
        return [
            discriminator,
            Update("generator", self.generator_loss, self.generator, self.optimizer),
        ]


DATA = {"real": REAL, "noise": NOISE}


def fitted(make=Gan, epochs=3, run_dir=None, data=DATA, **options):
    """``(model, history)`` of a training by `Trainer`."""
    keras.utils.set_random_seed(1)
    model, optimizer = make(), keras.optimizers.Adam(RATES["generator"])
    trainer = Trainer(model, optimizer=optimizer, seed=0, **options)
    fit = {"batch_size": SIZE, "shuffle": False, "verbose": 0, "validation_data": (data,)}
    return model, trainer.fit(data, epochs=epochs, run_dir=run_dir, **fit).history


@pytest.fixture(scope="module")
def by_hand():
    """``(weights, {name: losses of each epoch})`` of the same training, written out."""
    keras.utils.set_random_seed(1)
    model = Gan()
    parts = {"discriminator": model.discriminator, "generator": model.generator}
    losses = {"discriminator": model.discriminator_loss, "generator": model.generator_loss}
    optimizers = {name: keras.optimizers.Adam(rate) for name, rate in RATES.items()}
    logs = {f"{name}_loss": [] for name in RATES} | {"loss": []}
    for _ in range(3):
        sums = dict.fromkeys(logs, 0.0)
        for first in range(0, len(REAL), SIZE):
            batch = {name: tf.constant(array[first : first + SIZE]) for name, array in DATA.items()}
            rows = len(batch["real"])
            for name, part in parts.items():
                with tf.GradientTape() as tape:
                    loss = losses[name](batch, None, None, True)
                    penalty = tf.add_n(part.losses) if part.losses else 0.0
                    total = loss + penalty
                if name == "discriminator":  # the penalty as it is before the step
                    sums["loss"] += rows * float(tf.add_n(model.generator.losses))
                sums[f"{name}_loss"] += rows * float(loss)
                sums["loss"] += rows * float(loss)
                weights = part.trainable_weights
                optimizers[name].apply(tape.gradient(total, weights), weights)
        for name, value in sums.items():
            logs[name].append(value / len(REAL))
    return model.get_weights(), logs


def assert_close(model, history, expected):
    weights, logs = expected
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)
    for name, values in logs.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5)


CUTS = {
    "whole": {},
    "micro-batches": {"micro_batches": 3},
    "replicas": {"strategy": "mirrored:2"},
    "both, by XLA": {"strategy": "mirrored:2", "micro_batches": 2, "execution": "xla_loop"},
    "XLA": {"execution": "xla_loop"},
    "eagerly": {"run_eagerly": True},
}


@pytest.mark.parametrize("cut", tiers.cases(CUTS, ["whole", "replicas"]))
def test_numbers(by_hand, cut):
    """Weights, the loss of each update and their sum are those of the loop by hand."""
    model, history = fitted(**CUTS[cut])
    assert_close(model, history, by_hand)
    assert history.keys() >= {"val_discriminator_loss", "val_generator_loss", "val_loss"}


@pytest.mark.parametrize("replicas", [1, tiers.slow(2)])
def test_plain_fit(by_hand, replicas):
    """Under Keras's own ``fit``, too."""
    devices = [f"CPU:{number}" for number in range(replicas)]
    strategy = (
        tf.distribute.MirroredStrategy(devices) if replicas > 1 else tf.distribute.get_strategy()
    )
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = Gan()
        model.compile(keras.optimizers.Adam(RATES["generator"]))
    fit = {"batch_size": SIZE, "shuffle": False, "verbose": 0, "validation_data": (DATA,)}
    history = model.fit(DATA, epochs=3, **fit).history
    assert_close(model, history, by_hand)


def test_evaluate_trains_nothing():
    """It computes the losses of the updates."""
    model, history = fitted()
    before = model.get_weights()
    results = Trainer(model, optimizer="sgd").evaluate(
        DATA, batch_size=SIZE, verbose=0, return_dict=True
    )
    np.testing.assert_allclose(results["loss"], history["val_loss"][-1], rtol=1e-5)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_compiled_optimizer_that_trains_nothing():
    """What callbacks do to it has no effect, so that is said."""
    unused = type("Unused", (Gan,), {"updates": lambda self: Gan.updates(self)[:1]})
    with pytest.warns(
        UserWarning, match="No update of Unused has the optimizer that it is compiled"
    ):
        fitted(unused, epochs=1)


@pytest.mark.slow
def test_clipping_and_the_hook_for_gradients_act_on_each():
    """As on the one update of other models."""
    seen = []

    class Noted(Gan):
        def transform_gradients(self, gradients, variables):
            seen.append([variable.path.split("/")[0] for variable in variables])
            return [gradient * 0.0 for gradient in gradients]

    first, _ = fitted(Noted, epochs=1, execution="step", clipnorm=1.0)
    longer, _ = fitted(Noted, epochs=2, execution="step", clipnorm=1.0)
    assert [4, 4] == [len(names) for names in seen[:2]]
    assert seen[0] != seen[1]
    for one, other in zip(first.get_weights(), longer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_resumed_to_the_same_bits(tmp_path):
    """Both optimizers' states are saved."""
    whole, history = fitted()
    fitted(epochs=2, run_dir=RunDir(tmp_path))
    resumed, again = fitted(epochs=3, run_dir=RunDir(tmp_path))
    assert history == again
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


class Two(TrainableModel):
    """Two updates, whose names, order, losses and optimizer are arguments."""

    def __init__(self, names=("a", "b"), swapped=False, scale=1.0, rate=0.05, beta=0.9):
        super().__init__()
        self.one, self.two = keras.layers.Dense(1), keras.layers.Dense(4)
        self.second = keras.optimizers.Adam(rate, beta_1=beta)
        self.__dict__["how"] = names, swapped, scale

    def loss_one(self, x, y, sample_weight, training):
        return keras.ops.mean((self.one(x) - x[:, :1]) ** 2, -1)

    def loss_two(self, x, y, sample_weight, training):
        return keras.ops.mean((self.two(self.one(x)) - x) ** 2, -1)

    def updates(self):
        names, swapped, scale = self.__dict__["how"]
        loss = self.loss_one if scale == 1.0 else self.loss_two
        found = [
            Update(names[0], loss, self.one, self.optimizer),
            Update(names[1], self.loss_two, [self.two], self.second),
        ]
        return found[::-1] if swapped else found


def resumed(directory, epochs, **how):
    keras.utils.set_random_seed(1)
    trainer = Trainer(Two(**how), optimizer=keras.optimizers.SGD(0.05), seed=0)
    trainer.fit(REAL, batch_size=SIZE, epochs=epochs, verbose=0, run_dir=directory)


@pytest.mark.parametrize(
    "how",
    [
        {"names": ("z", "b")},
        tiers.slow({"swapped": True}),
        {"scale": 2.0},
        tiers.slow({"beta": 0.5}),
    ],
    ids=str,
)
def test_a_run_of_other_updates_is_refused(how, tmp_path):
    """Names, order, losses and optimizers make a run what it is, as the compiled ones do."""
    resumed(tmp_path, 1)
    with pytest.raises(RunError, match="is another one: (updates|model.second)"):
        resumed(tmp_path, 2, **how)
    resumed(tmp_path, 2)


def test_another_rate_of_a_second_optimizer(tmp_path):
    """As of the compiled one: that of the run is in force, and a warning says so."""
    resumed(tmp_path, 1)
    with pytest.warns(UserWarning, match="learning rate is restored from the checkpoint, 0.05"):
        resumed(tmp_path, 2, rate=0.5)


def test_an_optimizer_that_is_replaced():
    """The new one trains in the next `fit`."""
    model = Two()
    trainer = Trainer(model, optimizer="sgd", seed=0)
    trainer.fit(REAL, verbose=0)
    model.second = keras.optimizers.SGD(0.0)
    before = model.two.get_weights()[0]
    trainer.fit(REAL, batch_size=len(REAL), verbose=0)
    np.testing.assert_array_equal(before, model.two.get_weights()[0])
    assert 1 == int(model.second.iterations)


def test_updates_that_are_not_the_same():
    """Each step runs all of them."""

    class Alternates(Two):
        def updates(self):
            self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
            return super().updates()[: 1 + self.__dict__["calls"] % 2]

    with pytest.raises(ModelError, match=r"returns \[.*\] in one call and \[.*\] in the next"):
        Trainer(Alternates(), optimizer="sgd").fit(REAL, verbose=0)


def test_a_loss_that_is_not_finite_is_named():
    """The update, too; the weights are those from before the step."""

    class Breaks(Gan):
        def generator_loss(self, x, y, sample_weight, training):
            loss = super().generator_loss(x, y, sample_weight, training)
            return keras.ops.where(x["real"][0, 0] == REAL[16, 0], np.inf, 1.0) * loss

    with pytest.raises(NonFiniteError, match="Step 3 .* the loss of the update 'generator' is inf"):
        fitted(Breaks)


def updates_like(**changes):
    """A model whose generator's update is another one."""

    class Changed(Gan):
        def updates(self):
            first, second = super().updates()
            arguments = vars(second) | {name: change(self) for name, change in changes.items()}
            return [first, Update(**arguments)]

    return Changed


BAD = {
    "the optimizer of another": (
        updates_like(optimizer=lambda model: model.other_optimizer),
        "have optimizer=<",
    ),
    "the name of another": (
        updates_like(name=lambda _: "discriminator"),
        "have name='discriminator'",
    ),
    "no weights": (updates_like(variables=lambda _: keras.layers.Dense(1)), "trains no weight"),
    "a loss of a name": (updates_like(loss=lambda _: "mse"), "must be a function of"),
    "variables of a name": (
        updates_like(variables=lambda _: "generator"),
        "`variables` of the update",
    ),
    "a loss that fails": (
        updates_like(loss=lambda model: lambda x, y, w, training: model.generator(x["noises"])),
        "update 'generator' of Changed cannot be computed",
    ),
    "no loss": (updates_like(loss=lambda _: lambda *_: None), "It returned None"),
    "a number": (updates_like(loss=lambda _: lambda *_: 3), "It returned 3"),
    "an optimizer for each call": (
        updates_like(optimizer=lambda _: keras.optimizers.SGD()),
        "makes the optimizer of 'generator' anew",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case):
    """Before a weight changes, with the reason."""
    make, message = BAD[case]
    with pytest.raises(ModelError, match=message):
        fitted(make)


def test_a_loss_of_other_weights():
    """An update that would do nothing is refused."""

    class Other(Gan):
        def discriminator_loss(self, x, y, sample_weight, training):
            return keras.ops.mean(self.generator(x["noise"])) + 0.0 * keras.ops.mean(
                keras.ops.stop_gradient(self.discriminator(x["real"]))
            )

    with pytest.raises(ModelError, match="'discriminator' of Other does not depend on the weights"):
        fitted(Other)


def test_what_would_not_be_used_is_refused():
    """A compiled loss, metrics of outputs that there are not, and losses that a layer adds."""
    for argument in ({"loss": "mse"}, {"metrics": ["mae"]}):
        with pytest.raises(
            ModelError, match=f"`{next(iter(argument))}` of `compile` would not be used"
        ):
            fitted(**argument)

    class Adds(Gan):
        def __init__(self):
            super().__init__()
            self.generator.add(keras.layers.ActivityRegularization(0.1))

    with pytest.raises(ModelError, match="A layer of Adds adds a loss"):
        fitted(Adds)
    for returned in ([None], None, []):
        with pytest.raises(ModelError, match="must return a list of kerastrain.Update"):
            fitted(type("Empty", (Gan,), {"updates": lambda self, found=returned: found}))


@keras.saving.register_keras_serializable("tests")
class SavedGan(Gan):
    """One that can be loaded; it has no ``call``."""

    def get_config(self):
        return {}


@pytest.mark.parametrize("entry_point", ["fit", tiers.slow("trainer")])
def test_saved_and_loaded(tmp_path, entry_point):
    """All weights, and the state of both optimizers: it trains on as if it had not been saved."""
    if entry_point == "trainer":
        model, _ = fitted(SavedGan, epochs=1)
        model.compile(keras.optimizers.Adam(RATES["generator"]))
    else:
        keras.utils.set_random_seed(1)
        model = SavedGan()
        model.compile(keras.optimizers.Adam(RATES["generator"]))
        model.fit(DATA, batch_size=SIZE, shuffle=False, verbose=0)
    model.save(tmp_path / "gan.keras")
    loaded = keras.saving.load_model(tmp_path / "gan.keras")
    assert len(loaded.get_weights()) == 8
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for one in (model, loaded):
        one.fit(DATA, batch_size=SIZE, shuffle=False, verbose=0)
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)


@pytest.mark.slow
def test_moving_averages():
    """Of each optimizer under `Trainer`; Keras's own fit would take those of one."""

    class Averaged(Gan):
        def __init__(self):
            super().__init__()
            self.other_optimizer = keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.9)

    plain, _ = fitted(epochs=1)
    averaged, _ = fitted(Averaged, epochs=1)
    first = averaged.other_optimizer._model_variables_moving_average[0].numpy()
    np.testing.assert_array_equal(first, averaged.discriminator.weights[0].numpy())
    assert abs(first - plain.discriminator.weights[0].numpy()).max() > 1e-4
    model = Averaged()
    model.compile("sgd")
    with pytest.raises(ModelError, match="moving averages .* Train it with kerastrain.Trainer"):
        model.fit(DATA, verbose=0)
