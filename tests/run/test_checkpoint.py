"""What is on the disk: read as it was written, or refused, whatever happened to it."""

import errno
import hashlib
import json
import os
import pathlib
import random
import shutil

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis.extra import numpy as npst

from kerastrain.errors import CheckpointError
from kerastrain.run import checkpoint
from kerastrain.run import state_trees
from kerastrain.run.checkpoint import Checkpoints
from tests.support import tiers

TENSORS = {
    "model/0": np.arange(600, dtype="float32").reshape(20, 30),
    "model/1": np.array(7, "int64"),
    "metrics/0": np.zeros((0, 3), "float64"),
    "slots": np.arange(5).astype(ml_dtypes.bfloat16),
    "flags": np.array([True, False]),
    "seed": np.array([1, 2**32 - 1], "uint32"),
    "phases": np.array([1 + 2j], "complex64"),
}
SAMPLE = pathlib.Path(__file__).parents[1] / "samples" / "checkpoint-1"
INFO = {"epoch": 3, "name": "ein Fluß", "nested": [1, {"a": None}], "share": 0.1}


def assert_equal(expected, actual):
    assert expected.keys() == actual.keys()
    for name, array in expected.items():
        assert (array.dtype, array.shape) == (actual[name].dtype, actual[name].shape), name
        assert array.tobytes() == actual[name].tobytes(), name


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "run" / "checkpoints")


# As it was written ------------------------------------------------------------


def test_round_trip(checkpoints):
    """Tensors of all types and shapes, and values of JSON, come back to the bit."""
    path = checkpoints.write(TENSORS, INFO)
    found = checkpoints.newest()
    assert_equal(TENSORS, found.tensors)
    assert (INFO, path) == (found.info, found.path)


def test_others_can_read_it(checkpoints):
    """The tensors by safetensors alone, all else by any reader of JSON."""
    path = checkpoints.write(TENSORS, INFO)
    array = safetensors.numpy.load_file(path / "state.safetensors")["model/0"]
    np.testing.assert_array_equal(TENSORS["model/0"], array)
    assert INFO == json.loads((path / "manifest.json").read_text())["info"]


def test_another_number_in_the_manifest(checkpoints):
    """It is text that can be changed, and is not taken for what was written."""
    path = checkpoints.write(TENSORS, INFO | {"steps": 17})
    file = path / "manifest.json"
    file.write_text(file.read_text().replace("17", "18"))
    with pytest.raises(CheckpointError):
        checkpoint.read(path)


def test_a_checkpoint_of_version_1_is_read():
    """One that was written when the format was new, and is kept beside this file."""
    found = checkpoint.read(SAMPLE)
    assert INFO == found.info
    assert_equal(TENSORS, found.tensors)


def test_newest_counts_up_without_a_clock(checkpoints, monkeypatch):
    """Each is newer than those before, also where the clock goes backwards."""
    for number in range(1, 12):
        path = checkpoints.write({}, {"number": number})
        os.utime(path, (10**9 - number, 10**9 - number))
    assert "00000011" == checkpoints.next_name().replace("12", "11")
    assert 11 == checkpoints.newest().info["number"]


def test_keep(checkpoints):
    """The last ones stay, and those that are named."""
    paths = [checkpoints.write({}, {}) for _ in range(6)]
    checkpoints.keep({paths[1]}, last=2)
    assert [paths[1], paths[4], paths[5]] == checkpoints.paths()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.floats(width=32).map(np.float32)
    | npst.arrays(st.sampled_from(["float32", "int64", "bool"]), npst.array_shapes(max_side=3)),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def same(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | np.generic):
        same_type = (one.dtype, one.shape) == (other.dtype, other.shape)
        return same_type and one.tobytes() == other.tobytes()
    return one == other or one != one and other != other


@hypothesis.given(value=VALUES)
@hypothesis.settings(max_examples=200, deadline=None)
def test_state_trees_round_trip(value):
    """Nested values come back the same, of the same types, by way of text."""
    info, tensors = state_trees.pack(value)
    assert same(value, state_trees.unpack(json.loads(json.dumps(info, allow_nan=False)), tensors))


def test_state_trees_say_what_they_cannot_hold():
    """The message has the place and the type."""
    with pytest.raises(TypeError, match="state/a/1 is of object"):
        state_trees.pack({"a": [1, object()]})
    with pytest.raises(CheckpointError, match="cannot be read"):
        state_trees.unpack({"$": "array", "name": "missing"}, {})


# Torn, changed, hostile -------------------------------------------------------


def flip(path, rng):
    """Another bit in one of the files."""
    file = path / rng.choice(["state.safetensors", "manifest.json"])
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def truncate(path, rng):
    file = path / rng.choice(["state.safetensors", "manifest.json"])
    os.truncate(file, rng.randrange(file.stat().st_size))


def lengthen(path, rng):
    with open(path / rng.choice(["state.safetensors", "manifest.json"]), "ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 5000)))


def zero_a_block(path, rng):
    """What a file system may leave after power was lost."""
    file = path / rng.choice(["state.safetensors", "manifest.json"])
    content = bytearray(file.read_bytes())
    start = rng.randrange(0, len(content), 512)
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    file.write_bytes(content)


def remove_file(path, rng):
    (path / rng.choice(["state.safetensors", "manifest.json"])).unlink()


def swap_files(path, rng):
    """A file of another checkpoint in place of its own."""
    name = rng.choice(["state.safetensors", "manifest.json"])
    other = path.parent.parent / "other"
    checkpoint_of_others = Checkpoints(other).write({"model/0": np.ones(3)}, {"epoch": 4})
    shutil.copy(checkpoint_of_others / name, path / name)


def link_file(path, rng):
    """A link in place of a file, to one that is the same, or to a device that never ends."""
    name = rng.choice(["state.safetensors", "manifest.json"])
    target = path.parent.parent / name
    shutil.copy(path / name, target)
    (path / name).unlink()
    (path / name).symlink_to(rng.choice([target, "/dev/zero", "/dev/full", path / name]))


def pipe_file(path, rng):
    name = rng.choice(["state.safetensors", "manifest.json"])
    (path / name).unlink()
    os.mkfifo(path / name)


def directory_file(path, rng):
    name = rng.choice(["state.safetensors", "manifest.json"])
    (path / name).unlink()
    (path / name).mkdir()


def link_directory(path, rng):
    target = path.parent.parent / "moved"
    path.rename(target)
    path.symlink_to(target)


def file_for_directory(path, rng):
    shutil.rmtree(path)
    path.write_bytes(b"no directory")


def forge(path, rng):
    """A manifest that is right but for one entry, with the right checksum."""
    file = path / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    key, value = rng.choice(FORGED)
    *parents, last = key
    entry = manifest
    for parent in parents:
        entry = entry[parent]
    entry[last] = value
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    file.write_text(json.dumps(manifest | {"sha256": hashlib.sha256(text.encode()).hexdigest()}))


FORGED = [
    (("version",), 2), (("version",), "1"), (("version",), None), (("format",), "other"),
    (("file", "bytes"), 2**62), (("file", "bytes"), -1), (("file", "bytes"), "9"),
    (("file", "sha256"), "../../etc/passwd"), (("file", "sha256"), 3), (("file",), []),
    (("tensors", "model/0", "shape"), [2**40, 2**40]), (("tensors", "model/0", "shape"), [-1]),
    (("tensors", "model/0", "shape"), "abc"), (("tensors", "model/0", "dtype"), "object"),
    (("tensors", "model/0", "dtype"), "float64"), (("tensors", "model/0", "dtype"), "S4000000000"),
    (("tensors", "model/0"), None), (("tensors", "../../../outside"), {"dtype": "bool", "shape": []}),
    (("tensors",), []), (("tensors",), {}), (("info",), "text"), (("info",), None),
    (("written_by",), "x" * 10**6),
]  # fmt: skip


def hostile_text(path, rng):
    (path / "manifest.json").write_text(
        rng.choice(["[" * 10**5, "{" * 10**5, "9" * 10**5, "null", "", '{"sha256": 1e999}', "NaN"])
    )


MUTATIONS = [
    flip, flip, flip, truncate, truncate, lengthen, zero_a_block, remove_file, swap_files, link_file,
    pipe_file, directory_file, link_directory, file_for_directory, forge, forge, hostile_text,
]  # fmt: skip


def contents(directory):
    """All files outside the run, by name."""
    return {
        str(path): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def check_mutated(directory, seed):
    """A mutated checkpoint is refused, or what was saved; then the one before it is taken."""
    rng = random.Random(seed)
    outside = directory / "outside"
    outside.mkdir(parents=True)
    (outside / "precious").write_text("precious")
    checkpoints = Checkpoints(directory / "run" / "checkpoints")
    checkpoints.write({"model/0": np.zeros(2)}, {"epoch": 2})
    path = checkpoints.write(TENSORS, INFO)
    mutate = rng.choice(MUTATIONS)
    mutate(path, rng)
    try:
        found = checkpoints.newest()
    except CheckpointError as error:
        assert mutate in (forge, flip), mutate
        assert "version" in str(error)
    else:
        assert found is not None, mutate
        if found.info["epoch"] == 2:
            assert_equal({"model/0": np.zeros(2)}, found.tensors)
            assert not os.path.lexists(path)  # it was set aside
        else:
            assert INFO == found.info
            assert_equal(TENSORS, found.tensors)
    assert {str(outside / "precious"): b"precious"} == contents(outside)
    assert ["outside", "run"] == sorted(os.listdir(directory))
    new = checkpoints.write({}, {"epoch": 9})  # and the run goes on
    assert 9 == checkpoints.newest().info["epoch"], new
    shutil.rmtree(directory)


@pytest.mark.filterwarnings("ignore:The checkpoint")
@pytest.mark.parametrize("seeds", [range(100), tiers.slow(range(100, 1000))], ids=str)
def test_mutated(tmp_path, seeds):
    """No crash, no hang, nothing outside, nothing that was not saved."""
    for seed in seeds:
        check_mutated(tmp_path / str(seed), seed)


def test_truncated_at_every_block(tmp_path):
    """Wherever the file ends, it is refused."""
    for name in ("state.safetensors", "manifest.json"):
        checkpoints = Checkpoints(tmp_path / name)
        path = checkpoints.write(TENSORS, INFO)
        content = (path / name).read_bytes()
        for size in range(0, len(content), 64):
            (path / name).write_bytes(content[:size])
            with pytest.raises(CheckpointError, match="cannot be used"):
                checkpoint.read(path)
        (path / name).write_bytes(content)
        assert_equal(TENSORS, checkpoint.read(path).tensors)


def test_what_is_set_aside_is_said_and_kept(checkpoints):
    """The warning names the file and the place; the one before is taken."""
    checkpoints.write(TENSORS, INFO)
    path = checkpoints.write(TENSORS, INFO | {"epoch": 4})
    os.truncate(path / "state.safetensors", 100)
    with pytest.warns(UserWarning, match="state.safetensors has another size.*set-aside/00000002"):
        found = checkpoints.newest()
    assert 3 == found.info["epoch"]
    assert (checkpoints.directory / "set-aside" / "00000002-1" / "manifest.json").exists()


def test_nothing_is_moved_through_a_link(checkpoints, tmp_path):
    """Not even what is set aside leaves the directory."""
    path = checkpoints.write(TENSORS, INFO)
    outside = tmp_path / "outside"
    outside.mkdir()
    (checkpoints.directory / "set-aside").symlink_to(outside)
    (path / "manifest.json").write_text("")
    with pytest.warns(UserWarning, match="could not be moved away"):
        assert checkpoints.newest() is None
    assert [] == os.listdir(outside)


def test_a_later_version_is_refused_not_set_aside(checkpoints):
    """It is of use to the program that wrote it."""
    path = checkpoints.write(TENSORS, INFO)
    rng = random.Random(0)
    rng.choice = lambda choices: (("version",), 2)
    forge(path, rng)
    with pytest.raises(CheckpointError, match="version 2 of its format, and this is 1"):
        checkpoints.newest()
    assert [path] == checkpoints.paths()


# Written whole or not at all --------------------------------------------------


@pytest.mark.parametrize("failing", ["save_file", "fsync", "rename"])
def test_a_full_disk_leaves_nothing(checkpoints, monkeypatch, failing):
    """Wherever the disk is full, what was there before is there, and no more."""
    checkpoints.write(TENSORS, INFO)

    def full(*_, **__):
        if failing == "save_file":
            raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner = safetensors.numpy if failing == "save_file" else os
    with monkeypatch.context() as patch:
        patch.setattr(owner, failing, full)
        with pytest.raises(OSError, match="No space left") as caught:
            checkpoints.write(TENSORS, INFO | {"epoch": 4})
        assert errno.ENOSPC == caught.value.errno
    assert ["00000001"] == os.listdir(checkpoints.directory)
    assert 3 == checkpoints.newest().info["epoch"]
    assert 4 == checkpoint.read(checkpoints.write({}, {"epoch": 4})).info["epoch"]


def test_what_a_killed_process_began_is_removed(checkpoints):
    """It never counts as a checkpoint."""
    checkpoints.write(TENSORS, INFO)
    unfinished = checkpoints.directory / ".unfinished-00000002"
    shutil.copytree(checkpoints.paths()[0], unfinished)
    assert 1 == len(checkpoints.paths())
    checkpoints.remove_unfinished()
    assert not unfinished.exists()


# Much of it -------------------------------------------------------------------------


def test_names_of_more_than_eight_digits(checkpoints):
    """They count on, and the newest is still the newest."""
    path = checkpoints.write({}, {"number": 1})
    path.rename(path.with_name("99999998"))
    names = [checkpoints.write({}, {"number": number}).name for number in range(3)]
    assert ["99999999", "100000000", "100000001"] == names
    assert 2 == checkpoints.newest().info["number"]
    checkpoints.keep(set(), last=1)
    assert ["100000001"] == [path.name for path in checkpoints.paths()]


def test_an_info_that_is_larger_than_a_manifest(checkpoints, monkeypatch):
    """It comes back all the same, and no byte of it may change."""
    monkeypatch.setattr(checkpoint, "_LARGEST_MANIFEST", 10_000)
    info = INFO | {"many": [i / 7 for i in range(5000)]}
    path = checkpoints.write(TENSORS, info)
    assert (path / "manifest.json").stat().st_size < 10_000
    found = checkpoints.newest()
    assert info == found.info
    assert_equal(TENSORS, found.tensors)
    content = bytearray((path / "state.safetensors").read_bytes())
    content[-3] ^= 1
    (path / "state.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="other bytes"):
        checkpoint.read(path)


@pytest.mark.parametrize("text", [b"[1]", b"{", b"\xff", b"1" * 5000])
def test_an_info_that_is_none(checkpoints, text):
    """Whatever the tensor holds that has it, it is refused in one way."""
    path = checkpoints.write({"manifest/info": np.frombuffer(text, "uint8")}, {})
    with pytest.raises(CheckpointError, match="manifest/info"):
        checkpoint.read(path)
