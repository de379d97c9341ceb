"""kd.models.GaussianMixture: against scipy, by quadrature, and the law of its samples."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from kd.models import GaussianMixture

COVARIANCES = ["full", "diagonal", "spherical"]
each_covariance = pytest.mark.parametrize("covariance", COVARIANCES)


def random_params(mixture, seed=0, scale=0.7):
    shapes = jax.eval_shape(mixture.init, jax.random.key(0), jnp.zeros(mixture.num_dims))
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(seed)
    return structure.unflatten([jnp.array(scale * rng.normal(size=leaf.shape)) for leaf in leaves])


@functools.partial(jax.jit, static_argnums=0)
def accessors(mixture, params):
    return mixture.weights(params), mixture.means(params), mixture.covariances(params)


def moments(mixture, params):
    return [np.array(value) for value in accessors(mixture, params)]


def scipy_log_prob(weights, means, covariances, x):
    """Component by component."""
    terms = [
        math.log(w) + stats.multivariate_normal(m, c).logpdf(x).reshape(x.shape[:-1])
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return special.logsumexp(terms, axis=0)


def covariances_by_hand(mixture, params):
    """From the leaves: an inverse Cholesky factor, row by row."""
    leaves = {name: np.array(leaf) for name, leaf in params["params"].items()}
    found = []
    for k in range(mixture.num_components):
        inverse = np.zeros((mixture.num_dims, mixture.num_dims))
        entries = iter(leaves["lower"][k]) if "lower" in leaves else None
        for i in range(mixture.num_dims):
            scale = leaves["log_scales"][k] if mixture.covariance == "spherical" else None
            inverse[i, i] = math.exp(-(leaves["log_scales"][k, i] if scale is None else scale))
            for j in range(i) if entries else ():
                inverse[i, j] = next(entries)
        found.append(np.linalg.inv(inverse.T @ inverse))
    return np.array(found)


@each_covariance
@given(count=st.integers(1, 3), size=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_log_prob_is_scipys(covariance, count, size, seed):
    mixture = GaussianMixture(count, size, covariance)
    x = np.random.default_rng(seed).normal(size=(4, size)) * 2
    with jax.enable_x64(True):
        params = random_params(mixture, seed)
        weights, means, covariances = moments(mixture, params)
        np.testing.assert_allclose(
            covariances, covariances_by_hand(mixture, params), rtol=1e-8, atol=1e-10
        )
        np.testing.assert_allclose(weights, special.softmax(params["params"]["logits"]), rtol=1e-12)
        np.testing.assert_array_equal(means, params["params"]["locations"])
        expected = scipy_log_prob(weights, means, covariances, x)
        found = jax.jit(mixture.log_prob)(params, x)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@each_covariance
def test_batches_of_any_shape_single_inputs_vmap_and_jit_agree(covariance):
    mixture = GaussianMixture(3, 2, covariance)
    params = random_params(mixture, 1)
    x = jnp.array(np.random.default_rng(2).normal(size=(3, 2, 2)), jnp.float32)
    expected = np.array([[mixture.log_prob(params, one) for one in row] for row in x])
    assert expected.shape == (3, 2) and expected.dtype == np.float32
    per_example = jax.vmap(jax.vmap(lambda x: mixture.log_prob(params, x)))
    for fn in (lambda x: mixture.log_prob(params, x), per_example, jax.jit(per_example)):
        np.testing.assert_allclose(fn(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(mixture.apply(params, x), mixture.log_prob(params, x))
    assert mixture.log_prob(params, np.zeros(2, np.int32)).dtype == jnp.float32


@each_covariance
@pytest.mark.parametrize("size", [1, 2])
def test_it_integrates_to_one(covariance, size, x64):
    """By the trapezoid rule, exact to rounding for what is smooth and ends in zeros."""
    mixture = GaussianMixture(3, size, covariance)
    params = random_params(mixture, 3, scale=0.4)
    axis, step = np.linspace(-40, 40, 801, retstep=True)
    grid = np.stack(np.meshgrid(*[axis] * size, indexing="ij"), axis=-1)
    total = np.sum(np.exp(mixture.log_prob(params, grid))) * step**size
    np.testing.assert_allclose(total, 1.0, rtol=1e-9)


@each_covariance
def test_derivatives_are_central_differences(covariance, x64):
    mixture = GaussianMixture(3, 3, covariance)
    params = random_params(mixture, 4)
    x = np.random.default_rng(5).normal(size=3)
    log_prob = jax.jit(mixture.log_prob)
    score = jax.jit(jax.grad(lambda x: mixture.log_prob(params, x)))
    expected = oracles.central_jacobian(lambda x: float(log_prob(params, x)), x)
    np.testing.assert_allclose(score(jnp.array(x)), expected, rtol=1e-6, atol=1e-8)
    expected = oracles.central_jacobian(lambda x: np.array(score(jnp.array(x))), x)
    found = jax.jit(jax.hessian(lambda x: mixture.log_prob(params, x)))(jnp.array(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    for name, leaf in params["params"].items():

        def at(leaf, name=name):
            changed = {"params": params["params"] | {name: jnp.array(leaf)}}
            return log_prob(changed, jnp.array(x))

        expected = oracles.central_jacobian(lambda leaf: float(at(leaf)), np.array(leaf))  # noqa: B023
        np.testing.assert_allclose(jax.grad(at)(leaf), expected, rtol=1e-6, atol=1e-8)


@functools.partial(jax.jit, static_argnums=0)
def value_and_derivatives(mixture, params, x):
    """The log-density, its gradients, and those of its score's sum."""
    fn = mixture.log_prob
    mixed = jax.grad(lambda params, x: jnp.sum(jax.grad(fn, argnums=1)(params, x)))
    return *jax.value_and_grad(fn, argnums=(0, 1))(params, x), mixed(params, x)


@each_covariance
@pytest.mark.parametrize("distance", [1e2, 1e4, 1e8])
@pytest.mark.parametrize("logit", [0.0, -1e4, 1e4, -math.inf])
def test_far_away_and_without_weight_all_is_finite(covariance, distance, logit):
    mixture = GaussianMixture(2, 2, covariance)
    params = random_params(mixture, 6)
    params["params"]["logits"] = jnp.array([0.0, logit], jnp.float32)
    for x in (jnp.array([distance, -distance]), params["params"]["locations"][1]):
        found = jax.tree.leaves(value_and_derivatives(mixture, params, x))
        assert all(np.all(np.isfinite(leaf)) for leaf in found)


def test_a_component_without_weight_is_not_there(x64):
    both, one = GaussianMixture(2, 2), GaussianMixture(1, 2)
    params = random_params(both, 7)
    params["params"]["logits"] = jnp.array([0.3, -1e4])
    alone = {"params": {name: leaf[:1] for name, leaf in params["params"].items()}}
    x = np.random.default_rng(8).normal(size=(5, 2))
    np.testing.assert_allclose(both.log_prob(params, x), one.log_prob(alone, x), rtol=1e-12)


# Samples.


def test_samples_have_the_moments_of_the_mixture(x64):
    num = 40_000
    for covariance in COVARIANCES:
        mixture = GaussianMixture(3, 2, covariance)
        params = random_params(mixture, 9)
        weights, means, covariances = moments(mixture, params)
        mean = weights @ means
        second = np.einsum(
            "k,kij->ij", weights, covariances + means[:, :, None] * means[:, None, :]
        )
        x = np.array(mixture.sample(params, jax.random.key(10), num))
        assert x.shape == (num, 2) and x.dtype == np.float64
        outer = x[:, :, None] * x[:, None, :]
        for draws, expected in ((x, mean), (outer, second)):
            error = np.std(draws, axis=0) / np.sqrt(num)
            assert np.all(np.abs(np.mean(draws, axis=0) - expected) < 4 * error)


def test_samples_pass_a_chi_squared_test_in_bins_of_equal_probability():
    mixture = GaussianMixture(2, 1)
    params = mixture.from_moments(
        jnp.array([0.8, 0.2]), jnp.array([[-1.0], [2.0]]), jnp.array([[[0.25]], [[4.0]]])
    )
    x = np.array(mixture.sample(params, jax.random.key(11), 20_000), np.float64)[:, 0]
    u = 0.8 * special.ndtr((x + 1) / 0.5) + 0.2 * special.ndtr((x - 2) / 2)
    counts, _ = np.histogram(u, bins=40, range=(0, 1))
    assert stats.chisquare(counts).pvalue > 1e-3
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_samples_of_a_full_covariance_are_correlated_as_it_says():
    """Whitened by the mixture's own covariance, one component is a standard normal."""
    mixture = GaussianMixture(1, 2)
    covariance = np.array([[2.0, -1.5], [-1.5, 1.5]])
    params = mixture.from_moments(
        jnp.ones(1), jnp.array([[3.0, -1.0]]), jnp.array(covariance)[None]
    )
    x = np.array(mixture.sample(params, jax.random.key(12), 20_000), np.float64)
    z = np.linalg.solve(np.linalg.cholesky(covariance), (x - [3.0, -1.0]).T)
    assert stats.kstest(np.sum(z**2, axis=0), stats.chi2(2).cdf).pvalue > 1e-3
    assert abs(np.mean(z[0] * z[1])) < 4 / np.sqrt(len(x))


def test_the_key_decides_the_samples():
    mixture = GaussianMixture(2, 3)
    params = random_params(mixture, 13)
    sample = jax.jit(lambda params, key: mixture.sample(params, key, 4))
    first, again, other = (sample(params, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)
    eager = mixture.sample(params, jax.random.key(0), 4)
    np.testing.assert_allclose(eager, first, rtol=1e-5, atol=1e-6)
    slopes = jax.grad(lambda params: jnp.sum(sample(params, jax.random.key(0))))(params)
    np.testing.assert_allclose(jnp.sum(slopes["params"]["locations"], axis=0), 4 * np.ones(3))
    np.testing.assert_array_equal(slopes["params"]["logits"], np.zeros(2))


# Where it starts, and given moments.


@each_covariance
def test_it_starts_with_equal_weights_identities_and_normal_means(covariance):
    mixture = GaussianMixture(2000, 2, covariance)
    weights, means, covariances = moments(
        mixture, mixture.init(jax.random.key(14), jnp.zeros((7, 2)))
    )
    np.testing.assert_allclose(weights, np.full(2000, 1 / 2000), rtol=1e-5)
    np.testing.assert_array_equal(covariances, np.broadcast_to(np.eye(2), (2000, 2, 2)))
    assert stats.kstest(np.ravel(means), "norm").pvalue > 1e-3


@each_covariance
@given(size=st.integers(1, 3), seed=st.integers(0, 2**16))
def test_from_moments_is_the_accessors_inverse(covariance, size, seed):
    mixture = GaussianMixture(2, size, covariance)
    with jax.enable_x64(True):
        params = random_params(mixture, seed)
        again = mixture.from_moments(*map(jnp.array, moments(mixture, params)))
        assert jax.tree.structure(again) == jax.tree.structure(params)
        for name in ("locations", "log_scales"):
            np.testing.assert_allclose(again["params"][name], params["params"][name], rtol=1e-8)
        for ours, theirs in zip(moments(mixture, again), moments(mixture, params), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("covariance", ["diagonal", "spherical"])
def test_a_covariance_it_cannot_hold_becomes_the_nearest(covariance, x64):
    """No other of its form has less KL divergence from the Gaussian given."""
    given_ = np.array([[2.0, 0.9], [0.9, 0.5]])
    mixture = GaussianMixture(1, 2, covariance)
    params = mixture.from_moments(jnp.ones(1), jnp.zeros((1, 2)), jnp.array(given_)[None])
    (found,) = np.array(mixture.covariances(params))

    def divergence(variances):
        return 0.5 * (np.sum(np.diag(given_) / variances) + np.sum(np.log(variances)))

    best = divergence(np.diag(found))
    free = np.eye(2) if covariance == "diagonal" else np.ones((1, 2))
    for direction in free:
        for step in (-1e-3, 1e-3):
            assert divergence(np.diag(found) * np.exp(step * direction)) > best


def test_raises():
    for arguments, message in [
        ((0, 2), "num_components must be at least 1, got 0"),
        ((2, 0), "num_dims must be at least 1, got 0"),
        ((2, 2, "tied"), "covariance must be one of full, diagonal, spherical; got 'tied'"),
    ]:
        with pytest.raises(ValueError, match=message):
            GaussianMixture(*arguments)
    mixture = GaussianMixture(2, 3)
    params = mixture.init(jax.random.key(0), jnp.zeros(3))
    for x in (jnp.zeros(2), jnp.zeros((3, 1)), jnp.zeros(())):
        with pytest.raises(ValueError, match=re.escape("x must have shape [..., 3]")):
            mixture.log_prob(params, x)
    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        mixture.sample(params, jax.random.key(0), 0)


def test_from_moments_raises():
    mixture = GaussianMixture(1, 2)
    weights, means, covariances = jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None]
    for changed, message in [
        ({"weights": jnp.ones(2)}, "weights must have shape (1,), got (2,)."),
        ({"means": jnp.zeros(2)}, "means must have shape (1, 2), got (2,)."),
        ({"covariances": jnp.eye(2)}, "covariances must have shape (1, 2, 2), got (2, 2)."),
        ({"weights": jnp.zeros(1)}, "weights must be positive, got [0.0]."),
        ({"weights": jnp.full(1, jnp.inf)}, "weights must be finite"),
        ({"means": jnp.full((1, 2), jnp.nan)}, "means must be finite"),
        ({"covariances": covariances * jnp.inf}, "covariances must be finite"),
        ({"covariances": -covariances}, "covariances must be positive-definite"),
        ({"covariances": jnp.array([[[1.0, 0.5], [0.0, 1.0]]])}, "must be symmetric"),
        ({"covariances": 1e-40 * np.eye(2)[None]}, "the scales of the covariances, in this"),
    ]:
        arguments = {"weights": weights, "means": means, "covariances": covariances} | changed
        with pytest.raises(ValueError, match=re.escape(message)):
            mixture.from_moments(**arguments)
    for covariance in ("diagonal", "spherical"):
        for wrong in (-covariances, jnp.array([[[1.0, 2.0], [2.0, 1.0]]])):
            with pytest.raises(ValueError, match="must be positive-definite"):
                GaussianMixture(1, 2, covariance).from_moments(weights, means, wrong)
    # Means may be given as integers.
    params = mixture.from_moments(weights, np.array([[1, 2]]), covariances)
    assert params["params"]["locations"].dtype == jnp.float32
    # Traced values pass; and what is captured is checked where all else is traced.
    traced = jax.jit(mixture.from_moments)(weights, means, covariances)
    np.testing.assert_allclose(mixture.covariances(traced), covariances, rtol=1e-6)
    captured = jax.jit(lambda means: mixture.from_moments(weights, means, covariances))(means)
    np.testing.assert_allclose(mixture.covariances(captured), covariances, rtol=1e-6)
    wrong = -weights
    with pytest.raises(ValueError, match="weights must be positive"):
        jax.jit(lambda means: mixture.from_moments(wrong, means, covariances))(means)
