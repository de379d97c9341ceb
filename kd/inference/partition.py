r"""Log partition functions from log-weights.

The target is :math:`p(x) = \bar p(x) / Z`, discrete or continuous, of which only
:math:`\bar p` can be evaluated; the proposal q has a density and can be sampled. All
that is known of a sample x is its log-weight :math:`\ell(x) = \log \bar p(x) - \log q(x)`,
in nats. Every estimator reduces log-weights on the host, in double precision and in
logs: a constant added to :math:`\log \bar p` is added to the estimate, however large it is.
"""

from typing import NamedTuple

import numpy as np

from kd import checks

# Half the width of an interval, in standard errors, as in the thesis.
WIDTH = 3.0
EXCLUDED_BY_PROPOSAL = "the proposal's density is 0 at its own samples"
EXCLUDED_BY_TARGET = "the target's density is 0 at its own samples"


class LogZ(NamedTuple):
    """An estimate of log Z, or of a bound on it, in nats.

    Attributes:
      value: the estimate.
      stderr: one standard error, by the delta rule; it takes the samples as independent.
      low, high: an interval of three standard errors, of which each function says more.
      num_samples: N.
      effective_samples: (sum w)² / sum w² of the weights that are averaged, in [1, N]. Few
        of them mean that neither the estimate nor its error is to be trusted.
      num_infinite: log-weights that are infinite, and count as weights of 0.
    """

    value: float
    stderr: float
    low: float
    high: float
    num_samples: int
    effective_samples: float
    num_infinite: int


def kl_upper_bound(log_weights: np.ndarray) -> LogZ:
    r"""Upper bound on log Z, in nats: the mean log-weight of samples of the target.

    .. math:: \log Z \le \langle \log \bar p(x) - \log q(x) \rangle_{p(x)}

    It exceeds log Z by :math:`D(p \| q)`.

    Args:
      log_weights: `[N]`, of samples of the target, N >= 2.

    Returns:
      The mean, less and plus three standard errors: log Z is below `high`.

    Raises:
      ValueError: if `log_weights` is not `[N]`, N < 2, or one of them is NaN, minus
        infinity (a target's sample that the target excludes) or infinity (q is 0 where p
        is not: the bound is infinite).

    Example:
      >>> print(f"{kl_upper_bound(np.array([1.0, 3.0])).value:.1f}")
      2.0

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", (4.45)-(4.46).
    """
    log_weights = check_log_weights("log_weights", log_weights)
    refuse_infinite("log_weights", log_weights, -np.inf, EXCLUDED_BY_TARGET)
    refuse_infinite("log_weights", log_weights, np.inf, "the bound on log Z is infinite")
    return _mean(log_weights)


def kl_lower_bound(log_weights: np.ndarray) -> LogZ:
    r"""Lower bound on log Z, in nats: the mean log-weight of samples of the proposal.

    .. math:: \langle \log \bar p(x) - \log q(x) \rangle_{q(x)} \le \log Z

    It falls short of log Z by :math:`D(q \| p)`.

    Args:
      log_weights: `[N]`, of samples of the proposal, N >= 2.

    Returns:
      The mean, less and plus three standard errors: log Z is above `low`.

    Raises:
      ValueError: if `log_weights` is not `[N]`, N < 2, or one of them is NaN, infinity (a
        proposal's sample that the proposal excludes) or minus infinity (p is 0 where q is
        not: the bound is minus infinity).

    Example:
      >>> print(f"{kl_lower_bound(np.array([1.0, 3.0])).value:.1f}")
      2.0

    Reference:
      Papamakarios (2015), (4.48)-(4.49).
    """
    log_weights = check_log_weights("log_weights", log_weights)
    refuse_infinite("log_weights", log_weights, np.inf, EXCLUDED_BY_PROPOSAL)
    refuse_infinite("log_weights", log_weights, -np.inf, "the bound on log Z is minus infinity")
    return _mean(log_weights)


def importance_sampling(log_weights: np.ndarray) -> LogZ:
    r"""Log Z, in nats: the log of the mean weight of samples of the proposal.

    .. math:: Z \approx \frac{1}{S} \sum_s e^{\ell(x_s)}, \quad x_s \sim q(x)

    Its expectation is at most log Z. Where q has little mass on part of p it falls short
    by far more than its standard error says: compare the number of effective samples.

    Args:
      log_weights: `[N]`, of samples of the proposal, or of annealing, N >= 2. Minus
        infinity is a weight of 0.

    Returns:
      The estimate. `low` and `high` are logs of the mean weight less and plus three
      standard errors; `low` is minus infinity if that is not positive.

    Raises:
      ValueError: if `log_weights` is not `[N]`, N < 2, one of them is NaN or infinity (a
        proposal's sample that the proposal excludes), or all are minus infinity.

    Example:
      >>> weights = np.array([1.0, 3.0])
      >>> print(f"{np.exp(importance_sampling(np.log(weights)).value):.4f}")
      2.0000

    Reference:
      Papamakarios (2015), (4.51)-(4.52); the interval is that of its table 4.4.
    """
    log_weights = check_log_weights("log_weights", log_weights)
    refuse_infinite("log_weights", log_weights, np.inf, EXCLUDED_BY_PROPOSAL)
    return log_mean_exp("log_weights", log_weights)


def reverse_importance_sampling(log_weights: np.ndarray) -> LogZ:
    r"""Log Z, in nats: minus the log of the mean inverse weight of samples of the target.

    .. math:: \frac{1}{Z} \approx \frac{1}{S} \sum_s e^{-\ell(x_s)}, \quad x_s \sim p(x)

    Its expectation is at least log Z, which it tends to only if q is 0 wherever p is. With
    a proposal whose tails are heavier than the target's its variance may be infinite, and
    no interval shows it: it is meant for the log-weights of annealing, next to
    `importance_sampling`.

    Args:
      log_weights: `[N]`, of samples of the target, or of reverse annealing, N >= 2.
        Infinity is an inverse weight of 0.

    Returns:
      The estimate. `low` and `high` are from the mean inverse weight plus and less three
      standard errors; `high` is infinity if that is not positive.

    Raises:
      ValueError: if `log_weights` is not `[N]`, N < 2, one of them is NaN or minus
        infinity (a target's sample that the target excludes), or all are infinity.

    Example:
      >>> weights = np.array([1.0, 1 / 3])
      >>> print(f"{np.exp(reverse_importance_sampling(np.log(weights)).value):.4f}")
      0.5000

    Reference:
      Gelfand and Dey (1994), "Bayesian model choice"; of annealing: Grosse, Ghahramani and
      Adams (2015), "Sandwiching the marginal likelihood using bidirectional Monte Carlo",
      arXiv:1511.02543.
    """
    log_weights = check_log_weights("log_weights", log_weights)
    refuse_infinite("log_weights", log_weights, -np.inf, EXCLUDED_BY_TARGET)
    inverse = log_mean_exp("log_weights", -log_weights)
    return inverse._replace(value=-inverse.value, low=-inverse.high, high=-inverse.low)


def check_log_weights(name: str, log_weights: np.ndarray) -> np.ndarray:
    """The log-weights in double precision: a vector of at least two, none NaN."""
    log_weights = np.asarray(log_weights, np.float64)
    checks.check_rank(name, log_weights, 1)
    checks.check_count(f"number of {name}", log_weights.size, at_least=2)
    refuse_nan(name, log_weights)
    return log_weights


def refuse_nan(name: str, values: np.ndarray) -> None:
    """Raises ValueError, with their number, if some are NaN."""
    if count := int(np.sum(np.isnan(values))):
        raise ValueError(f"{name}: {count} of {values.size} are NaN.")


def refuse_infinite(name: str, values: np.ndarray, infinity: float, meaning: str) -> None:
    """Raises ValueError, with their number, if some are this infinity."""
    if count := int(np.sum(values == infinity)):
        raise ValueError(f"{name}: {count} of {values.size} are {infinity}: {meaning}.")


def _mean(values: np.ndarray) -> LogZ:
    value = float(np.mean(values))
    stderr = float(np.std(values, ddof=1) / np.sqrt(values.size))
    low, high = value - WIDTH * stderr, value + WIDTH * stderr
    return LogZ(value, stderr, low, high, values.size, float(values.size), 0)


def log_mean_exp(name: str, logs: np.ndarray) -> LogZ:
    """Log of a mean of weights; the interval is the logs of the mean's own interval."""
    top = np.max(logs)
    if top == -np.inf:
        raise ValueError(f"{name}: all {logs.size} are infinite: the weights are all 0.")
    weights = np.exp(logs - top)
    mean = np.mean(weights)
    stderr = float(np.std(weights, ddof=1) / np.sqrt(weights.size) / mean)
    value = float(top + np.log(mean))
    low = value + float(np.log1p(-WIDTH * stderr)) if WIDTH * stderr < 1 else -np.inf
    high = value + float(np.log1p(WIDTH * stderr))
    effective = float(np.sum(weights) ** 2 / np.sum(weights**2))
    num_infinite = int(np.sum(np.isinf(logs)))
    return LogZ(value, stderr, low, high, logs.size, effective, num_infinite)
