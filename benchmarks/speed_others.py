"""Other ways to train the perceptron: JAX and PyTorch by hand, and PyTorch Lightning.

Each follows the contract of `speed_contenders`: the same initial weights, batches of the same
rows, Adam with Keras's numbers, the mean loss and the accuracy of an epoch tracked, nothing
shown. What differs: PyTorch adds Adam's epsilon to the corrected second moment, Keras to the
uncorrected one; the losses are compared all the same. Packages are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.speed_contenders import Entrant
from benchmarks.speed_contenders import Task
from benchmarks.speed_contenders import warming
from benchmarks.speed_works import EPSILON
from benchmarks.speed_works import make_model


def weights_of(task: Task) -> list[np.ndarray]:
    """Kernels and biases of the perceptron, in the order of its layers."""
    return make_model(task.work).get_weights()


def by_scan(task: Task) -> Entrant:
    """JAX: `lax.scan` over the steps of an epoch, on arrays that stay on the device."""
    import jax

    x, y = map(jax.device_put, task.data())
    batch, steps = task.work.batch, task.work.steps
    random = np.random.default_rng(0)
    initial = weights_of(task)
    epoch = jax.jit(make_scan(task.learning_rate), donate_argnums=0)
    state: list[Any] = []

    def reset() -> None:
        zeros = [np.zeros_like(w) for w in initial]
        state[:] = [jax.device_put((initial, zeros, zeros, np.float32(0)))]

    def run(epochs: int, shuffle: bool) -> list[float]:
        losses = []
        for _ in range(epochs):
            order = np.arange(len(x), dtype="int32")
            order = random.permutation(order) if shuffle else order
            state[0], (loss, accuracy) = epoch(state[0], x, y, order.reshape(steps, batch))
            losses.append([float(loss), float(accuracy)][0])
        return losses

    reset()
    return Entrant(run, reset, warming(run))


def make_scan(learning_rate: float) -> Callable[..., Any]:
    """An epoch of the perceptron with Adam, as a function of state, arrays and order of rows."""
    import jax
    import jax.numpy as jnp

    def loss_of(weights: Any, x: Any, y: Any) -> Any:
        kernel, bias, last_kernel, last_bias = weights
        logits = jax.nn.relu(x @ kernel + bias) @ last_kernel + last_bias
        log_p = jax.nn.log_softmax(logits)
        loss = -jnp.take_along_axis(log_p, y[:, None], axis=1).mean()
        return loss, (logits.argmax(-1) == y).mean()

    def epoch(state: Any, x: Any, y: Any, order: Any) -> Any:
        def step(state: Any, rows: Any) -> Any:
            weights, means, squares, count = state
            gradient = jax.value_and_grad(loss_of, has_aux=True)
            (loss, accuracy), gradients = gradient(weights, x[rows], y[rows])
            count = count + 1
            rate = learning_rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
            means = jax.tree.map(lambda m, g: m + (g - m) * 0.1, means, gradients)
            squares = jax.tree.map(lambda v, g: v + (g * g - v) * 0.001, squares, gradients)
            weights = jax.tree.map(
                lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON), weights, means, squares
            )
            return (weights, means, squares, count), (loss, accuracy)

        state, results = jax.lax.scan(step, state, order)
        return state, jax.tree.map(jnp.mean, results)

    return epoch


# PyTorch ----------------------------------------------------------------------------


def torch_perceptron(initial: list[np.ndarray]) -> Any:
    """The perceptron with these kernels and biases, which PyTorch keeps transposed."""
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(784, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), initial, strict=True):
            parameter.copy_(torch.tensor(value.T))
    return model


def torch_adam(model: Any, task: Task) -> Any:
    """Adam with the numbers of Keras."""
    import torch

    return torch.optim.Adam(model.parameters(), lr=task.learning_rate, eps=EPSILON)


def by_torch(task: Task) -> Entrant:
    """PyTorch, the fastest plain loop: batches are gathered from tensors that stay whole."""

    def batches(x: Any, y: Any, shuffle: bool) -> Any:
        import torch

        order = torch.randperm(len(x)) if shuffle else torch.arange(len(x))
        return ((x[rows], y[rows]) for rows in order.split(task.work.batch))

    return torch_loop(task, batches)


def by_torch_loader(task: Task) -> Entrant:
    """PyTorch, the loop that people write: a `DataLoader` over a `TensorDataset`."""

    def batches(x: Any, y: Any, shuffle: bool) -> Any:
        return loader(task, x, y, shuffle)

    return torch_loop(task, batches)


def loader(task: Task, x: Any, y: Any, shuffle: bool) -> Any:
    """A `DataLoader` in this process."""
    from torch.utils.data import DataLoader
    from torch.utils.data import TensorDataset

    return DataLoader(TensorDataset(x, y), batch_size=task.work.batch, shuffle=shuffle)


def torch_data(task: Task) -> tuple[Any, Any]:
    """Features and labels as tensors."""
    import torch

    x, y = task.data()
    return torch.from_numpy(x), torch.from_numpy(y.astype("int64"))


def torch_loop(task: Task, batches: Callable[..., Any]) -> Entrant:
    """Zero, forward, backward, step, for each of the batches."""
    import torch

    x, y = torch_data(task)
    initial = weights_of(task)
    now: dict[str, Any] = {}

    def reset() -> None:
        now["model"] = torch_perceptron(initial)
        now["optimizer"] = torch_adam(now["model"], task)

    def run(epochs: int, shuffle: bool) -> list[float]:
        model, optimizer, losses = now["model"], now["optimizer"], []
        for _ in range(epochs):
            total, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
            for features, labels in batches(x, y, shuffle):
                optimizer.zero_grad()
                logits = model(features)
                loss = torch.nn.functional.cross_entropy(logits, labels)
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    total += loss * len(labels)
                    correct += (logits.argmax(-1) == labels).sum()
            losses.append([total.item() / len(x), correct.item() / len(x)][0])
        return losses

    reset()
    return Entrant(run, reset, warming(run))


def by_lightning(task: Task) -> Entrant:
    """PyTorch Lightning: its `Trainer` with nothing shown or saved, over a `DataLoader`."""
    import logging
    import warnings

    import lightning
    import torch

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    x, y = torch_data(task)
    initial = weights_of(task)

    class Module(lightning.LightningModule):
        """The perceptron with its step, and the mean loss and accuracy of each epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.model = torch_perceptron(initial)
            self.losses: list[float] = []

        def configure_optimizers(self) -> Any:
            return torch_adam(self.model, task)

        def on_train_epoch_start(self) -> None:
            self.total, self.correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)

        def training_step(self, batch: Any, index: int) -> Any:
            features, labels = batch
            logits = self.model(features)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            self.total += loss.detach() * len(labels)
            self.correct += (logits.detach().argmax(-1) == labels).sum()
            return loss

        def on_train_epoch_end(self) -> None:
            self.losses.append([self.total.item() / len(x), self.correct.item() / len(x)][0])

    now: dict[str, Any] = {}

    def reset() -> None:
        now["module"] = Module()

    def run(epochs: int, shuffle: bool) -> list[float]:
        trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", barebones=True)
        trainer.fit(now["module"], loader(task, x, y, shuffle))
        return now["module"].losses[-epochs:]

    reset()
    return Entrant(run, reset, warming(run))


MAKERS = {
    "JAX lax.scan": by_scan,
    "PyTorch": by_torch,
    "PyTorch, DataLoader": by_torch_loader,
    "PyTorch Lightning": by_lightning,
}
