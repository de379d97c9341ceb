"""kd.samplers.block_gibbs: the exact law of one step, and the law it leaves as it is."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import special, stats

import kd.random
from kd.models import RBM
from kd.samplers import block_gibbs

V, H = 4, 3
VISIBLE = np.array(list(itertools.product([0.0, 1.0], repeat=V)))
HIDDEN = np.array(list(itertools.product([0.0, 1.0], repeat=H)))
CODE = 2 ** np.arange(V - 1, -1, -1)
UNIFORM = {"jax.random": jax.random.uniform, "kd.random": kd.random.uniform}
NUM_CHAINS = 40_000


def random_rbm(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w": (V, H), "a": (V,), "b": (H,)}
    params = {name: jnp.array(1.5 * rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    return RBM(V, H), {"params": params}


def transition_row(params, x):
    """p(x' | x), summed over the hidden states."""
    w, a, b = (np.array(params["params"][name], float) for name in "wab")

    def bernoulli(values, probs):
        return np.prod(np.where(values == 1, probs, 1 - probs), -1)

    row = np.zeros(len(VISIBLE))
    for h in HIDDEN:
        weight = bernoulli(h, oracles.sigmoid(x @ w + b))
        row += weight * bernoulli(VISIBLE, oracles.sigmoid(w @ h + a))
    return row


def p_value(samples, probs):
    counts = np.bincount((np.array(samples) @ CODE).astype(int), minlength=len(probs))
    assert len(samples) * probs.min() > 5
    return stats.chisquare(counts, len(samples) * probs / probs.sum()).pvalue


@pytest.mark.parametrize("name", UNIFORM)
@pytest.mark.parametrize("start", [0, 9])
def test_one_step_has_its_exact_law(name, start):
    rbm, params = random_rbm()
    sampler = block_gibbs(rbm, params, uniform_fn=UNIFORM[name])
    state = sampler.init(np.tile(VISIBLE[start], (NUM_CHAINS, 1)))
    x, info = sampler.step(jax.random.key(0), state)
    assert p_value(x, transition_row(params, VISIBLE[start])) > 1e-4
    expected = oracles.sigmoid(VISIBLE[start] @ params["params"]["w"] + params["params"]["b"])
    error = 5 * np.sqrt(expected * (1 - expected) / NUM_CHAINS)
    assert (np.abs(np.mean(info.hidden, 0) - expected) < error).all()
    np.testing.assert_allclose(
        info.visible_probs, jax.nn.sigmoid(rbm.visible_logits(params, info.hidden)), rtol=1e-5
    )


@pytest.mark.parametrize("name", UNIFORM)
def test_the_models_law_is_reached_from_anywhere(name):
    rbm, params = random_rbm(1)
    sampler = block_gibbs(rbm, params, uniform_fn=UNIFORM[name])
    start = sampler.init(jnp.zeros((NUM_CHAINS, V)))
    keys = jax.random.split(jax.random.key(1), 60)
    x, _ = jax.lax.scan(lambda x, key: (sampler.step(key, x)[0], None), start, keys)
    log_probs = np.array(rbm.log_potential(params, VISIBLE), float)
    assert p_value(x, special.softmax(log_probs)) > 1e-4


def test_chains_are_independent():
    rbm, params = random_rbm()
    sampler = block_gibbs(rbm, params, uniform_fn=kd.random.uniform)
    x, _ = sampler.step(jax.random.key(3), sampler.init(jnp.zeros((NUM_CHAINS, V))))
    pairs = np.array(x).reshape(-1, 2, V) @ CODE
    table = np.zeros((16, 16))
    np.add.at(table, (pairs[:, 0].astype(int), pairs[:, 1].astype(int)), 1)
    table = table[np.ix_(table.sum(1) > 300, table.sum(0) > 300)]
    assert min(table.shape) > 3 and stats.chi2_contingency(table).pvalue > 1e-4


def test_jit_is_eager_and_one_chain_is_enough():
    rbm, params = random_rbm()
    sampler = block_gibbs(rbm, params)
    state = sampler.init(VISIBLE[5] == 1)
    assert state.dtype == jnp.float32
    x, info = sampler.step(jax.random.key(0), state)
    jitted, _ = jax.jit(sampler.step)(jax.random.key(0), state)
    assert (x == jitted).all() and x.shape == (V,) and info.hidden.shape == (H,)


def test_raises():
    sampler = block_gibbs(*random_rbm())
    with pytest.raises(ValueError, match=re.escape("x must have shape [..., 4], got (2, 3)")):
        sampler.init(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="position must hold zeros and ones alone"):
        sampler.init(jnp.full((2, V), 0.5))
    rbm, params = random_rbm()
    with pytest.raises(ValueError, match="params must be finite"):
        block_gibbs(rbm, jax.tree.map(lambda x: x * jnp.nan, params))
