"""The work of `beside`: data, the plain mathematics, and the process of one trainer.

    python -m benchmarks.beside_work Lightning figures FILE
    python -m benchmarks.beside_work Lightning train FILE PLACE WAY whole|killed|resumed

Each trainer is a class of `beside_tensorflow` or `beside_torch`, with

``needs``
    the packages that it imports; the first one is the trainer's own.
``ways``
    for an experiment, its documented ways that are tried, the usual one first; none where the
    trainer leaves it to the user, and then the method below may be missing. An experiment that is
    not named is tried in one way, ``""``.
``accumulate(cut, parts, way)``
    the weights after an epoch over a cut, each batch in ``parts`` parts.
``resume(place, way, kills)``
    trains for `EPOCHS`, saves in ``place`` every `SAVED_EVERY` updates, resumes from what is
    there; gives the weights and the updates that the optimizer has counted.
``bad_batch(holder, way)``
    trains for an epoch of which one row is NaN; ``holder["weights"]`` is a function.
``report(way)``
    the loss that it reports for an epoch with a short last batch, at a learning rate of 0.

Weights are lists of arrays in the layout of Keras. Only NumPy is imported at the top.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

Weights = list[np.ndarray]

TRAINERS = {
    "kerastrain": "beside_tensorflow.Kerastrain",
    "keras": "beside_tensorflow.KerasFit",
    "lightning": "beside_torch.Lightning",
    "composer": "beside_torch.Composer",
    "accelerate": "beside_torch.Accelerate",
    "orbit": "beside_tensorflow.Orbit",
}
# Where a package is of a distribution with another name.
DISTRIBUTIONS = {"composer": "mosaicml", "orbit": "tf-models-official"}

FEATURES, HIDDEN, TOKENS = 4, 8, 6
BATCH, PARTS, RATE = 32, 4, 0.5
# The training that is killed: 4 epochs of 8 updates, saved after every 4th, killed in the 23rd.
EPOCHS, KILL_ROWS, KILL_BATCH, SAVED_EVERY, KILLED_IN = 4, 64, 8, 4, 23
UPDATES = EPOCHS * KILL_ROWS // KILL_BATCH
BAD_ROW, BAD_BATCH = 37, 4  # In batches of 8: batch 4, counted from 0.
SHORT_ROWS, SHORT_BATCH = 20, 8
# Largest |dw| of a trainer that takes whole batches to the plain mathematics.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Cut:
    """An epoch whose batches of 32 rows are cut into parts of 8.

    Attributes:
        rows: of the data; 84 make 32, 32 and 20, the last of which is cut into 8, 8 and 4.
        tokens: whether a row has 6 tokens, 1 to 6 of them real, and the loss is the mean over
            the real tokens of a batch.
        clipnorm: the gradient of a batch is clipped to this global norm.
    """

    rows: int
    tokens: bool = False
    clipnorm: float | None = None


CUTS = {
    "even": Cut(96),
    "ragged": Cut(84),
    "tokens": Cut(96, tokens=True),
    "clipping": Cut(96, clipnorm=0.1),
}


# Data and model -----------------------------------------------------------------------------


def initial_weights() -> Weights:
    """Kernels and biases of a perceptron with four features, eight hidden units, one output."""
    random = np.random.default_rng(7)
    shapes = [(FEATURES, HIDDEN), (HIDDEN,), (HIDDEN, 1), (1,)]
    return [random.normal(size=shape, scale=0.5).astype("float32") for shape in shapes]


def data_of(cut: Cut) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets and which of them count: 1 or 0."""
    random = np.random.default_rng(0)
    shape = (cut.rows, TOKENS) if cut.tokens else (cut.rows,)
    lengths = random.integers(1, TOKENS + 1, (cut.rows, 1))
    counts = np.arange(TOKENS) < lengths if cut.tokens else np.ones(shape, bool)
    x = random.normal(size=(*shape, FEATURES)) * counts[..., None]
    y = 2 * x[..., :1] + random.normal(size=(*shape, 1)) * (1 + np.arange(cut.rows) / 32).reshape(
        (-1, *([1] * len(shape)))
    )
    return x.astype("float32"), y.astype("float32"), counts.astype("float32")


def kill_data() -> tuple[np.ndarray, np.ndarray]:
    """Rows of the training that is killed."""
    return data_of(Cut(KILL_ROWS))[:2]


def bad_data() -> tuple[np.ndarray, np.ndarray]:
    """The same rows, one of which is NaN."""
    x, y = kill_data()
    x[BAD_ROW, 2] = np.nan
    return x, y


def short_data() -> tuple[np.ndarray, np.ndarray]:
    """Rows of the epoch whose loss is reported."""
    return data_of(Cut(SHORT_ROWS))[:2]


def forward(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden units and outputs."""
    hidden = np.tanh(x @ weights[0] + weights[1])
    return hidden, hidden @ weights[2] + weights[3]


def mean_over_rows() -> float:
    """The loss over all rows of `short_data` at the initial weights, in float64."""
    x, y = (array.astype("float64") for array in short_data())
    return float(
        np.mean((forward([w.astype("float64") for w in initial_weights()], x)[1] - y) ** 2)
    )


def gradients_of(weights: Weights, x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> Weights:
    """Of the mean squared error over what counts."""
    hidden, output = forward(weights, x)
    d_output = 2 * (output - y) * counts[..., None] / counts.sum()
    d_hidden = (d_output @ weights[2].T) * (1 - hidden**2)
    flat = [a.reshape(-1, a.shape[-1]) for a in (x, d_hidden, hidden, d_output)]
    return [flat[0].T @ flat[1], flat[1].sum(0), flat[2].T @ flat[3], flat[3].sum(0)]


def plain_mathematics(cut: Cut) -> Weights:
    """The weights after the epoch with whole batches, in NumPy and float64."""
    weights = [w.astype("float64") for w in initial_weights()]
    arrays = [array.astype("float64") for array in data_of(cut)]
    for start in range(0, cut.rows, BATCH):
        gradients = gradients_of(weights, *(array[start : start + BATCH] for array in arrays))
        if cut.clipnorm is not None:
            norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
            gradients = [g * min(1.0, cut.clipnorm / norm) for g in gradients]
        weights = [w - RATE * g for w, g in zip(weights, gradients, strict=True)]
    return weights


def distance(weights: Weights, reference: Weights) -> float:
    """Max|dw|; NaN if one is in them."""
    pairs = zip(weights, reference, strict=True)
    return float(np.max([np.max(np.abs(np.subtract(own, other))) for own, other in pairs]))


# Experiments --------------------------------------------------------------------------------


def attempt(measure: Callable[[], dict[str, Any]], way: str) -> dict[str, Any]:
    """What was found in one way, or the exception that stopped it."""
    try:
        return {"way": way, **measure()}
    except Exception as error:  # Whatever it is, it is what the user of this way gets.
        return {"way": way, "found": f"crash: {type(error).__name__}", "note": str(error)[:300]}


def accumulated(trainer: Any, cut: Cut, way: str) -> dict[str, Any]:
    """The distance of a trainer with cut batches to itself with whole ones."""
    whole = trainer.accumulate(cut, 1, way)
    check = distance(whole, plain_mathematics(cut))
    if not check <= TOLERANCE:  # Written so that a NaN fails.
        raise AssertionError(f"Whole batches end {check:.2g} from the plain mathematics.")
    return {"found": distance(trainer.accumulate(cut, PARTS, way), whole), "check": check}


def told(trainer: Any, way: str) -> dict[str, Any]:
    """Whether the weights are finite after a bad batch, and the line that names it, if any."""
    holder: dict[str, Callable[[], Weights]] = {}
    with tempfile.TemporaryFile() as output:
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        stopped = ""
        try:
            trainer.bad_batch(holder, way)
        except Exception as error:
            stopped = f"{type(error).__name__}: {error}"
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
        output.seek(0)
        lines = (output.read().decode(errors="replace") + "\n" + stopped).splitlines()
    finite = all(np.isfinite(w).all() for w in holder["weights"]())
    found = {"finite": finite, "stopped": stopped[:300], "named": naming(lines)}
    return {"found": found}


def naming(lines: list[str]) -> str:
    """The line that says which batch is not finite, with its number from 0 or from 1.

    >>> naming(["Epoch 1", "Batch 4: Invalid loss, terminating training"])
    'Batch 4: Invalid loss, terminating training'
    >>> naming(["Train loss contains a NaN."])
    ''
    """
    number = rf"\b(batch|step)\W{{0,3}}({BAD_BATCH}|{BAD_BATCH + 1})\b"
    said = [
        line
        for line in lines
        if re.search(r"nan\b|finite|invalid", line, re.I) and re.search(number, line, re.I)
    ]
    return said[0].strip()[:200] if said else ""


def figures(trainer: Any) -> dict[str, list[dict[str, Any]]]:
    """All experiments but the one that is killed."""
    measures: dict[str, Callable[[str], dict[str, Any]]] = {
        name: lambda way, cut=cut: accumulated(trainer, cut, way) for name, cut in CUTS.items()
    }
    measures["bad batch"] = lambda way: told(trainer, way)
    measures["report"] = lambda way: {"found": abs(trainer.report(way) - mean_over_rows())}
    return {
        name: [
            attempt(lambda measure=measure, way=way: measure(way), way)
            for way in trainer.ways.get(name, ("",))
        ]
        for name, measure in measures.items()
    }


def kill_if(kills: bool, updates_made: int) -> None:
    """Ends this process as ``kill -9`` does, once so many updates are made."""
    if kills and updates_made == KILLED_IN - 1:
        os.kill(os.getpid(), signal.SIGKILL)


def train(trainer: Any, place: pathlib.Path, way: str, kills: bool) -> dict[str, Any]:
    """The training that is killed, or resumed, or neither."""
    weights, updates = trainer.resume(place, way, kills)
    return {"weights": [w.tolist() for w in weights], "updates": int(updates)}


def class_of(name: str) -> Any:
    """A trainer's class by its name."""
    module, _, kind = TRAINERS[name].partition(".")
    return getattr(importlib.import_module(f"benchmarks.{module}"), kind)


def missing(name: str) -> list[str]:
    """The packages that a trainer needs and that are not installed here."""
    return [package for package in class_of(name).needs if not importlib.util.find_spec(package)]


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of the distributions of these packages."""
    names = [DISTRIBUTIONS.get(package, package) for package in packages]
    return {name: importlib.metadata.version(name) for name in names}


def main(arguments: list[str]) -> None:
    """Does what the command line says, and writes the answer to its file."""
    name, job, file, *rest = arguments
    answer: dict[str, Any]
    trainer = class_of(name)()
    if lacking := missing(name):
        answer = {"missing": lacking}
    elif job == "figures":
        answer = {
            "versions": versions(trainer.needs),
            "ways": trainer.ways,
            "figures": figures(trainer),
        }
    else:
        place, way, kind = rest
        answer = train(trainer, pathlib.Path(place), way, kind == "killed")
    pathlib.Path(file).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
