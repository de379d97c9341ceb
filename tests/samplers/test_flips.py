"""Flips against the exact law of one step, and the target's by enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from kd.samplers import bit_flips, sample

SIZE = 4
STATES = np.array(list(itertools.product([0, 1], repeat=SIZE)), np.float32)
WEIGHTS = np.arange(1, SIZE + 1) / 2.0
PLACES = 2 ** np.arange(SIZE)[::-1]


def log_density(x):
    return jnp.sum(x * jnp.asarray(WEIGHTS, jnp.float32)) - 1.5 * x[0] * x[1]


LOG_P = np.array([float(log_density(x)) for x in STATES])


def test_exact_law_of_a_flip():
    """From one state: every neighbour by the Metropolis rule, and the rest stays."""
    start = STATES[5]
    expected = np.zeros(len(STATES))
    for index in range(SIZE):
        moved = np.abs(start - np.eye(SIZE)[index])
        place = int(moved @ PLACES)
        expected[place] = min(1, np.exp(LOG_P[place] - LOG_P[5])) / SIZE
    expected[5] = 1 - expected.sum()
    sampler = bit_flips(log_density, num_flips=1)
    state = sampler.init(jnp.asarray(start))
    num = 40_000
    states, infos = jax.vmap(lambda key: sampler.step(key, state))(
        jax.random.split(jax.random.key(0), num)
    )
    counts = np.bincount((np.asarray(states.position) @ PLACES).astype(int), minlength=16)
    assert stats.chisquare(counts[expected > 0], num * expected[expected > 0]).pvalue > 1e-3
    assert counts[expected == 0].sum() == 0
    assert int(infos.num_accepted.sum()) == num - counts[5]


def test_stationary_law():
    sampler = bit_flips(log_density, num_flips=5 * SIZE)
    samples = sample(
        jax.random.key(1), sampler, jnp.zeros((4, SIZE)), num_samples=3000, burn_in=20, num_chains=4
    )
    counts = np.bincount((np.asarray(samples.position) @ PLACES).astype(int).ravel(), minlength=16)
    assert stats.chisquare(counts, counts.sum() * special.softmax(LOG_P)).pvalue > 1e-3
    np.testing.assert_allclose(
        samples.state.log_density, [log_density(x) for x in samples.state.position], rtol=1e-6
    )


def test_raises():
    with pytest.raises(ValueError, match="num_flips must be at least 1, got 0"):
        bit_flips(log_density, num_flips=0)
    sampler = bit_flips(log_density, num_flips=1)
    for position, message in (
        (jnp.zeros((2, SIZE)), "position must have rank 1"),
        (jnp.full(SIZE, 0.5), "position must hold zeros and ones alone"),
    ):
        with pytest.raises(ValueError, match=message):
            sampler.init(position)
    with pytest.raises(ValueError, match="must have rank 0"):
        bit_flips(lambda x: x, num_flips=1).init(jnp.zeros(SIZE))
    with pytest.raises(ValueError, match="log-density at the start must be finite, got -inf"):
        bit_flips(lambda x: -jnp.inf, num_flips=1).init(jnp.zeros(SIZE))
