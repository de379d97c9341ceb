"""Masks and smaller data sets: where, how much, and the same again."""

import numpy as np
import pytest

from kd import data

IMAGES = 1.0 + np.random.default_rng(0).random((4000, 7, 9, 2))


@pytest.mark.parametrize("side", [1, 3, 7])
def test_one_whole_square_within_each_image(side):
    masked = data.mask_squares(IMAGES, side, seed=1)
    is_masked = masked == 0
    assert (is_masked[..., 0] == is_masked[..., 1]).all()
    rows, columns = is_masked[..., 0].any(2), is_masked[..., 0].any(1)
    for lines in (rows, columns):
        assert (lines.sum(1) == side).all()
        # Without a gap.
        assert (np.abs(np.diff(lines.astype(int), axis=1)).sum(1) <= 2).all()
    np.testing.assert_array_equal(is_masked[..., 0], rows[:, :, None] & columns[:, None, :])
    np.testing.assert_array_equal(masked[~is_masked], IMAGES[~is_masked])


def test_every_place_is_as_likely():
    """The last one too, which the paper's code never draws."""
    masked = data.mask_squares(IMAGES, 3, seed=2)[..., 0] == 0
    places = masked.any(2).argmax(1) * 7 + masked.any(1).argmax(1)
    counts = np.bincount(places, minlength=35).reshape(5, 7)
    expected = len(IMAGES) / 35
    assert np.sum((counts - expected) ** 2 / expected) < 65  # 34 degrees: p > 0.001.


def test_the_seed_decides_and_zero_is_none():
    first, again, other = (data.mask_squares(IMAGES, 2, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(data.mask_squares(IMAGES, 0, seed=0), IMAGES)
    assert (IMAGES > 0).all()


def test_subsamples():
    digits = data.load("digits")
    few = data.subsample(digits, 50, seed=0)
    assert few.train_x.shape == (50, 8, 8, 1) and len(few.test_x) == len(digits.test_x)
    pairs = {(x.tobytes(), int(y)) for x, y in zip(digits.train_x, digits.train_y, strict=True)}
    found = [(x.tobytes(), int(y)) for x, y in zip(few.train_x, few.train_y, strict=True)]
    assert set(found) <= pairs and len(set(found)) >= 49
    assert not np.array_equal(few.train_x, data.subsample(digits, 50, seed=1).train_x)
    whole = data.subsample(digits, len(digits.train_x), seed=0)
    assert sorted(whole.train_y) == sorted(digits.train_y)


def test_raises():
    with pytest.raises(ValueError, match="side must be at least 0 and at most 7, got 8"):
        data.mask_squares(IMAGES, 8, seed=0)
    with pytest.raises(ValueError, match="images"):
        data.mask_squares(IMAGES[0], 2, seed=0)
    with pytest.raises(data.DataError, match="5,000 training examples are asked for, of 1,200"):
        data.subsample(data.load("digits"), 5000, seed=0)
