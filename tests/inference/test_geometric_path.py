"""The geometric path against enumeration and quadrature, with three kernels."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import kd.random
from kd import inference
from kd.inference import Proposal, geometric_path
from kd.models import NADE, RBM
from kd.samplers import bit_flips, slice_sampler

SIZE = 6
STATES = np.array(list(itertools.product([0, 1], repeat=SIZE)), np.float32)
RNG = np.random.default_rng(0)
PAIRS, FIELDS = RNG.normal(size=(SIZE, SIZE)), RNG.normal(size=SIZE)


def log_potential(x):
    """A Boltzmann machine without hidden units, which `rbm_path` cannot anneal."""
    return jnp.sum((x @ jnp.asarray(PAIRS, jnp.float32)) * x, -1) + x @ jnp.asarray(
        FIELDS, jnp.float32
    )


EXACT = float(special.logsumexp(np.sum((STATES @ PAIRS) * STATES, -1) + STATES @ FIELDS))


def fair_coins():
    return Proposal(
        lambda x: jnp.full(len(x), -SIZE * jnp.log(2.0)),
        lambda key, num: jax.random.bernoulli(key, 0.5, (num, SIZE)).astype(jnp.float32),
    )


def nade_proposal():
    nade = NADE(SIZE, 5)
    params = nade.init(jax.random.key(0), jnp.zeros(SIZE))
    return Proposal(
        lambda x: nade.log_prob(params, x), lambda key, num: nade.sample(params, key, num)[0]
    )


def flips(log_density):
    return bit_flips(log_density, num_flips=SIZE)


def draw_exactly(key, num):
    index = jax.random.categorical(key, log_potential(jnp.asarray(STATES)), shape=(num,))
    return jnp.asarray(STATES)[index]


@pytest.mark.parametrize("make_proposal", [fair_coins, nade_proposal])
def test_both_directions_enclose_log_z(make_proposal):
    path = geometric_path(log_potential, make_proposal(), flips)
    betas = inference.linear_schedule(60)
    forward = inference.annealed_importance_sampling(
        jax.random.key(1), path, betas, num_chains=1000
    )
    assert forward.stderr < 0.05 and forward.low < EXACT < forward.high
    samples = draw_exactly(jax.random.key(2), 1000)
    backward = inference.reverse_annealed_importance_sampling(
        jax.random.key(3), path, betas, samples
    )
    assert backward.stderr < 0.05 and backward.low < EXACT < backward.high


def test_two_temperatures_are_importance_sampling():
    """Nothing between base and target: each weight is the potential over the proposal."""
    path = geometric_path(log_potential, fair_coins(), flips)
    found = inference.annealed_log_weights(
        jax.random.key(0), path, np.array([0.0, 1.0]), num_chains=5
    )
    samples = path.init(jax.random.split(jax.random.key(0))[0], 5)
    expected = np.asarray(log_potential(samples)) + SIZE * np.log(2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_real_vectors_by_slice_sampling():
    """An unnormalised mixture of two narrow Gaussians: log Z is that of its parts."""
    means = jnp.array([[-2.0, 0.0], [2.0, 1.0]])

    def log_mixture(x):
        squares = jnp.sum((x[:, None] - means[None]) ** 2, -1)
        return jax.nn.logsumexp(-2.0 * squares, axis=1)

    exact = np.log(2 * 2 * np.pi / 4)
    broad = Proposal(
        lambda x: -jnp.sum(x**2, -1) / 18 - jnp.log(2 * jnp.pi * 9),
        lambda key, num: 3 * jax.random.normal(key, (num, 2)),
    )
    kernel_fn = lambda fn: slice_sampler(
        fn, width=2.0, order="random", uniform_fn=kd.random.uniform
    )
    path = geometric_path(log_mixture, broad, kernel_fn, method="vmap")
    result = inference.annealed_importance_sampling(
        jax.random.key(0), path, inference.linear_schedule(20), num_chains=400
    )
    assert result.stderr < 0.1 and result.low < exact < result.high


def test_excluded_states_have_no_weight_and_no_nan():
    """A target on half of the states, where the other half ends a chain at the first beta."""
    half = lambda x: jnp.where(x[:, 0] == 1, log_potential(x), -jnp.inf)
    path = geometric_path(half, fair_coins(), flips)
    log_weights = inference.annealed_log_weights(
        jax.random.key(0), path, inference.linear_schedule(40), num_chains=2000
    )
    assert 0.4 < np.mean(np.isneginf(log_weights)) < 0.6
    kept = STATES[:, 0] == 1
    exact = special.logsumexp(np.asarray(log_potential(jnp.asarray(STATES[kept])), np.float64))
    result = inference.importance_sampling(log_weights)
    assert result.low < exact < result.high


def test_agrees_with_the_path_of_an_rbm():
    """Log Z of an RBM by the general path and by the special one."""
    rbm = RBM(SIZE, 4)
    params = {"params": {"w": PAIRS[:, :4], "a": FIELDS, "b": FIELDS[:4]}}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    exact = special.logsumexp(np.asarray(rbm.log_potential(params, STATES), np.float64))
    betas = inference.linear_schedule(50)
    for path in (
        geometric_path(lambda x: rbm.log_potential(params, x), fair_coins(), flips),
        inference.rbm_path(params, base_rate_logits=jnp.zeros(SIZE), uniform_fn=kd.random.uniform),
    ):
        result = inference.annealed_importance_sampling(
            jax.random.key(5), path, betas, num_chains=1000
        )
        assert result.low < exact < result.high and result.stderr < 0.05


def test_raises():
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        geometric_path(log_potential, fair_coins(), flips, num_steps=0)
    with pytest.raises(ValueError, match="method must be one of auto, loop, vmap"):
        geometric_path(log_potential, fair_coins(), flips, method="both")
