"""A position is taken up to the bit, or refused: what was drawn before is compared."""

import contextlib
import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerastrain import DataError
from kerastrain._keras import pipelines
from kerastrain.data.source import Source
from kerastrain.run import state_trees
from kerastrain.state.digests import digest_of
from tests.support import tiers

ROWS, EPOCHS = 20, 3
Y = np.arange(ROWS, dtype="float32")
X = np.stack([Y, Y / 4], 1)


# Sources ----------------------------------------------------------------------------


def rows(first=0, count=ROWS):
    y = np.arange(first, first + count).astype("float32")
    return tf.data.Dataset.from_tensor_slices((np.stack([y, y / 4], 1), y))


def two_shuffles():
    return rows().shuffle(20, seed=1).shuffle(6, seed=2).batch(4)


def files_then_rows():
    files = tf.data.Dataset.range(4).shuffle(4, seed=3)
    return files.interleave(lambda i: rows(0, 5).skip(i), 2).shuffle(8, seed=4).batch(4)


def repeated():
    return rows().shuffle(20, seed=1).repeat(2).batch(4)


def zipped():
    one, other = rows().shuffle(20, seed=1), rows(50).shuffle(5, seed=2)
    return tf.data.Dataset.zip((one, other)).map(lambda a, b: (a[0] + b[0], b[1])).batch(4)


def concatenated():
    return rows(0, 8).shuffle(8, seed=1).concatenate(rows(8, 12).shuffle(12, seed=2)).batch(4)


def sampled():
    parts = [rows().shuffle(20, seed=1), rows(50).shuffle(5, seed=2)]
    return tf.data.Dataset.sample_from_datasets(parts, seed=5).batch(4)


def cached():
    return rows().shuffle(20, seed=1).cache().shuffle(7, seed=2).batch(4)


def endless():
    return rows().shuffle(20, seed=1).repeat().batch(3).shuffle(3, seed=2)


class Batches(keras.utils.PyDataset):
    num_batches = 6

    def __getitem__(self, index):
        y = np.float32([index, index + 0.25])
        return np.stack([y, y], 1), y


class Reordered(Batches):
    """Its order is another after each pass, and its labels count the passes."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.rng, self.order, self.passes = np.random.default_rng(2), np.arange(6), 0

    def __getitem__(self, index):
        x, y = super().__getitem__(int(self.order[index]))
        return x, y + 100 * self.passes

    def on_epoch_begin(self):
        self.passes += 1

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


class Endless(Batches):
    num_batches = None


def ragged():
    return tf.RaggedTensor.from_row_lengths(np.arange(ROWS * 2.0), [1, 3] * 10)


def grain_rows():
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source([(X[i], Y[i]) for i in range(ROWS)]).shuffle(seed=1).batch(4)


THREADS, PROCESSES = {"workers": 2}, {"workers": 2, "use_multiprocessing": True}
SOURCES = {
    "two shuffles": lambda: {"x": two_shuffles()},
    "files, then rows": lambda: {"x": files_then_rows()},
    "shuffled and repeated": lambda: {"x": repeated()},
    "zip": lambda: {"x": zipped()},
    "concatenate": lambda: {"x": concatenated()},
    "sample": lambda: {"x": sampled()},
    "cache": lambda: {"x": cached()},
    "endless": lambda: {"x": endless(), "steps": 4},
    "in order": lambda: {"x": rows().batch(4)},
    "in order, in steps": lambda: {"x": rows().batch(4), "steps": 3},
    "PyDataset": lambda: {"x": Batches(), "shuffle": True, "seed": 3},
    "PyDataset, threads": lambda: {"x": Batches(**THREADS)},
    "PyDataset, threads, shuffled": lambda: {"x": Batches(**THREADS), "shuffle": True, "seed": 3},
    "PyDataset that reorders itself": lambda: {"x": Reordered()},
    "reorders itself, threads": lambda: {"x": Reordered(**THREADS)},
    "reorders itself, in steps": lambda: {"x": Reordered(**THREADS), "steps": 4},
    "PyDataset, endless, threads": lambda: {"x": Endless(**THREADS), "steps": 4},
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 4, "shuffle": True, "seed": 3},
    "arrays, small batches": lambda: {"x": X, "y": Y, "batch_size": 2, "shuffle": True, "seed": 3},
    "ragged": lambda: {"x": ragged(), "y": Y, "batch_size": 4, "shuffle": True, "seed": 3},
    "Grain": lambda: {"x": grain_rows()},
}


# Interrupted anywhere -----------------------------------------------------------------


def started(make, validates=False, lie_together=True):
    source = Source(**make())
    source = source.in_blocks(0) if lie_together else source
    source.track(begins_anew=validates).peek()
    return source


def batches_from(source, epoch, validates, note=lambda epoch, done: None):
    """The digests of the batches of epochs from one on, as a training takes them."""
    found = []
    for number in range(epoch, EPOCHS):
        if validates:
            source.restart()
        for chunk in source.chunks(None if validates else number, lambda: 2):
            indices = range(chunk.start, chunk.start + chunk.steps)
            found += [digest_of(chunk.block.batch(index)) for index in indices]
            if not validates:
                note(number, len(found))
        note(number + 1, len(found))
    return found


def uninterrupted(make, validates=False, **options):
    """The batches, and ``(epoch, batches so far, state)`` of all positions."""
    positions = []
    with contextlib.closing(started(make, validates, **options)) as source:

        def note(epoch, done):
            info, tensors = state_trees.pack(source.state())
            positions.append((epoch, done, json.dumps(info), tensors))

        note(0, 0)
        return batches_from(source, 0, validates, note), positions


def resumed(make, position, validates=False, **options):
    epoch, _, info, tensors = position
    with contextlib.closing(started(make, validates, **options)) as source:
        source.set_state(state_trees.unpack(json.loads(info), tensors))
        return batches_from(source, epoch, validates)


# What they are made of is in others.
MUCH_LIKE_OTHERS = [
    *("shuffled and repeated", "zip", "concatenate", "sample", "in order, in steps"),
    *("PyDataset, threads", "PyDataset, threads, shuffled", "PyDataset, endless, threads"),
    "reorders itself, threads",
]


@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("name", tiers.without(SOURCES, MUCH_LIKE_OTHERS))
def test_the_batches_that_came_next(name):
    """Interrupted in an epoch, at its end or before the first: the same batches come next."""
    make = SOURCES[name]
    both = name.startswith("arrays")
    for lie_together in (True, False) if both else (random.Random(name).random() < 0.7,):
        expected, positions = uninterrupted(make, lie_together=lie_together)
        chosen = [positions[i] for i in (0, 2, len(positions) // 2, -1)]
        chosen += [p for p in positions if p[0] == 1][:1]
        for position in chosen:
            assert expected[position[1] :] == resumed(make, position, lie_together=lie_together)


@pytest.mark.parametrize("name", ["arrays", "PyDataset"])
def test_each_pass_has_an_order_of_its_own(name):
    """Which depends on the seed and its number alone."""

    def orders():
        with contextlib.closing(Source(**SOURCES[name]())) as source:
            return [[digest_of(batch) for batch in source.epoch(n)] for n in range(EPOCHS)]

    first, second, third = found = orders()
    assert first != second != third != first
    assert found == orders()


@pytest.mark.parametrize("other", [0, 3])
def test_another_batch_than_was_drawn_is_refused(other):
    """The first of the pass, and the last that was taken."""

    def made(changed=False):
        y = np.arange(ROWS, dtype="float32")
        if changed:
            y[other * 4] += 1
        return tf.data.Dataset.from_tensor_slices((X, y)).batch(4)

    with contextlib.closing(Source(made()).track()) as source:
        source.peek()
        batches = source.epoch(0)
        for _ in range(4):
            next(batches)
        info, tensors = state_trees.pack(source.state())
    for changed in (False, True):
        with contextlib.closing(Source(made(changed)).track()) as source:
            source.peek()
            state = state_trees.unpack(info, tensors)
            with pytest.raises(DataError, match="batch") if changed else contextlib.nullcontext():
                source.set_state(state)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("name", ["PyDataset, processes", "reorders itself, processes"])
def test_worker_processes(name):
    """They begin after ``on_epoch_begin``, with what it has done, in each pass anew."""
    kind = Reordered if "itself" in name else Batches

    def make():
        return {"x": kind(**PROCESSES)}

    expected, positions = uninterrupted(make)
    assert expected == uninterrupted(lambda: {"x": kind()})[0]
    for position in (positions[3], [p for p in positions if p[0] == 2][0]):
        assert expected[position[1] :] == resumed(make, position)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        (None, "two shuffles"), (3, "concatenate"), (3, "shuffled and repeated"),
        tiers.slow(3, "two shuffles"), tiers.slow(None, "concatenate"),
        tiers.slow(None, "shuffled and repeated"),
    ],
)  # fmt: skip
def test_validations(name, steps):
    """Each is a new pass, of which only some batches may be drawn, and none ahead of them."""

    def make():
        return SOURCES[name]() | {"steps": steps}

    expected, positions = uninterrupted(make, validates=True)
    for position in positions:
        assert expected[position[1] :] == resumed(make, position, validates=True)


def shuffled_again(draws_ahead=False):
    data = rows().shuffle(9, seed=4).map(lambda x, y: (x + 1, y)).batch(4).repeat()
    return data.prefetch(2) if draws_ahead else data


def test_a_pass_that_is_left_before_its_end():
    """What draws ahead of it has drawn more or less by then; what does not, goes on as it did."""
    cut = lambda: {"x": shuffled_again(), "steps": 3}
    expected, positions = uninterrupted(cut, validates=True)
    for position in positions:
        assert expected[position[1] :] == resumed(cut, position, validates=True)
    with contextlib.closing(Source(shuffled_again(draws_ahead=True), steps=3)) as source:
        source.track()  # which goes on where it was left
        with pytest.raises(DataError, match="prefetch, which has drawn more or less"):
            source.track(begins_anew=True)


# What a part of a pipeline leaves before its end ---------------------------------------


def endless_order(first=0):
    return rows(first).shuffle(20, seed=1).repeat()


def ahead(data):
    return data.prefetch(2)


def in_parallel(data):
    return data.map(lambda x, y: (x + 1, y), num_parallel_calls=2)


def mixed(*data, stop=True):
    return tf.data.Dataset.sample_from_datasets(data, seed=3, stop_on_empty_dataset=stop)


def zipped_with(data, count):
    return tf.data.Dataset.zip((data, rows(0, count))).map(lambda a, b: a)


def from_outside(function, then=lambda data: data):
    """A data set that a function has from outside of the pipeline."""
    outside = then(rows(0, 5).shuffle(5, seed=3))
    return tf.data.Dataset.range(2).flat_map(lambda i: function(outside))


CUT_INSIDE = {
    "take": lambda: in_order(endless_order()).batch(3).take(3),
    "take, shuffled twice": lambda: endless_order().shuffle(3, seed=2).batch(3).take(3),
    "take, with optimisations asked for": lambda: optimized(
        in_order(endless_order()).batch(3).take(3)
    ),
    "zip": lambda: zipped_with(in_order(endless_order()), 9).batch(3),
    "mixture": lambda: mixed(in_order(endless_order()), rows(50, 5)).batch(3),
    "take_while": lambda: in_order(endless_order()).batch(3).take_while(lambda x, y: y[0] < 16),
    "choice": lambda: tf.data.Dataset.choose_from_datasets(
        [in_order(endless_order()), rows(50)], tf.data.Dataset.range(2).repeat(4)
    ).batch(3),
}  # fmt: skip


def in_order(data):
    return data.map(lambda x, y: (x + 1, y))


def optimized(data):
    options = tf.data.Options()
    options.experimental_optimization.map_parallelization = True
    options.experimental_optimization.inject_prefetch = True
    return data.with_options(options)


@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("name", tiers.without(CUT_INSIDE, ["take", "zip", "take_while", "choice"]))
def test_what_a_part_leaves_before_its_end(name):
    """Nothing draws ahead of it unasked, so that the next pass goes on where it must."""

    def make():
        return {"x": CUT_INSIDE[name]()}

    source = Source(**make()).track()
    assert source._passes._left.goes_on
    source.close()
    expected, positions = uninterrupted(make)
    for position in [*positions[1::4], positions[-1]]:
        assert expected[position[1] :] == resumed(make, position)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: ahead(endless_order().batch(3)).take(3), "prefetch.*when take stops"),
        (lambda: in_parallel(endless_order()).batch(3).take(3), "parallelmap.*when take stops"),
        (lambda: zipped_with(ahead(endless_order()), 9).batch(3), "prefetch.*when zip stops"),
        (
            lambda: mixed(ahead(endless_order()), rows()).batch(3),
            "prefetch.*when directedinterleave stops",
        ),
        (
            lambda: ahead(endless_order()).batch(3).take_while(lambda x, y: True),
            "when takewhile stops",
        ),
        (lambda: ahead(endless_order()).batch(3).take(3).repeat(2), "prefetch.*when take stops"),
        (
            lambda: from_outside(lambda data: data.take(2), ahead).batch(3),
            "flatmap.*when its function stops",
        ),
        (
            lambda: tf.data.Dataset.choose_from_datasets(
                [ahead(endless_order()), endless_order()], tf.data.Dataset.range(2).repeat(4)
            ).batch(3),
            "prefetch.*when directedinterleave stops",
        ),
    ],
)
def test_what_draws_ahead_of_it_is_refused_at_the_begin(made, why):
    """How far it is when the part stops is a matter of time."""
    source = Source(made())
    with pytest.raises(DataError, match=why):
        source.track()
    source.close()


@pytest.mark.parametrize(
    "made",
    [
        lambda: ahead(endless_order().batch(3).take(3)),
        lambda: ahead(rows().shuffle(20, seed=1)).batch(3).take(3),
        lambda: ahead(rows().repeat()).batch(3).take(3),
        lambda: ahead(rows().shuffle(20, seed=1).repeat(2)).take(40).batch(4),
        lambda: ahead(rows().shuffle(9, seed=1).cache().filter(lambda x, y: True)).enumerate().map(
            lambda i, row: row
        ).batch(4),
        lambda: mixed(ahead(endless_order()), ahead(endless_order(50))).batch(3),
        lambda: mixed(
            ahead(repeated().unbatch()), ahead(concatenated().unbatch()), stop=False
        ).batch(3),
        lambda: zipped_with(ahead(rows().shuffle(20, seed=1).repeat(2)), 40).batch(4),
        lambda: ahead(
            rows().shuffle(20, seed=1, reshuffle_each_iteration=False).repeat()
        ).batch(3).take(3),
        lambda: from_outside(lambda data: data.batch(2).repeat(2), ahead),
        lambda: ahead(inner_shuffle(1).repeat()).take(3),
        lambda: ahead(augmented(seed=1).repeat()).take(3),
    ],
)  # fmt: skip
def test_what_may_draw_ahead(made):
    """After what stops, of what is the same in each pass, or where nothing stops before the end."""
    source = Source(made()).track()
    source.close()


def test_python_functions_that_run_ahead_are_warned_of():
    """They are a race only if they keep a state from pass to pass."""
    with pytest.warns(UserWarning, match="runs Python functions ahead of what take stops"):
        Source(ahead(from_python()).take(3)).track()
    with pytest.warns(UserWarning, match="runs Python functions ahead of a pass that is left"):
        Source(ahead(from_python()), steps=2).track(begins_anew=True)


def test_a_pass_that_ends_before_its_steps_is_not_cut():
    """It is drawn to its end, with whatever runs ahead."""
    Source(shuffled_and_ahead := ahead(repeated()), steps=10).track(begins_anew=True)
    with pytest.raises(DataError, match="more or less"):
        Source(shuffled_and_ahead, steps=9).track(begins_anew=True)


@pytest.mark.parametrize("name", ["some", tiers.slow("all"), tiers.slow("mapped")])
def test_a_data_set_from_outside(name):
    """What a function has from outside goes on from pass to pass as all else does."""
    inside = {"all": lambda d: d, "some": lambda d: d.take(2), "mapped": in_order}[name]

    def make():
        return {"x": from_outside(inside).batch(2)}

    expected, positions = uninterrupted(make)
    assert expected[:3] != expected[3:6]
    for position in positions[1::4]:
        assert expected[position[1] :] == resumed(make, position)


@pytest.mark.parametrize("parallel", [None, 2])
@pytest.mark.parametrize("more", [(), (np.float32(0), np.float32(1), np.float32(0))])
def test_the_threads_of_a_data_set_from_outside(parallel, more):
    """Are known, however many arguments its functions have from outside themselves."""
    constants = [tf.constant(one) for one in more]
    inner = lambda i: rows(0, 4).map(lambda x, y: (sum(constants, x), y))
    outside = tf.data.Dataset.range(3).interleave(inner, 2, num_parallel_calls=parallel)
    made = tf.data.Dataset.range(2).flat_map(lambda i: outside)
    found = [pipelines._Operations.of(part) for part in pipelines._parts_of(made)]
    assert any(one.is_parallel for one in found) == (parallel is not None)
    Source(made.batch(4)).track().close()


def test_a_data_set_from_outside_without_a_seed_is_refused():
    """Its graph tells."""
    tf.random.set_seed(None)
    outside = rows().shuffle(20)
    with pytest.raises(DataError, match="without a seed in ShuffleDataset"):
        Source(tf.data.Dataset.range(2).flat_map(lambda i: outside).batch(4)).track()


# Two data sets that have something in common -------------------------------------------


def order(**options):
    return rows().shuffle(20, seed=1, **options)


def split(full):
    return full.skip(8).batch(4), full.take(8).batch(4)


def with_one_generator():
    generator = tf.random.Generator.from_seed(3)
    add = lambda x, y: (x + generator.uniform((2,)), y)
    return rows().map(add).batch(4), rows().map(add).batch(4)


def from_one_outside():
    outside = rows(0, 5).shuffle(5, seed=3)
    make = lambda: tf.data.Dataset.range(2).flat_map(lambda i: outside).batch(4)
    return make(), make()


def twice(data):
    return data, data


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda: split(order()), "shuffle"),
        (lambda: twice(order().batch(4)), "shuffle"),
        (lambda: twice(sampled()), "shuffle"),
        (with_one_generator, "RngReadAndSkip"),
        (from_one_outside, "a data set inside of flatmap"),
        (lambda: twice(Reordered()), "Reordered"),
    ],
)
def test_one_state_of_two_data_sets_is_refused(made, name):
    """The passes of both would have to be drawn again in the order in which they were."""
    one, other = made()
    one, other = Source(one, name="x"), Source(other, name="validation_data")
    with pytest.raises(DataError, match=f"`x` and `validation_data` have the same {name}:"):
        other.check_apart(one)
    one.check_apart(Source(made()[1]))


@pytest.mark.parametrize(
    "made",
    [
        lambda: split(order(reshuffle_each_iteration=False)),
        lambda: (order().batch(4), order().batch(4)),
        lambda: twice(rows().batch(4)),
        lambda: split(from_python().unbatch()),
        lambda: twice(augmented(seed=1)),
        lambda: twice(Batches()),
    ],
)
def test_what_two_data_sets_may_have_in_common(made):
    """What is the same in each pass, whoever draws it."""
    one, other = map(Source, made())
    other.check_apart(one)


def test_a_split_in_a_fixed_order():
    """It is the same in each pass, so that any pass begins without those before it."""
    source = Source(split(order(reshuffle_each_iteration=False))[0])
    assert "nothing" == source._passes.replay
    assert source.identity()["@digest"]


# Looks, and validations ------------------------------------------------------------------


def test_a_look_after_a_validation():
    """It is the next one's first batch, and not one more of the last."""
    make = lambda: {"x": with_generator(False).repeat(), "steps": 2}
    runs = []
    for looks in (True, False):
        with contextlib.closing(started(make, validates=True)) as source:
            for _ in range(3):
                source.restart()
                runs.append([digest_of(batch) for batch in source.epoch()])
                if looks:
                    source.peek()
    assert runs[:3] == runs[3:]


def test_a_look_at_the_next_epoch():
    """A pass that has been begun, and of which nothing has been drawn, is the next one."""
    expected, _ = uninterrupted(two_shuffles_made := lambda: {"x": two_shuffles()})
    with contextlib.closing(started(two_shuffles_made)) as source:
        done = sum(chunk.steps for chunk in source.chunks(0))
        source.peek()
        position = (1, done, *map(json.dumps, state_trees.pack(source.state())[:1]), {})
    assert expected[done:] == resumed(two_shuffles_made, position)


# Refused -------------------------------------------------------------------------------


def positions_of(make):
    _, positions = uninterrupted(make)
    in_first = next(p for p in positions if p[1] >= 2)
    at_end = next(p for p in positions if p[0] == 1)
    return {"within an epoch": in_first, "at its end": at_end, "later": positions[-3]}


def other_rows():
    return rows(1).batch(4)


def other_order():
    return rows().shuffle(20, seed=9).shuffle(6, seed=2).batch(4)


def other_inner_order():
    return rows().shuffle(20, seed=1).shuffle(6, seed=9).batch(4)


def other_last_part():
    return rows(0, 8).shuffle(8, seed=1).concatenate(rows(8, 12).shuffle(12, seed=9)).batch(4)


def fewer():
    return rows(0, 16).batch(4)


@pytest.mark.parametrize(
    ("first", "then", "where"),
    [
        (lambda: rows().batch(4), other_rows, ("within an epoch", "at its end", "later")),
        tiers.slow(two_shuffles, other_order, ("within an epoch", "at its end", "later")),
        (two_shuffles, other_inner_order, ("within an epoch", "at its end", "later")),
        tiers.slow(concatenated, other_last_part, ("at its end", "later")),
        (lambda: rows().batch(4), fewer, ("at its end", "later")),
        tiers.slow(fewer, lambda: rows().batch(4), ("at its end", "later")),
    ],
)
def test_another_pipeline_is_refused(first, then, where):
    """Other rows, another order of any of its shuffles, or another number: by name."""
    positions = positions_of(lambda: {"x": first(), "name": "validation_data"})
    for place in where:
        with pytest.raises(DataError, match="`validation_data` does not give the batches"):
            resumed(lambda: {"x": then(), "name": "validation_data"}, positions[place])


def test_the_same_object_again_is_refused():
    """It continues with other orders; the message tells to make it anew."""
    data = two_shuffles()
    positions = positions_of(lambda: {"x": data})
    for position in positions.values():
        with pytest.raises(DataError, match="make the data set anew"):
            resumed(lambda: {"x": data}, position)


@pytest.mark.slow
def test_the_same_object_again_where_all_passes_are_alike():
    """Without a shuffle it is the same data set."""
    data = rows().batch(4)
    expected, positions = uninterrupted(lambda: {"x": data})
    for position in positions[::3]:
        assert expected[position[1] :] == resumed(lambda: {"x": data}, position)


class Drawing(Batches):
    """Random numbers that go on from call to call."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + self.rng.random(x.shape, "float32"), y


def test_a_data_set_with_a_state_of_its_own_is_refused():
    """A batch that an index gives only once; the message tells what to do."""
    for position in positions_of(lambda: {"x": Drawing()}).values():
        with pytest.raises(DataError, match=r"must return the same batch for the same index"):
            resumed(lambda: {"x": Drawing()}, position)


class Flipping(Batches):
    """One of its batches is another one in another process: that of some index, in some pass."""

    num_batches, flipped = 12, None

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.calls = 0

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        self.calls += 1
        return (-x if self.flipped is not None and index == self.flipped else x), y


@pytest.mark.parametrize(
    ("taken", "flipped", "message"),
    [
        (10, 2, "batch 3 of the pass"),
        (10, 8, "batch 9 of the pass"),
        (4, 1, "batch 2 of the pass"),
        (14, 8, "batch 9 of the pass before"),
        (12, 5, "batch 6 of the pass"),
    ],
)
def test_another_batch_of_an_index_is_refused(monkeypatch, taken, flipped, message):
    """The last eight that code of the user's own has made are made again, and compared."""
    _, positions = uninterrupted(lambda: {"x": Flipping()})
    at = [p for p in positions if p[1] == taken][-1]
    monkeypatch.setattr(Flipping, "flipped", flipped)
    with pytest.raises(DataError, match=f"{message} differs"):
        resumed(lambda: {"x": Flipping()}, at)


def test_batches_by_index_are_made_again_a_few():
    """To begin anywhere stays cheap."""
    expected, positions = uninterrupted(lambda: {"x": Flipping(), "shuffle": True, "seed": 3})
    at = [p for p in positions if p[1] == 22][-1]
    data = Flipping()
    with contextlib.closing(started(lambda: {"x": data, "shuffle": True, "seed": 3})) as source:
        looked = data.calls
        source.set_state(json.loads(at[2]))
        assert data.calls - looked <= 8 + 3  # Keras draws two ahead
        assert expected[22:] == batches_from(source, 1, False)


flips: set = set()


def from_python():
    """Batches of a function of Python's; those in ``flips`` are others."""

    def draw():
        for index in range(6):
            x = np.full((2, 2), index, "float32")
            yield (-x if index in flips else x), np.full(2, index, "float32")

    specs = tf.TensorSpec((2, 2), tf.float32), tf.TensorSpec((2,), tf.float32)
    return tf.data.Dataset.from_generator(draw, output_signature=specs)


def of_numpy():
    def flip(x):
        return -x if x[0, 0] in flips else x

    def flipped(x, y):
        return tf.ensure_shape(tf.numpy_function(flip, [x], tf.float32), x.shape), y

    return rows().batch(2, drop_remainder=True).map(flipped)


def of_torch():
    torch = pytest.importorskip("torch")

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return np.full(2, -index if index in flips else index, "float32"), np.float32(index)

    return torch.utils.data.DataLoader(Rows())


class Ordered(Flipping):
    """With something to do between passes."""

    num_batches = 6

    def __getitem__(self, index):
        self.flipped = index if index in flips else None
        return super().__getitem__(index)

    def on_epoch_end(self):
        pass


@pytest.mark.parametrize("make", [of_numpy, of_torch, Ordered, tiers.slow(from_python)])
def test_another_batch_in_between_is_refused(make):
    """All that code of the user's own makes again is compared, be it neither first nor last."""
    _, positions = uninterrupted(lambda: {"x": make()})
    in_first = next(p for p in positions if p[1] >= 4)
    at_end = next(p for p in positions if p[0] == 1)
    for position in (in_first, at_end):
        flips.add(2)
        try:
            with pytest.raises(DataError, match="a batch of the|batch 3 of the|an earlier pass"):
                resumed(lambda: {"x": make()}, position)
        finally:
            flips.clear()
        resumed(lambda: {"x": make()}, position)


def test_another_batch_of_an_earlier_pass_is_refused():
    """Where all passes are drawn again, all are compared."""
    _, positions = uninterrupted(lambda: {"x": from_python()})
    calls = []

    def make():
        calls.clear()
        return {"x": from_python().map(lambda x, y: (changed(x), y))}

    def changed(x):
        def other(x):
            calls.append(0)
            return -x if len(calls) == 3 + 6 else x  # of the second pass; one has been looked at

        return tf.ensure_shape(tf.numpy_function(other, [x], tf.float32), x.shape)

    with pytest.raises(DataError, match="an earlier pass|of the last pass"):
        resumed(make, positions[-1])


class Global(Reordered):
    """Its order follows the global random numbers."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.rng = np.random

    def on_epoch_begin(self):
        self.rng.shuffle(self.order[1:])  # the first batch is the same


@pytest.mark.parametrize("seed", [3, 4])
def test_an_order_of_the_global_random_numbers(seed):
    """Another state of these is refused, wherever the batches that were drawn are the same."""
    np.random.seed(3)
    expected, positions = uninterrupted(lambda: {"x": Global()})
    for position in [*positions[:2], *positions[2::4]]:
        np.random.seed(seed)
        if seed == 3:
            assert expected[position[1] :] == resumed(lambda: {"x": Global()}, position)
            continue
        with pytest.raises(DataError, match="differs"):
            resumed(lambda: {"x": Global()}, position)


class Forgotten(Reordered):
    """The order of the passes is another one in each process."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng()


def test_another_order_of_a_data_set_is_refused():
    """Also where it is of the passes that come: the last pass is compared."""
    positions = positions_of(lambda: {"x": Forgotten()})
    with pytest.raises(DataError, match="the (last )?pass differs"):
        resumed(lambda: {"x": Forgotten()}, positions["later"])


@pytest.mark.slow
def test_a_generator_with_another_state_is_refused():
    """What a function yields may follow what no seed decides."""
    calls = iter(range(100))

    def draw():
        call = next(calls)
        for index in range(5):
            yield np.full((2, 2), call), np.full(2, index)

    specs = tf.TensorSpec((2, 2), tf.float32), tf.TensorSpec((2,), tf.float32)

    def make():
        return {"x": tf.data.Dataset.from_generator(draw, output_signature=specs)}

    for position in positions_of(make).values():
        with pytest.raises(DataError, match="differs"):
            resumed(make, position)


@pytest.mark.parametrize(
    ("made", "replay"),
    [
        (lambda: rows().map(lambda x, y: (x + 1, y)).cache().repeat(2).batch(4), "nothing"),
        (two_shuffles, "begin"),
        (files_then_rows, "begin"),
        (zipped, "begin"),
        (lambda: rows().repeat(2).shuffle(4, seed=1).batch(4).prefetch(1), "begin"),
        (repeated, "draw"),
        (concatenated, "draw"),
        (sampled, "draw"),
        (cached, "draw"),
        (lambda: inner_shuffle(1), "draw"),
        (lambda: augmented(seed=1), "draw"),
        (lambda: rows().map(lambda x, y: (tf.py_function(abs, [x], x.dtype), y)), "draw"),
        (lambda: tf.data.experimental.from_variant(
            tf.data.experimental.to_variant(rows().batch(4)), rows().batch(4).element_spec
        ), "nothing"),
        (lambda: tf.data.experimental.from_variant(
            tf.data.experimental.to_variant(two_shuffles()), rows().batch(4).element_spec
        ), "draw"),
        (lambda: from_outside(lambda data: data), "draw"),
        (lambda: rows().shuffle(20, seed=1).skip(2).shard(2, 0).batch(4), "begin"),
        (lambda: rows().shuffle(20, seed=1, reshuffle_each_iteration=False).repeat(2), "nothing"),
        (lambda: tf.data.Dataset.random(1).take(8), "nothing"),
        (lambda: tf.data.Dataset.random(1, rerandomize_each_iteration=True).take(8), "begin"),
    ],
)  # fmt: skip
def test_what_is_drawn_again(made, replay):
    """Earlier passes are left out, or only begun, where nothing else can matter."""
    assert replay == Source(made())._passes.replay


def augmented(parallel=None, **options):
    def add(x, y):
        return x + tf.random.uniform((2,), **options), y

    return rows().map(add, num_parallel_calls=parallel).batch(4)


def with_generator(prefetch):
    generator = tf.random.Generator.from_seed(3)
    made = rows().map(lambda x, y: (x + generator.uniform((2,)), y)).batch(4)
    return made.prefetch(2) if prefetch else made


def inner_shuffle(seed):
    return tf.data.Dataset.range(3).interleave(lambda i: rows().shuffle(20, seed=seed)).batch(4)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: rows().shuffle(20).batch(4), "without a seed in shuffle"),
        (lambda: rows().shuffle(4, seed=1).shuffle(20).batch(4), "without a seed in shuffle"),
        (lambda: inner_shuffle(None), "without a seed in ShuffleDataset"),
        (lambda: tf.data.Dataset.zip((rows(), rows().shuffle(4))).batch(4), "in shuffle"),
        (augmented, "without a seed in RandomUniform"),
        (lambda: augmented(seed=1, parallel=2), "RandomUniform in what parallelmap runs"),
        (lambda: with_generator(True), "runs ahead"),
        (
            lambda: rows().batch(4, num_parallel_calls=2, deterministic=False),
            "deterministic=False in parallelbatch",
        ),
    ],
)
def test_what_cannot_be_repeated_is_refused_at_the_begin(made, why):
    """Before a batch is drawn, and only where a state is to be asked for."""
    tf.random.set_seed(None)
    source = Source(made())
    with pytest.raises(
        DataError, match=rf"`x` does not give the same batches in each process.*{why}"
    ):
        source.track()
    assert source.peek() is not None
    source.close()


@pytest.mark.parametrize(
    "made",
    [
        tiers.slow(lambda: augmented(seed=1)),
        tiers.slow(lambda: inner_shuffle(1)),
        lambda: with_generator(False),
    ],
)
def test_what_can_be_repeated(made):
    """Random numbers with seeds, drawn in turn."""
    expected, positions = uninterrupted(lambda: {"x": made()})
    for position in positions[1::4]:
        assert expected[position[1] :] == resumed(lambda: {"x": made()}, position)


def test_a_seed_of_the_program_is_one():
    """Where all random numbers have been given a seed, shuffles follow it."""

    def make():
        keras.utils.set_random_seed(5)
        return {"x": rows().shuffle(20).map(lambda x, y: (x + tf.random.uniform((2,)), y)).batch(4)}

    try:
        expected, positions = uninterrupted(make)
        for position in positions[1::4]:
            assert expected[position[1] :] == resumed(make, position)
    finally:
        tf.random.set_seed(None)


def test_python_functions_in_parallel_are_warned_of():
    """Whether these keep a state nobody can tell."""

    def make():
        add = lambda x, y: (tf.ensure_shape(tf.py_function(lambda x: x + 1, [x], x.dtype), (2,)), y)
        return rows().map(add, num_parallel_calls=2).batch(4)

    with pytest.warns(UserWarning, match="`x` runs Python functions"):
        Source(make()).track()


# What is saved -------------------------------------------------------------------------


def test_a_state_is_small_and_of_json():
    """However many passes there were; without the bytes of an iterator of TensorFlow."""
    source = started(lambda: {"x": rows(0, 8).batch(4)})
    sizes = []
    for _ in range(40):
        list(source.epoch())
        info, tensors = state_trees.pack(source.state())
        assert {} == tensors
        sizes.append(len(json.dumps(info)))
    assert max(sizes) - min(sizes) < 5


def test_a_state_of_an_earlier_version():
    """It noted nothing of what was drawn: it is taken up, and that is said."""
    make = SOURCES["two shuffles"]
    expected, positions = uninterrupted(make)
    for epoch, done, info, _ in positions[3::5]:
        state = json.loads(info)
        del state["drawn"]
        state["passes"] = {"begun": np.zeros(9, "uint8"), "ended": True}  # of an iterator
        with contextlib.closing(started(make)) as source:
            with pytest.warns(UserWarning, match="is not compared with it"):
                source.set_state(state)
            assert expected[done:] == batches_from(source, epoch, False)


@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("make", [Batches, Reordered, *map(tiers.slow, (grain_rows, from_python))])
def test_a_state_without_digests_of_each_batch(make):
    """An earlier version noted the first and the last batches: these are compared."""
    expected, positions = uninterrupted(lambda: {"x": make()})
    for epoch, done, info, _ in positions[2::5]:
        state = json.loads(info)
        del state["drawn"]["each"]
        with contextlib.closing(started(lambda: {"x": make()})) as source:
            source.set_state(state)
            again = source.state()
            assert expected[done:] == batches_from(source, epoch, False)
        with contextlib.closing(started(lambda: {"x": make()})) as source:
            source.set_state(again)
            assert expected[done:] == batches_from(source, epoch, False)


@pytest.mark.parametrize(
    "passes",
    [
        None,
        tiers.slow([[1]]),
        [[1, 2, 3]],
        tiers.slow([["a", True, 1]]),
        tiers.slow([[-1, True, 1]]),
    ],
)
def test_what_is_no_state_is_an_error(passes):
    """Of the kinds that become a CheckpointError."""
    _, positions = uninterrupted(SOURCES["in order"])
    state = json.loads(positions[-1][2])
    state["drawn"]["passes"] = passes
    with contextlib.closing(started(SOURCES["in order"])) as source:
        with pytest.raises((KeyError, TypeError, ValueError)):
            source.set_state(state)
