"""kd.data.binary: images of zeros and ones, RBMs from files, and what is refused."""

import re

import numpy as np
import pytest

from kd import data
from kd.data import DataError, load_binary, load_rbm

RNG = np.random.default_rng(0)
BITS = {
    "train": RNG.integers(0, 2, (9, 12)).astype(np.uint8),
    "test": RNG.integers(0, 2, (5, 12)).astype(np.uint8),
}


def write(path, **arrays):
    np.savez(path, **arrays)
    return path


def assert_is_bits(dataset):
    for part, expected in BITS.items():
        found = getattr(dataset, part)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("pixel_order", ["rows", "columns"])
def test_digits_are_rounded_and_gone_through_in_either_order(pixel_order):
    dataset, images = load_binary("digits", pixel_order=pixel_order), data.load("digits")
    for part in ("train", "test"):
        x = getattr(images, f"{part}_x")
        found = getattr(dataset, part)
        assert found.shape == (len(x), 64) and set(np.unique(found)) == {0, 1}
        for column in range(8):
            for row in range(8):
                place = 8 * row + column if pixel_order == "rows" else 8 * column + row
                pixel = found[:, place]
                np.testing.assert_array_equal(pixel, x[:, row, column, 0] > 0.5)


def test_the_order_is_that_of_rows_unless_said_otherwise():
    np.testing.assert_array_equal(
        load_binary("digits").test, load_binary("digits", pixel_order="rows").test
    )
    with pytest.raises(ValueError, match="pixel_order must be one of rows, columns; got 'random'"):
        load_binary("digits", pixel_order="random")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_zeros_and_ones(tmp_path, dtype):
    path = write(tmp_path / "own.npz", **{part: x.astype(dtype) for part, x in BITS.items()})
    assert_is_bits(load_binary(path))
    assert_is_bits(load_binary(str(path), num_visible=12))


def test_packed_bits(tmp_path):
    path = write(tmp_path / "own.npz", **{p: np.packbits(x, axis=1) for p, x in BITS.items()})
    assert_is_bits(load_binary(path, num_visible=12))
    with pytest.raises(DataError, match="must hold zeros and ones alone, or bits packed"):
        load_binary(path)
    with pytest.raises(DataError, match="train has bits beyond the 9 pixels of an image"):
        load_binary(path, num_visible=9)


@pytest.mark.parametrize(
    ("changes", "num_visible", "expected"),
    [
        ({"test": BITS["test"] * 2}, None, "test must hold zeros and ones alone"),
        ({"train": np.full((3, 12), np.nan)}, None, "train must hold zeros and ones alone"),
        (
            {"train": np.zeros(12)},
            None,
            "train must be [N, I] with N >= 2 and I >= 1, got float64 (12,)",
        ),
        ({"train": np.zeros((1, 12))}, None, "train must be [N, I] with N >= 2 and"),
        ({"train": np.zeros((3, 0))}, None, "I >= 1, got float64 (3, 0)"),
        ({"train": np.full((3, 12), "a")}, None, "N >= 2 and I >= 1, got <U1"),
        ({"test": BITS["test"][:, :9]}, None, "train and test must have as many pixels, got"),
        ({}, 13, "train and test must have 13 pixels, got (9, 12) and (5, 12)"),
    ],
    ids=[
        "twos",
        "NaN",
        "a vector",
        "one example",
        "no pixels",
        "text",
        "two sizes",
        "another size",
    ],
)
def test_bad_images(tmp_path, changes, num_visible, expected):
    path = write(tmp_path / "own.npz", **BITS | changes)
    with pytest.raises(DataError, match=re.escape(expected)):
        load_binary(path, num_visible=num_visible)


def test_missing_arrays(tmp_path):
    path = write(tmp_path / "own.npz", train=BITS["train"])
    with pytest.raises(DataError, match="expected arrays train, test; test missing"):
        load_binary(path)
    with pytest.raises(DataError, match="unknown data set 'minst'"):
        load_binary("minst")


RBM = {"W": RNG.normal(size=(4, 3)), "a": RNG.normal(size=4), "b": RNG.normal(size=3)}


def test_an_rbm_round_trips(tmp_path):
    params = load_rbm(write(tmp_path / "rbm.npz", **RBM))["params"]
    assert set(params) == {"w", "a", "b"}
    for name, x in RBM.items():
        np.testing.assert_array_equal(params[name.lower()], x)
        assert params[name.lower()].dtype == np.float64


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"W": RBM["W"].T}, "a must have shape (3,) to go with W (3, 4), got (4,)"),
        ({"b": np.zeros(4)}, "b must have shape (3,) to go with W (4, 3), got (4,)"),
        ({"a": np.zeros((4, 1))}, "a must have shape (4,) to go with W (4, 3), got (4, 1)"),
        ({"W": np.zeros(4)}, "W must have shape [I, J], got (4,)"),
        ({"W": np.zeros((0, 3)), "a": np.zeros(0)}, "W must have shape [I, J], got (0, 3)"),
        ({"b": np.array([0.0, np.nan, 1.0])}, "b holds 1 NaN or infinite values"),
        ({"a": np.full(4, np.inf)}, "a holds 4 NaN or infinite values"),
        ({"W": np.zeros((4, 3), int)}, "W must hold floating numbers, got int64"),
        ({"W": np.array([[None] * 3] * 4)}, "W of "),
    ],
    ids=[
        "transposed",
        "b",
        "a column",
        "vector",
        "empty",
        "NaN",
        "infinite",
        "integers",
        "objects",
    ],
)
def test_bad_rbms(tmp_path, changes, expected):
    path = write(tmp_path / "rbm.npz", **RBM | changes)
    with pytest.raises(DataError, match=re.escape(expected)):
        load_rbm(path)


def test_missing_rbms(tmp_path):
    path = write(tmp_path / "rbm.npz", W=RBM["W"], a=RBM["a"])
    with pytest.raises(DataError, match="expected arrays W, a, b; b missing"):
        load_rbm(path)
    with pytest.raises(DataError, match="no such file"):
        load_rbm(tmp_path / "nowhere.npz")
    with pytest.raises(DataError, match="rbm.mat: expected an .npz with arrays W, a, b"):
        load_rbm("rbm.mat")
