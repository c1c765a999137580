"""The trainers of `beside` that run on PyTorch: Lightning, Composer and Accelerate.

They follow the contract of `beside_work`. The loss is written as their users write it: the mean
over what counts in the rows that a step is given.
"""

from __future__ import annotations

import pathlib
from typing import Any

from benchmarks import beside_work as work
from benchmarks.beside_work import Cut
from benchmarks.beside_work import Weights


def perceptron() -> Any:
    """The model with the initial weights, which PyTorch keeps transposed."""
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Linear(work.FEATURES, work.HIDDEN), torch.nn.Linear(work.HIDDEN, 1)]
    model = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1])
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), work.initial_weights(), strict=True):
            parameter.copy_(torch.tensor(value.T))
    return model


def weights_of(model: Any) -> Weights:
    """Kernels and biases, as Keras has them."""
    return [parameter.detach().numpy().T.copy() for parameter in model.parameters()]


def loader(arrays: Any, batch: int, kind: Any = None, **options: Any) -> Any:
    """A `DataLoader` over arrays, or of another kind."""
    import torch

    dataset = torch.utils.data.TensorDataset(*map(torch.from_numpy, arrays))
    return (kind or torch.utils.data.DataLoader)(dataset, batch_size=batch, **options)


def masked_mean(output: Any, batch: Any) -> Any:
    """The squared error over what counts, or over all rows where nothing says what counts."""
    import torch

    if len(batch) == 2:
        return torch.nn.functional.mse_loss(output, batch[1])
    return masked_sum(output, batch) / batch[2].sum()


def masked_sum(output: Any, batch: Any) -> Any:
    """The same, but the sum."""
    return ((output - batch[1]).square().squeeze(-1) * batch[2]).sum()


def updates_of(optimizer: Any) -> int:
    """How many updates Adam has counted."""
    (count,) = {int(state["step"]) for state in optimizer.state.values()}
    return count


class Lightning:
    """PyTorch Lightning's `Trainer`."""

    needs = ("lightning", "torch")
    ways = {
        "resume": ("", "torchdata's StatefulDataLoader"),
        "bad batch": ("", "detect_anomaly=True"),
    }

    def module(self, make_optimizer: Any) -> Any:
        """The model, its loss and its optimizer."""
        import lightning

        class Module(lightning.LightningModule):
            """Logs the loss of the epoch."""

            def __init__(self) -> None:
                super().__init__()
                self.model = perceptron()

            def configure_optimizers(self) -> Any:
                return make_optimizer(self.model.parameters())

            def training_step(self, batch: Any, index: int) -> Any:
                loss = masked_mean(self.model(batch[0]), batch)
                self.log("loss", loss, on_step=False, on_epoch=True)
                return loss

        return Module()

    def trainer(self, epochs: int = 1, **options: Any) -> Any:
        """A trainer that saves and shows nothing unless it is asked to."""
        import lightning

        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        options = {"enable_checkpointing": False, **quiet, **options}
        return lightning.Trainer(max_epochs=epochs, accelerator="cpu", devices=1, **options)

    def accumulate(self, cut: Cut, parts: int, way: str) -> Weights:
        module = self.module(sgd(work.RATE))
        trainer = self.trainer(accumulate_grad_batches=parts, gradient_clip_val=cut.clipnorm)
        trainer.fit(module, loader(work.data_of(cut), work.BATCH // parts))
        return weights_of(module.model)

    def resume(self, place: pathlib.Path, way: str, kills: bool) -> tuple[Weights, int]:
        import lightning
        from lightning.pytorch.callbacks import ModelCheckpoint

        class Killing(lightning.Callback):
            """Kills the process before an update."""

            def on_train_batch_start(self, trainer: Any, *arguments: Any) -> None:
                work.kill_if(kills, trainer.global_step)

        kind = None
        if way:
            from torchdata.stateful_dataloader import StatefulDataLoader

            kind = StatefulDataLoader
        lightning.seed_everything(0, verbose=False)
        module = self.module(adam)
        saving = ModelCheckpoint(place, every_n_train_steps=work.SAVED_EVERY, save_last=True)
        saved = place / "last.ckpt"
        trainer = self.trainer(
            work.EPOCHS, callbacks=[saving, Killing()], enable_checkpointing=True
        )
        data = loader(work.kill_data(), work.KILL_BATCH, kind, shuffle=True)
        trainer.fit(module, data, ckpt_path=saved if saved.exists() else None)
        return weights_of(module.model), updates_of(trainer.optimizers[0])

    def bad_batch(self, holder: dict[str, Any], way: str) -> None:
        module = self.module(sgd(work.RATE))
        holder["weights"] = lambda: weights_of(module.model)
        trainer = self.trainer(detect_anomaly=bool(way), enable_progress_bar=True)
        trainer.fit(module, loader(work.bad_data(), work.KILL_BATCH))

    def report(self, way: str) -> float:
        trainer = self.trainer()
        trainer.fit(self.module(sgd(0.0)), loader(work.short_data(), work.SHORT_BATCH))
        return float(trainer.callback_metrics["loss"])


class Composer:
    """Composer's `Trainer`, which cuts each batch of the loader itself."""

    needs = ("composer", "torch")
    ways = {
        "tokens": ("", "accumulate_train_batch_on_tokens=True"),
        "bad batch": ("", "NaNMonitor"),
        "report": ("", "eval() on the same rows"),
    }

    def model(self) -> Any:
        """The model, its loss and its metric."""
        import composer
        import torchmetrics

        class Model(composer.ComposerModel):
            """The squared error as loss and as metric."""

            def __init__(self) -> None:
                super().__init__()
                self.model = perceptron()
                self.metric = torchmetrics.MeanSquaredError()

            def forward(self, batch: Any) -> Any:
                return self.model(batch[0])

            def loss(self, outputs: Any, batch: Any) -> Any:
                return masked_mean(outputs, batch)

            def get_metrics(self, is_train: bool = False) -> Any:
                return {"MeanSquaredError": self.metric}

            def update_metric(self, batch: Any, outputs: Any, metric: Any) -> None:
                metric.update(outputs, batch[1])

        return Model()

    def trainer(self, model: Any, data: Any, make_optimizer: Any, **options: Any) -> Any:
        """A trainer that shows nothing."""
        import composer

        optimizer = make_optimizer(model.parameters())
        options = {"max_duration": "1ep", "progress_bar": False, **options}
        return composer.Trainer(
            model=model, train_dataloader=data, optimizers=optimizer, device="cpu", **options
        )

    def accumulate(self, cut: Cut, parts: int, way: str) -> Weights:
        import composer
        from composer.algorithms import GradientClipping

        clipping = GradientClipping(clipping_type="norm", clipping_threshold=cut.clipnorm)
        model, data = self.model(), loader(work.data_of(cut), work.BATCH)
        if way:
            data = composer.DataSpec(
                data, get_num_tokens_in_batch=lambda batch: int(batch[2].sum())
            )
        trainer = self.trainer(
            model,
            data,
            sgd(work.RATE),
            device_train_microbatch_size=work.BATCH // parts,
            algorithms=[clipping] if cut.clipnorm is not None else None,
            accumulate_train_batch_on_tokens=bool(way),
        )
        trainer.fit()
        return weights_of(model.model)

    def resume(self, place: pathlib.Path, way: str, kills: bool) -> tuple[Weights, int]:
        import composer

        class Killing(composer.Callback):
            """Kills the process before an update."""

            def batch_start(self, state: Any, logger: Any) -> None:
                work.kill_if(kills, int(state.timestamp.batch))

        model = self.model()
        trainer = self.trainer(
            model,
            loader(work.kill_data(), work.KILL_BATCH, shuffle=True),
            adam,
            max_duration=f"{work.EPOCHS}ep",
            callbacks=[Killing()],
            seed=0,
            run_name="run",
            save_folder=str(place),
            save_interval=f"{work.SAVED_EVERY}ba",
            autoresume=True,
        )
        trainer.fit()
        return weights_of(model.model), updates_of(trainer.state.optimizers[0])

    def bad_batch(self, holder: dict[str, Any], way: str) -> None:
        from composer.callbacks import NaNMonitor

        model = self.model()
        holder["weights"] = lambda: weights_of(model.model)
        data = loader(work.bad_data(), work.KILL_BATCH)
        callbacks = [NaNMonitor()] if way else None
        self.trainer(model, data, sgd(work.RATE), callbacks=callbacks, progress_bar=True).fit()

    def report(self, way: str) -> float:
        from composer.loggers import InMemoryLogger

        logger = InMemoryLogger()
        data = loader(work.short_data(), work.SHORT_BATCH)
        trainer = self.trainer(self.model(), data, sgd(0.0), loggers=[logger])
        trainer.fit()
        if way:
            trainer.eval(eval_dataloader=data)
        kind = "eval" if way else "train"
        return float(logger.data[f"metrics/{kind}/MeanSquaredError"][-1][1])


class Accelerate:
    """Accelerate's parts in a loop that is written by hand, as its guides do it.

    The other way of "ragged" and "tokens" is that of its guide to gradient accumulation over
    batches of various sizes: the loss of a part is a sum, divided by the count of the batch.
    """

    needs = ("accelerate", "torch")
    by_count = "loss over the count of the batch"
    ways = {
        "ragged": ("", by_count),
        "tokens": ("", by_count),
        "resume": ("", "use_seedable_sampler=True"),
        "report": (),
    }

    def accumulate(self, cut: Cut, parts: int, way: str) -> Weights:
        import accelerate

        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=parts)
        model = perceptron()
        prepared = (model, sgd(work.RATE)(model.parameters()))
        data = loader(work.data_of(cut), work.BATCH // parts)
        model, optimizer, data = accelerator.prepare(*prepared, data)
        batches = list(data) if way else []
        totals = [
            sum(float(one[2].sum()) for one in batches[start : start + parts])
            for start in range(0, len(batches), parts)
        ]
        for index, batch in enumerate(data):
            with accelerator.accumulate(model):
                output = model(batch[0])
                if way:
                    loss = masked_sum(output, batch) * parts / totals[index // parts]
                else:
                    loss = masked_mean(output, batch)
                accelerator.backward(loss)
                if accelerator.sync_gradients and cut.clipnorm is not None:
                    accelerator.clip_grad_norm_(model.parameters(), cut.clipnorm)
                optimizer.step()
                optimizer.zero_grad()
        return weights_of(accelerator.unwrap_model(model))

    def resume(self, place: pathlib.Path, way: str, kills: bool) -> tuple[Weights, int]:
        import accelerate

        options = {way.partition("=")[0]: True} if way else {}
        accelerate.utils.set_seed(0)
        configuration = accelerate.DataLoaderConfiguration(**options)
        accelerator = accelerate.Accelerator(cpu=True, dataloader_config=configuration)
        model = perceptron()
        data = loader(work.kill_data(), work.KILL_BATCH, shuffle=True)
        model, optimizer, data = accelerator.prepare(model, adam(model.parameters()), data)
        saved = [int(path.name.partition("_")[2]) for path in place.glob("step_*")]
        updates, skipped = max(saved, default=0), 0
        if updates:
            accelerator.load_state(str(place / f"step_{updates}"))
            skipped = updates % len(data)
        for epoch in range(updates // len(data), work.EPOCHS):
            data.set_epoch(epoch)
            batches = data
            if skipped:
                batches = accelerator.skip_first_batches(data, skipped)
            skipped = 0
            for batch in batches:
                work.kill_if(kills, updates)
                accelerator.backward(masked_mean(model(batch[0]), batch))
                optimizer.step()
                optimizer.zero_grad()
                updates += 1
                if updates % work.SAVED_EVERY == 0:
                    accelerator.save_state(str(place / f"step_{updates}"))
        return weights_of(accelerator.unwrap_model(model)), updates_of(optimizer)

    def bad_batch(self, holder: dict[str, Any], way: str) -> None:
        import accelerate

        accelerator = accelerate.Accelerator(cpu=True)
        model = perceptron()
        holder["weights"] = lambda: weights_of(accelerator.unwrap_model(model))
        data = loader(work.bad_data(), work.KILL_BATCH)
        model, optimizer, data = accelerator.prepare(
            model, sgd(work.RATE)(model.parameters()), data
        )
        for batch in data:
            accelerator.backward(masked_mean(model(batch[0]), batch))
            optimizer.step()
            optimizer.zero_grad()


def sgd(rate: float) -> Any:
    """Makes a gradient descent of the parameters that it is given."""
    import torch

    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def adam(parameters: Any) -> Any:
    """Adam of these parameters."""
    import torch

    return torch.optim.Adam(parameters, lr=0.01)
