"""Data sets as plain values: each is drawn from a seed, printed, and built anew in any process.

::

    spec = drawn(random.Random(7))          # nested lists: [operation, arguments, inputs ...]
    text(spec)                              # range(9).shuffle(16, seed=3).batch(4)
    dataset = build(spec, directory)        # the same pipeline, as a program would make it anew

An element of a pipeline is ``(x, y)``: ``y`` a number of its own, ``x`` a vector that follows it,
so that two batches with the same bytes hold the same elements in the same order.
"""

import json
import pathlib
import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

FILES, LINES = 4, 5
AUTOTUNE = tf.data.AUTOTUNE
# Most of the time goes into tracing functions, and half of that into converting them.
as_is = tf.autograph.experimental.do_not_convert


def write_files(directory: pathlib.Path) -> None:
    """The text files that some pipelines read: numbers, one a line."""
    for file in range(FILES):
        lines = [str(1000 * file + line) for line in range(LINES)]
        (directory / f"rows-{file}.txt").write_text("\n".join(lines))


@as_is
def element(number):
    """``(x, y)`` of a number."""
    y = tf.cast(number, tf.float32)
    return tf.stack([y, y / 4]), y


# Where elements come from -----------------------------------------------------------


def _arrays(place, first, count):
    y = np.arange(first, first + count).astype("float32")
    return tf.data.Dataset.from_tensor_slices((np.stack([y, y / 4], 1), y))


def _dicts(place, first, count):
    y = np.arange(first, first + count).astype("float32")
    made = tf.data.Dataset.from_tensor_slices({"x": np.stack([y, y / 4], 1), "y": y})
    return made.map(as_is(lambda row: (row["x"], row["y"])))


def _range(place, count):
    return tf.data.Dataset.range(count).map(element)


def _random(place, count, seed, rerandomize):
    made = tf.data.Dataset.random(seed, rerandomize_each_iteration=rerandomize).take(count)
    return made.map(as_is(lambda number: element(number % 1_000_000)))


def _files(place, shuffle, seed, cycle, block, parallel, deterministic):
    made = tf.data.Dataset.list_files(f"{place}/rows-*.txt", shuffle=shuffle, seed=seed)
    made = made.interleave(
        as_is(lambda path: tf.data.TextLineDataset(path)),
        cycle_length=cycle,
        block_length=block,
        num_parallel_calls=parallel,
        deterministic=deterministic,
    )
    return made.map(as_is(lambda line: element(tf.strings.to_number(line))))


def _groups(place, groups, seed, cycle, parallel, deterministic):
    """A shuffle inside of an interleave."""

    @as_is
    def group(number):
        made = tf.data.Dataset.range(10 * number, 10 * number + 4)
        return made if seed == "none" else made.shuffle(4, seed=seed)

    made = tf.data.Dataset.range(groups).interleave(
        group, cycle_length=cycle, num_parallel_calls=parallel, deterministic=deterministic
    )
    return made.map(element)


def _generator(place, kind, count):
    """A function of Python's, which may keep random numbers from one pass to the next."""
    rng = np.random.default_rng(5)

    def rows():
        order = np.arange(count)
        if kind == "own":
            np.random.default_rng(3).shuffle(order)
        elif kind == "outside":
            rng.shuffle(order)
        elif kind == "numpy":
            np.random.shuffle(order)
        elif kind == "python":
            random.shuffle(order)
        for number in order:
            yield np.array([number, number / 4], "float32"), np.float32(number)

    specs = tf.TensorSpec((2,), tf.float32), tf.TensorSpec((), tf.float32)
    return tf.data.Dataset.from_generator(rows, output_signature=specs)


# What is done with them -------------------------------------------------------------


def _map(place, made, kind, seed=None, parallel=None, deterministic=None):
    if kind == "generator":
        generator = tf.random.Generator.from_seed(seed or 1)
    if kind == "variable":
        counter = tf.Variable(0.0)
    calls = []

    def count(x):
        calls.append(0)
        return x + np.float32(len(calls))

    @as_is
    def changed(x, y):
        shape = [1] if isinstance(x, tf.RaggedTensor) else tf.shape(x)
        if kind == "affine":
            return x * 2, y
        if kind == "stateless":
            key = tf.cast(tf.reduce_sum(y), tf.int32)
            return x + tf.random.stateless_uniform(shape, [key, seed or 1]), y
        if kind == "uniform":
            return x + tf.random.uniform(shape, seed=seed), y
        if kind == "generator":
            return x + generator.uniform(shape), y
        if kind == "variable":
            return x + counter.assign_add(1.0), y
        function = {"counted": count, "noise": _noise}.get(kind, np.negative)
        made = tf.numpy_function(function, [x], tf.float32)
        return tf.ensure_shape(made, x.shape), y

    return made.map(changed, num_parallel_calls=parallel, deterministic=deterministic)


def _noise(x):
    return x + np.float32(np.random.random())


def _filter(place, made, kind, seed=None):
    if kind == "random":
        return made.filter(as_is(lambda x, y: tf.random.uniform((), seed=seed) < 0.7))
    return made.filter(as_is(lambda x, y: tf.cast(y, tf.int32) % 3 != 1))


def _shuffle(place, made, buffer, seed, reshuffle):
    return made.shuffle(buffer, seed=seed, reshuffle_each_iteration=reshuffle)


def _zip(place, one, other):
    return tf.data.Dataset.zip((one, other)).map(
        as_is(lambda a, b: (a[0] + 1000 * b[0], a[1] + 1000 * b[1]))
    )


def _sample(place, *made, seed, rerandomize, stop):
    return tf.data.Dataset.sample_from_datasets(
        made, seed=seed, rerandomize_each_iteration=rerandomize, stop_on_empty_dataset=stop
    )


def _choose(place, *made):
    order = tf.data.Dataset.range(len(made)).repeat(12)
    return tf.data.Dataset.choose_from_datasets(made, order, stop_on_empty_dataset=False)


def _interleave(place, made, cycle, parallel, deterministic):
    @as_is
    def twice(x, y):
        return tf.data.Dataset.from_tensors((x, y)).repeat(2)

    return made.interleave(
        twice, cycle_length=cycle, num_parallel_calls=parallel, deterministic=deterministic
    )


def _window(place, made, size, shift):
    windows = made.window(size, shift)
    return windows.flat_map(as_is(lambda x, y: tf.data.Dataset.zip((x, y))))


def _scan(place, made):
    def summed(total, row):
        return total + row[1], (row[0] + total, row[1])

    return made.scan(tf.constant(0.0), as_is(summed))


def _outside(place, made, times):
    """A data set that a function has from outside."""
    return tf.data.Dataset.range(times).flat_map(as_is(lambda number: made))


def _enumerate(place, made):
    return made.enumerate().map(as_is(lambda number, row: row))


def _take_while(place, made, most):
    return made.take_while(as_is(lambda x, y: tf.reduce_sum(y) < most))


def _options(place, made, **values):
    options = tf.data.Options()
    for name, value in values.items():
        setattr(options, name, value)
    return made.with_options(options)


def _unequal(made):
    """Elements of unequal lengths."""
    return made.map(as_is(lambda x, y: (tf.repeat(x, 1 + tf.cast(tf.abs(y), tf.int32) % 4), y)))


def _batch(place, made, size, drop, parallel=None, deterministic=None):
    return made.batch(size, drop, num_parallel_calls=parallel, deterministic=deterministic)


def _padded_batch(place, made, size):
    return _unequal(made).padded_batch(size, padded_shapes=([None], []))


def _bucket(place, made, boundaries, sizes):
    return _unequal(made).bucket_by_sequence_length(lambda x, y: tf.shape(x)[0], boundaries, sizes)


def _ragged_batch(place, made, size):
    return _unequal(made).ragged_batch(size)


def _named(place, made):
    return made.map(as_is(lambda x, y: ({"a": x, "b": x * 2}, y)))


# Sources that are no pipelines ------------------------------------------------------


class Batches(keras.utils.PyDataset):
    """Batches by index, in an order that may change with each pass.

    Args:
        changes: when it is drawn anew: ``"begin"``, ``"end"``, ``"both"`` or None.
        by: ``"own"`` random numbers, those of ``"numpy"``, or the number of the ``"pass"``.
    """

    num_batches = 7

    def __init__(self, changes=None, by="own", **arguments):
        super().__init__(**arguments)
        self.changes, self.by = changes, by
        self.order, self.rng, self.passes = np.arange(7), np.random.default_rng(2), 0

    def __getitem__(self, index):
        y = 10 * self.order[index] + np.arange(3, dtype="float32")
        return np.stack([y, y / 4], 1), y

    def change(self):
        self.passes += 1
        if self.by == "pass":
            self.order = np.roll(np.arange(7), self.passes)
        else:
            (self.rng if self.by == "own" else np.random).shuffle(self.order)

    def on_epoch_begin(self):
        if self.changes in ("begin", "both"):
            self.change()

    def on_epoch_end(self):
        if self.changes in ("end", "both"):
            self.change()


class Plain(Batches):
    """The same without methods of its own for the ends of passes."""

    on_epoch_begin = keras.utils.PyDataset.on_epoch_begin
    on_epoch_end = keras.utils.PyDataset.on_epoch_end


def _pydataset(place, changes, by, workers, processes):
    kind = Plain if changes is None else Batches
    return kind(changes, by, workers=workers, use_multiprocessing=processes)


def _rows(place, kind, count):
    """Arrays, with the labels."""
    y = np.arange(count).astype("float32")
    x = np.stack([y, y / 4], 1)
    if kind == "ragged":
        x = tf.RaggedTensor.from_row_lengths(np.repeat(y, 2), [2] * count)
    elif kind == "sparse":
        x = tf.sparse.from_dense(x)
    return x, y


def _grain(place, kind, count, seed):
    import grain

    made = grain.MapDataset.source([element_of_numpy(number) for number in range(count)])
    if seed is not None:
        made = made.shuffle(seed=seed)
    if kind == "iter":
        made = made.to_iter_dataset()
    return made.batch(3)


def element_of_numpy(number):
    """``(x, y)`` of a number, as arrays."""
    return np.array([number, number / 4], "float32"), np.float32(number)


BUILDERS = {
    "arrays": _arrays, "dicts": _dicts, "range": _range, "random": _random, "files": _files,
    "groups": _groups, "generator": _generator, "map": _map, "filter": _filter,
    "cache": lambda place, made: made.cache(), "shuffle": _shuffle,
    "repeat": lambda place, made, count: made.repeat(count),
    "take": lambda place, made, count: made.take(count),
    "skip": lambda place, made, count: made.skip(count),
    "shard": lambda place, made, count, index: made.shard(count, index),
    "zip": _zip, "concatenate": lambda place, one, other: one.concatenate(other),
    "sample": _sample, "choose": _choose, "interleave": _interleave, "window": _window,
    "outside": _outside, "enumerate": _enumerate, "take_while": _take_while,
    "scan": _scan, "prefetch": lambda place, made, count: made.prefetch(count),
    "options": _options, "batch": _batch, "padded_batch": _padded_batch, "bucket": _bucket,
    "ragged_batch": _ragged_batch, "unbatch": lambda place, made: made.unbatch(),
    "named": _named, "pydataset": _pydataset, "rows": _rows, "grain": _grain,
}  # fmt: skip
SOURCES = {"arrays", "dicts", "range", "random", "files", "groups", "generator"}
# Of these, functions keep something outside of the pipeline from call to call.
_KEEPING = {"variable", "counted", "noise", "generator", "outside", "numpy", "python"}
BATCHINGS = {"batch", "padded_batch", "bucket", "ragged_batch"}


def build(spec: list, place: Any) -> Any:
    """The data set of a spec, made anew; files are read from the directory ``place``."""
    operation, arguments, *inputs = spec
    return BUILDERS[operation](place, *[build(part, place) for part in inputs], **arguments)


def text(spec: list) -> str:
    """The pipeline as one would write it, more or less."""
    operation, arguments, *inputs = spec
    values = [f"{name}={value!r}" for name, value in arguments.items()]
    if len(inputs) == 1:
        return f"{text(inputs[0])}.{operation}({', '.join(values)})"
    return f"{operation}({', '.join([*map(text, inputs), *values])})"


def parts(spec: list) -> list[list]:
    """The spec and all that it is made of."""
    return [spec, *[part for one in spec[2:] for part in parts(one)]]


def is_endless(spec: list) -> bool:
    """Whether a pass over it has no end."""
    operation, arguments, *inputs = spec
    if operation == "repeat" and arguments["count"] == -1:
        return True
    if operation == "take":
        return False
    if operation == "zip" or (operation == "sample" and arguments["stop"]):
        return all(map(is_endless, inputs))
    return any(map(is_endless, inputs))


def is_batched(spec: list) -> bool:
    """Whether it yields batches."""
    return any(part[0] in BATCHINGS for part in parts(spec))


def is_a_race(spec: list) -> bool:
    """Whether its order depends on which thread is first, or its random numbers do."""
    relaxed = any(part[1].get("deterministic") is False for part in parts(spec))
    drawing = ("uniform", "generator", "variable", "counted")
    for operation, arguments, *_ in parts(spec):
        if arguments.get("parallel") is not None:
            if relaxed or (operation == "map" and arguments["kind"] in drawing):
                return True
    return False


def draws_globally(spec: list) -> bool:
    """Whether Python functions draw from the global random numbers, ahead of the batches."""
    kinds = {(operation, arguments.get("kind")) for operation, arguments, *_ in parts(spec)}
    return bool(kinds & {("map", "noise"), ("generator", "numpy"), ("generator", "python")})


def is_repeatable(spec: list, is_seeded: bool) -> bool:
    """Whether TensorFlow draws the same again in any process, each time that it is begun.

    Args:
        spec: a pipeline.
        is_seeded: whether the program has called ``tf.random.set_seed``.
    """
    for operation, arguments, *_ in parts(spec):
        if arguments.get("kind") in _KEEPING:
            return False
        draws = operation != "map" or arguments["kind"] == "uniform"
        draws = draws and (operation != "filter" or arguments["kind"] == "random")
        draws = draws and (operation != "files" or arguments["shuffle"])
        if draws and not is_seeded and arguments.get("seed", 0) is None:
            return False
    return not is_a_race(spec)


# Drawing one ------------------------------------------------------------------------


def drawn(rng: random.Random) -> list:
    """A pipeline that yields batches."""
    made = _elements(rng, depth=2)
    made = _batched(rng, made)
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        made = _of_batches(rng, made)
    if rng.random() < 0.15 and _kind(made) == "batch":
        made = ["named", {}, made]
    if not is_endless(made) and rng.random() < 0.2:
        made = ["repeat", {"count": -1}, made]
    if rng.random() < 0.3:
        made = ["prefetch", {"count": rng.choice([1, 3, AUTOTUNE])}, made]
    if rng.random() < 0.1:
        made = ["options", {"deterministic": rng.random() < 0.5}, made]
    return json.loads(json.dumps(made))  # as if it had been printed and read


def _seed(rng):
    return rng.randrange(100) if rng.random() < 0.75 else None


def _threads(rng):
    if rng.random() < 0.7:
        return {"parallel": None, "deterministic": None}
    deterministic = rng.choice([None, None, True, False])
    return {"parallel": rng.choice([2, AUTOTUNE]), "deterministic": deterministic}


def _source(rng):
    kind = rng.choice(["arrays", "arrays", "dicts", "range", "files", "files", "groups",
                       "generator", "random"])  # fmt: skip
    count = rng.randint(6, 20)
    if kind in ("arrays", "dicts"):
        return [kind, {"first": 100 * rng.randrange(9), "count": count}]
    if kind == "range":
        return [kind, {"count": count}]
    if kind == "random":
        rerandomize = rng.choice([None, True, False])
        return [kind, {"count": count, "seed": _seed(rng), "rerandomize": rerandomize}]
    if kind == "files":
        return [kind, {"shuffle": rng.random() < 0.6, "seed": _seed(rng),
                       "cycle": rng.choice([1, 2, 4]), "block": rng.choice([1, 2]),
                       **_threads(rng)}]  # fmt: skip
    if kind == "groups":
        seed = rng.choice(["none", 1, 2, None])
        return [kind, {"groups": rng.randint(2, 5), "seed": seed, "cycle": rng.choice([1, 2, 3]),
                       **_threads(rng)}]  # fmt: skip
    kinds = ["plain", "plain", "own", "outside", "numpy", "python"]
    return [kind, {"kind": rng.choice(kinds), "count": count}]


def _elements(rng, depth):
    made = _source(rng)
    for _ in range(rng.choice([0, 1, 1, 2, 2, 3])):
        made = _changed(rng, made, depth)
    return made


def _changed(rng, made, depth):
    """One more operation on elements."""
    kinds = ["shuffle"] * 6 + ["map"] * 4 + ["filter", "cache", "repeat", "take", "skip", "shard",
             "interleave", "window", "scan", "prefetch", "options", "outside", "enumerate",
             "take_while"]  # fmt: skip
    if depth:
        kinds += ["zip", "concatenate", "sample", "sample", "choose"]
    kind = rng.choice(kinds)
    if kind == "map":
        return _mapped(rng, made)
    if kind == "filter":
        if is_endless(made):  # it might never yield anything
            return made
        return [kind, {"kind": rng.choice(["rest", "rest", "random"]), "seed": _seed(rng)}, made]
    if kind == "interleave":
        return [kind, {"cycle": rng.choice([1, 2, 3]), **_threads(rng)}, made]
    if kind == "outside":
        return [kind, {"times": rng.randint(1, 3)}, made]
    if kind == "enumerate":
        return [kind, {}, made]
    if kind == "take_while":  # of which most begin with less
        if is_endless(made):  # it might never end
            return made
        return [kind, {"most": rng.choice([12, 900, 10**7])}, made]
    if kind == "window":
        return [kind, {"size": rng.randint(2, 4), "shift": rng.randint(1, 4)}, made]
    if kind == "shard":
        return [kind, {"count": 2, "index": rng.randrange(2)}, made]
    if kind in ("zip", "concatenate"):
        return [kind, {}, *rng.sample([made, _elements(rng, depth - 1)], 2)]
    if kind in ("sample", "choose"):
        others = [_elements(rng, depth - 1) for _ in range(rng.choice([1, 1, 2]))]
        if kind == "choose":
            return [kind, {}, made, *others]
        arguments = {"seed": _seed(rng), "rerandomize": rng.choice([None, True, False])}
        return [kind, {**arguments, "stop": rng.random() < 0.5}, made, *others]
    return _common(rng, kind, made, scale=4)


def _common(rng, kind, made, scale):
    """An operation that elements and batches have in common."""
    if kind == "shuffle":
        buffer = rng.choice([2, scale, 4 * scale, 100])
        reshuffle = rng.choice([None, None, True, False])
        return [kind, {"buffer": buffer, "seed": _seed(rng), "reshuffle": reshuffle}, made]
    if kind == "repeat":
        return [kind, {"count": rng.choice([2, 2, 3, -1])}, made]
    if kind == "take":
        return [kind, {"count": rng.randint(scale, 4 * scale)}, made]
    if kind == "skip":
        return [kind, {"count": rng.randint(1, scale)}, made]
    if kind == "prefetch":
        return [kind, {"count": rng.choice([1, 2, AUTOTUNE])}, made]
    if kind == "options":
        return [kind, {"deterministic": rng.random() < 0.5}, made]
    return ["cache", {}, made]


def _mapped(rng, made):
    kind = rng.choice(["affine", "affine", "stateless", "stateless", "uniform", "uniform",
                       "generator", "variable", "python", "counted", "noise"])  # fmt: skip
    return ["map", {"kind": kind, "seed": _seed(rng), **_threads(rng)}, made]


def _batched(rng, made):
    kind = rng.choice(["batch"] * 5 + ["padded_batch", "bucket", "ragged_batch"])
    size = rng.randint(2, 5)
    if kind == "batch":
        return [kind, {"size": size, "drop": rng.random() < 0.3, **_threads(rng)}, made]
    if kind == "bucket":
        return [kind, {"boundaries": [3, 5], "sizes": [size, 2, 3]}, made]
    return [kind, {"size": size}, made]


def _kind(spec):
    """Which batching came last: only dense batches of one shape are cut up again."""
    return next(part[0] for part in parts(spec) if part[0] in BATCHINGS)


def _of_batches(rng, made):
    """One more operation on batches."""
    kinds = ["shuffle", "shuffle", "repeat", "take", "skip", "cache", "prefetch", "map", "map",
             "options", "unbatch", "concatenate"]  # fmt: skip
    kind = rng.choice(kinds)
    if kind == "map":
        if _kind(made) != "batch":
            return ["map", {"kind": "affine"}, made]
        return _mapped(rng, made)
    if kind == "unbatch":
        if _kind(made) != "batch":
            return made
        again = _changed(rng, ["unbatch", {}, made], depth=0)
        return _batched(rng, again)
    if kind == "concatenate":
        return [kind, {}, made, [*made[:2], *made[2:]]]  # the same once more, with its seeds
    return _common(rng, kind, made, scale=2)


def drawn_other(rng: random.Random) -> list:
    """A source of batches that is no pipeline."""
    kind = rng.choice(["pydataset"] * 4 + ["rows"] * 2 + ["grain"])
    if kind == "pydataset":
        workers = rng.choice([0, 1, 2, 2])
        return [kind, {"changes": rng.choice([None, "begin", "end", "both"]),
                       "by": rng.choice(["own", "numpy", "pass"]), "workers": workers,
                       "processes": workers > 1 and rng.random() < 0.1}]  # fmt: skip
    if kind == "rows":
        return [kind, {"kind": rng.choice(["dense", "ragged", "sparse"]),
                       "count": rng.randint(9, 30)}]  # fmt: skip
    return [kind, {"kind": rng.choice(["map", "iter"]), "count": rng.randint(9, 30),
                   "seed": rng.choice([None, 4])}]  # fmt: skip
