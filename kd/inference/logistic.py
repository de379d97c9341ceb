r"""Logistic regression with a Gaussian over the weights: what its approximations share.

The model is :math:`p(y = 1 \mid x, w) = \sigma(w^\top x)` without a bias, with the prior
:math:`\mathcal{N}(w \mid 0, \Sigma_0)`. Under a Gaussian over w the margin
:math:`w^\top x` is Gaussian too, and a prediction is a one-dimensional integral.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd import checks
from kd.inference.logistic_integrals import LEAST_VARIANCE, log_expected_sigmoid, mackay_scale

METHODS = ("quadrature", "adaptive", "mackay")
LOG_METHODS = ("quadrature", "mackay")
# Rounding of covariances that were computed in either.
SINGLE_PRECISION, DOUBLE_PRECISION = 1e-6, 1e-15
ADAPTIVE_REACH, ADAPTIVE_TOLERANCE, ADAPTIVE_BLOCK = 9.0, 1e-10, 1024


class Gaussian(NamedTuple):
    """A Gaussian over D weights.

    Attributes:
      mean: `[D]`.
      covariance: `[D, D]`, symmetric.
    """

    mean: np.ndarray
    covariance: np.ndarray


def predict_logistic(
    gaussian: Gaussian, x: np.ndarray, *, method: str = "quadrature"
) -> np.ndarray:
    r"""Predictive probabilities of label 1 under a Gaussian over the weights.

    .. math:: p(y = 1 \mid x) = \int \sigma(z) \,
       \mathcal{N}(z \mid m^\top x, x^\top S x) \, dz

    Args:
      gaussian: mean m and covariance S of the weights; or a result of `logistic_ep` or
        `logistic_laplace`, of which nothing else is read.
      x: `[M, D]`, M >= 1.
      method: "quadrature", with a relative error below 1e-11; "adaptive", Gauss-Kronrod
        quadrature by quadax, with an absolute error of 1e-10; or "mackay", the approximation
        :math:`\sigma(m^\top x / \sqrt{1 + \pi x^\top S x / 8})`, off by up to 0.02.

    Returns:
      `[M]` probabilities.

    Raises:
      ValueError: if a shape does not fit, `x` is empty, an entry is not finite, the
        covariance is not symmetric or has a negative eigenvalue, or `method` is another word.

    Example:
      >>> posterior = Gaussian(np.array([1.0, 0.0]), np.diag([0.5, 4.0]))
      >>> x = np.array([[2.0, 0.0], [2.0, 3.0]])
      >>> for method in METHODS:
      ...     print(method, np.round(predict_logistic(posterior, x, method=method), 4))
      quadrature [0.8161 0.6223]
      adaptive [0.8161 0.6223]
      mackay [0.8171 0.6227]

    Reference:
      Papamakarios (2015), (3.47) by "quadrature" and "adaptive", which is the thesis's
      choice, (3.48) by "mackay".
    """
    checks.check_choice("method", method, METHODS)
    if method != "adaptive":
        return np.exp(logistic_log_probs(gaussian, x, method=method)[:, 1])
    margin, variance = _margins(gaussian, x)
    with jax.enable_x64(True):
        return np.asarray(_adaptive(jnp.asarray(margin), jnp.asarray(np.sqrt(variance))))


def logistic_log_probs(
    gaussian: Gaussian, x: np.ndarray, *, method: str = "quadrature"
) -> np.ndarray:
    r"""Predictive log-probabilities of both labels under a Gaussian over the weights, in nats.

    .. math:: \log p(y \mid x) = \log \int \sigma(\pm z) \,
       \mathcal{N}(z \mid m^\top x, x^\top S x) \, dz

    with the upper sign of label 1. Neither is the logarithm of one less the other's probability:
    both are finite and precise however certain the prediction is.

    Args:
      gaussian, x: as for `predict_logistic`.
      method: "quadrature", with a relative error of either probability below 1e-11; or
        "mackay", as for `predict_logistic`.

    Returns:
      `[M, 2]`, of the labels 0 and 1.

    Raises:
      ValueError: as for `predict_logistic`.

    Example:
      >>> posterior = Gaussian(np.array([1.0]), np.array([[1e-4]]))
      >>> print(logistic_log_probs(posterior, np.array([[0.0], [100.0]])).round(4))
      [[ -0.6931  -0.6931]
       [-99.5     -0.    ]]

    Reference:
      Papamakarios (2015), (3.47) by "quadrature", (3.48) by "mackay", in logarithms.
    """
    checks.check_choice("method", method, LOG_METHODS)
    margin, variance = _margins(gaussian, x)
    if method == "mackay":
        scaled = mackay_scale(variance) * margin
        return -np.logaddexp(0.0, np.stack([scaled, -scaled], axis=1))
    below = log_expected_sigmoid(-np.abs(margin), variance)
    above = np.log1p(-np.exp(below))
    is_above = margin > 0
    return np.stack([np.where(is_above, below, above), np.where(is_above, above, below)], axis=1)


def _margins(gaussian: Gaussian, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances `[M]` of the margins at inputs `[M, D]`."""
    mean = np.asarray(gaussian.mean, np.float64)
    covariance = np.asarray(gaussian.covariance, np.float64)
    checks.check_rank("gaussian.mean", mean, 1)
    checks.check_finite("gaussian.mean", mean)
    check_covariance("gaussian.covariance", covariance, mean.size, allow_singular=True)
    x = _check_inputs(x)
    checks.check_last_axis("x", x, mean.size)
    return x @ mean, np.maximum(np.sum(x @ covariance * x, axis=1), 0.0)


def whiten(
    x: np.ndarray, y: np.ndarray, prior_covariance: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Signed inputs for which the prior is standard, and the factor of the prior's covariance.

    Args:
      x: `[N, D]`, N, D >= 1.
      y: `[N]`, zeros and ones.
      prior_covariance: `[D, D]`, or a variance common to all weights.

    Returns:
      `[N, D]`, whose products with whitened weights u are the margins: positive where the
      label is predicted; and `[D, D]` L, which gives the weights L u.

    Raises:
      ValueError: if a shape does not fit, there are no data, an entry is not finite, a label
        is neither 0 nor 1, the covariance is not symmetric and positive definite, or the
        inputs are too large for it.

    Example:
      >>> design, factor = whiten(np.array([[1.0, 2.0], [3.0, 1.0]]), np.array([1, 0]), 4.0)
      >>> print(design)
      [[ 2.  4.]
       [-6. -2.]]
      >>> print(factor)
      [[2. 0.]
       [0. 2.]]
    """
    x, y = _check_inputs(x), np.asarray(y)
    checks.check_rank("y", y, 1)
    if len(x) != len(y):
        raise ValueError(f"x and y must have the same length, got {len(x)} and {len(y)}.")
    checks.check_binary("y", y)
    num_dims = x.shape[1]
    if np.ndim(prior_covariance) == 0:
        checks.check_positive("prior_covariance", prior_covariance)
        factor = np.sqrt(float(prior_covariance)) * np.eye(num_dims)
    else:
        prior_covariance = np.asarray(prior_covariance, np.float64)
        check_covariance("prior_covariance", prior_covariance, num_dims)
        factor = np.linalg.cholesky(prior_covariance)
    with np.errstate(over="ignore", invalid="ignore"):
        design = np.where(y == 1, 1.0, -1.0)[:, None] * (x @ factor)
        if not np.isfinite(np.sum(design**2)):
            raise ValueError(f"x is too large for this prior, up to {np.max(np.abs(x)):.3g}.")
    return design, factor


def check_covariance(
    name: str, value: np.ndarray, num_dims: int, *, allow_singular: bool = False
) -> None:
    """Raises ValueError unless `value` is `[D, D]`, finite, symmetric and positive definite."""
    if value.shape != (num_dims, num_dims):
        raise ValueError(f"{name} must have shape {(num_dims, num_dims)}, got {value.shape}.")
    checks.check_finite(name, value)
    scale = np.sqrt(np.abs(np.diag(value)))
    scale = np.where(scale > 0, scale, 1.0)
    correlation = value / scale[:, None] / scale  # Weights may have units far apart.
    asymmetry = np.max(np.abs(correlation - correlation.T))
    if asymmetry > SINGLE_PRECISION:
        raise ValueError(
            f"{name} must be symmetric, got correlations that differ by {asymmetry:.3g}."
        )
    least = np.linalg.eigvalsh(correlation)[0]
    if least < -SINGLE_PRECISION or (least < num_dims * DOUBLE_PRECISION and not allow_singular):
        kind = "positive semi-definite" if allow_singular else "positive definite"
        raise ValueError(
            f"{name} must be {kind}, got correlations with the eigenvalue {least:.3g}."
        )


def _check_inputs(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    checks.check_rank("x", x, 2)
    if not x.size:
        raise ValueError(f"x must hold at least one input of at least one entry, got {x.shape}.")
    checks.check_finite("x", x)
    return x


@jax.jit
def _adaptive(mean: jax.Array, scale: jax.Array) -> jax.Array:
    """The means of the logistic function under `[M]` Gaussians, by adaptive quadrature."""
    import quadax  # Here, for it takes a second, and nothing else needs it.

    def integrate(margin):
        mean, scale = margin

        def integrand(t):
            return jax.nn.sigmoid(mean + scale * t) * jnp.exp(-(t**2) / 2) / jnp.sqrt(2 * jnp.pi)

        # To the Gaussian's eye the sigmoid may be a step that no node sees, and the rule's
        # estimate of its own error with them: the range is cut before, at and behind it.
        scale_or_tiny = jnp.maximum(scale, LEAST_VARIANCE)
        step = jnp.clip(-mean / scale_or_tiny, 1.0 - ADAPTIVE_REACH, ADAPTIVE_REACH - 1.0)
        half_width = jnp.minimum(30.0 / scale_or_tiny, 0.9)
        ends = jnp.stack(
            [-ADAPTIVE_REACH, step - half_width, step, step + half_width, ADAPTIVE_REACH]
        )
        value, _ = quadax.quadgk(
            integrand,
            ends,
            epsabs=ADAPTIVE_TOLERANCE,
            epsrel=ADAPTIVE_TOLERANCE,
            extrapolate=False,  # Nothing singular here, and it doubles the time.
        )
        return value

    return jax.lax.map(integrate, (mean, scale), batch_size=ADAPTIVE_BLOCK)
