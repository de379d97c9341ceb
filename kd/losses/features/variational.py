"""Variational information distillation: a Gaussian guess of the teacher's features."""

import math

import jax
import jax.numpy as jnp

from kd import checks
from kd.losses.features.batches import at_least_single
from kd.types import Array

FLOOR = 1e-5


def variational_information(
    mean: Array, teacher: Array, raw_variance: Array, *, floor: float = FLOOR
) -> Array:
    r"""Negative log-density of a teacher's features under a student's guess, nats, of one input.

    .. math:: E = -\log q(h_t \mid h_s) = \sum_c \sum_{\mathrm{positions}} \tfrac{1}{2}
       \left(\frac{(h_t - \mu(h_s))^2}{\sigma_c^2} + \log 2 \pi \sigma_c^2\right), \qquad
       \sigma_c^2 = \log(1 + e^{\rho_c}) + \epsilon

    An upper bound of the teacher's entropy given the student, up to that of the features: what is
    minimised is a lower bound's negative, of their mutual information. Densities have no bound,
    so that the loss *may be negative*, and falls with the variance as far as its floor.

    Args:
      mean: `[..., C]`, the guess: what a regressor makes of the student's features
        (`kd.models.Regressor`). Gradients flow through.
      teacher: `[..., C]`, the same shape. No gradients.
      raw_variance: :math:`\rho`, `[C]`, one a channel for all positions; learned, so parameters, as
        of `init_variance`. Gradients flow through.
      floor: :math:`\epsilon`, positive.

    Returns:
      A scalar, summed over channels and positions.

    Raises:
      ValueError: if the shapes do not fit, values that are known are not finite, or the floor is
        not positive.
      TypeError: if one is not floating.

    Example:
      >>> guess = variational_information(jnp.zeros(1), jnp.zeros(1), init_variance(1))
      >>> print(f"{guess:.4f}")  # Half the logarithm of 2 pi times 5.
      1.7237

    Reference:
      Ahn, Hu, Damianou, Lawrence and Dai (2019), "Variational information distillation for
      knowledge transfer", (5) and (6). They leave out the constant; their reimplementations have
      the mean over entries, so another weight.
    """
    for name, value in (("mean", mean), ("teacher", teacher), ("raw_variance", raw_variance)):
        checks.check_floating(name, value)
    checks.check_positive("floor", floor)
    if jnp.ndim(teacher) < 1 or not jnp.size(teacher):
        raise ValueError(f"the teacher's features must be [..., C], got {jnp.shape(teacher)}.")
    if jnp.shape(mean) != jnp.shape(teacher):
        raise ValueError(
            f"mean must have the teacher's shape {jnp.shape(teacher)}, got {jnp.shape(mean)}: put "
            "a regressor between, as kd.models.Regressor."
        )
    checks.check_shape("raw_variance", raw_variance, jnp.shape(teacher)[-1:])
    for name, value in (("mean", mean), ("teacher", teacher), ("raw_variance", raw_variance)):
        checks.check_finite(name, value)
    mean, teacher, raw_variance = map(at_least_single, (mean, teacher, raw_variance))
    variance = jax.nn.softplus(raw_variance) + floor
    off = jnp.square(jax.lax.stop_gradient(teacher) - mean).reshape(-1, mean.shape[-1])
    each = jnp.sum(off, axis=0) / variance + len(off) * jnp.log(2 * jnp.pi * variance)
    return 0.5 * jnp.sum(each)


def init_variance(num_channels: int, *, variance: float = 5.0, floor: float = FLOOR) -> Array:
    r"""Where the variances of `variational_information` start: :math:`\rho`, `[C]`.

    Args:
      num_channels: C, the teacher's.
      variance: wanted, more than the floor.
      floor: as there.

    Raises:
      ValueError: for a variance that is not above the floor, or a count below 1.
      TypeError: for a count that is no integer, a variance or a floor that is no number.

    Example:
      >>> rho = init_variance(2, variance=0.5)
      >>> print(f"{jax.nn.softplus(rho)[0] + FLOOR:.4f}")
      0.5000

    Reference:
      Ahn et al. (2019); 5 is that of a reimplementation.
    """
    checks.check_count("num_channels", num_channels)
    checks.check_positive("floor", floor)
    checks.check_positive("variance", variance)
    checks.check_positive("variance less the floor", variance - floor)
    # The inverse of log(1 + e^rho), of any size.
    softened = variance - floor
    return jnp.full(num_channels, softened + math.log(-math.expm1(-softened)))
