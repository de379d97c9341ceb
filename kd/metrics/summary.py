"""Means with standard errors, over test examples and over repeats."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kd import checks


class Estimate(NamedTuple):
    """A figure and its standard error.

    Attributes:
      value: the mean.
      stderr: one standard error.
      repeats: independent trainings behind it.
    """

    value: float
    stderr: float
    repeats: int


def estimate(per_example: np.ndarray) -> Estimate:
    r"""Mean of a per-example figure over examples and repeats.

    The squared standard error is the sum of two parts: sampling of the test set,
    :math:`\mathrm{var}_n(\bar a_n)/N` with :math:`\bar a_n` the mean over repeats, and,
    when there are R >= 2, retraining, :math:`\mathrm{var}_r(\bar a_r)/R`.

    Args:
      per_example: `[R, N]`, R repeats (1 for a model trained once), N >= 2 examples. For
        a paired difference give the difference.

    Raises:
      ValueError: if it is not `[R, N]` with N >= 2.
    """
    checks.check_rank("per_example", per_example, 2)
    num_repeats, num_examples = np.shape(per_example)
    checks.check_count("number of examples", num_examples, at_least=2)
    test_sampling = np.var(np.mean(per_example, 0), ddof=1) / num_examples
    return Estimate(
        float(np.mean(per_example)),
        float(np.sqrt(test_sampling + _retraining(np.mean(per_example, 1)))),
        num_repeats,
    )


def bootstrap_estimate(
    metric_fn: Callable[[np.ndarray, np.ndarray], float],
    log_probs: np.ndarray,
    labels: np.ndarray,
    *,
    num_resamples: int = 200,
    seed: int = 0,
) -> Estimate:
    """A metric that is no mean over examples (ECE), its test sampling by the bootstrap.

    Args:
      metric_fn: `(log_probs [N, C], labels [N]) -> float`.
      log_probs: `[R, N, C]`.
      labels: `[N]`.
      num_resamples: of the test set.
      seed: of the resamples.

    Raises:
      ValueError: if `log_probs` is not `[R, N, C]`.
    """
    checks.check_rank("log_probs", log_probs, 3)
    rng = np.random.default_rng(seed)
    values = np.array([metric_fn(one, labels) for one in log_probs])
    resampled = []
    for _ in range(num_resamples):
        index = rng.integers(len(labels), size=len(labels))
        resampled.append(np.mean([metric_fn(one[index], labels[index]) for one in log_probs]))
    variance = np.var(resampled, ddof=1) + _retraining(values)
    return Estimate(float(np.mean(values)), float(np.sqrt(variance)), len(log_probs))


def _retraining(means: np.ndarray) -> float:
    return float(np.var(means, ddof=1) / len(means)) if len(means) > 1 else 0.0
