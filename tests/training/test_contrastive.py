"""kd.training.contrastive_divergence: its step by hand, and what it learns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from scipy import special, stats

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


# Persistent, by hand.

HIDDEN = np.array(list(itertools.product([0.0, 1.0], repeat=H)), np.float32)


def persistent(optimizer, hidden, num_steps=1, **options):
    return training.persistent_contrastive_divergence(
        RBM_43,
        optimizer,
        jax.random.key(0),
        hidden=jnp.asarray(hidden),
        num_steps=num_steps,
        **options,
    )


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_persistent_step_by_hand(num_steps):
    """With numbers that are known: all of them one half, so that the likelier value is drawn."""
    params, data, hidden = random_params(3), VISIBLE[[1, 5, 5, 12]], HIDDEN[[2, 7, 5]]
    update = persistent(
        optax.sgd(0.5), hidden, num_steps, uniform_fn=lambda key, shape: jnp.full(shape, 0.5)
    )
    state, metrics = update.apply(update.init(params), {"x": jnp.asarray(data)})
    w, a, b = (np.array(params["params"][name], float) for name in "wab")
    h = hidden.astype(float)
    for _ in range(num_steps):
        x = (h @ w.T + a > 0).astype(float)
        h = (x @ w + b > 0).astype(float)
    ours, theirs = statistics(params, data), statistics(params, x)
    for name in "wab":
        expected = np.array(params["params"][name], float) + 0.5 * (ours[name] - theirs[name])
        np.testing.assert_allclose(state.params["params"][name], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(state.chains, h)
    potential = lambda x: np.mean(x @ a + np.sum(np.logaddexp(0, x @ w + b), axis=1))
    assert float(metrics["loss"]) == pytest.approx(potential(x) - potential(data), rel=1e-4)


def test_its_slope_is_that_of_autodiff():
    """At the samples that it drew, found again as those of a zero step of `sgd`."""
    params, data = random_params(1), jnp.asarray(VISIBLE[[0, 3, 9, 9, 15]])
    half = lambda key, shape: jnp.full(shape, 0.5)
    update = persistent(optax.sgd(1.0), HIDDEN[[1, 6]], uniform_fn=half)
    state, _ = update.apply(update.init(params), {"x": data})
    logits = RBM_43.visible_logits(params, jnp.asarray(HIDDEN[[1, 6]]))
    samples = (logits > 0).astype(jnp.float32)

    def loss(params):
        return jnp.mean(RBM_43.log_potential(params, samples)) - jnp.mean(
            RBM_43.log_potential(params, data)
        )

    moved = jax.tree.map(lambda p, g: p - g, params, jax.grad(loss)(params))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5),
        state.params,
        moved,
    )


@pytest.mark.parametrize("num_steps", [1, 2])
def test_its_chains_keep_the_models_law(num_steps):
    """Many chains of a model that does not move: hidden states by enumeration."""
    params = random_params(2)
    update = persistent(optax.sgd(0.0), np.zeros((20_000, H), np.float32), num_steps)
    state = update.init(params)
    step = jax.jit(lambda state: update.apply(state, {"x": jnp.asarray(VISIBLE[:3])})[0])
    for _ in range(20):
        state = step(state)
    w, a, b = (np.array(params["params"][name], float) for name in "wab")
    log_p = HIDDEN @ b + np.sum(np.logaddexp(0, HIDDEN @ w.T + a), axis=1)
    counts = np.bincount((np.asarray(state.chains) @ [4, 2, 1]).astype(int), minlength=8)
    assert stats.chisquare(counts, 20_000 * special.softmax(log_p)).pvalue > 1e-3


def test_persistent_training_finds_the_data():
    """Two patterns: the learned model has most of its mass there."""
    data = jnp.asarray(VISIBLE[[3, 12, 3, 12]])
    update = persistent(optax.sgd(0.1), np.zeros((50, H), np.float32), 2)
    start = update.init(RBM_43.init(jax.random.key(1), data[0]))
    run = training.fit(jax.random.key(2), streams.resample({"x": data}, 4), update, start, 3000)
    values = np.asarray(RBM_43.log_potential(run.student.params, VISIBLE), float)
    assert special.softmax(values)[[3, 12]].sum() > 0.8


def test_persistent_raises():
    for hidden, message in (
        (np.zeros(H), "hidden must have rank 2"),
        (np.zeros((0, H)), "hidden must hold at least one example"),
        (np.zeros((2, H + 1)), r"hidden must have shape \[..., 3\], got \(2, 4\)"),
        (np.full((2, H), 0.5), "hidden must hold zeros and ones alone"),
    ):
        with pytest.raises(ValueError, match=message):
            persistent(optax.sgd(0.1), hidden)
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        persistent(optax.sgd(0.1), HIDDEN, 0)
    with pytest.raises(TypeError, match="key must be one typed key"):
        training.persistent_contrastive_divergence(RBM_43, optax.sgd(0.1), 0, hidden=HIDDEN)
    update = persistent(optax.sgd(0.1), HIDDEN)
    state = update.init(random_params())
    with pytest.raises(TypeError, match="state must be update.init"):
        update.apply(random_params(), {"x": jnp.asarray(VISIBLE)})
    for x, message in (
        (jnp.zeros((0, V)), "must hold at least one example"),
        (jnp.zeros(V), r"batch\['x'\] must have rank 2"),
    ):
        with pytest.raises(ValueError, match=message):
            update.apply(state, {"x": x})
    grey = jax.jit(update.apply)(state, {"x": jnp.full((2, V), 0.5)})[1]["loss"]
    assert np.isnan(grey)
