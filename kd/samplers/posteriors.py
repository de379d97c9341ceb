"""Estimates of a log-posterior from minibatches, and schedules of step sizes for them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from kd import checks
from kd.types import Array, Batch, PyTree


def minibatch_log_posterior(
    log_prior_fn: Callable[[PyTree], Array],
    log_likelihood_fn: Callable[[PyTree, Any], Array],
    *,
    num_examples: int,
) -> Callable[[PyTree, Batch], Array]:
    r"""An unbiased estimate, from a minibatch, of the log-posterior of all data, in nats.

    .. math:: \hat U(\theta) = \log p(\theta) + \frac{N}{B} \sum_b \log p(x_b \mid \theta)

    Args:
      log_prior_fn: position to its log-prior.
      log_likelihood_fn: `(position, example)` to the log-likelihood of one example, which has the
        structure of a batch without its leading axis.
      num_examples: N, of the whole data set.

    Returns:
      `(position, batch)` to a scalar.

    Raises:
      ValueError: if N < 1; by the function, if a batch's leaves differ in length.

    Example:
      >>> fn = minibatch_log_posterior(
      ...     lambda m: -0.5 * m**2, lambda m, one: -0.5 * (one["x"] - m) ** 2, num_examples=10)
      >>> float(fn(jnp.array(0.0), {"x": jnp.array([1.0, 1.0])}))
      -5.0

    Reference:
      Welling and Teh (2011), (4), whose gradient is of this.
    """
    checks.check_count("num_examples", num_examples)

    def log_posterior(position: PyTree, batch: Batch) -> Array:
        size = checks.check_same_length("batch", batch)
        log_likelihoods = jax.vmap(log_likelihood_fn, in_axes=(None, 0))(position, batch)
        return log_prior_fn(position) + num_examples / size * jnp.sum(log_likelihoods)

    return log_posterior


def control_variates(
    log_posterior_fn: Callable[[PyTree, Batch], Array], anchor: PyTree, full_gradient: PyTree
) -> Callable[[PyTree, Batch], Array]:
    r"""A log-posterior whose gradient estimates are those at an anchor, corrected.

    .. math:: \nabla \tilde U(\theta) = \nabla U(\hat\theta) + \nabla \hat U(\theta)
       - \nabla \hat U(\hat\theta)

    As unbiased as `log_posterior_fn`, and of little variance near the anchor. It is the
    log-posterior with linear terms of the anchor's gradients, so that whatever takes a gradient
    takes this one.

    Args:
      log_posterior_fn: `(position, batch)` to an unbiased estimate, in nats.
      anchor: :math:`\hat\theta`, near the mode. No gradients flow.
      full_gradient: like the anchor: the gradient there of the log-posterior of all data.

    Returns:
      `(position, batch)` to a scalar, the estimate up to a constant and noise of mean 0.

    Raises:
      ValueError: if the anchor and the gradient differ in structure or shapes.

    Example:
      >>> fn = lambda m, batch: -5.0 * jnp.sum((batch["x"] - m) ** 2)
      >>> corrected = control_variates(fn, jnp.array(2.0), jnp.array(0.0))
      >>> batch = {"x": jnp.array([1.0])}
      >>> float(jax.grad(fn)(2.0, batch)), float(jax.grad(corrected)(2.0, batch))
      (-10.0, 0.0)

    Reference:
      Baker, Fearnhead, Fox and Nemeth (2019), "Control variates for stochastic gradient MCMC",
      (8).
    """
    if jax.tree.structure(anchor) != jax.tree.structure(full_gradient):
        raise ValueError("anchor and full_gradient must be alike in structure.")
    for one, other in zip(jax.tree.leaves(anchor), jax.tree.leaves(full_gradient), strict=True):
        checks.check_same_shape("anchor", one, "full_gradient", other)

    def log_posterior(position: PyTree, batch: Batch) -> Array:
        there = jax.lax.stop_gradient(jax.grad(log_posterior_fn)(anchor, batch))
        terms = jax.tree.map(
            lambda x, full, part: jnp.sum(x * (full - part)), position, full_gradient, there
        )
        return log_posterior_fn(position, batch) + sum(jax.tree.leaves(terms))

    return log_posterior


def polynomial_step_size(
    scale: float, *, offset: float = 1.0, power: float = 0.55
) -> Callable[[Array], Array]:
    r"""Step sizes :math:`\varepsilon_t = a (b + t)^{-\gamma}`, t counted from 0.

    Args:
      scale: a, positive.
      offset: b, positive.
      power: :math:`\gamma`, in (1/2, 1], with which their sum diverges and that of their
        squares does not.

    Returns:
      A function of t, the number of steps made, to :math:`\varepsilon_t`: the `step_size` of a
      sampler.

    Raises:
      ValueError: if an argument is out of range.

    Example:
      >>> float(polynomial_step_size(2.0, offset=1.0, power=1.0)(jnp.array(3)))
      0.5

    Reference:
      Welling and Teh (2011), section 2.
    """
    checks.check_positive("scale", scale)
    checks.check_positive("offset", offset)
    if not 0.5 < power <= 1:
        raise ValueError(f"power must be in (1/2, 1], got {power}.")
    return lambda step: scale * (offset + step) ** -power


def cyclical_step_size(
    scale: float, *, num_cycles: int, num_steps: int
) -> Callable[[Array], Array]:
    r"""Step sizes that fall along a cosine from `scale` towards 0, again and again.

    .. math:: \varepsilon_t = \frac{\varepsilon_0}{2}
       \Big(\cos\frac{\pi (t \bmod L)}{L} + 1\Big), \qquad L = \lceil K / M \rceil

    Args:
      scale: :math:`\varepsilon_0`, positive.
      num_cycles: M.
      num_steps: K, of all cycles; t is counted from 0.

    Returns:
      A function of t, the number of steps made, to :math:`\varepsilon_t`: the `step_size` of a
      sampler. Beyond K the cycles go on.

    Raises:
      ValueError: if an argument is out of range, or there are more cycles than steps.
      TypeError: if a count is no integer.

    Example:
      >>> step_size = cyclical_step_size(2.0, num_cycles=2, num_steps=8)
      >>> [round(float(step_size(jnp.array(t))), 2) for t in range(5)]
      [2.0, 1.71, 1.0, 0.29, 2.0]

    Reference:
      Zhang, Li, Zhang, Chen and Wilson (2020), "Cyclical stochastic gradient MCMC for Bayesian
      deep learning", (1).
    """
    checks.check_positive("scale", scale)
    length = _cycle(num_cycles, num_steps)
    return lambda step: 0.5 * scale * (jnp.cos(jnp.pi * (step % length) / length) + 1)


def cyclical_temperature(
    *, num_cycles: int, num_steps: int, exploration: float = 0.5
) -> Callable[[Array], Array]:
    r"""Temperatures that go with `cyclical_step_size`: 0 as each cycle begins, then 1.

    Without noise large steps look for another mode, which the smaller ones with it then sample.

    Args:
      num_cycles, num_steps: as for `cyclical_step_size`.
      exploration: :math:`\beta`, the share of a cycle at temperature 0, in [0, 1].

    Returns:
      A function of t, the number of steps made: the `temperature` of a sampler.

    Raises:
      ValueError, TypeError: as `cyclical_step_size`, or if the share is out of range.

    Example:
      >>> temperature = cyclical_temperature(num_cycles=2, num_steps=8)
      >>> [float(temperature(jnp.array(t))) for t in range(5)]
      [0.0, 0.0, 1.0, 1.0, 0.0]

    Reference:
      Zhang, Li, Zhang, Chen and Wilson (2020), "Cyclical stochastic gradient MCMC for Bayesian
      deep learning", algorithm 1.
    """
    length = _cycle(num_cycles, num_steps)
    checks.check_weight("exploration", exploration)
    return lambda step: jnp.where(step % length < exploration * length, 0.0, 1.0)


def _cycle(num_cycles: int, num_steps: int) -> int:
    checks.check_count("num_steps", num_steps)
    checks.check_count("num_cycles", num_cycles, at_most=num_steps)
    return math.ceil(num_steps / num_cycles)
