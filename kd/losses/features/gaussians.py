"""Divergences of Gaussians with mean 0, of covariances or of features that make them.

Each has its derivative by the student's argument alone, in closed form: a teacher's is data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kd.losses.features.kernels import product
from kd.positive_definite import inverse_and_log_det
from kd.types import Array


def jittered(kernel: Array, noise: Array) -> Array:
    """The covariance with noise on its diagonal."""
    return kernel + noise * jnp.eye(len(kernel), dtype=kernel.dtype)


@jax.custom_jvp
def kl(student: Array, teacher: Array) -> Array:
    """Of covariances `[N, N]`, jittered."""
    return _kl_and_slope(student, teacher)[0]


def _kl_and_slope(student: Array, teacher: Array) -> tuple[Array, Array]:
    """The divergence and its derivative by the student's covariance, twice."""
    own, own_log_det = inverse_and_log_det(student)
    other, other_log_det = inverse_and_log_det(teacher)
    # tr(K_s^-1 K_s) = N is in it, so that equal kernels have exactly 0.
    slope = other - own
    return 0.5 * (jnp.sum(slope * student) + other_log_det - own_log_det), slope


@kl.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    value, slope = _kl_and_slope(*primals)
    return value, 0.5 * jnp.sum(slope * tangents[0])


@jax.custom_jvp
def linear_kl(student: Array, teacher: Array, noise: Array) -> Array:
    """Of features `[N, D_s]` and `[N, D_t]` divided by the roots of their widths."""
    return _linear_kl_and_slope(student, teacher, noise)[0]


def _linear_kl_and_slope(student: Array, teacher: Array, noise: Array) -> tuple[Array, Array]:
    """The divergence and its derivative by the student's features."""
    size, widths = len(student), (student.shape[1], teacher.shape[1])
    if size <= min(widths):
        kernel = jittered(product(student, student.T), noise)
        value, slope = _kl_and_slope(kernel, jittered(product(teacher, teacher.T), noise))
        return value, product(slope, student)
    own, own_log_det, own_solve = _solver(student, noise)
    other, other_log_det, other_solve = _solver(teacher, noise)
    both = other_solve(student)
    # Noise on the student's diagonal against the teacher's precision.
    alone = noise * jnp.trace(other) + max(size - widths[1], 0)
    value = 0.5 * (jnp.sum(both * student) + alone - size + other_log_det - own_log_det)
    itself = product(own, student) if size <= widths[0] else product(student, own)
    return value, both - itself


@linear_kl.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    value, slope = _linear_kl_and_slope(*primals)
    return value, jnp.sum(slope * tangents[0])


def _solver(features: Array, noise: Array) -> tuple[Array, Array, Callable[[Array], Array]]:
    """The smaller side's inverse; the covariance's log det, and its inverse times `[N, M]`."""
    size, width = features.shape
    if size <= width:
        inverse, log_det = inverse_and_log_det(jittered(product(features, features.T), noise))
        return inverse, log_det, lambda y: product(inverse, y)
    inverse, log_det = inverse_and_log_det(jittered(product(features.T, features), noise))

    def solve(y: Array) -> Array:
        return (y - product(features, product(inverse, product(features.T, y)))) / noise

    return inverse, log_det + (size - width) * jnp.log(noise), solve


@jax.custom_jvp
def linear_log_det(features: Array, noise: Array) -> Array:
    """Of the covariance of features `[N, D]`, jittered."""
    return _solver(features, noise)[1]


@linear_log_det.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    features, noise = primals
    inverse, log_det, _ = _solver(features, noise)
    is_small = len(features) <= features.shape[1]
    slope = product(inverse, features) if is_small else product(features, inverse)
    return log_det, 2 * jnp.sum(slope * tangents[0])


@jax.custom_jvp
def procrustes(student: Array, teacher: Array) -> Array:
    """Least squared distance of features `[N, D_s]` and `[N, D_t]` after a rotation."""
    return _procrustes_and_slope(student, teacher)[0]


def _procrustes_and_slope(student: Array, teacher: Array) -> tuple[Array, Array]:
    """The distance and its derivative by the student's features."""
    small, back = _narrowed(student)
    other, _ = _narrowed(teacher)
    left, values, right = jnp.linalg.svd(product(small.T, other), full_matrices=False)
    rotated = product(other, product(right.T, left.T))
    squares = jnp.sum(small**2) + jnp.sum(other**2)
    return jnp.maximum(squares - 2 * jnp.sum(values), 0.0), 2 * back(small - rotated)


@procrustes.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    value, slope = _procrustes_and_slope(*primals)
    # The teacher's own tangent is 0: nothing flows into it.
    return value, jnp.sum(slope * tangents[0])


@jax.custom_jvp
def wasserstein(student: Array, teacher: Array, noise: Array) -> Array:
    """Squared 2-Wasserstein distance of covariances `[N, N]`, singular ones too, jittered."""
    return _wasserstein_and_slope(student, teacher, noise)[0]


def _wasserstein_and_slope(student: Array, teacher: Array, noise: Array) -> tuple[Array, Array]:
    """The distance and its derivative by the student's covariance."""
    vectors, roots = _eigen_roots(student, noise)
    other_vectors, other_roots = _eigen_roots(teacher, noise)
    other = other_vectors * other_roots
    left, values, right = jnp.linalg.svd(product((vectors * roots).T, other), full_matrices=False)
    squares = jnp.sum(roots**2) + jnp.sum(other_roots**2)
    # The linear map that carries the one Gaussian to the other.
    transport = product(product(other, product(right.T, left.T)) / roots, vectors.T)
    slope = jnp.eye(len(student), dtype=student.dtype) - 0.5 * (transport + transport.T)
    return jnp.maximum(squares - 2 * jnp.sum(values), 0.0), slope


@wasserstein.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    value, slope = _wasserstein_and_slope(*primals)
    return value, jnp.sum(slope * tangents[0])


def _eigen_roots(kernel: Array, noise: Array) -> tuple[Array, Array]:
    """Eigenvectors, and the roots of the eigenvalues with noise; rounding is not below 0."""
    values, vectors = jnp.linalg.eigh(kernel)
    # A row, as what it multiplies is of columns.
    return vectors, jnp.sqrt(jnp.maximum(values, 0.0) + noise)[None, :]


def _narrowed(features: Array) -> tuple[Array, Callable[[Array], Array]]:
    """At most N features with the same kernel; and a derivative by them back to all."""
    if features.shape[1] <= len(features):
        return features, lambda slope: slope
    basis, narrow = jnp.linalg.qr(features.T)
    return narrow.T, lambda slope: product(slope, basis.T)
