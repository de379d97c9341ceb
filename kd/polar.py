"""The orthogonal factor of a matrix, by matrix products and inverses of blocks."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from kd.positive_definite import inverse_and_log_det, product
from kd.types import Array

SHIFT = 64  # Roundings, of an inner product's diagonal.
CLOSE = 1e-6  # To 1, before a last step that doubles the digits.


def orthogonal_factor(matrix: Array, inner: Array | None = None) -> Array:
    r"""The factor U of M = U P, with P positive semidefinite: M with all singular values at 1.

    It is the product of M's left and right singular vectors, without those: on a CPU the threads of
    LAPACK that find them keep the cores from what comes next. By rational functions of M that lift
    small singular values most: seven steps, each the inverse of an identity plus squares. Singular
    values below a sixteenth of the precision, times the norm, stay below 1, and those at 0 are 0;
    where a matrix is of lower rank but for rounding, all are 1, and directions outside of its rank
    arbitrary.

    Args:
      matrix: `[R, D]`, wide or tall, of any rank. Not differentiated through.
      inner: `[R, R]`, for columns Q that are not orthonormal: :math:`Q^\top Q`, of which M = Q
        `matrix`.

    Returns:
      `[R, D]`, U itself, or with `inner` what Q is multiplied by to have U. The largest trace of
      :math:`U^\top M` there is: M's nuclear norm.

    Example:
      >>> factor = orthogonal_factor(jnp.array([[0.0, -3.0], [0.1, 0.0]]))
      >>> print(f"{factor[0, 1]:.4f} {factor[1, 0]:.4f}")
      -1.0000 1.0000

    Reference:
      Nakatsukasa, Bai and Gygi (2010), "Optimizing Halley's iteration for computing the matrix
      polar decomposition", (3.12), with weights held back where single precision would not do.
    """
    if inner is None and matrix.shape[0] < matrix.shape[1]:
        return orthogonal_factor(matrix.T).T
    info = jnp.finfo(matrix.dtype)

    def by_inner(found: Array, noise: float = 0.0) -> Array:
        return found if inner is None else product(inner, found) + noise * found

    # Where Q vanishes, what it is multiplied by grows, and rounding with it.
    shifted = partial(by_inner, noise=SHIFT * info.eps)
    # The root of the sum of squares is at least the largest singular value.
    matrix = matrix / jnp.maximum(jnp.max(jnp.abs(matrix)), info.tiny)
    norm = jnp.sqrt(jnp.sum(matrix * shifted(matrix)))
    identity = jnp.eye(matrix.shape[1], dtype=matrix.dtype)

    def step(found: Array, weights: Array) -> tuple[Array, None]:
        first, second, third = weights
        squares = product(found.T, shifted(found))
        inverse, _ = inverse_and_log_det(identity + third * squares)
        ratio = second / third
        return ratio * found + (first - ratio) * product(found, inverse), None

    weights = jnp.asarray(_weights(float(info.eps)), matrix.dtype)
    found, _ = jax.lax.scan(step, matrix / jnp.maximum(norm, info.tiny), weights)
    return 1.5 * found - 0.5 * product(found, product(found.T, by_inner(found)))


@lru_cache
def _weights(rounding: float) -> np.ndarray:
    """`[K, 3]`: of x (a + b x²) / (1 + c x²), step by step until all values are near 1."""
    least, most = rounding / 16, 0.35 * rounding**-0.5  # Of x; of c, which magnifies rounding.
    found = []
    while least < 1 - CLOSE:
        square = least**2
        root = np.sqrt(1 + np.cbrt(4 * (1 - square) / square**2))
        first = root + np.sqrt(8 - 4 * (root**2 - 1) + 8 * (2 - square) / (square * root)) / 2
        first = min(first, 2 * np.sqrt(most) - 1)
        second = (first - 1) ** 2 / 4
        third = first + second - 1
        found.append((first, second, third))
        least *= (first + second * square) / (1 + third * square)
    return np.array(found)
