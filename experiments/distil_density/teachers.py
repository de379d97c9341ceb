"""The teachers: densities in the plane known up to a constant, and streams of their samples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kd.types import Array, Batch, Key, PyTree, Stream

BEND, WIDTH = 0.5, 0.4  # Of the banana.
DISTANCE, SHARE = 4.0, 0.8  # Half the way between the modes, and the first one's weight.
PRIOR_SCALE = 5.0
# Ten inputs times their labels, -1 or 1: drawn once, all but separable, so that the posterior
# of the two weights is skewed.
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
    """Samples of a teacher, `{"x": [B, 2]}`: exact, or each from a Markov chain of its own.

    Args:
      teacher: where `x` comes from.
      batch_size: B, which is the number of chains too.
      burn_in: steps of each chain before the first batch.
      thinning: steps between batches.
    """
    if teacher.sample_fn is not None:
        return Stream(
            lambda key: (), lambda key, state: (state, {"x": teacher.sample_fn(key, batch_size)})
        )

    def init(key: Key) -> Array:
        start_key, key = jax.random.split(key)
        low, high = jnp.array([teacher.low]), jnp.array([teacher.high])
        # Everywhere in the box: wider than the teacher, as chains should start.
        start = jax.random.uniform(start_key, (batch_size, 2), minval=low, maxval=high)
        return metropolis(teacher, key, start, burn_in)

    def next_(key: Key, state: PyTree) -> tuple[PyTree, Batch]:
        state = metropolis(teacher, key, state, thinning)
        return state, {"x": state}

    return Stream(init, next_)


def metropolis(teacher: Teacher, key: Key, x: Array, num_steps: int) -> Array:
    """Random-walk Metropolis, `num_steps` steps of each of the chains at `x`, `[B, 2]`."""
    log_potential_fn = jax.vmap(teacher.log_potential_fn)

    def step(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        x, value = state
        move_key, accept_key = jax.random.split(jax.random.fold_in(key, index))
        proposal = x + teacher.step_scale * jax.random.normal(move_key, x.shape)
        proposed = log_potential_fn(proposal)
        is_accepted = -jax.random.exponential(accept_key, value.shape) < proposed - value
        x = jnp.where(is_accepted[:, None], proposal, x)
        return x, jnp.where(is_accepted, proposed, value)

    return jax.lax.fori_loop(0, num_steps, step, (x, log_potential_fn(x)))[0]
