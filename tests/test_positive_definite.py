"""Inverses and determinants against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import positive_definite
from kd.positive_definite import inverse_and_log_det


@pytest.mark.parametrize("size", [1, 2, 5, 7, 16, 21, 40])
def test_against_numpy(size, x64, monkeypatch):
    """Of blocks of four, so that each has several levels."""
    monkeypatch.setattr(positive_definite, "BLOCK", 4)
    monkeypatch.setattr(positive_definite, "MOST_BLOCKS", 4)
    rng = np.random.default_rng(size)
    roots = rng.normal(size=(3, size, size))
    matrices = roots @ np.swapaxes(roots, 1, 2) + 0.1 * np.eye(size)
    inverse, log_det = inverse_and_log_det(jnp.asarray(matrices))
    np.testing.assert_allclose(inverse, np.linalg.inv(matrices), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(log_det, np.linalg.slogdet(matrices)[1], rtol=1e-9)
    slope = jax.grad(lambda a: inverse_and_log_det(a)[1])(jnp.asarray(matrices[0]))
    np.testing.assert_allclose(
        slope + slope.T, 2 * np.linalg.inv(matrices[0]), rtol=1e-7, atol=1e-8
    )


def test_an_indefinite_matrix_has_nan():
    for size in (3, 200):
        matrix = jnp.eye(size).at[size - 1, size - 1].set(-1.0)
        inverse, log_det = inverse_and_log_det(matrix)
        assert np.isnan(log_det) and np.any(np.isnan(inverse))
