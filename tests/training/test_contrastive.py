"""kd.training.contrastive_divergence: its step by hand, and what it learns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from scipy import special

from kd import streams, training
from kd.models import RBM
from kd.samplers import block_gibbs
from kd.types import Sampler

V, H = 4, 3
VISIBLE = np.array(list(itertools.product([0.0, 1.0], repeat=V)), np.float32)
RBM_43 = RBM(V, H)


def random_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w": (V, H), "a": (V,), "b": (H,)}
    return {
        "params": {name: jnp.array(rng.normal(size=s), jnp.float32) for name, s in shapes.items()}
    }


def gibbs(params):
    return block_gibbs(RBM_43, params)


def statistics(params, x):
    """Means of xhᵀ, x and h, by loops."""
    w, b = np.array(params["params"]["w"], float), np.array(params["params"]["b"], float)
    found = {"w": np.zeros((V, H)), "a": np.zeros(V), "b": np.zeros(H)}
    for one in np.array(x, float):
        h = oracles.sigmoid(one @ w + b)
        for name, value in (("w", np.outer(one, h)), ("a", one), ("b", h)):
            found[name] += value / len(x)
    return found


# A kernel that shows every variable flipped, so that the samples are known.
FLIP = Sampler(lambda x: jnp.asarray(x, jnp.float32), lambda key, x: (1 - x, ()))


@pytest.mark.parametrize("num_steps", [1, 2])
@pytest.mark.parametrize("is_persistent", [False, True])
def test_a_step_is_the_difference_of_the_statistics(num_steps, is_persistent):
    params, data = random_params(), VISIBLE[[1, 5, 5, 12]]
    chains = VISIBLE[[3, 4, 9]] if is_persistent else None
    update = training.contrastive_divergence(
        RBM_43.log_potential,
        lambda params: FLIP,
        optax.sgd(0.5),
        jax.random.key(0),
        num_steps=num_steps,
        chains=chains,
    )
    start = chains if is_persistent else data
    samples = 1 - start if num_steps % 2 else start
    state, metrics = update.apply(update.init(params), {"x": jnp.array(data)})
    up, down = statistics(params, data), statistics(params, samples)
    for name, leaf in state.params["params"].items():
        expected = params["params"][name] + 0.5 * (up[name] - down[name])
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    potentials = [float(jnp.mean(RBM_43.log_potential(params, x))) for x in (samples, data)]
    assert float(metrics["loss"]) == pytest.approx(potentials[0] - potentials[1], rel=1e-4)
    assert (state.chains == samples).all() if is_persistent else state.chains == ()


def log_likelihood(params, probs):
    log_p = np.array(RBM_43.log_potential(params, VISIBLE), float)
    return float(probs @ (log_p - special.logsumexp(log_p)))


@pytest.mark.parametrize("method", ["CD-1", "PCD-5"])
def test_it_learns_a_distribution(method):
    """Data of an RBM: the gap in likelihood to the truth falls to less than a fifth."""
    truth = random_params(3)
    probs = special.softmax(np.array(RBM_43.log_potential(truth, VISIBLE), float))
    data = VISIBLE[np.random.default_rng(0).choice(len(probs), size=4000, p=probs)]
    options = {"CD-1": {}, "PCD-5": {"num_steps": 5, "chains": VISIBLE[:10]}}[method]
    update = training.contrastive_divergence(
        RBM_43.log_potential, gibbs, optax.sgd(0.1), jax.random.key(1), **options
    )
    start = RBM_43.init(jax.random.key(0), jnp.zeros(V))
    stream = streams.resample({"x": jnp.array(data)}, 100)
    final = training.fit(jax.random.key(2), stream, update, update.init(start), 3000).student
    best = log_likelihood(truth, probs)
    gaps = [best - log_likelihood(params, probs) for params in (start, final.params)]
    assert 0 < gaps[1] < gaps[0] / 5


def test_the_key_moves_on():
    update = training.contrastive_divergence(
        RBM_43.log_potential, gibbs, optax.sgd(0.0), jax.random.key(0), chains=VISIBLE
    )
    first, _ = update.apply(update.init(random_params()), {"x": jnp.array(VISIBLE)})
    second, _ = update.apply(first._replace(chains=jnp.array(VISIBLE)), {"x": jnp.array(VISIBLE)})
    assert (first.chains != second.chains).any()
    assert (first.chains.shape, second.chains.shape) == (VISIBLE.shape, VISIBLE.shape)


def test_raises():
    make = training.contrastive_divergence
    with pytest.raises(TypeError, match="key must be one typed key"):
        make(RBM_43.log_potential, gibbs, optax.sgd(0.1), 0)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        make(RBM_43.log_potential, gibbs, optax.sgd(0.1), jax.random.key(0), num_steps=0)
    empty = jnp.zeros((0, 4))
    with pytest.raises(ValueError, match="chains must hold at least one example"):
        make(RBM_43.log_potential, gibbs, optax.sgd(0.1), jax.random.key(0), chains=empty)
    update = make(RBM_43.log_potential, gibbs, optax.sgd(0.1), jax.random.key(0))
    with pytest.raises(ValueError, match=r"batch\['x'\] must hold at least one example"):
        update.apply(update.init(random_params()), {"x": empty})
    with pytest.raises(
        TypeError, match="must be update.init.params., a ContrastiveState; got dict"
    ):
        update.apply(random_params(), {"x": jnp.array(VISIBLE)})
    summed = make(
        lambda params, x: jnp.sum(RBM_43.log_potential(params, x)),
        gibbs,
        optax.sgd(0.1),
        jax.random.key(0),
    )
    with pytest.raises(ValueError, match=r"log_potential_fn\(params, x\) must have rank 1"):
        summed.apply(summed.init(random_params()), {"x": jnp.array(VISIBLE)})
