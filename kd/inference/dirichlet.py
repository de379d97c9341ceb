"""The Dirichlet distribution nearest to samples of probabilities, by maximum likelihood."""

import numpy as np
from scipy import special

from kd import checks

MAX_ITERATIONS, TOLERANCE = 200, 1e-10
LEAST_SPREAD = 1e-6  # Nats, of logarithms in single precision.


def fit_dirichlet(mean_log_probs: np.ndarray) -> np.ndarray:
    r"""Concentrations of most likelihood, given the means of the samples' logarithms.

    .. math:: \hat\alpha = \arg\max_\alpha \; \log\Gamma(\alpha_0) - \sum_c \log\Gamma(\alpha_c)
       + \sum_c (\alpha_c - 1) \, \overline{\log p_c}

    It is what ensemble distribution distillation would teach a network that can say anything: how
    far that is from the samples' mean is the method's own error, and not the network's.

    Args:
      mean_log_probs: `[..., C]`, nats, of the samples at one input each. The maximum for samples
        that are all one is at infinity: if :math:`-\log \sum_c e^{\overline{\log p_c}}` is
        below 1e-6, the concentrations are the samples' own shares of :math:`5 (C - 1) 10^5`.

    Returns:
      `[..., C]`, in double precision.

    Raises:
      ValueError: if they are not finite, or no means of log-probabilities: then
        :math:`\sum_c e^{\overline{\log p_c}}` is at most 1.

    Example:
      >>> concentration = np.array([0.5, 2.0, 7.0])
      >>> means = special.digamma(concentration) - special.digamma(concentration.sum())
      >>> print(fit_dirichlet(means).round(6))
      [0.5 2.  7. ]

    Reference:
      Minka (2000), "Estimating a Dirichlet distribution", section 1: Newton's method.
    """
    means = np.asarray(mean_log_probs, np.float64)
    if means.ndim < 1 or means.shape[-1] < 2:
        raise ValueError(f"mean_log_probs must be of at least two classes, got {means.shape}.")
    checks.check_finite("mean_log_probs", means)
    excess = float(np.max(special.logsumexp(means, axis=-1), initial=-np.inf))
    if excess > 1e-5:
        raise ValueError(f"mean_log_probs must be of probabilities: one sums to {excess:.3g} nats.")
    # By moments the total is about (C - 1) / (-2 log sum exp of the means).
    spread = -special.logsumexp(means, axis=-1, keepdims=True)
    total = (means.shape[-1] - 1) / (2 * np.maximum(spread, LEAST_SPREAD))
    nearly_alike = np.exp(means + spread) * total
    alpha = np.maximum(nearly_alike, 1e-3)
    is_alike = spread <= LEAST_SPREAD
    for _ in range(MAX_ITERATIONS):
        old, alpha = alpha, np.where(is_alike, nearly_alike, _newton(alpha, means))
        if np.all((np.abs(alpha - old) <= TOLERANCE * old) | is_alike):
            break
    return np.where(is_alike, nearly_alike, alpha)


def _newton(alpha: np.ndarray, means: np.ndarray) -> np.ndarray:
    """A step, at most to a half or to twice of each concentration."""
    total = alpha.sum(axis=-1, keepdims=True)
    slope = special.digamma(total) - special.digamma(alpha) + means
    own, shared = -special.polygamma(1, alpha), special.polygamma(1, total)
    common = np.sum(slope / own, axis=-1, keepdims=True)
    common /= 1 / shared + np.sum(1 / own, axis=-1, keepdims=True)
    return np.clip(alpha - (slope - common) / own, alpha / 2, 2 * alpha)
