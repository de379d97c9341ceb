"""Annealing against enumeration: its weights, its kernel's exact law, its bounds."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import kd.random
from kd import inference
from kd.inference import AnnealingPath


def make_rbm(num_visible, num_hidden, *, scale=0.7, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "w": scale * rng.normal(size=(num_visible, num_hidden)),
        "a": 0.5 * rng.normal(size=num_visible),
        "b": 0.5 * rng.normal(size=num_hidden),
    }


def states_of(num):
    return (np.arange(2**num)[:, None] >> np.arange(num)) & 1


def log_f(params, base, beta, x):
    """The path's log-density, written as the paper has it."""
    a, b, w = params["a"], params["b"], params["w"]
    hidden = np.sum(np.log1p(np.exp(beta * (b + x @ w))), axis=-1)
    return (1 - beta) * x @ base + beta * x @ a + hidden


def exact_log_z(params):
    """Over the smaller side, so that it is not the path's own sum."""
    w, a, b = params["w"], params["a"], params["b"]
    h = states_of(len(b)) if len(b) < len(a) else None
    if h is not None:
        return special.logsumexp(h @ b + np.sum(np.logaddexp(0, a + h @ w.T), axis=1))
    return special.logsumexp(log_f(params, a, 1.0, states_of(len(a))))


def on_device(params):
    return {name: jnp.asarray(value, jnp.result_type(float)) for name, value in params.items()}


def make_path(params, base, *, uniform_fn=kd.random.uniform):
    # The default, jax.random.uniform, takes a second to compile.
    return inference.rbm_path(
        on_device(params),
        base_rate_logits=jnp.asarray(base, jnp.result_type(float)),
        uniform_fn=uniform_fn,
    )


def exact_samples(params, num, seed=0):
    x = states_of(len(params["a"]))
    p = special.softmax(log_f(params, params["a"], 1.0, x))
    return x[np.random.default_rng(seed).choice(len(x), num, p=p)]


SMALL, SMALL_BASE = make_rbm(3, 2, scale=1.5), np.array([0.5, -1.0, 0.2])
LARGE = make_rbm(12, 16, scale=0.5)
LARGE_BASE = np.linspace(-1, 1, 12)
UNIFORMS = {"jax.random": jax.random.uniform, "kd.random": kd.random.uniform}
each_uniform = pytest.mark.parametrize("uniform", UNIFORMS)


@pytest.mark.parametrize(
    ("beta", "next_beta"), [(0.0, 0.3), (0.0, 1.0), (0.3, 0.30001), (0.999, 0.7), (1.0, 0.0)]
)
def test_the_increment_is_the_ratio_of_the_two_densities(beta, next_beta, x64):
    path = make_path(LARGE, LARGE_BASE)
    x = states_of(12)[::97]
    step = jax.jit(path.step)
    _, increment = step(
        jax.random.key(0), jnp.asarray(x, jnp.float64), jnp.float64(beta), jnp.float64(next_beta)
    )
    expected = log_f(LARGE, LARGE_BASE, next_beta, x) - log_f(LARGE, LARGE_BASE, beta, x)
    np.testing.assert_allclose(increment, expected, rtol=1e-11, atol=1e-13)


def test_a_step_is_the_same_eager_and_compiled():
    path = make_path(SMALL, SMALL_BASE)
    args = jax.random.key(0), jnp.ones((5, 3)), jnp.float32(0.2), jnp.float32(0.6)
    (moved, increment), (again, compiled) = path.step(*args), jax.jit(path.step)(*args)
    np.testing.assert_array_equal(again, moved)
    np.testing.assert_allclose(compiled, increment, rtol=1e-5)


def test_small_increments_keep_their_digits_in_single_precision():
    """The difference of two softplus would be lost in rounding."""
    params = {"w": np.full((1, 1), 3.0), "a": np.zeros(1), "b": np.array([-1.0])}
    path = make_path(params, np.zeros(1))
    beta = np.float32(0.9)
    near = np.nextafter(beta, np.float32(1))
    _, increment = jax.jit(path.step)(
        jax.random.key(0), jnp.ones((1, 1)), jnp.float32(beta), jnp.float32(near)
    )
    expected = 2 * special.expit(0.9 * 2) * (float(near) - float(beta))
    np.testing.assert_allclose(increment, [expected], rtol=1e-5)


@pytest.mark.parametrize("direction", [1, -1])
def test_extreme_weights_give_finite_increments_and_states(direction):
    params = {"w": np.diag([1e4, -1e4, 1e4]), "a": np.zeros(3), "b": np.array([-5e3, 5e3, -1e4])}
    path = make_path(params, np.array([1e3, -1e3, 0.0]))
    x = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    for beta, next_beta in ((0.0, 1.0), (0.5, 1.0), (0.999, 1.0)):
        beta, next_beta = (beta, next_beta)[::direction]
        moved, increment = jax.jit(path.step)(
            jax.random.key(0), jnp.float32(x), jnp.float32(beta), jnp.float32(next_beta)
        )
        z = params["b"] + x @ params["w"]
        rise = np.logaddexp(0, next_beta * z) - np.logaddexp(0, beta * z)
        base = np.array([1e3, -1e3, 0.0])
        expected = np.sum(rise, 1) - (next_beta - beta) * x @ base
        np.testing.assert_allclose(increment, expected, rtol=1e-4)
        assert np.all((moved == 0) | (moved == 1))


@each_uniform
@pytest.mark.parametrize("next_beta", [0.4, 1.0])
def test_a_step_has_the_exact_law_of_the_gibbs_sweep(uniform, next_beta):
    """From each of the eight states, the counts of the eight; and that law is reversible."""
    x, h = states_of(3), states_of(2)
    w, a, b = SMALL["w"], SMALL["a"], SMALL["b"]
    p_h = special.expit(next_beta * (b + x @ w))
    p_x = special.expit((1 - next_beta) * SMALL_BASE + next_beta * (a + h @ w.T))
    bernoulli = lambda p, x: np.prod(np.where(x, p, 1 - p), axis=-1)
    law = bernoulli(p_h[:, None], h[None]) @ bernoulli(p_x[:, None], x[None])
    flow = special.softmax(log_f(SMALL, SMALL_BASE, next_beta, x))[:, None] * law
    np.testing.assert_allclose(flow, flow.T, rtol=1e-12)

    path = make_path(SMALL, SMALL_BASE, uniform_fn=UNIFORMS[uniform])
    start = jnp.asarray(np.repeat(x, 4000, axis=0), jnp.float32)
    moved, _ = jax.jit(path.step)(
        jax.random.key(1), start, jnp.float32(0.1), jnp.float32(next_beta)
    )
    index = np.asarray(moved).astype(int) @ (1 << np.arange(3))
    for row, found in zip(law, index.reshape(8, -1), strict=True):
        counts = np.bincount(found, minlength=8)
        assert stats.chisquare(counts, 4000 * row).pvalue > 1e-4


@each_uniform
def test_the_base_is_sampled_exactly_and_has_its_log_z(uniform):
    path = make_path(SMALL, SMALL_BASE, uniform_fn=UNIFORMS[uniform])
    logs = log_f(SMALL, SMALL_BASE, 0.0, states_of(3))
    assert path.log_z_base == pytest.approx(special.logsumexp(logs), abs=1e-6)
    x = np.asarray(path.init(jax.random.key(2), 20_000))
    counts = np.bincount(x.astype(int) @ (1 << np.arange(3)), minlength=8)
    assert stats.chisquare(counts, 20_000 * special.softmax(logs)).pvalue > 1e-4


def test_both_directions_find_the_enumerated_log_z():
    path = make_path(LARGE, LARGE_BASE)
    exact = exact_log_z(LARGE)
    betas = inference.linear_schedule(201)
    forward = inference.annealed_log_weights(jax.random.key(3), path, betas, num_chains=2000)
    samples = jnp.asarray(exact_samples(LARGE, 2000), jnp.uint8)
    backward = inference.reverse_annealed_log_weights(jax.random.key(4), path, betas, samples)
    assert forward.dtype == backward.dtype == np.float64
    results = (
        inference.importance_sampling(forward),
        inference.reverse_importance_sampling(backward),
        inference.bridge_sampling(forward, backward),
    )
    for result in results:
        assert result.low < exact < result.high
        assert abs(result.value - exact) < 0.05
    assert results[2].stderr < min(results[0].stderr, results[1].stderr)
    assert results[0] == inference.annealed_importance_sampling(
        jax.random.key(3), path, betas, num_chains=2000
    )
    assert results[1] == inference.reverse_annealed_importance_sampling(
        jax.random.key(4), path, betas, samples
    )


def test_weights_are_unbiased_and_bound_log_z_from_both_sides():
    """With few betas: the mean weight is Z to its error, the mean log-weight far from log Z."""
    params = make_rbm(6, 5, scale=1.0)
    path, exact = make_path(params, np.zeros(6)), exact_log_z(params)
    betas = inference.linear_schedule(5)
    num = 40_000
    forward = inference.annealed_log_weights(jax.random.key(5), path, betas, num_chains=num)
    samples = jnp.asarray(exact_samples(params, num), jnp.float32)
    backward = inference.reverse_annealed_log_weights(jax.random.key(6), path, betas, samples)
    for ratios in (np.exp(forward - exact), np.exp(exact - backward)):
        error = np.std(ratios, ddof=1) / np.sqrt(num)
        assert abs(np.mean(ratios) - 1) < 4 * error and error < 0.02
    lower, upper = inference.kl_lower_bound(forward), inference.kl_upper_bound(backward)
    assert lower.high < exact - 0.05 and upper.low > exact + 0.05
    # Their intervals hold log Z as often as they say.
    for logs, estimate in (
        (forward, inference.importance_sampling),
        (backward, inference.reverse_importance_sampling),
    ):
        results = [estimate(part) for part in logs.reshape(200, -1)]
        hits = sum(abs(result.value - exact) < result.stderr for result in results)
        expected = stats.norm.cdf(1) - stats.norm.cdf(-1)
        assert stats.binomtest(hits, len(results), expected).pvalue > 1e-3, hits
        missed = sum(not result.low < exact < result.high for result in results)
        test = stats.binomtest(missed, len(results), 0.0027, alternative="greater")
        assert test.pvalue > 1e-3, missed


def test_a_base_that_is_the_target_gives_log_z_and_no_error(x64):
    params = {"w": np.zeros((4, 3)), "a": np.array([1.0, -2.0, 0.0, 3.0]), "b": np.zeros(3)}
    path = make_path(params, params["a"])
    betas = inference.linear_schedule(10)
    exact = exact_log_z(params)
    forward = inference.annealed_importance_sampling(jax.random.key(0), path, betas, num_chains=5)
    backward = inference.reverse_annealed_importance_sampling(
        jax.random.key(0), path, betas, path.init(jax.random.key(1), 5)
    )
    for result in (forward, backward):
        np.testing.assert_allclose(result[:4], [exact, 0, exact, exact], atol=1e-13)


@pytest.mark.parametrize("dtype", [jnp.uint8, bool])
def test_states_may_have_any_dtype(dtype):
    step = jax.jit(make_path(SMALL, SMALL_BASE).step)
    x = exact_samples(SMALL, 50)
    run = lambda dtype: step(
        jax.random.key(0), jnp.asarray(x, dtype), jnp.float32(0.1), jnp.float32(0.2)
    )
    (moved, increment), (as_float, expected) = run(dtype), run(jnp.float32)
    assert moved.dtype == dtype
    np.testing.assert_array_equal(moved, as_float)
    np.testing.assert_array_equal(increment, expected)


def gaussian_path(mean, variance, log_mass):
    """From N(0, 1) to exp(log_mass) N(mean, variance), moved by an exact autoregression."""

    def log_density(x, beta):
        target = -0.5 * (x - mean) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
        base = -0.5 * x**2 - 0.5 * np.log(2 * np.pi)
        return (1 - beta) * base + beta * (target + log_mass)

    def step(key, x, beta, next_beta):
        increment = log_density(x, next_beta) - log_density(x, beta)
        precision = (1 - next_beta) + next_beta / variance
        centre = next_beta * mean / variance / precision
        noise = jax.random.normal(key, x.shape) / jnp.sqrt(precision)
        return centre + 0.6 * (x - centre) + 0.8 * noise, increment

    return AnnealingPath(lambda key, num: jax.random.normal(key, (num,)), step, 0.0)


@pytest.mark.parametrize("is_double", [False, True])
def test_any_path_of_any_density(is_double):
    with jax.enable_x64(is_double):
        path = gaussian_path(2.0, 0.25, 1000.0)
        betas = inference.linear_schedule(100)
        forward = inference.annealed_importance_sampling(
            jax.random.key(0), path, betas, num_chains=4000
        )
        samples = 2.0 + 0.5 * jax.random.normal(jax.random.key(1), (4000,))
        backward = inference.reverse_annealed_importance_sampling(
            jax.random.key(2), path, betas, samples
        )
    for result in (forward, backward):
        assert result.low < 1000 < result.high and abs(result.value - 1000) < 0.05


def counting_path(increment_fn):
    """A path without randomness: its state is how often it was moved."""

    def step(key, state, beta, next_beta):
        return state + 1, increment_fn(state, beta, next_beta)

    return AnnealingPath(lambda key, num: jnp.zeros(num), step, 2.0)


def test_many_increments_are_summed_without_losing_digits():
    path = counting_path(lambda state, beta, next_beta: jnp.full(3, 0.1) + state * 1e-6)
    found = inference.annealed_log_weights(
        jax.random.key(0), path, inference.linear_schedule(20_001), num_chains=3
    )
    terms = np.float32(0.1) + np.arange(20_000, dtype=np.float32) * np.float32(1e-6)
    exact = 2.0 + np.sum(terms, dtype=np.float64)
    np.testing.assert_allclose(found, np.full(3, exact), rtol=1e-9)
    naive = np.cumsum(terms, dtype=np.float32)[-1]
    assert abs(naive + 2.0 - exact) > 1e-3


def test_each_increment_belongs_to_its_betas_in_both_directions():
    betas = np.array([0.0, 0.25, 0.5, 1.0])
    increment_fn = lambda state, beta, next_beta: (state + 1) * (next_beta - beta)
    path = counting_path(increment_fn)
    forward = inference.annealed_log_weights(jax.random.key(0), path, betas, num_chains=2)
    np.testing.assert_allclose(forward, np.full(2, 2 + 1 * 0.25 + 2 * 0.25 + 3 * 0.5))
    backward = inference.reverse_annealed_log_weights(
        jax.random.key(0), path, betas, np.zeros(4, np.float32)
    )
    np.testing.assert_allclose(backward, np.full(4, 2 + 1 * 0.5 + 2 * 0.25 + 3 * 0.25))


def test_an_infinite_increment_is_a_weight_of_zero_and_no_nan():
    path = counting_path(lambda state, *_: jnp.where(jnp.arange(4) < 2, -jnp.inf, 1.0))
    found = inference.annealed_log_weights(
        jax.random.key(0), path, inference.linear_schedule(3), num_chains=4
    )
    np.testing.assert_array_equal(found, [-np.inf, -np.inf, 4, 4])
    assert inference.importance_sampling(found).num_infinite == 2


def test_a_chain_that_has_ended_stays_so_whatever_its_path_says():
    """Of a target with a hard edge a path gives minus infinity, and infinity less infinity next."""
    late = {0: -jnp.inf, 1: jnp.nan, 2: jnp.inf, 3: 1.0}

    def increments(state, beta, next_beta):
        later = jnp.array([late[i] for i in range(4)])
        first = jnp.array([-jnp.inf, -jnp.inf, -jnp.inf, 1.0])
        return jnp.where(beta == 0, first, later)

    found = inference.annealed_log_weights(
        jax.random.key(0), counting_path(increments), inference.linear_schedule(4), num_chains=4
    )
    np.testing.assert_array_equal(found, [-np.inf, -np.inf, -np.inf, 5.0])


def test_the_key_decides_and_params_may_be_those_of_flax():
    run = lambda seed, path: inference.annealed_log_weights(
        jax.random.key(seed), path, inference.linear_schedule(10), num_chains=5
    )
    wrapped = inference.rbm_path(
        {"params": on_device(SMALL)}, base_rate_logits=jnp.asarray(SMALL_BASE, jnp.float32)
    )
    first = run(0, make_path(SMALL, SMALL_BASE, uniform_fn=kd.random.uniform))
    np.testing.assert_array_equal(first, run(0, wrapped))
    assert np.all(first != run(1, wrapped))


def test_schedules():
    betas = inference.salakhutdinov_schedule()
    assert betas.shape == (14_500,) and betas[0] == 0 and betas[-1] == 1
    assert np.all(np.diff(betas.astype(np.float32)) > 0)
    assert [np.sum(betas < 0.5), np.sum((betas >= 0.5) & (betas < 0.9))] == [500, 4000]
    np.testing.assert_allclose(np.diff(betas)[:500], 1e-3, rtol=1e-9)
    np.testing.assert_allclose(np.diff(betas)[500:4500], 1e-4, rtol=1e-9)
    np.testing.assert_allclose(np.diff(betas)[4500:], 0.1 / 9999, rtol=1e-9)
    np.testing.assert_array_equal(inference.linear_schedule(5), [0, 0.25, 0.5, 0.75, 1])
    with pytest.raises(ValueError, match="num_betas must be at least 2, got 1"):
        inference.linear_schedule(1)


def test_data_logits():
    x = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]], np.uint8)
    for pseudo_count in (1.0, 0.25):
        means = (np.sum(x, 0) + pseudo_count) / (3 + 2 * pseudo_count)
        found = inference.data_logits(x, pseudo_count=pseudo_count)
        np.testing.assert_allclose(found, special.logit(means), rtol=1e-12)
    # 300 ones would wrap in eight bits.
    np.testing.assert_allclose(inference.data_logits(np.ones((300, 1), np.uint8)), np.log(301))


@pytest.mark.parametrize(
    ("x", "settings", "message"),
    [
        (np.zeros(3), {}, "x must have rank 2, got shape (3,)"),
        (np.zeros((0, 3)), {}, "x must hold at least one example"),
        (np.full((2, 3), 0.5), {}, "x must hold zeros and ones alone"),
        (np.zeros((2, 3)), {"pseudo_count": 0.0}, "pseudo_count must be finite and positive"),
    ],
)
def test_data_logits_refuses(x, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        inference.data_logits(x, **settings)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        (np.zeros((2, 2)), "betas must have rank 1, got shape (2, 2)"),
        (np.array([1.0]), "betas must go from 0 to 1, got 1 from 1 to 1"),
        (np.array([0.0, 0.9]), "betas must go from 0 to 1, got 2 from 0 to 0.9"),
        (np.array([0.1, 1.0]), "betas must go from 0 to 1, got 2 from 0.1"),
        (np.array([1.0, 0.0]), "betas must go from 0 to 1, got 2 from 1 to 0"),
        (np.array([0.0, np.nan, 1.0]), "betas must increase, in float32: got 0.0 at 0, then nan"),
        (np.array([0.0, 0.5, 0.5, 1.0]), "betas must increase, in float32: got 0.5 at 1, then 0.5"),
        (np.array([0.0, 0.5, 0.5 + 1e-12, 1.0]), "betas must increase, in float32: got 0.5 at 1"),
        (np.array([0.0, 0.75, 0.5, 1.0]), "got 0.75 at 1, then 0.5"),
    ],
)
def test_betas_that_do_not_increase_from_0_to_1_are_refused(betas, message):
    path = make_path(SMALL, SMALL_BASE)
    with pytest.raises(ValueError, match=re.escape(message)):
        inference.annealed_importance_sampling(jax.random.key(0), path, betas, num_chains=4)
    with pytest.raises(ValueError, match=re.escape(message)):
        inference.reverse_annealed_importance_sampling(
            jax.random.key(0), path, betas, jnp.zeros((4, 3))
        )


def test_annealing_refuses():
    path, betas, key = make_path(SMALL, SMALL_BASE), np.array([0.0, 1.0]), jax.random.key(0)
    run, back = inference.annealed_importance_sampling, inference.reverse_annealed_log_weights
    with pytest.raises(ValueError, match="num_chains must be at least 2, got 1"):
        run(key, path, betas, num_chains=1)
    with pytest.raises(ValueError, match="num_chains must be at least 1, got 0"):
        inference.annealed_log_weights(key, path, betas, num_chains=0)
    with pytest.raises(TypeError, match="num_chains must be an integer"):
        run(key, path, betas, num_chains=2.0)
    with pytest.raises(TypeError, match="key must be one typed key"):
        run(jnp.zeros(2), path, betas, num_chains=2)
    with pytest.raises(ValueError, match="path.log_z_base must be finite, got nan"):
        run(key, path._replace(log_z_base=np.nan), betas, num_chains=2)
    scalar = counting_path(lambda *_: jnp.zeros(()))
    with pytest.raises(ValueError, match=re.escape("increments of shape (4,), got ()")):
        run(key, scalar, betas, num_chains=4)
    with pytest.raises(ValueError, match=re.escape("state must have shape [..., 3], got (2, 4)")):
        back(key, path, betas, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="state must hold zeros and ones alone"):
        back(key, path, betas, jnp.full((2, 3), 0.5))
    with pytest.raises(ValueError, match="target_state must hold arrays with one common length"):
        back(key, path, betas, (jnp.zeros((2, 3)), jnp.zeros((3, 3))))
    with pytest.raises(ValueError, match="path.step: the summed increments: 2 of 2 are NaN"):
        run(key, counting_path(lambda *_: jnp.full(2, jnp.nan)), betas, num_chains=2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"w": np.zeros(3)}, "w must have rank 2, got shape (3,)"),
        ({"a": np.zeros(2)}, "a must have shape (3,) beside w of shape (3, 2), got (2,)"),
        ({"b": np.zeros((2, 1))}, "b must have shape (2,) beside w of shape (3, 2), got (2, 1)"),
        ({"base": np.zeros(1)}, "base_rate_logits must have shape (3,) beside w of shape (3, 2)"),
        ({"w": np.full((3, 2), np.nan)}, "w must be finite"),
        ({"base": np.full(3, -np.inf)}, "base_rate_logits must be finite"),
    ],
)
def test_rbm_path_refuses(changed, message):
    arrays = {**SMALL, "base": SMALL_BASE, **changed}
    base = arrays.pop("base")
    with pytest.raises(ValueError, match=re.escape(message)):
        make_path(arrays, base)


def test_rbm_path_refuses_integers():
    params = {name: jnp.zeros(np.shape(value), int) for name, value in SMALL.items()}
    with pytest.raises(TypeError, match="w must be floating, got int32"):
        inference.rbm_path(params, base_rate_logits=jnp.zeros(3, int))
