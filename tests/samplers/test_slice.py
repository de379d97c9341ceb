"""Slice sampling against known laws: skewed, correlated, truncated, a funnel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from scipy import integrate, stats

import kd.random
from kd.samplers import sample, slice_sampler
from kd.samplers import slice as slice_module

# A skewed density, exp(x) - gamma-like: the log of a Gamma(2) variable.
LOG_GAMMA = lambda x: 2 * x - jnp.exp(x)


def draw(log_density_fn, start, *, num_chains=4, num_samples=4000, seed=0, burn_in=200, **options):
    options = {"uniform_fn": kd.random.uniform} | options
    sampler = slice_sampler(log_density_fn, **options)
    starts = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_chains, *jnp.shape(x))), start)
    return sample(
        jax.random.key(seed),
        sampler,
        starts,
        num_samples=num_samples,
        burn_in=burn_in,
        num_chains=num_chains,
    )


def assert_mean(values, expected, *, sigmas=4.5):
    """The mean over chains and draws, `[C, S]`, within its own Monte Carlo error."""
    values = np.asarray(values, np.float64)
    error = values.std() / np.sqrt(effective_sample_size(values))
    assert abs(values.mean() - expected) < sigmas * error, (values.mean(), expected, error)


@pytest.mark.parametrize("width", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("lookahead", [1, 3])
def test_moments_of_a_skewed_density(width, lookahead):
    x = draw(LOG_GAMMA, jnp.zeros(()), width=width, lookahead=lookahead, num_samples=6000).position
    law = stats.loggamma(2)
    for order in (1, 2, 3):
        assert_mean(np.asarray(x, np.float64) ** order, law.moment(order))
    assert split_gelman_rubin(np.asarray(x)) < 1.01


def test_law_of_a_skewed_density():
    """Thinned until independent, against the distribution function."""
    sampler = slice_sampler(LOG_GAMMA, width=3.0, uniform_fn=kd.random.uniform)
    samples = sample(
        jax.random.key(0),
        sampler,
        jnp.zeros(8),
        num_samples=1000,
        burn_in=50,
        thin=10,
        num_chains=8,
    )
    assert stats.kstest(np.ravel(samples.position), stats.loggamma(2).cdf).pvalue > 1e-3


def test_one_step_keeps_the_law():
    """From exact samples, limited in its expansions or not, to exact samples."""
    starts = np.asarray(stats.loggamma(2).rvs(20_000, random_state=0), np.float32)
    limited = []
    for max_expansions in (1, 2, 128):
        sampler = slice_sampler(
            LOG_GAMMA, width=0.7, max_expansions=max_expansions, uniform_fn=kd.random.uniform
        )
        keys = jax.random.split(jax.random.key(max_expansions), len(starts))
        states, infos = jax.jit(jax.vmap(lambda key, x, s=sampler: s.step(key, s.init(x))))(
            keys, jnp.asarray(starts)
        )
        assert stats.kstest(np.asarray(states.position), stats.loggamma(2).cdf).pvalue > 1e-3
        assert (np.asarray(states.position) != starts).mean() > 0.99
        limited.append(float(np.mean(infos.num_limited)))
    # At any limit one end may get none of the moves: that has a probability of 2 in 128.
    assert limited[0] > limited[1] > 0.3 and limited[2] < 0.04


def test_ten_steps_between_two_modes_keep_the_law():
    """A bracket reaches the other mode where it is placed at random, and only if it is."""
    scales, rng = np.array([0.25, 0.6]), np.random.default_rng(0)
    is_right = rng.uniform(size=20_000) < 0.3
    starts = 2.2 * is_right + scales[is_right.astype(int)] * rng.normal(size=20_000)

    def fn(x):
        left = jnp.log(0.7 / 0.25) - 0.5 * (x / 0.25) ** 2
        return jnp.logaddexp(left, jnp.log(0.3 / 0.6) - 0.5 * ((x - 2.2) / 0.6) ** 2)

    samples = sample(
        jax.random.key(0),
        slice_sampler(fn, width=1.3, uniform_fn=kd.random.uniform),
        jnp.asarray(starts, jnp.float32),
        num_samples=1,
        burn_in=9,
        num_chains=20_000,
    )
    x = np.ravel(samples.position)
    assert 0.35 < np.mean((x > 1) != (starts > 1)) < 0.4
    cdf = lambda x: 0.7 * stats.norm.cdf(x / 0.25) + 0.3 * stats.norm.cdf((x - 2.2) / 0.6)
    assert stats.kstest(x, cdf).pvalue > 1e-3


@pytest.mark.parametrize("order", ["sequential", "random"])
def test_a_correlated_gaussian(order):
    covariance = np.array([[1.0, 0.9], [0.9, 2.0]])
    precision = jnp.asarray(np.linalg.inv(covariance), jnp.float32)
    mean = jnp.array([3.0, -1.0])
    fn = lambda x: -0.5 * (x - mean) @ precision @ (x - mean)
    x = np.asarray(draw(fn, jnp.zeros(2), width=2.0, order=order, num_samples=6000).position)
    for i in range(2):
        assert_mean(x[..., i], mean[i])
        assert split_gelman_rubin(x[..., i]) < 1.01
        for j in range(2):
            product = (x[..., i] - mean[i]) * (x[..., j] - mean[j])
            assert_mean(product, covariance[i, j])


def test_truncated_support():
    """Nothing outside, the right mass inside: a normal above 1, and a box."""
    fn = lambda x: jnp.where(x > 1, -0.5 * x**2, -jnp.inf)
    x = np.asarray(draw(fn, jnp.array(2.0), width=1.0, num_samples=6000).position)
    assert x.min() > 1
    assert_mean(x, stats.truncnorm(1, np.inf).mean())
    assert_mean(x**2, stats.truncnorm(1, np.inf).moment(2))
    box = lambda x: jnp.where(jnp.all((x > 0) & (x < jnp.array([1.0, 3.0]))), 0.0, -jnp.inf)
    y = np.asarray(draw(box, jnp.full(2, 0.5), width=10.0, num_samples=3000).position)
    assert y.min() > 0 and y[..., 0].max() < 1 and y[..., 1].max() < 3
    assert_mean(y[..., 0], 0.5)
    assert_mean(y[..., 1], 1.5)


def funnel(x):
    """Neal's: the first coordinate is v, the others have a scale of exp(v / 2)."""
    v, others = x[0], x[1:]
    return -(v**2) / 18 - 0.5 * others.size * v - 0.5 * jnp.exp(-v) * jnp.sum(others**2)


def test_a_funnel():
    """In three dimensions the law holds from neck to mouth; the mouth costs the most."""
    samples = draw(funnel, jnp.zeros(3), width=3.0, num_samples=8000, num_chains=8)
    v = np.asarray(samples.position[..., 0])
    assert_mean(v, 0.0)
    assert_mean(v**2, 9.0)
    for low, high in ((-np.inf, -6), (-6, -3), (-3, 3), (3, 6), (6, np.inf)):
        law = stats.norm(scale=3)
        assert_mean((low < v) & (v < high), law.cdf(high) - law.cdf(low))
    # Coordinate by coordinate v moves only slowly.
    assert effective_sample_size(v) < 0.3 * v.size
    cost = np.asarray(samples.info.num_evaluations)
    assert cost[v > 6].mean() > 3 * cost[v < 3].mean()
    assert cost[v < -6].mean() < 2 * cost[np.abs(v) < 3].mean()


def test_a_funnel_of_ten_dimensions_fails_at_both_its_ends():
    """Given v its width is found at once, but v drifts: a chain of 1000 may miss neck or mouth."""
    x = np.asarray(draw(funnel, jnp.zeros(10), width=3.0, num_samples=1000, num_chains=8).position)
    v = x[..., 0].astype(np.float64)
    assert split_gelman_rubin(v) > 1.05 and effective_sample_size(v) < 0.02 * v.size
    for is_inside in (v < -6, v > 6):
        assert is_inside.mean(axis=1).min() < 0.25 * stats.norm(scale=3).cdf(-6)
    squares = (x[..., 1:] / np.exp(v / 2)[..., None]) ** 2
    for i in range(9):
        assert_mean(squares[..., i], 1.0)
        assert split_gelman_rubin(squares[..., i]) < 1.01


def test_any_pytree_and_its_brackets():
    """A position of several leaves is the flat one; infos have its structure."""
    start = {"a": jnp.zeros(2), "b": jnp.array(0.5)}

    def fn(x):
        return -jnp.sum(jnp.square(x["a"])) + LOG_GAMMA(x["b"])

    flat_fn = lambda x: fn({"a": x[:2], "b": x[2]})
    for order in ("sequential", "random"):
        options = {"width": 1.5, "order": order}
        sampler, flat = slice_sampler(fn, **options), slice_sampler(flat_fn, **options)
        state, info = sampler.step(jax.random.key(3), sampler.init(start))
        flat_state, flat_info = flat.step(jax.random.key(3), flat.init(jnp.array([0.0, 0.0, 0.5])))
        np.testing.assert_array_equal(state.position["a"], flat_state.position[:2])
        np.testing.assert_array_equal(state.position["b"], flat_state.position[2])
        for name in ("low", "high"):
            found = getattr(info, name)
            np.testing.assert_array_equal(
                jnp.append(found["a"], found["b"]), getattr(flat_info, name)
            )
        old, new = jnp.array([0.0, 0.0, 0.5]), flat_state.position
        for x in (old, new):
            assert bool(jnp.all((flat_info.low <= x) & (x <= flat_info.high)))
        assert float(state.log_density) == pytest.approx(float(fn(state.position)), rel=1e-6)


@pytest.mark.parametrize("lookahead", [2, 5, 16])
def test_lookahead_changes_no_sample(lookahead):
    """Proposals judged at once are those that would have been judged in turn."""
    one = draw(LOG_GAMMA, jnp.zeros(()), width=0.5, num_samples=300, num_chains=2)
    many = draw(
        LOG_GAMMA, jnp.zeros(()), width=0.5, num_samples=300, num_chains=2, lookahead=lookahead
    )
    np.testing.assert_allclose(many.position, one.position, atol=1e-4)
    assert (many.info.num_evaluations >= one.info.num_evaluations).all()


def test_width_adapts_in_the_burn_in_alone():
    """To the mean of the shrunk brackets, a few times the target's scale of 5, from any start."""
    found = []
    for width in (0.01, 1.0, 100.0):
        sampler = slice_sampler(lambda x: -0.5 * jnp.sum(x**2) / 25, width=width, adapt_steps=300)
        before = sample(jax.random.key(0), sampler, jnp.zeros(2), num_samples=300).state
        after = sampler.step(jax.random.key(1), before)[0]
        assert float(after.width) == float(before.width) and int(after.num_steps) == 301
        found.append(float(before.width))
    assert 10 < min(found) and max(found) < 1.1 * min(found) < 50
    first = sampler.step(jax.random.key(2), sampler.init(jnp.zeros(2)))[0]
    assert float(first.width) != 100.0
    fixed = slice_sampler(lambda x: -0.5 * jnp.sum(x**2), width=3.0)
    assert float(fixed.step(jax.random.key(2), fixed.init(jnp.zeros(2)))[0].width) == 3.0


def test_no_loop_is_without_an_end():
    """A log-density that lies about the start, NaN all around, a width far too small."""

    def broken(x):
        return jnp.where(x == 0.5, 0.0, jnp.nan)

    sampler = slice_sampler(broken, width=1.0, max_shrinks=7)
    state, info = jax.jit(sampler.step)(jax.random.key(0), sampler.init(jnp.array(0.5)))
    assert float(state.position) == 0.5 and float(state.log_density) == 0.0
    assert int(info.num_exhausted) == 1 and int(state.num_exhausted) == 1
    again, _ = jax.jit(sampler.step)(jax.random.key(1), state)
    assert int(again.num_exhausted) == 2
    # 1e6 widths across: the limit is reached, and said so.
    wide = slice_sampler(lambda x: -0.5 * (x / 1e6) ** 2, width=1.0, max_expansions=10)
    state, info = jax.jit(wide.step)(jax.random.key(0), wide.init(jnp.array(0.0)))
    assert int(info.num_limited) == 1 and float(info.high - info.low) == pytest.approx(10)
    # Where the position is too large for the width to move it.
    far = slice_sampler(lambda x: jnp.zeros(()), width=1e-3, max_expansions=5)
    state, _ = jax.jit(far.step)(jax.random.key(0), far.init(jnp.array(1e9)))
    assert float(state.position) == pytest.approx(1e9)


def test_no_loop_is_without_an_end_side_by_side():
    """A chain that no bracket contains, or no proposal leaves, changes none beside it."""

    def step(key, x, scale):
        fn = lambda value: jnp.where(value == x, 0.0, -0.5 * (value / scale) ** 2)
        sampler = slice_sampler(fn, width=1.0, max_expansions=10, max_shrinks=12)
        return sampler.step(key, sampler.init(x))

    keys = jax.random.split(jax.random.key(0), 4)
    starts, scales = jnp.array([0.0, 0.0, 1e9, 0.5]), jnp.array([1.0, 1e6, jnp.inf, jnp.nan])
    states, infos = jax.jit(jax.vmap(step))(keys, starts, scales)
    np.testing.assert_array_equal(infos.num_limited, [0, 1, 1, 0])
    np.testing.assert_array_equal(infos.num_exhausted, [0, 0, 0, 1])
    np.testing.assert_array_equal(states.position[2:], starts[2:])
    alone = jax.jit(lambda inputs: jax.lax.map(lambda one: step(*one), inputs))
    for together, apart in zip(
        jax.tree.leaves((states, infos)),
        jax.tree.leaves(alone((keys, starts, scales))),
        strict=True,
    ):
        np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_chains_by_loop_and_by_vmap_agree():
    options = {"width": 0.5, "uniform_fn": kd.random.uniform}
    sampler = slice_sampler(LOG_GAMMA, **options)
    runs = [
        sample(
            jax.random.key(0),
            sampler,
            jnp.linspace(-1, 1, 3),
            num_samples=200,
            burn_in=10,
            num_chains=3,
            method=method,
        ).position
        for method in ("loop", "vmap")
    ]
    np.testing.assert_allclose(*runs, atol=1e-4)


def test_mean_by_quadrature_of_a_density_without_a_name():
    fn = lambda x: -0.25 * x**4 + jnp.sin(3 * x)
    log_p = lambda x: -0.25 * x**4 + np.sin(3 * x)
    mass = integrate.quad(lambda x: np.exp(log_p(x)), -8, 8)[0]
    mean = integrate.quad(lambda x: x * np.exp(log_p(x)), -8, 8)[0] / mass
    assert_mean(draw(fn, jnp.zeros(()), width=1.0).position, mean)


@pytest.mark.parametrize("size", [1, 2, 7, 32, 33, 100])
def test_random_orders_are_permutations(size):
    numbers = np.random.default_rng(size).integers(0, size, size=size) / size  # With ties.
    indices, ranks = slice_module._sorted(jnp.asarray(numbers, jnp.float32))
    np.testing.assert_array_equal(indices, np.argsort(numbers, kind="stable"))
    np.testing.assert_array_equal(np.asarray(indices)[np.asarray(ranks)], np.arange(size))


def test_raises():
    for options, message in (
        ({"width": 0.0}, "width must be finite and positive, got 0.0"),
        ({"width": np.nan}, "width must be finite and positive, got nan"),
        ({"adapt_steps": -1}, "adapt_steps must be at least 0, got -1"),
        ({"order": "reverse"}, "order must be one of sequential, random; got 'reverse'"),
        ({"max_expansions": 0}, "max_expansions must be at least 1, got 0"),
        ({"max_shrinks": 0}, "max_shrinks must be at least 1, got 0"),
        ({"lookahead": 0}, "lookahead must be at least 1 and at most 16, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            slice_sampler(LOG_GAMMA, **options)
    sampler = slice_sampler(LOG_GAMMA)
    with pytest.raises(TypeError, match="position must be floating, got int32"):
        sampler.init(jnp.array(1))
    with pytest.raises(ValueError, match="the number of coordinates must be at least 1, got 0"):
        slice_sampler(lambda x: jnp.zeros(())).init(jnp.zeros(0))
    with pytest.raises(ValueError, match=r"log_density_fn\(position\) must have rank 0"):
        sampler.init(jnp.zeros(2))
    for value in (np.nan, -np.inf, np.inf):
        broken = slice_sampler(lambda x, value=value: jnp.float32(value) + 0 * x)
        with pytest.raises(ValueError, match=f"at the start must be finite, got {value}"):
            broken.init(jnp.array(0.0))
        with pytest.raises(ValueError, match=f"start of chain 0 must be finite, got {value}"):
            sample(jax.random.key(0), broken, jnp.zeros(2), num_samples=1, num_chains=2)


def test_half_precision_is_refused():
    sampler = slice_sampler(lambda x: -jnp.sum(x**2))
    with pytest.raises(TypeError, match="single or double precision, got bfloat16"):
        sampler.init(jnp.zeros(2, jnp.bfloat16))
