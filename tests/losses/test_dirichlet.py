"""Dirichlet likelihood: scipy's densities, finite everywhere, least where it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, special, stats

from kd.losses import dirichlet_negative_log_likelihood as loss

MEMBERS = np.random.default_rng(0).dirichlet([2.0, 3.0, 1.0], size=9)
TARGET = np.log(MEMBERS).mean(0)


@given(st.integers(0, 10_000), st.floats(-6, 9))
def test_value_is_the_mean_density_of_scipy(seed, size):
    z = size + np.random.default_rng(seed).normal(size=3)
    expected = -np.mean([stats.dirichlet(np.exp(z)).logpdf(member) for member in MEMBERS])
    with jax.enable_x64(True):
        assert float(loss(jnp.asarray(z), jnp.asarray(TARGET))) == pytest.approx(expected, rel=1e-9)
    found = float(loss(jnp.asarray(z, jnp.float32), jnp.asarray(TARGET, jnp.float32)))
    assert found == pytest.approx(expected, rel=2e-5, abs=2e-4)


def test_gradient_against_central_differences_and_digammas(x64):
    z = np.array([0.3, 4.0, -2.0])
    slope = jax.grad(loss)(jnp.asarray(z), jnp.asarray(TARGET))
    by_hand = lambda z: np.array([float(loss(jnp.asarray(z), jnp.asarray(TARGET)))])
    np.testing.assert_allclose(slope, oracles.central_jacobian(by_hand, z)[0], rtol=1e-6)
    a = np.exp(z)
    digammas = special.digamma(a) - special.digamma(a.sum()) - TARGET
    np.testing.assert_allclose(slope, a * digammas, rtol=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 2.5, 10.0])
def test_temperature_divides_the_outputs_and_keeps_the_size_of_slopes(temperature, x64):
    """Of the concentrations that scipy is given; T² times the density's logarithm."""
    z = np.array([3.0, 5.0, -2.0])
    concentrations = np.exp(z / temperature)
    density = np.mean([stats.dirichlet(concentrations).logpdf(member) for member in MEMBERS])
    found, slope = jax.value_and_grad(lambda z, t: loss(z, jnp.asarray(TARGET), temperature=t))(
        jnp.asarray(z), jnp.asarray(temperature)
    )
    assert float(found) == pytest.approx(-(temperature**2) * density, rel=1e-9)
    digammas = special.digamma(concentrations) - special.digamma(concentrations.sum()) - TARGET
    np.testing.assert_allclose(slope, temperature * concentrations * digammas, rtol=1e-8)


@pytest.mark.parametrize("z", [1e4, -1e4, 60.0, 80.0])
@pytest.mark.parametrize("others", [-1e4, 0.0, 1e4])
def test_finite_where_concentrations_are_not(z, others):
    value, slope = jax.value_and_grad(loss)(
        jnp.array([z, others, others]), jnp.asarray(TARGET, jnp.float32)
    )
    assert np.isfinite(value) and np.all(np.isfinite(slope))


def test_least_at_the_maximum_likelihood_fit(x64):
    """That of the fixed-point equations, digamma(a) - digamma(a_0) = mean log p."""
    found = optimize.minimize(
        lambda z: float(loss(jnp.asarray(z), jnp.asarray(TARGET))),
        np.zeros(3),
        jac=lambda z: np.asarray(jax.grad(loss)(jnp.asarray(z), jnp.asarray(TARGET))),
    )
    a = np.exp(found.x)
    np.testing.assert_allclose(special.digamma(a) - special.digamma(a.sum()), TARGET, atol=1e-4)


def test_raises():
    with pytest.raises(ValueError, match="log_concentrations"):
        loss(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="mean_log_probs"):
        loss(jnp.zeros(3), jnp.zeros(2))
    with pytest.raises(ValueError, match="temperature must be finite and positive, got 0"):
        loss(jnp.zeros(2), jnp.full(2, -1.0), temperature=0.0)


def test_probabilities_given_for_their_logarithms_make_nan():
    assert np.isnan(loss(jnp.zeros(2), jnp.array([0.5, 0.5])))
    with pytest.raises(ValueError, match="the number of classes"):
        loss(jnp.zeros(0), jnp.zeros(0))
