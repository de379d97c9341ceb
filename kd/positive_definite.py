"""Inverses and determinants of positive definite matrices, by blocks."""

import jax
import jax.numpy as jnp

from kd.types import Array

# On a CPU LAPACK's factors are of blocks no larger than this: of larger ones its own threads would
# wait for more, and keep those of XLA from the cores for milliseconds. Of 32 an inverse alone is a
# little faster, and a step that has one half as slow again.
BLOCK = 16
MOST_BLOCKS = 64  # Along the diagonal: each is compiled.


def inverse_and_log_det(matrix: Array) -> tuple[Array, Array]:
    r"""The inverse of a positive definite matrix and the logarithm of its determinant.

    Through Cholesky factors of blocks and their Schur complements, so that nearly all of it is
    matrix products. Of the matrix the lower triangle counts.

    Args:
      matrix: `[..., M, M]`, symmetric; gradients flow through.

    Returns:
      `[..., M, M]` and `[...]`; NaN where the matrix is not positive definite.

    Example:
      >>> inverse, log_det = inverse_and_log_det(jnp.diag(jnp.array([1.0, 4.0])))
      >>> inverse.tolist()
      [[1.0, 0.0], [0.0, 0.25]]
      >>> print(f"{log_det:.4f}")
      1.3863

    Reference:
      Golub and Van Loan (2013), "Matrix computations", sections 3.2 and 4.2.
    """
    return _inverse_and_log_det(matrix, _block_of(matrix.shape[-1]))


def factor_and_inverse(matrix: Array) -> tuple[Array, Array]:
    """The lower Cholesky factor of a positive definite matrix, and the factor's inverse.

    By blocks, as `inverse_and_log_det`. Of the matrix the lower triangle counts.

    Args:
      matrix: `[..., M, M]`, symmetric; gradients flow through.

    Returns:
      `[..., M, M]` each; NaN where the matrix is not positive definite.

    Example:
      >>> factor, inverse = factor_and_inverse(jnp.diag(jnp.array([1.0, 4.0])))
      >>> factor.tolist(), inverse.tolist()
      ([[1.0, 0.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 0.5]])

    Reference:
      Golub and Van Loan (2013), section 4.2.
    """
    return _factor_and_inverse(matrix, _block_of(matrix.shape[-1]))


def log_diagonal(factor: Array) -> Array:
    """The logarithm of a positive definite matrix's determinant, of its factor `[..., M, M]`."""
    return 2 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)


def _block_of(size: int) -> int:
    if jax.default_backend() != "cpu":
        return size
    return max(BLOCK, -(-size // MOST_BLOCKS))


def _inverse_and_log_det(matrix: Array, block: int) -> tuple[Array, Array]:
    size = matrix.shape[-1]
    if size <= block:
        factor, inverse = _factor_and_inverse(matrix, block)
        return product(_transposed(inverse), inverse), log_diagonal(factor)
    half = size // 2
    factor, inverse = _factor_and_inverse(matrix[..., :half, :half], block)
    below = product(matrix[..., half:, :half], _transposed(inverse))
    rest = matrix[..., half:, half:] - product(below, _transposed(below))
    last, log_det = _inverse_and_log_det(rest, block)
    below = product(below, inverse)
    corner = -product(last, below)
    first = product(_transposed(inverse), inverse) - product(_transposed(below), corner)
    whole = jnp.block([[first, _transposed(corner)], [corner, last]])
    return whole, log_det + log_diagonal(factor)


def _factor_and_inverse(matrix: Array, block: int) -> tuple[Array, Array]:
    """The lower Cholesky factor, and its inverse."""
    size = matrix.shape[-1]
    if size <= block:
        factor = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
        identity = jnp.broadcast_to(jnp.eye(size, dtype=matrix.dtype), matrix.shape)
        # From the right: from the left LAPACK would be given copies.
        return factor, jax.lax.linalg.triangular_solve(factor, identity, lower=True)
    half = size // 2
    first, first_inverse = _factor_and_inverse(matrix[..., :half, :half], block)
    below = product(matrix[..., half:, :half], _transposed(first_inverse))
    rest = matrix[..., half:, half:] - product(below, _transposed(below))
    last, last_inverse = _factor_and_inverse(rest, block)
    corner = -product(last_inverse, product(below, first_inverse))
    zeros = jnp.zeros((*matrix.shape[:-2], half, size - half), matrix.dtype)
    factor = jnp.block([[first, zeros], [below, last]])
    return factor, jnp.block([[first_inverse, zeros], [corner, last_inverse]])


def product(left: Array, right: Array) -> Array:
    """In full single precision everywhere: GPUs' shorter formats make kernels indefinite."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _transposed(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, -1, -2)
