"""The program of `kerastrain fit`: a model of the user's, trained on data of a file.

::

    from kerastrain.cli import fit

    request = fit.Request("net.py:network", "digits.npz", epochs=5, loss="mse", save="net.keras")
    outcome = fit.run(request)
    print(outcome.results["loss"])

Arguments are checked and data are read before TensorFlow is imported, which takes seconds: a
mistake in them is answered at once.
"""

import contextlib
import dataclasses
import inspect
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple

from kerastrain.cli import data_files
from kerastrain.cli import named
from kerastrain.cli.quiet import quiet_import
from kerastrain.errors import ArgumentError
from kerastrain.errors import DataError
from kerastrain.errors import KerastrainError

# Of a model that is not compiled, where none is given.
OPTIMIZER = "adam"
# Arguments of `Trainer` and its `fit` that are options here, as messages name them.
_OPTIONS = "loss|optimizer|metrics|seed|epochs|batch_size|validation_split|validation_data|run_dir"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is trained on what, and how: the arguments of the command line.

    Attributes:
        model: ``MODULE:NAME`` or ``FILE.py:NAME`` of a ``keras.Model``, or of a function without
            arguments that returns one, compiled or not.
        data, target, validation_data: as `kerastrain.cli.data_files.load` takes them.
        validation_split: the share of the last rows that validate.
        epochs, batch_size, run_dir: as for `Trainer.fit`.
        seed: decides the first weights, the order of batches and dropout.
        loss, optimizer, metrics: names, which take the place of the compiled model's; metrics with
            commas.
        save: the ``.keras`` file to save the trained model in.
        verbose: as for `Trainer.fit`.
    """

    model: str
    data: str
    target: str | None = None
    validation_data: str | None = None
    validation_split: float | None = None
    epochs: int = 1
    batch_size: int = 32
    seed: int = 0
    run_dir: str | None = None
    loss: str | None = None
    optimizer: str | None = None
    metrics: str | None = None
    save: str | None = None
    verbose: Any = "auto"


class Outcome(NamedTuple):
    """What a training has come to.

    Attributes:
        results: ``{name: result}`` of the last epoch.
        epochs: how many have been trained, those before a resume too.
        seconds: the time that ``fit`` took.
        saved: ``{what: where}``.
    """

    results: dict[str, float]
    epochs: int
    seconds: float
    saved: dict[str, str]


def run(request: Request) -> Outcome:
    """Trains the model and saves what is to be saved.

    Raises:
        KerastrainError: an argument, the data or the model cannot be used.
    """
    check(request)
    data, validation = read(request)
    keras = quiet_import("keras")
    trainer_class = quiet_import("kerastrain.trainer").Trainer
    model = _made(keras, request.model, request.seed)
    optimizer = request.optimizer or (None if model.compiled else OPTIMIZER)
    metrics = None if request.metrics is None else _names(request.metrics)
    with _options_named():
        trainer = trainer_class(
            model, optimizer=optimizer, loss=request.loss, metrics=metrics, seed=request.seed
        )
        begun = time.perf_counter()
        history = trainer.fit(
            data.x,
            data.y,
            batch_size=request.batch_size,
            epochs=request.epochs,
            validation_split=request.validation_split or 0.0,
            validation_data=validation,
            verbose=request.verbose,
            run_dir=request.run_dir,
        ).history
        seconds = time.perf_counter() - begun
    saved = {}
    if request.save is not None:
        model.save(request.save)
        saved["the model"] = request.save
    if request.run_dir is not None:
        saved["the run, which more --epochs resume,"] = request.run_dir
    results = {name: float(values[-1]) for name, values in history.items() if values}
    return Outcome(results, len(history.get("loss", ())), seconds, saved)


def lines(outcome: Outcome) -> list[str]:
    """What is said at the end: the results, and what was saved where.

    Example:
        >>> print(*lines(Outcome({"loss": 0.25}, 3, 1.5, {"the model": "net.keras"})), sep="\\n")
        Trained up to epoch 3 in 1.5 s: loss 0.2500
        Saved the model in net.keras
    """
    # As the progress has them: the losses before the metrics, the validation's at the end.
    order = sorted(outcome.results, key=lambda n: (n[:4] == "val_", n not in ("loss", "val_loss")))
    results = ", ".join(f"{name} {outcome.results[name]:.4f}" for name in order)
    saved = [f"Saved {what} in {where}" for what, where in outcome.saved.items()]
    nothing = "Nothing was saved. To keep the trained model, pass --save model.keras."
    return [
        f"Trained up to epoch {outcome.epochs} in {outcome.seconds:.1f} s: {results}",
        *(saved or [nothing]),
    ]


def check(request: Request) -> None:
    """Refuses arguments that cannot work, as far as that shows without reading data.

    Raises:
        ArgumentError: names the option, the value and the fix.
    """
    named.check(request.model)
    share, validation = request.validation_split, request.validation_data
    if share is not None and not 0 < share < 1:
        raise ArgumentError(
            f"--validation-split {share} must lie between 0 and 1, for example 0.2."
        )
    if share is not None and validation is not None:
        raise ArgumentError(
            f"--validation-split {share} and --validation-data {validation} exclude each other. "
            "Remove one of them."
        )
    if request.save is not None:
        _check_save(Path(request.save))
    if request.run_dir is not None and os.path.isfile(request.run_dir):
        raise ArgumentError(f"--run-dir {request.run_dir} is a file. Pass a directory.")


def read(request: Request) -> tuple[data_files.Data, tuple[Any, Any] | None]:
    """The data to train on, and those to validate on, if any but a share of the first.

    Raises:
        DataError, ArgumentError: as `kerastrain.cli.data_files.load`; or inputs of other shapes.
    """
    target = request.target
    paths = [path for path in (request.data, request.validation_data) if path is not None]
    if target is not None and not any(map(data_files.is_table, paths)):
        raise ArgumentError(
            f"--target {target} is of tables, and {' and '.join(paths)} is none. Remove --target, "
            "or pass a .csv or .parquet file."
        )
    data = data_files.load(request.data, target)
    if request.validation_data is None:
        validation = data.validation if request.validation_split is None else None
    else:
        other = data_files.load(
            request.validation_data, target, option="--validation-data", columns=data.columns
        )
        validation = other.x, other.y
    if validation is not None and validation[0].shape[1:] != data.x.shape[1:]:
        raise DataError(
            f"--validation-data {request.validation_data or request.data}: x has rows of shape "
            f"{validation[0].shape[1:]}, and that of --data {request.data} has "
            f"{data.x.shape[1:]}. Store rows of the same shape."
        )
    return data, validation


def _check_save(path: Path) -> None:
    if path.suffix != ".keras":
        raise ArgumentError(
            f"--save {path} must end in .keras, Keras's format: --save {path.with_suffix('.keras')}."
            if path.name
            else f"--save {path} must be a file, for example model.keras."
        )
    if path.is_dir():
        raise ArgumentError(f"--save {path} is a directory. Pass a file that is to be written.")
    if not path.parent.is_dir():
        raise ArgumentError(
            f"--save {path}: there is no directory {str(path.parent)!r}. Make it, or pass another "
            "path."
        )
    if not os.access(path.parent, os.W_OK):
        raise ArgumentError(
            f"--save {path}: the directory {str(path.parent)!r} cannot be written. Pass another "
            "path."
        )


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _made(keras: Any, name: str, seed: int) -> Any:
    """The model that the name is of, or that the function of that name returns.

    The seed decides the weights of either; those of a function's model do not depend on what else
    its module has drawn.
    """
    keras.utils.set_random_seed(seed)
    found = named.load(name)
    if isinstance(found, keras.Model):
        return found
    wanted = "Pass the name of a keras.Model, or of a function without arguments that returns one."
    if not callable(found) or isinstance(found, keras.Layer):
        raise ArgumentError(f"{name} is of type {type(found).__name__}. {wanted}")
    try:
        needed = [
            str(parameter)
            for parameter in inspect.signature(found).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
    except (TypeError, ValueError):  # one of C's, say, that has no signature
        needed = []
    if needed:
        raise ArgumentError(
            f"{name} needs the arguments {', '.join(needed)}. Give them defaults, or pass the name "
            "of a function without arguments that calls it."
        )
    keras.utils.set_random_seed(seed)
    made = found()
    if not isinstance(made, keras.Model):
        raise ArgumentError(f"{name} returned {made!r} of type {type(made).__name__}. {wanted}")
    return made


@contextlib.contextmanager
def _options_named() -> Iterator[None]:
    """Lets messages name the options of the command line in the place of arguments."""
    try:
        yield
    except KerastrainError as error:
        text = re.sub(f"`({_OPTIONS})`", lambda found: _option(found[1]), str(error))
        text = re.sub(
            f'\\b({_OPTIONS})="([^"]*)"', lambda found: f"{_option(found[1])} {found[2]}", text
        )
        raise ArgumentError(text) from error


def _option(argument: str) -> str:
    return f"--{argument.replace('_', '-')}"
