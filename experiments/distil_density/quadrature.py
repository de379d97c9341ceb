"""KL divergence from a teacher in the plane, by quadrature on a grid in float64."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.distil_density.teachers import Teacher
from kd.batching import over_replicas
from kd.types import ApplyFn, PyTree

# What a point with less of the teacher's mass adds to a divergence is not seen.
LEAST_MASS = 1e-13


class Quadrature(NamedTuple):
    """A teacher's density at the points of a grid that hold any of its mass, float64.

    Attributes:
      points: `[N, 2]`.
      log_density: `[N]`, nats, normalised by the quadrature itself.
      masses: `[N]`, the density times the area of a cell.
      log_z: log of the potential's integral.
    """

    points: np.ndarray
    log_density: np.ndarray
    masses: np.ndarray
    log_z: float


def quadrature(teacher: Teacher, num_points: int) -> Quadrature:
    """The trapezoid rule, which has next to no error for what is smooth and ends in zeros."""
    axes = [
        np.linspace(low, high, num_points)
        for low, high in zip(teacher.low, teacher.high, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    log_area = sum(np.log(axis[1] - axis[0]) for axis in axes)
    with jax.enable_x64(True):
        values = np.asarray(jax.jit(jax.vmap(teacher.log_potential_fn))(jnp.asarray(points)))
    log_z = float(np.logaddexp.reduce(values) + log_area)
    masses = np.exp(values - log_z + log_area)
    kept = masses > LEAST_MASS
    return Quadrature(points[kept], values[kept] - log_z, masses[kept], log_z)


def kl_divergences(found: Quadrature, log_prob_fn: ApplyFn) -> Callable[[PyTree], np.ndarray]:
    """A function from the parameters of R students to D(teacher || student), `[R]`, nats.

    Args:
      found: of the teacher.
      log_prob_fn: `(params, x [N, 2]) -> [N]`, the student's normalised log-density.
    """

    @jax.jit
    def divergences(params: PyTree, points, log_density, masses):
        def one(params: PyTree):
            return jnp.sum(masses * (log_density - log_prob_fn(params, points)))

        return over_replicas(one)(params)

    def evaluate(params: PyTree) -> np.ndarray:
        with jax.enable_x64(True):
            params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
            arrays = (jnp.asarray(array) for array in found[:3])
            return np.asarray(divergences(params, *arrays))

    return evaluate


def moments(found: Quadrature) -> tuple[np.ndarray, np.ndarray]:
    """Mean `[2]` and covariance `[2, 2]` of the teacher."""
    masses = found.masses / found.masses.sum()
    mean = masses @ found.points
    centred = found.points - mean
    return mean, (masses[:, None] * centred).T @ centred


def gaussian_bound(teacher: Teacher, found: Quadrature, num_points: int = 60) -> float:
    """The lower bound on log Z of (4.14), with the sign mended, of a Gaussian q.

    q has the teacher's mean and covariance; the expectation is by Gauss and Hermite.
    """
    mean, covariance = moments(found)
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_points)
    weights = np.outer(weights, weights).ravel() / (2 * np.pi)
    z = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    x = mean + z @ np.linalg.cholesky(covariance).T
    with jax.enable_x64(True):
        values = np.asarray(jax.vmap(teacher.log_potential_fn)(jnp.asarray(x)))
    entropy = 1 + np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    return float(weights @ values + entropy)
