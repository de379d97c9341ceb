"""Labelled image data sets as arrays, from scikit-learn, TFDS or a file of one's own."""

import hashlib
import importlib.util
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kd import checks

TFDS_NAMES = ("mnist", "fashion_mnist", "kmnist", "cifar10")
NAMES = ("digits", *TFDS_NAMES)  # Of `load`, besides paths.
TEST_ONLY_NAMES = ("notmnist",)
NPZ_KEYS = ("train_x", "train_y", "test_x", "test_y")
DIGITS_NUM_TEST = 597
LARGEST_INPUT = 1e6


class DataError(ValueError):
    """Data that is missing or bad; the message says what to do."""


class Dataset(NamedTuple):
    """A labelled data set.

    Attributes:
      train_x: `[N, ...]` float32, pixels in [0, 1].
      train_y: `[N]` int32, in [0, num_classes).
      test_x: `[M, ...]`, as `train_x`.
      test_y: `[M]`, as `train_y`.
      num_classes: C.
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_classes: int


def load(name: str | os.PathLike, *, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Loads a data set by name.

    Args:
      name: "digits" (scikit-learn's, 8x8; nothing is downloaded); "mnist", "fashion_mnist",
        "kmnist" or "cifar10", as TFDS prepared them; or the path of an `.npz`
        with arrays `train_x`, `train_y`, `test_x`, `test_y`: inputs `[N, ...]` in
        uint8 (divided by 255) or floating, labels integers from 0.
      data_dir: where TFDS's prepared data lie; the environment's `TFDS_DATA_DIR` if
        None, then TFDS's own default. Nothing is ever downloaded.

    Returns:
      A `Dataset`.

    Raises:
      DataError: if the name is unknown, the data missing, or their content bad (shapes
        that differ, labels out of range, inputs NaN or larger than 1e6, unreadable files).
    """
    name = os.fspath(name)
    if name == "digits":
        return _load_digits()
    if name in TFDS_NAMES:
        return _load_tfds(name, data_dir)
    return _load_npz(find_npz(name))


def load_test_inputs(
    name: str | os.PathLike, *, data_dir: str | os.PathLike | None = None
) -> np.ndarray:
    """The test inputs of a data set alone, `[M, ...]`: what is out of distribution for another.

    Args:
      name, data_dir: as for `load`; or "notmnist", of which there may be no training part.

    Raises:
      DataError: as `load`.
    """
    name = os.fspath(name)
    if name not in TEST_ONLY_NAMES:
        return load(name, data_dir=data_dir).test_x
    folder = _find_tfds(name, data_dir)
    try:
        return _read_split(_builder(folder), "test")[0]
    except Exception as error:  # TFDS raises many kinds for a damaged copy.
        raise _damaged(folder, name, error) from error


def fingerprint(
    name: str | os.PathLike, *, data_dir: str | os.PathLike | None = None
) -> str | None:
    """SHA-256 of the files that `load` would read, or None where a library ships them.

    Args:
      name, data_dir: as for `load`.

    Raises:
      DataError: if there is no such data set.
    """
    name = os.fspath(name)
    if name == "digits":
        return None
    if name in TFDS_NAMES + TEST_ONLY_NAMES:
        folder = _find_tfds(name, data_dir)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
    else:
        files = [find_npz(name)]
    total = hashlib.sha256()
    for path in files:
        try:
            with open(path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise DataError(f"{path} could not be read: {error.strerror}.") from error
    return total.hexdigest()


def take_first(dataset: Dataset, fraction: float) -> Dataset:
    """The data set with only the first `fraction` of its training examples, rounded down.

    They are the thesis's first 6,000 of MNIST only where the copy is in the official
    order; TFDS shuffles what it prepares.

    Raises:
      ValueError: if `fraction` is outside (0, 1].
      DataError: if it leaves no example.
    """
    checks.check_fraction("fraction", fraction)
    num_examples = int(len(dataset.train_x) * fraction + 1e-9)
    if num_examples < 1:
        raise DataError(
            f"a fraction of {fraction:g} of {len(dataset.train_x)} training examples leaves none; "
            "raise it."
        )
    return dataset._replace(
        train_x=dataset.train_x[:num_examples], train_y=dataset.train_y[:num_examples]
    )


def validate(dataset: Dataset, *, source: str) -> Dataset:
    """Returns `dataset` unless its content is bad.

    Raises:
      DataError: naming `source`, the array, and what was expected.
    """
    for split in ("train", "test"):
        x, y = getattr(dataset, f"{split}_x"), getattr(dataset, f"{split}_y")
        # A standard error needs two test examples.
        if x.ndim < 2 or len(x) < 2 or x.size == 0:
            raise DataError(f"{source}: {split}_x must be [N, ...] with N >= 2, got {x.shape}.")
        if y.shape != x.shape[:1]:
            raise DataError(
                f"{source}: {split}_y must have shape {x.shape[:1]} to go with {split}_x, "
                f"got {y.shape}."
            )
        if not np.isfinite(x).all():
            raise DataError(
                f"{source}: {split}_x holds {np.sum(~np.isfinite(x))} NaN or infinite values; "
                "clean them before training."
            )
        if np.abs(x).max() > LARGEST_INPUT:
            raise DataError(
                f"{source}: {split}_x holds values up to {np.abs(x).max():.3g} in size, where "
                f"{LARGEST_INPUT:g} is the most; scale them to about 1."
            )
        if y.min() < 0 or y.max() >= dataset.num_classes:
            raise DataError(
                f"{source}: {split}_y must lie in [0, {dataset.num_classes}), "
                f"got {y.min()} to {y.max()}."
            )
    if dataset.train_x.shape[1:] != dataset.test_x.shape[1:]:
        raise DataError(
            f"{source}: train_x and test_x must have inputs of one shape, got "
            f"{dataset.train_x.shape[1:]} and {dataset.test_x.shape[1:]}."
        )
    return dataset


def _load_digits() -> Dataset:
    table = _read_digits()
    # A fixed shuffle: the file goes writer by writer. So a writer may be in both parts,
    # which makes the test easier than one with new writers.
    table = table[np.random.default_rng(0).permutation(len(table))]
    x = (table[:, :-1].reshape(-1, 8, 8, 1) / 16.0).astype(np.float32)
    y = table[:, -1].astype(np.int32)
    test, train = slice(None, DIGITS_NUM_TEST), slice(DIGITS_NUM_TEST, None)
    return validate(Dataset(x[train], y[train], x[test], y[test], 10), source="digits")


def _read_digits() -> np.ndarray:
    """Pixels, 0 to 16, and label of each of scikit-learn's digits, `[1797, 65]`."""
    # Its file, where it is as ever: importing scikit-learn takes longer than all else here.
    package = importlib.util.find_spec("sklearn").submodule_search_locations[0]
    path = Path(package, "datasets", "data", "digits.csv.gz")
    if path.exists():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


def _find_tfds(name: str, data_dir: str | os.PathLike | None) -> Path:
    """The folder of the newest version that TFDS prepared."""
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    root = Path(os.path.expanduser(given))
    versions = sorted((root / name).glob("*/dataset_info.json"), key=_version)
    if not versions:
        raise DataError(
            f"no prepared copy of {name} under {root}: set --data_dir or TFDS_DATA_DIR to where "
            f"it is, or prepare it with `pip install tensorflow` and `tfds build {name} "
            f"--file_format=array_record --data_dir={root}`."
        )
    return versions[-1].parent


def _load_tfds(name: str, data_dir: str | os.PathLike | None) -> Dataset:
    folder = _find_tfds(name, data_dir)
    try:
        builder = _builder(folder)
        train_x, train_y = _read_split(builder, "train")
        test_x, test_y = _read_split(builder, "test")
        num_classes = builder.info.features["label"].num_classes
    except Exception as error:  # TFDS raises many kinds for a damaged copy.
        raise _damaged(folder, name, error) from error
    dataset = Dataset(train_x, train_y, test_x, test_y, num_classes)
    return validate(dataset, source=str(folder))


def _builder(folder: Path):
    import tensorflow_datasets as tfds

    return tfds.builder_from_directory(folder)


def _damaged(folder: Path, name: str, error: Exception) -> DataError:
    return DataError(
        f"{folder} could not be read: {_one_line(error)}; prepare {name} "
        "again, in the array_record format."
    )


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in path.parent.name.split("."))


def _read_split(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image
    from tensorflow_datasets import decode

    # Pillow alone takes half of what TFDS's decoding takes, which is made for one example.
    source = builder.as_data_source(split=split, decoders={"image": decode.SkipDecoding()})
    rows = source.__getitems__(list(range(len(source))))
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]))) for row in rows])
    images = images.reshape(len(images), *builder.info.features["image"].shape)
    return _pixels(images), np.array([row["label"] for row in rows], np.int32)


def find_npz(name: str) -> Path:
    """The file of that name.

    Raises:
      DataError: if it is no `.npz`, or there is none.
    """
    if not name.endswith(".npz"):
        raise DataError(
            f"unknown data set {name!r}: expected digits, {', '.join(TFDS_NAMES)} or a path to "
            "an .npz."
        )
    path = Path(name)
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if not path.is_file():
        raise DataError(f"{path} is not a file.")
    return path


def _load_npz(path: Path) -> Dataset:
    arrays = read_npz(path, NPZ_KEYS)
    for split in ("train", "test"):
        x, y = arrays[f"{split}_x"], arrays[f"{split}_y"]
        if x.dtype != np.uint8 and x.dtype.kind != "f":
            raise DataError(
                f"{path}: {split}_x must be uint8 (0 to 255) or floating, got {x.dtype}."
            )
        if y.dtype.kind not in "iu":
            raise DataError(f"{path}: {split}_y must hold integers, got {y.dtype}.")
    if (arrays["train_x"].dtype == np.uint8) != (arrays["test_x"].dtype == np.uint8):
        raise DataError(f"{path}: train_x and test_x must both be uint8, or both floating.")
    labels = arrays["train_y"]
    num_classes = max(1, int(labels.max(initial=0)) + 1)
    if num_classes > max(1, labels.size):
        raise DataError(
            f"{path}: train_y goes up to {num_classes - 1} in {labels.size} examples; number the "
            "classes from 0."
        )
    dataset = Dataset(
        _pixels(arrays["train_x"]),
        arrays["train_y"],
        _pixels(arrays["test_x"]),
        arrays["test_y"],
        num_classes,
    )
    # Checked before they become int32: a large label must not wrap into the range.
    dataset = validate(dataset, source=str(path))
    return dataset._replace(
        train_y=dataset.train_y.astype(np.int32), test_y=dataset.test_y.astype(np.int32)
    )


def read_npz(path: Path, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """The named arrays of an `.npz`; nothing is ever unpickled.

    Raises:
      DataError: if the file is damaged, or an array is missing.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror}.") from error
    if not zipfile.is_zipfile(path):  # NumPy would advise to unpickle it.
        raise DataError(f"{path} is not a whole .npz; write it with numpy.savez.")
    where = str(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in keys if key not in file]
            if missing:
                raise DataError(
                    f"{path}: expected arrays {', '.join(keys)}; {', '.join(missing)} missing."
                )
            arrays = {}
            for key in keys:
                where = f"{key} of {path}"
                arrays[key] = file[key]
                if not isinstance(arrays[key], np.ndarray):  # NumPy gives other bytes as they are.
                    raise ValueError("it is no array")
            return arrays
    except DataError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds for a damaged file.
        raise DataError(
            f"{where} could not be read: {_one_line(error)}; write it again with numpy.savez, from "
            "plain arrays (objects are never unpickled)."
        ) from error


def _pixels(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # What float32 cannot hold is found as infinite.
        return x.astype(np.float32) / (255.0 if x.dtype == np.uint8 else 1.0)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
