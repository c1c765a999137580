"""Random data sets, resumed at random positions: the same batches to the bit, or an error.

    python -m tests.support.pipelines --count 1000 --seed 0        # minutes
    python -m tests.support.pipelines --others                     # PyDataset, arrays, Grain
    python -m tests.support.pipelines --program '{"data": ...}'    # one of those printed
    python -m tests.support.pipelines --shrink                     # a smaller one for each that fails
    python -m tests.support.pipelines --processes                  # each resume in a process of its own

For each data set a `Source` yields a few epochs, as a training takes them: tracked, after a first
look, in chunks, one after another. Its state is asked for on the way, and packed as a checkpoint
packs it. For some of these positions the data set is then built anew, as a new process would
build it, and a new `Source` over it is given the state. What that one yields must be, bit for bit,
what the first one went on with: *exact*. Or it has raised a `KerastrainError`: *refused*. What
differs without an error is *silent*, or *warned* where a warning has named a race in the
program's own Python functions, and another exception, or a process that ends, a *crash*.
In a program whose random numbers are all seeded, the first source must also yield what TensorFlow
does without any of this, or it is *altered*.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import pickle
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerastrain import KerastrainError
from kerastrain.data.source import Source
from kerastrain.run import state_trees
from kerastrain.state import global_random
from kerastrain.testing.fresh import FreshProcesses
from tests.support import pipeline_specs as specs

EPOCHS = 3
FAILURES = ("silent", "crash", "altered")
OUTCOMES = ("exact", "refused", "warned", *FAILURES)  # the worst of a data set's positions counts
RACE = "runs Python functions"  # of a warning that a program's own functions may be a race
CUT = "drawn more or less"  # of the refusal of passes that are cut while something draws ahead
FEW = 3  # batches; a program with fewer is not counted


@dataclasses.dataclass(frozen=True)
class Program:
    """A data set, and how a training takes it.

    Attributes:
        data: a spec of `tests.support.pipeline_specs`.
        seed: of the program, as of ``keras.utils.set_random_seed`` at its begin, or None.
        steps: ``steps_per_epoch``, or None.
        blocks: whether batches lie together.
        validates: whether each epoch begins anew, as a validation does.
        every: whether the state is asked for after each chunk, or now and then.
        shuffle: the argument of `Source`, for what is no pipeline.
        draw: the seed of the sizes of chunks and of the positions.
    """

    data: list
    seed: int | None = None
    steps: int | None = None
    blocks: bool = True
    validates: bool = False
    every: bool = True
    shuffle: Any = False
    draw: int = 0

    def __str__(self) -> str:
        return json.dumps(dataclasses.asdict(self))


@dataclasses.dataclass
class Position:
    """Where a program may be interrupted: what is known there, and what came before."""

    where: str
    epoch: int
    state: tuple
    random_states: dict
    batches: int


class TooFew(Exception):
    """A program that has no data to speak of, or none that TensorFlow can build."""


class Outcome(collections.namedtuple("Outcome", ["kind", "reason"])):
    """One of `OUTCOMES`, and why."""


# A program, as a process runs it ------------------------------------------------------


def start(program, place):
    """What a new process does: its random numbers, its data, and a first look at them."""
    if program.seed is None:
        tf.random.set_seed(None)
        random.seed()
        np.random.seed()
    else:
        keras.utils.set_random_seed(program.seed)
    try:
        data = specs.build(program.data, place)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise TooFew from error
    x, y = data if isinstance(data, tuple) else (data, None)
    size = 4 if isinstance(data, tuple) else None
    source = Source(x, y, batch_size=size, steps=program.steps, shuffle=program.shuffle, seed=3)
    if program.blocks:
        source.in_blocks()
    source.track(begins_anew=program.validates)
    source.peek()
    return source


def epochs(source, program, first, rng):
    """Yields ``(epoch, chunk)``, and ``(epoch, None)`` at the end of each."""
    for epoch in range(first, EPOCHS):
        if program.validates:
            source.restart()
            yield epoch, "begin"
        number = None if program.validates else epoch
        for chunk in source.chunks(number, lambda: rng.choice([1, 1, 2, 3, 8])):
            yield epoch, chunk
        yield epoch, None


def batches_of(chunk):
    """Its batches, as ``(digest, the numbers in it)``."""
    return [
        content(chunk.block.batch(index)) for index in range(chunk.start, chunk.start + chunk.steps)
    ]


def content(batch):
    """The digest of all bytes of a batch, and its labels, to be printed."""
    digest = hashlib.blake2b(digest_size=12)
    for leaf in tf.nest.flatten(batch, expand_composites=True):
        array = np.asarray(leaf)
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest(), np.asarray(batch[1]).tolist()


def first_run(program: Program, place: pathlib.Path) -> tuple[list, list[Position]]:
    """The batches of an uninterrupted program, and the positions that it was at."""
    rng = random.Random(program.draw)
    found, positions = [], []

    def note(where, epoch):
        # In the Trainer too, state is packed at once.
        state = state_trees.pack(source.state())
        states = global_random.states()
        positions.append(
            Position(where, epoch, (json.dumps(state[0]), state[1]), states, len(found))
        )

    with contextlib.closing(start(program, place)) as source:
        if not program.validates:
            note("at the begin", 0)
        for epoch, chunk in epochs(source, program, 0, rng):
            if chunk is None:
                note(f"after epoch {epoch}", epoch + 1)
                if rng.random() < 0.2:
                    try:
                        source.peek()
                    except KerastrainError:  # the data have ended
                        continue
                    note(f"after epoch {epoch} and a look", epoch + 1)
            elif chunk != "begin":
                found += [(epoch, *one) for one in batches_of(chunk)]
                if not program.validates and (program.every or rng.random() < 0.3):
                    note(f"in epoch {epoch} after {len(found)} batches of all", epoch)
    if len(found) < FEW:
        raise TooFew
    return found, positions


def second_run(program: Program, place: pathlib.Path, position: Position) -> list:
    """What comes after a position, in a program that was started anew."""
    rng = random.Random(program.draw + 1)
    with contextlib.closing(start(program, place)) as source:
        info, tensors = position.state
        source.set_state(state_trees.unpack(json.loads(info), tensors))
        global_random.await_functions(position.random_states, source.functions_drew, ["x"])
        global_random.set_states(position.random_states, source.functions_drew)
        return [
            (epoch, *one)
            for epoch, chunk in epochs(source, program, position.epoch, rng)
            if chunk is not None and chunk != "begin"
            for one in batches_of(chunk)
        ]


def plain_run(program: Program, place: pathlib.Path, most: int) -> list:
    """What TensorFlow yields by itself, pass by pass: the contents of at most so many batches."""
    if program.seed is None:
        tf.random.set_seed(None)
    else:
        keras.utils.set_random_seed(program.seed)
    data = specs.build(program.data, place)
    if program.steps:  # of a pass without an end
        return [(i // program.steps, *content(batch)) for i, batch in enumerate(data.take(most))]
    return [(epoch, *content(batch)) for epoch in range(EPOCHS) for batch in data]


def chosen(positions: list[Position], draw: int, count: int) -> list[Position]:
    """A few of the positions: one at the end of an epoch, and others at random."""
    rng = random.Random(draw + 2)
    ends = [p for p in positions if p.where.startswith("after")]
    picked = rng.sample(ends, min(1, len(ends)))
    others = [p for p in positions if p not in picked]
    return picked + rng.sample(others, min(count - len(picked), len(others)))


# What came of it -----------------------------------------------------------------------


def compared(expected: list, found: list, where: str) -> Outcome:
    """Whether batches are the same."""
    for index in range(max(len(expected), len(found))):
        one, other = (part[index] if index < len(part) else None for part in (expected, found))
        if one != other:
            names = ["nothing" if b is None else f"epoch {b[0]}: {b[2]}" for b in (one, other)]
            return Outcome(
                "silent", f"{where}, batch {index} is {names[1]}, and must be {names[0]}"
            )
    return Outcome("exact", "")


@contextlib.contextmanager
def outcome_of_errors(outcomes, where):
    """Errors inside, as outcomes."""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield
        if (
            outcomes
            and outcomes[-1].kind == "silent"
            and any(RACE in str(w.message) for w in warned)
        ):
            outcomes[-1] = Outcome("warned", outcomes[-1].reason)
    except TooFew:
        raise
    except (KerastrainError, tf.errors.OpError) as error:
        if "has no batches" in str(error):
            raise TooFew from error
        known = isinstance(error, KerastrainError)
        # `Trainer` makes a RunError of TensorFlow's errors in `set_state`.
        in_set_state = "set_state" in {f.name for f in traceback.extract_tb(error.__traceback__)}
        kind = "refused" if known or in_set_state else "crash"
        outcomes.append(Outcome(kind, f"{type(error).__name__}: {error}"))
    except Exception:
        outcomes.append(Outcome("crash", f"{where}: {traceback.format_exc()[-1500:]}"))


def worst(outcomes: list[Outcome]) -> Outcome:
    """The one that counts."""
    return max(outcomes, key=lambda outcome: OUTCOMES.index(outcome.kind))


def check(program: Program, place: pathlib.Path, count: int = 3) -> Outcome:
    """Resumes a program at ``count`` of its positions, all in this process."""
    outcomes: list[Outcome] = []
    with outcome_of_errors(outcomes, "uninterrupted"):
        found, positions = first_run(program, place)
    if outcomes:
        if outcomes[0].kind == "crash" and not runs(program, place):
            raise TooFew
        return outcomes[0]
    if is_plain(program):
        with outcome_of_errors(outcomes, "plain"):
            difference = compared(plain_run(program, place, len(found)), found, "without resume")
            if difference.kind != "exact":
                outcomes.append(Outcome("altered", difference.reason))
    for position in chosen(positions, program.draw, count):
        with outcome_of_errors(outcomes, position.where):
            again = second_run(program, place, position)
            outcomes.append(compared(found[position.batches :], again, position.where))
    return worst(outcomes)


def runs(program: Program, place: pathlib.Path) -> bool:
    """Whether TensorFlow by itself can run a pipeline: it fails on some of its own."""
    try:
        data = specs.build(program.data, place)
        for _ in data.take(FEW) if isinstance(data, tf.data.Dataset) else ():
            pass
    except tf.errors.OpError:
        return False
    return True


def is_needless(program: Program, outcome: Outcome) -> bool:
    """Whether a program was refused that TensorFlow repeats, and not for what draws ahead in it."""
    return outcome.kind == "refused" and is_repeatable(program) and CUT not in outcome.reason


def is_repeatable(program: Program) -> bool:
    """Whether it draws the same in each process."""
    others = program.data[0] in ("pydataset", "rows", "grain")
    return not others and specs.is_repeatable(program.data, program.seed is not None)


def is_plain(program: Program) -> bool:
    """Whether TensorFlow by itself yields the same batches in each process, pass by pass."""
    return (
        program.seed is not None
        and not (program.steps and not specs.is_endless(program.data))
        and not program.validates
        and program.data[0] not in ("pydataset", "rows", "grain")
        and not specs.is_a_race(program.data)
        and not specs.draws_globally(program.data)
    )


def first_process(program, place, path):
    """`first_run` in a process of its own, which leaves what it found."""
    outcomes: list[Outcome] = []
    found = positions = None
    with contextlib.suppress(TooFew), outcome_of_errors(outcomes, "uninterrupted"):
        found, positions = first_run(program, place)
    path.write_bytes(pickle.dumps((outcomes, found, positions)))


def second_process(program, place, expected, position, path):
    """`second_run` in a process of its own, which leaves what came of it."""
    outcomes: list[Outcome] = []
    with outcome_of_errors(outcomes, position.where):
        outcomes.append(compared(expected, second_run(program, place, position), position.where))
    path.write_bytes(pickle.dumps((outcomes, None, None)))


def check_in_processes(
    program: Program, place: pathlib.Path, count: int = 2, *, fresh: FreshProcesses
) -> Outcome:
    """The same; each run is in a process of its own."""
    path = place / "left"

    def run(function, *arguments):
        path.unlink(missing_ok=True)
        ended = fresh.run(function, *arguments, path, seconds=60)
        if ended.status:
            crash = Outcome("crash", f"A process ended with {ended.status}: {ended.output}")
            return [crash], None, None
        return pickle.loads(path.read_bytes())

    outcomes, found, positions = run(first_process, program, place)
    if not outcomes and positions is None:
        raise TooFew
    for position in chosen(positions or [], program.draw, count):
        outcomes += run(second_process, program, place, found[position.batches :], position)[0]
    return worst(outcomes)


# Many of them --------------------------------------------------------------------------


def drawn(rng: random.Random, others: bool = False) -> Program:
    """A program; it may have no batches."""
    data = specs.drawn_other(rng) if others else specs.drawn(rng)
    endless = specs.is_endless(data)
    steps = rng.choice([2, 3, 5, 7]) if endless or rng.random() < 0.25 else None
    shuffle = False
    if data[0] in ("pydataset", "rows"):
        shuffle = rng.choice([True, False] if data[0] == "pydataset" else [True, False, "batch"])
    return Program(
        data=data,
        seed=rng.choice([None, 7]),
        steps=steps,
        blocks=rng.random() < 0.7,
        validates=rng.random() < 0.15,
        every=rng.random() < 0.7,
        shuffle=shuffle,
        draw=rng.randrange(10**6),
    )


def shrunk(program: Program, place: pathlib.Path, kind: str, tries: int = 200) -> Program:
    """A smaller program with the same kind of outcome."""
    smaller = True
    while smaller and tries > 0:
        smaller = False
        for candidate in candidates(program):
            tries -= 1
            with contextlib.suppress(TooFew):
                if any(check(candidate, place, 4).kind == kind for _ in range(2)):
                    program, smaller = candidate, True
                    break
    return program


def candidates(program: Program):
    """The program with one thing less."""
    for data in fewer(program.data):
        if specs.is_batched(data) and (program.steps or not specs.is_endless(data)):
            yield dataclasses.replace(program, data=data)
    simpler = {"validates": False, "blocks": False, "every": True, "seed": None}
    if not specs.is_endless(program.data):
        simpler["steps"] = None
    for name, value in simpler.items():
        if getattr(program, name) != value:
            yield dataclasses.replace(program, **{name: value})


def fewer(spec: list):
    """The specs that have one operation less, or one argument that is as simple as can be."""
    operation, arguments, *inputs = spec
    yield from inputs
    for name, value in {"parallel": None, "deterministic": None, "drop": False}.items():
        if arguments.get(name, value) != value:
            yield [operation, arguments | {name: value}, *inputs]
    for index, part in enumerate(inputs):
        for other in fewer(part):
            yield [operation, arguments, *inputs[:index], other, *inputs[index + 1 :]]


def pattern(message: str) -> str:
    """A message without what differs from case to case, to count by."""
    return re.sub(r"\d+", "#", message.split(". ")[0])[:160]


def outcomes_of(options, place, fresh):
    """Yields ``(program, outcome)`` for as many programs as were asked for."""
    if options.program:
        given = iter([Program(**json.loads(options.program))])
    else:
        numbers = itertools.count()
        given = (drawn(random.Random(f"{options.seed} {n}"), options.others) for n in numbers)
    count = 0
    for program in given:
        if options.each:
            print(program, flush=True)
        with contextlib.suppress(TooFew):
            how = functools.partial(check_in_processes, fresh=fresh) if fresh else check
            yield program, how(program, place, count=options.positions)
            count += 1
        if count == options.count:
            return


def parsed(arguments):
    """The options of the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--positions", type=int, default=3, help="at which each is resumed")
    parser.add_argument("--others", action="store_true", help="PyDataset, arrays and Grain")
    parser.add_argument("--program", help="one program, as it was printed")
    parser.add_argument("--shrink", action="store_true", help="print smaller ones too")
    parser.add_argument("--processes", action="store_true", help="in processes of their own")
    parser.add_argument("--each", action="store_true", help="print each one before it runs")
    return parser.parse_args(arguments)


def main(arguments=None) -> int:
    """Counts, prints what fails, and returns 1 if anything does."""
    options = parsed(arguments)
    begun, counts, reasons = time.monotonic(), collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        place = pathlib.Path(directory)
        specs.write_files(place)
        fresh = stack.enter_context(FreshProcesses()) if options.processes else None
        for program, outcome in outcomes_of(options, place, fresh):
            counts[outcome.kind] += 1
            if outcome.kind == "refused":
                needless = "needless, " if is_needless(program, outcome) else ""
                reasons[needless + pattern(outcome.reason)] += 1
            if outcome.kind in FAILURES:
                show(program, outcome, place, options.shrink and not fresh)
    for kind in OUTCOMES:
        print(f"{kind}: {counts[kind]}")
        for reason, count in reasons.most_common() if kind == "refused" else ():
            print(f"    {count} x {reason}")
    print(f"{counts.total()} data sets in {time.monotonic() - begun:.0f} s")
    return 1 if any(counts[kind] for kind in FAILURES) else 0


def show(program, outcome, place, shrink):
    """Prints a program that fails."""
    print(f"{outcome.kind.upper()}: {specs.text(program.data)}")
    print(f"  {program}\n  {outcome.reason}", flush=True)
    if shrink:
        small = shrunk(program, place, outcome.kind)
        print(f"  SMALLER: {specs.text(small.data)}\n  {small}", flush=True)


if __name__ == "__main__":
    from tests.support import pipelines  # by this name, processes can exchange its classes

    sys.exit(pipelines.main())
