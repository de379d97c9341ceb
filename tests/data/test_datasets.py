"""Data sets: their exact content where it is known, and one line for everything that is bad."""

import importlib.util
import json
import math
import os
import pickle
import shutil
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from kd import data
from kd.data import DataError
from kd.data.datasets import validate


def arrays(seed=0):
    """A good data set of one's own, in floating pixels."""
    rng = np.random.default_rng(seed)
    return {
        "train_x": rng.random((20, 4, 3)).astype(np.float32),
        "train_y": np.arange(20) % 3,
        "test_x": rng.random((7, 4, 3)).astype(np.float32),
        "test_y": np.arange(7) % 3,
    }


def write(path, **changes):
    np.savez(path, **{k: v for k, v in (arrays() | changes).items() if v is not None})
    return str(path)


def message_of(name, **options):
    """The one line with which `load` refuses."""
    with pytest.raises(DataError) as caught:
        data.load(name, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) > 20
    return message


# Digits.


@pytest.mark.parametrize("has_file", [True, False])
def test_digits_are_scikit_learns(has_file, monkeypatch):
    """Every image is there once, with its own label, and nothing else; wherever they come from."""
    if not has_file:
        elsewhere = types.SimpleNamespace(submodule_search_locations=["nowhere"])
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: elsewhere)
    dataset = data.load("digits")
    assert dataset.train_x.shape == (1200, 8, 8, 1) and dataset.test_x.shape == (597, 8, 8, 1)
    assert dataset.train_y.shape == (1200,) and dataset.test_y.shape == (597,)
    assert dataset.num_classes == 10
    assert dataset.train_x.dtype == dataset.test_x.dtype == np.float32
    assert dataset.train_y.dtype == dataset.test_y.dtype == np.int32

    original = load_digits()
    x = np.concatenate([dataset.train_x, dataset.test_x]).reshape(-1, 64)
    y = np.concatenate([dataset.train_y, dataset.test_y])
    ours = sorted((*(16 * row).astype(int), int(label)) for row, label in zip(x, y, strict=True))
    theirs = sorted(
        (*row.astype(int), int(label))
        for row, label in zip(original.data, original.target, strict=True)
    )
    assert ours == theirs
    assert x.min() == 0.0 and x.max() == 1.0


def test_digits_are_the_same_each_time_and_shuffled():
    first, second = data.load("digits"), data.load("digits")
    for one, other in zip(first[:4], second[:4], strict=True):
        np.testing.assert_array_equal(one, other)
    # scikit-learn's file begins 0, 1, 2, ..., 9: writers follow one another.
    assert first.train_y[:10].tolist() != list(range(10))
    for labels in (first.train_y, first.test_y):
        counts = np.bincount(labels, minlength=10)
        # Classes are as good as balanced: a tenth each, within five standard deviations.
        assert np.all(np.abs(counts - len(labels) / 10) < 5 * math.sqrt(0.09 * len(labels)))


# The prepared data sets.

# Class counts of the original files (their publishers' READMEs), and the mean and standard
# deviation of the training pixels that every library normalises with.
MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
KNOWN = {
    "mnist": (MNIST_TRAIN, MNIST_TEST, (0.1307, 0.3081), [5, 0, 4, 1, 9], [7, 2, 1, 0, 4]),
    "fashion_mnist": ([6000] * 10, [1000] * 10, (0.2860, 0.3530), [9, 0, 0, 3, 0], [9, 2, 1, 1, 6]),
    "kmnist": ([6000] * 10, [1000] * 10, (0.1918, 0.3483), [8, 7, 0, 1, 4], [2, 9, 3, 8, 3]),
}


def prepared(name):
    """Where the prepared copy of a data set is; skips without one."""
    root = os.environ.get("TFDS_DATA_DIR")
    if not root:
        pytest.skip("TFDS_DATA_DIR is not set: no prepared data sets")
    versions = sorted((Path(root) / name).glob("*/dataset_info.json"))
    if not versions:
        pytest.skip(f"TFDS_DATA_DIR holds no prepared {name}")
    return versions[-1].parent


@pytest.mark.parametrize("name", KNOWN)
def test_prepared_data_sets(name):
    folder = prepared(name)
    train_counts, test_counts, (mean, std), train_labels, test_labels = KNOWN[name]
    splits = json.loads((folder / "dataset_info.json").read_text())["splits"]
    sizes = {split["name"]: sum(map(int, split["shardLengths"])) for split in splits}

    dataset = data.load(name)  # From TFDS_DATA_DIR.
    assert dataset.train_x.shape == (sizes["train"], 28, 28, 1)
    assert dataset.test_x.shape == (10000, 28, 28, 1) and sizes["test"] == 10000
    assert dataset.train_x.dtype == np.float32 and dataset.train_y.dtype == np.int32
    assert dataset.num_classes == 10
    for x in (dataset.train_x, dataset.test_x):
        assert x.min() == 0.0 and x.max() == 1.0
        # Pixels were bytes: multiples of 1/255.
        steps = 255 * x[:200].astype(np.float64)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    np.testing.assert_array_equal(dataset.train_y[:5], train_labels)
    np.testing.assert_array_equal(dataset.test_y[:5], test_labels)
    np.testing.assert_array_equal(np.bincount(dataset.test_y), test_counts)
    if sizes["train"] == 60000:
        np.testing.assert_array_equal(np.bincount(dataset.train_y), train_counts)
        tolerance = 1e-4
    else:  # A prefix of the original.
        assert np.all(np.bincount(dataset.train_y, minlength=10) <= train_counts)
        tolerance = 3e-3
    assert dataset.train_x.mean(dtype=np.float64) == pytest.approx(mean, abs=tolerance)
    assert dataset.train_x.std(dtype=np.float64) == pytest.approx(std, abs=tolerance)


def test_missing_data_set_says_how_to_prepare_it(tmp_path, monkeypatch):
    message = message_of("mnist", data_dir=tmp_path / "nothing")
    assert str(tmp_path / "nothing") in message
    assert "--data_dir" in message and "TFDS_DATA_DIR" in message and "tfds build mnist" in message
    # The environment's folder, and, without one, the default in the home directory.
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "env"))
    assert str(tmp_path / "env") in message_of("kmnist")
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert str(tmp_path / "home/tensorflow_datasets") in message_of("kmnist")
    assert list(tmp_path.iterdir()) == []  # Nothing was downloaded, or created.


def test_data_dir_given_wins_over_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "env"))
    message = message_of("mnist", data_dir=tmp_path / "given")
    assert str(tmp_path / "given") in message and str(tmp_path / "env") not in message


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path):
    content = bytearray(path.read_bytes())
    content[200_000:200_100] = bytes(100)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("kmnist-train.array_record-00000-of-00001", halve),
        ("kmnist-train.array_record-00000-of-00001", overwrite),
        ("kmnist-train.array_record-00000-of-00001", Path.unlink),
        ("dataset_info.json", halve),
        ("features.json", Path.unlink),
    ],
    ids=["truncated", "overwritten", "missing", "torn info", "no features"],
)
def test_a_damaged_copy_is_named(tmp_path, file, damage):
    copy = tmp_path / "kmnist" / "3.0.1"
    copy.mkdir(parents=True)
    for path in prepared("kmnist").iterdir():
        shutil.copyfile(path, copy / path.name)
    damage(copy / file)
    message = message_of("kmnist", data_dir=tmp_path)
    assert message.startswith(f"{copy} could not be read: ")
    assert "prepare kmnist again" in message


def test_the_newest_version_is_taken(tmp_path):
    for version in ("3.0.1", "10.0.0", "9.9.9"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        (tmp_path / "mnist" / version / "dataset_info.json").write_text("{")
    assert message_of("mnist", data_dir=tmp_path).startswith(str(tmp_path / "mnist/10.0.0"))


# The first part.


def test_take_first_is_the_prefix():
    dataset = data.load("digits")
    part = data.take_first(dataset, 0.1)
    np.testing.assert_array_equal(part.train_x, dataset.train_x[:120])
    np.testing.assert_array_equal(part.train_y, dataset.train_y[:120])
    np.testing.assert_array_equal(part.test_x, dataset.test_x)
    np.testing.assert_array_equal(part.test_y, dataset.test_y)
    assert part.num_classes == 10
    assert len(data.take_first(dataset, 1.0).train_x) == 1200
    # Rounded down, but not for want of a last bit: 0.07 * 100 is 7.000000000000001 and
    # 0.29 * 100 is 28.999999999999996.
    hundred = dataset._replace(train_x=dataset.train_x[:100], train_y=dataset.train_y[:100])
    for fraction, expected in [(0.07, 7), (0.29, 29), (0.299, 29), (0.01, 1)]:
        assert len(data.take_first(hundred, fraction).train_x) == expected


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5, math.nan, math.inf])
def test_take_first_refuses(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\], got"):
        data.take_first(data.load("digits"), fraction)


def test_take_first_refuses_to_leave_nothing():
    with pytest.raises(DataError, match="0.0005 of 1200 training examples leaves none"):
        data.take_first(data.load("digits"), 0.0005)


# A file of one's own.


def test_npz_of_floats_round_trips(tmp_path):
    expected = arrays()
    dataset = data.load(write(tmp_path / "own.npz"))
    for key in expected:
        np.testing.assert_array_equal(getattr(dataset, key), expected[key])
    assert dataset.train_x.dtype == np.float32 and dataset.train_y.dtype == np.int32
    assert dataset.num_classes == 3


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_npz_of_other_floats_is_cast_and_not_scaled(tmp_path, dtype):
    x = np.linspace(-3.0, 300.0, 20 * 5).reshape(20, 5).astype(dtype)
    path = write(tmp_path / "own.npz", train_x=x, test_x=x[:7], train_y=np.arange(20, dtype="u1"))
    dataset = data.load(path)
    assert dataset.train_x.dtype == np.float32 and dataset.num_classes == 20
    np.testing.assert_array_equal(dataset.train_x, x.astype(np.float32))


def test_npz_of_bytes_is_scaled_to_the_unit_interval(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 2, 2)).astype(np.uint8)
    x[0, 0] = [0, 255]
    dataset = data.load(write(tmp_path / "own.npz", train_x=x, test_x=x[:7]))
    assert dataset.train_x[0, 0].tolist() == [0.0, 1.0]
    np.testing.assert_array_equal(dataset.train_x, (x / np.float32(255)).astype(np.float32))


def test_compressed_npz(tmp_path):
    np.savez_compressed(tmp_path / "own.npz", **arrays())
    dataset = data.load(str(tmp_path / "own.npz"))
    np.testing.assert_array_equal(dataset.test_x, arrays()["test_x"])


def test_a_fingerprint_is_of_the_content(tmp_path):
    first = data.fingerprint(write(tmp_path / "a.npz"))
    assert len(first) == 64 and first == data.fingerprint(write(tmp_path / "b.npz"))
    changed = np.full((7, 4, 5), 0.5, np.float32)
    assert first != data.fingerprint(write(tmp_path / "a.npz", test_x=changed))
    assert data.fingerprint("digits") is None
    with pytest.raises(data.DataError, match="no such file"):
        data.fingerprint(str(tmp_path / "none.npz"))
    with pytest.raises(data.DataError, match="unknown data set 'minst'"):
        data.fingerprint("minst")


def test_the_fingerprint_of_a_prepared_copy_is_of_its_newest_version(tmp_path):
    def prepare(version, content):
        folder = tmp_path / "mnist" / version
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("dataset_info.json", "mnist-train.array_record-00000-of-00001"):
            (folder / name).write_bytes(content)
        return data.fingerprint("mnist", data_dir=tmp_path)

    first = prepare("3.0.1", b"one")
    assert prepare("3.0.1", b"two") != first == prepare("3.0.1", b"one")
    assert prepare("2.0.0", b"older") == first
    assert prepare("3.0.2", b"newer") != first


def test_unknown_name_lists_what_there_is(tmp_path):
    message = message_of("minst")
    for word in ("'minst'", "digits", "mnist", "fashion_mnist", "kmnist", ".npz"):
        assert word in message


def test_missing_file(tmp_path):
    path = str(tmp_path / "nowhere.npz")
    assert message_of(path) == f"{path}: no such file."


def truncated(path):
    halve(Path(write(path)))


def flipped(path):
    content = bytearray(Path(write(path)).read_bytes())
    content[300] ^= 0xFF  # In the pixels: the archive's CRC finds it.
    path.write_bytes(content)


def flipped_compressed(path):
    np.savez_compressed(path, **arrays())
    content = bytearray(path.read_bytes())
    content[80:90] = bytes(10)  # In the deflated stream: zlib finds it.
    path.write_bytes(content)


def bare_array(path):
    with open(path, "wb") as file:
        np.save(file, arrays()["train_x"])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (truncated, "{path} is not a whole .npz; write it with numpy.savez."),
        (lambda path: path.write_bytes(b""), "{path} is not a whole .npz"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99)), "{path} is not a whole .npz"),
        (lambda path: path.mkdir(), "{path} is not a file."),
        (bare_array, "{path} is not a whole .npz"),
        (flipped, "train_x of {path} could not be read: Bad CRC-32"),
        (flipped_compressed, "train_x of {path} could not be read: Error -3 while decompressing"),
    ],
    ids=["truncated", "empty", "garbage", "folder", "npy", "flipped", "zlib"],
)
def test_damaged_npz(tmp_path, make, expected):
    path = tmp_path / "own.npz"
    make(path)
    assert message_of(str(path)).startswith(expected.format(path=path))


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return (open, (str(self._path), "w"))


def test_objects_are_never_unpickled(tmp_path):
    """Neither in an array of objects nor in a file that is a pickle altogether."""
    trace = tmp_path / "exploded"
    objects = np.array([Bomb(trace)] * 20, dtype=object)
    in_array = write(tmp_path / "array.npz", train_x=objects)
    message = message_of(in_array)
    assert message.startswith(f"train_x of {in_array} could not be read: ")
    assert "plain arrays (objects are never unpickled)" in message
    in_labels = write(tmp_path / "labels.npz", test_y=np.array([Bomb(trace)] * 7, dtype=object))
    assert message_of(in_labels).startswith(f"test_y of {in_labels} could not be read: ")

    whole = tmp_path / "whole.npz"
    whole.write_bytes(pickle.dumps(Bomb(trace)))
    assert "is not a whole .npz" in message_of(str(whole))
    member = tmp_path / "member.npz"
    with zipfile.ZipFile(member, "w") as archive:
        for key in arrays():
            archive.writestr(f"{key}.npy", pickle.dumps(Bomb(trace)))
    assert message_of(str(member)).startswith(f"train_x of {member} could not be read: it is no")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace))).close()
    assert trace.exists()  # The bomb does go off where it is unpickled.


NAN = np.where(np.arange(20 * 12).reshape(20, 4, 3) == 7, np.nan, 0.5).astype(np.float32)
INF = np.where(np.arange(7 * 12).reshape(7, 4, 3) < 2, np.inf, 0.5).astype(np.float32)
BAD = {
    "missing array": (
        {"train_y": None},
        "expected arrays train_x, train_y, test_x, test_y; train_y missing.",
    ),
    "two missing": ({"train_x": None, "test_y": None}, "train_x, test_y missing."),
    "NaN": ({"train_x": NAN}, "train_x holds 1 NaN or infinite values; clean them"),
    "infinite": ({"test_x": INF}, "test_x holds 2 NaN or infinite values; clean them"),
    "too large for float32": ({"test_x": np.full((7, 4, 3), 1e300)}, "test_x holds 84 NaN or inf"),
    "negative label": (
        {"train_y": np.arange(20) % 3 - 1},
        "train_y must lie in [0, 2), got -1 to 1",
    ),
    "all negative": ({"train_y": np.full(20, -5)}, "train_y must lie in [0, 1), got -5 to -5"),
    "test label of no class": ({"test_y": np.full(7, 3)}, "test_y must lie in [0, 3), got 3 to 3"),
    "label that would wrap": (
        {"test_y": np.full(7, 2**32 + 1)},
        "test_y must lie in [0, 3), got 42949",
    ),
    "huge label": (
        {"train_y": np.full(20, 2**40)},
        "train_y goes up to 1099511627776 in 20 examples",
    ),
    "unsigned label": (
        {"train_y": np.full(20, 2**64 - 1, "u8")},
        "train_y goes up to 184467440737095",
    ),
    "floating labels": ({"train_y": np.zeros(20)}, "train_y must hold integers, got float64"),
    "text labels": ({"test_y": np.full(7, "a")}, "test_y must hold integers, got <U1"),
    "labels as a column": ({"train_y": np.zeros((20, 1), int)}, "train_y must have shape (20,)"),
    "one-hot labels": ({"test_y": np.eye(7, dtype=int)}, "test_y must have shape (7,) to go with"),
    "too few labels": (
        {"train_y": np.zeros(19, int)},
        "train_y must have shape (20,) to go with train_x, got (19,)",
    ),
    "scalar labels": (
        {"test_y": np.int64(0)},
        "test_y must have shape (7,) to go with test_x, got ()",
    ),
    "unscaled integers": (
        {"train_x": np.ones((20, 4, 3), np.int64)},
        "train_x must be uint8 (0 to 255) or floating, got int64",
    ),
    "booleans": (
        {"test_x": np.ones((7, 4, 3), bool)},
        "test_x must be uint8 (0 to 255) or floating",
    ),
    "complex": (
        {"train_x": np.ones((20, 4, 3), complex)},
        "train_x must be uint8 (0 to 255) or flo",
    ),
    "two scales": (
        {"train_x": np.ones((20, 4, 3), np.uint8)},
        "train_x and test_x must both be uint8",
    ),
    "inputs without an axis": (
        {"train_x": np.ones(20)},
        "train_x must be [N, ...] with N >= 2, got",
    ),
    "inputs of two shapes": (
        {"test_x": np.ones((7, 3, 4))},
        "train_x and test_x must have inputs of one shape, got (4, 3) and (3, 4)",
    ),
    "no training example": (
        {"train_x": np.ones((0, 4, 3)), "train_y": np.zeros(0, int)},
        "train_x must be [N, ...] with N >= 2, got (0, 4, 3)",
    ),
    "one test example": (
        {"test_x": np.ones((1, 4, 3)), "test_y": np.zeros(1, int)},
        "test_x must be [N, ...] with N >= 2, got (1, 4, 3)",
    ),
    "no pixels": (
        {"train_x": np.ones((20, 0)), "test_x": np.ones((7, 0))},
        "train_x must be [N, ...] with N >= 2, got (20, 0)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_npz(tmp_path, case):
    changes, expected = BAD[case]
    path = write(tmp_path / "own.npz", **changes)
    message = message_of(path)
    assert message.startswith(f"{path}: ") and expected in message


def test_validate_returns_what_is_good_and_names_the_source():
    dataset = data.load("digits")
    assert validate(dataset, source="mine") is dataset
    with pytest.raises(DataError, match=r"^mine: test_y must lie in \[0, 9\), got 0 to 9\.$"):
        validate(dataset._replace(num_classes=9, train_y=dataset.train_y % 9), source="mine")


def test_inputs_of_absurd_size_are_refused(tmp_path):
    huge = np.full((20, 4, 3), -3e38, np.float32)
    path = write(tmp_path / "own.npz", train_x=huge)
    assert "train_x holds values up to 3e+38 in size, where 1e+06 is the most" in message_of(path)


def test_a_name_may_be_a_path(tmp_path):
    path = write(tmp_path / "own.npz")
    named, given = data.load(str(path)), data.load(Path(path))
    np.testing.assert_array_equal(named.train_x, given.train_x)
    assert data.fingerprint(str(path)) == data.fingerprint(Path(path))


def test_a_file_that_may_not_be_read_is_said_so(tmp_path, monkeypatch):
    path = write(tmp_path / "own.npz")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert message_of(path) == f"{path} could not be read: Permission denied."


def test_the_home_of_nobody_is_a_missing_folder():
    with pytest.raises(DataError, match="no prepared copy of mnist under ~nobody-here"):
        data.load("mnist", data_dir="~nobody-here/data")
