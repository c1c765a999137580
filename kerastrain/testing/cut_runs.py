"""The runs of an equivalence check: one of the whole batch, and those whose batches are cut."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerastrain import _keras
from kerastrain.distribution import strategy as strategy_lib
from kerastrain.errors import ArgumentError
from kerastrain.model import TrainableModel
from kerastrain.options import StepOptions
from kerastrain.testing.causes import has_own_step
from kerastrain.testing.differences import CutResult
from kerastrain.testing.differences import Difference
from kerastrain.testing.differences import difference
from kerastrain.testing.differences import is_float
from kerastrain.testing.differences import pairs
from kerastrain.testing.differences import refuse_nan
from kerastrain.testing.differences import Value
from kerastrain.trainer import Trainer

# What is called with the values after each step: of which epoch and batch, and the values.
Note = Callable[[int, int, list[Value]], None]


class CutRuns:
    """All training runs of one check: same initial weights, same rows in the same order.

    ``model`` is that of the first run, once there was one.
    """

    def __init__(
        self,
        model_fn: Callable[[], keras.Model],
        data: tuple[Any, Any, Any],
        rows: int,
        tolerance: float,
        step: StepOptions | None,
        micro_batches: tuple[int, ...],
        **fit: Any,
    ) -> None:
        self._model_fn, self._data, self._rows, self._fit = model_fn, data, rows, fit
        self._tolerance, self._step, self._most_parts = tolerance, step, max(micro_batches)
        self._initial: list[np.ndarray] | None = None
        self.model: keras.Model | None = None

    def reference(self, batch_size: int) -> list[list[Value]]:
        """The values after each step on one device with the whole batch at once."""
        steps: list[list[Value]] = []
        self._train(1, 1, batch_size, lambda epoch, batch, values: steps.append(values))
        refuse_nan(steps, math.ceil(self._rows / batch_size))
        return steps

    def cut(
        self, reference: list[list[Value]], replicas: int, micro_batches: int, batch_size: int
    ) -> CutResult:
        """How one cut compares with the reference."""
        largest = {"weights": 0.0, "optimizer": 0.0, "logs": 0.0}
        batches = math.ceil(self._rows / batch_size)
        first: list[Difference] = []

        def compare(epoch: int, batch: int, values: list[Value]) -> None:
            differing = []
            for expected, found in pairs(reference[epoch * batches + batch], values):
                size, wanted, got = difference(expected, found)
                largest[found.kind] = max(largest[found.kind], size)
                if size > (self._tolerance if is_float(expected.parts[0]) else 0.0):
                    differing.append((expected.name, size, wanted, got))
            if differing and not first:
                rows = min(batch_size, self._rows - batch * batch_size)
                names = tuple(name for name, *_ in differing)
                where = (epoch + 1, batch + 1, batches, rows)
                first.append(Difference(*where, names[0], names, *differing[0][1:]))

        self._train(replicas, micro_batches, batch_size, compare)
        return CutResult(
            replicas, micro_batches, batch_size, len(reference), **largest,
            first=first[0] if first else None,
        )  # fmt: skip

    def _train(self, replicas: int, micro_batches: int, batch_size: int, note: Note) -> None:
        x, y, sample_weight = self._data
        strategy = strategy_lib.resolve(f"mirrored:{replicas}") if replicas > 1 else None
        keras.utils.set_random_seed(self._fit["seed"])
        with strategy.scope() if strategy else contextlib.nullcontext():
            model = self._made()
        options = self._step if self._step else getattr(model, "step_options", StepOptions())
        _keras.set_step_options(model, dataclasses.replace(options, micro_batches=micro_batches))
        try:
            trainer = Trainer(model, strategy=strategy, seed=self._fit["seed"], guard="off")
            trainer.fit(
                x, y, batch_size, self._fit["epochs"], verbose=0, shuffle=False,
                callbacks=[_Watcher(self._begin, note)], sample_weight=sample_weight,
                class_weight=self._fit["class_weight"],
            )  # fmt: skip
        except Exception as error:
            error.add_note(
                f"Raised while training with replicas={replicas}, "
                f"micro_batches={micro_batches}, batch_size={batch_size}."
            )
            raise

    def _made(self) -> keras.Model:
        """A new model; the first is kept, for what it is made of."""
        model = self._model_fn()
        if not isinstance(model, keras.Model) or not model.compiled:
            kind = type(model).__name__
            fault = f"an uncompiled {kind}" if isinstance(model, keras.Model) else repr(model)
            raise ArgumentError(
                f"`model_fn` must return a compiled keras.Model. It returned: {fault}. Call "
                "model.compile(...) in it, and end it with `return model`."
            )
        if self.model is None:
            knows_parts = not has_own_step(model) or isinstance(model, TrainableModel)
            if self._most_parts > 1 and not knows_parts:
                raise ArgumentError(
                    f"{type(model).__name__} has a `train_step` of its own, which knows no "
                    f"micro-batches. Received: micro_batches up to {self._most_parts}. Pass "
                    "micro_batches=(1,)."
                )
            self.model = model
            return model
        ids = {id(weight) for weight in self.model.weights}
        shared = [weight.path for weight in model.weights if id(weight) in ids]
        same_optimizer = model.optimizer is self.model.optimizer
        if model is self.model or shared or same_optimizer:
            what = f"weights {shared}" if shared else "optimizer"
            what = "model" if model is self.model else what
            raise ArgumentError(
                f"`model_fn` returned the same {what} twice, which would train on from one run "
                f"to the next. Received: model_fn={self._model_fn!r}. Make model, layers and "
                "optimizer anew in each call."
            )
        return model

    def _begin(self, model: keras.Model) -> None:
        """Before the first step: the model is built, and has the weights of the first one."""
        if self._initial is None:
            self._initial = [_read(weight)[0] for weight in model.weights]
            return
        shapes = [tuple(w.shape) for w in model.weights], [w.shape for w in self._initial]
        if shapes[0] != shapes[1]:
            raise ArgumentError(
                f"`model_fn` returned models with different weights: {shapes[1]}, then "
                f"{shapes[0]}. Received: model_fn={self._model_fn!r}. Make the same model in "
                "each call."
            )
        for weight, value in zip(model.weights, self._initial, strict=True):
            weight.assign(value)


class _Watcher(keras.callbacks.Callback):
    """Notes all values after each step. ``self.model`` is the one that trains."""

    def __init__(self, begin: Callable[[keras.Model], None], note: Note) -> None:
        super().__init__()
        self._begin, self._note, self._epoch = begin, note, 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._begin(self.model)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        values = [Value("weights", w.path, _read(w)) for w in self.model.weights]
        values += [Value("optimizer", v.path, _read(v)) for v in self.model.optimizer.variables]
        logs = logs or {}
        names = sorted(logs, key=lambda name: (name != "loss", name))
        values += [Value("logs", name, [np.asarray(logs[name])]) for name in names]
        self._note(self._epoch, batch, values)


def _read(variable: keras.Variable) -> list[np.ndarray]:
    """The value on each replica; one value where the replicas' are parts of a whole."""
    if variable.synchronization == "on_read":
        return [np.asarray(_keras.tf_variable(variable).numpy())]
    return [np.asarray(part) for part in _keras.read_local(variable)]
