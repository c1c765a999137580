"""Small data that many tests share: arrays, and the same rows in other kinds of data sets."""

import keras
import numpy as np
import pytest
import tensorflow as tf


def regression(rows=11, features=4, outputs=2, seed=0):
    """``(x, y, sample_weight)`` with weights that are zero for some rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype("float32")
    y = rng.normal(size=(rows, outputs)).astype("float32")
    weight = rng.uniform(0.5, 2.0, size=rows).astype("float32")
    weight[::5] = 0.0
    return x, y, weight


def classes(rows=11, features=4, count=3, seed=0):
    """``(x, y)`` with class indices that the features decide."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)).astype("float32")
    return x, np.argmax(x @ rng.normal(size=(features, count)), axis=-1)


def cut(*arrays, size=4):
    """A list of batches of so many rows; the last one has what is left. Arrays may be nested."""
    return [
        tf.nest.map_structure(lambda array: array[start : start + size], arrays)
        for start in range(0, len(tf.nest.flatten(arrays)[0]), size)
    ]


class Batches(keras.utils.PyDataset):
    """A list of batches, by index."""

    def __init__(self, batches, **arguments):
        super().__init__(**arguments)
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def torch_loader(x, y, size=4, **arguments):
    """The rows in a loader of torch's; the test is skipped where there is none."""
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    return torch.utils.data.DataLoader(rows, batch_size=size, **arguments)


def grain_rows(x, y):
    """The rows in a data set of Grain's; the test is skipped where there is none."""
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source([(x[i], y[i]) for i in range(len(x))])


def of_unknown_length(*arrays, size=4):
    """Batches whose number ``tf.data`` cannot tell."""
    return tf.data.Dataset.from_tensor_slices(arrays).batch(size).filter(lambda *batch: True)
