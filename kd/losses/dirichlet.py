"""Ensemble distribution distillation: a student that predicts a Dirichlet distribution."""

import math

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import Array

LARGEST = 60.0  # Of the logarithm of a concentration: beyond, float32 would soon overflow.
SERIES_FROM = 10.0


def dirichlet_negative_log_likelihood(
    log_concentrations: Array, mean_log_probs: Array, *, temperature: float = 1.0
) -> Array:
    r"""Mean negative log-density of an ensemble's probabilities under a Dirichlet, in nats.

    .. math:: E = T^2 \Big[\sum_c \log\Gamma(\alpha_c) - \log\Gamma(\alpha_0)
       - \sum_c (\alpha_c - 1) \frac{1}{M} \sum_m \log p_{mc}\Big], \qquad \alpha = e^{z/T}

    Args:
      log_concentrations: z, `[C]`: a student's outputs. Of z / T more than 60 counts as 60, and has
        no gradient. Gradients flow through.
      mean_log_probs: `[C]`, nats: of the members' log-probabilities, smoothed before
        the logarithm (`kd.inference.smoothed_log_probs`): of a member that is sure the
        log-density has no bound; at the same temperature. Gradients flow through.
      temperature: T, positive, may be traced: high at first and 1 at last, as
        `optax.linear_schedule(10.0, 1.0, n, transition_begin=n)` of the step.

    Returns:
      A scalar. Where a teacher's mean is that of one member alone, its infimum is minus infinity.
      NaN where the exponentials of `mean_log_probs` sum to more than 1, as those of probabilities
      do, given by mistake.

    Raises:
      ValueError: if an argument is not a vector, or is empty, the shapes differ, or the temperature
        is not positive.

    Example:
      >>> flat = dirichlet_negative_log_likelihood(jnp.zeros(2), jnp.log(jnp.array([0.5, 0.5])))
      >>> print(f"{abs(flat):.4f}")  # The uniform density over [0, 1] is 1.
      0.0000

    Reference:
      Malinin, Mlodozeniec and Gales (2020), "Ensemble distribution distillation", (9) and (10); T²
        is their code's.
    """
    checks.check_rank("log_concentrations", log_concentrations, 1)
    checks.check_same_shape(
        "log_concentrations", log_concentrations, "mean_log_probs", mean_log_probs
    )
    checks.check_count("the number of classes", jnp.shape(log_concentrations)[0])
    checks.check_positive("temperature", temperature)
    # The logarithms' exponentials sum to 1 at most: of probabilities given for them NaN is made.
    mean_log_probs = jnp.where(
        jax.nn.logsumexp(mean_log_probs) < checks.SUM_TOLERANCE, mean_log_probs, jnp.nan
    )
    z = jnp.minimum(log_concentrations / temperature, LARGEST)
    concentrations = jnp.exp(z)
    log_total = jax.nn.logsumexp(z)
    # With Stirling's formula taken out, nothing large is left to cancel.
    far = jnp.sum(concentrations * (z - log_total - mean_log_probs)) + jnp.sum(mean_log_probs)
    near = jnp.sum(_stirling_rest(z)) - _stirling_rest(log_total)
    constant = 0.5 * (z.shape[0] - 1) * math.log(2 * math.pi)
    return temperature**2 * (far + 0.5 * (log_total - jnp.sum(z)) + near + constant)


def _stirling_rest(log_x: Array) -> Array:
    """The logarithm of Gamma(x) less Stirling's formula for it, about 1 / (12 x); of log x."""
    is_small = log_x < math.log(SERIES_FROM)
    small = jnp.where(is_small, log_x, 0.0)
    x = jnp.exp(small)
    exact = jax.lax.lgamma(1 + x) - (x + 0.5) * small + x - 0.5 * math.log(2 * math.pi)
    inverse = jnp.exp(-jnp.where(is_small, math.log(SERIES_FROM), log_x))
    series = inverse * (1 / 12 - inverse**2 * (1 / 360 - inverse**2 / 1260))
    return jnp.where(is_small, exact, series)
