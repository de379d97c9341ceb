"""Divergences of Gaussians with mean 0, of covariances or of features that make them.

Each has its derivative by the student's argument alone, in closed form: a teacher's is data.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kd.polar import orthogonal_factor
from kd.positive_definite import factor_and_inverse, inverse_and_log_det, log_diagonal, product
from kd.types import Array

# Roundings of a trace: what the first factor of a singular kernel takes, and the least noise that a
# kernel has which is factored once.
SHIFT, LEAST = 16, 4
# Log dets of the mean covariance, the student's and the teacher's; halves of the first two's
# derivatives by the student's features.
Slopes = tuple[tuple[Array, Array, Array], tuple[Array, Array]]


def jittered(kernel: Array, noise: Array) -> Array:
    """The covariance with noise on its diagonal."""
    return kernel + noise * jnp.eye(len(kernel), dtype=kernel.dtype)


def _safely_jittered(kernel: Array, noise: Array) -> Array:
    """The covariance, with noise that is not lost in rounding.

    Where inputs are twice in a batch, and a student is far larger than its teacher, it would be,
    and the covariance not be positive.
    """
    least = LEAST * jnp.finfo(kernel.dtype).eps * jnp.trace(kernel)
    return jittered(kernel, jnp.maximum(noise, least))


@jax.custom_jvp
def kl(student: Array, teacher: Array) -> Array:
    """Of covariances `[N, N]`, jittered."""
    return _kl_and_slope(student, teacher)[0]


def _kl_and_slope(student: Array, teacher: Array) -> tuple[Array, Array]:
    """The divergence and twice its derivative by the student's covariance."""
    own, own_log_det = inverse_and_log_det(student)
    other, other_log_det = inverse_and_log_det(teacher)
    # tr(K_s^-1 K_s) = N is in it, so that equal kernels have exactly 0.
    slope = other - own
    value = 0.5 * (jnp.sum(slope * student) + other_log_det - own_log_det)
    return jnp.maximum(value, 0.0), slope  # Below 0 is rounding.


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
        kernels = [_safely_jittered(product(one, one.T), noise) for one in (student, teacher)]
        value, slope = _kl_and_slope(*kernels)
        return value, product(slope, student)
    log_det, half = _log_det_and_slope(student, noise)
    quadratic, other_log_det, both = _in_precision(student, teacher, noise)
    value = 0.5 * (quadratic - size + other_log_det - log_det)
    return jnp.maximum(value, 0.0), both - half


def _in_precision(student: Array, teacher: Array, noise: Array) -> tuple[Array, Array, Array]:
    """`tr(K_t^-1 K_s)`, `log |K_t|` and `K_t^-1` times the student's features."""
    size, width = teacher.shape
    if size <= width:
        precision, log_det = inverse_and_log_det(jittered(product(teacher, teacher.T), noise))
        both = product(precision, student)
        return jnp.sum(both * student) + noise * jnp.trace(precision), log_det, both
    columns, log_det = _orthonormal(teacher, noise)
    log_det += (size - width) * jnp.log(noise)
    above, below = product(columns.above, columns.turn.T), product(columns.below, columns.turn.T)
    # Features above zeros, less their projection: the noise times their inverse is above. Its
    # squares, and not a difference of squares, are the features in the inverse covariance.
    shares = product(above.T, student)
    both = student - product(above, shares)
    squares = jnp.sum(both**2) + jnp.sum(product(below, shares) ** 2)
    return squares / noise + size - jnp.sum(above**2), log_det, both / noise


@linear_kl.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[Array, Array]:
    value, slope = _linear_kl_and_slope(*primals)
    return value, jnp.sum(slope * tangents[0])


class Orthonormal(NamedTuple):
    """Columns that span those of features `[N, D]` above the root of the noise times the identity.

    Attributes:
      above: `[N, D]`, of the features; orthonormal together with those below but for rounding.
      below: `[D, D]`, of the noise.
      inverse: `[D, D]`, of the triangle that the features are the columns' product with.
      turn: `[D, D]`, whose transpose from the right makes them orthonormal to the last digits.
    """

    above: Array
    below: Array
    inverse: Array
    turn: Array


def _orthonormal(features: Array, noise: Array) -> tuple[Orthonormal, Array]:
    """Of `[N, D]`, N >= D; and the log det of their products `[D, D]`, jittered.

    The first Cholesky factor is of squares, and loses half of the digits; what rounding could make
    negative is shifted. The second, of columns that are nearly orthonormal, finds the digits again
    (Fukaya et al., 2020, "Shifted Cholesky QR for computing the QR factorization of ill-conditioned
    matrices").
    """
    products = product(features.T, features)
    factor, inverse = factor_and_inverse(jittered(products, noise + _shift(products)))
    above, below = product(features, inverse.T), jnp.sqrt(noise) * inverse.T
    again = product(above.T, above) + product(below.T, below)
    second, turn = factor_and_inverse(again)
    log_det = log_diagonal(factor) + log_diagonal(second)
    return Orthonormal(above, below, inverse, turn), log_det


def _shift(products: Array) -> Array:
    """What rounding of squares could take from their smallest eigenvalue."""
    return SHIFT * jnp.finfo(products.dtype).eps * jnp.trace(products)


@jax.custom_jvp
def linear_log_dets(student: Array, teacher: Array, noise: Array) -> tuple[Array, Array, Array]:
    """Of the mean covariance of features `[N, D_s]` and `[N, D_t]`, and of either's, jittered."""
    return _log_dets_and_slopes(student, teacher, noise)[0]


def _log_dets_and_slopes(student: Array, teacher: Array, noise: Array) -> Slopes:
    """The log dets, and halves of the first two's derivatives by the student's features."""
    if len(student) > min(student.shape[1], teacher.shape[1]):
        return _factored_twice(student, teacher, noise)
    kernels = [product(one, one.T) for one in (student, teacher)]
    # Where all rounding is far below the noise, one factor of each has the digits.
    is_clear = noise > jnp.maximum(*map(_shift, kernels))
    return jax.lax.cond(
        is_clear,
        lambda: _factored_once(kernels, student, noise),
        lambda: _factored_twice(student, teacher, noise),
    )


def _factored_once(kernels: Sequence[Array], student: Array, noise: Array) -> Slopes:
    own, other = kernels
    found = [
        inverse_and_log_det(jittered(kernel, noise)) for kernel in (0.5 * (own + other), own, other)
    ]
    slopes = 0.5 * product(found[0][0], student), product(found[1][0], student)
    return tuple(log_det for _, log_det in found), slopes


def _factored_twice(student: Array, teacher: Array, noise: Array) -> Slopes:
    width = student.shape[1]
    both = jnp.concatenate([student, teacher], axis=1) * 0.5**0.5
    together, slope = _log_det_and_slope(both, noise, width)
    own, own_slope = _log_det_and_slope(student, noise)
    other, _ = _log_det_and_slope(teacher, noise)
    return (together, own, other), (0.5**0.5 * slope, own_slope)


@linear_log_dets.defjvp
def _(
    primals: tuple[Array, Array, Array], tangents: tuple[Array, Array, Array]
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    log_dets, slopes = _log_dets_and_slopes(*primals)
    together, own = (2 * jnp.sum(slope * tangents[0]) for slope in slopes)
    return log_dets, (together, own, jnp.zeros_like(log_dets[2]))


def _log_det_and_slope(
    features: Array, noise: Array, count: int | None = None
) -> tuple[Array, Array]:
    """The log det of features' covariance, and half of its derivative by the first of them.

    Args:
      features: `[N, D]`.
      noise: on the covariance's diagonal.
      count: how many columns of the features the derivative is by; None for all.
    """
    size, width = features.shape
    is_wide = size <= width
    columns, log_det = _orthonormal(features.T if is_wide else features, noise)
    # The turn and its transpose are near the identity: nothing is lost by their product.
    back = product(product(columns.turn.T, columns.turn), columns.inverse)
    if is_wide:
        return log_det, product(columns.above[:count], back).T
    return log_det + (size - width) * jnp.log(noise), product(columns.above, back[:, :count])


@jax.custom_jvp
def procrustes(student: Array, teacher: Array) -> Array:
    """Least squared distance of features `[N, D_s]` and `[N, D_t]` after a rotation."""
    return _procrustes_and_slope(student, teacher)[0]


def _procrustes_and_slope(student: Array, teacher: Array) -> tuple[Array, Array]:
    """The distance and its derivative by the student's features."""
    other = _narrowed(teacher)
    factor, basis = _factored(student)
    cross = product(factor.T, other)
    inner = None if basis is None else product(basis, basis.T)
    turn = orthogonal_factor(cross, inner)
    rotated = product(other, turn.T)
    if basis is not None:
        cross, rotated = product(inner, cross), product(rotated, basis)
    squares = jnp.sum(student**2) + jnp.sum(other**2)
    return jnp.maximum(squares - 2 * jnp.sum(turn * cross), 0.0), 2 * (student - rotated)


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
    cross = product((vectors * roots).T, other)
    turn = orthogonal_factor(cross)
    squares = jnp.sum(roots**2) + jnp.sum(other_roots**2)
    # The linear map that carries the one Gaussian to the other.
    transport = product(product(other, turn.T) / roots, vectors.T)
    slope = jnp.eye(len(student), dtype=student.dtype) - 0.5 * (transport + transport.T)
    return jnp.maximum(squares - 2 * jnp.sum(turn * cross), 0.0), slope


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


def _factored(features: Array) -> tuple[Array, Array | None]:
    """A factor `[N, N]` times a basis `[N, D]`, of features wider than N; else themselves and None.

    The product is exact, and the basis orthonormal but for what lies at the rounding of squares,
    where it vanishes: products of the basis with itself say how much.
    """
    if features.shape[1] <= len(features):
        return features, None
    products = product(features, features.T)
    tiny = jnp.finfo(features.dtype).tiny  # Of features that are all 0.
    factor, inverse = factor_and_inverse(jittered(products, _shift(products) + tiny))
    return factor, product(inverse, features)


def _narrowed(features: Array) -> Array:
    """At most N features with the same kernel."""
    if features.shape[1] <= len(features):
        return features
    return jnp.linalg.qr(features.T, mode="r").T
