"""A model's outputs for all rows of a source, many batches in one call."""

import contextlib
from typing import Any

import keras
import numpy as np

from kerastrain import _keras
from kerastrain.data import safe_for_keras
from kerastrain.data import Source
from kerastrain.errors import DataError
from kerastrain.execution import Runner
from kerastrain.loop.progress import Progress


def predict(runner: Runner, source: Source, verbose: Any) -> Any:
    """Runs all batches of one pass.

    Args:
        runner: of the kind ``"predict"``.
        source: arrays; it is closed.
        verbose: as of `Progress`.

    Returns:
        NumPy arrays in the structure of the outputs, in the order of the rows.
    """
    runner.begin(source.num_batches)
    outputs: list[Any] = []
    with Progress(verbose, None, "Predict") as progress, contextlib.closing(source):
        progress.begin_epoch(0, source.num_batches)
        for work in runner.epoch(source):
            progress.note(runner.choice.activity)
            results = work.run()
            assert results is not None  # steps of this kind return outputs
            outputs += results
            if progress.is_due:
                progress.update(len(outputs), {})
        progress.end_epoch({})
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)


def predict_by_keras(model: keras.Model, x: Any, **options: Any) -> Any:
    """Leaves it to ``keras.Model.predict``.

    Args:
        model: the model.
        x: as there.
        **options: further arguments of it.

    Raises:
        DataError: there is no batch.
    """
    try:
        return keras.Model.predict(model, safe_for_keras(x), **options)
    except UnboundLocalError as error:
        if not _keras.is_without_batches(error):
            raise
        raise DataError(
            "`x` has no batches: it ended before the first one. Pass at least one row, or a new "
            "generator."
        ) from None
