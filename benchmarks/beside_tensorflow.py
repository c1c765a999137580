"""The trainers of `beside` that run on TensorFlow: kerastrain, Keras's ``fit``, and Orbit.

They follow the contract of `beside_work`. Padded tokens are masked by a layer `Masking`, as
Keras does it: its losses are then the mean over what is not masked.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from benchmarks import beside_work as work
from benchmarks.beside_work import Cut
from benchmarks.beside_work import Weights

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("KERASTRAIN_CACHE", "")


def perceptron(tokens: bool = False) -> Any:
    """The model with the initial weights."""
    import keras

    keras.utils.set_random_seed(0)
    inputs = keras.Input((work.TOKENS, work.FEATURES) if tokens else (work.FEATURES,))
    hidden = keras.layers.Masking()(inputs) if tokens else inputs
    hidden = keras.layers.Dense(work.HIDDEN, activation="tanh")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    model.set_weights(work.initial_weights())
    return model


def killing(kills: bool) -> Any:
    """A callback that kills the process."""
    import keras

    class Killing(keras.callbacks.Callback):
        """Has no state of its own."""

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            work.kill_if(kills, int(self.model.optimizer.iterations))

        def get_state(self) -> None:
            """Nothing is remembered."""

        def set_state(self, state: Any) -> None:
            """Nothing was."""

    return Killing()


class Kerastrain:
    """`kerastrain.Trainer`, with the whole batch in ``micro_batches``."""

    needs = ("kerastrain", "keras", "tensorflow")
    ways: dict[str, tuple[str, ...]] = {}

    def trainer(self, model: Any, rate: float = work.RATE, **options: Any) -> Any:
        """A trainer with SGD and the squared error."""
        import keras

        import kerastrain

        optimizer = options.pop("optimizer", keras.optimizers.SGD(rate))
        return kerastrain.Trainer(model, optimizer=optimizer, loss="mse", seed=0, **options)

    def accumulate(self, cut: Cut, parts: int, way: str) -> Weights:
        model = perceptron(cut.tokens)
        x, y, _ = work.data_of(cut)
        trainer = self.trainer(model, micro_batches=parts, global_clipnorm=cut.clipnorm)
        trainer.fit(x, y, batch_size=work.BATCH, shuffle=False, verbose=0)
        return model.get_weights()

    def resume(self, place: pathlib.Path, way: str, kills: bool) -> tuple[Weights, int]:
        import keras

        from kerastrain import RunDir

        model, optimizer = perceptron(), keras.optimizers.Adam(0.01)
        x, y = work.kill_data()
        self.trainer(model, optimizer=optimizer).fit(
            x,
            y,
            batch_size=work.KILL_BATCH,
            epochs=work.EPOCHS,
            verbose=0,
            callbacks=[killing(kills)],
            run_dir=RunDir(place, save_every=work.SAVED_EVERY),
        )
        return model.get_weights(), int(optimizer.iterations)

    def bad_batch(self, holder: dict[str, Any], way: str) -> None:
        model = perceptron()
        holder["weights"] = model.get_weights
        x, y = work.bad_data()
        self.trainer(model).fit(x, y, batch_size=work.KILL_BATCH, shuffle=False, verbose=2)

    def report(self, way: str) -> float:
        x, y = work.short_data()
        trainer = self.trainer(perceptron(), rate=0.0)
        history = trainer.fit(x, y, batch_size=work.SHORT_BATCH, shuffle=False, verbose=0)
        return history.history["loss"][-1]


class KerasFit:
    """Keras's ``fit``: small batches and ``gradient_accumulation_steps``, `BackupAndRestore`."""

    needs = ("keras", "tensorflow")
    ways = {
        "resume": (f"save_freq={work.SAVED_EVERY}", 'save_freq="epoch"'),
        "bad batch": ("", "TerminateOnNaN"),
    }

    def accumulate(self, cut: Cut, parts: int, way: str) -> Weights:
        import keras

        model = perceptron(cut.tokens)
        steps = {"gradient_accumulation_steps": parts} if parts > 1 else {}
        optimizer = keras.optimizers.SGD(work.RATE, global_clipnorm=cut.clipnorm, **steps)
        model.compile(optimizer, "mse")
        x, y, _ = work.data_of(cut)
        model.fit(x, y, batch_size=work.BATCH // parts, shuffle=False, verbose=0)
        return model.get_weights()

    def resume(self, place: pathlib.Path, way: str, kills: bool) -> tuple[Weights, int]:
        import keras

        model, optimizer = perceptron(), keras.optimizers.Adam(0.01)
        save_freq = "epoch" if "epoch" in way else work.SAVED_EVERY
        backup = keras.callbacks.BackupAndRestore(str(place / "backup"), save_freq=save_freq)
        model.compile(optimizer, "mse")
        x, y = work.kill_data()
        model.fit(
            x,
            y,
            batch_size=work.KILL_BATCH,
            epochs=work.EPOCHS,
            verbose=0,
            callbacks=[killing(kills), backup],
        )
        return model.get_weights(), int(optimizer.iterations)

    def bad_batch(self, holder: dict[str, Any], way: str) -> None:
        import keras

        model = perceptron()
        holder["weights"] = model.get_weights
        model.compile(keras.optimizers.SGD(work.RATE), "mse")
        x, y = work.bad_data()
        callbacks = [keras.callbacks.TerminateOnNaN()] if way else None
        model.fit(x, y, batch_size=work.KILL_BATCH, shuffle=False, verbose=2, callbacks=callbacks)

    def report(self, way: str) -> float:
        import keras

        model = perceptron()
        model.compile(keras.optimizers.SGD(0.0), "mse")
        x, y = work.short_data()
        history = model.fit(x, y, batch_size=work.SHORT_BATCH, shuffle=False, verbose=0)
        return history.history["loss"][-1]


class Orbit:
    """Orbit's `Controller` around a step that is written by hand, as Orbit asks for.

    What is Orbit's own is measured: its outer loop and its checkpoints, of a model and an optimizer.
    Accumulation, clipping, the reported loss and a position in the data are left to the user.
    """

    needs = ("orbit", "keras", "tensorflow")
    ways = {
        **dict.fromkeys([*work.CUTS, "report"], ()),
        "resume": ("data position by hand",),
    }

    def trainer(self, model: Any, optimizer: Any, dataset: Any) -> Any:
        """The inner loop: one step of the squared error."""
        import orbit
        import tensorflow as tf

        optimizer.build(model.trainable_variables)

        class Inner(orbit.StandardTrainer):
            """A step, and nothing else."""

            def train_step(self, iterator: Any) -> None:
                x, y = next(iterator)
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(y - model(x, training=True)))
                gradients = tape.gradient(loss, model.trainable_variables)
                optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

        return Inner(dataset)

    def resume(self, place: pathlib.Path, way: str, kills: bool) -> tuple[Weights, int]:
        import keras
        import orbit
        import tensorflow as tf

        model, optimizer = perceptron(), keras.optimizers.Adam(0.01)
        rows = tf.data.Dataset.from_tensor_slices(work.kill_data())
        rows = rows.shuffle(work.KILL_ROWS, seed=4).batch(work.KILL_BATCH).repeat()
        trainer = self.trainer(model, optimizer, rows)
        step = optimizer.iterations.value

        def kill(output: Any) -> None:
            work.kill_if(kills, int(optimizer.iterations))

        values = [*model.variables, *optimizer.variables]
        checkpoint = tf.train.Checkpoint(values=[v.value for v in values])
        manager = tf.train.CheckpointManager(
            checkpoint,
            str(place),
            max_to_keep=2,
            step_counter=step,
            checkpoint_interval=work.SAVED_EVERY,
        )
        controller = orbit.Controller(
            global_step=step,
            trainer=trainer,
            steps_per_loop=1,
            checkpoint_manager=manager,
            train_actions=[kill],
        )
        controller.train(work.UPDATES)
        return model.get_weights(), int(optimizer.iterations)

    def bad_batch(self, holder: dict[str, Any], way: str) -> None:
        import keras
        import orbit
        import tensorflow as tf

        model, optimizer = perceptron(), keras.optimizers.SGD(work.RATE)
        holder["weights"] = model.get_weights
        rows = tf.data.Dataset.from_tensor_slices(work.bad_data()).batch(work.KILL_BATCH)
        trainer = self.trainer(model, optimizer, rows)
        step = optimizer.iterations.value
        controller = orbit.Controller(global_step=step, trainer=trainer, steps_per_loop=8)
        controller.train(work.KILL_ROWS // work.KILL_BATCH)
