"""kd.inference.em: against plain loops over raw moments, scikit-learn, and its own laws."""

import functools
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import mixture as sklearn_mixture
from sklearn.exceptions import ConvergenceWarning

from kd import streams, training
from kd.inference import mixture_statistics
from kd.inference.em import (
    EMState,
    expectation_maximization,
    fit_mixture,
    linear_step_size,
    power_step_size,
)
from kd.models import GaussianMixture

COVARIANCES = ["full", "diagonal", "spherical"]
each_covariance = pytest.mark.parametrize("covariance", COVARIANCES)


@functools.partial(jax.jit, static_argnums=0)
def accessors(mixture, params):
    return mixture.weights(params), mixture.means(params), mixture.covariances(params)


@functools.partial(jax.jit, static_argnums=0)
def from_moments(mixture, weights, means, covariances):
    return mixture.from_moments(weights, means, covariances)


@functools.partial(jax.jit, static_argnums=0)
def step_once(mixture, params, x, rate=1.0, floor=1e-6):
    """A step of rates and floors that are traced, so that one program serves many tests."""
    update = expectation_maximization(mixture, step_size=rate, floor=floor)
    return update.apply(update.init(params), {"x": x})


@functools.partial(jax.jit, static_argnums=0)
def losses_of(mixture, params, x, floor=1e-6):
    """Of 50 steps of batch EM."""
    update = expectation_maximization(mixture, floor=floor)
    step = lambda state, _: update.apply(state, {"x": x})
    return jax.lax.scan(step, update.init(params), length=50)[1]["loss"]


def moments(mixture, params):
    return [np.array(value, np.float64) for value in accessors(mixture, params)]


def restricted(covariance, matrix):
    """The nearest covariance of the form."""
    if covariance == "full":
        return matrix
    variances = np.diag(matrix)
    return (
        np.diag(variances) if covariance == "diagonal" else np.eye(len(matrix)) * variances.mean()
    )


def random_moments(covariance, count, size, seed):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(count, size, size)) * 0.4
    matrices = np.einsum("kij,klj->kil", roots, roots) + np.eye(size)
    matrices = np.array([restricted(covariance, matrix) for matrix in matrices])
    return rng.dirichlet(np.full(count, 5.0)), rng.normal(size=(count, size)) * 2, matrices


def random_start(covariance, count, size, seed):
    mixture = GaussianMixture(count, size, covariance)
    values = map(jnp.array, random_moments(covariance, count, size, seed))
    return mixture, from_moments(mixture, *values)


def random_data(num, size, seed):
    """Skewed and correlated, in two heaps."""
    rng = np.random.default_rng(seed)
    x = rng.gamma(2.0, size=(num, size)) @ (np.eye(size) + 0.3 * rng.normal(size=(size, size)))
    return x - 3.0 * (rng.random((num, 1)) < 0.4)


def oracle_step(covariance, weights, means, matrices, x, rate=1.0):
    """(D.3)-(D.14) as they stand, one input and one component at a time, about the origin."""
    count, size = means.shape
    first, second, third = np.zeros(count), np.zeros((count, size)), np.zeros((count, size, size))
    total = 0.0
    for n in range(len(x)):
        joint = np.zeros(count)
        for k in range(count):
            gap = x[n] - means[k]
            square = gap @ np.linalg.solve(matrices[k], gap)
            volume = np.sqrt(np.linalg.det(2 * np.pi * matrices[k]))
            joint[k] = weights[k] * np.exp(-0.5 * square) / volume
        total += np.log(np.sum(joint))
        for k in range(count):
            part = joint[k] / np.sum(joint) / len(x)
            first[k] += part
            second[k] += part * x[n]
            third[k] += part * np.outer(x[n], x[n])
    new_means, new_matrices = np.zeros_like(means), np.zeros_like(matrices)
    for k in range(count):
        own = matrices[k] + np.outer(means[k], means[k])
        first[k] = (1 - rate) * weights[k] + rate * first[k]
        second[k] = (1 - rate) * weights[k] * means[k] + rate * second[k]
        third[k] = (1 - rate) * weights[k] * own + rate * third[k]
        new_means[k] = second[k] / first[k]
        raw = third[k] / first[k] - np.outer(new_means[k], new_means[k])
        new_matrices[k] = restricted(covariance, raw)
    return (first, new_means, new_matrices), total / len(x)


def assert_moments(mixture, params, expected, rtol=1e-8, atol=1e-9):
    for found, value in zip(moments(mixture, params), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=rtol, atol=atol)


# One step.


@each_covariance
@pytest.mark.parametrize("count, size", [(1, 1), (3, 1), (3, 2), (2, 5)])
def test_a_step_is_the_textbooks(covariance, count, size, x64):
    mixture, params = random_start(covariance, count, size, seed=count)
    x = random_data(40, size, seed=size)
    update = expectation_maximization(mixture)
    state, metrics = jax.jit(update.apply)(update.init(params), {"x": x})
    expected, log_likelihood = oracle_step(covariance, *moments(mixture, params), x)
    assert_moments(mixture, state.params, expected)
    np.testing.assert_allclose(metrics.pop("loss"), -log_likelihood, rtol=1e-10)
    assert metrics == {"num_empty": 0.0, "num_floored": 0.0} and state.step == 1
    assert jax.tree.structure(state.params) == jax.tree.structure(params)


@each_covariance
def test_stepwise_averages_are_of_raw_moments(covariance, x64):
    """(D.14), over several steps; the start's statistics are its own moments."""
    mixture, params = random_start(covariance, 3, 2, seed=1)
    rates = [0.3, 0.0, 1.0, 0.5, 0.05]
    schedule = jnp.array(rates)
    update = expectation_maximization(mixture, step_size=lambda step: schedule[step])
    state, apply = update.init(params), jax.jit(update.apply)
    expected = moments(mixture, params)
    for step, rate in enumerate(rates):
        x = random_data(10, 2, seed=10 + step)
        if step == 0:
            other = step_once(mixture, params, x, rate)[0]
        state, _ = apply(state, {"x": x})
        expected, _ = oracle_step(covariance, *expected, x, rate)
        assert_moments(mixture, state.params, expected)
        if step == 0:
            assert_moments(mixture, other.params, expected)
    assert state.step == len(rates) and state.step.dtype == jnp.int32


@each_covariance
def test_rate_zero_changes_nothing(covariance):
    mixture, params = random_start(covariance, 3, 2, seed=2)
    still = params
    for seed in range(3):
        (still, _), _ = step_once(mixture, still, random_data(30, 2, seed), 0.0)
    for ours, before in zip(moments(mixture, still), moments(mixture, params), strict=True):
        np.testing.assert_allclose(ours, before, rtol=1e-6, atol=1e-7)


def test_rates_of_a_schedule_are_clipped():
    mixture, params = random_start("diagonal", 3, 2, seed=2)
    x = random_data(30, 2, seed=2)
    for schedule, rate in ((lambda step: -1.0 * step, 0.0), (lambda step: 1.0 + step, 1.0)):
        update = expectation_maximization(mixture, step_size=schedule)
        state = EMState(params, jnp.ones((), jnp.int32))
        found, _ = jax.jit(update.apply)(state, {"x": x})
        assert found.step == 2
        expected = step_once(mixture, params, x, rate)[0].params
        for one, other in zip(
            jax.tree.leaves(found.params), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


# Batch EM.


@each_covariance
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_likelihood_never_falls(covariance, seed, x64):
    mixture, params = random_start(covariance, 4, 3, seed)
    x = random_data(60, 3, seed)
    losses = losses_of(mixture, params, x)
    assert np.all(np.diff(losses) <= 1e-12) and losses[-1] < losses[0] - 0.1


@each_covariance
def test_it_is_scikit_learns(covariance, x64):
    mixture, params = random_start(covariance, 3, 2, seed=5)
    x = random_data(300, 2, seed=5)
    weights, means, matrices = moments(mixture, params)
    precisions = np.linalg.inv(matrices)
    if covariance != "full":
        precisions = np.diagonal(precisions, axis1=1, axis2=2)
    if covariance == "spherical":
        precisions = precisions[:, 0]
    theirs = sklearn_mixture.GaussianMixture(
        3,
        covariance_type={"diagonal": "diag"}.get(covariance, covariance),
        tol=0.0,
        reg_covar=0.0,
        max_iter=20,
        weights_init=weights,
        means_init=means,
        precisions_init=precisions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        theirs.fit(x)
    found = fit_mixture(mixture, params, x, tolerance=0.0, max_iterations=20)
    assert found.num_iterations == 20 and not found.is_converged
    np.testing.assert_allclose(found.log_likelihood, theirs.score(x), rtol=1e-10)
    expected = {"full": lambda c: c, "diag": lambda c: np.array([np.diag(v) for v in c])}.get(
        theirs.covariance_type, lambda c: c[:, None, None] * np.eye(2)
    )(theirs.covariances_)
    assert_moments(mixture, found.params, (theirs.weights_, theirs.means_, expected), rtol=1e-7)


@each_covariance
def test_fit_mixture_is_the_update_at_rate_one_until_it_gains_too_little(covariance, x64):
    mixture, params = random_start(covariance, 3, 2, seed=6)
    x, tolerance = random_data(100, 2, seed=6), 1e-4
    now, log_likelihoods, states = params, [], []
    while len(log_likelihoods) < 2 or np.diff(log_likelihoods)[-1] >= tolerance:
        states.append(now)
        (now, _), metrics = step_once(mixture, now, x)
        log_likelihoods.append(-float(metrics["loss"]))
    assert 5 < len(states) < 200
    found = fit_mixture(mixture, params, x, tolerance=tolerance)
    assert found.is_converged and found.num_iterations == len(states) - 1
    assert found.num_empty == 0 and found.num_floored == 0
    assert_moments(mixture, found.params, moments(mixture, states[-1]))
    np.testing.assert_allclose(found.log_likelihood, log_likelihoods[-1], rtol=1e-12)
    np.testing.assert_allclose(
        found.log_likelihood, np.mean(mixture.log_prob(found.params, x)), rtol=1e-12
    )


def test_single_precision_converges_to_the_same():
    mixture, params = random_start("full", 3, 2, seed=6)
    x = random_data(300, 2, seed=7)
    found = fit_mixture(mixture, params, x)
    assert found.is_converged and found.log_likelihood.dtype == jnp.float32
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        exact = fit_mixture(mixture, double, x, tolerance=1e-10)
        assert exact.is_converged and exact.log_likelihood.dtype == jnp.float64
    assert abs(float(found.log_likelihood) - float(exact.log_likelihood)) < 1e-4


@each_covariance
def test_blocks_change_nothing(covariance, x64, monkeypatch):
    mixture, params = random_start(covariance, 3, 2, seed=8)
    x = random_data(50, 2, seed=8)
    fit = functools.partial(fit_mixture, mixture, params, x, max_iterations=5)
    expected = fit()
    for block_size in (1, 7, 1000):
        found = fit(block_size=block_size)
        assert_moments(mixture, found.params, moments(mixture, expected.params), rtol=1e-10)
        np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=1e-12)
    many = jnp.array(random_data(150, 2, seed=9))
    one = step_once(mixture, params, many)
    monkeypatch.setattr(mixture_statistics, "BLOCK_NUMBERS", {"cpu": 1})
    assert mixture_statistics.default_block_size(3, 2) == 64
    step_once.clear_cache()
    cut = step_once(mixture, params, many)
    step_once.clear_cache()
    for other, value in zip(jax.tree.leaves(cut), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(other, value, rtol=1e-10, atol=1e-12)


def test_a_block_fits_the_cache():
    for count, size in ((1, 1), (20, 32), (100, 784)):
        width = mixture_statistics.default_block_size(count, size)
        assert width % 64 == 0 and (width == 64 or width * count * size <= 2 * 2**17)


# Laws.


@given(seed=st.integers(0, 2**16), size=st.integers(1, 2), rate=st.floats(0.1, 1.0))
def test_an_affine_map_of_the_data_is_one_of_the_mixture(seed, size, rate):
    rng, mixture = np.random.default_rng(seed), GaussianMixture(2, size)
    matrix = np.eye(size) * 2 + 0.5 * rng.normal(size=(size, size))
    shift = 10 * rng.normal(size=size)
    x = random_data(30, size, seed)
    weights, means, matrices = random_moments("full", 2, size, seed)

    def after(x, means, matrices):
        params = from_moments(mixture, *map(jnp.array, (weights, means, matrices)))
        state, metrics = step_once(mixture, params, x, rate, 1e-12)
        return *moments(mixture, state.params), np.array(metrics["loss"])

    with jax.enable_x64(True):
        plain = after(x, means, matrices)
        mapped = after(x @ matrix.T + shift, means @ matrix.T + shift, matrix @ matrices @ matrix.T)
    volume = np.linalg.slogdet(matrix)[1]
    expected = (
        plain[0],
        plain[1] @ matrix.T + shift,
        matrix @ plain[2] @ matrix.T,
        plain[3] + volume,
    )
    for found, value in zip(mapped, expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-7, atol=1e-8)


@each_covariance
@given(seed=st.integers(0, 2**16), order=st.permutations(range(3)))
def test_the_order_of_components_and_of_inputs_means_nothing(covariance, seed, order):
    order = np.array(order)
    x = random_data(30, 2, seed)
    given_ = random_moments(covariance, 3, 2, seed)
    mixture = GaussianMixture(3, 2, covariance)
    with jax.enable_x64(True):
        plain, permuted = (
            fit_mixture(
                mixture,
                mixture.from_moments(*(jnp.array(v[o]) for v in given_)),
                x,
                max_iterations=3,
            )
            for o, x in ((np.arange(3), x), (order, x[::-1].copy()))
        )
        expected = [value[order] for value in moments(mixture, plain.params)]
        assert_moments(mixture, permuted.params, expected)
        np.testing.assert_allclose(permuted.log_likelihood, plain.log_likelihood, rtol=1e-10)


# Numerics.


@each_covariance
def test_data_far_from_the_origin_lose_nothing(covariance):
    """Both where the start is at the data and where it is left at the origin."""
    rng = np.random.default_rng(11)
    near = np.round(rng.normal(size=(400, 2)) @ [[1.0, 0.5], [0.0, 1.0]] * 64) / 64
    near[200:] += 8.0
    x = (near + 1e4).astype(np.float32)  # Exact: so are the differences between inputs.
    np.testing.assert_array_equal(x - np.float32(1e4), near)
    mixture = GaussianMixture(2, 2, covariance)
    weights, matrices = np.full(2, 0.5), np.broadcast_to(np.eye(2), (2, 2, 2))
    means = np.array([[0.0, 1.0], [7.0, 8.0]])
    with jax.enable_x64(True):
        start = from_moments(mixture, *map(jnp.array, (weights, means, matrices)))
        expected = moments(mixture, fit_mixture(mixture, start, near).params)
    start = from_moments(mixture, *map(jnp.array, (weights, means + 1e4, matrices)))
    found = moments(mixture, fit_mixture(mixture, start, x).params)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    np.testing.assert_allclose(found[1] - 1e4, expected[1], atol=2e-3)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-3, atol=1e-3)
    one = GaussianMixture(1, 2, covariance)
    far = one.init(jax.random.key(0), jnp.zeros(2))
    (found,) = moments(one, fit_mixture(one, far, x).params)[2]
    expected = restricted(covariance, np.cov(near.T, bias=True))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_narrow_directions_survive_single_precision():
    """A condition number of half a billion, beyond what a covariance in float32 can hold."""
    rng = np.random.default_rng(12)
    along = rng.normal(size=(500, 1))
    x = np.concatenate([100 * along, 100 * along + 1e-2 * rng.normal(size=(500, 1))], axis=1)
    x = x.astype(np.float32).astype(np.float64)
    mixture = GaussianMixture(1, 2)
    found = fit_mixture(mixture, mixture.init(jax.random.key(0), jnp.zeros(2)), x)
    exact = stats.multivariate_normal(np.mean(x, 0), np.cov(x.T, bias=True)).logpdf(x).mean()
    assert abs(found.log_likelihood - exact) < 1e-3 and found.num_floored == 0


@each_covariance
def test_a_component_on_one_point_stops_at_the_floor(covariance):
    mixture = GaussianMixture(2, 2, covariance)
    params = mixture.from_moments(
        jnp.array([0.5, 0.5]), jnp.array([[5.0, 5.0], [-5.0, -5.0]]), jnp.stack([jnp.eye(2)] * 2)
    )
    rest = np.random.default_rng(13).normal(size=(30, 2)) - 5
    x = np.concatenate([np.full((10, 2), 5.0), rest])
    for floor in (1e-6, 1e-2):
        found = fit_mixture(mixture, params, x, floor=floor)
        weights, means, matrices = moments(mixture, found.params)
        np.testing.assert_allclose(weights, [0.25, 0.75], rtol=1e-4)
        np.testing.assert_allclose(means[0], [5.0, 5.0], atol=1e-5)
        np.testing.assert_allclose(matrices[0], floor * np.eye(2), rtol=1e-4, atol=1e-4 * floor)
        expected = restricted(covariance, np.cov(rest.T, bias=True))
        np.testing.assert_allclose(matrices[1], expected, rtol=1e-3, atol=1e-4)
        assert found.num_floored == 1 and found.num_empty == 0 and found.is_converged
    _, metrics = step_once(mixture, found.params, x)
    assert metrics["num_floored"] == 1.0 and metrics["num_empty"] == 0.0


@each_covariance
@pytest.mark.parametrize("floor", [0.05, 0.6, 2.0])
def test_the_floor_is_the_constrained_maximum(covariance, floor, x64):
    """Eigenvalues below it are raised to it; the likelihood never falls on the way."""
    mixture, params = random_start(covariance, 3, 3, seed=14)
    x = random_data(60, 3, seed=14) * [1.0, 0.5, 0.2]
    state, metrics = step_once(mixture, params, x, 1.0, floor)
    (weights, means, matrices), _ = oracle_step(covariance, *moments(mixture, params), x)
    values, vectors = np.linalg.eigh(matrices)
    raised = np.einsum("kij,kj,klj->kil", vectors, np.maximum(values, floor), vectors)
    assert_moments(mixture, state.params, (weights, means, raised))
    assert metrics["num_floored"] == np.sum(np.any(values < floor, axis=1))
    losses = losses_of(mixture, state.params, x, floor)
    assert np.all(np.diff(losses) <= 1e-12)


def test_the_floor_holds_under_a_large_variance():
    """In single precision, with a variance 1e14 times as large."""
    along = np.random.default_rng(15).normal(size=(50, 1)).astype(np.float32)
    mixture = GaussianMixture(1, 2)
    found = fit_mixture(
        mixture, mixture.init(jax.random.key(0), jnp.zeros(2)), np.hstack([1e4 * along] * 2)
    )
    leaves = {name: np.array(leaf, np.float64) for name, leaf in found.params["params"].items()}
    inverse = np.diag(np.exp(-leaves["log_scales"][0]))
    inverse[1, 0] = leaves["lower"][0, 0]
    low, high = np.sort(1 / np.linalg.svd(inverse)[1] ** 2)
    np.testing.assert_allclose(low, 1e-6, rtol=1e-3)
    np.testing.assert_allclose(high, 2e8 * np.var(along), rtol=1e-3)
    assert found.num_floored == 1 and np.isfinite(found.log_likelihood)


@each_covariance
def test_an_empty_component_stays_where_it_was(covariance):
    """And is found again by data that come near."""
    mixture, params = random_start(covariance, 2, 2, seed=16)
    params["params"]["locations"] = jnp.array([[0.0, 0.0], [1e3, 1e3]])
    x = random_data(30, 2, seed=16)
    found = fit_mixture(mixture, params, x)
    before, after = moments(mixture, params), moments(mixture, found.params)
    np.testing.assert_allclose(after[0], [1.0, 1e-30], rtol=1e-5)
    np.testing.assert_array_equal(after[1][1], before[1][1])
    np.testing.assert_allclose(after[2][1], before[2][1], rtol=1e-6)
    np.testing.assert_allclose(after[1][0], np.mean(x, axis=0), atol=1e-5)
    assert found.num_empty == 1 and found.num_floored == 0
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found.params))
    state, metrics = step_once(mixture, found.params, x)
    assert metrics["num_empty"] == 1.0 and np.isfinite(metrics["loss"])
    state, metrics = step_once(mixture, state.params, np.concatenate([x, x + 1e3]))
    assert metrics["num_empty"] == 0.0
    np.testing.assert_allclose(mixture.weights(state.params), [0.5, 0.5], rtol=1e-5)


@each_covariance
@pytest.mark.parametrize("num", [1, 30])
def test_finite_inputs_leave_finite_parameters(covariance, num):
    mixture, start = random_start(covariance, 3, 2, seed=17)
    for scale in (1e-8, 1.0, 1e8):
        for rate in (1.0, 0.5):
            params = start
            for step in range(3):
                x = scale * random_data(num, 2, seed=step)
                (params, _), metrics = step_once(mixture, params, x, rate)
                leaves = jax.tree.leaves((params, metrics))
                assert all(np.all(np.isfinite(leaf)) for leaf in leaves)


@each_covariance
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_loss_of_inputs_that_are_not_finite_is_not(covariance, wrong):
    mixture, params = random_start(covariance, 2, 2, seed=18)
    x = random_data(10, 2, seed=18)
    x[3, 1] = wrong
    assert not np.isfinite(step_once(mixture, params, x, 0.5)[1]["loss"])
    update = expectation_maximization(mixture, step_size=0.5)
    with pytest.raises(training.NonFiniteLossError, match="at step 1"):
        training.fit(
            jax.random.key(0), streams.resample({"x": x}, 10), update, update.init(params), 2
        )


# Under transformations, and in `fit`.


@each_covariance
def test_eager_jit_vmap_and_scan_agree(covariance):
    """Among the members of the vmap one meets the floor, and one has an empty component."""
    mixture, params = random_start(covariance, 2, 2, seed=19)
    empty = {"params": params["params"] | {"locations": jnp.array([[0.0, 0.0], [1e3, 0.0]])}}
    batches = jnp.array([random_data(20, 2, seed=s) for s in range(4)], jnp.float32)
    batches = batches.at[1].set(batches[1, :1])
    starts = [params, params, empty, params]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    update = expectation_maximization(mixture, step_size=power_step_size(0, 0.7))
    step = lambda params, x: update.apply(update.init(params), {"x": x})
    together = jax.jit(jax.vmap(step))(stacked, batches)
    for index, start in enumerate(starts):
        eager = step(start, batches[index])
        jitted = jax.jit(step)(start, batches[index])
        for other in (jitted, jax.tree.map(lambda leaf, i=index: leaf[i], together)):
            for one, two in zip(jax.tree.leaves(other), jax.tree.leaves(eager), strict=True):
                np.testing.assert_allclose(one, two, rtol=2e-4, atol=2e-4)
    np.testing.assert_array_equal(together[1]["num_floored"], [0, 2, 0, 0])
    np.testing.assert_array_equal(together[1]["num_empty"], [0, 0, 1, 0])
    state, apply = update.init(params), jax.jit(update.apply)
    for x in batches:
        state, _ = apply(state, {"x": x})
    scanned, _ = jax.jit(
        lambda s: jax.lax.scan(lambda s, x: update.apply(s, {"x": x}), s, batches)
    )(update.init(params))
    assert scanned.step == 4
    for one, two in zip(jax.tree.leaves(scanned), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-4, atol=2e-4)


def test_several_starts_at_once():
    mixture = GaussianMixture(3, 2)
    starts = [random_start("full", 3, 2, seed=s)[1] for s in range(3)]
    x = jnp.array(random_data(40, 2, seed=20))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    fit = lambda params: fit_mixture(mixture, params, x, max_iterations=40, tolerance=5e-3)
    together = jax.jit(jax.vmap(fit))(stacked)
    fit = jax.jit(fit)
    for index, start in enumerate(starts):
        alone = fit(start)
        assert alone.num_iterations == together.num_iterations[index]
        np.testing.assert_allclose(alone.log_likelihood, together.log_likelihood[index], rtol=1e-5)
    assert len(set(together.num_iterations.tolist())) > 1


def test_fit_with_replicas():
    """Stepwise EM over resampled data, from two starts, ends about where batch EM does."""
    mixture = GaussianMixture(2, 1)
    rng = np.random.default_rng(21)
    x = np.concatenate([rng.normal(size=(300, 1)) - 4, 2 * rng.normal(size=(700, 1)) + 4])
    data = {"x": jnp.array(x, jnp.float32)}
    update = expectation_maximization(mixture, step_size=power_step_size(0, 0.6))
    starts = [
        mixture.from_moments(jnp.ones(2), jnp.array(means), jnp.ones((2, 1, 1)))
        for means in ([[-1.0], [1.0]], [[2.0], [-2.0]])
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    rows = []
    run = training.fit(
        jax.random.key(0),
        streams.resample(data, 100),
        update,
        jax.vmap(update.init)(stacked),
        300,
        num_replicas=2,
        on_row=lambda step, row: rows.append(row),
    )
    assert set(rows[0]) == {"loss", "num_empty", "num_floored"} and rows[0]["loss"].shape == (2,)
    np.testing.assert_array_equal(run.student.step, [300, 300])
    for index, start in enumerate(starts):
        batch = fit_mixture(mixture, start, data["x"])
        params = jax.tree.map(lambda leaf, i=index: leaf[i], run.student.params)
        reached = np.mean(mixture.log_prob(params, data["x"]))
        assert batch.log_likelihood - 2e-3 < reached < batch.log_likelihood + 1e-5


def test_the_thesis_online_run():
    """Section 3.2.3 from a known mixture: its divergence is that of maximum likelihood.

    The batches enter the last average with weights a_i prod_{j > i} (1 - a_j), worth n = 1 /
    (their sum of squares) batches; maximum likelihood with 8 parameters from as many inputs has
    2 n KL ~ chi-squared with 8 degrees of freedom.
    """
    num_runs, num_steps, batch_size = 30, 100, 100
    mixture = GaussianMixture(3, 1)
    variances = jnp.array([2.0, 5.0, 1.0]).reshape(3, 1, 1)
    truth = mixture.from_moments(jnp.full(3, 1 / 3), jnp.array([[-3.0], [0.0], [2.0]]), variances)
    update = expectation_maximization(mixture, step_size=linear_step_size(num_steps))

    def run(key):
        start_key, data_key = jax.random.split(key)
        x = mixture.sample(truth, data_key, num_steps * batch_size)
        batches = x.reshape(num_steps, batch_size, 1)
        start = update.init(mixture.init(start_key, jnp.zeros(1)))
        step = lambda state, x: (update.apply(state, {"x": x})[0], None)
        return jax.lax.scan(step, start, batches)[0].params

    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), num_runs))
    grid, step = np.linspace(-25, 25, 2001, retstep=True)
    log_prob = jax.jit(lambda params: mixture.log_prob(params, grid[:, None]))
    exact = np.array(log_prob(truth), np.float64)
    gaps = exact - np.array(jax.vmap(log_prob)(found), np.float64)
    divergences = np.sum(np.exp(exact) * gaps, axis=1) * step
    rates = np.array(linear_step_size(num_steps)(np.arange(num_steps)))
    shares = [a * np.prod(1 - rates[i + 1 :]) for i, a in enumerate(rates)]
    assert abs(np.sum(shares) - 1) < 1e-6
    scaled = 2 * batch_size / np.sum(np.square(shares)) * divergences
    assert np.all(divergences > 0) and np.max(scaled) < stats.chi2(8).ppf(1 - 1e-4)
    assert 8 / 2 < np.mean(scaled) < 8 * 2


# Step sizes.


def test_step_sizes():
    found = linear_step_size(100)(jnp.arange(102))
    expected = [1 - (i - 1) / 99 for i in range(1, 101)] + [0.0, 0.0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0] == 1.0 and found[99] == 0.0
    for t0, beta in ((0, 1.0), (3.5, 0.6)):
        found = power_step_size(t0, beta)(jnp.arange(5))
        np.testing.assert_allclose(found, [(t0 + t) ** -beta for t in range(1, 6)], rtol=1e-6)
    assert power_step_size(0, 0.6)(jnp.zeros((), jnp.int32)) == 1.0


def test_step_sizes_raise():
    for t0 in (-0.1, np.inf, np.nan):
        with pytest.raises(ValueError, match="t0 must be finite and not negative, got"):
            power_step_size(t0, 1.0)
    for beta in (0.5, 1.1, np.nan):
        with pytest.raises(ValueError, match=re.escape("beta must be in (0.5, 1], got")):
            power_step_size(0, beta)
    with pytest.raises(ValueError, match="num_steps must be at least 2, got 1"):
        linear_step_size(1)


# Mistakes.


def test_expectation_maximization_raises():
    mixture, params = random_start("full", 2, 2, seed=22)
    for floor in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="floor must be finite and positive, got"):
            expectation_maximization(mixture, floor=floor)
    for step_size in (-0.1, 1.1, np.nan, lambda step: 2.0 + step):
        with pytest.raises(ValueError, match=re.escape("step_size must be in [0, 1], got")):
            expectation_maximization(mixture, step_size=step_size)
    update = expectation_maximization(mixture)
    with pytest.raises(TypeError, match="an EMState; got dict"):
        update.apply(params, {"x": jnp.zeros((3, 2))})
    for other in (GaussianMixture(3, 2), GaussianMixture(2, 1), GaussianMixture(2, 2, "diagonal")):
        with pytest.raises(ValueError, match="params must be those of full covariances"):
            update.init(other.init(jax.random.key(0), jnp.zeros(other.num_dims)))
    for form in ("spherical", "diagonal"):
        with pytest.raises(ValueError, match=f"params must be those of {form} covariances"):
            expectation_maximization(GaussianMixture(2, 2, form)).init(params)
    state = update.init(params)
    assert isinstance(state, EMState)
    for x, message in [
        (jnp.zeros((3, 1)), "x must have shape [..., 2], got (3, 1)."),
        (jnp.zeros(2), "x must have rank 2, got shape (2,)."),
        (jnp.zeros((0, 2)), "x must hold at least one example, got none."),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            update.apply(state, {"x": x})


def test_fit_mixture_raises():
    mixture, params = random_start("full", 2, 2, seed=23)
    x = jnp.zeros((3, 2))
    other = GaussianMixture(2, 2, "diagonal").init(jax.random.key(0), jnp.zeros(2))
    for changed, message in [
        ({"x": x[:, :1]}, "x must have shape [..., 2], got (3, 1)."),
        ({"x": x[0]}, "x must have rank 2, got shape (2,)."),
        ({"x": x[:0]}, "x must hold at least one example, got none."),
        ({"x": x.at[0, 0].set(jnp.nan)}, "x must be finite."),
        ({"params": other}, "params must be those of full covariances"),
        ({"tolerance": -1e-9}, "tolerance must not be negative, got -1e-09."),
        ({"tolerance": np.nan}, "tolerance must not be negative, got nan."),
        ({"floor": 0.0}, "floor must be finite and positive, got 0.0."),
        ({"max_iterations": 0}, "max_iterations must be at least 1, got 0."),
        ({"block_size": 0}, "block_size must be at least 1, got 0."),
    ]:
        arguments = {"params": params, "x": x} | changed
        with pytest.raises(ValueError, match=re.escape(message)):
            fit_mixture(mixture, **arguments)


def test_a_chain_under_another_name_is_named():
    update = expectation_maximization(GaussianMixture(2, 2), step_size=0.1)
    state = update.init(GaussianMixture(2, 2).init(jax.random.key(0), jnp.zeros(2)))
    with pytest.raises(ValueError, match="inputs under 'x', got 'info', 'w'"):
        update.apply(state, {"w": jnp.zeros((5, 2)), "info": ()})


def test_parameters_of_mixed_or_half_precision_are_refused():
    mixture = GaussianMixture(2, 2)
    params = mixture.init(jax.random.key(0), jnp.zeros(2))
    update = expectation_maximization(mixture, step_size=0.1)
    for kind, message in ((jnp.float16, "float16"), (jnp.int32, "int32")):
        with pytest.raises(TypeError, match=f"in double precision; got {message}"):
            update.init(jax.tree.map(lambda leaf, kind=kind: leaf.astype(kind), params))
