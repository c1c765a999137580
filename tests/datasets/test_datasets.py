"""Files of labelled images: what is right is read exactly, and anything else is one `DataError`."""

import doctest
import gzip
import hashlib
import io
import math
import os
import stat
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kerastrain import datasets
from kerastrain.errors import DataError

FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
FOUND = Path(datasets.__file__).parent


def arrays(train=6, test=3, image=(4, 5)):
    """Four small arrays that are right."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (train, *image), dtype=np.uint8),
        "y_train": np.arange(train, dtype=np.uint8) % 3,
        "x_test": rng.integers(0, 256, (test, *image), dtype=np.uint8),
        "y_test": np.arange(test, dtype=np.uint8) % 3,
    }


def npz_bytes(save=np.savez, **changes):
    """The bytes of an `.npz` file of `arrays()`, with changes; None leaves a key out."""
    content = {key: x for key, x in {**arrays(), **changes}.items() if x is not None}
    file = io.BytesIO()
    save(file, **content)
    return file.getvalue()


def idx_bytes(x):
    """The bytes of an idx file."""
    return struct.pack(f">HBB{x.ndim}I", 0, 8, x.ndim, *x.shape) + x.tobytes()


def write_idx(directory, pack=lambda content: content, suffix="", **changes):
    """Writes the four idx files; a change is an array, bytes as they are, or None for no file."""
    for key, x in {**arrays(), **changes}.items():
        if x is not None:
            content = x if isinstance(x, bytes) else pack(idx_bytes(x))
            (directory / (FILES[key] + suffix)).write_bytes(content)
    return directory


def assert_equal(expected, split):
    """The split holds the expected values."""
    for key, x in expected.items():
        np.testing.assert_array_equal(x, getattr(split, key))


def assert_usable(split):
    """What the contract promises of every `Split`."""
    for x, y in ((split.x_train, split.y_train), (split.x_test, split.y_test)):
        assert x.ndim in (3, 4) and x.dtype.kind in "buif" and x.dtype.isnative
        assert y.ndim == 1 and y.dtype == np.int64
        assert len(x) == len(y) > 0 and x.size > 0
        assert y.min() >= 0 and np.isfinite(x).all()
    assert split.x_train.shape[1:] == split.x_test.shape[1:]


def assert_refused(path, *fragments):
    """`load` raises one line that holds every fragment."""
    with pytest.raises(DataError) as caught:
        datasets.load(path)
    message = str(caught.value)
    assert 1 == len(message.splitlines()), message
    for fragment in fragments:
        assert fragment in message


def case_name(value):
    """A short name for a case of a table: its keys, or the start of what the error says."""
    if value is None or isinstance(value, bytes):
        return "bytes"
    return value if isinstance(value, str) else " ".join(value)[:40]


class TestDigits:
    """The digits that the package ships."""

    def test_are_the_whole_set_of_scikit_learn(self):
        """Both parts together are the 1,797 images, each once."""
        source = pytest.importorskip("sklearn.datasets").load_digits()
        split = datasets.load_digits()
        rows = lambda x, y: sorted(
            (int(k), *map(int, image)) for image, k in zip(x, y, strict=True)
        )
        expected = rows(source.data, source.target)
        x = np.concatenate([split.x_train, split.x_test]).reshape(-1, 64)
        assert expected == rows(x, np.concatenate([split.y_train, split.y_test]))

    def test_split_is_stratified(self):
        """A fifth of every class is held out, to within one image."""
        split = datasets.load_digits()
        assert (1437, 360) == (len(split.x_train), len(split.x_test))
        assert np.uint8 == split.x_train.dtype
        assert (0, 16) == (split.x_train.min(), split.x_train.max())
        train, test = np.bincount(split.y_train), np.bincount(split.y_test)
        assert 10 == len(train) == len(test)
        assert np.abs(test - (train + test) / 5).max() < 1

    def test_text_beside_them_states_source_licence_and_checksum(self):
        """What the text states is what the loader checks, and what the file has."""
        text = (FOUND / "digits.txt").read_text()
        assert hashlib.sha256((FOUND / "digits.npz").read_bytes()).hexdigest() in text
        assert datasets.DIGITS_SHA256 in text
        for fact in ("10.24432/C50P49", "CC BY 4.0", "Alpaydin", "Kaynak"):
            assert fact in text

    def test_other_bytes_are_refused(self, monkeypatch):
        """A file that is not the one that was shipped is not trained on."""
        monkeypatch.setattr(datasets, "DIGITS_SHA256", "0" * 64)
        assert_refused(None, "digits.npz", "checksum", "install kerastrain again")


class TestNpz:
    """The layout of Keras's `mnist.npz`."""

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    @pytest.mark.parametrize("name", ["my.npz", "no_suffix", "two\nlines.npz"])
    def test_round_trip(self, tmp_path, save, name):
        """What was saved is what is loaded, whatever the file is called."""
        path = tmp_path / name
        path.write_bytes(npz_bytes(save))
        split = datasets.load(str(path))
        assert_usable(split)
        assert_equal(arrays(), split)

    @given(
        dtype=st.sampled_from(
            ["?", "u1", "<u2", ">u4", "u8", "i1", ">i2", "<f2", ">f4", "f8", "g"]
        ),
        label_dtype=st.sampled_from(["u1", ">u2", "i1", "<i4", ">i8", "u8"]),
        image=hnp.array_shapes(min_dims=2, max_dims=3, max_side=4),
        column=st.booleans(),
        fortran=st.booleans(),
    )
    def test_any_numbers_and_image_size(self, dtype, label_dtype, image, column, fortran):
        """Images of every type of number, labels of every integer type, either order in memory."""
        expected = arrays(image=image)
        stored = {
            key: x.astype(
                label_dtype if key.startswith("y") else dtype, order="F" if fortran else "C"
            )
            for key, x in expected.items()
        }
        expected = {key: x.copy() for key, x in stored.items()}
        if column:
            stored["y_train"] = stored["y_train"][:, None]
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "my.npz")
            path.write_bytes(npz_bytes(**stored))
            split = datasets.load_npz(path)
        assert_usable(split)
        assert_equal(expected, split)

    def test_other_keys_are_left_alone(self, tmp_path):
        """A key that is not asked for is not read, not even when it holds objects."""
        path = tmp_path / "my.npz"
        path.write_bytes(npz_bytes(notes=np.array([{}], dtype=object)))
        assert_equal(arrays(), datasets.load(path))

    @pytest.mark.parametrize(
        "changes, fragments",
        [
            ({"y_test": None}, ["no array y_test", "'x_test'"]),
            (dict.fromkeys(arrays()), ["no array x_train", "nothing"]),
            ({"y_train": np.array(["a"] * 6)}, ["y_train", "integers", "<U1"]),
            ({"y_train": np.zeros(6)}, ["y_train", "integers", "float64"]),
            ({"y_train": np.zeros(6, bool)}, ["y_train", "integers", "bool"]),
            ({"y_train": np.array([0, 1, 2, -1, 0, 1])}, ["y_train", "-1"]),
            ({"y_test": np.array([0, 1, 2**63], "u8")}, ["y_test", str(2**63)]),
            ({"y_train": np.eye(6, dtype=int)}, ["y_train", "(6, 6)", "argmax"]),
            ({"y_train": np.array(3)}, ["y_train", "()"]),
            ({"y_train": np.zeros(5, int)}, ["5 labels", "6 images"]),
            ({"y_test": np.zeros(4, int)}, ["4 labels", "3 images"]),
            ({"x_train": np.zeros((6, 20))}, ["x_train", "(6, 20)"]),
            ({"x_train": np.zeros((6, 4, 5, 1, 1))}, ["x_train", "(6, 4, 5, 1, 1)"]),
            ({"x_test": np.zeros((3, 5, 4))}, ["x_test", "(5, 4)", "(4, 5)"]),
            ({"x_test": np.zeros((3, 4, 5, 1))}, ["x_test", "(4, 5, 1)", "(4, 5)"]),
            ({"x_train": np.zeros((0, 4, 5)), "y_train": np.zeros(0, int)}, ["no images"]),
            ({"x_train": np.zeros((6, 0, 5))}, ["no images"]),
            ({"x_train": np.full((6, 4, 5), np.nan)}, ["x_train", "NaN"]),
            ({"x_test": np.full((3, 4, 5), -np.inf)}, ["x_test", "NaN or infinite"]),
            ({"x_train": np.zeros((6, 4, 5), complex)}, ["x_train", "complex128"]),
            ({"x_train": np.full((6, 4, 5), "pixel")}, ["x_train", "<U5"]),
            ({"x_train": np.zeros((6, 4, 5), [("r", "u1")])}, ["x_train", "numbers"]),
            ({"x_train": np.zeros((6, 4, 5), "M8[s]")}, ["x_train", "datetime64"]),
        ],
        ids=case_name,
    )
    def test_wrong_arrays(self, tmp_path, changes, fragments):
        """Arrays that cannot be trained on are named, with what is wrong."""
        path = tmp_path / "my.npz"
        path.write_bytes(npz_bytes(**changes))
        assert_refused(path, str(path), *fragments)

    def test_objects_are_not_unpickled(self, tmp_path):
        """A pickle in the file never runs."""

        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "sprung"),)

        path = tmp_path / "my.npz"
        path.write_bytes(npz_bytes(x_train=np.array([Trap()] * 6, dtype=object)))
        assert_refused(path, str(path), "x_train", "Python objects")
        assert not (tmp_path / "sprung").exists()

    def test_every_truncation_is_refused(self, tmp_path):
        """No prefix of the file is taken for the file."""
        path = tmp_path / "my.npz"
        content = npz_bytes()
        for length in range(0, len(content), 7):
            path.write_bytes(content[:length])
            assert_refused(path, str(path))

    def test_damaged_member_is_refused(self, tmp_path):
        """A flipped bit in the pixels fails zip's own checksum."""
        path = tmp_path / "my.npz"
        content = bytearray(npz_bytes())
        content[content.index(arrays()["x_test"].tobytes())] ^= 1
        path.write_bytes(content)
        assert_refused(path, str(path), "CRC")

    def test_other_packings_are_refused(self, tmp_path):
        """A member may grow no more than deflate can, so its claim is bounded by the file's size."""
        path = tmp_path / "my.npz"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            for key in arrays():
                archive.writestr(f"{key}.npy", b"\0" * 1000)
        assert_refused(path, "x_train", "packed")

    def test_a_zip_file_of_other_things(self, tmp_path):
        """Members that are no arrays."""
        path = tmp_path / "my.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for key in arrays():
                archive.writestr(f"{key}.npy", "pixels")
        assert_refused(path, str(path), "magic string")


class TestIdx:
    """The four files of MNIST."""

    @pytest.mark.parametrize("suffix", ["", ".gz"])
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_round_trip(self, tmp_path, pack, suffix):
        """Gzipped or not, whatever the name says."""
        split = datasets.load(write_idx(tmp_path, pack, suffix))
        assert_usable(split)
        assert_equal(arrays(), split)

    def test_plain_file_is_preferred(self, tmp_path):
        """With both there, the one that needs no unpacking is read."""
        write_idx(tmp_path)
        write_idx(tmp_path, suffix=".gz", **dict.fromkeys(FILES, b"not read"))
        assert_equal(arrays(), datasets.load(tmp_path))

    def test_gzip_in_members(self, tmp_path):
        """A gzip file may hold several members one after the other."""
        write_idx(
            tmp_path, pack=lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:])
        )
        assert_equal(arrays(), datasets.load(tmp_path))

    @pytest.mark.parametrize(
        "key, content, fragments",
        [
            ("x_train", None, ["no such file", "t10k-labels-idx1-ubyte"]),
            ("y_test", b"", ["truncated", "4 of the 4 bytes", "magic"]),
            ("y_test", b"\x1f", ["truncated"]),
            ("x_train", idx_bytes(arrays()["y_train"]), ["0x00000801", "0x00000803"]),
            ("y_train", idx_bytes(arrays()["x_train"]), ["0x00000803", "0x00000801"]),
            ("x_test", b"\x89PNG\r\n\x1a\n", ["magic number 0x89504e47"]),
            ("x_test", idx_bytes(arrays()["x_test"])[:9], ["truncated", "header"]),
            ("x_test", idx_bytes(arrays()["x_test"])[:-1], ["truncated", "(3, 4, 5)"]),
            ("x_test", idx_bytes(arrays()["x_test"]) + b"\0", ["longer than"]),
            (
                "x_test",
                gzip.compress(idx_bytes(arrays()["x_test"])[:-1]),
                ["truncated", "1 of the 60 bytes"],
            ),
            ("x_test", gzip.compress(idx_bytes(arrays()["x_test"]) + b"\0"), ["longer than"]),
            ("x_test", gzip.compress(idx_bytes(arrays()["x_test"]))[:-9], ["x_test"]),
            ("x_test", b"\x1f\x8bgarbage", ["x_test"]),
            ("x_test", idx_bytes(np.zeros((3, 5, 4), "u1")), ["(5, 4)", "(4, 5)"]),
            ("y_test", idx_bytes(np.zeros(4, "u1")), ["4 labels", "3 images"]),
            ("y_test", idx_bytes(np.zeros(0, "u1")), ["no labels"]),
            ("x_test", idx_bytes(np.zeros((0, 4, 5), "u1")), ["no images"]),
        ],
        ids=case_name,
    )
    def test_wrong_files(self, tmp_path, key, content, fragments):
        """The file at fault is named, with what is wrong."""
        write_idx(tmp_path, **{key: content})
        fragments = [fragment for fragment in fragments if fragment != key]
        assert_refused(tmp_path, str(tmp_path / FILES[key]), *fragments)


class TestPaths:
    """What may stand at a path."""

    def test_nothing(self, tmp_path):
        """A missing path is named."""
        path = tmp_path / "missing.npz"
        assert_refused(path, f"{path}: no such file.")
        assert_refused(path / "deeper", str(path / "deeper"))

    def test_empty_directory(self, tmp_path):
        """The error of an empty directory says what it should hold."""
        assert_refused(tmp_path, str(tmp_path), *FILES.values())

    def test_directory_in_the_place_of_a_file(self, tmp_path):
        """A directory with the name of a file is no file."""
        write_idx(tmp_path, x_test=None)
        (tmp_path / FILES["x_test"]).mkdir()
        assert_refused(tmp_path, str(tmp_path / FILES["x_test"]), "not a regular file")
        with pytest.raises(DataError, match="not a regular file"):
            datasets.load_npz(tmp_path)

    def test_file_in_the_place_of_a_directory(self, tmp_path):
        """An idx file given alone gets the advice to give its directory."""
        write_idx(tmp_path)
        assert_refused(tmp_path / FILES["x_train"], "not an .npz file", "give the directory")
        with pytest.raises(DataError, match="not a directory"):
            datasets.load_idx(tmp_path / FILES["x_train"])

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
    def test_pipe_does_not_block(self, tmp_path):
        """A pipe nobody writes to is refused, not waited for."""
        os.mkfifo(tmp_path / "pipe.npz")
        assert_refused(tmp_path / "pipe.npz", "not a regular file")

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
    def test_no_permission(self, tmp_path):
        """A file that may not be read is named."""
        path = tmp_path / "my.npz"
        path.write_bytes(npz_bytes())
        path.chmod(stat.S_IWUSR)
        assert_refused(path, str(path), "Permission denied")

    def test_line_breaks_in_names_stay_on_one_line(self, tmp_path):
        """An error is one line even where a file's name is two."""
        assert_refused(tmp_path / "two\nlines.npz", r"two\nlines.npz", "no such file")
        assert_refused("null\0byte", r"null\x00byte")


class TestMemory:
    """A header's claim costs nothing until the bytes are there."""

    @pytest.fixture(autouse=True)
    def little_memory(self):
        """The test's peak stays under two megabytes."""
        tracemalloc.start()
        yield
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2e6

    @pytest.mark.parametrize("shape", [(2**31, 28, 28), (2**32 - 1,) * 3])
    @pytest.mark.parametrize("pack", [bytes, gzip.compress])
    def test_idx(self, tmp_path, pack, shape):
        """An idx header that claims terabytes."""
        write_idx(tmp_path, x_train=pack(struct.pack(">HBB3I", 0, 8, 3, *shape) + bytes(100)))
        assert_refused(tmp_path, FILES["x_train"], "truncated", str(shape))

    def test_gzip_claim_within_its_bound(self, tmp_path):
        """A claim that gzip could keep, and does not, is found out as the stream ends."""
        content = gzip.compress(struct.pack(">HBB3I", 0, 8, 3, 40, 10, 100) + os.urandom(1000))
        write_idx(tmp_path, x_train=content)
        assert_refused(tmp_path, FILES["x_train"], "39000 of the 40000 bytes")

    @pytest.mark.parametrize("rows", [2**31, 2**62, 7, 5])
    @pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_npz(self, tmp_path, packing, rows):
        """An array header that claims other than the member holds."""
        path = tmp_path / "my.npz"
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (rows, 4, 5)}
        )
        file.write(arrays()["x_train"].tobytes())
        with zipfile.ZipFile(path, "w", packing) as archive:
            for key in arrays():
                archive.writestr(f"{key}.npy", file.getvalue())
        assert_refused(path, "x_train", "truncated or damaged", f"({rows}, 4, 5)")

    def test_npz_member_that_claims_gigabytes(self, tmp_path):
        """The directory of a zip file may lie too."""
        content = bytearray(npz_bytes(np.savez_compressed))
        lie = struct.pack("<I", 2**32 - 2)
        for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
            at = -1
            while (at := content.find(signature, at + 1)) >= 0:
                content[at + offset : at + offset + 4] = lie
        path = tmp_path / "my.npz"
        path.write_bytes(content)
        assert_refused(path, str(path), "claims 4294967294 bytes")


def edits(content):
    """Strategy: the bytes, cut short, overwritten, with a piece taken out or put in, up to four times."""
    positions = st.integers(0, len(content))
    edit = st.tuples(
        st.sampled_from(["cut", "overwrite", "remove", "insert"]),
        positions,
        st.binary(min_size=1, max_size=8)
        | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"PK\x03\x04"]),
    )
    return st.lists(edit, min_size=1, max_size=4).map(lambda edits: _edited(content, edits))


def _edited(content, edits):
    for kind, at, piece in edits:
        head, tail = content[:at], content[at:]
        content = {
            "cut": head,
            "overwrite": head + piece + tail[len(piece) :],
            "remove": head + tail[len(piece) :],
            "insert": head + piece + tail,
        }[kind]
    return content


def load_or_refuse(path):
    """The contract for any bytes: a usable split, or one line that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            split = datasets.load(path)
        except DataError as error:
            assert 1 == len(str(error).splitlines())
            assert str(path) in str(error)
        else:
            assert_usable(split)


class TestHostileBytes:
    """`DataError` or success, never another exception."""

    @given(data=st.data(), save=st.sampled_from([np.savez, np.savez_compressed]))
    def test_npz(self, data, save):
        """Edited `.npz` files."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "my.npz")
            path.write_bytes(data.draw(edits(npz_bytes(save))))
            load_or_refuse(path)

    @given(
        data=st.data(),
        key=st.sampled_from(sorted(FILES)),
        pack=st.sampled_from([bytes, gzip.compress]),
    )
    def test_idx(self, data, key, pack):
        """Edited idx files."""
        with tempfile.TemporaryDirectory() as directory:
            path = write_idx(Path(directory), pack)
            (path / FILES[key]).write_bytes(data.draw(edits(pack(idx_bytes(arrays()[key])))))
            load_or_refuse(path)

    @given(member=st.data(), rest=st.sampled_from([b"", arrays()["x_train"].tobytes()]))
    def test_array_headers(self, member, rest):
        """Array headers that say anything, in a zip file that is right."""
        header = member.draw(
            st.fixed_dictionaries(
                {
                    "descr": st.sampled_from(
                        ["|u1", "<f4", ">i8", "|O", "|S0", "|V0", "x", 3, "", None]
                    ),
                    "fortran_order": st.booleans() | st.just("no"),
                    "shape": st.lists(st.integers(-3, 2**70) | st.integers(0, 6)).map(tuple),
                }
            ).map(repr)
            | st.text(max_size=60)
        )
        encoded = header.encode("latin1", "replace") + b"\n"
        version = member.draw(st.sampled_from([1, 2, 3, 9]))
        length = struct.pack("<H" if version == 1 else "<I", len(encoded))
        content = b"\x93NUMPY" + bytes([version, 0]) + length + encoded + rest
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "my.npz")
            with zipfile.ZipFile(path, "w") as archive:
                for key, x in arrays().items():
                    file = io.BytesIO()
                    np.save(file, x)
                    archive.writestr(f"{key}.npy", content if key == "x_train" else file.getvalue())
            load_or_refuse(path)

    @given(content=st.binary(max_size=200))
    def test_any_bytes(self, content):
        """Bytes of no format."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "my.npz")
            path.write_bytes(content)
            load_or_refuse(path)


def test_examples_in_docstrings():
    """The examples print what they say."""
    assert 0 == doctest.testmod(datasets).failed


def test_a_claim_is_bounded_by_what_deflate_can_do():
    """The bound on a claim is above the ratio that zlib reaches on zeros."""
    packed = len(gzip.compress(bytes(10_000_000), 9))
    assert math.floor(10_000_000 / packed) <= 1032
