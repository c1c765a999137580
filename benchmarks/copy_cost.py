"""What copying a batch costs: once, as kerastrain does, beside not at all, and as TensorFlow does.

    python -m benchmarks.copy_cost                  # a minute
    python -m benchmarks.copy_cost --quick

A batch that Python has drawn is copied, since its arrays may be filled again; in a stack of
batches it is copied to where it stays. Columns, in microseconds for a batch, the median of the
rounds, which are interleaved:

- *stacked*: ``stacks.of_batches``, all that is done to make a block of batches;
- *copied*: of that, what the copy takes, into memory that is there already (``np.copyto``);
- *convert*: ``tf.convert_to_tensor``, for comparison, which copies twice, and does not stack;
- *an epoch*: a step of a training of a small model on these batches, with all of the above.

Before a time is printed, the batches of the stack are compared with those that were drawn.
"""

import argparse
import statistics
import time

import keras
import numpy as np
import rich.box
import rich.console
import rich.table
import tensorflow as tf

import kerastrain
from kerastrain.data import stacks

# name: (rows, columns)
BATCHES = {"small": (32, 20), "MNIST": (32, 784), "images": (32, 64 * 64 * 3)}


class Refilled(keras.utils.PyDataset):
    """Batches in the same arrays again and again."""

    def __init__(self, shape, count):
        super().__init__()
        self.count = count
        self.x = np.ones(shape, "float32")
        self.y = np.ones((shape[0], 1), "float32")

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        self.x[:, 0] = index
        return self.x, self.y


def check(data):
    """Raises an AssertionError if a block has other batches than were drawn."""
    first = [
        float(block.batch(index)[0][0, 0])
        for block in stacks.of_batches(iter(data))
        for index in range(block.steps)
    ]
    assert [*range(data.num_batches)] == first, first


def measured(shape, count, rounds):
    """The seconds of a batch, of each kind, in each round."""
    data = Refilled(shape, count)
    check(data)
    own = [np.empty_like(data.x), np.empty_like(data.y)]
    model = keras.Sequential([keras.Input(shape[1:]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    trainer = kerastrain.Trainer(model, seed=0, execution="loop")

    def stacked():
        for _ in stacks.of_batches(iter(data)):
            pass

    def copied():
        for index in range(count):
            for to, part in zip(own, data[index], strict=True):
                np.copyto(to, part)

    def converted():
        for index in range(count):
            [tf.convert_to_tensor(part) for part in data[index]]

    def epoch():
        trainer.fit(data, epochs=1, shuffle=False, verbose=0)

    kinds = [stacked, copied, converted, epoch]
    epoch()  # compiles
    times = {kind.__name__: [] for kind in kinds}
    for _ in range(rounds):
        for kind in kinds:
            begun = time.perf_counter()
            kind()
            times[kind.__name__].append((time.perf_counter() - begun) / count)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main(arguments=None):
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="two rounds of few batches")
    options = parser.parse_args(arguments)
    rounds, count = (2, 40) if options.quick else (options.rounds, 400)
    table = rich.table.Table(
        "batch", "bytes", "stacked, µs", "copied, µs", "convert, µs", "an epoch, µs a step",
        box=rich.box.SIMPLE,
    )  # fmt: skip
    for name, (rows, columns) in BATCHES.items():
        found = measured((rows, columns), count, rounds)
        cells = [f"{1e6 * seconds:.0f}" for seconds in found.values()]
        table.add_row(name, f"{4 * rows * (columns + 1):,}", *cells)
    rich.console.Console().print(table)


if __name__ == "__main__":
    main()
