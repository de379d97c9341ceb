"""Expectation propagation against exact integrals, a grid, and its own fixed-point equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from kd import samplers
from kd.inference import ep
from kd.inference.ep import logistic_ep
from kd.inference.logistic_integrals import TiltedMoments, mackay_moments

each_moments = pytest.mark.parametrize("moments", ["quadrature", "mackay"])
TIGHT = 1e-10


def thesis_data(seed):
    """24 points of two classes; no label is against the sign of x₁ for seeds 0 and 2, one for 1."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.normal(size=(12, 2)) - [4, 0], rng.normal(size=(12, 2)) + [4, 0]])
    y = (rng.random(24) < special.expit(x[:, 0])).astype(int)
    assert np.sum(y != (x[:, 0] > 0)) == (seed == 1)
    return x, y


def noisy_data(num, num_dims, *, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    x = scale * rng.normal(size=(num, num_dims))
    y = (rng.random(num) < special.expit(x @ rng.normal(size=num_dims))).astype(int)
    return x, y


def grid_posterior(x, y, prior_covariance, half_width, num):
    """Mean, covariance and log-evidence by the sum over a grid of [-half_width, half_width]^D."""
    num_dims = x.shape[1]
    axis = np.linspace(-half_width, half_width, num)
    w = np.stack(np.meshgrid(*[axis] * num_dims, indexing="ij"), -1).reshape(-1, num_dims)
    logs = stats.multivariate_normal(np.zeros(num_dims), prior_covariance).logpdf(w)
    for row, label in zip(x, y, strict=True):
        logs = logs + special.log_expit((2 * label - 1) * (w @ row))
    log_evidence = special.logsumexp(logs) + num_dims * np.log(axis[1] - axis[0])
    p = special.softmax(logs)
    mean = p @ w
    return mean, (w - mean).T @ (p[:, None] * (w - mean)), log_evidence


def quad_moments(mean, variance):
    """Z, mean and variance of σ(z) N(z; mean, variance) / Z by QUADPACK."""
    scale = np.sqrt(variance)
    density = lambda t: special.expit(mean + scale * t) * stats.norm.pdf(t)
    raw = [
        integrate.quad(lambda t, k=k: t**k * density(t), -12, 12, epsabs=1e-14, limit=500)[0]
        for k in range(3)
    ]
    t = raw[1] / raw[0]
    return raw[0], mean + scale * t, variance * (raw[2] / raw[0] - t**2)


def mackay_triple(mean, variance):
    found = mackay_moments(np.array(mean), np.array(variance))
    return np.exp(found.log_normalizer), found.mean, found.variance


@pytest.mark.parametrize("prior", [4.0, np.array([[4.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0, 0.5, 9]])])
@pytest.mark.parametrize("label", [0, 1])
def test_one_datum_is_exact(prior, label):
    """The posterior differs from the prior along one direction, where EP matches moments."""
    x = np.array([[0.5, -3.0, 1.0]])
    result = logistic_ep(x, np.array([label]), prior_covariance=prior)
    prior = prior * np.eye(3) if np.ndim(prior) == 0 else prior
    direction = (2 * label - 1) * prior @ x[0]
    variance = x[0] @ prior @ x[0]
    z, mean, tilted = quad_moments(0.0, variance)
    np.testing.assert_allclose(result.mean, direction * mean / variance, rtol=1e-8)
    covariance = prior + (tilted / variance - 1) / variance * np.outer(direction, direction)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-8)
    np.testing.assert_allclose(result.log_evidence, np.log(z), rtol=1e-8)
    assert result.is_converged and result.num_sweeps == 2 and result.num_skipped == 0


@pytest.mark.parametrize("num_dims, num_nodes", [(1, 20_001), (2, 301)])
@pytest.mark.parametrize("num, errors", [(24, (0.01, 0.07, 0.02)), (384, (5e-4, 0.02, 0.004))])
def test_posterior_of_noisy_data_by_grid(num_dims, num_nodes, num, errors):
    """EP's own error, in posterior deviations and nats, falls as the posterior nears a Gaussian."""
    x, y = noisy_data(num, num_dims, seed=1)
    mean, covariance, log_evidence = grid_posterior(x, y, 4.0, 12.0, num_nodes)
    result = logistic_ep(x, y, prior_covariance=4.0, tolerance=TIGHT)
    deviation = np.sqrt(np.diag(covariance))
    off = (result.covariance - covariance) / np.outer(deviation, deviation)
    assert np.max(np.abs(result.mean - mean) / deviation) < errors[0]
    assert np.max(np.abs(off)) < errors[1]
    assert abs(result.log_evidence - log_evidence) < errors[2]


def test_posterior_in_five_dimensions_against_long_chains():
    """Where no grid reaches: within Monte Carlo error plus what EP itself is off by."""
    x, y = noisy_data(300, 5, seed=3)

    def log_density(w):
        z = jnp.asarray(x, jnp.float32) @ w
        return jnp.sum(y * z - jax.nn.softplus(z)) - jnp.sum(w**2) / 8

    sampler = samplers.slice_sampler(log_density, width=0.5, order="random")
    starts = jax.random.normal(jax.random.key(0), (4, 5))
    draws = samplers.sample(
        jax.random.key(1), sampler, starts, num_samples=2500, burn_in=200, num_chains=4
    ).position
    found = samplers.diagnose(draws, num_chains=len(draws))
    assert max(one.r_hat for one in found.values()) < 1.01
    num_effective = min(one.ess for one in found.values())
    assert num_effective > 2000
    draws = np.asarray(draws, np.float64).reshape(-1, 5)
    deviation = draws.std(axis=0)
    result = logistic_ep(x, y, prior_covariance=4.0)
    off = (result.covariance - np.cov(draws.T)) / np.outer(deviation, deviation)
    assert np.max(np.abs(result.mean - draws.mean(0)) / deviation) < 4 / np.sqrt(num_effective)
    assert np.max(np.abs(off)) < 4 * np.sqrt(2 / num_effective) + 0.02


# By another implementation, and to the digits in which it was written down (facts.md 1.2).
FACTS = {
    (0, "quadrature"): ([10.9, 0.51], [14.6, 68.0]),
    (0, "mackay"): ([12.8, 0.44], [19.0, 79.0]),
    (1, "quadrature"): ([1.25, 0.16], [0.15, 1.16]),
    (1, "mackay"): ([1.62, 0.02], [0.30, 2.04]),
    (2, "quadrature"): ([11.4, -0.41], [15.3, 56.0]),
    (2, "mackay"): ([13.2, -0.09], [20.0, 67.0]),
}


@pytest.mark.parametrize("seed, moments", FACTS)
def test_thesis_data_as_another_implementation_has_them(seed, moments):
    x, y = thesis_data(seed)
    result = logistic_ep(x, y, prior_covariance=100.0, moments=moments)
    assert result.is_converged and result.num_skipped == 0 and result.num_sweeps < 50
    mean, variances = FACTS[seed, moments]
    np.testing.assert_allclose(result.mean, mean, rtol=0.005, atol=0.006)
    np.testing.assert_allclose(np.diag(result.covariance), variances, rtol=0.03)


@pytest.mark.parametrize("seed, half_width", [(0, 70.0), (1, 12.0), (2, 70.0)])
def test_ep_halves_the_variance_along_the_informative_direction(seed, half_width):
    """A known bias: 24 factors cut off one another's tails. Across, and in the mean, it is good."""
    x, y = thesis_data(seed)
    mean, covariance, log_evidence = grid_posterior(x, y, 100.0, half_width, 351)
    result = logistic_ep(x, y, prior_covariance=100.0, tolerance=TIGHT)
    ratio = np.diag(result.covariance) / np.diag(covariance)
    assert 0.4 < ratio[0] < 0.6 and 0.85 < ratio[1] < 1.05
    assert np.max(np.abs(result.mean - mean) / np.sqrt(np.diag(covariance))) < 0.2
    assert -0.4 < result.log_evidence - log_evidence < -0.1


@each_moments
@pytest.mark.parametrize("seed", [0, 1])
def test_converged_means_that_tilted_moments_are_the_approximations_own(seed, moments):
    x, y = thesis_data(seed)
    prior = np.array([[100.0, 20.0], [20.0, 50.0]])
    result = logistic_ep(x, y, prior_covariance=prior, moments=moments, tolerance=TIGHT)
    assert result.is_converged
    signed = (2 * y - 1)[:, None] * x
    precision = np.linalg.inv(prior) + signed.T @ np.diag(result.precisions) @ signed
    np.testing.assert_allclose(np.linalg.inv(precision), result.covariance, rtol=1e-7)
    mean = result.covariance @ signed.T @ result.shifts
    np.testing.assert_allclose(mean, result.mean, rtol=1e-7, atol=1e-9)
    moments_fn = quad_moments if moments == "quadrature" else mackay_triple
    log_evidence = np.log(np.linalg.det(result.covariance) / np.linalg.det(prior)) / 2
    log_evidence += mean @ precision @ mean / 2
    for row, tau, nu in zip(signed, result.precisions, result.shifts, strict=True):
        m, v = row @ result.mean, row @ result.covariance @ row
        cavity = 1 / (1 / v - tau)
        cavity_mean = cavity * (m / v - nu)
        z, tilted_mean, tilted_variance = moments_fn(cavity_mean, cavity)
        np.testing.assert_allclose(tilted_mean, m, atol=1e-7 * np.sqrt(v))
        np.testing.assert_allclose(tilted_variance, v, rtol=1e-7)
        # The constant by quadrature of the factor under its cavity.
        factor = lambda w, tau=tau, nu=nu: np.exp(-tau * w**2 / 2 + nu * w)
        normal = stats.norm(cavity_mean, np.sqrt(cavity))
        ends = m - 12 * np.sqrt(v), m + 12 * np.sqrt(v)
        mass = integrate.quad(lambda w, f=factor, n=normal: f(w) * n.pdf(w), *ends, points=[m])[0]
        log_evidence += np.log(z / mass)
    np.testing.assert_allclose(result.log_evidence, log_evidence, rtol=1e-7)


@each_moments
@pytest.mark.parametrize("data_seed", [0, 1])
def test_neither_order_nor_damping_moves_the_fixed_point(data_seed, moments):
    x, y = thesis_data(data_seed)
    settings = {"prior_covariance": 100.0, "moments": moments, "tolerance": TIGHT}
    result = logistic_ep(x, y, **settings)
    others = [logistic_ep(x, y, seed=seed, **settings) for seed in (1, 2)]
    others += [logistic_ep(x, y, damping=damping, **settings) for damping in (0.3, 0.8)]
    for other in others:
        assert other.is_converged
        np.testing.assert_allclose(other.mean, result.mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(other.covariance, result.covariance, rtol=1e-6)
        np.testing.assert_allclose(other.log_evidence, result.log_evidence, rtol=1e-7)
    assert others[-1].num_sweeps > 2 * result.num_sweeps


def test_the_seed_decides_all():
    x, y = thesis_data(1)
    runs = [
        logistic_ep(x, y, prior_covariance=100.0, seed=seed, max_sweeps=2) for seed in (3, 3, 4)
    ]
    np.testing.assert_array_equal(runs[0].mean, runs[1].mean)
    assert np.any(runs[0].mean != runs[2].mean)


@each_moments
def test_tolerance_bounds_the_error(moments):
    x, y = thesis_data(1)
    settings = {"prior_covariance": 100.0, "moments": moments}
    exact = logistic_ep(x, y, tolerance=TIGHT, **settings)
    result = logistic_ep(x, y, **settings)
    deviation = np.sqrt(np.diag(exact.covariance))
    assert np.max(np.abs(result.mean - exact.mean) / deviation) < 1e-3
    assert result.num_sweeps < exact.num_sweeps


@each_moments
@pytest.mark.parametrize("kind", ["separable", "noisy", "random labels", "few", "contradictory"])
def test_convergence(kind, moments):
    rng = np.random.default_rng(5)
    num, num_dims = {"separable": (600, 31), "few": (24, 31)}.get(kind, (300, 10))
    x, y = noisy_data(num, num_dims, scale=3.0)
    if kind == "separable":
        y = (x @ rng.normal(size=num_dims) > 0).astype(int)
    elif kind == "random labels":
        y = rng.integers(0, 2, num)
    elif kind == "contradictory":
        x, y = np.concatenate([x, x]), np.concatenate([y, 1 - y])
    result = logistic_ep(x, y, prior_covariance=100.0, moments=moments)
    assert result.is_converged and result.num_skipped == 0 and result.num_sweeps < 100
    assert np.all(np.linalg.eigvalsh(result.covariance) > 0)
    np.testing.assert_array_equal(result.covariance, result.covariance.T)
    assert np.all(result.precisions > 0)
    assert np.isfinite(result.mean).all() and -np.log(2) * len(x) - 200 < result.log_evidence < 0
    if kind == "contradictory":
        np.testing.assert_allclose(result.mean, 0, atol=1e-3)


def test_a_run_cut_short_says_so():
    x, y = thesis_data(0)
    result = logistic_ep(x, y, prior_covariance=100.0, max_sweeps=2)
    assert not result.is_converged and result.num_sweeps == 2
    assert np.isfinite(result.mean).all() and np.isfinite(result.log_evidence)


@pytest.mark.parametrize("seed, is_converged", [(0, True), (1, False)])
def test_the_released_codes_second_derivative_does_not_converge(monkeypatch, seed, is_converged):
    """Nor does it pass for converged, or end without a Gaussian."""

    def released(mean, variance):
        found = mackay_moments(mean, variance)
        kappa_squared = 1 / (1 + np.pi * variance / 8)
        curvature = kappa_squared * found.slope * (found.slope + np.pi / 8 * mean)
        return found._replace(curvature=curvature, variance=variance - variance**2 * curvature)

    monkeypatch.setitem(ep.MOMENTS, "mackay", released)
    x, y = thesis_data(seed)
    result = logistic_ep(x, y, prior_covariance=100.0, moments="mackay", max_sweeps=100)
    assert result.is_converged == is_converged
    assert np.isfinite(result.mean).all() and np.all(np.linalg.eigvalsh(result.covariance) > 0)
    if is_converged:
        np.testing.assert_allclose(result.mean, [11.1, 0.46], rtol=0.01)


def test_a_datum_without_a_cavity_is_skipped_and_never_passes_for_converged(monkeypatch):
    """Two equal data, prior precision 1: one factor of precision 5, then one of -3, which stays."""
    variances = iter([1 / 6, 1 / 3, 1 / 3])

    def crooked(mean, variance):
        tilted = next(variances)
        curvature = (1 - tilted / variance) / variance
        return TiltedMoments(0 * mean, mean, tilted + 0 * mean, 0 * mean, curvature)

    monkeypatch.setitem(ep.MOMENTS, "quadrature", crooked)
    result = logistic_ep(np.ones((2, 1)), np.ones(2), prior_covariance=1.0, max_sweeps=2)
    np.testing.assert_allclose(np.sort(result.precisions), [-3, 5])
    np.testing.assert_allclose(result.covariance, 1 / 3)
    assert (result.is_converged, result.num_skipped, result.num_sweeps) == (False, 1, 2)
    assert np.isnan(result.log_evidence)


def test_a_factor_that_leaves_no_gaussian_is_skipped(monkeypatch):
    bad = lambda mean, variance: TiltedMoments(mean, mean, -variance, 0 * mean, 1 + 0 * mean)
    monkeypatch.setitem(ep.MOMENTS, "quadrature", bad)
    result = logistic_ep(np.full((1, 1), 2.0), np.ones(1), prior_covariance=1.0, max_sweeps=3)
    assert (result.is_converged, result.num_skipped, result.num_sweeps) == (False, 1, 3)
    np.testing.assert_array_equal(result.mean, np.zeros(1))


def test_an_input_of_zeros_tells_nothing():
    x, y = thesis_data(1)
    settings = {"prior_covariance": 100.0, "tolerance": TIGHT}
    result = logistic_ep(x, y, **settings)
    padded = logistic_ep(np.concatenate([np.zeros((2, 2)), x]), np.append([0, 1], y), **settings)
    np.testing.assert_allclose(padded.mean, result.mean, rtol=1e-7)
    np.testing.assert_allclose(padded.log_evidence, result.log_evidence - 2 * np.log(2), rtol=1e-9)
    assert padded.is_converged and padded.num_skipped == 0


@given(st.integers(0, 100), st.sampled_from(["quadrature", "mackay"]))
def test_signs_mirror(seed, moments):
    x, y = noisy_data(9, 2, seed=seed, scale=2.0)
    settings = {"prior_covariance": 10.0, "moments": moments}
    result = logistic_ep(x, y, **settings)
    both = logistic_ep(-x, 1 - y, **settings)
    np.testing.assert_array_equal(both.mean, result.mean)
    np.testing.assert_array_equal(both.covariance, result.covariance)
    labels = logistic_ep(x, 1 - y, **settings)
    np.testing.assert_allclose(labels.mean, -result.mean, rtol=1e-12)
    np.testing.assert_allclose(labels.covariance, result.covariance, rtol=1e-12)
    assert labels.log_evidence == pytest.approx(result.log_evidence, rel=1e-12)


@given(st.integers(0, 100), st.floats(-6, 6), st.sampled_from(["quadrature", "mackay"]))
def test_units_of_the_inputs_do_not_matter(seed, log_unit, moments):
    """Inputs A x and weights A⁻ᵀ w: sweeps, evidence, and the posterior in its new units."""
    x, y = noisy_data(9, 2, seed=seed, scale=2.0)
    a = np.exp(log_unit) * np.array([[1.0, 0.5], [-2.0, 1.5]])
    result = logistic_ep(x, y, prior_covariance=10.0, moments=moments)
    back = np.linalg.inv(a).T
    other = logistic_ep(x @ a.T, y, prior_covariance=10.0 * back @ back.T, moments=moments)
    np.testing.assert_allclose(
        other.mean, back @ result.mean, rtol=1e-7, atol=1e-9 / np.exp(log_unit)
    )
    np.testing.assert_allclose(other.covariance, back @ result.covariance @ back.T, rtol=1e-7)
    assert other.log_evidence == pytest.approx(result.log_evidence, rel=1e-9)
    assert other.num_sweeps == result.num_sweeps


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": np.ones(4)}, "x must have rank 2"),
        ({"x": np.ones((0, 2)), "y": np.ones(0)}, r"x must hold at least one .* got \(0, 2\)"),
        ({"x": np.full((4, 2), np.nan)}, "x must be finite"),
        ({"y": np.ones(3)}, "same length, got 4 and 3"),
        ({"y": np.array([-1, 1, 1, -1])}, "y must hold zeros and ones alone"),
        ({"prior_covariance": -1.0}, "prior_covariance must be finite and positive, got -1.0"),
        ({"prior_covariance": np.eye(3)}, r"prior_covariance must have shape \(2, 2\)"),
        ({"prior_covariance": np.array([[1, 0.1], [0.3, 1]])}, "must be symmetric, .* 0.2"),
        ({"prior_covariance": np.ones((2, 2))}, "must be positive definite"),
        ({"moments": "probit"}, "moments must be one of quadrature, mackay; got 'probit'"),
        ({"damping": 1.0}, r"damping must be in \[0, 1\), got 1.0"),
        ({"damping": -0.1}, r"damping must be in \[0, 1\), got -0.1"),
        ({"damping": np.nan}, r"damping must be in \[0, 1\), got nan"),
        ({"max_sweeps": 0}, "max_sweeps must be at least 1, got 0"),
        ({"tolerance": 0.0}, "tolerance must be finite and positive, got 0.0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_refusals(change, message):
    arguments = {"x": np.eye(4, 2), "y": np.array([0, 1, 1, 0]), "prior_covariance": 1.0} | change
    with pytest.raises(ValueError, match=message):
        logistic_ep(arguments.pop("x"), arguments.pop("y"), **arguments)


@pytest.mark.parametrize("name", ["max_sweeps", "seed"])
def test_counts_are_integers(name):
    with pytest.raises(TypeError, match=f"{name} must be an integer, got 1.5"):
        logistic_ep(np.ones((1, 1)), np.ones(1), prior_covariance=1.0, **{name: 1.5})
