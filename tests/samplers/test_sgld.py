"""Langevin samplers against their exact one-step laws and known stationary laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.diagnostics import effective_sample_size
from scipy import linalg, stats

import kd.random
from kd import samplers, streams
from kd.samplers import preconditioned_sgld, sample, sghmc, sgld
from kd.types import Stream

NOTHING = Stream(lambda key: (), lambda key, state: (state, {}))
PRECISION = 4.0
GAUSSIAN = lambda x, batch: -0.5 * PRECISION * jnp.sum(jnp.square(x))
ONES = lambda key, shape: jnp.ones(shape)
FAST = {"normal_fn": kd.random.normal}
MAKERS = {
    "sgld": sgld,
    "preconditioned_sgld": lambda *args, **kwargs: preconditioned_sgld(
        *args, num_examples=1, **kwargs
    ),
    "sghmc": sghmc,
}


# Of a small bias on targets with scales of about 1.
CAREFUL = {
    "sgld": lambda fn: sgld(fn, NOTHING, step_size=0.05, **FAST),
    "sghmc": lambda fn: sghmc(fn, NOTHING, step_size=0.02, friction=0.3, **FAST),
}


def init(sampler, position):
    return sampler.init(position, jax.random.key(0))


def draws(sampler, start, *, num_samples=1000):
    """Positions of four chains, the coordinates of all chains in the last axes."""
    starts = jnp.broadcast_to(start, (4, *start.shape))
    samples = sample(
        jax.random.key(0),
        sampler,
        starts,
        num_samples=num_samples,
        burn_in=400,
        thin=10,
        num_chains=4,
    )
    return np.asarray(samples.position, np.float64)


def assert_mean(values, expected, *, bias=0.0):
    """The mean of `[C, S, ...]` up to a bias, within its own Monte Carlo error."""
    error = values.std() / np.sqrt(np.sum(effective_sample_size(values)))
    assert abs(values.mean() - expected) < 4.5 * error + bias, (values.mean(), expected, error)


def test_one_step_exactly():
    """theta + eps / 2 grad + sqrt(eps T) noise, with noise that is known."""
    x = jnp.array([1.0, -2.0])
    for size, temperature in ((0.1, 1.0), (0.3, 0.25), (0.2, 0.0)):
        sampler = sgld(GAUSSIAN, NOTHING, step_size=size, temperature=temperature, normal_fn=ONES)
        state, info = sampler.step(jax.random.key(1), init(sampler, x))
        expected = np.array([1.0, -2.0]) * (1 - size * PRECISION / 2) + np.sqrt(size * temperature)
        np.testing.assert_allclose(state.position, expected, rtol=1e-6)
        assert float(info.log_posterior) == pytest.approx(-10.0)
        assert float(info.step_size) == pytest.approx(size)
        assert int(state.num_steps) == 1 and not bool(info.is_diverged)


@pytest.mark.parametrize("normal_fn", [jax.random.normal, kd.random.normal])
def test_law_of_one_step(normal_fn):
    """From one position: Gaussian, with the mean and variance of the formula."""
    size, temperature, x = 0.2, 0.5, 1.5
    sampler = sgld(GAUSSIAN, NOTHING, step_size=size, temperature=temperature, normal_fn=normal_fn)
    state = init(sampler, jnp.full(8, x))
    keys = jax.random.split(jax.random.key(0), 4000)
    found = jax.jit(jax.vmap(lambda key: sampler.step(key, state)[0].position))(keys)
    law = stats.norm(x * (1 - size * PRECISION / 2), np.sqrt(size * temperature))
    assert stats.kstest(np.ravel(found), law.cdf).pvalue > 1e-3
    correlations = np.corrcoef(np.asarray(found).T)[np.triu_indices(8, 1)]
    assert np.abs(correlations).max() * np.sqrt(len(keys)) < 4.5


def stationary_variance(sampler, *, num_samples=4000, seed=0, burn_in=200):
    samples = sample(
        jax.random.key(seed),
        sampler,
        jnp.zeros((8, 16)),
        num_samples=num_samples,
        burn_in=burn_in,
        num_chains=8,
        thin=2,
    )
    return float(jnp.mean(jnp.square(samples.position)))


def test_stationary_variance_and_its_bias():
    """T / (lambda (1 - eps lambda / 4)), which falls to T / lambda with the step size."""
    errors = []
    for size in (0.5, 0.25, 0.1):
        found = stationary_variance(sgld(GAUSSIAN, NOTHING, step_size=size, **FAST))
        expected = 1 / (PRECISION * (1 - size * PRECISION / 4))
        assert found == pytest.approx(expected, rel=0.02)
        errors.append(found - 1 / PRECISION)
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2] > 0
    cold = sgld(GAUSSIAN, NOTHING, step_size=0.25, temperature=0.1, **FAST)
    expected = 0.1 / (PRECISION * (1 - 0.25 * PRECISION / 4))
    assert stationary_variance(cold) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", CAREFUL)
def test_moments_of_a_skewed_density(name):
    """The log of a Gamma(2) variable: the bias of a small step is no more than 0.01."""
    x = draws(CAREFUL[name](lambda x, batch: jnp.sum(2 * x - jnp.exp(x))), jnp.zeros(32))
    for order in (1, 2, 3):
        assert_mean(x**order, stats.loggamma(2).moment(order), bias=0.01)


@pytest.mark.parametrize("name", CAREFUL)
def test_a_correlated_gaussian(name):
    """A step is linear: the stationary covariance solves Lyapunov's equation."""
    covariance = np.array([[1.0, 0.9], [0.9, 2.0]])
    precision = np.linalg.inv(covariance)
    mean = jnp.array([3.0, -1.0])

    def fn(x, batch):
        return -0.5 * jnp.sum(
            ((x - mean[None]) @ jnp.asarray(precision, jnp.float32)) * (x - mean[None])
        )

    if name == "sgld":
        biased = linalg.solve_discrete_lyapunov(np.eye(2) - 0.025 * precision, 0.05 * np.eye(2))
    else:
        drift = np.hstack([-0.01 * precision, 0.7 * np.eye(2)])
        step = np.vstack([np.hstack([np.eye(2), np.zeros((2, 2))]) + drift, drift])
        noise = np.kron(np.ones((2, 2)), 0.3 * 0.02 * np.eye(2))
        biased = linalg.solve_discrete_lyapunov(step, noise)[:2, :2]
    np.testing.assert_allclose(biased, covariance, atol=0.04)
    x = draws(CAREFUL[name](fn), jnp.broadcast_to(mean, (32, 2)))
    for i in range(2):
        assert_mean(x[..., i], mean[i])
        for j in range(i + 1):
            assert_mean((x[..., i] - mean[i]) * (x[..., j] - mean[j]), biased[i, j])


@pytest.mark.parametrize("name", CAREFUL)
def test_a_funnel_fails_in_its_neck(name):
    """Neal's funnel in three dimensions: below v = -6 steps are longer than the funnel is wide.

    Exact samples are thrown out of the neck, and do not come back, so that the mean of v is too
    large. Above it their law holds: that of v above 0, and that of x given v.
    """

    def fn(position, batch):
        x, v = position["x"], position["v"]
        return jnp.sum(-(v**2) / 18 - v - 0.5 * jnp.exp(-v) * jnp.sum(x**2, axis=1))

    v = stats.norm(scale=3).ppf((np.arange(1500) + 0.5) / 1500).astype(np.float32)
    noise = np.random.default_rng(0).normal(size=(1500, 2)).astype(np.float32)
    x = noise * np.exp(v / 2)[:, None]
    assert (v < -6).sum() == 34 and abs(v.mean()) < 1e-3
    start = {"x": jnp.asarray(x), "v": jnp.asarray(v)}
    samples = sample(jax.random.key(0), CAREFUL[name](fn), start, num_samples=2, thin=800)
    assert not np.asarray(samples.info.is_diverged).any()
    x, v = (np.asarray(samples.position[leaf][-1]) for leaf in ("x", "v"))
    assert (v < -6).sum() == 0 and v.mean() > 0.3
    assert stats.kstest(v[v > 0], stats.halfnorm(scale=3).cdf).pvalue > 1e-3
    inside = (v > 0) & (v < 3)
    scaled = x[inside] / np.exp(v[inside] / 2)[:, None]
    assert stats.kstest(scaled.ravel(), "norm").pvalue > 1e-3


def test_hamiltonian_steps_equal_numpy():
    size, friction, temperature = 0.1, 0.3, 0.5
    sampler = sghmc(
        GAUSSIAN,
        NOTHING,
        step_size=size,
        friction=friction,
        temperature=temperature,
        normal_fn=ONES,
    )
    state = init(sampler, jnp.array([1.0, -2.0]))
    x, v = np.array([1.0, -2.0]), np.zeros(2)
    for index in range(4):
        state, _ = sampler.step(jax.random.key(index), state)
        noise = np.sqrt(friction * size * temperature)
        v = (1 - friction) * v - 0.5 * size * PRECISION * x + noise
        x = x + v
        np.testing.assert_allclose(state.position, x, rtol=1e-5)
        np.testing.assert_allclose(state.auxiliary, v, rtol=1e-5)
    hamiltonian = sghmc(GAUSSIAN, NOTHING, step_size=0.02, friction=0.3, **FAST)
    assert stationary_variance(hamiltonian) == pytest.approx(1 / PRECISION, rel=0.04)


def test_friction_of_one_is_sgld():
    x = jnp.array([1.0, -2.0])
    plain = sgld(GAUSSIAN, NOTHING, step_size=0.1)
    rubbed = sghmc(GAUSSIAN, NOTHING, step_size=0.1, friction=1.0)
    one, other = init(plain, x), init(rubbed, x)
    for index in range(3):
        one, _ = plain.step(jax.random.key(index), one)
        other, _ = rubbed.step(jax.random.key(index), other)
        np.testing.assert_allclose(one.position, other.position, rtol=1e-5, atol=1e-6)


def test_preconditioned_steps_equal_numpy():
    size, decay, damping, count = 0.1, 0.8, 0.05, 10
    sampler = preconditioned_sgld(
        GAUSSIAN,
        NOTHING,
        step_size=size,
        num_examples=count,
        decay=decay,
        damping=damping,
        temperature=0.5,
        normal_fn=ONES,
    )
    state = init(sampler, jnp.array([1.0, -2.0]))
    x, v = np.array([1.0, -2.0]), None
    for index in range(4):
        state, _ = sampler.step(jax.random.key(index), state)
        gradient = -PRECISION * x
        square = (gradient / count) ** 2
        v = square if v is None else decay * v + (1 - decay) * square
        metric = 1 / (damping + np.sqrt(v))
        x = x + 0.5 * size * metric * gradient + np.sqrt(size * 0.5 * metric)
        np.testing.assert_allclose(state.position, x, rtol=1e-5)
        np.testing.assert_allclose(state.auxiliary, v, rtol=1e-5)


def test_preconditioning_evens_out_scales():
    """A Gaussian with variances 1 and 1e-4: both move at one step size, which for SGLD
    would have to be below 4e-4."""
    precisions = jnp.array([1.0, 1e4])
    fn = lambda x, batch: -0.5 * jnp.sum(precisions * jnp.square(x))
    sampler = preconditioned_sgld(
        fn, NOTHING, step_size=0.002, num_examples=1, decay=0.999, damping=1e-3, **FAST
    )
    samples = sample(
        jax.random.key(0),
        sampler,
        jnp.zeros((8, 2)) + 0.01,
        num_samples=4000,
        burn_in=3000,
        thin=10,
        num_chains=8,
    )
    found = np.mean(np.square(np.asarray(samples.position, np.float64)), axis=(0, 1))
    # The left-out divergence of the metric counts where the averages are as slow as the chain.
    assert found[1] * 1e4 == pytest.approx(1, rel=0.1) and 0.7 < found[0] < 1.7


def test_schedules_reach_the_steps():
    sizes = samplers.polynomial_step_size(0.3, offset=2.0, power=0.6)
    sampler = sgld(GAUSSIAN, NOTHING, step_size=sizes)
    found = sample(jax.random.key(0), sampler, jnp.zeros(1), num_samples=5, burn_in=3).info
    np.testing.assert_allclose(found.step_size, 0.3 * (2.0 + np.arange(3, 8)) ** -0.6, rtol=1e-6)
    assert samplers.polynomial_step_size(1.0)(jnp.array(0)) == 1.0
    cyclical = samplers.cyclical_step_size(0.4, num_cycles=3, num_steps=10)
    expected = [0.2 * (np.cos(np.pi * (t % 4) / 4) + 1) for t in range(10)]
    np.testing.assert_allclose([cyclical(jnp.array(t)) for t in range(10)], expected, rtol=1e-5)
    heat = samplers.cyclical_temperature(num_cycles=3, num_steps=10, exploration=0.25)
    assert [float(heat(jnp.array(t))) for t in range(10)] == [0, 1, 1, 1, 0, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("name", MAKERS)
def test_a_schedule_of_temperatures_is_each_step_at_its_own(name):
    make = MAKERS[name]
    heat = samplers.cyclical_temperature(num_cycles=2, num_steps=8)
    sampler = make(GAUSSIAN, NOTHING, step_size=0.1, temperature=heat)
    state = init(sampler, jnp.ones(3))
    for step in range(8):
        fixed = make(GAUSSIAN, NOTHING, step_size=0.1, temperature=float(step % 4 >= 2))
        key = jax.random.key(step)
        expected = fixed.step(key, state)[0].position
        state = sampler.step(key, state)[0]
        np.testing.assert_allclose(state.position, expected, rtol=1e-6)


def regression_data(num=40):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num, 2)).astype(np.float32)
    y = (rng.uniform(size=num) < 1 / (1 + np.exp(-x @ [1.0, -2.0]))).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(y)}


def logistic(num):
    def log_likelihood(w, one):
        z = one["x"] @ w
        return one["y"] * z - jax.nn.softplus(z)

    return samplers.minibatch_log_posterior(
        lambda w: -0.5 * jnp.sum(w**2) / 4, log_likelihood, num_examples=num
    )


def test_the_estimate_is_unbiased():
    """Its mean over the batches of an epoch is the log-posterior of all data, in a loop."""
    data = regression_data()
    w = jnp.array([0.3, -0.7])
    total = -0.5 * float(jnp.sum(w**2)) / 4
    for x, y in zip(np.asarray(data["x"], float), np.asarray(data["y"], float), strict=True):
        p = 1 / (1 + np.exp(-x @ np.asarray(w, float)))
        total += np.log(p if y else 1 - p)
    fn = logistic(40)
    parts = [
        float(fn(w, jax.tree.map(lambda leaf, i=i: leaf[i : i + 8], data))) for i in range(0, 40, 8)
    ]
    assert np.mean(parts) == pytest.approx(total, rel=1e-5)
    assert float(fn(w, data)) == pytest.approx(total, rel=1e-5)


def test_control_variates():
    data, fn = regression_data(), logistic(40)
    anchor = jnp.array([0.8, -1.5])
    corrected = samplers.control_variates(fn, anchor, jax.grad(fn)(anchor, data))
    w = anchor + 0.05
    batches = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 4], data) for i in range(0, 40, 4)]
    plain = np.array([jax.grad(fn)(w, batch) for batch in batches])
    found = np.array([jax.grad(corrected)(w, batch) for batch in batches])
    by_hand = np.array(
        [
            jax.grad(fn)(anchor, data) + jax.grad(fn)(w, batch) - jax.grad(fn)(anchor, batch)
            for batch in batches
        ]
    )
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.mean(0), jax.grad(fn)(w, data), rtol=1e-3, atol=1e-3)
    assert found.var(0).max() < 0.01 * plain.var(0).min()
    with pytest.raises(ValueError, match="alike in structure"):
        samplers.control_variates(fn, anchor, {"w": anchor})
    with pytest.raises(ValueError, match="anchor and full_gradient must have the same shape"):
        samplers.control_variates(fn, anchor, jnp.zeros(3))


def test_full_batch_posterior_against_nuts():
    """Logistic regression: means and standard deviations of SGLD and of numpyro's NUTS."""
    import numpyro.infer

    data, fn = regression_data(), logistic(40)
    nuts = numpyro.infer.MCMC(
        numpyro.infer.NUTS(potential_fn=lambda w: -fn(w, data)),
        num_warmup=300,
        num_samples=4000,
        progress_bar=False,
    )
    nuts.run(jax.random.key(0), init_params=jnp.zeros(2))
    expected = np.asarray(nuts.get_samples())
    whole = Stream(lambda key: (), lambda key, state: (state, data))
    sampler = sgld(fn, whole, step_size=0.02, **FAST)
    samples = sample(
        jax.random.key(1),
        sampler,
        jnp.zeros((8, 2)),
        num_samples=2000,
        burn_in=1000,
        thin=20,
        num_chains=8,
    )
    found = np.asarray(samples.position).reshape(-1, 2)
    scale = expected.std(0)
    np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=0.08 * scale.max())
    np.testing.assert_allclose(found.std(0), scale, rtol=0.08)


def test_minibatches_reach_the_chains():
    """Each chain has an order of the data of its own, and every example is seen."""
    seen = lambda x, batch: jnp.sum(batch["x"]) + 0 * jnp.sum(x)
    sampler = sgld(seen, streams.resample({"x": jnp.arange(6.0)}, 1), step_size=0.1)
    samples = sample(jax.random.key(0), sampler, jnp.zeros((4, 1)), num_samples=6, num_chains=4)
    orders = np.asarray(samples.info.log_posterior)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(np.arange(6.0), (4, 1)))
    assert len(np.unique(orders, axis=0)) > 1


@pytest.mark.parametrize("name", MAKERS)
def test_a_diverging_chain_says_so(name):
    sampler = MAKERS[name](lambda x, batch: -jnp.sum(x**4), NOTHING, step_size=10.0)
    run = functools.partial(sample, jax.random.key(0), sampler, jnp.full(3, 10.0), num_samples=30)
    if name == "preconditioned_sgld":  # It divides by the gradient's size.
        assert not run().info.is_diverged.any()
        return
    with pytest.warns(RuntimeWarning, match="100% of the chains diverged"):
        samples = run()
    flags = np.asarray(samples.info.is_diverged)
    assert flags[-1] and not flags[0]
    assert np.array_equal(flags, ~np.isfinite(samples.position).all(-1))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(
    "fn",
    [
        lambda x: jnp.where(x > 0, -x, -jnp.inf),
        lambda x: 0.1 * jnp.log(x) - x,
    ],
    ids=["truncated", "nan"],
)
def test_steps_outside_the_support_are_flagged(name, fn):
    """Gradients and positions stay finite there: only the log-posterior tells."""
    sampler = MAKERS[name](lambda x, batch: fn(x), NOTHING, step_size=0.05)
    with pytest.warns(RuntimeWarning, match="went where the log-density is not finite"):
        samples = sample(jax.random.key(0), sampler, jnp.array(0.5), num_samples=300)
    position = np.asarray(samples.position)
    assert np.isfinite(position).all() and 5 < (position < 0).sum() < 295
    before = np.append(0.5, position[:-1])
    np.testing.assert_array_equal(samples.info.is_diverged, before <= 0)
    np.testing.assert_array_equal(~np.isfinite(samples.info.log_posterior), before <= 0)


def test_any_pytree_and_dtype():
    position = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3, jnp.bfloat16)}
    fn = lambda x, batch: (
        -sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(x))
    )
    for make in MAKERS.values():
        sampler = make(fn, NOTHING, step_size=0.1, **FAST)
        state, _ = sampler.step(jax.random.key(0), init(sampler, position))
        assert jax.tree.map(jnp.shape, state.position) == jax.tree.map(jnp.shape, position)
        assert state.position["b"].dtype == jnp.bfloat16
        assert float(jnp.std(state.position["w"])) > 0


def test_normal_numbers_of_a_tree():
    tree = [jnp.zeros((50, 40)), jnp.zeros(2000), jnp.zeros((), jnp.float32)]
    first, second, _ = samplers.normal_like(jax.random.key(0), tree, kd.random.normal)
    assert first.shape == (50, 40)
    assert stats.kstest(np.append(np.ravel(first), second), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(np.ravel(first), second)[0, 1]) * np.sqrt(2000) < 4
    alone = samplers.normal_like(jax.random.key(3), jnp.zeros(5), jax.random.normal)
    np.testing.assert_array_equal(alone, jax.random.normal(jax.random.key(3), (5,)))


@pytest.mark.parametrize("tree", [{}, [], (), None, {"a": [], "b": None}])
def test_normal_numbers_of_a_tree_without_leaves(tree):
    found = samplers.normal_like(jax.random.key(0), tree)
    assert found == tree and type(found) is type(tree)


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [
        (jnp.zeros(3, jnp.int32), "int32"),
        (np.zeros(3, np.uint8), "uint8"),
        (jnp.zeros(3, bool), "bool"),
        (jnp.zeros(3, jnp.complex64), "complex64"),
        (1, "int32"),
    ],
)
def test_normal_numbers_need_floating_leaves(leaf, dtype):
    """Rounded to integers they would be normal no more: the leaf is named, one alone too."""
    tree = {"w": jnp.zeros(2), "counts": [jnp.zeros(()), leaf]}
    with pytest.raises(TypeError, match=rf"tree\['counts'\]\[1\] must be floating, got {dtype}"):
        samplers.normal_like(jax.random.key(0), tree)
    with pytest.raises(TypeError, match=f"tree must be floating, got {dtype}"):
        samplers.normal_like(jax.random.key(0), leaf)


def test_normal_numbers_by_shapes_and_dtypes_alone():
    shapes = {"a": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16), "b": 1.0, "c": np.zeros(4, "f2")}
    found = samplers.normal_like(jax.random.key(0), shapes)
    assert found["a"].shape == (2, 3) and found["a"].dtype == jnp.bfloat16
    assert found["b"].shape == () and found["b"].dtype == jnp.float32
    assert found["c"].shape == (4,) and found["c"].dtype == jnp.float16


def test_raises():
    for make in MAKERS.values():
        for options, message in (
            ({"step_size": 0.0}, "step_size must be finite and positive, got 0.0"),
            ({"step_size": -1.0}, "step_size must be finite and positive, got -1.0"),
            ({"step_size": 0.1, "temperature": -1.0}, "temperature must be finite and at least 0"),
            ({"step_size": 0.1, "temperature": np.nan}, "temperature must be finite"),
        ):
            with pytest.raises(ValueError, match=message):
                make(GAUSSIAN, NOTHING, **options)
        sampler = make(GAUSSIAN, NOTHING, step_size=0.1)
        with pytest.raises(TypeError, match="init needs a key, for the data stream"):
            sampler.init(jnp.zeros(2))
        with pytest.raises(TypeError, match="position must be floating, got int32"):
            init(sampler, jnp.zeros(2, int))
        vector = make(lambda x, batch: x, NOTHING, step_size=0.1)
        with pytest.raises(
            ValueError, match=r"log_posterior_fn\(position, batch\) must have rank 0"
        ):
            vector.step(jax.random.key(0), init(vector, jnp.zeros(2)))
    for options, message in (
        ({"friction": 0.0}, r"friction must be in \(0, 1\], got 0.0"),
        ({"friction": 1.5}, r"friction must be in \(0, 1\], got 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            sghmc(GAUSSIAN, NOTHING, step_size=0.1, **options)
    for options, message in (
        ({"num_examples": 0}, "num_examples must be at least 1, got 0"),
        ({"num_examples": 1, "decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"num_examples": 1, "damping": 0.0}, "damping must be finite and positive, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            preconditioned_sgld(GAUSSIAN, NOTHING, step_size=0.1, **options)
    for options, message in (
        ({"scale": 0.0}, "scale must be finite and positive"),
        ({"scale": 1.0, "offset": 0.0}, "offset must be finite and positive"),
        ({"scale": 1.0, "power": 0.5}, r"power must be in \(1/2, 1\], got 0.5"),
    ):
        with pytest.raises(ValueError, match=message):
            samplers.polynomial_step_size(**options)
    for options, message in (
        ({"scale": -1.0, "num_cycles": 1, "num_steps": 2}, "scale must be finite and positive"),
        ({"scale": 1.0, "num_cycles": 3, "num_steps": 2}, "num_cycles must be at least 1 and at"),
    ):
        with pytest.raises(ValueError, match=message):
            samplers.cyclical_step_size(**options)
    with pytest.raises(ValueError, match=r"exploration must be in \[0, 1\], got 1.5"):
        samplers.cyclical_temperature(num_cycles=1, num_steps=2, exploration=1.5)
    for options in ({"num_cycles": 1.5, "num_steps": 3}, {"num_cycles": 1, "num_steps": 1.5}):
        with pytest.raises(TypeError, match="must be an integer, got 1.5"):
            samplers.cyclical_step_size(1.0, **options)
    with pytest.raises(ValueError, match="num_examples must be at least 1, got 0"):
        samplers.minibatch_log_posterior(lambda x: 0.0, lambda x, one: 0.0, num_examples=0)


def test_schedules_and_positions_that_will_not_do():
    data = streams.resample({"x": jnp.zeros(2)}, 1)
    fn = lambda w, batch: -jnp.sum(w**2)
    for schedule, message in (
        (lambda t: -0.1, "must be finite and at least 0, got -0.1"),
        (lambda t: float("nan"), "must be finite and at least 0, got nan"),
        (lambda t: jnp.array([0.1, 0.2]), "step_size\\(0\\) must have rank 0"),
    ):
        with pytest.raises(ValueError, match=message):
            samplers.sgld(fn, data, step_size=schedule)
    with pytest.raises(ValueError, match=r"temperature\(0\) must be finite and at least 0"):
        samplers.sgld(fn, data, step_size=0.1, temperature=lambda t: -1.0)
    colder = samplers.sgld(fn, data, step_size=0.1, temperature=lambda t: 1.0 - t)
    with pytest.warns(RuntimeWarning, match="100% of the chains diverged"):
        found = samplers.sample(jax.random.key(0), colder, jnp.ones(2), num_samples=4)
    assert found.info.is_diverged.tolist() == [False, False, True, True]
    later = samplers.sgld(fn, data, step_size=lambda t: 0.1 - 0.1 * t, temperature=0.0)
    with pytest.warns(RuntimeWarning, match="100% of the chains diverged"):
        found = samplers.sample(jax.random.key(0), later, jnp.ones(2), num_samples=4)
    assert found.info.is_diverged.tolist() == [False, False, True, True]
    with pytest.raises(TypeError, match="data_stream must be of type Stream, got dict"):
        samplers.sgld(fn, {"x": jnp.zeros(2)}, step_size=0.1)
    sampler = samplers.sgld(lambda w, batch: 0.0, data, step_size=0.1)
    with pytest.raises(ValueError, match="the number of coordinates"):
        sampler.init({}, jax.random.key(0))
    assert sampler.init(jnp.ones(2), jax.random.key(0)).log_posterior == 0
