"""The orthogonal factor against NumPy's singular vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd.polar import orthogonal_factor

# Of rows, columns and rank.
SHAPES = [(1, 1, 1), (5, 5, 5), (9, 4, 4), (4, 9, 4), (12, 7, 3), (40, 40, 1)]


def draw(shape):
    rng = np.random.default_rng(0)
    rows, columns, rank = shape
    return rng.normal(size=(rows, rank)) @ rng.normal(size=(rank, columns))


def orthonormal(rows, columns, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(rows, columns)))[0]


def exact(matrix, rank):
    left, values, right = np.linalg.svd(np.float64(matrix), full_matrices=False)
    return left[:, :rank] @ right[:rank], np.sum(values[:rank])


@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e15])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_singular_vectors(shape, scale, x64):
    """Of a matrix that is not of full rank, without what lies outside of its rank."""
    matrix = scale * draw(shape)
    expected, norm = exact(matrix, shape[2])
    found = jax.jit(orthogonal_factor)(jnp.asarray(matrix))
    # Of rounding outside of the rank it may have made something; nothing that meets the matrix.
    assert float(jnp.sum(found * matrix)) == pytest.approx(norm, rel=1e-12)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    within = left[:, : shape[2]].T @ np.asarray(found) @ right[: shape[2]].T
    np.testing.assert_allclose(
        within, left[:, : shape[2]].T @ expected @ right[: shape[2]].T, atol=1e-10
    )
    assert np.linalg.norm(found, 2) <= 1 + 1e-10


@pytest.mark.parametrize("decades", [1, 3, 5])
def test_single_precision_of_ill_conditioned_ones(decades):
    """All singular values are lifted, of whatever size; directions are as good as the numbers."""
    size = 48
    values = 10.0 ** -np.linspace(0, decades, size)
    matrix = np.float32(orthonormal(size, size) * values @ orthonormal(size, size, 1))
    found = np.float64(orthogonal_factor(jnp.asarray(matrix)))
    np.testing.assert_allclose(found.T @ found, np.eye(size), atol=2e-6)
    expected, norm = exact(matrix, size)
    assert np.sum(found * matrix) == pytest.approx(norm, rel=1e-6)
    assert np.max(np.abs(found - expected)) < 1e-6 * 10**decades


def test_a_basis_that_is_not_orthonormal(x64):
    """Directions in which it vanishes are nobody's, and nothing grows there without end."""
    basis = orthonormal(30, 6) * np.array([1, 1, 0.5, 1e-2, 1e-9, 0.0]) @ orthonormal(6, 6, 1)
    matrix = draw((6, 5, 5))
    inner = jnp.asarray(basis.T @ basis)
    found = np.asarray(orthogonal_factor(jnp.asarray(matrix), inner))
    _, norm = exact(basis @ matrix, 5)
    assert np.sum((basis @ found) * (basis @ matrix)) == pytest.approx(norm, rel=1e-8)
    assert np.linalg.norm(basis @ found, 2) <= 1 + 1e-8
    single = orthogonal_factor(*(jnp.asarray(one, jnp.float32) for one in (matrix, inner)))
    single = basis @ np.float64(single)
    # Squares of 1e-4, of the fourth direction, are ten times the noise there.
    assert np.sum(single * (basis @ matrix)) == pytest.approx(norm, rel=1e-4)
    assert np.linalg.norm(single, 2) <= 1 + 1e-3


def test_nothing_has_nothing():
    """Of zeros, as of a layer that is dead: finite."""
    assert not np.any(orthogonal_factor(jnp.zeros((4, 3))))
    assert np.all(np.isfinite(orthogonal_factor(jnp.ones((4, 3)), jnp.zeros((4, 4)))))
