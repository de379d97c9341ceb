"""Predictive densities on a grid, and KL divergences between them, in float64."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.density_estimation import posterior
from kd.batching import over_replicas
from kd.models import GaussianMixture
from kd.types import Array, PyTree

# With a prior of standard deviation 10 next to nothing lies outside.
LOW, HIGH = -60.0, 60.0
SAMPLE_BLOCK = 200


def grid(num_points: int) -> np.ndarray:
    """Where densities are evaluated, `[G]`."""
    return np.linspace(LOW, HIGH, num_points)


def monte_carlo(bags: Array, x: np.ndarray) -> np.ndarray:
    """Density averaged over each bag of samples (3.6): `[R, S, 3]` and `[G]` to `[R, G]`."""
    with jax.enable_x64(True):
        points = jnp.asarray(x)
        return np.asarray(_monte_carlo(jnp.asarray(np.asarray(bags), jnp.float64), points))


@jax.jit
def _monte_carlo(bags: Array, x: Array) -> Array:
    def one(bag: Array) -> Array:
        size = min(SAMPLE_BLOCK, len(bag))

        def density(means: Array) -> Array:
            return jnp.exp(posterior.log_density(x, means))

        # In blocks, so that no array holds all samples times all points.
        whole = len(bag) // size * size
        blocks = bag[:whole].reshape(-1, size, bag.shape[1])
        total, _ = jax.lax.scan(
            lambda total, block: (total + jnp.sum(jax.vmap(density)(block), axis=0), None),
            jnp.sum(jax.vmap(density)(bag[whole:]), axis=0),
            blocks,
        )
        return total / len(bag)

    return over_replicas(one)(bags)


def truth(x: np.ndarray) -> np.ndarray:
    """The density that the points came from, `[G]`."""
    with jax.enable_x64(True):
        return np.exp(
            np.asarray(posterior.log_density(jnp.asarray(x), jnp.asarray(posterior.MEANS)))
        )


def mixtures(mixture: GaussianMixture, x: np.ndarray) -> Callable[[PyTree], np.ndarray]:
    """From the parameters of R mixtures to their log-densities `[R, G]`."""

    @jax.jit
    def log_densities(params: PyTree, x: Array) -> Array:
        return over_replicas(lambda params: mixture.log_prob(params, x[:, None]))(params)

    def evaluate(params: PyTree) -> np.ndarray:
        with jax.enable_x64(True):
            double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
            return np.asarray(log_densities(double, jnp.asarray(x)))

    return evaluate


def kl_divergence(p: np.ndarray, log_q: np.ndarray, x: np.ndarray) -> np.ndarray:
    """D(p || q) in nats by the trapezoid rule: `[..., G]` and `[..., G]` to `[...]`.

    The density p is normalised by the same rule.
    """
    step = x[1] - x[0]
    masses = p * step / np.sum(p * step, axis=-1, keepdims=True)
    log_p = np.log(np.maximum(masses, np.finfo(float).tiny)) - np.log(step)
    return np.sum(np.where(masses > 0, masses * (log_p - log_q), 0.0), axis=-1)
