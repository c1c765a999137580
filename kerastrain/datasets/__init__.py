"""Labelled images from files: the digits of this package, `.npz` and MNIST's idx.

::

    from kerastrain import datasets

    split = datasets.load()  # or load("my.npz"), or load("directory/of/idx/files")
    print(split.x_train.shape, split.y_train.shape)  # (1437, 8, 8) (1437,)

The contract, for whatever bytes a file holds: a loader returns a `Split` that
`Split.check` accepts, or raises `DataError` with one line that names the file
and what is wrong with it. No pickle is ever opened, and no array is allocated
for a header that claims more than the file can hold.
"""

import hashlib
import math
import os
import stat
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kerastrain.datasets import _files
from kerastrain.datasets._files import npz_names as npz_names  # these are for the command line
from kerastrain.datasets._files import read_npz as read_npz
from kerastrain.datasets._files import reason as reason
from kerastrain.datasets._files import shown as shown
from kerastrain.errors import DataError

__all__ = ["Split", "load", "load_digits", "load_idx", "load_npz"]

# The checksum that digits.txt states, of the file as it is shipped.
DIGITS_SHA256 = "0db6df5cdccb8984d224447881d2407999cd0b77ff0835f5ce08405d2ff9f9d5"

# Labels are class numbers; a model has one output for each, so they stay small.
LARGEST_LABEL = 2**31 - 1

_IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


class Split(NamedTuple):
    """Images and their classes, one part to train on and one held out.

    Attributes:
        x_train: images, ``(rows, height, width)`` or ``(rows, height, width, channels)``.
        y_train: class numbers from 0, ``int64``, ``(rows,)``.
        x_test: images of the size of ``x_train``'s.
        y_test: class numbers.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def check(self, sources: dict[str, str]) -> "Split":
        """Returns the split in native byte order with ``int64`` labels, if it can be trained on.

        Args:
            sources: for each of the four names, how an error names its origin.

        Raises:
            DataError: images that are no numeric, finite array of rank 3 or 4;
                labels that are no vector of class numbers; an empty part;
                lengths or image sizes that do not match.
        """
        parts = {}
        for part in ("train", "test"):
            x_name, y_name = f"x_{part}", f"y_{part}"
            x = _checked_images(getattr(self, x_name), sources[x_name])
            y = _checked_labels(getattr(self, y_name), sources[y_name])
            if len(x) != len(y):
                raise DataError(
                    f"{sources[y_name]}: {len(y)} labels for the {len(x)} images "
                    f"of {sources[x_name]}."
                )
            parts[x_name], parts[y_name] = x, y
        if parts["x_train"].shape[1:] != parts["x_test"].shape[1:]:
            raise DataError(
                f"{sources['x_test']}: images of shape {parts['x_test'].shape[1:]}, but those "
                f"of {sources['x_train']} have shape {parts['x_train'].shape[1:]}."
            )
        return Split(**parts)


def load(path: str | Path | None = None) -> Split:
    """Loads what ``path`` points at.

    Args:
        path: an ``.npz`` file (`load_npz`), a directory that holds the four
            idx files (`load_idx`), or None for the digits (`load_digits`).

    Raises:
        DataError: nothing is there, or its loader refuses it.

    Example:
        >>> load().x_train.shape
        (1437, 8, 8)
    """
    if path is None:
        return load_digits()
    return load_idx(path) if _mode(path, stat.S_ISDIR) else load_npz(path)


def load_digits() -> Split:
    """The 1,797 handwritten digits of 8 by 8 pixels that the package ships.

    ``uint8`` values 0 to 16; 1,437 images to train on and 360 held out, every
    class in proportion. Source and licence are in ``digits.txt`` beside them.

    Raises:
        DataError: the installed file is missing, or is not the one that was shipped.

    Example:
        >>> int(load_digits().x_test.max())
        16
    """
    with resources.as_file(resources.files(__name__) / "digits.npz") as path:
        content = _files.read_whole(path)
        if hashlib.sha256(content).hexdigest() != DIGITS_SHA256:
            raise DataError(
                f"{shown(path)}: the checksum is not that of the file as it was "
                "shipped; install kerastrain again."
            )
        return load_npz(path)


def load_npz(path: str | Path) -> Split:
    """Loads an ``.npz`` file of four arrays, the layout of Keras's ``mnist.npz``.

    Args:
        path: a file with the keys ``x_train``, ``y_train``, ``x_test`` and
            ``y_test``, as `numpy.savez` and `numpy.savez_compressed` write it.
            Labels may be a column, ``(rows, 1)``.

    Raises:
        DataError: the file is missing, no ``.npz`` file or damaged; a key is
            missing; an array holds Python objects; or `Split.check` fails.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     np.savez(directory + "/my.npz", **load_digits()._asdict())
        ...     load_npz(directory + "/my.npz").y_test.shape
        (360,)
    """
    arrays = _files.read_npz(path, Split._fields)
    sources = {name: f"{shown(path)}: {name}" for name in Split._fields}
    return Split(**arrays).check(sources)


def load_idx(directory: str | Path) -> Split:
    """Loads MNIST's four idx files, or those of a data set in its layout.

    Args:
        directory: holds ``train-images-idx3-ubyte``,
            ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte``, each as it is or with ``.gz``. With
            both there, the one without is read.

    Raises:
        DataError: the directory or a file is missing; a file is no idx file of
            its kind, is truncated or too long; or `Split.check` fails.
    """
    if not _mode(directory, stat.S_ISDIR):
        raise DataError(f"{shown(directory)}: not a directory.")
    paths = {name: _idx_path(Path(directory), file) for name, file in _IDX_NAMES.items()}
    arrays = {
        name: _files.read_idx(path, rank=3 if name.startswith("x") else 1)
        for name, path in paths.items()
    }
    return Split(**arrays).check({name: shown(path) for name, path in paths.items()})


def _idx_path(directory: Path, name: str) -> Path:
    for path in (directory / name, directory / f"{name}.gz"):
        if os.path.exists(path):
            return path
    raise DataError(
        f"{shown(directory / name)}: no such file, with or without .gz; "
        f"the directory must hold {', '.join(_IDX_NAMES.values())}."
    )


def _mode(path: str | Path, test: Callable[[int], bool]) -> bool:
    """Whether something is at ``path`` and ``test`` is true of its mode."""
    try:
        return test(Path(path).stat().st_mode)
    except (OSError, ValueError) as error:
        raise DataError(_files.reason(path, error)) from None


def _checked_images(x: np.ndarray, source: str) -> np.ndarray:
    if x.dtype.kind not in "buif":
        raise DataError(f"{source}: images must be numbers, but the type is {x.dtype}.")
    if x.ndim not in (3, 4):
        raise DataError(
            f"{source}: images must have the shape (rows, height, width) or "
            f"(rows, height, width, channels), but the shape is {x.shape}."
        )
    if math.prod(x.shape) == 0:
        raise DataError(f"{source}: no images; the shape is {x.shape}.")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(f"{source}: images hold NaN or infinite values.")
    return x.astype(x.dtype.newbyteorder("="), copy=False)


def _checked_labels(y: np.ndarray, source: str) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(
            f"{source}: labels must have the shape (rows,), but the shape is {y.shape}; "
            "for one-hot labels store y.argmax(axis=1)."
        )
    if y.dtype.kind not in "ui":
        raise DataError(f"{source}: labels must be integers from 0, but the type is {y.dtype}.")
    if len(y) == 0:
        raise DataError(f"{source}: no labels.")
    if y.min() < 0 or y.max() > LARGEST_LABEL:
        wrong = y.min() if y.min() < 0 else y.max()
        raise DataError(f"{source}: labels must be class numbers from 0, but one is {wrong}.")
    return y.astype(np.int64)
