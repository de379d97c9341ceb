"""`sample` against a kernel whose every step can be computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd import samplers, streams
from kd.samplers import position_of, sample
from kd.types import Sampler


def walk():
    """Adds its key's first normal number; info is the number."""

    def step(key, x):
        move = jax.random.normal(key)
        return x + move, move

    return Sampler(lambda position, key=None: jnp.asarray(position), step)


def by_hand(key, position, num_samples, burn_in, thin):
    """The same chain in a Python loop, from the keys that the docstring promises nothing of."""
    _, step_key = jax.random.split(key)
    burn_in_key, kept_key = jax.random.split(step_key)
    sampler, x = walk(), jnp.asarray(position)
    for i in range(burn_in):
        x, _ = sampler.step(jax.random.fold_in(burn_in_key, i), x)
    positions, infos = [], []
    for i in range(num_samples):
        key = jax.random.fold_in(kept_key, i)
        keys = [key] if thin == 1 else [jax.random.fold_in(key, j) for j in range(thin)]
        for key in keys:
            x, info = sampler.step(key, x)
        positions.append(x)
        infos.append(info)
    return np.array(positions), np.array(infos)


@pytest.mark.parametrize("burn_in,thin", [(0, 1), (3, 1), (0, 4), (2, 3)])
def test_equals_a_loop(burn_in, thin):
    key = jax.random.key(0)
    samples = sample(key, walk(), 1.0, num_samples=5, burn_in=burn_in, thin=thin)
    positions, infos = by_hand(key, 1.0, 5, burn_in, thin)
    np.testing.assert_allclose(samples.position, positions, rtol=1e-6)
    np.testing.assert_allclose(samples.info, infos, rtol=1e-6)
    assert float(samples.state) == float(samples.position[-1])
    longer = sample(key, walk(), 1.0, num_samples=9, burn_in=burn_in, thin=thin)
    np.testing.assert_array_equal(longer.position[:5], samples.position)


@pytest.mark.parametrize("method", ["loop", "vmap"])
def test_chains_are_independent_and_like_one(method):
    key = jax.random.key(1)
    starts = jnp.array([0.0, 10.0, 20.0])
    samples = sample(key, walk(), starts, num_samples=6, burn_in=2, num_chains=3, method=method)
    assert samples.position.shape == samples.info.shape == (3, 6)
    for chain, one in enumerate(jax.random.split(key, 3)):
        positions, infos = by_hand(one, starts[chain], 6, 2, 1)
        np.testing.assert_allclose(samples.position[chain], positions, rtol=1e-6)
        np.testing.assert_allclose(samples.info[chain], infos, rtol=1e-6)


def test_under_jit_and_vmap():
    run = lambda key: sample(key, walk(), 0.0, num_samples=4).position
    keys = jax.random.split(jax.random.key(2), 3)
    expected = [run(key) for key in keys]
    np.testing.assert_allclose([jax.jit(run)(key) for key in keys], expected, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(run)(keys), expected, rtol=1e-6)


def test_init_is_given_a_key():
    """What is random in a start differs from chain to chain."""
    sampler = Sampler(lambda position, key: position + jax.random.normal(key), walk().step)
    samples = sample(jax.random.key(0), sampler, jnp.zeros(4), num_samples=1, num_chains=4)
    starts = np.asarray(samples.position - samples.info)
    assert len(np.unique(starts.round(5))) == 4


def test_blackjax_kernels_drop_in():
    blackjax = pytest.importorskip("blackjax")
    algorithm = blackjax.nuts(
        lambda x: -0.5 * jnp.sum(x**2), step_size=0.8, inverse_mass_matrix=jnp.ones(2)
    )
    samples = sample(
        jax.random.key(0), algorithm, jnp.zeros((2, 2)), num_samples=500, burn_in=50, num_chains=2
    )
    assert samples.position.shape == (2, 500, 2)
    assert abs(float(jnp.mean(samples.position))) < 0.15
    assert float(jnp.var(samples.position)) == pytest.approx(1, abs=0.2)
    assert position_of(samples.state).shape == (2, 2)


def test_raises():
    key = jax.random.key(0)
    for options, message in (
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_samples": 1, "burn_in": -1}, "burn_in must be at least 0, got -1"),
        ({"num_samples": 1, "thin": 0}, "thin must be at least 1, got 0"),
        ({"num_samples": 2**16, "thin": 2**16}, "the number of steps must be at least 1 and"),
        ({"num_samples": 1, "num_chains": 0}, "num_chains must be at least 1, got 0"),
        ({"num_samples": 1, "num_chains": 3}, "must have a leading axis of num_chains = 3"),
        ({"num_samples": 1, "num_chains": 2, "method": "both"}, "method must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            sample(key, walk(), jnp.zeros(2), **options)
    with pytest.raises(TypeError, match="key must be one typed key"):
        sample(0, walk(), jnp.zeros(2), num_samples=1)
    stored = streams.bag({"w": jnp.zeros((3, 2))}, 1)
    with pytest.raises(TypeError, match="got Stream: of stored samples samplers.from_draws makes"):
        sample(jax.random.key(0), stored, jnp.zeros(2), num_samples=1)
    with pytest.raises(TypeError, match="sampler must have init and step, got function"):
        sample(key, lambda: None, jnp.zeros(2), num_samples=1)


def test_a_chain_that_diverges_is_warned_of():
    """One of two: the other is as it would be alone."""
    data = streams.resample({"x": jnp.zeros(2)}, 1)
    sampler = samplers.sgld(lambda w, batch: jnp.sum(w**4), data, step_size=0.1)
    with pytest.warns(RuntimeWarning, match="50% of the chains diverged"):
        found = samplers.sample(
            jax.random.key(0), sampler, jnp.array([0.0, 50.0]), num_samples=6, num_chains=2
        )
    assert np.isfinite(found.position[0]).all() and not np.isfinite(found.position[1, -1])
    with pytest.raises(ValueError, match="position must be finite"):
        streams.bag(found.position, 2, num_chains=2)
