"""Harder versions of image data sets: a square of each image masked, fewer examples."""

import numpy as np

from kd import checks
from kd.data.datasets import DataError, Dataset


def mask_squares(images: np.ndarray, side: int, *, seed: int) -> np.ndarray:
    """The images with one square of zeros each, at places drawn once.

    Args:
      images: `[N, H, W, channels]`.
      side: of the square, pixels; 0 leaves the images as they are.
      seed: decides the places: every one in the image is as likely.

    Returns:
      A copy, masked in all channels.

    Raises:
      ValueError: if the images have another rank, or the square does not fit.

    Example:
      >>> masked = mask_squares(np.ones((3, 8, 8, 1)), 2, seed=0)
      >>> float(masked.sum())
      180.0

    Reference:
      Vadera, Jalaian and Marlin (2020), "Generalized Bayesian posterior expectation distillation
      for deep neural networks", section 4.1. Their code never draws the last place.
    """
    checks.check_rank("images", images, 4)
    num, height, width, _ = images.shape
    checks.check_count("side", side, at_least=0, at_most=min(height, width))
    rng = np.random.default_rng(seed)
    top = rng.integers(0, height - side + 1, size=(num, 1, 1))
    left = rng.integers(0, width - side + 1, size=(num, 1, 1))
    row, column = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    is_masked = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
    return np.where(is_masked[..., None], np.zeros((), images.dtype), images)


def subsample(dataset: Dataset, num_examples: int, *, seed: int) -> Dataset:
    """The data set with training examples drawn without replacement, in random order.

    Args:
      dataset: any.
      num_examples: that stay.
      seed: decides which.

    Raises:
      DataError: if there are not so many.
    """
    checks.check_count("num_examples", num_examples)
    if num_examples > len(dataset.train_x):
        raise DataError(
            f"{num_examples:,} training examples are asked for, of {len(dataset.train_x):,}."
        )
    chosen = np.random.default_rng(seed).permutation(len(dataset.train_x))[:num_examples]
    return dataset._replace(train_x=dataset.train_x[chosen], train_y=dataset.train_y[chosen])
