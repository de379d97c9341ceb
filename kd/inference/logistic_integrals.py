r"""One-dimensional integrals of the logistic function against Gaussians.

On the host, in double precision, and to about that precision for every mean and variance.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kd import checks

# The rule's nodes reach as many standard deviations (what is beyond has a share of 1e-16),
# at most as many of them apart, and are densest as near 0 as the poles of the logistic
# function, +-i pi. Rows are taken in blocks: a row has hundreds of nodes.
REACH, STEP, POLE, BLOCK = 8.6, 0.75, np.pi, 1024
# Stands for a variance of 0, where all integrals take their limits.
LEAST_VARIANCE = 1e-200


class TiltedMoments(NamedTuple):
    r"""The tilted distribution :math:`\sigma(z) \, \mathcal{N}(z \mid m, s^2) / Z`.

    Attributes:
      log_normalizer: log Z, in nats.
      mean: of the tilted distribution, :math:`m + s^2 \, \partial \log Z / \partial m`.
      variance: of the tilted distribution, between 0 and :math:`s^2`.
      slope: :math:`\partial \log Z / \partial m`, between 0 and 1.
      curvature: :math:`-\partial^2 \log Z / \partial m^2`, not negative.
    """

    log_normalizer: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray


class _Rule(NamedTuple):
    """Nodes and normalised weights for expectations under tilted distributions of mean <= 0.

    All but `log_normalizer` and `centre`, which are `[M]`, are `[M, K]`: `offset`, in
    standard deviations, is the node less the centre; `sigmoid` and `rest` are σ(z), 1 - σ(z).
    """

    log_normalizer: np.ndarray
    centre: np.ndarray
    offset: np.ndarray
    weight: np.ndarray
    sigmoid: np.ndarray
    rest: np.ndarray


def log_expected_sigmoid(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    r"""Log of the mean of the logistic function under Gaussians, in nats.

    .. math:: \log \int \sigma(z) \, \mathcal{N}(z \mid m, s^2) \, dz

    Args:
      mean: m, of any shape.
      variance: :math:`s^2 >= 0`, of the same shape.

    Returns:
      Of the same shape. The relative error of the integral, and where it is below 1/2 of
      one less the integral of `-mean` too, is below 1e-11.

    Raises:
      ValueError: if the shapes differ, or are empty; if an entry is not finite, or a
        variance is negative.

    Example:
      >>> print(np.exp(log_expected_sigmoid(np.array([0.0, 2.0]), np.array([5.0, 0.0]))))
      [0.5        0.88079708]

    Reference:
      Papamakarios (2015), "Distilling Model Knowledge", the integral of (3.47).
    """
    mean, variance, shape = _check_margins(mean, variance)
    (below,) = _in_blocks(lambda m, v: (_rule(m, v).log_normalizer,), -np.abs(mean), variance)
    return np.where(mean > 0, np.log1p(-np.exp(below)), below).reshape(shape)


def tilted_moments(mean: np.ndarray, variance: np.ndarray) -> TiltedMoments:
    r"""Normaliser, mean and variance of logistic functions times Gaussians.

    .. math:: \sigma(z) \, \mathcal{N}(z \mid m, s^2) / Z, \quad
       Z = \int \sigma(z) \, \mathcal{N}(z \mid m, s^2) \, dz

    That of :math:`\sigma(-z)` is found from minus the mean: mean and slope change sign.

    Args:
      mean: m, of any shape.
      variance: :math:`s^2 >= 0`, of the same shape.

    Returns:
      The moments, each of the same shape. Their relative errors are below 1e-10; that of
      the mean is relative to the standard deviation, that of the curvature to the larger of
      itself and 1e-3 of its bound, :math:`\min(1/4, 1/s^2)`.

    Raises:
      ValueError: as for `log_expected_sigmoid`.

    Example:
      >>> moments = tilted_moments(np.array([-1.0]), np.array([4.0]))
      >>> print(np.round(moments.mean, 4), np.round(moments.variance, 4))
      [0.5953] [2.4092]

    Reference:
      Minka (2001), "A family of algorithms for approximate Bayesian inference", 3.2.1, for
      the derivatives; the rule is ours, see the source.
    """
    mean, variance, shape = _check_margins(mean, variance)
    log_z, centred, ratio, slope, curvature = _in_blocks(_moments_below, -np.abs(mean), variance)
    # Z(m) + Z(-m) = 1 gives the right half, where the slope is a small difference, from the left.
    z = np.exp(log_z)
    odds = z / (1.0 - z)
    slope_above = slope * odds
    curvature_above = slope_above**2 + odds * (slope**2 - curvature)
    is_above = mean > 0
    moments = TiltedMoments(
        log_normalizer=np.where(is_above, np.log1p(-z), log_z),
        mean=np.where(is_above, mean + variance * slope_above, centred),
        variance=variance * np.where(is_above, 1.0 - variance * curvature_above, ratio),
        slope=np.where(is_above, slope_above, slope),
        curvature=np.maximum(np.where(is_above, curvature_above, curvature), 0.0),
    )
    return TiltedMoments(*(value.reshape(shape) for value in moments))


def mackay_moments(mean: np.ndarray, variance: np.ndarray) -> TiltedMoments:
    r"""As `tilted_moments`, by MacKay's approximation of log Z and its own derivatives.

    .. math:: Z \approx \sigma(\kappa m), \quad \kappa^2 = 1 / (1 + \pi s^2 / 8), \quad
       \frac{\partial \log Z}{\partial m} = \kappa (1 - Z), \quad
       -\frac{\partial^2 \log Z}{\partial m^2} = \kappa^2 Z (1 - Z)

    Args:
      mean: m, of any shape.
      variance: :math:`s^2 >= 0`, of the same shape.

    Returns:
      The moments, each of the same shape. The variance is positive: it is at least
      :math:`(1 - 2 / \pi) s^2`.

    Raises:
      ValueError: as for `log_expected_sigmoid`.

    Example:
      >>> moments = mackay_moments(np.array([-1.0]), np.array([4.0]))
      >>> print(np.round(moments.mean, 4), np.round(moments.variance, 4))
      [0.6242] [2.5861]

    Reference:
      MacKay (1992), "The evidence framework applied to classification networks";
      Papamakarios (2015), (3.48).
    """
    mean, variance, shape = _check_margins(mean, variance)
    kappa = mackay_scale(variance)
    log_z = -np.logaddexp(0.0, -kappa * mean)
    z, rest = np.exp(log_z), np.exp(-np.logaddexp(0.0, kappa * mean))
    slope, curvature = kappa * rest, kappa**2 * z * rest
    moments = TiltedMoments(
        log_normalizer=log_z,
        mean=mean + variance * slope,
        variance=variance * (1.0 - variance * curvature),
        slope=slope,
        curvature=curvature,
    )
    return TiltedMoments(*(value.reshape(shape) for value in moments))


def _check_margins(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
    """Both as vectors of float64, and the shape that they had."""
    mean, variance = np.asarray(mean, np.float64), np.asarray(variance, np.float64)
    checks.check_same_shape("mean", mean, "variance", variance)
    if not mean.size:
        raise ValueError(f"mean must not be empty, got shape {mean.shape}.")
    checks.check_finite("mean", mean)
    checks.check_finite("variance", variance)
    if np.min(variance) < 0:
        raise ValueError(f"variance must not be negative, got {np.min(variance)}.")
    return mean.ravel(), variance.ravel(), mean.shape


def mackay_scale(variance: np.ndarray) -> np.ndarray:
    r"""MacKay's factor of the mean, :math:`1 / \sqrt{1 + \pi s^2 / 8}`."""
    return 1.0 / np.sqrt(1.0 + np.pi / 8.0 * variance)


def _in_blocks(
    fn: Callable[..., tuple[np.ndarray, ...]], mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Applies `fn` to blocks of rows and joins the results."""
    starts = range(0, mean.size, BLOCK)
    parts = [fn(mean[i : i + BLOCK], variance[i : i + BLOCK]) for i in starts]
    return tuple(np.concatenate(values) for values in zip(*parts, strict=True))


def _moments_below(mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, ...]:
    r"""Log Z, tilted mean, tilted variance over s², slope and curvature, for `mean` <= 0.

    With expectations under the tilted distribution the slope is :math:`\langle 1 - \sigma
    \rangle`, the curvature :math:`\langle \sigma (1 - \sigma) \rangle - \mathrm{Var}(\sigma)`.
    """
    rule = _rule(mean, variance)
    offset = np.sum(rule.weight * rule.offset, axis=1)
    ratio = np.sum(rule.weight * (rule.offset - offset[:, None]) ** 2, axis=1)
    slope = np.sum(rule.weight * rule.rest, axis=1)
    first = np.sum(rule.weight * rule.sigmoid * rule.rest, axis=1)
    second = np.sum(rule.weight * (rule.rest - slope[:, None]) ** 2, axis=1)
    # The curvature is also (1 - ratio) / s²: of the two differences, that of smaller terms.
    variance = np.maximum(variance, LEAST_VARIANCE)
    curvature = np.where(first * variance < 1.0, first - second, (1.0 - ratio) / variance)
    return rule.log_normalizer, rule.centre + np.sqrt(variance) * offset, ratio, slope, curvature


def _rule(mean: np.ndarray, variance: np.ndarray) -> _Rule:
    r"""Nodes for the tilted distributions, for `mean` <= 0, `[M]`, and log Z.

    For every :math:`\theta` in [0, 1]

    .. math:: \sigma(z) \, \mathcal{N}(z \mid m, s^2) = e^{\theta m + \theta^2 s^2 / 2} \,
       \sigma(z)^{1 - \theta} \sigma(-z)^\theta \, \mathcal{N}(z \mid m + \theta s^2, s^2)

    and :math:`\theta` is that which brings the Gaussian's mean, the centre, as near 0 as it
    gets. Then the first factor is all there is of the dynamic range, and is held as a
    logarithm; the others are 1/2 or more at the centre, or fall to both sides of it, so that
    the mass is within the reach of the Gaussian, however far out m is.

    The trapezoid rule converges exponentially for an integrand that is analytic in a strip,
    with a step of the strip's width. Here that is s or the distance to the poles
    of the logistic function at ±iπ, whichever is less, so the nodes are spaced evenly in u,
    :math:`z = \pi \sinh u`: 24 of them for small s, 200 for s = 1000, to double precision,
    where a plain rule would take 40,000 and Gauss and Hermite's would step over the sigmoid.
    """
    variance = np.maximum(variance, LEAST_VARIANCE)
    scale = np.sqrt(variance)
    tilt = np.minimum(-mean / variance, 1.0)
    centre = np.minimum(mean + variance, 0.0)
    start, origin, step, num_nodes = _grid(centre, scale)
    u = start[:, None] + step[:, None] * np.arange(num_nodes)
    # Not sinh(origin + u) - sinh(origin): the scale may be far below the centre's rounding.
    distance = 2.0 * POLE * np.cosh(origin[:, None] + u / 2.0) * np.sinh(u / 2.0)
    offset, z = distance / scale[:, None], centre[:, None] + distance
    small = np.exp(-np.abs(z))
    larger = 1.0 / (1.0 + small)
    smaller = small * larger
    # σ(z)^(1-θ) σ(-z)^θ is exp(-θ z) or exp((1 - θ) z), whichever is less, times `larger`.
    exponent = np.where(z > 0, -tilt[:, None], 1.0 - tilt[:, None]) * z - offset**2 / 2.0
    weight = np.exp(exponent) * larger * np.cosh(origin[:, None] + u)
    total = np.sum(weight, axis=1)
    log_z = np.log(total * (step * POLE / scale) / np.sqrt(2.0 * np.pi))
    return _Rule(
        log_normalizer=tilt * (mean + tilt * variance / 2.0) + log_z,
        centre=centre,
        offset=offset,
        weight=weight / total[:, None],
        sigmoid=np.where(z > 0, larger, smaller),
        rest=np.where(z > 0, smaller, larger),
    )


def _grid(centre: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """First node less origin, the origin (the centre's u), the step, and the number of nodes."""
    reach, density = REACH * scale, np.hypot(centre, POLE)
    origin = np.arcsinh(centre / POLE)
    # Where the map is a line, the difference of two arcsinh would be their rounding.
    is_line = reach < 1e-4 * density
    line = reach / density
    low = np.where(is_line, -line, np.arcsinh((centre - reach) / POLE) - origin)
    high = np.where(is_line, line, np.arcsinh((centre + reach) / POLE) - origin)
    step = STEP * scale / np.hypot(np.abs(centre) + reach, POLE)
    num_nodes = int(np.ceil(np.max((high - low) / step))) + 1
    return low, origin, (high - low) / (num_nodes - 1), num_nodes
