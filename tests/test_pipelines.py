"""Data sets that nobody thought of resume to the bit, or are refused: `tests.support.pipelines`."""

import json
import random
from unittest import mock

import pytest

from kerastrain import DataError
from kerastrain.data.source import Source
from tests.support import pipeline_specs as specs
from tests.support import pipelines
from tests.support.pipelines import Program


@pytest.fixture
def place(tmp_path):
    """A directory with the files that pipelines read."""
    specs.write_files(tmp_path)
    return tmp_path


def failures(place, count, seed, others=False, fresh=None, positions=3):
    """What fails of so many programs, to be printed by the assertion."""
    arguments = ["--count", str(count), "--seed", str(seed), "--positions", str(positions)]
    options = pipelines.parsed(arguments + ["--others"] * others)
    return [
        (str(program), *outcome)
        for program, outcome in pipelines.outcomes_of(options, place, fresh)
        if outcome.kind in pipelines.FAILURES or pipelines.is_needless(program, outcome)
    ]


@pytest.mark.parametrize(("count", "others"), [(3, False), (2, True)], ids=["tf.data", "others"])
def test_a_few(place, count, others):
    """None differs without a word, and none is refused needlessly."""
    assert [] == failures(place, count, 0, others, positions=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many(place, seed):
    """None differs without a word, and none is refused needlessly."""
    assert [] == failures(place, 60, 100 + seed)
    assert [] == failures(place, 12, 100 + seed, others=True)


@pytest.mark.slow
def test_in_processes(place, processes):
    """The same where each resume has a process of its own."""
    assert [] == failures(place, 20, 50, fresh=processes)
    assert [] == failures(place, 6, 50, others=True, fresh=processes)


# The check itself ---------------------------------------------------------------------

ROWS = ["shuffle", {"buffer": 100, "seed": 3, "reshuffle": None}, ["range", {"count": 20}]]
SHUFFLED = Program(["batch", {"size": 4, "drop": False}, ROWS], seed=7)


@pytest.mark.slow
def test_what_is_exact(place):
    """One shuffle with a seed."""
    assert "exact" == pipelines.check(SHUFFLED, place).kind


def test_a_source_that_forgets_is_found(place):
    """The check finds a position that is not taken up."""
    with mock.patch.object(Source, "set_state", lambda self, state: None):
        outcome = pipelines.check(SHUFFLED, place)
    assert "silent" == outcome.kind
    assert "must be" in outcome.reason


@pytest.mark.slow
def test_a_position_that_is_one_batch_off_is_found(place):
    """Also where the data are the same and only their place is not."""
    take_up = Source.set_state

    def off(self, state):
        take_up(self, state)
        next(self.chunks())

    with mock.patch.object(Source, "set_state", off):
        assert "silent" == pipelines.check(SHUFFLED, place).kind


@pytest.mark.slow
def test_an_error_is_a_refusal(place):
    """Of kerastrain's own errors; others are crashes."""
    for error, kind in ((DataError("No."), "refused"), (KeyError("No."), "crash")):
        with mock.patch.object(Source, "set_state", side_effect=error):
            assert kind == pipelines.check(SHUFFLED, place).kind


@pytest.mark.slow
def test_another_order_while_tracking_is_found(place):
    """A program whose seeds are all set has the order that TensorFlow gives it."""
    taken = Source.track

    def other(self, begins_anew=False):
        self._passes._adapter._dataset = specs.build(SHUFFLED.data, place)  # with other seeds
        return taken(self, begins_anew)

    without = json.dumps(SHUFFLED.data).replace('"seed": 3', '"seed": null')
    unseeded = Program(json.loads(without), seed=7)
    with mock.patch.object(Source, "track", other):
        assert "altered" == pipelines.check(unseeded, place).kind


def test_a_program_is_printed_and_read(place):
    """All that decides it is in its text."""
    for number in range(50):
        for others in (False, True):
            program = pipelines.drawn(random.Random(number), others)
            assert program == Program(**json.loads(str(program)))


@pytest.mark.slow
def test_the_command_fails_if_one_does(place, capsys):
    """It prints the program, and how many there were of each kind."""
    with mock.patch.object(Source, "set_state", lambda self, state: None):
        assert 1 == pipelines.main(["--program", str(SHUFFLED)])
    printed = capsys.readouterr().out
    assert str(SHUFFLED) in printed
    assert "silent: 1" in printed
    assert 0 == pipelines.main(["--program", str(SHUFFLED)])


@pytest.mark.slow
def test_a_smaller_one(place):
    """What does not matter is taken away."""
    nine = ["range", {"count": 9}]
    large = ["prefetch", {"count": 2}, ["batch", {"size": 4, "drop": True}, nine]]
    with mock.patch.object(Source, "set_state", lambda self, state: None):
        small = pipelines.shrunk(Program(large, blocks=False), place, "silent")
    assert "range(count=9).batch(size=4, drop=False)" == specs.text(small.data)
