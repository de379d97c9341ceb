"""Gaussian posteriors of logistic regression by Laplace's approximation."""

from typing import NamedTuple

import numpy as np

from kd import checks
from kd.inference.logistic import whiten

# A step is taken if the log-density gains this share of what its slope promises, or if what
# it loses is rounding; it is halved at most so many times.
SHARE, ROUNDING, MOST_HALVINGS = 1e-4, 1e-13, 60


class LaplaceResult(NamedTuple):
    """A Gaussian over D weights at the posterior's mode.

    Attributes:
      mean: `[D]`, the mode.
      covariance: `[D, D]`, the inverse of the Hessian of minus the log-posterior there.
      log_evidence: Laplace's estimate of the log-probability of the labels, in nats.
      num_iterations: Newton steps.
      is_converged: whether the last of them was no longer than the tolerance.
    """

    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float
    num_iterations: int
    is_converged: bool


def logistic_laplace(
    x: np.ndarray,
    y: np.ndarray,
    *,
    prior_covariance: np.ndarray | float,
    max_iterations: int = 100,
    tolerance: float = 1e-10,
) -> LaplaceResult:
    r"""Mode and curvature of the posterior of logistic regression, by Newton's method.

    .. math:: \hat w = \arg\max_w \log p(D, w), \quad
       \log p(D, w) = \sum_n \log \sigma(z_n) + \log \mathcal{N}(w \mid 0, \Sigma_0), \quad
       S^{-1} = \Sigma_0^{-1} + \sum_n \sigma(\hat z_n) \, \sigma(-\hat z_n) \, x_n x_n^\top

    with the margins :math:`z_n = (2 y_n - 1) \, x_n^\top w`. The log-evidence is
    :math:`\log p(D, \hat w) + \log |2 \pi S| / 2`.

    Args:
      x: `[N, D]` inputs, N, D >= 1. A bias is a column of ones.
      y: `[N]` labels, zeros and ones.
      prior_covariance: of the weights, `[D, D]`, or a variance common to all.
      max_iterations: at most as many Newton steps.
      tolerance: of the length of a full step, in posterior standard deviations.

    Returns:
      The approximation. If it is not converged, that about the last iterate.

    Raises:
      ValueError: if a shape does not fit, there are no data, an entry is not finite, a label
        is neither 0 nor 1, the covariance is not symmetric and positive definite,
        `max_iterations` < 1, or `tolerance` is not positive.
      TypeError: if `max_iterations` is no integer.

    Example:
      >>> x, y = np.array([[-2.0], [-1.0], [1.0], [3.0]]), np.array([0, 1, 1, 1])
      >>> result = logistic_laplace(x, y, prior_covariance=4.0)
      >>> print(f"{result.mean[0]:.3f} {result.covariance[0, 0]:.3f} {result.log_evidence:.3f}")
      0.803 0.522 -2.911

    Reference:
      Bishop (2006), "Pattern Recognition and Machine Learning", (4.142) with a prior mean of 0,
      (4.143), whose right-hand side is the inverse of the covariance, (4.144) and, the evidence,
      (4.137); MacKay (1992), "The evidence framework applied to classification networks".
      Deviation: Newton steps are halved until the log-posterior gains. The thesis has EP alone.
    """
    design, factor = whiten(x, y, prior_covariance)
    checks.check_count("max_iterations", max_iterations)
    checks.check_positive("tolerance", tolerance)
    mode, num_iterations, is_converged = np.zeros(design.shape[1]), 0, False
    while num_iterations < max_iterations and not is_converged:
        num_iterations += 1
        full, length = _newton_step(design, mode)
        mode = _damped(design, mode, full, length)
        is_converged = bool(length <= tolerance)
    root = np.linalg.cholesky(_hessian(design, mode))
    inverse = np.linalg.solve(root, factor.T)
    return LaplaceResult(
        mean=factor @ mode,
        covariance=inverse.T @ inverse,
        log_evidence=float(_log_joint(design, mode) - np.sum(np.log(np.diag(root)))),
        num_iterations=num_iterations,
        is_converged=is_converged,
    )


def _log_joint(design: np.ndarray, weights: np.ndarray) -> float:
    """Less the constant of the prior, which the Gaussian's normaliser cancels."""
    return -np.sum(np.logaddexp(0.0, -design @ weights)) - weights @ weights / 2.0


def _hessian(design: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of minus the log-joint."""
    margin = design @ weights
    curvature = np.exp(-np.logaddexp(0.0, margin) - np.logaddexp(0.0, -margin))
    return np.eye(len(weights)) + (curvature * design.T) @ design


def _newton_step(design: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """The step, and its length in the metric of the Hessian."""
    rest = np.exp(-np.logaddexp(0.0, design @ weights))
    gradient = rest @ design - weights
    step = np.linalg.solve(_hessian(design, weights), gradient)
    return step, np.sqrt(max(gradient @ step, 0.0))


def _damped(design: np.ndarray, weights: np.ndarray, step: np.ndarray, length: float) -> np.ndarray:
    """The first of the full step, its half, ... that gains enough."""
    start = _log_joint(design, weights)
    slack = ROUNDING * max(1.0, abs(start))
    for halving in range(MOST_HALVINGS):
        share = 0.5**halving
        moved = weights + share * step
        if _log_joint(design, moved) >= start + SHARE * share * length**2 - slack:
            return moved
    return weights
