"""The teachers: densities in the plane known up to a constant, and streams of their samples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd import random, streams
from kd.types import Array, Key, Sampler, Stream

BEND, WIDTH = 0.5, 0.4  # Of the banana.
DISTANCE, SHARE = 4.0, 0.8  # Half the way between the modes, and the first one's weight.
PRIOR_SCALE = 5.0
# Ten inputs times their labels, -1 or 1: drawn once, and separable, so that the likelihood
# has no maximum, only the prior bounds the posterior of the two weights, and it is skewed.
SIGNED_INPUTS = np.array(
    [
        *([0.7, -0.5], [0.1, -2.4], [-2.3, -1.1], [-0.2, -0.8], [0.8, -0.6]),
        *([1.5, -0.3], [0.2, -0.8], [1.0, -0.1], [1.0, -0.6], [0.6, -0.9]),
    ]
)


class Teacher(NamedTuple):
    """A density in the plane.

    Attributes:
      log_potential_fn: one x `[2]` to its log-density up to a constant, nats.
      low: `[2]`, the corner of a box outside of which there is next to nothing.
      high: `[2]`, the other corner.
      sample_fn: `(key, num) -> [num, 2]`, exact samples; None for Markov chains.
      step_scale: standard deviation of a proposal of the chains.
    """

    log_potential_fn: Callable[[Array], Array]
    low: tuple[float, float]
    high: tuple[float, float]
    sample_fn: Callable[[Key, int], Array] | None = None
    step_scale: float = 1.0


def banana(x: Array) -> Array:
    """A standard normal x1, and x2 about a parabola of it; log Z is log(2 pi WIDTH)."""
    return -0.5 * x[0] ** 2 - 0.5 * ((x[1] - BEND * (x[0] ** 2 - 1)) / WIDTH) ** 2


def modes(x: Array) -> Array:
    """Two bananas far apart, one of them upside down, with SHARE and 1 - SHARE of the mass."""
    right = jnp.array([DISTANCE, 0.0], x.dtype)
    return jnp.logaddexp(
        jnp.log(SHARE) + banana(x + right),
        jnp.log(1 - SHARE) + banana(right - x),
    )


def logistic(w: Array) -> Array:
    """Log-posterior, up to the evidence, of a logistic regression with a Gaussian prior."""
    margins = jnp.asarray(SIGNED_INPUTS, w.dtype) @ w
    return jnp.sum(jax.nn.log_sigmoid(margins)) - 0.5 * jnp.sum((w / PRIOR_SCALE) ** 2)


def _sample_banana(key: Key, num: int) -> Array:
    z = jax.random.normal(key, (num, 2))
    return jnp.stack([z[:, 0], BEND * (z[:, 0] ** 2 - 1) + WIDTH * z[:, 1]], axis=1)


def _sample_modes(key: Key, num: int) -> Array:
    side_key, key = jax.random.split(key)
    sign = jnp.where(jax.random.uniform(side_key, (num, 1)) < SHARE, 1.0, -1.0)
    return sign * (_sample_banana(key, num) - jnp.array([[DISTANCE, 0.0]]))


BY_NAME = {
    "banana": Teacher(banana, (-6.0, -4.0), (6.0, 20.0), _sample_banana),
    "modes": Teacher(modes, (-11.0, -20.0), (11.0, 20.0), _sample_modes),
    "logistic": Teacher(logistic, (-12.0, -38.0), (18.0, 6.0), step_scale=2.5),
}


def samples(teacher: Teacher, batch_size: int, *, burn_in: int, thinning: int) -> Stream:
    """Samples of a teacher, `{"x": [B, 2]}`: exact, or of Markov chains side by side.

    Args:
      teacher: where `x` comes from.
      batch_size: B.
      burn_in: steps of each chain before the first batch.
      thinning: steps of a chain between its samples: there are B times as many chains,
        which take turns, so that the members of a batch are independent.
    """
    if teacher.sample_fn is not None:
        return Stream(
            lambda key: (), lambda key, state: (state, {"x": teacher.sample_fn(key, batch_size)})
        )
    num_chains = batch_size * thinning

    def starts(key: Key) -> Array:
        # Everywhere in the box: wider than the teacher, as chains should start.
        low, high = jnp.array([teacher.low]), jnp.array([teacher.high])
        return low + (high - low) * random.uniform(key, (num_chains, 2))

    return streams.parallel_chains(
        metropolis(teacher), starts, num_chains=num_chains, batch_size=batch_size, burn_in=burn_in
    )


def metropolis(teacher: Teacher) -> Sampler:
    """Random-walk Metropolis, a step of all chains `[C, 2]`; the info is which moved, `[C]`."""
    log_potential_fn = jax.vmap(teacher.log_potential_fn)

    def step(key: Key, x: Array) -> tuple[Array, Array]:
        move_key, accept_key = jax.random.split(key)
        proposal = x + teacher.step_scale * random.normal(move_key, x.shape)
        log_ratio = log_potential_fn(proposal) - log_potential_fn(x)
        is_accepted = jnp.log(random.uniform(accept_key, log_ratio.shape)) < log_ratio
        return jnp.where(is_accepted[:, None], proposal, x), is_accepted

    return Sampler(lambda position: position, step)
