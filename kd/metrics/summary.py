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


def estimate(per_example: np.ndarray, *, is_independent: bool = True) -> Estimate:
    r"""Mean of a per-example figure over examples and repeats, with its standard error.

    With R repeats and N examples as crossed random effects, the squared standard error is

    .. math:: \frac{MS_n + MS_r - MS_{nr}}{R N}

    of the mean squares of examples, repeats and their interaction, and at least the
    larger of the first two terms. It covers the choice of test examples and the
    training; what all repeats share, such as a teacher, is taken as given.

    Args:
      per_example: `[R, N]`, R repeats (1 for a model trained once: then only the test
        examples are sampled), N >= 2 examples. For a paired difference give the
        difference.
      is_independent: whether the repeats were trained independently. If not (on one
        stream of batches, say), they count as one training, and the spread among them
        is taken whole instead of divided by R: a stand-in for what they share, which
        they cannot show.

    Raises:
      ValueError: if it is not `[R, N]` with N >= 2.

    Reference:
      Two-way random effects without replication, for instance Searle, Casella and
      McCulloch (1992), "Variance components", chapter 4.
    """
    checks.check_rank("per_example", per_example, 2)
    num_repeats, num_examples = np.shape(per_example)
    checks.check_count("number of examples", num_examples, at_least=2)
    value = float(np.mean(per_example))
    of_examples = np.var(np.mean(per_example, 0), ddof=1) / num_examples
    if num_repeats == 1:
        return Estimate(value, float(np.sqrt(of_examples)), 1)
    among_repeats = np.var(np.mean(per_example, 1), ddof=1)
    if not is_independent:
        return Estimate(value, float(np.sqrt(of_examples + among_repeats)), 1)
    of_repeats = among_repeats / num_repeats
    variance = max(of_examples + of_repeats - _interaction(per_example), of_examples, of_repeats)
    return Estimate(value, float(np.sqrt(variance)), num_repeats)


def bootstrap_estimate(
    metric_fn: Callable[[np.ndarray, np.ndarray], float],
    log_probs: np.ndarray,
    labels: np.ndarray,
    *,
    is_independent: bool = True,
    num_resamples: int = 200,
    seed: int = 0,
) -> Estimate:
    """A metric that is no mean over examples (ECE), its test sampling by the bootstrap.

    The variances of test sampling and of training are added, which counts their
    interaction twice: with several repeats the standard error is on the safe side.

    Args:
      metric_fn: `(log_probs [N, C], labels [N]) -> float`.
      log_probs: `[R, N, C]`.
      labels: `[N]`.
      is_independent: as for `estimate`.
      num_resamples: of the test set, at least 2.
      seed: of the resamples.

    Raises:
      ValueError: if `log_probs` is not `[R, N, C]`, or `num_resamples` < 2.
    """
    checks.check_rank("log_probs", log_probs, 3)
    checks.check_count("num_resamples", num_resamples, at_least=2)
    rng = np.random.default_rng(seed)
    values = np.array([metric_fn(one, labels) for one in log_probs])
    resampled = []
    for _ in range(num_resamples):
        index = rng.integers(len(labels), size=len(labels))
        resampled.append(np.mean([metric_fn(one[index], labels[index]) for one in log_probs]))
    among_repeats = np.var(values, ddof=1) if len(values) > 1 else 0.0
    num_independent = len(values) if is_independent else 1
    variance = np.var(resampled, ddof=1) + among_repeats / num_independent
    return Estimate(float(np.mean(values)), float(np.sqrt(variance)), num_independent)


def _interaction(per_example: np.ndarray) -> float:
    """Mean square of the interaction of repeats and examples, over R N."""
    num_repeats, num_examples = per_example.shape
    residual = (
        per_example
        - per_example.mean(0, keepdims=True)
        - per_example.mean(1, keepdims=True)
        + per_example.mean()
    )
    degrees = (num_repeats - 1) * (num_examples - 1)
    return float(np.sum(residual**2) / degrees / per_example.size)
